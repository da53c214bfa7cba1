/* SPDX-License-Identifier: MIT
 *
 * A NoCloud seed: the disk labelled cidata from which cloud-init, or an image's own smaller
 * reader, learns a machine's name, its ssh keys and what to do at its first boot
 * (cloud-init's documentation, "NoCloud").
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLIENT_SEED_H
#define TRAPEZE_CLIENT_SEED_H

#include <stdbool.h>
#include <stddef.h>

struct error;

struct seed {
    const char *hostname;        /* NULL: the image's */
    const char *const *ssh_keys; /* files with public keys, one a line */
    size_t ssh_key_count;
    bool vsock_ssh;        /* the guest's ssh server shall listen on vsock port 22, too */
    const char *user_data; /* a file taken as it is, instead of hostname and keys; or NULL */
};

/* The disk as an anonymous file's descriptor, which the caller closes. -1: err. */
int seed_make(const struct seed *seed, struct error **err);

#endif
