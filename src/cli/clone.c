/* SPDX-License-Identifier: MIT
 *
 * trapeze clone.
 */
#include "base/bits.h"
#include "base/error.h"
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
    const char *from = cli_instance(args, 0, 2, err);
    const char *to = from != NULL ? cli_instance(args, 1, 2, err) : NULL;
    json_t *answer = to != NULL ? cli_api("POST", json_pack("{s:s}", "to", to), err,
                                          "/v1/instances/%s/clone", from)
                                : NULL;
    if (answer == NULL)
        return CLI_HOST_FAILURE;
    if (cli_given(args, "json"))
        cli_print_json(answer);
    json_decref(answer);
    return CLI_OK;
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
