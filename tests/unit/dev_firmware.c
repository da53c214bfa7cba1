/* SPDX-License-Identifier: MIT
 *
 * What a PC's firmware finds: QEMU's configuration device, flash for its variables, and the PIIX
 * with the ports of PCI's configuration space.
 */
#include "dev_fixture.h"

#include <stdio.h>
#include <unistd.h>

#include "base/state.h"
#include "bus/pci.h"
#include "dev/fw_cfg.h"
#include "dev/pcie_host.h"

/* ---- fw_cfg ---- */

enum { FW_CFG = 0x510, SELECT = 0, DATA = 1, DMA_HIGH = 4, DMA_LOW = 8 };
enum { COMMAND = 0x2000, BUFFER = 0x3000, RAM_SIZE = 0x10000 };
enum { ERROR = 1, READ = 2, SKIP = 4, CHOOSE = 8, WRITE = 16 };

static void open_fw_cfg(struct bench *b)
{
    bench_open_at(b, &device_fw_cfg, FW_CFG);
    assert_non_null(mem_add_ram(b->env.mem, "ram", 0, RAM_SIZE, MEM_BACKEND_ANONYMOUS, -1, NULL));
}

static void read_item(struct bench *b, uint16_t key, void *to, size_t size)
{
    bench_write(b, SELECT, 2, key);
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)to)[i] = (uint8_t)bench_read(b, DATA, 1);
}

static uint32_t big(uint32_t value)
{
    return __builtin_bswap32(value);
}

/* Returns the control word after it. */
static uint32_t command(struct bench *b, uint32_t control, uint32_t length, uint64_t gpa)
{
    uint8_t bytes[16];
    store_le32(bytes, big(control));
    store_le32(bytes + 4, big(length));
    store_le64(bytes + 8, __builtin_bswap64(gpa));
    assert_true(mem_write(b->env.mem, COMMAND, bytes, sizeof(bytes)));
    bench_write(b, DMA_HIGH, 4, 0);
    bench_write(b, DMA_LOW, 4, big(COMMAND));
    assert_true(mem_read(b->env.mem, COMMAND, bytes, 4));
    return big(load_le32(bytes));
}

static void test_items_are_read_byte_by_byte(void **state)
{
    struct bench b;
    char text[8];
    (void)state;
    open_fw_cfg(&b);
    read_item(&b, 0, text, 4);
    assert_memory_equal(text, "QEMU", 4);
    read_item(&b, 1, text, 4);
    assert_int_equal(text[0], 3); /* there is DMA */
    fw_cfg_add(b.device, FW_CFG_COMMAND_LINE, "abc", 4);
    read_item(&b, FW_CFG_COMMAND_LINE, text, 8);
    assert_memory_equal(text, "abc\0\0\0\0\0", 8); /* and zeroes behind it */
    read_item(&b, 0x7777, text, 8);
    assert_memory_equal(text, "\0\0\0\0\0\0\0\0", 8); /* there is none */
    bench_write(&b, SELECT, 2, FW_CFG_COMMAND_LINE);
    bench_write(&b, DATA, 1, 'x'); /* nothing can be written */
    assert_int_equal(bench_read(&b, DATA, 1), 'a');
    bench_check_state(&b);
    assert_int_equal(bench_read(&b, DMA_HIGH, 4), big(0x51454d55)); /* "QEMU CFG" */
    assert_int_equal(bench_read(&b, DMA_LOW, 4), big(0x20434647));
    b.device->ops->reset(b.device);
    assert_int_equal(bench_read(&b, DATA, 1), 'Q');
    bench_close(&b);
}

static void test_files_have_a_directory(void **state)
{
    struct bench b;
    uint8_t directory[4 + 2 * 64];
    char text[6];
    (void)state;
    open_fw_cfg(&b);
    fw_cfg_add_file(b.device, "etc/one", "1", 1);
    fw_cfg_add_number(b.device, FW_CFG_CPUS, 7, 2);
    fw_cfg_add_file(b.device, "etc/three", "three", 5);
    read_item(&b, 0x19, directory, sizeof(directory));
    assert_int_equal(big(load_le32(directory)), 2);
    assert_string_equal((char *)directory + 4 + 8, "etc/one");
    assert_string_equal((char *)directory + 4 + 64 + 8, "etc/three");
    assert_int_equal(big(load_le32(directory + 4 + 64)), 5);
    uint16_t key = __builtin_bswap16(load_le16(directory + 4 + 64 + 4));
    assert_true(key >= 0x20);
    read_item(&b, key, text, 6);
    assert_memory_equal(text, "three", 6);
    fw_cfg_clear(b.device);
    read_item(&b, 0x19, directory, 4);
    assert_int_equal(load_le32(directory), 0);
    bench_close(&b);
}

static void test_memory_gets_what_was_asked_for_and_no_more(void **state)
{
    struct bench b;
    uint8_t got[8];
    (void)state;
    open_fw_cfg(&b);
    fw_cfg_add(b.device, FW_CFG_SETUP, "0123456789", 10);
    memset(got, 0xee, sizeof(got));
    assert_true(mem_write(b.env.mem, BUFFER, got, sizeof(got)));
    assert_int_equal(command(&b, FW_CFG_SETUP << 16 | CHOOSE | READ, 4, BUFFER), 0);
    assert_true(mem_read(b.env.mem, BUFFER, got, sizeof(got)));
    assert_memory_equal(got, "0123\xee\xee\xee\xee", 8);
    assert_int_equal(command(&b, SKIP, 4, 0), 0);
    assert_int_equal(command(&b, READ, 4, BUFFER), 0); /* goes on, past the end */
    assert_true(mem_read(b.env.mem, BUFFER, got, sizeof(got)));
    assert_memory_equal(got, "89\0\0\xee\xee\xee\xee", 8);
    assert_int_equal(command(&b, SKIP, UINT32_MAX, 0), 0);
    assert_int_equal(bench_read(&b, DATA, 1), 0);
    bench_close(&b);
}

static void test_commands_that_cannot_be_carried_out(void **state)
{
    struct bench b;
    (void)state;
    open_fw_cfg(&b);
    assert_int_equal(command(&b, CHOOSE | WRITE, 4, BUFFER), ERROR);
    assert_int_equal(command(&b, CHOOSE | READ, 4, RAM_SIZE - 2), ERROR);
    assert_int_equal(command(&b, CHOOSE | READ, UINT32_MAX, BUFFER), ERROR);
    assert_int_equal(command(&b, CHOOSE | READ, 4, UINT64_MAX - 1), ERROR);
    assert_int_equal(command(&b, CHOOSE | READ, 0, UINT64_MAX), 0);
    bench_write(&b, DMA_HIGH, 4, UINT32_MAX); /* a command that is nowhere */
    bench_write(&b, DMA_LOW, 4, big(0xfffffff8));
    bench_write(&b, DMA_LOW, 4, big(RAM_SIZE - 8));
    bench_write(&b, DMA_LOW, 2, 0); /* of no size that means something */
    bench_check_state(&b);
    bench_close(&b);
}

static void test_an_item_may_be_part_of_a_file(void **state)
{
    struct bench b;
    char text[8];
    FILE *file = tmpfile();
    (void)state;
    assert_non_null(file);
    assert_int_equal(write(fileno(file), "0123456789", 10), 10);
    open_fw_cfg(&b);
    fw_cfg_add_part(b.device, FW_CFG_KERNEL, fileno(file), 3, 4);
    read_item(&b, FW_CFG_KERNEL, text, 6);
    assert_memory_equal(text, "3456\0", 6);
    assert_int_equal(ftruncate(fileno(file), 5), 0); /* who has the file shortens it */
    read_item(&b, FW_CFG_KERNEL, text, 6);
    assert_memory_equal(text, "34\0\0\0", 6);
    bench_close(&b);
    fclose(file);
}

/* ---- flash ---- */

enum {
    FLASH_SIZE = 3 * 4096,
    PROGRAM = 0x40,
    ERASE = 0x20,
    CONFIRM = 0xd0,
    STATUS = 0x70,
    CLEAR = 0x50,
    ARRAY = 0xff,
    IDENTIFY = 0x90
};

struct store {
    uint8_t bytes[FLASH_SIZE];
    bool holds;
    unsigned saves;
};

static bool load(void *opaque, uint8_t *to, uint64_t size)
{
    struct store *store = opaque;
    if (store->holds)
        memcpy(to, store->bytes, size);
    return store->holds;
}

static void save(void *opaque, uint64_t offset, const uint8_t *from, uint64_t length)
{
    struct store *store = opaque;
    assert_true(range_within(offset, length, FLASH_SIZE));
    memcpy(store->bytes + offset, from, length);
    store->saves++;
}

struct flash_bench {
    struct device_env env;
    struct device *device;
};

static void open_flash(struct flash_bench *b, struct store *store)
{
    const struct flash_store flash = {FLASH_SIZE, NULL, load, save, store};
    const struct device_params params = {.id = "flash0", .gpa = BENCH_GPA, .flash = &flash};
    *b = (struct flash_bench){.env = {.mem = mem_space_new()}};
    b->device = device_new(&device_nor_flash, &b->env, &params, NULL);
    assert_non_null(b->device);
}

static void close_flash(struct flash_bench *b)
{
    device_free(b->device);
    mem_space_free(b->env.mem);
}

static uint64_t flash_get(struct flash_bench *b, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    assert_true(mem_io_read(b->env.mem, BENCH_GPA + offset, size, &value));
    return value;
}

static void flash_put(struct flash_bench *b, uint64_t offset, uint8_t value)
{
    assert_true(mem_io_write(b->env.mem, BENCH_GPA + offset, 1, value));
}

static void flash_program(struct flash_bench *b, uint64_t offset, uint8_t value)
{
    flash_put(b, offset, PROGRAM);
    flash_put(b, offset, value);
}

/* OvmfPkg/QemuFlashFvbServicesRuntimeDxe/QemuFlash.c, as of 2022 and 2025. */
static void test_flash_is_told_from_ram_and_rom(void **state)
{
    struct store store = {.holds = false};
    struct flash_bench b;
    (void)state;
    open_flash(&b, &store);
    assert_int_equal(flash_get(&b, 0, 8), UINT64_MAX);
    flash_put(&b, 0, CLEAR);
    assert_int_not_equal(flash_get(&b, 0, 1), CLEAR);
    flash_put(&b, 0, STATUS);
    assert_int_equal(flash_get(&b, 0, 1), 0);
    flash_program(&b, 0, 0xff);
    flash_put(&b, 0, STATUS);
    assert_int_equal(flash_get(&b, 0, 1) & 0x10, 0);
    flash_put(&b, 0, ARRAY);
    assert_int_equal(flash_get(&b, 0, 1), 0xff);
    flash_put(&b, 0, IDENTIFY);
    assert_int_equal(flash_get(&b, 0, 2), 0x1789);
    close_flash(&b);
}

static void test_flash_is_programmed_and_erased(void **state)
{
    struct store store = {.holds = false};
    struct flash_bench b;
    (void)state;
    memset(store.bytes, 0xff, FLASH_SIZE);
    open_flash(&b, &store);
    flash_program(&b, 4096, PROGRAM); /* a value that is a command as well */
    flash_program(&b, 4097, 0x12);
    assert_int_equal(flash_get(&b, 4097, 1), 0x80); /* ready, not yet back to reading */
    flash_program(&b, 2 * 4096, 0x34);
    flash_put(&b, 4097, ARRAY);
    assert_int_equal(flash_get(&b, 4096, 4), 0xffff1240);
    flash_put(&b, 4099, ERASE); /* any place in the block */
    flash_put(&b, 4099, CONFIRM);
    assert_int_equal(flash_get(&b, 4096, 1), 0x80);
    flash_put(&b, 0, ARRAY);
    assert_int_equal(flash_get(&b, 4096, 4), UINT32_MAX);
    assert_int_equal(flash_get(&b, 2 * 4096, 2), 0xff34); /* others stay */
    flash_put(&b, 0, ERASE);
    flash_put(&b, 0, ARRAY); /* not confirmed */
    assert_int_equal(flash_get(&b, 0, 1), 0x80 | 0x20);
    flash_put(&b, 0, ARRAY);
    assert_int_equal(flash_get(&b, 2 * 4096, 2), 0xff34);
    close_flash(&b);
}

/* One piece for each place, in their order; it is there whenever the firmware reads. */
static void test_the_store_has_what_the_flash_has(void **state)
{
    struct store store = {.holds = false};
    struct flash_bench b;
    (void)state;
    memset(store.bytes, 0xff, FLASH_SIZE);
    open_flash(&b, &store);
    for (unsigned i = 0; i < 100; i++)
        flash_program(&b, 200 + i, (uint8_t)i);
    assert_int_equal(store.saves, 1); /* it was new */
    flash_put(&b, 299, ARRAY);
    assert_int_equal(store.saves, 2);
    assert_int_equal(store.bytes[299], 99);
    flash_program(&b, 10, 1);
    flash_program(&b, 20, 2); /* elsewhere: the first one is written before */
    assert_int_equal(store.bytes[10], 1);
    assert_int_equal(store.bytes[20], 0xff);
    b.device->ops->quiesce(b.device);
    assert_int_equal(store.bytes[20], 2);
    flash_program(&b, 30, 3);
    b.device->ops->reset(b.device);
    assert_int_equal(store.bytes[30], 3);
    assert_int_equal(flash_get(&b, 30, 1), 3); /* a reset changes nothing, and reads again */
    flash_program(&b, 40, 4);
    close_flash(&b);
    assert_int_equal(store.bytes[40], 4);
    store.holds = true;
    open_flash(&b, &store);
    assert_int_equal(flash_get(&b, 40, 1), 4); /* in its next life */
    close_flash(&b);
}

static void test_flash_travels_with_its_machine(void **state)
{
    struct store store = {.holds = false}, elsewhere = {.holds = false};
    struct flash_bench b, other;
    struct state_buffer stream = {0};
    size_t at = 0;
    (void)state;
    open_flash(&b, &store);
    open_flash(&other, &elsewhere);
    flash_program(&b, 5000, 5);
    flash_put(&b, 0, PROGRAM); /* and a byte is due */
    assert_state_round_trip(b.device->ops->state, b.device, other.device);
    assert_int_equal(elsewhere.bytes[5000], 5);
    flash_put(&other, 6000, 6);
    flash_put(&other, 0, ARRAY);
    assert_int_equal(flash_get(&other, 6000, 1), 6);
    state_save(b.device->ops->state, b.device, &stream);
    assert_true(stream.size < 2 * 4096); /* what is erased is not in it */
    for (size_t bit = 0; bit < 8 * stream.size; bit += bit < 1024 ? 1 : 97) {
        at = 0;
        stream.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        state_restore(b.device->ops->state, other.device, stream.data, stream.size, &at, NULL);
        stream.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    state_buffer_free(&stream);
    close_flash(&b);
    close_flash(&other);
}

struct window {
    const struct mem_rom *rom;
    bool refuse;
};

static bool open_window(void *opaque, const struct mem_rom *rom, struct error **err)
{
    struct window *window = opaque;
    window->rom = rom;
    return !window->refuse || error_set(err, ERROR_HOST, "it has no window");
}

/* Of all places, with what a call of the device gives. */
static void check_window(struct flash_bench *b, const struct window *window)
{
    for (unsigned at = 0; at < FLASH_SIZE; at++)
        assert_int_equal(window->rom->host[at], flash_get(b, at, 1));
}

/* An engine that shows memory, as KVM does: no read comes to the device. */
static void test_what_is_read_is_memory(void **state)
{
    static const uint8_t writes[] = {CLEAR, STATUS,   PROGRAM, 0x12,    PROGRAM, 0x34,  STATUS,
                                     ARRAY, IDENTIFY, ERASE,   CONFIRM, STATUS,  ARRAY, ERASE,
                                     ARRAY, STATUS,   CLEAR,   ARRAY,   PROGRAM, 0x56,  ARRAY};
    struct store store = {.holds = true, .bytes = {1, 2, 3}};
    struct window window = {.rom = NULL};
    struct mem_listener listener = {.rom = open_window, .opaque = &window};
    const struct flash_store flash = {FLASH_SIZE, NULL, load, save, &store};
    const struct device_params params = {.id = "flash0", .gpa = BENCH_GPA, .flash = &flash};
    struct flash_bench b = {.env = {.mem = mem_space_new()}}, other;
    struct store elsewhere = {.holds = false};
    struct error *error = NULL;
    (void)state;
    mem_listen(b.env.mem, &listener);
    window.refuse = true;
    assert_null(device_new(&device_nor_flash, &b.env, &params, &error));
    assert_non_null(error);
    error_free(error);
    assert_int_equal(mem_rom_count(b.env.mem), 0);
    assert_false(mem_io_at(b.env.mem, BENCH_GPA));
    window.refuse = false;
    b.device = device_new(&device_nor_flash, &b.env, &params, NULL);
    assert_non_null(b.device);
    assert_int_equal(window.rom->gpa, BENCH_GPA);
    assert_int_equal(window.rom->size, FLASH_SIZE);
    check_window(&b, &window);
    for (size_t i = 0; i < sizeof(writes); i++) {
        flash_put(&b, 5000 + i, writes[i]);
        check_window(&b, &window);
    }
    assert_true(mem_io_write(b.env.mem, BENCH_GPA + 8000, 4, 0xffff6600 | PROGRAM));
    check_window(&b, &window); /* there and back in one write */
    assert_int_equal(window.rom->host[8001], 0x66);
    assert_int_equal(window.rom->host[0], 1); /* other blocks are what they were */
    flash_put(&b, 0, STATUS);
    b.device->ops->reset(b.device);
    check_window(&b, &window);
    open_flash(&other, &elsewhere);
    flash_program(&other, 0, 0x77);
    assert_state_round_trip(b.device->ops->state, other.device, b.device);
    check_window(&b, &window);
    flash_put(&b, 0, ARRAY);
    check_window(&b, &window);
    assert_int_equal(window.rom->host[0], 0x77);
    close_flash(&other);
    device_free(b.device);
    mem_unlisten(b.env.mem, &listener);
    mem_space_free(b.env.mem);
}

/* ---- PIIX ---- */

struct board {
    struct device_env env;
    struct log log;
    struct vclock *clock;
    struct device *host, *piix;
    unsigned resets;
};

static void power(void *machine, enum device_power request, uint32_t code)
{
    struct board *b = machine;
    (void)code;
    b->resets += request == DEVICE_POWER_RESET;
}

static void open_board(struct board *b)
{
    static const struct pci_identity i440fx = {
        .vendor = 0x8086, .device = 0x1237, .class_code = 0x060000};
    const struct device_params host = {.id = "pcie", .gpa = 0xe0000000, .bridge = &i440fx},
                               piix = {.id = "piix", .io_port = 0x600};
    *b = (struct board){.resets = 0};
    log_init(&b->log, LOG_LEVEL_ERROR, 2, "test");
    b->env = (struct device_env){.mem = mem_space_new(),
                                 .ports = mem_space_new(),
                                 .log = &b->log,
                                 .power = power,
                                 .machine = b};
    b->host = device_new(&device_pcie_host, &b->env, &host, NULL);
    assert_non_null(b->host);
    b->env.pci = pcie_host_bus(b->host);
    b->piix = device_new(&device_piix, &b->env, &piix, NULL);
    assert_non_null(b->piix);
}

static void close_board(struct board *b)
{
    device_free(b->piix);
    device_free(b->host);
    mem_space_free(b->env.mem);
    mem_space_free(b->env.ports);
}

static uint32_t in(struct board *b, uint16_t port, unsigned size)
{
    uint64_t value = 0;
    assert_true(mem_io_read(b->env.ports, port, size, &value));
    return (uint32_t)(size == 4 ? value : value & ((1u << 8 * size) - 1));
}

static void out(struct board *b, uint16_t port, unsigned size, uint32_t value)
{
    assert_true(mem_io_write(b->env.ports, port, size, value));
}

static uint32_t config(struct board *b, unsigned slot, unsigned function, unsigned at,
                       unsigned size)
{
    out(b, 0xcf8, 4, 0x80000000 | slot << 11 | function << 8 | (at & 0xfc));
    return in(b, (uint16_t)(0xcfc + at % 4), size);
}

/* OvmfPkg: the host bridge, AcpiTimerLib, and the bridge that the serial port is behind. SeaBIOS, fw/smm.c:
 * system management mode, which seems to be set up. */
static void test_firmware_finds_the_board_that_it_knows(void **state)
{
    struct board b;
    (void)state;
    open_board(&b);
    assert_int_equal(config(&b, 0, 0, 2, 2), 0x1237);
    assert_int_equal(config(&b, 1, 0, 0, 4), 0x70008086);
    assert_int_equal(config(&b, 1, 0, 10, 2), 0x0601);
    assert_int_equal(config(&b, 1, 0, 14, 1), 0x80);
    assert_int_equal(config(&b, 1, 3, 0, 4), 0x71138086);
    assert_int_equal(config(&b, 1, 3, 0x40, 4), 0x601);
    assert_int_equal(config(&b, 1, 3, 0x80, 1) & 1, 1);
    assert_int_equal(config(&b, 1, 3, 0x58, 4), 1 << 25);
    assert_int_equal(config(&b, 1, 1, 0, 4), UINT32_MAX);
    assert_int_equal(config(&b, 2, 0, 0, 4), UINT32_MAX);
    config(&b, 1, 3, 0x40, 4); /* the address stays */
    out(&b, 0xcfc, 4, 0xb001);
    assert_int_equal(config(&b, 1, 3, 0x40, 4), 0x601); /* and that one as well */
    config(&b, 1, 0, 0x3c, 1);
    out(&b, 0xcfc, 1, 0x5a);
    assert_int_equal(config(&b, 1, 0, 0x3c, 1), 0x5a);
    uint64_t by_ecam = 0;
    assert_true(mem_io_read(b.env.mem, 0xe0000000 + (1u << 15) + 0x3c, 1, &by_ecam));
    assert_int_equal(by_ecam & 0xff, 0x5a);
    out(&b, 0xcf8, 4, 0); /* not switched on */
    assert_int_equal(in(&b, 0xcfc, 4), UINT32_MAX);
    close_board(&b);
}

static void test_the_reset_control_register(void **state)
{
    struct board b;
    (void)state;
    open_board(&b);
    out(&b, 0xcf8, 4, 0x80000800);
    out(&b, 0xcf9, 1, 2);
    assert_int_equal(b.resets, 0);
    assert_int_equal(in(&b, 0xcf9, 1), 2);
    assert_int_equal(in(&b, 0xcf8, 4), 0x80000800); /* it is no part of the address */
    out(&b, 0xcf9, 1, 6);
    assert_int_equal(b.resets, 1);
    b.piix->ops->reset(b.piix);
    assert_int_equal(in(&b, 0xcf8, 4), 0);
    close_board(&b);
}

static void test_the_piix_is_saved(void **state)
{
    struct board b, other;
    (void)state;
    open_board(&b);
    open_board(&other);
    out(&b, 0xcf8, 4, 0x80000800);
    assert_state_round_trip(b.piix->ops->state, b.piix, other.piix);
    assert_int_equal(in(&other, 0xcfc, 4), 0x70008086);
    close_board(&b);
    close_board(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_items_are_read_byte_by_byte),
        cmocka_unit_test(test_files_have_a_directory),
        cmocka_unit_test(test_memory_gets_what_was_asked_for_and_no_more),
        cmocka_unit_test(test_commands_that_cannot_be_carried_out),
        cmocka_unit_test(test_an_item_may_be_part_of_a_file),
        cmocka_unit_test(test_flash_is_told_from_ram_and_rom),
        cmocka_unit_test(test_flash_is_programmed_and_erased),
        cmocka_unit_test(test_the_store_has_what_the_flash_has),
        cmocka_unit_test(test_flash_travels_with_its_machine),
        cmocka_unit_test(test_what_is_read_is_memory),
        cmocka_unit_test(test_firmware_finds_the_board_that_it_knows),
        cmocka_unit_test(test_the_reset_control_register),
        cmocka_unit_test(test_the_piix_is_saved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
