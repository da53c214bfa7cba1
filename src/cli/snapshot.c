/* SPDX-License-Identifier: MIT
 *
 * trapeze snapshot.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "cli/size.h"

static const struct cli_option options[] = {
    {"no-memory", 0, NULL,
     "create, of a machine that runs: its disks alone, as if it had lost its power.", NULL},
    {"compress", 'z', NULL, "create: compress memory, which takes less space and more time.", NULL},
    {"start", 0, NULL, "restore: start the instance, too.", NULL},
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze snapshot create web before-upgrade", "The machine runs on."},
    {"trapeze snapshot list web", "The tree of them, and where the machine is in it."},
    {"trapeze snapshot restore web before-upgrade",
     "As it was then. What it has been at since is lost, unless it has a snapshot, too."},
    {"trapeze snapshot delete web before-upgrade", "What the machine is now stays as it is."},
};

/* ---- the tree ---- */

static json_int_t number_of(const json_t *row, const char *key)
{
    return json_integer_value(json_object_get(row, key));
}

static const char *text_of(const json_t *row, const char *key)
{
    return json_string_value(json_object_get(row, key));
}

static bool is_child(const json_t *row, const char *parent)
{
    const char *text = text_of(row, "parent");
    return (text == NULL) == (parent == NULL) && (text == NULL || strcmp(text, parent) == 0);
}

static const char *size_of(const json_t *row, const char *key, char text[32])
{
    json_int_t size = number_of(row, key);
    return size > 0 ? cli_show_size((uint64_t)size, text) : "-";
}

static void print_row(const json_t *row, const char *lines, bool last)
{
    char age[32], memory[32], disks[32];
    int width = printf("%s%s%s", lines,
                       text_of(row, "parent") == NULL ? ""
                       : last                         ? "`- "
                                                      : "|- ",
                       text_of(row, "name"));
    printf("%*s %-10s %9s %9s%s\n", width < 32 ? 32 - width : 0, "",
           cli_show_age(number_of(row, "created"), age),
           json_is_true(json_object_get(row, "memory")) ? size_of(row, "memory-size", memory) : "-",
           size_of(row, "disk-size", disks),
           json_is_true(json_object_get(row, "current")) ? " <- the machine goes on from here"
                                                         : "");
}

/* `depth` bounds what a daemon could answer. */
static void print_below(const json_t *rows, const char *parent, const char *lines, unsigned depth)
{
    const json_t *row, *last = NULL;
    size_t index;
    json_array_foreach(rows, index, row) if (is_child(row, parent)) last = row;
    json_array_foreach(rows, index, row)
    {
        char *below = NULL;
        if (!is_child(row, parent))
            continue;
        print_row(row, lines, row == last);
        if (depth > 0 && asprintf(&below, "%s%s", lines,
                                  parent == NULL ? ""
                                  : row == last  ? "   "
                                                 : "|  ") >= 0)
            print_below(rows, text_of(row, "name"), below, depth - 1);
        free(below);
    }
}

static void print_deleted(const json_t *answer)
{
    char size[32];
    if (number_of(answer, "deleted-size") > 0)
        printf("Deleted ones still take %s: that comes back with the first snapshot that is made, "
               "restored or\ndeleted after the machine has stopped, but for what several others need.\n",
               size_of(answer, "deleted-size", size));
}

/* ---- the verbs ---- */

static int list(const struct cli_args *args, const char *name, const char *snapshot,
                struct error **err)
{
    (void)snapshot;
    json_t *answer = cli_api("GET", NULL, err, "/v1/instances/%s/snapshots", name);
    if (answer != NULL && !cli_given(args, "json")) {
        printf("%-32s %-10s %9s %9s\n", "NAME", "AGE", "MEMORY", "DISKS");
        print_below(json_object_get(answer, "snapshots"), NULL, "", 1024);
        print_deleted(answer);
    }
    return cli_instance_done(args, answer);
}

static int create(const struct cli_args *args, const char *name, const char *snapshot,
                  struct error **err)
{
    json_t *body =
        json_pack("{s:s*, s:b, s:b}", "snapshot", snapshot, "memory",
                  (int)!cli_given(args, "no-memory"), "compress", (int)cli_given(args, "compress"));
    json_t *answer = cli_api_copying(name, "POST", body, err, "/v1/instances/%s/snapshots", name);
    if (answer != NULL && !cli_given(args, "json"))
        printf("%s: %s\n", name, text_of(answer, "snapshot"));
    return cli_instance_done(args, answer);
}

static bool is_up(const char *name, bool *up, struct error **err)
{
    json_t *answer = cli_api("GET", NULL, err, "/v1/instances/%s", name);
    const char *state = text_of(answer, "state");
    *up = state != NULL && strcmp(state, "stopped") != 0 && strcmp(state, "suspended") != 0;
    json_decref(answer);
    return answer != NULL;
}

/* One that runs is ended first, and runs again afterwards. */
static int restore(const struct cli_args *args, const char *name, const char *snapshot,
                   struct error **err)
{
    bool up = false;
    if (!is_up(name, &up, err))
        return CLI_HOST_FAILURE;
    if (up) {
        json_t *stopped =
            cli_api("POST", json_pack("{s:b}", "force", 1), err, "/v1/instances/%s/stop", name);
        json_decref(stopped);
        if (stopped == NULL)
            return CLI_HOST_FAILURE;
    }
    json_t *answer = cli_api_copying(name, "POST", json_pack("{s:s}", "snapshot", snapshot), err,
                                     "/v1/instances/%s/snapshots/restore", name);
    if (answer != NULL && (up || cli_given(args, "start"))) {
        json_t *started = cli_api("POST", NULL, err, "/v1/instances/%s/start", name);
        json_decref(started);
        if (started == NULL) {
            error_prefix(err, "'%s' is as it was at '%s', but does not start", name, snapshot);
            json_decref(answer);
            answer = NULL;
        }
    }
    return cli_instance_done(args, answer);
}

static int delete (const struct cli_args *args, const char *name, const char *snapshot,
                   struct error **err)
{
    json_t *answer = cli_api_copying(name, "DELETE", NULL, err,
                                     "/v1/instances/%s/snapshots?snapshot=%s", name, snapshot);
    if (answer != NULL && !json_is_true(json_object_get(answer, "merged")) &&
        !cli_given(args, "json"))
        printf("%s: its disks take their space until what lies upon them can be merged with them, "
               "by the "
               "next 'snapshot' command while the machine does not run\n",
               name);
    return cli_instance_done(args, answer);
}

static const struct {
    const char *name;
    int (*run)(const struct cli_args *args, const char *name, const char *snapshot,
               struct error **err);
    size_t least, most; /* operands */
} verbs[] = {{"create", create, 1, 2},
             {"list", list, 1, 1},
             {"restore", restore, 2, 2},
             {"delete", delete, 2, 2}};

static int run(const struct cli_args *args, struct error **err)
{
    const char *word = args->operand_count > 0 ? args->operands[0] : "";
    size_t count = args->operand_count > 0 ? args->operand_count - 1 : 0;
    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
        if (strcmp(verbs[i].name, word) != 0)
            continue;
        if (count < verbs[i].least || count > verbs[i].most) {
            error_set(err, ERROR_USAGE, "'snapshot %s' takes the name of an instance%s", word,
                      verbs[i].least == 2  ? " and that of a snapshot"
                      : verbs[i].most == 2 ? " and perhaps a name for the snapshot"
                                           : "");
            return CLI_USAGE;
        }
        for (size_t k = 1; k <= count; k++)
            if (!cli_name_check(args->operands[k], err))
                return CLI_USAGE;
        return verbs[i].run(args, args->operands[1], count == 2 ? args->operands[2] : NULL, err);
    }
    error_set(err, ERROR_USAGE, "'trapeze snapshot' takes create, list, restore or delete");
    error_hint(err, "'trapeze snapshot --help' explains them.");
    return CLI_USAGE;
}

const struct cli_command cli_command_snapshot = {
    .name = "snapshot",
    .operands = "create NAME [SNAPSHOT] | list NAME | restore NAME SNAPSHOT | delete NAME SNAPSHOT",
    .summary = "Keep what an instance is now, to go back to it",
    .description =
        "create keeps the instance's disks as they are: what is written from then on goes into new "
        "images "
        "on top of them. Of a machine that runs (or is suspended) it keeps what it is at as well, "
        "unless "
        "--no-memory is given.\n\n"
        "restore makes the instance what it was then, its settings included. One with memory goes "
        "on where "
        "it was when it is started, or at once if it runs now; one without boots. What the machine "
        "has "
        "been at since is lost, unless there is a snapshot of that, too. One that is made "
        "afterwards is "
        "another branch of the tree.\n\n"
        "delete removes a snapshot, not what comes after it: disk images that nothing else needs "
        "are merged "
        "with those that lie upon them. Of a machine that runs that has to wait until it stands "
        "still.\n\n"
        "Disks that the machine only reads, and shared folders, are in no snapshot; disks on "
        "servers cannot "
        "be. A chain of images is 16 deep at most.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
