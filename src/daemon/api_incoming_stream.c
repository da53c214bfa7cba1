/* SPDX-License-Identifier: MIT
 *
 * GET /v1/migrations/ID/stream, with "Upgrade: trapeze-migration" (migrate_in.h).
 */
#include "daemon/api.h"
#include "daemon/migrate_in.h"

const struct api_verb api_incoming_stream = {
    .id = "incoming-stream",
    .method = "GET",
    .path = "/v1/migrations/{name}/stream",
    .summary = "Between daemons: HTTP ends here, and what follows is between the two workers of a "
               "machine that runs. {name} is the migration's",
    .answer = "{\"type\": \"object\", \"description\": \"none\"}",
    .status = 101,
    .remote = true,
    .run = migrate_in_stream,
};
