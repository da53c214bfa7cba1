/* SPDX-License-Identifier: MIT
 *
 * See foreign.h.
 */
#include "archive/foreign.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "archive/machine.h"
#include "archive/ovf.h"
#include "archive/sum.h"
#include "archive/tar.h"
#include "archive/vmdk.h"
#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"

enum { MEMBERS_MAX = OVF_MAX_FILES, MANIFEST_MAX = 256 << 10, PIECE = 128 << 10, SUMS = 3 };

static const char *const algorithms[SUMS] = {"sha1", "sha256", "sha512"};

struct member {
    char *name;
    int fd; /* -1: it is in the folder */
    char sums[SUMS][SUM_TEXT_MAX];
};

struct foreign {
    char *name;
    char *folder; /* where the files are, '/' at the end; NULL: they came in a tar */
    char *scratch;
    struct text *text;
    struct ovf ovf;
    struct member members[MEMBERS_MAX];
    size_t count;
    json_t *notes;
};

const char *foreign_name(const struct foreign *foreign)
{
    return foreign->name;
}

static bool has_kernel(const struct foreign *foreign)
{
    return text_get(foreign->text, "trapeze.kernel") != NULL ||
           text_get(foreign->text, "trapeze.firmware") != NULL;
}

static bool is_for_us(const struct foreign *foreign)
{
    const char *os = text_get(foreign->text, "guestOS");
    return os != NULL && strcasestr(os, "riscv") != NULL;
}

bool foreign_wants_boot_loader(const struct foreign *foreign)
{
    return is_for_us(foreign) && !has_kernel(foreign);
}

void foreign_use_boot_loader(struct foreign *foreign, const char *path)
{
    text_set(foreign->text, "trapeze.kernel", path);
}

static void note_processor(struct foreign *foreign)
{
    char text[200];
    const char *os = text_get(foreign->text, "guestOS");
    if (is_for_us(foreign) || has_kernel(foreign))
        return;
    snprintf(text, sizeof(text),
             "its guest (%.60s) is not for riscv64 by what it says, and this "
             "build has no other processor: it will not run",
             os != NULL ? os : "of no name");
    json_array_append_new(foreign->notes, json_string(text));
}

/* Plain, of whatever it was called. */
static char *plain_name(const char *name, size_t length)
{
    char *plain = alloc_zeroed(1, PACK_MAX_NAME + 1);
    size_t at = 0;
    for (size_t i = 0; i < length && at < PACK_MAX_NAME - 10; i++)
        if (isalnum((unsigned char)name[i]))
            plain[at++] = name[i];
        else if (at > 0 && plain[at - 1] != '-')
            plain[at++] = strchr("._", name[i]) != NULL ? name[i] : '-';
    if (at == 0)
        strcpy(plain, "imported");
    return plain;
}

static bool ends_with(const char *name, const char *ending)
{
    size_t length = strlen(name), end = strlen(ending);
    return length > end && strcasecmp(name + length - end, ending) == 0;
}

static struct member *find(struct foreign *foreign, const char *name)
{
    for (size_t i = 0; i < foreign->count; i++)
        if (strcmp(foreign->members[i].name, name) == 0)
            return &foreign->members[i];
    return NULL;
}

static struct member *add(struct foreign *foreign, const char *name, struct error **err)
{
    if (foreign->count == MEMBERS_MAX) {
        error_set(err, ERROR_HOST, "there are too many files in it");
        return NULL;
    }
    struct member *member = &foreign->members[foreign->count++];
    member->name = alloc_string(name);
    member->fd = -1;
    return member;
}

/* ---- a tar ---- */

struct source {
    int fd;
    char buffer[PIECE];
};

static bool read_piece(void *opaque, const void **bytes, size_t *size, struct error **err)
{
    struct source *source = opaque;
    ssize_t count;
    do
        count = read(source->fd, source->buffer, PIECE);
    while (count < 0 && errno == EINTR);
    *bytes = source->buffer;
    *size = count > 0 ? (size_t)count : 0;
    return count >= 0 || error_set_errno(err, errno, "cannot read it");
}

static bool write_all(int fd, const void *bytes, size_t size, uint64_t offset, struct error **err)
{
    for (size_t done = 0; done < size;) {
        ssize_t count = pwrite(fd, (const char *)bytes + done, size - done, (off_t)(offset + done));
        if (count < 0 && errno != EINTR) {
            error_set_errno(err, errno, "cannot unpack it");
            if (errno == ENOSPC)
                error_hint(err, "Free some space first.");
            return false;
        }
        done += count > 0 ? (size_t)count : 0;
    }
    return true;
}

static bool check_space(const struct foreign *foreign, uint64_t size, struct error **err)
{
    struct statvfs system;
    if (statvfs(foreign->scratch, &system) != 0 ||
        size <= (uint64_t)system.f_bavail * system.f_frsize)
        return true;
    error_set(err, ERROR_HOST, "there is not enough space in '%s' for it: %llu MiB",
              foreign->scratch, (unsigned long long)(size / MIB));
    error_hint(err, "Free some space, or name another folder by TMPDIR.");
    return false;
}

/* Into a file without a name, with its sums. */
static bool take_member(struct foreign *foreign, struct tar_reader *tar,
                        const struct tar_member *found, struct error **err)
{
    struct member *member =
        check_space(foreign, found->size, err) ? add(foreign, found->name, err) : NULL;
    struct sum *sums[SUMS];
    const void *bytes;
    size_t size = 1;
    uint64_t offset;
    if (member == NULL)
        return false;
    member->fd = vmdk_scratch(foreign->scratch, err);
    bool good = member->fd >= 0;
    if (found->count > 0 && found->extents[0].length != found->size)
        good = error_set(err, ERROR_HOST, "'%s' is sparse, which an OVA has not", found->name);
    for (size_t i = 0; i < SUMS; i++)
        sums[i] = sum_new(algorithms[i]);
    while (good && size > 0) {
        good = tar_read(tar, &bytes, &size, &offset, err) &&
               write_all(member->fd, bytes, size, offset, err);
        for (size_t i = 0; i < SUMS && good; i++)
            sum_add(sums[i], bytes, size);
    }
    for (size_t i = 0; i < SUMS; i++)
        sum_end(sums[i], member->sums[i]);
    return good;
}

static bool read_tar(struct foreign *foreign, int fd, struct error **err)
{
    struct source *source = alloc_zeroed(1, sizeof(*source));
    source->fd = fd;
    struct tar_reader *tar = tar_reader_new(read_piece, source, err);
    bool good = tar != NULL, there = true;
    while (good && there) {
        struct tar_member member;
        good = tar_next(tar, &member, &there, err);
        if (good && there)
            good = take_member(foreign, tar, &member, err);
    }
    tar_reader_free(tar);
    free(source);
    return good;
}

static char *read_text(int fd, size_t limit, size_t *size, struct error **err)
{
    struct stat status;
    if (fstat(fd, &status) != 0 || (uint64_t)status.st_size > limit) {
        error_set(err, ERROR_HOST, "its description is too large");
        return NULL;
    }
    char *text = alloc_zeroed(1, (size_t)status.st_size + 1);
    ssize_t count = pread(fd, text, (size_t)status.st_size, 0);
    *size = count > 0 ? (size_t)count : 0;
    return text;
}

/* "SHA256(disk.vmdk)= 0123…": false if that is not its sum. */
static bool check_sum_line(struct foreign *foreign, const char *line, struct error **err)
{
    char algorithm[16], name[TAR_MAX_NAME + 1], sum[SUM_TEXT_MAX];
    if (line[strspn(line, " \t\r")] == '\0')
        return true;
    if (sscanf(line, " %15[A-Za-z0-9] ( %255[^)] ) = %128[0-9a-fA-F]", algorithm, name, sum) != 3)
        return error_set(err, ERROR_HOST, "its manifest makes no sense: '%.80s'", line);
    const struct member *member = find(foreign, name);
    for (size_t i = 0; i < SUMS; i++)
        if (strcasecmp(algorithms[i], algorithm) == 0)
            return (member != NULL && strcasecmp(member->sums[i], sum) == 0) ||
                   error_set(err, ERROR_HOST,
                             "it is damaged: '%.80s' has not the sum that its "
                             "manifest says",
                             name);
    return error_set(err, ERROR_HOST, "its manifest has sums by '%s', which are not known here",
                     algorithm);
}

static bool check_sums(struct foreign *foreign, struct error **err)
{
    const struct member *manifest = NULL;
    for (size_t i = 0; i < foreign->count; i++)
        if (ends_with(foreign->members[i].name, ".mf"))
            manifest = &foreign->members[i];
    if (manifest == NULL) {
        json_array_append_new(foreign->notes,
                              json_string("it has no manifest, so nothing tells whether it is "
                                          "damaged"));
        return true;
    }
    size_t size;
    char *text = read_text(manifest->fd, MANIFEST_MAX, &size, err), *rest = text, *line;
    bool good = text != NULL;
    while (good && (line = strsep(&rest, "\n")) != NULL)
        good = check_sum_line(foreign, line, err);
    free(text);
    return good;
}

/* ---- a folder ---- */

/* The plain files in it. */
static bool read_folder(struct foreign *foreign, json_t *files, struct error **err)
{
    DIR *listing = opendir(foreign->folder);
    const struct dirent *entry;
    if (listing == NULL)
        return error_set_errno(err, errno, "cannot list '%s'", foreign->folder);
    while ((entry = readdir(listing)) != NULL) {
        struct stat status;
        if (fstatat(dirfd(listing), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(status.st_mode))
            json_array_append_new(files, json_pack("{s:s}", "name", entry->d_name));
    }
    closedir(listing);
    return true;
}

/* A .vmx's disks are those in its folder, and nothing else of this host is reached; the daemon has
 * the last word on identity and networks. */
static bool read_vmx(struct foreign *foreign, const char *path, struct error **err)
{
    struct unpacked stranger = {.text = text_load(path, err)};
    stranger.files = json_array();
    stranger.notes = json_incref(foreign->notes);
    bool good = stranger.text != NULL && read_folder(foreign, stranger.files, err) &&
                machine_adopt(&stranger, foreign->name,
                              MACHINE_KEEP_IDENTITY | MACHINE_KEEP_NETWORKS, NULL, err);
    if (good) {
        foreign->text = stranger.text;
        stranger.text = NULL;
    }
    unpacked_clear(&stranger);
    return good;
}

/* ---- OVF ---- */

static bool check_files(const struct foreign *foreign, struct error **err)
{
    for (size_t i = 0; i < foreign->ovf.file_count; i++) {
        const struct ovf_file *file = &foreign->ovf.files[i];
        if (file->unhandled != NULL)
            return error_set(err, ERROR_USAGE,
                             "'%.80s' in it is packed as '%.20s', which is not "
                             "read",
                             file->href, file->unhandled);
        if (strchr(file->href, '/') != NULL || file->href[0] == '.')
            return error_set(err, ERROR_HOST, "it names a file that is not a part of it: '%.80s'",
                             file->href);
    }
    for (size_t i = 0; i < foreign->ovf.disk_count; i++)
        if (foreign->ovf.disks[i].has_parent)
            return error_set(err, ERROR_USAGE,
                             "a disk in it lies on another one, which is not "
                             "read");
    return true;
}

static bool read_ovf(struct foreign *foreign, int fd, struct error **err)
{
    size_t size;
    char *bytes = read_text(fd, OVF_MAX_SIZE, &size, err);
    bool good =
        bytes != NULL && ovf_parse(bytes, size, &foreign->ovf, err) && check_files(foreign, err);
    free(bytes);
    if (!good)
        return false;
    if (foreign->ovf.name != NULL) {
        free(foreign->name);
        foreign->name = plain_name(foreign->ovf.name, strlen(foreign->ovf.name));
    }
    foreign->text = ovf_describe(&foreign->ovf, foreign->name, foreign->notes);
    return true;
}

static bool read_ova(struct foreign *foreign, int fd, struct error **err)
{
    if (!read_tar(foreign, fd, err) || !check_sums(foreign, err))
        return false;
    for (size_t i = 0; i < foreign->count; i++)
        if (ends_with(foreign->members[i].name, ".ovf"))
            return read_ovf(foreign, foreign->members[i].fd, err);
    return error_set(err, ERROR_USAGE, "there is no .ovf in it");
}

/* ---- what it is ---- */

/* The only file with an ending in a folder; NULL: none, or several. */
static char *only_file(const char *folder, const char *ending)
{
    DIR *listing = opendir(folder);
    const struct dirent *entry;
    char *found = NULL;
    unsigned count = 0;
    while (listing != NULL && (entry = readdir(listing)) != NULL)
        if (ends_with(entry->d_name, ending) && count++ == 0 &&
            asprintf(&found, "%s/%s", folder, entry->d_name) < 0)
            found = NULL;
    if (listing != NULL)
        closedir(listing);
    if (count != 1) {
        free(found);
        found = NULL;
    }
    return found;
}

static bool read_any(struct foreign *foreign, const char *path, struct error **err)
{
    const char *slash = strrchr(path, '/'), *base = slash != NULL ? slash + 1 : path;
    const char *dot = strrchr(base, '.');
    foreign->name = plain_name(base, dot != NULL ? (size_t)(dot - base) : strlen(base));
    bool vmx = ends_with(path, ".vmx"), ovf = ends_with(path, ".ovf");
    if (vmx || ovf)
        foreign->folder =
            slash != NULL ? strndup(path, (size_t)(slash + 1 - path)) : alloc_string("./");
    if (vmx)
        return read_vmx(foreign, path, err);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot open it");
    bool good = ovf ? read_ovf(foreign, fd, err) : read_ova(foreign, fd, err);
    close(fd);
    return good;
}

struct foreign *foreign_open(const char *path, const char *scratch, struct error **err)
{
    struct foreign *foreign = alloc_zeroed(1, sizeof(*foreign));
    struct stat status;
    char *inside = NULL;
    foreign->scratch = alloc_string(scratch);
    foreign->notes = json_array();
    bool good = true;
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) {
        inside = only_file(path, ".vmx");
        if (inside == NULL)
            inside = only_file(path, ".ovf");
        good = inside != NULL || error_set(err, ERROR_USAGE, "it has not exactly one .vmx or .ovf");
    }
    good = good && read_any(foreign, inside != NULL ? inside : path, err);
    free(inside);
    if (good) {
        note_processor(foreign);
        return foreign;
    }
    error_prefix(err, "'%s'", path);
    foreign_close(foreign);
    return NULL;
}

static struct block_image *open_disk(const struct machine_opener *opener, const char *name,
                                     struct error **err)
{
    struct foreign *foreign = opener->opaque;
    const struct ovf_disk *disk = ovf_disk_of(&foreign->ovf, name);
    const struct member *member = find(foreign, name);
    char *path = NULL;
    int fd = -1;
    if (foreign->folder != NULL && strchr(name, '/') == NULL &&
        asprintf(&path, "%s%s", foreign->folder, name) > 0)
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW);
    else if (member != NULL)
        fd = fcntl(member->fd, F_DUPFD_CLOEXEC, 0);
    struct block_image *image = NULL;
    if (fd < 0)
        error_set(err, ERROR_HOST, "its disk '%.80s' is not there", name);
    else
        image = vmdk_open(fd, name, path, foreign->scratch, disk != NULL ? disk->capacity : 0, err);
    if (fd >= 0)
        close(fd);
    free(path);
    return image;
}

struct pack *foreign_pack(struct foreign *foreign, const char *name, struct error **err)
{
    const struct machine_opener opener = {open_disk, foreign};
    const char *folder = foreign->folder != NULL ? foreign->folder : "/";
    text_set(foreign->text, "displayName", name);
    struct pack *pack = machine_pack(name, folder, foreign->text, &opener, err);
    json_t *sentence;
    size_t index;
    if (pack != NULL)
        json_array_foreach(foreign->notes, index, sentence)
            pack_note(pack, json_string_value(sentence));
    return pack;
}

void foreign_close(struct foreign *foreign)
{
    if (foreign == NULL)
        return;
    for (size_t i = 0; i < foreign->count; i++) {
        free(foreign->members[i].name);
        if (foreign->members[i].fd >= 0)
            close(foreign->members[i].fd);
    }
    ovf_clear(&foreign->ovf);
    text_free(foreign->text);
    json_decref(foreign->notes);
    free(foreign->name);
    free(foreign->folder);
    free(foreign->scratch);
    free(foreign);
}
