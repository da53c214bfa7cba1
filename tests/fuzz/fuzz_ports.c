/* SPDX-License-Identifier: MIT
 *
 * The PC's devices at I/O ports against a guest that reads and writes them in any order: ACPI's
 * fixed hardware, the CMOS clock, the keyboard controller, the UART.
 *
 * Input: records of 4 bytes: what (enum record, in the low bits; the size above them), port, value.
 * Checked: whatever happens, the state survives save, restore, save unchanged; what is off by one
 * byte is refused or stood. PRESS: the power button, or with an odd port the keys.
 */
#include "fuzz.h"

#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/state.h"
#include "base/vclock.h"
#include "dev/acpi_pm.h"
#include "dev/devices.h"
#include "mem/mem.h"

enum record { WRITE, READ, TIME, PRESS, INPUT, RESET, SAVE, DAMAGE, RECORDS };

static const struct row {
    const struct device_ops *ops;
    uint64_t io_port;
    unsigned ports;
} rows[] = {
    {&device_acpi_pm, 0x600, ACPI_PM_PORTS},
    {&device_cmos_rtc, 0x70, 2},
    {&device_i8042, 0x60, 5},
    {&device_uart16550, 0x3f8, 8},
};

struct target {
    struct device_env env;
    struct log log;
    struct char_backend chr;
    struct power_button button;
    struct keyboard keyboard;
    struct device *devices[ARRAY_SIZE(rows)];
};

static void swallow(struct char_backend *backend, const uint8_t *data, size_t size)
{
    (void)backend, (void)data, (void)size;
}

static void power(void *machine, enum device_power request, uint32_t code)
{
    (void)machine, (void)request, (void)code;
}

static void open_target(struct target *t, struct vclock *clock)
{
    *t = (struct target){.chr = {.write = swallow}};
    log_init(&t->log, LOG_LEVEL_ERROR, -1, "fuzz");
    t->env = (struct device_env){.mem = mem_space_new(),
                                 .ports = mem_space_new(),
                                 .clock = clock,
                                 .log = &t->log,
                                 .power = power};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct device_params params = {
            .id = "dut", .io_port = rows[i].io_port, .chr = &t->chr, .button = &t->button,
            .keyboard = &t->keyboard};
        t->devices[i] = device_new(rows[i].ops, &t->env, &params, NULL);
        fuzz_check(t->devices[i] != NULL);
    }
}

static void close_target(struct target *t)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        device_free(t->devices[i]);
    mem_space_free(t->env.mem);
    mem_space_free(t->env.ports);
}

/* Into a machine of its own, at the same time of day. */
static void save_restore(struct target *t, unsigned damage)
{
    struct target other;
    open_target(&other, t->env.clock);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct state_table *table = rows[i].ops->state;
        struct state_buffer first = {0}, second = {0};
        size_t at = 0;
        state_save(table, t->devices[i], &first);
        if (damage != 0)
            first.data[damage % first.size] ^= (uint8_t)damage;
        bool taken = state_restore(table, other.devices[i], first.data, first.size, &at, NULL);
        if (damage == 0) {
            state_save(table, other.devices[i], &second);
            fuzz_check(taken && first.size == second.size &&
                       memcmp(first.data, second.data, first.size) == 0);
        }
        state_buffer_free(&first);
        state_buffer_free(&second);
    }
    vclock_advance(t->env.clock, NS_PER_S);
    vclock_run_timers(t->env.clock);
    close_target(&other);
}

static void play(struct target *t, uint8_t what, uint8_t port, uint16_t value)
{
    const struct row *row = &rows[port % ARRAY_SIZE(rows)];
    unsigned size = 1u << (what >> 4 & 3);
    uint64_t at = row->io_port + port / ARRAY_SIZE(rows) % row->ports, read;
    uint8_t byte = (uint8_t)value;
    switch ((enum record)(what & 7)) {
    case WRITE:
        mem_io_write(t->env.ports, at, size, value);
        break;
    case READ:
        mem_io_read(t->env.ports, at, size, &read);
        break;
    case TIME:
        vclock_advance(t->env.clock, (int64_t)value << (port & 31));
        vclock_run_timers(t->env.clock);
        break;
    case PRESS:
        if (port % 2 == 0)
            t->button.press(t->button.device);
        else
            t->keyboard.press(t->keyboard.device);
        break;
    case INPUT:
        t->chr.on_input(t->chr.device, &byte, 1);
        break;
    case RESET:
        row->ops->reset(t->devices[port % ARRAY_SIZE(rows)]);
        break;
    case SAVE:
        save_restore(t, 0);
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
    struct vclock *clock = vclock_new(VCLOCK_COUNTED, INT64_C(1700000000) * NS_PER_S);
    vclock_resume(clock);
    open_target(&t, clock);
    while (input.left > 0) {
        uint8_t what = (uint8_t)fuzz_take(&input, 1), port = (uint8_t)fuzz_take(&input, 1);
        play(&t, what, port, (uint16_t)fuzz_take(&input, 2));
    }
    save_restore(&t, 0);
    close_target(&t);
    vclock_free(clock);
    return 0;
}

/* Mostly accesses of one byte. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    size_t size = 4 * (1 + fuzz_random(seed) % 200);
    for (size_t i = 0; i < size; i += 4) {
        uint64_t random = fuzz_random(seed);
        store_le32(data + i, (uint32_t)(random >> 32));
        uint64_t kind = random % 32;
        data[i] = (uint8_t)(kind < RECORDS ? kind : kind % 2);
        data[i] |= (uint8_t)(random >> 8 & 7) == 0 ? (uint8_t)(random >> 12 & 0x30) : 0;
    }
    return size;
}
