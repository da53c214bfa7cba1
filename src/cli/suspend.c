/* SPDX-License-Identifier: MIT
 *
 * trapeze suspend: of an instance into its folder, of any running machine into a file.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "cli/progress.h"
#include "client/saved.h"
#include "client/signals.h"

static const struct cli_option options[] = {
    {"compress", 'z', NULL,
     "Compress memory: a smaller file, a few times as slow to write, and to go on from at first.", NULL},
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze suspend web", "An instance; 'trapeze start web' lets it go on."},
    {"trapeze suspend vm.sock web.saved", "A machine of 'trapeze run --control vm.sock ...'."},
    {"trapeze run --resume web.saved", "That one goes on."},
};

static bool show(void *opaque, uint64_t done, uint64_t total)
{
    struct progress *progress = opaque;
    if (progress->total == 0)
        progress_start(progress, "suspending", total);
    progress_step(progress, done);
    return !signals_waiting();
}

static int suspend_into_file(const struct cli_args *args, struct error **err)
{
    struct progress progress = {.total = 0};
    const struct client_suspend how = {
        .compress = cli_given(args, "compress"), .progress = show, .opaque = &progress};
    sigset_t ends, before;
    signals_of_the_end(&ends); /* called off, so that nothing is left behind */
    sigprocmask(SIG_BLOCK, &ends, &before);
    bool good = client_suspend(args->operands[0], AT_FDCWD, args->operands[1], &how, err);
    if (progress.total != 0)
        progress_end(&progress);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return good ? CLI_OK : CLI_HOST_FAILURE;
}

static int run(const struct cli_args *args, struct error **err)
{
    struct stat status;
    const char *name = args->operand_count > 0 ? args->operands[0] : "";
    bool socket = stat(name, &status) == 0 && S_ISSOCK(status.st_mode);
    if (args->operand_count == 2 && (socket || strchr(name, '/') != NULL))
        return suspend_into_file(args, err);
    if (socket) {
        error_set(err, ERROR_USAGE, "suspending the machine of a control socket takes a file's name");
        error_hint(err, "trapeze suspend %s FILE", name);
        return CLI_USAGE;
    }
    if (args->operand_count == 2) {
        error_set(err, ERROR_USAGE, "the state of an instance goes into its own folder");
        error_hint(err, "trapeze suspend %s", name);
        return CLI_USAGE;
    }
    return cli_instance_verb(args, "suspend",
                             json_pack("{s:b}", "compress", (int)cli_given(args, "compress")), err);
}

const struct cli_command cli_command_suspend = {
    .name = "suspend",
    .operands = "NAME | SOCKET FILE",
    .summary = "Write a running machine to a file, to go on later",
    .description =
        "Saves memory, processors and devices, and ends the machine. 'trapeze start NAME', or 'trapeze "
        "run --resume FILE', lets it go on where it was: at once, as its memory is read when the guest "
        "first uses it.\n\n"
        "The disks are left as they are then, and must not be changed meanwhile. Connections through "
        "NAT end; the guest's clock is put forward by the time that has passed. The file appears when "
        "it is whole; if anything goes wrong before, the machine runs on.\n\n"
        "A machine that disks or NICs were attached to while it ran cannot be suspended before they are "
        "detached.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
