/* SPDX-License-Identifier: MIT
 *
 * trapeze info.
 */
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "cli/size.h"
#include "config/machine.h"

static const struct cli_option options[] = {
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze info web", "What it is, where it lies, how it ended last."},
    {"trapeze info --json web | jq -r .path", "Its folder."},
};

/* Numbers that are moments or sizes, as people read them. */
static void print_number(const char *name, json_int_t value)
{
    static const char *const moments[] = {"created", "started", "ended", "used", "expires"};
    static const char *const sizes[] = {"memory", "disk-used"};
    char text[32];
    for (size_t i = 0; i < ARRAY_SIZE(moments); i++)
        if (strcmp(moments[i], name) == 0) {
            machine_print_time(value, text);
            printf(" %s\n", text);
            return;
        }
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
        if (strcmp(sizes[i], name) == 0) {
            printf(" %s\n", cli_show_size((uint64_t)value, text));
            return;
        }
    printf(" %lld\n", (long long)value);
}

static void print_value(const char *name, const json_t *value, int depth)
{
    const char *key;
    json_t *member;
    size_t index;
    printf("%*s%s:", depth * 2, "", name);
    switch (json_typeof(value)) {
    case JSON_STRING:
        printf(" %s\n", json_string_value(value));
        return;
    case JSON_INTEGER:
        print_number(name, json_integer_value(value));
        return;
    case JSON_OBJECT:
        putchar('\n');
        json_object_foreach((json_t *)(uintptr_t)value, key, member)
            print_value(key, member, depth + 1);
        return;
    case JSON_ARRAY:
        json_array_foreach(value, index, member) printf(" %s", json_string_value(member));
        putchar('\n');
        return;
    default:
        puts(json_is_true(value) ? " yes" : " no");
    }
}

static int run(const struct cli_args *args, struct error **err)
{
    const char *name = cli_instance(args, 0, 1, err), *key;
    json_t *answer = name != NULL ? cli_api("GET", NULL, err, "/v1/instances/%s", name) : NULL;
    json_t *value;
    if (answer == NULL)
        return CLI_HOST_FAILURE;
    if (cli_given(args, "json")) {
        cli_print_json(answer);
    } else {
        json_object_foreach(answer, key, value) print_value(key, value, 0);
    }
    json_decref(answer);
    return CLI_OK;
}

const struct cli_command cli_command_info = {
    .name = "info",
    .operands = "NAME",
    .summary = "Tell about an instance",
    .description =
        "Tells what an instance is made of, where its files are, what it is doing and how "
        "it ended last. not-honoured names keys of its .vmx that mean nothing here.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
