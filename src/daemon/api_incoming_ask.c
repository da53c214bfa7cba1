/* SPDX-License-Identifier: MIT
 *
 * POST /v1/migrations/ID/ask (migrate_in.h).
 */
#include "daemon/api.h"
#include "daemon/migrate_in.h"

const struct api_verb api_incoming_ask = {
    .id = "incoming-ask",
    .method = "POST",
    .path = "/v1/migrations/{name}/ask",
    .summary = "Between daemons: is it this daemon's? If not, it will not be by this migration any "
               "more. {name} is the migration's",
    .answer = "{\"type\": \"object\", \"required\": [\"outcome\", \"store\"], \"properties\": "
              "{\"outcome\": {\"type\": \"string\", \"enum\": [\"here\", \"not-here\"]}, "
              "\"store\": {\"type\": \"string\", \"description\": \"whose word this is\"}}}",
    .status = 200,
    .remote = true,
    .run = migrate_in_ask,
};
