/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/clone.
 */
#include "base/error.h"
#include "daemon/api.h"

static json_t *work(struct daemon *daemon, const char *name, const json_t *arguments,
                    struct error **err)
{
    const char *to = json_string_value(json_object_get(arguments, "to"));
    struct instance instance;
    if (!instance_open_locked(&instance, &daemon->store, name, err))
        return NULL;
    bool good = instance_clone(&instance, to, err);
    instance_close(&instance);
    return good ? json_pack("{s:s}", "name", to) : NULL;
}

static void run(struct api_call *call)
{
    api_change_to(call, work);
}

const struct api_verb api_clone = {
    .id = "clone",
    .method = "POST",
    .path = "/v1/instances/{name}/clone",
    .summary = "Copy a template, or an instance that does not run",
    .body = API_BODY_TO,
    .answer = API_ANSWER_NAME,
    .status = 201,
    .remote = true,
    .run = run,
};
