/* SPDX-License-Identifier: MIT
 *
 * A control group (cgroup v2) for each machine, where the host gives us any: then the kernel holds
 * the machine to its limits, whatever has become of its worker. Beside them the worker's own
 * scheduler (vm/cpu_limit.c) goes on with the same figures; where there is no group it is all there
 * is.
 *
 *   delegated   the nearest group above ours, or ours, that systemd marks as handed over to us
 *               (xattr user.delegate or trusted.delegate): a service with Delegate=yes, or what a
 *               systemd user manager has
 *   root        otherwise, with the right to: a group "trapeze" at the top
 *
 * A machine's group is in there, "trapeze-NAME". A group that has groups in it has no processes of
 * its own: those of a delegated one that is ours (a daemon's) move to its group "trapeze".
 *
 * Threads: single-threaded. Files are named from `root`, which is "" but in tests.
 */
#ifndef TRAPEZE_CLIENT_CGROUP_H
#define TRAPEZE_CLIENT_CGROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct error;
struct machine_config;

struct cgroup_limits {
    unsigned cpu_weight; /* 1..10000; 0: 100 */
    unsigned cpu_cap;    /* percent of one CPU; 0: none */
    uint64_t memory;     /* bytes that its processes may use; 0: any, CGROUP_KEEP: as before */
};
#define CGROUP_KEEP UINT64_MAX

struct cgroup_usage {
    uint64_t used_ns, throttled_ns; /* CPU time, and time without because of the cap */
    uint64_t memory;                /* bytes in use now; 0: not counted */
};

/* The folder in which groups for machines can be made; caller frees. NULL: the host gives us none,
 * err says why. */
char *cgroup_find(const char *root, struct error **err);

/* A new or old group in there; its folder, caller frees. NULL: err. */
char *cgroup_make(const char *place, const char *name, struct error **err);
bool cgroup_enter(const char *group, pid_t pid, struct error **err);
/* A limit that the host has no controller for is passed over. */
bool cgroup_limit(const char *group, const struct cgroup_limits *limits, struct error **err);
bool cgroup_usage(const char *group, struct cgroup_usage *usage);
void cgroup_remove(const char *group); /* if nothing is in it any more */

/* The group that cgroup_make() made for the process; caller frees. NULL: it is in none. */
char *cgroup_of(const char *root, pid_t pid);

/* ---- for machines, by names that no other machine of the host has (two stores may have instances
 * of one name); all of it nothing where the host gives us no groups ---- */

/* A group with the limits of the description, for a worker to enter; caller frees. NULL: none.
 * Memory is what the guest has and what a worker needs beside it: that keeps one that has gone wild
 * from taking the host's. */
char *cgroup_for_machine(const char *name, const struct machine_config *config);
/* The same CPU limits for one that runs. */
void cgroup_change_machine(const char *name, const struct machine_config *config);
void cgroup_forget_machine(const char *name); /* it has ended */

#endif
