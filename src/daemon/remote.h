/* SPDX-License-Identifier: MIT
 *
 * Who may use the API over TCP: whoever shows a certificate that the client CA has signed, or a
 * bearer token (tokens.h). Both may do what verbs allow to them (api.h: remote), on all
 * instances. The transport is TLS 1.2 or later; without it only on a loopback address, if it is
 * asked for, and with a token all the same.
 *
 * An address (of IPv6: its /64) that has failed 20 times within a minute is not listened to until
 * that minute is over, unless it shows a certificate.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_REMOTE_H
#define TRAPEZE_DAEMON_REMOTE_H

#include <gnutls/gnutls.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct error;
struct log;
struct remote;
struct store;

/* Of the command line; NULL: not given. */
struct remote_options {
    const char *listen;            /* "tcp:ADDRESS:PORT" */
    const char *certificate, *key; /* PEM files; the certificate's with its chain */
    const char *client_ca;
    bool insecure; /* no TLS */
};

enum remote_verdict { REMOTE_ADMITTED, REMOTE_STRANGER, REMOTE_TOO_OFTEN };
enum { REMOTE_WHO = 96, REMOTE_WINDOW_S = 60 };

/* `fd`: a listening socket, which is taken over, or -1: opens what options->listen names. What is
 * borrowed, the options' texts too, lives longer. NULL: err. */
struct remote *remote_new(const struct remote_options *options, int fd, const struct store *store,
                          struct log *log, struct error **err);
void remote_free(struct remote *remote); /* NULL is fine */

/* Reads certificate, key and client CA again, for connections that begin from now on; those that there
 * are keep theirs. False: err, and everything stays as it was. True also without TLS. */
bool remote_reload(struct remote *remote, struct error **err);

int remote_take_socket(struct remote *remote); /* the caller's from now on */
/* GnuTLS's, with the client CA; NULL: no TLS. */
gnutls_certificate_credentials_t remote_credentials(const struct remote *remote);

/* Whether the session's client has shown a certificate for clients that the client CA has signed;
 * `who` is for people: "certificate 'laptop'". */
bool remote_knows(const struct remote *remote, gnutls_session_t session, char who[REMOTE_WHO]);
/* `certificate`: what remote_knows() said of the connection, NULL: nothing. */
enum remote_verdict remote_admit(struct remote *remote, const struct sockaddr *from,
                                 const char *certificate, const char *authorization,
                                 char who[REMOTE_WHO]);
/* What `who` is for a token. */
void remote_token_who(const char *token, char who[REMOTE_WHO]);
uint64_t remote_refused(const struct remote *remote); /* so many, ever */

/* Of remote_new(), for tests: "tcp:ADDRESS:PORT" and "tcp:[ADDRESS]:PORT" in two parts that the
 * caller frees. False: err. */
bool remote_parse(const char *text, char **address, char **port, struct error **err);

#endif
