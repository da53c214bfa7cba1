/* SPDX-License-Identifier: MIT
 *
 * trapeze start.
 */
#include "base/bits.h"
#include "cli/cli.h"
#include "cli/instance.h"

static const struct cli_option options[] = {
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze start web && trapeze console web", "Start it and watch it boot."},
};

static int run(const struct cli_args *args, struct error **err)
{
    return cli_instance_verb(args, "start", NULL, err);
}

const struct cli_command cli_command_start = {
    .name = "start",
    .operands = "NAME",
    .summary = "Start an instance",
    .description = "Starts the instance NAME in a worker process of its own, which runs on when "
                   "the command and even the daemon end. Done when the machine runs.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
