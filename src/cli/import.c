/* SPDX-License-Identifier: MIT
 *
 * trapeze import: an archive is sent to the daemon, which makes an instance of it, whole or not at
 * all.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/foreign.h"
#include "archive/unpack.h"
#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "cli/progress.h"
#include "client/api_stream.h"
#include "client/image.h"

static const struct cli_option options[] = {
    {"keep-identity", 0, NULL,
     "Keep NIC addresses, the vsock's address and the uuid: the machine moves, and what it is made "
     "of is not used any more.",
     NULL},
    {"keep-networks", 0, NULL,
     "Keep what it was connected to on its own host: bridges, taps, networks of machines, an "
     "interface of the host, forwarded ports. Otherwise its NICs are on NAT, and nobody gets in.",
     NULL},
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze import web.trapeze", "The machine 'web', as it was exported."},
    {"trapeze import web.trapeze web2", "The same under another name."},
    {"trapeze import appliance.ova", "A machine by other software."},
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
    if (asprintf(&path, "/v1/import?name=%s&identity=%s&networks=%s", name,
                 cli_given(args, "keep-identity") ? "same" : "new",
                 cli_given(args, "keep-networks") ? "keep" : "safe") > 0)
        answer = api_upload(path, fd, on_sent, &progress, &status, err);
    progress_end(&progress);
    free(path);
    return cli_api_answer(answer, status, err);
}

static const char *choose_name(const struct cli_args *args, const char *own, struct error **err)
{
    return args->operand_count == 2 ? cli_instance(args, 1, args->operand_count, err) : own;
}

static json_t *import_ours(const struct cli_args *args, int fd, const char *file, uint64_t size,
                           struct error **err)
{
    struct unpacked about;
    if (!unpack_look(fd, &about, err)) {
        error_prefix(err, "'%s'", file);
        return NULL;
    }
    const char *name = choose_name(args, about.name, err);
    json_t *answer = NULL;
    if (name != NULL && lseek(fd, 0, SEEK_SET) == 0)
        answer = send_archive(args, fd, name, size, err);
    unpacked_clear(&about);
    return answer;
}

/* ---- of other makers ---- */

/* The archive is written by a thread, and sent as it comes. */
struct writing {
    struct pack *pack;
    int fd;
    struct error *error;
};

static void *write_archive(void *opaque)
{
    struct writing *writing = opaque;
    pack_write(writing->pack, writing->fd, &writing->error);
    close(writing->fd);
    return NULL;
}

static json_t *send_pack(const struct cli_args *args, struct pack *pack, const char *name,
                         struct error **err)
{
    struct writing writing = {.pack = pack};
    struct error *error = NULL;
    pthread_t thread;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        error_set_errno(err, errno, "cannot make a socket");
        return NULL;
    }
    writing.fd = pair[1];
    json_t *answer = NULL;
    if (pthread_create(&thread, NULL, write_archive, &writing) == 0) {
        answer = send_archive(args, pair[0], name, 0, &error);
        close(pair[0]);
        pthread_join(thread, NULL);
    } else {
        error_set(&error, ERROR_HOST, "cannot start a thread");
        close(pair[0]);
        close(pair[1]);
    }
    if (answer == NULL && error_kind(error) != ERROR_USAGE && writing.error != NULL) {
        error_free(error); /* "cut off" is only what came of it */
        error_propagate(err, writing.error);
    } else {
        error_free(writing.error);
        if (error != NULL)
            error_propagate(err, error);
    }
    return answer;
}

static json_t *import_foreign(const struct cli_args *args, const char *file, struct error **err)
{
    const char *scratch = getenv("TMPDIR");
    struct foreign *foreign =
        foreign_open(file, scratch != NULL && scratch[0] == '/' ? scratch : "/var/tmp", err);
    const char *name = foreign != NULL ? choose_name(args, foreign_name(foreign), err) : NULL;
    struct error *why = NULL;
    if (name != NULL && foreign_wants_boot_loader(foreign)) {
        char *loader = NULL, *none = NULL; /* riscv64's is no firmware */
        if (image_boot_loader("riscv64", &loader, &none, &why))
            foreign_use_boot_loader(foreign, loader);
        else
            fprintf(stderr, "trapeze: %s\n", error_message(why));
        free(loader);
        error_free(why);
    }
    struct pack *pack = name != NULL ? foreign_pack(foreign, name, err) : NULL;
    json_t *answer = pack != NULL ? send_pack(args, pack, name, err) : NULL;
    pack_free(pack);
    foreign_close(foreign);
    return answer;
}

static json_t *import(const struct cli_args *args, const char *file, struct error **err)
{
    struct stat status;
    json_t *answer = NULL;
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        error_set_errno(err, errno, "cannot open '%s'", file);
        return NULL;
    }
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && unpack_is_ours(fd))
        answer = import_ours(args, fd, file, (uint64_t)status.st_size, err);
    else
        answer = import_foreign(args, file, err);
    close(fd);
    return answer;
}

static int run(const struct cli_args *args, struct error **err)
{
    if (args->operand_count < 1 || args->operand_count > 2) {
        error_set(err, ERROR_USAGE, "'import' takes a file and perhaps a name");
        return CLI_USAGE;
    }
    json_t *answer = import(args, args->operands[0], err);
    const json_t *notes = json_object_get(answer, "notes"), *note;
    size_t index;
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
        "Makes an instance NAME (or of the name that it had) of what 'trapeze export' wrote, of an "
        "OVA, of an OVF with its files beside it, or of a folder with a .vmx. FILE may come from a "
        "stranger: checksums are verified, sizes are checked before space is taken, and the "
        "machine reaches nothing of this host but its own files: shared folders, files elsewhere, "
        "networks of the host, forwarded ports and the like are left out, and named. An import "
        "that fails or is interrupted leaves "
        "nothing.\n\n"
        "Of an OVF, processors, memory, disks in their order and NICs are taken over; what cannot "
        "be is named. Disks that are VMDK are converted to qcow2 by qemu-img, in TMPDIR "
        "(/var/tmp). "
        "A guest for x86 can be imported, but this build has no processor that would run it; a "
        "disk for riscv64 is booted by U-Boot, if Debian's package u-boot-qemu is there.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
