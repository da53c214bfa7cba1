/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/suspend. Done when the machine's state is in its folder, and its worker gone.
 */
#include "daemon/api.h"
#include "daemon/flow.h"

static void run(struct api_call *call)
{
    if (api_take_existing(call))
        flow_suspend(call);
}

const struct api_verb api_suspend = {
    .id = "suspend",
    .method = "POST",
    .path = "/v1/instances/{name}/suspend",
    .summary = "Write a running machine's state to its folder, from which start lets it go on",
    .body = "{\"type\": \"object\", \"additionalProperties\": false, \"properties\": {\"compress\": "
            "{\"type\": \"boolean\", \"description\": \"less space, more time\"}}}",
    .answer = API_ANSWER_STATE,
    .status = 200,
    .remote = true,
    .run = run,
};
