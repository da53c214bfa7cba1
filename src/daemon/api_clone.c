/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/clone.
 */
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/catalogue.h"
#include "daemon/job.h"
#include "daemon/machine.h"

static json_t *work(struct daemon *daemon, const char *name, const json_t *arguments,
                    struct error **err)
{
    struct instance_plan plan = {
        .name = json_string_value(json_object_get(arguments, "to")),
        .expires = json_string_value(json_object_get(arguments, "expires")),
        .step = job_step,
        .opaque = daemon,
    };
    struct instance instance;
    if (!instance_open(&instance, &daemon->store, name, err))
        return NULL;
    plan.linked = instance.is_template && !json_is_true(json_object_get(arguments, "full"));
    bool good = (instance.is_template ? instance_lock_shared(&instance, err)
                                      : instance_lock(&instance, err)) &&
                instance_check_not_suspended(&instance, err) &&
                instance_clone(&instance, &plan, err);
    instance_close(&instance);
    return good ? json_pack("{s:s, s:b}", "name", plan.name, "linked", (int)plan.linked) : NULL;
}

/* ---- of a machine that runs ---- */

enum { ANSWER_S = 30 };

/* Of the last one: it runs, or has ended again already. */
static void on_status(void *opaque, const json_t *result, const char *error)
{
    struct api_call *call = opaque;
    (void)result, (void)error;
    if (--call->number > 0)
        return;
    const json_t *first = json_array_get(json_object_get(call->kept, "clones"), 0);
    json_t *answer = json_deep_copy(call->kept);
    json_object_set(answer, "name", json_object_get(first, "name"));
    json_object_set_new(answer, "linked", json_true());
    api_reply(call, answer);
}

static void on_cloned(void *opaque, const json_t *result, const struct error *error)
{
    struct api_call *call = opaque;
    struct daemon *daemon = call->daemon;
    const json_t *clone;
    size_t i;
    machine_give_back(daemon, call->name, false);
    catalogue_sync(daemon->catalogue, &daemon->store);
    if (result == NULL) {
        api_refuse(call, error_kind(error) == ERROR_USAGE ? 400 : 500, error_message(error));
        return;
    }
    daemon_event(daemon, call->name, call->verb->id, json_deep_copy(result));
    call->kept = json_deep_copy(result);
    call->number = (long long)json_array_size(json_object_get(result, "clones"));
    json_array_foreach(json_object_get(call->kept, "clones"), i, clone)
    {
        const char *name = json_string_value(json_object_get(clone, "name"));
        machine_link(daemon, name, json_pack("{s:O}", "pid", json_object_get(clone, "pid")));
        machine_ask(daemon, name, "status", ANSWER_S, on_status, call);
    }
}

static void clone_running(struct api_call *call)
{
    if (!api_take_existing(call))
        return;
    if (machine_is_linked(call->daemon, call->name) &&
        !machine_is_ending(call->daemon, call->name)) {
        job_start(call->daemon, call->name, call->body, machine_clone_running, on_cloned, call);
        return;
    }
    machine_give_back(call->daemon, call->name, false);
    api_refuse(call, 409, "the instance is not running: an instant clone goes on from where it is");
}

static void run(struct api_call *call)
{
    const char *to, *expires = NULL;
    int full = 0, instant = 0;
    json_int_t count = 1;
    int64_t moment;
    struct instance instance;
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s:s, s?b, s?s, s?b, s?I}", "to", &to,
                       "full", &full, "expires", &expires, "instant", &instant, "count",
                       &count) != 0) {
        api_refuse(
            call, 400,
            "a clone has a name, 'to', and perhaps 'full', 'instant', 'count' and 'expires'");
    } else if (count != 1 && !instant) {
        api_refuse(call, 400, "'count' is for clones of a running machine, with 'instant'");
    } else if (full && instant) {
        api_refuse(call, 400, "an instant clone lies upon the original's files: not 'full' too");
    } else if (expires != NULL && !machine_parse_time(expires, &moment)) {
        api_refuse(call, 400, "'expires' is a moment of UTC such as 2026-12-24T18:00:00Z");
    } else if (instant) {
        clone_running(call);
    } else if (api_open(call, &instance)) {
        call->shared = instance.is_template;
        instance_close(&instance);
        api_change(call, work);
    }
}

const struct api_verb api_clone = {
    .id = "clone",
    .method = "POST",
    .path = "/v1/instances/{name}/clone",
    .summary = "Make an instance like a template or another instance",
    .body = "{\"type\": \"object\", \"required\": [\"to\"], \"additionalProperties\": false, "
            "\"properties\": {\"to\": {\"type\": \"string\"}, \"full\": {\"type\": \"boolean\", "
            "\"description\": \"copies, not what lies upon a template's disks\"}, "
            "\"instant\": {\"type\": \"boolean\", \"description\": \"of a machine that runs, and "
            "goes on "
            "from where that is\"}, \"count\": {\"type\": \"integer\", \"description\": \"so many "
            "instant "
            "clones, TO-1 and so on\"}, "
            "\"expires\": " API_BODY_EXPIRES "}}",
    .answer = "{\"type\": \"object\", \"required\": [\"name\", \"linked\"], \"properties\": "
              "{\"name\": {\"type\": \"string\"}, \"linked\": {\"type\": \"boolean\"}, \"clones\": "
              "{\"type\": "
              "\"array\", \"items\": {\"type\": \"object\", \"required\": [\"name\", \"pid\"], "
              "\"properties\": "
              "{\"name\": {\"type\": \"string\"}, \"pid\": {\"type\": \"integer\"}}}}}}",
    .status = 201,
    .remote = true,
    .run = run,
};
