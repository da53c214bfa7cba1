/* SPDX-License-Identifier: MIT
 *
 * trapeze prune.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "cli/size.h"

static const struct cli_option options[] = {
    {"unused", 0, "DAYS",
     "Propose instances whose machine has not run for so many days; 30 unless given.", NULL},
    {"yes", 'y', NULL, "Delete what is proposed, without asking.", NULL},
    {"json", 0, NULL, "Print the proposals as JSON.", NULL},
};

static const struct cli_example examples[] = {
    {"trapeze prune", "What could go, and how much space that would free; then it asks."},
    {"trapeze prune --unused 90 --yes", "Without asking."},
};

static const char *text_of(const json_t *item, const char *key)
{
    return json_string_value(json_object_get(item, key));
}

static bool is_file(const json_t *item)
{
    return strcmp(text_of(item, "kind"), "file") == 0;
}

static void print_items(const json_t *items)
{
    char size[32], age[32];
    const json_t *item;
    size_t index;
    uint64_t total = 0;
    if (json_array_size(items) == 0) {
        puts("There is nothing to delete.");
        return;
    }
    printf("%-10s %-10s %10s  %s\n", "WHY", "SINCE", "SIZE", "WHAT");
    json_array_foreach(items, index, item)
    {
        uint64_t bytes = (uint64_t)json_integer_value(json_object_get(item, "size"));
        total += bytes;
        cli_show_age(json_integer_value(json_object_get(item, "since")), age);
        printf("%-10s %-10s %10s  %s\n", text_of(item, "why"), age, cli_show_size(bytes, size),
               text_of(item, is_file(item) ? "path" : "name"));
    }
    printf("Together %s.\n", cli_show_size(total, size));
}

/* Whether everything proposed is gone. What somebody has begun to use meanwhile stays. */
static bool delete_items(const json_t *items, struct error **err)
{
    json_t *files = json_array();
    const json_t *item;
    size_t index, kept = 0;
    json_array_foreach(items, index, item)
    {
        struct error *error = NULL;
        if (is_file(item)) {
            json_array_append(files, json_object_get(item, "path"));
            continue;
        }
        json_t *answer = cli_api("DELETE", NULL, &error, "/v1/instances/%s", text_of(item, "name"));
        if (answer == NULL)
            fprintf(stderr, "trapeze: '%s' stays: %s\n", text_of(item, "name"),
                    error_message(error));
        kept += answer == NULL;
        error_free(error);
        json_decref(answer);
    }
    if (json_array_size(files) > 0) {
        json_t *answer = cli_api("POST", json_pack("{s:O}", "files", files), err, "/v1/prune");
        kept += answer != NULL ? json_array_size(json_object_get(answer, "kept")) : 0;
        bool good = answer != NULL;
        json_decref(answer);
        if (!good) {
            json_decref(files);
            return false;
        }
    }
    json_decref(files);
    return kept == 0 || error_set(err, ERROR_HOST,
                                  "%zu of them could not be deleted, or somebody "
                                  "has begun to use them meanwhile",
                                  kept);
}

/* A person's "yes", typed. */
static bool is_confirmed(void)
{
    char line[16] = "";
    if (!isatty(STDIN_FILENO)) {
        puts("Nothing is deleted without --yes.");
        return false;
    }
    fputs("Delete all of this? Type 'yes': ", stdout);
    fflush(stdout);
    if (fgets(line, sizeof(line), stdin) != NULL && strcmp(line, "yes\n") == 0)
        return true;
    puts("Nothing is deleted.");
    return false;
}

static int run(const struct cli_args *args, struct error **err)
{
    const char *given = cli_last(args, "unused");
    uint64_t days = 30;
    if (args->operand_count > 0) {
        error_set(err, ERROR_USAGE, "this takes no names: 'trapeze delete' deletes one instance");
        return CLI_USAGE;
    }
    if (given != NULL && !cli_parse_count(given, 36500, &days)) {
        error_set(err, ERROR_USAGE, "--unused: '%s' is no number of days", given);
        return CLI_USAGE;
    }
    json_t *answer = cli_api("GET", NULL, err, "/v1/prune?unused=%llu", (unsigned long long)days);
    if (answer == NULL)
        return CLI_HOST_FAILURE;
    const json_t *items = json_object_get(answer, "items");
    const char *unknown = text_of(answer, "unknown");
    if (unknown != NULL)
        fprintf(stderr, "trapeze: %s\n", unknown);
    if (cli_given(args, "json"))
        cli_print_json(answer);
    else
        print_items(items);
    bool wanted = json_array_size(items) > 0 &&
                  (cli_given(args, "yes") || (!cli_given(args, "json") && is_confirmed()));
    bool good = !wanted || delete_items(items, err);
    json_decref(answer);
    return good ? CLI_OK : CLI_HOST_FAILURE;
}

const struct cli_command cli_command_prune = {
    .name = "prune",
    .summary = "Propose what can be deleted",
    .description =
        "Lists instances and templates that have expired (--expires), instances that nobody has "
        "used for long, and disk images in instances' folders that no description names and no "
        "other image lies upon; with what that would free. Deletes them when you type 'yes', or "
        "with --yes; otherwise nothing changes. What runs, and a template that has linked clones, "
        "is never among them.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
