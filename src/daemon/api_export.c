/* SPDX-License-Identifier: MIT
 *
 * GET /v1/instances/{name}/export: the instance as one file (archive/pack.h), made as it is sent.
 */
#include "archive/pack.h"
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/export.h"

static json_t *work(struct daemon *daemon, const char *name, const json_t *arguments,
                    struct error **err)
{
    int stream = (int)json_integer_value(json_object_get(arguments, "stream"));
    struct instance instance;
    if (!instance_open_locked(&instance, &daemon->store, name, err))
        return NULL;
    bool good = export_instance(&instance, NULL, PACK_VERSION, stream, err);
    instance_close(&instance);
    return good ? json_pack("{s:s}", "name", name) : NULL;
}

static void run(struct api_call *call)
{
    api_change(call, work);
}

const struct api_verb api_export = {
    .id = "export",
    .method = "GET",
    .path = "/v1/instances/{name}/export",
    .summary =
        "An instance that does not run, as one compressed file. The header Trapeze-About has "
        "\"bytes\", its size before compression, about, and \"notes\", sentences",
    .status = 200,
    .stream = API_GIVES_STREAM,
    .remote = true,
    .run = run,
};
