/* SPDX-License-Identifier: MIT
 *
 * What lies on the streams of a migration: frames, and what is in them; integers are little-endian.
 *
 *     0  u32 type    enum wire_type
 *     4  u32 size    bytes of the body, WIRE_BODY_MAX at most
 *     8  u64 number  of the frame on this stream and in this direction, from 0
 *    16  u64 hash    XXH3 (64 bits) of the body, seeded with XXH3 of the 16 bytes before it
 *    24  body
 *
 * The hash finds damage, not malice: against that streams are encrypted by whoever connects them, and
 * every number is compared with what it must stay below before it is used.
 *
 * The first stream, source → target unless marked ◄:
 *
 *     HELLO       u32 version, u32 features, u64 id, u32 streams, u32 regions, {u64 gpa, u64 size} each;
 *                 then the layout's text (vm_layout_and_folders())
 *     ACCEPT ◄    u32 version, u32 features that it has, too, u32 us that it needs to record that it has it
 *     JOIN        (on each further stream) u64 id, u32 stream, from 1, u32 0
 *     READY ◄
 *     MEMORY      (on any stream) see below
 *     ROUND       (on every stream) u32 round, from 1, u32 enum wire_last: what follows is newer. Nobody
 *                 reads on before all streams have come so far
 *     ROUND_DONE ◄ u32 round. Behind the last one the source goes on without waiting for it
 *     ALIVE       between two rounds, and is answered by the same: how long that takes is a round trip
 *     STOPPED     nobody runs the machine from here on; the last round follows
 *     DISKS       a message of migrate/disks.h: from READY on, and before the last round
 *     STATE       a part of what vm_save_state() gave
 *     END         u64 size of the state, u32 WIRE_PAUSED or 0, u32 0
 *     LOADED ◄
 *     GO
 *     RUNS ◄
 *     REFUSED ◄   at any time up to RUNS: a sentence, why not. The target has not run it and will not.
 *
 * Post-copy: a last round that is marked so has no pages, and before STATE comes what is still missing:
 *
 *     ABSENT      u32 region, u32 0, u64 first page, a bit for each page from there on: 1: it is to come
 *     MEMORY      (on any stream) from END on, of pages that are absent, each once; no DELTA
 *     WANT ◄      up to 500 u64 gpa, each of an absent page: they come before others. From END on
 *     ALIVE, ALIVE ◄ (on any stream) nothing else to say for a while; nobody is silent for longer
 *     ALL ◄       after RUNS: nothing is absent any more
 *
 * New streams after a loss, when the machine runs there (it stands still):
 *
 *     RESUME      u64 id, u32 streams, u32 0; and JOIN as above
 *     ABSENT ◄    what has not come so far, all of it, and READY ◄; then as above
 *
 * MEMORY: u32 encoding (enum wire_encoding), u32 size of what follows when it is unpacked; then runs of
 * pages: u64 gpa, u32 pages, u32 kind (enum wire_run), u32 bytes that follow, u32 0; these bytes. In
 * round 1 pages of zeroes are left out: the target's memory is new. DELTA is of one page, on top of what
 * the target has of it (migrate/delta.h).
 *
 * Threads: a stream is one thread's in each direction; wire_cut() is anybody's.
 */
#ifndef TRAPEZE_MIGRATE_WIRE_H
#define TRAPEZE_MIGRATE_WIRE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

#define WIRE_VERSION   2u
#define WIRE_BODY_MAX  (UINT32_C(1) << 20)
#define WIRE_STATE_MAX (UINT64_C(256) << 20)
#define WIRE_ZSTD      1u /* features */
#define WIRE_DELTA     2u
#define WIRE_POSTCOPY  4u
#define WIRE_FEATURES  (WIRE_ZSTD | WIRE_DELTA | WIRE_POSTCOPY)
#define WIRE_PAUSED    1u
#define WIRE_WANT_MAX  500u /* pages */

enum { WIRE_HEADER = 24, WIRE_MEMORY_HEADER = 8, WIRE_RUN_HEADER = 24, WIRE_ABSENT_HEADER = 16 };

enum wire_type {
    WIRE_HELLO = 1,
    WIRE_ACCEPT,
    WIRE_JOIN,
    WIRE_READY,
    WIRE_MEMORY,
    WIRE_ROUND,
    WIRE_ROUND_DONE,
    WIRE_STOPPED,
    WIRE_STATE,
    WIRE_END,
    WIRE_LOADED,
    WIRE_GO,
    WIRE_RUNS,
    WIRE_REFUSED,
    WIRE_DISKS,
    WIRE_ABSENT,
    WIRE_WANT,
    WIRE_ALIVE,
    WIRE_ALL,
    WIRE_RESUME
};

enum wire_encoding { WIRE_PLAIN, WIRE_PACKED };
enum wire_last { WIRE_NOT_LAST, WIRE_LAST, WIRE_LAST_POSTCOPY };
enum wire_run { WIRE_RUN_ZERO, WIRE_RUN_BYTES, WIRE_RUN_DELTA };

struct wire {
    int fd; /* owned; -1: none */
    uint64_t sent, received; /* frames */
    _Atomic uint64_t sent_bytes;
    uint8_t *body; /* of the frame that came last */
};

struct wire_frame {
    uint32_t type, size;
    const uint8_t *body; /* until the next one; a zero byte follows it */
};

void wire_open(struct wire *wire, int fd); /* taken over */
void wire_close(struct wire *wire);
/* Whoever reads or writes fails soon. Any thread. */
void wire_cut(struct wire *wire);
/* The same for who reads only. */
void wire_cut_reading(struct wire *wire);

/* The body lies WIRE_HEADER bytes behind `frame`; what is before it is written to. Returns when the
 * kernel has all of it. False: it does not, so the other end can not have got all of it either.
 * `patience_ns`: how long nothing at all may be taken. */
bool wire_send(struct wire *wire, enum wire_type type, uint8_t *frame, size_t size,
               int64_t patience_ns, struct error **err);
/* The same for small ones: up to 4 KiB. */
bool wire_put(struct wire *wire, enum wire_type type, const void *body, size_t size,
              int64_t patience_ns, struct error **err);
/* The next whole frame, whose checksum and number are right. */
bool wire_receive(struct wire *wire, struct wire_frame *frame, int64_t patience_ns,
                  struct error **err);
/* Whether nothing has come and the other end has not hung up, as far as is known. */
bool wire_is_quiet(const struct wire *wire);

/* "The stream of a migration is damaged" in more words. Returns false. */
bool wire_damaged(struct error **err, const char *what);

int64_t wire_now(void); /* ns, CLOCK_MONOTONIC */

#endif
