/* SPDX-License-Identifier: MIT
 *
 * See backing.h.
 */
#include "daemon/backing.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "client/disks.h"
#include "daemon/snapshot.h"

/* "web" of a file in that instance's folder; false: it is elsewhere. */
static bool owner_of(const struct store *store, const char *path, char owner[INSTANCE_MAX_NAME + 1])
{
    char instances[PATH_MAX], full[PATH_MAX], plain[PATH_MAX];
    if (snprintf(plain, sizeof(plain), "%s/instances", store->path) >= (int)sizeof(plain) ||
        realpath(plain, instances) == NULL || realpath(path, full) == NULL)
        return false;
    size_t length = strlen(instances);
    const char *name = full + length + 1;
    if (strncmp(full, instances, length) != 0 || full[length] != '/' ||
        strcspn(name, "/") > INSTANCE_MAX_NAME)
        return false;
    snprintf(owner, INSTANCE_MAX_NAME + 1, "%.*s", (int)strcspn(name, "/"), name);
    return true;
}

/* Of a clone that is being made the folder has another name than the instance will have. */
static bool is_own_folder(const struct instance *instance, const char *name)
{
    const char *slash = strrchr(instance->path, '/');
    return slash != NULL && strcmp(slash + 1, name) == 0;
}

static bool is_open_file(int fd, const char *path)
{
    struct stat opened, named;
    return fstat(fd, &opened) == 0 && stat(path, &named) == 0 && opened.st_dev == named.st_dev &&
           opened.st_ino == named.st_ino;
}

static bool refuse(const struct machine_disk *disk, int fd, struct error **err)
{
    char link[40], found[PATH_MAX];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, found, sizeof(found) - 1);
    found[length > 0 ? length : 0] = '\0';
    error_set(err, ERROR_HOST, "disk '%s' lies upon '%s', and no description says so", disk->path,
              found);
    error_hint(err, "A worker that its guest has taken over may have written that. If it is meant, "
                    "the disk has a key 'trapeze.backing' with that name.");
    return false;
}

/* The file that the description names; the caller frees it. */
static char *named_backing(const struct instance *instance, const struct machine_disk *disk)
{
    char *path = NULL;
    if (disk->backing == NULL)
        return NULL;
    if (disk->backing[0] == '/')
        return strdup(disk->backing);
    return asprintf(&path, "%s/%s", instance->path, disk->backing) > 0 ? path : NULL;
}

static bool check_from(const struct instance *instance, const struct machine_disk *disk,
                       const struct block_chain *chain, size_t level, struct error **err);

/* fds[level] is one of the disks; *found. */
static bool check_one_of(const struct instance *owner, struct machine_config *config,
                         const struct block_chain *chain, size_t level, bool *found,
                         struct error **err)
{
    bool good = true;
    vmx_resolve(config, owner->path);
    for (size_t i = 0; good && !*found && i < config->disk_count; i++) {
        *found = is_open_file(chain->fds[level], config->disks[i].path);
        if (*found)
            good = check_from(owner, &config->disks[i], chain, level, err);
    }
    return good;
}

/* The chain from `path`, fds[level], on: it is a disk of some instance, or nobody's. */
static bool check_below(const struct store *store, const char *path,
                        const struct block_chain *chain, size_t level, struct error **err)
{
    char name[INSTANCE_MAX_NAME + 1];
    struct instance owner;
    struct snapshot_family family;
    if (level + 1 >= chain->count || !owner_of(store, path, name))
        return true;
    if (!instance_open(&owner, store, name, err))
        return false;
    bool good = snapshot_family_read(&owner, &family, err), found = false;
    for (size_t i = good ? snapshot_family_size(&family) : 0; good && !found && i-- > 0;)
        good = check_one_of(&owner, &family.configs[i], chain, level, &found, err);
    if (good && !found)
        good = refuse(&(struct machine_disk){.path = (char *)(uintptr_t)path},
                      chain->fds[level + 1], err);
    snapshot_family_clear(&family);
    instance_close(&owner);
    return good;
}

/* `disk` of the instance is fds[level]. */
static bool check_from(const struct instance *instance, const struct machine_disk *disk,
                       const struct block_chain *chain, size_t level, struct error **err)
{
    char name[INSTANCE_MAX_NAME + 1], link[40];
    if (level + 1 >= chain->count || !owner_of(instance->store, disk->path, name) ||
        !is_own_folder(instance, name))
        return true;
    int fd = chain->fds[level + 1];
    char *path = named_backing(instance, disk);
    bool good;
    if (path != NULL) {
        good = is_open_file(fd, path) ? check_below(instance->store, path, chain, level + 1, err)
                                      : refuse(disk, fd, err);
    } else {
        const struct machine_disk below = {.path = link};
        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        good = owner_of(instance->store, link, name) && is_own_folder(instance, name)
                   ? check_from(instance, &below, chain, level + 1, err)
                   : refuse(disk, fd, err);
    }
    free(path);
    return good;
}

bool backing_check(const struct instance *instance, const struct machine_config *config,
                   const struct client_disks *disks, struct error **err)
{
    for (size_t i = 0; i < disks->count; i++)
        if (!check_from(instance, &config->disks[i], &disks->chains[i], 0, err))
            return false;
    return true;
}

bool backing_check_files(const struct instance *instance, const struct machine_config *config,
                         struct error **err)
{
    bool good = true;
    for (size_t i = 0; i < config->disk_count && good; i++) {
        struct machine_disk disk = config->disks[i];
        struct client_disks one = {.count = 1};
        disk.read_only = true; /* others may be reading a template */
        if (disk.path[0] != '/')
            continue; /* an empty drive, or on a server */
        good = client_disk_open(&disk, &one.chains[0], err);
        if (good) {
            good = check_from(instance, &disk, &one.chains[0], 0, err);
            client_disks_close(&one);
        }
    }
    return good;
}
