/* SPDX-License-Identifier: MIT
 *
 * POST /v1/migrations/ID/settle (migrate_in.h).
 */
#include "daemon/api.h"
#include "daemon/migrate_in.h"

const struct api_verb api_incoming_settle = {
    .id = "incoming-settle",
    .method = "POST",
    .path = "/v1/migrations/{name}/settle",
    .summary = "Between daemons: the source knows that it is here. {name} is the migration's",
    .answer = "{\"type\": \"object\"}",
    .status = 200,
    .remote = true,
    .run = migrate_in_settle,
};
