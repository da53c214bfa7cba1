/* SPDX-License-Identifier: MIT
 *
 * The guest-physical address space of one VM: RAM regions (host memory) and I/O regions
 * (callbacks) that never overlap among their own kind; where an I/O region covers RAM, the
 * RAM wins (PCI BARs cannot hide memory).
 *
 *     struct mem_space *space = mem_space_new();
 *     mem_add_ram(space, "ram", 0x80000000, size, MEM_BACKEND_ANONYMOUS, -1, &err);
 *     mem_io_add(space, &uart->region);
 *     void *p = mem_ram_pointer(space, gpa, 64, MEM_WRITE);   // NULL if not all RAM
 *
 * RAM is added before vCPUs run and lives as long as the space: look-ups take no lock.
 * I/O regions come and go while the guest runs (PCI BARs): look-ups take a read lock for
 * the look-up alone; the callback runs without it, under the device's own lock.
 *
 * Every 4 KiB page of RAM has one atomic flag byte. Every writer (CPU and device DMA alike)
 * goes through mem_note_write() before it writes, once per page and access or per cached
 * permission (a TLB entry that lets a vCPU write without asking again). Whoever is not a vCPU that the
 * listeners can stop notes it again when it is done (mem_note_range()): disk reads, mem_write() itself.
 * mem_dirty_take() clears MEM_PAGE_DIRTY, then has the listeners drop cached permissions;
 * the page is looked at after that, never before. So a copy of all pages, and of those that each later
 * call names, is equal to memory once nobody writes any more. Contents that come late are no writes.
 *
 * A machine can run before all of its memory is there (lazy resume): while a region is `lazy`, whoever
 * is about to follow a pointer into it asks mem_want() first, once for each page, and a TLB holds none
 * that is absent. What is present stays so. Page faults of the host cannot do this: an unprivileged
 * process gets them from user mode only, not from its system calls.
 * Where memory comes from another host (post-copy), it may never come: then nobody waits who cannot be
 * called away. vCPUs use mem_want_unless(), devices mem_ready(); mem_want() is for what happens before
 * the machine runs.
 */
#ifndef TRAPEZE_MEM_MEM_H
#define TRAPEZE_MEM_MEM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct mem_space;

#define MEM_PAGE_SHIFT 12
#define MEM_PAGE_SIZE  (UINT64_C(1) << MEM_PAGE_SHIFT)

enum mem_access { MEM_READ, MEM_WRITE };

enum mem_backend {
    MEM_BACKEND_ANONYMOUS, /* transparent huge pages; the fastest */
    MEM_BACKEND_MEMFD,     /* shareable with another process by descriptor */
    MEM_BACKEND_FILE       /* private (copy-on-write) mapping of a file */
};

enum mem_page_flag {
    MEM_PAGE_DIRTY = 1,  /* written since the dirty log was last read */
    MEM_PAGE_CODE = 2,   /* an engine holds something derived from its instructions */
    MEM_PAGE_PRESENT = 4, /* contents are in host memory (lazy resume, post-copy) */
    MEM_PAGE_WATCHED = 8 /* and since then nobody has a cached permission to write it */
};

struct mem_ram {
    const char *name;       /* owned by the space */
    uint64_t gpa;           /* page-aligned */
    uint64_t size;          /* bytes, page multiple */
    uint8_t *host;          /* owned by the space; aligned to 2 MiB, guarded on both sides */
    _Atomic uint8_t *flags; /* one per page */
    enum mem_backend backend;
    int fd; /* of MEMFD and FILE backends, owned; else -1 */
    _Atomic bool lazy; /* some pages may not be MEM_PAGE_PRESENT */
    bool replaced;     /* parts of it are mem_map_file()'s */
};

/* What a guest reads and runs, and cannot write: no RAM, so nobody's DMA reaches it, it is in no
 * log and no saved state. Who makes it fills it. A write is the I/O region's that is there, too. So a device
 * that costs a call for each write alone keeps here what reads are to give, and changes it as it likes. Only
 * engines with memory of their own show it (mem_shows_rom()): for others, reads are the I/O region's as well. */
struct mem_rom {
    uint64_t gpa, size; /* whole pages */
    uint8_t *host;      /* owned by the space */
};

/* Offsets are relative to the region. Called without any lock of mem/. size is 1, 2, 4 or 8
 * and the access is naturally aligned and inside the region. */
struct mem_io_ops {
    uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
    void (*write)(void *opaque, uint64_t offset, uint64_t value, unsigned size);
    unsigned min_size, max_size; /* bytes; other sizes are an access fault for a CPU */
};

/* A register of a region of which a write says no more than that it happened. An engine that can
 * (mem_takes_doorbells()) has it add 1 to an eventfd, wherever the region is just then, and the vCPU goes
 * on at once. It need not: what it does not take, and any other write there, goes to ops->write, which
 * means the same by it. */
struct mem_doorbell {
    uint64_t offset;
    unsigned size;  /* of the write, in bytes; 0: any that begins there, of whatever value */
    uint64_t value; /* what is written */
    int fd;         /* the device's */
};

/* Embedded in its device, which owns it; must stay valid until after mem_io_remove() and
 * until no vCPU runs (devices die only with their VM or while it is quiesced). */
struct mem_io {
    const char *name;
    uint64_t gpa;
    uint64_t size;
    const struct mem_io_ops *ops;
    void *opaque;
    const struct mem_doorbell *doorbells; /* constant while it is mapped */
    unsigned doorbell_count;
    bool mapped; /* kept by mem/ */
};

struct mem_space *mem_space_new(void);
void mem_space_free(struct mem_space *space);

/* `fd` is taken over, also on failure: a file to map for MEM_BACKEND_FILE, else -1. Regions
 * must not overlap; at most 16. NULL and *err on failure. Before vCPUs run only. */
struct mem_ram *mem_add_ram(struct mem_space *space, const char *name, uint64_t gpa, uint64_t size,
                            enum mem_backend backend, int fd, struct error **err);
/* Moves a region from a space that nobody uses any more, with its contents, all of which are there. */
struct mem_ram *mem_take_ram(struct mem_space *space, struct mem_space *from, size_t index);
size_t mem_ram_count(const struct mem_space *space);
/* Zeroes at first; it overlaps neither RAM nor another one. Before vCPUs run. */
struct mem_rom *mem_add_rom(struct mem_space *space, uint64_t gpa, uint64_t size,
                            struct error **err);
size_t mem_rom_count(const struct mem_space *space);
const struct mem_rom *mem_rom_at(const struct mem_space *space, size_t index);
/* Whether an engine shows it; once that is there. */
bool mem_shows_rom(const struct mem_space *space);
struct mem_ram *mem_ram_at(const struct mem_space *space, size_t index);

/* The region that holds gpa, or NULL. Lock-free, any thread. */
struct mem_ram *mem_ram_find(const struct mem_space *space, uint64_t gpa);

/* Host pointer to [gpa, gpa+length) if it lies in one RAM region, else NULL; MEM_WRITE notes
 * the write for every page. The pointer stays valid as long as the space. NULL also if contents of
 * the range were lost (mem_want). */
void *mem_ram_pointer(struct mem_space *space, uint64_t gpa, uint64_t length,
                      enum mem_access access);

/* Copies; false (nothing or a part copied) if any byte is not RAM. Device DMA uses these. */
bool mem_read(struct mem_space *space, uint64_t gpa, void *to, uint64_t length);
bool mem_write(struct mem_space *space, uint64_t gpa, const void *from, uint64_t length);

/* False: the range is empty, wraps or overlaps another I/O region (then it is not added). */
bool mem_io_add(struct mem_space *space, struct mem_io *io);
void mem_io_remove(struct mem_space *space, struct mem_io *io);

/* Whether an engine listens for doorbells. A background has none. */
bool mem_takes_doorbells(const struct mem_space *space);

/* A region behind all others: it answers where none of them does. It may overlap them, not another
 * background. There are few of them, and they come while no vCPU runs; mem_io_remove() takes them
 * away. */
#define MEM_MAX_BACKGROUNDS 2
bool mem_io_add_background(struct mem_space *space, struct mem_io *io);

/* True if an I/O region holds gpa and no RAM does. */
bool mem_io_at(struct mem_space *space, uint64_t gpa);

/* One CPU access to I/O space; false: nothing there or a size it does not take, which the
 * architecture turns into an access fault. An access that is not naturally aligned fails. */
bool mem_io_read(struct mem_space *space, uint64_t gpa, unsigned size, uint64_t *value);
bool mem_io_write(struct mem_space *space, uint64_t gpa, unsigned size, uint64_t value);

/* Must precede a write to the page of region `ram` that holds `gpa`: marks it dirty; if it
 * was MEM_PAGE_CODE, clears that and tells the listeners (code_written). */
void mem_note_write(struct mem_space *space, struct mem_ram *ram, uint64_t gpa);
/* mem_note_write() for every page of [gpa, gpa+length), which lies in one RAM region; what this thread
 * wrote before it is seen by whoever reads the log after it. */
void mem_note_range(struct mem_space *space, uint64_t gpa, uint64_t length);
/* An engine is about to derive something from the page's instructions. It drops permissions to
 * write the page that its own vCPUs have cached: those writes would not be noted. */
void mem_note_code(struct mem_space *space, struct mem_ram *ram, uint64_t gpa);

/* Reads and clears the dirty flags of [gpa, gpa+size), whole pages of one region; bit i of
 * `bitmap` (64-bit words, caller's) = page i. Then, if there were any, tells the listeners
 * (dirty_reset): vCPUs lose all their permissions to write, so ask for a whole region at once. Returns
 * how many there were. Any thread that is no vCPU's in its guest; one at a time. */
uint64_t mem_dirty_take(struct mem_space *space, struct mem_ram *ram, uint64_t gpa, uint64_t size,
                        uint64_t *bitmap);
/* How many pages of the region mem_dirty_take() would find now. Any thread. */
uint64_t mem_dirty_count(struct mem_space *space, struct mem_ram *ram);
/* /proc/self/pagemap, taken over; without it mem_drop_untouched() knows of none. Before vCPUs run. */
void mem_set_pagemap(struct mem_space *space, int fd);
/* Clears the bits (`bitmap` as above, of a whole region) of pages that the host knows nobody has touched, so
 * that they are zero: for who would read them to find that, and have the host map them for it. What is
 * written while it looks is in the dirty log. */
void mem_drop_untouched(const struct mem_space *space, const struct mem_ram *ram, uint64_t *bitmap);
/* Nobody reads the log any more for now: what it costs can be saved. Any thread. */
void mem_dirty_stop(struct mem_space *space);

/* Gives the host memory of [gpa, gpa+size), whole pages in one RAM region, back; they read as
 * zero from now on. False: they are not such pages, or the backend keeps its memory (FILE). Any
 * thread; writers that race lose or win. */
bool mem_discard(struct mem_space *space, uint64_t gpa, uint64_t size);

/* As mem_note_code() for an engine that wants to hear of every write (code_written): asks all
 * listeners but the one whose opaque is `except` to drop cached permissions to write the page.
 * False: they have been asked, for the page is watched already; else the caller drops its own. Waits
 * for nobody: until mem_watch_settled() is true, writes may go unheard of. */
bool mem_watch_code(struct mem_space *space, struct mem_ram *ram, uint64_t gpa,
                    const void *except);
/* Whether all but `except` have dropped what they were asked to. False may be about other pages. */
bool mem_watch_settled(struct mem_space *space, const void *except);

/* ---- contents that come late ---- */

struct mem_source {
    /* Has the page at `offset` of the region marked by mem_set_present(), and waits for that. False:
     * its contents are lost. Any thread, with a device's lock held or as a vCPU in its guest: it waits
     * for neither. */
    bool (*fetch)(void *opaque, struct mem_ram *ram, uint64_t offset);
    /* Of a source that may keep everybody waiting for ever (another host): has the page come, and waits
     * for nothing. mem_came() when it is there. As often as you like. NULL: fetch() takes no longer than
     * a disk does. */
    void (*ask)(void *opaque, struct mem_ram *ram, uint64_t offset);
    void *opaque;
};
/* Before vCPUs run. Borrowed, until no region is lazy and whoever asked has left (a hold on the machine). */
void mem_set_source(struct mem_space *space, const struct mem_source *source);
/* Whole pages of a region: their contents are still to come; before vCPUs run. They are there: any
 * thread, after it wrote them. The last one says so with mem_set_complete(). */
void mem_set_absent(struct mem_ram *ram, uint64_t offset, uint64_t size);
void mem_set_present(struct mem_ram *ram, uint64_t offset, uint64_t size);
void mem_set_complete(struct mem_ram *ram);
/* Maps a file's bytes, private to us, in the place of whole pages of an ANONYMOUS region. The
 * descriptor is borrowed. Before vCPUs run. */
bool mem_map_file(struct mem_ram *ram, uint64_t offset, uint64_t size, int fd, uint64_t file_offset,
                  struct error **err);
/* All of a region as at its beginning: zeroes, present. No vCPU runs. */
bool mem_clear(struct mem_space *space, struct mem_ram *ram, struct error **err);

bool mem_want_slow(struct mem_space *space, struct mem_ram *ram, uint64_t gpa, uint64_t length);
/* Waits until [gpa, gpa+length), which lies in the region, is there. False: contents are lost, and
 * the machine is about to end for it; as if no RAM was there. Any thread. */
static inline bool mem_want(struct mem_space *space, struct mem_ram *ram, uint64_t gpa,
                            uint64_t length)
{
    return !atomic_load_explicit(&ram->lazy, memory_order_acquire) ||
           mem_want_slow(space, ram, gpa, length);
}

/* The same for a vCPU in its guest, which must not wait while somebody wants something of it:
 * MEM_LATER as soon as *stop is not 0 (soon: it looks every millisecond), and the access has not been. */
enum mem_there { MEM_THERE, MEM_LOST, MEM_LATER };
enum mem_there mem_want_unless_slow(struct mem_space *space, struct mem_ram *ram, uint64_t gpa,
                                    uint64_t length, const _Atomic uint32_t *stop);
static inline enum mem_there mem_want_unless(struct mem_space *space, struct mem_ram *ram,
                                             uint64_t gpa, uint64_t length,
                                             const _Atomic uint32_t *stop)
{
    return !atomic_load_explicit(&ram->lazy, memory_order_acquire)
               ? MEM_THERE
               : mem_want_unless_slow(space, ram, gpa, length, stop);
}

/* Whoever must not wait, because the event loop would: mem_ready() is false as long as something of
 * [gpa, gpa+length) is still to come from a source that has ask(); it has been asked for, and came() is
 * called once (any thread, no lock of mem/ held) when something has come. What is not RAM is ready. Of
 * other sources it is mem_want() that says whether contents are lost. */
struct mem_waiter {
    void (*came)(void *opaque);
    void *opaque;
    struct mem_waiter *next; /* these two are mem/'s; zero at first */
    bool waits;
};
bool mem_ready_slow(struct mem_space *space, uint64_t gpa, uint64_t length,
                    struct mem_waiter *waiter);
bool mem_is_late(const struct mem_space *space);
static inline bool mem_ready(struct mem_space *space, uint64_t gpa, uint64_t length,
                             struct mem_waiter *waiter) /* NULL: nobody is called */
{
    return !mem_is_late(space) || mem_ready_slow(space, gpa, length, waiter);
}
/* came() is not called any more, and is not being called. */
void mem_forget_waiter(struct mem_space *space, struct mem_waiter *waiter);
/* A source that has ask() says this when some of what was asked for is there. */
void mem_came(struct mem_space *space);

struct mem_listener {
    /* A page that an engine had noted as code is about to be written. Any thread. */
    void (*code_written)(void *opaque, struct mem_ram *ram, uint64_t gpa);
    /* Drop every cached write permission to the page, soon. Any thread. */
    void (*code_watched)(void *opaque, struct mem_ram *ram, uint64_t gpa);
    /* Whether that has been done wherever it was asked for; NULL: always. Any thread. */
    bool (*watch_settled)(void *opaque);
    /* Drop every cached write permission to the range before returning. Any thread. */
    void (*dirty_reset)(void *opaque, struct mem_ram *ram, uint64_t gpa, uint64_t size);
    /* Note (mem_note_write) what somebody wrote to the region who does not do so by himself: the log is
     * about to be read. Any thread. */
    void (*dirty_collect)(void *opaque, struct mem_ram *ram);
    void (*dirty_stop)(void *opaque); /* mem_dirty_stop() */
    /* Writes of the doorbell are counted from now on, or not any more; `gpa` is the region's. Any thread,
     * with the lock of I/O regions held. NULL: they all go to the region. */
    void (*doorbell)(void *opaque, uint64_t gpa, const struct mem_doorbell *doorbell, bool on);
    /* Show it to the guest; those that were there before it listens an engine finds by itself. NULL: it
     * does not. False: err. */
    bool (*rom)(void *opaque, const struct mem_rom *rom, struct error **err);
    void *opaque;
    struct mem_listener *next; /* kept by mem/ */
};
/* Before vCPUs run. The listener is borrowed. */
void mem_listen(struct mem_space *space, struct mem_listener *listener);
/* After vCPUs ran, while nobody writes. */
void mem_unlisten(struct mem_space *space, struct mem_listener *listener);

#endif
