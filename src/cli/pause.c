/* SPDX-License-Identifier: MIT
 *
 * trapeze pause.
 */
#include "base/bits.h"
#include "cli/cli.h"
#include "cli/instance.h"

static const struct cli_option options[] = {
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze pause web", "Let an instance stand still."},
};

static int run(const struct cli_args *args, struct error **err)
{
    return cli_instance_verb(args, "pause", NULL, err);
}

const struct cli_command cli_command_pause = {
    .name = "pause",
    .operands = "NAME",
    .summary = "Let an instance stand still",
    .description = "Lets the machine stand still, its clock included, until resume.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
