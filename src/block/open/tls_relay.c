/* SPDX-License-Identifier: MIT
 *
 * See tls_relay.h.
 */
#include "block/open/tls_relay.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"

enum { HANDSHAKE_MS = 5000, RELAY_BYTES = 64 * 1024 };

/* One direction's bytes that the other side has not yet taken. */
struct pipe {
    size_t at, size;
    uint8_t bytes[RELAY_BYTES];
};

struct tls_relay {
    gnutls_session_t session;
    gnutls_certificate_credentials_t certificates;
    gnutls_psk_client_credentials_t keys;
    int server, client;
    size_t skip;          /* so many bytes of the client's first are not for the server */
    struct pipe down, up; /* to the client, to the server */
};

struct tls_relay *tls_relay_new(int server, struct error **err)
{
    const struct timeval patience = {HANDSHAKE_MS / 1000, 0};
    struct tls_relay *relay = alloc_zeroed(1, sizeof(*relay));
    relay->server = server;
    relay->client = -1;
    /* Until the descriptor does not block any more. */
    (void)setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    (void)setsockopt(server, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    int code = gnutls_init(&relay->session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL);
    if (code >= 0)
        return relay;
    tls_error(err, "TLS", code);
    tls_relay_free(relay);
    return NULL;
}

void tls_relay_free(struct tls_relay *relay)
{
    if (relay == NULL)
        return;
    if (relay->session != NULL)
        gnutls_deinit(relay->session);
    if (relay->certificates != NULL)
        gnutls_certificate_free_credentials(relay->certificates);
    if (relay->keys != NULL)
        gnutls_psk_free_client_credentials(relay->keys);
    if (relay->server >= 0)
        close(relay->server);
    if (relay->client >= 0)
        close(relay->client);
    free(relay);
}

gnutls_session_t tls_relay_session(struct tls_relay *relay)
{
    return relay->session;
}

/* gnutls_…_allocate_…: negative if there is no memory. */
gnutls_certificate_credentials_t tls_relay_certificates(struct tls_relay *relay)
{
    if (relay->certificates == NULL)
        (void)gnutls_certificate_allocate_credentials(&relay->certificates);
    return relay->certificates;
}

gnutls_psk_client_credentials_t tls_relay_keys(struct tls_relay *relay)
{
    if (relay->keys == NULL)
        (void)gnutls_psk_allocate_client_credentials(&relay->keys);
    return relay->keys;
}

bool tls_error(struct error **err, const char *what, int code)
{
    return error_set(err, ERROR_HOST, "%s: %s", what, gnutls_strerror(code));
}

bool tls_relay_shake_hands(struct tls_relay *relay, struct error **err)
{
    int code;
    gnutls_transport_set_int(relay->session, relay->server);
    gnutls_handshake_set_timeout(relay->session, HANDSHAKE_MS);
    do
        code = gnutls_handshake(relay->session);
    while (code < 0 && gnutls_error_is_fatal(code) == 0);
    if (code == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR) {
        gnutls_datum_t text;
        unsigned status = gnutls_session_get_verify_cert_status(relay->session);
        if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) == 0) {
            error_set(err, ERROR_HOST, "TLS: %s", (const char *)text.data);
            gnutls_free(text.data);
            return false;
        }
    }
    return code >= 0 || tls_error(err, "TLS", code);
}

/* --- carrying bytes --- */

static bool waits(ssize_t code)
{
    return code == GNUTLS_E_AGAIN || code == GNUTLS_E_INTERRUPTED;
}

static bool waits_for_socket(ssize_t code)
{
    return code < 0 && (errno == EAGAIN || errno == EINTR);
}

/* Adds what came or takes what went; false: that side is gone. */
static bool came(struct pipe *pipe, ssize_t code, bool wait, bool *moved)
{
    if (wait)
        return true;
    if (code <= 0)
        return false;
    pipe->at = 0;
    pipe->size = (size_t)code;
    return *moved = true;
}

static bool went(struct pipe *pipe, ssize_t code, bool wait, bool *moved)
{
    if (wait)
        return true;
    if (code < 0)
        return false;
    pipe->at += (size_t)code;
    pipe->size -= (size_t)code;
    return *moved = true;
}

/* One round through both directions; false: one side is gone. */
static bool carry(struct tls_relay *relay, bool *moved)
{
    struct pipe *down = &relay->down, *up = &relay->up;
    ssize_t code;
    bool good = true;
    if (down->size == 0) {
        code = gnutls_record_recv(relay->session, down->bytes, RELAY_BYTES);
        good = came(down, code, waits(code), moved);
    }
    if (good && down->size > 0) {
        code = send(relay->client, down->bytes + down->at, down->size, MSG_NOSIGNAL | MSG_DONTWAIT);
        good = went(down, code, waits_for_socket(code), moved);
    }
    if (good && up->size == 0) {
        code = recv(relay->client, up->bytes, RELAY_BYTES, MSG_DONTWAIT);
        good = came(up, code, waits_for_socket(code), moved);
    }
    if (good && up->size > 0) {
        code = gnutls_record_send(relay->session, up->bytes + up->at, up->size);
        good = went(up, code, waits(code), moved);
    }
    return good;
}

static void *relay_thread(void *opaque)
{
    struct tls_relay *relay = opaque;
    bool good = true;
    for (uint8_t byte; good && relay->skip > 0; relay->skip--)
        good = recv(relay->client, &byte, 1, MSG_WAITALL) == 1;
    while (good) {
        bool moved = false;
        good = carry(relay, &moved);
        if (!good || moved)
            continue;
        struct pollfd set[] = {
            {.fd = relay->server,
             .events = (short)((relay->down.size == 0 ? POLLIN : 0) |
                               (relay->up.size > 0 ? POLLOUT : 0))},
            {.fd = relay->client,
             .events = (short)((relay->up.size == 0 ? POLLIN : 0) |
                               (relay->down.size > 0 ? POLLOUT : 0))},
        };
        good = poll(set, ARRAY_SIZE(set), -1) >= 0 || errno == EINTR;
    }
    (void)gnutls_bye(relay->session, GNUTLS_SHUT_WR);
    tls_relay_free(relay);
    return NULL;
}

int tls_relay_start(struct tls_relay *relay, const void *first, size_t size, size_t skip,
                    struct error **err)
{
    int pair[2];
    pthread_t thread;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        error_set_errno(err, errno, "cannot make a socket pair");
        tls_relay_free(relay);
        return -1;
    }
    relay->client = pair[0];
    relay->skip = skip;
    bool good = (size == 0 || send(pair[0], first, size, MSG_NOSIGNAL) == (ssize_t)size) &&
                fcntl(relay->server, F_SETFL, O_NONBLOCK) == 0;
    int number = good ? pthread_create(&thread, NULL, relay_thread, relay) : errno;
    if (number != 0) {
        close(pair[1]);
        error_set_errno(err, number, "cannot start a thread for TLS");
        tls_relay_free(relay);
        return -1;
    }
    pthread_detach(thread);
    return pair[1];
}
