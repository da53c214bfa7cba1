/* SPDX-License-Identifier: MIT
 *
 * trapeze logs.
 */
#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"

static const struct cli_option options[] = {
    {"worker", 'w', NULL, "What the worker process said, instead of the guest.", NULL},
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze logs web", "The guest's console since it was started."},
    {"trapeze logs --worker web", "Why it did not start, perhaps."},
};

/* The answer has a character for each byte. */
static void print_bytes(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0xc2 && i + 1 < size)
            c = (unsigned char)(c << 6 | ((unsigned char)text[++i] & 0x3f));
        putchar(c);
    }
}

static int run(const struct cli_args *args, struct error **err)
{
    const char *name = cli_instance(args, 0, 1, err);
    json_t *answer = name != NULL ? cli_api("GET", NULL, err, "/v1/instances/%s/logs?source=%s",
                                            name, cli_given(args, "worker") ? "worker" : "console")
                                  : NULL;
    const json_t *text = json_object_get(answer, "text");
    if (answer == NULL)
        return CLI_HOST_FAILURE;
    if (cli_given(args, "json"))
        cli_print_json(answer);
    else
        print_bytes(json_string_value(text), json_string_length(text));
    json_decref(answer);
    return CLI_OK;
}

const struct cli_command cli_command_logs = {
    .name = "logs",
    .operands = "NAME",
    .summary = "Show what an instance printed",
    .description =
        "Shows what the guest printed on its console since it was started, the last 256 KiB "
        "of it at least; also of one that has ended.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
