/* SPDX-License-Identifier: MIT
 *
 * trapeze template.
 */
#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"

static const struct cli_option options[] = {
    {"undo", 0, NULL, "Make an instance of a template again.", NULL},
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze template debian-base && trapeze clone debian-base web", "A machine from it."},
};

static int run(const struct cli_args *args, struct error **err)
{
    const char *name = cli_instance(args, 0, 1, err);
    json_t *answer = name != NULL
                         ? cli_api("POST", json_pack("{s:b}", "undo", (int)cli_given(args, "undo")),
                                   err, "/v1/instances/%s/template", name)
                         : NULL;
    return cli_instance_done(args, answer);
}

const struct cli_command cli_command_template = {
    .name = "template",
    .operands = "NAME",
    .summary = "Make a template of an instance",
    .description = "A template does not run; it is what other instances are cloned from. Its .vmx "
                   "becomes a .vmtx.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
