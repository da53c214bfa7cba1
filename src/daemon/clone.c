/* SPDX-License-Identifier: MIT
 *
 * Clones (instance.h). A full one has copies of all files of the original's folder and of every
 * disk that it can write to, and needs nothing of it any more. A linked one has an empty overlay
 * for each such disk and reads everything else where it is:
 *
 *     BASE/BASE.vmtx   scsi0:0.fileName = "disk.img"      trapeze.kernel = "kernel"
 *     web/web.vmx      scsi0:0.fileName = "disk.qcow2"    trapeze.kernel = "../BASE/kernel"
 *                      scsi0:0.trapeze.backing = "../BASE/disk.img"
 *                      trapeze.parent = "BASE"
 *
 * What no two machines can share is made anew: NIC addresses, the vsock's address, the machine's
 * uuid, names of files and sockets that the machine writes.
 */
#include "daemon/instance.h"

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
#include "client/disk_clone.h"
#include "config/identity.h"
#include "daemon/backing.h"
#include "daemon/folder.h"
#include "daemon/snapshot.h"

struct cloning {
    const struct instance *original;
    const struct instance_plan *plan;
    struct machine_config before; /* the original's, file names ready to open */
    struct machine_config config; /* the clone's */
    char *store;                  /* path of the instances, without links */
    int folder;                   /* the clone's; -1: not yet */
};

static void replace(char **text, const char *with)
{
    char *copy = with != NULL ? alloc_string(with) : NULL;
    free(*text);
    *text = copy;
}

/* ---- names of files ---- */

/* What a file of some instance is called from another's folder, "../BASE/kernel"; NULL: it is not
 * in the store. Caller frees. */
static char *name_in_store(const struct cloning *c, const char *path)
{
    char full[PATH_MAX], *name = NULL;
    size_t length = strlen(c->store);
    if (realpath(path, full) == NULL || strncmp(full, c->store, length) != 0 || full[length] != '/')
        return NULL;
    return asprintf(&name, "..%s", full + length) > 0 ? name : NULL;
}

/* "kernel" of "../BASE/kernel" if BASE is the original; NULL: it is another's. */
static const char *name_in_original(const struct cloning *c, const char *name)
{
    size_t length = strlen(c->original->name);
    bool ours = strncmp(name + 3, c->original->name, length) == 0 && name[3 + length] == '/' &&
                strchr(name + 4 + length, '/') == NULL;
    return ours ? name + 4 + length : NULL;
}

/* A name that is free in the clone's folder: "disk.qcow2", "disk-2.qcow2" … Caller frees. */
static char *free_name(const struct cloning *c, const char *like, const char *ending)
{
    const char *dot = strrchr(like, '.');
    int stem =
        (int)(ending != NULL && dot != NULL && dot > like ? dot - like : (ptrdiff_t)strlen(like));
    struct stat status;
    char *name = NULL;
    for (unsigned i = 1;; i++) {
        char number[16] = "";
        if (i > 1)
            snprintf(number, sizeof(number), "-%u", i);
        if (asprintf(&name, "%.*s%s%s", stem, like, number, ending != NULL ? ending : "") < 0)
            return NULL;
        if (fstatat(c->folder, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
            return name;
        free(name);
    }
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* A file that the clone only reads. */
static bool keep_input(const struct cloning *c, char **path, struct error **err)
{
    bool good = true;
    if (*path == NULL || (*path)[0] != '/')
        return true; /* there is none, it came along with the plan, or it is on a server */
    char *name = name_in_store(c, *path);
    if (name == NULL)
        return true; /* where it is, for both */
    const char *own = name_in_original(c, name);
    if (c->plan->linked) {
        replace(path, name);
    } else if (own != NULL && !folder_is_private(own)) {
        replace(path, own); /* copy_rest() */
    } else {
        char *copy = free_name(c, base_name(name), NULL);
        good = folder_copy(AT_FDCWD, *path, c->folder, copy, c->plan->step, c->plan->opaque, err);
        replace(path, copy);
        free(copy);
    }
    free(name);
    return good;
}

/* What the machine writes. Where two would write to the same file the clone's has its name added.
 */
static void own_output(const struct cloning *c, char **path, const char *before)
{
    char *name = NULL;
    size_t length = strlen(c->original->path);
    if (*path == NULL || before == NULL || strcmp(*path, before) != 0)
        return;
    if (strncmp(*path, c->original->path, length) == 0 && (*path)[length] == '/')
        replace(path, *path + length + 1);
    else if (asprintf(&name, "%s-%s", *path, c->plan->name) > 0)
        replace(path, name);
    free(name);
}

/* A folder is not copied. */
static bool keep_share(const struct cloning *c, char **path, struct error **err)
{
    char *name = name_in_store(c, *path);
    bool good = name == NULL || c->plan->linked;
    if (!good) {
        error_set(err, ERROR_USAGE,
                  "the shared folder '%s' lies within an instance, and a clone's "
                  "copies are of files alone",
                  *path);
        error_hint(err, "Move it elsewhere.");
    } else if (name != NULL) {
        replace(path, name);
    }
    free(name);
    return good;
}

/* ---- disks ---- */

static const struct machine_disk *disk_before(const struct cloning *c, const char *path)
{
    for (size_t i = 0; i < c->before.disk_count; i++)
        if (strcmp(c->before.disks[i].path, path) == 0)
            return &c->before.disks[i];
    return NULL;
}

static bool clone_disk(const struct cloning *c, struct machine_disk *disk, struct error **err)
{
    char *backing = NULL;
    const char *format = NULL;
    if (c->plan->linked) {
        backing = name_in_store(c, disk->path);
        if (backing == NULL)
            backing = realpath(disk->path, NULL);
        if (backing == NULL)
            return error_set_errno(err, errno, "cannot find '%s'", disk->path);
    }
    char *name = free_name(c, base_name(disk->path), c->plan->linked ? ".qcow2" : NULL);
    const struct client_disk_clone how = {
        .folder = c->folder,
        .name = name,
        .backing = backing,
        .in_use = c->plan->running,
        .step = c->plan->step,
        .opaque = c->plan->opaque,
    };
    bool good = client_disk_clone(disk, &how, &format, err);
    if (good) {
        replace(&disk->path, name);
        replace(&disk->format, format);
        replace(&disk->backing, backing);
    }
    free(name);
    free(backing);
    return good;
}

static bool keep_disk(const struct cloning *c, struct machine_disk *disk, struct error **err)
{
    bool only_read = disk->read_only || disk->media != 0;
    if (only_read)
        return keep_input(c, &disk->path, err);
    if (disk->path[0] != '/' && strstr(disk->path, "://") == NULL)
        return true; /* it came along with the plan */
    if (disk_before(c, disk->path) == NULL)
        return true; /* the clone's own wish */
    if (disk->path[0] == '/')
        return clone_disk(c, disk, err);
    error_set(err, ERROR_USAGE,
              "'%s' writes to '%s', which is no file of this host, and so would "
              "its clone",
              c->original->name, disk->path);
    error_hint(err, "Make that disk read-only, or take it out.");
    return false;
}

/* ---- the description ---- */

static bool describe(struct cloning *c, struct error **err)
{
    struct machine_config *config = &c->config;
    replace(&config->name, c->plan->name);
    replace(&config->parent, c->plan->linked ? c->original->name : NULL);
    replace(&config->expires, c->plan->expires);
    config->snapshot = 0; /* those stay the original's */
    own_output(c, &config->vsock_socket, c->before.vsock_socket);
    own_output(c, &config->serial_path, c->before.serial_path);
    own_output(c, &config->dump_fdt, c->before.dump_fdt);
    for (size_t i = 0; i < config->nic_count && i < c->before.nic_count; i++)
        own_output(c, &config->nics[i].capture, c->before.nics[i].capture);
    char **const inputs[] = {&config->kernel, &config->initrd, &config->firmware};
    for (size_t i = 0; i < sizeof(inputs) / sizeof(inputs[0]); i++)
        if (!keep_input(c, inputs[i], err))
            return false;
    for (size_t i = 0; i < config->share_count; i++)
        if (!keep_share(c, &config->shares[i].path, err))
            return false;
    for (size_t i = 0; i < config->disk_count; i++)
        if (!keep_disk(c, &config->disks[i], err))
            return false;
    return true;
}

/* ---- other files ---- */

/* What the clone's hardware remembers at first is what the original's does. */
static bool copy_nvram(const struct cloning *c, struct error **err)
{
    char from[INSTANCE_MAX_FILE], to[INSTANCE_MAX_FILE];
    struct stat status;
    snprintf(from, sizeof(from), "%s.nvram", c->original->name);
    snprintf(to, sizeof(to), "%s.nvram", c->plan->name);
    return fstatat(c->original->fd, from, &status, AT_SYMLINK_NOFOLLOW) != 0 ||
           folder_copy(c->original->fd, from, c->folder, to, NULL, NULL, err);
}

/* Whether some description of the original has the file as a disk that is written to. */
static bool is_disk_of(const struct cloning *c, const struct machine_config *config,
                       const char *file)
{
    for (size_t i = 0; i < config->disk_count; i++) {
        const struct machine_disk *disk = &config->disks[i];
        char *name = !disk->read_only && disk->media == 0 && disk->path[0] == '/'
                         ? name_in_store(c, disk->path)
                         : NULL;
        const char *own = name != NULL ? name_in_original(c, name) : NULL;
        bool found = own != NULL && strcmp(own, file) == 0;
        free(name);
        if (found)
            return true;
    }
    return false;
}

/* Disks that are written to are the description's business; what lies under those of snapshots,
 * too. */
static bool is_disk(const struct cloning *c, struct snapshot_family *family, const char *file)
{
    for (size_t i = 0; i < snapshot_family_size(family); i++)
        if (is_disk_of(c, &family->configs[i], file))
            return true;
    return false;
}

static bool is_there(const struct cloning *c, const char *name)
{
    struct stat status;
    return fstatat(c->folder, name, &status, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Before the description's files, so that theirs are the names that give way. */
static bool copy_rest(const struct cloning *c, struct error **err)
{
    struct snapshot_family family;
    if (!snapshot_family_read(c->original, &family, err))
        return false;
    for (size_t i = 0; i < snapshot_family_size(&family); i++)
        vmx_resolve(&family.configs[i], c->original->path);
    int fd = openat(c->original->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    bool good =
        listing != NULL || error_set_errno(err, errno, "cannot list '%s'", c->original->path);
    const struct dirent *entry;
    while (good && (entry = readdir(listing)) != NULL) {
        struct stat status;
        const char *name = entry->d_name;
        if (folder_is_private(name) || folder_is_description(name, ".vmx") ||
            folder_is_description(name, ".vmtx") || folder_is_description(name, ".nvram") ||
            is_disk(c, &family, name) || is_there(c, name) ||
            fstatat(fd, name, &status, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(status.st_mode))
            continue;
        good = folder_copy(c->original->fd, name, c->folder, name, c->plan->step, c->plan->opaque,
                           err);
    }
    snapshot_family_clear(&family);
    if (listing != NULL)
        closedir(listing);
    else if (fd >= 0)
        close(fd);
    return good;
}

/* The disks that the clone is to lie upon, as if they were the original's. */
static bool use_frozen_disks(struct cloning *c, struct error **err)
{
    if (!snapshot_frozen_disks(c->original, &c->config))
        return error_set(err, ERROR_INTERNAL, "the disks of '%s' are not frozen",
                         c->original->name);
    vmx_resolve(&c->config, c->original->path);
    for (size_t i = 0; i < c->before.disk_count; i++)
        replace(&c->before.disks[i].path, c->config.disks[i].path);
    return true;
}

static bool prepare(struct cloning *c, struct text *text, struct error **err)
{
    char *path = NULL;
    if (asprintf(&path, "%s/instances", c->original->store->path) < 0)
        return error_set(err, ERROR_HOST, "out of memory");
    c->store = realpath(path, NULL);
    bool good = c->store != NULL || error_set_errno(err, errno, "cannot find '%s'", path);
    free(path);
    good = good && instance_config(c->original, &c->before, NULL, err) &&
           vmx_read(text, &c->config, NULL, err);
    if (good && c->plan->frozen)
        return use_frozen_disks(c, err);
    if (good && c->plan->text == NULL)
        vmx_resolve(&c->config, c->original->path);
    return good;
}

static struct text *description_of(const struct instance *original,
                                   const struct instance_plan *plan, struct error **err)
{
    size_t size;
    if (plan->text == NULL)
        return instance_read(original, err);
    char *bytes = text_write(plan->text, &size);
    struct text *text = text_parse(bytes, size, text_name(plan->text), err);
    free(bytes);
    return text;
}

static bool make(struct cloning *c, struct instance_draft *draft, struct error **err)
{
    const struct instance_plan *plan = c->plan;
    if (!prepare(c, draft->text, err) || !instance_name_check(plan->name, err))
        return false;
    c->folder = instance_stage(c->original->store, draft->staged, err);
    draft->instance.fd = c->folder;
    if (c->folder < 0 || asprintf(&draft->instance.path, "%s/%s", c->store, draft->staged) < 0 ||
        !(plan->linked || backing_check_files(c->original, &c->before, err)) ||
        !instance_bring(plan, c->folder, err) || !copy_nvram(c, err) ||
        !(plan->linked || copy_rest(c, err)) || !describe(c, err))
        return false;
    identity_renew(draft->text, &c->config, &c->before);
    vmx_update(draft->text, &c->config);
    return true;
}

bool instance_clone_begin(const struct instance *original, const struct instance_plan *plan,
                          struct instance_draft *draft, struct error **err)
{
    struct cloning c = {.original = original, .plan = plan, .folder = -1};
    *draft = (struct instance_draft){.instance = {.store = original->store, .fd = -1, .lock = -1, .is_draft = true},
                                     .text = description_of(original, plan, err)};
    snprintf(draft->instance.name, sizeof(draft->instance.name), "%s", plan->name);
    machine_config_init(&c.before);
    machine_config_init(&c.config);
    bool good = draft->text != NULL && make(&c, draft, err);
    machine_config_clear(&c.before);
    machine_config_clear(&c.config);
    free(c.store);
    if (!good)
        instance_clone_end(draft, false, NULL);
    return good;
}

bool instance_clone_end(struct instance_draft *draft, bool good, struct error **err)
{
    struct instance *instance = &draft->instance;
    if (instance->fd >= 0)
        good = instance_finish(instance->store, instance->name, draft->text, instance->fd,
                               draft->staged, good, err);
    instance->fd = -1;
    instance_close(instance);
    text_free(draft->text);
    draft->text = NULL;
    return good;
}

bool instance_clone(const struct instance *original, const struct instance_plan *plan,
                    struct error **err)
{
    struct instance_draft draft;
    return instance_clone_begin(original, plan, &draft, err) &&
           instance_clone_end(&draft, true, err);
}
