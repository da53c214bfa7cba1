/* SPDX-License-Identifier: MIT
 *
 * trapeze delete.
 */
#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"

static const struct cli_option options[] = {
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze delete web", "With its disks."},
};

static int run(const struct cli_args *args, struct error **err)
{
    const char *name = cli_instance(args, 0, 1, err);
    json_t *answer = name != NULL ? cli_api("DELETE", NULL, err, "/v1/instances/%s", name) : NULL;
    return cli_instance_done(args, answer);
}

const struct cli_command cli_command_delete = {
    .name = "delete",
    .operands = "NAME",
    .summary = "Remove an instance with all its files",
    .description =
        "Removes an instance or a template and everything in its folder. One that runs is "
        "left alone: stop it first.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
