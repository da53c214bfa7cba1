/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/resolve.
 */
#include "daemon/api.h"
#include "daemon/migrate_out.h"

const struct api_verb api_migrate_resolve = {
    .id = "migrate-resolve",
    .method = "POST",
    .path = "/v1/instances/{name}/resolve",
    .summary =
        "Say where an instance is whose migration was cut off, when the other daemon will never "
        "answer. On that side it is removed",
    .body = "{\"type\": \"object\", \"required\": [\"where\"], \"additionalProperties\": false, "
            "\"properties\": {\"where\": {\"type\": \"string\", \"enum\": [\"here\", \"there\"]}}}",
    .answer = "{\"type\": \"object\", \"required\": [\"name\", \"where\"], \"properties\": "
              "{\"name\": {\"type\": \"string\"}, \"where\": {\"type\": \"string\"}}}",
    .status = 200,
    .remote = true,
    .run = migrate_out_resolve,
};
