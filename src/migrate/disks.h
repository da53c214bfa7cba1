/* SPDX-License-Identifier: MIT
 *
 * The disks of a machine that moves to another host: while the guest runs, what it would read of
 * each is copied into a new image over there, and what it changes meanwhile is copied again.
 *
 *     source                                       target
 *     disks_source_new()  changes are noted        disks_target_new()
 *     disks_begin()       ─── BEGIN ───────────►   what there is, compared with its own
 *     disks_round() …     ─── DATA ZERO SAME ──►   written, and flushed now and then
 *       the machine stands still, its disks are drained
 *     disks_final()       ─── the rest, END ───►   flushed: disks_target_finished()
 *
 * Holes and zeros are not sent. Whatever the formats and layers here are, the target gets the
 * contents: its image may be of another format, and has no backing file. Of a disk in layers whose lower
 * ones are at the target already, only the top one comes (DISKS_TOP): what it has at first, zeros among
 * it, as they hide what is below, and then what the guest changes.
 *
 * A message is a kind (1 byte) and what belongs to it; integers are little-endian:
 *     BEGIN  u16 disks, then of each u8 enum disks_how, u8 flags (1: there is one, 2: read-only),
 *            u64 bytes
 *     DATA   u16 disk, u64 offset, the bytes
 *     ZERO   u16 disk, u64 offset, u64 length
 *     SAME   u16 disk, u64 offset, u64 length, u64 XXH3 of what is there
 *     END    u64 messages before it
 * They have to arrive whole and in order. The receiving end believes nothing: a stranger can make
 * it write what it likes to the images that it was given to be written to, and nothing else.
 *
 * Threads: the source's functions on any one thread but the loop's of its queues, which must run
 * meanwhile (disks_final(): any thread; disks_source_stop(): the loop's). The target's on any one
 * thread. Neither may have its disks taken away or swapped meanwhile.
 */
#ifndef TRAPEZE_MIGRATE_DISKS_H
#define TRAPEZE_MIGRATE_DISKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct block;
struct block_image;
struct error;

#define DISKS_PIECE       (UINT32_C(512) << 10) /* bytes of contents in a message, at most */
#define DISKS_MESSAGE_MAX (DISKS_PIECE + 64)    /* bytes of a message, at most */
#define DISKS_MAX         64

/* What becomes of a disk; both ends have to be of one mind about it. */
enum disks_how {
    DISKS_COPY,   /* the target's image is a new one, of the same size, that reads as zeros */
    DISKS_VERIFY, /* both have it and only read it: what is in it is compared */
    DISKS_SHARED, /* both reach the same one: nothing but its size is looked at */
    DISKS_TOP     /* the target's image is an empty layer upon images like those under the source's */
};

/* --- the source --- */

struct disks_source;

struct disks_source_disk {
    struct block *block; /* borrowed; NULL: an empty drive, or no disk of this number */
    enum disks_how how;
};

/* Sends a message, which is as long as the segments together; may wait. */
typedef bool disks_send_fn(void *opaque, const struct iovec *iov, unsigned count,
                           struct error **err);

/* Not of a deterministic machine. */
struct disks_source *disks_source_new(const struct disks_source_disk *disks, size_t count,
                                      disks_send_fn *send, void *opaque, struct error **err);
/* Ends a function that runs, with an error, or soon will: it waits for the loop no more. */
void disks_source_stop(struct disks_source *source);
/* Any time that no other function runs; NULL is fine. */
void disks_source_free(struct disks_source *source);

bool disks_begin(struct disks_source *source, struct error **err);
/* Goes through the disks once from where the last round ended and sends what was changed; ends
 * earlier when `most` bytes were looked at, so that who calls can do other things in between. */
bool disks_round(struct disks_source *source, uint64_t most, struct error **err);
/* Bytes that were changed and not yet sent: what disks_final() would have to look at now. Any
 * thread. */
uint64_t disks_remaining(struct disks_source *source);
bool disks_final(struct disks_source *source, struct error **err);

struct disks_progress {
    uint64_t total; /* bytes that were there to be sent when it began */
    uint64_t done;  /* bytes looked at, with all rounds */
    uint64_t sent;  /* bytes of messages */
};
/* Any thread; the figures may be of slightly different moments. */
void disks_get_progress(const struct disks_source *source, struct disks_progress *progress);

/* --- the target --- */

struct disks_target;

struct disks_target_disk {
    struct block_image *image; /* borrowed; NULL: an empty drive, or no disk of this number */
    enum disks_how how;
};

struct disks_target *disks_target_new(const struct disks_target_disk *disks, size_t count,
                                      struct error **err);
/* Any time that no other function runs; NULL is fine. */
void disks_target_free(struct disks_target *target);

/* False: err, and the images are of no use. */
bool disks_target_message(struct disks_target *target, const void *message, size_t size,
                          struct error **err);
/* Everything is there and on stable storage. */
bool disks_target_finished(const struct disks_target *target);

#endif
