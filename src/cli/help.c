/* SPDX-License-Identifier: MIT
 *
 * trapeze help: the command tables as help and as the manual page.
 */
#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"

static const struct cli_option options[] = {
    {"man", 0, NULL, "Print the whole manual, trapeze(1), as mdoc source.", "Options"},
};

static const struct cli_example examples[] = {
    {"trapeze help run", "The same as 'trapeze run --help'."},
    {"trapeze help --man | man -l -", "The manual, without installing it."},
};

static int run(const struct cli_args *args, struct error **err)
{
    if (cli_given(args, "man")) {
        cli_print_man(stdout);
    } else if (args->operand_count == 0) {
        cli_print_overview(stdout);
    } else {
        const struct cli_command *command = cli_command_find(args->operands[0]);
        if (command == NULL) {
            error_set(err, ERROR_USAGE, "there is no command '%s'", args->operands[0]);
            error_hint(err, "'trapeze help' lists the commands.");
            return CLI_USAGE;
        }
        cli_print_help(command, stdout);
    }
    return CLI_OK;
}

const struct cli_command cli_command_help = {
    .name = "help",
    .operands = "[COMMAND]",
    .summary = "Explain a command",
    .description = "Explains a command, or lists them all.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
