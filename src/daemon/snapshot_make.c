/* SPDX-License-Identifier: MIT
 *
 * See snapshot.h: making one, and going back to one.
 *
 * The order of making one, of a machine that runs:
 *     .new-3/ with the description, and new images, all on the disk
 *     the .vmx names the images                      a crash: 3 is removed, they are merged
 *     the worker takes them, and writes memory to .new-3/memory.vmss
 *     .new-3 becomes 3
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "client/disk_clone.h"
#include "client/snapshot.h"
#include "daemon/folder.h"
#include "daemon/snapshot.h"

static void replace(char **text, const char *with)
{
    char *copy = with != NULL ? alloc_string(with) : NULL;
    free(*text);
    *text = copy;
}

static bool is_written(const struct machine_disk *disk)
{
    return !disk->read_only && disk->media == 0 && disk->path[0] != '\0';
}

/* ---- new images ---- */

/* "disk-3.qcow2" of "disk.img", "snapshots/disk-2.qcow2" and the like, if that is free. */
static void name_image(const struct instance *instance, const char *like, unsigned id,
                       char name[NAME_MAX + 1])
{
    const char *slash = strrchr(like, '/'), *base = slash != NULL ? slash + 1 : like;
    const char *dot = strrchr(base, '.'),
               *end = dot != NULL && dot > base ? dot : strchr(base, '\0');
    struct stat status;
    if (slash != NULL && strncmp(like, "snapshots/", 10) == 0)
        while (end > base + 1 && (end[-1] == '-' || (end[-1] >= '0' && end[-1] <= '9')))
            end--;
    for (unsigned more = 0;; more++) {
        char path[NAME_MAX + 16], number[16] = "";
        if (more > 0)
            snprintf(number, sizeof(number), "-%u", more);
        snprintf(name, NAME_MAX + 1, "%.*s-%u%s.qcow2", (int)(end - base < 60 ? end - base : 60),
                 base, id, number);
        snprintf(path, sizeof(path), "snapshots/%s", name);
        if (fstatat(instance->fd, path, &status, AT_SYMLINK_NOFOLLOW) != 0)
            return;
    }
}

char *snapshot_name_below(const char *name)
{
    char *text = NULL;
    if (name[0] == '/')
        return alloc_string(name);
    if (strncmp(name, "snapshots/", 10) == 0)
        return alloc_string(name + 10);
    return asprintf(&text, "../%s", name) > 0 ? text : NULL;
}

static char *path_of(const struct instance *instance, const char *name)
{
    char *path = NULL;
    if (name[0] == '/')
        return alloc_string(name);
    return asprintf(&path, "%s/%s", instance->path, name) > 0 ? path : NULL;
}

static bool put_on(const struct instance *instance, struct machine_disk *disk, int folder,
                   unsigned id, bool in_use, struct error **err)
{
    char name[NAME_MAX + 1], path[NAME_MAX + 16];
    const char *format;
    struct machine_disk from = *disk;
    if (strstr(disk->path, "://") != NULL) {
        error_set(err, ERROR_USAGE, "disk '%s' is on a server, and cannot be frozen from here",
                  disk->path);
        error_hint(err, "A snapshot has disks in files of this host; read-only ones do no harm.");
        return false;
    }
    name_image(instance, disk->path, id, name);
    snprintf(path, sizeof(path), "snapshots/%s", name);
    char *backing = snapshot_name_below(disk->path);
    from.path = path_of(instance, disk->path);
    const struct client_disk_clone how = {
        .folder = folder, .name = name, .backing = backing, .in_use = in_use};
    bool good = client_disk_clone(&from, &how, &format, err);
    if (good) {
        replace(&disk->backing, disk->path);
        replace(&disk->path, path);
        replace(&disk->format, format);
    } else {
        error_hint(err, "Snapshots that are deleted make room, of disk space and of depth.");
    }
    free(from.path);
    free(backing);
    return good;
}

static void remove_images(const struct instance *instance, const struct machine_config *config,
                          size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (is_written(&config->disks[i]))
            unlinkat(instance->fd, config->disks[i].path, 0);
}

bool snapshot_put_on_top(const struct instance *instance, struct machine_config *from,
                         const struct snapshot *snapshot, bool in_use, struct error **err)
{
    int folder = snapshots_folder(instance, err);
    size_t done = 0;
    bool good = folder >= 0;
    for (; good && done < from->disk_count; done += good)
        good = !is_written(&from->disks[done]) ||
               put_on(instance, &from->disks[done], folder, snapshot->id, in_use, err);
    if (good && fsync(folder) != 0)
        good = error_set_errno(err, errno, "cannot keep the new images");
    if (!good)
        remove_images(instance, from, done);
    if (folder >= 0)
        close(folder);
    return good;
}

/* ---- making ---- */

struct making {
    struct instance *instance;
    const struct snapshot_plan *plan;
    snapshot_take_fn *freeze; /* for clones; NULL: it is a snapshot */
    void *opaque;
    struct snapshot snapshot;
    struct text *before; /* the .vmx, which becomes the snapshot's */
    struct text *after;
    struct machine_config config; /* of `after`, names as they stand there */
    int folder;                   /* of the new snapshot; -1: not yet */
    bool images;                  /* those that `config` names are new */
    bool committed;               /* the .vmx is `after` */
    int64_t paused_us;
};

static bool has_name(const struct snapshots *all, const char *name)
{
    return snapshots_named(all, name, NULL) != NULL;
}

/* What it is called, its number and upon which it is made. */
static bool choose(struct making *m, const struct snapshots *all, struct error **err)
{
    struct snapshot *snapshot = &m->snapshot;
    unsigned number = 1;
    *snapshot = (struct snapshot){.id = all->current + 1,
                                  .parent = all->current,
                                  .made = (int64_t)time(NULL),
                                  .memory = m->plan->memory,
                                  .frozen = m->freeze != NULL,
                                  .state = SNAPSHOT_NEW};
    if (all->count > 0 && all->list[all->count - 1].id >= snapshot->id)
        snapshot->id = all->list[all->count - 1].id + 1;
    if (all->count >= SNAPSHOT_MAX || snapshot->id >= INT_MAX)
        return error_set(err, ERROR_USAGE, "'%s' has as many snapshots as it can",
                         m->instance->name);
    const char *name = m->plan->name;
    if (name != NULL && !instance_name_check(name, err)) {
        error_prefix(err, "of a snapshot, whose names follow the same rules");
        return false;
    }
    if (name != NULL && has_name(all, name))
        return error_set(err, ERROR_USAGE, "'%s' has a snapshot '%s' already", m->instance->name,
                         name);
    if (name != NULL)
        snprintf(snapshot->name, sizeof(snapshot->name), "%s", name);
    do {
        if (name == NULL)
            snprintf(snapshot->name, sizeof(snapshot->name), "snapshot-%u", number++);
    } while (name == NULL && has_name(all, snapshot->name));
    return true;
}

static bool read_all(struct making *m, struct error **err)
{
    struct snapshots all;
    if (!snapshots_read(m->instance, &all, err))
        return false;
    bool good = choose(m, &all, err);
    snapshots_clear(&all);
    m->before = good ? instance_read(m->instance, err) : NULL;
    m->after = m->before != NULL ? instance_read(m->instance, err) : NULL;
    return m->after != NULL && vmx_read(m->after, &m->config, NULL, err);
}

/* Its folder, with all that there is to it but memory. */
static bool stage(struct making *m, struct error **err)
{
    char path[64];
    int folder = snapshots_folder(m->instance, err);
    if (folder < 0)
        return false;
    close(folder);
    snapshot_path(&m->snapshot, "", path);
    if (mkdirat(m->instance->fd, path, 0700) == 0)
        m->folder = openat(m->instance->fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (m->folder < 0)
        return error_set_errno(err, errno, "cannot make '%s/%s'", m->instance->path, path);
    bool good = snapshot_write(m->folder, &m->snapshot, err) &&
                folder_write(m->folder, "machine.vmx", m->before, err);
    /* A machine that is suspended has its memory in a file already. */
    if (good && !m->plan->runs && snapshot_is_suspended(m->instance))
        good = (linkat(m->instance->fd, INSTANCE_SAVED, m->folder, "memory.vmss", 0) == 0 &&
                fsync(m->folder) == 0) ||
               error_set_errno(err, errno, "cannot keep the suspended state");
    return good;
}

static bool commit(struct making *m, struct error **err)
{
    m->config.snapshot = m->snapshot.id;
    vmx_update(m->after, &m->config);
    m->committed = instance_write(m->instance, m->after, err);
    return m->committed;
}

static bool publish(struct making *m, struct error **err)
{
    char before[64], after[64];
    snapshot_path(&m->snapshot, "", before);
    m->snapshot.state = m->snapshot.frozen ? SNAPSHOT_GONE : SNAPSHOT_WHOLE;
    snapshot_path(&m->snapshot, "", after);
    int folder = snapshots_folder(m->instance, err);
    bool good =
        folder >= 0 &&
        ((renameat(m->instance->fd, before, m->instance->fd, after) == 0 && fsync(folder) == 0) ||
         error_set_errno(err, errno, "cannot make '%s'", after));
    if (folder >= 0)
        close(folder);
    return good;
}

/* As if nothing had been; the machine writes to its images of before. */
static void undo(struct making *m)
{
    char path[64];
    bool good = !m->committed || instance_write(m->instance, m->before, NULL);
    if (!good)
        return; /* snapshot_tidy() does it */
    if (m->images)
        remove_images(m->instance, &m->config, m->config.disk_count);
    if (m->folder < 0)
        return;
    static const char *const files[] = {"description", "machine.vmx", "memory.vmss"};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
        unlinkat(m->folder, files[i], 0);
    snapshot_path(&m->snapshot, "", path);
    unlinkat(m->instance->fd, path, AT_REMOVEDIR);
}

/* The machine writes to the new images, but there will be no snapshot: what they lie on is merged
 * with them some time. */
static void give_up(struct making *m)
{
    char before[64], after[64];
    unlinkat(m->folder, "memory.vmss", 0);
    snapshot_path(&m->snapshot, "", before);
    m->snapshot.state = SNAPSHOT_GONE;
    snapshot_path(&m->snapshot, "", after);
    renameat(m->instance->fd, before, m->instance->fd, after);
}

/* Names that the worker's process can be given. */
static size_t list_layers(const struct making *m, struct client_layer *layers)
{
    size_t count = 0;
    for (size_t i = 0; i < m->config.disk_count; i++) {
        const struct machine_disk *disk = &m->config.disks[i];
        if (is_written(disk))
            layers[count++] = (struct client_layer){path_of(m->instance, disk->path),
                                                    path_of(m->instance, disk->backing)};
    }
    return count;
}

static void free_layers(const struct client_layer *layers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free((char *)(uintptr_t)layers[i].path);
        free((char *)(uintptr_t)layers[i].below);
    }
}

static bool freeze(struct making *m, bool *swapped, struct error **err)
{
    struct client_layer layers[MACHINE_MAX_DISKS];
    size_t count = list_layers(m, layers);
    bool good = m->freeze(m->opaque, layers, count, swapped, err);
    free_layers(layers, count);
    return good;
}

/* By its worker. */
static bool take(struct making *m, bool *swapped, struct error **err)
{
    struct client_layer layers[MACHINE_MAX_DISKS];
    struct client_snapshot how = {.layers = layers,
                                  .memory = -1,
                                  .compress = m->plan->compress,
                                  .progress = m->plan->progress,
                                  .opaque = m->plan->opaque};
    char socket[64];
    if (m->freeze != NULL)
        return freeze(m, swapped, err);
    snprintf(socket, sizeof(socket), "/proc/self/fd/%d/control.sock", m->instance->fd);
    how.layer_count = list_layers(m, layers);
    if (m->plan->memory) {
        how.memory = openat(m->folder, "memory.vmss",
                            O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (how.memory < 0)
            error_set_errno(err, errno, "cannot make a file for the machine's memory");
    }
    bool good = (!m->plan->memory || how.memory >= 0) &&
                client_snapshot(socket, &how, swapped, &m->paused_us, err) &&
                (fsync(m->folder) == 0 || error_set_errno(err, errno, "cannot keep the snapshot"));
    if (how.memory >= 0)
        close(how.memory);
    free_layers(layers, how.layer_count);
    return good;
}

static bool make(struct making *m, struct error **err)
{
    bool swapped = !m->plan->runs;
    m->images = read_all(m, err) && stage(m, err) &&
                snapshot_put_on_top(m->instance, &m->config, &m->snapshot, m->plan->runs, err);
    bool good = m->images && commit(m, err) && (!m->plan->runs || take(m, &swapped, err)) &&
                publish(m, err);
    if (!good && m->committed && swapped)
        give_up(m);
    else if (!good)
        undo(m);
    return good;
}

static bool can_be_made(const struct instance *instance, const struct snapshot_plan *plan,
                        struct error **err)
{
    if (instance->is_template)
        return error_set(err, ERROR_USAGE,
                         "'%s' is a template, which stays as it is: snapshots are of "
                         "machines",
                         instance->name);
    if (plan->runs || !snapshot_is_suspended(instance) || plan->memory)
        return true;
    error_set(err, ERROR_USAGE,
              "'%s' is suspended: without its memory its disks are those of a machine "
              "that lost its power",
              instance->name);
    error_hint(err, "Leave --no-memory out, which costs nothing here.");
    return false;
}

static void clear(struct making *m)
{
    if (m->folder >= 0)
        close(m->folder);
    machine_config_clear(&m->config);
    text_free(m->before);
    text_free(m->after);
}

json_t *snapshot_create(struct instance *instance, const struct snapshot_plan *plan,
                        struct error **err)
{
    struct snapshot_plan how = *plan;
    struct making m = {.instance = instance, .plan = &how, .folder = -1};
    if (!can_be_made(instance, plan, err) || (!plan->runs && !snapshot_tidy(instance, err)))
        return NULL;
    how.memory = plan->memory && (plan->runs || snapshot_is_suspended(instance));
    machine_config_init(&m.config);
    bool good = make(&m, err);
    json_t *answer = good ? json_pack("{s:s, s:s, s:b}", "name", instance->name, "snapshot",
                                      m.snapshot.name, "memory", (int)m.snapshot.memory)
                          : NULL;
    if (good && plan->runs)
        json_object_set_new(answer, "paused-us", json_integer(m.paused_us));
    clear(&m);
    return answer;
}

/* ---- for clones ---- */

bool snapshot_freeze(struct instance *instance, snapshot_take_fn *with, void *opaque,
                     struct error **err)
{
    const struct snapshot_plan plan = {.runs = true};
    struct making m = {
        .instance = instance, .plan = &plan, .freeze = with, .opaque = opaque, .folder = -1};
    machine_config_init(&m.config);
    bool good = make(&m, err);
    clear(&m);
    return good;
}

static bool put_below(struct machine_config *config, const struct machine_config *frozen)
{
    for (size_t i = 0; i < config->disk_count; i++) {
        struct machine_disk *disk = &config->disks[i];
        const struct machine_disk *below = NULL;
        for (size_t k = 0; k < frozen->disk_count && disk->backing != NULL && below == NULL; k++)
            if (strcmp(frozen->disks[k].path, disk->backing) == 0)
                below = &frozen->disks[k];
        if (!is_written(disk))
            continue;
        if (below == NULL)
            return false;
        replace(&disk->path, below->path);
        replace(&disk->format, below->format);
        replace(&disk->backing, below->backing);
    }
    return true;
}

bool snapshot_frozen_disks(const struct instance *instance, struct machine_config *config)
{
    struct snapshots all;
    struct machine_config frozen;
    if (config->snapshot == 0 || !snapshots_read(instance, &all, NULL))
        return false;
    const struct snapshot *snapshot = snapshots_find(&all, config->snapshot);
    machine_config_init(&frozen);
    bool good = snapshot != NULL && snapshot->state == SNAPSHOT_GONE && snapshot->frozen &&
                snapshot_config(instance, snapshot, &frozen, NULL) && put_below(config, &frozen);
    machine_config_clear(&frozen);
    snapshots_clear(&all);
    return good;
}
