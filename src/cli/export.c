/* SPDX-License-Identifier: MIT
 *
 * trapeze export: what the daemon sends becomes a file when all of it has come, and has been
 * decompressed on the way to see that it is whole. Until then it has no name, so that nothing is
 * left of it, whatever happens (where the file system can do that).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/zstream.h"
#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "cli/progress.h"
#include "client/api_stream.h"

static const struct cli_option options[] = {
    {"force", 0, NULL, "Replace FILE if it exists.", NULL},
};

static const struct cli_example examples[] = {
    {"trapeze export web web.trapeze", "A machine as one file."},
    {"trapeze import web.trapeze", "Back, here or elsewhere."},
};

struct exporting {
    int fd;
    char *part; /* its name meanwhile; NULL: none */
    struct zstream_reader *decoder;
    struct progress progress;
    uint64_t decoded;
    bool ended;
};

static bool on_about(void *opaque, const char *text, struct error **err)
{
    struct exporting *e = opaque;
    json_t *about = cli_plain(json_loads(text, 0, NULL));
    const json_t *notes = json_object_get(about, "notes"), *note;
    size_t index;
    (void)err;
    json_array_foreach(notes, index, note)
        fprintf(stderr, "trapeze: %s\n", json_string_value(note));
    progress_start(&e->progress, "exporting",
                   (uint64_t)json_integer_value(json_object_get(about, "bytes")));
    json_decref(about);
    return true;
}

static bool on_decoded(void *opaque, const void *bytes, size_t size, struct error **err)
{
    struct exporting *e = opaque;
    (void)bytes, (void)err;
    e->decoded += size;
    progress_step(&e->progress, e->decoded < e->progress.total ? e->decoded : e->progress.total);
    return true;
}

static bool on_bytes(void *opaque, const void *bytes, size_t size, struct error **err)
{
    struct exporting *e = opaque;
    const char *at = bytes;
    for (size_t left = size; left > 0;) {
        ssize_t count = write(e->fd, at, left);
        if (count < 0 && errno != EINTR) {
            error_set_errno(err, errno, "cannot write the archive");
            if (errno == ENOSPC)
                error_hint(err, "Free some space first.");
            return false;
        }
        at += count > 0 ? count : 0;
        left -= count > 0 ? (size_t)count : 0;
    }
    return zstream_decode(e->decoder, bytes, size, on_decoded, e, &e->ended, err);
}

/* A file without a name, in the folder where `path` is to be; where the file system has none of
 * those (FAT), "PATH.part". */
static bool open_target(struct exporting *e, const char *path, struct error **err)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash == NULL ? strdup(".") : strndup(path, (size_t)(slash - path) + 1);
    e->fd = open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    if (e->fd < 0 && errno == EOPNOTSUPP && asprintf(&e->part, "%s.part", path) > 0)
        e->fd = open(e->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (e->fd < 0)
        error_set_errno(err, errno, "cannot write to the folder '%s'", folder);
    free(folder);
    return e->fd >= 0;
}

static bool take_name(const char *part, const char *path, bool force)
{
    struct stat there;
    if (force)
        return rename(part, path) == 0;
    if (renameat2(AT_FDCWD, part, AT_FDCWD, path, RENAME_NOREPLACE) == 0)
        return true;
    if (errno != EINVAL) /* the file system cannot do that at once */
        return false;
    if (lstat(path, &there) != 0)
        return rename(part, path) == 0;
    errno = EEXIST;
    return false;
}

/* link() replaces nothing: by way of a second name. */
static bool give_name(struct exporting *e, const char *path, bool force, struct error **err)
{
    char self[64];
    snprintf(self, sizeof(self), "/proc/self/fd/%d", e->fd);
    if (fsync(e->fd) != 0)
        return error_set_errno(err, errno, "cannot keep '%s'", path);
    if (e->part == NULL && linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0)
        return true;
    if (e->part == NULL && force && errno == EEXIST &&
        asprintf(&e->part, "%s.%d", path, (int)getpid()) > 0 &&
        linkat(AT_FDCWD, self, AT_FDCWD, e->part, AT_SYMLINK_FOLLOW) != 0) {
        free(e->part);
        e->part = NULL;
    }
    if (e->part == NULL || !take_name(e->part, path, force))
        return error_set_errno(err, errno, "cannot make '%s'", path);
    free(e->part);
    e->part = NULL;
    return true;
}

static bool receive(struct exporting *e, const char *name, struct error **err)
{
    const struct api_taker taker = {on_about, on_bytes, e};
    char *path = NULL, *refusal;
    int status;
    bool good = asprintf(&path, "/v1/instances/%s/export", name) > 0 &&
                api_download(path, &taker, &status, &refusal, err);
    free(path);
    if (good && refusal != NULL) {
        json_decref(cli_api_answer(refusal, status, err));
        return false;
    }
    return good && (e->ended || error_set(err, ERROR_HOST, "the archive is cut off"));
}

static int run(const struct cli_args *args, struct error **err)
{
    struct stat there;
    if (args->operand_count != 2) {
        error_set(err, ERROR_USAGE, "'export' takes the name of an instance and a file");
        return CLI_USAGE;
    }
    const char *name = cli_instance(args, 0, 2, err), *path = args->operands[1];
    if (name == NULL)
        return CLI_USAGE;
    if (!cli_given(args, "force") && lstat(path, &there) == 0) {
        error_set(err, ERROR_USAGE, "'%s' exists", path);
        error_hint(err, "--force replaces it.");
        return CLI_USAGE;
    }
    struct exporting e = {.fd = -1};
    e.decoder = open_target(&e, path, err) ? zstream_decoder_new(err) : NULL;
    bool good = e.decoder != NULL && receive(&e, name, err);
    progress_end(&e.progress);
    good = good && give_name(&e, path, cli_given(args, "force"), err);
    if (e.part != NULL)
        unlink(e.part);
    free(e.part);
    zstream_reader_free(e.decoder);
    if (e.fd >= 0)
        close(e.fd);
    return good ? CLI_OK : CLI_HOST_FAILURE;
}

const struct cli_command cli_command_export = {
    .name = "export",
    .operands = "NAME FILE",
    .summary = "Write an instance into one compressed file",
    .description =
        "Writes the instance NAME, which does not run meanwhile, into FILE, with every file that "
        "it reads: kernel, disks, discs, wherever they lie. A linked clone becomes a machine of "
        "its own. A suspended instance's state goes along, for 'import --keep-identity'. Holes and "
        "zeros of disks take no space. Shared folders and disks on servers are "
        "not in the file, and are named.\n\n"
        "FILE is a tar compressed with zstd, with a checksum of everything; 'trapeze import' makes "
        "an instance of it, 'tar --zstd -xf' unpacks it (disks are raw then). An interrupted "
        "export leaves no file.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
