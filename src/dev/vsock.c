/* SPDX-License-Identifier: MIT
 *
 * See vsock.h. Whatever happens to a connection changes its members only; settle() then draws
 * the conclusions: end, tell the guest, wait for the socket. So there is one place where a
 * connection goes away, and it is the last thing that is done with it.
 *
 *     STRANGER ─CONNECT→ REQUESTED ─RESPONSE→ OPEN ─RST→ (freed, or FLUSHING)
 *     guest's REQUEST ─► ASKED ──connected──→ OPEN ─error→ DEAD ─RST told→ (freed)
 *
 * In OPEN, guest_shut and host_shut say who has stopped what. A guest that has closed gets its
 * RST when all its data is delivered; if it forgets the connection before, the data still is.
 */
#include "dev/vsock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "bus/virtqueue.h"
#include "net/vsock_connector.h"

#define FIRST_PORT     UINT32_C(0x40000000) /* of ours; clients of the host get them */
#define LINE_MAX_BYTES 32u                  /* "CONNECT 4294967295\n" and to spare */

enum state { STRANGER, REQUESTED, ASKED, OPEN, FLUSHING, DEAD, FREED };
/* Packets that are to be sent. */
enum { SEND_REQUEST = 1, SEND_RESPONSE = 2, SEND_CREDIT = 4, ASK_CREDIT = 8 };

struct connection {
    struct vsock *vsock;
    TAILQ_ENTRY(connection) all, ready;
    bool is_ready; /* it is in vsock->ready */
    enum state state;
    int fd;            /* -1: closed, or not yet there */
    uint32_t question; /* ASKED: its number */
    struct loop_watch *watch;
    uint32_t host_port, guest_port;
    unsigned pending;
    bool readable;    /* the socket said so; it is not watched for that until it is empty */
    bool write_ended; /* the socket's other end was told that nothing follows */
    unsigned guest_shut, host_shut, host_shut_told; /* VSOCK_NO_* */
    bool credit_asked;
    uint32_t guest_alloc, guest_taken, sent; /* the guest's credit: buf_alloc, fwd_cnt, tx_cnt */
    uint32_t taken, taken_told;              /* our fwd_cnt, and what the guest knows of it */
    uint8_t *buffer;                         /* VSOCK_BUFFER bytes, a ring; NULL: empty */
    uint32_t first, filled;
    char line[LINE_MAX_BYTES];
    unsigned line_size;
};

struct reset {
    uint64_t cid;
    uint32_t host_port, guest_port;
    uint16_t type;
};

TAILQ_HEAD(connection_list, connection);

struct vsock {
    struct loop *loop;
    void (*wanted)(void *user);
    void *user;
    uint64_t guest_cid;
    int listen_fd, connector_fd;
    int spare_fd; /* lets us refuse when there are no descriptors left */
    struct loop_watch *listen_watch, *connector_watch;
    uint32_t questions;
    struct connection_list all, ready; /* all: the oldest first */
    unsigned count, strangers;
    uint32_t next_port;
    struct reset resets[VSOCK_RESETS];
    unsigned first_reset, reset_count;
};

static void socket_event(void *opaque, int fd, unsigned events);

/* --- connections --- */

static struct connection *find(const struct vsock *vsock, uint32_t host_port, uint32_t guest_port)
{
    struct connection *c;
    TAILQ_FOREACH(c, &vsock->all, all)
    if (c->host_port == host_port && c->guest_port == guest_port && c->state != STRANGER &&
        c->state != FLUSHING)
        return c;
    return NULL;
}

static void close_socket(struct connection *c)
{
    loop_watch_remove(c->watch);
    c->watch = NULL;
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    free(c->buffer);
    c->buffer = NULL;
    c->filled = 0;
}

static void free_connection(struct connection *c)
{
    struct vsock *vsock = c->vsock;
    close_socket(c);
    if (c->is_ready)
        TAILQ_REMOVE(&vsock->ready, c, ready);
    TAILQ_REMOVE(&vsock->all, c, all);
    vsock->count--;
    vsock->strangers -= c->state == STRANGER;
    free(c);
}

static void set_state(struct connection *c, enum state state)
{
    if (c->state == STRANGER && state != STRANGER)
        c->vsock->strangers--;
    c->state = state;
}

static void add_reset(struct vsock *vsock, uint64_t cid, uint32_t host_port, uint32_t guest_port,
                      uint16_t type)
{
    if (vsock->reset_count == VSOCK_RESETS)
        return; /* only if vsock_can_send() was not asked */
    vsock->resets[(vsock->first_reset + vsock->reset_count++) % VSOCK_RESETS] =
        (struct reset){cid, host_port, guest_port, type};
}

/* What the host has left and the guest still holds makes way. */
static bool make_room(struct vsock *vsock)
{
    struct connection *c;
    if (vsock->count < VSOCK_CONNECTIONS)
        return true;
    TAILQ_FOREACH(c, &vsock->all, all)
    if (c->state == OPEN && c->fd < 0 && vsock->reset_count < VSOCK_RESETS) {
        add_reset(vsock, VSOCK_HOST_CID, c->host_port, c->guest_port, VSOCK_TYPE_STREAM);
        free_connection(c);
        return true;
    }
    return false;
}

static bool set_socket(struct connection *c, int fd)
{
    c->watch = loop_watch_add(c->vsock->loop, fd, 0, socket_event, c, NULL);
    if (c->watch != NULL)
        c->fd = fd;
    else
        close(fd);
    return c->watch != NULL;
}

/* Takes the descriptor (-1: it comes later) over; NULL if there is no room for one more. */
static struct connection *add_connection(struct vsock *vsock, int fd, enum state state)
{
    if (!make_room(vsock)) {
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    struct connection *c = alloc_zeroed(1, sizeof(*c));
    c->vsock = vsock;
    c->fd = -1;
    if (fd >= 0 && !set_socket(c, fd)) {
        free(c);
        return NULL;
    }
    c->state = state;
    TAILQ_INSERT_TAIL(&vsock->all, c, all);
    vsock->count++;
    vsock->strangers += state == STRANGER;
    return c;
}

static bool may_read(const struct connection *c)
{
    return c->state == OPEN && c->fd >= 0 && (c->host_shut & VSOCK_NO_SEND) == 0 &&
           (c->guest_shut & VSOCK_NO_RECEIVE) == 0;
}

/* What the guest claims to have taken may be anything. */
static uint32_t credit(const struct connection *c)
{
    uint32_t under_way = c->sent - c->guest_taken;
    return under_way < c->guest_alloc ? c->guest_alloc - under_way : 0;
}

static bool has_packet(const struct connection *c)
{
    if (c->state == DEAD)
        return true;
    if (c->state != OPEN && c->state != REQUESTED)
        return false;
    return c->pending != 0 || c->host_shut != c->host_shut_told ||
           (c->readable && may_read(c) && (credit(c) > 0 || !c->credit_asked));
}

static unsigned events_wanted(const struct connection *c)
{
    unsigned events = 0;
    switch (c->state) {
    case STRANGER:
        return LOOP_READABLE;
    case REQUESTED:
        return LOOP_HANGUP;
    case FLUSHING:
        return LOOP_WRITABLE;
    case OPEN:
        if (may_read(c))
            events |= c->readable ? 0 : LOOP_READABLE;
        else if ((c->host_shut & VSOCK_NO_RECEIVE) == 0)
            events |= LOOP_HANGUP;
        return events | (c->filled > 0 ? LOOP_WRITABLE : 0u);
    default:
        return 0;
    }
}

/* May free the connection. */
static void settle(struct connection *c)
{
    struct vsock *vsock = c->vsock;
    if (c->state == OPEN && c->host_shut == VSOCK_NEITHER)
        close_socket(c);
    if (c->state == OPEN && c->filled == 0) {
        if (c->guest_shut == VSOCK_NEITHER)
            set_state(c, DEAD);
        else if ((c->guest_shut & VSOCK_NO_SEND) != 0 && !c->write_ended && c->fd >= 0) {
            (void)shutdown(c->fd, SHUT_WR);
            c->write_ended = true;
        }
    }
    if (c->state == DEAD)
        close_socket(c);
    if (c->state == FREED || (c->state == FLUSHING && c->filled == 0)) {
        free_connection(c);
        return;
    }
    bool ready = has_packet(c);
    if (ready && !c->is_ready)
        TAILQ_INSERT_TAIL(&vsock->ready, c, ready);
    else if (!ready && c->is_ready)
        TAILQ_REMOVE(&vsock->ready, c, ready);
    c->is_ready = ready;
    if (c->watch != NULL)
        loop_watch_set(c->watch, events_wanted(c));
}

/* --- from the guest to the host --- */

static void take(struct connection *c, uint32_t bytes)
{
    c->taken += bytes;
    if (c->taken - c->taken_told >= VSOCK_BUFFER / 4)
        c->pending |= SEND_CREDIT;
}

/* Nobody will ever read it. */
static void forget_output(struct connection *c)
{
    take(c, c->filled);
    c->filled = 0;
    c->host_shut |= VSOCK_NO_RECEIVE;
}

/* Bytes that the socket took. */
static size_t write_socket(struct connection *c, struct iovec *iov, unsigned count)
{
    const struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
    ssize_t done;
    do
        done = sendmsg(c->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (done < 0 && errno == EINTR);
    if (done >= 0)
        return (size_t)done;
    if (errno != EAGAIN && errno != EWOULDBLOCK)
        forget_output(c);
    return 0;
}

static void flush(struct connection *c)
{
    while (c->filled > 0) {
        uint32_t part = VSOCK_BUFFER - c->first;
        struct iovec iov = {c->buffer + c->first, c->filled < part ? c->filled : part};
        uint32_t done = (uint32_t)write_socket(c, &iov, 1);
        if (done == 0)
            return;
        c->first = (c->first + done) % VSOCK_BUFFER;
        c->filled -= done;
        take(c, done);
    }
    free(c->buffer);
    c->buffer = NULL;
}

/* False: no memory. The bytes fit. */
static bool keep(struct connection *c, const struct iovec *iov, unsigned count)
{
    if (c->buffer == NULL) {
        c->buffer = malloc(VSOCK_BUFFER);
        c->first = 0;
    }
    if (c->buffer == NULL)
        return false;
    for (unsigned i = 0; i < count; i++)
        for (size_t done = 0, part; done < iov[i].iov_len; done += part) {
            uint32_t at = (c->first + c->filled) % VSOCK_BUFFER;
            part = iov[i].iov_len - done;
            if (part > VSOCK_BUFFER - at)
                part = VSOCK_BUFFER - at;
            memcpy(c->buffer + at, (const uint8_t *)iov[i].iov_base + done, part);
            c->filled += (uint32_t)part;
        }
    return true;
}

static void send_data(struct connection *c, uint32_t length, struct iovec *iov, unsigned count)
{
    size_t done = 0;
    if (c->state != OPEN || (c->guest_shut & VSOCK_NO_SEND) != 0 ||
        length > VSOCK_BUFFER - c->filled) {
        set_state(c, DEAD); /* credit and shutdown are there to be heeded */
        return;
    }
    if (length > 0 && c->filled == 0 && c->fd >= 0 && (c->host_shut & VSOCK_NO_RECEIVE) == 0)
        done = write_socket(c, iov, count);
    take(c, (uint32_t)done);
    if (done == length)
        return;
    if (c->fd < 0 || (c->host_shut & VSOCK_NO_RECEIVE) != 0)
        take(c, (uint32_t)(length - done));
    else if (!virtq_slice(&iov, &count, done, length - done) || !keep(c, iov, count))
        set_state(c, DEAD);
}

/* The guest knows nothing of the connection any more. */
static void guest_left(struct connection *c)
{
    bool deliver = c->state == OPEN && (c->guest_shut & VSOCK_NO_SEND) != 0 && c->filled > 0;
    set_state(c, deliver ? FLUSHING : FREED);
}

static void guest_answers(struct connection *c)
{
    char text[32];
    if (c->state != REQUESTED) {
        set_state(c, DEAD);
        return;
    }
    int size = snprintf(text, sizeof(text), "OK %u\n", c->host_port);
    struct iovec iov = {text, (size_t)size};
    set_state(c, OPEN);
    (void)write_socket(c, &iov, 1); /* the first bytes: there is room */
}

static void guest_connects(struct vsock *vsock, const struct vsock_packet *packet)
{
    const struct vsock_question question = {vsock->questions++, packet->dst_port};
    struct connection *c = NULL;
    if (vsock->connector_watch != NULL &&
        send(vsock->connector_fd, &question, sizeof(question), MSG_DONTWAIT | MSG_NOSIGNAL) ==
            (ssize_t)sizeof(question))
        c = add_connection(vsock, -1, ASKED);
    if (c == NULL) {
        add_reset(vsock, VSOCK_HOST_CID, packet->dst_port, packet->src_port, VSOCK_TYPE_STREAM);
        return;
    }
    c->question = question.number;
    c->host_port = packet->dst_port;
    c->guest_port = packet->src_port;
    c->guest_alloc = packet->buf_alloc;
    c->guest_taken = packet->fwd_cnt;
    c->sent = packet->fwd_cnt; /* 0, if the guest keeps to the rules */
}

/* `fd`: -1 if nobody listens there. The guest may have thought better of it since. */
static void host_answers(struct vsock *vsock, uint32_t question, int fd)
{
    struct connection *c;
    TAILQ_FOREACH(c, &vsock->all, all)
    if (c->state == ASKED && c->question == question)
        break;
    if (c == NULL) {
        if (fd >= 0)
            close(fd);
        return;
    }
    c->pending |= SEND_RESPONSE;
    set_state(c, fd >= 0 && set_socket(c, fd) ? OPEN : DEAD);
    settle(c);
}

/* The process that connected has gone: nothing more will be answered. */
static void lose_connector(struct vsock *vsock)
{
    struct connection *c, *next;
    loop_watch_remove(vsock->connector_watch);
    vsock->connector_watch = NULL;
    for (c = TAILQ_FIRST(&vsock->all); c != NULL; c = next) {
        next = TAILQ_NEXT(c, all);
        if (c->state == ASKED)
            host_answers(vsock, c->question, -1);
    }
}

static void connector_event(void *opaque, int socket, unsigned events)
{
    struct vsock *vsock = opaque;
    struct vsock_question question;
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {&question, sizeof(question)};
    struct msghdr answer = {.msg_iov = &iov,
                            .msg_iovlen = 1,
                            .msg_control = &control,
                            .msg_controllen = sizeof(control)};
    int fd = -1;
    (void)events;
    ssize_t size = recvmsg(socket, &answer, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size > 0 && answer.msg_controllen >= CMSG_LEN(sizeof(int)) &&
        control.header.cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
    if (size == sizeof(question))
        host_answers(vsock, question.number, fd);
    else
        lose_connector(vsock);
    if (vsock_has_more(vsock))
        vsock->wanted(vsock->user);
}

static void send_on(struct connection *c, const struct vsock_packet *packet, struct iovec *iov,
                    unsigned count)
{
    if (packet->op == VSOCK_RST) {
        guest_left(c);
        return;
    }
    if (c->state == DEAD)
        return;
    c->guest_alloc = packet->buf_alloc;
    c->guest_taken = packet->fwd_cnt;
    if (credit(c) > 0)
        c->credit_asked = false;
    switch (packet->op) {
    case VSOCK_RESPONSE:
        guest_answers(c);
        break;
    case VSOCK_SHUTDOWN:
        if (c->state != OPEN)
            set_state(c, DEAD);
        c->guest_shut |= packet->flags & VSOCK_NEITHER;
        break;
    case VSOCK_RW:
        send_data(c, packet->length, iov, count);
        break;
    case VSOCK_CREDIT_UPDATE:
        break;
    case VSOCK_CREDIT_REQUEST:
        c->pending |= SEND_CREDIT;
        break;
    default: /* a second request, and what does not exist */
        set_state(c, DEAD);
    }
}

bool vsock_can_send(const struct vsock *vsock)
{
    return vsock->reset_count < VSOCK_RESETS;
}

void vsock_send(struct vsock *vsock, const struct vsock_packet *packet, struct iovec *iov,
                unsigned count)
{
    if (packet->src_cid != vsock->guest_cid)
        return;
    struct connection *c = NULL;
    bool ours = packet->type == VSOCK_TYPE_STREAM && packet->dst_cid == VSOCK_HOST_CID;
    if (ours)
        c = find(vsock, packet->dst_port, packet->src_port);
    if (c != NULL) {
        send_on(c, packet, iov, count);
        settle(c);
    } else if (ours && packet->op == VSOCK_REQUEST) {
        guest_connects(vsock, packet);
    } else if (packet->op != VSOCK_RST) {
        add_reset(vsock, packet->dst_cid, packet->dst_port, packet->src_port, packet->type);
    }
}

/* --- from the host to the guest --- */

static uint32_t read_socket(struct connection *c, struct iovec *iov, unsigned count, uint64_t room)
{
    uint64_t most = credit(c);
    (void)virtq_slice(&iov, &count, 0, room < most ? room : most);
    ssize_t done;
    do
        done = readv(c->fd, iov, (int)count);
    while (done < 0 && errno == EINTR);
    if (done > 0) {
        c->sent += (uint32_t)done;
        return (uint32_t)done;
    }
    c->readable = false;
    if (done == 0)
        c->host_shut |= VSOCK_NO_SEND;
    else if (errno != EAGAIN && errno != EWOULDBLOCK)
        c->host_shut |= VSOCK_NEITHER;
    return 0;
}

/* Which packet comes next; 0: none. */
static uint16_t next_op(struct connection *c, struct vsock_packet *packet, struct iovec *iov,
                        unsigned count, uint64_t room)
{
    static const struct {
        unsigned what;
        uint16_t op;
    } order[] = {{SEND_REQUEST, VSOCK_REQUEST},
                 {SEND_RESPONSE, VSOCK_RESPONSE},
                 {SEND_CREDIT, VSOCK_CREDIT_UPDATE},
                 {ASK_CREDIT, VSOCK_CREDIT_REQUEST}};
    if (c->state == DEAD) {
        set_state(c, FREED);
        return VSOCK_RST;
    }
    for (size_t i = 0; i < ARRAY_SIZE(order); i++)
        if ((c->pending & order[i].what) != 0) {
            c->pending &= ~order[i].what;
            return order[i].op;
        }
    if (c->readable && may_read(c)) {
        if (credit(c) == 0) {
            c->credit_asked = true;
            return VSOCK_CREDIT_REQUEST;
        }
        packet->length = read_socket(c, iov, count, room);
        if (packet->length > 0)
            return VSOCK_RW;
    }
    if (c->host_shut == c->host_shut_told)
        return 0;
    packet->flags = c->host_shut_told = c->host_shut;
    return VSOCK_SHUTDOWN;
}

static void fill_packet(struct connection *c, struct vsock_packet *packet)
{
    packet->src_cid = VSOCK_HOST_CID;
    packet->src_port = c->host_port;
    packet->dst_port = c->guest_port;
    packet->type = VSOCK_TYPE_STREAM;
    packet->buf_alloc = VSOCK_BUFFER;
    packet->fwd_cnt = c->taken_told = c->taken;
    c->pending &= ~(unsigned)SEND_CREDIT;
}

bool vsock_has_more(const struct vsock *vsock)
{
    return vsock->reset_count > 0 || !TAILQ_EMPTY(&vsock->ready);
}

bool vsock_fetch(struct vsock *vsock, struct vsock_packet *packet, struct iovec *iov,
                 unsigned count, uint64_t room)
{
    *packet = (struct vsock_packet){.dst_cid = vsock->guest_cid};
    if (vsock->reset_count > 0) {
        const struct reset *reset = &vsock->resets[vsock->first_reset];
        vsock->first_reset = (vsock->first_reset + 1) % VSOCK_RESETS;
        vsock->reset_count--;
        packet->src_cid = reset->cid;
        packet->src_port = reset->host_port;
        packet->dst_port = reset->guest_port;
        packet->type = reset->type;
        packet->op = VSOCK_RST;
        return true;
    }
    struct connection *c;
    while ((c = TAILQ_FIRST(&vsock->ready)) != NULL) {
        packet->op = next_op(c, packet, iov, count, room);
        if (packet->op != 0)
            fill_packet(c, packet);
        TAILQ_REMOVE(&vsock->ready, c, ready); /* to the end, others have their turn */
        c->is_ready = false;
        settle(c);
        if (packet->op != 0)
            return true;
    }
    return false;
}

/* --- clients of the host --- */

/* A whole line: the client's only chance. */
static void connect_guest(struct connection *c)
{
    struct vsock *vsock = c->vsock;
    unsigned long long port = 0;
    int end = 0;
    c->line[c->line_size - 1] = '\0';
    if (strncmp(c->line, "CONNECT ", 8) != 0 || c->line[8] < '0' || c->line[8] > '9' ||
        sscanf(c->line + 8, "%10llu%n", &port, &end) != 1 || c->line[8 + end] != '\0' ||
        port >= UINT32_MAX) {
        set_state(c, FREED);
        return;
    }
    do {
        c->host_port = vsock->next_port;
        vsock->next_port = vsock->next_port == UINT32_MAX - 1 ? FIRST_PORT : vsock->next_port + 1;
    } while (find(vsock, c->host_port, (uint32_t)port) != NULL);
    c->guest_port = (uint32_t)port;
    c->pending = SEND_REQUEST;
    set_state(c, REQUESTED);
}

/* No byte behind the line is taken: that is the guest's. */
static void read_line(struct connection *c)
{
    char *at = c->line + c->line_size;
    ssize_t size = recv(c->fd, at, LINE_MAX_BYTES - c->line_size, MSG_PEEK | MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    const char *end = size > 0 ? memchr(at, '\n', (size_t)size) : NULL;
    if (end != NULL)
        size = end - at + 1;
    if (size <= 0 || recv(c->fd, at, (size_t)size, MSG_DONTWAIT) != size) {
        set_state(c, FREED);
        return;
    }
    c->line_size += (unsigned)size;
    if (end != NULL)
        connect_guest(c);
    else if (c->line_size == LINE_MAX_BYTES)
        set_state(c, FREED);
}

static void socket_event(void *opaque, int fd, unsigned events)
{
    struct connection *c = opaque;
    struct vsock *vsock = c->vsock;
    (void)fd;
    if (c->state == STRANGER)
        read_line(c);
    else if (c->state == REQUESTED)
        set_state(c, DEAD); /* the client has gone: the guest need not answer */
    else {
        if (c->filled > 0)
            flush(c);
        if (may_read(c))
            c->readable |= (events & (LOOP_READABLE | LOOP_HANGUP)) != 0;
        else if ((events & LOOP_HANGUP) != 0)
            c->host_shut |= VSOCK_NEITHER;
    }
    settle(c);
    if (vsock_has_more(vsock))
        vsock->wanted(vsock->user);
}

static void drop_oldest_stranger(struct vsock *vsock)
{
    struct connection *c;
    TAILQ_FOREACH(c, &vsock->all, all)
    if (c->state == STRANGER) {
        free_connection(c);
        return;
    }
}

static void client_comes(void *opaque, int fd, unsigned events)
{
    struct vsock *vsock = opaque;
    (void)events;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0 && (errno == EMFILE || errno == ENFILE)) {
        /* Refused in place of waiting, which would keep the loop busy. */
        close(vsock->spare_fd);
        client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (client >= 0)
            close(client);
        vsock->spare_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        return;
    }
    if (client < 0)
        return;
    if (vsock->strangers == VSOCK_STRANGERS)
        drop_oldest_stranger(vsock);
    struct connection *c = add_connection(vsock, client, STRANGER);
    if (c != NULL)
        settle(c);
}

/* --- life --- */

struct vsock *vsock_new(int listen_fd, int connector_fd, uint64_t guest_cid, struct loop *loop,
                        void (*wanted)(void *user), void *user, struct error **err)
{
    struct vsock *vsock = alloc_zeroed(1, sizeof(*vsock));
    *vsock = (struct vsock){.loop = loop,
                            .wanted = wanted,
                            .user = user,
                            .guest_cid = guest_cid,
                            .listen_fd = listen_fd,
                            .connector_fd = connector_fd,
                            .spare_fd = listen_fd >= 0 ? fcntl(listen_fd, F_DUPFD_CLOEXEC, 0) : -1,
                            .next_port = FIRST_PORT};
    TAILQ_INIT(&vsock->all);
    TAILQ_INIT(&vsock->ready);
    if (listen_fd >= 0)
        vsock->listen_watch =
            loop_watch_add(loop, listen_fd, LOOP_READABLE, client_comes, vsock, err);
    if (connector_fd >= 0)
        vsock->connector_watch =
            loop_watch_add(loop, connector_fd, LOOP_READABLE, connector_event, vsock, err);
    if ((listen_fd < 0 || vsock->listen_watch != NULL) &&
        (connector_fd < 0 || vsock->connector_watch != NULL))
        return vsock;
    vsock_free(vsock);
    return NULL;
}

void vsock_drop(struct vsock *vsock)
{
    struct connection *c;
    while ((c = TAILQ_FIRST(&vsock->all)) != NULL)
        free_connection(c);
    vsock->reset_count = 0;
}

void vsock_free(struct vsock *vsock)
{
    if (vsock == NULL)
        return;
    vsock_drop(vsock);
    loop_watch_remove(vsock->listen_watch);
    loop_watch_remove(vsock->connector_watch);
    const int fds[] = {vsock->listen_fd, vsock->connector_fd, vsock->spare_fd};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(vsock);
}
