/* SPDX-License-Identifier: MIT
 *
 * DELETE /v1/instances/{name}/snapshots?snapshot=NAME.
 */
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/job.h"
#include "daemon/machine.h"
#include "daemon/snapshot.h"

static json_t *work(struct daemon *daemon, const char *name, const json_t *arguments,
                    struct error **err)
{
    bool runs = json_is_true(json_object_get(arguments, "runs"));
    struct instance instance;
    if (!instance_open(&instance, &daemon->store, name, err))
        return NULL;
    json_t *answer =
        runs || instance.is_template || instance_lock(&instance, err)
            ? snapshot_delete(&instance, json_string_value(json_object_get(arguments, "snapshot")),
                              runs, err)
            : NULL;
    instance_close(&instance);
    return answer;
}

static void run(struct api_call *call)
{
    const char *snapshot = api_query(call, "snapshot");
    if (snapshot == NULL) {
        api_refuse(call, 400, "'snapshot' is missing: the name of one");
    } else if (api_take_existing(call)) {
        bool runs = machine_is_linked(call->daemon, call->name) &&
                    !machine_is_ending(call->daemon, call->name);
        json_object_set_new(call->body, "snapshot", api_text(snapshot));
        json_object_set_new(call->body, "runs", json_boolean(runs));
        api_job(call, work);
    }
}

const struct api_verb api_snapshot_delete = {
    .id = "snapshot-delete",
    .method = "DELETE",
    .path = "/v1/instances/{name}/snapshots",
    .summary =
        "Remove a snapshot. Its disk images are merged with those that lie upon them, at once if "
        "the machine does not run, or else some time later",
    .query =
        "[{\"name\": \"snapshot\", \"in\": \"query\", \"required\": true, \"schema\": {\"type\": "
        "\"string\"}}]",
    .answer =
        "{\"type\": \"object\", \"required\": [\"name\", \"snapshot\", \"merged\"], "
        "\"properties\": {\"name\": {\"type\": \"string\"}, \"snapshot\": {\"type\": "
        "\"string\"}, \"merged\": {\"type\": \"boolean\", \"description\": \"all that deleted "
        "snapshots took is free\"}}}",
    .status = 200,
    .remote = true,
    .run = run,
};
