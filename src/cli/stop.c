/* SPDX-License-Identifier: MIT
 *
 * trapeze stop.
 */
#include "base/bits.h"
#include "cli/cli.h"
#include "cli/instance.h"

static const struct cli_option options[] = {
    {"force", 'f', NULL,
     "At once, as by pulling the plug, also if nothing answers; what the guest has not flushed is "
     "lost.",
     NULL},
    {"timeout", 't', "SECONDS", "How long the guest may take to switch itself off. Default: 60.",
     NULL},
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze stop web", "As by its power button."},
    {"trapeze stop --force web", "As by pulling the plug."},
};

static int run(const struct cli_args *args, struct error **err)
{
    json_t *body = cli_stop_body(args, err);
    if (body == NULL)
        return CLI_USAGE;
    return cli_instance_verb(args, "stop", body, err);
}

const struct cli_command cli_command_stop = {
    .name = "stop",
    .operands = "NAME",
    .summary = "Switch an instance off",
    .description = "Presses the power button and waits until the machine is off. A guest that does "
                   "not listen to the button is stopped with --force.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
