/* SPDX-License-Identifier: MIT
 *
 * See migrate_tree.h: the side that gets the snapshots. All of it is a stranger's.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/machine.h"
#include "archive/unpack.h"
#include "base/alloc.h"
#include "base/error.h"
#include "client/disk_merge.h"
#include "client/saved.h"
#include "config/vmx.h"
#include "daemon/folder.h"
#include "daemon/migrate_disks.h"
#include "daemon/migrate_tree.h"
#include "daemon/snapshot.h"

static bool sense(bool good, const char *what, struct error **err)
{
    return good || error_set(err, ERROR_HOST, "the snapshots that come make no sense: %s", what);
}

static const char *string_of(const json_t *row, const char *key)
{
    return json_string_value(json_object_get(row, key));
}

/* A number from 0 to `most`. */
static bool read_number(const json_t *row, const char *key, uint64_t most, uint64_t *number)
{
    const json_t *value = json_object_get(row, key);
    json_int_t own = json_integer_value(value);
    *number = own > 0 ? (uint64_t)own : 0;
    return json_is_integer(value) && own >= 0 && *number <= most;
}

/* ---- what may stay ---- */

/* Whether what a row speaks of is the same file here. */
static bool stays(const json_t *row, const json_t *proofs)
{
    struct machine_disk disk;
    const char *format = string_of(row, "format");
    machine_disk_init(&disk);
    disk.path = alloc_string(string_of(row, "file"));
    disk.read_only = true;
    disk.format = format != NULL ? alloc_string(format) : NULL;
    bool same = migrate_disks_sees(&disk, proofs);
    machine_disk_clear(&disk);
    return same;
}

json_t *migrate_tree_judge(const json_t *tree, bool runs, bool copies, struct error **err)
{
    const json_t *files = json_object_get(tree, "files"), *proofs = json_object_get(tree, "proofs");
    json_t *all = json_array();
    uint64_t bytes = 0, data = 0;
    bool good = sense(read_number(tree, "data", PACK_MAX_SIZE, &bytes) && json_is_array(files) &&
                          json_array_size(files) <= PACK_MAX_PARTS,
                      "what is offered", err);
    for (size_t i = 0; good && i < json_array_size(files); i++) {
        const json_t *row = json_array_get(files, i);
        const char *file = string_of(row, "file");
        good =
            sense(file != NULL && file[0] == '/' && read_number(row, "data", PACK_MAX_SIZE, &data),
                  "what is offered", err);
        bool same = good && stays(row, proofs);
        if (good && !same && runs && !copies) {
            good = error_set(err, ERROR_USAGE, "the target does not see the disk '%s'", file);
            error_hint(err, "--copy-storage brings along what is not on storage that both hosts "
                            "have under the same name.");
        }
        bytes += good && !same ? data : 0; /* 4096 of up to 2^50: no overflow */
        json_array_append_new(all, json_boolean(same));
    }
    if (good)
        return json_pack("{s:o, s:I}", "stays", all, "bytes", (json_int_t)bytes);
    json_decref(all);
    return NULL;
}

/* ---- what came ---- */

struct arriving {
    struct snapshot snapshot;
    uint64_t vmx, memory; /* parts */
};

struct unfolding {
    int folder;
    const char *name;
    struct unpacked *unpacked;
    const json_t *files; /* rows of the tree, checked */
    json_t *names;       /* {"disk.img": true, …} */
    const json_t *stays; /* the same of what lies elsewhere */
    bool *used;          /* of each part */
    struct arriving *snapshots;
    size_t count;
    unsigned current;
    uint64_t nvram; /* a part, if unpacked->has_nvram */
};

/* A part that nothing else is. */
static bool take_part(struct unfolding *u, const json_t *row, const char *key, uint64_t *part)
{
    size_t count = json_array_size(u->unpacked->files);
    bool good = read_number(row, key, PACK_MAX_PARTS, part) && *part < count && !u->used[*part];
    if (good)
        u->used[*part] = true;
    return good;
}

static bool is_there(const struct unfolding *u, const char *name)
{
    return json_object_get(name[0] == '/' ? u->stays : u->names, name) != NULL;
}

/* Also on a file system that does not tell upper case from lower. */
static bool add_name(const struct unfolding *u, const char *name)
{
    const char *other;
    json_t *value;
    if (!migrate_tree_name_check(name))
        return false;
    json_object_foreach(u->names, other, value) if (strcasecmp(other, name) == 0) return false;
    return json_object_set_new(u->names, name, json_true()) == 0;
}

static bool read_files(struct unfolding *u, struct error **err)
{
    const json_t *row;
    size_t index;
    uint64_t part;
    bool good = sense(json_is_array(u->files), "its files", err);
    json_array_foreach(u->files, index, row)
    {
        const char *as = string_of(row, "as");
        good = good && sense(take_part(u, row, "part", &part) && as != NULL && add_name(u, as),
                             "a file's name", err);
    }
    json_array_foreach(u->files, index, row)
    {
        const char *below = string_of(row, "below");
        good = good && sense(below == NULL || is_there(u, below), "what an image lies upon", err);
    }
    return good;
}

static bool is_known(const struct unfolding *u, unsigned id)
{
    for (size_t i = 0; i < u->count; i++)
        if (u->snapshots[i].snapshot.id == id)
            return true;
    return id == 0;
}

static bool is_named(const struct unfolding *u, const char *name)
{
    for (size_t i = 0; i < u->count; i++)
        if (u->snapshots[i].snapshot.state == SNAPSHOT_WHOLE &&
            strcmp(u->snapshots[i].snapshot.name, name) == 0)
            return true;
    return false;
}

static bool read_snapshot(struct unfolding *u, const json_t *row, struct error **err)
{
    struct arriving *arriving = &u->snapshots[u->count];
    struct snapshot *snapshot = &arriving->snapshot;
    unsigned last = u->count > 0 ? arriving[-1].snapshot.id : 0;
    const char *name = string_of(row, "name");
    bool gone = json_is_true(json_object_get(row, "gone"));
    uint64_t id = 0, parent = 0, made = 0;
    if (!sense(read_number(row, "id", INT_MAX, &id) && id > last &&
                   read_number(row, "parent", id - 1, &parent) && is_known(u, (unsigned)parent) &&
                   read_number(row, "created", INT64_MAX, &made),
               "their numbers", err) ||
        !sense(name != NULL && instance_name_check(name, NULL) && (gone || !is_named(u, name)),
               "their names", err))
        return false;
    *snapshot = (struct snapshot){.id = (unsigned)id,
                                  .parent = (unsigned)parent,
                                  .made = (int64_t)made,
                                  .state = gone ? SNAPSHOT_GONE : SNAPSHOT_WHOLE,
                                  .memory = json_object_get(row, "memory") != NULL};
    snprintf(snapshot->name, sizeof(snapshot->name), "%s", name);
    u->count++;
    return sense(take_part(u, row, "vmx", &arriving->vmx) && (!snapshot->memory || !gone) &&
                     (!snapshot->memory || take_part(u, row, "memory", &arriving->memory)),
                 "their parts", err);
}

static bool read_tree(struct unfolding *u, struct error **err)
{
    const json_t *rows = json_object_get(u->unpacked->tree, "snapshots"), *row;
    size_t index, parts = json_array_size(u->unpacked->files);
    uint64_t current;
    if (!read_files(u, err) ||
        !sense(json_is_array(rows) && json_array_size(rows) <= 2 * SNAPSHOT_MAX, "their number",
               err))
        return false;
    u->snapshots = alloc_zeroed(json_array_size(rows) + 1, sizeof(*u->snapshots));
    json_array_foreach(rows, index, row) if (!read_snapshot(u, row, err)) return false;
    u->unpacked->has_nvram = json_object_get(u->unpacked->tree, "nvram") != NULL;
    if (u->unpacked->has_nvram &&
        !sense(take_part(u, u->unpacked->tree, "nvram", &u->nvram), "its .nvram", err))
        return false;
    for (size_t i = 0; i < parts; i++)
        if (!sense(u->used[i], "a part is nothing", err))
            return false;
    if (!sense(read_number(u->unpacked->tree, "current", INT_MAX, &current) &&
                   is_known(u, (unsigned)current),
               "which one the machine is upon", err))
        return false;
    u->current = (unsigned)current;
    return true;
}

/* ---- files ---- */

static bool name_part(const struct unfolding *u, uint64_t part, const char *name,
                      struct error **err)
{
    char before[PACK_MAX_NAME + 1];
    snprintf(before, sizeof(before), PACK_PART "%llu", (unsigned long long)part);
    return renameat2(u->folder, before, u->folder, name, RENAME_NOREPLACE) == 0 ||
           error_set_errno(err, errno, "cannot make '%s'", name);
}

static bool name_files(const struct unfolding *u, struct error **err)
{
    const json_t *row;
    size_t index;
    uint64_t part;
    if (mkdirat(u->folder, "snapshots", 0700) != 0)
        return error_set_errno(err, errno, "cannot make a folder for the snapshots");
    json_array_foreach(u->files, index, row)
    {
        (void)read_number(row, "part", PACK_MAX_PARTS, &part);
        if (!name_part(u, part, string_of(row, "as"), err))
            return false;
    }
    return true;
}

/* Images that lie upon something which is called otherwise here. */
static bool retarget_all(const struct unfolding *u, struct error **err)
{
    const json_t *row;
    size_t index;
    bool good = true;
    json_array_foreach(u->files, index, row)
    {
        const char *as = string_of(row, "as"), *below = string_of(row, "below");
        char path[MIGRATE_TREE_NAME + 40];
        if (!good || below == NULL)
            continue;
        bool layer = strncmp(as, "snapshots/", 10) == 0;
        char *name = layer ? snapshot_name_below(below) : alloc_string(below);
        snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", u->folder, as);
        good = client_disk_retarget(path, name, NULL, err);
        free(name);
    }
    return good;
}

/* ---- descriptions ---- */

/* Whether a disk of a description reaches nothing else. */
static bool check_disk(const struct unfolding *u, const struct machine_disk *disk,
                       struct error **err)
{
    bool server = strncmp(disk->path, "nbd://", 6) == 0 || strncmp(disk->path, "nbds://", 7) == 0;
    return sense(server || (disk->path[0] == '\0' && disk->media != 0) || is_there(u, disk->path),
                 "a description has another disk", err) &&
           sense(disk->backing == NULL || is_there(u, disk->backing),
                 "a description has something else below a disk", err);
}

/* Of a machine that runs: only what comes as a file is the description's. */
static bool check_disks(const struct unfolding *u, struct machine_config *config,
                        const json_t *words, struct error **err)
{
    bool good = true;
    for (size_t i = 0; good && i < config->disk_count; i++) {
        struct machine_disk *disk = &config->disks[i];
        bool top = migrate_disks_is(words, i, "top");
        if (top)
            good = sense(disk->backing != NULL && is_there(u, disk->backing) &&
                             !is_there(u, disk->path),
                         "a layer", err);
        else if (words == NULL || migrate_disks_is(words, i, "file"))
            good = check_disk(u, disk, err);
    }
    return good;
}

static bool is_allowed(const char *name)
{
    return instance_file_check(name, NULL);
}

/* Everything but the disks, as of any stranger's. */
static bool adopt_rest(const struct unfolding *u, struct text *text, struct error **err)
{
    struct unpacked other = {.text = text, .notes = u->unpacked->notes, .files = json_array()};
    const char *name;
    json_t *value;
    json_object_foreach(u->names, name,
                        value) if (strchr(name, '/') == NULL) /* layers are nothing but disks */
        json_array_append_new(other.files, json_pack("{s:s}", "name", name));
    bool good = machine_adopt(&other, u->name, MACHINE_KEEP_IDENTITY | MACHINE_KEEP_NETWORKS,
                              is_allowed, err);
    json_decref(other.files);
    return good;
}

static void drop_disks(struct machine_config *config)
{
    for (size_t i = 0; i < config->disk_count; i++)
        machine_disk_clear(&config->disks[i]);
    config->disk_count = 0;
}

static bool adopt(const struct unfolding *u, struct text *text, unsigned upon, const json_t *words,
                  struct error **err)
{
    struct machine_config whole, rest;
    machine_config_init(&whole);
    machine_config_init(&rest);
    bool good = vmx_read(text, &whole, NULL, err) && check_disks(u, &whole, words, err) &&
                vmx_read(text, &rest, NULL, err);
    if (good) {
        drop_disks(&rest);
        vmx_update(text, &rest);
        good = adopt_rest(u, text, err);
    }
    machine_config_clear(&rest);
    machine_config_init(&rest);
    if (good && vmx_read(text, &rest, NULL, err)) {
        for (size_t i = 0; i < whole.disk_count; i++)
            machine_disk_copy(&rest.disks[rest.disk_count++], &whole.disks[i]);
        rest.snapshot = upon;
        good = machine_config_check_parts(&rest, err);
        vmx_update(text, &rest);
    } else {
        good = false;
    }
    machine_config_clear(&whole);
    machine_config_clear(&rest);
    return good;
}

static struct text *read_text(const struct unfolding *u, uint64_t part, struct error **err)
{
    char name[PACK_MAX_NAME + 1];
    struct stat status;
    struct text *text = NULL;
    snprintf(name, sizeof(name), PACK_PART "%llu", (unsigned long long)part);
    int fd = openat(u->folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool good = fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
                status.st_size <= (off_t)TEXT_MAX_SIZE;
    char *bytes = good ? alloc_zeroed(1, (size_t)status.st_size + 1) : NULL;
    if (sense(good && pread(fd, bytes, (size_t)status.st_size, 0) == status.st_size,
              "a description", err))
        text = text_parse(bytes, (size_t)status.st_size, "machine.vmx", err);
    free(bytes);
    if (fd >= 0)
        close(fd);
    unlinkat(u->folder, name, 0);
    return text;
}

/* ---- snapshots ---- */

/* Names of files that a stranger wrote into it are replaced, too. */
static bool place_memory(const struct unfolding *u, const struct arriving *arriving,
                         const struct text *text, struct error **err)
{
    char path[64];
    size_t size;
    snapshot_path(&arriving->snapshot, "memory.vmss", path);
    if (!name_part(u, arriving->memory, path, err))
        return false;
    int fd = openat(u->folder, path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    char *bytes = text_write(text, &size);
    bool good = fd >= 0 ? saved_replace(fd, SAVED_MACHINE, bytes, size, err) &&
                              (fsync(fd) == 0 || error_set_errno(err, errno, "cannot keep it"))
                        : error_set_errno(err, errno, "cannot open it");
    if (!good)
        error_prefix(err, "the memory of the snapshot '%s'", arriving->snapshot.name);
    free(bytes);
    if (fd >= 0)
        close(fd);
    return good;
}

static bool place_snapshot(const struct unfolding *u, const struct arriving *arriving,
                           struct error **err)
{
    const struct snapshot *snapshot = &arriving->snapshot;
    char path[64];
    int folder = -1;
    snapshot_path(snapshot, "", path);
    struct text *text = read_text(u, arriving->vmx, err);
    bool good = text != NULL && adopt(u, text, snapshot->parent, NULL, err);
    if (good && mkdirat(u->folder, path, 0700) == 0)
        folder = openat(u->folder, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (good && folder < 0)
        good = error_set_errno(err, errno, "cannot make '%s'", path);
    good = good && snapshot_write(folder, snapshot, err) &&
           folder_write(folder, "machine.vmx", text, err) &&
           (!snapshot->memory || place_memory(u, arriving, text, err)) &&
           (fsync(folder) == 0 || error_set_errno(err, errno, "cannot keep '%s'", path));
    if (folder >= 0)
        close(folder);
    text_free(text);
    if (!good)
        error_prefix(err, "snapshot '%s'", snapshot->name);
    return good;
}

/* What was said of each of many descriptions is said once. */
static void drop_repeated(json_t *notes)
{
    for (size_t i = json_array_size(notes); i-- > 0;)
        for (size_t k = 0; k < i; k++)
            if (json_equal(json_array_get(notes, i), json_array_get(notes, k))) {
                json_array_remove(notes, i);
                break;
            }
}

static bool sync_folder(const struct unfolding *u, struct error **err)
{
    int folder = openat(u->folder, "snapshots", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    bool good = folder >= 0 && fsync(folder) == 0 && fsync(u->folder) == 0;
    if (!good)
        error_set_errno(err, errno, "cannot keep the snapshots");
    if (folder >= 0)
        close(folder);
    return good;
}

static bool unfold(struct unfolding *u, const json_t *words, const json_t *live, struct error **err)
{
    bool good = read_tree(u, err) && name_files(u, err) && retarget_all(u, err) &&
                (!u->unpacked->has_nvram || name_part(u, u->nvram, PACK_NVRAM, err));
    for (size_t i = 0; good && i < u->count; i++)
        good = place_snapshot(u, &u->snapshots[i], err);
    good = good && adopt(u, u->unpacked->text, u->current, words, err) &&
           migrate_disks_make(u->folder, u->unpacked->text, words, live, true, err) &&
           sync_folder(u, err);
    drop_repeated(u->unpacked->notes);
    return good;
}

bool migrate_tree_unfold(int folder, const char *name, struct unpacked *unpacked,
                         const json_t *stays_here, const json_t *words, const json_t *live,
                         struct error **err)
{
    struct unfolding u = {.folder = folder,
                          .name = name,
                          .unpacked = unpacked,
                          .files = json_object_get(unpacked->tree, "files"),
                          .names = json_object(),
                          .stays = stays_here,
                          .used = alloc_zeroed(PACK_MAX_PARTS, sizeof(*u.used))};
    bool good = unfold(&u, words, live, err);
    json_decref(u.names);
    free(u.used);
    free(u.snapshots);
    return good;
}
