/* SPDX-License-Identifier: MIT
 *
 * GET /v1/instances/{name}.
 */
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/catalogue.h"

static void run(struct api_call *call)
{
    struct instance instance;
    struct error *error = NULL;
    if (!api_open(call, &instance))
        return;
    instance_close(&instance);
    catalogue_sync(call->daemon->catalogue, &call->daemon->store);
    json_t *answer = api_describe(call->daemon, call->name, &error);
    if (answer != NULL)
        api_reply(call, answer);
    else
        api_fail(call, 500, error);
}

const struct api_verb api_info = {
    .id = "info",
    .method = "GET",
    .path = "/v1/instances/{name}",
    .summary = "One instance",
    .answer = "{\"$ref\": \"#/components/schemas/Instance\"}",
    .status = 200,
    .run = run,
};
