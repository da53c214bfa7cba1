/* SPDX-License-Identifier: MIT
 *
 * See instance.h.
 */
#include "cli/instance.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cli/size.h"
#include "client/api.h"
#include "config/vmx.h"

json_t *cli_api_answer(char *answer, int status, struct error **err)
{
    json_t *value = answer != NULL ? json_loads(answer, JSON_ALLOW_NUL, NULL) : NULL;
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

json_t *cli_api(const char *method, json_t *body, struct error **err, const char *path, ...)
{
    char *where = NULL, *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
    int status = 0;
    va_list values;
    va_start(values, path);
    int length = vasprintf(&where, path, values);
    va_end(values);
    char *answer = length > 0 ? api_call(method, where, text, &status, err) : NULL;
    free(where);
    free(text);
    json_decref(body);
    return cli_api_answer(answer, status, err);
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
    const char *name = args->operands[index];
    for (const char *at = name; at == name || *at != '\0'; at++)
        if (!isalnum((unsigned char)*at) && (*at == '\0' || strchr("._-", *at) == NULL)) {
            error_set(err, ERROR_USAGE, "'%s' is no name for an instance", name);
            error_hint(err, "It has letters, digits, '.', '_' and '-'.");
            return NULL;
        }
    return name;
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

int cli_instance_verb_to(const struct cli_args *args, const char *verb, struct error **err)
{
    const char *from = cli_instance(args, 0, 2, err);
    const char *to = from != NULL ? cli_instance(args, 1, 2, err) : NULL;
    return cli_instance_done(args, to != NULL ? cli_api("POST", json_pack("{s:s}", "to", to), err,
                                                        "/v1/instances/%s/%s", from, verb)
                                              : NULL);
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
