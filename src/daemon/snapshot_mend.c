/* SPDX-License-Identifier: MIT
 *
 * See snapshot.h: what is half-made, and what nobody needs any more.
 *
 * A snapshot that was deleted is a node of the tree until nothing of it is needed. One without
 * children goes at once. The images of one with a single child are merged with those on top of
 * them: `upper` is written into `lower`, which no machine sees, as whatever `upper` has hides it.
 * Then "merging" says that `upper` is to be forgotten, and whatever lies upon it or names it is
 * changed to `lower`. So it may end anywhere: before, it begins anew, and afterwards
 * snapshot_mend() finishes it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "client/disk_merge.h"
#include "client/disks.h"
#include "daemon/backing.h"
#include "daemon/folder.h"
#include "daemon/snapshot.h"

static bool is_named(const struct snapshot_family *family, const char *file)
{
    for (size_t i = 0; i < snapshot_family_size(family); i++)
        for (size_t k = 0; k < family->configs[i].disk_count; k++) {
            const struct machine_disk *disk = &family->configs[i].disks[k];
            if (strcmp(disk->path, file) == 0 ||
                (disk->backing != NULL && strcmp(disk->backing, file) == 0))
                return true;
        }
    return false;
}

/* ---- what is half-made ---- */

static bool remove_folder(const struct instance *instance, const struct snapshot *snapshot)
{
    static const char *const files[] = {"description",      "machine.vmx",      "memory.vmss",
                                        ".description.new", ".machine.vmx.new", ""};
    char path[64];
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        snapshot_path(snapshot, files[i], path);
        unlinkat(instance->fd, path, files[i][0] == '\0' ? AT_REMOVEDIR : 0);
    }
    return true;
}

static bool rename_to(const struct instance *instance, const struct snapshot *snapshot,
                      enum snapshot_state state, struct error **err)
{
    struct snapshot renamed = *snapshot;
    char before[64], after[64];
    renamed.state = state;
    snapshot_path(snapshot, "", before);
    snapshot_path(&renamed, "", after);
    int folder = snapshots_folder(instance, err);
    if (folder < 0)
        return false;
    bool good = (renameat(instance->fd, before, instance->fd, after) == 0 && fsync(folder) == 0) ||
                error_set_errno(err, errno, "cannot rename '%s/%s'", instance->path, before);
    close(folder);
    return good;
}

/* Whether memory.vmss is whole is not looked at: it is the last that is written, and what was
 * killed before .new-N became N may not have all of it. */
static bool finish_new(const struct instance *instance, const struct snapshots *all,
                       const struct snapshot *snapshot, struct error **err)
{
    if (all->current != snapshot->id)
        return remove_folder(instance, snapshot);
    bool gone = snapshot->memory || snapshot->frozen;
    return rename_to(instance, snapshot, gone ? SNAPSHOT_GONE : SNAPSHOT_WHOLE, err);
}

static bool finish_all_new(const struct instance *instance, struct error **err)
{
    struct snapshots all;
    if (!snapshots_read(instance, &all, err))
        return false;
    bool good = true;
    for (size_t i = 0; good && i < all.count; i++)
        if (all.list[i].state == SNAPSHOT_NEW)
            good = finish_new(instance, &all, &all.list[i], err);
    snapshots_clear(&all);
    return good;
}

/* ---- two images that become one ---- */

static char *path_of(const struct instance *instance, const char *name)
{
    char *path = NULL;
    if (name[0] == '/')
        return alloc_string(name);
    return asprintf(&path, "%s/%s", instance->path, name) > 0 ? path : NULL;
}

static void replace(char **text, const char *with)
{
    char *copy = with != NULL && with[0] != '\0' ? alloc_string(with) : NULL;
    free(*text);
    *text = copy;
}

/* What "merging" says. */
struct merging {
    const char *upper, *lower;
    const char *format;       /* of `lower` as its description calls it; NULL: unknown there */
    const char *image_format; /* as an image on top of it does */
    const char *backing;      /* what `lower` lies on; NULL: nothing that a description names */
};

static bool read_merging(const struct text *text, struct merging *merging, struct error **err)
{
    *merging =
        (struct merging){text_get(text, "upper"), text_get(text, "lower"), text_get(text, "format"),
                         text_get(text, "imageFormat"), text_get(text, "backing")};
    return (merging->upper != NULL && merging->lower != NULL && merging->image_format != NULL &&
            strncmp(merging->upper, "snapshots/", 10) == 0 &&
            strchr(merging->upper + 10, '/') == NULL) ||
           error_set(err, ERROR_HOST, "it does not say which images become one");
}

static bool write_merging(const struct instance *instance, const struct merging *merging,
                          struct error **err)
{
    struct text *text = text_new("merging");
    int folder = snapshots_folder(instance, err);
    text_set(text, "upper", merging->upper);
    text_set(text, "lower", merging->lower);
    text_set(text, "imageFormat", merging->image_format);
    if (merging->format != NULL)
        text_set(text, "format", merging->format);
    if (merging->backing != NULL)
        text_set(text, "backing", merging->backing);
    bool good = folder >= 0 && folder_write(folder, "merging", text, err);
    if (folder >= 0)
        close(folder);
    text_free(text);
    return good;
}

/* Images that lie on the upper one lie on the lower one. */
static bool retarget_images(const struct snapshot_family *family, const struct merging *merging,
                            struct error **err)
{
    bool good = true;
    for (size_t i = 0; good && i < snapshot_family_size(family); i++)
        for (size_t k = 0; good && k < family->configs[i].disk_count; k++) {
            const struct machine_disk *disk = &family->configs[i].disks[k];
            if (disk->backing == NULL || strcmp(disk->backing, merging->upper) != 0)
                continue;
            char *path = path_of(family->instance, disk->path);
            char *name = snapshot_name_below(merging->lower);
            good = client_disk_retarget(path, name, merging->image_format, err);
            free(path);
            free(name);
        }
    return good;
}

static bool retarget_config(struct machine_config *config, const struct merging *merging)
{
    bool changed = false;
    for (size_t i = 0; i < config->disk_count; i++) {
        struct machine_disk *disk = &config->disks[i];
        if (strcmp(disk->path, merging->upper) == 0) {
            replace(&disk->path, merging->lower);
            replace(&disk->format, merging->format);
            replace(&disk->backing, merging->backing);
            changed = true;
        } else if (disk->backing != NULL && strcmp(disk->backing, merging->upper) == 0) {
            replace(&disk->backing, merging->lower);
            changed = true;
        }
    }
    return changed;
}

/* Of the family's member `index`. */
static bool write_text(const struct snapshot_family *family, size_t index, struct error **err)
{
    const struct instance *instance = family->instance;
    const struct snapshot *snapshot = &family->all.list[index];
    bool own = index == family->all.count, good = false;
    struct text *text = own ? instance_read(instance, err) : snapshot_text(instance, snapshot, err);
    if (text == NULL)
        return false;
    vmx_update(text, &family->configs[index]);
    if (own) {
        good = instance_write(instance, text, err);
    } else {
        char path[64];
        snapshot_path(snapshot, "", path);
        int folder = openat(instance->fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        good = (folder >= 0 || error_set_errno(err, errno, "cannot open '%s'", path)) &&
               folder_write(folder, "machine.vmx", text, err);
        if (folder >= 0)
            close(folder);
    }
    text_free(text);
    return good;
}

static bool forget_upper(struct snapshot_family *family, const struct merging *merging,
                         struct error **err)
{
    const struct instance *instance = family->instance;
    bool good = retarget_images(family, merging, err);
    for (size_t i = 0; good && i < snapshot_family_size(family); i++)
        good = !retarget_config(&family->configs[i], merging) || write_text(family, i, err);
    int folder = good ? snapshots_folder(instance, err) : -1;
    if (folder < 0)
        return false;
    unlinkat(instance->fd, merging->upper, 0);
    fsync(folder);
    unlinkat(folder, "merging", 0);
    fsync(folder);
    close(folder);
    return true;
}

static bool finish_merging(const struct instance *instance, struct error **err)
{
    struct merging merging;
    struct snapshot_family family;
    char *path = path_of(instance, "snapshots/merging");
    struct text *text = text_load(path, err);
    bool good = text != NULL && read_merging(text, &merging, err) &&
                snapshot_family_read(instance, &family, err);
    if (good) {
        good = forget_upper(&family, &merging, err);
        snapshot_family_clear(&family);
    }
    if (!good)
        error_prefix(err, "'%s'", path);
    text_free(text);
    free(path);
    return good;
}

/* ---- snapshots that are no more ---- */

/* How many members are made upon it, and one of them. */
static size_t count_children(const struct snapshot_family *family, unsigned id, size_t *child)
{
    size_t count = 0;
    for (size_t i = 0; i < snapshot_family_size(family); i++) {
        bool own = i == family->all.count;
        if ((own ? family->all.current : family->all.list[i].parent) == id) {
            *child = i;
            count++;
        }
    }
    return count;
}

/* The one image on top of it; NULL: none, or several. */
static const char *only_upper(const struct snapshot_family *family, const char *lower)
{
    const char *upper = NULL;
    for (size_t i = 0; i < snapshot_family_size(family); i++)
        for (size_t k = 0; k < family->configs[i].disk_count; k++) {
            const struct machine_disk *disk = &family->configs[i].disks[k];
            if (disk->backing == NULL || strcmp(disk->backing, lower) != 0)
                continue;
            if (upper != NULL && strcmp(upper, disk->path) != 0)
                return NULL;
            upper = disk->path;
        }
    return upper;
}

/* Whether no other member has it as a disk of its own. */
static bool is_only(const struct snapshot_family *family, size_t index, const char *file)
{
    for (size_t i = 0; i < snapshot_family_size(family); i++)
        for (size_t k = 0; i != index && k < family->configs[i].disk_count; k++)
            if (strcmp(family->configs[i].disks[k].path, file) == 0)
                return false;
    return true;
}

/* As before a start: what a worker may have written to it names nothing else. */
static bool check_backing(const struct instance *instance, const struct machine_disk *disk,
                          struct error **err)
{
    struct machine_config config;
    struct client_disks disks;
    machine_config_init(&config);
    machine_disk_copy(&config.disks[config.disk_count++], disk);
    vmx_resolve(&config, instance->path);
    bool good = client_disks_open(&config, &disks, err);
    if (good) {
        good = backing_check(instance, &config, &disks, err);
        client_disks_close(&disks);
    }
    machine_config_clear(&config);
    return good;
}

static bool merge_disk(struct snapshot_family *family, size_t gone, size_t disk_index,
                       struct error **err)
{
    const struct instance *instance = family->instance;
    const struct machine_disk *disk = &family->configs[gone].disks[disk_index];
    const char *upper = only_upper(family, disk->path);
    if (upper == NULL || strncmp(upper, "snapshots/", 10) != 0 ||
        !is_only(family, gone, disk->path))
        return true; /* there is nothing to merge, or it has been */
    char *upper_name = alloc_string(upper), *lower_name = alloc_string(disk->path);
    char *upper_path = path_of(instance, upper), *lower_path = path_of(instance, disk->path);
    char *format = NULL;
    bool good = check_backing(instance, disk, err) &&
                client_disk_merge(upper_path, lower_path, &format, err);
    if (good) {
        const struct merging merging = {upper_name, lower_name, disk->format, format,
                                        disk->backing};
        good = write_merging(instance, &merging, err);
    }
    if (good) {
        snapshot_family_clear(family);
        good = finish_merging(instance, err) && snapshot_family_read(instance, family, err);
        if (!good)
            *family = (struct snapshot_family){.instance = instance};
    }
    free(format);
    free(upper_name);
    free(lower_name);
    free(upper_path);
    free(lower_path);
    return good;
}

static bool reparent(struct snapshot_family *family, size_t child, unsigned parent,
                     struct error **err)
{
    if (child == family->all.count) {
        family->configs[child].snapshot = parent;
        return write_text(family, child, err);
    }
    struct snapshot *snapshot = &family->all.list[child];
    char path[64];
    snapshot->parent = parent;
    snapshot_path(snapshot, "", path);
    int folder =
        openat(family->instance->fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    bool good = (folder >= 0 || error_set_errno(err, errno, "cannot open '%s'", path)) &&
                snapshot_write(folder, snapshot, err);
    if (folder >= 0)
        close(folder);
    return good;
}

/* Whether something changed, so that another look makes sense. */
static bool remove_gone(struct snapshot_family *family, size_t gone, bool merge, bool *changed,
                        struct error **err)
{
    const struct snapshot snapshot = family->all.list[gone];
    size_t child = 0, children = count_children(family, snapshot.id, &child);
    bool good = true;
    if (children > 1 || (children == 1 && !merge))
        return true;
    for (size_t i = 0; children == 1 && good && i < family->configs[gone].disk_count; i++)
        good = merge_disk(family, gone, i, err);
    /* What is removed in pieces is one that was never finished, to whoever sees the rest of it. */
    struct snapshot rest = snapshot;
    rest.state = SNAPSHOT_NEW;
    good = good && (children == 0 || reparent(family, child, snapshot.parent, err)) &&
           rename_to(family->instance, &snapshot, SNAPSHOT_NEW, err) &&
           remove_folder(family->instance, &rest);
    *changed = good;
    return good;
}

static bool remove_all_gone(const struct instance *instance, bool merge, struct error **err)
{
    struct snapshot_family family;
    bool good = true, changed = true;
    while (good && changed) {
        changed = false;
        good = snapshot_family_read(instance, &family, err);
        for (size_t i = family.all.count; good && !changed && i-- > 0;)
            if (family.all.list[i].state == SNAPSHOT_GONE)
                good = remove_gone(&family, i, merge, &changed, err);
        snapshot_family_clear(&family);
    }
    return good;
}

/* Images that nothing names. */
static bool remove_unnamed(const struct instance *instance, struct error **err)
{
    struct snapshot_family family;
    int fd = openat(instance->fd, "snapshots", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return true;
    DIR *listing = snapshot_family_read(instance, &family, err) ? fdopendir(fd) : NULL;
    bool good = listing != NULL;
    const struct dirent *entry;
    while (good && (entry = readdir(listing)) != NULL) {
        char name[NAME_MAX + 16];
        snprintf(name, sizeof(name), "snapshots/%s", entry->d_name);
        if (folder_is_description(entry->d_name, ".qcow2") && !is_named(&family, name))
            unlinkat(fd, entry->d_name, 0);
    }
    snapshot_family_clear(&family);
    if (listing != NULL)
        closedir(listing);
    else
        close(fd);
    unlinkat(instance->fd, "snapshots", AT_REMOVEDIR); /* if it is empty */
    return good;
}

/* ---- both ---- */

static bool there_is(const struct instance *instance, const char *file)
{
    return faccessat(instance->fd, file, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

bool snapshot_mend(const struct instance *instance, struct error **err)
{
    if (!there_is(instance, "snapshots"))
        return true;
    return (!there_is(instance, "snapshots/merging") || finish_merging(instance, err)) &&
           (!there_is(instance, "snapshots/restoring") ||
            snapshot_finish_restoring(instance, err)) &&
           finish_all_new(instance, err);
}

bool snapshot_tidy(const struct instance *instance, struct error **err)
{
    if (!there_is(instance, "snapshots"))
        return true;
    if (!snapshot_mend(instance, err))
        return false;
    char **clones = instance_clones(instance, err);
    if (clones == NULL)
        return false;
    bool alone = clones[0] == NULL;
    store_list_free(clones);
    /* What clones lie upon has to be a description's, even if the machine is elsewhere by now; and
     * a suspended machine looks whether its disks are as they were. */
    return !alone || (remove_all_gone(instance, !snapshot_is_suspended(instance), err) &&
                      remove_unnamed(instance, err));
}

void snapshot_thaw(const struct instance *instance)
{
    struct snapshots all;
    bool frozen = false;
    if (!there_is(instance, "snapshots") || !snapshots_read(instance, &all, NULL))
        return;
    for (size_t i = 0; i < all.count; i++)
        frozen = frozen || all.list[i].frozen;
    snapshots_clear(&all);
    if (frozen)
        (void)snapshot_tidy(instance, NULL);
}
