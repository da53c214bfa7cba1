/* SPDX-License-Identifier: MIT
 *
 * trapeze start.
 */
#include "base/bits.h"
#include "cli/cli.h"
#include "cli/instance.h"

static const struct cli_option options[] = {
    {"discard-suspended", 0, NULL,
     "Start a suspended instance anew, as after a loss of power, instead of letting it go on.", NULL},
    {"force", 'f', NULL,
     "Let a suspended instance go on though a disk was changed since. It will be damaged.", NULL},
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze start web && trapeze console web", "Start it and watch it boot."},
};

static int run(const struct cli_args *args, struct error **err)
{
    return cli_instance_verb(
        args, "start",
        json_pack("{s:b, s:b}", "discard-suspended", (int)cli_given(args, "discard-suspended"),
                  "changed-disks", (int)cli_given(args, "force")),
        err);
}

const struct cli_command cli_command_start = {
    .name = "start",
    .operands = "NAME",
    .summary = "Start an instance",
    .description = "Starts the instance NAME in a worker process of its own, which runs on when "
                   "the command and even the daemon end. Done when the machine runs. One that was suspended goes on where it was.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
