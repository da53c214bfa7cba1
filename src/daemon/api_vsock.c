/* SPDX-License-Identifier: MIT
 *
 * GET /v1/instances/{name}/vsock, with "Upgrade: trapeze-vsock": the connection becomes one to the
 * unix socket that leads to the guest's vsock ports (relay.h), which takes "CONNECT port" first.
 */
#include "daemon/api.h"
#include "daemon/http.h"
#include "daemon/machine.h"
#include "daemon/relay.h"

static void run(struct api_call *call)
{
    struct instance instance;
    if (!http_offers(call, RELAY_VSOCK)) {
        api_refuse(call, 426, "this becomes a stream: ask with 'Upgrade: " RELAY_VSOCK "'");
        return;
    }
    if (!api_open(call, &instance))
        return;
    instance_close(&instance);
    int fd = machine_connect(call->daemon, call->name, "vsock.sock");
    if (fd >= 0)
        relay_start(call, RELAY_VSOCK, fd);
    else if (machine_is_linked(call->daemon, call->name))
        api_refuse(call, 409,
                   "the instance has no vsock of its own (trapeze.vsockCid in its .vmx), or "
                   "too many wait for it");
    else
        api_refuse(call, 409, "the instance is not running");
}

const struct api_verb api_vsock = {
    .id = "vsock",
    .method = "GET",
    .path = "/v1/instances/{name}/vsock",
    .summary =
        "Connect to a port of the guest's vsock: HTTP ends here, 'CONNECT port' and a line feed "
        "get 'OK n' and one, and what follows are the connection's bytes",
    .answer = "{\"type\": \"object\", \"description\": \"none\"}",
    .status = 101,
    .remote = true,
    .run = run,
};
