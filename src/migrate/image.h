/* SPDX-License-Identifier: MIT
 *
 * The file of a machine that was suspended. It holds everything that is needed to go on, on this
 * host or another, with this version or a later one; integers are little-endian.
 *
 *     0     header, 4096 bytes
 *              0  magic          89 "TZSAVE" 0A
 *              8  u32 version    1; a reader refuses what is newer
 *             12  u32 flags      1: chunks are compressed and lie anywhere
 *                                2: memory lies in a file of its own (not with 1)
 *             16  u64 file size  bytes: a file that was cut off is refused at once
 *             24  u64 saved at   nanoseconds since 1970, of the host's clock
 *             32  u32 chunk size bytes of guest memory, a power of two from 4 KiB to 1 MiB
 *             36  u32 regions    of RAM, 16 at most
 *             40  u64 data at    where the chunks' bytes are, a multiple of 4096 (flag 2: 0),
 *             48  u64 data size  and how many
 *             64  regions        u64 gpa, u64 size each
 *            320  sections       u64 at, u64 size, u64 hash each, in the order of enum saved_section
 *           4088  u64 hash       of the 4088 bytes before it
 *     data     of the chunks
 *     sections
 *
 * Sections: `machine` is the .vmx text (config/vmx.h) of the machine; `layout` is what of it the guest
 * can see, one thing to a line, so that a machine that is not the same is refused by name
 * (vm_layout()); `disks` says what each disk's files were like, so that one that was written to since
 * is refused; `state` are the state tables of the vCPUs and devices (vm_save_state()); `chunks` is the
 * table of memory: for each chunk of each region u64 at, u64 hash, u32 stored bytes, u32 kind (0:
 * zeroes, nothing is stored; 1: as it is; 2: zstd). `notes` are what whoever had the file made wants to
 * find in it again; files that have none have zeroes there.
 *
 * Without compression a region's page at gpa + N lies at data + (bytes of the regions before) + N, and
 * pages of zeroes are holes: the file can be mapped in place of memory. Compressed chunks lie one
 * behind the other in any order, as several threads write them. A file of memory alone (flag 2) is as
 * large as the RAM and has nothing else in it; the hashes here are those of its chunks.
 *
 * Hashes are XXH3 (64 bits): they find damage, not malice. Whoever can write the file can make the
 * guest do anything; what is checked against malice is that nothing outside of the guest is reached:
 * every offset, size and count is, before use.
 *
 * A file is written under another name, flushed to the disk and renamed (migrate/save.h): a crash
 * leaves what was there before.
 *
 * Threads: any for saved_read_chunk(); otherwise one at a time for an image.
 */
#ifndef TRAPEZE_MIGRATE_IMAGE_H
#define TRAPEZE_MIGRATE_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct block_chain;
struct block_image;
struct error;

#define SAVED_VERSION     1u
#define SAVED_CHUNK       (UINT32_C(128) << 10) /* bytes, of what we write */
#define SAVED_MAX_REGIONS 16
#define SAVED_MAX_RAM     (UINT64_C(1) << 40)  /* bytes, all regions */
#define SAVED_MAX_SECTION (UINT64_C(256) << 20) /* bytes, but for the chunks */

enum saved_section {
    SAVED_MACHINE,
    SAVED_LAYOUT,
    SAVED_DISKS,
    SAVED_STATE,
    SAVED_CHUNKS,
    SAVED_NOTES,
    SAVED_SECTION_COUNT
};

enum saved_kind { SAVED_ZERO, SAVED_RAW, SAVED_ZSTD };

struct saved_region {
    uint64_t gpa, size; /* bytes, multiples of a page */
};

struct saved_chunk {
    uint64_t at, hash; /* ZERO: both 0 */
    uint32_t stored;   /* bytes */
    uint32_t kind;     /* enum saved_kind */
};

struct saved_image {
    int fd;           /* borrowed */
    int memory;       /* what chunks are read from: fd, or saved_set_memory() */
    uint64_t saved_at; /* ns since 1970 */
    bool compressed;
    bool apart;       /* memory lies in a file of its own */
    uint32_t chunk_size;
    uint64_t data_at, data_size;
    struct saved_region regions[SAVED_MAX_REGIONS];
    size_t region_count;
    struct {
        uint64_t at, size, hash; /* of the section in the file */
        uint8_t *data;           /* NULL: not read; one zero byte follows it */
    } sections[SAVED_SECTION_COUNT];
    struct saved_chunk *chunks; /* of all regions, one after the other */
    size_t chunk_count;
};

/* What to read: the first three sections and the notes, for who starts a machine; or everything but
 * memory. */
enum saved_part { SAVED_DESCRIPTION, SAVED_ALL };
/* Checks all that it reads. The descriptor is borrowed until saved_clear(), which is fine after a
 * failure too. */
bool saved_open(struct saved_image *image, int fd, enum saved_part part, struct error **err);
void saved_clear(struct saved_image *image);
/* The file of the memory of an image whose memory is apart; borrowed as the image's. */
bool saved_set_memory(struct saved_image *image, int fd, struct error **err);

/* How many bytes chunk `index` is of. */
uint32_t saved_chunk_size(const struct saved_image *image, size_t index);
/* The chunk's bytes, checked, into `to`; zeroes are written too. `scratch` has room for chunk_size
 * bytes. */
bool saved_read_chunk(const struct saved_image *image, size_t index, void *to, void *scratch,
                      struct error **err);
/* The same for one that is mapped: whether [at, at + its size) is what was saved. */
bool saved_check_chunk(const struct saved_image *image, size_t index, const void *at);

/* Puts another text into the place of one of the first three sections or of the notes, behind all that
 * there is; the file is as hostile as for saved_open(). Not to be interrupted: nobody else has the file
 * yet. */
bool saved_replace(int fd, enum saved_section section, const void *data, size_t size,
                   struct error **err);

/* Section `disks` of images (NULL: none); the caller frees it. NULL: no memory. */
char *saved_describe_disks(struct block_image *const *images, size_t count);
/* The same of disks that are only opened. */
char *saved_describe_chains(const struct block_chain *chains, size_t count);
/* Whether the disks' files are as they were. */
bool saved_check_disks(const struct saved_image *image, const struct block_chain *chains,
                       size_t count, struct error **err);

/* ---- writing ---- */

struct saved_source {
    bool compress;
    bool apart;       /* memory goes to a file of its own, of any contents; not compressed: */
    int memory_file;
    /* For each region what its pages are that have changed since that file was written, as bits; all others
     * it has already, or will get them otherwise. NULL: all of them are written. */
    const uint64_t *const *changed;
    struct saved_region regions[SAVED_MAX_REGIONS];
    size_t region_count;
    struct {
        const void *data;
        size_t size;
    } sections[SAVED_SECTION_COUNT]; /* but for the chunks */
    /* Guest memory to read from, which stays as it is meanwhile. NULL: it cannot be read. Any thread. */
    const uint8_t *(*memory)(void *opaque, uint64_t gpa, uint32_t size);
    /* Called now and then, by one thread at a time; false ends it. */
    bool (*go_on)(void *opaque, uint64_t done, uint64_t total);
    void *opaque;
    unsigned threads;
};

/* Writes all of an empty file, several threads at once, and flushes it to the disk. */
bool saved_write(int fd, const struct saved_source *source, struct error **err);

#endif
