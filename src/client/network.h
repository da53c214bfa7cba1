/* SPDX-License-Identifier: MIT
 *
 * What the NICs of a machine are connected to: starts (or joins) the backend processes of
 * net/backends.h and yields a frame socket for each NIC. Everything that needs rights, a name or
 * an address of the host happens here; the worker gets descriptors.
 *
 * Threads: single-threaded. Children are this process's, except switches, which machines share.
 */
#ifndef TRAPEZE_CLIENT_NETWORK_H
#define TRAPEZE_CLIENT_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "config/machine.h"

struct error;

struct client_network {
    size_t count;
    int links[MACHINE_MAX_NICS];      /* the worker's ends; -1 once handed over */
    pid_t backends[MACHINE_MAX_NICS]; /* 0: none of our own */
};

/* Zero or all of the config's NICs; every NIC has its MAC by now. */
bool client_network_start(const struct machine_config *config, struct client_network *network,
                          struct error **err);
void client_network_close_links(struct client_network *network); /* the worker has its copies */
/* Ends what was started; the worker is gone. */
void client_network_stop(struct client_network *network);

#endif
