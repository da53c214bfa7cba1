/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/resume.
 */
#include "daemon/api.h"
#include "daemon/flow.h"

static void run(struct api_call *call)
{
    if (api_take_existing(call))
        flow_ask(call, "resume");
}

const struct api_verb api_resume = {
    .id = "resume",
    .method = "POST",
    .path = "/v1/instances/{name}/resume",
    .summary = "Go on after a pause",
    .answer = API_ANSWER_STATE,
    .status = 200,
    .remote = true,
    .run = run,
};
