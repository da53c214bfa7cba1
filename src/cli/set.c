/* SPDX-License-Identifier: MIT
 *
 * trapeze set.
 */
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "client/guest_ssh.h"
#include "config/settings.h"

static const struct cli_option options[] = {
    CLI_JSON_OPTION,
    {"user", 'u', "USER",
     "Who to be in the guest, for what only that can do (cpus); another than root does it by sudo. "
     "Default: root.",
     NULL},
};

static const struct cli_example examples[] = {
    {"trapeze set web cpu-weight=300 cpu-cap=150",
     "Three times the usual part of busy CPUs, and never more than one and a half."},
    {"trapeze set web memory-limit=256M disk0.iops=500 net0.rate=10000",
     "The guest gives memory back; its first disk and NIC are slowed down."},
    {"trapeze set web cpus=4", "A Linux guest that has room for four switches the others on."},
    {"trapeze set web max-cpus=8 memory=2G", "More of everything, from the next start on."},
};

static bool word(size_t index, struct cli_word *word)
{
    if (index >= setting_count())
        return false;
    const struct setting *setting = setting_at(index);
    *word = (struct cli_word){.form = setting->form, .help = setting->help};
    snprintf(word->name, sizeof(word->name), "%s=", setting->name);
    return true;
}

/* {"cpu-weight": "300"} of the words behind the name. NULL: err. */
static json_t *parse(const struct cli_args *args, struct error **err)
{
    json_t *body = json_object();
    for (size_t i = 1; i < args->operand_count; i++) {
        const char *text = args->operands[i], *equals = strchr(text, '=');
        char key[64];
        unsigned number;
        snprintf(key, sizeof(key), "%.*s", (int)strcspn(text, "="), text);
        if (setting_find(key, &number, err) == NULL) {
            /* err */
        } else if (equals == NULL) {
            error_set(err, ERROR_USAGE, "'%s' needs a value: %s=VALUE", text, text);
        } else if (json_object_get(body, key) != NULL) {
            error_set(err, ERROR_USAGE, "%s is set twice", key);
        } else {
            json_object_set_new(body, key, json_string(equals + 1));
            continue;
        }
        json_decref(body);
        return NULL;
    }
    return body;
}

static void print(const char *name, const json_t *answer)
{
    const json_t *live = json_object_get(answer, "live"), *value;
    size_t index;
    if (json_array_size(live) > 0)
        printf("%s: in effect:", name);
    json_array_foreach(live, index, value)
    {
        printf("%s %s", index > 0 ? "," : "", json_string_value(value));
    }
    if (json_array_size(live) > 0)
        putchar('\n');
    json_array_foreach(json_object_get(answer, "next-start"), index, value)
    {
        const char *reason = json_string_value(json_object_get(value, "reason"));
        printf("%s: from the next start on: %s%s%s%s\n", name,
               json_string_value(json_object_get(value, "key")), reason != NULL ? " (" : "",
               reason != NULL ? reason : "", reason != NULL ? ")" : "");
    }
}

static int run(const struct cli_args *args, struct error **err)
{
    const struct cli_args first = {.operands = args->operands,
                                   .operand_count = args->operand_count > 0};
    const char *name = cli_instance(&first, 0, 1, err);
    if (name == NULL)
        return CLI_USAGE;
    if (args->operand_count < 2) {
        error_set(err, ERROR_USAGE, "'trapeze set' takes an instance and KEY=VALUE words");
        error_hint(err, "'trapeze set --help' has the keys.");
        return CLI_USAGE;
    }
    json_t *body = parse(args, err);
    if (body == NULL)
        return CLI_USAGE;
    const char *user = cli_last(args, "user");
    if (user != NULL && !guest_ssh_user_check(user)) {
        error_set(err, ERROR_USAGE, "--user: '%s' is no user's name", user);
        json_decref(body);
        return CLI_USAGE;
    }
    json_t *answer = cli_api("PATCH", body, err, "/v1/instances/%s%s%s", name,
                             user != NULL ? "?user=" : "", user != NULL ? user : "");
    if (answer != NULL && !cli_given(args, "json"))
        print(name, answer);
    return cli_instance_done(args, answer);
}

const struct cli_command cli_command_set = {
    .name = "set",
    .operands = "NAME KEY=VALUE...",
    .summary = "Change an instance, as far as possible while it runs",
    .description =
        "Changes the description of an instance, whose comments stay, and what can be changed of "
        "it while it runs; the answer tells which keys are in effect and which wait for the next "
        "start.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .words = word,
    .words_title = "Keys",
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
