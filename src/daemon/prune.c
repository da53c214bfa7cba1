/* SPDX-License-Identifier: MIT
 *
 * See prune.h.
 */
#include "daemon/prune.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "client/disks.h"
#include "daemon/folder.h"
#include "daemon/snapshot.h"

/* Files that some machine of the store needs. */
struct needed {
    struct {
        uint64_t device, inode;
    } * list;
    size_t count;
};

static void need(void *opaque, const char *path, const struct stat *status)
{
    struct needed *needed = opaque;
    (void)path;
    needed->list = alloc_resize(needed->list, needed->count + 1, sizeof(*needed->list));
    needed->list[needed->count].device = status->st_dev;
    needed->list[needed->count++].inode = status->st_ino;
}

static bool is_needed(const struct needed *needed, const struct stat *status)
{
    for (size_t i = 0; i < needed->count; i++)
        if (needed->list[i].device == status->st_dev && needed->list[i].inode == status->st_ino)
            return true;
    return false;
}

static bool need_config(struct needed *needed, const struct machine_config *config,
                        struct error **err)
{
    bool good = true;
    for (size_t i = 0; good && i < config->disk_count; i++)
        good = client_disk_files(&config->disks[i], need, needed, err);
    const char *const others[] = {config->kernel, config->initrd, config->firmware};
    for (size_t i = 0; good && i < sizeof(others) / sizeof(others[0]); i++) {
        struct stat status;
        if (others[i] != NULL && stat(others[i], &status) == 0)
            need(needed, others[i], &status);
    }
    return good;
}

/* Its snapshots', too. */
static bool need_all_of(struct needed *needed, const struct instance *instance, struct error **err)
{
    struct snapshot_family family;
    if (!snapshot_family_read(instance, &family, err))
        return false;
    bool good = true;
    for (size_t i = 0; good && i < snapshot_family_size(&family); i++) {
        vmx_resolve(&family.configs[i], instance->path);
        good = need_config(needed, &family.configs[i], err);
    }
    snapshot_family_clear(&family);
    return good;
}

static bool find_needed(const struct store *store, char *const *names, struct needed *needed,
                        struct error **err)
{
    bool good = true;
    for (; good && *names != NULL; names++) {
        struct instance instance;
        good = instance_open(&instance, store, *names, err);
        if (good) {
            good = need_all_of(needed, &instance, err);
            instance_close(&instance);
        }
    }
    return good;
}

/* Notes and keys of the user's own stay out of it. */
static bool is_image_file(const char *name)
{
    static const char *const endings[] = {".img", ".raw", ".qcow2", ".iso", ".vmdk"};
    for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++)
        if (folder_is_description(name, endings[i]))
            return true;
    return false;
}

static void propose(json_t *items, const char *kind, const struct instance *instance,
                    const char *path, const char *why, int64_t since, uint64_t size)
{
    json_t *item =
        json_pack("{s:s, s:s, s:s, s:s, s:I, s:I}", "kind", kind, "name", instance->name, "path",
                  path, "why", why, "since", (json_int_t)since, "size", (json_int_t)size);
    if (item != NULL) /* a name that is no UTF-8 */
        json_array_append_new(items, item);
}

static void find_orphans(const struct instance *instance, const struct needed *needed,
                         json_t *items)
{
    int fd = openat(instance->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    while (listing != NULL && (entry = readdir(listing)) != NULL) {
        struct stat status;
        char *path = NULL;
        if (!is_image_file(entry->d_name) ||
            fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISREG(status.st_mode) || is_needed(needed, &status))
            continue;
        if (asprintf(&path, "%s/%s", instance->path, entry->d_name) > 0)
            propose(items, "file", instance, path, "orphaned", status.st_mtime,
                    (uint64_t)status.st_blocks * 512);
        free(path);
    }
    if (listing != NULL)
        closedir(listing);
    else if (fd >= 0)
        close(fd);
}

static bool has_clones(const struct instance *instance)
{
    char **names = instance->is_template ? instance_clones(instance, NULL) : NULL;
    bool has = instance->is_template && (names == NULL || names[0] != NULL);
    store_list_free(names);
    return has;
}

/* Whether the instance itself is proposed; its files need not be, then. */
static bool propose_instance(const struct instance *instance, long long unused, json_t *items)
{
    struct machine_config config;
    struct instance_usage usage;
    int64_t now = (int64_t)time(NULL), expires = INT64_MAX;
    machine_config_init(&config);
    bool readable = instance_config(instance, &config, NULL, NULL);
    if (!readable || config.expires == NULL || !machine_parse_time(config.expires, &expires))
        expires = INT64_MAX;
    machine_config_clear(&config);
    if (!readable || has_clones(instance))
        return false;
    instance_usage(instance, &usage);
    int64_t last = usage.used != 0 ? usage.used : usage.made;
    bool expired = expires <= now, idle = !instance->is_template && last <= now - unused;
    if (expired || idle)
        propose(items, "instance", instance, instance->path, expired ? "expired" : "unused",
                expired ? expires : last, usage.bytes);
    return expired || idle;
}

json_t *prune_find(const struct store *store, long long unused, struct error **err)
{
    struct error *unknown = NULL;
    struct needed needed = {NULL, 0};
    char **names = store_list(store, err);
    if (names == NULL)
        return NULL;
    bool known = find_needed(store, names, &needed, &unknown);
    json_t *items = json_array();
    for (size_t i = 0; names[i] != NULL; i++) {
        struct instance instance;
        if (!instance_open(&instance, store, names[i], NULL))
            continue;
        if (!instance_is_locked(&instance) && !propose_instance(&instance, unused, items) && known)
            find_orphans(&instance, &needed, items);
        instance_close(&instance);
    }
    json_t *answer = json_pack("{s:o}", "items", items);
    if (!known)
        json_object_set_new(
            answer, "unknown",
            json_sprintf("orphaned images were not looked for: %s", error_message(unknown)));
    error_free(unknown);
    free(needed.list);
    store_list_free(names);
    return answer;
}

/* Nobody starts the instance meanwhile or attaches the file to it: we have its lock. */
static bool remove_orphan(const struct store *store, const char *path)
{
    struct instance instance;
    struct needed needed = {NULL, 0};
    const char *file = strrchr(path, '/');
    const char *folder = file != NULL ? memrchr(path, '/', (size_t)(file - path)) : NULL;
    char name[INSTANCE_MAX_NAME + 1] = "";
    if (folder == NULL || (size_t)(file - folder - 1) >= sizeof(name))
        return false;
    memcpy(name, folder + 1, (size_t)(file - folder - 1));
    if (!instance_open_locked(&instance, store, name, NULL))
        return false;
    char **names = store_list(store, NULL);
    bool good = names != NULL && find_needed(store, names, &needed, NULL);
    json_t *orphans = json_array(), *item;
    size_t index;
    bool gone = false;
    if (good)
        find_orphans(&instance, &needed, orphans);
    json_array_foreach(orphans, index, item)
    {
        if (strcmp(json_string_value(json_object_get(item, "path")), path) == 0)
            gone = unlinkat(instance.fd, file + 1, 0) == 0;
    }
    json_decref(orphans);
    free(needed.list);
    store_list_free(names);
    instance_close(&instance);
    return gone;
}

json_t *prune_files(const struct store *store, const json_t *files, struct error **err)
{
    json_t *deleted = json_array(), *kept = json_array(), *file;
    size_t index;
    (void)err;
    json_array_foreach(files, index, file)
    {
        const char *path = json_string_value(file);
        if (path != NULL)
            json_array_append(remove_orphan(store, path) ? deleted : kept, file);
    }
    return json_pack("{s:o, s:o}", "deleted", deleted, "kept", kept);
}
