/* SPDX-License-Identifier: MIT
 *
 * trapeze firecracker, also what the program is when it is called "firecracker".
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/size.h"
#include "firecracker/api.h"
#include "firecracker/session.h"

#define TAKEN         "Taken for the sake of jailers and clients that give it; means nothing here."
#define PAYLOAD_LIMIT (64 * MIB)

static const struct cli_option options[] = {
    {"api-sock", 0, "PATH",
     "Where the API is served: a unix socket of this user's alone (default: "
     "/run/firecracker.socket).",
     NULL},
    {"id", 0, "ID", "The microVM's name (default: anonymous-instance).", NULL},
    {"config-file", 0, "FILE",
     "Configure and start the microVM that FILE describes, a JSON object with the API's resources.",
     NULL},
    {"no-api", 0, NULL, "Serve no API; needs --config-file.", NULL},
    {"boot-timer", 0, NULL,
     "A register by which the guest says that it has booted: the byte 123, written to 0xc0000000 "
     "(x86-64) or 0x103000 (riscv64). The log says how long after InstanceStart that was.",
     NULL},
    {"metadata", 0, "FILE", "What the metadata service's document is at first: a file of JSON.",
     NULL},
    {"mmds-size-limit", 0, "BYTES",
     "How large that document may be (default: what --http-api-max-payload-size says).", NULL},
    {"no-seccomp", 0, NULL,
     "Do not lock the machine's process in (--sandbox off of 'trapeze run'); for debugging.", NULL},
    {"level", 0, "LEVEL", "How much is said on standard error: off, error, warning, info or debug.",
     NULL},
    {"log-path", 0, "FILE", "As the resource logger: where requests are noted, a file or FIFO.",
     NULL},
    {"metrics-path", 0, "FILE", "As the resource metrics: where these go.", NULL},
    {"http-api-max-payload-size", 0, "BYTES", "The largest body of a request (default: 51200).",
     NULL},
    {"version", 0, NULL, "Say which version of Firecracker's API this is.", NULL},
    {"show-level", 0, NULL, TAKEN, NULL},
    {"show-log-origin", 0, NULL, TAKEN, NULL},
    {"module", 0, "NAME", TAKEN, NULL},
    {"start-time-us", 0, "TIME", TAKEN, NULL},
    {"start-time-cpu-us", 0, "TIME", TAKEN, NULL},
    {"parent-cpu-time-us", 0, "TIME", TAKEN, NULL},
};

static const struct cli_example examples[] = {
    {"trapeze firecracker --api-sock /tmp/fc.sock", "Wait for a client of Firecracker."},
    {"curl --unix-socket /tmp/fc.sock -X PUT http://localhost/boot-source -d "
     "'{\"kernel_image_path\": \"Image\", \"boot_args\": \"console=ttyS0\"}'",
     "Then, from another terminal: configure it ..."},
    {"curl --unix-socket /tmp/fc.sock -X PUT http://localhost/actions -d "
     "'{\"action_type\": \"InstanceStart\"}'",
     "... and start it."},
};

static bool choose_level(const char *text, int *level, struct error **err)
{
    static const struct {
        const char *name;
        int level;
    } levels[] = {{"off", LOG_LEVEL_ERROR},       {"error", LOG_LEVEL_ERROR},
                  {"warning", LOG_LEVEL_WARNING}, {"warn", LOG_LEVEL_WARNING},
                  {"info", LOG_LEVEL_INFO},       {"debug", LOG_LEVEL_DEBUG},
                  {"trace", LOG_LEVEL_DEBUG}};
    for (size_t i = 0; i < ARRAY_SIZE(levels); i++)
        if (strcasecmp(levels[i].name, text) == 0) {
            *level = levels[i].level;
            return true;
        }
    error_set(err, ERROR_USAGE, "--level: there is no '%s'", text);
    error_hint(err, "There are off, error, warning, info and debug.");
    return false;
}

static int exit_status(const struct client_result *result)
{
    switch (result->end) {
    case CLIENT_END_CRASH:
        fprintf(stderr, "trapeze: %s\n", result->message);
        return CLI_GUEST_CRASH;
    case CLIENT_END_EXIT_CODE:
        return result->code > 0xff ? 0xff : (int)result->code;
    case CLIENT_END_QUIT:
        return CLI_INTERRUPTED;
    default:
        return CLI_OK;
    }
}

/* What is written to a file or FIFO, and how much is read. */
static bool choose_files(const struct cli_args *args, struct fc_options *fc, struct error **err)
{
    const char *text = cli_last(args, "http-api-max-payload-size");
    uint64_t size = FC_BODY_MAX;
    fc->log_path = cli_last(args, "log-path");
    fc->metrics_path = cli_last(args, "metrics-path");
    if (text != NULL && (!cli_parse_count(text, PAYLOAD_LIMIT, &size) || size == 0))
        return error_set(err, ERROR_USAGE,
                         "--http-api-max-payload-size: '%s' is no number from 1 to %llu", text,
                         (unsigned long long)PAYLOAD_LIMIT);
    fc->body_max = (size_t)size;
    return true;
}

/* A message to the network's processes has to fit, too (base/frame.h). */
static bool choose_limit(const struct cli_args *args, struct fc_options *fc, struct error **err)
{
    enum { MOST = 1 << 20 };
    const char *text = cli_last(args, "mmds-size-limit");
    char *end = NULL;
    errno = 0;
    unsigned long long number = text != NULL ? strtoull(text, &end, 10) : fc->body_max;
    fc->store_limit = number <= MOST ? (size_t)number : MOST;
    if (text == NULL ||
        (errno == 0 && end != text && *end == '\0' && text[0] != '-' && number <= MOST))
        return true;
    return error_set(err, ERROR_USAGE, "--mmds-size-limit is a number of bytes, %d at most", MOST);
}

static int run(const struct cli_args *args, struct error **err)
{
    struct fc_options fc = {.socket = cli_last(args, "api-sock"),
                            .id = cli_last(args, "id"),
                            .resources = cli_last(args, "config-file"),
                            .metadata = cli_last(args, "metadata"),
                            .log_level = LOG_LEVEL_WARNING};
    const char *level = cli_last(args, "level");
    struct client_result result;
    if (cli_given(args, "version")) {
        puts("Firecracker v" FC_API_VERSION "\n");
        return CLI_OK;
    }
    if (fc.socket == NULL)
        fc.socket = "/run/firecracker.socket";
    if (cli_given(args, "no-api"))
        fc.socket = NULL;
    if (fc.id == NULL)
        fc.id = "anonymous-instance";
    fc.boot_timer = cli_given(args, "boot-timer");
    if (cli_given(args, "no-seccomp"))
        fc.sandbox = SANDBOX_OFF;
    if (fc.socket == NULL && fc.resources == NULL) {
        error_set(err, ERROR_USAGE, "--no-api needs --config-file FILE");
        return CLI_USAGE;
    }
    if ((level != NULL && !choose_level(level, &fc.log_level, err)) ||
        !choose_files(args, &fc, err) || !choose_limit(args, &fc, err))
        return CLI_USAGE;
    return fc_serve(&fc, &result, err) ? exit_status(&result) : CLI_HOST_FAILURE;
}

const struct cli_command cli_command_firecracker = {
    .name = "firecracker",
    .summary = "Serve Firecracker's API for one microVM",
    .description =
        "Serves the REST API of Firecracker (" FC_API_VERSION
        ") on a unix socket, for one machine, so that "
        "clients of Firecracker work with it. It ends with its machine. The same happens when this "
        "program is called by the name firecracker.\n\n"
        "The kernel chooses the machine's processor: riscv64 (an Image or ELF file) needs no KVM, "
        "x86-64 (a vmlinux, entered by PVH or in 64-bit mode, or a bzImage) does. There are no PCI "
        "devices: kernels need the drivers virtio_mmio and, for drives, virtio_blk. There are the "
        "resources machine-config, "
        "boot-source, drives, network-interfaces, vsock, balloon, entropy, serial, logger, "
        "metrics, actions, vm, snapshots (full and of changes), mmds and (x86-64) cpu-config; pmem "
        "and memory hot-plug are refused "
        "with a sentence, and so is what else a machine of trapeze does not have.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
