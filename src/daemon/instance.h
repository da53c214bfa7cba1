/* SPDX-License-Identifier: MIT
 *
 * An instance is a folder of files, and its name is the folder's:
 *
 *     NAME/NAME.vmx      what the machine is (config/vmx.h); NAME.vmtx: a template, which does not
 *                        run but is cloned
 *     NAME/disk.img …    whatever the .vmx names; nothing else is needed, so the folder can be
 *                        copied to another host and started there
 *     NAME/NAME.nvram    what the hardware remembers without power (config/nvram.h)
 *     NAME/lock          an OFD lock that whoever runs or changes the instance holds. A worker
 *                        inherits it, so it is held for exactly as long as the machine runs
 *     NAME/end           how the machine ended last, one line of JSON; empty while it runs, and
 *                        for ever if its worker was killed
 *     NAME/suspended.vmss   the state of a machine that was suspended (migrate/image.h); gone when
 *                        it runs again
 *     NAME/control.sock, NAME/console.sock, NAME/vsock.sock   of the worker, while it runs
 *     NAME/console.log, NAME/worker.log      what guest and worker said
 *     NAME/restart       whether it shall run, and how often it was started again (restart.h)
 *     NAME/migration     of a machine that moves: on which side it is (migration.h)
 *     NAME/snapshots/    what it was before (snapshot.h)
 *     NAME/known_hosts   by what the guest's ssh server proves who it is; not a clone's, whose server
 *                        may have made itself another key
 *
 * A linked clone of a template has disks that lie upon the template's, and uses the files there
 * that are only read (clone.h). Such names are relative ("../BASE/disk.img"), so that the store can
 * be moved; the .vmx says trapeze.parent = "BASE", and BASE stays what and where it is for as long.
 *
 * A folder is made and removed as store.h says; a file in it is replaced by rename, after fsync.
 * A folder that was renamed or copied by hand is taken as it is: its .vmx follows the name.
 *
 * Threads: one at a time for each instance.
 */
#ifndef TRAPEZE_DAEMON_INSTANCE_H
#define TRAPEZE_DAEMON_INSTANCE_H

#include <stdbool.h>
#include <stddef.h>

#include "client/copy.h"
#include "config/vmx.h"
#include "daemon/store.h"

#define INSTANCE_MAX_NAME                                                                          \
    63 /* bytes: letters, digits, '.', '_' and '-', none of these in front                         \
        */
#define INSTANCE_MAX_FILE (INSTANCE_MAX_NAME + 8) /* bytes of "NAME.vmtx" */
#define INSTANCE_GROUP    (INSTANCE_MAX_NAME + 36)

struct instance {
    const struct store *store; /* borrowed */
    char name[INSTANCE_MAX_NAME + 1];
    char *path; /* of the folder, absolute */
    int fd;     /* of the folder */
    int lock;   /* -1: not ours */
    bool is_template;
    bool is_draft; /* a staged folder, which has not got its name yet */
};

/* A file that goes into a new instance. */
struct instance_file {
    const char *source; /* a path of the host */
    const char *name;   /* in the folder */
};

bool instance_name_check(const char *name, struct error **err);

/* What a new instance is made of. */
struct instance_plan {
    const char *name;
    const struct text *text; /* its .vmx; NULL (of a clone): the original's */
    const struct instance_file *files; /* copied into the folder */
    size_t file_count;
    const char *expires;     /* of a clone, as machine_parse_time() takes it; NULL: never */
    bool linked;             /* of a clone */
    bool running;            /* of a clone: the original's machine runs (instant.c) */
    bool frozen; /* of one, without a text: it lies upon what snapshot_frozen_disks() says */
    copy_go_on_fn *step;     /* tells how far the file is that is being copied; may be NULL */
    void *opaque;
};

bool instance_create(const struct store *store, const struct instance_plan *plan,
                     struct error **err);

/* Whether a file of an instance may have the name; none that this header speaks of. */
bool instance_file_check(const char *name, struct error **err);
/* The same in two steps: a staged folder to put files into (-1: err), and its end: if `good`, it
 * gets its .vmx and becomes the instance; otherwise it is removed. */
int instance_stage(const struct store *store, char staged[32], struct error **err);
bool instance_finish(const struct store *store, const char *name, const struct text *text,
                     int folder, const char *staged, bool good, struct error **err);
/* Copies the files of the plan into the folder. */
bool instance_bring(const struct instance_plan *plan, int folder, struct error **err);

/* Finds it. False: err, also when it is no instance after all. */
bool instance_open(struct instance *instance, const struct store *store, const char *name,
                   struct error **err);
void instance_close(struct instance *instance);

/* Takes the lock; false: somebody has it (the machine runs), or it may be elsewhere (migration.h),
 * err. What was begun with its snapshots is finished (snapshot.h). */
bool instance_lock(struct instance *instance, struct error **err);
/* The same for who removes it, wherever it may be: it stays as it is. */
bool instance_lock_as_it_is(struct instance *instance, struct error **err);
/* The same, beside others who only read. */
bool instance_lock_shared(struct instance *instance, struct error **err);
/* Both at once. False: err, and there is nothing to close. */
bool instance_open_locked(struct instance *instance, const struct store *store, const char *name,
                          struct error **err);
/* Whether somebody has it; never true for who has it by instance_lock() himself. */
bool instance_is_locked(const struct instance *instance);

/* What its machine's cgroup is called (client/cgroup.h): no instance of another store has the same
 * name, and it stays while the machine runs. */
void instance_group(const struct instance *instance, char group[INSTANCE_GROUP]);

/* NULL: err. */
struct text *instance_read(const struct instance *instance, struct error **err);
/* Replaces the .vmx, all at once and for good. */
bool instance_write(const struct instance *instance, const struct text *text, struct error **err);
/* The machine's description, file names ready to open. `config` was initialised by the caller. */
bool instance_config(const struct instance *instance, struct machine_config *config,
                     struct vmx_notes *notes, struct error **err);

/* These want the lock. After a rename the instance has its new name; after a deletion it is
 * there no more, and is still to be closed. A template is refused all three while it has clones:
 * the error names them. */
bool instance_rename(struct instance *instance, const char *name, struct error **err);
bool instance_delete(struct instance *instance, struct error **err);
/* False: err; it is suspended, and so more than its files. */
bool instance_check_not_suspended(const struct instance *instance, struct error **err);
bool instance_make_template(struct instance *instance, bool is_template, struct error **err);

struct instance_usage {
    uint64_t bytes; /* that its files take of the disk; what it lies upon is its owner's */
    int64_t made;   /* seconds since 1970 */
    int64_t used;   /* when its machine began or ended last, or now, if it runs; 0: never */
};
void instance_usage(const struct instance *instance, struct instance_usage *usage);

/* The instances that lie upon this one, sorted; ends with NULL, store_list_free(). NULL: err, also
 * if some description says nothing that can be read. */
char **instance_clones(const struct instance *instance, struct error **err);

/* In clone.c: another instance like this one, which is a template if the clone is to be linked.
 * Wants at least the shared lock. */
bool instance_clone(const struct instance *instance, const struct instance_plan *plan,
                    struct error **err);

/* The same in two steps: an instance that has its files, and no place in the store yet, where its path
 * is another; and its end, if `good`: it gets its .vmx and its name. Otherwise it is removed. */
struct instance_draft {
    struct instance instance;
    struct text *text;
    char staged[32];
};
bool instance_clone_begin(const struct instance *original, const struct instance_plan *plan,
                          struct instance_draft *draft, struct error **err);
bool instance_clone_end(struct instance_draft *draft, bool good, struct error **err);

#endif
