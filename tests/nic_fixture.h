/* SPDX-License-Identifier: MIT
 *
 * A NIC under test: the device in a guest that is the test itself, and the other end of its frame
 * socket, where the network would be.
 *
 *     struct nic *nic = nic_new(&device_e1000, &(struct device_params){.id = "net0", .mac = mac});
 */
#ifndef TRAPEZE_TESTS_NIC_FIXTURE_H
#define TRAPEZE_TESTS_NIC_FIXTURE_H

#include "support.h"

#include <sys/socket.h>
#include <unistd.h>

#include "net/link.h"
#include "net/port.h"
#include "virtio_guest.h"

struct nic {
    struct guest g;
    struct net_port *port;
    struct net_link peer;
    int fd;      /* the peer's; -1: closed */
    unsigned tx; /* for a test that counts what it sends */
};

/* `params` need no network. */
static inline struct nic *nic_new(const struct device_ops *device, struct device_params *params)
{
    struct nic *nic = calloc(1, sizeof(*nic));
    int pair[2];
    guest_init(&nic->g, false);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    nic->fd = pair[1];
    net_link_init(&nic->peer, pair[1], 1 << 20);
    nic->port = net_port_new(pair[0], "net0", nic->g.loop, nic->g.env.clock, &nic->g.log, NULL);
    params->net = nic->port;
    guest_plug(&nic->g, device, params);
    return nic;
}

static inline int nic_free(void **state)
{
    struct nic *nic = *state;
    device_free(nic->g.device);
    nic->g.device = NULL;
    net_port_free(nic->port);
    guest_free(&nic->g);
    if (nic->fd >= 0)
        close(nic->fd);
    net_link_clear(&nic->peer);
    free(nic);
    return 0;
}

/* Frames and notifications go all the way. */
static inline void nic_pump(struct nic *nic)
{
    for (unsigned i = 0; i < 4; i++)
        guest_pump(&nic->g);
}

#endif
