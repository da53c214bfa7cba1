/* SPDX-License-Identifier: MIT
 *
 * GET /v1/version.
 */
#include <unistd.h>

#include "build.h"
#include "daemon/api.h"

static void run(struct api_call *call)
{
    api_reply(call, json_pack("{s:s, s:i}", "version", TRAPEZE_VERSION, "pid", (int)getpid()));
}

const struct api_verb api_version = {
    .id = "version",
    .method = "GET",
    .path = "/v1/version",
    .summary = "The daemon's version",
    .answer = "{\"type\": \"object\", \"required\": [\"version\", \"pid\"], \"properties\": "
              "{\"version\": {\"type\": \"string\"}, \"pid\": {\"type\": \"integer\"}}}",
    .status = 200,
    .remote = true,
    .run = run,
};
