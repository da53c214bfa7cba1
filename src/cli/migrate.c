/* SPDX-License-Identifier: MIT
 *
 * trapeze migrate: the daemon brings an instance to another daemon, and this command waits for it.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "cli/size.h"
#include "client/remote.h"
#include "client/signals.h"

static const struct cli_option options[] = {
    {"downtime", 0, "TIME",
     "Of a machine that runs: how long it may stand still, as far as that can be foreseen, with "
     "ns, us, "
     "ms or s. Default: 10ms. What its guest writes meanwhile is copied again until that is "
     "enough. Where the link's way and the target's disk take more than half of it, half of it is "
     "for what is copied.",
     NULL},
    {"bandwidth", 0, "RATE",
     "At most so many bytes per second, with K, M or G, while it still runs here.", NULL},
    {"compress", 'z', NULL, "Compress its memory: for slow links.", NULL},
    {"auto-converge", 0, NULL,
     "Slow the guest's processors and disks down while it writes faster than the link carries.", NULL},
    {"connections", 0, "N", "Copy its memory over so many connections, 1 to 16. Default: 1.", NULL},
    {"post-copy", 0, NULL,
     "Let it go before its memory if it writes faster than the link carries: what is missing "
     "follows, first what it wants. If the link breaks then, it stands still until it is back; if "
     "this host dies then, the machine is lost.",
     NULL},
    {"copy-storage", 0, NULL,
     "Of a machine that runs, too, bring along the disks that HOST does not see.", NULL},
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

/* "10ms": nanoseconds. */
static bool parse_time(const char *text, json_int_t *ns)
{
    static const struct {
        const char *name;
        json_int_t ns;
    } units[] = {{"ns", 1}, {"us", 1000}, {"ms", 1000000}, {"s", 1000000000}};
    char *end;
    long number = isdigit((unsigned char)text[0]) ? strtol(text, &end, 10) : 0;
    for (size_t i = 0; number > 0 && number <= 1000000000 && i < ARRAY_SIZE(units); i++)
        if (strcmp(end, units[i].name) == 0) {
            *ns = number * units[i].ns;
            return *ns <= INT64_C(3600000000000);
        }
    return false;
}

static bool add_options(const struct cli_args *args, json_t *body, struct error **err)
{
    const char *downtime = cli_last(args, "downtime"), *rate = cli_last(args, "bandwidth");
    const char *connections = cli_last(args, "connections");
    json_int_t ns = 0;
    uint64_t bytes = 0, count = 0;
    if (downtime != NULL && !parse_time(downtime, &ns))
        return error_set(err, ERROR_USAGE,
                         "--downtime: '%s' is no time such as 10ms, up to an hour", downtime);
    if (rate != NULL && (!cli_parse_size(rate, 1, &bytes) || bytes == 0 || bytes >> 50 != 0))
        return error_set(err, ERROR_USAGE, "--bandwidth: '%s' is no number of bytes such as 100M",
                         rate);
    if (connections != NULL && (!cli_parse_count(connections, 16, &count) || count == 0))
        return error_set(err, ERROR_USAGE, "--connections: '%s' is no number from 1 to 16",
                         connections);
    if (downtime != NULL)
        json_object_set_new(body, "downtime-ns", json_integer(ns));
    if (rate != NULL)
        json_object_set_new(body, "bandwidth", json_integer((json_int_t)bytes));
    if (connections != NULL)
        json_object_set_new(body, "connections", json_integer((json_int_t)count));
    if (cli_given(args, "compress"))
        json_object_set_new(body, "compress", json_true());
    if (cli_given(args, "post-copy"))
        json_object_set_new(body, "post-copy", json_true());
    if (cli_given(args, "copy-storage"))
        json_object_set_new(body, "copy-storage", json_true());
    if (cli_given(args, "auto-converge"))
        json_object_set_new(body, "converge", json_true());
    return true;
}

static json_int_t number_of(const json_t *migration, const char *key)
{
    return json_integer_value(json_object_get(migration, key));
}

static void describe(const json_t *job, char *text, size_t size)
{
    const json_t *migration = json_object_get(job, "migration");
    const char *stage = json_string_value(json_object_get(migration, "stage"));
    uint64_t disks = (uint64_t)number_of(migration, "disk-total");
    uint64_t left = (uint64_t)number_of(migration, "disk-left");
    char rate[32], whole[32], done[32], share[80] = "";
    if (stage == NULL)
        return;
    if (disks > 0) {
        cli_show_size(disks > left ? disks - left : 0, done);
        cli_show_size(disks, whole);
        snprintf(share, sizeof(share), "disks %s of %s, ", done, whole);
    }
    cli_show_size((uint64_t)number_of(migration, "dirty-rate"), rate);
    snprintf(text, size, "%s, %sround %lld, dirty %s/s, downtime %.1f ms", stage, share,
             (long long)number_of(migration, "round"), rate,
             (double)number_of(migration, "estimate-ns") / 1e6);
}

struct calling {
    const char *name;
    bool called_off;
};

/* Who interrupts this command means the migration. */
static void heed_signals(void *opaque)
{
    struct calling *calling = opaque;
    if (!signals_waiting() || calling->called_off)
        return;
    calling->called_off = true;
    json_decref(cli_api("DELETE", NULL, NULL, "/v1/instances/%s/migrate", calling->name));
}

static json_t *call_and_watch(const char *name, json_t *body, struct error **err)
{
    struct calling calling = {.name = name};
    const struct cli_job_view view = {heed_signals, describe, &calling};
    sigset_t ends, before;
    signals_of_the_end(&ends);
    sigprocmask(SIG_BLOCK, &ends, &before);
    json_t *answer =
        cli_api_watching(name, &view, "POST", body, err, "/v1/instances/%s/migrate", name);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return answer;
}

static int migrate(const struct cli_args *args, const char *name, struct error **err)
{
    json_t *body = make_body(args, args->operands[1], err);
    if (body != NULL && !add_options(args, body, err)) {
        json_decref(body);
        body = NULL;
    }
    json_t *answer = body != NULL ? call_and_watch(name, body, err) : NULL;
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
        "Moves an instance with its description, its addresses and what its hardware remembers to "
        "the "
        "daemon at HOST: https://NAME[:7443], where the daemon was started with "
        "--accept-migrations, or "
        "the path of the socket of another daemon on this host. The daemon does it: it goes on if "
        "this "
        "command is killed; Ctrl-C calls it off.\n\n"
        "A machine that runs goes on there, and its guest notices nothing but a moment in which it "
        "stood still. Disks on storage that both hosts see under the same name, or on NBD servers, "
        "stay where they are. With --copy-storage all others come along while it runs, as the guest "
        "sees them (in layers only if it has snapshots), into images in the instance's folder there; "
        "without it they are refused. Its networks have to be there. Connections through NAT end, "
        "as they are those of the host; on other networks they last. A machine that does not run takes its disks "
        "along in any case.\n\n"
        "With --post-copy a machine that writes too fast runs there before all of its memory is "
        "there. The daemon here serves what is missing and makes the connection anew if it breaks; "
        "until then the machine stands still. If this host or the worker here dies before all is there, "
        "neither side has all of its memory: the machine is lost as by its own death, its disks "
        "stay. If that host is lost instead, '--resolve here' has the machine begin anew here, as "
        "after a loss of power.\n\n"
        "Afterwards the instance is there, and here its name only says where it went. Whatever "
        "fails "
        "or dies on the way, it is on exactly one side; should the source not know on which "
        "('list' "
        "says uncertain), it asks the target until that answers, and starts nothing meanwhile. "
        "What "
        "it needs for that, certificates and tokens, lies in the instance's folder until the "
        "machine "
        "is at its target.\n\n"
        "Its snapshots move with it, and each can be restored and deleted there: memory, descriptions, "
        "and layer by layer what its disks lie upon; of a machine that runs, these while it runs. "
        "Layers that lie upon a disk which both hosts see come along without --copy-storage, too, "
        "and that disk stays, also if the machine does not run.\n\n"
        "A machine with shared folders, a template, one that instant clones lie upon, and a "
        "suspended machine are refused.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
