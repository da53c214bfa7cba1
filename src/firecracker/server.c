/* SPDX-License-Identifier: MIT
 *
 * See server.h. libmicrohttpd calls on_request() when a request's head is there, again for each
 * piece of its body, and once more at its end.
 */
#include "firecracker/server.h"

#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "firecracker/api.h"

enum { CONNECTION_LIMIT = 32, TOO_LARGE = 413 };

struct fc_server {
    struct MHD_Daemon *daemon;
    size_t limit;
    fc_request_fn *request;
    fc_answered_fn *answered;
    void *opaque;
};

struct call {
    char *body;
    size_t size;
    bool too_large;
};

static enum MHD_Result send_answer(struct MHD_Connection *connection, struct fc_answer *answer)
{
    char *text =
        answer->body != NULL ? json_dumps(answer->body, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    struct MHD_Response *response = MHD_create_response_from_buffer(text != NULL ? strlen(text) : 0,
                                                                    text, MHD_RESPMEM_MUST_FREE);
    json_decref(answer->body);
    if (response == NULL) {
        free(text);
        return MHD_NO;
    }
    if (text != NULL)
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
    if (answer->deprecated)
        MHD_add_response_header(response, "Deprecation", "true");
    enum MHD_Result result = MHD_queue_response(connection, (unsigned)answer->status, response);
    MHD_destroy_response(response);
    return result;
}

static void take_piece(const struct fc_server *server, struct call *call, const char *data,
                       size_t size)
{
    if (size > server->limit - call->size) {
        call->too_large = true;
        return;
    }
    call->body = alloc_resize(call->body, call->size + size, 1);
    memcpy(call->body + call->size, data, size);
    call->size += size;
}

static enum MHD_Result on_request(void *opaque, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **state)
{
    struct fc_server *server = opaque;
    struct call *call = *state;
    struct fc_answer answer = {0};
    (void)version;
    if (call == NULL) {
        *state = alloc_zeroed(1, sizeof(*call));
        return MHD_YES;
    }
    if (*size > 0) {
        take_piece(server, call, data, *size);
        *size = 0;
        return MHD_YES;
    }
    if (call->too_large)
        answer = (struct fc_answer){
            .status = TOO_LARGE,
            .body = json_pack("{s:s}", "fault_message", "The body of the request is too large.")};
    else
        server->request(server->opaque, method, path, call->body, call->size, &answer);
    return send_answer(connection, &answer);
}

static void on_end(void *opaque, struct MHD_Connection *connection, void **state,
                   enum MHD_RequestTerminationCode code)
{
    const struct fc_server *server = opaque;
    struct call *call = *state;
    (void)connection, (void)code;
    if (call != NULL)
        free(call->body);
    free(call);
    server->answered(server->opaque);
}

struct fc_server *fc_server_new(int listen_fd, size_t limit, fc_request_fn *request,
                                fc_answered_fn *answered, void *opaque, struct error **err)
{
    struct fc_server *server = alloc_zeroed(1, sizeof(*server));
    *server = (struct fc_server){
        .limit = limit, .request = request, .answered = answered, .opaque = opaque};
    server->daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_ITC, 0, NULL, NULL, on_request, server,
        MHD_OPTION_LISTEN_SOCKET, listen_fd, MHD_OPTION_NOTIFY_COMPLETED, on_end, server,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTION_LIMIT, MHD_OPTION_END);
    if (server->daemon != NULL)
        return server;
    error_set(err, ERROR_HOST, "the HTTP server does not start");
    close(listen_fd);
    free(server);
    return NULL;
}

void fc_server_free(struct fc_server *server)
{
    if (server == NULL)
        return;
    MHD_stop_daemon(server->daemon);
    free(server);
}
