/* SPDX-License-Identifier: MIT
 *
 * trapeze resume.
 */
#include "base/bits.h"
#include "cli/cli.h"
#include "cli/instance.h"

static const struct cli_option options[] = {
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze resume web", "Let a paused instance go on."},
};

static int run(const struct cli_args *args, struct error **err)
{
    return cli_instance_verb(args, "resume", NULL, err);
}

const struct cli_command cli_command_resume = {
    .name = "resume",
    .operands = "NAME",
    .summary = "Let a paused instance go on",
    .description = "Lets a paused machine go on where it was.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
