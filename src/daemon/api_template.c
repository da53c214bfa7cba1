/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/template.
 */
#include "base/error.h"
#include "daemon/api.h"

static json_t *work(struct daemon *daemon, const char *name, const json_t *arguments,
                    struct error **err)
{
    bool undo = json_is_true(json_object_get(arguments, "undo"));
    struct instance instance;
    if (!instance_open_locked(&instance, &daemon->store, name, err))
        return NULL;
    bool good = instance_make_template(&instance, !undo, err);
    instance_close(&instance);
    return good ? json_pack("{s:s}", "name", name) : NULL;
}

static void run(struct api_call *call)
{
    int undo;
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s?b}", "undo", &undo) != 0)
        api_refuse(call, 400, "undo is true or false");
    else
        api_change(call, work);
}

const struct api_verb api_template = {
    .id = "template",
    .method = "POST",
    .path = "/v1/instances/{name}/template",
    .summary = "Make a template of an instance, or an instance of a template",
    .body = "{\"type\": \"object\", \"additionalProperties\": false, \"properties\": {\"undo\": "
            "{\"type\": \"boolean\"}}}",
    .answer = API_ANSWER_NAME,
    .status = 200,
    .remote = true,
    .run = run,
};
