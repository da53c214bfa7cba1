/* SPDX-License-Identifier: MIT
 *
 * What a PC's firmware finds against firmware that means no good: fw_cfg and its commands in
 * memory, flash, and PCI's configuration space by ports.
 *
 * Input: records of 8 bytes: what (enum record, in the low bits; the size above them), where (2),
 * value (4). Checked: an item reads as it was given and zeroes behind it; commands write nowhere
 * but where they say; when flash is read as memory, its store holds the same; the memory that an
 * engine shows instead of it has what each read gives; states survive save, restore, save
 * unchanged, and what is off by one byte is refused or stood.
 */
#include "fuzz.h"

#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/state.h"
#include "bus/device.h"
#include "dev/devices.h"
#include "dev/fw_cfg.h"
#include "dev/pcie_host.h"
#include "mem/mem.h"

enum record {
    FLASH_WRITE,
    FLASH_READ,
    PORT_WRITE,
    PORT_READ,
    COMMAND,
    RESET,
    SAVE,
    DAMAGE,
    RECORDS
};
enum { DEVICES = 3, FW_CFG = 0, FLASH = 1, PIIX = 2 };
enum { RAM_SIZE = 0x2000, FLASH_SIZE = 2 * 4096, COMMAND_AT = 0x100, ITEM_SIZE = 100 };
#define FLASH_GPA UINT64_C(0xffc00000)

struct target {
    struct device_env env;
    struct log log;
    struct device *host, *devices[DEVICES];
    uint8_t store[FLASH_SIZE];
    struct mem_listener listener;
    const struct mem_rom *rom; /* the flash, as an engine shows it */
};

static const uint8_t item[ITEM_SIZE] = "what the board says";

static void power(void *machine, enum device_power request, uint32_t code)
{
    (void)machine, (void)request, (void)code;
}

static void save(void *opaque, uint64_t offset, const uint8_t *from, uint64_t length)
{
    struct target *t = opaque;
    fuzz_check(range_within(offset, length, FLASH_SIZE));
    memcpy(t->store + offset, from, length);
}

static bool show_rom(void *opaque, const struct mem_rom *rom, struct error **err)
{
    (void)err;
    ((struct target *)opaque)->rom = rom;
    return true;
}

static void open_target(struct target *t)
{
    *t = (struct target){.env = {.mem = mem_space_new(), .ports = mem_space_new(), .power = power}};
    log_init(&t->log, LOG_LEVEL_ERROR, -1, "fuzz");
    t->env.log = &t->log;
    t->listener = (struct mem_listener){.rom = show_rom, .opaque = t};
    mem_listen(t->env.mem, &t->listener);
    memset(t->store, 0xff, FLASH_SIZE);
    const struct flash_store flash = {FLASH_SIZE, NULL, NULL, save, t};
    const struct device_params host = {.id = "pcie", .gpa = 0xe0000000},
                               params[DEVICES] = {
                                   {.id = "fw-cfg", .io_port = 0x510},
                                   {.id = "flash", .gpa = FLASH_GPA, .flash = &flash},
                                   {.id = "piix", .io_port = 0x600}};
    static const struct device_ops *const ops[DEVICES] = {&device_fw_cfg, &device_nor_flash,
                                                          &device_piix};
    fuzz_check(mem_add_ram(t->env.mem, "ram", 0, RAM_SIZE, MEM_BACKEND_ANONYMOUS, -1, NULL) !=
               NULL);
    t->host = device_new(&device_pcie_host, &t->env, &host, NULL);
    fuzz_check(t->host != NULL);
    t->env.pci = pcie_host_bus(t->host);
    for (size_t i = 0; i < DEVICES; i++) {
        t->devices[i] = device_new(ops[i], &t->env, &params[i], NULL);
        fuzz_check(t->devices[i] != NULL);
    }
    fw_cfg_add(t->devices[FW_CFG], FW_CFG_SETUP, item, sizeof(item));
    fw_cfg_add_file(t->devices[FW_CFG], "etc/item", item, sizeof(item));
}

static void close_target(struct target *t)
{
    for (size_t i = DEVICES; i-- > 0;)
        device_free(t->devices[i]);
    device_free(t->host);
    mem_unlisten(t->env.mem, &t->listener);
    mem_space_free(t->env.mem);
    mem_space_free(t->env.ports);
}

static void check_rom(struct target *t)
{
    for (uint64_t at = 0; at < FLASH_SIZE; at += 8) {
        uint64_t value = 0;
        fuzz_check(mem_io_read(t->env.mem, FLASH_GPA + at, 8, &value));
        fuzz_check(value == load_le64(t->rom->host + at));
    }
}

static void save_restore(struct target *t, uint32_t damage)
{
    struct target other;
    open_target(&other);
    for (size_t i = 0; i < DEVICES; i++) {
        const struct state_table *table = t->devices[i]->ops->state;
        struct state_buffer first = {0}, second = {0};
        size_t at = 0;
        state_save(table, t->devices[i], &first);
        if (damage != 0)
            first.data[damage % first.size] ^= (uint8_t)(damage >> 24 | 1);
        bool taken = state_restore(table, other.devices[i], first.data, first.size, &at, NULL);
        if (damage == 0) {
            state_save(table, other.devices[i], &second);
            fuzz_check(taken && first.size == second.size &&
                       memcmp(first.data, second.data, first.size) == 0);
            check_rom(&other);
        }
        state_buffer_free(&first);
        state_buffer_free(&second);
    }
    close_target(&other);
}

/* Back to reading: memory and store are one. */
static void check_flash(struct target *t)
{
    struct device *flash = t->devices[FLASH];
    check_rom(t);
    flash->ops->quiesce(flash);
    flash->ops->reset(flash);
    check_rom(t);
    for (uint64_t at = 0; at < FLASH_SIZE; at += 8) {
        uint64_t value = 0;
        fuzz_check(mem_io_read(t->env.mem, FLASH_GPA + at, 8, &value));
        fuzz_check(value == load_le64(t->store + at));
    }
}

/* The item itself, or memory as it was. */
static void play_command(struct target *t, uint8_t control, uint16_t gpa, uint32_t value)
{
    enum { CHOOSE = 8, READ = 2, FILL = 0xa5 };
    uint8_t command[16], bytes[RAM_SIZE];
    uint32_t length = value & 0xffff, wanted = (uint32_t)control << 16 | (value >> 16 & 0xff);
    memset(bytes, FILL, sizeof(bytes));
    fuzz_check(mem_write(t->env.mem, 0, bytes, sizeof(bytes)));
    store_le32(command, __builtin_bswap32(wanted));
    store_le32(command + 4, __builtin_bswap32(length));
    store_le64(command + 8, __builtin_bswap64(gpa));
    fuzz_check(mem_write(t->env.mem, COMMAND_AT, command, sizeof(command)));
    mem_io_write(t->env.ports, 0x514, 4, 0);
    mem_io_write(t->env.ports, 0x518, 4, __builtin_bswap32(COMMAND_AT));
    fuzz_check(mem_read(t->env.mem, 0, bytes, sizeof(bytes)));
    bool item_read = control == FW_CFG_SETUP && (wanted & (READ | CHOOSE | 16)) == (READ | CHOOSE);
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bool inside = i >= gpa && i - gpa < length;
        if (i >= COMMAND_AT && i < COMMAND_AT + sizeof(command))
            continue;
        fuzz_check(inside || bytes[i] == FILL);
        if (inside && item_read)
            fuzz_check(bytes[i] == (i - gpa < ITEM_SIZE ? item[i - gpa] : 0));
    }
}

static void play(struct target *t, uint8_t what, uint8_t which, uint16_t where, uint32_t value)
{
    unsigned size = 1u << (what >> 4 & 3);
    uint64_t flash = FLASH_GPA + align_down(where % FLASH_SIZE, size), read,
             port = which % 2 == 0 ? 0x510 + where % 12u : 0xcf8 + where % 8u;
    switch ((enum record)(what & 7)) {
    case FLASH_WRITE:
        mem_io_write(t->env.mem, flash, size, value);
        break;
    case FLASH_READ:
        mem_io_read(t->env.mem, flash, size, &read);
        break;
    case PORT_WRITE:
        mem_io_write(t->env.ports, port, size, value);
        break;
    case PORT_READ:
        mem_io_read(t->env.ports, port, size, &read);
        break;
    case COMMAND:
        play_command(t, which, where, value);
        break;
    case RESET:
        t->devices[which % DEVICES]->ops->reset(t->devices[which % DEVICES]);
        break;
    case SAVE:
        save_restore(t, 0);
        check_flash(t);
        break;
    default:
        save_restore(t, value);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    struct target t;
    open_target(&t);
    while (input.left > 0) {
        uint8_t what = (uint8_t)fuzz_take(&input, 1), which = (uint8_t)fuzz_take(&input, 1);
        uint16_t where = (uint16_t)fuzz_take(&input, 2);
        play(&t, what, which, where, (uint32_t)fuzz_take(&input, 4));
    }
    save_restore(&t, 0);
    check_flash(&t);
    close_target(&t);
    return 0;
}

/* Mostly flash's commands and fw_cfg's, near each other. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const uint8_t commands[] = {0x40, 0x10, 0x20, 0xd0, 0xff, 0x70, 0x50, 0x90};
    size_t size = 8 * (1 + fuzz_random(seed) % 200);
    for (size_t i = 0; i < size; i += 8) {
        uint64_t random = fuzz_random(seed), kind = random % 64;
        store_le64(data + i, fuzz_random(seed));
        data[i] = (uint8_t)(kind < 4 ? 4 + kind : kind % 5);
        data[i] |= (random >> 8 & 7) == 0 ? (uint8_t)(random >> 12 & 0x30) : 0;
        if (data[i] == FLASH_WRITE && (random >> 16 & 3) != 0) {
            store_le16(data + i + 2, (uint16_t)(random >> 24 & 0x100f));
            data[i + 4] = commands[random >> 40 & 7];
        }
        if ((data[i] & 7) == COMMAND && (random >> 16 & 1) != 0) {
            data[i + 1] = FW_CFG_SETUP;
            data[i + 6] = 2 | 8;
        }
    }
    return size;
}
