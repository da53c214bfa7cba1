/* SPDX-License-Identifier: MIT
 *
 * vcpu_attention_sync(): what a requester took back is not used once it has returned.
 *
 * Threads play vCPUs. Each runs "blocks" that read a shared page number through a cached
 * copy, as a TLB would, and then touch that page's counter. The requester moves everybody to
 * another page and checks, after the sync, that nobody touches the old one any more.
 */
#include "rv_fixture.h"

#include <pthread.h>
#include <sched.h>

#define VCPUS 3
#define PAGES 2

struct world {
    struct rv_hart *harts[VCPUS];
    struct vcpu *vcpus[VCPUS];
    _Atomic unsigned page;           /* what a fresh translation gives */
    _Atomic uint64_t touched[PAGES]; /* by anybody */
    _Atomic bool stop;
};

struct player {
    struct world *world;
    unsigned index;
    bool requests; /* asks the others for syncs from the middle of its blocks */
};

/* One run(): the engine's protocol, with short stays so that entries and exits race too. */
static void run(struct player *player, uint64_t *seed)
{
    struct world *w = player->world;
    struct vcpu *vcpu = w->vcpus[player->index];
    struct rv_hart *hart = w->harts[player->index];
    atomic_store(&vcpu->in_guest, true);
    unsigned cached = 0;
    uint64_t generation = UINT64_MAX;
    for (uint64_t blocks = random_next(seed) % 64; blocks > 0; blocks--) {
        if (atomic_load(&vcpu->attention) != 0)
            rv_obey_attention(hart);
        for (unsigned insn = 0; insn < 4; insn++) {
            if (generation != hart->tlb_generation) {
                generation = hart->tlb_generation;
                cached = atomic_load_explicit(&w->page, memory_order_relaxed);
            }
            atomic_fetch_add_explicit(&w->touched[cached], 1, memory_order_relaxed);
        }
        if (player->requests && random_next(seed) % 256 == 0)
            vcpu_attention_sync(vcpu, w->vcpus, VCPUS, VCPU_ATTENTION_TLB);
    }
    atomic_store(&vcpu->in_guest, false);
}

static void *play(void *opaque)
{
    struct player *player = opaque;
    uint64_t seed = player->index + 1;
    while (!atomic_load(&player->world->stop)) {
        run(player, &seed);
        if (random_next(&seed) % 16 == 0)
            sched_yield();
    }
    return NULL;
}

static void contest(struct fixture *f, bool requests)
{
    struct world w = {.stop = false};
    struct player players[VCPUS];
    pthread_t threads[VCPUS];
    for (unsigned i = 0; i < VCPUS; i++) {
        w.harts[i] = fixture_hart(f, i);
        w.harts[i]->vcpu.wake = NULL;
        w.vcpus[i] = &w.harts[i]->vcpu;
        players[i] = (struct player){&w, i, requests};
    }
    for (unsigned i = 0; i < VCPUS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, play, &players[i]), 0);
    unsigned long late = 0;
    /* On a busy host it may take them long to begin. */
    for (unsigned long round = 0; round < tier_count(300, 20000) || atomic_load(&w.touched[0]) == 0 ||
                                  atomic_load(&w.touched[1]) == 0;
         round++) {
        unsigned old = atomic_load(&w.page);
        atomic_store(&w.page, 1 - old);
        vcpu_attention_sync(NULL, w.vcpus, VCPUS, VCPU_ATTENTION_TLB);
        uint64_t before = atomic_load(&w.touched[old]);
        sched_yield();
        late += atomic_load(&w.touched[old]) - before;
    }
    atomic_store(&w.stop, true);
    for (unsigned i = 0; i < VCPUS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(late, 0);
    for (unsigned i = 0; i < VCPUS; i++)
        isa_riscv64.vcpu_free(w.vcpus[i]);
}

static void nobody_acts_on_the_old(void **state)
{
    contest(*state, false);
}

/* vCPUs that ask each other from inside their blocks neither deadlock nor weaken it. */
static void vcpus_ask_each_other(void **state)
{
    contest(*state, true);
}

static void who_is_outside_is_not_waited_for(void **state)
{
    struct fixture *f = *state;
    struct vcpu *vcpu = &f->hart->vcpu;
    vcpu_attention_sync(NULL, &vcpu, 1, VCPU_ATTENTION_TLB | VCPU_ATTENTION_FENCE_I);
    assert_int_equal(atomic_load(&vcpu->attention),
                     VCPU_ATTENTION_TLB | VCPU_ATTENTION_FENCE_I); /* obeyed on entry */
    assert_int_equal(f->wakes, 0);
    /* A vCPU that asks itself obeys at once, and only these. */
    uint64_t epoch = f->hart->fence_i_epoch, generation = f->hart->tlb_generation;
    atomic_store(&vcpu->attention, (uint32_t)VCPU_ATTENTION_IRQ);
    atomic_store(&vcpu->in_guest, true);
    vcpu_attention_sync(vcpu, &vcpu, 1, VCPU_ATTENTION_TLB | VCPU_ATTENTION_FENCE_I);
    assert_int_equal(atomic_load(&vcpu->attention), VCPU_ATTENTION_IRQ);
    assert_int_equal(f->hart->fence_i_epoch, epoch + 1);
    assert_int_equal(f->hart->tlb_generation, generation + 1);
    atomic_store(&vcpu->in_guest, false);
}

static void lines_and_kicks_wake(void **state)
{
    struct fixture *f = *state;
    struct vcpu *vcpu = &f->hart->vcpu;
    vcpu_set_interrupt(vcpu, RV_IRQ_MEI, true);
    assert_int_equal(f->wakes, 1);
    vcpu_set_interrupt(vcpu, RV_IRQ_MEI, true); /* no change */
    assert_int_equal(f->wakes, 1);
    vcpu_set_interrupt(vcpu, RV_IRQ_MEI, false);
    assert_int_equal(f->wakes, 1);
    assert_int_equal(atomic_load(&vcpu->interrupts), 0);
    vcpu_kick(vcpu);
    assert_int_equal(f->wakes, 2);
    assert_int_equal(atomic_load(&vcpu->attention), VCPU_ATTENTION_IRQ | VCPU_ATTENTION_KICK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(nobody_acts_on_the_old),
        FIXTURE_TEST(vcpus_ask_each_other),
        FIXTURE_TEST(who_is_outside_is_not_waited_for),
        FIXTURE_TEST(lines_and_kicks_wake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
