/* SPDX-License-Identifier: MIT
 *
 * What ssh, exec and cp share: OpenSSH's client, connected to a guest's ssh server over its vsock.
 *
 *     trapeze ssh ── connects, waits ──► NAME/vsock.sock ═══ guest, vsock port 22
 *       └─ ssh ── ProxyCommand 'trapeze vsock-pass' ── gets that connection from the first
 *
 * The host key is learned at the first contact and kept in the instance's folder (known_hosts): on
 * this connection nobody but the instance's own worker is between the two.
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLI_GUEST_H
#define TRAPEZE_CLI_GUEST_H

#include "cli/cli.h"

/* clang-format off */
#define CLI_GUEST_OPTIONS                                                                          \
    {"user", 'u', "USER", "Who to be in the guest. Default: root.", NULL},                         \
    {"timeout", 0, "SECONDS",                                                                      \
     "How long a guest that does not answer, because it is still booting, is waited for. Default: "\
     "120.",                                                                                       \
     NULL}
/* clang-format on */

#define CLI_GUEST_HOST "guest" /* what it is called on the command lines of ssh and scp */

/* Runs "ssh" or "scp" with options that lead to the instance, and then `words`. Its exit status, or
 * -1: err. */
int cli_guest_run(const struct cli_args *args, const char *name, const char *program,
                  char *const *words, size_t count, struct error **err);

/* As cli_instance(), of the first operand, with others behind it. */
const char *cli_guest_name(const struct cli_args *args, struct error **err);

#endif
