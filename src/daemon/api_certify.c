/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/certify: an ssh key of the client's gets a certificate by which the
 * guest lets it in (client/guest.h). The store's own key stays here.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "client/guest.h"
#include "client/guest_ssh.h"
#include "daemon/api.h"
#include "daemon/job.h"

static json_t *work(struct daemon *daemon, const char *name, const json_t *arguments,
                    struct error **err)
{
    const char *who = json_string_value(json_object_get(arguments, "who"));
    char staged[32], *folder = NULL, *label = NULL;
    json_t *answer = NULL;
    int fd = store_stage(&daemon->store, staged, err);
    if (fd < 0)
        return NULL;
    if (asprintf(&folder, "%s/instances/%s", daemon->store.path, staged) < 0 ||
        asprintf(&label, "trapeze: %s, for %s", name, who) < 0)
        abort();
    char *text = guest_key_sign(daemon->store.path, folder,
                                json_string_value(json_object_get(arguments, "public-key")),
                                json_string_value(json_object_get(arguments, "user")), label, err);
    if (text != NULL)
        answer = json_pack("{s:s}", "certificate", text);
    close(fd);
    (void)store_discard(&daemon->store, staged, NULL);
    free(text);
    free(label);
    free(folder);
    return answer;
}

static void on_done(void *opaque, const json_t *result, const struct error *error)
{
    struct api_call *call = opaque;
    if (result != NULL)
        api_reply(call, json_deep_copy(result));
    else
        api_refuse(call, 500, error_message(error));
}

static void run(struct api_call *call)
{
    struct instance instance;
    const char *key, *user;
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s:s, s:s}", "public-key", &key, "user",
                       &user) != 0 ||
        !guest_key_check(key) || !guest_ssh_user_check(user)) {
        api_refuse(call, 400,
                   "public-key is \"ssh-ed25519 AAAA...\" without a comment, and user is a "
                   "user's name");
        return;
    }
    if (!api_open(call, &instance))
        return;
    instance_close(&instance);
    json_object_set_new(call->body, "who",
                        json_string(call->who != NULL ? call->who : "a client of the daemon"));
    job_start(call->daemon, call->name, call->body, work, on_done, call);
}

const struct api_verb api_certify = {
    .id = "certify",
    .method = "POST",
    .path = "/v1/instances/{name}/certify",
    .summary = "Certify an ssh key, by which a user of the guest's is logged in with it for a day",
    .body =
        "{\"type\": \"object\", \"required\": [\"public-key\", \"user\"], "
        "\"additionalProperties\": false, \"properties\": {\"public-key\": {\"type\": \"string\", "
        "\"description\": \"ssh-ed25519, without a comment\"}, \"user\": {\"type\": "
        "\"string\"}}}",
    .answer = "{\"type\": \"object\", \"required\": [\"certificate\"], \"properties\": "
              "{\"certificate\": {\"type\": \"string\"}}}",
    .status = 200,
    .remote = true,
    .run = run,
};
