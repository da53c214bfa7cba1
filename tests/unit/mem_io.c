/* SPDX-License-Identifier: MIT
 *
 * mem/mem.h: I/O regions.
 */
#include "support.h"

#include <pthread.h>

#include "base/bits.h"
#include "mem/mem.h"

/* A device that records its last access and answers with all bits set. */
struct probe {
    struct mem_io region;
    uint64_t offset, value;
    unsigned size, reads, writes;
};

static uint64_t probe_read(void *opaque, uint64_t offset, unsigned size)
{
    struct probe *probe = opaque;
    probe->reads++;
    probe->offset = offset;
    probe->size = size;
    return UINT64_C(0xf1e2d3c4b5a69788);
}

static void probe_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct probe *probe = opaque;
    probe->writes++;
    probe->offset = offset;
    probe->size = size;
    probe->value = value;
}

static const struct mem_io_ops any_size = {probe_read, probe_write, 1, 8};
static const struct mem_io_ops words_only = {probe_read, probe_write, 4, 4};

static void make(struct probe *probe, uint64_t gpa, uint64_t size, const struct mem_io_ops *ops)
{
    *probe = (struct probe){
        .region = {.name = "probe", .gpa = gpa, .size = size, .ops = ops, .opaque = probe}};
}

static bool add(struct mem_space *space, struct probe *probe, uint64_t gpa, uint64_t size)
{
    make(probe, gpa, size, &any_size);
    return mem_io_add(space, &probe->region);
}

static void accesses_reach_their_region(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct probe a, b;
    assert_true(add(space, &b, 0x2000, 0x100));
    assert_true(add(space, &a, 0x1000, 0x10));
    uint64_t value = 0;
    assert_true(mem_io_read(space, 0x1008, 8, &value));
    assert_int_equal(value, UINT64_C(0xf1e2d3c4b5a69788));
    assert_int_equal(a.offset, 8);
    assert_int_equal(a.size, 8);
    /* A device cannot answer with more bits than were asked for, nor see more than given. */
    static const uint64_t expected[] = {0x88, 0x9788, 0xb5a69788};
    for (unsigned i = 0; i < 3; i++) {
        assert_true(mem_io_read(space, 0x2010, 1U << i, &value));
        assert_int_equal(value, expected[i]);
        assert_true(mem_io_write(space, 0x20fc, 1U << i, UINT64_C(0xf1e2d3c4b5a69788)));
        assert_int_equal(b.value, expected[i]);
        assert_int_equal(b.offset, 0xfc);
        assert_int_equal(b.size, 1U << i);
    }
    assert_int_equal(a.reads, 1);
    assert_int_equal(b.reads, 3);
    assert_int_equal(b.writes, 3);
    mem_space_free(space);
    assert_false(a.region.mapped);
}

static void wrong_accesses_fail_and_reach_nobody(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct probe any, words, odd, last;
    assert_true(add(space, &any, 0x1000, 0x10));
    make(&words, 0x2000, 0x10, &words_only);
    assert_true(mem_io_add(space, &words.region));
    assert_true(add(space, &odd, 0x3000, 0x6));
    assert_true(add(space, &last, UINT64_MAX - 7, 8));
    static const struct {
        uint64_t gpa;
        unsigned size;
        bool works;
    } cases[] = {
        {0x0fff, 1, false}, {0x1000, 1, true},         {0x100f, 1, true},
        {0x1010, 1, false}, {0x1001, 2, false},        {0x1004, 8, false},
        {0x1002, 4, false}, {0x1008, 8, true},         {0x1000, 0, false},
        {0x1000, 3, false}, {0x1000, 16, false},       {0x1000, 0x80000000, false},
        {0x2000, 4, true},  {0x2000, 2, false},        {0x2000, 8, false},
        {0x2000, 1, false}, {0x3004, 2, true},         {0x3004, 4, false},
        {0x3000, 8, false}, {UINT64_MAX, 1, true},     {UINT64_MAX, 2, false},
        {0, 8, false},      {UINT64_MAX - 7, 8, true},
    };
    unsigned working = 0;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t value = 42;
        working += cases[i].works;
        if (mem_io_read(space, cases[i].gpa, cases[i].size, &value) != cases[i].works ||
            mem_io_write(space, cases[i].gpa, cases[i].size, 1) != cases[i].works)
            fail_msg("%u bytes at %#llx", cases[i].size, (unsigned long long)cases[i].gpa);
        if (!cases[i].works)
            assert_int_equal(value, 42);
    }
    assert_int_equal(any.reads + words.reads + odd.reads + last.reads, working);
    assert_int_equal(any.writes + words.writes + odd.writes + last.writes, working);
    mem_space_free(space);
}

static void overlaps_wraps_and_empty_ranges_are_refused(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct probe kept, probe;
    assert_true(add(space, &kept, 0x1000, 0x1000));
    static const struct {
        uint64_t gpa, size;
    } refused[] = {
        {0x1000, 0x1000}, {0x1fff, 1},          {0x0fff, 2},     {0, 0x10000},    {0x1800, 0x10},
        {0x5000, 0},      {0x5000, UINT64_MAX}, {UINT64_MAX, 2}, {0, UINT64_MAX},
    };
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
        assert_false(add(space, &probe, refused[i].gpa, refused[i].size));
        assert_false(probe.region.mapped);
        mem_io_remove(space, &probe.region); /* of what is not there: nothing happens */
    }
    struct probe before, after;
    assert_true(add(space, &before, 0xfff, 1));
    assert_true(add(space, &after, 0x2000, 1));
    uint64_t value;
    assert_true(mem_io_read(space, 0x1ff8, 8, &value));
    assert_int_equal(kept.reads, 1);
    mem_space_free(space);
}

static void ram_wins(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct error *err = NULL;
    assert_non_null(mem_add_ram(space, "ram", 0x10000, 0x1000, MEM_BACKEND_ANONYMOUS, -1, &err));
    struct probe probe;
    assert_true(add(space, &probe, 0xf000, 0x3000));
    uint64_t value;
    assert_true(mem_io_read(space, 0xfff8, 8, &value));
    assert_false(mem_io_read(space, 0x10000, 8, &value));
    assert_false(mem_io_write(space, 0x10ff8, 8, 1));
    assert_true(mem_io_read(space, 0x11000, 8, &value));
    assert_int_equal(probe.reads, 2);
    assert_int_equal(probe.writes, 0);
    assert_false(mem_read(space, 0xfff8, &value, 8)); /* DMA does not reach devices */
    mem_space_free(space);
}

/* Against a model with one byte per address: which region, if any, owns it. */
static void random_maps_match_a_model(void **state)
{
    (void)state;
    enum { REGIONS = 24, SPAN = 256 };
    struct mem_space *space = mem_space_new();
    struct probe probes[REGIONS];
    int owner[SPAN];
    for (int i = 0; i < SPAN; i++)
        owner[i] = -1;
    memset(probes, 0, sizeof(probes));
    uint64_t seed = 11;
    unsigned added = 0, refused = 0;
    for (unsigned long i = 0; i < tier_count(20000, 500000); i++) {
        int which = (int)(random_next(&seed) % REGIONS);
        struct probe *probe = &probes[which];
        if (probe->region.mapped) {
            mem_io_remove(space, &probe->region);
            for (int at = 0; at < SPAN; at++)
                owner[at] = owner[at] == which ? -1 : owner[at];
        } else {
            uint64_t gpa = random_next(&seed) % SPAN;
            uint64_t size = 1 + random_next(&seed) % 24;
            size = gpa + size > SPAN ? SPAN - gpa : size;
            bool is_free = true;
            for (uint64_t at = gpa; at < gpa + size; at++)
                is_free = is_free && owner[at] < 0;
            assert_int_equal(add(space, probe, gpa, size), is_free);
            for (uint64_t at = gpa; is_free && at < gpa + size; at++)
                owner[at] = which;
            added += is_free;
            refused += !is_free;
        }
        uint64_t at = random_next(&seed) % SPAN, value;
        bool works = mem_io_read(space, at, 1, &value);
        assert_int_equal(works, owner[at] >= 0);
        if (works)
            assert_int_equal(probes[owner[at]].offset + probes[owner[at]].region.gpa, at);
    }
    assert_true(added > 1000 && refused > 1000);
    mem_space_free(space);
}

/* A write that moves its own region, as one to a PCI BAR does. */
struct mover {
    struct mem_io region;
    struct mem_space *space;
};

static uint64_t mover_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque;
    (void)size;
    return offset;
}

static void mover_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct mover *mover = opaque;
    (void)offset;
    (void)size;
    mem_io_remove(mover->space, &mover->region);
    mover->region.gpa = value;
    mem_io_add(mover->space, &mover->region);
}

static const struct mem_io_ops mover_ops = {mover_read, mover_write, 1, 8};

static void a_callback_may_move_its_region(void **state)
{
    (void)state;
    struct mover mover = {.space = mem_space_new()};
    mover.region = (struct mem_io){
        .name = "mover", .gpa = 0x1000, .size = 16, .ops = &mover_ops, .opaque = &mover};
    assert_true(mem_io_add(mover.space, &mover.region));
    assert_true(mem_io_write(mover.space, 0x1000, 8, 0x5000));
    uint64_t value;
    assert_false(mem_io_read(mover.space, 0x1008, 8, &value));
    assert_true(mem_io_read(mover.space, 0x5008, 8, &value));
    assert_int_equal(value, 8);
    mem_space_free(mover.space);
}

static void *access_much(void *opaque)
{
    struct mover *mover = opaque;
    for (unsigned i = 0; i < 20000; i++) {
        uint64_t value;
        uint64_t gpa = i % 2 ? 0x1008 : 0x5008;
        /* It is at one place or the other, or nowhere for a moment. */
        if (mem_io_read(mover->space, gpa, 8, &value))
            assert_int_equal(value, 8);
    }
    return NULL;
}

static void regions_move_while_others_look(void **state)
{
    (void)state;
    struct mover mover = {.space = mem_space_new()};
    mover.region = (struct mem_io){
        .name = "mover", .gpa = 0x1000, .size = 16, .ops = &mover_ops, .opaque = &mover};
    assert_true(mem_io_add(mover.space, &mover.region));
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, access_much, &mover), 0);
    for (unsigned i = 0; i < 2000; i++) {
        bool moved = mem_io_write(mover.space, i % 2 ? 0x5000 : 0x1000, 8, i % 2 ? 0x1000 : 0x5000);
        assert_true(moved);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    mem_space_free(mover.space);
}

static uint64_t answer_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)size;
    return (uint64_t)(uintptr_t)opaque + offset;
}

static void answer_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    (void)opaque, (void)offset, (void)value, (void)size;
}

/* What answers at gpa; ones: nothing does. */
static uint64_t answer_at(struct mem_space *space, uint64_t gpa)
{
    uint64_t value;
    bool found = mem_io_read(space, gpa, 8, &value);
    assert_int_equal(mem_io_at(space, gpa), found);
    assert_int_equal(mem_io_write(space, gpa, 8, 0), found);
    return found ? value : UINT64_MAX;
}

static void a_background_answers_where_no_other_does(void **state)
{
    static const struct mem_io_ops ops = {answer_read, answer_write, 8, 8};
    struct mem_io front = {.gpa = 0x2000, .size = 0x1000, .ops = &ops, .opaque = (void *)0xf0000};
    struct mem_io back = {.gpa = 0x1000, .size = 0x3000, .ops = &ops, .opaque = (void *)0xb0000};
    struct mem_io second = {.gpa = 0x3ff8, .size = 0x1000, .ops = &ops, .opaque = (void *)0xc0000};
    struct mem_io third = {.gpa = 0x9000, .size = 0x1000, .ops = &ops};
    struct mem_space *space = mem_space_new();
    (void)state;
    assert_true(mem_io_add_background(space, &back));
    assert_false(mem_io_add_background(space, &second)); /* it would overlap */
    second.gpa = 0x4000;
    assert_true(mem_io_add_background(space, &second));
    assert_false(mem_io_add_background(space, &third)); /* one too many */
    assert_int_equal(answer_at(space, 0x2000), 0xb1000);
    assert_true(mem_io_add(space, &front));
    assert_int_equal(answer_at(space, 0xff8), UINT64_MAX);
    assert_int_equal(answer_at(space, 0x1000), 0xb0000);
    assert_int_equal(answer_at(space, 0x1ff8), 0xb0ff8);
    assert_int_equal(answer_at(space, 0x2000), 0xf0000);
    assert_int_equal(answer_at(space, 0x3000), 0xb2000);
    assert_int_equal(answer_at(space, 0x4ff8), 0xc0ff8);
    assert_int_equal(answer_at(space, 0x5000), UINT64_MAX);
    mem_io_remove(space, &front);
    assert_int_equal(answer_at(space, 0x2000), 0xb1000);
    mem_io_remove(space, &back);
    assert_int_equal(answer_at(space, 0x2000), UINT64_MAX);
    assert_int_equal(answer_at(space, 0x4000), 0xc0000);
    mem_space_free(space);
    assert_false(second.mapped || back.mapped || front.mapped);
}

/* ---- doorbells ---- */

struct hears {
    struct mem_listener listener;
    uint64_t at[4];
    unsigned count, calls;
};

static void on_doorbell(void *opaque, uint64_t gpa, const struct mem_doorbell *doorbell, bool on)
{
    struct hears *hears = opaque;
    hears->calls++;
    if (on) {
        hears->at[hears->count++] = gpa + doorbell->offset;
        return;
    }
    assert_true(hears->count > 0 && hears->at[0] == gpa + doorbell->offset);
    memmove(hears->at, hears->at + 1, sizeof(hears->at) - sizeof(hears->at[0]));
    hears->count--;
}

static void doorbells_are_where_their_region_is(void **state)
{
    static const struct mem_doorbell doorbells[] = {{.offset = 0x10, .fd = -1},
                                                    {.offset = 0x20, .size = 4, .value = 1, .fd = -1}};
    struct hears hears = {.listener = {.doorbell = on_doorbell, .opaque = &hears}};
    struct mem_listener deaf = {.opaque = &hears};
    struct mem_space *space = mem_space_new();
    struct probe probe, in_the_way;
    (void)state;
    mem_listen(space, &deaf);
    assert_false(mem_takes_doorbells(space));
    mem_listen(space, &hears.listener);
    assert_true(mem_takes_doorbells(space));
    assert_true(add(space, &in_the_way, 0x5000, 0x100));
    assert_int_equal(hears.calls, 0);
    make(&probe, 0x1000, 0x100, &any_size);
    probe.region.doorbells = doorbells;
    probe.region.doorbell_count = 2;
    for (uint64_t gpa = 0x1000; gpa < 0x3000; gpa += 0x1000) {
        probe.region.gpa = gpa;
        assert_true(mem_io_add(space, &probe.region));
        assert_int_equal(hears.count, 2);
        assert_true(hears.at[0] == gpa + 0x10 && hears.at[1] == gpa + 0x20);
        assert_true(mem_io_write(space, gpa + 0x10, 4, 7)); /* what the engine did not take */
        assert_int_equal(probe.value, 7);
        mem_io_remove(space, &probe.region);
        assert_int_equal(hears.count, 0);
        mem_io_remove(space, &probe.region);
    }
    probe.region.gpa = 0x5080;
    assert_false(mem_io_add(space, &probe.region));
    assert_int_equal(hears.calls, 8);
    mem_unlisten(space, &hears.listener);
    assert_false(mem_takes_doorbells(space));
    mem_space_free(space);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accesses_reach_their_region),
        cmocka_unit_test(wrong_accesses_fail_and_reach_nobody),
        cmocka_unit_test(overlaps_wraps_and_empty_ranges_are_refused),
        cmocka_unit_test(ram_wins),
        cmocka_unit_test(random_maps_match_a_model),
        cmocka_unit_test(a_callback_may_move_its_region),
        cmocka_unit_test(regions_move_while_others_look),
        cmocka_unit_test(a_background_answers_where_no_other_does),
        cmocka_unit_test(doorbells_are_where_their_region_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
