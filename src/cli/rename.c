/* SPDX-License-Identifier: MIT
 *
 * trapeze rename.
 */
#include "base/bits.h"
#include "base/error.h"
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
    json_t *answer = to != NULL ? cli_api("POST", json_pack("{s:s}", "to", to), err,
                                          "/v1/instances/%s/rename", from)
                                : NULL;
    if (answer == NULL)
        return CLI_HOST_FAILURE;
    if (cli_given(args, "json"))
        cli_print_json(answer);
    json_decref(answer);
    return CLI_OK;
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
