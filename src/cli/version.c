/* SPDX-License-Identifier: MIT
 *
 * trapeze version.
 */
#include "build.h"
#include "cli/cli.h"

static int run(const struct cli_args *args, struct error **err)
{
    (void)args, (void)err;
    puts("trapeze " TRAPEZE_VERSION);
    return CLI_OK;
}

const struct cli_command cli_command_version = {
    .name = "version",
    .summary = "Print the version",
    .description = "Prints the version of trapeze.",
    .run = run,
};
