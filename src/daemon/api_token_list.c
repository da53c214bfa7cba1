/* SPDX-License-Identifier: MIT
 *
 * GET /v1/tokens.
 */
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/tokens.h"

static void run(struct api_call *call)
{
    struct error *error = NULL;
    json_t *tokens = tokens_list(&call->daemon->store, &error);
    if (tokens == NULL)
        api_fail(call, 0, error);
    else
        api_reply(call, json_pack("{s:o}", "tokens", tokens));
}

const struct api_verb api_token_list = {
    .id = "token-list",
    .method = "GET",
    .path = "/v1/tokens",
    .summary = "The names of all tokens",
    .answer = "{\"type\": \"object\", \"required\": [\"tokens\"], \"properties\": {\"tokens\": "
              "{\"type\": \"array\", \"items\": {\"type\": \"object\", \"required\": [\"name\", "
              "\"created\"], \"properties\": {\"name\": {\"type\": \"string\"}, \"created\": "
              "{\"type\": \"integer\", \"description\": \"seconds since 1970\"}}}}}}",
    .status = 200,
    .run = run,
};
