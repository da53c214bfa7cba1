/* SPDX-License-Identifier: MIT
 *
 * See instance.h.
 */
#include "daemon/instance.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "daemon/folder.h"
#include "daemon/migration.h"
#include "daemon/snapshot.h"

bool instance_name_check(const char *name, struct error **err)
{
    size_t length = strlen(name);
    bool good = length > 0 && length <= INSTANCE_MAX_NAME && isalnum((unsigned char)name[0]);
    for (size_t i = 0; i < length && good; i++)
        good = isalnum((unsigned char)name[i]) || strchr("._-", name[i]) != NULL;
    if (good)
        return true;
    error_set(err, ERROR_USAGE, "'%.80s' is no name for an instance", name);
    error_hint(err,
               "It has up to %d letters, digits, '.', '_' and '-', and begins with a letter or "
               "a digit.",
               INSTANCE_MAX_NAME);
    return false;
}

/* The names of the descriptions in a folder; false: there is not exactly one. */
static bool find_description(int folder, char name[NAME_MAX + 1], bool *is_template)
{
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    unsigned found = 0;
    const struct dirent *entry;
    while (listing != NULL && (entry = readdir(listing)) != NULL) {
        bool template = folder_is_description(entry->d_name, ".vmtx");
        struct stat status;
        if ((!template && !folder_is_description(entry->d_name, ".vmx")) ||
            fstatat(fd, entry->d_name, &status, 0) != 0 || !S_ISREG(status.st_mode))
            continue;
        snprintf(name, NAME_MAX + 1, "%s", entry->d_name);
        *is_template = template;
        found++;
    }
    if (listing != NULL)
        closedir(listing);
    else if (fd >= 0)
        close(fd);
    return found == 1;
}

/* Before the description has its own name: then that is still to be done after a kill. */
static void rename_nvram(const struct instance *instance, const char *description)
{
    char before[NAME_MAX + 8], after[INSTANCE_MAX_FILE];
    const char *dot = strrchr(description, '.');
    snprintf(before, sizeof(before), "%.*s.nvram", (int)(dot - description), description);
    snprintf(after, sizeof(after), "%s.nvram", instance->name);
    renameat2(instance->fd, before, instance->fd, after, RENAME_NOREPLACE);
}

static void own_description(const struct instance *instance, bool template,
                            char file[INSTANCE_MAX_FILE])
{
    snprintf(file, INSTANCE_MAX_FILE, "%s.%s", instance->name, template ? "vmtx" : "vmx");
}

/* ---- finding and reading ---- */

static void say_where(const struct store *store, const char *name, struct error **err)
{
    json_t *moved = migration_moved(store, name);
    if (moved != NULL)
        error_set(err, ERROR_USAGE, "there is no instance '%s' any more: it moved to %s on %s",
                  name, json_string_value(json_object_get(moved, "url")),
                  json_string_value(json_object_get(moved, "time")));
    else
        error_set(err, ERROR_USAGE, "there is no instance '%s'", name);
    json_decref(moved);
}

/* Nobody has removed the folder or given it another name since it was opened. */
static bool has_its_name(const struct instance *instance)
{
    struct stat ours, named;
    if (instance->is_draft)
        return true;
    return fstat(instance->fd, &ours) == 0 &&
           fstatat(instance->store->instances, instance->name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           ours.st_dev == named.st_dev && ours.st_ino == named.st_ino;
}

/* Gives the description its own name, if it has another one yet: a folder that has just got its
 * name, or came from elsewhere. *again: somebody else did so meanwhile, so that it was seen under
 * both names or none. */
static bool find_own_description(struct instance *instance, bool *again, struct error **err)
{
    char found[NAME_MAX + 1], wanted[INSTANCE_MAX_FILE];
    *again = true;
    if (!find_description(instance->fd, found, &instance->is_template)) {
        error_set(err, ERROR_HOST, "'%s' has no .vmx, or several", instance->path);
        error_hint(err, "An instance has one file NAME.vmx or NAME.vmtx.");
        return false;
    }
    own_description(instance, instance->is_template, wanted);
    if (strcmp(found, wanted) == 0)
        return true;
    rename_nvram(instance, found);
    if (renameat2(instance->fd, found, instance->fd, wanted, RENAME_NOREPLACE) == 0)
        return true;
    *again = errno == ENOENT || errno == EEXIST;
    return error_set_errno(err, errno, "cannot rename '%s/%s'", instance->path, found);
}

static bool take_description(struct instance *instance, struct error **err)
{
    enum { TRIES = 5, PAUSE_NS = 2000000 };
    struct error *error = NULL;
    bool again = true, found = false;
    for (unsigned tries = 0; again && !found && tries < TRIES; tries++) {
        if (tries > 0)
            nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
        error_free(error);
        error = NULL;
        found = find_own_description(instance, &again, &error);
    }
    if (found || has_its_name(instance))
        return found || error_propagate(err, error);
    error_free(error);
    say_where(instance->store, instance->name, err);
    return false;
}

bool instance_open(struct instance *instance, const struct store *store, const char *name,
                   struct error **err)
{
    *instance = (struct instance){.store = store, .fd = -1, .lock = -1};
    if (!instance_name_check(name, err))
        return false;
    snprintf(instance->name, sizeof(instance->name), "%s", name);
    if (asprintf(&instance->path, "%s/instances/%s", store->path, name) < 0)
        return error_set(err, ERROR_HOST, "out of memory");
    instance->fd = openat(store->instances, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (instance->fd < 0 && errno == ENOENT)
        say_where(store, name, err);
    else if (instance->fd < 0)
        error_set_errno(err, errno, "cannot open the instance '%s'", name);
    else if (take_description(instance, err))
        return true;
    instance_close(instance);
    return false;
}

void instance_close(struct instance *instance)
{
    if (instance->lock >= 0)
        close(instance->lock);
    if (instance->fd >= 0)
        close(instance->fd);
    free(instance->path);
    *instance = (struct instance){.fd = -1, .lock = -1};
}

static int open_lock(const struct instance *instance, int flags)
{
    return openat(instance->fd, "lock", O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
}

static bool take_lock(struct instance *instance, short type, struct error **err)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET};
    /* Nothing is made in a folder that somebody is removing. */
    int fd = open_lock(instance, has_its_name(instance) ? O_CREAT : 0);
    int number = fd >= 0 && fcntl(fd, F_OFD_SETLK, &lock) == 0 ? 0 : errno;
    bool named = has_its_name(instance);
    if (number == 0 && named) {
        instance->lock = fd;
        return true;
    }
    if (fd >= 0)
        close(fd);
    if (!named) {
        say_where(instance->store, instance->name, err);
        return false;
    }
    if (fd < 0 || (number != EAGAIN && number != EACCES))
        return error_set_errno(err, number, "cannot lock '%s/lock'", instance->path);
    if (instance->is_template)
        return error_set(err, ERROR_USAGE, "somebody is at work on the template '%s'",
                         instance->name);
    error_set(err, ERROR_USAGE, "the instance '%s' is running", instance->name);
    error_hint(err, "Stop it first.");
    return false;
}

bool instance_lock_as_it_is(struct instance *instance, struct error **err)
{
    return take_lock(instance, F_WRLCK, err);
}

bool instance_lock(struct instance *instance, struct error **err)
{
    if (!take_lock(instance, F_WRLCK, err))
        return false;
    if (migration_permits(instance, false, err) && snapshot_mend(instance, err))
        return true;
    close(instance->lock);
    instance->lock = -1;
    return false;
}

bool instance_lock_shared(struct instance *instance, struct error **err)
{
    return take_lock(instance, F_RDLCK, err);
}

bool instance_open_locked(struct instance *instance, const struct store *store, const char *name,
                          struct error **err)
{
    if (!instance_open(instance, store, name, err))
        return false;
    if (instance_lock(instance, err))
        return true;
    instance_close(instance);
    return false;
}

bool instance_is_locked(const struct instance *instance)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open_lock(instance, 0); /* where there is none nobody holds it */
    bool locked = fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
    if (fd >= 0)
        close(fd);
    return locked;
}

/* The folder is what an instance is. */
void instance_group(const struct instance *instance, char group[INSTANCE_GROUP])
{
    struct stat status = {0};
    fstat(instance->fd, &status);
    snprintf(group, INSTANCE_GROUP, "%s-%llx-%llx", instance->name,
             (unsigned long long)status.st_dev, (unsigned long long)status.st_ino);
}

static struct text *read_description(const struct instance *instance, bool template,
                                     struct error **err)
{
    char file[INSTANCE_MAX_FILE], *path = NULL;
    own_description(instance, template, file);
    if (asprintf(&path, "%s/%s", instance->path, file) < 0)
        return NULL;
    struct text *text = text_load(path, err);
    free(path);
    return text;
}

/* Without a lock the instance may be gone since it was opened, or be a template, or none any more.
 */
struct text *instance_read(const struct instance *instance, struct error **err)
{
    struct error *error = NULL;
    struct text *text = read_description(instance, instance->is_template, &error);
    if (text == NULL && has_its_name(instance))
        text = read_description(instance, !instance->is_template, NULL);
    if (text == NULL && has_its_name(instance)) {
        error_propagate(err, error);
        return NULL;
    }
    error_free(error);
    if (text == NULL)
        say_where(instance->store, instance->name, err);
    return text;
}

bool instance_write(const struct instance *instance, const struct text *text, struct error **err)
{
    char file[INSTANCE_MAX_FILE];
    own_description(instance, instance->is_template, file);
    return folder_write(instance->fd, file, text, err);
}

bool instance_config(const struct instance *instance, struct machine_config *config,
                     struct vmx_notes *notes, struct error **err)
{
    struct text *text = instance_read(instance, err);
    bool good = text != NULL && vmx_read(text, config, notes, err);
    if (good)
        vmx_resolve(config, instance->path);
    text_free(text);
    return good;
}

/* A worker's report is emptied at its machine's start and written at its end. */
static int64_t last_use(const struct instance *instance)
{
    struct stat status;
    if (instance_is_locked(instance) && !instance->is_template)
        return (int64_t)time(NULL);
    return fstatat(instance->fd, "end", &status, AT_SYMLINK_NOFOLLOW) == 0 ? status.st_mtime : 0;
}

/* Of the files in a folder, and in folders of it, `depth` deep; each name of a file has its part.
 */
static uint64_t space_of(int parent, const char *name, unsigned depth)
{
    uint64_t bytes = 0;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    while (listing != NULL && (entry = readdir(listing)) != NULL) {
        struct stat status;
        if (fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        if (S_ISREG(status.st_mode))
            bytes += (uint64_t)status.st_blocks * 512 / (status.st_nlink > 0 ? status.st_nlink : 1);
        else if (S_ISDIR(status.st_mode) && depth > 0 && strcmp(entry->d_name, ".") != 0 &&
                 strcmp(entry->d_name, "..") != 0)
            bytes += space_of(fd, entry->d_name, depth - 1);
    }
    if (listing != NULL)
        closedir(listing);
    else if (fd >= 0)
        close(fd);
    return bytes;
}

void instance_usage(const struct instance *instance, struct instance_usage *usage)
{
    enum { SNAPSHOTS = 2 }; /* NAME/snapshots/1 */
    struct statx folder;
    *usage = (struct instance_usage){.used = last_use(instance)};
    if (statx(instance->fd, "", AT_EMPTY_PATH, STATX_MTIME | STATX_BTIME, &folder) == 0)
        usage->made = store_made_at(&folder);
    usage->bytes = space_of(instance->fd, ".", SNAPSHOTS);
}

/* ---- making ---- */

bool instance_file_check(const char *name, struct error **err)
{
    size_t length = strlen(name);
    if (length > 0 && length <= INSTANCE_MAX_NAME && !folder_is_private(name) &&
        strchr(name, '/') == NULL && !folder_is_description(name, ".vmx") &&
        !folder_is_description(name, ".nvram") && !folder_is_description(name, ".vmtx"))
        return true;
    return error_set(err, ERROR_USAGE, "'%.80s' is no name for a file of an instance", name);
}

int instance_stage(const struct store *store, char staged[32], struct error **err)
{
    return store_stage(store, staged, err);
}

bool instance_bring(const struct instance_plan *plan, int folder, struct error **err)
{
    for (size_t i = 0; i < plan->file_count; i++)
        if (!instance_file_check(plan->files[i].name, err) ||
            !folder_copy(AT_FDCWD, plan->files[i].source, folder, plan->files[i].name, plan->step,
                         plan->opaque, err))
            return false;
    return true;
}

bool instance_finish(const struct store *store, const char *name, const struct text *text,
                     int folder, const char *staged, bool good, struct error **err)
{
    char file[INSTANCE_MAX_FILE];
    snprintf(file, sizeof(file), "%s.vmx", name);
    good = good && folder_write(folder, file, text, err) && store_publish(store, staged, name, err);
    if (!good)
        store_discard(store, staged, NULL);
    close(folder);
    return good;
}

bool instance_create(const struct store *store, const struct instance_plan *plan,
                     struct error **err)
{
    char staged[32];
    int folder = instance_name_check(plan->name, err) ? instance_stage(store, staged, err) : -1;
    return folder >= 0 && instance_finish(store, plan->name, plan->text, folder, staged,
                                          instance_bring(plan, folder, err), err);
}

/* ---- templates and what lies upon them ---- */

/* Its disks alone are those of a machine that lost its power. */
bool instance_check_not_suspended(const struct instance *instance, struct error **err)
{
    if (faccessat(instance->fd, INSTANCE_SAVED, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
        return true;
    error_set(err, ERROR_USAGE, "'%s' is suspended: what it was at is in no copy", instance->name);
    error_hint(err,
               "Start and stop it first, or give that up: trapeze start --discard-suspended %s",
               instance->name);
    return false;
}

static bool is_clone_of(const struct instance *instance, const char *name, bool *is_clone,
                        struct error **err)
{
    struct instance other;
    *is_clone = false;
    if (!instance_open(&other, instance->store, name, err))
        return false;
    struct text *text = instance_read(&other, err);
    const char *parent = text != NULL ? text_get(text, "trapeze.parent") : NULL;
    *is_clone = parent != NULL && strcmp(parent, instance->name) == 0;
    instance_close(&other);
    text_free(text);
    return text != NULL;
}

char **instance_clones(const struct instance *instance, struct error **err)
{
    char **names = store_list(instance->store, err);
    size_t count = 0;
    bool good = names != NULL;
    for (size_t i = 0; good && names[i] != NULL; i++) {
        char *name = names[i];
        bool is_clone = false;
        names[i] = NULL;
        if (strcmp(name, instance->name) != 0)
            good = is_clone_of(instance, name, &is_clone, err);
        if (!good)
            for (size_t k = i + 1; names[k] != NULL; k++)
                free(names[k]);
        if (is_clone)
            names[count++] = name;
        else
            free(name);
    }
    if (good)
        return names;
    store_list_free(names);
    return NULL;
}

static bool has_no_clones(const struct instance *instance, struct error **err)
{
    enum { NAMED = 10 };
    char list[NAMED * (INSTANCE_MAX_NAME + 3) + 16] = "";
    char **names = instance_clones(instance, instance->is_template ? err : NULL);
    if (names == NULL && !instance->is_template)
        return true; /* one description that nobody can read shall not keep every machine from going
                      */
    if (names == NULL) {
        error_prefix(err, "it is not known what lies upon '%s'", instance->name);
        return false;
    }
    bool good = names[0] == NULL;
    for (size_t i = 0; i <= NAMED && names[i] != NULL; i++) {
        size_t at = strlen(list);
        snprintf(list + at, sizeof(list) - at, "%s%s", i == 0 ? "" : ", ",
                 i < NAMED ? names[i] : "and others");
    }
    store_list_free(names);
    if (good)
        return true;
    error_set(err, ERROR_USAGE, "the %s '%s' has linked clones, which need it as it is: %s",
              instance->is_template ? "template" : "instance", instance->name, list);
    error_hint(err, "Delete those first; 'clone --full' makes copies that stand alone.");
    return false;
}

/* ---- changing ---- */

/* The folder's name is the instance's, so that this takes place all at once; the .vmx follows,
 * now or when the instance is opened next. */
bool instance_rename(struct instance *instance, const char *name, struct error **err)
{
    if (!instance_name_check(name, err) || !has_no_clones(instance, err) ||
        !store_publish(instance->store, instance->name, name, err))
        return false;
    struct instance renamed;
    if (!instance_open(&renamed, instance->store, name, err))
        return false;
    renamed.lock = instance->lock;
    instance->lock = -1;
    instance_close(instance);
    *instance = renamed;
    struct text *text = instance_read(instance, err);
    bool good = text != NULL;
    if (good && text_get(text, "displayName") != NULL) {
        text_set(text, "displayName", name);
        good = instance_write(instance, text, err);
    }
    text_free(text);
    return good;
}

/* What was frozen for clones that are no more is nobody's to delete. */
static bool nothing_is_lost(const struct instance *instance, struct error **err)
{
    if (snapshot_check_nothing_lost(instance, NULL))
        return true;
    snapshot_thaw(instance);
    return snapshot_check_nothing_lost(instance, err);
}

bool instance_delete(struct instance *instance, struct error **err)
{
    return has_no_clones(instance, err) && migration_permits(instance, true, err) &&
           nothing_is_lost(instance, err) && store_discard(instance->store, instance->name, err);
}

bool instance_make_template(struct instance *instance, bool is_template, struct error **err)
{
    char before[INSTANCE_MAX_FILE], after[INSTANCE_MAX_FILE];
    if (instance->is_template == is_template)
        return true;
    if (!instance_check_not_suspended(instance, err) || !has_no_clones(instance, err))
        return false;
    own_description(instance, !is_template, before);
    own_description(instance, is_template, after);
    instance->is_template = is_template;
    if (renameat2(instance->fd, before, instance->fd, after, RENAME_NOREPLACE) == 0 &&
        fsync(instance->fd) == 0)
        return true;
    instance->is_template = !is_template;
    return error_set_errno(err, errno, "cannot rename '%s/%s'", instance->path, before);
}
