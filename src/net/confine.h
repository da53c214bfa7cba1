/* SPDX-License-Identifier: MIT
 *
 * What a network process gives up once it has all it needs: root, capabilities, new privileges,
 * and every file but those below one readable directory. Sockets stay.
 *
 * Threads: call it while there is one only.
 */
#ifndef TRAPEZE_NET_CONFINE_H
#define TRAPEZE_NET_CONFINE_H

/* `readable`: a directory (not the whole tree's root), or NULL. As far as the host can: a kernel
 * without Landlock leaves files to the user's own rights. */
void net_confine(const char *readable);

#endif
