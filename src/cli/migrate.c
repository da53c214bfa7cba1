/* SPDX-License-Identifier: MIT
 *
 * trapeze migrate: the daemon brings an instance to another daemon, and this command waits for it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "client/remote.h"

static const struct cli_option options[] = {
    {"cancel", 0, NULL, "Call off a migration that is under way: the machine stays here.", NULL},
    {"resolve", 0, "WHERE",
     "Say what you know of a migration that was cut off and whose other daemon is gone for good: "
     "the "
     "machine is 'here' or 'there'.",
     NULL},
    {"ca", 0, "FILE", "Who has signed the certificate of HOST's daemon (PEM).", "To reach HOST"},
    {"certificate", 0, "FILE", "The certificate to show it (PEM).", NULL},
    {"key", 0, "FILE", "Its key (PEM).", NULL},
    {"token-file", 0, "FILE", "The token to show it, in a file of mode 0600.", NULL},
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze migrate web https://b:7443 --token-file b.token", "To the daemon of the host b."},
    {"trapeze migrate web /srv/trapeze/daemon.sock", "To another store of this host."},
    {"trapeze migrate --resolve here web", "The other host burned down before it had the machine."},
};

/* {"to": the daemon and what is to be shown to it}. NULL: err. */
static json_t *make_body(const struct cli_args *args, const char *url, struct error **err)
{
    const struct client_remote_files files = {.ca = cli_last(args, "ca"),
                                              .certificate = cli_last(args, "certificate"),
                                              .key = cli_last(args, "key"),
                                              .token = cli_last(args, "token-file")};
    struct client_remote remote;
    if (!client_remote_choose(url, &files, &remote, err))
        return NULL;
    json_t *body = json_pack("{s:o}", "to", client_remote_pack(&remote));
    client_remote_clear(&remote);
    return body;
}

static int migrate(const struct cli_args *args, const char *name, struct error **err)
{
    json_t *body = make_body(args, args->operands[1], err);
    json_t *answer =
        body != NULL ? cli_api_copying(name, "POST", body, err, "/v1/instances/%s/migrate", name)
                     : NULL;
    const json_t *note;
    size_t index;
    json_array_foreach(json_object_get(answer, "notes"), index, note)
        fprintf(stderr, "trapeze: %s\n", json_string_value(note));
    if (answer != NULL && !cli_given(args, "json"))
        printf("%s: moved to %s\n", name, json_string_value(json_object_get(answer, "to")));
    return cli_instance_done(args, answer);
}

static int resolve(const struct cli_args *args, const char *name, struct error **err)
{
    const char *where = cli_last(args, "resolve");
    if (strcmp(where, "here") != 0 && strcmp(where, "there") != 0) {
        error_set(err, ERROR_USAGE, "--resolve is 'here' or 'there'");
        return CLI_USAGE;
    }
    return cli_instance_done(args, cli_api("POST", json_pack("{s:s}", "where", where), err,
                                           "/v1/instances/%s/resolve", name));
}

static int run(const struct cli_args *args, struct error **err)
{
    bool cancel = cli_given(args, "cancel"), resolves = cli_given(args, "resolve");
    size_t wanted = cancel || resolves ? 1 : 2;
    if (args->operand_count != wanted || (cancel && resolves)) {
        error_set(err, ERROR_USAGE, "this takes an instance and the daemon that it goes to");
        error_hint(err,
                   "trapeze migrate NAME https://HOST:7443; with --cancel or --resolve only the "
                   "instance.");
        return CLI_USAGE;
    }
    const char *name = args->operands[0];
    if (!cli_name_check(name, err))
        return CLI_USAGE;
    if (cancel)
        return cli_instance_done(args,
                                 cli_api("DELETE", NULL, err, "/v1/instances/%s/migrate", name));
    return resolves ? resolve(args, name, err) : migrate(args, name, err);
}

const struct cli_command cli_command_migrate = {
    .name = "migrate",
    .operands = "NAME HOST",
    .summary = "Bring an instance to another daemon",
    .description =
        "Moves an instance that does not run, with its disks as the guest sees them (without "
        "layers), "
        "its description, its addresses and what its hardware remembers, to the daemon at HOST: "
        "https://NAME[:7443], where the daemon was started with --accept-migrations, or the path "
        "of "
        "the socket of another daemon on this host. The daemon does it: this command may end "
        "meanwhile.\n\n"
        "Afterwards the instance is there, and here its name only says where it went. Whatever "
        "fails "
        "or dies on the way, it is on exactly one side; should the source not know on which "
        "('list' "
        "says uncertain), it asks the target until that answers, and starts nothing meanwhile. "
        "What "
        "it needs for that, certificates and tokens, lies in the instance's folder until the "
        "machine "
        "is at its target.\n\n"
        "A machine with shared folders, a template, and a suspended machine are refused.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
