/* SPDX-License-Identifier: MIT
 *
 * The host's end of a vsock under test: the socket that clients connect to, and who connects to
 * programs of the host, one question at a time.
 */
#ifndef TRAPEZE_TESTS_VSOCK_HOST_H
#define TRAPEZE_TESTS_VSOCK_HOST_H

#include <assert.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "bus/device.h"
#include "net/vsock_connector.h"

struct vsock_host {
    struct sockaddr_un address;
    int questions; /* -1: the connector has gone */
};

static inline struct device_vsock vsock_host_open(struct vsock_host *host, const char *path,
                                                  uint64_t cid)
{
    int pair[2], fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    host->address = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(host->address.sun_path, sizeof(host->address.sun_path), "%s", path);
    (void)unlink(path);
    int failed = bind(fd, (struct sockaddr *)&host->address, sizeof(host->address));
    failed |= listen(fd, 64);
    failed |= socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
    assert(failed == 0);
    (void)failed;
    host->questions = pair[1];
    return (struct device_vsock){cid, fd, pair[0]};
}

static inline void vsock_host_answer(struct vsock_host *host)
{
    while (host->questions >= 0 &&
           net_vsock_answer(host->questions, host->address.sun_path, MSG_DONTWAIT))
        ;
}

static inline void vsock_host_leave(struct vsock_host *host)
{
    if (host->questions >= 0)
        close(host->questions);
    host->questions = -1;
}

static inline void vsock_host_close(struct vsock_host *host)
{
    vsock_host_leave(host);
    (void)unlink(host->address.sun_path);
}

#endif
