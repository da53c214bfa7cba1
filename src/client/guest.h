/* SPDX-License-Identifier: MIT
 *
 * Ways into a running guest that need no network: streams to ports of its vsock, through the socket
 * in its instance's folder, and the key pair with which its ssh server knows us.
 *
 * A store has one key pair, STORE/ssh/id_ed25519. Each start of an instance tells it to the guest,
 * by words on the kernel's command line that systemd 256 and later obey (systemd-ssh-generator(8),
 * systemd.system-credentials(7)): its ssh server then listens on vsock port 22 and takes that key
 * for any user. Nothing of it is kept in the guest, and a folder that moved to another host lets in
 * whoever starts it there.
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLIENT_GUEST_H
#define TRAPEZE_CLIENT_GUEST_H

#include <stdbool.h>

struct error;

#define GUEST_SSH_PORT 22u

/* How long a guest is waited for, in seconds. */
struct guest_patience {
    unsigned listen_s; /* until something listens on the port, and has spoken */
    unsigned
        speak_s; /* from when something listens on until it has spoken; 0: no longer than that */
    bool silent; /* otherwise standard error is told who is waited for */
    bool costly; /* each attempt is: they are farther between */
};
/* A stream to the unix socket that leads to the guest, wherever that is. -1: err. */
typedef int guest_open_fn(void *opaque, struct error **err);
int guest_open_socket(void *path, struct error **err); /* here; a char* */

/* A connection to a port of the guest, when whoever listens there has said its first word (which an
 * ssh server does). `name` is for messages. -1: err. */
int guest_connect(guest_open_fn *open, void *opaque, const char *name, unsigned port,
                  const struct guest_patience *patience, struct error **err);

/* Makes the store's key pair if there is none. False: err. */
bool guest_key_make(const char *store, struct error **err);
/* Its secret half's path; ".pub" behind it is the public one. The caller frees it. */
char *guest_key_path(const char *store);
/* Who comes from another host has a key of his own, which the store's certifies for a user of the
 * guest: so it need not leave this host. Neither the guest's clock nor ours need be right to the
 * hour. */
bool guest_key_new(const char *path, struct error **err); /* and ".pub" behind it; false: err */
bool guest_key_check(const char *key); /* whether it is "ssh-ed25519 AAAA...", without a comment */
/* The certificate's text, which the caller frees; files are made in `folder`, the caller's to
 * remove. `who` is for the guest's log. NULL: err. */
char *guest_key_sign(const char *store, const char *folder, const char *key, const char *user,
                     const char *who, struct error **err);
/* The words for the kernel; the caller frees them. NULL: err. */
char *guest_boot_words(const char *store, struct error **err);

/* A descriptor over a unix socket, with one byte. False: errno. */
bool guest_send_fd(int socket, int fd);
int guest_receive_fd(int socket); /* -1: none came */

#endif
