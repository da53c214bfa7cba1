/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/stop. Done when the machine is off.
 */
#include "daemon/api.h"
#include "daemon/flow.h"
#include "daemon/restart.h"

static void run(struct api_call *call)
{
    if (!restart_stop_later(call) && api_take_existing(call))
        flow_stop(call, false);
}

const struct api_verb api_stop = {
    .id = "stop",
    .method = "POST",
    .path = "/v1/instances/{name}/stop",
    .summary = "Press the power button, or pull the plug",
    .body = FLOW_STOP_BODY,
    .answer = API_ANSWER_STATE,
    .status = 200,
    .remote = true,
    .run = run,
};
