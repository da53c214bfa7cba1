/* SPDX-License-Identifier: MIT
 *
 * What ssh, exec and cp share: the way to an instance's ssh server (client/guest_ssh.h).
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLI_GUEST_H
#define TRAPEZE_CLI_GUEST_H

#include "cli/cli.h"
#include "client/guest_ssh.h"

/* clang-format off */
#define CLI_GUEST_OPTIONS                                                                          \
    {"user", 'u', "USER", "Who to be in the guest. Default: root.", NULL},                         \
    {"timeout", 0, "SECONDS",                                                                      \
     "How long a guest that does not answer, because it is still booting, is waited for. Default: "\
     "120.",                                                                                       \
     NULL}
/* clang-format on */

/* Runs "ssh" or "scp" with options that lead to the instance, and then `words`. Its exit status, or
 * -1: err. */
int cli_guest_run(const struct cli_args *args, const char *name, const char *program,
                  char *const *words, size_t count, struct error **err);

/* Has the guest's shell run a program (guest_ssh_tell()) with a word as its $1. 0: done. Else err:
 * its exit status, or -1: it was not reached, or had not done it in time. */
int cli_guest_tell(const struct cli_args *args, const char *name, const char *text,
                   const char *word, struct error **err);

/* As cli_instance(), of the first operand, with others behind it. */
const char *cli_guest_name(const struct cli_args *args, struct error **err);

#endif
