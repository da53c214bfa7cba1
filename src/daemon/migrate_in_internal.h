/* SPDX-License-Identifier: MIT
 *
 * What migrate_in.c (reservations, machines that do not run) and migrate_arrive.c (those that do)
 * share.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_MIGRATE_IN_INTERNAL_H
#define TRAPEZE_DAEMON_MIGRATE_IN_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "daemon/api.h"
#include "daemon/http.h"
#include "daemon/instance.h"
#include "daemon/migration.h"

enum incoming_stage {
    INCOMING_LOOKING,   /* a job finds out what becomes of its disks */
    INCOMING_RESERVED,
    INCOMING_RECEIVING, /* a job unpacks the archive */
    INCOMING_STAGED,    /* it does not run, and all of it is there */
    INCOMING_TAKING,    /* a job gives the folder its name */
    INCOMING_ARRIVING,  /* its worker waits, for streams or for what comes by them */
    INCOMING_SETTLING,  /* a job finds out whether the worker took it */
    INCOMING_LATE       /* post-copy: it runs here, and is as any other but for its memory's streams */
};

enum { INCOMING_PEER = 300 /* bytes of a source's name */, INCOMING_STREAMS = 16 };

struct incoming {
    struct incoming *next;
    struct daemon *daemon;
    char id[MIGRATION_ID + 1];
    char name[INSTANCE_MAX_NAME + 1];
    char from[INCOMING_PEER];
    char source[MIGRATION_ID + 1]; /* the store that it comes from */
    enum incoming_stage stage;
    char
        staged[INSTANCE_MAX_NAME + 1]; /* the folder, to be removed if it does not come; "": none */
    bool dropped;                      /* it shall not come any more */
    struct api_call *call;             /* whose job is at work */
    struct api_call *asks;             /* wait until it is decided */
    json_t *texts;                     /* "nvram", "known-hosts" */
    json_t *tree;                      /* of its snapshots (migrate_tree.h); NULL: it has none */
    json_t *stays;                     /* what becomes of the tree's files */
    time_t since;                      /* monotonic: nothing has come */
    /* of one that runs */
    json_t *live;    /* what the source says of it; NULL: it does not run */
    json_t *disks;   /* what becomes of each (migrate_disks.h) */
    uint64_t bytes;  /* that are to be written for them, and for snapshots */
    unsigned wanted; /* streams */
    struct http_upgrade *upgrades[INCOMING_STREAMS];
    int streams[INCOMING_STREAMS];
    unsigned count;  /* that are there */
    bool handing_in; /* a job gives them to the worker */
    bool switched;   /* post-copy: it runs here, and not all of its memory is there */
    bool recovers;   /* ... and it gets new streams */
    int talk;        /* with the worker (worker/verbs_migrate.c); -1: none */
    struct loop_watch *watch;
    char why[512]; /* what the worker said of its failure */
};

/* Of migrate_in.c. */
time_t incoming_now(void); /* seconds, monotonic */
struct incoming *incoming_find(struct daemon *daemon, const char *id);
struct incoming *incoming_add(struct daemon *daemon, const char *id, const char *name);
void incoming_forget(struct incoming *incoming);
/* It does not come; nobody is at work for it. */
void incoming_drop(struct incoming *incoming);
void incoming_say_outcome(struct api_call *call, bool here);

/* Of migrate_arrive.c. In the job of the archive, its folder having its name: looks whether it can
 * run here, and starts a worker that waits. {"pid"}; NULL: err. */
json_t *incoming_launch(struct daemon *daemon, const char *name, const json_t *live,
                        struct error **err);
/* The worker has been started; answers incoming->call. */
void incoming_arrive(struct incoming *incoming);
/* Whatever the worker is at: finds out what becomes of it, answers incoming->asks and forgets it.
 */
void incoming_settle(struct incoming *incoming);
void incoming_hang_up(struct incoming *incoming);

#endif
