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
    if (api_take_existing(call))
        flow_start(call);
}

const struct api_verb api_start = {
    .id = "start",
    .method = "POST",
    .path = "/v1/instances/{name}/start",
    .summary = "Start an instance",
    .answer = API_ANSWER_STATE,
    .status = 200,
    .remote = true,
    .run = run,
};
