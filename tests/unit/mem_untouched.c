/* SPDX-License-Identifier: MIT
 *
 * mem/mem.h: pages that nobody has touched.
 */
#include "support.h"

#include <fcntl.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "mem/mem.h"

#define PAGE MEM_PAGE_SIZE

enum { LOOKED_AT = 16 * MIB / MEM_PAGE_SIZE, HUGE_PAGES = 2 * MIB / MEM_PAGE_SIZE };

static void look_for_untouched(struct mem_space *space, const struct mem_ram *ram,
                               uint64_t bitmap[LOOKED_AT / 64])
{
    memset(bitmap, 0xff, LOOKED_AT / 8);
    mem_drop_untouched(space, ram, bitmap);
}

static bool has(const uint64_t *bitmap, uint64_t page)
{
    return (bitmap[page / 64] >> page % 64 & 1) != 0;
}

static unsigned count_in(const uint64_t *bitmap)
{
    unsigned count = 0;
    for (size_t i = 0; i < LOOKED_AT / 64; i++)
        count += (unsigned)__builtin_popcountll(bitmap[i]);
    return count;
}

static struct mem_ram *add(struct mem_space *space, uint64_t gpa)
{
    struct error *err = NULL;
    struct mem_ram *ram = mem_add_ram(space, "ram", gpa, 16 * MIB, MEM_BACKEND_ANONYMOUS, -1, &err);
    assert_no_error(err);
    return ram;
}

/* NULL: the host keeps no such account. */
static struct mem_space *with_pagemap(void)
{
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    struct mem_space *space = mem_space_new();
    mem_set_pagemap(space, fd);
    return space;
}

/* Huge pages make more of it touched than was, never less. */
static void only_untouched_pages_are_dropped(void **state)
{
    (void)state;
    uint64_t bitmap[LOOKED_AT / 64];
    struct mem_space *space = with_pagemap();
    if (space == NULL)
        skip();
    struct mem_ram *ram = add(space, 0x80000000);
    look_for_untouched(space, ram, bitmap);
    assert_int_equal(count_in(bitmap), 0);
    static const unsigned touched[] = {0, 1, 63, 64, 511, 3 * HUGE_PAGES + 100, LOOKED_AT - 1};
    for (size_t i = 0; i < ARRAY_SIZE(touched); i++)
        ram->host[touched[i] * PAGE + 8 * i] = 1;
    look_for_untouched(space, ram, bitmap);
    for (size_t i = 0; i < ARRAY_SIZE(touched); i++)
        assert_true(has(bitmap, touched[i]));
    assert_true(count_in(bitmap) <= 3 * HUGE_PAGES);
    for (unsigned page = HUGE_PAGES; page < 3 * HUGE_PAGES; page++)
        assert_false(has(bitmap, page));
    /* Given back, it is as if it never had been. */
    assert_true(mem_discard(space, ram->gpa, ram->size));
    look_for_untouched(space, ram, bitmap);
    assert_int_equal(count_in(bitmap), 0);
    mem_space_free(space);
}

/* What was not asked for is not put back. */
static void pages_that_nobody_asks_about_stay_out(void **state)
{
    (void)state;
    uint64_t bitmap[LOOKED_AT / 64] = {0};
    struct mem_space *space = with_pagemap();
    if (space == NULL)
        skip();
    struct mem_ram *ram = add(space, 0x80000000);
    memset(ram->host, 1, 16 * MIB);
    bitmap[3] = 5;
    mem_drop_untouched(space, ram, bitmap);
    assert_int_equal(count_in(bitmap), 2);
    assert_int_equal(bitmap[3], 5);
    mem_space_free(space);
}

/* Page tables say nothing of these: others' memory, files, what is still to come. */
static void what_may_have_contents_elsewhere_is_kept(void **state)
{
    (void)state;
    struct error *err = NULL;
    uint64_t bitmap[LOOKED_AT / 64];
    struct mem_space *space = with_pagemap();
    if (space == NULL)
        skip();
    struct mem_ram *shared = mem_add_ram(space, "shared", 0, 16 * MIB, MEM_BACKEND_MEMFD, -1, &err);
    assert_no_error(err);
    look_for_untouched(space, shared, bitmap);
    assert_int_equal(count_in(bitmap), LOOKED_AT);

    struct mem_ram *mapped = add(space, 0x40000000);
    assert_true(mem_map_file(mapped, 4 * MIB, PAGE, shared->fd, 0, &err));
    look_for_untouched(space, mapped, bitmap);
    assert_int_equal(count_in(bitmap), LOOKED_AT);

    struct mem_ram *late = add(space, 0x80000000);
    mem_set_absent(late, 0, PAGE);
    look_for_untouched(space, late, bitmap);
    assert_int_equal(count_in(bitmap), LOOKED_AT);
    mem_space_free(space);
}

static void without_the_hosts_account_all_are_kept(void **state)
{
    (void)state;
    uint64_t bitmap[LOOKED_AT / 64];
    struct mem_space *space = mem_space_new();
    struct mem_ram *ram = add(space, 0x80000000);
    look_for_untouched(space, ram, bitmap);
    assert_int_equal(count_in(bitmap), LOOKED_AT);
    /* A file that is no such account knows of nothing. */
    mem_set_pagemap(space, memfd_create("no account", MFD_CLOEXEC));
    look_for_untouched(space, ram, bitmap);
    assert_int_equal(count_in(bitmap), LOOKED_AT);
    mem_space_free(space);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_untouched_pages_are_dropped),
        cmocka_unit_test(pages_that_nobody_asks_about_stay_out),
        cmocka_unit_test(what_may_have_contents_elsewhere_is_kept),
        cmocka_unit_test(without_the_hosts_account_all_are_kept),
    };
    return cmocka_run_group_tests_name("mem_untouched", tests, NULL, NULL);
}
