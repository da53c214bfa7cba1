/* SPDX-License-Identifier: MIT
 *
 * trapeze rename.
 */
#include "base/bits.h"
#include "cli/cli.h"
#include "cli/instance.h"

static const struct cli_option options[] = {
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze rename web www", "It is www from now on."},
};

static int run(const struct cli_args *args, struct error **err)
{
    const char *from = cli_instance(args, 0, 2, err);
    const char *to = from != NULL ? cli_instance(args, 1, 2, err) : NULL;
    return cli_instance_done(args, to != NULL ? cli_api("POST", json_pack("{s:s}", "to", to), err,
                                                        "/v1/instances/%s/rename", from)
                                              : NULL);
}

const struct cli_command cli_command_rename = {
    .name = "rename",
    .operands = "NAME NEW-NAME",
    .summary = "Give an instance another name",
    .description = "Gives an instance that does not run, or a template, another name.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
