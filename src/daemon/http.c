/* SPDX-License-Identifier: MIT
 *
 * See http.h. libmicrohttpd calls on_request() when a request's head is there, again for its body,
 * and once more at its end. A call that is not answered then is suspended, and resumed by its
 * answer.
 */
#include "daemon/http.h"

#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "daemon/api.h"

enum { CONNECTION_LIMIT = 128, IDLE_S = 60 };

struct http {
    struct daemon *daemon;
    struct MHD_Daemon *server;
    struct loop_watch *watch;
    int timer;
    struct loop_watch *timer_watch;
    struct request *requests;
    bool posted, ending;
};

struct request {
    struct api_call call; /* first */
    struct http *http;
    struct request *next, **link;
    struct MHD_Connection *connection;
    const struct api_verb *verb;
    char *body;
    size_t size;
    int status; /* 0: not answered */
    json_t *answer;
    bool dispatched, suspended, too_large;
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

void http_answer(struct api_call *call, int status, json_t *answer)
{
    struct request *request = (struct request *)call;
    struct http *http = request->http;
    request->status = status;
    request->answer = answer;
    if (!request->suspended)
        return;
    request->suspended = false;
    MHD_resume_connection(request->connection);
    if (!http->posted) {
        http->posted = true;
        loop_post(http->daemon->loop, posted_run, http);
    }
}

const char *http_query(const struct api_call *call, const char *name)
{
    const struct request *request = (const struct request *)call;
    return MHD_lookup_connection_value(request->connection, MHD_GET_ARGUMENT_KIND, name);
}

static enum MHD_Result send_answer(struct request *request)
{
    char *text = json_dumps(request->answer, JSON_COMPACT | JSON_ENCODE_ANY);
    if (text == NULL) { /* out of memory, or one of ours is no JSON */
        request->status = MHD_HTTP_INTERNAL_SERVER_ERROR;
        text = alloc_string("{\"error\":\"the daemon has no answer; its log may say why\"}");
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
    enum MHD_Result result =
        MHD_queue_response(request->connection, (unsigned)request->status, response);
    MHD_destroy_response(response);
    return result;
}

static void dispatch(struct request *request)
{
    struct api_call *call = &request->call;
    request->dispatched = true;
    if (request->http->ending) { /* what waited now would wait for ever */
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
    if (json_is_object(call->body))
        call->verb->run(call);
    else
        api_refuse(call, 400, "the request's body is not a JSON object");
}

static struct request *begin(struct http *http, struct MHD_Connection *connection, const char *path,
                             const char *method)
{
    struct request *request = alloc_zeroed(1, sizeof(*request));
    bool known;
    request->http = http;
    request->connection = connection;
    request->call.daemon = http->daemon;
    request->next = http->requests;
    request->link = &http->requests;
    if (request->next != NULL)
        request->next->link = &request->next;
    http->requests = request;
    request->call.verb = api_find(method, path, request->call.name, &known);
    if (request->call.verb == NULL) {
        request->dispatched = true;
        api_refuse(&request->call, known ? 405 : 404,
                   known ? "this is not a method for this path; see /v1/openapi.json"
                         : "there is no such path; see /v1/openapi.json");
    }
    return request;
}

static enum MHD_Result on_request(void *opaque, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **state)
{
    struct http *http = opaque;
    struct request *request = *state;
    (void)version;
    if (request == NULL) {
        *state = begin(http, connection, path, method);
        return MHD_YES;
    }
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
    if (request->status != 0)
        return send_answer(request);
    request->suspended = true;
    MHD_suspend_connection(connection);
    return MHD_YES;
}

static void on_completed(void *opaque, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code)
{
    struct request *request = *state;
    (void)opaque, (void)connection, (void)code;
    if (request == NULL)
        return;
    *request->link = request->next;
    if (request->next != NULL)
        request->next->link = request->link;
    json_decref(request->call.body);
    json_decref(request->call.kept);
    json_decref(request->answer);
    free(request->body);
    free(request);
    *state = NULL;
}

/* ---- life ---- */

struct http *http_new(struct daemon *daemon, int listen_fd, struct error **err)
{
    struct http *http = alloc_zeroed(1, sizeof(*http));
    http->daemon = daemon;
    http->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    http->server = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, http,
        MHD_OPTION_LISTEN_SOCKET, listen_fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, http,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTION_LIMIT, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)IDLE_S, MHD_OPTION_END);
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
        if (http->timer_watch != NULL)
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
        if (request->suspended)
            api_refuse(&request->call, 503, "the daemon ends");
    loop_cancel(http->daemon->loop, posted_run, http);
    if (http->server != NULL) {
        MHD_run(http->server);
        MHD_stop_daemon(http->server);
    }
    close(http->timer);
    free(http);
}
