/* SPDX-License-Identifier: MIT
 *
 * The PC's devices at I/O ports: ACPI's fixed hardware, the CMOS clock, the keyboard controller,
 * and the UART there.
 */
#include "dev_fixture.h"

#include "dev/acpi_pm.h"

#define PORT 0x600

/* ---- ACPI's fixed hardware ---- */

enum { BUTTON = 1 << 8, TIMER = 1, PM_HZ = 3579545 };

static void test_pm_button(void **state)
{
    struct bench b;
    (void)state;
    bench_open_at(&b, &device_acpi_pm, PORT);
    assert_false(b.button.press(b.button.device)); /* nobody listens, */
    assert_int_equal(bench_read(&b, ACPI_PM_EVENT, 2), BUTTON);
    assert_false(b.irq);
    bench_write(&b, ACPI_PM_EVENT + 2, 2, BUTTON); /* and is told when somebody does */
    assert_true(b.irq);
    bench_write(&b, ACPI_PM_EVENT, 2, 0xffff & ~BUTTON);
    assert_true(b.irq);
    bench_write(&b, ACPI_PM_EVENT, 2, BUTTON);
    assert_false(b.irq);
    assert_int_equal(bench_read(&b, ACPI_PM_EVENT, 4), BUTTON << 16);
    assert_true(b.button.press(b.button.device));
    assert_true(b.irq);
    bench_check_state(&b);
    b.device->ops->reset(b.device);
    assert_false(b.irq);
    assert_int_equal(bench_read(&b, ACPI_PM_EVENT, 4), 0);
    bench_close(&b);
}

/* The firmware never lets go of the global lock; Linux looks whether it could hear of it. */
static void test_pm_global_lock(void **state)
{
    enum { GLOBAL = 1 << 5 };
    struct bench b;
    (void)state;
    bench_open_at(&b, &device_acpi_pm, PORT);
    bench_write(&b, ACPI_PM_EVENT + 2, 2, GLOBAL);
    assert_int_equal(bench_read(&b, ACPI_PM_EVENT, 4), GLOBAL << 16);
    assert_false(b.irq);
    bench_check_state(&b);
    bench_write(&b, ACPI_PM_EVENT + 2, 2, 0);
    assert_int_equal(bench_read(&b, ACPI_PM_EVENT, 4), 0);
    bench_close(&b);
}

static void test_pm_switches_off(void **state)
{
    struct bench b;
    (void)state;
    bench_open_at(&b, &device_acpi_pm, PORT);
    assert_int_equal(bench_read(&b, ACPI_PM_CONTROL, 2), 1); /* ACPI mode, always */
    bench_write(&b, ACPI_PM_CONTROL, 2, 5 << 10);            /* the type alone */
    assert_int_equal(bench_read(&b, ACPI_PM_CONTROL, 2), 5 << 10 | 1);
    assert_int_equal(b.power_requests, 0);
    for (unsigned type = 0; type < 8; type++) {
        bench_write(&b, ACPI_PM_CONTROL, 2, type << 10 | 1 << 13);
        assert_int_equal(b.power_requests, type >= 5 ? 1 : 0);
    }
    assert_int_equal(b.power, DEVICE_POWER_OFF);
    assert_int_equal(bench_read(&b, ACPI_PM_CONTROL, 2) & 1 << 13, 0); /* write-only */
    bench_close(&b);
}

static void test_pm_timer(void **state)
{
    struct bench b;
    (void)state;
    bench_open_at(&b, &device_acpi_pm, PORT);
    bench_advance(&b, NS_PER_S);
    assert_int_equal(bench_read(&b, ACPI_PM_TIMER, 4), PM_HZ);
    bench_write(&b, ACPI_PM_TIMER, 4, 0);
    assert_int_equal(bench_read(&b, ACPI_PM_TIMER, 4), PM_HZ);
    bench_write(&b, ACPI_PM_EVENT + 2, 2, TIMER);
    int64_t half = (int64_t)((((unsigned __int128)1 << 31) * NS_PER_S + PM_HZ - 1) / PM_HZ);
    bench_advance(&b, half - NS_PER_S - 1);
    assert_int_equal(bench_read(&b, ACPI_PM_TIMER, 4), 0x7fffffff);
    assert_false(b.irq);
    bench_advance(&b, 1);
    assert_true(b.irq);
    assert_int_equal(bench_read(&b, ACPI_PM_TIMER, 4), 0x80000000);
    bench_write(&b, ACPI_PM_EVENT, 2, TIMER);
    assert_false(b.irq);
    bench_advance(&b, half); /* it falls to 0: a change as well */
    assert_true(b.irq);
    bench_check_state(&b);
    bench_close(&b);
}

/* ---- the CMOS clock ---- */

enum { RTC = 0x70, INDEX = 0, DATA = 1 };
enum { A = 10, B = 11, C = 12, D = 13, CENTURY = 0x32 };
enum { SET = 0x80, PIE = 0x40, AIE = 0x20, UIE = 0x10, BINARY = 4, HOURS24 = 2, DIVIDER = 0x20 };

static uint8_t cmos(struct bench *b, unsigned index)
{
    bench_write(b, INDEX, 1, index | 0x80); /* the top bit is about NMIs */
    return (uint8_t)bench_read(b, DATA, 1);
}

static void set_cmos(struct bench *b, unsigned index, uint8_t value)
{
    bench_write(b, INDEX, 1, index);
    bench_write(b, DATA, 1, value);
}

/* BENCH_WALL is 2023-11-14 22:13:20 UTC, a Tuesday. */
static void expect_time(struct bench *b, const uint8_t expected[8])
{
    static const uint8_t registers[8] = {0, 2, 4, 6, 7, 8, 9, CENTURY};
    for (unsigned i = 0; i < 8; i++)
        if (cmos(b, registers[i]) != expected[i])
            fail_msg("register %#x is %#x, not %#x", registers[i], cmos(b, registers[i]),
                     expected[i]);
}

static void test_rtc_time_in_every_format(void **state)
{
    struct bench b;
    (void)state;
    bench_open_at(&b, &device_cmos_rtc, RTC);
    assert_int_equal(cmos(&b, D), 0x80);
    assert_int_equal(cmos(&b, B), HOURS24);
    expect_time(&b, (const uint8_t[8]){0x20, 0x13, 0x22, 3, 0x14, 0x11, 0x23, 0x20});
    set_cmos(&b, B, HOURS24 | BINARY);
    expect_time(&b, (const uint8_t[8]){20, 13, 22, 3, 14, 11, 23, 20});
    set_cmos(&b, B, 0);
    expect_time(&b, (const uint8_t[8]){0x20, 0x13, 0x90, 3, 0x14, 0x11, 0x23, 0x20});
    bench_advance(&b, 2 * 3600 * NS_PER_S); /* midnight is 12 AM */
    assert_int_equal(cmos(&b, 4), 0x12);
    bench_advance(&b, 12 * 3600 * NS_PER_S);
    assert_int_equal(cmos(&b, 4), 0x92);
    bench_advance(&b, 40 * NS_PER_S);
    expect_time(&b, (const uint8_t[8]){0x00, 0x14, 0x92, 4, 0x15, 0x11, 0x23, 0x20});
    bench_check_state(&b);
    bench_close(&b);
}

static void test_rtc_is_set_as_linux_does(void **state)
{
    static const uint8_t wanted[8] = {0x59, 0x59, 0x23, 1, 0x31, 0x12, 0x99, 0x19};
    static const uint8_t registers[8] = {0, 2, 4, 6, 7, 8, 9, CENTURY};
    struct bench b;
    (void)state;
    bench_open_at(&b, &device_cmos_rtc, RTC);
    set_cmos(&b, B, SET | HOURS24);
    set_cmos(&b, A, 0x70 | 6); /* the divider is held */
    for (unsigned i = 0; i < 8; i++)
        set_cmos(&b, registers[i], wanted[i]);
    bench_advance(&b, 5 * NS_PER_S); /* it stands still meanwhile */
    set_cmos(&b, B, HOURS24);
    set_cmos(&b, A, DIVIDER | 6);
    /* The last second of 1999; the next one begins half a second later. */
    assert_int_equal(vclock_wall_now(b.env.clock), 946684799 * NS_PER_S + NS_PER_S / 2);
    bench_advance(&b, NS_PER_S / 2);
    expect_time(&b, (const uint8_t[8]){0, 0, 0, 7, 1, 1, 0, 0x20});
    set_cmos(&b, 2, 0x30); /* a register alone, without stopping */
    assert_int_equal(vclock_wall_now(b.env.clock), (946684800 + 30 * 60) * NS_PER_S);
    bench_close(&b);
}

static void test_rtc_interrupts(void **state)
{
    struct bench b;
    (void)state;
    bench_open_at(&b, &device_cmos_rtc, RTC);
    bench_advance(&b, 3 * NS_PER_S);
    assert_int_equal(cmos(&b, C), PIE | UIE | AIE * 0); /* flags come without interrupts, */
    assert_int_equal(cmos(&b, C), 0);                   /* and reading clears them */
    set_cmos(&b, B, HOURS24 | UIE);
    bench_advance(&b, NS_PER_S - 1);
    assert_false(b.irq);
    bench_advance(&b, 1);
    assert_true(b.irq);
    assert_int_equal(cmos(&b, C) & (0x80 | UIE), 0x80 | UIE);
    assert_false(b.irq);
    /* 22:13:24 now. The alarm at 22:13:30, then each minute at :30. */
    set_cmos(&b, 1, 0x30);
    set_cmos(&b, 3, 0x13);
    set_cmos(&b, 5, 0x22);
    set_cmos(&b, B, HOURS24 | AIE);
    bench_advance(&b, 6 * NS_PER_S - 1);
    assert_false(b.irq);
    bench_advance(&b, 1);
    assert_true(b.irq);
    assert_int_equal(cmos(&b, C) & (0x80 | AIE), 0x80 | AIE);
    set_cmos(&b, 3, 0xff);
    set_cmos(&b, 5, 0xc0);
    bench_advance(&b, 60 * NS_PER_S);
    assert_true(b.irq);
    cmos(&b, C);
    bench_advance(&b, 59 * NS_PER_S);
    assert_false(b.irq);
    /* 1024 Hz. */
    set_cmos(&b, B, HOURS24 | PIE);
    unsigned before = b.irq_changes;
    for (unsigned i = 0; i < 1024; i++) {
        bench_advance(&b, NS_PER_S / 1024 + 1);
        cmos(&b, C);
    }
    assert_in_range(b.irq_changes - before, 2 * 1024 - 2, 2 * 1024 + 2);
    bench_check_state(&b);
    bench_close(&b);
}

static void test_rtc_ram_and_updates(void **state)
{
    struct bench b;
    (void)state;
    bench_open_at(&b, &device_cmos_rtc, RTC);
    for (unsigned i = 0x0e; i < 0x80; i++)
        if (i != CENTURY)
            set_cmos(&b, i, (uint8_t)(i * 7));
    b.device->ops->reset(b.device);
    for (unsigned i = 0x0e; i < 0x80; i++)
        if (i != CENTURY)
            assert_int_equal(cmos(&b, i), (uint8_t)(i * 7));
    assert_int_equal(bench_read(&b, INDEX, 1), 0xff);
    assert_int_equal(cmos(&b, A) & 0x80, 0);
    bench_advance(&b, NS_PER_S - 100000); /* shortly before a second is over */
    assert_int_equal(cmos(&b, A) & 0x80, 0x80);
    bench_advance(&b, 100000);
    assert_int_equal(cmos(&b, A) & 0x80, 0);
    set_cmos(&b, D, 0);
    assert_int_equal(cmos(&b, D), 0x80);
    bench_close(&b);
}

/* Whatever is in the registers, the clock takes it and goes on. */
static void test_rtc_nonsense(void **state)
{
    struct bench b;
    (void)state;
    bench_open_at(&b, &device_cmos_rtc, RTC);
    uint32_t seed = 1;
    for (unsigned i = 0; i < 20000; i++) {
        seed = seed * 1664525 + 1013904223;
        unsigned index = seed >> 24 & 0x3f;
        set_cmos(&b, index > 0x0d ? CENTURY : index, (uint8_t)(seed >> 8));
        cmos(&b, seed >> 16 & 15);
        bench_advance(&b, (int64_t)(seed & 0xff) << (seed >> 20 & 31));
    }
    bench_close(&b);
}

/* ---- the keyboard controller ---- */

enum { KBD = 0x60, KBD_DATA = 0, KBD_COMMAND = 4 };

static void test_i8042_answers(void **state)
{
    struct bench b;
    (void)state;
    bench_open_at(&b, &device_i8042, KBD);
    assert_int_equal(bench_read(&b, KBD_COMMAND, 1) & 1, 0);
    bench_write(&b, KBD_COMMAND, 1, 0xaa);
    assert_int_equal(bench_read(&b, KBD_COMMAND, 1) & 5, 5);
    assert_int_equal(bench_read(&b, KBD_DATA, 1), 0x55);
    assert_int_equal(bench_read(&b, KBD_COMMAND, 1) & 1, 0);
    bench_write(&b, KBD_COMMAND, 1, 0x60);
    bench_write(&b, KBD_DATA, 1, 0x47);
    bench_write(&b, KBD_COMMAND, 1, 0x20);
    assert_int_equal(bench_read(&b, KBD_DATA, 1), 0x47);
    bench_write(&b, KBD_DATA, 1, 0xff); /* a keyboard would answer */
    assert_int_equal(bench_read(&b, KBD_COMMAND, 1) & 1, 0);
    assert_int_equal(b.power_requests, 0);
    bench_check_state(&b);
    bench_close(&b);
}

static void test_i8042_resets_the_machine(void **state)
{
    struct bench b;
    (void)state;
    bench_open_at(&b, &device_i8042, KBD);
    bench_write(&b, KBD_COMMAND, 1, 0xfd); /* pulses another line */
    assert_int_equal(b.power_requests, 0);
    bench_write(&b, KBD_COMMAND, 1, 0xfe);
    assert_int_equal(b.power_requests, 1);
    assert_int_equal(b.power, DEVICE_POWER_RESET);
    bench_write(&b, KBD_COMMAND, 1, 0xd1);
    bench_write(&b, KBD_DATA, 1, 0x03);
    assert_int_equal(b.power_requests, 1);
    bench_write(&b, KBD_COMMAND, 1, 0xd1);
    bench_write(&b, KBD_DATA, 1, 0x02);
    assert_int_equal(b.power_requests, 2);
    bench_close(&b);
}

static void open_keyboard(struct bench *b)
{
    bench_make(b, KBD);
    b->params.keyboard = &b->keyboard;
    bench_begin(b, &device_i8042);
}

/* As a driver reads: at each interrupt's edge a byte. */
static void expect_keys(struct bench *b, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        unsigned changes = b->irq_changes;
        assert_true(b->irq);
        assert_int_equal(bench_read(b, KBD_COMMAND, 1) & 1, 1);
        assert_int_equal(bench_read(b, KBD_DATA, 1), bytes[i]);
        assert_int_equal(b->irq_changes - changes, i + 1 < count ? 2 : 1);
    }
    assert_false(b->irq);
    assert_int_equal(bench_read(b, KBD_COMMAND, 1) & 1, 0);
}

static void set_command_byte(struct bench *b, uint8_t byte)
{
    bench_write(b, KBD_COMMAND, 1, 0x60);
    bench_write(b, KBD_DATA, 1, byte);
}

static const uint8_t chord[] = {0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14};

static void test_i8042_presses_keys(void **state)
{
    struct bench b;
    (void)state;
    open_keyboard(&b);
    assert_true(b.keyboard.press(b.keyboard.device)); /* they wait for somebody to listen, */
    assert_false(b.irq);
    assert_false(b.keyboard.press(b.keyboard.device)); /* and there is no room for more */
    bench_check_state(&b);
    set_command_byte(&b, 0x01);
    bench_check_state(&b);
    expect_keys(&b, chord, sizeof(chord));
    assert_true(b.keyboard.press(b.keyboard.device));
    bench_write(&b, KBD_COMMAND, 1, 0x20); /* an answer is no key */
    assert_false(b.irq);
    assert_int_equal(bench_read(&b, KBD_DATA, 1), 0x01);
    expect_keys(&b, chord + 1, sizeof(chord) - 1);
    set_command_byte(&b, 0x40); /* polled; nothing translates */
    bench_write(&b, KBD_COMMAND, 1, 0x20);
    assert_int_equal(bench_read(&b, KBD_DATA, 1), 0);
    assert_true(b.keyboard.press(b.keyboard.device));
    assert_false(b.irq);
    assert_int_equal(bench_read(&b, KBD_COMMAND, 1) & 1, 1);
    b.device->ops->reset(b.device);
    assert_int_equal(bench_read(&b, KBD_COMMAND, 1) & 1, 0);
    bench_close(&b);
}

/* What Linux' atkbd asks. */
static void test_i8042_keyboard_answers(void **state)
{
    static const struct {
        uint8_t says[2], answers[4];
        unsigned said, answered;
    } rows[] = {
        {{0xff}, {0xfa, 0xaa}, 1, 2},       {{0xf2}, {0xfa, 0xab, 0x83}, 1, 3},
        {{0xee}, {0xee}, 1, 1},             {{0xed, 0x02}, {0xfa, 0xfa}, 2, 2},
        {{0xf3, 0x00}, {0xfa, 0xfa}, 2, 2}, {{0xf0, 0x00}, {0xfa, 0xfa, 0x02}, 2, 3},
        {{0xf0, 0x02}, {0xfa, 0xfa}, 2, 2}, {{0xf0, 0x01}, {0xfa, 0xfe}, 2, 2},
        {{0xf6}, {0xfa}, 1, 1},             {{0x01}, {0xfe}, 1, 1},
    };
    struct bench b;
    (void)state;
    open_keyboard(&b);
    set_command_byte(&b, 0x01);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        bench_write(&b, KBD_DATA, 1, rows[i].says[0]);
        bench_check_state(&b);
        if (rows[i].said == 2) {
            expect_keys(&b, rows[i].answers, 1);
            bench_write(&b, KBD_DATA, 1, rows[i].says[1]);
        }
        expect_keys(&b, rows[i].answers + rows[i].said - 1, rows[i].answered - rows[i].said + 1);
    }
    bench_write(&b, KBD_DATA, 1, 0xf5);
    expect_keys(&b, (const uint8_t[]){0xfa}, 1);
    assert_false(b.keyboard.press(b.keyboard.device));
    bench_write(&b, KBD_DATA, 1, 0xf4);
    expect_keys(&b, (const uint8_t[]){0xfa}, 1);
    assert_true(b.keyboard.press(b.keyboard.device));
    bench_close(&b);
}

/* ---- the UART ---- */

static void test_uart_at_ports(void **state)
{
    struct bench b;
    uint64_t value;
    (void)state;
    bench_open_at(&b, &device_uart16550, 0x3f8);
    bench_write(&b, 0, 1, 'x');
    assert_int_equal(b.sent_size, 1);
    assert_int_equal(b.sent[0], 'x');
    bench_write(&b, 7, 1, 0x5a);
    assert_int_equal(bench_read(&b, 7, 1), 0x5a);
    assert_false(mem_io_read(b.env.ports, 0x400, 1, &value));
    assert_false(mem_io_read(b.env.mem, BENCH_GPA, 1, &value));
    bench_check_state(&b);
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pm_button),
        cmocka_unit_test(test_pm_global_lock),
        cmocka_unit_test(test_pm_switches_off),
        cmocka_unit_test(test_pm_timer),
        cmocka_unit_test(test_rtc_time_in_every_format),
        cmocka_unit_test(test_rtc_is_set_as_linux_does),
        cmocka_unit_test(test_rtc_interrupts),
        cmocka_unit_test(test_rtc_ram_and_updates),
        cmocka_unit_test(test_rtc_nonsense),
        cmocka_unit_test(test_i8042_answers),
        cmocka_unit_test(test_i8042_resets_the_machine),
        cmocka_unit_test(test_i8042_presses_keys),
        cmocka_unit_test(test_i8042_keyboard_answers),
        cmocka_unit_test(test_uart_at_ports),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
