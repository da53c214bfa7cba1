/* SPDX-License-Identifier: MIT
 *
 * "tcp:[HOSTADDR:]HOSTPORT:GUESTPORT": a port of the host that leads to one of the guest.
 * Without an address it is reachable from this host only (127.0.0.1); an IPv6 address stands in
 * brackets.
 *
 * Threads: none of its own.
 */
#ifndef TRAPEZE_NET_FORWARD_H
#define TRAPEZE_NET_FORWARD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct error;

struct net_forward {
    bool udp;
    struct sockaddr_storage host; /* AF_INET or AF_INET6, with the port */
    uint16_t guest_port;
};

bool net_forward_parse(const char *text, struct net_forward *forward, struct error **err);

#endif
