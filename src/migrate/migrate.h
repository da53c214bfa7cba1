/* SPDX-License-Identifier: MIT
 *
 * Live migration: a machine that runs here goes on in another process, perhaps on another host. Both
 * ends; how bytes travel is migrate/wire.h.
 *
 *     stage              who may run it   ends with
 *     0 pre-migration    source           target: layout, CPU features and version fit, or why not
 *     1 reservation      source           target: memory is there, all streams are joined
 *     2 pre-copy         source           source: what is left fits into the downtime
 *     3 stop-and-copy    nobody           target: "loaded": memory, state, disks; nothing is missing
 *     4 commitment       nobody           source: given away for good (migrate_source_commit()), "go"
 *     5 activation       target           target: "it runs"
 *     6 post-copy        target           target: "all is there"; only if there was no last round
 *
 * Until the source says "go", whatever goes wrong ends in a machine that runs on at the source, and in a
 * target that ends without having run. The target starts on "go" only. From then on until the target's
 * answer comes the source cannot know; if the link dies just then, the migration is `uncertain`: the
 * machine stands still at the source until migrate_source_resolve() says what happened. So at every
 * moment one side at most may run it.
 *
 *     source                                              target (vm_new() done, not started)
 *     migrate_source_begin(vm, fds, n, &options, &err)    migrate_target_begin(vm, fds, n, &options, &err)
 *       … options.commit(): record that, then               … options.done(): it runs (or is paused, as it
 *     migrate_source_commit(source)                            was), or this process is of no more use
 *       … options.done(): MIGRATE_MOVED: end it
 *
 * Post-copy, for a guest that writes faster than can be sent: instead of the last round the target gets
 * a list of the pages that are missing, and the machine runs there while they come: what it reaches for
 * first, everything else meanwhile. The source only serves pages then, and nothing makes it run
 * the machine again. If the link dies before all is there, the machine stands still at the target until new
 * streams come (migrate_source_recover(), migrate_target_recover()). If the source dies, the machine is lost, as
 * with post-copy everywhere: neither side has all of its memory. Meanwhile what needs all of the
 * machine's memory is refused (vm_can_be_saved()).
 *
 * Streams are connected sockets (SOCK_STREAM): the first is for everything, further ones for memory too.
 * The other end is a stranger: whatever it sends is checked before use.
 *
 * The machine's time stands still while nobody runs it; its clock of real time is put forward by what
 * the target measures between "stopped" and "go". A paused machine migrates, too, and stays paused.
 *
 * Threads: these functions and all callbacks the VM's loop's. Memory is copied by threads of its own.
 */
#ifndef TRAPEZE_MIGRATE_MIGRATE_H
#define TRAPEZE_MIGRATE_MIGRATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migrate/disks.h"

struct error;
struct migrate_source;
struct migrate_target;
struct vm;

enum migrate_stage {
    MIGRATE_PRE,
    MIGRATE_RESERVATION,
    MIGRATE_PRECOPY,
    MIGRATE_STOP,
    MIGRATE_COMMITMENT,
    MIGRATE_ACTIVATION,
    MIGRATE_POSTCOPY,
    MIGRATE_STAGE_COUNT
};

enum migrate_side { MIGRATE_NOBODY, MIGRATE_SOURCE, MIGRATE_TARGET };

struct migrate_stage_row {
    const char *name;
    enum migrate_side runs; /* may run the machine */
};
extern const struct migrate_stage_row migrate_stages[MIGRATE_STAGE_COUNT];

#define MIGRATE_MAX_STREAMS 16

/* What to do if after `rounds` of them too much is left. */
enum migrate_last_resort {
    MIGRATE_KEEP_TRYING,
    MIGRATE_STOP_ANYWAY, /* a longer downtime */
    MIGRATE_GIVE_UP      /* the migration fails */
};

struct migrate_progress {
    enum migrate_stage stage;
    unsigned round;            /* of pre-copy, from 1; 0: none yet */
    uint64_t total, left;      /* bytes of guest memory; that are still to be sent */
    uint64_t disk_total, disk_left; /* bytes of disks: that there were; still to be sent */
    uint64_t sent;             /* bytes, on all streams */
    uint64_t rate, dirty_rate; /* bytes per second: sent; written by the guest */
    unsigned throttle;         /* percent of the time that the vCPUs stand still, for `converge` */
    uint64_t estimate_ns;      /* how long the machine would stand still, the link's way there and the
                                * target's record included */
    uint64_t downtime_ns;      /* from activation on: how long it did, as the source sees it */
};

enum migrate_result {
    MIGRATE_MOVED,  /* it runs there: end it here with vm_quit_migrated() */
    MIGRATE_FAILED, /* it is here as if nothing had been; `error` says why */
    MIGRATE_UNCERTAIN, /* it stands still; `error` says why. After migrate_source_resolve() done() comes
                        * again */
    MIGRATE_DISCONNECTED /* it is there for good, and some of its memory is here only. After
                          * migrate_source_recover() done() comes again */
};

struct migrate_source_options {
    /* What becomes of each disk (vm_disk_count()): borrowed for the call, the same on both sides; NULL:
     * all are shared. */
    const enum disks_how *disks;
    uint64_t downtime_ns; /* at most, as far as it can be estimated; if link and record take more than half of
                           * it, that much and half of it. 0: MIGRATE_DOWNTIME_NS */
    uint64_t bandwidth;   /* bytes per second while the machine runs; 0: no limit */
    bool compress;        /* zstd; with this or a limit of bandwidth, pages are sent as what has changed */
    bool converge;        /* a guest that writes faster than can be sent is slowed down */
    unsigned rounds;      /* after which last_resort counts; 0: MIGRATE_ROUNDS */
    enum migrate_last_resort last_resort;
    bool postcopy; /* instead of a last resort; also when rounds do not even halve what is left. The target
                    * has to be able to */
    uint64_t patience_ns; /* how long the target may be silent once the machine stands still; 0:
                           * MIGRATE_PATIENCE_NS */
    void (*progress)(void *opaque, const struct migrate_progress *progress); /* may be NULL */
    /* The target has loaded it. The answer has to come within patience_ns. */
    void (*commit)(void *opaque);
    /* Post-copy: it runs there, and this side sends what is missing. May be NULL. */
    void (*switched)(void *opaque);
    void (*done)(void *opaque, enum migrate_result result, const struct error *error);
    void *opaque;
};
#define MIGRATE_DOWNTIME_NS UINT64_C(10000000)
#define MIGRATE_ROUNDS      30u
#define MIGRATE_PATIENCE_NS UINT64_C(10000000000)

/* The descriptors are taken over on success; the machine runs or is paused. NULL: err. */
struct migrate_source *migrate_source_begin(struct vm *vm, const int *streams, size_t count,
                                            const struct migrate_source_options *options,
                                            struct error **err);
/* The answer to commit(): from now on the machine is the target's. False: it was cancelled. */
bool migrate_source_commit(struct migrate_source *source);
/* Ends it, and done() comes soon. False: it is committed. */
bool migrate_source_cancel(struct migrate_source *source);
/* Post-copy at the end of the round that is under way. False: it was not begun so, or is past that. */
bool migrate_source_postcopy(struct migrate_source *source);
/* New streams for post-copy (as at the beginning), also if nobody has noticed yet that the old ones are dead.
 * False: err, and nothing has changed. */
bool migrate_source_recover(struct migrate_source *source, const int *streams, size_t count,
                            struct error **err);
/* What has become of an uncertain one: it is `here`, and goes on if it ran, or it is there. done() is
 * called from here (with DISCONNECTED, if it is there without all of its memory). False: it is not uncertain. */
bool migrate_source_resolve(struct migrate_source *source, bool here, struct error **err);
void migrate_source_progress(const struct migrate_source *source, struct migrate_progress *progress);
/* Whether it is paused on its own account: that is no time for anybody to let it go. */
bool migrate_source_holds(const struct migrate_source *source);
/* Also in the middle: nothing more is sent, and the machine is left as it is. NULL is fine. */
void migrate_source_free(struct migrate_source *source);

struct migrate_target_options {
    const enum disks_how *disks; /* as above; those to be copied are new */
    uint64_t patience_ns; /* as above */
    uint64_t record_ns;   /* about how long taken() takes, for the source's estimate of the downtime */
    /* Right before the machine is this side's and may run: what is to be known of it whatever becomes
     * of this process. True: nothing keeps it from being here any more, and nothing is to be done to
     * the machine meanwhile. False: nothing was recorded, and it will not run after all. May be NULL. */
    bool (*taken)(void *opaque, struct error **err);
    /* Post-copy: it runs here and memory is still to come (NULL), also after each recovery; or the streams
     * are lost, and it stands still. May be NULL. */
    void (*late)(void *opaque, const struct error *error);
    /* error NULL: the machine runs, or is paused as it was, and all of it is here. Otherwise it has never
     * run. */
    void (*done)(void *opaque, const struct error *error);
    void (*progress)(void *opaque, const struct migrate_progress *progress); /* may be NULL */
    void *opaque;
};

/* The descriptors are taken over on success; the machine has just been made. NULL: err. */
struct migrate_target *migrate_target_begin(struct vm *vm, const int *streams, size_t count,
                                            const struct migrate_target_options *options,
                                            struct error **err);
/* Ends it, and done() comes soon. False: the machine is this side's by now. */
bool migrate_target_cancel(struct migrate_target *target);
/* As migrate_source_recover(), in any order of both; whether it stands still until then: late(). */
bool migrate_target_recover(struct migrate_target *target, const int *streams, size_t count,
                            struct error **err);
void migrate_target_progress(struct migrate_target *target, struct migrate_progress *progress);
void migrate_target_free(struct migrate_target *target); /* before vm_free(); NULL is fine */

#endif
