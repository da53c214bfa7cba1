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
    .body = "{\"type\": \"object\", \"additionalProperties\": false, \"properties\": {\"force\": "
            "{\"type\": \"boolean\", \"description\": \"at once, as by pulling the plug\"}, "
            "\"timeout\": {\"type\": \"integer\", \"minimum\": 1, \"maximum\": 3600, "
            "\"description\": \"seconds that the guest has to switch itself off; 60\"}}}",
    .answer = "{\"type\": \"object\", \"required\": [\"name\", \"state\"], \"properties\": "
              "{\"name\": {\"type\": \"string\"}, \"state\": {\"type\": \"string\"}}}",
    .status = 200,
    .run = run,
};
