/* SPDX-License-Identifier: MIT
 *
 * The PLIC: priorities, thresholds, enables, claim and completion, gateways.
 */
#include "dev_fixture.h"

enum { M0 = 0, S0 = 1, M1 = 2, S1 = 3 }; /* contexts */
enum { MEI = 11, SEI = 9 };

static uint64_t priority(unsigned source)
{
    return 4 * source;
}

static uint64_t enable(unsigned context, unsigned word)
{
    return 0x2000 + 0x80 * context + 4 * word;
}

static uint64_t threshold(unsigned context)
{
    return 0x200000 + 0x1000 * context;
}

static uint64_t claim(unsigned context)
{
    return threshold(context) + 4;
}

static void input(struct bench *b, unsigned source, bool level)
{
    b->device->ops->set_input(b->device, source, level);
}

static void test_registers(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_plic);
    const struct step steps[] = {
        {STEP_WRITE, 0, 7},
        {STEP_READ, 0, 0}, /* source 0 does not exist */
        {STEP_WRITE, 4, 0xffffffff},
        {STEP_READ, 4, 7}, /* seven priorities */
        {STEP_WRITE, 4 * 95, 3},
        {STEP_READ, 4 * 95, 3}, /* the last source */
        {STEP_WRITE, 4 * 96, 3},
        {STEP_READ, 4 * 96, 0}, /* one too far */
        {STEP_WRITE, 0x1000, 0xffffffff},
        {STEP_READ, 0x1000, 0}, /* pending: read-only */
        {STEP_WRITE, 0x2000, 0xffffffff},
        {STEP_READ, 0x2000, 0xfffffffe},
        {STEP_WRITE, 0x2008, 0xffffffff},
        {STEP_READ, 0x2008, 0xffffffff},
        {STEP_WRITE, 0x200c, 0xffffffff},
        {STEP_READ, 0x200c, 0}, /* sources 96..127 */
        {STEP_WRITE, 0x2180, 0x10},
        {STEP_READ, 0x2180, 0x10}, /* the last context */
        {STEP_WRITE, 0x2200, 0x10},
        {STEP_READ, 0x2200, 0}, /* one too far */
        {STEP_WRITE, 0x203000, 0xff},
        {STEP_READ, 0x203000, 7},
        {STEP_WRITE, 0x203008, 1},
        {STEP_READ, 0x203008, 0}, /* reserved */
        {STEP_READ, 0x203004, 0}, /* nothing to claim */
        {STEP_END, 0, 0},
    };
    bench_script(&b, "registers", 4, steps);
    uint64_t value;
    assert_false(mem_io_read(b.env.mem, BENCH_GPA, 8, &value));
    assert_false(mem_io_read(b.env.mem, BENCH_GPA, 1, &value));
    assert_false(mem_io_read(b.env.mem, BENCH_GPA + 0x204000, 4, &value));
    bench_close(&b);
}

static void test_lifecycle(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_plic);
    bench_write(&b, priority(10), 4, 1);
    bench_write(&b, enable(S0, 0), 4, 1u << 10);
    input(&b, 10, true);
    assert_true(bench_line(&b, 0, SEI));
    assert_false(bench_line(&b, 0, MEI));
    assert_false(bench_line(&b, 1, SEI));
    assert_int_equal(bench_read(&b, 0x1000, 4), 1u << 10);
    assert_int_equal(bench_read(&b, claim(S0), 4), 10);
    assert_false(bench_line(&b, 0, SEI));
    assert_int_equal(bench_read(&b, 0x1000, 4), 0);
    assert_int_equal(bench_read(&b, claim(S0), 4), 0); /* once only */
    /* The gateway is closed, whatever the wire does. */
    input(&b, 10, false);
    input(&b, 10, true);
    assert_false(bench_line(&b, 0, SEI));
    /* Still asserted at completion: a new request. */
    bench_write(&b, claim(S0), 4, 10);
    assert_true(bench_line(&b, 0, SEI));
    assert_int_equal(bench_read(&b, claim(S0), 4), 10);
    input(&b, 10, false);
    bench_write(&b, claim(S0), 4, 10);
    assert_false(bench_line(&b, 0, SEI));
    /* An accepted request stays though its level falls. */
    input(&b, 10, true);
    input(&b, 10, false);
    assert_true(bench_line(&b, 0, SEI));
    assert_int_equal(bench_read(&b, claim(S0), 4), 10);
    bench_close(&b);
}

static void test_completion_is_checked(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_plic);
    bench_write(&b, priority(3), 4, 1);
    bench_write(&b, enable(M1, 0), 4, 1u << 3);
    input(&b, 3, true);
    assert_int_equal(bench_read(&b, claim(M1), 4), 3);
    static const uint32_t wrong[] = {0, 4, 96, 127, 128, 0xffffffff};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
        bench_write(&b, claim(M1), 4, wrong[i]);
    bench_write(&b, claim(S0), 4, 3); /* not enabled for that context */
    assert_false(bench_line(&b, 1, MEI));
    bench_write(&b, claim(M1), 4, 3);
    assert_true(bench_line(&b, 1, MEI));
    bench_close(&b);
}

static void test_priorities(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_plic);
    static const unsigned sources[] = {5, 33, 64, 95};
    static const unsigned priorities[] = {2, 7, 2, 0};
    for (unsigned i = 0; i < 4; i++) {
        bench_write(&b, priority(sources[i]), 4, priorities[i]);
        input(&b, sources[i], true);
    }
    for (unsigned word = 0; word < 3; word++)
        bench_write(&b, enable(S1, word), 4, 0xffffffff);
    bench_write(&b, threshold(S1), 4, 7);
    assert_false(bench_line(&b, 1, SEI)); /* 7 is not above 7 */
    bench_write(&b, threshold(S1), 4, 6);
    assert_true(bench_line(&b, 1, SEI));
    assert_int_equal(bench_read(&b, claim(S1), 4), 33);
    assert_false(bench_line(&b, 1, SEI));              /* what is left is below the threshold */
    assert_int_equal(bench_read(&b, claim(S1), 4), 5); /* but can be claimed: lowest first */
    assert_int_equal(bench_read(&b, claim(S1), 4), 64);
    assert_int_equal(bench_read(&b, claim(S1), 4), 0); /* priority 0 never interrupts */
    bench_write(&b, threshold(S1), 4, 0);
    bench_write(&b, priority(95), 4, 1);
    assert_true(bench_line(&b, 1, SEI));
    bench_write(&b, enable(S1, 2), 4, 0);
    assert_false(bench_line(&b, 1, SEI));
    bench_close(&b);
}

/* Two harts race for one interrupt: one gets it. */
static void test_two_contexts(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_plic);
    bench_write(&b, priority(1), 4, 1);
    bench_write(&b, enable(S0, 0), 4, 2);
    bench_write(&b, enable(S1, 0), 4, 2);
    input(&b, 1, true);
    assert_true(bench_line(&b, 0, SEI) && bench_line(&b, 1, SEI));
    assert_int_equal(bench_read(&b, claim(S1), 4), 1);
    assert_false(bench_line(&b, 0, SEI) || bench_line(&b, 1, SEI));
    assert_int_equal(bench_read(&b, claim(S0), 4), 0);
    bench_close(&b);
}

static void test_reset(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_plic);
    bench_write(&b, priority(1), 4, 1);
    bench_write(&b, enable(M0, 0), 4, 6);
    bench_write(&b, priority(2), 4, 1);
    input(&b, 1, true);
    input(&b, 2, true);
    input(&b, 2, false);
    assert_true(bench_line(&b, 0, MEI));
    b.device->ops->reset(b.device);
    assert_false(bench_line(&b, 0, MEI));
    assert_int_equal(bench_read(&b, enable(M0, 0), 4), 0);
    assert_int_equal(bench_read(&b, 0x1000, 4), 2); /* the wire that is still up */
    bench_close(&b);
}

static void test_state(void **state)
{
    struct bench b, other;
    (void)state;
    bench_open(&b, &device_plic);
    bench_write(&b, priority(1), 4, 1);
    bench_write(&b, priority(70), 4, 5);
    bench_write(&b, enable(M0, 0), 4, 2);
    bench_write(&b, enable(S1, 2), 4, 1u << 6);
    bench_write(&b, threshold(S1), 4, 4);
    input(&b, 1, true);
    input(&b, 70, true);
    assert_int_equal(bench_read(&b, claim(M0), 4), 1);
    bench_check_state(&b);

    struct state_buffer buffer = {0};
    size_t at = 0;
    state_save(device_plic.state, b.device, &buffer);
    bench_open(&other, &device_plic);
    atomic_store(&other.harts[0].interrupts, UINT64_C(1) << MEI); /* stale */
    assert_true(
        state_restore(device_plic.state, other.device, buffer.data, buffer.size, &at, NULL));
    assert_false(bench_line(&other, 0, MEI));
    assert_true(bench_line(&other, 1, SEI));
    bench_write(&other, claim(M0), 4, 1); /* completes what the saved one claimed */
    assert_true(bench_line(&other, 0, MEI));
    state_buffer_free(&buffer);
    bench_close(&other);
    bench_close(&b);
}

static void test_fdt(void **state)
{
    struct bench b;
    (void)state;
    bench_open(&b, &device_plic);
    void *fdt = bench_fdt(&b);
    const char *path = "/plic@10000000";
    fdt_expect_compatible(fdt, path, "sifive,plic-1.0.0");
    fdt_expect_compatible(fdt, path, "riscv,plic0");
    const uint32_t targets[] = {40, MEI, 40, SEI, 41, MEI, 41, SEI};
    const uint32_t reg[] = {0, 0x10000000, 0, 0x204000};
    fdt_expect_cells(fdt, path, "interrupts-extended", targets, ARRAY_SIZE(targets));
    fdt_expect_cells(fdt, path, "reg", reg, ARRAY_SIZE(reg));
    fdt_expect_cells(fdt, path, "riscv,ndev", (const uint32_t[]){95}, 1);
    fdt_expect_cells(fdt, path, "phandle", (const uint32_t[]){50}, 1);
    free(fdt);
    bench_check_fdt_space(&b);
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_registers),
        cmocka_unit_test(test_lifecycle),
        cmocka_unit_test(test_completion_is_checked),
        cmocka_unit_test(test_priorities),
        cmocka_unit_test(test_two_contexts),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_state),
        cmocka_unit_test(test_fdt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
