/* SPDX-License-Identifier: MIT
 *
 * Gives the guest of a host-only network its address: libslirp's DHCP server, and nothing else of
 * libslirp, beside a tap device. It names no gateway and no name server: there is no way out.
 *
 * Threads: none of its own.
 */
#ifndef TRAPEZE_NET_DHCP_H
#define TRAPEZE_NET_DHCP_H

#include "net/frame.h"

struct error;
struct net_dhcp;

/* `host` ("192.168.77.1") is this host's address in a network whose mask has `length` bits. The
 * guest gets the 16th address of it, or a later one. NULL: that is no such network, or err. */
struct net_dhcp *net_dhcp_new(const char *host, unsigned length, net_emit_fn *emit, void *opaque,
                              struct error **err);
void net_dhcp_free(struct net_dhcp *dhcp); /* NULL is fine */

/* False: the guest's frame is none for a DHCP server. Answers come by emit() before it returns. */
bool net_dhcp_take(struct net_dhcp *dhcp, struct net_frame *frame);

#endif
