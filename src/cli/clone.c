/* SPDX-License-Identifier: MIT
 *
 * trapeze clone.
 */
#include <stdlib.h>

#include "base/bits.h"
#include "cli/cli.h"
#include "cli/instance.h"

static const struct cli_option options[] = {
    {"full", 0, NULL, "Copy a template's disks, rather than lie upon them.", NULL},
    {"instant", 0, NULL, "Of a machine that runs: one that goes on from where it is.", NULL},
    {"count", 0, "N", "So many instant clones, NEW-NAME-1 and so on.", NULL},
    CLI_EXPIRES_OPTION,
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze clone debian-base web", "A new machine from a template, at once."},
    {"trapeze clone --full web spare", "One that needs nothing of 'web' any more."},
    {"trapeze clone --instant --count 8 web worker", "Eight that go on from where 'web' is now."},
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

static int run(const struct cli_args *args, struct error **err)
{
    const char *from = cli_instance(args, 0, 2, err);
    const char *to = from != NULL ? cli_instance(args, 1, 2, err) : NULL;
    return cli_instance_done(args, to != NULL ? clone(args, from, to, err) : NULL);
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
        "it: what writes nothing is frozen once.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
