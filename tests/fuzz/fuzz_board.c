/* SPDX-License-Identifier: MIT
 *
 * The whole board against a guest that does anything to its registers: interrupt controllers,
 * UART, clocks, the test device, PCI configuration space, BARs that lie on one another, root ports
 * whose slots are filled and emptied.
 *
 * Input: records of 12 bytes, each one thing that the guest, the user or the machine does (enum
 * record). The vCPUs stand still: accesses are made as they would make them. The checks are
 * those of asserts and sanitizers, and: the machine's state survives save, restore, save
 * unchanged at any point, and a damaged state is refused or stood.
 */
#include "fuzz.h"

#include <string.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/state.h"
#include "base/vclock.h"
#include "block/chain.h"
#include "boot_files.h"
#include "bus/pci.h"
#include "dev/devices.h"
#include "dev/pcie_host.h"
#include "dev/pcie_port.h"
#include "hotplug_driver.h"
#include "vm/virt/virt.h"
#include "vm/machine.h"

#define DISK_BYTES 32768
#define MMIO_GPA   UINT64_C(0x40000000)
#define SLOTS      8u
#define PORTS      2u
#define FIRST_PORT 2u /* behind the random numbers */

enum record {
    WRITE, /* region and size in a, offset c (b & 1: as it is, else aligned), value d */
    READ,
    PLACE_BAR, /* function a: BAR 0 at MMIO_GPA + b pages, command register c */
    INPUT,     /* a bytes from the console's other end */
    TIME,      /* c ns go by */
    RUN,       /* the event loop: what the guest asked for is carried out */
    BUTTON,
    RESET,
    SAVE_RESTORE, /* then once more with byte c damaged by a, unless that is 0 */
    SLOT,         /* of port a: filled, emptied, asked for, or its button pressed (b) */
    DRIVER,       /* of hot-plug, at port a: starts, adds, removes, acknowledges (b) */
    RECORD_COUNT
};

static const struct {
    uint64_t gpa;
    uint32_t size;
} regions[] = {
    {VIRT_UART_GPA, 0x100},
    {VIRT_PLIC_GPA, 0x206000},
    {VIRT_ACLINT_GPA, 0x10000},
    {VIRT_RTC_GPA, 0x1000},
    {VIRT_TEST_GPA, 0x1000},
    {VIRT_PCIE_GPA, SLOTS << 15},
    {MMIO_GPA, 0x4000 * SLOTS},
    {VIRT_PCIE_GPA, 0x10000000},
    {0x03000000, 0x10000},
    {VIRT_PCIE_GPA + (FIRST_PORT << 15), 0x80},
    {VIRT_PCIE_GPA + (1 << 20), 0x1000},
};

struct target {
    struct vm_env env;
    struct log log;
    struct char_backend console, virtio_console;
    struct machine_config config;
    char program_path[32], disk_path[32];
    int program, disk;
    struct block_chain chain;
    struct vm *vm;
};

static void swallow(struct char_backend *backend, const uint8_t *data, size_t size)
{
    (void)backend;
    fuzz_check(size == 0 || data != NULL);
}

static void more_input(struct char_backend *backend)
{
    if (backend->on_input != NULL)
        (void)backend->on_input(backend->device, (const uint8_t *)"more", 4);
}

static void on_end(void *opaque, enum vm_end end, uint32_t code)
{
    (void)opaque, (void)end, (void)code;
}

static void target_make(struct target *t)
{
    static const uint32_t program[] = {0x0000006f}; /* j . */
    static const uint8_t disk[DISK_BYTES];
    *t = (struct target){.console = {.write = swallow, .resume_input = more_input},
                         .virtio_console = {.write = swallow, .resume_input = more_input}};
    log_init(&t->log, LOG_LEVEL_ERROR, -1, "");
    t->env = (struct vm_env){.loop = loop_new(NULL),
                             .log = &t->log,
                             .console = &t->console,
                             .virtio_console = &t->virtio_console,
                             .on_end = on_end,
                             .opaque = t};
    machine_config_init(&t->config);
    free(t->config.engine);
    t->config.engine = strdup("interp");
    t->config.memory = 32 * MIB;
    t->config.cpus = 2;
    t->config.deterministic = true;
    t->config.pci_slots = PORTS;
    t->program = put_file(program, sizeof(program), t->program_path);
    t->disk = put_file(disk, sizeof(disk), t->disk_path);
    t->config.firmware = strdup(t->program_path);
    t->config.disk_count = 1;
    t->config.disks[0].path = strdup(t->disk_path);
    t->chain = (struct block_chain){.fds = {dup(t->disk)}, .count = 1};
    t->env.disks = &t->chain;
    t->vm = vm_new(&t->config, &t->env, NULL);
    fuzz_check(t->vm != NULL);
    vclock_resume(t->vm->clock); /* time goes by though no vCPU runs */
}

static void target_free(struct target *t)
{
    vm_free(t->vm);
    loop_free(t->env.loop);
    machine_config_clear(&t->config);
    close(t->program);
    close(t->disk);
}

static void quit(void *opaque)
{
    loop_quit(opaque, 0);
}

static void run(struct target *t)
{
    vclock_run_timers(t->vm->clock);
    loop_post(t->env.loop, quit, t->env.loop);
    loop_run(t->env.loop);
}

static void access_io(struct target *t, uint8_t a, uint16_t b, uint32_t c, uint64_t value,
                      bool write)
{
    size_t region = a % ARRAY_SIZE(regions);
    unsigned size = 1u << (a / ARRAY_SIZE(regions) % 4);
    uint64_t gpa = regions[region].gpa + c % regions[region].size, read;
    if ((b & 1) == 0)
        gpa = align_down(gpa, size);
    if (write)
        (void)mem_io_write(t->vm->mem, gpa, size, value);
    else
        (void)mem_io_read(t->vm->mem, gpa, size, &read);
}

static void place_bar(struct target *t, uint8_t a, uint16_t b, uint32_t c)
{
    uint64_t function = VIRT_PCIE_GPA + ((uint64_t)(a % SLOTS) << 15);
    (void)mem_io_write(t->vm->mem, function + PCI_REG_BAR0, 4, MMIO_GPA + b % 32u * 0x1000u);
    (void)mem_io_write(t->vm->mem, function + PCI_REG_BAR0 + 4, 4, 0);
    (void)mem_io_write(t->vm->mem, function + PCI_REG_COMMAND, 2, c);
}

static void save_restore(struct target *t, uint32_t damage, uint8_t byte)
{
    struct vm *vm = t->vm;
    struct state_buffer first = {0}, second = {0};
    vm_board_quiesce(vm);
    vclock_pause(vm->clock);
    vm_save_state(vm, &first);
    fuzz_check(vm_restore_state(vm, first.data, first.size, NULL));
    vm_save_state(vm, &second);
    fuzz_check(first.size == second.size && memcmp(first.data, second.data, first.size) == 0);
    if (byte != 0) {
        first.data[damage % first.size] ^= byte;
        if (!vm_restore_state(vm, first.data, first.size, NULL))
            fuzz_check(vm_restore_state(vm, second.data, second.size, NULL));
    }
    vclock_resume(vm->clock);
    vm_board_unquiesce(vm);
    state_buffer_free(&first);
    state_buffer_free(&second);
}

/* A device of the random numbers' kind: it needs nothing from outside. */
static void fill_slot(struct vm *vm, struct vm_slot *slot, bool fill)
{
    unsigned place = PCI_SLOT_BEHIND + pcie_port_slot(slot->port);
    if (fill == (slot->device != NULL))
        return;
    struct device *device = slot->device;
    if (fill) {
        const struct device_params params = {.id = "slot", .pci_slot = place};
        device = vm_board_add(vm, &device_virtio_rng, &params, NULL);
        fuzz_check(device != NULL);
    } else {
        vm_board_remove(vm, device);
    }
    vm->state = VM_RUNNING; /* else it would be a cold start */
    vm_slots_filled(vm, place, fill ? device : NULL);
    vm->state = VM_CREATED;
}

static void use_slot(struct target *t, uint8_t a, uint16_t b)
{
    struct vm_slot *slot = &t->vm->slots[a % PORTS];
    if (b % 4 < 2)
        fill_slot(t->vm, slot, b % 4 == 0);
    else if (b % 4 == 2)
        pcie_port_eject(slot->port);
    else
        pcie_port_attention(slot->port);
}

static void drive_slot(struct target *t, uint8_t a, uint16_t b)
{
    struct hotplug_driver hp = {t->vm->mem, FIRST_PORT + a % PORTS, 1 + a % PORTS, 0};
    uint64_t capability;
    fuzz_check(mem_io_read(hp.mem, VIRT_PCIE_GPA + (hp.slot << 15) + PCI_REG_CAPABILITIES, 1,
                           &capability));
    hp.express = (unsigned)capability;
    if (b % 4 == 0)
        hp_start(&hp, (uint32_t)MMIO_GPA);
    else if (b % 4 == 1)
        (void)hp_add(&hp);
    else if (b % 4 == 2)
        hp_remove(&hp);
    else
        (void)hp_events(&hp);
}

static void input(struct char_backend *backend, unsigned size)
{
    uint8_t text[256];
    memset(text, 'x', sizeof(text));
    if (backend->on_input != NULL)
        (void)backend->on_input(backend->device, text, size);
}

static void step(struct target *t, struct fuzz_input *in)
{
    uint8_t kind = (uint8_t)fuzz_take(in, 1), a = (uint8_t)fuzz_take(in, 1);
    uint16_t b = (uint16_t)fuzz_take(in, 2);
    uint32_t c = (uint32_t)fuzz_take(in, 4), d = (uint32_t)fuzz_take(in, 4);
    switch (kind % RECORD_COUNT) {
    case WRITE:
        access_io(t, a, b, c, (uint64_t)d << (b >> 12) | d, true);
        break;
    case READ:
        access_io(t, a, b, c, 0, false);
        break;
    case PLACE_BAR:
        place_bar(t, a, b, c);
        break;
    case INPUT:
        input((b & 1) != 0 ? &t->console : &t->virtio_console, a);
        break;
    case TIME:
        vclock_advance(t->vm->clock, c);
        vclock_run_timers(t->vm->clock);
        break;
    case RUN:
        run(t);
        break;
    case BUTTON:
        (void)t->vm->button.press(t->vm->button.device);
        break;
    case RESET:
        vm_board_quiesce(t->vm);
        vm_board_reset(t->vm);
        vm_board_unquiesce(t->vm);
        break;
    case SAVE_RESTORE:
        save_restore(t, c, a);
        break;
    case SLOT:
        use_slot(t, a, b);
        break;
    case DRIVER:
        drive_slot(t, a, b);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct target *t = malloc(sizeof(*t));
    target_make(t);
    while (in.left > 0)
        step(t, &in);
    run(t);
    target_free(t);
    free(t);
    return 0;
}

/* Mostly accesses near the beginning of a region or of one of its parts, where registers are. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const uint32_t parts[] = {0, 0, 0x1000, 0x2000, 0x3000, 0x4000, 0x8000, 0x200000};
    uint8_t *at = data;
    for (unsigned i = 1 + (unsigned)(fuzz_random(seed) % 120); i > 0; i--, at += 12) {
        uint64_t r = fuzz_random(seed), s = fuzz_random(seed);
        unsigned choice = r % 64;
        at[0] = choice < 56 ? (choice < 24   ? WRITE
                               : choice < 40 ? READ
                               : choice < 44 ? SLOT
                               : choice < 48 ? DRIVER
                                             : PLACE_BAR)
                            : (uint8_t)(INPUT + choice % 8 % (RECORD_COUNT - INPUT));
        at[1] = (uint8_t)(r >> 8);
        store_le16(at + 2, (uint16_t)(r >> 16 & ((r >> 32 & 7) == 0 ? 0xffff : 0xfffe)));
        uint32_t where = parts[r >> 36 & 7] + (uint32_t)(s & 0x7f);
        if (at[0] == PLACE_BAR)
            where = (r >> 40 & 3) != 0 ? PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER : (uint32_t)s;
        store_le32(at + 4, (r >> 44 & 7) == 0 ? (uint32_t)s : where);
        store_le32(at + 8, (r >> 48 & 1) != 0 ? (uint32_t)(s >> 32) : (uint32_t)(s >> 56));
    }
    return (size_t)(at - data);
}
