/* SPDX-License-Identifier: MIT
 *
 * See tls_front.h.
 */
#include "daemon/tls_front.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "daemon/remote.h"

enum {
    CLIENTS_MAX = 64,
    ADDRESS_MAX = 16, /* of them */
    HANDSHAKE_S = 10,
    STUCK_S = 60,
    PIPE_BYTES = 64 << 10 /* more than a TLS record, so that none is left over in GnuTLS */
};

/* Bytes on their way. */
struct pipe {
    size_t at, size;
    uint8_t bytes[PIPE_BYTES];
};

struct client {
    struct client *next, **link;
    struct tls_front *front;
    gnutls_session_t session;
    int outer, inner; /* TLS; our end of the pair, -1: shaking hands */
    int given; /* number of the server's end, which is not ours; -1: it has closed that */
    struct loop_watch *outer_watch, *inner_watch;
    bool inner_ended;
    time_t since; /* the last progress (monotonic) */
    struct sockaddr_storage from;
    socklen_t from_size;
    char who[REMOTE_WHO];
    struct pipe in, out; /* to the server, to the client */
};

struct tls_front {
    struct loop *loop;
    struct remote *remote;
    int listen_fd;
    struct loop_watch *listen_watch;
    struct client *clients;
    tls_front_fn *fn;
    void *opaque;
};

static time_t now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

static void client_free(struct client *client)
{
    *client->link = client->next;
    if (client->next != NULL)
        client->next->link = client->link;
    loop_watch_remove(client->outer_watch);
    loop_watch_remove(client->inner_watch);
    if (client->session != NULL)
        gnutls_deinit(client->session);
    if (client->outer >= 0)
        close(client->outer);
    if (client->inner >= 0)
        close(client->inner);
    free(client);
}

/* ---- carrying bytes ---- */

static bool waits(ssize_t code)
{
    return code == GNUTLS_E_AGAIN || code == GNUTLS_E_INTERRUPTED;
}

static bool waits_for_socket(ssize_t code)
{
    return code < 0 && (errno == EAGAIN || errno == EINTR);
}

/* False: that side is gone. */
static bool came(struct pipe *pipe, ssize_t code, bool wait)
{
    pipe->at = 0;
    pipe->size = code > 0 ? (size_t)code : 0;
    return code > 0 || wait;
}

static bool went(struct pipe *pipe, ssize_t code, bool wait, bool *moved)
{
    if (code > 0) {
        pipe->at += (size_t)code;
        pipe->size -= (size_t)code;
        *moved = true;
    }
    return code > 0 || wait;
}

/* One round through both directions; false: it is over. */
static bool carry_once(struct client *client, bool *moved)
{
    struct pipe *in = &client->in, *out = &client->out;
    ssize_t code;
    bool good = true;
    if (in->size == 0) {
        code = gnutls_record_recv(client->session, in->bytes, PIPE_BYTES);
        good = came(in, code, waits(code));
    }
    if (good && in->size > 0) {
        code = send(client->inner, in->bytes + in->at, in->size, MSG_NOSIGNAL | MSG_DONTWAIT);
        good = went(in, code, waits_for_socket(code), moved) || client->inner_ended;
    }
    if (good && out->size == 0 && !client->inner_ended) {
        code = recv(client->inner, out->bytes, PIPE_BYTES, MSG_DONTWAIT);
        client->inner_ended = !came(out, code, waits_for_socket(code));
    }
    if (good && out->size > 0) {
        code = gnutls_record_send(client->session, out->bytes + out->at, out->size);
        good = went(out, code, waits(code), moved);
    }
    if (good && client->inner_ended && out->size == 0) {
        (void)gnutls_bye(client->session, GNUTLS_SHUT_WR);
        return false;
    }
    return good;
}

static unsigned wishes(const struct pipe *in, const struct pipe *out)
{
    return (in->size == 0 ? LOOP_READABLE : 0u) | (out->size > 0 ? LOOP_WRITABLE : 0u);
}

static void carry(struct client *client)
{
    enum { ROUNDS = 8 }; /* then others have a turn; whatever is ready still is */
    bool moved = true, progress = false;
    for (int i = 0; i < ROUNDS && moved; i++) {
        moved = false;
        if (!carry_once(client, &moved)) {
            client_free(client);
            return;
        }
        progress = progress || moved;
    }
    if (progress || (client->in.size == 0 && client->out.size == 0))
        client->since = now_s();
    loop_watch_set(client->outer_watch, wishes(&client->in, &client->out));
    loop_watch_set(client->inner_watch,
                   client->inner_ended ? 0 : wishes(&client->out, &client->in));
}

static void on_inner(void *opaque, int fd, unsigned events)
{
    struct client *client = opaque;
    (void)fd;
    /* It has hung up while the client is slow: the rest is read when there is room. */
    if ((events & LOOP_HANGUP) != 0 && client->out.size > 0)
        loop_watch_set(client->inner_watch, 0);
    else
        carry(client);
}

/* ---- hands ---- */

/* The server has closed a descriptor of this number if there is a new one: whose it was may still
 * be there, with bytes on their way to its client. */
static void forget_number(struct tls_front *front, int fd)
{
    for (struct client *client = front->clients; client != NULL; client = client->next)
        if (client->given == fd)
            client->given = -1;
}

static void hand_over(struct client *client)
{
    struct tls_front *front = client->front;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
        client_free(client);
        return;
    }
    forget_number(front, pair[1]);
    client->inner = pair[0];
    client->given = pair[1];
    client->since = now_s();
    client->inner_watch =
        loop_watch_add(front->loop, client->inner, LOOP_READABLE, on_inner, client, NULL);
    if (client->inner_watch == NULL) {
        close(pair[1]);
        client_free(client);
        return;
    }
    if (!remote_knows(front->remote, client->session, client->who))
        client->who[0] = '\0';
    front->fn(front->opaque, pair[1], (const struct sockaddr *)&client->from, client->from_size);
    carry(client); /* the request may have come with the handshake's end */
}

static void shake_hands(struct client *client)
{
    int code = gnutls_handshake(client->session);
    if (code >= 0)
        hand_over(client);
    else if (gnutls_error_is_fatal(code))
        client_free(client);
    else
        loop_watch_set(client->outer_watch, gnutls_record_get_direction(client->session) == 1
                                                ? LOOP_WRITABLE
                                                : LOOP_READABLE);
}

static void on_outer(void *opaque, int fd, unsigned events)
{
    struct client *client = opaque;
    (void)fd;
    if ((events & LOOP_HANGUP) != 0 && (events & LOOP_READABLE) == 0)
        client_free(client);
    else if (client->inner < 0)
        shake_hands(client);
    else
        carry(client);
}

static bool same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
    if (a->ss_family != b->ss_family)
        return false;
    if (a->ss_family == AF_INET)
        return ((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)(const void *)b)->sin_addr.s_addr;
    const struct in6_addr *one = &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
    const struct in6_addr *two = &((const struct sockaddr_in6 *)(const void *)b)->sin6_addr;
    return memcmp(one, two, IN6_IS_ADDR_V4MAPPED(one) ? sizeof(*one) : 8) == 0;
}

static bool has_room_for(const struct tls_front *front, const struct sockaddr_storage *from)
{
    unsigned all = 0, same = 0;
    for (const struct client *client = front->clients; client != NULL; client = client->next) {
        all++;
        same += same_address(&client->from, from);
    }
    return all < CLIENTS_MAX && same < ADDRESS_MAX;
}

static bool begin(struct client *client)
{
    gnutls_session_t *session = &client->session;
    if (gnutls_init(session, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL) < 0 ||
        gnutls_priority_set_direct(
            *session, "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:%SERVER_PRECEDENCE", NULL) < 0 ||
        gnutls_credentials_set(*session, GNUTLS_CRD_CERTIFICATE,
                               remote_credentials(client->front->remote)) < 0)
        return false;
    /* Who has none, or a stranger's, may still have a token. */
    gnutls_certificate_server_set_request(*session, GNUTLS_CERT_REQUEST);
    gnutls_transport_set_int(*session, client->outer);
    client->outer_watch =
        loop_watch_add(client->front->loop, client->outer, LOOP_READABLE, on_outer, client, NULL);
    return client->outer_watch != NULL;
}

static void on_connection(void *opaque, int listen_fd, unsigned events)
{
    struct tls_front *front = opaque;
    struct sockaddr_storage from = {.ss_family = AF_UNSPEC};
    socklen_t size = sizeof(from);
    int one = 1;
    (void)events;
    int fd = accept4(listen_fd, (struct sockaddr *)&from, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (!has_room_for(front, &from)) {
        close(fd);
        return;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    struct client *client = alloc_zeroed(1, sizeof(*client));
    client->front = front;
    client->outer = fd;
    client->inner = client->given = -1;
    client->since = now_s();
    client->from = from;
    client->from_size = size;
    client->next = front->clients;
    client->link = &front->clients;
    if (client->next != NULL)
        client->next->link = &client->next;
    front->clients = client;
    if (!begin(client))
        client_free(client);
}

/* ---- life ---- */

struct tls_front *tls_front_new(struct loop *loop, struct remote *remote, int listen_fd,
                                tls_front_fn *fn, void *opaque, struct error **err)
{
    struct tls_front *front = alloc_zeroed(1, sizeof(*front));
    *front = (struct tls_front){
        .loop = loop, .remote = remote, .listen_fd = listen_fd, .fn = fn, .opaque = opaque};
    front->listen_watch = loop_watch_add(loop, listen_fd, LOOP_READABLE, on_connection, front, err);
    if (front->listen_watch != NULL)
        return front;
    tls_front_free(front);
    return NULL;
}

void tls_front_free(struct tls_front *front)
{
    if (front == NULL)
        return;
    loop_watch_remove(front->listen_watch);
    close(front->listen_fd);
    while (front->clients != NULL) {
        struct client *client = front->clients;
        if (client->inner >= 0)
            carry(client);
        if (client == front->clients)
            client_free(client);
    }
    free(front);
}

void tls_front_tick(struct tls_front *front)
{
    if (front == NULL)
        return;
    for (struct client *client = front->clients, *next; client != NULL; client = next) {
        time_t past = now_s() - client->since;
        next = client->next;
        bool pending = client->in.size > 0 || client->out.size > 0;
        if (client->inner < 0 ? past > HANDSHAKE_S : pending && past > STUCK_S)
            client_free(client);
    }
}

const char *tls_front_certificate(const struct tls_front *front, int fd)
{
    if (front == NULL)
        return NULL;
    for (const struct client *client = front->clients; client != NULL; client = client->next)
        if (client->given == fd)
            return client->who[0] != '\0' ? client->who : NULL;
    return NULL;
}
