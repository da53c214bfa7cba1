/* SPDX-License-Identifier: MIT
 *
 * trapeze exec.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/guest.h"

static const struct cli_option options[] = {
    CLI_GUEST_OPTIONS,
    {"tty", 't', NULL, "Give the command a terminal: for an editor, or a shell.", NULL},
};

static const struct cli_example examples[] = {
    {"trapeze exec web -- systemctl is-active nginx", "Its exit status is the command's."},
    {"trapeze exec web -- tar -C /srv -cf - . >srv.tar", "Output is bytes, as they are."},
    {"trapeze exec -t web -- nano /etc/hosts", "With a terminal."},
};

/* Each word in single quotes: the guest's shell passes it on as it is. */
static char *quote(char *const *words, size_t count)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    for (size_t i = 0; i < count; i++) {
        fputs(i > 0 ? " '" : "'", out);
        for (const char *at = words[i]; *at != '\0'; at++) {
            if (*at == '\'')
                fputs("'\\''", out);
            else
                putc(*at, out);
        }
        putc('\'', out);
    }
    fclose(out);
    return text;
}

static int run(const struct cli_args *args, struct error **err)
{
    const char *name = cli_guest_name(args, err);
    if (name == NULL)
        return CLI_USAGE;
    if (args->operand_count < 2) {
        error_set(err, ERROR_USAGE, "a command is missing");
        error_hint(err, "Such as: trapeze exec %s -- uptime", name);
        return CLI_USAGE;
    }
    char *command = quote(args->operands + 1, args->operand_count - 1);
    char *words[] = {"-o", "BatchMode=yes", cli_given(args, "tty") ? "-tt" : "-T", GUEST_SSH_HOST,
                     "--", command};
    int status = cli_guest_run(args, name, "ssh", words, ARRAY_SIZE(words), err);
    free(command);
    return status;
}

const struct cli_command cli_command_exec = {
    .name = "exec",
    .operands = "NAME -- COMMAND...",
    .summary = "Run a command in an instance",
    .description =
        "Runs a command in an instance's guest, with the words it is given, and ends with its exit "
        "status; standard input, output and error are its own. No shell takes the words apart: "
        "write "
        "'sh -c ...' for that. It goes the way of 'trapeze ssh', which see; 255 means that this "
        "failed, or is the command's own.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
