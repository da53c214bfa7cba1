/* SPDX-License-Identifier: MIT
 *
 * See http.h. libmicrohttpd calls on_request() when a request's head is there, again for its body,
 * and once more at its end. A call that is not answered then is suspended, and resumed by its
 * answer.
 */
#include "daemon/http.h"

#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "daemon/api.h"
#include "daemon/remote.h"
#include "daemon/tls_front.h"

enum {
    CONNECTION_LIMIT = 128,
    IDLE_S = 60,
    STREAM_BLOCK = 65536,
    SHORT_BODY = 65536,
    PRELUDE_MAX = 16384,
    REMOTE_CONNECTION_LIMIT = 64,
    REMOTE_ADDRESS_LIMIT = 16,
    REMOTE_REQUEST_S = 60,
    STREAM_MIN = 1 << 20,         /* bytes that a client has to take of a stream in that time */
    CONNECTION_MEMORY = 32 << 10, /* bytes: more than any head that makes sense */
    LAST_RUNS = 64
};

struct http {
    struct daemon *daemon;
    struct remote *remote;   /* NULL: the owner's socket */
    struct tls_front *front; /* NULL: without TLS */
    struct http_link *links;
    struct MHD_Daemon *server;
    int listen_fd; /* the server's, or the front's */
    struct loop_watch *watch;
    int timer;
    struct loop_watch *timer_watch;
    struct request *requests;
    bool posted, ending;
};

/* A connection. */
struct http_link {
    struct http_link *next, **link;
    struct MHD_Connection *connection;
    time_t since; /* the client has something to do since then (monotonic); 0: we have */
    size_t taken; /* of a stream, since then */
};

struct http_upgrade {
    struct http *http;
    struct MHD_UpgradeResponseHandle *handle;
};

struct http_count {
    struct http_count *next;
    const char *verb;
    int status;
    unsigned long long count;
};

struct request {
    struct api_call call; /* first */
    struct http *http;
    char who[REMOTE_WHO];
    const char *type; /* of `text`, which is the answer then */
    char *text;
    const char *protocol; /* of fn, whose the connection is to be */
    http_upgrade_fn *fn;
    void *opaque;
    struct request *next, **link;
    struct MHD_Connection *connection;
    char *body;
    size_t size;
    int status; /* 0: not answered */
    json_t *answer;
    bool dispatched, suspended, too_large;
    bool put_off; /* nothing was done: the client may ask the next daemon */
    /* of a verb with a stream */
    int stream, job_stream; /* our end and the job's; -1: none */
    struct loop_watch *stream_watch;
    bool gone; /* the client is, and the job not yet */
};

/* ---- the loop's side ---- */

static void run(struct http *http)
{
    MHD_UNSIGNED_LONG_LONG wait;
    do {
        MHD_run(http->server);
    } while (MHD_get_timeout(http->server, &wait) == MHD_YES && wait == 0);
    bool bounded = MHD_get_timeout(http->server, &wait) == MHD_YES;
    struct itimerspec span = {{0, 0}, {0, 0}};
    if (bounded) {
        span.it_value.tv_sec = (time_t)(wait / 1000);
        span.it_value.tv_nsec = (long)(wait % 1000) * 1000000 + 1;
    }
    timerfd_settime(http->timer, 0, &span, NULL);
}

static void posted_run(void *opaque)
{
    struct http *http = opaque;
    http->posted = false;
    run(http);
}

static void run_soon(struct http *http)
{
    if (!http->posted)
        loop_post(http->daemon->loop, posted_run, http);
    http->posted = true;
}

static void on_ready(void *opaque, int fd, unsigned events)
{
    struct http *http = opaque;
    uint64_t expirations;
    (void)events;
    if (fd == http->timer && read(fd, &expirations, sizeof(expirations)) < 0)
        return;
    run(http);
}

/* ---- calls ---- */

static void suspend(struct request *request)
{
    request->suspended = true;
    MHD_suspend_connection(request->connection);
}

static void resume(struct request *request)
{
    struct http *http = request->http;
    if (!request->suspended)
        return;
    request->suspended = false;
    MHD_resume_connection(request->connection);
    run_soon(http);
}

/* Of a socket pair; another job that runs meanwhile may have inherited it. */
static void close_end(int *fd)
{
    if (*fd >= 0) {
        shutdown(*fd, SHUT_RDWR);
        close(*fd);
    }
    *fd = -1;
}

static void close_stream(struct request *request)
{
    loop_watch_remove(request->stream_watch);
    request->stream_watch = NULL;
    close_end(&request->stream);
}

static void free_request(struct request *request)
{
    *request->link = request->next;
    if (request->next != NULL)
        request->next->link = request->link;
    close_stream(request);
    close_end(&request->job_stream);
    if (request->fn != NULL)
        request->fn(request->opaque, NULL, -1, NULL, 0);
    json_decref(request->call.body);
    json_decref(request->call.kept);
    json_decref(request->answer);
    free(request->text);
    free(request->body);
    free(request);
}

static void answered(struct request *request, int status)
{
    request->status = status;
    close_end(&request->job_stream); /* what it has written ends here */
    if (request->gone)
        free_request(request);
    else
        resume(request);
}

void http_answer(struct api_call *call, int status, json_t *answer)
{
    ((struct request *)call)->answer = answer;
    answered((struct request *)call, status);
}

void http_answer_text(struct api_call *call, int status, const char *type, char *text)
{
    struct request *request = (struct request *)call;
    request->type = type;
    request->text = text;
    answered(request, status);
}

void http_answer_upgrade(struct api_call *call, const char *protocol, http_upgrade_fn *fn,
                         void *opaque)
{
    struct request *request = (struct request *)call;
    request->protocol = protocol;
    request->fn = fn;
    request->opaque = opaque;
    answered(request, MHD_HTTP_SWITCHING_PROTOCOLS);
}

bool http_offers(const struct api_call *call, const char *protocol)
{
    const struct request *request = (const struct request *)call;
    const char *offered =
        MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_UPGRADE);
    return offered != NULL && strcasecmp(offered, protocol) == 0;
}

const char *http_query(const struct api_call *call, const char *name)
{
    const struct request *request = (const struct request *)call;
    return MHD_lookup_connection_value(request->connection, MHD_GET_ARGUMENT_KIND, name);
}

static time_t now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1; /* never 0 */
}

static struct http_link *link_of(struct MHD_Connection *connection)
{
    return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

static void count_answer(struct request *request, int status)
{
    struct daemon *daemon = request->http->daemon;
    const char *verb = request->call.verb != NULL ? request->call.verb->id : "none";
    struct http_count *row = daemon->answers;
    while (row != NULL && (row->status != status || strcmp(row->verb, verb) != 0))
        row = row->next;
    if (row == NULL) {
        row = alloc_zeroed(1, sizeof(*row));
        *row = (struct http_count){.next = daemon->answers, .verb = verb, .status = status};
        daemon->answers = row;
    }
    row->count++;
}

static void on_upgraded(void *opaque, struct MHD_Connection *connection, void *state,
                        const char *early, size_t size, MHD_socket fd,
                        struct MHD_UpgradeResponseHandle *handle)
{
    struct request *request = opaque;
    http_upgrade_fn *fn = request->fn;
    (void)state;
    request->fn = NULL;
    link_of(connection)->since = 0;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    struct http_upgrade *stream = alloc_zeroed(1, sizeof(*stream));
    *stream = (struct http_upgrade){request->http, handle};
    fn(request->opaque, stream, fd, early, size);
}

void http_upgrade_close(struct http_upgrade *stream)
{
    MHD_upgrade_action(stream->handle, MHD_UPGRADE_ACTION_CLOSE);
    run_soon(stream->http); /* which does it */
    free(stream);
}

static struct MHD_Response *make_response(struct request *request)
{
    if (request->fn != NULL) {
        struct MHD_Response *response = MHD_create_response_for_upgrade(on_upgraded, request);
        MHD_add_response_header(response, MHD_HTTP_HEADER_UPGRADE, request->protocol);
        return response;
    }
    char *text = request->text != NULL
                     ? request->text
                     : json_dumps(request->answer, JSON_COMPACT | JSON_ENCODE_ANY);
    const char *type = request->text != NULL ? request->type : "application/json";
    request->text = NULL;
    if (text == NULL) { /* out of memory, or one of ours is no JSON */
        request->status = MHD_HTTP_INTERNAL_SERVER_ERROR;
        text = alloc_string("{\"error\":\"the daemon has no answer; its log may say why\"}");
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    return response;
}

static enum MHD_Result send_answer(struct request *request)
{
    struct MHD_Response *response = make_response(request);
    if (request->status == MHD_HTTP_UNAUTHORIZED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (request->status == MHD_HTTP_TOO_MANY_REQUESTS)
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, "60");
    if (request->put_off)
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, "0");
    enum MHD_Result result =
        MHD_queue_response(request->connection, (unsigned)request->status, response);
    MHD_destroy_response(response);
    count_answer(request, request->status);
    link_of(request->connection)->since = now_s();
    return result;
}

/* ---- streams ---- */

/* What it waited for is there; the watch is silent until it waits again. */
static void on_stream(void *opaque, int fd, unsigned events)
{
    struct request *request = opaque;
    (void)fd, (void)events;
    loop_watch_remove(request->stream_watch);
    request->stream_watch = NULL;
    resume(request);
}

static bool wait_for_stream(struct request *request, unsigned events)
{
    if (request->stream_watch == NULL)
        request->stream_watch = loop_watch_add(request->http->daemon->loop, request->stream, events,
                                               on_stream, request, NULL);
    return request->stream_watch != NULL;
}

/* Gives the verb its job's end. */
static bool open_stream(struct request *request)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return false;
    request->stream = pair[0];
    request->job_stream = pair[1];
    json_object_set_new(request->call.body, "stream", json_integer(pair[1]));
    return true;
}

/* A piece of the request's body. What was not taken comes again. */
static enum MHD_Result pass_body(struct request *request, const char *data, size_t *size)
{
    ssize_t count = request->status == 0 && request->stream >= 0
                        ? send(request->stream, data, *size, MSG_DONTWAIT | MSG_NOSIGNAL)
                        : (ssize_t)*size; /* nobody wants it */
    if (count >= 0) {
        *size -= (size_t)count;
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
        if (!wait_for_stream(request, LOOP_WRITABLE))
            return MHD_NO;
        suspend(request);
    } else if (errno != EINTR) {
        close_stream(request);
        *size = 0;
    }
    return MHD_YES;
}

/* The client's time begins anew whenever it has taken enough: an instance is locked while it is
 * exported, so that who takes a byte now and then would hold it for years. */
static void take_stream(struct http_link *link, size_t count)
{
    if (link->since == 0 || link->taken >= STREAM_MIN) {
        link->since = now_s();
        link->taken = 0;
    }
    link->taken += count;
}

static ssize_t read_stream(void *opaque, uint64_t position, char *buffer, size_t size)
{
    struct request *request = opaque;
    (void)position;
    struct http_link *link = link_of(request->connection);
    ssize_t count = recv(request->stream, buffer, size, MSG_DONTWAIT);
    if (count > 0) {
        take_stream(link, (size_t)count);
        return count;
    }
    if (count == 0) /* the job's end is closed, so there is a result */
        return request->status / 100 == 2 ? MHD_CONTENT_READER_END_OF_STREAM
                                          : MHD_CONTENT_READER_END_WITH_ERROR;
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (!wait_for_stream(request, LOOP_READABLE))
        return MHD_CONTENT_READER_END_WITH_ERROR;
    link->since = 0; /* it has taken all that there is */
    suspend(request);
    return 0;
}

/* The job's first line goes into a header, what follows it is the answer. */
static enum MHD_Result begin_stream(struct request *request)
{
    char line[PRELUDE_MAX + 1];
    ssize_t count = recv(request->stream, line, PRELUDE_MAX, MSG_DONTWAIT | MSG_PEEK);
    char *end = count > 0 ? memchr(line, '\n', (size_t)count) : NULL;
    if (end == NULL) {
        if (count == PRELUDE_MAX || !wait_for_stream(request, LOOP_READABLE))
            return MHD_NO;
        suspend(request);
        return MHD_YES;
    }
    if (recv(request->stream, line, (size_t)(end + 1 - line), 0) != end + 1 - line)
        return MHD_NO;
    *end = '\0';
    struct MHD_Response *response = MHD_create_response_from_callback(
        MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, request, NULL);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/octet-stream");
    MHD_add_response_header(response, "Trapeze-About", line);
    enum MHD_Result result =
        MHD_queue_response(request->connection, (unsigned)request->call.verb->status, response);
    MHD_destroy_response(response);
    count_answer(request, request->call.verb->status);
    return result;
}

static void dispatch(struct request *request)
{
    struct api_call *call = &request->call;
    request->dispatched = true;
    link_of(request->connection)->since = 0;
    if (request->http->ending) { /* what waited now would wait for ever */
        request->put_off = true;
        api_refuse(call, 503, "the daemon ends");
        return;
    }
    if (request->too_large) {
        api_refuse(call, 413, "the request is larger than 4 MiB");
        return;
    }
    call->body = request->size > 0
                     ? json_loadb(request->body, request->size, JSON_REJECT_DUPLICATES, NULL)
                     : json_object();
    if (call->verb->stream != API_NO_STREAM && !open_stream(request))
        api_refuse(call, 500, "the daemon has no descriptors left");
    else if (json_is_object(call->body))
        call->verb->run(call);
    else
        api_refuse(call, 400, "the request's body is not a JSON object");
}

/* A stranger's request ends here, before anything but its head was looked at. */
static bool admit(struct request *request)
{
    struct MHD_Connection *connection = request->connection;
    const union MHD_ConnectionInfo *from =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    int fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    switch (remote_admit(
        request->http->remote, from != NULL ? from->client_addr : NULL,
        tls_front_certificate(request->http->front, fd),
        MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION),
        request->who)) {
    case REMOTE_ADMITTED:
        request->call.who = request->who;
        return true;
    case REMOTE_STRANGER:
        api_refuse(&request->call, MHD_HTTP_UNAUTHORIZED,
                   "this takes a client certificate or a token ('trapeze token create' on the "
                   "daemon's host)");
        break;
    case REMOTE_TOO_OFTEN:
        api_refuse(&request->call, MHD_HTTP_TOO_MANY_REQUESTS,
                   "too many failed attempts; try again in a minute");
        break;
    }
    request->dispatched = true;
    return false;
}

static void find_verb(struct request *request, const char *path, const char *method)
{
    struct api_call *call = &request->call;
    bool known;
    call->verb = api_find(method, path, call->name, &known);
    request->dispatched = call->verb == NULL || (call->who != NULL && !call->verb->remote);
    if (call->verb == NULL)
        api_refuse(call, known ? 405 : 404,
                   known ? "this is not a method for this path; see /v1/openapi.json"
                         : "there is no such path; see /v1/openapi.json");
    else if (request->dispatched)
        api_refuse(call, MHD_HTTP_FORBIDDEN,
                   "this reaches into the daemon's host, so it is done there and not over the "
                   "network");
}

static struct request *begin(struct http *http, struct MHD_Connection *connection)
{
    struct request *request = alloc_zeroed(1, sizeof(*request));
    request->http = http;
    request->connection = connection;
    request->call.daemon = http->daemon;
    request->stream = request->job_stream = -1;
    request->next = http->requests;
    request->link = &http->requests;
    if (request->next != NULL)
        request->next->link = &request->next;
    http->requests = request;
    return request;
}

/* It is read before a refusal, and dropped: who still sends when we close loses the answer. */
static bool has_short_body(struct MHD_Connection *connection)
{
    const char *length =
        MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    return length != NULL && strlen(length) <= 5 && atoi(length) <= SHORT_BODY;
}

static enum MHD_Result on_request(void *opaque, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **state)
{
    struct http *http = opaque;
    struct request *request = *state;
    (void)version;
    if (request == NULL) {
        request = begin(http, connection);
        *state = request;
        if (http->remote != NULL && !admit(request))
            return has_short_body(connection) ? MHD_YES : send_answer(request);
        find_verb(request, path, method);
        return MHD_YES;
    }
    bool takes_body = request->call.verb != NULL && request->call.verb->stream == API_TAKES_STREAM;
    if (takes_body && !request->dispatched)
        dispatch(request);
    if (*size > 0 && takes_body)
        return pass_body(request, data, size);
    if (*size > 0) {
        request->too_large = request->too_large || request->size + *size > API_MAX_BODY;
        if (!request->too_large && !request->dispatched) {
            request->body = alloc_resize(request->body, request->size + *size, 1);
            memcpy(request->body + request->size, data, *size);
            request->size += *size;
        }
        *size = 0;
        return MHD_YES;
    }
    if (!request->dispatched)
        dispatch(request);
    if (request->stream >= 0 && !takes_body && (request->status == 0 || request->status / 100 == 2))
        return begin_stream(request);
    if (request->status != 0)
        return send_answer(request);
    if (takes_body && request->stream >= 0)
        shutdown(request->stream, SHUT_WR); /* the end of the body */
    suspend(request);
    return MHD_YES;
}

static void on_completed(void *opaque, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code)
{
    struct http *http = opaque;
    struct request *request = *state;
    (void)code;
    if (request == NULL)
        return;
    link_of(connection)->since = now_s();
    *state = NULL;
    close_stream(request);
    if (request->status == 0 && request->dispatched && !http->ending)
        request->gone = true; /* its job still has it */
    else
        free_request(request);
}

static void on_connection(void *opaque, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct http *http = opaque;
    struct http_link *link = *context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        link = alloc_zeroed(1, sizeof(*link));
        *link = (struct http_link){
            .next = http->links, .link = &http->links, .connection = connection, .since = now_s()};
        if (link->next != NULL)
            link->next->link = &link->next;
        http->links = link;
        http->daemon->connections++;
        *context = link;
    } else if (link != NULL) {
        *link->link = link->next;
        if (link->next != NULL)
            link->next->link = link->link;
        free(link);
        *context = NULL;
    }
}

static int fd_of(const struct http_link *link)
{
    return MHD_get_connection_info(link->connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
}

/* libmicrohttpd's own time limit begins anew with every byte. */
void http_tick(struct http *http)
{
    if (http == NULL || http->remote == NULL)
        return;
    tls_front_tick(http->front);
    for (struct http_link *link = http->links; link != NULL; link = link->next)
        if (link->since != 0 && now_s() - link->since > REMOTE_REQUEST_S) {
            shutdown(fd_of(link), SHUT_RDWR);
            link->since = 0;
        }
}

static bool is_kept(const json_t *keep, int fd)
{
    for (size_t i = 0; i < json_array_size(keep); i++)
        if (json_integer_value(json_array_get(keep, i)) == fd)
            return true;
    return false;
}

void http_leave(struct http *http, const json_t *keep)
{
    if (http == NULL)
        return;
    close(http->listen_fd);
    for (const struct http_link *link = http->links; link != NULL; link = link->next) {
        int fd = fd_of(link);
        if (!is_kept(keep, fd))
            close(fd);
    }
}

bool http_is_idle(const struct http *http)
{
    return http == NULL || http->links == NULL;
}

void http_counts(const struct daemon *daemon, http_count_fn *each, void *opaque)
{
    for (const struct http_count *row = daemon->answers; row != NULL; row = row->next)
        each(opaque, row->verb, row->status, row->count);
}

void http_forget_counts(struct daemon *daemon)
{
    while (daemon->answers != NULL) {
        struct http_count *row = daemon->answers;
        daemon->answers = row->next;
        free(row);
    }
}

/* ---- life ---- */

static void on_client(void *opaque, int fd, const struct sockaddr *from, socklen_t size)
{
    struct http *http = opaque;
    if (MHD_add_connection(http->server, fd, from, size) == MHD_YES) /* else it has closed it */
        run_soon(http);
}

/* "%00" would end a path for us, and not for who looks at it on the way: such a path is none. */
static size_t unescape(void *opaque, struct MHD_Connection *connection, char *text)
{
    size_t size = MHD_http_unescape(text);
    (void)opaque, (void)connection;
    for (size_t i = 0; i < size; i++)
        if (text[i] == '\0')
            text[i] = '\x7f';
    return size;
}

static struct MHD_Daemon *start_server(struct http *http, int listen_fd)
{
    const bool remote = http->remote != NULL;
    struct MHD_OptionItem options[] = {
        {listen_fd >= 0 ? MHD_OPTION_LISTEN_SOCKET : MHD_OPTION_END, listen_fd, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE |
                     (listen_fd < 0 ? MHD_USE_NO_LISTEN_SOCKET : 0u);
    return MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, http, MHD_OPTION_NOTIFY_COMPLETED, on_completed, http,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, http, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)(remote ? REMOTE_CONNECTION_LIMIT : CONNECTION_LIMIT),
        MHD_OPTION_PER_IP_CONNECTION_LIMIT, (unsigned)(remote ? REMOTE_ADDRESS_LIMIT : 0),
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_MEMORY, MHD_OPTION_UNESCAPE_CALLBACK, unescape, NULL, MHD_OPTION_ARRAY,
        options, MHD_OPTION_END);
}

struct http *http_new(struct daemon *daemon, int listen_fd, struct remote *remote,
                      struct error **err)
{
    struct http *http = alloc_zeroed(1, sizeof(*http));
    http->daemon = daemon;
    http->remote = remote;
    http->listen_fd = listen_fd;
    http->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    bool tls = remote != NULL && remote_credentials(remote) != NULL;
    http->server = start_server(http, tls ? -1 : listen_fd);
    const union MHD_DaemonInfo *info =
        http->server != NULL ? MHD_get_daemon_info(http->server, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (info == NULL) {
        error_set(err, ERROR_HOST, "the HTTP server does not start");
        if (http->server == NULL)
            close(listen_fd);
    } else {
        http->watch =
            loop_watch_add(daemon->loop, info->epoll_fd, LOOP_READABLE, on_ready, http, err);
        if (http->watch != NULL)
            http->timer_watch =
                loop_watch_add(daemon->loop, http->timer, LOOP_READABLE, on_ready, http, err);
        if (http->timer_watch != NULL && tls)
            http->front = tls_front_new(daemon->loop, remote, listen_fd, on_client, http, err);
        if (http->timer_watch != NULL && (!tls || http->front != NULL))
            return http;
    }
    http_free(http);
    return NULL;
}

void http_free(struct http *http)
{
    if (http == NULL)
        return;
    loop_watch_remove(http->watch);
    loop_watch_remove(http->timer_watch);
    http->ending = true;
    for (struct request *request = http->requests; request != NULL; request = request->next)
        if (request->suspended && request->status == 0)
            api_refuse(&request->call, 503, "the daemon ends");
    loop_cancel(http->daemon->loop, posted_run, http);
    if (http->server != NULL) {
        int listen_fd = MHD_quiesce_daemon(http->server); /* who connects now is the next one's */
        MHD_UNSIGNED_LONG_LONG wait = 0;
        for (int i = 0; i < LAST_RUNS && wait == 0; i++) {
            MHD_run(http->server);
            if (MHD_get_timeout(http->server, &wait) != MHD_YES)
                wait = 1;
        }
        MHD_stop_daemon(http->server);
        if (listen_fd >= 0)
            close(listen_fd);
    }
    tls_front_free(http->front);
    close(http->timer);
    free(http);
}
