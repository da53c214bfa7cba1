/* SPDX-License-Identifier: MIT
 *
 * GET /v1/instances/{name}/console, with "Upgrade: trapeze-console": the connection becomes the
 * console (relay.h).
 */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "client/console.h"
#include "daemon/api.h"
#include "daemon/http.h"
#include "daemon/job.h"
#include "daemon/machine.h"
#include "daemon/relay.h"

/* In a job: the worker is given its end of the stream, or says who has the console. */
static json_t *attach(struct daemon *daemon, const char *name, const json_t *arguments,
                      struct error **err)
{
    struct instance instance;
    if (!instance_open(&instance, &daemon->store, name, err))
        return NULL;
    bool good = client_console_attach(
        instance.fd, (enum client_role)json_integer_value(json_object_get(arguments, "role")),
        json_string_value(json_object_get(arguments, "who")),
        (int)json_integer_value(json_object_get(arguments, "fd")), err);
    instance_close(&instance);
    return good ? json_object() : NULL;
}

static void on_attached(void *opaque, const json_t *result, const struct error *error)
{
    struct api_call *call = opaque;
    if (result != NULL) {
        relay_start(call, RELAY_CONSOLE, (int)call->number);
        return;
    }
    close((int)call->number);
    api_refuse(call, 409, error_message(error));
}

static void start(struct api_call *call, enum client_role role)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
        api_refuse(call, 500, "the host has no room for one more socket");
        return;
    }
    call->number = pair[0];
    json_t *arguments =
        json_pack("{s:i, s:s, s:i}", "role", (int)role, "who",
                  call->who != NULL ? call->who : "a client of the daemon", "fd", pair[1]);
    job_start(call->daemon, call->name, arguments, attach, on_attached, call);
    json_decref(arguments);
    close(pair[1]);
}

static void run(struct api_call *call)
{
    struct instance instance;
    const char *wish = api_query(call, "role");
    size_t role = 0;
    while (role < CLIENT_ROLES && wish != NULL && strcmp(client_role_words[role], wish) != 0)
        role++;
    if (!http_offers(call, RELAY_CONSOLE)) {
        api_refuse(call, 426, "this becomes a stream: ask with 'Upgrade: " RELAY_CONSOLE "'");
        return;
    }
    if (!api_open(call, &instance))
        return;
    instance_close(&instance);
    if (role == CLIENT_ROLES)
        api_refuse(call, 400, "a console's role is own, steal or watch");
    else if (!machine_is_linked(call->daemon, call->name))
        api_refuse(call, 409, "the instance is not running");
    else
        start(call, (enum client_role)role);
}

const struct api_verb api_console = {
    .id = "console",
    .method = "GET",
    .path = "/v1/instances/{name}/console",
    .summary = "Connect to the console: HTTP ends here, and what follows are the console's bytes",
    .query =
        "[{\"name\": \"role\", \"in\": \"query\", \"schema\": {\"type\": \"string\", \"enum\": "
        "[\"own\", \"steal\", \"watch\"]}, \"description\": \"own, unless given: refused while "
        "somebody has the console; steal: who has it is told, and let go; watch: output only\"}]",
    .answer = "{\"type\": \"object\", \"description\": \"none\"}",
    .status = 101,
    .remote = true,
    .run = run,
};
