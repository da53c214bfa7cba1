/* SPDX-License-Identifier: MIT
 *
 * OpenSSH's client, connected to a guest's ssh server by whoever can reach it.
 *
 *     guest_ssh_run() ── connects, waits ──► vsock ═══ guest, port 22
 *       └─ ssh, scp ── ProxyCommand 'trapeze vsock-pass' ── gets that connection from the first
 *
 * The host key is learned at the first contact and kept in a file (`hosts`): on this connection
 * nobody but the instance's own worker is between the two.
 *
 * Threads: single-threaded; the environment changes.
 */
#ifndef TRAPEZE_CLIENT_GUEST_SSH_H
#define TRAPEZE_CLIENT_GUEST_SSH_H

#include <stdbool.h>
#include <stddef.h>

struct error;

#define GUEST_SSH_HOST "guest" /* what it is called on the command lines of ssh and scp */

struct guest_ssh {
    /* A stream to the guest's ssh server, which has spoken. -1: err. scp wants several. */
    int (*connect)(void *opaque, bool again, struct error **err);
    void *opaque;
    const char *user;        /* who to be in the guest */
    const char *key, *hosts; /* paths: of our secret key, and of what is known of the guest's */
    const char *certificate; /* path, for the key; NULL: none is needed */
    const char *alias;       /* the guest's name in `hosts` */
};

/* Runs "ssh" or "scp" with options that lead to the guest, and then `words`; its three streams are
 * ours. Its exit status as a shell tells it, or -1: err. */
int guest_ssh_run(const struct guest_ssh *ssh, const char *program, char *const *words,
                  size_t count, struct error **err);

/* The same for a program that the guest's shell gets on its standard input, with a word as its $1.
 * What it says first is in `said`, a string. `word` has nothing that a shell reads within ''. Who
 * is not root runs it by sudo. It has `seconds` from when it is connected: then -1. */
int guest_ssh_tell(const struct guest_ssh *ssh, const char *script, const char *word,
                   unsigned seconds, char said[256], struct error **err);

/* Whether it can be a user's name in the guest. */
bool guest_ssh_user_check(const char *user);

#endif
