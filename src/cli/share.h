/* SPDX-License-Identifier: MIT
 *
 * The option of 'trapeze run' that is about shared folders.
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLI_SHARE_H
#define TRAPEZE_CLI_SHARE_H

#include <stdbool.h>

#include "cli/cli.h"

struct machine_config;

/* clang-format off */
#define CLI_SHARE_OPTION                                                                           \
    {"share", 0, "FOLDER:TAG[:ro]",                                                                \
     "Let the guest mount FOLDER of this host: 'mount -t 9p -o trans=virtio,version=9p2000.L TAG " \
     "/mnt' in the guest. It sees what is below FOLDER and nothing else, with your rights; ':ro': " \
     "it cannot change it. Unless root runs trapeze, files of other users show as nobody's. May be " \
     "given several times.",                                                                       \
     NULL}
/* clang-format on */

bool cli_apply_shares(const struct cli_args *args, struct machine_config *config,
                      struct error **err);

#endif
