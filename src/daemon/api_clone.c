/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/clone.
 */
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/job.h"

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

static void run(struct api_call *call)
{
    const char *to, *expires = NULL;
    int full;
    int64_t moment;
    struct instance instance;
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s:s, s?b, s?s}", "to", &to, "full", &full,
                       "expires", &expires) != 0) {
        api_refuse(call, 400, "a clone has a name, 'to', and perhaps 'full' and 'expires'");
    } else if (expires != NULL && !machine_parse_time(expires, &moment)) {
        api_refuse(call, 400, "'expires' is a moment of UTC such as 2026-12-24T18:00:00Z");
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
    .summary = "Make an instance like a template, or like an instance that does not run",
    .body = "{\"type\": \"object\", \"required\": [\"to\"], \"additionalProperties\": false, "
            "\"properties\": {\"to\": {\"type\": \"string\"}, \"full\": {\"type\": \"boolean\", "
            "\"description\": \"copies, not what lies upon a template's disks\"}, "
            "\"expires\": " API_BODY_EXPIRES "}}",
    .answer = "{\"type\": \"object\", \"required\": [\"name\", \"linked\"], \"properties\": "
              "{\"name\": {\"type\": \"string\"}, \"linked\": {\"type\": \"boolean\"}}}",
    .status = 201,
    .remote = true,
    .run = run,
};
