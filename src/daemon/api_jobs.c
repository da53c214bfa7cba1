/* SPDX-License-Identifier: MIT
 *
 * GET /v1/jobs.
 */
#include "daemon/api.h"
#include "daemon/job.h"

static void run(struct api_call *call)
{
    api_reply(call, json_pack("{s:o}", "jobs", job_list(call->daemon)));
}

const struct api_verb api_jobs = {
    .id = "jobs",
    .method = "GET",
    .path = "/v1/jobs",
    .summary = "How far calls are that copy files",
    .answer =
        "{\"type\": \"object\", \"required\": [\"jobs\"], \"properties\": {\"jobs\": {\"type\": "
        "\"array\", \"items\": {\"type\": \"object\", \"required\": [\"instance\", \"done\", "
        "\"total\"], \"properties\": {\"instance\": {\"type\": \"string\"}, \"to\": {\"type\": "
        "\"string\", \"description\": \"of a clone: its name\"}, \"done\": {\"type\": \"integer\", "
        "\"description\": \"bytes of a file\"}, \"total\": {\"type\": \"integer\"}, \"migration\": "
        "{\"type\": \"object\", \"description\": \"of a machine that migrates while it runs: "
        "stage, round, rate and dirty-rate (bytes per second), estimate-ns, downtime-ns\"}}}}}}",
    .status = 200,
    .remote = true,
    .run = run,
};
