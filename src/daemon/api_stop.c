/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/stop. Done when the machine is off.
 */
#include "daemon/api.h"
#include "daemon/flow.h"

static void run(struct api_call *call)
{
    if (api_take_existing(call))
        flow_stop(call, false);
}

const struct api_verb api_stop = {
    .id = "stop",
    .method = "POST",
    .path = "/v1/instances/{name}/stop",
    .summary = "Press the power button, or pull the plug",
    .body = "{\"type\": \"object\", \"additionalProperties\": false, \"properties\": {\"force\": "
            "{\"type\": \"boolean\", \"description\": \"at once, as by pulling the plug\"}, "
            "\"timeout\": {\"type\": \"integer\", \"minimum\": 1, \"maximum\": 3600, "
            "\"description\": \"seconds that the guest has to switch itself off; 60\"}}}",
    .answer = "{\"type\": \"object\", \"required\": [\"name\", \"state\"], \"properties\": "
              "{\"name\": {\"type\": \"string\"}, \"state\": {\"type\": \"string\"}}}",
    .status = 200,
    .run = run,
};
