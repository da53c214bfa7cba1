/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/snapshots.
 */
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/job.h"
#include "daemon/machine.h"
#include "daemon/snapshot.h"

static bool on_progress(void *opaque, uint64_t done, uint64_t total)
{
    return job_step(opaque, (off_t)done, (off_t)total);
}

static json_t *work(struct daemon *daemon, const char *name, const json_t *arguments,
                    struct error **err)
{
    const struct snapshot_plan plan = {
        .name = json_string_value(json_object_get(arguments, "snapshot")),
        .memory = !json_is_false(json_object_get(arguments, "memory")),
        .compress = json_is_true(json_object_get(arguments, "compress")),
        .runs = json_is_true(json_object_get(arguments, "runs")),
        .progress = on_progress,
        .opaque = daemon,
    };
    struct instance instance;
    if (!instance_open(&instance, &daemon->store, name, err))
        return NULL;
    json_t *answer = plan.runs || instance.is_template || instance_lock(&instance, err)
                         ? snapshot_create(&instance, &plan, err)
                         : NULL;
    instance_close(&instance);
    return answer;
}

static void run(struct api_call *call)
{
    const char *snapshot = NULL;
    int memory, compress;
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s?s, s?b, s?b}", "snapshot", &snapshot,
                       "memory", &memory, "compress", &compress) != 0) {
        api_refuse(call, 400,
                   "a snapshot has a name, 'snapshot'; 'memory' and 'compress' are true or "
                   "false");
    } else if (api_take_existing(call)) {
        bool runs = machine_is_linked(call->daemon, call->name) &&
                    !machine_is_ending(call->daemon, call->name);
        json_object_set_new(call->body, "runs", json_boolean(runs));
        api_job(call, work);
    }
}

const struct api_verb api_snapshot_create = {
    .id = "snapshot-create",
    .method = "POST",
    .path = "/v1/instances/{name}/snapshots",
    .summary = "Keep what an instance's disks are now, and, if it runs, what it is at",
    .body =
        "{\"type\": \"object\", \"additionalProperties\": false, \"properties\": {\"snapshot\": "
        "{\"type\": \"string\", \"description\": \"its name\"}, \"memory\": {\"type\": "
        "\"boolean\", "
        "\"description\": \"of a machine that runs or is suspended, what it is at; true if not "
        "given\"}, \"compress\": {\"type\": \"boolean\"}}}",
    .answer = "{\"type\": \"object\", \"required\": [\"name\", \"snapshot\", \"memory\"], "
              "\"properties\": {\"name\": {\"type\": \"string\"}, \"snapshot\": {\"type\": "
              "\"string\"}, \"memory\": {\"type\": \"boolean\"}, \"paused-us\": {\"type\": "
              "\"integer\", \"description\": \"for how long the machine stood still\"}}}",
    .status = 201,
    .remote = true,
    .run = run,
};
