/* SPDX-License-Identifier: MIT
 *
 * What the NICs of a machine are connected to: starts (or joins) the backend processes of
 * net/backends.h and yields a frame socket for each NIC. Everything that needs rights, a name or
 * an address of the host happens here; the worker gets descriptors.
 *
 * Threads: single-threaded. Children are this process's, except switches, which machines share, and
 * what client_network_attach() starts.
 */
#ifndef TRAPEZE_CLIENT_NETWORK_H
#define TRAPEZE_CLIENT_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "config/machine.h"

struct error;

/* A metadata service (net/metadata.h) on links that lead to tap devices. */
struct client_metadata {
    const char *address;        /* IPv4 */
    int talks[MACHINE_MAX_NICS]; /* stream sockets for net-tap's ends, borrowed; -1: this NIC has none */
};

struct client_network {
    size_t count;
    const struct client_metadata *metadata; /* before the start; NULL: there is none */
    int links[MACHINE_MAX_NICS];      /* the worker's ends; -1 once handed over */
    pid_t backends[MACHINE_MAX_NICS]; /* 0: none of our own */
    bool orphans; /* backends end with their frame sockets, not with us */
};

/* Zero or all of the config's NICs; every NIC has its MAC by now. */
bool client_network_start(const struct machine_config *config, struct client_network *network,
                          struct error **err);
void client_network_close_links(struct client_network *network); /* the worker has its copies */
/* A frame socket for one more NIC, of a machine that runs; -1: err. What is behind it ends when
 * the socket's last copy is closed. */
int client_network_attach(const struct machine_nic *nic, struct error **err);
/* Ends what was started; the worker is gone. */
void client_network_stop(struct client_network *network);

#endif
