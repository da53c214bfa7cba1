/* SPDX-License-Identifier: MIT
 *
 * Several harts on threads of their own: atomics lose nothing, and requests from other threads
 * (kick, vcpu_attention_sync) get through to a hart that runs a loop of one instruction.
 */
#include "support.h"

#include <pthread.h>
#include <sched.h>

#include "hart.h"

#define RAM     UINT64_C(0x80000000)
#define COUNTER (RAM + 0x2000)
#define HARTS   4
#define TURNS   20000

static const uint32_t increment[] = {
    0x1005a62f, /* 1: lr.w a2, (a1) */
    0x00160613, /* addi a2, a2, 1 */
    0x18c5a6af, /* sc.w a3, a2, (a1) */
    0xfe069ae3, /* bnez a3, 1b */
    0x00858713, /* addi a4, a1, 8 */
    0x00100793, /* li a5, 1 */
    0x00f7302f, /* amoadd.d zero, a5, (a4) */
    0xfff50513, /* addi a0, a0, -1 */
    0xfe0510e3, /* bnez a0, 1b */
    0x10500073, /* wfi */
};

/* The first hart is the fixture's own; the others share its memory. */
struct cluster {
    struct test_hart test;
    struct vcpu *vcpus[HARTS];
    enum vcpu_exit exits[HARTS];
};

static void cluster_init(struct cluster *cluster)
{
    test_hart_init(&cluster->test, RAM, 64 * KIB);
    cluster->vcpus[0] = &cluster->test.hart->vcpu;
    for (unsigned i = 1; i < HARTS; i++) {
        struct error *err = NULL;
        struct vcpu_setup setup = {
            .index = i,
            .mem = cluster->test.mem,
            .timebase = &cluster->test.timebase,
            .log = &cluster->test.log,
        };
        cluster->vcpus[i] = isa_riscv64.vcpu_new(&setup, &err);
        assert_no_error(err);
        assert_true(engine_interp.attach(cluster->vcpus[i], &err));
    }
}

static void cluster_destroy(struct cluster *cluster)
{
    for (unsigned i = 1; i < HARTS; i++) {
        engine_interp.detach(cluster->vcpus[i]);
        isa_riscv64.vcpu_free(cluster->vcpus[i]);
    }
    test_hart_destroy(&cluster->test);
}

static void *run_thread(void *opaque)
{
    struct vcpu *vcpu = opaque;
    enum vcpu_exit exit = engine_interp.run(vcpu, UINT64_MAX);
    return (void *)(uintptr_t)exit;
}

static void start_all(struct cluster *cluster, pthread_t *threads)
{
    for (unsigned i = 0; i < HARTS; i++) {
        struct rv_hart *hart = rv_hart_of(cluster->vcpus[i]);
        hart->pc = RAM;
        hart->x[10] = TURNS;
        hart->x[11] = COUNTER;
        assert_int_equal(pthread_create(&threads[i], NULL, run_thread, cluster->vcpus[i]), 0);
    }
}

static void join_all(struct cluster *cluster, pthread_t *threads)
{
    for (unsigned i = 0; i < HARTS; i++) {
        void *result;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        cluster->exits[i] = (enum vcpu_exit)(uintptr_t)result;
    }
}

static void test_atomics(void **state)
{
    (void)state;
    struct cluster cluster;
    pthread_t threads[HARTS];
    cluster_init(&cluster);
    test_hart_put(&cluster.test, RAM, increment, ARRAY_SIZE(increment));
    start_all(&cluster, threads);
    join_all(&cluster, threads);
    for (unsigned i = 0; i < HARTS; i++)
        assert_int_equal(cluster.exits[i], VCPU_EXIT_WAIT);
    assert_int_equal(load_le64(test_hart_at(&cluster.test, COUNTER)), HARTS * TURNS);
    assert_int_equal(load_le64(test_hart_at(&cluster.test, COUNTER + 8)), HARTS * TURNS);
    cluster_destroy(&cluster);
}

/* Every round changes the code under harts that run it and fences them; a hart that has been
 * fenced never runs the old code again. */
static void test_requests(void **state)
{
    (void)state;
    struct cluster cluster;
    pthread_t threads[HARTS];
    cluster_init(&cluster);
    struct test_hart *test = &cluster.test;
    _Atomic uint32_t *code = (_Atomic uint32_t *)(void *)test_hart_at(test, RAM);
    test_hart_put32(test, RAM, 0x00000593);     /* 1: li a1, 0 */
    test_hart_put32(test, RAM + 4, 0x00b6b023); /* sd a1, 0(a3) */
    test_hart_put32(test, RAM + 8, 0xff9ff06f); /* j 1b */
    for (unsigned i = 0; i < HARTS; i++)
        rv_hart_of(cluster.vcpus[i])->x[13] = COUNTER + 64 * i;
    start_all(&cluster, threads);
    for (uint32_t round = 1; round <= 50; round++) {
        atomic_store(code, 0x00000593 | round << 20);
        vcpu_attention_sync(NULL, cluster.vcpus, HARTS,
                            VCPU_ATTENTION_FENCE_I | VCPU_ATTENTION_TLB);
        /* Whoever is in the guest has obeyed. Two turns of the loop, and the store shows. */
        for (unsigned i = 0; i < HARTS; i++) {
            _Atomic uint64_t *seen =
                (_Atomic uint64_t *)(void *)test_hart_at(test, COUNTER + 64 * i);
            while (atomic_load(seen) != round)
                sched_yield();
        }
    }
    for (unsigned i = 0; i < HARTS; i++)
        vcpu_kick(cluster.vcpus[i]);
    join_all(&cluster, threads);
    for (unsigned i = 0; i < HARTS; i++) {
        assert_int_equal(cluster.exits[i], VCPU_EXIT_KICK);
        assert_int_equal(load_le64(test_hart_at(test, COUNTER + 64 * i)), 50);
    }
    cluster_destroy(&cluster);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_atomics),
        cmocka_unit_test(test_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
