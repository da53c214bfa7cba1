/* SPDX-License-Identifier: MIT
 *
 * A translator and another hart that is in the guest and does not get to run: nobody waits for it,
 * and what it may still write without a notice is not missed. The other hart is played.
 */
#include "support.h"

#include "hart.h"
#include "rv_code.h"

#define RAM  UINT64_C(0x80000000)
#define CODE (RAM + 0x1000)
#define CALL (RAM + 0x2000)

struct pair {
    struct test_hart test;
    struct vcpu *other;
};

static int setup(void **state)
{
    struct error *err = NULL;
    struct pair *pair = calloc(1, sizeof(*pair));
    test_hart_init_engine(&pair->test, RAM, 64 * KIB, &engine_dbt);
    dbt_set_hot(&pair->test.hart->vcpu, 1);
    const struct vcpu_setup setup = {
        .index = 1,
        .mem = pair->test.mem,
        .timebase = &pair->test.timebase,
        .log = &pair->test.log,
    };
    pair->other = isa_riscv64.vcpu_new(&setup, &err);
    assert_no_error(err);
    assert_true(engine_dbt.attach(pair->other, &err));
    atomic_store(&pair->other->attention, 0);
    *state = pair;
    return 0;
}

static int teardown(void **state)
{
    struct pair *pair = *state;
    engine_dbt.detach(pair->other);
    isa_riscv64.vcpu_free(pair->other);
    test_hart_destroy(&pair->test);
    free(pair);
    return 0;
}

static void pick(void *opaque, const char *name, uint64_t value)
{
    if (strcmp(name, "blocks-translated") == 0)
        *(uint64_t *)opaque = value;
}

static uint64_t translated(struct pair *pair)
{
    uint64_t value = 0;
    engine_dbt.count(&pair->test.hart->vcpu, pick, &value);
    return value;
}

/* What the function returns after a fence.i. */
static uint64_t fence_and_call(struct pair *pair)
{
    struct test_hart *test = &pair->test;
    const uint32_t call[] = {FENCE_I, JALR(RA, S4, 0), WFI};
    if (test_hart_at(test, CALL)[0] == 0)
        test_hart_put(test, CALL, call, 3);
    test->hart->pc = CALL;
    test->hart->x[S4] = CODE;
    assert_int_equal(test_hart_run(test, 1000), VCPU_EXIT_WAIT);
    return test->hart->x[A0];
}

/* As through a TLB entry that the other hart still has: without a notice. */
static void write_function(struct pair *pair, int value)
{
    test_hart_put32(&pair->test, CODE, ADDI(A0, 0, value));
    test_hart_put32(&pair->test, CODE + 4, JALR(0, RA, 0));
}

static void test_hart_that_has_not_obeyed(void **state)
{
    struct pair *pair = *state;
    write_function(pair, 0);
    atomic_store(&pair->other->in_guest, true);
    for (int value = 1; value < 20; value++) {
        write_function(pair, value);
        assert_int_equal(fence_and_call(pair), value);
    }
    assert_true(atomic_load(&pair->other->attention) & VCPU_ATTENTION_STORES);
}

static void test_hart_that_obeys(void **state)
{
    struct pair *pair = *state;
    write_function(pair, 1);
    atomic_store(&pair->other->in_guest, true);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(fence_and_call(pair), 1);
    /* Its last stores come before it obeys. */
    write_function(pair, 2);
    rv_obey_attention(rv_hart_of(pair->other));
    assert_int_equal(fence_and_call(pair), 2);
    /* From now on a fence.i costs no translation. */
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(fence_and_call(pair), 2);
    uint64_t before = translated(pair);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(fence_and_call(pair), 2);
    assert_int_equal(translated(pair), before);
}

/* More pages than the other hart can be told one by one. */
static void test_many_pages(void **state)
{
    struct pair *pair = *state;
    struct test_hart *test = &pair->test;
    struct rv_hart *other = rv_hart_of(pair->other);
    const unsigned pages = VCPU_WATCHED_PAGES + 2;
    atomic_store(&pair->other->in_guest, true);
    test->hart->x[S4] = CODE;
    for (unsigned i = 0; i < pages; i++) {
        uint64_t page = RAM + 0x4000 + 0x1000 * i, value;
        /* The other hart may store there until it obeys, and then not. */
        assert_true(rv_store_slow(other, page + 0x800, 8, i));
        assert_true(rv_load_slow(other, page + 0x800, 8, &value));
        assert_int_equal(rv_tlb_slot(other->tlb_store, page)->tag, page);
        test_hart_put32(test, page, WFI);
        for (unsigned turn = 0; turn < 2; turn++) { /* the first one is interpreted */
            test->hart->pc = page;
            assert_int_equal(test_hart_run(test, 10), VCPU_EXIT_WAIT);
        }
    }
    rv_obey_attention(other);
    for (unsigned i = 0; i < pages; i++) {
        uint64_t page = RAM + 0x4000 + 0x1000 * i;
        assert_int_not_equal(rv_tlb_slot(other->tlb_store, page)->tag, page);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_hart_that_has_not_obeyed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hart_that_obeys, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_pages, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
