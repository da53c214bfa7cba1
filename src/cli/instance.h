/* SPDX-License-Identifier: MIT
 *
 * What the commands about instances share: a call of the daemon's API as JSON.
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLI_INSTANCE_H
#define TRAPEZE_CLI_INSTANCE_H

#include <jansson.h>

#include "cli/cli.h"

#define CLI_JSON_OPTION                                                                            \
    {                                                                                              \
        "json", 0, NULL, "Print the daemon's answer as it is.", NULL                               \
    }

/* `path` is a format for what follows, names of instances. `body` is stolen and may be NULL. A
 * new reference, or NULL with err: the daemon's own sentence, if it refused. */
json_t *cli_api(const char *method, json_t *body, struct error **err, const char *path, ...)
    __attribute__((format(printf, 4, 5)));

/* What came of a call: as of cli_api(). Frees the answer, which may be NULL: err is set then. */
json_t *cli_api_answer(char *answer, int status, struct error **err);
/* Texts of strangers (guests, workers, archives) without what a terminal would obey; a guest's output
 * ("text") stays. The value itself. */
json_t *cli_plain(json_t *value);
/* The same for what may copy files: a bar tells how far the job is that makes `name`. */
json_t *cli_api_copying(const char *name, const char *method, json_t *body, struct error **err,
                        const char *path, ...) __attribute__((format(printf, 5, 6)));
/* The same, told in its own words. */
struct cli_job_view {
    /* Before each look at the job; may be NULL. */
    void (*waiting)(void *opaque);
    /* What is in front of the bar, in `text`, by its row of /v1/jobs. */
    void (*describe)(const json_t *job, char *text, size_t size);
    void *opaque;
};
json_t *cli_api_watching(const char *name, const struct cli_job_view *view, const char *method,
                         json_t *body, struct error **err, const char *path, ...)
    __attribute__((format(printf, 6, 7)));

/* A request that becomes a stream of this protocol (api.h). -1: err. */
int cli_stream(const char *path, const char *protocol, struct error **err);

/* The only operand, a name that can stand in a path. NULL: err. */
const char *cli_instance(const struct cli_args *args, size_t index, size_t count,
                         struct error **err);

/* Whether it can be the name of one. False: err. */
bool cli_name_check(const char *name, struct error **err);

/* POST /v1/instances/NAME/VERB; prints "NAME: STATE", or JSON with --json. */
int cli_instance_verb(const struct cli_args *args, const char *verb, json_t *body,
                      struct error **err);

/* The end of a command that has no more to say: prints the answer with --json, and frees it. NULL:
 * it failed. */
int cli_instance_done(const struct cli_args *args, json_t *answer);

/* Of --force and --timeout. NULL: err. */
json_t *cli_stop_body(const struct cli_args *args, struct error **err);

/* The operands of a command about a machine's devices, `wanted` and perhaps the machine: an
 * instance's name, in front of them or behind, goes behind them, where a control socket is. `words`
 * has room for all. The instance's name; NULL: it is none. */
const char *cli_machine_last(char *const *operands, size_t count, size_t wanted, char **words);

/* What has been done to a machine that runs is written into its description, too, unless --live
 * says not to. `wish` (api_devices.c) is stolen; `instance` may be NULL: nothing to do. Else err, and
 * false. */
bool cli_persist(const struct cli_args *args, const char *instance, json_t *wish,
                 struct error **err);
/* Of a machine that has only these devices, as "add" takes it. */
struct machine_config;
json_t *cli_describe_devices(const struct machine_config *config);

#define CLI_LIVE_OPTION                                                                            \
    {                                                                                              \
        "live", 0, NULL,                                                                           \
            "attach, detach, insert, eject, of an instance: only until it ends. Otherwise its .vmx " \
            "says it, too.",                                                                       \
            NULL                                                                                   \
    }
#define CLI_EXPIRES_OPTION                                                                         \
    {                                                                                              \
        "expires", 0, "WHEN",                                                                      \
            "When it is no longer needed, and 'prune' proposes to delete it: a day such as "       \
            "2026-12-24, a moment of UTC (2026-12-24T18:00:00Z), or how long from now, as 12h, "   \
            "30d or 8w.",                                                                          \
            NULL                                                                                   \
    }
/* What --expires says, as a moment; "" if it was not given. False: err. */
bool cli_expires(const struct cli_args *args, char text[24], struct error **err);

/* "3 days", of what lies that long back. */
const char *cli_show_age(json_int_t since, char text[32]);

void cli_print_json(const json_t *value);

#endif
