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
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "client/copy.h"

#define FILE_MAX (INSTANCE_MAX_NAME + 8) /* bytes of "NAME.vmtx" */

/* In a folder, but not of the machine: a copy of it does without them. */
static const char *const private_files[] = {"lock",         "end",         "control.sock",
                                            "console.sock", "console.log", "worker.log",
                                            "vsock.sock",   "restart"};

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

/* ---- files in a folder ---- */

/* Under another name first: whoever reads sees the old content or the new one, all of it. */
static bool write_file(int folder, const char *name, const char *bytes, size_t size,
                       struct error **err)
{
    char temporary[FILE_MAX + 8];
    snprintf(temporary, sizeof(temporary), ".%s.new", name);
    int fd = openat(folder, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool good = fd >= 0;
    for (size_t done = 0; good && done < size;) {
        ssize_t count = write(fd, bytes + done, size - done);
        good = count >= 0 || errno == EINTR;
        done += count > 0 ? (size_t)count : 0;
    }
    good = good && fsync(fd) == 0 && renameat(folder, temporary, folder, name) == 0 &&
           fsync(folder) == 0;
    if (!good) {
        error_set_errno(err, errno, "cannot write '%s'", name);
        if (fd >= 0)
            unlinkat(folder, temporary, 0);
    }
    if (fd >= 0)
        close(fd);
    return good;
}

static bool write_text(int folder, const char *name, const struct text *text, struct error **err)
{
    size_t size;
    char *bytes = text_write(text, &size);
    bool good = write_file(folder, name, bytes, size, err);
    free(bytes);
    return good;
}

/* `parent` may be AT_FDCWD. */
static bool copy_into(int parent, const char *source, int folder, const char *name,
                      struct error **err)
{
    struct stat status;
    int from = openat(parent, source, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (from < 0 || fstat(from, &status) != 0 || !S_ISREG(status.st_mode)) {
        error_set_errno(err, from < 0 ? errno : EINVAL, "cannot copy '%s'", source);
        if (from >= 0)
            close(from);
        return false;
    }
    int to = openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool good = to >= 0 || error_set_errno(err, errno, "cannot make '%s'", name);
    good = good && copy_file(from, to, NULL, NULL, err);
    good = good && (fsync(to) == 0 || error_set_errno(err, errno, "cannot keep '%s'", name));
    if (to >= 0)
        close(to);
    close(from);
    return good;
}

static bool is_description(const char *name, const char *ending)
{
    size_t length = strlen(name), end = strlen(ending);
    return name[0] != '.' && length > end && strcmp(name + length - end, ending) == 0;
}

/* The names of the descriptions in a folder; false: there is not exactly one. */
static bool find_description(int folder, char name[NAME_MAX + 1], bool *is_template)
{
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    unsigned found = 0;
    const struct dirent *entry;
    while (listing != NULL && (entry = readdir(listing)) != NULL) {
        bool template = is_description(entry->d_name, ".vmtx");
        struct stat status;
        if ((!template && !is_description(entry->d_name, ".vmx")) ||
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

static void own_description(const struct instance *instance, char file[FILE_MAX])
{
    snprintf(file, FILE_MAX, "%s.%s", instance->name, instance->is_template ? "vmtx" : "vmx");
}

/* ---- finding and reading ---- */

bool instance_open(struct instance *instance, const struct store *store, const char *name,
                   struct error **err)
{
    char found[NAME_MAX + 1], wanted[FILE_MAX];
    *instance = (struct instance){.store = store, .fd = -1, .lock = -1};
    if (!instance_name_check(name, err))
        return false;
    snprintf(instance->name, sizeof(instance->name), "%s", name);
    if (asprintf(&instance->path, "%s/instances/%s", store->path, name) < 0)
        return error_set(err, ERROR_HOST, "out of memory");
    instance->fd = openat(store->instances, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (instance->fd < 0) {
        int number = errno;
        if (number == ENOENT)
            error_set(err, ERROR_USAGE, "there is no instance '%s'", name);
        else
            error_set_errno(err, number, "cannot open the instance '%s'", name);
    } else if (!find_description(instance->fd, found, &instance->is_template)) {
        error_set(err, ERROR_HOST, "'%s' has no .vmx, or several", instance->path);
        error_hint(err, "An instance has one file NAME.vmx or NAME.vmtx.");
    } else {
        own_description(instance, wanted);
        if (strcmp(found, wanted) == 0 ||
            renameat2(instance->fd, found, instance->fd, wanted, RENAME_NOREPLACE) == 0)
            return true;
        error_set_errno(err, errno, "cannot rename '%s/%s'", instance->path, found);
    }
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

static int open_lock(const struct instance *instance)
{
    return openat(instance->fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
}

bool instance_lock(struct instance *instance, struct error **err)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open_lock(instance);
    if (fd >= 0 && fcntl(fd, F_OFD_SETLK, &lock) == 0) {
        instance->lock = fd;
        return true;
    }
    int number = errno;
    if (fd >= 0)
        close(fd);
    if (fd < 0 || (number != EAGAIN && number != EACCES))
        return error_set_errno(err, number, "cannot lock '%s/lock'", instance->path);
    error_set(err, ERROR_USAGE, "the instance '%s' is running", instance->name);
    error_hint(err, "Stop it first.");
    return false;
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
    int fd = open_lock(instance);
    bool locked = fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
    if (fd >= 0)
        close(fd);
    return locked;
}

struct text *instance_read(const struct instance *instance, struct error **err)
{
    char file[FILE_MAX], *path = NULL;
    own_description(instance, file);
    if (asprintf(&path, "%s/%s", instance->path, file) < 0)
        return NULL;
    struct text *text = text_load(path, err);
    free(path);
    return text;
}

bool instance_write(const struct instance *instance, const struct text *text, struct error **err)
{
    char file[FILE_MAX];
    own_description(instance, file);
    return write_text(instance->fd, file, text, err);
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

/* ---- making ---- */

static bool is_private(const char *name)
{
    for (size_t i = 0; i < sizeof(private_files) / sizeof(private_files[0]); i++)
        if (strcmp(private_files[i], name) == 0)
            return true;
    return name[0] == '.';
}

bool instance_file_check(const char *name, struct error **err)
{
    size_t length = strlen(name);
    if (length > 0 && length <= INSTANCE_MAX_NAME && !is_private(name) &&
        strchr(name, '/') == NULL && !is_description(name, ".vmx") &&
        !is_description(name, ".vmtx"))
        return true;
    return error_set(err, ERROR_USAGE, "'%.80s' is no name for a file of an instance", name);
}

bool instance_create(const struct store *store, const char *name, const struct text *text,
                     const struct instance_file *files, size_t file_count, struct error **err)
{
    char staged[32], file[FILE_MAX];
    if (!instance_name_check(name, err))
        return false;
    int folder = store_stage(store, staged, err);
    bool good = folder >= 0;
    for (size_t i = 0; i < file_count && good; i++)
        good = instance_file_check(files[i].name, err) &&
               copy_into(AT_FDCWD, files[i].source, folder, files[i].name, err);
    snprintf(file, sizeof(file), "%s.vmx", name);
    good = good && write_text(folder, file, text, err) && store_publish(store, staged, name, err);
    if (!good && folder >= 0)
        store_discard(store, staged, NULL);
    if (folder >= 0)
        close(folder);
    return good;
}

int instance_stage(const struct store *store, char staged[32], struct error **err)
{
    return store_stage(store, staged, err);
}

bool instance_finish(const struct store *store, const char *name, const struct text *text,
                     int folder, const char *staged, bool good, struct error **err)
{
    char file[FILE_MAX];
    snprintf(file, sizeof(file), "%s.vmx", name);
    good = good && write_text(folder, file, text, err) && store_publish(store, staged, name, err);
    if (!good)
        store_discard(store, staged, NULL);
    close(folder);
    return good;
}

/* The description for a copy: what must differ does. */
static struct text *text_for_clone(const struct instance *instance, const char *name,
                                   struct error **err)
{
    struct machine_config config;
    struct text *text = instance_read(instance, err);
    machine_config_init(&config);
    if (text != NULL && !vmx_read(text, &config, NULL, err)) {
        text_free(text);
        text = NULL;
    }
    if (text != NULL) {
        for (size_t i = 0; i < config.nic_count; i++) {
            free(config.nics[i].mac);
            config.nics[i].mac = alloc_zeroed(1, 18);
            machine_make_mac(NULL, i, config.nics[i].mac, NULL);
        }
        free(config.name);
        config.name = alloc_string(name);
        vmx_update(text, &config);
    }
    machine_config_clear(&config);
    return text;
}

static bool copy_files(const struct instance *instance, int folder, struct error **err)
{
    int fd = openat(instance->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    bool good = listing != NULL || error_set_errno(err, errno, "cannot list '%s'", instance->path);
    const struct dirent *entry;
    while (good && (entry = readdir(listing)) != NULL) {
        struct stat status;
        if (is_private(entry->d_name) || is_description(entry->d_name, ".vmx") ||
            is_description(entry->d_name, ".vmtx") ||
            fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISREG(status.st_mode))
            continue;
        good = copy_into(instance->fd, entry->d_name, folder, entry->d_name, err);
    }
    if (listing != NULL)
        closedir(listing);
    else if (fd >= 0)
        close(fd);
    return good;
}

bool instance_clone(const struct instance *instance, const char *name, struct error **err)
{
    char staged[32], file[FILE_MAX];
    struct text *text = instance_name_check(name, err) ? text_for_clone(instance, name, err) : NULL;
    if (text == NULL)
        return false;
    int folder = store_stage(instance->store, staged, err);
    snprintf(file, sizeof(file), "%s.vmx", name);
    bool good = folder >= 0 && copy_files(instance, folder, err) &&
                write_text(folder, file, text, err) &&
                store_publish(instance->store, staged, name, err);
    if (!good && folder >= 0)
        store_discard(instance->store, staged, NULL);
    if (folder >= 0)
        close(folder);
    text_free(text);
    return good;
}

/* ---- changing ---- */

/* The folder's name is the instance's, so that this takes place all at once; the .vmx follows,
 * now or when the instance is opened next. */
bool instance_rename(struct instance *instance, const char *name, struct error **err)
{
    if (!instance_name_check(name, err) ||
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

bool instance_delete(struct instance *instance, struct error **err)
{
    return store_discard(instance->store, instance->name, err);
}

bool instance_make_template(struct instance *instance, bool is_template, struct error **err)
{
    char before[FILE_MAX], after[FILE_MAX];
    if (instance->is_template == is_template)
        return true;
    own_description(instance, before);
    instance->is_template = is_template;
    own_description(instance, after);
    if (renameat2(instance->fd, before, instance->fd, after, RENAME_NOREPLACE) == 0 &&
        fsync(instance->fd) == 0)
        return true;
    instance->is_template = !is_template;
    return error_set_errno(err, errno, "cannot rename '%s/%s'", instance->path, before);
}
