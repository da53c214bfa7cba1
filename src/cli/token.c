/* SPDX-License-Identifier: MIT
 *
 * trapeze token.
 */
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"

static const struct cli_option options[] = {
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze token create laptop > laptop.token", "It is told this once."},
    {"trapeze --host https://server:7443 --token-file laptop.token list", "On the laptop."},
    {"trapeze token revoke laptop", "From now on it opens nothing."},
};

static void print_list(const json_t *answer)
{
    const json_t *list = json_object_get(answer, "tokens"), *row;
    size_t index;
    json_array_foreach(list, index, row)
    {
        char when[32];
        time_t at = (time_t)json_integer_value(json_object_get(row, "created"));
        struct tm local;
        strftime(when, sizeof(when), "%Y-%m-%d %H:%M", localtime_r(&at, &local));
        printf("%-24s %s\n", json_string_value(json_object_get(row, "name")), when);
    }
}

static int run(const struct cli_args *args, struct error **err)
{
    const char *action = args->operand_count > 0 ? args->operands[0] : "";
    const struct cli_args names = {args->values, args->value_count, args->operands + 1,
                                   args->operand_count - (args->operand_count > 0)};
    bool create = strcmp(action, "create") == 0, revoke = strcmp(action, "revoke") == 0;
    json_t *answer = NULL;
    if (strcmp(action, "list") == 0 && names.operand_count == 0) {
        answer = cli_api("GET", NULL, err, "/v1/tokens");
    } else if ((create || revoke) && names.operand_count == 1) {
        const char *name = cli_instance(&names, 0, 1, err);
        if (name != NULL)
            answer = create ? cli_api("POST", json_pack("{s:s}", "name", name), err, "/v1/tokens")
                            : cli_api("DELETE", NULL, err, "/v1/tokens/%s", name);
    } else {
        error_set(err, ERROR_USAGE, "this takes 'create NAME', 'list' or 'revoke NAME'");
        return CLI_USAGE;
    }
    if (answer != NULL && !cli_given(args, "json")) {
        if (create)
            puts(json_string_value(json_object_get(answer, "token")));
        else if (!revoke)
            print_list(answer);
    }
    return cli_instance_done(args, answer);
}

const struct cli_command cli_command_token = {
    .name = "token",
    .operands = "create|list|revoke [NAME]",
    .summary = "Say who may use the daemon over the network",
    .description =
        "Makes, lists and revokes tokens: who has one may use a daemon that serves over the "
        "network "
        "('trapeze daemon --listen'). A token's text is told when it is made and kept nowhere: the "
        "daemon knows its hash. Revoking ends what was opened with it.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
