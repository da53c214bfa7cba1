/* SPDX-License-Identifier: MIT
 *
 * See relay.h.
 */
#include "daemon/relay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/loop.h"
#include "daemon/api.h"
#include "daemon/http.h"
#include "daemon/remote.h"

enum { PIPE_BYTES = 64 << 10 };

/* Bytes on their way to `to`. */
struct pipe {
    size_t at, size;
    uint8_t bytes[PIPE_BYTES];
};

struct relay {
    struct relay *next, **link;
    struct daemon *daemon;
    char who[REMOTE_WHO]; /* "": the owner */
    struct http_upgrade *upgrade;
    int client, console; /* the client's is the upgrade's */
    struct loop_watch *client_watch, *console_watch;
    bool console_ended;
    struct pipe up, down; /* to the console, to the client */
};

static void relay_end(struct relay *relay)
{
    *relay->link = relay->next;
    if (relay->next != NULL)
        relay->next->link = relay->link;
    loop_watch_remove(relay->client_watch);
    loop_watch_remove(relay->console_watch);
    close(relay->console);
    if (relay->upgrade != NULL)
        http_upgrade_close(relay->upgrade);
    free(relay);
}

/* False: that side is gone. */
static bool fill(struct pipe *pipe, int fd)
{
    if (pipe->size > 0)
        return true;
    ssize_t count = recv(fd, pipe->bytes, PIPE_BYTES, MSG_DONTWAIT);
    if (count < 0)
        return errno == EAGAIN || errno == EINTR;
    pipe->at = 0;
    pipe->size = (size_t)count;
    return count > 0;
}

static bool empty(struct pipe *pipe, int fd)
{
    while (pipe->size > 0) {
        ssize_t count = send(fd, pipe->bytes + pipe->at, pipe->size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return errno == EAGAIN;
        pipe->at += (size_t)count;
        pipe->size -= (size_t)count;
    }
    return true;
}

static unsigned wishes(const struct pipe *in, const struct pipe *out)
{
    return (in->size == 0 ? LOOP_READABLE : 0u) | (out->size > 0 ? LOOP_WRITABLE : 0u);
}

/* As far as it goes without waiting; ends the relay if it is over. */
static void carry(struct relay *relay)
{
    bool good = fill(&relay->up, relay->client) && empty(&relay->up, relay->console);
    if (good && !relay->console_ended)
        relay->console_ended = !fill(&relay->down, relay->console);
    good = good && empty(&relay->down, relay->client);
    if (!good || (relay->console_ended && relay->down.size == 0)) {
        relay_end(relay);
        return;
    }
    loop_watch_set(relay->client_watch, wishes(&relay->up, &relay->down));
    /* Silent when it has ended: a hang-up would come for ever. */
    loop_watch_set(relay->console_watch,
                   relay->console_ended ? 0 : wishes(&relay->down, &relay->up));
}

static void on_client(void *opaque, int fd, unsigned events)
{
    struct relay *relay = opaque;
    (void)fd;
    if ((events & LOOP_HANGUP) != 0 && (events & LOOP_READABLE) == 0)
        relay_end(relay);
    else
        carry(relay);
}

static void on_console(void *opaque, int fd, unsigned events)
{
    struct relay *relay = opaque;
    (void)fd;
    /* What it said last is still to be read, if there is room for it now. */
    if ((events & LOOP_HANGUP) != 0 && relay->down.size > 0)
        loop_watch_set(relay->console_watch, 0);
    else
        carry(relay);
}

static void on_upgrade(void *opaque, struct http_upgrade *upgrade, int fd, const void *early,
                       size_t size)
{
    struct relay *relay = opaque;
    struct loop *loop = relay->daemon->loop;
    relay->upgrade = upgrade;
    relay->client = fd;
    if (upgrade != NULL && size <= PIPE_BYTES) {
        if (size > 0)
            memcpy(relay->up.bytes, early, size);
        relay->up.size = size;
        relay->client_watch =
            loop_watch_add(loop, fd, LOOP_READABLE | LOOP_WRITABLE, on_client, relay, NULL);
        relay->console_watch =
            loop_watch_add(loop, relay->console, LOOP_READABLE, on_console, relay, NULL);
    }
    if (relay->client_watch == NULL || relay->console_watch == NULL)
        relay_end(relay);
}

void relay_start(struct api_call *call, const char *protocol, int console)
{
    struct daemon *daemon = call->daemon;
    struct relay *relay = alloc_zeroed(1, sizeof(*relay));
    *relay = (struct relay){.next = daemon->relays,
                            .link = &daemon->relays,
                            .daemon = daemon,
                            .client = -1,
                            .console = console};
    if (relay->next != NULL)
        relay->next->link = &relay->next;
    daemon->relays = relay;
    if (call->who != NULL)
        strncpy(relay->who, call->who, sizeof(relay->who) - 1);
    http_answer_upgrade(call, protocol, on_upgrade, relay);
}

void relay_end_all(struct daemon *daemon, const char *who)
{
    for (struct relay *relay = daemon->relays, *next; relay != NULL; relay = next) {
        next = relay->next;
        if ((who == NULL || strcmp(relay->who, who) == 0) && relay->upgrade != NULL)
            relay_end(relay);
    }
}
