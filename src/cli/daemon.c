/* SPDX-License-Identifier: MIT
 *
 * trapeze daemon: serves the API in this process.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "client/api.h"

static const struct cli_option options[] = {
    {"store", 's', "FOLDER",
     "Where the instances are. Default: $TRAPEZE_HOME, else ~/.local/share/trapeze.", NULL},
    {"verbose", 'v', NULL, "Say more.", NULL},
    {"idle-exit", 0, "SECONDS",
     "End after so long without anything to do: no client, no work, no machine that runs or is to "
     "be "
     "started again. For a service manager that keeps the socket and starts the daemon when it is "
     "needed.",
     NULL},
    {"listen", 0, "tcp:ADDRESS:PORT",
     "Serve there, too, over HTTPS (TLS 1.2 or later), whoever has a token ('trapeze token "
     "create') "
     "or a certificate that --client-ca has signed. What names files or networks of this host is "
     "refused there.",
     "Over the network"},
    {"certificate", 0, "FILE", "The server's certificate, PEM, with its chain.", NULL},
    {"key", 0, "FILE", "Its key, PEM, which nobody else may read.", NULL},
    {"client-ca", 0, "FILE", "Certificates of authorities, PEM, whose clients are let in.", NULL},
    {"accept-migrations", 0, NULL,
     "Take machines that come from other hosts ('trapeze migrate'): whoever is let in may bring "
     "one "
     "that uses this host's networks and ports.",
     NULL},
    {"insecure", 0, NULL, "Without TLS, on a loopback address; clients still need a token.", NULL},
};

static const struct cli_example examples[] = {
    {"trapeze daemon --verbose", "In this terminal; Ctrl-C ends it, the machines run on."},
    {"curl --unix-socket ~/.local/share/trapeze/daemon.sock http://localhost/v1/openapi.json",
     "What it understands."},
    {"trapeze daemon --listen tcp:0.0.0.0:7443 --certificate server.pem --key server.key",
     "For other hosts; there: trapeze --host https://NAME:7443 list"},
};

/* "KEY=VALUE", or "KEY" of a switch. */
static char *word(const char *key, const char *value)
{
    char *text = NULL;
    if (value == NULL)
        return alloc_string(key);
    if (asprintf(&text, "%s=%s", key, value) < 0)
        abort();
    return text;
}

enum { IDLE_MAX_S = 1000000 };

static bool check_idle(const char *text, struct error **err)
{
    char *end = NULL;
    unsigned long seconds = text != NULL && text[0] != '-' ? strtoul(text, &end, 10) : 0;
    if (text == NULL ||
        (end != NULL && end != text && *end == '\0' && seconds > 0 && seconds <= IDLE_MAX_S))
        return true;
    return error_set(err, ERROR_USAGE, "--idle-exit takes a number of seconds from 1 to %d",
                     (int)IDLE_MAX_S);
}

static int run(const struct cli_args *args, struct error **err)
{
    const char *given = cli_last(args, "store");
    char *store = NULL;
    if (!check_idle(cli_last(args, "idle-exit"), err))
        return CLI_USAGE;
    if (given == NULL)
        store = api_store_path(err);
    else if (given[0] == '/')
        store = (char *)(uintptr_t)given;
    else
        error_set(err, ERROR_USAGE, "--store takes an absolute path");
    if (store == NULL)
        return CLI_USAGE;
    /* The server is no part of the command line: another life of this executable (main.c). */
    char *argv[2 + ARRAY_SIZE(options) + 1] = {"trapeze", "daemon-server"};
    size_t count = 2;
    argv[count++] = word("store", store);
    for (size_t i = 0; i < ARRAY_SIZE(options); i++)
        if (strcmp(options[i].name, "store") != 0 && cli_given(args, options[i].name))
            argv[count++] = word(options[i].name, cli_last(args, options[i].name));
    execv("/proc/self/exe", argv);
    error_set_errno(err, errno, "cannot start the daemon");
    for (size_t i = 2; i < count; i++)
        free(argv[i]);
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
        "them over. SIGHUP has it read --certificate, --key and --client-ca again. GET /metrics is "
        "for Prometheus. systemd units are installed with trapeze: "
        "'systemctl --user enable --now trapeze.socket' for your own instances, without --user for "
        "the system's.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
