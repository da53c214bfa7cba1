/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/start. Done when the machine runs: a worker that refuses its
 * configuration says so.
 */
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/flow.h"

static void run(struct api_call *call)
{
    int discard = 0, changed = 0;
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s?b, s?b}", "discard-suspended", &discard,
                       "changed-disks", &changed) != 0)
        api_refuse(call, 400, "discard-suspended and changed-disks are true or false");
    else if (api_take_existing(call))
        flow_start(call);
}

const struct api_verb api_start = {
    .id = "start",
    .method = "POST",
    .path = "/v1/instances/{name}/start",
    .summary = "Start an instance, where it was if it was suspended",
    .body = "{\"type\": \"object\", \"additionalProperties\": false, \"properties\": "
            "{\"discard-suspended\": {\"type\": \"boolean\", \"description\": \"start it anew\"}, "
            "\"changed-disks\": {\"type\": \"boolean\", \"description\": \"let it go on though "
            "its disks were changed\"}}}",
    .answer = API_ANSWER_STATE,
    .status = 200,
    .remote = true,
    .run = run,
};
