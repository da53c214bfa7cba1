/* SPDX-License-Identifier: MIT
 *
 * The processes behind NICs: each is this same executable, started with an end of a frame socket
 * (net/link.h) and without disks or guest memory. They end when their last link does.
 *
 *     trapeze net-nat    STATUS_FD LINK_FD open|host|restricted MTU MAC [FORWARD...]
 *     trapeze net-tap    STATUS_FD LINK_FD TAP_FD [ADDRESS LENGTH | ADDRESS metadata TALK_FD]
 *     trapeze net-switch STATUS_FD LISTEN_FD PATH
 *
 * NAT leads out of this host (open), to its loopback addresses too (host), or nowhere (restricted).
 *
 * Beside the tap device of a host-only network, where this host has ADDRESS, answers DHCP. A metadata service
 * is at ADDRESS, and takes messages (net/metadata.h) from TALK_FD in frames (base/frame.h), each of which it
 * answers with a byte.
 *
 * STATUS_FD is a pipe: before it starts to serve, a backend writes nothing and closes it, or
 * writes the sentence that says why it cannot.
 */
#ifndef TRAPEZE_NET_BACKENDS_H
#define TRAPEZE_NET_BACKENDS_H

#include <stdbool.h>

/* argv[0] is the backend's name. */
int net_nat_main(int argc, char **argv);
int net_tap_main(int argc, char **argv);
int net_switch_main(int argc, char **argv);
int net_vsock_main(int argc, char **argv); /* net/vsock_connector.h */

/* Runs the backend that argv[1] names. False: it names none. */
bool net_backend_main(int argc, char **argv, int *status);

/* For the backends: reports a failure to STATUS_FD or, with NULL, that all is well. */
struct error;
int net_backend_ready(int status_fd, struct error *error);

#endif
