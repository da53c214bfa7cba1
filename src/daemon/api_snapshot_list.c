/* SPDX-License-Identifier: MIT
 *
 * GET /v1/instances/{name}/snapshots.
 */
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/snapshot.h"

static void run(struct api_call *call)
{
    struct instance instance;
    struct error *error = NULL;
    if (!api_open(call, &instance))
        return;
    json_t *answer = snapshot_list(&instance, &error);
    instance_close(&instance);
    if (answer != NULL)
        api_reply(call, answer);
    else
        api_fail(call, 0, error);
}

const struct api_verb api_snapshot_list = {
    .id = "snapshot-list",
    .method = "GET",
    .path = "/v1/instances/{name}/snapshots",
    .summary = "The snapshots of an instance, the oldest first",
    .answer =
        "{\"type\": \"object\", \"required\": [\"name\", \"snapshots\"], \"properties\": "
        "{\"name\": "
        "{\"type\": \"string\"}, \"snapshots\": {\"type\": \"array\", \"items\": {\"type\": "
        "\"object\", \"required\": [\"id\", \"name\", \"created\", \"memory\", \"memory-size\", "
        "\"disk-size\", \"current\"], \"properties\": {\"id\": {\"type\": \"integer\"}, \"name\": "
        "{\"type\": \"string\"}, \"parent\": {\"type\": \"string\", \"description\": \"the "
        "snapshot "
        "that it was made after\"}, \"created\": {\"type\": \"integer\", \"description\": "
        "\"seconds "
        "since 1970\"}, \"memory\": {\"type\": \"boolean\"}, \"memory-size\": {\"type\": "
        "\"integer\", "
        "\"description\": \"bytes that it takes of the disk\"}, \"disk-size\": {\"type\": "
        "\"integer\", "
        "\"description\": \"bytes of its images, of the disks before or what was written since its "
        "parent\"}, \"current\": {\"type\": \"boolean\", \"description\": \"what the machine goes "
        "on "
        "from\"}}}}, \"deleted-size\": {\"type\": \"integer\", \"description\": \"bytes of images of "
        "deleted snapshots that others lie upon; merged with them by a later call for snapshots, of a "
        "machine that does not run\"}}}",
    .status = 200,
    .remote = true,
    .run = run,
};
