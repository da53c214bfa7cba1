/* SPDX-License-Identifier: MIT
 *
 * See snapshot.h: going back to a snapshot, and deleting one.
 *
 * What the machine is afterwards is decided when "restoring" is there, whole: from then on whoever
 * looks at the machine next makes it so, before anything else can be done with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "daemon/folder.h"
#include "daemon/snapshot.h"

/* ---- going back ---- */

/* The state of a snapshot with memory becomes what the machine was suspended at. */
static bool bring_memory(const struct instance *instance, unsigned id, struct error **err)
{
    const struct snapshot snapshot = {.id = id, .state = SNAPSHOT_WHOLE};
    char path[64];
    snapshot_path(&snapshot, "memory.vmss", path);
    return ((linkat(instance->fd, path, instance->fd, INSTANCE_SAVED, 0) == 0 || errno == ENOENT) &&
            fsync(instance->fd) == 0) ||
           error_set_errno(err, errno, "cannot make '%s/%s'", instance->path, INSTANCE_SAVED);
}

static bool finish(const struct instance *instance, const struct text *text, int folder,
                   struct error **err)
{
    struct machine_config config;
    machine_config_init(&config);
    bool good = vmx_read(text, &config, NULL, err);
    if (good)
        unlinkat(instance->fd, INSTANCE_SAVED, 0);
    good =
        good && instance_write(instance, text, err) && bring_memory(instance, config.snapshot, err);
    if (good) {
        unlinkat(folder, "restoring", 0);
        good = fsync(folder) == 0 || error_set_errno(err, errno, "cannot keep what was restored");
    }
    machine_config_clear(&config);
    return good;
}

bool snapshot_finish_restoring(const struct instance *instance, struct error **err)
{
    char *path = NULL;
    int folder = snapshots_folder(instance, err);
    struct text *text = folder >= 0 && asprintf(&path, "%s/snapshots/restoring", instance->path) > 0
                            ? text_load(path, err)
                            : NULL;
    bool good = text != NULL && finish(instance, text, folder, err);
    if (folder >= 0)
        close(folder);
    text_free(text);
    free(path);
    return good;
}

/* The .vmx of the machine that goes on from it, on images of its own. */
static bool decide(const struct instance *instance, const struct snapshot *snapshot,
                   struct machine_config *config, struct error **err)
{
    struct text *text = snapshot_text(instance, snapshot, err);
    bool good = text != NULL && vmx_read(text, config, NULL, err) &&
                snapshot_put_on_top(instance, config, snapshot, false, err);
    int folder = good ? snapshots_folder(instance, err) : -1;
    if (folder >= 0) {
        config->snapshot = snapshot->id;
        vmx_update(text, config);
        if (text_get(text, "displayName") != NULL)
            text_set(text, "displayName", instance->name);
        good = folder_write(folder, "restoring", text, err);
        close(folder);
    }
    text_free(text);
    return good && folder >= 0;
}

static bool restore(const struct instance *instance, const struct snapshot *snapshot,
                    struct error **err)
{
    struct machine_config config;
    char memory[64];
    snapshot_path(snapshot, "memory.vmss", memory);
    if (snapshot->memory && faccessat(instance->fd, memory, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
        return error_set_errno(err, errno, "cannot find '%s/%s'", instance->path, memory);
    machine_config_init(&config);
    bool good =
        decide(instance, snapshot, &config, err) && snapshot_finish_restoring(instance, err);
    machine_config_clear(&config);
    (void)snapshot_tidy(instance,
                        NULL); /* the images that the machine had, or new ones that it has not */
    return good;
}

json_t *snapshot_restore(struct instance *instance, const char *name, struct error **err)
{
    struct snapshots all;
    json_t *answer = NULL;
    if (instance->is_template) {
        error_set(err, ERROR_USAGE, "'%s' is a template, which stays as it is", instance->name);
        return NULL;
    }
    if (!snapshot_tidy(instance, err) || !snapshots_read(instance, &all, err))
        return NULL;
    const struct snapshot *snapshot = snapshots_named(&all, name, err);
    if (snapshot != NULL && restore(instance, snapshot, err))
        answer = json_pack("{s:s, s:s, s:b}", "name", instance->name, "snapshot", name, "memory",
                           (int)snapshot->memory);
    snapshots_clear(&all);
    return answer;
}

/* ---- deleting ---- */

static bool is_same_file(const struct instance *instance, const char *one, const char *other)
{
    struct stat a, b;
    return fstatat(instance->fd, one, &a, AT_SYMLINK_NOFOLLOW) == 0 &&
           fstatat(instance->fd, other, &b, AT_SYMLINK_NOFOLLOW) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

bool snapshot_is_resumed(const struct instance *instance, unsigned id)
{
    const struct snapshot snapshot = {.id = id, .state = SNAPSHOT_WHOLE};
    char path[64];
    snapshot_path(&snapshot, "memory.vmss", path);
    return id != 0 && is_same_file(instance, INSTANCE_SAVED, path);
}

/* From here on it is no snapshot any more; its images are what others lie upon. */
static bool forget(const struct instance *instance, const struct snapshot *snapshot,
                   struct error **err)
{
    struct snapshot gone = *snapshot;
    char before[64], after[64];
    gone.state = SNAPSHOT_GONE;
    snapshot_path(snapshot, "", before);
    snapshot_path(&gone, "", after);
    int folder = snapshots_folder(instance, err);
    if (folder < 0)
        return false;
    bool good = (renameat(instance->fd, before, instance->fd, after) == 0 && fsync(folder) == 0) ||
                error_set_errno(err, errno, "cannot remove '%s/%s'", instance->path, before);
    close(folder);
    if (good) {
        snapshot_path(&gone, "memory.vmss", after);
        unlinkat(instance->fd, after, 0);
    }
    return good;
}

json_t *snapshot_delete(struct instance *instance, const char *name, bool runs, struct error **err)
{
    struct snapshots all;
    if (instance->is_template) {
        error_set(err, ERROR_USAGE, "'%s' is a template, which stays as it is", instance->name);
        return NULL;
    }
    if ((!runs && !snapshot_mend(instance, err)) || !snapshots_read(instance, &all, err))
        return NULL;
    const struct snapshot *snapshot = snapshots_named(&all, name, err);
    bool good = snapshot != NULL;
    if (good && !runs && snapshot_is_resumed(instance, snapshot->id)) {
        good =
            error_set(err, ERROR_USAGE, "'%s' is suspended as it was at '%s', which it still needs",
                      instance->name, name);
        error_hint(err, "Start it first, or go back to another one.");
    }
    good = good && forget(instance, snapshot, err) && (runs || snapshot_tidy(instance, err));
    snapshots_clear(&all);
    /* What its disks take is not free before they are merged. */
    bool left = good && snapshots_read(instance, &all, NULL) && all.count > 0;
    bool merged = true;
    for (size_t i = 0; left && i < all.count; i++)
        merged = merged && all.list[i].state != SNAPSHOT_GONE;
    if (left)
        snapshots_clear(&all);
    return good ? json_pack("{s:s, s:s, s:b}", "name", instance->name, "snapshot", name, "merged",
                            (int)merged)
                : NULL;
}
