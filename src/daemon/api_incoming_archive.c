/* SPDX-License-Identifier: MIT
 *
 * POST /v1/migrations/ID/archive (migrate_in.h).
 */
#include "daemon/api.h"
#include "daemon/migrate_in.h"

const struct api_verb api_incoming_archive = {
    .id = "incoming-archive",
    .method = "POST",
    .path = "/v1/migrations/{name}/archive",
    .summary = "Between daemons: the machine, as export gives it. {name} is the migration's",
    .answer = "{\"type\": \"object\", \"required\": [\"name\", \"notes\"], \"properties\": "
              "{\"name\": {\"type\": \"string\"}, \"notes\": {\"type\": \"array\", \"items\": "
              "{\"type\": \"string\"}, \"description\": \"what is not as it was\"}}}",
    .status = 200,
    .stream = API_TAKES_STREAM,
    .remote = true,
    .run = migrate_in_archive,
};
