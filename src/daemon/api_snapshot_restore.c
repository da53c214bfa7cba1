/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/snapshots/restore.
 */
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/job.h"
#include "daemon/snapshot.h"

static json_t *work(struct daemon *daemon, const char *name, const json_t *arguments,
                    struct error **err)
{
    struct instance instance;
    if (!instance_open_locked(&instance, &daemon->store, name, err))
        return NULL;
    json_t *answer =
        snapshot_restore(&instance, json_string_value(json_object_get(arguments, "snapshot")), err);
    instance_close(&instance);
    return answer;
}

static void run(struct api_call *call)
{
    const char *snapshot;
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s:s}", "snapshot", &snapshot) != 0)
        api_refuse(call, 400, "'snapshot' is missing: the name of one");
    else
        api_change(call, work);
}

const struct api_verb api_snapshot_restore = {
    .id = "snapshot-restore",
    .method = "POST",
    .path = "/v1/instances/{name}/snapshots/restore",
    .summary = "Make an instance that does not run what it was at a snapshot. One with memory is "
               "suspended then; start lets it go on",
    .body = "{\"type\": \"object\", \"required\": [\"snapshot\"], \"additionalProperties\": false, "
            "\"properties\": {\"snapshot\": {\"type\": \"string\"}}}",
    .answer = "{\"type\": \"object\", \"required\": [\"name\", \"snapshot\", \"memory\"], "
              "\"properties\": {\"name\": {\"type\": \"string\"}, \"snapshot\": {\"type\": "
              "\"string\"}, \"memory\": {\"type\": \"boolean\"}}}",
    .status = 200,
    .remote = true,
    .run = run,
};
