/* SPDX-License-Identifier: MIT
 *
 * trapeze clone.
 */
#include "base/bits.h"
#include "cli/cli.h"
#include "cli/instance.h"

static const struct cli_option options[] = {
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze clone debian-base web", "A new machine from a template."},
};

static int run(const struct cli_args *args, struct error **err)
{
    return cli_instance_verb_to(args, "clone", err);
}

const struct cli_command cli_command_clone = {
    .name = "clone",
    .operands = "NAME NEW-NAME",
    .summary = "Copy an instance or a template",
    .description = "Makes an instance NEW-NAME with copies of all files of NAME, which does not "
                   "run meanwhile, and with network addresses of its own. Where the file system "
                   "can, the copies share their space until one of them changes.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
