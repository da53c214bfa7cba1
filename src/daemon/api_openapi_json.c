/* SPDX-License-Identifier: MIT
 *
 * GET /v1/openapi.json: this interface, described by its own rows.
 */
#include "daemon/api.h"

static void run(struct api_call *call)
{
    api_reply(call, api_openapi());
}

const struct api_verb api_openapi_json = {
    .id = "openapi",
    .method = "GET",
    .path = "/v1/openapi.json",
    .summary = "This document",
    .answer = "{\"type\": \"object\", \"required\": [\"openapi\", \"info\", \"paths\"]}",
    .status = 200,
    .remote = true,
    .run = run,
};
