/* SPDX-License-Identifier: MIT
 *
 * See instance.h.
 */
#include "cli/instance.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "cli/progress.h"
#include "cli/size.h"
#include "client/api.h"
#include "config/machine.h"
#include "config/vmx.h"

static json_t *plain_text(json_t *value)
{
    char *text = alloc_string(json_string_value(value));
    error_plain(text);
    if (strcmp(text, json_string_value(value)) != 0)
        json_string_set(value, text);
    free(text);
    return value;
}

json_t *cli_plain(json_t *value)
{
    const char *key;
    json_t *member;
    size_t index;
    if (json_is_string(value))
        return plain_text(value);
    json_array_foreach(value, index, member)
    {
        cli_plain(member);
    }
    json_object_foreach(value, key, member)
    {
        if (strcmp(key, "text") != 0)
            cli_plain(member);
    }
    return value;
}

json_t *cli_api_answer(char *answer, int status, struct error **err)
{
    json_t *value = answer != NULL ? cli_plain(json_loads(answer, JSON_ALLOW_NUL, NULL)) : NULL;
    const char *refusal = json_string_value(json_object_get(value, "error"));
    if (answer != NULL && status / 100 != 2) {
        error_set(err, status < 500 ? ERROR_USAGE : ERROR_HOST, "%s",
                  refusal != NULL ? refusal : "the daemon refuses without a word");
        json_decref(value);
        value = NULL;
    } else if (answer != NULL && value == NULL) {
        error_set(err, ERROR_HOST, "the daemon's answer makes no sense");
    }
    free(answer);
    return value;
}

static json_t *call(const char *method, json_t *body, void (*waiting)(void *opaque), void *opaque,
                    struct error **err, const char *path, va_list values)
{
    char *where = NULL, *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
    int status = 0;
    char *answer = vasprintf(&where, path, values) > 0
                       ? api_call_waiting(method, where, text, &status, waiting, opaque, err)
                       : NULL;
    free(where);
    free(text);
    json_decref(body);
    return cli_api_answer(answer, status, err);
}

json_t *cli_api(const char *method, json_t *body, struct error **err, const char *path, ...)
{
    va_list values;
    va_start(values, path);
    json_t *value = call(method, body, NULL, NULL, err, path, values);
    va_end(values);
    return value;
}

int cli_stream(const char *path, const char *protocol, struct error **err)
{
    char *refusal = NULL;
    int fd = api_upgrade(path, protocol, &refusal, err);
    if (fd < 0 && refusal != NULL)
        json_decref(cli_api_answer(refusal, 400, err));
    return fd;
}

struct watching {
    const char *name;
    const struct cli_job_view *view; /* NULL: it copies */
    struct progress progress;
    char what[128];
};

static void on_waiting(void *opaque)
{
    struct watching *watching = opaque;
    const struct cli_job_view *view = watching->view;
    if (view != NULL && view->waiting != NULL)
        view->waiting(view->opaque);
    json_t *answer = cli_api("GET", NULL, NULL, "/v1/jobs");
    const json_t *job;
    size_t index;
    json_array_foreach(json_object_get(answer, "jobs"), index, job)
    {
        const char *to = json_string_value(json_object_get(job, "to"));
        const char *name = json_string_value(json_object_get(job, "instance"));
        if (strcmp(to != NULL ? to : name, watching->name) != 0)
            continue;
        if (view != NULL)
            view->describe(job, watching->what, sizeof(watching->what));
        watching->progress.total = (uint64_t)json_integer_value(json_object_get(job, "total"));
        progress_step(&watching->progress,
                      (uint64_t)json_integer_value(json_object_get(job, "done")));
    }
    json_decref(answer);
}

static json_t *watch(const char *name, const struct cli_job_view *view, const char *method,
                     json_t *body, struct error **err, const char *path, va_list values)
{
    struct watching watching = {.name = name, .view = view, .what = "copying"};
    progress_start(&watching.progress, watching.what, 0);
    json_t *value = call(method, body, on_waiting, &watching, err, path, values);
    progress_end(&watching.progress);
    return value;
}

json_t *cli_api_copying(const char *name, const char *method, json_t *body, struct error **err,
                        const char *path, ...)
{
    va_list values;
    va_start(values, path);
    json_t *value = watch(name, NULL, method, body, err, path, values);
    va_end(values);
    return value;
}

json_t *cli_api_watching(const char *name, const struct cli_job_view *view, const char *method,
                         json_t *body, struct error **err, const char *path, ...)
{
    va_list values;
    va_start(values, path);
    json_t *value = watch(name, view, method, body, err, path, values);
    va_end(values);
    return value;
}

const char *cli_instance(const struct cli_args *args, size_t index, size_t count,
                         struct error **err)
{
    if (args->operand_count != count) {
        error_set(err, ERROR_USAGE,
                  count == 1 ? "this takes the name of one instance"
                             : "this takes two names, the old and the new one");
        error_hint(err, "'trapeze list' has them.");
        return NULL;
    }
    return cli_name_check(args->operands[index], err) ? args->operands[index] : NULL;
}

bool cli_name_check(const char *name, struct error **err)
{
    for (const char *at = name; at == name || *at != '\0'; at++)
        if (!isalnum((unsigned char)*at) && (*at == '\0' || strchr("._-", *at) == NULL)) {
            error_set(err, ERROR_USAGE, "'%s' is no name for an instance", name);
            error_hint(err, "It has letters, digits, '.', '_' and '-'.");
            return false;
        }
    return true;
}

void cli_print_json(const json_t *value)
{
    json_dumpf(value, stdout, JSON_INDENT(2));
    putchar('\n');
}

int cli_instance_verb(const struct cli_args *args, const char *verb, json_t *body,
                      struct error **err)
{
    const char *name = cli_instance(args, 0, 1, err);
    if (name == NULL) {
        json_decref(body);
        return CLI_USAGE;
    }
    json_t *answer = cli_api("POST", body, err, "/v1/instances/%s/%s", name, verb);
    if (answer == NULL)
        return CLI_HOST_FAILURE;
    if (cli_given(args, "json"))
        cli_print_json(answer);
    else
        printf("%s: %s\n", name, json_string_value(json_object_get(answer, "state")));
    json_decref(answer);
    return CLI_OK;
}

int cli_instance_done(const struct cli_args *args, json_t *answer)
{
    if (answer == NULL)
        return CLI_HOST_FAILURE;
    if (cli_given(args, "json"))
        cli_print_json(answer);
    json_decref(answer);
    return CLI_OK;
}

json_t *cli_stop_body(const struct cli_args *args, struct error **err)
{
    const char *text = cli_last(args, "timeout");
    uint64_t seconds = 60;
    if (text != NULL && (!cli_parse_count(text, 3600, &seconds) || seconds == 0)) {
        error_set(err, ERROR_USAGE, "--timeout: '%s' is no number of seconds from 1 to 3600", text);
        return NULL;
    }
    return json_pack("{s:b, s:I}", "force", (int)cli_given(args, "force"), "timeout",
                     (json_int_t)seconds);
}

const char *cli_machine_last(char *const *operands, size_t count, size_t wanted, char **words)
{
    bool first = count == wanted + 1 && cli_is_instance(operands[0]);
    for (size_t i = 0; i < count; i++)
        words[i] = operands[first ? (i + 1) % count : i];
    return count == wanted + 1 && cli_is_instance(words[wanted]) ? words[wanted] : NULL;
}

bool cli_persist(const struct cli_args *args, const char *instance, json_t *wish, struct error **err)
{
    if (instance == NULL || cli_given(args, "live")) {
        json_decref(wish);
        return true;
    }
    json_t *answer = cli_api("POST", wish, err, "/v1/instances/%s/devices", instance);
    if (answer == NULL)
        error_prefix(err, "the machine has the change, its .vmx has not");
    json_decref(answer);
    return answer != NULL;
}

json_t *cli_describe_devices(const struct machine_config *config)
{
    size_t size;
    char *text = vmx_write(config, &size);
    json_t *wish = json_pack("{s:s%}", "add", text, size);
    free(text);
    return wish;
}

bool cli_expires(const struct cli_args *args, char text[24], struct error **err)
{
    const char *given = cli_last(args, "expires");
    int64_t moment = 0;
    text[0] = '\0';
    if (given == NULL)
        return true;
    if (!machine_parse_expiry(given, (int64_t)time(NULL), &moment)) {
        error_set(err, ERROR_USAGE, "--expires: '%s' is neither a day nor how long from now",
                  given);
        error_hint(err, "It is a day such as 2026-12-24, or 12h, 30d, 8w.");
        return false;
    }
    machine_print_time(moment, text);
    return true;
}

/* "3 days", of what lies that long back. */
const char *cli_show_age(json_int_t since, char text[32])
{
    static const struct {
        long long seconds;
        const char *name;
    } units[] = {{86400, "day"}, {3600, "hour"}, {60, "minute"}, {1, "second"}};
    long long age;
    if (__builtin_sub_overflow((long long)time(NULL), since, &age))
        age = 0;
    size_t unit = 0;
    while (unit < ARRAY_SIZE(units) - 1 && age < units[unit].seconds)
        unit++;
    age = age > 0 ? age / units[unit].seconds : 0;
    snprintf(text, 32, "%lld %s%s", age, units[unit].name, age == 1 ? "" : "s");
    return text;
}
