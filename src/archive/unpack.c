/* SPDX-License-Identifier: MIT
 *
 * See unpack.h.
 */
#include "archive/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "archive/sum.h"
#include "archive/tar.h"
#include "archive/zstream.h"
#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "block/sparse.h"
#include "config/nvram.h"
#include "sandbox/helper.h"

enum { JSON_MAX = 4 << 20 /* bytes */, NOTES_MAX = 64, NOTE_MAX = 400 };
#define TRAILER_MAX (1 * MIB) /* zeros behind the last file, with which a tar ends */
#define SPARE_BYTES (16 * MIB)

/* Where files are made. */
struct place {
    uint64_t space;                                           /* bytes there */
    int (*make)(const struct place *place, const char *name); /* -1: errno */
    int folder;
    struct sandbox_teller *teller; /* of who has no folder */
    bool (*allowed)(const char *name);
    bool takes_tree;
};

/* A file that is being written: a disk image, or plain bytes. */
struct target {
    int fd;
    struct block_image *image;
};

static bool sense(bool good, const char *what, struct error **err)
{
    return good || error_set(err, ERROR_HOST, "the archive's manifest makes no sense: %s", what);
}

/* ---- what is held in memory ---- */

/* Also adds it to `sum`, if there is one. NULL: err. */
static char *read_all(struct tar_reader *tar, const struct tar_member *member, size_t limit,
                      struct sum *sum, struct error **err)
{
    if (member->size > limit) {
        error_set(err, ERROR_HOST, "'%s' in the archive is too large", member->name);
        return NULL;
    }
    char *text = alloc_zeroed(1, (size_t)member->size + 1);
    const void *bytes;
    size_t size;
    uint64_t offset;
    bool good;
    if (sum != NULL)
        sum_add_extents(sum, member->extents, member->count);
    while ((good = tar_read(tar, &bytes, &size, &offset, err)) && size > 0) {
        memcpy(text + offset, bytes, size); /* tar_read(): within the member */
        if (sum != NULL)
            sum_add(sum, bytes, size);
    }
    if (good)
        return text;
    free(text);
    return NULL;
}

static bool next_is(struct tar_reader *tar, struct tar_member *member, const char *name,
                    struct error **err)
{
    bool there;
    if (!tar_next(tar, member, &there, err))
        return false;
    return (there && strcmp(member->name, name) == 0) ||
           error_set(err, ERROR_HOST, "the archive lacks '%s', or it is not in its place", name);
}

static json_t *read_json(struct tar_reader *tar, const char *name, struct error **err)
{
    struct tar_member member;
    char *text =
        next_is(tar, &member, name, err) ? read_all(tar, &member, JSON_MAX, NULL, err) : NULL;
    if (text == NULL)
        return NULL;
    json_t *value = json_loadb(text, (size_t)member.size, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    if (!json_is_object(value)) {
        error_set(err, ERROR_HOST, "'%s' in the archive is no JSON object", name);
        json_decref(value);
        value = NULL;
    }
    return value;
}

/* ---- the manifest ---- */

static uint64_t number_of(const json_t *row, const char *key)
{
    json_int_t number = json_integer_value(json_object_get(row, key));
    return number > 0 ? (uint64_t)number : 0;
}

static const char *string_of(const json_t *row, const char *key)
{
    return json_string_value(json_object_get(row, key));
}

static bool has_role(const json_t *row, const char *role)
{
    const char *own = string_of(row, "role");
    return own != NULL && strcmp(own, role) == 0;
}

/* What the description does not name. */
static const struct role {
    const char *role, *name;
    uint64_t most; /* bytes */
    bool holes;    /* it may have some */
} roles[] = {{"suspended", PACK_SAVED, PACK_MAX_SIZE, true},
             {"nvram", PACK_NVRAM, NVRAM_MAX_FILE, false}};
enum { SAVED = 1 << 0, NVRAM = 1 << 1 }; /* sets of them, by their places */

/* NULL: it has none, or an unknown one. */
static const struct role *role_of(const json_t *row)
{
    for (size_t i = 0; i < ARRAY_SIZE(roles); i++)
        if (has_role(row, roles[i].role))
            return &roles[i];
    return NULL;
}

/* 0: it is the name of no such file. */
static unsigned role_named(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(roles); i++)
        if (strcmp(roles[i].name, name) == 0)
            return 1U << i;
    return 0;
}

/* Of an archive with a tree each is one, and its number is its place. */
static bool check_part(const json_t *row, size_t index, struct error **err)
{
    char wanted[PACK_MAX_NAME + 1];
    const char *name = string_of(row, "name");
    uint64_t size = number_of(row, "size");
    snprintf(wanted, sizeof(wanted), PACK_PART "%zu", index);
    return sense(name != NULL && strcmp(name, wanted) == 0 && has_role(row, "part") &&
                     json_object_get(row, "format") == NULL,
                 "the parts of a tree", err) &&
           sense(size <= PACK_MAX_SIZE && number_of(row, "data") <= size, "a file's size", err);
}

static bool check_row(const json_t *files, size_t index, bool (*allowed)(const char *name),
                      struct error **err)
{
    const json_t *row = json_array_get(files, index);
    const char *name = string_of(row, "name"), *format = string_of(row, "format");
    uint64_t size = number_of(row, "size"), data = number_of(row, "data");
    const struct role *role = role_of(row);
    if (json_object_get(row, "role") != NULL &&
        !sense(role != NULL && name != NULL && strcmp(name, role->name) == 0 && format == NULL &&
                   size <= role->most,
               "the role of a file", err))
        return false;
    if (!sense(name != NULL && pack_name_is_plain(name) &&
                   (role != NULL ||
                    ((allowed == NULL || allowed(name)) && !pack_name_is_reserved(name))),
               "a file's name", err) ||
        !sense(size <= PACK_MAX_SIZE && data <= size, "a file's size", err))
        return false;
    for (size_t i = 0; i < index; i++)
        if (!sense(strcasecmp(name, string_of(json_array_get(files, i), "name")) != 0,
                   "a file is there twice", err))
            return false;
    if (format == NULL)
        return sense(data == size || (role != NULL && role->holes), "a file has holes", err);
    const struct block_format *known = block_format_find(format);
    return sense(known != NULL && known->create != NULL, "the format of a disk", err) &&
           sense(size > 0 && size % BLOCK_SECTOR == 0, "a disk's size", err);
}

static bool check_manifest(const json_t *manifest, const struct place *place,
                           struct unpacked *unpacked, struct error **err)
{
    json_int_t version = json_integer_value(json_object_get(manifest, "trapeze-archive"));
    const char *name = string_of(manifest, "name"), *description;
    json_t *files = json_object_get(manifest, "files"), *notes = json_object_get(manifest, "notes");
    if (version > PACK_VERSION) {
        error_set(err, ERROR_HOST, "a newer trapeze made the archive");
        error_hint(err, "This one knows format %d.", PACK_VERSION);
        return false;
    }
    char wanted[PACK_MAX_NAME + 8] = "";
    json_t *tree = json_object_get(manifest, "tree");
    size_t most = tree != NULL ? PACK_MAX_PARTS : PACK_MAX_FILES;
    if (!sense(version > 0, "its format", err) ||
        !sense(tree == NULL || (place->takes_tree && json_is_object(tree)),
               "a tree of snapshots, which moves between daemons alone", err) ||
        !sense(name != NULL && pack_name_is_plain(name), "the machine's name", err) ||
        !sense(json_is_array(files) && json_array_size(files) <= most, "its files", err))
        return false;
    snprintf(wanted, sizeof(wanted), "%s.vmx", name);
    description = string_of(manifest, "description");
    if (!sense(description != NULL && strcmp(description, wanted) == 0, "the description's name",
               err))
        return false;
    for (size_t i = 0; i < json_array_size(files); i++)
        if (tree != NULL ? !check_part(json_array_get(files, i), i, err)
                         : !check_row(files, i, place->allowed, err) ||
            !sense(strcasecmp(string_of(json_array_get(files, i), "name"), wanted) != 0,
                   "a file is there twice", err))
            return false;
    json_int_t offset = json_integer_value(json_object_get(manifest, "rtc-offset"));
    if (!sense(offset > -NVRAM_MAX_OFFSET && offset < NVRAM_MAX_OFFSET, "the machine's clock", err))
        return false;
    unpacked->rtc_offset = offset;
    for (size_t i = 0; i < json_array_size(files); i++) {
        unpacked->has_saved |= has_role(json_array_get(files, i), "suspended");
        unpacked->has_nvram |= has_role(json_array_get(files, i), "nvram");
    }
    unpacked->tree = json_incref(tree);
    unpacked->name = alloc_string(name);
    unpacked->files = json_incref(files);
    unpacked->notes = json_array();
    for (size_t i = 0; i < json_array_size(notes) && i < NOTES_MAX; i++) {
        json_t *note = json_array_get(notes, i);
        if (json_is_string(note) && json_string_length(note) <= NOTE_MAX)
            json_array_append(unpacked->notes, note);
    }
    return true;
}

static bool read_manifest(struct tar_reader *tar, const struct place *place,
                          struct unpacked *unpacked, struct error **err)
{
    json_t *manifest = read_json(tar, PACK_MANIFEST, err);
    bool good = manifest != NULL && check_manifest(manifest, place, unpacked, err);
    json_decref(manifest);
    return good;
}

static bool find_space(struct place *place, struct error **err)
{
    struct statvfs status;
    if (fstatvfs(place->folder, &status) != 0)
        return error_set_errno(err, errno, "cannot find out how much space there is");
    place->space = (uint64_t)status.f_bavail * status.f_frsize;
    return true;
}

static bool check_space(const json_t *files, uint64_t space, struct error **err)
{
    uint64_t needed = SPARE_BYTES;
    for (size_t i = 0; i < json_array_size(files); i++) { /* 4096 of up to 2^50: no overflow */
        const json_t *row = json_array_get(files, i);
        const char *format = string_of(row, "format");
        needed += number_of(row, format != NULL && strcmp(format, "fixed") == 0 ? "size" : "data");
    }
    if (needed <= space)
        return true;
    error_set(err, ERROR_HOST, "there is not enough space for the archive: it takes %llu MiB",
              (unsigned long long)(needed / MIB));
    error_hint(err, "Free some space first.");
    return false;
}

/* ---- files ---- */

static int make_file(const struct place *place, const char *name)
{
    return openat(place->folder, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
}

static bool make_target(const struct place *place, const json_t *row, struct target *target,
                        struct error **err)
{
    const char *name = string_of(row, "name"), *format = string_of(row, "format");
    const struct block_image_options options = {.format = format};
    const struct block_create create = {.size = number_of(row, "size")};
    *target = (struct target){.fd = -1};
    int fd = place->make(place, name);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot make '%s'", name);
    target->fd = fd;
    if (format == NULL)
        return ftruncate(fd, (off_t)create.size) == 0 ||
               error_set_errno(err, errno, "cannot make '%s'", name);
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    struct block_file *file =
        own >= 0 ? block_file_new(own, false, BLOCK_CACHE_WRITEBACK, err) : NULL;
    if (file == NULL) {
        if (own >= 0)
            close(own);
        else
            error_set_errno(err, errno, "cannot make '%s'", name);
        return false;
    }
    if (block_format_find(format)->create(file, &create, err))
        target->image = block_image_open(file, name, &options, err);
    if (target->image == NULL)
        block_file_close(file);
    return target->image != NULL;
}

static int write_at(const struct target *target, uint64_t offset, const void *bytes, size_t size)
{
    if (target->image != NULL)
        return block_image_write_sparse(target->image, offset, bytes, size);
    for (size_t done = 0; done < size;) {
        ssize_t count =
            pwrite(target->fd, (const char *)bytes + done, size - done, (off_t)(offset + done));
        if (count < 0 && errno != EINTR)
            return errno;
        done += count > 0 ? (size_t)count : 0;
    }
    return 0;
}

static bool close_target(struct target *target, const char *name, bool good, struct error **err)
{
    int error = good && target->image != NULL ? target->image->format->flush(target->image) : 0;
    block_image_close(target->image);
    if (good && error == 0 && fsync(target->fd) != 0)
        error = errno;
    if (target->fd >= 0)
        close(target->fd);
    return good && (error == 0 || error_set_errno(err, error, "cannot keep '%s'", name));
}

static bool write_failed(int error, const char *name, struct error **err)
{
    error_set_errno(err, error, "cannot write '%s'", name);
    if (error == ENOSPC || error == EDQUOT)
        error_hint(err, "Free some space first.");
    return false;
}

static bool read_file(struct tar_reader *tar, const json_t *row, const struct place *place,
                      struct sum *sum, struct error **err)
{
    const char *name = string_of(row, "name");
    struct tar_member member;
    struct target target;
    uint64_t data = 0, offset;
    const void *bytes;
    size_t size = 1;
    if (!next_is(tar, &member, name, err))
        return false;
    for (size_t i = 0; i < member.count; i++)
        data += member.extents[i].length;
    if (member.size != number_of(row, "size") || data != number_of(row, "data"))
        return error_set(err, ERROR_HOST, "'%s' in the archive is not as its manifest says", name);
    sum_add_extents(sum, member.extents, member.count);
    bool good = make_target(place, row, &target, err);
    while (good && size > 0) {
        good = tar_read(tar, &bytes, &size, &offset, err);
        int error = good && size > 0 ? write_at(&target, offset, bytes, size) : 0;
        if (error != 0)
            good = write_failed(error, name, err);
        else if (good)
            sum_add(sum, bytes, size);
    }
    return close_target(&target, name, good, err);
}

/* ---- all of it ---- */

static bool keep_sum(json_t *sums, const char *name, struct sum *sum)
{
    char text[SUM_TEXT_MAX];
    sum_end(sum, text);
    return json_object_set_new(sums, name, json_string(text)) == 0;
}

static bool read_description(struct tar_reader *tar, struct unpacked *unpacked, json_t *sums,
                             struct error **err)
{
    char name[PACK_MAX_NAME + 8];
    struct tar_member member;
    struct sum *sum = sum_new("sha256");
    snprintf(name, sizeof(name), "%s.vmx", unpacked->name);
    char *bytes =
        next_is(tar, &member, name, err) ? read_all(tar, &member, TEXT_MAX_SIZE, sum, err) : NULL;
    if (bytes != NULL)
        unpacked->text = text_parse(bytes, (size_t)member.size, name, err);
    free(bytes);
    keep_sum(sums, name, sum);
    return unpacked->text != NULL;
}

static bool read_to_end(struct tar_reader *tar, tar_read_fn *fn, void *opaque, struct error **err)
{
    struct tar_member member;
    const void *bytes;
    size_t size = 1;
    bool there;
    if (!tar_next(tar, &member, &there, err))
        return false;
    if (there)
        return error_set(err, ERROR_HOST, "the archive has more files than its manifest says");
    for (uint64_t total = 0; size > 0; total += size)
        if (!fn(opaque, &bytes, &size, err))
            return false;
        else if (total > TRAILER_MAX)
            return error_set(err, ERROR_HOST, "something follows the archive in its file");
    return true;
}

/* Without the end, where fn has to be at its own. */
static bool read_members(struct tar_reader *tar, const struct place *place,
                         struct unpacked *unpacked, json_t *sums, struct error **err)
{
    bool good = read_manifest(tar, place, unpacked, err) &&
                check_space(unpacked->files, place->space, err) &&
                read_description(tar, unpacked, sums, err);
    for (size_t i = 0; good && i < json_array_size(unpacked->files); i++) {
        const json_t *row = json_array_get(unpacked->files, i);
        struct sum *sum = sum_new("sha256");
        good = read_file(tar, row, place, sum, err);
        keep_sum(sums, string_of(row, "name"), sum);
    }
    return good;
}

static bool check_sums(struct tar_reader *tar, const json_t *sums, struct error **err)
{
    json_t *said = read_json(tar, PACK_SUMS, err);
    bool good =
        said != NULL && (json_equal(said, sums) ||
                         error_set(err, ERROR_HOST, "the archive is damaged: a checksum is wrong"));
    json_decref(said);
    return good;
}

static bool unpack_from(tar_read_fn *fn, void *opaque, const struct place *place,
                        struct unpacked *unpacked, struct error **err)
{
    *unpacked = (struct unpacked){0};
    json_t *sums = json_object();
    struct tar_reader *tar = tar_reader_new(fn, opaque, err);
    bool good = tar != NULL && read_members(tar, place, unpacked, sums, err) &&
                check_sums(tar, sums, err) && read_to_end(tar, fn, opaque, err);
    tar_reader_free(tar);
    json_decref(sums);
    if (!good)
        unpacked_clear(unpacked);
    return good;
}

bool unpack_tar(tar_read_fn *fn, void *opaque, int folder, bool (*allowed)(const char *name),
                bool tree, struct unpacked *unpacked, struct error **err)
{
    struct place place = {
        .make = make_file, .folder = folder, .allowed = allowed, .takes_tree = tree};
    *unpacked = (struct unpacked){0};
    return find_space(&place, err) && unpack_from(fn, opaque, &place, unpacked, err);
}

static bool unpack_stream(int fd, const struct place *place, struct unpacked *unpacked,
                          struct error **err)
{
    *unpacked = (struct unpacked){0};
    struct zstream_reader *stream = zstream_reader_new(fd, err);
    bool good = stream != NULL && unpack_from(zstream_read, stream, place, unpacked, err);
    zstream_reader_free(stream);
    return good;
}

/* ---- in a process of its own ---- */

/* What it hands back: the manifest's rows and notes, and the description. */
struct unpacking {
    struct place place;
    int stream, about, text;
    unsigned made;
    unsigned roles; /* of what was made */
};

static int ask_for_file(const struct place *place, const char *name)
{
    return sandbox_ask(place->teller, name);
}

static bool unpack_inside(void *opaque, struct sandbox_teller *teller, struct error **err)
{
    struct unpacking *u = opaque;
    struct unpacked unpacked;
    size_t size;
    u->place.make = ask_for_file;
    u->place.teller = teller;
    if (!unpack_stream(u->stream, &u->place, &unpacked, err))
        return false;
    json_t *about = json_pack("{s:i, s:s, s:s+, s:O, s:O, s:I}", "trapeze-archive", PACK_VERSION,
                              "name", unpacked.name, "description", unpacked.name, ".vmx", "files",
                              unpacked.files, "notes", unpacked.notes, "rtc-offset",
                              (json_int_t)unpacked.rtc_offset);
    if (unpacked.tree != NULL)
        json_object_set(about, "tree", unpacked.tree);
    char *text = text_write(unpacked.text, &size);
    return (json_dumpfd(about, u->about, JSON_COMPACT) == 0 &&
            write(u->text, text, size) == (ssize_t)size) ||
           error_set_errno(err, errno, "cannot hand the archive's description over");
}

/* Not more of them, and no others, than an archive may have. */
static int make_asked(void *opaque, const char *name)
{
    struct unpacking *u = opaque;
    unsigned role = role_named(name);
    bool tree = u->place.takes_tree;
    errno = EPERM;
    if (u->made == (tree ? PACK_MAX_PARTS : PACK_MAX_FILES) || !pack_name_is_plain(name) ||
        (u->place.allowed != NULL && !u->place.allowed(name) && role == 0))
        return -1;
    u->made++;
    u->roles |= role;
    return make_file(&u->place, name);
}

/* Of `limit` bytes at most; NULL: err. */
static char *read_back(int fd, size_t limit, size_t *size, struct error **err)
{
    off_t end = lseek(fd, 0, SEEK_END);
    char *bytes = end >= 0 && (uint64_t)end <= limit ? alloc_zeroed(1, (size_t)end + 1) : NULL;
    if (bytes != NULL && pread(fd, bytes, (size_t)end, 0) == end) {
        *size = (size_t)end;
        return bytes;
    }
    free(bytes);
    error_set(err, ERROR_HOST, "the archive's description is too large");
    return NULL;
}

/* As if it had come from the stranger himself. */
static bool take_back(const struct unpacking *u, struct unpacked *unpacked, struct error **err)
{
    size_t size;
    char name[PACK_MAX_NAME + 8], *bytes = read_back(u->about, JSON_MAX, &size, err);
    json_t *about = bytes != NULL ? json_loadb(bytes, size, JSON_REJECT_DUPLICATES, NULL) : NULL;
    free(bytes);
    bool good = bytes != NULL && sense(json_is_object(about), "its format", err) &&
                check_manifest(about, &u->place, unpacked, err);
    json_decref(about);
    bytes = good ? read_back(u->text, TEXT_MAX_SIZE, &size, err) : NULL;
    if (bytes != NULL) {
        snprintf(name, sizeof(name), "%s.vmx", unpacked->name);
        unpacked->text = text_parse(bytes, size, name, err);
        free(bytes);
    }
    /* One that the manifest does not know of would be taken for this host's own. */
    unsigned known = (unpacked->has_saved ? SAVED : 0U) | (unpacked->has_nvram ? NVRAM : 0U);
    if (unpacked->text != NULL && sense(known == u->roles, "the role of a file", err))
        return true;
    unpacked_clear(unpacked);
    return false;
}

static bool unpack_confined(int fd, const struct place *place, struct unpacked *unpacked,
                            struct error **err)
{
    struct unpacking u = {.place = *place,
                          .stream = fd,
                          .about = memfd_create("about", MFD_CLOEXEC),
                          .text = memfd_create("description", MFD_CLOEXEC)};
    const struct sandbox_helper helper = {.work = unpack_inside,
                                          .open = make_asked,
                                          .opaque = &u,
                                          .fds = {fd, u.about, u.text},
                                          .fd_count = 3};
    *unpacked = (struct unpacked){0};
    bool good = u.about >= 0 && u.text >= 0;
    if (!good)
        error_set_errno(err, errno, "cannot take an archive apart");
    good = good && tar_load(err) && find_space(&u.place, err) && sandbox_help(&helper, err) &&
           take_back(&u, unpacked, err);
    if (u.about >= 0)
        close(u.about);
    if (u.text >= 0)
        close(u.text);
    return good;
}

bool unpack(int fd, int folder, bool (*allowed)(const char *name), struct unpacked *unpacked,
            struct error **err)
{
    const struct place place = {.make = make_file, .folder = folder, .allowed = allowed};
    return unpack_confined(fd, &place, unpacked, err);
}

bool unpack_with_tree(int fd, int folder, bool (*allowed)(const char *name),
                      struct unpacked *unpacked, struct error **err)
{
    const struct place place = {
        .make = make_file, .folder = folder, .allowed = allowed, .takes_tree = true};
    return unpack_confined(fd, &place, unpacked, err);
}

bool unpack_look(int fd, struct unpacked *unpacked, struct error **err)
{
    *unpacked = (struct unpacked){0};
    struct zstream_reader *stream = zstream_reader_new(fd, err);
    struct tar_reader *tar = stream != NULL ? tar_reader_new(zstream_read, stream, err) : NULL;
    const struct place place = {.folder = -1};
    bool good = tar != NULL && read_manifest(tar, &place, unpacked, err);
    tar_reader_free(tar);
    zstream_reader_free(stream);
    if (!good)
        unpacked_clear(unpacked);
    return good;
}

void unpacked_clear(struct unpacked *unpacked)
{
    free(unpacked->name);
    text_free(unpacked->text);
    json_decref(unpacked->files);
    json_decref(unpacked->notes);
    json_decref(unpacked->tree);
    *unpacked = (struct unpacked){0};
}

bool unpack_is_ours(int fd)
{
    static const unsigned char zstd[4] = {0x28, 0xb5, 0x2f, 0xfd};
    unsigned char start[4];
    return pread(fd, start, sizeof(start), 0) == (ssize_t)sizeof(start) &&
           memcmp(start, zstd, sizeof(zstd)) == 0;
}
