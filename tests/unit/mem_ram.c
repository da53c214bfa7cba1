/* SPDX-License-Identifier: MIT
 *
 * mem/mem.h: RAM regions, DMA, page flags.
 */
#include "support.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "mem/mem.h"

#define PAGE MEM_PAGE_SIZE

static struct mem_ram *add(struct mem_space *space, uint64_t gpa, uint64_t size)
{
    struct error *err = NULL;
    struct mem_ram *ram = mem_add_ram(space, "ram", gpa, size, MEM_BACKEND_ANONYMOUS, -1, &err);
    assert_no_error(err);
    assert_non_null(ram);
    return ram;
}

static void refuse(struct mem_space *space, uint64_t gpa, uint64_t size, const char *said)
{
    struct error *err = NULL;
    assert_null(mem_add_ram(space, "bad", gpa, size, MEM_BACKEND_ANONYMOUS, -1, &err));
    assert_non_null(err);
    if (!strstr(error_message(err), said))
        fail_msg("'%s' does not mention '%s'", error_message(err), said);
    error_free(err);
}

static void regions_are_found_by_address(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct mem_ram *high = add(space, 0x80000000, 4 * MIB + PAGE);
    struct mem_ram *low = add(space, 0x1000, PAGE);
    struct mem_ram *last = add(space, UINT64_MAX - (2 * PAGE - 1), 2 * PAGE);
    assert_int_equal(mem_ram_count(space), 3);
    assert_ptr_equal(mem_ram_at(space, 0), low);
    assert_ptr_equal(mem_ram_at(space, 1), high);
    assert_ptr_equal(mem_ram_at(space, 2), last);
    assert_null(mem_ram_find(space, 0xfff));
    assert_ptr_equal(mem_ram_find(space, 0x1000), low);
    assert_ptr_equal(mem_ram_find(space, 0x1fff), low);
    assert_null(mem_ram_find(space, 0x2000));
    assert_null(mem_ram_find(space, 0x7fffffff));
    assert_ptr_equal(mem_ram_find(space, 0x80000000), high);
    assert_ptr_equal(mem_ram_find(space, 0x80400fff), high);
    assert_null(mem_ram_find(space, 0x80401000));
    assert_ptr_equal(mem_ram_find(space, UINT64_MAX), last);
    assert_int_equal((uintptr_t)high->host % (2 * MIB), 0);
    mem_space_free(space);
    mem_space_free(NULL);
}

static void impossible_regions_are_refused(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    add(space, 0x10000, 4 * PAGE);
    refuse(space, 0x20000, 0, "empty");
    refuse(space, 0x20001, PAGE, "whole pages");
    refuse(space, 0x20000, PAGE + 1, "whole pages");
    refuse(space, UINT64_MAX - (PAGE - 1), 2 * PAGE, "whole pages"); /* wraps */
    refuse(space, 0x20000, UINT64_MAX & ~(PAGE - 1), "too large");
    refuse(space, 0x10000, PAGE, "overlaps");
    refuse(space, 0x13000, PAGE, "overlaps");
    refuse(space, 0xf000, 2 * PAGE, "overlaps");
    refuse(space, 0xf000, 16 * PAGE, "overlaps");
    refuse(space, UINT64_C(1) << 50, UINT64_C(1) << 46, "Give the guest less memory");
    add(space, 0xf000, PAGE); /* neighbours do not overlap */
    add(space, 0x14000, PAGE);
    for (unsigned i = 3; i < 16; i++)
        add(space, 0x100000 + i * PAGE, PAGE);
    refuse(space, 0x20000, PAGE, "at most 16");
    assert_int_equal(mem_ram_count(space), 16);
    mem_space_free(space);
}

static void memory_is_zero_and_writable_to_the_last_byte(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct mem_ram *ram = add(space, 0, 2 * MIB + PAGE);
    for (uint64_t i = 0; i < ram->size; i++)
        assert_int_equal(ram->host[i], 0);
    memset(ram->host, 0xff, (size_t)ram->size);
    mem_space_free(space);
}

/* A write through the guard must fault; it is tried in a child, by asking the kernel. */
static void both_ends_are_guarded(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct mem_ram *ram = add(space, 0x80000000, 64 * PAGE);
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    /* write(2) reads the memory and says EFAULT instead of a signal. */
    assert_int_equal(write(ends[1], ram->host, 1), 1);
    assert_int_equal(write(ends[1], ram->host + ram->size - 1, 1), 1);
    assert_int_equal(write(ends[1], ram->host - 1, 1), -1);
    assert_int_equal(write(ends[1], ram->host + ram->size, 1), -1);
    assert_int_equal(write(ends[1], ram->host + ram->size + 2 * MIB - 1, 1), -1);
    close(ends[0]);
    close(ends[1]);
    mem_space_free(space);
}

static void memfd_memory_is_shared(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct error *err = NULL;
    struct mem_ram *ram = mem_add_ram(space, "m", PAGE, 4 * PAGE, MEM_BACKEND_MEMFD, -1, &err);
    assert_no_error(err);
    assert_true(ram->fd >= 0);
    assert_true(mem_write(space, 2 * PAGE, "abc", 3));
    char seen[3];
    assert_int_equal(pread(ram->fd, seen, 3, (off_t)PAGE), 3);
    assert_memory_equal(seen, "abc", 3);
    mem_space_free(space);
}

static int file_of(uint64_t size)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    int fd = dup(fileno(file));
    fclose(file);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    return fd;
}

static void file_memory_is_private(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    int fd = file_of(2 * PAGE);
    int other = dup(fd);
    assert_int_equal(pwrite(fd, "file", 4, (off_t)PAGE), 4);
    struct error *err = NULL;
    assert_non_null(mem_add_ram(space, "f", 0, 2 * PAGE, MEM_BACKEND_FILE, fd, &err));
    char seen[4];
    assert_true(mem_read(space, PAGE, seen, 4));
    assert_memory_equal(seen, "file", 4);
    assert_true(mem_write(space, PAGE, "mine", 4));
    assert_int_equal(pread(other, seen, 4, (off_t)PAGE), 4);
    assert_memory_equal(seen, "file", 4);
    mem_space_free(space);
    close(other);
}

static void short_and_odd_memory_files_are_refused(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct error *err = NULL;
    int fd = file_of(2 * PAGE - 1);
    assert_null(mem_add_ram(space, "f", 0, 2 * PAGE, MEM_BACKEND_FILE, fd, &err));
    assert_error(&err, ERROR_HOST, "truncated");
    assert_int_equal(fcntl(fd, F_GETFD), -1); /* taken over and closed */
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_null(mem_add_ram(space, "f", 0, PAGE, MEM_BACKEND_FILE, ends[0], &err));
    assert_error(&err, ERROR_HOST, "not a file");
    close(ends[1]);
    assert_null(mem_add_ram(space, "f", 0, PAGE, MEM_BACKEND_FILE, -1, &err));
    assert_error(&err, ERROR_HOST, "cannot look at");
    assert_int_equal(mem_ram_count(space), 0);
    mem_space_free(space);
}

/* Two neighbours and one apart: [0x10000, 0x12000) [0x12000, 0x13000) [0x20000, 0x21000). */
static struct mem_space *three_regions(void)
{
    struct mem_space *space = mem_space_new();
    add(space, 0x12000, PAGE);
    add(space, 0x10000, 2 * PAGE);
    add(space, 0x20000, PAGE);
    return space;
}

static void pointers_stay_inside_one_region(void **state)
{
    (void)state;
    struct mem_space *space = three_regions();
    struct mem_ram *first = mem_ram_at(space, 0);
    assert_ptr_equal(mem_ram_pointer(space, 0x10000, 2 * PAGE, MEM_READ), first->host);
    assert_ptr_equal(mem_ram_pointer(space, 0x11fff, 1, MEM_READ), first->host + 0x1fff);
    assert_null(mem_ram_pointer(space, 0x11fff, 2, MEM_READ));
    assert_null(mem_ram_pointer(space, 0xffff, 2, MEM_READ));
    assert_null(mem_ram_pointer(space, 0x13000, 1, MEM_READ));
    assert_null(mem_ram_pointer(space, 0x10000, UINT64_MAX, MEM_READ));
    assert_null(mem_ram_pointer(space, 0x10001, UINT64_MAX, MEM_READ));
    assert_null(mem_ram_pointer(space, UINT64_MAX, 2, MEM_WRITE));
    assert_non_null(mem_ram_pointer(space, 0x12000, 0, MEM_WRITE));
    mem_space_free(space);
}

static void dma_crosses_regions_and_stops_at_holes(void **state)
{
    (void)state;
    struct mem_space *space = three_regions();
    uint8_t out[3 * 4096], in[3 * 4096];
    uint64_t seed = 5;
    for (size_t i = 0; i < sizeof(out); i++)
        out[i] = (uint8_t)random_next(&seed);
    assert_true(mem_write(space, 0x10000, out, sizeof(out)));
    assert_true(mem_read(space, 0x10000, in, sizeof(in)));
    assert_memory_equal(in, out, sizeof(in));
    assert_int_equal(mem_ram_at(space, 1)->host[0], out[0x2000]);

    assert_false(mem_write(space, 0x12ffe, out, 4));
    assert_false(mem_read(space, 0x12ffe, in, 4));
    assert_false(mem_read(space, 0xfffe, in, 4));
    assert_false(mem_read(space, 0x1fff0, in, 32));
    assert_false(mem_read(space, 0x10000, in, UINT64_MAX));
    assert_false(mem_write(space, 0x10001, out, UINT64_MAX));
    assert_false(mem_read(space, UINT64_MAX, in, 2));
    assert_true(mem_read(space, UINT64_MAX, in, 0)); /* no byte of it is not RAM */
    mem_space_free(space);
}

static void the_last_page_of_the_address_space_works(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct mem_ram *ram = add(space, UINT64_MAX - (2 * PAGE - 1), 2 * PAGE);
    assert_true(mem_write(space, UINT64_MAX - 1, "xy", 2));
    assert_false(mem_write(space, UINT64_MAX - 1, "xyz", 3));
    assert_non_null(mem_ram_pointer(space, ram->gpa, 2 * PAGE, MEM_WRITE));
    uint64_t bitmap = 0;
    mem_dirty_take(space, ram, ram->gpa, ram->size, &bitmap);
    assert_int_equal(bitmap, 3);
    mem_space_free(space);
}

/* ---- flags ---- */

struct listener_log {
    unsigned code, reset;
    uint64_t code_gpa, reset_gpa, reset_size;
    struct mem_ram *ram;
    bool settled;
    bool dirty_when_reset; /* was DIRTY of the first page still set? */
    struct mem_listener listener;
};

static void on_code(void *opaque, struct mem_ram *ram, uint64_t gpa)
{
    struct listener_log *log = opaque;
    log->code++;
    log->code_gpa = gpa;
    log->ram = ram;
    assert_false(ram->flags[(gpa - ram->gpa) / PAGE] & MEM_PAGE_CODE);
}

static void on_reset(void *opaque, struct mem_ram *ram, uint64_t gpa, uint64_t size)
{
    struct listener_log *log = opaque;
    log->reset++;
    log->reset_gpa = gpa;
    log->reset_size = size;
    log->dirty_when_reset = ram->flags[(gpa - ram->gpa) / PAGE] & MEM_PAGE_DIRTY;
}

static void listen(struct mem_space *space, struct listener_log *log)
{
    *log = (struct listener_log){
        .listener = {.code_written = on_code, .dirty_reset = on_reset, .opaque = log}};
    mem_listen(space, &log->listener);
}

static void every_kind_of_write_is_in_the_dirty_log(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct mem_ram *ram = add(space, 0x40000, 130 * PAGE);
    uint64_t bitmap[3] = {~UINT64_C(0), ~UINT64_C(0), ~UINT64_C(0)};
    mem_dirty_take(space, ram, ram->gpa, ram->size, bitmap);
    assert_true(bitmap[0] == 0 && bitmap[1] == 0 && bitmap[2] == 0);

    char byte;
    assert_true(mem_read(space, ram->gpa + 7 * PAGE, &byte, 1)); /* reads are not */
    assert_non_null(mem_ram_pointer(space, ram->gpa + 8 * PAGE, PAGE, MEM_READ));
    mem_note_write(space, ram, ram->gpa + 2 * PAGE + 5);
    assert_true(mem_write(space, ram->gpa + 64 * PAGE - 1, "ab", 2)); /* pages 63, 64 */
    assert_non_null(mem_ram_pointer(space, ram->gpa + 127 * PAGE + 1, 2 * PAGE, MEM_WRITE));
    mem_note_range(space, ram->gpa + 100 * PAGE, 1);
    mem_note_range(space, ram->gpa + 101 * PAGE, 0);
    mem_dirty_take(space, ram, ram->gpa, ram->size, bitmap);
    assert_true(bitmap[0] == (UINT64_C(1) << 2 | UINT64_C(1) << 63));
    assert_true(bitmap[1] == (UINT64_C(1) << 0 | UINT64_C(1) << 36 | UINT64_C(1) << 63));
    assert_true(bitmap[2] == 3);
    mem_dirty_take(space, ram, ram->gpa, ram->size, bitmap);
    assert_true(bitmap[0] == 0 && bitmap[1] == 0 && bitmap[2] == 0);

    /* A part of the region; bits count from its start, and others stay dirty. */
    assert_non_null(mem_ram_pointer(space, ram->gpa, ram->size, MEM_WRITE));
    mem_dirty_take(space, ram, ram->gpa + 70 * PAGE, 5 * PAGE, bitmap);
    assert_true(bitmap[0] == 0x1f);
    mem_dirty_take(space, ram, ram->gpa + 70 * PAGE, 0, NULL);
    mem_dirty_take(space, ram, ram->gpa, ram->size, bitmap);
    assert_true(bitmap[0] == UINT64_MAX && bitmap[2] == 3);
    assert_true(bitmap[1] == ~(UINT64_C(0x1f) << 6));
    assert_int_equal(ram->flags[0], MEM_PAGE_PRESENT);
    mem_space_free(space);
}

static void listeners_hear_after_the_log_is_cleared(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct mem_ram *ram = add(space, 0x40000, 4 * PAGE);
    struct listener_log first, second;
    listen(space, &first);
    listen(space, &second);
    mem_note_write(space, ram, 0x41000);
    uint64_t bitmap = 0;
    mem_dirty_take(space, ram, 0x41000, 2 * PAGE, &bitmap);
    assert_int_equal(bitmap, 1);
    struct listener_log *logs[] = {&first, &second};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(logs[i]->reset, 1);
        assert_int_equal(logs[i]->reset_gpa, 0x41000);
        assert_int_equal(logs[i]->reset_size, 2 * PAGE);
        assert_false(logs[i]->dirty_when_reset);
    }
    mem_space_free(space);
}

static void writes_to_code_are_told_once(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct mem_ram *ram = add(space, 0x40000, 4 * PAGE);
    struct listener_log log;
    listen(space, &log);
    mem_note_write(space, ram, 0x41000);
    assert_int_equal(log.code, 0);
    mem_note_code(space, ram, 0x41ffe);
    mem_note_write(space, ram, 0x42000); /* the next page */
    assert_int_equal(log.code, 0);
    mem_note_write(space, ram, 0x41234);
    assert_int_equal(log.code, 1);
    assert_int_equal(log.code_gpa, 0x41000);
    assert_ptr_equal(log.ram, ram);
    mem_note_write(space, ram, 0x41234);
    assert_int_equal(log.code, 1);
    mem_note_code(space, ram, 0x41000);              /* dirty already: noted all the same */
    assert_true(mem_write(space, 0x40fff, "ab", 2)); /* ends on it */
    assert_int_equal(log.code, 2);
    assert_int_equal(ram->flags[1], MEM_PAGE_PRESENT | MEM_PAGE_DIRTY);
    mem_space_free(space);
}

static void count_watched(void *opaque, struct mem_ram *ram, uint64_t gpa)
{
    (void)ram, (void)gpa;
    struct listener_log *log = opaque;
    log->code++;
}

/* The second engine that watches a page need not ask the others again; after a write it must,
 * even if somebody noted the page as code in between. */
static void permissions_are_dropped_once_per_write(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct mem_ram *ram = add(space, 0, 2 * PAGE);
    struct listener_log log = {.listener = {.code_watched = count_watched, .opaque = &log}};
    mem_listen(space, &log.listener);
    mem_note_code(space, ram, 0);
    assert_true(mem_watch_code(space, ram, 8, NULL));
    assert_int_equal(log.code, 1);
    assert_false(mem_watch_code(space, ram, 16, NULL));
    assert_int_equal(log.code, 1);
    assert_true(mem_watch_code(space, ram, PAGE, &log)); /* the one that asks */
    assert_int_equal(log.code, 1);
    mem_note_write(space, ram, 0);
    mem_note_code(space, ram, 0);
    assert_true(mem_watch_code(space, ram, 0, NULL));
    assert_int_equal(log.code, 2);
    mem_space_free(space);
}

static bool settled_or_not(void *opaque)
{
    return ((struct listener_log *)opaque)->settled;
}

static void a_watch_is_settled_when_all_others_say_so(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct listener_log one = {.listener = {.opaque = &one}};
    struct listener_log two = {.listener = {.watch_settled = settled_or_not, .opaque = &two}};
    mem_listen(space, &one.listener);
    mem_listen(space, &two.listener);
    assert_false(mem_watch_settled(space, &one));
    assert_true(mem_watch_settled(space, &two));
    two.settled = true;
    assert_true(mem_watch_settled(space, &one));
    mem_space_free(space);
}

/* An engine that derives the old code again between the note and the write of a DMA must
 * hear of it: the copy notes after it wrote as well. */
static void derive_again(void *opaque, struct mem_ram *ram, uint64_t gpa)
{
    struct listener_log *log = opaque;
    if (log->code++ == 0)
        mem_note_code(NULL, ram, gpa);
}

static void code_derived_during_a_copy_is_dropped_after_it(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct mem_ram *ram = add(space, 0, PAGE);
    struct listener_log log = {.listener = {.code_written = derive_again, .opaque = &log}};
    mem_listen(space, &log.listener);
    mem_note_code(space, ram, 0);
    assert_true(mem_write(space, 0, "x", 1));
    assert_int_equal(log.code, 2);
    assert_false(ram->flags[0] & MEM_PAGE_CODE);
    mem_space_free(space);
}

/* A reader of the log who comes between a write's first note and the write itself. */
static void take_now(void *opaque, struct mem_ram *ram, uint64_t gpa)
{
    uint64_t bitmap;
    assert_int_equal(mem_dirty_take(opaque, ram, gpa, PAGE, &bitmap), 1);
}

static void a_reader_in_the_middle_of_a_write_misses_nothing(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct mem_ram *ram = add(space, 0, 2 * PAGE);
    struct mem_listener listener = {.code_written = take_now, .opaque = space};
    uint64_t bitmap;
    mem_listen(space, &listener);
    mem_note_code(space, ram, 0);
    assert_true(mem_write(space, 0, "x", 1));
    assert_int_equal(mem_dirty_take(space, ram, 0, PAGE, &bitmap), 1);
    mem_note_code(space, ram, 0);
    assert_true(mem_discard(space, 0, PAGE));
    assert_int_equal(mem_dirty_take(space, ram, 0, 2 * PAGE, &bitmap), 1);
    assert_int_equal(bitmap, 1);
    mem_space_free(space);
}

/* Nobody has a permission to write a page that is not dirty. */
static void nobody_is_disturbed_for_clean_pages(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct mem_ram *ram = add(space, 0x40000, 64 * PAGE);
    struct listener_log log;
    uint64_t bitmap;
    listen(space, &log);
    assert_int_equal(mem_dirty_take(space, ram, ram->gpa, ram->size, &bitmap), 0);
    assert_int_equal(log.reset, 0);
    /* Each page alone, and each first and last one of a range: flags are looked at several at once.
     */
    for (unsigned page = 0; page < 64; page++) {
        mem_note_write(space, ram, ram->gpa + page * PAGE);
        assert_int_equal(mem_dirty_take(space, ram, ram->gpa, page * PAGE, &bitmap) +
                             mem_dirty_take(space, ram, ram->gpa + (page + 1) * PAGE,
                                            (63 - page) * PAGE, &bitmap),
                         0);
        assert_int_equal(log.reset, (int)page);
        assert_int_equal(
            mem_dirty_take(space, ram, ram->gpa + page * PAGE, (64 - page) * PAGE, &bitmap), 1);
        assert_int_equal(bitmap, 1);
        assert_int_equal(log.reset, (int)page + 1);
    }
    mem_space_free(space);
}

/* Writers that note before each write against a taker: no page that changed is ever missed.
 * Each writer owns its pages' counters; the taker's last pass must explain all of them. */
enum { WRITERS = 3, WRITES = 20000, PAGES = 64 };

struct writer {
    struct mem_space *space;
    unsigned index;
};

static void *write_much(void *opaque)
{
    struct writer *writer = opaque;
    uint64_t seed = writer->index;
    for (unsigned i = 0; i < WRITES; i++) {
        uint64_t gpa = random_next(&seed) % PAGES * PAGE + writer->index * 8;
        uint64_t value = i + 1;
        mem_write(writer->space, gpa, &value, sizeof(value));
    }
    return NULL;
}

static void a_copy_by_the_log_misses_nothing(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct mem_ram *ram = add(space, 0, PAGES * PAGE);
    uint8_t *copy = calloc(PAGES, PAGE);
    assert_non_null(copy);
    struct writer writers[WRITERS];
    pthread_t threads[WRITERS];
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){space, i};
        assert_int_equal(pthread_create(&threads[i], NULL, write_much, &writers[i]), 0);
    }
    for (int pass = 0; pass < 500; pass++) {
        if (pass == 499)
            for (unsigned i = 0; i < WRITERS; i++)
                pthread_join(threads[i], NULL);
        uint64_t bitmap = 0;
        mem_dirty_take(space, ram, 0, ram->size, &bitmap);
        for (unsigned page = 0; page < PAGES; page++)
            if (bitmap >> page & 1)
                memcpy(copy + page * PAGE, ram->host + page * PAGE, PAGE);
    }
    assert_memory_equal(copy, ram->host, PAGES * PAGE);
    free(copy);
    mem_space_free(space);
}

/* ---- contents that come late ---- */

struct late {
    struct mem_ram *ram;
    unsigned fetched;
    uint64_t last;
    uint64_t lost; /* offset of a page that never comes */
};

static bool fetch(void *opaque, struct mem_ram *ram, uint64_t offset)
{
    struct late *late = opaque;
    assert_ptr_equal(ram, late->ram);
    assert_int_equal(offset % PAGE, 0);
    late->fetched++;
    late->last = offset;
    if (offset == late->lost)
        return false;
    memset(ram->host + offset, (int)(offset >> MEM_PAGE_SHIFT) + 1, PAGE);
    mem_set_present(ram, offset, PAGE);
    return true;
}

static void contents_come_when_they_are_wanted(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct mem_ram *ram = add(space, 0x100000, 16 * PAGE);
    struct late late = {.ram = ram, .lost = 9 * PAGE};
    const struct mem_source source = {.fetch = fetch, .opaque = &late};
    uint8_t bytes[3 * PAGE];
    mem_set_source(space, &source);
    mem_set_absent(ram, 0, ram->size);
    mem_set_present(ram, 15 * PAGE, PAGE);

    assert_true(mem_read(space, ram->gpa + PAGE + 10, bytes, PAGE));
    assert_int_equal(late.fetched, 2);
    assert_int_equal(bytes[0], 2);
    assert_int_equal(bytes[PAGE - 1], 3);
    assert_true(mem_read(space, ram->gpa + PAGE, bytes, 2 * PAGE)); /* are there already */
    assert_true(mem_read(space, ram->gpa + 15 * PAGE, bytes, PAGE));
    assert_int_equal(late.fetched, 2);

    /* A write of a part leaves the rest as it was saved. */
    assert_true(mem_write(space, ram->gpa + 3 * PAGE + 1, "x", 1));
    assert_int_equal(late.last, 3 * PAGE);
    assert_int_equal(ram->host[3 * PAGE], 4);
    assert_int_equal(ram->host[3 * PAGE + 1], 'x');
    assert_non_null(mem_ram_pointer(space, ram->gpa + 4 * PAGE, 2 * PAGE, MEM_READ));
    assert_int_equal(late.fetched, 5);

    /* What is given back does not come later. */
    assert_true(mem_discard(space, ram->gpa + 6 * PAGE, PAGE));
    assert_true(mem_read(space, ram->gpa + 6 * PAGE, bytes, 1));
    assert_int_equal(bytes[0], 0);
    assert_int_equal(late.fetched, 6);

    /* What is lost is like no memory at all. */
    assert_null(mem_ram_pointer(space, ram->gpa + 8 * PAGE, 2 * PAGE, MEM_WRITE));
    assert_false(mem_read(space, ram->gpa + 9 * PAGE, bytes, 1));
    assert_false(mem_write(space, ram->gpa + 9 * PAGE, bytes, 1));
    assert_false(mem_discard(space, ram->gpa + 9 * PAGE, PAGE));

    mem_set_complete(ram);
    late.fetched = 0;
    assert_true(mem_read(space, ram->gpa + 10 * PAGE, bytes, 1));
    assert_int_equal(late.fetched, 0);
    mem_space_free(space);
}

static void ask(void *opaque, struct mem_ram *ram, uint64_t offset)
{
    struct late *late = opaque;
    assert_ptr_equal(ram, late->ram);
    late->fetched++;
    late->last = offset;
}

static void *bring(void *opaque)
{
    struct mem_space *space = opaque;
    struct mem_ram *ram = mem_ram_at(space, 0);
    memset(ram->host, 7, PAGE);
    mem_set_present(ram, 0, PAGE);
    mem_came(space);
    return NULL;
}

static void note_call(void *opaque)
{
    ++*(unsigned *)opaque;
}

/* A vCPU is called away by its attention, the loop is called when there is something to see. */
static void nobody_waits_for_another_host_who_cannot_be_called_away(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct mem_ram *ram = add(space, 0x100000, 4 * PAGE);
    struct late late = {.ram = ram, .lost = UINT64_MAX};
    const struct mem_source source = {.fetch = fetch, .ask = ask, .opaque = &late};
    _Atomic uint32_t stop = 1;
    unsigned called = 0;
    struct mem_waiter waiter = {.came = note_call, .opaque = &called};
    pthread_t thread;
    mem_set_source(space, &source);
    assert_false(mem_is_late(space));
    mem_set_absent(ram, 0, ram->size);
    assert_true(mem_is_late(space));
    assert_int_equal(mem_want_unless(space, ram, ram->gpa, 8, &stop), MEM_LATER);
    assert_int_equal(late.fetched, 1);

    assert_false(mem_ready(space, ram->gpa + PAGE - 1, 2, &waiter));
    assert_int_equal(late.last, PAGE);
    stop = 0;
    assert_int_equal(pthread_create(&thread, NULL, bring, space), 0);
    assert_int_equal(mem_want_unless(space, ram, ram->gpa, 8, &stop), MEM_THERE);
    assert_int_equal(ram->host[0], 7);
    pthread_join(thread, NULL);
    assert_int_equal(called, 1);
    assert_false(mem_ready(space, ram->gpa + PAGE - 1, 2, &waiter)); /* half of it */
    mem_set_present(ram, PAGE, PAGE);
    mem_came(space);
    mem_came(space);
    assert_int_equal(called, 2);
    assert_true(mem_ready(space, ram->gpa, 2 * PAGE, &waiter));
    assert_true(mem_ready(space, 0x200000, 8, &waiter)); /* no RAM */
    assert_false(mem_ready(space, ram->gpa + 2 * PAGE, 1, &waiter));
    mem_forget_waiter(space, &waiter);
    mem_came(space);
    assert_int_equal(called, 2);
    assert_false(mem_discard(space, ram->gpa + 2 * PAGE, PAGE)); /* it would come all the same */
    mem_set_complete(ram);
    assert_false(mem_is_late(space));
    mem_space_free(space);
}

static void a_files_pages_stand_in_for_memory(void **state)
{
    (void)state;
    struct mem_space *space = mem_space_new();
    struct mem_ram *ram = add(space, 0x100000, 8 * PAGE);
    struct error *err = NULL;
    int fd = memfd_create("pages", 0);
    uint8_t bytes[PAGE], back;
    memset(bytes, 7, sizeof(bytes));
    for (int i = 0; i < 4; i++)
        assert_int_equal(pwrite(fd, bytes, PAGE, (off_t)(i * (int)PAGE)), PAGE);
    assert_true(mem_map_file(ram, 2 * PAGE, 3 * PAGE, fd, PAGE, &err));
    close(fd);
    assert_int_equal(ram->host[2 * PAGE - 1], 0);
    assert_int_equal(ram->host[2 * PAGE], 7);
    assert_int_equal(ram->host[5 * PAGE - 1], 7);
    assert_int_equal(ram->host[5 * PAGE], 0);
    /* The file's bytes do not come back. */
    assert_true(mem_discard(space, ram->gpa + 3 * PAGE, PAGE));
    assert_int_equal(ram->host[3 * PAGE], 0);
    assert_int_equal(ram->host[2 * PAGE], 7);
    assert_true(mem_write(space, ram->gpa, "x", 1));
    assert_true(mem_clear(space, ram, &err));
    for (uint64_t at = 0; at < ram->size; at += PAGE) {
        assert_true(mem_read(space, ram->gpa + at, &back, 1));
        assert_int_equal(back, 0);
    }
    mem_space_free(space);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contents_come_when_they_are_wanted),
        cmocka_unit_test(nobody_waits_for_another_host_who_cannot_be_called_away),
        cmocka_unit_test(a_files_pages_stand_in_for_memory),
        cmocka_unit_test(regions_are_found_by_address),
        cmocka_unit_test(impossible_regions_are_refused),
        cmocka_unit_test(memory_is_zero_and_writable_to_the_last_byte),
        cmocka_unit_test(both_ends_are_guarded),
        cmocka_unit_test(memfd_memory_is_shared),
        cmocka_unit_test(file_memory_is_private),
        cmocka_unit_test(short_and_odd_memory_files_are_refused),
        cmocka_unit_test(pointers_stay_inside_one_region),
        cmocka_unit_test(dma_crosses_regions_and_stops_at_holes),
        cmocka_unit_test(the_last_page_of_the_address_space_works),
        cmocka_unit_test(every_kind_of_write_is_in_the_dirty_log),
        cmocka_unit_test(listeners_hear_after_the_log_is_cleared),
        cmocka_unit_test(writes_to_code_are_told_once),
        cmocka_unit_test(permissions_are_dropped_once_per_write),
        cmocka_unit_test(a_watch_is_settled_when_all_others_say_so),
        cmocka_unit_test(code_derived_during_a_copy_is_dropped_after_it),
        cmocka_unit_test(a_reader_in_the_middle_of_a_write_misses_nothing),
        cmocka_unit_test(nobody_is_disturbed_for_clean_pages),
        cmocka_unit_test(a_copy_by_the_log_misses_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
