/* SPDX-License-Identifier: MIT
 *
 * GET /v1/instances/{name}/console, with "Upgrade: trapeze-console": the connection becomes the
 * console (relay.h).
 */
#include "daemon/api.h"
#include "daemon/http.h"
#include "daemon/machine.h"
#include "daemon/relay.h"

static void run(struct api_call *call)
{
    struct instance instance;
    if (!http_offers(call, RELAY_PROTOCOL)) {
        api_refuse(call, 426, "this becomes a stream: ask with 'Upgrade: " RELAY_PROTOCOL "'");
        return;
    }
    if (!api_open(call, &instance))
        return;
    instance_close(&instance);
    int fd = machine_connect(call->daemon, call->name, "console.sock");
    if (fd >= 0)
        relay_start(call, fd);
    else if (machine_is_linked(call->daemon, call->name))
        api_refuse(call, 409, "the console goes to a file, or too many wait for it");
    else
        api_refuse(call, 409, "the instance is not running");
}

const struct api_verb api_console = {
    .id = "console",
    .method = "GET",
    .path = "/v1/instances/{name}/console",
    .summary = "Connect to the console: HTTP ends here, and what follows are the console's bytes",
    .answer = "{\"type\": \"object\", \"description\": \"none\"}",
    .status = 101,
    .remote = true,
    .run = run,
};
