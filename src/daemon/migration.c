/* SPDX-License-Identifier: MIT
 *
 * See migration.h. STORE/moved has a file NAME for each machine that has left, and .ID for each
 * target that does not know yet that the source knows.
 */
#include "daemon/migration.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "config/machine.h"
#include "daemon/folder.h"
#include "daemon/instance.h"
#include "daemon/store.h"

enum { RECORD_MAX = 1 << 20 /* bytes: certificates and keys are in it */ };
static const char moved_folder[] = "moved", id_file[] = "id";

bool migration_make_id(char id[MIGRATION_ID + 1], struct error **err)
{
    unsigned char random[MIGRATION_ID / 2];
    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return error_set_errno(err, errno, "the host has no random numbers");
    for (size_t i = 0; i < sizeof(random); i++)
        snprintf(id + 2 * i, 3, "%02x", random[i]);
    return true;
}

static bool is_id(const char *text)
{
    return strlen(text) == MIGRATION_ID && strspn(text, "0123456789abcdef") == MIGRATION_ID;
}

static json_t *read_json(int folder, const char *name)
{
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    char *text = fd >= 0 ? alloc_zeroed(1, RECORD_MAX) : NULL;
    ssize_t size = fd >= 0 ? read(fd, text, RECORD_MAX) : 0;
    json_t *value = size > 0 ? json_loadb(text, (size_t)size, 0, NULL) : NULL;
    if (fd >= 0)
        close(fd);
    free(text);
    return value;
}

static bool write_json(int folder, const char *name, const json_t *value, struct error **err)
{
    char *text = json_dumps(value, JSON_COMPACT);
    bool good = text != NULL && folder_write_bytes(folder, name, text, strlen(text), err);
    free(text);
    return good;
}

bool migration_store_id(const struct store *store, char id[MIGRATION_ID + 1], struct error **err)
{
    json_t *own = read_json(store->folder, id_file);
    const char *text = json_string_value(json_object_get(own, "id"));
    bool good = text != NULL && is_id(text);
    if (good) {
        memcpy(id, text, MIGRATION_ID + 1);
    } else if (migration_make_id(id, err)) {
        json_t *fresh = json_pack("{s:s}", "id", id);
        good = write_json(store->folder, id_file, fresh, err);
        json_decref(fresh);
    }
    json_decref(own);
    return good;
}

/* ---- the record ---- */

json_t *migration_read(int folder)
{
    json_t *record = read_json(folder, MIGRATION_RECORD);
    if (json_is_string(json_object_get(record, "stage")) &&
        json_is_string(json_object_get(record, "role")))
        return record;
    json_decref(record);
    return NULL;
}

bool migration_write(int folder, const json_t *record, struct error **err)
{
    return write_json(folder, MIGRATION_RECORD, record, err);
}

bool migration_remove(int folder, struct error **err)
{
    if (unlinkat(folder, MIGRATION_RECORD, 0) != 0)
        return errno == ENOENT ||
               error_set_errno(err, errno, "cannot remove the record of a migration");
    return fsync(folder) == 0 ||
           error_set_errno(err, errno, "cannot remove the record of a migration for good");
}

const char *migration_stage(const json_t *record)
{
    const char *stage = json_string_value(json_object_get(record, "stage"));
    return stage != NULL ? stage : "";
}

bool migration_is_at(const json_t *record, const char *stage)
{
    return strcmp(migration_stage(record), stage) == 0;
}

const char *migration_peer(const json_t *record)
{
    const char *url = json_string_value(json_object_get(json_object_get(record, "to"), "url"));
    const char *from = json_string_value(json_object_get(record, "from"));
    return url != NULL ? url : from != NULL ? from : "another daemon";
}

bool migration_permits(const struct instance *instance, bool to_delete, struct error **err)
{
    json_t *record = migration_read(instance->fd);
    bool good = true;
    if (migration_is_at(record, MIGRATION_HAND_OVER)) {
        good = error_set(err, ERROR_USAGE,
                         "'%s' was handed over to %s, and that has not said yet whether it has it",
                         instance->name, migration_peer(record));
        error_hint(
            err,
            "It is asked until it answers. If you know that it will not: 'trapeze migrate %s "
            "--resolve here' if it did not arrive, '--resolve there' if it did.",
            instance->name);
    } else if (migration_is_at(record, MIGRATION_ARRIVING)) {
        good = error_set(err, ERROR_USAGE, "'%s' is arriving from %s", instance->name,
                         migration_peer(record));
    } else if (to_delete && migration_is_at(record, MIGRATION_ARRIVED)) {
        good = error_set(err, ERROR_USAGE, "'%s' has come from %s, which does not know that yet",
                         instance->name, migration_peer(record));
        error_hint(err,
                   "It asks until it does. If you know that it will not: 'trapeze migrate %s "
                   "--resolve here'.",
                   instance->name);
    }
    json_decref(record);
    return good;
}

static bool is_of(const struct store *store, const char *name, const char *id, const char *stage)
{
    int folder = openat(store->instances, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    json_t *record = folder >= 0 ? migration_read(folder) : NULL;
    const char *own = json_string_value(json_object_get(record, "id"));
    bool found = migration_is_at(record, stage) && own != NULL && strcmp(own, id) == 0;
    json_decref(record);
    if (folder >= 0)
        close(folder);
    return found;
}

static bool find(const struct store *store, const char *id, const char *stage, char name[64])
{
    char **names = store_list(store, NULL);
    bool found = false;
    for (size_t i = 0; names != NULL && names[i] != NULL && !found; i++) {
        found = is_of(store, names[i], id, stage);
        if (found)
            snprintf(name, 64, "%s", names[i]);
    }
    store_list_free(names);
    return found;
}

bool migration_find(const struct store *store, const char *id, char name[64])
{
    return find(store, id, MIGRATION_ARRIVED, name);
}

/* ---- what has left ---- */

static int open_moved(const struct store *store, bool make)
{
    if (make)
        mkdirat(store->folder, moved_folder, 0700);
    return openat(store->folder, moved_folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static void open_file(char name[MIGRATION_ID + 2], const char *id)
{
    snprintf(name, MIGRATION_ID + 2, ".%s", id);
}

bool migration_leave(struct instance *instance, const json_t *record, struct error **err)
{
    const struct store *store = instance->store;
    const char *id = json_string_value(json_object_get(record, "id"));
    char open_name[MIGRATION_ID + 2], when[24];
    int moved = open_moved(store, true);
    if (moved < 0 || id == NULL || !is_id(id)) {
        error_set_errno(err, moved < 0 ? errno : EINVAL, "cannot note where '%s' went",
                        instance->name);
        if (moved >= 0)
            close(moved);
        return false;
    }
    open_file(open_name, id);
    machine_print_time((int64_t)time(NULL), when);
    json_t *note = json_pack("{s:s, s:s}", "url", migration_peer(record), "time", when);
    bool good = fsync(store->folder) == 0 && write_json(moved, open_name, record, err) &&
                write_json(moved, instance->name, note, err) &&
                store_discard(store, instance->name, err);
    json_decref(note);
    close(moved);
    return good;
}

json_t *migration_moved(const struct store *store, const char *name)
{
    int moved = open_moved(store, false);
    json_t *note = moved >= 0 ? read_json(moved, name) : NULL;
    if (moved >= 0)
        close(moved);
    if (json_is_string(json_object_get(note, "url")) &&
        json_is_string(json_object_get(note, "time")))
        return note;
    json_decref(note);
    return NULL;
}

void migration_forget(const struct store *store, const char *name)
{
    int moved = open_moved(store, false);
    if (moved < 0)
        return;
    unlinkat(moved, name, 0);
    close(moved);
}

char **migration_unsettled(const struct store *store)
{
    int moved = open_moved(store, false);
    DIR *listing = moved >= 0 ? fdopendir(moved) : NULL;
    char **ids = alloc_zeroed(1, sizeof(*ids));
    size_t count = 0;
    const struct dirent *entry;
    while (listing != NULL && (entry = readdir(listing)) != NULL) {
        const char *id = entry->d_name + 1;
        char name[64];
        /* One that still has its folder did not get as far as it thinks. */
        if (entry->d_name[0] != '.' || !is_id(id) || find(store, id, MIGRATION_HAND_OVER, name))
            continue;
        ids = alloc_resize(ids, count + 2, sizeof(*ids));
        ids[count++] = alloc_string(id);
        ids[count] = NULL;
    }
    if (listing != NULL)
        closedir(listing);
    else if (moved >= 0)
        close(moved);
    return ids;
}

json_t *migration_unsettled_read(const struct store *store, const char *id)
{
    char name[MIGRATION_ID + 2];
    int moved = open_moved(store, false);
    open_file(name, id);
    json_t *record = moved >= 0 ? read_json(moved, name) : NULL;
    if (moved >= 0)
        close(moved);
    return record;
}

void migration_settled(const struct store *store, const char *id)
{
    char name[MIGRATION_ID + 2];
    int moved = open_moved(store, false);
    open_file(name, id);
    if (moved < 0)
        return;
    unlinkat(moved, name, 0);
    close(moved);
}
