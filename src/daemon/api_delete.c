/* SPDX-License-Identifier: MIT
 *
 * DELETE /v1/instances/{name}.
 */
#include "base/error.h"
#include "daemon/api.h"

static json_t *work(struct daemon *daemon, const char *name, const json_t *arguments,
                    struct error **err)
{
    struct instance instance;
    (void)arguments;
    if (!instance_open(&instance, &daemon->store, name, err))
        return NULL;
    bool good = instance_lock_as_it_is(&instance, err) && instance_delete(&instance, err);
    instance_close(&instance);
    return good ? json_pack("{s:s}", "name", name) : NULL;
}

static void run(struct api_call *call)
{
    api_change(call, work);
}

const struct api_verb api_delete = {
    .id = "delete",
    .method = "DELETE",
    .path = "/v1/instances/{name}",
    .summary = "Remove an instance that does not run, with all its files",
    .answer = API_ANSWER_NAME,
    .status = 200,
    .remote = true,
    .run = run,
};
