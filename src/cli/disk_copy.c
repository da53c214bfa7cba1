/* SPDX-License-Identifier: MIT
 *
 * trapeze disk convert and commit: data from one image to another, without what is zero.
 */
#include "cli/disk.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "block/copy.h"
#include "cli/progress.h"

extern char **environ;

/* --- copying --- */

static void on_step(void *opaque, uint64_t done)
{
    progress_step(opaque, done);
}

static bool copy_failed(int error, const char *from, const char *to, struct error **err)
{
    error_set_errno(err, error, "cannot copy '%s' to '%s'", from, to);
    if (error == ENOSPC)
        error_hint(err, "Free some space first.");
    return false;
}

static bool copy_all(struct block_image *from, struct block_image *to, struct error **err)
{
    struct progress progress;
    progress_start(&progress, "converting", from->size);
    int error = block_copy(from, to, on_step, &progress);
    progress_end(&progress);
    return error == 0 || copy_failed(error, from->name, to->name, err);
}

/* --- what only qemu-img reads --- */

static bool is_foreign(const char *name)
{
    static const char *const drivers[] = {"vmdk", "vpc", "vhdx", "vdi", "qed", "parallels"};
    for (size_t i = 0; i < ARRAY_SIZE(drivers); i++)
        if (strcmp(drivers[i], name) == 0)
            return true;
    return false;
}

/* The driver that `from` needs, or NULL if we read it ourselves (or nobody does). */
static const char *foreign_driver(const char *from, const char *named)
{
    const struct block_open_options look = {.read_only = true, .no_lock = true};
    if (named != NULL)
        return is_foreign(named) ? named : NULL;
    struct block_file *file = block_open_file(from, &look, NULL);
    const char *driver = file != NULL ? block_file_foreign(file) : NULL;
    block_file_close(file);
    return driver != NULL && is_foreign(driver) ? driver : NULL;
}

/* A name that is neither an option nor, for qemu-img, a protocol. */
static char *plain_path(const char *name)
{
    char *path;
    return asprintf(&path, "%s%s", name[0] == '/' ? "" : "./", name) < 0 ? NULL : path;
}

static bool convert_foreign(const char *driver, const char *from, const char *to,
                            const struct block_format *format, struct error **err)
{
    bool fixed = strcmp(format->name, "fixed") == 0;
    char *source = plain_path(from), *target = plain_path(to);
    const char *const argv[] = {"qemu-img", "convert",
                                "-f",       driver,
                                "-O",       fixed ? "raw" : format->name,
                                "-o",       fixed ? "preallocation=falloc" : "preallocation=off",
                                source,     target,
                                NULL};
    pid_t pid;
    int status = 0;
    int error = posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)(uintptr_t)argv, environ);
    if (error == 0)
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
    free(source);
    free(target);
    if (error == ENOENT) {
        error_set(err, ERROR_HOST,
                  "'%s' is a %s image, which qemu-img has to read, and there is no "
                  "qemu-img",
                  from, driver);
        error_hint(err, "Install it: apt-get install qemu-utils");
        return false;
    }
    if (error != 0)
        return error_set_errno(err, error, "cannot start qemu-img");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    unlink(to);
    return error_set(err, ERROR_HOST, "qemu-img could not convert '%s'", from);
}

/* --- convert --- */

static bool convert(const struct cli_args *args, const char *from, const char *to,
                    struct error **err)
{
    const struct block_format *format;
    struct block_create create = {.size = 0};
    if (!disk_parse_create(args, &create, &format, err))
        return false;
    const char *driver = foreign_driver(from, cli_last(args, "from"));
    if (driver != NULL) {
        if (access(to, F_OK) == 0 && !cli_given(args, "force")) {
            error_set(err, ERROR_HOST, "'%s' exists", to);
            error_hint(err, "--force replaces it.");
            return false;
        }
        return convert_foreign(driver, from, to, format, err);
    }
    const struct block_open_options source = {
        .format = cli_last(args, "from"), .read_only = true, .warn = disk_warn};
    const struct block_open_options target = {.format = format->name};
    struct block_image *image = block_open(from, &source, err);
    if (image == NULL)
        return false;
    create.size = image->size;
    bool good = disk_make(to, format, &create, cli_given(args, "force"), err);
    if (good) {
        struct block_image *copy = block_open(to, &target, err);
        good = copy != NULL && copy_all(image, copy, err);
        block_image_close(copy);
        if (!good)
            unlink(to);
    }
    block_image_close(image);
    return good;
}

int disk_convert(const struct cli_args *args, char *const *operands, size_t count,
                 struct error **err)
{
    if (count != 2) {
        error_set(err, ERROR_USAGE, "'disk convert' takes FROM and TO");
        return CLI_USAGE;
    }
    return convert(args, operands[0], operands[1], err) ? CLI_OK : CLI_HOST_FAILURE;
}

/* --- commit --- */

/* Only when everything is below, and flushed, is the layer emptied: a crash in between
 * leaves both copies. */
static bool commit(struct block_image *layer, struct block_image *below, struct error **err)
{
    if (below->size < layer->size && !below->format->resize(below, layer->size, err))
        return false;
    struct progress progress;
    progress_start(&progress, "committing", layer->size);
    int error = block_copy_layer(layer, below, on_step, &progress);
    progress_end(&progress);
    if (error != 0)
        return copy_failed(error, layer->name, below->name, err);
    return layer->format->empty(layer, err);
}

int disk_commit(const struct cli_args *args, char *const *operands, size_t count,
                struct error **err)
{
    if (count != 1) {
        error_set(err, ERROR_USAGE, "'disk commit' takes one FILE");
        return CLI_USAGE;
    }
    const char *format = cli_last(args, "format");
    const struct block_open_options top = {
        .format = format != NULL ? format : "qcow2", .alone = true, .warn = disk_warn};
    struct block_image *layer = block_open(operands[0], &top, err);
    if (layer == NULL)
        return CLI_HOST_FAILURE;
    bool good = layer->backing_name != NULL && layer->backing_format != NULL;
    if (!good)
        error_set(err, ERROR_USAGE, "disk '%s' %s", operands[0],
                  layer->backing_name == NULL ? "lies on no other image"
                                              : "does not record the format of its backing file");
    if (good) {
        char *name = block_image_resolve(operands[0], layer->backing_name);
        const struct block_open_options bottom = {.format = layer->backing_format,
                                                  .warn = disk_warn};
        struct block_image *below = block_open(name, &bottom, err);
        good = below != NULL && commit(layer, below, err);
        block_image_close(below);
        free(name);
    }
    block_image_close(layer);
    return good ? CLI_OK : CLI_HOST_FAILURE;
}
