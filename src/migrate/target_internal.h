/* SPDX-License-Identifier: MIT
 *
 * Private to the arriving machine: target.c, up to the moment where it runs with all of its memory,
 * and target_late.c, where it runs before that.
 */
#ifndef TRAPEZE_MIGRATE_TARGET_INTERNAL_H
#define TRAPEZE_MIGRATE_TARGET_INTERNAL_H

#include <pthread.h>

#include "base/loop.h"
#include "base/state.h"
#include "config/machine.h"
#include "migrate/intake.h"
#include "migrate/migrate.h"
#include "migrate/wire.h"

struct demand;

struct target_stream {
    struct migrate_target *target;
    struct wire wire;
    struct intake intake;
    pthread_t thread;
    bool has_thread;
};

enum target_step { NOTHING, DONE, FAILED };

struct migrate_target {
    struct vm *vm;
    struct migrate_target_options options;
    struct target_stream streams[MIGRATE_MAX_STREAMS];
    size_t count;
    char *layout, *layout_there; /* as it was made, as the source's is */
    struct disks_target *disks;
    enum disks_how disks_how[MACHINE_MAX_DISKS];
    bool gets_disks;       /* some are not shared */
    uint32_t features;     /* that both sides have */
    uint8_t id[8];         /* of the migration, as HELLO says */
    enum wire_last last;   /* the first stream's: the last round is over, */
    bool go;               /* ... and "go" came */
    bool paused;           /* ... as END says */
    int64_t stopped_ns;    /* ... when STOPPED came */
    struct demand *demand; /* from the last round on, if post-copy follows */
    bool lost, held;       /* the loop's: streams are; it was paused for that */

    pthread_mutex_t lock; /* what follows */
    pthread_cond_t changed;
    struct migrate_progress progress;
    bool greeted;           /* `id` is set: the other streams may look */
    size_t joined, arrived; /* streams: further ones that are there; at the end of the round */
    unsigned round;         /* that all streams are in, from 1 */
    bool failed;            /* nobody waits any more */
    bool late;              /* END came: pages that are absent may come */
    bool cancelled, started;
    enum target_step load, start; /* what the first stream's thread asked of the loop's */
    struct state_buffer state;
    struct error *error; /* the first */
};

bool target_called_off(struct error **err);
/* With the lock: all streams' threads end soon. */
void target_wake_all(struct migrate_target *target);
/* The same, for this reason, which is taken over. */
void target_fail(struct migrate_target *target, struct error *error);
void target_enter(struct migrate_target *target, enum migrate_stage stage);
int64_t target_patience(const struct migrate_target *target);
bool target_join(struct target_stream *stream, struct error **err);
bool target_wait_joined(struct migrate_target *target, struct error **err);
loop_post_fn target_load, target_start, target_finished;

/* ---- target_late.c ---- */

/* The first stream's thread, behind END: everything else. */
bool target_take_late(struct migrate_target *target, struct error **err);
/* What the threads of further streams do from the end of the last round on. */
bool target_take_late_data(struct target_stream *stream, struct error **err);
/* Whether the machine runs here (or stands still, as it did), and whatever happens now does not
 * change that. Waits for the loop's thread, if it was told to start it. */
bool target_is_here(struct migrate_target *target);
/* The first stream's thread, at its end: the streams are lost. */
void target_lost(struct migrate_target *target, struct error *error);
void target_late_stop(struct migrate_target *target); /* loop's thread, before it is freed */

#endif
