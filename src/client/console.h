/* SPDX-License-Identifier: MIT
 *
 * Getting onto the console of a machine that runs, or hearing who has it (worker/console.h).
 *
 * Threads: any.
 */
#ifndef TRAPEZE_CLIENT_CONSOLE_H
#define TRAPEZE_CLIENT_CONSOLE_H

#include <stdbool.h>

struct error;

enum client_role { CLIENT_OWNS, CLIENT_STEALS, CLIENT_WATCHES, CLIENT_ROLES };
extern const char *const client_role_words[CLIENT_ROLES]; /* "own", "steal", "watch" */

/* Asks the worker whose control socket is in the folder to make `fd`, one end of a stream socket
 * pair (borrowed), the console's; `who` is what others hear of us. False: err. */
bool client_console_attach(int folder, enum client_role role, const char *who, int fd,
                           struct error **err);

#endif
