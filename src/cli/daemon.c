/* SPDX-License-Identifier: MIT
 *
 * trapeze daemon: serves the API in this process.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "client/api.h"

static const struct cli_option options[] = {
    {"store", 's', "FOLDER",
     "Where the instances are. Default: $TRAPEZE_HOME, else ~/.local/share/trapeze.", NULL},
    {"verbose", 'v', NULL, "Say more.", NULL},
};

static const struct cli_example examples[] = {
    {"trapeze daemon --verbose", "In this terminal; Ctrl-C ends it, the machines run on."},
    {"curl --unix-socket ~/.local/share/trapeze/daemon.sock http://localhost/v1/openapi.json",
     "What it understands."},
};

static int run(const struct cli_args *args, struct error **err)
{
    const char *given = cli_last(args, "store");
    char *store = NULL;
    if (given == NULL)
        store = api_store_path(err);
    else if (given[0] == '/')
        store = (char *)(uintptr_t)given;
    else
        error_set(err, ERROR_USAGE, "--store takes an absolute path");
    if (store == NULL)
        return CLI_USAGE;
    /* The server is no part of the command line: another life of this executable (main.c). */
    char *const argv[] = {"trapeze", "daemon-server", store,
                          cli_given(args, "verbose") ? "verbose" : "normal", NULL};
    execv("/proc/self/exe", argv);
    error_set_errno(err, errno, "cannot start the daemon");
    if (given == NULL)
        free(store);
    return CLI_HOST_FAILURE;
}

const struct cli_command cli_command_daemon = {
    .name = "daemon",
    .summary = "Serve instances to other commands and programs",
    .description =
        "Keeps the instances of one store and serves them over HTTP at STORE/daemon.sock, to which "
        "its owner alone can connect. Commands about instances start one by themselves. Machines "
        "run in processes of their own: they run on when the daemon ends, and the next one takes "
        "them over.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
