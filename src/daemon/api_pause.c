/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/pause.
 */
#include "daemon/api.h"
#include "daemon/flow.h"

static void run(struct api_call *call)
{
    if (api_take_existing(call))
        flow_ask(call, "pause");
}

const struct api_verb api_pause = {
    .id = "pause",
    .method = "POST",
    .path = "/v1/instances/{name}/pause",
    .summary = "Stand still, with memory and devices as they are",
    .answer = API_ANSWER_STATE,
    .status = 200,
    .remote = true,
    .run = run,
};
