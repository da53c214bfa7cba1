/* SPDX-License-Identifier: MIT
 *
 * trapeze events.
 */
#include <time.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"

static const struct cli_option options[] = {
    {"follow", 'f', NULL, "Go on with what happens, until Ctrl-C.", NULL},
    {"json", 0, NULL, "One JSON object a line.", NULL},
};

static const struct cli_example examples[] = {
    {"trapeze events --follow", "As it happens."},
};

static void print_event(const json_t *event, bool json)
{
    char when[32];
    time_t at = (time_t)json_integer_value(json_object_get(event, "time"));
    struct tm local;
    const json_t *detail = json_object_get(event, "detail");
    if (json) {
        json_dumpf(event, stdout, JSON_COMPACT);
        putchar('\n');
        return;
    }
    strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", localtime_r(&at, &local));
    printf("%s %s %s ", when, json_string_value(json_object_get(event, "instance")),
           json_string_value(json_object_get(event, "type")));
    if (detail != NULL)
        json_dumpf(detail, stdout, 0);
    putchar('\n');
}

static int run(const struct cli_args *args, struct error **err)
{
    bool follow = cli_given(args, "follow"), more = true;
    json_int_t last = 0;
    for (bool first = true; more; first = false) {
        json_t *answer = cli_api("GET", NULL, err, "/v1/events?after=%lld&wait=%d", (long long)last,
                                 first || !follow ? 0 : 300);
        const json_t *list = json_object_get(answer, "events"), *event;
        size_t index;
        if (answer == NULL)
            return CLI_HOST_FAILURE;
        json_array_foreach(list, index, event)
        {
            print_event(event, cli_given(args, "json"));
            last = json_integer_value(json_object_get(event, "number"));
        }
        more = follow || json_array_size(list) > 0;
        json_decref(answer);
        if (fflush(stdout) != 0)
            return CLI_HOST_FAILURE;
    }
    return CLI_OK;
}

const struct cli_command cli_command_events = {
    .name = "events",
    .summary = "Show what happened to instances",
    .description =
        "Shows what happened to your instances: made, started, states, ended and why. The "
        "last 10000 are kept.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
