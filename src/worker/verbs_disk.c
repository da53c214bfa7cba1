/* SPDX-License-Identifier: MIT
 *
 * Verbs for disks and discs that come and go.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/frame.h"
#include "block/chain.h"
#include "config/machine.h"
#include "vm/replace.h"
#include "vm/vm.h"
#include "worker/verbs.h"

json_t *verb_disks(struct control_target *target, const json_t *arguments, struct error **err)
{
    (void)arguments, (void)err;
    json_t *list = json_array();
    for (size_t i = 0; i < vm_disk_count(target->vm); i++) {
        struct vm_disk_status disk;
        if (!vm_get_disk(target->vm, i, &disk))
            continue;
        json_array_append_new(list, json_pack("{s:I, s:o, s:s, s:s, s:b, s:b, s:I}", "disk",
                                              (json_int_t)i, "file", control_text(disk.path), "bus",
                                              disk.bus, "media", disk.optical ? "cdrom" : "disk",
                                              "read-only", (int)disk.read_only, "leaving",
                                              (int)disk.leaving, "size", (json_int_t)disk.size));
    }
    return list;
}

/* A property's value, which a client may have taken for a number. */
static bool set_property(struct machine_disk *disk, const char *name, const json_t *value,
                         struct error **err)
{
    char number[32];
    const char *text = json_string_value(value);
    if (json_is_integer(value)) {
        snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
        text = number;
    }
    if (strcmp(name, "readonly") == 0 && json_is_boolean(value)) {
        disk->read_only = json_is_true(value);
        return true;
    }
    if (text == NULL)
        return error_set(err, ERROR_USAGE, "%s is not text", name);
    if (strcmp(name, "file") != 0)
        return machine_disk_set(disk, name, text, err);
    free(disk->path);
    disk->path = alloc_string(text);
    return true;
}

/* The disk's files, opened by who asks: this process opens none. */
static bool take_files(struct control_target *target, const char *path, struct block_chain *files,
                       struct error **err)
{
    struct frame_fds *came = target->fds;
    files->count = 0;
    if (came->count > BLOCK_DEPTH_MAX)
        return error_set(err, ERROR_USAGE, "a disk has at most %d files", BLOCK_DEPTH_MAX);
    for (size_t i = 0; i < came->count; i++) {
        files->fds[files->count++] = came->fds[i];
        came->fds[i] = -1;
    }
    if (files->count > 0 || path[0] == '\0')
        return true;
    error_set(err, ERROR_USAGE, "the descriptors of '%s' did not come along", path);
    error_hint(err, "'trapeze disk attach' and 'trapeze disk insert' send them");
    return false;
}

/* With the descriptors of its files: {"file": PATH, "readonly": true, and a disk's properties by
 * name} */
json_t *verb_disk_attach(struct control_target *target, const json_t *arguments, struct error **err)
{
    struct machine_disk disk;
    struct block_chain files = {.count = 0};
    const char *name;
    json_t *value, *result = NULL;
    bool good = true, rescan;
    size_t index;
    machine_disk_init(&disk);
    json_object_foreach((json_t *)arguments, name, value)
    {
        good = good && set_property(&disk, name, value, err);
    }
    if (good && disk.path == NULL)
        good = error_set(err, ERROR_USAGE, "file is the path of the disk's image");
    if (good && take_files(target, disk.path, &files, err) &&
        vm_disk_attach(target->vm, &disk, &files, &index, &rescan, err))
        result = json_pack("{s:I, s:b}", "disk", (json_int_t)index, "rescan", (int)rescan);
    block_chain_close(&files);
    machine_disk_clear(&disk);
    return result;
}

static bool disk_argument(const json_t *arguments, size_t *index, struct error **err)
{
    const json_t *disk = json_object_get(arguments, "disk");
    if (!json_is_integer(disk) || json_integer_value(disk) < 0)
        return error_set(err, ERROR_USAGE, "disk is the number of a disk, counted from 0");
    *index = (size_t)json_integer_value(disk);
    return true;
}

static bool forced(const json_t *arguments)
{
    return json_is_true(json_object_get(arguments, "force"));
}

static json_t *done(bool good)
{
    return good ? json_object() : NULL;
}

/* {"disk": N, "force": true}; without force 'disks' tells when it has gone. */
json_t *verb_disk_detach(struct control_target *target, const json_t *arguments, struct error **err)
{
    size_t index;
    return done(disk_argument(arguments, &index, err) &&
                vm_disk_detach(target->vm, index, forced(arguments), err));
}

json_t *verb_eject(struct control_target *target, const json_t *arguments, struct error **err)
{
    size_t index;
    return done(disk_argument(arguments, &index, err) &&
                vm_disk_eject(target->vm, index, forced(arguments), err));
}

json_t *verb_insert(struct control_target *target, const json_t *arguments, struct error **err)
{
    size_t index;
    const char *path = json_string_value(json_object_get(arguments, "file"));
    if (path == NULL || path[0] == '\0') {
        error_set(err, ERROR_USAGE, "file is the path of the disc's image");
        return NULL;
    }
    struct block_chain files = {.count = 0};
    bool good = disk_argument(arguments, &index, err) && take_files(target, path, &files, err) &&
                vm_disk_insert(target->vm, index, path, &files, forced(arguments), err);
    block_chain_close(&files);
    return done(good);
}

/* {"disk": N, "file": PATH}, with the descriptor of that file, which is not locked. */
json_t *verb_disk_replace(struct control_target *target, const json_t *arguments,
                          struct error **err)
{
    size_t index;
    const char *path = json_string_value(json_object_get(arguments, "file"));
    if (path == NULL || path[0] == '\0') {
        error_set(err, ERROR_USAGE, "file is the path of the disk's file");
        return NULL;
    }
    struct block_chain files = {.count = 0};
    bool good = disk_argument(arguments, &index, err) && take_files(target, path, &files, err) &&
                vm_disk_replace(target->vm, index, path, &files, err);
    block_chain_close(&files);
    return done(good);
}
