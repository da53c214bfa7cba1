/* SPDX-License-Identifier: MIT
 *
 * POST /v1/tokens.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "daemon/api.h"
#include "daemon/tokens.h"

static void run(struct api_call *call)
{
    const char *name;
    struct error *error = NULL;
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s:s}", "name", &name) != 0) {
        api_refuse(call, 400, "'name' is missing: what you will know the token by");
        return;
    }
    char *token = tokens_create(&call->daemon->store, name, &error);
    if (token == NULL) {
        api_fail(call, 0, error);
        return;
    }
    api_reply(call, json_pack("{s:s, s:s}", "name", name, "token", token));
    explicit_bzero(token, strlen(token));
    free(token);
}

const struct api_verb api_token_create = {
    .id = "token-create",
    .method = "POST",
    .path = "/v1/tokens",
    .summary = "Make a bearer token for the API over TCP; it is told once",
    .body = "{\"type\": \"object\", \"required\": [\"name\"], \"additionalProperties\": false, "
            "\"properties\": {\"name\": {\"type\": \"string\"}}}",
    .answer = "{\"type\": \"object\", \"required\": [\"name\", \"token\"], \"properties\": "
              "{\"name\": {\"type\": \"string\"}, \"token\": {\"type\": \"string\"}}}",
    .status = 201,
    .run = run,
};
