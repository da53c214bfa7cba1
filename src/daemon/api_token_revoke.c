/* SPDX-License-Identifier: MIT
 *
 * DELETE /v1/tokens/{name}. What was opened with the token ends.
 */
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/relay.h"
#include "daemon/remote.h"
#include "daemon/tokens.h"

static void run(struct api_call *call)
{
    struct error *error = NULL;
    char who[REMOTE_WHO];
    if (!tokens_revoke(&call->daemon->store, call->name, &error)) {
        api_fail(call, error_kind(error) == ERROR_USAGE ? 404 : 500, error);
        return;
    }
    remote_token_who(call->name, who);
    relay_end_all(call->daemon, who);
    api_reply(call, json_pack("{s:s}", "name", call->name));
}

const struct api_verb api_token_revoke = {
    .id = "token-revoke",
    .method = "DELETE",
    .path = "/v1/tokens/{name}",
    .summary = "Make a token worthless, now",
    .answer = API_ANSWER_NAME,
    .status = 200,
    .run = run,
};
