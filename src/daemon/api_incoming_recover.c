/* SPDX-License-Identifier: MIT
 *
 * POST /v1/migrations/ID/recover (migrate_in.h).
 */
#include "daemon/api.h"
#include "daemon/migrate_in.h"

const struct api_verb api_incoming_recover = {
    .id = "incoming-recover",
    .method = "POST",
    .path = "/v1/migrations/{name}/recover",
    .summary =
        "Between daemons: the streams were lost by which the memory of a machine came that runs "
        "here already (post-copy); new ones follow. {name} is the migration's",
    .body =
        "{\"type\": \"object\", \"required\": [\"streams\"], \"additionalProperties\": false, "
        "\"properties\": {\"streams\": {\"type\": \"integer\", \"minimum\": 1, \"maximum\": 16}}}",
    .answer = "{\"type\": \"object\"}",
    .status = 200,
    .remote = true,
    .run = migrate_in_recover,
};
