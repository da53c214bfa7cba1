/* SPDX-License-Identifier: MIT
 *
 * The options of 'trapeze run' that are about networks, as rows for its table and what they do
 * to a machine's description.
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLI_NIC_H
#define TRAPEZE_CLI_NIC_H

#include <stdbool.h>

#include "cli/cli.h"

struct machine_config;

#define CLI_NIC_OPTIONS                                                                           \
    {"net", 0, "KIND[,property=value...]",                                                      \
     "Connect a NIC; may be given several times. KIND: 'nat' (the host's networks, by address "   \
     "translation and without rights; the default with --image), 'hostonly' (the same without "   \
     "a way out), 'hostonly:ADDRESS/BITS' (this host gets an interface with that address and "    \
     "gives the guest one; needs rights), 'internal:NAME' (other machines of yours that name "    \
     "it), 'tap:INTERFACE' or 'bridge:BRIDGE' (the host's; needs rights), 'none'. Properties: model=virtio|e1000, mac=, " \
     "mtu=, vlan= (of an internal network), queues= (pairs; unless given one for each vCPU), "    \
     "rate= (bits per second of each direction, e.g. 10M), capture=FILE, forward=, "              \
     "host-loopback=on (of 'nat': 10.0.2.2 leads the guest to what listens on this host's "       \
     "127.0.0.1, which is closed otherwise).",                                                    \
     "Networks"},                                                                                 \
    {"forward", 'p', "PROTOCOL:[ADDRESS:]HOSTPORT:GUESTPORT",                                     \
     "Lead a port of this host to one of the guest, e.g. tcp:2222:22; through the first 'nat' "   \
     "or 'hostonly' NIC. Without ADDRESS only this host can connect. May be given several "       \
     "times.",                                                                                    \
     NULL},                                                                                       \
    {"capture", 0, "FILE",                                                                        \
     "Write the frames of the first NIC to FILE in pcapng format, for Wireshark and tcpdump; "    \
     "at most 1 GiB.",                                                                            \
     NULL}

/* Adds the NICs that were asked for, or the default one. */
bool cli_apply_nics(const struct cli_args *args, struct machine_config *config, struct error **err);

/* A NIC as --net describes it, added to those of `config`; it has an address then. */
bool cli_add_nic(const char *text, struct machine_config *config, struct error **err);

/* The next comma-separated part of *at, with ",," as a literal comma; NULL at the end. Caller
 * frees. */
char *cli_next_part(const char **at);

#endif
