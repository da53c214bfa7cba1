/* SPDX-License-Identifier: MIT
 *
 * What the vCPUs of a machine on KVM share: its memory, interrupt controllers, timer chip and clock.
 *
 * Memory: every region of RAM is a slot; accesses anywhere else leave the guest.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "engine/kvm/kvm_internal.h"
#include "engine/kvm/probe.h"

/* Four pages that KVM on Intel wants for itself, where the board has nothing: in front of what
 * firmware there is. */
#define IDENTITY_MAP_GPA UINT64_C(0xfeffc000)
#define TSS_GPA          0xfeffd000UL

int kvm_ioctl(int fd, unsigned long request, void *argument)
{
    int result;
    do
        result = ioctl(fd, request, argument);
    while (result < 0 && (errno == EINTR || errno == EAGAIN));
    return result;
}

/* ---- what KVM has to have ---- */

static const struct {
    const char *name;
    int capability;
} needed[] = {
    {"KVM_CAP_USER_MEMORY", KVM_CAP_USER_MEMORY},
    {"KVM_CAP_SET_TSS_ADDR", KVM_CAP_SET_TSS_ADDR},
    {"KVM_CAP_SET_IDENTITY_MAP_ADDR", KVM_CAP_SET_IDENTITY_MAP_ADDR},
    {"KVM_CAP_EXT_CPUID", KVM_CAP_EXT_CPUID},
    {"KVM_CAP_IRQCHIP", KVM_CAP_IRQCHIP},
    {"KVM_CAP_PIT2", KVM_CAP_PIT2},
    {"KVM_CAP_PIT_STATE2", KVM_CAP_PIT_STATE2},
    {"KVM_CAP_MP_STATE", KVM_CAP_MP_STATE},
    {"KVM_CAP_VCPU_EVENTS", KVM_CAP_VCPU_EVENTS},
    {"KVM_CAP_DEBUGREGS", KVM_CAP_DEBUGREGS},
    {"KVM_CAP_SET_GUEST_DEBUG", KVM_CAP_SET_GUEST_DEBUG},
    {"KVM_CAP_XSAVE", KVM_CAP_XSAVE},
    {"KVM_CAP_ADJUST_CLOCK", KVM_CAP_ADJUST_CLOCK},
    {"KVM_CAP_SIGNAL_MSI", KVM_CAP_SIGNAL_MSI},
    {"KVM_CAP_IMMEDIATE_EXIT", KVM_CAP_IMMEDIATE_EXIT},
};

static bool check_capabilities(int kvm, struct error **err)
{
    for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
        if (ioctl(kvm, KVM_CHECK_EXTENSION, needed[i].capability) <= 0)
            return error_set(err, ERROR_HOST, "this host's KVM is too old: it has no %s",
                             needed[i].name);
    return true;
}

/* ---- memory ---- */

static bool set_slot(struct kvm_machine *machine, size_t index, uint32_t flags)
{
    const struct mem_ram *ram = mem_ram_at(machine->mem, index);
    struct kvm_userspace_memory_region region = {
        .slot = (uint32_t)index,
        .flags = flags,
        .guest_phys_addr = ram->gpa,
        .memory_size = ram->size,
        .userspace_addr = (uintptr_t)ram->host,
    };
    return kvm_ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION, &region) == 0;
}

/* Behind RAM's slots. A write there is an exit, as where nothing is. */
static bool set_rom_slot(void *opaque, const struct mem_rom *rom, struct error **err)
{
    struct kvm_machine *machine = opaque;
    struct kvm_userspace_memory_region region = {
        .slot = (uint32_t)(mem_ram_count(machine->mem) + (size_t)(rom - mem_rom_at(machine->mem, 0))),
        .flags = KVM_MEM_READONLY,
        .guest_phys_addr = rom->gpa,
        .memory_size = rom->size,
        .userspace_addr = (uintptr_t)rom->host,
    };
    if (ioctl(machine->vm, KVM_CHECK_EXTENSION, KVM_CAP_READONLY_MEM) <= 0)
        return error_set(err, ERROR_HOST, "this host's KVM is too old: it has no %s",
                         "KVM_CAP_READONLY_MEM");
    return kvm_ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION, &region) == 0 ||
           error_set_errno(err, errno, "KVM does not take the guest's firmware");
}

static bool set_rom_slots(struct kvm_machine *machine, struct error **err)
{
    bool good = true;
    for (size_t i = 0; good && i < mem_rom_count(machine->mem); i++)
        good = set_rom_slot(machine, mem_rom_at(machine->mem, i), err);
    return good;
}

bool kvm_set_slots(struct kvm_machine *machine, uint32_t flags)
{
    for (size_t i = 0; i < mem_ram_count(machine->mem); i++)
        if (!set_slot(machine, i, flags))
            return false;
    return true;
}

/* ---- interrupts ---- */

static void set_input(void *opaque, unsigned input, bool level)
{
    struct kvm_machine *machine = opaque;
    struct kvm_irq_level line = {.irq = input, .level = level};
    if (kvm_ioctl(machine->vm, KVM_IRQ_LINE, &line) != 0)
        log_error(machine->log, "KVM does not take interrupt %u: %s", input, strerror(errno));
}

/* A message to a vCPU that is not there is lost, as in hardware. There is no irqfd: whoever completes a
 * request is a thread of this process (not vhost, VFIO or another process, for which irqfds are), and from
 * there a message costs 0.48 us of CPU by this call and 0.54 by an irqfd (100,000 of each in turn, no vCPU
 * in the guest; 0.41 and 0.48 on another host). Besides, each vector would have a route, and every change of
 * one by the guest would wait until no vCPU looks at the old ones: 18 ms on a busy host. */
static void send_message(void *opaque, uint64_t address, uint32_t data)
{
    struct kvm_machine *machine = opaque;
    struct kvm_msi msi = {
        .address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data};
    (void)kvm_ioctl(machine->vm, KVM_SIGNAL_MSI, &msi);
}

static const struct engine_irqchip irqchip = {set_input, send_message};

/* ---- state ---- */

static bool read_chips(struct kvm_machine *machine, struct kvm_chips *chips)
{
    bool good = kvm_ioctl(machine->vm, KVM_GET_PIT2, &chips->pit) == 0;
    for (unsigned i = 0; i < KVM_CHIPS; i++) {
        chips->chip[i].chip_id = i;
        good = kvm_ioctl(machine->vm, KVM_GET_IRQCHIP, &chips->chip[i]) == 0 && good;
    }
    return good;
}

static bool write_chips(struct kvm_machine *machine, struct kvm_chips *chips)
{
    bool good = kvm_ioctl(machine->vm, KVM_SET_PIT2, &chips->pit) == 0;
    for (unsigned i = 0; i < KVM_CHIPS; i++) {
        chips->chip[i].chip_id = i;
        good = kvm_ioctl(machine->vm, KVM_SET_IRQCHIP, &chips->chip[i]) == 0 && good;
    }
    return good;
}

static uint64_t read_clock(struct kvm_machine *machine)
{
    struct kvm_clock_data clock = {0};
    if (kvm_ioctl(machine->vm, KVM_GET_CLOCK, &clock) != 0)
        log_error(machine->log, "KVM does not tell its clock: %s", strerror(errno));
    return clock.clock;
}

static void stop_time(struct engine_machine *engine_machine, bool stop)
{
    struct kvm_machine *machine = kvm_machine_of(engine_machine);
    if (stop) {
        machine->clock_ns = read_clock(machine);
        kvm_tsc_stop(machine);
        machine->clock_stands = true;
        return;
    }
    struct kvm_clock_data clock = {.clock = machine->clock_ns};
    if (machine->clock_stands)
        kvm_tsc_go_on(machine);
    if (machine->clock_stands && kvm_ioctl(machine->vm, KVM_SET_CLOCK, &clock) != 0)
        log_error(machine->log, "KVM does not set its clock: %s", strerror(errno));
    machine->clock_stands = false;
}

static void reset(struct engine_machine *engine_machine)
{
    struct kvm_machine *machine = kvm_machine_of(engine_machine);
    if (!write_chips(machine, &machine->power_on))
        log_error(machine->log, "KVM does not reset its interrupt controllers: %s",
                  strerror(errno));
}

static void pre_save(void *object)
{
    struct kvm_machine *machine = object;
    if (!read_chips(machine, &machine->chips))
        log_error(machine->log, "KVM does not tell its interrupt controllers' state: %s",
                  strerror(errno));
    if (!machine->clock_stands)
        machine->clock_ns = read_clock(machine);
}

static bool post_restore(void *object, struct error **err)
{
    struct kvm_machine *machine = object;
    if (!write_chips(machine, &machine->chips))
        return error_set_errno(err, errno, "KVM does not take the saved interrupt controllers");
    machine->clock_stands = true;
    return true;
}

static const struct state_field fields[] = {
    STATE_BYTES(struct kvm_machine, chips.chip[0].chip, "kvm-pic-master"),
    STATE_BYTES(struct kvm_machine, chips.chip[1].chip, "kvm-pic-slave"),
    STATE_BYTES(struct kvm_machine, chips.chip[2].chip, "kvm-ioapic"),
    STATE_BYTES(struct kvm_machine, chips.pit, "kvm-pit2"),
    STATE_UINT(struct kvm_machine, clock_ns, "clock-ns"),
    STATE_END,
};
static const struct state_table machine_state = {"kvm-machine", 1, fields, pre_save, post_restore};

/* ---- life ---- */

static void free_machine(struct engine_machine *engine_machine)
{
    struct kvm_machine *machine = kvm_machine_of(engine_machine);
    if (machine->listener.opaque != NULL)
        mem_unlisten(machine->mem, &machine->listener);
    if (machine->vm >= 0)
        close(machine->vm);
    pthread_mutex_destroy(&machine->log_lock);
    free(machine->log_bitmap);
    free(machine->attached);
    free(machine);
}

static bool create(struct kvm_machine *machine, const struct engine_setup *setup, struct error **err)
{
    uint64_t identity_map = IDENTITY_MAP_GPA;
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY}; /* it has port 0x61 as well */
    int size = ioctl(machine->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    do
        machine->vm = ioctl(machine->kvm, KVM_CREATE_VM, 0);
    while (machine->vm < 0 && errno == EINTR);
    if (machine->vm < 0 || size <= 0)
        return error_set_errno(err, errno, "KVM makes no machine");
    machine->run_size = (size_t)size;
    if (ioctl(machine->vm, KVM_SET_TSS_ADDR, TSS_GPA) != 0 ||
        kvm_ioctl(machine->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) != 0 ||
        ioctl(machine->vm, KVM_CREATE_IRQCHIP, 0) != 0 ||
        kvm_ioctl(machine->vm, KVM_CREATE_PIT2, &pit) != 0 ||
        !read_chips(machine, &machine->power_on))
        return error_set_errno(err, errno, "KVM makes no interrupt controllers");
    if (!setup->kvm_bitmap && !kvm_make_rings(machine, err))
        return false;
    if (!kvm_filter_msrs(machine, err) || !kvm_drop_pmu(machine, err))
        return false;
    if (!kvm_set_slots(machine, 0))
        return error_set_errno(err, errno, "KVM does not take the guest's memory");
    return set_rom_slots(machine, err);
}

static bool has_guests_of_its_own(const struct kvm_machine *machine)
{
    return x86_has(&machine->choice.features, x86_feature_find("vmx", 3)) ||
           x86_has(&machine->choice.features, x86_feature_find("svm", 3));
}

struct engine_machine *kvm_machine_new(const struct engine_setup *setup, struct error **err)
{
    if (setup->kvm_fd < 0) {
        error_set(err, ERROR_HOST, "%s", setup->no_kvm != NULL ? setup->no_kvm : "KVM cannot be used");
        return NULL;
    }
    if (!check_capabilities(setup->kvm_fd, err) ||
        (!setup->kvm_may_emulate && !kvm_runs_guests(setup->kvm_fd, err)))
        return NULL;
    struct kvm_machine *machine = alloc_zeroed(1, sizeof(*machine));
    *machine = (struct kvm_machine){
        .machine = {.irqchip = &irqchip,
                    .state = &machine_state,
                    .reset = reset,
                    .stop_time = stop_time,
                    .free = free_machine},
        .mem = setup->mem,
        .log = setup->log,
        .kvm = setup->kvm_fd,
        .vm = -1,
        .vcpu_count = setup->vcpu_count,
        .attached = alloc_zeroed(setup->vcpu_count, sizeof(struct kvm_cpu *)),
    };
    pthread_mutex_init(&machine->log_lock, NULL);
    if (!kvm_choose_cpu(machine, setup->cpu, err) || !create(machine, setup, err)) {
        free_machine(&machine->machine);
        return NULL;
    }
    if (has_guests_of_its_own(machine))
        machine->machine.not_saved = "a guest that may run guests of its own (vmx or svm)";
    int debug = ioctl(machine->kvm, KVM_CHECK_EXTENSION, KVM_CAP_SET_GUEST_DEBUG2);
    machine->debug_flags = debug > 0 ? (uint32_t)debug & KVM_GUESTDBG_BLOCKIRQ : 0;
    machine->listener = (struct mem_listener){
        .dirty_collect = kvm_collect,
        .dirty_stop = kvm_stop_log,
        .doorbell = kvm_takes_doorbells(machine) ? kvm_set_doorbell : NULL,
        .rom = set_rom_slot,
        .opaque = machine};
    mem_listen(machine->mem, &machine->listener);
    return &machine->machine;
}
