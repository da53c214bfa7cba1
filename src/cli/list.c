/* SPDX-License-Identifier: MIT
 *
 * trapeze list.
 */
#include <time.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "cli/size.h"

static const struct cli_option options[] = {
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze list", "What there is, and what it takes."},
    {"trapeze list --json | jq -r '.instances[] | select(.state == \"running\").name'",
     "For programs."},
};

static const char *age_of(const json_t *row, const char *key, char text[32])
{
    const json_t *since = json_object_get(row, key);
    return json_is_integer(since) ? cli_show_age(json_integer_value(since), text) : "-";
}

static const char *expiry_of(const json_t *row, char text[32])
{
    const json_t *expires = json_object_get(row, "expires");
    json_int_t now = (json_int_t)time(NULL), moment = json_integer_value(expires);
    if (!json_is_integer(expires))
        return "-";
    return moment <= now ? "expired" : cli_show_age(2 * now - moment, text);
}

static const char *size_of(const json_t *row, const char *key, char text[32])
{
    const json_t *bytes = json_object_get(row, key);
    return json_is_integer(bytes) ? cli_show_size((uint64_t)json_integer_value(bytes), text) : "-";
}

static void print_row(const json_t *row)
{
    char memory[32], disk[32], age[32], used[32], expires[32];
    const char *state = json_string_value(json_object_get(row, "state"));
    const char *parent = json_string_value(json_object_get(row, "parent"));
    if (json_is_true(json_object_get(row, "template")))
        state = "template";
    printf("%-20s %-10s %4lld %9s %9s %-10s %-10s %-10s %s\n",
           json_string_value(json_object_get(row, "name")), state,
           (long long)json_integer_value(json_object_get(row, "cpus")),
           size_of(row, "memory", memory), size_of(row, "disk-used", disk),
           age_of(row, "created", age), age_of(row, "used", used), expiry_of(row, expires),
           parent != NULL ? parent : "-");
}

static int run(const struct cli_args *args, struct error **err)
{
    json_t *answer = cli_api("GET", NULL, err, "/v1/instances");
    const json_t *list = json_object_get(answer, "instances"), *row;
    size_t index;
    if (answer == NULL)
        return CLI_HOST_FAILURE;
    if (cli_given(args, "json")) {
        cli_print_json(answer);
    } else {
        printf("%-20s %-10s %4s %9s %9s %-10s %-10s %-10s %s\n", "NAME", "STATE", "CPUS", "MEMORY",
               "DISK", "AGE", "USED", "EXPIRES", "PARENT");
        json_array_foreach(list, index, row) print_row(row);
    }
    json_decref(answer);
    return CLI_OK;
}

const struct cli_command cli_command_list = {
    .name = "list",
    .summary = "List instances and templates",
    .description =
        "Lists your instances and templates, with what they are doing: memory, the space that "
        "their own files take on the disk (what a linked clone lies upon is its "
        "parent's), when they were made, how long ago a machine last ran (0 seconds: it "
        "does), in what time they expire, and their parent template.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
