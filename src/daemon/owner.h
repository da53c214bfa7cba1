/* SPDX-License-Identifier: MIT
 *
 * Whose an instance is: "trapeze.owner" in its .vmx, a user's name. Nothing depends on it yet.
 *
 * Threads: any.
 */
#ifndef TRAPEZE_DAEMON_OWNER_H
#define TRAPEZE_DAEMON_OWNER_H

#include <sys/types.h>

#define OWNER_MAX 64 /* bytes */

/* A user's name; the number, where the host has no name for it. */
void owner_name(uid_t uid, char name[OWNER_MAX]);

#endif
