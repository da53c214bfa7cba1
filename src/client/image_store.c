/* SPDX-License-Identifier: MIT
 *
 * See image_store.h: which images there are, who uses them, and their end.
 */
#include "client/image_store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "block/open/open.h"
#include "client/api.h"
#include "client/image.h"
#include "config/vmx.h"

#define STAGED_PREFIX  ".new-"
#define REMOVED_PREFIX ".del-"
enum { PATIENCE_S = 10 };

/* ---- a folder of them ---- */

void image_each(const char *path, void (*fn)(void *opaque, int folder, const char *name),
                void *opaque)
{
    DIR *listing = opendir(path);
    const struct dirent *entry;
    while (listing != NULL && (entry = readdir(listing)) != NULL)
        if (entry->d_name[0] != '.')
            fn(opaque, dirfd(listing), entry->d_name);
    if (listing != NULL)
        closedir(listing);
}

static void add_size(void *opaque, int folder, const char *name)
{
    struct stat status;
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) == 0)
        *(uint64_t *)opaque += (uint64_t)status.st_blocks * 512;
}

/* ---- who uses them ---- */

struct usage {
    const char *store;  /* its instances */
    const char *images; /* without links, '/' at the end */
    const char *instance;
    struct image_entry *list;
    size_t count;
};

static void use(struct image_entry *entry, const char *instance)
{
    char *more = NULL;
    size_t length = strlen(instance), have = entry->uses != NULL ? strlen(entry->uses) : 0;
    if (have >= length && strcmp(entry->uses + have - length, instance) == 0 &&
        (have == length || entry->uses[have - length - 1] == ' '))
        return;
    if (asprintf(&more, "%s%s%s", have > 0 ? entry->uses : "", have > 0 ? ", " : "", instance) < 0)
        return;
    free(entry->uses);
    entry->uses = more;
}

static void use_file(struct usage *usage, const char *path)
{
    char full[PATH_MAX];
    size_t prefix = strlen(usage->images);
    if (path == NULL || realpath(path, full) == NULL || strncmp(full, usage->images, prefix) != 0)
        return;
    size_t length = strcspn(full + prefix, "/");
    for (size_t i = 0; i < usage->count; i++)
        if (strlen(usage->list[i].name) == length &&
            memcmp(usage->list[i].name, full + prefix, length) == 0)
            use(&usage->list[i], usage->instance);
}

/* The disk and what it lies on. */
static void use_disk(struct usage *usage, const struct machine_disk *disk)
{
    char *path = alloc_string(disk->path), *format = NULL;
    if (disk->format != NULL)
        format = alloc_string(disk->format);
    for (unsigned depth = 0; path != NULL && depth < BLOCK_DEPTH_MAX; depth++) {
        const struct block_open_options options = {
            .format = format, .read_only = true, .no_lock = true, .alone = true};
        char *below = NULL;
        use_file(usage, path);
        struct block_image *image =
            block_name_is_uri(path) || path[0] == '\0' ? NULL : block_open(path, &options, NULL);
        free(format);
        format = NULL;
        if (image != NULL && image->backing_name != NULL && image->backing_format != NULL) {
            below = block_image_resolve(path, image->backing_name);
            format = alloc_string(image->backing_format);
        }
        block_image_close(image);
        free(path);
        path = below;
    }
    free(path);
    free(format);
}

static void use_instance(void *opaque, int folder, const char *name)
{
    static const char *const endings[] = {"vmx", "vmtx"};
    struct usage *usage = opaque;
    (void)folder;
    usage->instance = name;
    for (size_t e = 0; e < ARRAY_SIZE(endings); e++) {
        struct machine_config config;
        char *path = NULL;
        machine_config_init(&config);
        if (asprintf(&path, "%s/%s/%s.%s", usage->store, name, name, endings[e]) > 0 &&
            access(path, F_OK) == 0 && vmx_load(path, &config, NULL, NULL)) {
            use_file(usage, config.kernel);
            use_file(usage, config.initrd);
            use_file(usage, config.firmware);
            for (size_t i = 0; i < config.disk_count; i++)
                use_disk(usage, &config.disks[i]);
        }
        machine_config_clear(&config);
        free(path);
    }
}

static void find_users(const char *images, struct image_entry *list, size_t count)
{
    char *home = api_store_path(NULL), *store = NULL, *prefix = NULL, full[PATH_MAX];
    if (home != NULL && realpath(images, full) != NULL &&
        asprintf(&store, "%s/instances", home) > 0 && asprintf(&prefix, "%s/", full) > 0) {
        struct usage usage = {store, prefix, NULL, list, count};
        image_each(store, use_instance, &usage);
    }
    free(home);
    free(store);
    free(prefix);
}

/* ---- the list ---- */

struct listing {
    struct image_entry *list;
    size_t count;
    const char *images;
};

static void add_entry(void *opaque, int folder, const char *name)
{
    struct listing *listing = opaque;
    struct image_entry entry = {.name = alloc_string(name)};
    struct stat status;
    char *path = NULL;
    if (asprintf(&path, "%s/%s", listing->images, name) < 0)
        abort();
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(status.st_mode)) {
        struct image image;
        entry.made = status.st_mtime;
        image_each(path, add_size, &entry.bytes);
        if (image_read(path, &image, NULL)) {
            entry.title = alloc_string(image.title);
            entry.pulled = image.source != NULL;
        }
        image_clear(&image);
        listing->list = alloc_resize(listing->list, listing->count + 1, sizeof(entry));
        listing->list[listing->count++] = entry;
    } else {
        free(entry.name);
    }
    free(path);
}

static int compare(const void *a, const void *b)
{
    return strcmp(((const struct image_entry *)a)->name, ((const struct image_entry *)b)->name);
}

struct image_entry *image_list(size_t *count, struct error **err)
{
    char *images = image_folder("images", err);
    struct listing listing = {.images = images};
    if (images != NULL)
        image_each(images, add_entry, &listing);
    if (listing.count > 0) {
        qsort(listing.list, listing.count, sizeof(*listing.list), compare);
        find_users(images, listing.list, listing.count);
    }
    free(images);
    *count = listing.count;
    return listing.list;
}

void image_list_free(struct image_entry *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(list[i].name);
        free(list[i].title);
        free(list[i].uses);
    }
    free(list);
}

/* ---- the end ---- */

static void remove_file(void *opaque, int folder, const char *name)
{
    (void)opaque;
    unlinkat(folder, name, 0);
}

void image_remove_stage(const char *path)
{
    image_each(path, remove_file, NULL);
    rmdir(path);
}

/* Taken out of sight first. */
static bool remove_folder(const char *images, const char *name, struct error **err)
{
    char *from = NULL, *to = NULL;
    bool good = asprintf(&from, "%s/%s", images, name) > 0 &&
                asprintf(&to, "%s/" REMOVED_PREFIX "%s", images, name) > 0;
    if (good && rename(from, to) != 0)
        good = error_set_errno(err, errno, "cannot remove the image '%s'", name);
    if (good)
        image_remove_stage(to);
    free(from);
    free(to);
    return good;
}

/* Whoever makes one holds a lock on its folder. */
void image_clean_stages(const char *images)
{
    DIR *listing = opendir(images);
    const struct dirent *entry;
    while (listing != NULL && (entry = readdir(listing)) != NULL) {
        char *path = NULL;
        struct stat status;
        bool staged = strncmp(entry->d_name, STAGED_PREFIX, strlen(STAGED_PREFIX)) == 0;
        if (!staged && strncmp(entry->d_name, REMOVED_PREFIX, strlen(REMOVED_PREFIX)) != 0)
            continue;
        int fd = openat(dirfd(listing), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        /* A new one is locked a moment after it was made. */
        if (fd >= 0 && fstat(fd, &status) == 0 &&
            (!staged || status.st_ctime < time(NULL) - PATIENCE_S) &&
            flock(fd, LOCK_EX | LOCK_NB) == 0 &&
            asprintf(&path, "%s/%s", images, entry->d_name) > 0)
            image_remove_stage(path);
        if (fd >= 0)
            close(fd);
        free(path);
    }
    if (listing != NULL)
        closedir(listing);
}

bool image_remove(const char *name, struct error **err)
{
    size_t count;
    struct image_entry *list = image_list(&count, err);
    const struct image_entry *found = NULL;
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0)
            found = &list[i];
    bool good = false;
    if (found == NULL) {
        error_set(err, ERROR_USAGE, "there is no image '%s'", name);
        error_hint(err, "'trapeze image list' names those that are there.");
    } else if (found->uses != NULL) {
        error_set(err, ERROR_USAGE, "the image '%s' is in use by: %s", name, found->uses);
        error_hint(err, "Their disks lie on it; delete them first, or 'trapeze disk commit'.");
    } else {
        char *images = image_folder("images", err);
        good = images != NULL && remove_folder(images, name, err);
        free(images);
    }
    image_list_free(list, count);
    return good;
}

static void remove_pull(void *opaque, int folder, const char *name)
{
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    (void)opaque;
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
        unlinkat(folder, name, 0);
    if (fd >= 0)
        close(fd);
}

void image_clean_pulls(void)
{
    char *folder = image_folder("pull", NULL);
    if (folder != NULL)
        image_each(folder, remove_pull, NULL);
    free(folder);
}
