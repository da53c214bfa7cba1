/* SPDX-License-Identifier: MIT
 *
 * migrate/delta.h: what the target has is always what the source thinks it has.
 */
#include "support.h"

#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "migrate/delta.h"

enum { PAGE = 4096, PAGES = 8 };

static uint64_t seed = 1;

static uint64_t next(void)
{
    return random_next(&seed);
}

/* In 0 to a few hundred places, one to some words each. */
static void change(uint8_t *page)
{
    uint64_t places = next() % 3 == 0 ? next() % 300 : next() % 20;
    for (uint64_t i = 0; i < places; i++) {
        uint64_t at = next() % PAGE, length = 1 + next() % (next() % 8 == 0 ? 600 : 16);
        for (uint64_t k = at; k < at + length && k < PAGE; k++)
            page[k] = (uint8_t)next();
    }
}

static void both_ends_agree(void **state)
{
    (void)state;
    static uint8_t here[PAGES][PAGE], there[PAGES][PAGE];
    struct delta_cache *cache = delta_cache_new(PAGES, UINT64_C(6) * PAGE);
    uint8_t delta[DELTA_MAX];
    unsigned small = 0;
    assert_non_null(cache);
    for (size_t turn = 0; turn < tier_count(3000, 100000); turn++) {
        uint64_t number = next() % PAGES;
        change(here[number]);
        size_t size = delta_next(cache, number, here[number], delta);
        if (size == SIZE_MAX) {
            memcpy(there[number], here[number], PAGE);
        } else {
            assert_true(size <= DELTA_MAX);
            assert_true(delta_apply(there[number], delta, size));
            small++;
        }
        assert_memory_equal(there[number], here[number], PAGE);
    }
    assert_true(small > 0);
    delta_cache_free(cache);
}

static void the_budget_is_kept(void **state)
{
    (void)state;
    uint8_t page[PAGE] = {1}, delta[DELTA_MAX];
    struct delta_cache *cache = delta_cache_new(PAGES, UINT64_C(3) * PAGE);
    for (uint64_t i = 0; i < PAGES; i++)
        assert_true(delta_next(cache, i, page, delta) == SIZE_MAX);
    for (uint64_t i = 0; i < PAGES; i++)
        assert_true(delta_next(cache, i, page, delta) == (i < 3 ? 0 : SIZE_MAX));
    delta_cache_free(cache);
}

static void what_changed_altogether_is_sent_whole(void **state)
{
    (void)state;
    uint8_t page[PAGE] = {0}, delta[DELTA_MAX];
    struct delta_cache *cache = delta_cache_new(1, PAGE);
    (void)delta_next(cache, 0, page, delta);
    for (unsigned i = 0; i < PAGE; i += 64)
        page[i] = 1; /* 64 words: 64 * 12 bytes */
    assert_int_equal(delta_next(cache, 0, page, delta), 64 * 12);
    memset(page, 2, sizeof(page));
    assert_true(delta_next(cache, 0, page, delta) == SIZE_MAX);
    page[PAGE - 1] = 3; /* its copy is the newest all the same */
    assert_int_equal(delta_next(cache, 0, page, delta), 12);
    assert_true(load_le16(delta) == 511 && load_le16(delta + 2) == 1);
    delta_cache_free(cache);
}

/* A stranger's bytes reach nothing but the page, which lies between two guards. */
static void hostile_deltas_stay_in_their_page(void **state)
{
    (void)state;
    uint8_t *map = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t bytes[64];
    unsigned good = 0;
    assert_true(map != MAP_FAILED);
    assert_int_equal(mprotect(map, PAGE, PROT_NONE), 0);
    assert_int_equal(mprotect(map + 2 * PAGE, PAGE, PROT_NONE), 0);
    for (size_t turn = 0; turn < tier_count(20000, 1000000); turn++) {
        size_t size = next() % sizeof(bytes);
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)(next() % 4 == 0 ? next() : next() % 4);
        good += delta_apply(map + PAGE, bytes, size);
    }
    assert_true(good > 0);
    static const struct {
        uint16_t skip, count;
        bool good;
    } cases[] = {{511, 1, true},     {512, 1, false}, {511, 2, false}, {0, 0, false},
                 {0xffff, 1, false}, {0, 7, true},    {0, 8, false}}; /* 60 bytes follow at most */
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        memset(bytes, 0, sizeof(bytes));
        store_le16(bytes, cases[i].skip);
        store_le16(bytes + 2, cases[i].count);
        size_t size = 4 + (cases[i].count < 7 ? 8 * (size_t)cases[i].count : 56);
        assert_int_equal(delta_apply(map + PAGE, bytes, size), cases[i].good);
        assert_false(delta_apply(map + PAGE, bytes, 3));
    }
    munmap(map, 3 * PAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_ends_agree),
        cmocka_unit_test(the_budget_is_kept),
        cmocka_unit_test(what_changed_altogether_is_sent_whole),
        cmocka_unit_test(hostile_deltas_stay_in_their_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
