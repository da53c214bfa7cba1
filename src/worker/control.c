/* SPDX-License-Identifier: MIT
 *
 * See control.h. Clients are strangers: sizes are bounded, JSON is parsed with a depth limit
 * by the library, a slow reader loses its connection, never the machine its time.
 *
 * A client is freed in client_ready() alone: an event may go out in the middle of a verb
 * that some client asked for, and finds out that this very client is gone. Its socket is then
 * shut down, which its watch reports like any other end.
 */
#include "worker/control.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/frame.h"
#include "base/loop.h"
#include "config/suggest.h"
#include "worker/verbs.h"

enum { REQUEST_LIMIT = 64 * 1024, CLIENT_LIMIT = 32 };

struct client {
    struct control *control;
    struct client *next;
    int fd;
    bool is_link;
    struct loop_watch *watch;
    struct frame_reader reader;
    struct frame_writer writer;
    struct frame_fds fds; /* of a request that is not complete */
};

struct control {
    struct loop *loop;
    struct control_target *target;
    void (*on_link_lost)(void *opaque);
    void *opaque;
    int listen_fd;
    struct loop_watch *listen_watch;
    struct client *clients;
    unsigned client_count;
};

static void client_free(struct client *client)
{
    struct control *control = client->control;
    for (struct client **at = &control->clients; *at != NULL; at = &(*at)->next)
        if (*at == client) {
            *at = client->next;
            break;
        }
    control->client_count--;
    if (control->listen_watch != NULL)
        loop_watch_set(control->listen_watch, LOOP_READABLE);
    loop_watch_remove(client->watch);
    close(client->fd);
    frame_reader_clear(&client->reader);
    frame_fds_close(&client->fds);
    frame_writer_clear(&client->writer);
    free(client);
}

/* False: the client could not be kept up with. */
static bool client_send(struct client *client, const json_t *message)
{
    char *text = json_dumps(message, JSON_COMPACT);
    bool good = text != NULL && frame_writer_add(&client->writer, text, strlen(text));
    free(text);
    enum frame_status status =
        good ? frame_writer_flush(&client->writer, client->fd) : FRAME_BROKEN;
    if (status == FRAME_BROKEN)
        return false;
    loop_watch_set(client->watch, LOOP_READABLE | (status == FRAME_MORE ? LOOP_WRITABLE : 0u));
    return true;
}

static const struct control_verb *find_verb(const char *name, struct error **err)
{
    struct suggest suggest;
    suggest_start(&suggest, name);
    for (size_t i = 0; i < control_verb_count; i++) {
        if (strcmp(control_verbs[i].name, name) == 0)
            return &control_verbs[i];
        suggest_offer(&suggest, control_verbs[i].name);
    }
    error_set(err, ERROR_USAGE, "there is no verb '%.64s'", name);
    if (suggest.best != NULL)
        error_hint(err, "Did you mean '%s'?", suggest.best);
    return NULL;
}

/* A sentence may hold a file name, or what a guest printed: bytes that are no UTF-8, which
 * JSON cannot carry, must not cost us the message. */
json_t *control_text(const char *text)
{
    json_t *value = json_string(text);
    if (value != NULL)
        return value;
    char *plain = alloc_string(text);
    for (char *at = plain; *at != '\0'; at++)
        if ((unsigned char)*at >= 0x80)
            *at = '?';
    value = json_string(plain);
    free(plain);
    return value;
}

static json_t *run_verb(struct control *control, const json_t *request, struct error **err)
{
    const char *name = json_string_value(json_object_get(request, "verb"));
    const struct control_verb *verb = find_verb(name != NULL ? name : "", err);
    if (verb == NULL)
        return NULL;
    if (verb->needs_vm && control->target->vm == NULL) {
        error_set(err, ERROR_HOST, "the machine is not built yet");
        return NULL;
    }
    if (control->target->suspension != NULL && !verb->only_looks) {
        error_set(err, ERROR_USAGE, "the machine is being suspended");
        return NULL;
    }
    if (!migration_allows(control->target, verb, err))
        return NULL;
    return verb->run(control->target, json_object_get(request, "arguments"), err);
}

static bool answer(struct client *client, const uint8_t *data, size_t size)
{
    struct error *error = NULL;
    json_t *request = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(request)) {
        json_decref(request);
        return false;
    }
    json_t *id = json_object_get(request, "id");
    client->control->target->fds = &client->fds;
    json_t *result = run_verb(client->control, request, &error);
    client->control->target->fds = NULL;
    frame_fds_close(&client->fds);
    json_t *reply = result != NULL ? json_pack("{s:O?, s:o}", "id", id, "result", result)
                                   : json_pack("{s:O?, s:o}", "id", id, "error",
                                               control_text(error_message(error)));
    bool good = reply != NULL && client_send(client, reply);
    json_decref(reply);
    json_decref(request);
    error_free(error);
    return good;
}

static void client_ready(void *opaque, int fd, unsigned events)
{
    struct client *client = opaque;
    struct control *control = client->control;
    bool good = true;
    if ((events & LOOP_WRITABLE) != 0) {
        enum frame_status status = frame_writer_flush(&client->writer, fd);
        good = status != FRAME_BROKEN;
        if (status == FRAME_MESSAGE)
            loop_watch_set(client->watch, LOOP_READABLE);
    }
    if (good && (events & (LOOP_READABLE | LOOP_HANGUP)) != 0)
        good = frame_reader_fill_fds(&client->reader, fd, &client->fds) == FRAME_MORE;
    enum frame_status next = FRAME_MESSAGE;
    while (good && next == FRAME_MESSAGE) {
        const uint8_t *data;
        size_t size;
        next = frame_reader_next(&client->reader, REQUEST_LIMIT, &data, &size);
        good = next != FRAME_BROKEN && (next != FRAME_MESSAGE || answer(client, data, size));
    }
    if (good)
        return;
    bool was_link = client->is_link;
    client_free(client);
    if (was_link)
        control->on_link_lost(control->opaque);
}

static bool client_add(struct control *control, int fd, bool is_link, struct error **err)
{
    struct client *client = alloc_zeroed(1, sizeof(*client));
    client->control = control;
    client->fd = fd;
    client->is_link = is_link;
    client->watch = loop_watch_add(control->loop, fd, LOOP_READABLE, client_ready, client, err);
    client->next = control->clients;
    control->clients = client;
    control->client_count++;
    json_t *greeting = json_pack("{s:s, s:i, s:i}", "trapeze", "worker", "protocol",
                                 CONTROL_PROTOCOL, "pid", (int)control->target->pid);
    bool good = client->watch != NULL;
    /* Who does not wait for the greeting may have sent a request all the same. */
    if (good)
        client_send(client, greeting);
    else
        client_free(client);
    json_decref(greeting);
    return good;
}

static void on_connection(void *opaque, int listen_fd, unsigned events)
{
    struct control *control = opaque;
    (void)events;
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0)
        client_add(control, fd, false, NULL);
    if (control->client_count >= CLIENT_LIMIT)
        loop_watch_set(control->listen_watch, 0);
}

struct control *control_new(struct loop *loop, int link_fd, int listen_fd,
                            struct control_target *target, void (*on_link_lost)(void *opaque),
                            void *opaque, struct error **err)
{
    struct control *control = alloc_zeroed(1, sizeof(*control));
    control->loop = loop;
    control->target = target;
    control->on_link_lost = on_link_lost;
    control->opaque = opaque;
    control->listen_fd = listen_fd;
    bool good = link_fd < 0 || client_add(control, link_fd, true, err);
    if (good && listen_fd >= 0) {
        control->listen_watch =
            loop_watch_add(loop, listen_fd, LOOP_READABLE, on_connection, control, err);
        good = control->listen_watch != NULL;
    }
    if (good)
        return control;
    control_free(control);
    return NULL;
}

void control_free(struct control *control)
{
    if (control == NULL)
        return;
    while (control->clients != NULL) {
        struct client *client = control->clients;
        struct pollfd wait = {.fd = client->fd, .events = POLLOUT};
        if (client->writer.size > 0 && poll(&wait, 1, 100) > 0)
            frame_writer_flush(&client->writer, client->fd);
        client_free(client);
    }
    loop_watch_remove(control->listen_watch);
    if (control->listen_fd >= 0)
        close(control->listen_fd);
    free(control);
}

void control_event(struct control *control, json_t *event)
{
    for (struct client *client = control->clients; client != NULL; client = client->next)
        if (!client_send(client, event))
            shutdown(client->fd, SHUT_RDWR);
    json_decref(event);
}
