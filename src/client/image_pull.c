/* SPDX-License-Identifier: MIT
 *
 * See image_store.h: an image from a disk image or an archive of ours, on a server or in a file.
 * What came is a stranger's: a disk image is copied, not interpreted, but for its header; one that
 * lies on another file is refused.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "archive/machine.h"
#include "archive/sum.h"
#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "client/api.h"
#include "client/copy.h"
#include "client/fetch.h"
#include "client/image.h"
#include "client/image_store.h"
#include "config/vmx.h"

enum { SHA256_TEXT = 64, DIRECTORY_MODE = 0755, FILE_MODE = 0444, DEFAULT_MEMORY_MIB = 1024 };
#define MANIFEST_NAME "image.json"
#define KEPT_FREE     (64 * MIB)

struct pulling {
    const struct image_pull *pull;
    char *name;
    char *part, *from; /* of a download: paths */
    int fd;            /* what was pulled */
    char sum[SUM_TEXT_MAX];
    char *images, *stage;
    int folder; /* the stage */
    bool origin_saved;
    struct fetch fetch;
};

/* ---- names ---- */

/* "https://x/y/debian-13-genericcloud-riscv64.qcow2?z" is debian-13-genericcloud-riscv64. */
static char *name_of(const char *source)
{
    static const char *const endings[] = {".qcow2", ".raw", ".img", ".trapeze"};
    size_t length = strcspn(source, fetch_is_url(source) ? "?#" : "");
    while (length > 0 && source[length - 1] == '/')
        length--;
    size_t begin = length;
    while (begin > 0 && source[begin - 1] != '/')
        begin--;
    char *name = strndup(source + begin, length - begin);
    for (size_t i = 0; i < ARRAY_SIZE(endings); i++) {
        size_t have = strlen(name), end = strlen(endings[i]);
        if (have > end && strcasecmp(name + have - end, endings[i]) == 0)
            name[have - end] = '\0';
    }
    return name;
}

static bool check_name(const char *name, const char *images, struct error **err)
{
    char *path = NULL;
    if (!pack_name_is_plain(name)) {
        error_set(err, ERROR_USAGE, "'%.80s' is no name for an image", name);
        error_hint(err, "Say another as the second operand: letters, digits, '.', '_' and '-'.");
        return false;
    }
    if (image_recipe_title(name) != NULL)
        return error_set(err, ERROR_USAGE, "'%s' is the name of an image that is built", name);
    bool there = asprintf(&path, "%s/%s", images, name) > 0 && access(path, F_OK) == 0;
    free(path);
    if (!there)
        return true;
    error_set(err, ERROR_USAGE, "there is an image '%s' already", name);
    error_hint(err, "'trapeze image remove %s' removes it.", name);
    return false;
}

static const char *isa_of(const char *source)
{
    static const struct {
        const char *word, *isa;
    } words[] = {{"riscv64", "riscv64"}, {"amd64", "x86_64"},    {"x86_64", "x86_64"},
                 {"x86-64", "x86_64"},   {"aarch64", "aarch64"}, {"arm64", "aarch64"}};
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (strcasestr(source, words[i].word) != NULL)
            return words[i].isa;
    return NULL;
}

/* ---- the download ---- */

/* So that another attempt goes on, also after a kill. */
static void save_origin(struct pulling *p)
{
    FILE *file = fopen(p->from, "we");
    if (file == NULL)
        return;
    fprintf(file, "%s\n%s\n", p->fetch.url, p->fetch.validator);
    fclose(file);
    p->origin_saved = true;
}

static void load_origin(struct pulling *p)
{
    char *line = NULL;
    size_t room = 0;
    FILE *file = fopen(p->from, "re");
    if (file != NULL && getline(&line, &room, file) > 0 &&
        strncmp(line, p->fetch.url, strlen(p->fetch.url)) == 0 &&
        line[strlen(p->fetch.url)] == '\n' && getline(&line, &room, file) > 0) {
        line[strcspn(line, "\n")] = '\0';
        if (strlen(line) < sizeof(p->fetch.validator))
            strcpy(p->fetch.validator, line);
    }
    free(line);
    if (file != NULL)
        fclose(file);
}

static void on_step(void *opaque, uint64_t done, uint64_t total)
{
    struct pulling *p = opaque;
    if (!p->origin_saved)
        save_origin(p);
    if (p->pull->step != NULL)
        p->pull->step(p->pull->opaque, done, total);
}

static uint64_t space_for(int fd)
{
    struct statvfs system;
    struct stat status;
    if (fstatvfs(fd, &system) != 0 || fstat(fd, &status) != 0)
        return UINT64_MAX;
    uint64_t free_bytes = (uint64_t)system.f_bavail * system.f_frsize;
    return (uint64_t)status.st_size + (free_bytes > KEPT_FREE ? free_bytes - KEPT_FREE : 0);
}

static bool download(struct pulling *p, struct error **err)
{
    const char *url = p->pull->source;
    char hash[SUM_TEXT_MAX];
    struct sum *sum = sum_new("sha256");
    sum_add(sum, url, strlen(url));
    sum_end(sum, hash);
    char *folder = image_folder("pull", err);
    if (folder == NULL)
        return false;
    bool good = api_make_folders(folder, err) && asprintf(&p->part, "%s/%.32s", folder, hash) > 0 &&
                asprintf(&p->from, "%s.from", p->part) > 0;
    free(folder);
    if (!good)
        return false;
    p->fd = open(p->part, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (p->fd < 0)
        return error_set_errno(err, errno, "cannot make '%s'", p->part);
    if (flock(p->fd, LOCK_EX | LOCK_NB) != 0)
        return error_set(err, ERROR_HOST, "somebody else is pulling '%s'", url);
    p->fetch = (struct fetch){
        .url = url, .fd = p->fd, .space = space_for(p->fd), .step = on_step, .opaque = p};
    load_origin(p);
    good = fetch(&p->fetch, err);
    save_origin(p);
    if (!good)
        error_prefix(err, "cannot pull '%s'", url);
    return good;
}

/* ---- what was pulled ---- */

static bool check_sum(struct pulling *p, struct error **err)
{
    enum { CHUNK = 1 << 20 };
    const char *wanted = p->pull->sha256;
    struct sum *sum = sum_new("sha256");
    char *bytes = alloc_zeroed(1, CHUNK);
    ssize_t count;
    for (off_t at = 0; (count = pread(p->fd, bytes, CHUNK, at)) > 0; at += count)
        sum_add(sum, bytes, (size_t)count);
    free(bytes);
    sum_end(sum, p->sum);
    if (count < 0)
        return error_set_errno(err, errno, "cannot read '%s'", p->pull->source);
    if (wanted == NULL || strcasecmp(wanted, p->sum) == 0)
        return true;
    if (p->part != NULL) { /* it would be wrong the next time, too */
        unlink(p->part);
        unlink(p->from);
    }
    return error_set(err, ERROR_HOST, "'%s' has the SHA-256 sum %s instead of %s", p->pull->source,
                     p->sum, wanted);
}

/* A disk image that can be booted from: its format, or NULL with err. */
static const char *format_of(struct pulling *p, struct error **err)
{
    const struct block_image_options options = {0};
    uint8_t sector[BLOCK_SECTOR] = {0};
    const char *format = NULL;
    int own = fcntl(p->fd, F_DUPFD_CLOEXEC, 0);
    struct block_file *file =
        own >= 0 ? block_file_new(own, true, BLOCK_CACHE_WRITEBACK, err) : NULL;
    struct block_image *image =
        file != NULL ? block_image_open(file, p->pull->source, &options, err) : NULL;
    if (image != NULL && block_image_read(image, 0, sector, sizeof(sector)) == 0 &&
        sector[BLOCK_SECTOR - 2] == 0x55 && sector[BLOCK_SECTOR - 1] == 0xaa) {
        format = image->format->name;
    } else if (image != NULL) {
        error_set(err, ERROR_USAGE,
                  "'%s' is no disk that could be booted from: it has no "
                  "partition table",
                  p->pull->source);
        error_hint(err, "A whole disk (raw or qcow2) or an archive by 'trapeze export' is "
                        "expected.");
    }
    block_image_close(image);
    if (image == NULL)
        block_file_close(file);
    return format;
}

static bool open_stage(struct pulling *p, struct error **err)
{
    if (!api_make_folders(p->images, err) || asprintf(&p->stage, "%s/.new-XXXXXX", p->images) < 0)
        return false;
    p->folder = mkdtemp(p->stage) != NULL ? open(p->stage, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    return (p->folder >= 0 && flock(p->folder, LOCK_EX | LOCK_NB) == 0) ||
           error_set_errno(err, errno, "cannot make a folder in '%s'", p->images);
}

static bool on_copied(void *opaque, off_t done, off_t size)
{
    struct pulling *p = opaque;
    if (p->pull->step != NULL)
        p->pull->step(p->pull->opaque, (uint64_t)done, (uint64_t)size);
    return true;
}

/* A download moves into the stage, a file of the user's is copied. */
static bool stage_disk(struct pulling *p, const char *name, struct error **err)
{
    if (p->part != NULL)
        return (fsync(p->fd) == 0 && renameat(AT_FDCWD, p->part, p->folder, name) == 0) ||
               error_set_errno(err, errno, "cannot keep what was pulled");
    int to = openat(p->folder, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool good = to >= 0 || error_set_errno(err, errno, "cannot make '%s'", name);
    good = good && copy_file(p->fd, to, on_copied, p, err) &&
           (fsync(to) == 0 || error_set_errno(err, errno, "cannot keep '%s'", name));
    if (to >= 0)
        close(to);
    return good;
}

static json_t *describe_disk(struct pulling *p, struct error **err)
{
    const char *format = format_of(p, err), *isa = isa_of(p->pull->source);
    if (format == NULL || !stage_disk(p, "disk.img", err))
        return NULL;
    json_t *manifest = json_pack("{s:s, s:s, s:i}", "disk", "disk.img", "disk_format", format,
                                 "memory_mib", DEFAULT_MEMORY_MIB);
    if (isa != NULL)
        json_object_set_new(manifest, "isa", json_string(isa));
    return manifest;
}

static bool is_allowed(const char *name)
{
    return strcmp(name, MANIFEST_NAME) != 0;
}

/* An image is a kernel with at most one disk. */
static json_t *describe_machine(const struct machine_config *config, struct error **err)
{
    if (config->kernel == NULL || config->firmware != NULL || config->disk_count > 1) {
        error_set(err, ERROR_USAGE,
                  "the machine in it is more than an image, which is a kernel "
                  "with at most one disk");
        error_hint(err, "'trapeze import' makes an instance of it.");
        return NULL;
    }
    json_t *manifest =
        json_pack("{s:s, s:s, s:I, s:i}", "isa", config->arch, "kernel", config->kernel,
                  "memory_mib", (json_int_t)(config->memory / MIB), "cpus", (int)config->cpus);
    if (config->initrd != NULL)
        json_object_set_new(manifest, "initrd", json_string(config->initrd));
    if (config->append != NULL)
        json_object_set_new(manifest, "append", json_string(config->append));
    if (config->disk_count > 0) {
        const struct machine_disk *disk = &config->disks[0];
        json_object_set_new(manifest, "disk", json_string(disk->path));
        json_object_set_new(manifest, "disk_format",
                            json_string(disk->format != NULL ? disk->format : "raw"));
    }
    return manifest;
}

static json_t *describe_archive(struct pulling *p, struct error **err)
{
    struct unpacked unpacked;
    struct machine_config config;
    json_t *manifest = NULL;
    if (lseek(p->fd, 0, SEEK_SET) != 0 || !unpack(p->fd, p->folder, is_allowed, &unpacked, err))
        return NULL;
    machine_config_init(&config);
    if (machine_adopt(&unpacked, p->name, MACHINE_KEEP_IDENTITY, is_allowed, err) &&
        vmx_read(unpacked.text, &config, NULL, err))
        manifest = describe_machine(&config, err);
    machine_config_clear(&config);
    unpacked_clear(&unpacked);
    return manifest;
}

/* ---- into its place ---- */

static bool write_manifest(struct pulling *p, json_t *manifest, struct error **err)
{
    json_object_set_new(manifest, "format", json_integer(IMAGE_MANIFEST_FORMAT));
    json_object_set_new(manifest, "name", json_string(p->name));
    json_object_set_new(manifest, "title", json_string(p->name));
    json_object_set_new(manifest, "source", json_string(p->pull->source));
    json_object_set_new(manifest, "sha256", json_string(p->sum));
    int fd = openat(p->folder, MANIFEST_NAME, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool good = fd >= 0 && json_dumpfd(manifest, fd, JSON_INDENT(1)) == 0 && fsync(fd) == 0;
    if (!good)
        error_set_errno(err, errno, "cannot write the image's manifest");
    if (fd >= 0)
        close(fd);
    return good;
}

static void seal(void *opaque, int folder, const char *name)
{
    (void)opaque;
    fchmodat(folder, name, FILE_MODE, 0);
}

static bool publish(struct pulling *p, struct error **err)
{
    char *path = NULL;
    image_each(p->stage, seal, NULL);
    bool good = asprintf(&path, "%s/%s", p->images, p->name) > 0 &&
                fchmod(p->folder, DIRECTORY_MODE) == 0 && fsync(p->folder) == 0 &&
                renameat2(AT_FDCWD, p->stage, AT_FDCWD, path, RENAME_NOREPLACE) == 0;
    if (!good)
        error_set_errno(err, errno, "cannot make the image '%s'", p->name);
    free(path);
    if (good) {
        free(p->stage);
        p->stage = NULL;
        if (p->part != NULL) {
            unlink(p->part);
            unlink(p->from);
        }
    }
    return good;
}

static bool get(struct pulling *p, struct error **err)
{
    const char *source = p->pull->source;
    if (fetch_is_url(source))
        return download(p, err);
    p->fd = open(source, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    return p->fd >= 0 || error_set_errno(err, errno, "cannot open '%s'", source);
}

static bool make(struct pulling *p, struct error **err)
{
    if (!check_name(p->name, p->images, err))
        return false;
    image_clean_stages(p->images);
    if (!get(p, err) || !check_sum(p, err) || !open_stage(p, err))
        return false;
    json_t *manifest = unpack_is_ours(p->fd) ? describe_archive(p, err) : describe_disk(p, err);
    bool good = manifest != NULL && write_manifest(p, manifest, err) && publish(p, err);
    json_decref(manifest);
    return good;
}

char *image_pull(const struct image_pull *pull, struct error **err)
{
    struct pulling p = {.pull = pull, .fd = -1, .folder = -1};
    if (pull->sha256 != NULL && (strlen(pull->sha256) != SHA256_TEXT ||
                                 strspn(pull->sha256, "0123456789abcdefABCDEF") != SHA256_TEXT)) {
        error_set(err, ERROR_USAGE, "'%s' is no SHA-256 sum: that has 64 hexadecimal digits",
                  pull->sha256);
        return NULL;
    }
    p.name = pull->name != NULL ? alloc_string(pull->name) : name_of(pull->source);
    p.images = image_folder("images", err);
    bool good = p.images != NULL && make(&p, err);
    if (p.stage != NULL)
        image_remove_stage(p.stage);
    if (p.folder >= 0)
        close(p.folder);
    if (p.fd >= 0)
        close(p.fd);
    free(p.images);
    free(p.stage);
    free(p.part);
    free(p.from);
    if (good)
        return p.name;
    free(p.name);
    return NULL;
}
