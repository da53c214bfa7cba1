/* SPDX-License-Identifier: MIT
 *
 * trapeze clone.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/guest.h"
#include "cli/instance.h"

static const struct cli_option options[] = {
    {"full", 0, NULL, "Copy a template's disks, rather than lie upon them.", NULL},
    {"instant", 0, NULL, "Of a machine that runs: one that goes on from where it is.", NULL},
    {"identity", 0, NULL,
     "Tell the guests of instant clones who they are: host name, addresses, machine-id.", NULL},
    {"count", 0, "N", "So many instant clones, NEW-NAME-1 and so on.", NULL},
    CLI_GUEST_OPTIONS,
    CLI_EXPIRES_OPTION,
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze clone debian-base web", "A new machine from a template, at once."},
    {"trapeze clone --full web spare", "One that needs nothing of 'web' any more."},
    {"trapeze clone --instant --count 8 web worker", "Eight that go on from where 'web' is now."},
    {"trapeze clone --instant --identity web web2", "A guest that knows that it is another one."},
};

static json_t *clone(const struct cli_args *args, const char *from, const char *to,
                     struct error **err)
{
    char expires[24];
    if (!cli_expires(args, expires, err))
        return NULL;
    json_t *body = json_pack("{s:s, s:b, s:s*}", "to", to, "full", (int)cli_given(args, "full"),
                             "expires", expires[0] != '\0' ? expires : NULL);
    if (cli_given(args, "instant"))
        json_object_set_new(body, "instant", json_true());
    if (cli_given(args, "count"))
        json_object_set_new(body, "count", json_integer(atoll(cli_last(args, "count"))));
    return cli_api_copying(to, "POST", body, err, "/v1/instances/%s/clone", from);
}

/* ---- the guest's part of another identity ---- */

/* Both are for the shell of a Linux, as root. Asked of the original, so that nothing is cloned that
 * cannot be told afterwards. */
static const char can_take_identity[] =
    "for tool in awk basename mv readlink rm tr; do\n"
    "  command -v $tool >/dev/null || { echo \"it has no $tool\"; exit 1; }; done\n"
    "[ -w /proc/sys/kernel/hostname ] && [ -w /etc ] || { echo '/etc is read-only'; exit 1; }\n";

/* $1: the clone's name. A driver asks its card for the address when it is bound; DHCP servers know
 * a client by its machine-id or DUID. The name of the original is replaced where it means "this
 * machine". The cards last, as connections over them end there. */
static const char take_identity[] =
    "set -e; umask 022\n"
    "export new=\"$1\" old=\"$(cat /proc/sys/kernel/hostname)\"\n"
    "printf '%s\\n' \"$new\" >/proc/sys/kernel/hostname\n"
    "printf '%s\\n' \"$new\" >/etc/hostname\n"
    "if [ -e /etc/hosts ] && [ -n \"$old\" ]; then\n"
    "  awk 'BEGIN { old = ENVIRON[\"old\"]; new = ENVIRON[\"new\"] }\n"
    "    /^[ \\t]*(127\\.|::1[ \\t])/ { for (i = 2; i <= NF && $i !~ /^#/; i++)\n"
    "      if ($i == old) $i = new\n"
    "      else if (index($i, old \".\") == 1) $i = new substr($i, length(old) + 1) }\n"
    "    { print }' /etc/hosts >/etc/hosts.new\n"
    "  cat /etc/hosts.new >/etc/hosts; rm /etc/hosts.new; fi\n"
    "if [ -s /etc/machine-id ]; then\n"
    "  tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id.new\n"
    "  mv /etc/machine-id.new /etc/machine-id\n"
    "  bus=/var/lib/dbus/machine-id\n"
    "  [ ! -f $bus ] || [ -L $bus ] || cat /etc/machine-id >$bus; fi\n"
    "clients=\n"
    "for unit in systemd-networkd NetworkManager dhcpcd trapeze-dhcp; do\n"
    "  systemctl -q is-active $unit.service 2>/dev/null && clients=\"$clients $unit.service\"; "
    "done ||:\n"
    "[ -z \"$clients\" ] || systemctl stop $clients\n"
    "rm -f /var/lib/dhcpcd/duid /var/lib/dhcpcd/*.lease /var/lib/dhcp/*.leases\n"
    "for card in /sys/class/net/*/device; do\n"
    "  [ -e $card/driver/bind ] || continue\n"
    "  device=$(basename $(readlink -f $card)) driver=$(readlink -f $card/driver)\n"
    "  echo $device >$driver/unbind; echo $device >$driver/bind; done\n"
    "[ -z \"$clients\" ] || systemctl start $clients\n";

/* What came of it, for who reads JSON. */
static void note(json_t *clone, const struct error *error)
{
    json_object_set_new(clone, "identity", json_boolean(error == NULL));
    if (error != NULL)
        json_object_set_new(clone, "message", json_string(error_message(error)));
}

struct failures {
    size_t count;
    char *names, *why; /* of the first */
    bool unreached;    /* the others are as it is: nobody waits for them, too */
};

static void fail(struct failures *failures, const char *name, const struct error *error)
{
    char *names = NULL;
    if (asprintf(&names, "%s%s'%s'", failures->count > 0 ? failures->names : "",
                 failures->count > 0 ? ", " : "", name) < 0)
        abort();
    free(failures->names);
    failures->names = names;
    if (failures->count++ == 0)
        failures->why = alloc_string(error_message(error));
}

/* The name is a daemon's word, perhaps one elsewhere, and goes into a shell's command. */
static int tell(const struct cli_args *args, const char *name, struct error **err)
{
    return cli_name_check(name, err) ? cli_guest_tell(args, name, take_identity, name, err) : 1;
}

static bool introduce(const struct cli_args *args, const json_t *answer, struct error **err)
{
    const json_t *clones = json_object_get(answer, "clones");
    struct failures failures = {0};
    json_t *clone;
    size_t i;
    json_array_foreach(clones, i, clone)
    {
        struct error *error = NULL;
        const char *name = json_string_value(json_object_get(clone, "name"));
        if (name == NULL)
            name = "";
        int status = failures.unreached ? -1 : tell(args, name, &error);
        if (failures.unreached)
            error_set(&error, ERROR_HOST, "it was not asked, as the one before was not reached");
        failures.unreached = status < 0;
        note(clone, error);
        if (status != 0)
            fail(&failures, name, error);
        error_free(error);
    }
    if (failures.count > 0) {
        error_set(err, ERROR_HOST,
                  "%zu of %zu clones run and may still take themselves for '%s': %s (%s)",
                  failures.count, json_array_size(clones), args->operands[0], failures.names,
                  failures.why);
        error_hint(err, "Delete them, or look at them with 'trapeze console'.");
    }
    free(failures.names);
    free(failures.why);
    return failures.count == 0;
}

/* One that is paused answers nobody: of that the clones are the first who can. False: err. */
static bool can_introduce(const struct cli_args *args, const char *from, struct error **err)
{
    json_t *info = cli_api("GET", NULL, err, "/v1/instances/%s", from);
    const char *state = json_string_value(json_object_get(info, "state"));
    bool good = state != NULL && (strcmp(state, "paused") == 0 ||
                                  cli_guest_tell(args, from, can_take_identity, from, err) == 0);
    json_decref(info);
    if (!good)
        error_prefix(err, "nothing was cloned");
    return good;
}

static bool check_options(const struct cli_args *args, struct error **err)
{
    if (cli_given(args, "identity") && !cli_given(args, "instant"))
        return error_set(err, ERROR_USAGE, "--identity is for --instant: others begin by booting");
    if ((cli_given(args, "user") || cli_given(args, "timeout")) && !cli_given(args, "identity"))
        return error_set(err, ERROR_USAGE, "--user and --timeout are for --identity");
    return true;
}

static int run(const struct cli_args *args, struct error **err)
{
    const bool identity = cli_given(args, "identity");
    const char *from = cli_instance(args, 0, 2, err);
    const char *to = from != NULL ? cli_instance(args, 1, 2, err) : NULL;
    if (to == NULL || !check_options(args, err))
        return CLI_USAGE;
    if (identity && !can_introduce(args, from, err))
        return CLI_HOST_FAILURE;
    json_t *answer = clone(args, from, to, err);
    bool good = answer == NULL || !identity || introduce(args, answer, err);
    int status = cli_instance_done(args, answer);
    return good ? status : CLI_HOST_FAILURE;
}

const struct cli_command cli_command_clone = {
    .name = "clone",
    .operands = "NAME NEW-NAME",
    .summary = "Make an instance like a template or another instance",
    .description =
        "Makes an instance NEW-NAME like NAME, with network addresses of its own.\n\n"
        "Of a template it is a linked clone: its disks begin as empty images that lie upon the "
        "template's, and kernel and other files that are only read stay the template's. That takes "
        "no time and hardly any space; the template cannot be deleted, renamed or run while it has "
        "such clones. With --full, and always of an instance that is no template (which does not "
        "run meanwhile), it gets copies of everything and stands alone; where the file system "
        "can, they share their space until one of them changes.\n\n"
        "With --instant NAME runs, and goes on running: the clone begins at the same moment, with "
        "the "
        "same memory, of which it gets its own only where one of the two writes. It has another "
        "identity "
        "(network addresses, vsock address, VM generation ID), of which Linux' random numbers and "
        "whoever "
        "listens for the uevent NEW_VMGENID=1 hear at once; connections of NAME stay NAME's. The "
        "disks "
        "that NAME writes to are frozen at that moment, and both write to new images on top of "
        "them: "
        "NAME is neither deleted nor renamed while it has such clones, and each request makes its "
        "disks' chains, of 16 images at most, one longer. For many clones one after the other "
        "pause "
        "it: what writes nothing is frozen once.\n\n"
        "With --identity the guests (a Linux with an ssh server, as for 'trapeze exec') are told "
        "who they "
        "are, one after the other: host name (the clone's name) in /etc/hostname and /etc/hosts, a "
        "new "
        "machine-id, and their cards' drivers are bound anew, with the clones' addresses and "
        "without "
        "their original's DHCP leases; ssh host keys stay the original's. Whether NAME's guest can "
        "do that is "
        "asked first, and nothing is cloned if not. A clone that fails later is named, with exit "
        "status 121: it runs, and may use its original's addresses.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
