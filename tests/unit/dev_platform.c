/* SPDX-License-Identifier: MIT
 *
 * The small platform devices: ACLINT (software and timer interrupts, mtime), Goldfish RTC,
 * SiFive's test finisher.
 */
#include "dev_fixture.h"

/* ---- ACLINT ---- */

enum { MSIP = 0, MTIMECMP = 0x4000, MTIME = 0xbff8 };
enum { MSI = 3, MTI = 7 };

static void test_aclint_software(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_aclint);
    bench_write(&b, MSIP + 4, 4, 0xffffffff);
    assert_int_equal(bench_read(&b, MSIP + 4, 4), 1); /* one bit, the rest is wired to 0 */
    assert_false(bench_line(&b, 0, MSI));
    assert_true(bench_line(&b, 1, MSI));
    bench_write(&b, MSIP, 8, UINT64_C(1)); /* both harts' at once */
    assert_true(bench_line(&b, 0, MSI));
    assert_false(bench_line(&b, 1, MSI));
    assert_int_equal(bench_read(&b, MSIP, 8), 1);
    bench_write(&b, MSIP + 8, 4, 1); /* no such hart */
    assert_int_equal(bench_read(&b, MSIP + 8, 4), 0);
    b.device->ops->reset(b.device);
    assert_false(bench_line(&b, 0, MSI));
    bench_close(&b);
}

static void test_aclint_timer(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_aclint);
    assert_int_equal(bench_read(&b, MTIMECMP, 8), UINT64_MAX); /* silent at power-on */
    bench_advance(&b, 1000 * BENCH_TICK);
    assert_int_equal(bench_read(&b, MTIME, 8), 1000);
    bench_write(&b, MTIMECMP + 8, 8, 1500);
    bench_advance(&b, 499 * BENCH_TICK);
    assert_false(bench_line(&b, 1, MTI));
    bench_advance(&b, BENCH_TICK - 1);
    assert_false(bench_line(&b, 1, MTI));
    bench_advance(&b, 1);
    assert_true(bench_line(&b, 1, MTI));
    assert_false(bench_line(&b, 0, MTI));
    bench_write(&b, MTIMECMP + 8, 8, 1501); /* into the future: the line falls */
    assert_false(bench_line(&b, 1, MTI));
    bench_advance(&b, BENCH_TICK);
    assert_true(bench_line(&b, 1, MTI));
    bench_write(&b, MTIMECMP, 8, 0); /* in the past: at once */
    assert_true(bench_line(&b, 0, MTI));
    bench_close(&b);
}

/* 32-bit software writes the halves so that no interrupt comes in between (P §3.2.1). */
static void test_aclint_halves(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_aclint);
    bench_advance(&b, 1000 * BENCH_TICK);
    bench_write(&b, MTIMECMP, 4, 0xffffffff);
    bench_write(&b, MTIMECMP + 4, 4, 0);
    bench_write(&b, MTIMECMP, 4, 2000);
    assert_int_equal(bench_read(&b, MTIMECMP, 8), 2000);
    assert_int_equal(bench_read(&b, MTIMECMP, 4), 2000);
    assert_int_equal(bench_read(&b, MTIMECMP + 4, 4), 0);
    assert_false(bench_line(&b, 0, MTI));
    bench_write(&b, MTIME, 8, UINT64_C(0x123456789));
    assert_int_equal(bench_read(&b, MTIME + 4, 4), 1);
    assert_int_equal(bench_read(&b, MTIME, 4), 0x23456789);
    assert_true(bench_line(&b, 0, MTI)); /* time jumped over the comparator */
    assert_true(atomic_load(&b.harts[1].attention) & VCPU_ATTENTION_TIMER);
    bench_write(&b, MTIME, 8, 1900); /* and back */
    assert_false(bench_line(&b, 0, MTI));
    bench_advance(&b, 100 * BENCH_TICK);
    assert_true(bench_line(&b, 0, MTI));
    b.device->ops->reset(b.device);
    assert_int_equal(bench_read(&b, MTIME, 8), 1100);
    bench_close(&b);
}

static void test_aclint_state(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_aclint);
    bench_write(&b, MSIP + 4, 4, 1);
    bench_write(&b, MTIMECMP, 8, 12345);
    bench_check_state(&b);
    void *fdt = bench_fdt(&b);
    fdt_expect_compatible(fdt, "/clint@10000000", "sifive,clint0");
    fdt_expect_compatible(fdt, "/clint@10000000", "riscv,clint0");
    const uint32_t targets[] = {40, MSI, 40, MTI, 41, MSI, 41, MTI};
    fdt_expect_cells(fdt, "/clint@10000000", "interrupts-extended", targets, ARRAY_SIZE(targets));
    free(fdt);
    bench_check_fdt_space(&b);
    bench_close(&b);
}

/* ---- RTC ---- */

enum {
    TIME_LOW = 0x00,
    TIME_HIGH = 0x04,
    ALARM_LOW = 0x08,
    ALARM_HIGH = 0x0c,
    IRQ_ENABLED = 0x10,
    CLEAR_ALARM = 0x14,
    ALARM_STATUS = 0x18,
    CLEAR_INTERRUPT = 0x1c
};

static uint64_t rtc_time(struct bench *b)
{
    uint64_t low = bench_read(b, TIME_LOW, 4);
    return bench_read(b, TIME_HIGH, 4) << 32 | low;
}

static void set_pair(struct bench *b, uint64_t low_register, uint64_t value)
{
    bench_write(b, low_register + 4, 4, value >> 32);
    bench_write(b, low_register, 4, value & 0xffffffff);
}

static void test_rtc_time(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_goldfish_rtc);
    assert_true(rtc_time(&b) == (uint64_t)BENCH_WALL);
    bench_advance(&b, 12345);
    assert_true(rtc_time(&b) == (uint64_t)BENCH_WALL + 12345);
    /* The halves are of one moment. */
    uint64_t low = bench_read(&b, TIME_LOW, 4);
    bench_advance(&b, 5 * NS_PER_S); /* more than 2^32 ns */
    assert_true((bench_read(&b, TIME_HIGH, 4) << 32 | low) == (uint64_t)BENCH_WALL + 12345);
    uint64_t new_time = UINT64_C(946684800) * NS_PER_S + 99;
    set_pair(&b, TIME_LOW, new_time);
    assert_true(rtc_time(&b) == new_time);
    bench_advance(&b, 1);
    assert_true(rtc_time(&b) == new_time + 1);
    bench_close(&b);
}

static void test_rtc_alarm(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_goldfish_rtc);
    uint64_t at = (uint64_t)BENCH_WALL + 1000;
    bench_write(&b, IRQ_ENABLED, 4, 1);
    set_pair(&b, ALARM_LOW, at);
    assert_int_equal(bench_read(&b, ALARM_STATUS, 4), 1);
    assert_true((bench_read(&b, ALARM_HIGH, 4) << 32 | bench_read(&b, ALARM_LOW, 4)) == at);
    bench_advance(&b, 999);
    assert_false(b.irq);
    bench_advance(&b, 1);
    assert_true(b.irq);
    assert_int_equal(bench_read(&b, ALARM_STATUS, 4), 0);
    bench_write(&b, CLEAR_INTERRUPT, 4, 1);
    assert_false(b.irq);
    set_pair(&b, ALARM_LOW, at); /* in the past: at once */
    assert_true(b.irq);
    bench_write(&b, IRQ_ENABLED, 4, 0);
    assert_false(b.irq);
    bench_write(&b, IRQ_ENABLED, 4, 1);
    assert_true(b.irq);
    bench_write(&b, CLEAR_INTERRUPT, 4, 1);
    set_pair(&b, ALARM_LOW, at + 1000);
    bench_write(&b, CLEAR_ALARM, 4, 1);
    bench_advance(&b, 5000);
    assert_false(b.irq);
    /* The alarm is a time of day: setting the clock moves it. */
    set_pair(&b, ALARM_LOW, at + 1000000);
    set_pair(&b, TIME_LOW, at + 999990);
    bench_advance(&b, 9);
    assert_false(b.irq);
    bench_advance(&b, 1);
    assert_true(b.irq);
    bench_write(&b, CLEAR_INTERRUPT, 4, 1);
    set_pair(&b, ALARM_LOW, UINT64_MAX); /* beyond the clock's range: never */
    assert_int_equal(bench_read(&b, ALARM_STATUS, 4), 1);
    bench_advance(&b, NS_PER_S);
    assert_false(b.irq);
    bench_check_state(&b);
    bench_close(&b);
}

static void test_rtc_fdt(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_goldfish_rtc);
    void *fdt = bench_fdt(&b);
    fdt_expect_compatible(fdt, "/rtc@10000000", "google,goldfish-rtc");
    fdt_expect_cells(fdt, "/rtc@10000000", "interrupts", (const uint32_t[]){7}, 1);
    free(fdt);
    bench_check_fdt_space(&b);
    bench_close(&b);
}

/* ---- test finisher ---- */

static void test_finisher(void **state)
{
    static const struct {
        uint64_t offset, value;
        unsigned size;
        unsigned requests;
        enum device_power power;
        uint32_t code;
    } cases[] = {
        {0, 0x5555, 4, 1, DEVICE_POWER_OFF, 0},
        {0, 0x5555, 2, 1, DEVICE_POWER_OFF, 0},
        {0, 0x7777, 4, 1, DEVICE_POWER_RESET, 0},
        {0, 0x00053333, 4, 1, DEVICE_POWER_FAILURE, 5},
        {0, 0xffff3333, 4, 1, DEVICE_POWER_FAILURE, 0xffff},
        {0, 0x3333, 4, 1, DEVICE_POWER_FAILURE, 1}, /* a failure is never 0 */
        {0, 0x1234, 4, 0, DEVICE_POWER_OFF, 0},
        {4, 0x5555, 4, 0, DEVICE_POWER_OFF, 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct bench b;
        bench_open(&b, &device_sifive_test);
        b.log.fd = -1; /* what it says about nonsense is not the matter here */
        bench_write(&b, cases[i].offset, cases[i].size, cases[i].value);
        assert_int_equal(b.power_requests, cases[i].requests);
        if (cases[i].requests > 0) {
            assert_int_equal(b.power, cases[i].power);
            assert_int_equal(b.power_code, cases[i].code);
        }
        assert_int_equal(bench_read(&b, 0, 4), 0);
        bench_check_state(&b);
        bench_close(&b);
    }
}

static void test_finisher_fdt(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_sifive_test);
    void *fdt = bench_fdt(&b);
    static const char *const names[] = {"sifive,test1", "sifive,test0", "syscon"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        fdt_expect_compatible(fdt, "/test@10000000", names[i]);
    fdt_expect_compatible(fdt, "/poweroff", "syscon-poweroff");
    fdt_expect_cells(fdt, "/poweroff", "regmap", (const uint32_t[]){50}, 1);
    fdt_expect_cells(fdt, "/poweroff", "value", (const uint32_t[]){0x5555}, 1);
    fdt_expect_compatible(fdt, "/reboot", "syscon-reboot");
    fdt_expect_cells(fdt, "/reboot", "value", (const uint32_t[]){0x7777}, 1);
    free(fdt);
    bench_check_fdt_space(&b);
    bench_close(&b);
}

/* ---- the machine's generation ---- */

static void test_vmgenid(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_vmgenid);
    assert_true(bench_read(&b, 0, 8) == UINT64_C(0x0807060504030201));
    assert_true(bench_read(&b, 8, 8) == UINT64_C(0x100f0e0d0c0b0a09));
    assert_int_equal(bench_read(&b, 3, 1), 4);
    assert_int_equal(bench_read(&b, 12, 4), 0x100f0e0d);
    bench_write(&b, 0, 8, 1); /* read-only */
    assert_int_equal(bench_read(&b, 0, 1), 1);
    assert_int_equal(bench_read(&b, 16, 8), 0);
    assert_false(b.irq);
    b.generation.renew(b.generation.device);
    assert_true(b.irq);
    bench_read(&b, 16, 8);
    assert_true(b.irq); /* that was not it */
    assert_int_equal(bench_read(&b, 0, 1), 17);
    assert_false(b.irq);
    b.generation.renew(b.generation.device);
    bench_check_state(&b);
    assert_true(b.irq);
    b.device->ops->reset(b.device); /* starts again as the same machine */
    assert_false(b.irq);
    assert_int_equal(bench_read(&b, 0, 1), 33);
    bench_close(&b);
}

static void test_vmgenid_fdt(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_vmgenid);
    void *fdt = bench_fdt(&b);
    fdt_expect_compatible(fdt, "/rng@10000000", "microsoft,vmgenid");
    fdt_expect_cells(fdt, "/rng@10000000", "interrupts", (const uint32_t[]){7}, 1);
    free(fdt);
    bench_check_fdt_space(&b);
    bench_close(&b);
}

static void test_boot_timer(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_boot_timer);
    bench_write(&b, 0, 1, 122);
    bench_write(&b, 1, 1, 123);
    bench_write(&b, 0xfff, 1, 123);
    assert_int_equal(b.boots, 0);
    bench_write(&b, 0, 1, 123);
    assert_int_equal(b.boots, 1);
    bench_write(&b, 0, 4, 123);
    assert_int_equal(b.boots, 2);
    assert_int_equal(bench_read(&b, 0, 4), 0);
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_aclint_software), cmocka_unit_test(test_aclint_timer),
        cmocka_unit_test(test_aclint_halves),   cmocka_unit_test(test_aclint_state),
        cmocka_unit_test(test_rtc_time),        cmocka_unit_test(test_rtc_alarm),
        cmocka_unit_test(test_rtc_fdt),         cmocka_unit_test(test_finisher),
        cmocka_unit_test(test_finisher_fdt),
        cmocka_unit_test(test_vmgenid),
        cmocka_unit_test(test_boot_timer),
        cmocka_unit_test(test_vmgenid_fdt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
