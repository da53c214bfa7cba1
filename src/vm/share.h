/* SPDX-License-Identifier: MIT
 *
 * How the machines of one user share the host's CPUs by weight where no cgroup does it. Each one
 * decides for itself, a hundred times a second, whether it has to stand still for a while; what it
 * has to know of the others is in a file that all of them have open, a slot for each:
 *
 *   weight      100 unless somebody gave it one; nothing happens before one of them has been given
 *   virtual     the CPU time it has had, times 100/weight, while there was contention. Who is ahead
 *               of another that is held up stands still until that one has caught up
 *   state       held up: it would use a CPU all the time, and waits for one now and then. Nobody
 *               stands still for those that get what they want: a machine that is idle, or that
 *               has a CPU of its own, gives its share away
 *
 * Priorities (nice) could not do this: an ordinary user cannot take a raised one back, each session
 * is one unit to the kernel whatever runs in it, and a machine with more vCPUs would get more.
 *
 * This is cooperation: a worker that its guest has taken over can refuse it and lie about itself,
 * as it can burn what its owner's processes get. Nobody can be made to do more than stand still for
 * SHARE_HOLD_NS at a time. Where that matters there are cgroups (client/cgroup.h).
 *
 * Slots are read and written with pread() and pwrite(), so that a file that somebody truncates is
 * no signal. A slot may be read half written; the next look corrects what came of it.
 *
 * Threads: one at a time.
 */
#ifndef TRAPEZE_VM_SHARE_H
#define TRAPEZE_VM_SHARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

#define SHARE_SLOTS   128
#define SHARE_WEIGHT  100                /* of who has not been given one */
#define SHARE_TICK_NS INT64_C(10000000)  /* how often to ask while machines contend */
#define SHARE_HOLD_NS INT64_C(500000000) /* the longest that one stands still for others */

enum share_state {
    SHARE_CONTENT, /* has what it wants */
    SHARE_HELD_UP, /* waits for a CPU now and then */
    SHARE_STARVED, /* ... and for long */
    SHARE_HELD     /* stands still for others */
};

/* In the file, in the host's byte order: it is of no use to another host, nor after a reboot. */
struct share_slot {
    uint32_t version;    /* SHARE_VERSION; another one: nobody's */
    uint32_t weight;     /* 0: not given */
    uint32_t state;      /* enum share_state */
    uint32_t demand;     /* see struct share_self */
    int64_t looked;      /* CLOCK_MONOTONIC: when it looked last */
    uint64_t virtual_ns; /* see above */
    uint64_t cpus;       /* the host's CPUs that it may use: bit number % 64 */
    uint64_t reserved2[3];
};
#define SHARE_VERSION 0x545a0001u

/* What has happened to a machine since it looked last. */
struct share_time {
    int64_t passed;
    uint64_t used; /* CPU time */
    uint64_t
        waited; /* its vCPUs would have run and had no CPU; 0 while they were made to stand still */
};

/* A machine's own part. Zero-initialise. */
struct share_self {
    unsigned weight; /* 0: not given */
    uint64_t cpus;
    uint64_t virtual_ns;
    uint64_t demand, waiting; /* CPUs it would use and waits for, lately; in 1/SHARE_CPU */
    bool contended;           /* there was contention when it looked last */
    bool held;                /* it is to stand still */
    int64_t held_ns;          /* for how long it has */
    bool active;              /* somebody has been given a weight: it is worth looking often */
};
#define SHARE_CPU 4096

/* One look at the others that may use the same CPUs. Returns self->held. */
bool share_look(struct share_self *self, const struct share_slot *others, size_t count,
                const struct share_time *time);
/* What the others are to see. */
void share_publish(const struct share_self *self, int64_t now, struct share_slot *slot);

/* The file, with a slot of our own in it. */
struct share_file {
    int fd;
    unsigned slot;
    int64_t checked;        /* when `live` was found out */
    unsigned end;           /* no slot from here on is */
    bool live[SHARE_SLOTS]; /* somebody holds the slot's lock */
};

/* Takes a slot, for as long as the descriptor is open in any process that got it from here; fd is
 * borrowed. False: all are taken. */
bool share_take(struct share_file *file, int fd);
/* The others' slots, those that are somebody's; `now` is CLOCK_MONOTONIC. */
size_t share_read(struct share_file *file, int64_t now, struct share_slot others[SHARE_SLOTS]);
void share_write(const struct share_file *file, const struct share_slot *slot);

#endif
