/* SPDX-License-Identifier: MIT
 *
 * PATCH /v1/instances/{name}: keys of config/settings.h. The .vmx changes first; then a machine
 * that runs is told what it can do at once, one thing after the other, and the answer says which
 * was what.
 */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "client/cgroup.h"
#include "client/guest_ssh.h"
#include "config/settings.h"
#include "daemon/api.h"
#include "daemon/in_guest.h"
#include "daemon/job.h"
#include "daemon/machine.h"

enum { ANSWER_S = 30 };

static bool apply(struct machine_config *config, const char *key, const json_t *value,
                  struct error **err)
{
    char number[24];
    const char *text = json_string_value(value);
    if (json_is_boolean(value))
        text = json_is_true(value) ? "on" : "off";
    if (json_is_integer(value)) {
        snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
        text = number;
    }
    if (text == NULL)
        return error_set(err, ERROR_USAGE, "%.40s: a value is a text, a number, true or false",
                         key);
    return setting_apply(config, key, text, err);
}

/* What a machine that runs is told of it: {"key", "at-once", and with a verb "verb", "arguments"}.
 */
static json_t *describe(const struct machine_config *config, const char *key)
{
    static const char *const devices[] = {NULL, "disk", "nic"};
    unsigned number;
    const struct setting *setting = setting_find(key, &number, NULL);
    json_t *told = json_pack("{s:s, s:b}", "key", key, "at-once", (int)setting->at_once);
    json_t *arguments;
    if (setting->verb == NULL)
        return told;
    arguments =
        json_pack("{s:I}", setting->argument, (json_int_t)setting_told(setting, config, number));
    if (devices[setting->device] != NULL)
        json_object_set_new(arguments, devices[setting->device], json_integer(number));
    if (setting->in_guest != NULL)
        json_object_set_new(told, "in-guest", json_true());
    json_object_set_new(told, "verb", json_string(setting->verb));
    json_object_set_new(told, "arguments", arguments);
    return told;
}

/* A list of what describe() makes. Nobody else changes the instance (api_take). */
static json_t *change(struct daemon *daemon, const char *name, const json_t *keys,
                      struct error **err)
{
    struct instance instance;
    struct machine_config config;
    const char *key;
    json_t *value, *list = NULL;
    if (!instance_open(&instance, &daemon->store, name, err))
        return NULL;
    struct text *text = instance_read(&instance, err);
    machine_config_init(&config);
    bool good = text != NULL && vmx_read(text, &config, NULL, err);
    const unsigned had = machine_max_cpus(&config);
    json_object_foreach((json_t *)(uintptr_t)keys, key, value)
    {
        good = good && apply(&config, key, value, err);
    }
    /* One that runs keeps the harts that it has: if it is suspended, what goes on has as many. */
    if (good && config.cpus < had && json_object_get(keys, "max-cpus") == NULL &&
        machine_is_linked(daemon, name))
        config.max_cpus = had;
    good = good && machine_config_check(&config, err);
    if (good) {
        vmx_update(text, &config);
        good = instance_write(&instance, text, err);
    }
    if (good) {
        char group[INSTANCE_GROUP];
        instance_group(&instance, group);
        cgroup_change_machine(group, &config);
        list = json_array();
        json_object_foreach((json_t *)(uintptr_t)keys, key, value)
        {
            json_array_append_new(list, describe(&config, key));
        }
    }
    text_free(text);
    machine_config_clear(&config);
    instance_close(&instance);
    return list;
}

/* ---- telling the machine: call->kept is {"todo", "live", "next-start"}, call->number how far ----
 */

static void go_on(struct api_call *call);

static void postpone(struct api_call *call, const char *key, const char *why)
{
    json_t *row = json_pack("{s:s}", "key", key);
    if (why != NULL)
        json_object_set_new(row, "reason", api_text(why));
    json_array_append_new(json_object_get(call->kept, "next-start"), row);
}

/* The key that is being dealt with. */
static const char *key_of(const struct api_call *call)
{
    const json_t *todo = json_object_get(call->kept, "todo");
    return json_string_value(
        json_object_get(json_array_get(todo, (size_t)call->number), "key"));
}

static const char *verb_of(const struct api_call *call)
{
    const json_t *row = json_array_get(json_object_get(call->kept, "todo"), (size_t)call->number);
    return json_string_value(json_object_get(row, "verb"));
}

/* It is dealt with. */
static void settle(struct api_call *call, const char *why_not)
{
    if (why_not == NULL)
        json_array_append_new(json_object_get(call->kept, "live"), json_string(key_of(call)));
    else
        postpone(call, key_of(call), why_not);
    call->number++;
    go_on(call);
}

/* ---- what the guest has to do: told, then looked at from outside ---- */

static void settle_by_hand(struct api_call *call, const char *why)
{
    char text[900];
    unsigned number;
    const struct setting *setting = setting_find(key_of(call), &number, NULL);
    snprintf(text, sizeof(text), "%s; %s", why, setting->in_guest->by_hand);
    settle(call, text);
}

static json_int_t wish_of(const struct api_call *call)
{
    const json_t *row = json_array_get(json_object_get(call->kept, "todo"), (size_t)call->number);
    unsigned number;
    const struct setting *setting = setting_find(key_of(call), &number, NULL);
    return json_integer_value(
        json_object_get(json_object_get(row, "arguments"), setting->argument));
}

/* The worker sees what the guest switched on, unless firmware of the guest's own is between them. */
static void on_looked(void *opaque, const json_t *result, const char *error)
{
    struct api_call *call = opaque;
    json_int_t started = json_integer_value(json_object_get(result, "started"));
    char text[120];
    snprintf(text, sizeof(text), "the guest says that it did it, and %lld run", (long long)started);
    if (error != NULL)
        settle(call, error);
    else if (started != 0 && started != wish_of(call))
        settle_by_hand(call, text);
    else
        settle(call, NULL);
}

static void on_guest_told(void *opaque, const json_t *result, const struct error *error)
{
    struct api_call *call = opaque;
    if (result == NULL)
        settle_by_hand(call, error_message(error));
    else
        machine_ask(call->daemon, call->name, verb_of(call), ANSWER_S, on_looked, call);
}

static void tell_guest(struct api_call *call)
{
    const char *user = api_query(call, "user");
    if (strcmp(machine_state(call->daemon, call->name), "running") != 0) {
        settle_by_hand(call, "the machine does not run just now");
        return;
    }
    json_t *arguments = json_pack("{s:s, s:I, s:s}", "key", key_of(call), "value", wish_of(call),
                                  "user", user != NULL ? user : "root");
    job_start(call->daemon, call->name, arguments, in_guest_tell, on_guest_told, call);
    json_decref(arguments);
}

static void on_told(void *opaque, const json_t *result, const char *error)
{
    struct api_call *call = opaque;
    const json_t *row = json_array_get(json_object_get(call->kept, "todo"), (size_t)call->number);
    bool in_guest = json_is_true(json_object_get(row, "in-guest"));
    if (error == NULL && in_guest &&
        json_integer_value(json_object_get(result, "started")) != wish_of(call))
        tell_guest(call);
    else
        settle(call, error);
}

static void go_on(struct api_call *call)
{
    const json_t *todo = json_object_get(call->kept, "todo"), *next;
    while ((next = json_array_get(todo, (size_t)call->number)) != NULL) {
        const char *verb = json_string_value(json_object_get(next, "verb"));
        if (verb != NULL && machine_is_linked(call->daemon, call->name) &&
            !machine_is_ending(call->daemon, call->name)) {
            machine_ask_with(call->daemon, call->name, verb,
                             json_deep_copy(json_object_get(next, "arguments")), ANSWER_S, on_told,
                             call);
            return;
        }
        if (json_is_true(json_object_get(next, "at-once")))
            json_array_append(json_object_get(call->kept, "live"), json_object_get(next, "key"));
        else
            postpone(call, json_string_value(json_object_get(next, "key")), NULL);
        call->number++;
    }
    json_t *answer = json_pack("{s:s, s:O, s:O}", "name", call->name, "live",
                               json_object_get(call->kept, "live"), "next-start",
                               json_object_get(call->kept, "next-start"));
    machine_give_back(call->daemon, call->name, false);
    daemon_event(call->daemon, call->name, "set", json_deep_copy(call->body));
    api_reply(call, answer);
}

static void on_changed(void *opaque, const json_t *result, const struct error *error)
{
    struct api_call *call = opaque;
    if (result == NULL) {
        machine_give_back(call->daemon, call->name, false);
        api_refuse(call, error_kind(error) == ERROR_USAGE ? 400 : 500, error_message(error));
        return;
    }
    call->kept =
        json_pack("{s:o, s:[], s:[]}", "todo", json_deep_copy(result), "live", "next-start");
    go_on(call);
}

static void run(struct api_call *call)
{
    const char *user = api_query(call, "user");
    if (json_object_size(call->body) == 0)
        api_refuse(call, 400, "there is nothing to set; /v1/openapi.json has the keys");
    else if (user != NULL && !guest_ssh_user_check(user))
        api_refuse(call, 400, "'user' is no user's name");
    else if (api_take_existing(call))
        job_start(call->daemon, call->name, call->body, change, on_changed, call);
}

static json_t *describe_body(void)
{
    json_t *keys = json_object(), *patterns = json_object();
    for (size_t i = 0; i < setting_count(); i++) {
        const struct setting *setting = setting_at(i);
        char text[600], pattern[60];
        snprintf(text, sizeof(text), "%s. %s%s", setting->form, setting->help,
                 setting->verb == NULL && !setting->at_once ? " Takes effect at the next start."
                                                            : "");
        json_t *row = json_pack("{s:s, s:[{s:s}, {s:s}, {s:s}]}", "description", text, "anyOf",
                                "type", "string", "type", "integer", "type", "boolean");
        if (setting->device == SETTING_MACHINE) {
            json_object_set_new(keys, setting->name, row);
            continue;
        }
        const char *number = strchr(setting->name, 'N');
        snprintf(pattern, sizeof(pattern), "^%.*s[0-9]+\\%s$", (int)(number - setting->name),
                 setting->name, number + 1);
        json_object_set_new(patterns, pattern, row);
    }
    return json_pack("{s:s, s:i, s:b, s:o, s:o}", "type", "object", "minProperties", 1,
                     "additionalProperties", 0, "properties", keys, "patternProperties", patterns);
}

const struct api_verb api_set = {
    .id = "set",
    .method = "PATCH",
    .path = "/v1/instances/{name}",
    .summary = "Change an instance, as far as possible while it runs",
    .query = "[{\"name\": \"user\", \"in\": \"query\", \"schema\": {\"type\": \"string\"}, "
             "\"description\": \"who to be in the guest, for what only that can do (cpus); root "
             "unless given, others do it by sudo\"}]",
    .describe_body = describe_body,
    .answer = "{\"type\": \"object\", \"required\": [\"name\", \"live\", \"next-start\"], "
              "\"properties\": {\"name\": {\"type\": \"string\"}, \"live\": {\"type\": \"array\", "
              "\"description\": \"keys that took effect\", \"items\": {\"type\": \"string\"}}, "
              "\"next-start\": {\"type\": \"array\", \"description\": \"keys that take effect at "
              "the next start\", \"items\": {\"type\": \"object\", \"required\": [\"key\"], "
              "\"properties\": {\"key\": {\"type\": \"string\"}, \"reason\": {\"type\": "
              "\"string\", \"description\": \"why not at once\"}}}}}}",
    .status = 200,
    .run = run,
};
