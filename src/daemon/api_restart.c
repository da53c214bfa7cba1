/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/restart: stop, then start.
 */
#include "daemon/api.h"
#include "daemon/flow.h"

static void run(struct api_call *call)
{
    if (api_take_existing(call))
        flow_stop(call, true);
}

const struct api_verb api_restart = {
    .id = "restart",
    .method = "POST",
    .path = "/v1/instances/{name}/restart",
    .summary = "Stop and start",
    .body = FLOW_STOP_BODY,
    .answer = API_ANSWER_STATE,
    .status = 200,
    .remote = true,
    .run = run,
};
