/* SPDX-License-Identifier: MIT
 *
 * See snapshot.h: what there is.
 */
#include "daemon/snapshot.h"

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
#include "daemon/folder.h"

static const char *const prefixes[] = {
    [SNAPSHOT_WHOLE] = "", [SNAPSHOT_NEW] = ".new-", [SNAPSHOT_GONE] = ".gone-"};

void snapshot_path(const struct snapshot *snapshot, const char *file, char path[64])
{
    snprintf(path, 64, "snapshots/%s%u%s%s", prefixes[snapshot->state], snapshot->id,
             file[0] != '\0' ? "/" : "", file);
}

/* ---- one ---- */

static bool read_number(const struct text *text, const char *key, uint64_t most, uint64_t *number)
{
    const char *value = text_get(text, key);
    char *end;
    if (value == NULL || value[0] < '0' || value[0] > '9')
        return value == NULL;
    errno = 0;
    *number = strtoull(value, &end, 10);
    return errno == 0 && *end == '\0' && *number <= most;
}

bool snapshot_parse(const char *bytes, size_t size, unsigned id, struct snapshot *snapshot,
                    struct error **err)
{
    struct text *text = text_parse(bytes, size, "description", err);
    if (text == NULL)
        return false;
    const char *name = text_get(text, "displayName"), *memory = text_get(text, "memory"),
               *frozen = text_get(text, "frozen");
    uint64_t parent = 0, made = 0;
    bool good = name != NULL && instance_name_check(name, NULL) &&
                read_number(text, "parent", id > 0 ? id - 1 : 0, &parent) &&
                read_number(text, "created", INT64_MAX, &made);
    *snapshot = (struct snapshot){.id = id,
                                  .parent = (unsigned)parent,
                                  .made = (int64_t)made,
                                  .memory = memory != NULL && strcasecmp(memory, "TRUE") == 0,
                                  .frozen = frozen != NULL && strcasecmp(frozen, "TRUE") == 0};
    if (good)
        snprintf(snapshot->name, sizeof(snapshot->name), "%s", name);
    text_free(text);
    return good || error_set(err, ERROR_HOST, "it is no description of a snapshot");
}

bool snapshot_write(int folder, const struct snapshot *snapshot, struct error **err)
{
    struct text *text = text_new("description");
    char number[24];
    text_set(text, "displayName", snapshot->name);
    snprintf(number, sizeof(number), "%u", snapshot->parent);
    text_set(text, "parent", number);
    snprintf(number, sizeof(number), "%lld", (long long)snapshot->made);
    text_set(text, "created", number);
    text_set(text, "memory", snapshot->memory ? "TRUE" : "FALSE");
    if (snapshot->frozen)
        text_set(text, "frozen", "TRUE");
    bool good = folder_write(folder, "description", text, err);
    text_free(text);
    return good;
}

/* Whether a folder's name is one of ours. */
static bool parse_name(const char *name, struct snapshot *snapshot)
{
    static const enum snapshot_state states[] = {SNAPSHOT_NEW, SNAPSHOT_GONE, SNAPSHOT_WHOLE};
    size_t i = 0;
    char *end;
    while (strncmp(name, prefixes[states[i]], strlen(prefixes[states[i]])) != 0)
        i++;
    name += strlen(prefixes[states[i]]);
    errno = 0;
    unsigned long id = name[0] >= '1' && name[0] <= '9' ? strtoul(name, &end, 10) : 0;
    if (id == 0 || errno != 0 || *end != '\0' || id > INT_MAX)
        return false;
    *snapshot = (struct snapshot){.id = (unsigned)id, .state = states[i]};
    return true;
}

static bool read_one(const struct instance *instance, struct snapshot *snapshot, struct error **err)
{
    enum { MOST = 16 << 10 };
    char path[64], bytes[MOST];
    enum snapshot_state state = snapshot->state;
    snapshot_path(snapshot, "description", path);
    int fd = openat(instance->fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t size = fd >= 0 ? read(fd, bytes, sizeof(bytes)) : -1;
    bool good = size >= 0 || error_set_errno(err, errno, "cannot read it");
    if (fd >= 0)
        close(fd);
    good = good && snapshot_parse(bytes, (size_t)size, snapshot->id, snapshot, err);
    snapshot->state = state;
    if (!good)
        error_prefix(err, "'%s/%s'", instance->path, path);
    return good;
}

/* ---- all ---- */

static int compare(const void *one, const void *other)
{
    const struct snapshot *a = one, *b = other;
    return (a->id > b->id) - (a->id < b->id);
}

static bool add(const struct instance *instance, struct snapshots *all, const char *name,
                struct error **err)
{
    struct snapshot found;
    if (!parse_name(name, &found))
        return true;
    if (all->count == 2 * SNAPSHOT_MAX)
        return error_set(err, ERROR_USAGE, "'%s' has too many snapshots", instance->name);
    bool is_new = found.state == SNAPSHOT_NEW; /* and has perhaps nothing yet */
    if (!read_one(instance, &found, is_new ? NULL : err) && !is_new)
        return false;
    all->list = alloc_resize(all->list, all->count + 1, sizeof(*all->list));
    all->list[all->count++] = found;
    return true;
}

static bool read_current(const struct instance *instance, struct snapshots *all, struct error **err)
{
    struct machine_config config;
    machine_config_init(&config);
    bool good = instance_config(instance, &config, NULL, err);
    all->current = config.snapshot;
    machine_config_clear(&config);
    return good;
}

bool snapshots_read(const struct instance *instance, struct snapshots *all, struct error **err)
{
    *all = (struct snapshots){NULL, 0, 0};
    bool good = read_current(instance, all, err);
    int fd =
        good ? openat(instance->fd, "snapshots", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
             : -1;
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    if (good && fd < 0 && errno != ENOENT)
        good = error_set_errno(err, errno, "cannot list '%s/snapshots'", instance->path);
    while (good && listing != NULL && (entry = readdir(listing)) != NULL)
        good = add(instance, all, entry->d_name, err);
    if (listing != NULL)
        closedir(listing);
    if (all->count > 0)
        qsort(all->list, all->count, sizeof(*all->list), compare);
    if (!good)
        snapshots_clear(all);
    return good;
}

void snapshots_clear(struct snapshots *all)
{
    free(all->list);
    *all = (struct snapshots){NULL, 0, 0};
}

const struct snapshot *snapshots_find(const struct snapshots *all, unsigned id)
{
    for (size_t i = 0; i < all->count; i++)
        if (all->list[i].id == id)
            return &all->list[i];
    return NULL;
}

const struct snapshot *snapshots_named(const struct snapshots *all, const char *name,
                                       struct error **err)
{
    for (size_t i = 0; i < all->count; i++)
        if (all->list[i].state == SNAPSHOT_WHOLE && strcmp(all->list[i].name, name) == 0)
            return &all->list[i];
    error_set(err, ERROR_USAGE, "there is no snapshot '%.80s'", name);
    error_hint(err, "'trapeze snapshot list' has them.");
    return NULL;
}

unsigned snapshots_whole(const struct snapshots *all, unsigned id)
{
    const struct snapshot *at = snapshots_find(all, id);
    while (at != NULL && at->state != SNAPSHOT_WHOLE)
        at = snapshots_find(all, at->parent); /* whose number is smaller */
    return at != NULL ? at->id : 0;
}

/* ---- their files ---- */

struct text *snapshot_text(const struct instance *instance, const struct snapshot *snapshot,
                           struct error **err)
{
    char name[64], *path = NULL;
    snapshot_path(snapshot, "machine.vmx", name);
    if (asprintf(&path, "%s/%s", instance->path, name) < 0)
        return NULL;
    struct text *text = text_load(path, err);
    free(path);
    return text;
}

bool snapshot_config(const struct instance *instance, const struct snapshot *snapshot,
                     struct machine_config *config, struct error **err)
{
    struct text *text = snapshot_text(instance, snapshot, err);
    bool good = text != NULL && vmx_read(text, config, NULL, err);
    text_free(text);
    return good;
}

size_t snapshot_family_size(const struct snapshot_family *family)
{
    return family->all.count + 1;
}

void snapshot_family_clear(struct snapshot_family *family)
{
    for (size_t i = 0; family->configs != NULL && i < snapshot_family_size(family); i++)
        machine_config_clear(&family->configs[i]);
    free(family->configs);
    family->configs = NULL;
    snapshots_clear(&family->all);
}

bool snapshot_family_read(const struct instance *instance, struct snapshot_family *family,
                          struct error **err)
{
    *family = (struct snapshot_family){.instance = instance};
    if (!snapshots_read(instance, &family->all, err))
        return false;
    family->configs = alloc_zeroed(snapshot_family_size(family), sizeof(*family->configs));
    for (size_t i = 0; i < snapshot_family_size(family); i++)
        machine_config_init(&family->configs[i]);
    struct text *text = instance_read(instance, err);
    bool good = text != NULL && vmx_read(text, &family->configs[family->all.count], NULL, err);
    for (size_t i = 0; good && i < family->all.count; i++)
        /* A new one may have no description yet, unless the machine is on top of it already. */
        good = (family->all.list[i].state == SNAPSHOT_NEW &&
                family->all.list[i].id != family->all.current) ||
               snapshot_config(instance, &family->all.list[i], &family->configs[i], err);
    text_free(text);
    if (!good)
        snapshot_family_clear(family);
    return good;
}

int snapshots_folder(const struct instance *instance, struct error **err)
{
    bool made = mkdirat(instance->fd, "snapshots", 0700) == 0;
    int fd = openat(instance->fd, "snapshots", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || (made && fsync(instance->fd) != 0)) {
        error_set_errno(err, errno, "cannot make '%s/snapshots'", instance->path);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

bool snapshot_is_suspended(const struct instance *instance)
{
    return faccessat(instance->fd, INSTANCE_SAVED, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static bool lies_elsewhere(const struct instance *instance, const char *file)
{
    size_t length = strlen(instance->path);
    return file[0] == '/' && (strncmp(file, instance->path, length) != 0 || file[length] != '/');
}

bool snapshot_check_nothing_lost(const struct instance *instance, struct error **err)
{
    struct snapshot_family family;
    bool good = true;
    if (faccessat(instance->fd, "snapshots", F_OK, AT_SYMLINK_NOFOLLOW) != 0 ||
        !snapshot_family_read(instance, &family, NULL))
        return true;
    for (size_t i = 0; good && i < family.all.count; i++)
        for (size_t k = 0; good && k < family.configs[i].disk_count; k++) {
            const struct machine_disk *disk = &family.configs[i].disks[k];
            if (disk->read_only || disk->media != 0 || !lies_elsewhere(instance, disk->path))
                continue;
            good = error_set(
                err, ERROR_USAGE,
                "disk '%s' is not in the instance's folder, and what was written to it since "
                "'%s' is: it would be lost",
                disk->path, family.all.list[i].name);
            error_hint(err, "Delete the snapshots first: that brings it there.");
        }
    snapshot_family_clear(&family);
    return good;
}

/* ---- telling ---- */

static uint64_t used_by(const struct instance *instance, const char *path)
{
    struct stat status;
    return fstatat(instance->fd, path, &status, 0) == 0 && S_ISREG(status.st_mode)
               ? (uint64_t)status.st_blocks * 512
               : 0;
}

/* What was written to the disks from the one before until then; of the first one: what there was.
 */
static uint64_t disks_of(const struct instance *instance, const struct snapshot *snapshot)
{
    struct machine_config config;
    uint64_t bytes = 0;
    machine_config_init(&config);
    if (snapshot_config(instance, snapshot, &config, NULL))
        for (size_t i = 0; i < config.disk_count; i++)
            if (!config.disks[i].read_only && config.disks[i].media == 0)
                bytes += used_by(instance, config.disks[i].path);
    machine_config_clear(&config);
    return bytes;
}

static json_t *describe(const struct instance *instance, const struct snapshots *all,
                        const struct snapshot *snapshot)
{
    char path[64];
    snapshot_path(snapshot, "memory.vmss", path);
    const struct snapshot *parent = snapshots_find(all, snapshots_whole(all, snapshot->parent));
    json_t *row = json_pack(
        "{s:i, s:s, s:I, s:b, s:I, s:I, s:b}", "id", (int)snapshot->id, "name", snapshot->name,
        "created", (json_int_t)snapshot->made, "memory", (int)snapshot->memory, "memory-size",
        (json_int_t)used_by(instance, path), "disk-size", (json_int_t)disks_of(instance, snapshot),
        "current", (int)(snapshots_whole(all, all->current) == snapshot->id));
    if (parent != NULL)
        json_object_set_new(row, "parent", json_string(parent->name));
    return row;
}

json_t *snapshot_list(const struct instance *instance, struct error **err)
{
    struct snapshots all;
    if (!snapshots_read(instance, &all, err))
        return NULL;
    json_t *rows = json_array();
    uint64_t deleted = 0;
    for (size_t i = 0; i < all.count; i++)
        if (all.list[i].state == SNAPSHOT_WHOLE)
            json_array_append_new(rows, describe(instance, &all, &all.list[i]));
        else if (all.list[i].state == SNAPSHOT_GONE)
            deleted += disks_of(instance, &all.list[i]);
    snapshots_clear(&all);
    return json_pack("{s:s, s:o, s:I}", "name", instance->name, "snapshots", rows, "deleted-size",
                     (json_int_t)deleted);
}
