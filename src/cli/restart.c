/* SPDX-License-Identifier: MIT
 *
 * trapeze restart.
 */
#include "base/bits.h"
#include "cli/cli.h"
#include "cli/instance.h"

static const struct cli_option options[] = {
    {"force", 'f', NULL, "At once, as by pulling the plug; what the guest has not flushed is lost.",
     NULL},
    {"timeout", 't', "SECONDS", "How long the guest may take to switch itself off. Default: 60.",
     NULL},
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze restart web", "Switch an instance off and on."},
};

static int run(const struct cli_args *args, struct error **err)
{
    json_t *body = cli_stop_body(args, err);
    if (body == NULL)
        return CLI_USAGE;
    return cli_instance_verb(args, "restart", body, err);
}

const struct cli_command cli_command_restart = {
    .name = "restart",
    .operands = "NAME",
    .summary = "Switch an instance off and on",
    .description = "Stops the instance as stop does, and starts it again.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
