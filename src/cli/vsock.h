/* SPDX-License-Identifier: MIT
 *
 * The option of 'trapeze run' that is about the guest's vsock.
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLI_VSOCK_H
#define TRAPEZE_CLI_VSOCK_H

#include <stdbool.h>

#include "cli/cli.h"

struct machine_config;

/* clang-format off */
#define CLI_VSOCK_OPTION                                                                           \
    {"vsock", 0, "CID,socket=PATH",                                                                \
     "Give the guest stream sockets of the vsock family, with the address CID (3 or higher). A "   \
     "program here that connects to the unix socket PATH and writes 'CONNECT 1234' and a line "    \
     "feed reaches port 1234 of the guest, which answers 'OK PORT'; a guest that connects to "     \
     "port 5000 of the host (CID 2) reaches whoever listens on PATH_5000.",                        \
     NULL}
/* clang-format on */

bool cli_apply_vsock(const struct cli_args *args, struct machine_config *config,
                     struct error **err);

#endif
