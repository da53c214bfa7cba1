/* SPDX-License-Identifier: MIT
 *
 * Private to the leaving machine: source.c; source_precopy.c for the rounds while it still runs;
 * and source_late.c for what comes after it has gone without all of its memory.
 */
#ifndef TRAPEZE_MIGRATE_SOURCE_INTERNAL_H
#define TRAPEZE_MIGRATE_SOURCE_INTERNAL_H

#include <pthread.h>

#include "base/loop.h"
#include "base/state.h"
#include "migrate/migrate.h"
#include "migrate/wire.h"

struct disk_sender;
struct rounds;
struct server;

enum paused { NOT_PAUSED, PAUSED, SAVED, PAUSE_FAILED };

struct migrate_source {
    struct vm *vm;
    struct migrate_source_options options;
    struct wire wires[MIGRATE_MAX_STREAMS];
    size_t count;
    pthread_t thread;
    bool has_thread;
    uint8_t *hello; /* made before there is a thread */
    size_t hello_size;
    struct rounds *rounds;
    struct disk_sender *disks;
    struct server
        *server;       /* of a machine that stands still here, with what the target does not have */
    uint32_t features; /* that both sides have */
    uint64_t left;     /* bytes of memory and disks, after a round; the thread's */
    uint64_t trip_ns, record_ns; /* of the link, the fastest; what it takes the target to record
                                  * that it has the machine; the thread's */
    bool writes_disks;           /* a good part of what is sent again is theirs; the thread's */

    bool was_running; /* the loop's: before it was paused for this */
    bool held;        /* ... and it is */

    pthread_mutex_t lock; /* what follows */
    pthread_cond_t changed;
    struct migrate_progress progress;
    uint64_t disk_rate; /* what a disk may take, for `converge`; 0: as ever */
    int64_t reported_ns, stopped_ns;
    enum paused paused;
    bool cancelled, committed, freed;
    bool postcopy;             /* is wanted now */
    bool serving;              /* the streams are the server's */
    bool switched;             /* it is known to run there */
    bool sending;              /* a round */
    struct state_buffer state; /* the thread's once SAVED */
    enum migrate_result result;
    struct error *error;
};

int64_t source_patience(const struct migrate_source *source);
void source_report(struct migrate_source *source, bool at_once);
void source_enter(struct migrate_source *source, enum migrate_stage stage);
bool source_join_streams(struct migrate_source *source, struct error **err);
/* What the target says next, but for what is the server's. */
bool source_hear(struct migrate_source *source, struct wire_frame *frame, struct error **err);
/* ... which has to be `type`. */
bool source_expect(struct migrate_source *source, enum wire_type type, struct wire_frame *frame,
                   struct error **err);
/* The thread's last act; the error is taken over. */
void source_end(struct migrate_source *source, enum migrate_result result, struct error *error);
loop_post_fn source_finished;

/* ---- source_precopy.c: the thread's ---- */

enum source_next { ANOTHER_ROUND, STOP_NOW, SWITCH_NOW, GIVE_UP };

/* Stage 2. `then` is what to do next: to stop it and send the rest, or to let it go without. */
bool source_precopy(struct migrate_source *source, enum source_next *then, struct error **err);
/* True: the target has it, but for the last one, which it says later by source_await_round(). */
bool source_send_round(struct migrate_source *source, unsigned round, enum wire_last last,
                       struct error **err);
bool source_await_round(struct migrate_source *source, unsigned round, struct error **err);

/* The loop's: the guest runs for as much of the time as progress.throttle says, or as ever. */
loop_post_fn source_throttle;
void source_throttle_no_more(struct migrate_source *source);

/* ---- source_late.c: the thread's ---- */

/* A last round of no pages, and the list of those it would have been of. */
bool source_send_list(struct migrate_source *source, struct error **err);
/* From here on the streams are written to by the server's threads alone. */
bool source_serve(struct migrate_source *source, struct error **err);
void source_stop_serving(struct migrate_source *source);
/* Until the target says that it has everything. */
enum migrate_result source_attend(struct migrate_source *source, struct error **err);
loop_post_fn source_switched;

#endif
