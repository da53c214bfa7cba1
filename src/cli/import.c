/* SPDX-License-Identifier: MIT
 *
 * trapeze import: an archive is sent to the daemon, which makes an instance of it, whole or not at
 * all.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/unpack.h"
#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "cli/progress.h"
#include "client/api_stream.h"

static const struct cli_option options[] = {
    {"keep-identity", 0, NULL,
     "Keep NIC addresses, the vsock's address and the uuid: the machine moves, and what it is made "
     "of is not used any more.",
     NULL},
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze import web.trapeze", "The machine 'web', as it was exported."},
    {"trapeze import web.trapeze web2", "The same under another name."},
};

static void on_sent(void *opaque, uint64_t bytes)
{
    struct progress *progress = opaque;
    progress_step(progress, bytes < progress->total ? bytes : progress->total);
}

/* The descriptor is read to its end. */
static json_t *send_archive(const struct cli_args *args, int fd, const char *name, uint64_t size,
                            struct error **err)
{
    struct progress progress;
    char *path = NULL, *answer = NULL;
    int status = 0;
    progress_start(&progress, "importing", size);
    if (asprintf(&path, "/v1/import?name=%s&identity=%s", name,
                 cli_given(args, "keep-identity") ? "same" : "new") > 0)
        answer = api_upload(path, fd, on_sent, &progress, &status, err);
    progress_end(&progress);
    free(path);
    return cli_api_answer(answer, status, err);
}

static json_t *import(const struct cli_args *args, int fd, const char *file, struct error **err)
{
    struct unpacked about;
    struct stat status;
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || !unpack_is_ours(fd)) {
        error_set(err, ERROR_USAGE, "'%s' is no archive of a machine", file);
        error_hint(err, "'trapeze export' makes those that this command takes.");
        return NULL;
    }
    if (!unpack_look(fd, &about, err)) {
        error_prefix(err, "'%s'", file);
        return NULL;
    }
    const char *name =
        args->operand_count == 2 ? cli_instance(args, 1, args->operand_count, err) : about.name;
    json_t *answer = NULL;
    if (name != NULL && lseek(fd, 0, SEEK_SET) == 0)
        answer = send_archive(args, fd, name, (uint64_t)status.st_size, err);
    unpacked_clear(&about);
    return answer;
}

static int run(const struct cli_args *args, struct error **err)
{
    if (args->operand_count < 1 || args->operand_count > 2) {
        error_set(err, ERROR_USAGE, "'import' takes a file and perhaps a name");
        return CLI_USAGE;
    }
    const char *file = args->operands[0];
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        error_set_errno(err, errno, "cannot open '%s'", file);
        return CLI_HOST_FAILURE;
    }
    json_t *answer = import(args, fd, file, err);
    const json_t *notes = json_object_get(answer, "notes"), *note;
    size_t index;
    close(fd);
    json_array_foreach(notes, index, note)
        fprintf(stderr, "trapeze: %s\n", json_string_value(note));
    if (answer != NULL && !cli_given(args, "json"))
        printf("%s: imported\n", json_string_value(json_object_get(answer, "name")));
    return cli_instance_done(args, answer);
}

const struct cli_command cli_command_import = {
    .name = "import",
    .operands = "FILE [NAME]",
    .summary = "Make an instance of a file that holds a machine",
    .description =
        "Makes an instance NAME (or of the name that it had) of what 'trapeze export' wrote. FILE "
        "may come from a stranger: checksums are verified, sizes are checked before space is "
        "taken, and the machine reaches nothing of this host but its own files: shared folders, "
        "files elsewhere and the like are left out, and named. An import that fails or is "
        "interrupted leaves nothing.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
