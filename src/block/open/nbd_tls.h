/* SPDX-License-Identifier: MIT
 *
 * TLS towards an NBD server: asks for it (NBD_OPT_STARTTLS), and yields a socket on which the
 * server is as if it had never wanted it. A thread carries the bytes until either side closes.
 *
 * Who the server is and who we are: pre-shared keys (tls-psk-file=, one USER:HEX per line), or
 * X.509 certificates, in tls-certificates= or the folders where libnbd looks: ca-cert.pem,
 * perhaps ca-crl.pem, client-cert.pem and client-key.pem; without any, what the host trusts.
 */
#ifndef TRAPEZE_BLOCK_OPEN_NBD_TLS_H
#define TRAPEZE_BLOCK_OPEN_NBD_TLS_H

#include "block/open/nbd_uri.h"

/* Takes the connected socket over, whatever comes of it. -1: err. */
int block_tls_start(int fd, const struct nbd_uri *uri, struct error **err);

#endif
