/* SPDX-License-Identifier: MIT
 *
 * See store.h.
 */
#include "daemon/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "client/api.h"
#include "daemon/instance.h"
#include "daemon/migration.h"

static const char staged_prefix[] = ".new-", discarded_prefix[] = ".del-";

/* Who else could write here could make instances whose disks are files of ours. */
static bool is_ours(int folder, const char *path, struct error **err)
{
    struct stat status;
    if (fstat(folder, &status) == 0 && status.st_uid == geteuid() && (status.st_mode & 022) == 0)
        return true;
    error_set(err, ERROR_USAGE, "'%s' is another user's, or others may write there", path);
    error_hint(err, "'chmod go-w' closes it; TRAPEZE_HOME names another store.");
    return false;
}

static bool take_lock(struct store *store, struct error **err)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    store->lock = openat(store->folder, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (store->lock < 0)
        return error_set_errno(err, errno, "cannot open '%s/lock'", store->path);
    if (fcntl(store->lock, F_OFD_SETLK, &lock) == 0)
        return true;
    if (errno != EAGAIN && errno != EACCES)
        return error_set_errno(err, errno, "cannot lock '%s/lock'", store->path);
    error_set(err, ERROR_HOST, "another daemon has the store '%s'", store->path);
    error_hint(err, "One is enough; TRAPEZE_HOME names another store.");
    return false;
}

static bool remove_tree(int parent, const char *name, unsigned depth);

static void remove_entries(int parent, const char *name, unsigned depth)
{
    enum { DEEPEST = 64 };
    int fd = depth < DEEPEST ? openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                             : -1;
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    while (listing != NULL && (entry = readdir(listing)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(fd, entry->d_name, 0) != 0)
            remove_tree(fd, entry->d_name, depth + 1);
    }
    if (listing != NULL)
        closedir(listing);
    else if (fd >= 0)
        close(fd);
}

/* The folder `name` with all in it. Links are removed, not followed. Who opened it before it lost
 * its name may still make a file in it (a lock), so that it has more than was seen. */
static bool remove_tree(int parent, const char *name, unsigned depth)
{
    const unsigned most = depth == 0 ? 3 : 1;
    for (unsigned tries = 0; tries < most; tries++) {
        remove_entries(parent, name, depth);
        if (unlinkat(parent, name, AT_REMOVEDIR) == 0)
            return true;
        if (errno != ENOTEMPTY && errno != EEXIST)
            return false;
    }
    return false;
}

static bool begins_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* All that begin with one of the two. */
static void remove_beginning(const struct store *store, const char *one, const char *other)
{
    int fd = openat(store->instances, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    while (listing != NULL && (entry = readdir(listing)) != NULL)
        if (begins_with(entry->d_name, one) || begins_with(entry->d_name, other))
            remove_tree(store->instances, entry->d_name, 0);
    if (listing != NULL)
        closedir(listing);
    else if (fd >= 0)
        close(fd);
}

bool store_open(struct store *store, const char *path, struct error **err)
{
    *store = (struct store){.folder = -1, .instances = -1, .lock = -1};
    char *instances = NULL;
    if (path[0] != '/' || asprintf(&instances, "%s/instances", path) < 0)
        return error_set(err, ERROR_USAGE, "a store's path is absolute, not '%s'", path);
    store->path = alloc_string(path);
    bool good = api_make_folders(instances, err);
    if (good) {
        store->folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        store->instances = open(instances, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        good = (store->folder >= 0 && store->instances >= 0) ||
               error_set_errno(err, errno, "cannot open the store '%s'", path);
        good =
            good && is_ours(store->folder, path, err) && is_ours(store->instances, instances, err);
    }
    free(instances);
    if (!good || !take_lock(store, err)) {
        store_close(store);
        return false;
    }
    remove_beginning(store, staged_prefix,
                     discarded_prefix); /* nobody is at work: we have the lock */
    return true;
}

void store_close(struct store *store)
{
    const int fds[] = {store->instances, store->folder, store->lock};
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(store->path);
    *store = (struct store){.folder = -1, .instances = -1, .lock = -1};
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char **store_list(const struct store *store, struct error **err)
{
    int fd = openat(store->instances, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    if (listing == NULL) {
        error_set_errno(err, errno, "cannot list '%s/instances'", store->path);
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    char **names = alloc_zeroed(1, sizeof(*names));
    size_t count = 0;
    const struct dirent *entry;
    while ((entry = readdir(listing)) != NULL) {
        struct stat status;
        if (!instance_name_check(entry->d_name, NULL) ||
            fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISDIR(status.st_mode))
            continue;
        names = alloc_resize(names, count + 2, sizeof(*names));
        names[count++] = alloc_string(entry->d_name);
        names[count] = NULL;
    }
    closedir(listing);
    if (count > 0)
        qsort(names, count, sizeof(*names), compare_names);
    return names;
}

void store_list_free(char **names)
{
    for (size_t i = 0; names != NULL && names[i] != NULL; i++)
        free(names[i]);
    free(names);
}

long long store_made_at(const struct statx *status)
{
    return (status->stx_mask & STATX_BTIME) != 0 ? status->stx_btime.tv_sec
                                                 : status->stx_mtime.tv_sec;
}

static void make_name(char name[32], const char *prefix)
{
    unsigned char random[8];
    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        memset(random, 0, sizeof(random)); /* then it may be taken, which is found out */
    int length = snprintf(name, 32, "%s%d-", prefix, (int)getpid());
    for (size_t i = 0; i < sizeof(random); i++)
        length += snprintf(name + length, 32 - (size_t)length, "%02x", random[i]);
}

int store_stage(const struct store *store, char name[32], struct error **err)
{
    make_name(name, staged_prefix);
    int fd = mkdirat(store->instances, name, 0700) == 0
                 ? openat(store->instances, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                 : -1;
    if (fd < 0)
        error_set_errno(err, errno, "cannot make a folder in '%s/instances'", store->path);
    return fd;
}

void store_clean(const struct store *store, pid_t process)
{
    char staged[32], discarded[32];
    snprintf(staged, sizeof(staged), "%s%d-", staged_prefix, (int)process);
    snprintf(discarded, sizeof(discarded), "%s%d-", discarded_prefix, (int)process);
    remove_beginning(store, staged, discarded);
}

bool store_publish(const struct store *store, const char *staged, const char *name,
                   struct error **err)
{
    if (renameat2(store->instances, staged, store->instances, name, RENAME_NOREPLACE) != 0) {
        int number = errno;
        if (number == EEXIST)
            return error_set(err, ERROR_USAGE, "there is an instance '%s' already", name);
        return error_set_errno(err, number, "cannot make the instance '%s'", name);
    }
    migration_forget(store, name);
    return fsync(store->instances) == 0 ||
           error_set_errno(err, errno, "the instance '%s' may be gone after a loss of power", name);
}

bool store_discard(const struct store *store, const char *name, struct error **err)
{
    char gone[32];
    make_name(gone, discarded_prefix);
    if (renameat2(store->instances, name, store->instances, gone, RENAME_NOREPLACE) != 0)
        return error_set_errno(err, errno, "cannot remove '%s'", name);
    fsync(store->instances);
    remove_tree(store->instances, gone, 0);
    return true;
}
