/* SPDX-License-Identifier: MIT
 *
 * See migrate_disks.h.
 */
#include "daemon/migrate_disks.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "archive/pack.h"
#include "base/alloc.h"
#include "base/error.h"
#include "client/disk_clone.h"
#include "client/disks.h"
#include "client/worker.h"
#include "config/vmx.h"
#include "daemon/instance.h"
#include "daemon/migrate_tree.h"
#include "daemon/migration.h"
#include "daemon/snapshot.h"

#define SPARE_BYTES (UINT64_C(64) << 20) /* that stay free */

static const char shared[] = "shared", copied[] = "copy", filed[] = "file", topped[] = "top";

/* On a server that is not this host's own affair, as a socket here would be. */
static bool is_on_server(const struct machine_disk *disk)
{
    return strncmp(disk->path, "nbd://", 6) == 0 || strncmp(disk->path, "nbds://", 7) == 0;
}

static bool is_written(const struct machine_disk *disk)
{
    return disk->media == 0 && !disk->read_only;
}

static uint64_t number_of(const json_t *row, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(row, key));
    return value > 0 ? (uint64_t)value : 0;
}

bool migrate_disks_is(const json_t *words, size_t disk, const char *word)
{
    const char *own = json_string_value(json_array_get(words, disk));
    return own != NULL && strcmp(own, word) == 0;
}

json_t *migrate_disks_for_worker(const json_t *words)
{
    json_t *list = json_array();
    for (size_t i = 0; i < json_array_size(words); i++)
        json_array_append_new(list, json_string(migrate_disks_is(words, i, copied)   ? copied
                                                : migrate_disks_is(words, i, topped) ? topped
                                                                                     : shared));
    return list;
}

/* ---- the source ---- */

struct proving {
    json_t *proofs;
    uint64_t data; /* bytes that the files take */
    bool wanted;
    struct error *error; /* the first */
};

/* A file beside this one, for the target to find. */
static void prove(void *opaque, const char *path, const struct stat *status)
{
    struct proving *proving = opaque;
    proving->data += (uint64_t)status->st_blocks * 512;
    if (proving->wanted && proving->error == NULL)
        (void)migrate_disks_prove(path, proving->proofs, &proving->error);
}

bool migrate_disks_prove(const char *path, json_t *proofs, struct error **err)
{
    char id[MIGRATION_ID + 1], *beside = NULL, *name = NULL;
    const char *slash = strrchr(path, '/');
    bool good = slash != NULL && migration_make_id(id, err) &&
                asprintf(&name, MIGRATION_PROOF "%s", id) > 0 &&
                asprintf(&beside, "%.*s/%s", (int)(slash - path), path, name) > 0;
    int fd = good ? open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
    if (fd >= 0) {
        close(fd);
        json_object_set_new(proofs, path, json_string(name));
    } else if (good) {
        error_set_errno(err, errno, "cannot prove to the target which file '%s' is", path);
    }
    free(beside);
    free(name);
    return fd >= 0;
}

static bool is_own(const struct instance *instance, const struct machine_disk *disk)
{
    size_t length = strlen(instance->path);
    return strncmp(disk->path, instance->path, length) == 0 && disk->path[length] == '/';
}

/* Whether it could stay where it is. */
static bool can_be_shared(const struct instance *instance, const struct machine_disk *disk,
                          struct error **err)
{
    if (is_own(instance, disk)) {
        error_set(err, ERROR_USAGE,
                  "the disk '%s' is in the instance's folder, which the target does not see",
                  disk->path);
        error_hint(err, "--copy-storage brings it along.");
        return false;
    }
    if (is_written(disk) && disk->format == NULL) {
        error_set(err, ERROR_USAGE,
                  "the format of the disk '%s' is not in the description, and what its guest "
                  "writes could look like any",
                  disk->path);
        error_hint(err, "--copy-storage makes a copy of it at the target.");
        return false;
    }
    return true;
}

static uint64_t size_of(const json_t *rows, const struct machine_disk *disk)
{
    const json_t *row;
    size_t index;
    json_array_foreach(rows, index, row)
    {
        const char *file = json_string_value(json_object_get(row, "file"));
        if (file != NULL && strcmp(file, disk->path) == 0)
            return number_of(row, "size");
    }
    return 0;
}

static bool offer(const struct instance *instance, const struct machine_disk *disk,
                  const json_t *rows, json_t *live, struct error **err)
{
    bool copies = json_is_true(json_object_get(live, "copy-storage"));
    struct proving proving = {.proofs = json_object_get(live, "proofs")};
    struct error *error = NULL;
    uint64_t size = size_of(rows, disk);
    bool is_file = disk->path[0] == '/';
    if (migrate_tree_is_top(instance, disk)) {
        struct stat status = {.st_blocks = 0};
        (void)stat(disk->path, &status);
        json_array_append_new(json_object_get(live, "disks"),
                              json_pack("{s:I, s:I, s:b}", "size", (json_int_t)size, "data",
                                        (json_int_t)status.st_blocks * 512, "top", 1));
        return true;
    }
    proving.wanted = is_file && can_be_shared(instance, disk, &error);
    if (is_file && error == NULL)
        (void)client_disk_files(disk, prove, &proving, &error);
    else if (is_file)
        (void)client_disk_files(disk, prove, &proving, NULL);
    if (error == NULL)
        error = proving.error;
    else
        error_free(proving.error);
    if (!copies && error != NULL)
        return error_propagate(err, error);
    error_free(error); /* then it is not the same one, for the target */
    json_array_append_new(json_object_get(live, "disks"),
                          json_pack("{s:I, s:I}", "size", (json_int_t)size, "data",
                                    (json_int_t)(proving.data < size ? proving.data : size)));
    return true;
}

/* What the worker has, which alone knows how large its disks are. */
static json_t *ask_worker(const struct instance *instance, struct error **err)
{
    char control[64];
    snprintf(control, sizeof(control), "/proc/self/fd/%d/control.sock", instance->fd);
    char *answer = client_control(control, "disks", NULL, err);
    json_t *rows = answer != NULL ? json_loads(answer, 0, NULL) : NULL;
    if (answer != NULL && !json_is_array(rows))
        error_set(err, ERROR_HOST, "the worker's answer makes no sense");
    free(answer);
    return rows;
}

bool migrate_disks_offer(const struct instance *instance, const struct machine_config *config,
                         json_t *live, struct error **err)
{
    json_t *rows = ask_worker(instance, err);
    bool good = rows != NULL;
    json_object_set_new(live, "proofs", json_object());
    json_object_set_new(live, "disks", json_array());
    for (size_t i = 0; i < config->disk_count && good; i++)
        good = offer(instance, &config->disks[i], rows, live, err);
    json_decref(rows);
    return good;
}

void migrate_disks_retract(const json_t *proofs)
{
    const char *path;
    json_t *name;
    json_object_foreach((json_t *)(uintptr_t)proofs, path, name)
    {
        const char *slash = strrchr(path, '/');
        char *beside = NULL;
        if (asprintf(&beside, "%.*s/%s", (int)(slash - path), path, json_string_value(name)) > 0)
            unlink(beside);
        free(beside);
    }
}

bool migrate_disks_understood(const json_t *words, const json_t *live)
{
    size_t count = json_array_size(json_object_get(live, "disks"));
    bool good = json_is_array(words) && json_array_size(words) == count;
    for (size_t i = 0; i < count && good; i++)
        good = migrate_disks_is(words, i, shared) || migrate_disks_is(words, i, copied) ||
               migrate_disks_is(words, i, filed) || migrate_disks_is(words, i, topped);
    return good;
}

static bool read_description(const json_t *live, struct machine_config *config, struct error **err)
{
    const json_t *vmx = json_object_get(live, "vmx");
    machine_config_init(config);
    struct text *text =
        json_is_string(vmx)
            ? text_parse(json_string_value(vmx), json_string_length(vmx), "description", err)
            : NULL;
    bool good = text != NULL && vmx_read(text, config, NULL, err);
    if (text == NULL && !json_is_string(vmx))
        error_set(err, ERROR_USAGE, "there is no description of a machine that runs");
    text_free(text);
    return good;
}

void migrate_disks_note(const struct instance *instance, const json_t *words, const json_t *live,
                        json_t *notes)
{
    struct machine_config config;
    char sentence[400];
    bool good = read_description(live, &config, NULL);
    for (size_t i = 0; i < config.disk_count && good; i++)
        if (!migrate_disks_is(words, i, shared) && !is_own(instance, &config.disks[i])) {
            snprintf(sentence, sizeof(sentence),
                     "the disk '%.250s' was copied; the original stays where it was",
                     config.disks[i].path);
            json_array_append_new(notes, json_string_nocheck(sentence));
        }
    machine_config_clear(&config);
}

/* ---- the target ---- */

/* A name that only a source gives: another file that is there by chance, or for ever, proves
 * nothing. */
static bool is_proof(const char *name)
{
    size_t front = strlen(MIGRATION_PROOF);
    return name != NULL && strncmp(name, MIGRATION_PROOF, front) == 0 &&
           strlen(name) == front + MIGRATION_ID &&
           strspn(name + front, "0123456789abcdef") == MIGRATION_ID;
}

struct looking {
    const json_t *proofs;
    bool seen;
};

static void look_beside(void *opaque, const char *path, const struct stat *status)
{
    struct looking *looking = opaque;
    const char *proof = json_string_value(json_object_get(looking->proofs, path));
    const char *slash = strrchr(path, '/');
    char *beside = NULL;
    (void)status;
    looking->seen = looking->seen && is_proof(proof) && slash != NULL && path[0] == '/' &&
                    asprintf(&beside, "%.*s/%s", (int)(slash - path), path, proof) > 0 &&
                    faccessat(AT_FDCWD, beside, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    free(beside);
}

/* It and all that it lies upon; that is only looked for when it is clear that it is the same. */
bool migrate_disks_sees(const struct machine_disk *disk, const json_t *proofs)
{
    struct looking looking = {.proofs = proofs, .seen = true};
    look_beside(&looking, disk->path, NULL);
    return looking.seen && !(is_written(disk) && disk->format == NULL) &&
           client_disk_files(disk, look_beside, &looking, NULL) && looking.seen;
}

static const char *judge(const struct machine_disk *disk, const json_t *row, const json_t *live,
                         struct error **err)
{
    if (json_is_true(json_object_get(row, "top")) && is_written(disk))
        return topped;
    if (disk->path[0] == '\0' || is_on_server(disk) ||
        migrate_disks_sees(disk, json_object_get(live, "proofs")))
        return shared;
    if (json_is_true(json_object_get(live, "copy-storage")))
        return is_written(disk) ? copied : filed;
    error_set(err, ERROR_USAGE, "the target does not see the disk '%s'", disk->path);
    error_hint(err, "--copy-storage brings along what is not on storage that both hosts have under "
                    "the same name.");
    return NULL;
}

bool migrate_disks_has_space(const char *folder, uint64_t bytes, uint64_t reserved,
                             struct error **err)
{
    struct statvfs status;
    if (statvfs(folder, &status) != 0)
        return error_set_errno(err, errno, "cannot find out how much space there is");
    uint64_t space = (uint64_t)status.f_bavail * status.f_frsize;
    if (bytes == 0 ||
        (bytes <= space && reserved <= space - bytes && SPARE_BYTES <= space - bytes - reserved))
        return true;
    error_set(err, ERROR_USAGE,
              "its disks take %" PRIu64 " MiB, and the target has %" PRIu64 " MiB to spare",
              bytes >> 20, (space > reserved ? space - reserved : 0) >> 20);
    error_hint(err, "Free some space there first.");
    return false;
}

json_t *migrate_disks_judge(const char *folder, const json_t *live, uint64_t reserved,
                            struct error **err)
{
    const json_t *rows = json_object_get(live, "disks");
    struct machine_config config;
    json_t *words = json_array();
    uint64_t bytes = 0;
    bool good = read_description(live, &config, err);
    if (good && json_array_size(rows) != config.disk_count)
        good = error_set(err, ERROR_USAGE, "a machine that runs tells of each of its disks");
    for (size_t i = 0; i < config.disk_count && good; i++) {
        const json_t *row = json_array_get(rows, i);
        const char *word = judge(&config.disks[i], row, live, err);
        uint64_t data = number_of(row, "data");
        good = word != NULL &&
               (data <= PACK_MAX_SIZE || error_set(err, ERROR_USAGE, "a disk is too large"));
        if (good && (word == copied || word == topped)) /* 16 of up to 2^50: no overflow */
            bytes += data;
        if (good)
            json_array_append_new(words, json_string(word));
    }
    good = good && migrate_disks_has_space(folder, bytes, reserved, err);
    machine_config_clear(&config);
    if (good)
        return json_pack("{s:o, s:I}", "disks", words, "bytes", (json_int_t)bytes);
    json_decref(words);
    return NULL;
}

/* Whatever else it is, its image will be qcow2. */
static const char *format_of_copy(const struct machine_disk *disk)
{
    static const char *const kept[] = {"raw", "fixed"};
    for (size_t i = 0; disk->format != NULL && i < sizeof(kept) / sizeof(kept[0]); i++)
        if (strcmp(disk->format, kept[i]) == 0)
            return kept[i];
    return "qcow2";
}

/* An empty image of its own, by its name if that is one for a file here. */
static bool make_image(int folder, struct machine_disk *disk, size_t number, uint64_t size,
                       struct error **err)
{
    const char *slash = strrchr(disk->path, '/'), *base = slash != NULL ? slash + 1 : disk->path;
    const char *format = format_of_copy(disk);
    bool usable = pack_name_is_plain(base) && instance_file_check(base, NULL) &&
                  faccessat(folder, base, F_OK, AT_SYMLINK_NOFOLLOW) != 0;
    char other[32], *name;
    snprintf(other, sizeof(other), "disk-%zu.%s", number, format);
    name = alloc_string(usable ? base : other);
    bool good = size <= PACK_MAX_SIZE ? client_disk_create(folder, name, format, size, err)
                                      : error_set(err, ERROR_USAGE, "a disk is too large");
    if (!good)
        error_prefix(err, "disk '%s' at the target", disk->path);
    free(disk->path);
    free(disk->format);
    free(disk->backing);
    disk->path = name;
    disk->format = alloc_string(format);
    disk->backing = NULL;
    return good;
}

/* An empty layer upon an image of the tree that came. */
static bool make_top(int folder, const struct machine_disk *disk, uint64_t size, struct error **err)
{
    struct machine_disk below;
    char path[MIGRATE_TREE_NAME + 40];
    if (strncmp(disk->path, "snapshots/", 10) != 0 || !migrate_tree_name_check(disk->path) ||
        disk->backing == NULL)
        return error_set(err, ERROR_USAGE, "the layer '%.80s' lies upon nothing", disk->path);
    char *backing = snapshot_name_below(disk->backing);
    machine_disk_init(&below);
    snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", folder, disk->backing);
    below.path = alloc_string(disk->backing[0] == '/' ? disk->backing : path);
    bool good = size <= PACK_MAX_SIZE
                    ? client_disk_put_upon(&below, folder, disk->path, backing, size, err)
                    : error_set(err, ERROR_USAGE, "a disk is too large");
    if (!good)
        error_prefix(err, "disk '%s' at the target", disk->path);
    machine_disk_clear(&below);
    free(backing);
    return good;
}

/* `came`: how many of those in the archive have found their place. */
static bool add_disk(int folder, struct machine_disk *disk, size_t number, const json_t *words,
                     const json_t *live, const struct machine_config *own, size_t *came, bool tree,
                     struct error **err)
{
    uint64_t size = number_of(json_array_get(json_object_get(live, "disks"), number), "size");
    if (migrate_disks_is(words, number, shared))
        return true;
    if (migrate_disks_is(words, number, copied))
        return make_image(folder, disk, number, size, err);
    size_t at = tree ? number : *came;
    if (at >= own->disk_count)
        return error_set(err, ERROR_USAGE, "the archive lacks the disk '%s'", disk->path);
    (*came)++;
    machine_disk_clear(disk);
    machine_disk_copy(disk, &own->disks[at]);
    return !migrate_disks_is(words, number, topped) ||
           (tree ? make_top(folder, disk, size, err)
                 : error_set(err, ERROR_USAGE, "there is nothing that a layer could lie upon"));
}

bool migrate_disks_make(int folder, struct text *text, const json_t *words, const json_t *live,
                        bool tree, struct error **err)
{
    struct machine_config whole, own;
    size_t came = 0;
    if (live == NULL)
        return true;
    machine_config_init(&own);
    bool good = read_description(live, &whole, err) && vmx_read(text, &own, NULL, err);
    for (size_t i = 0; i < whole.disk_count && good; i++)
        good = add_disk(folder, &whole.disks[i], i, words, live, &own, &came, tree, err);
    if (good && (tree ? whole.disk_count : came) != own.disk_count)
        good = error_set(err, ERROR_USAGE, "the archive has disks that nobody described");
    for (size_t i = 0; i < own.disk_count; i++)
        machine_disk_clear(&own.disks[i]);
    own.disk_count = 0;
    for (size_t i = 0; i < whole.disk_count && good; i++)
        machine_disk_copy(&own.disks[own.disk_count++], &whole.disks[i]);
    if (good)
        vmx_update(text, &own);
    machine_config_clear(&whole);
    machine_config_clear(&own);
    return good;
}
