/* SPDX-License-Identifier: MIT
 *
 * POST /v1/migrations/ID/take (migrate_in.h).
 */
#include "daemon/api.h"
#include "daemon/migrate_in.h"

const struct api_verb api_incoming_take = {
    .id = "incoming-take",
    .method = "POST",
    .path = "/v1/migrations/{name}/take",
    .summary =
        "Between daemons: the machine is this daemon's from now on. {name} is the migration's",
    .answer = "{\"type\": \"object\", \"required\": [\"outcome\", \"store\"], \"properties\": "
              "{\"outcome\": {\"type\": \"string\", \"enum\": [\"here\", \"not-here\"]}, "
              "\"store\": {\"type\": \"string\", \"description\": \"whose word this is\"}}}",
    .status = 200,
    .remote = true,
    .run = migrate_in_take,
};
