/* SPDX-License-Identifier: MIT
 *
 * TLS towards a server, as a client: yields a socket on which the server is as if it spoke no TLS.
 * A thread carries the bytes until either side closes.
 *
 *     relay = tls_relay_new(fd, err);      then credentials for tls_relay_session(relay)
 *     tls_relay_shake_hands(relay, err);   takes 5 s at most
 *     plain = tls_relay_start(relay, …);   which owns the relay
 *
 * Threads: any, one at a time for each relay.
 */
#ifndef TRAPEZE_BLOCK_OPEN_TLS_RELAY_H
#define TRAPEZE_BLOCK_OPEN_TLS_RELAY_H

#include <gnutls/gnutls.h>
#include <stdbool.h>
#include <stddef.h>

struct error;
struct tls_relay;

/* Takes the connected socket over, whatever comes of it. NULL: err. */
struct tls_relay *tls_relay_new(int server, struct error **err);
void tls_relay_free(struct tls_relay *relay); /* NULL is fine */

gnutls_session_t tls_relay_session(struct tls_relay *relay);
/* Made at the first call, and freed with the relay; not yet those of the session. NULL: out of
 * memory. */
gnutls_certificate_credentials_t tls_relay_certificates(struct tls_relay *relay);
gnutls_psk_client_credentials_t tls_relay_keys(struct tls_relay *relay);

bool tls_relay_shake_hands(struct tls_relay *relay, struct error **err);
/* The client's end; it gets `first` before anything that the server says, and the first `skip`
 * bytes that it sends are not for the server. Takes the relay over. -1: err. */
int tls_relay_start(struct tls_relay *relay, const void *first, size_t size, size_t skip,
                    struct error **err);

/* False, with GnuTLS's word for what is wrong with `what`. */
bool tls_error(struct error **err, const char *what, int code);

#endif
