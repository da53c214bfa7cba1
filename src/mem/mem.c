/* SPDX-License-Identifier: MIT
 *
 * Guest-physical memory: RAM regions, copying, and the flag byte of every page.
 *
 * RAM regions are added before vCPUs run and never go away, and their number is small and
 * fixed: a sorted array of pointers is searched without a lock. Host memory is committed by
 * first touch, is aligned to a huge page, and has inaccessible guards on both sides, so that
 * an address computed wrongly ends in a fault of ours, not in somebody else's data.
 *
 * Flags. A writer sets DIRTY before it writes and, if it is not a vCPU that the listeners can
 * stop, once more after it wrote. The reader of the log clears first, then has cached write
 * permissions dropped, and only then looks at the page. Either order other than these loses
 * a write: see mem_dirty_take().
 */
#include "mem/mem.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "mem/space.h"

#define HUGE_PAGE (2 * MIB)
/* A size that keeps every sum below representable; guests get far less. */
#define RAM_SIZE_LIMIT (UINT64_C(1) << 46)

struct ram_region {
    struct mem_ram ram; /* first: users hold pointers to it */
    void *reservation;
    size_t reserved;
    size_t flag_bytes;
};

struct mem_space *mem_space_new(void)
{
    struct mem_space *space = alloc_zeroed(1, sizeof(*space));
    space->pagemap = -1;
    mem_io_init(space);
    pthread_mutex_init(&space->watch_lock, NULL);
    mem_late_init(space);
    return space;
}

static void free_region(struct mem_ram *ram)
{
    struct ram_region *region = CONTAINER_OF(ram, struct ram_region, ram);
    if (region->reservation)
        munmap(region->reservation, region->reserved);
    if (ram->flags)
        munmap((void *)ram->flags, region->flag_bytes);
    if (ram->fd >= 0)
        close(ram->fd);
    free((void *)(uintptr_t)ram->name);
    free(region);
}

void mem_space_free(struct mem_space *space)
{
    if (!space)
        return;
    for (size_t i = 0; i < space->ram_count; i++)
        free_region(space->ram[i]);
    if (space->pagemap >= 0)
        close(space->pagemap);
    mem_rom_destroy(space);
    mem_io_destroy(space);
    pthread_mutex_destroy(&space->watch_lock);
    mem_late_destroy(space);
    free(space);
}

/* ---- adding RAM ---- */

static bool cannot_map(struct error **err, int number, const struct mem_ram *ram)
{
    error_set_errno(err, number, "cannot get %llu MiB of memory for guest region '%s'",
                    (unsigned long long)(ram->size / MIB), ram->name);
    error_hint(err, "Give the guest less memory, or raise the limits of the host "
                    "(ulimit -v, vm.overcommit_memory)");
    return false;
}

/* An inaccessible range with room for `size` bytes on a huge-page boundary and a guard of a
 * huge page on both sides. */
static uint8_t *reserve(struct ram_region *region)
{
    region->reserved = (size_t)(region->ram.size + 3 * HUGE_PAGE);
    void *start = mmap(NULL, region->reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    region->reservation = start;
    return (uint8_t *)(uintptr_t)(align_up((uintptr_t)start, HUGE_PAGE) + HUGE_PAGE);
}

/* The descriptor to map: the file, a new memfd, or -1. */
static bool prepare_backend(struct mem_ram *ram, struct error **err)
{
    struct stat status;
    switch (ram->backend) {
    case MEM_BACKEND_ANONYMOUS:
        assert(ram->fd < 0);
        return true;
    case MEM_BACKEND_MEMFD:
        assert(ram->fd < 0);
        ram->fd = memfd_create(ram->name, MFD_CLOEXEC);
        if (ram->fd < 0 || ftruncate(ram->fd, (off_t)ram->size) != 0)
            return cannot_map(err, errno, ram);
        return true;
    case MEM_BACKEND_FILE:
        if (fstat(ram->fd, &status) != 0)
            return error_set_errno(err, errno, "cannot look at the memory file of '%s'", ram->name);
        /* Beyond the end of the file lies SIGBUS. */
        if (S_ISREG(status.st_mode) && status.st_size >= 0 && (uint64_t)status.st_size >= ram->size)
            return true;
        error_set(err, ERROR_HOST, "the memory file of '%s' is not a file of %llu bytes or more",
                  ram->name, (unsigned long long)ram->size);
        error_hint(err, "It is truncated or belongs to a guest with less memory");
        return false;
    }
    assert(false && "no such backend");
    return false;
}

static bool map_host(struct ram_region *region, struct error **err)
{
    struct mem_ram *ram = &region->ram;
    if (!prepare_backend(ram, err))
        return false;
    uint8_t *host = reserve(region);
    if (!host)
        return cannot_map(err, errno, ram);
    int flags = MAP_FIXED | (ram->backend == MEM_BACKEND_MEMFD ? MAP_SHARED : MAP_PRIVATE) |
                (ram->fd < 0 ? MAP_ANONYMOUS : 0);
    if (mmap(host, (size_t)ram->size, PROT_READ | PROT_WRITE, flags, ram->fd, 0) == MAP_FAILED)
        return cannot_map(err, errno, ram);
    ram->host = host;
    /* Both are wishes: hosts without huge pages, or without the right to leave them out of
     * core dumps, run guests as well. */
    if (ram->backend == MEM_BACKEND_ANONYMOUS)
        (void)madvise(host, (size_t)ram->size, MADV_HUGEPAGE);
    (void)madvise(host, (size_t)ram->size, MADV_DONTDUMP);

    region->flag_bytes = (size_t)(ram->size >> MEM_PAGE_SHIFT);
    void *bytes =
        mmap(NULL, region->flag_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED)
        return cannot_map(err, errno, ram);
    memset(bytes, MEM_PAGE_PRESENT, region->flag_bytes);
    ram->flags = bytes;
    return true;
}

static bool check_range(const struct mem_space *space, const struct mem_ram *ram,
                        struct error **err)
{
    if (ram->size == 0 || ram->size > RAM_SIZE_LIMIT || ram->gpa % MEM_PAGE_SIZE != 0 ||
        ram->size % MEM_PAGE_SIZE != 0 || ram->gpa + (ram->size - 1) < ram->gpa)
        return error_set(err, ERROR_USAGE,
                         "guest memory '%s' (%llu bytes at %#llx) is empty, too large or not "
                         "made of whole pages of 4096 bytes",
                         ram->name, (unsigned long long)ram->size, (unsigned long long)ram->gpa);
    if (space->ram_count == MEM_RAM_MAX)
        return error_set(err, ERROR_INTERNAL, "a guest has at most %u regions of memory",
                         (unsigned)MEM_RAM_MAX);
    for (size_t i = 0; i < space->ram_count; i++) {
        const struct mem_ram *other = space->ram[i];
        if (ram->gpa <= other->gpa + (other->size - 1) && other->gpa <= ram->gpa + (ram->size - 1))
            return error_set(err, ERROR_USAGE, "guest memory '%s' overlaps '%s'", ram->name,
                             other->name);
    }
    return true;
}

static void insert_sorted(struct mem_space *space, struct mem_ram *ram)
{
    size_t at = space->ram_count++;
    for (; at > 0 && space->ram[at - 1]->gpa > ram->gpa; at--)
        space->ram[at] = space->ram[at - 1];
    space->ram[at] = ram;
}

struct mem_ram *mem_add_ram(struct mem_space *space, const char *name, uint64_t gpa, uint64_t size,
                            enum mem_backend backend, int fd, struct error **err)
{
    struct ram_region *region = alloc_zeroed(1, sizeof(*region));
    region->ram = (struct mem_ram){
        .name = alloc_string(name), .gpa = gpa, .size = size, .backend = backend, .fd = fd};
    if (!check_range(space, &region->ram, err) || !map_host(region, err)) {
        free_region(&region->ram);
        return NULL;
    }
    insert_sorted(space, &region->ram);
    return &region->ram;
}

struct mem_ram *mem_take_ram(struct mem_space *space, struct mem_space *from, size_t index)
{
    struct mem_ram *ram = from->ram[index];
    assert(space->ram_count < MEM_RAM_MAX);
    from->ram_count--;
    memmove(&from->ram[index], &from->ram[index + 1],
            (from->ram_count - index) * sizeof(from->ram[0]));
    atomic_store(&ram->lazy, false);
    insert_sorted(space, ram);
    return ram;
}

/* ---- looking up and copying ---- */

size_t mem_ram_count(const struct mem_space *space)
{
    return space->ram_count;
}

struct mem_ram *mem_ram_at(const struct mem_space *space, size_t index)
{
    assert(index < space->ram_count);
    return space->ram[index];
}

struct mem_ram *mem_ram_find(const struct mem_space *space, uint64_t gpa)
{
    for (size_t i = 0; i < space->ram_count; i++) {
        struct mem_ram *ram = space->ram[i];
        if (gpa - ram->gpa < ram->size)
            return ram;
    }
    return NULL;
}

/* Bytes from gpa to the end of the region, at most `length`. */
static uint64_t bytes_in(const struct mem_ram *ram, uint64_t gpa, uint64_t length)
{
    uint64_t left = ram->size - (gpa - ram->gpa);
    return length < left ? length : left;
}

static void note_range(struct mem_space *space, struct mem_ram *ram, uint64_t gpa, uint64_t length)
{
    uint64_t last = gpa + (length - 1);
    for (uint64_t page = align_down(gpa, MEM_PAGE_SIZE); page <= last; page += MEM_PAGE_SIZE) {
        mem_note_write(space, ram, page);
        if (page > UINT64_MAX - MEM_PAGE_SIZE)
            break; /* the last page of the address space */
    }
}

/* What was written is there for everybody who takes the note that follows: a flag that is still set
 * from before the write is only looked at, and a look may come before a write of the same thread. */
static void note_written(struct mem_space *space, struct mem_ram *ram, uint64_t gpa,
                         uint64_t length)
{
    atomic_thread_fence(memory_order_seq_cst);
    note_range(space, ram, gpa, length);
}

void mem_note_range(struct mem_space *space, uint64_t gpa, uint64_t length)
{
    struct mem_ram *ram = mem_ram_find(space, gpa);
    assert(length == 0 || (ram && bytes_in(ram, gpa, length) == length));
    if (length > 0)
        note_written(space, ram, gpa, length);
}

void *mem_ram_pointer(struct mem_space *space, uint64_t gpa, uint64_t length,
                      enum mem_access access)
{
    struct mem_ram *ram = mem_ram_find(space, gpa);
    if (!ram || bytes_in(ram, gpa, length) != length || !mem_want(space, ram, gpa, length))
        return NULL;
    if (access == MEM_WRITE && length > 0)
        note_range(space, ram, gpa, length);
    return ram->host + (gpa - ram->gpa);
}

/* One RAM region's share of a copy; 0 if gpa is no RAM, or is lost. Copying towards the guest notes the
 * write on both sides of it: before, so that nothing derived from the old instructions is
 * still being used; after, so that neither a reader of the dirty log nor an engine that came
 * in between keeps the old bytes. */
static uint64_t copy_part(struct mem_space *space, uint64_t gpa, void *to, const void *from,
                          uint64_t length)
{
    struct mem_ram *ram = mem_ram_find(space, gpa);
    if (!ram)
        return 0;
    uint64_t part = bytes_in(ram, gpa, length);
    uint8_t *host = ram->host + (gpa - ram->gpa);
    if (!mem_want(space, ram, gpa, part))
        return 0;
    if (to) {
        memcpy(to, host, (size_t)part);
    } else {
        note_range(space, ram, gpa, part);
        memcpy(host, from, (size_t)part);
        note_written(space, ram, gpa, part);
    }
    return part;
}

static bool copy(struct mem_space *space, uint64_t gpa, uint8_t *to, const uint8_t *from,
                 uint64_t length)
{
    if (length > 0 && gpa + (length - 1) < gpa)
        return false;
    while (length > 0) {
        uint64_t part = copy_part(space, gpa, to, from, length);
        if (part == 0)
            return false;
        gpa += part;
        length -= part;
        if (to)
            to += part;
        else
            from += part;
    }
    return true;
}

bool mem_read(struct mem_space *space, uint64_t gpa, void *to, uint64_t length)
{
    return copy(space, gpa, to, NULL, length);
}

bool mem_write(struct mem_space *space, uint64_t gpa, const void *from, uint64_t length)
{
    return copy(space, gpa, NULL, from, length);
}

/* ---- page flags ---- */

static _Atomic uint8_t *flag_of(const struct mem_ram *ram, uint64_t gpa)
{
    assert(gpa - ram->gpa < ram->size);
    return &ram->flags[(gpa - ram->gpa) >> MEM_PAGE_SHIFT];
}

static void code_written(struct mem_space *space, struct mem_ram *ram, uint64_t gpa)
{
    struct mem_listener *listener = space->listeners;
    for (; listener; listener = listener->next)
        if (listener->code_written)
            listener->code_written(listener->opaque, ram, gpa);
}

void mem_note_write(struct mem_space *space, struct mem_ram *ram, uint64_t gpa)
{
    _Atomic uint8_t *flag = flag_of(ram, gpa);
    /* A page being written again and again costs one load. */
    unsigned seen = atomic_load_explicit(flag, memory_order_acquire);
    if ((seen & (MEM_PAGE_DIRTY | MEM_PAGE_CODE)) == MEM_PAGE_DIRTY)
        return;
    atomic_fetch_or(flag, (uint8_t)MEM_PAGE_DIRTY);
    if (atomic_fetch_and(flag, (uint8_t) ~(MEM_PAGE_CODE | MEM_PAGE_WATCHED)) & MEM_PAGE_CODE)
        code_written(space, ram, align_down(gpa, MEM_PAGE_SIZE));
}

void mem_note_code(struct mem_space *space, struct mem_ram *ram, uint64_t gpa)
{
    (void)space;
    atomic_fetch_or(flag_of(ram, gpa), (uint8_t)MEM_PAGE_CODE);
}

bool mem_watch_code(struct mem_space *space, struct mem_ram *ram, uint64_t gpa, const void *except)
{
    const uint8_t flags = MEM_PAGE_CODE | MEM_PAGE_WATCHED;
    pthread_mutex_lock(&space->watch_lock);
    /* Flags, then permissions: whoever gets one anew sees the flags and reports, which clears
     * both. Who finds both set finds, behind the lock, that all have been asked too. */
    if ((atomic_fetch_or(flag_of(ram, gpa), flags) & flags) == flags) {
        pthread_mutex_unlock(&space->watch_lock);
        return false;
    }
    struct mem_listener *listener = space->listeners;
    for (; listener; listener = listener->next)
        if (listener->code_watched && listener->opaque != except)
            listener->code_watched(listener->opaque, ram, align_down(gpa, MEM_PAGE_SIZE));
    pthread_mutex_unlock(&space->watch_lock);
    return true;
}

bool mem_watch_settled(struct mem_space *space, const void *except)
{
    struct mem_listener *listener = space->listeners;
    for (; listener; listener = listener->next)
        if (listener->watch_settled && listener->opaque != except &&
            !listener->watch_settled(listener->opaque))
            return false;
    return true;
}

#define FLAGS_AT_ONCE 8
typedef uint64_t __attribute__((may_alias)) flag_word;

static bool any_dirty(const _Atomic uint8_t *flags)
{
    const uint64_t dirty = UINT64_C(0x0101010101010101) * MEM_PAGE_DIRTY;
    return __atomic_load_n((const flag_word *)(const void *)flags, __ATOMIC_RELAXED) & dirty;
}

static void collect(struct mem_space *space, struct mem_ram *ram)
{
    struct mem_listener *listener = space->listeners;
    for (; listener; listener = listener->next)
        if (listener->dirty_collect)
            listener->dirty_collect(listener->opaque, ram);
}

void mem_dirty_stop(struct mem_space *space)
{
    struct mem_listener *listener = space->listeners;
    for (; listener; listener = listener->next)
        if (listener->dirty_stop)
            listener->dirty_stop(listener->opaque);
}

uint64_t mem_dirty_take(struct mem_space *space, struct mem_ram *ram, uint64_t gpa, uint64_t size,
                        uint64_t *bitmap)
{
    assert(gpa % MEM_PAGE_SIZE == 0 && size % MEM_PAGE_SIZE == 0 &&
           range_within(gpa - ram->gpa, size, ram->size));
    uint64_t pages = size >> MEM_PAGE_SHIFT;
    if (pages == 0)
        return 0;
    memset(bitmap, 0, (size_t)((pages + 63) / 64 * sizeof(*bitmap)));
    collect(space, ram);
    /* Clear, then tell. The other way round a vCPU could cache the permission to write after
     * it was told to drop it, still see DIRTY set, and write unseen once it is cleared. */
    _Atomic uint8_t *flags = &ram->flags[(gpa - ram->gpa) >> MEM_PAGE_SHIFT];
    uint64_t taken = 0;
    for (uint64_t page = 0; page < pages; page++) {
        if (pages - page >= FLAGS_AT_ONCE && (uintptr_t)&flags[page] % FLAGS_AT_ONCE == 0 &&
            !any_dirty(&flags[page])) {
            page += FLAGS_AT_ONCE - 1;
            continue;
        }
        if ((atomic_load_explicit(&flags[page], memory_order_relaxed) & MEM_PAGE_DIRTY) &&
            (atomic_fetch_and(&flags[page], (uint8_t)~MEM_PAGE_DIRTY) & MEM_PAGE_DIRTY)) {
            bitmap[page / 64] |= UINT64_C(1) << (page % 64);
            taken++;
        }
    }
    /* A permission exists only while its page is dirty. */
    if (taken == 0)
        return 0;
    struct mem_listener *listener = space->listeners;
    for (; listener; listener = listener->next)
        if (listener->dirty_reset)
            listener->dirty_reset(listener->opaque, ram, gpa, size);
    return taken;
}

uint64_t mem_dirty_count(struct mem_space *space, struct mem_ram *ram)
{
    collect(space, ram);
    uint64_t count = 0;
    for (uint64_t page = 0; page < ram->size >> MEM_PAGE_SHIFT; page++)
        count += atomic_load_explicit(&ram->flags[page], memory_order_relaxed) & MEM_PAGE_DIRTY;
    return count;
}

/* Fresh pages in the place of a file's. */
static bool map_anonymous(struct mem_ram *ram, uint64_t offset, uint64_t size)
{
    void *at = mmap(ram->host + offset, (size_t)size, PROT_READ | PROT_WRITE,
                    MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) /* the old ones are still there: the host allows no more mappings */
        return false;
    (void)madvise(at, (size_t)size, MADV_HUGEPAGE);
    (void)madvise(at, (size_t)size, MADV_DONTDUMP);
    return true;
}

bool mem_discard(struct mem_space *space, uint64_t gpa, uint64_t size)
{
    struct mem_ram *ram = mem_ram_find(space, gpa);
    if (ram == NULL || gpa % MEM_PAGE_SIZE != 0 || size % MEM_PAGE_SIZE != 0 || size == 0 ||
        !range_within(gpa - ram->gpa, size, ram->size) || ram->backend == MEM_BACKEND_FILE ||
        !mem_ready(space, gpa, size, NULL) || !mem_want(space, ram, gpa, size)) /* it comes later */
        return false;
    mem_note_range(space, gpa, size);
    int advice = ram->backend == MEM_BACKEND_MEMFD ? MADV_REMOVE : MADV_DONTNEED;
    bool good = ram->replaced
                    ? map_anonymous(ram, gpa - ram->gpa, size)
                    : madvise(ram->host + (gpa - ram->gpa), (size_t)size, advice) == 0;
    mem_note_range(space, gpa, size);
    return good;
}

/* ---- replacing contents ---- */

bool mem_map_file(struct mem_ram *ram, uint64_t offset, uint64_t size, int fd, uint64_t file_offset,
                  struct error **err)
{
    assert(ram->backend == MEM_BACKEND_ANONYMOUS && range_within(offset, size, ram->size));
    void *at = mmap(ram->host + offset, (size_t)size, PROT_READ | PROT_WRITE,
                    MAP_FIXED | MAP_PRIVATE, fd, (off_t)file_offset);
    if (at == MAP_FAILED)
        return error_set_errno(err, errno, "cannot map the guest's memory from a file");
    (void)madvise(at, (size_t)size, MADV_DONTDUMP);
    ram->replaced = true;
    return true;
}

bool mem_clear(struct mem_space *space, struct mem_ram *ram, struct error **err)
{
    int advice = ram->backend == MEM_BACKEND_MEMFD ? MADV_REMOVE : MADV_DONTNEED;
    if (!mem_want(space, ram, ram->gpa, ram->size))
        return error_set(err, ERROR_HOST, "the guest's memory cannot be read");
    bool good = true;
    if (ram->backend == MEM_BACKEND_FILE)
        memset(ram->host, 0, (size_t)ram->size); /* dropped pages would show the file again */
    else if (ram->replaced)
        good = map_anonymous(ram, 0, ram->size);
    else
        good = madvise(ram->host, (size_t)ram->size, advice) == 0;
    if (!good)
        return error_set_errno(err, errno, "cannot clear the guest's memory");
    mem_note_range(space, ram->gpa, ram->size);
    return true;
}

void mem_listen(struct mem_space *space, struct mem_listener *listener)
{
    listener->next = space->listeners;
    space->listeners = listener;
}

void mem_unlisten(struct mem_space *space, struct mem_listener *listener)
{
    struct mem_listener **link = &space->listeners;
    while (*link && *link != listener)
        link = &(*link)->next;
    if (*link)
        *link = listener->next;
}
