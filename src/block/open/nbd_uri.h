/* SPDX-License-Identifier: MIT
 *
 * The address of an NBD export, as the NBD project's uri.md defines it:
 *
 *     nbd://HOST[:PORT]/EXPORT              nbds://[USER@]HOST[:PORT]/EXPORT     with TLS
 *     nbd+unix:///EXPORT?socket=PATH        nbds+unix://[USER@]/EXPORT?socket=PATH
 *
 * and for TLS tls-certificates=FOLDER, tls-psk-file=FILE, tls-verify-peer=false,
 * tls-hostname=NAME, as libnbd(3) has them.
 */
#ifndef TRAPEZE_BLOCK_OPEN_NBD_URI_H
#define TRAPEZE_BLOCK_OPEN_NBD_URI_H

#include <stdbool.h>

struct error;

struct nbd_uri {
    bool tls;
    bool trusting;                            /* who the server is does not matter */
    char *user;                               /* NULL: none; of TLS with pre-shared keys */
    char *host;                               /* TCP: name or address; NULL with a socket */
    char *port;                               /* TCP: a number or a service's name */
    char *socket;                             /* path of a unix socket; NULL: TCP */
    char *export;                             /* may be "" */
    char *certificates, *psk_file, *hostname; /* NULL: not given */
};

/* False: err, and nothing to clear. */
bool nbd_uri_parse(const char *text, struct nbd_uri *uri, struct error **err);
void nbd_uri_clear(struct nbd_uri *uri);

#endif
