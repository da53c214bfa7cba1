/* SPDX-License-Identifier: MIT
 *
 * The 16550A: register tables, interrupts and their priorities, FIFO and back pressure,
 * loopback.
 */
#include "dev_fixture.h"

#include "dev/uart16550.h"

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

static size_t type(struct bench *b, const char *text)
{
    return b->chr.on_input(b->chr.device, (const uint8_t *)text, strlen(text));
}

static const struct step power_on[] = {
    {STEP_READ, IER, 0},    {STEP_READ, IIR, 1},    {STEP_READ, LCR, 0}, {STEP_READ, MCR, 0},
    {STEP_READ, LSR, 0x60}, {STEP_READ, MSR, 0xb0}, {STEP_READ, SCR, 0}, {STEP_READ, DATA, 0},
    {STEP_READ, 8, 0},      {STEP_READ, 0xff, 0},   {STEP_IRQ, 0, 0},    {STEP_END, 0, 0},
};

static const struct step latches[] = {
    {STEP_WRITE, SCR, 0xa5},
    {STEP_READ, SCR, 0xa5},
    {STEP_WRITE, IER, 0xff},
    {STEP_READ, IER, 0x0f},
    {STEP_WRITE, MCR, 0xff},
    {STEP_READ, MCR, 0x1f},
    {STEP_WRITE, MCR, 0},
    /* the divisor latch hides data and IER */
    {STEP_WRITE, LCR, 0x83},
    {STEP_WRITE, DATA, 0x34},
    {STEP_WRITE, IER, 0x12},
    {STEP_READ, DATA, 0x34},
    {STEP_READ, IER, 0x12},
    {STEP_WRITE, LCR, 0x03},
    {STEP_READ, LCR, 0x03},
    {STEP_READ, IER, 0x0f},
    {STEP_READ, DATA, 0},
    {STEP_WRITE, LSR, 0},
    {STEP_READ, LSR, 0x60}, /* read-only */
    {STEP_END, 0, 0},
};

static const struct step fifo_identity[] = {
    {STEP_WRITE, FCR, 0x01}, {STEP_READ, IIR, 0xc1}, /* how Linux tells a 16550A */
    {STEP_WRITE, FCR, 0xc0}, {STEP_READ, IIR, 0x01}, /* without bit 0 the rest is ignored */
    {STEP_END, 0, 0},
};

static const struct step transmitter[] = {
    {STEP_WRITE, IER, 2},   {STEP_IRQ, 0, 1}, /* it is empty already */
    {STEP_READ, LSR, 0x60}, {STEP_IRQ, 0, 1},        {STEP_READ, IIR, 2},
    {STEP_IRQ, 0, 0}, /* reading it clears it */
    {STEP_READ, IIR, 1},    {STEP_WRITE, DATA, 'x'}, {STEP_IRQ, 0, 1},
    {STEP_READ, IIR, 2},    {STEP_IRQ, 0, 0},        {STEP_WRITE, DATA, 'y'},
    {STEP_IRQ, 0, 1},       {STEP_WRITE, IER, 0},    {STEP_IRQ, 0, 0},
    {STEP_WRITE, IER, 2},   {STEP_IRQ, 0, 1},        {STEP_READ, IIR, 2},
    {STEP_IRQ, 0, 0},       {STEP_END, 0, 0},
};

static const struct step loopback[] = {
    {STEP_WRITE, FCR, 1},
    {STEP_WRITE, MCR, 0x1a}, /* LOOP | OUT2 | RTS: Linux's test that there is a UART */
    {STEP_READ, MSR, 0x92},  /* DCD and CTS; DSR fell */
    {STEP_READ, MSR, 0x90},
    {STEP_WRITE, MCR, 0x14},
    {STEP_READ, MSR, 0x49}, /* OUT1 is RI, whose rise does not count */
    {STEP_WRITE, MCR, 0x10},
    {STEP_READ, MSR, 0x04}, /* its trailing edge does */
    {STEP_WRITE, DATA, 0x41},
    {STEP_WRITE, DATA, 0x42},
    {STEP_READ, LSR, 0x61},
    {STEP_READ, DATA, 0x41},
    {STEP_READ, DATA, 0x42},
    {STEP_READ, LSR, 0x60},
    {STEP_WRITE, IER, 8},
    {STEP_IRQ, 0, 0},
    {STEP_WRITE, MCR, 0x12},
    {STEP_IRQ, 0, 1},
    {STEP_READ, IIR, 0xc0},
    {STEP_READ, MSR, 0x11},
    {STEP_IRQ, 0, 0},
    {STEP_WRITE, MCR, 0},
    {STEP_READ, MSR, 0xba}, /* DSR and DCD rose */
    {STEP_END, 0, 0},
};

static const struct step overrun[] = {
    {STEP_WRITE, MCR, 0x10}, {STEP_WRITE, IER, 4},   {STEP_WRITE, DATA, 1}, {STEP_IRQ, 0, 0},
    {STEP_WRITE, DATA, 2},   {STEP_IRQ, 0, 1}, /* without FIFO there is room for one */
    {STEP_READ, IIR, 6},     {STEP_READ, LSR, 0x63}, {STEP_IRQ, 0, 0},      {STEP_READ, LSR, 0x61},
    {STEP_READ, DATA, 1},    {STEP_READ, LSR, 0x60}, {STEP_END, 0, 0},
};

static void test_scripts(void **state)
{
    static const struct {
        const char *name;
        const struct step *steps;
    } scripts[] = {
        {"power on", power_on},       {"latches", latches},   {"FIFO identity", fifo_identity},
        {"transmitter", transmitter}, {"loopback", loopback}, {"overrun", overrun},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
        struct bench b;
        bench_open(&b, &device_uart16550);
        bench_script(&b, scripts[i].name, 1, scripts[i].steps);
        /* A reset undoes all of it. */
        b.device->ops->reset(b.device);
        bench_script(&b, "after reset", 1, power_on);
        bench_close(&b);
    }
}

static void test_output(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_uart16550);
    for (const char *at = "hello"; *at != '\0'; at++)
        bench_write(&b, DATA, 1, (uint8_t)*at);
    bench_write(&b, MCR, 1, 0x10);
    bench_write(&b, DATA, 1, '!'); /* does not leave a loop */
    assert_int_equal(b.sent_size, 5);
    assert_memory_equal(b.sent, "hello", 5);
    bench_close(&b);
}

/* What is too much is lost, and the guest does not see it. */
static void test_limit(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, &device_uart16550);
    uart16550_limit(bench.device, 1000);
    for (unsigned i = 0; i < 300; i++) {
        bench_write(&bench, DATA, 1, 'a');
        assert_int_equal(bench_read(&bench, LSR, 1), 0x60);
    }
    assert_int_equal(bench.sent_size, 256); /* a burst, which is all that the bench has room for */
    assert_int_equal(uart16550_dropped(bench.device), 44);
    bench.sent_size = 0;
    for (unsigned i = 0; i < 2000; i++) {
        bench_advance(&bench, NS_PER_S / 10000);
        bench_write(&bench, DATA, 1, 'b');
    }
    assert_in_range(bench.sent_size, 195, 201); /* of 0.2 s */
    assert_int_equal(uart16550_dropped(bench.device), 44 + 2000 - bench.sent_size);
    uart16550_limit(bench.device, 0);
    bench.sent_size = 0;
    for (unsigned i = 0; i < 200; i++)
        bench_write(&bench, DATA, 1, 'c');
    assert_int_equal(bench.sent_size, 200);
    bench_close(&bench);
}

static void test_trigger_levels(void **state)
{
    static const struct {
        uint8_t fcr;
        unsigned level;
    } cases[] = {{0x01, 1}, {0x41, 4}, {0x81, 8}, {0xc1, 14}};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct bench b;
        bench_open(&b, &device_uart16550);
        bench_write(&b, FCR, 1, cases[i].fcr);
        bench_write(&b, IER, 1, 1);
        for (unsigned count = 1; count <= 16; count++) {
            assert_int_equal(type(&b, "z"), 1);
            assert_true(b.irq);
            /* below the level it is the character timeout */
            assert_int_equal(bench_read(&b, IIR, 1), count >= cases[i].level ? 0xc4 : 0xcc);
        }
        for (unsigned count = 16; count > 0; count--) {
            assert_true(b.irq);
            assert_int_equal(bench_read(&b, DATA, 1), 'z');
        }
        assert_false(b.irq);
        bench_close(&b);
    }
}

static void test_back_pressure(void **state)
{
    struct bench b;
    const char *text = "0123456789abcdefghijklmnopqrstuvwxyz";
    (void)state;
    bench_open(&b, &device_uart16550);
    assert_int_equal(type(&b, text), 1); /* no FIFO yet */
    assert_int_equal(type(&b, text + 1), 0);
    assert_int_equal(bench_read(&b, DATA, 1), '0');
    assert_int_equal(b.resumes, 1);
    bench_write(&b, FCR, 1, 1);
    assert_int_equal(type(&b, text), 16);
    assert_int_equal(type(&b, text + 16), 0);
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(b.resumes, 1);
        assert_int_equal(bench_read(&b, DATA, 1), text[i]);
    }
    assert_int_equal(b.resumes, 2);                 /* asked for once, when empty */
    assert_int_equal(bench_read(&b, LSR, 1), 0x60); /* nothing was lost */
    assert_int_equal(type(&b, text + 16), 16);
    bench_write(&b, FCR, 1, 3); /* the guest throws the FIFO away: room again */
    assert_int_equal(bench_read(&b, LSR, 1), 0x60);
    assert_int_equal(b.resumes, 3);
    bench_write(&b, MCR, 1, 0x10);
    assert_int_equal(type(&b, text), 0); /* the line is cut off */
    bench_write(&b, MCR, 1, 0);
    assert_int_equal(b.resumes, 4);
    bench_close(&b);
}

/* Line status before data before transmitter before modem. */
static void test_interrupt_priority(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_uart16550);
    bench_write(&b, MCR, 1, 0x10);
    bench_write(&b, DATA, 1, 1);
    bench_write(&b, DATA, 1, 2);
    bench_write(&b, IER, 1, 0x0f);
    assert_int_equal(bench_read(&b, IIR, 1), 6);
    bench_read(&b, LSR, 1);
    assert_int_equal(bench_read(&b, IIR, 1), 4);
    bench_read(&b, DATA, 1);
    assert_int_equal(bench_read(&b, IIR, 1), 2);
    assert_int_equal(bench_read(&b, IIR, 1), 0); /* DCD, DSR and CTS fell with the loop */
    bench_read(&b, MSR, 1);
    assert_int_equal(bench_read(&b, IIR, 1), 1);
    assert_false(b.irq);
    bench_close(&b);
}

static void test_state(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_uart16550);
    bench_write(&b, FCR, 1, 0xc1);
    bench_write(&b, IER, 1, 5);
    bench_write(&b, SCR, 1, 0x77);
    type(&b, "abcdef");
    bench_read(&b, DATA, 1);
    bench_check_state(&b);
    bench_close(&b);
}

static void test_fdt(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_uart16550);
    void *fdt = bench_fdt(&b);
    const char *path = "/serial@10000000";
    fdt_expect_compatible(fdt, path, "ns16550a");
    fdt_expect_cells(fdt, path, "interrupts", (const uint32_t[]){7}, 1);
    fdt_expect_cells(fdt, path, "interrupt-parent", (const uint32_t[]){40}, 1);
    fdt_expect_cells(fdt, path, "reg", (const uint32_t[]){0, 0x10000000, 0, 0x100}, 4);
    free(fdt);
    bench_check_fdt_space(&b);
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scripts),       cmocka_unit_test(test_output),
        cmocka_unit_test(test_limit),         cmocka_unit_test(test_trigger_levels),
        cmocka_unit_test(test_back_pressure), cmocka_unit_test(test_interrupt_priority),
        cmocka_unit_test(test_state),         cmocka_unit_test(test_fdt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
