/* SPDX-License-Identifier: MIT
 *
 * trapeze disk: making disk images and looking at them. What takes data from one image to
 * another is in disk_copy.c.
 */
#include "cli/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/instance.h"
#include "cli/progress.h"
#include "cli/size.h"

/* Exit statuses of 'disk check'. */
enum { CHECK_CORRUPT = 2, CHECK_LEAKS = 3 };

static const struct cli_option options[] = {
    {"format", 'f', "FORMAT",
     "The image's format: 'raw', 'fixed' (raw, with all of its space taken at once) or 'qcow2'. "
     "create and convert make that, by default qcow2; the others take an image for that instead of "
     "looking at its header.",
     NULL},
    {"from", 0, "FORMAT",
     "convert: the format of the image to read, if it is not recognised: also 'vmdk', 'vpc' "
     "(VHD), 'vhdx', 'vdi', which qemu-img reads.",
     NULL},
    {"backing", 'b', "FILE",
     "create: put the new image on top of FILE, which keeps what is not written to the new one, "
     "and must not change any more. SIZE may be left out then.",
     NULL},
    {"backing-format", 0, "FORMAT", "create: FILE's format; needed with --backing.", NULL},
    {"cluster-size", 0, "SIZE",
     "create, convert: bytes of a qcow2 cluster, 512 to 2M; by default 64K.", NULL},
    {"force", 0, NULL,
     "create, convert: replace a file that is there. detach, insert, eject: whether or not the guest "
     "agrees.",
     NULL},
    {"repair", 0, NULL,
     "check: make the stored reference counts right; frees what is leaked. Data is not touched.",
     NULL},
    {"shrink", 0, NULL, "resize: a smaller size is meant, and what lies behind it is lost.", NULL},
    CLI_LIVE_OPTION,
    {"json", 0, NULL, "info, map, check, list: for programs to read.", NULL},
};

static const struct cli_example examples[] = {
    {"trapeze disk create data.qcow2 20G", "A disk that takes space as it is written."},
    {"trapeze disk create --format fixed db.img 20G", "One that has all of its space at once."},
    {"trapeze disk create --backing base.qcow2 --backing-format qcow2 mine.qcow2",
     "A private layer over an image that many share."},
    {"trapeze disk info mine.qcow2", "What it is, how large, and what it lies on."},
    {"trapeze disk check --repair mine.qcow2", "After the host crashed."},
    {"trapeze disk resize data.qcow2 +10G", "More room; the guest still has to use it."},
    {"trapeze disk convert appliance.vmdk disk.qcow2", "Bring a disk from elsewhere."},
    {"trapeze disk attach web data.qcow2", "Give an instance that runs another disk, for good."},
    {"trapeze disk attach data.qcow2", "The only machine of 'trapeze run'."},
    {"trapeze disk detach 1", "Take it away again."},
    {"trapeze disk commit mine.qcow2", "Put the layer's content into the image below."},
};

void disk_warn(void *opaque, const char *image, const char *text)
{
    (void)opaque;
    fprintf(stderr, "trapeze: disk '%s': %s\n", image, text);
}

/* --- create --- */

bool disk_make(const char *path, const struct block_format *format,
               const struct block_create *create, bool replace, struct error **err)
{
    /* Not O_TRUNC: somebody may be using it, which only the lock tells. */
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | (replace ? 0 : O_EXCL), 0644);
    if (fd < 0) {
        error_set_errno(err, errno, "cannot make '%s'", path);
        if (errno == EEXIST)
            error_hint(err, "--force replaces it.");
        return false;
    }
    struct block_file *file = block_file_new(fd, false, BLOCK_CACHE_WRITEBACK, err);
    if (file == NULL)
        close(fd);
    bool locked = file != NULL && block_file_lock(file, err);
    bool good = locked && format->create(file, create, err);
    if (!good) {
        error_prefix(err, "disk '%s'", path);
        if (!replace || locked)
            unlink(path);
    }
    block_file_close(file);
    return good;
}

static bool usage(struct error **err, const char *text)
{
    error_set(err, ERROR_USAGE, "%s", text);
    error_hint(err, "'trapeze disk --help' explains it.");
    return false;
}

static bool parse_disk_size(const char *text, uint64_t *size, struct error **err)
{
    if (!cli_parse_size(text, MIB, size) || *size == 0 || *size > BLOCK_SIZE_MAX) {
        error_set(err, ERROR_USAGE, "'%s' is not a size", text);
        error_hint(err, "Write 512M, 20G or a number of MiB.");
        return false;
    }
    return true;
}

/* The size of the image below, unless one is given; it has to be there and to be of the
 * format that is recorded. */
static bool look_at_backing(const char *path, struct block_create *create, struct error **err)
{
    if (create->backing_format == NULL)
        return usage(err, "--backing needs --backing-format: an image's first bytes, which a "
                          "guest may have written, do not tell it");
    char *name = block_image_resolve(path, create->backing);
    const struct block_open_options how = {.format = create->backing_format, .read_only = true};
    struct block_image *image = block_open(name, &how, err);
    free(name);
    if (image == NULL)
        return false;
    if (create->size == 0)
        create->size = image->size;
    block_image_close(image);
    return true;
}

bool disk_parse_create(const struct cli_args *args, struct block_create *create,
                       const struct block_format **format, struct error **err)
{
    const char *name = cli_last(args, "format"), *cluster = cli_last(args, "cluster-size");
    *format = block_format_find(name != NULL ? name : "qcow2");
    if (*format == NULL) {
        error_set(err, ERROR_USAGE, "there is no disk format '%s'", name);
        error_hint(err, "There are raw, fixed and qcow2.");
        return false;
    }
    uint64_t bytes = 0;
    if (cluster != NULL && (!cli_parse_size(cluster, 1, &bytes) || bytes > 2 * MIB))
        return error_set(err, ERROR_USAGE, "--cluster-size: '%s' is not 512 to 2M", cluster);
    create->cluster_size = (uint32_t)bytes;
    return true;
}

int disk_create(const struct cli_args *args, char *const *operands, size_t count,
                struct error **err)
{
    struct block_create create = {.backing = cli_last(args, "backing"),
                                  .backing_format = cli_last(args, "backing-format")};
    const struct block_format *format;
    if (count < 1 || count > 2 || (count == 1 && create.backing == NULL))
        return usage(err, "'disk create' takes FILE and SIZE"), CLI_USAGE;
    if (!disk_parse_create(args, &create, &format, err) ||
        (count == 2 && !parse_disk_size(operands[1], &create.size, err)) ||
        (create.backing != NULL && !look_at_backing(operands[0], &create, err)) ||
        !disk_make(operands[0], format, &create, cli_given(args, "force"), err))
        return CLI_HOST_FAILURE;
    return CLI_OK;
}

/* --- info --- */

static struct block_image *open_to_look(const struct cli_args *args, const char *name, bool alone,
                                        struct error **err)
{
    const struct block_open_options how = {.format = cli_last(args, "format"),
                                           .read_only = true,
                                           .no_lock = true,
                                           .alone = alone,
                                           .warn = disk_warn};
    return block_open(name, &how, err);
}

static void say_json(void *opaque, const char *name, const char *text)
{
    json_object_set_new(opaque, name, json_string(text));
}

static void say_text(void *opaque, const char *name, const char *text)
{
    (void)opaque;
    printf("%-16s%s\n", name, text);
}

static void print_info(struct block_image *image, uint64_t used)
{
    char size[32], space[32];
    printf("%-16s%s\n%-16s%s\n%-16s%s (%llu bytes)\n", "file", image->name, "format",
           image->format->name, "disk size", cli_show_size(image->size, size),
           (unsigned long long)image->size);
    if (image->file->fd >= 0)
        printf("%-16s%s\n", "space used", cli_show_size(used, space));
    if (image->backing_name != NULL)
        printf("%-16s%s (%s)\n", "backing file", image->backing_name,
               image->backing_format != NULL ? image->backing_format : "format not recorded");
    if (image->format->describe != NULL)
        image->format->describe(image, say_text, NULL);
}

static void print_json(json_t *value)
{
    json_dumpf(value, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(value);
}

int disk_info(const struct cli_args *args, char *const *operands, size_t count, struct error **err)
{
    struct stat status = {0};
    if (count != 1)
        return usage(err, "'disk info' takes one FILE"), CLI_USAGE;
    struct block_image *image = open_to_look(args, operands[0], true, err);
    if (image == NULL)
        return CLI_HOST_FAILURE;
    if (image->file->fd >= 0)
        fstat(image->file->fd, &status);
    uint64_t used = (uint64_t)status.st_blocks * 512;
    if (cli_given(args, "json")) {
        json_t *info = json_pack("{s:s, s:s, s:I, s:I, s:s*, s:s*}", "file", image->name, "format",
                                 image->format->name, "size", (json_int_t)image->size, "used",
                                 (json_int_t)used, "backing-file", image->backing_name,
                                 "backing-format", image->backing_format);
        if (image->format->describe != NULL)
            image->format->describe(image, say_json, info);
        print_json(info);
    } else {
        print_info(image, used);
    }
    block_image_close(image);
    return CLI_OK;
}

/* --- map --- */

static const char *const kind_words[] = {
    [BLOCK_EXTENT_ABSENT] = "absent",
    [BLOCK_EXTENT_ZERO] = "zero",
    [BLOCK_EXTENT_DATA] = "data",
    [BLOCK_EXTENT_COMPRESSED] = "compressed",
};

static void print_extent(uint64_t start, const struct block_extent *extent, unsigned depth,
                         json_t *list)
{
    if (list != NULL) {
        json_t *row = json_pack("{s:I, s:I, s:s, s:i}", "start", (json_int_t)start, "length",
                                (json_int_t)extent->length, "kind", kind_words[extent->kind],
                                "depth", (int)depth);
        if (extent->kind == BLOCK_EXTENT_DATA && extent->host != UINT64_MAX)
            json_object_set_new(row, "offset", json_integer((json_int_t)extent->host));
        json_array_append_new(list, row);
        return;
    }
    printf("%#14llx  %#14llx  %-10s  %5u", (unsigned long long)start,
           (unsigned long long)extent->length, kind_words[extent->kind], depth);
    if (extent->kind == BLOCK_EXTENT_DATA && extent->host != UINT64_MAX)
        printf("  %#14llx", (unsigned long long)extent->host);
    putchar('\n');
}

static bool continues(const struct block_extent *one, unsigned depth,
                      const struct block_extent *next, unsigned next_depth)
{
    bool joined = one->kind != BLOCK_EXTENT_DATA || one->host == UINT64_MAX
                      ? one->host == next->host
                      : next->host == one->host + one->length;
    return one->kind == next->kind && depth == next_depth && joined &&
           one->kind != BLOCK_EXTENT_COMPRESSED;
}

int disk_map(const struct cli_args *args, char *const *operands, size_t count, struct error **err)
{
    if (count != 1)
        return usage(err, "'disk map' takes one FILE"), CLI_USAGE;
    struct block_image *image = open_to_look(args, operands[0], false, err);
    if (image == NULL)
        return CLI_HOST_FAILURE;
    json_t *list = cli_given(args, "json") ? json_array() : NULL;
    if (list == NULL)
        printf("%14s  %14s  %-10s  %5s  %14s\n", "start", "length", "kind", "depth", "in its file");
    struct block_extent run = {.length = 0}, extent;
    unsigned run_depth = 0, depth;
    uint64_t start = 0;
    int error = 0;
    for (uint64_t at = 0; error == 0 && at < image->size; at += extent.length) {
        error = block_image_extent(image, at, image->size - at, &extent, &depth);
        if (error != 0)
            break;
        if (run.length > 0 && continues(&run, run_depth, &extent, depth)) {
            run.length += extent.length;
            continue;
        }
        if (run.length > 0)
            print_extent(start, &run, run_depth, list);
        start = at;
        run = extent;
        run_depth = depth;
    }
    if (run.length > 0)
        print_extent(start, &run, run_depth, list);
    if (list != NULL)
        print_json(list);
    block_image_close(image);
    if (error != 0)
        error_set_errno(err, error, "disk '%s': cannot read its map", operands[0]);
    return error == 0 ? CLI_OK : CLI_HOST_FAILURE;
}

/* --- check --- */

static void print_finding(void *opaque, const char *text)
{
    unsigned *left = opaque;
    if (*left == 0)
        return;
    if (--*left == 0)
        puts("… and so on");
    else
        puts(text);
}

static void print_check(const struct block_check *check, bool repair)
{
    char text[32];
    uint64_t corrupt = check->corruptions - check->corruptions_fixed;
    uint64_t leaks = check->leaks - check->leaks_fixed;
    if (repair && check->leaks_fixed + check->corruptions_fixed > 0)
        printf("Repaired: %llu leaked clusters, %llu wrong counts and flags.\n",
               (unsigned long long)check->leaks_fixed,
               (unsigned long long)check->corruptions_fixed);
    if (corrupt > 0)
        printf("%llu errors endanger the data: save what is readable with 'trapeze disk "
               "convert'.\n",
               (unsigned long long)corrupt);
    if (leaks > 0)
        printf("%llu clusters are leaked: space is wasted, no data is in danger.\n",
               (unsigned long long)leaks);
    if (corrupt + leaks == 0)
        puts("No errors.");
    printf("%llu of %llu clusters are in use (%llu compressed), up to %s of the file.\n",
           (unsigned long long)check->allocated, (unsigned long long)check->total,
           (unsigned long long)check->compressed, cli_show_size(check->file_end, text));
}

static int check_status(const struct block_check *check)
{
    if (check->corruptions > check->corruptions_fixed)
        return CHECK_CORRUPT;
    return check->leaks > check->leaks_fixed ? CHECK_LEAKS : CLI_OK;
}

int disk_check(const struct cli_args *args, char *const *operands, size_t count, struct error **err)
{
    bool repair = cli_given(args, "repair"), json = cli_given(args, "json");
    if (count != 1)
        return usage(err, "'disk check' takes one FILE"), CLI_USAGE;
    const struct block_open_options how = {.format = cli_last(args, "format"),
                                           .read_only = !repair,
                                           .alone = true,
                                           .to_check = true,
                                           .warn = disk_warn};
    struct block_image *image = block_open(operands[0], &how, err);
    if (image == NULL)
        return CLI_HOST_FAILURE;
    unsigned shown = 100;
    struct block_check check = {.report = json ? NULL : print_finding, .opaque = &shown};
    bool good;
    if (image->format->check == NULL) {
        good = error_set(err, ERROR_USAGE, "a %s image has nothing that could be checked",
                         image->format->name);
    } else {
        good = image->format->check(image, repair, &check, err);
    }
    block_image_close(image);
    if (!good) {
        error_prefix(err, "disk '%s'", operands[0]);
        return CLI_HOST_FAILURE;
    }
    if (json)
        print_json(json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "leaks",
                             (json_int_t)check.leaks, "corruptions", (json_int_t)check.corruptions,
                             "leaks-fixed", (json_int_t)check.leaks_fixed, "corruptions-fixed",
                             (json_int_t)check.corruptions_fixed, "allocated-clusters",
                             (json_int_t)check.allocated, "compressed-clusters",
                             (json_int_t)check.compressed, "total-clusters",
                             (json_int_t)check.total, "file-end", (json_int_t)check.file_end));
    else
        print_check(&check, repair);
    return check_status(&check);
}

/* --- resize --- */

static bool new_size(const char *text, uint64_t now, uint64_t *size, struct error **err)
{
    bool more = text[0] == '+';
    if (!parse_disk_size(text + more, size, err))
        return false;
    if (more && (__builtin_add_overflow(*size, now, size) || *size > BLOCK_SIZE_MAX))
        return error_set(err, ERROR_USAGE, "'%s' is too much", text);
    return true;
}

int disk_resize(const struct cli_args *args, char *const *operands, size_t count,
                struct error **err)
{
    if (count != 2)
        return usage(err, "'disk resize' takes FILE and SIZE or +SIZE"), CLI_USAGE;
    const struct block_open_options how = {.format = cli_last(args, "format"), .warn = disk_warn};
    struct block_image *image = block_open(operands[0], &how, err);
    uint64_t size;
    bool good = image != NULL && new_size(operands[1], image->size, &size, err);
    if (good && size < image->size && !cli_given(args, "shrink")) {
        good = error_set(err, ERROR_USAGE, "disk '%s' would become smaller", operands[0]);
        error_hint(err, "What lies behind the new end is lost; if that is meant, add --shrink.");
    }
    if (good && !image->format->resize(image, size, err)) {
        error_prefix(err, "disk '%s'", operands[0]);
        good = false;
    }
    block_image_close(image);
    return good ? CLI_OK : CLI_HOST_FAILURE;
}

/* --- the command --- */

static const struct {
    const char *name;
    int (*run)(const struct cli_args *args, char *const *operands, size_t count,
               struct error **err);
} verbs[] = {
    {"create", disk_create}, {"info", disk_info},       {"check", disk_check},
    {"resize", disk_resize}, {"convert", disk_convert}, {"commit", disk_commit},
    {"map", disk_map},       {"attach", disk_attach},   {"detach", disk_detach},
    {"insert", disk_insert}, {"eject", disk_eject},     {"list", disk_list},
};

static int run(const struct cli_args *args, struct error **err)
{
    for (size_t i = 0; args->operand_count > 0 && i < ARRAY_SIZE(verbs); i++)
        if (strcmp(verbs[i].name, args->operands[0]) == 0)
            return verbs[i].run(args, args->operands + 1, args->operand_count - 1, err);
    error_set(err, ERROR_USAGE,
              "'trapeze disk' takes create, info, check, resize, convert, commit or map, or, for a "
              "running machine, attach, detach, insert, eject or list");
    error_hint(err, "'trapeze disk --help' explains them.");
    return CLI_USAGE;
}

const struct cli_command cli_command_disk = {
    .name = "disk",
    .operands = "create FILE SIZE | info FILE | check FILE | resize FILE [+]SIZE | convert FROM TO "
                "| commit FILE | map FILE | attach [MACHINE] FILE[,NAME=VALUE...] | detach [MACHINE] N "
                "| insert [MACHINE] N FILE | eject [MACHINE] N | list [MACHINE]",
    .summary = "Make, look at, check and convert disk images; attach them to running machines",
    .description =
        "A disk image is a file that a machine sees as a disk ('trapeze run --disk FILE'). raw is "
        "the disk's bytes and nothing else; fixed is raw with all of its space taken at once, so "
        "that no write ever fails for want of it; qcow2 grows as it is written, and may lie on top "
        "of a backing file that has whatever was not written to it.\n\n"
        "A size without a unit counts MiB. An image is locked while it is used: what a running "
        "machine writes to can be looked at (info, map) but not checked or changed.\n\n"
        "The disks of a running machine: list tells their numbers. attach takes what 'trapeze run "
        "--disk' takes; without bus= the disk goes to the machine's SCSI adapter, and the guest "
        "sees it at once. If the machine has none yet (it has if it was started with a disk on "
        "bus=scsi or an optical drive, which may be empty: --cdrom none), or with bus=virtio, the "
        "guest has to look through its PCI bus again. detach tells the guest, and returns when it "
        "has let go of the disk; unmount it first. On bus=ahci, and with --force, it is a pulled "
        "plug. insert and eject change the disc in an optical drive, with --force even while the "
        "guest keeps it locked. MACHINE is an instance's name, or a control socket's path, which "
        "may stand behind, too; without it, it is the only machine under a default socket. What is "
        "done to an instance is written into its .vmx, too, and so lasts, unless --live is given.\n\n"
        "Exit status of check: 0 no errors; 2 errors that endanger data; 3 leaked space only.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
