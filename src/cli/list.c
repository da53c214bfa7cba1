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
    {"trapeze list", "Names, states, sizes, ages."},
    {"trapeze list --json | jq -r '.instances[] | select(.state == \"running\").name'",
     "For programs."},
};

/* "3 days", of what lies that long back. */
static void show_age(json_int_t since, char text[32])
{
    static const struct {
        long long seconds;
        const char *name;
    } units[] = {{86400, "day"}, {3600, "hour"}, {60, "minute"}, {1, "second"}};
    long long age = (long long)time(NULL) - since;
    size_t unit = 0;
    while (unit < ARRAY_SIZE(units) - 1 && age < units[unit].seconds)
        unit++;
    age = age > 0 ? age / units[unit].seconds : 0;
    snprintf(text, 32, "%lld %s%s", age, units[unit].name, age == 1 ? "" : "s");
}

static void print_row(const json_t *row)
{
    char memory[32] = "-", age[32] = "-";
    const char *state = json_string_value(json_object_get(row, "state"));
    const json_t *bytes = json_object_get(row, "memory"), *made = json_object_get(row, "created");
    if (json_is_true(json_object_get(row, "template")))
        state = "template";
    if (json_is_integer(bytes))
        cli_show_size((uint64_t)json_integer_value(bytes), memory);
    if (json_is_integer(made))
        show_age(json_integer_value(made), age);
    printf("%-24s %-10s %4lld %10s  %s\n", json_string_value(json_object_get(row, "name")), state,
           (long long)json_integer_value(json_object_get(row, "cpus")), memory, age);
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
        printf("%-24s %-10s %4s %10s  %s\n", "NAME", "STATE", "CPUS", "MEMORY", "AGE");
        json_array_foreach(list, index, row) print_row(row);
    }
    json_decref(answer);
    return CLI_OK;
}

const struct cli_command cli_command_list = {
    .name = "list",
    .summary = "List instances and templates",
    .description = "Lists your instances and templates, with what they are doing.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
