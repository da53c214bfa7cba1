/* SPDX-License-Identifier: MIT
 *
 * Unix sockets of workers: where they live, listening, one question and its answer.
 */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/frame.h"
#include "client/worker.h"

char *client_runtime_folder(struct error **err)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    char *path = NULL;
    int length = runtime != NULL && runtime[0] == '/'
                     ? asprintf(&path, "%s/trapeze", runtime)
                     : asprintf(&path, "/tmp/trapeze-%u", (unsigned)geteuid());
    struct stat status;
    if (length < 0) {
        error_set(err, ERROR_HOST, "out of memory");
        return NULL;
    }
    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        error_set_errno(err, errno, "cannot make the folder '%s' for control sockets", path);
        error_hint(err, "Set XDG_RUNTIME_DIR to a folder of yours, or name a socket with "
                        "--control PATH.");
    } else if (lstat(path, &status) != 0 || !S_ISDIR(status.st_mode) ||
               status.st_uid != geteuid() || (status.st_mode & 077) != 0) {
        error_set(err, ERROR_HOST, "'%s' is not a private folder of yours (mode 0700)", path);
        error_hint(err, "Remove it, or set XDG_RUNTIME_DIR to a folder of yours.");
    } else {
        return path;
    }
    free(path);
    return NULL;
}

static bool socket_address(const char *path, struct sockaddr_un *address, struct error **err)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address->sun_path)) {
        error_set(err, ERROR_USAGE,
                  "the socket path '%s' is longer than the %zu bytes Linux allows", path,
                  sizeof(address->sun_path) - 1);
        return false;
    }
    memcpy(address->sun_path, path, strlen(path));
    return true;
}

static int connect_to(const char *path, struct error **err)
{
    struct sockaddr_un address;
    if (!socket_address(path, &address, err))
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    error_set_errno(err, errno, "cannot reach a machine at '%s'", path);
    error_hint(err, "Is it still running? Its control socket is the one it was started with.");
    if (fd >= 0)
        close(fd);
    return -1;
}

bool client_is_live(const char *path)
{
    int fd = connect_to(path, NULL);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

int client_listen(const char *path, struct error **err)
{
    struct sockaddr_un address;
    struct stat status;
    if (!socket_address(path, &address, err))
        return -1;
    if (lstat(path, &status) == 0) {
        int live = S_ISSOCK(status.st_mode) ? connect_to(path, NULL) : -1;
        if (live >= 0 || !S_ISSOCK(status.st_mode)) {
            error_set(err, ERROR_HOST, "'%s' is %s", path,
                      live >= 0 ? "the socket of a running process" : "a file, not a socket");
            error_hint(err, "Name another path.");
            if (live >= 0)
                close(live);
            return -1;
        }
        unlink(path);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t before = umask(0177);
    bool good = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
                listen(fd, 16) == 0;
    int number = errno;
    umask(before);
    if (good)
        return fd;
    error_set_errno(err, number, "cannot make the socket '%s'", path);
    if (fd >= 0)
        close(fd);
    return -1;
}

static int listen_tcp(uint16_t port, char *shown, size_t shown_size, struct error **err)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 &&
        bind(fd, (struct sockaddr *)&address, size) == 0 && listen(fd, 4) == 0 &&
        getsockname(fd, (struct sockaddr *)&address, &size) == 0) {
        snprintf(shown, shown_size, "localhost:%u", (unsigned)ntohs(address.sin_port));
        return fd;
    }
    error_set_errno(err, errno, "cannot listen at TCP port %u", (unsigned)port);
    error_hint(err, "Port 0 takes one that is free.");
    if (fd >= 0)
        close(fd);
    return -1;
}

int client_listen_at(const char *where, char *shown, size_t shown_size, struct error **err)
{
    char *end;
    if (strncmp(where, "unix:", 5) == 0 && where[5] != '\0') {
        snprintf(shown, shown_size, "%s", where + 5);
        return client_listen(where + 5, err);
    }
    if (strncmp(where, "tcp:", 4) == 0 && isdigit((unsigned char)where[4])) {
        unsigned long port = strtoul(where + 4, &end, 10);
        if (*end == '\0' && port <= UINT16_MAX)
            return listen_tcp((uint16_t)port, shown, shown_size, err);
    }
    error_set(err, ERROR_USAGE, "'%s' is not a place to listen at", where);
    error_hint(err, "Write tcp:PORT or unix:PATH.");
    return -1;
}

/* The first message that answers request 1; events and the greeting are passed over. */
static json_t *await_reply(int fd, struct error **err)
{
    struct frame_reader reader = {0};
    json_t *reply = NULL;
    enum frame_status status;
    do {
        const uint8_t *data;
        size_t size;
        while (reply == NULL &&
               (status = frame_reader_next(&reader, FRAME_MAX, &data, &size)) == FRAME_MESSAGE) {
            reply = json_loadb((const char *)data, size, JSON_ALLOW_NUL, NULL);
            if (!json_is_integer(json_object_get(reply, "id"))) {
                json_decref(reply);
                reply = NULL;
            }
        }
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        if (reply == NULL && poll(&wait, 1, 30000) == 0)
            break;
    } while (reply == NULL && frame_reader_fill(&reader, fd) == FRAME_MORE);
    frame_reader_clear(&reader);
    if (reply == NULL)
        error_set(err, ERROR_HOST, "the machine ended or did not answer within 30 s");
    return reply;
}

/* "name=value": a number, also with K, M, G or T behind it, true or false, or text. */
static bool add_argument(json_t *arguments, const char *text, struct error **err)
{
    static const char units[] = "KMGT";
    const char *equals = strchr(text, '=');
    if (equals == NULL || equals == text) {
        error_set(err, ERROR_USAGE, "'%s' is no argument of a verb", text);
        error_hint(err, "Arguments are written NAME=VALUE.");
        return false;
    }
    char *end, *name = strndup(text, (size_t)(equals - text));
    errno = 0;
    long long number = strtoll(equals + 1, &end, 10);
    const char *unit = *end != '\0' ? strchr(units, *end) : NULL;
    bool scaled = unit != NULL && end[1] == '\0' &&
                  !__builtin_mul_overflow(number, 1LL << (10 * (unit - units + 1)), &number);
    bool whole = end != equals + 1 && errno == 0 && (*end == '\0' || scaled);
    bool truth = strcmp(equals + 1, "true") == 0;
    json_t *value = whole ? json_integer(number)
                    : truth || strcmp(equals + 1, "false") == 0 ? json_boolean(truth)
                                                                 : json_string(equals + 1);
    json_object_set_new(arguments, name, value);
    free(name);
    return true;
}

char *client_arguments(char *const *words, size_t count, struct error **err)
{
    json_t *arguments = json_object();
    bool good = true;
    for (size_t i = 0; good && i < count; i++)
        good = add_argument(arguments, words[i], err);
    char *text = good ? json_dumps(arguments, JSON_COMPACT) : NULL;
    json_decref(arguments);
    return text;
}

char *client_control(const char *path, const char *verb, const char *arguments, struct error **err)
{
    return client_control_fds(path, verb, arguments, NULL, 0, err);
}

char *client_control_fds(const char *path, const char *verb, const char *arguments, const int *fds,
                         size_t fd_count, struct error **err)
{
    char *text = NULL;
    int fd = connect_to(path, err);
    if (fd < 0)
        return NULL;
    json_t *request = json_pack("{s:i, s:s}", "id", 1, "verb", verb);
    if (arguments != NULL)
        json_object_set_new(request, "arguments", json_loads(arguments, 0, NULL));
    char *request_text = json_dumps(request, JSON_COMPACT);
    struct frame_writer writer = {0};
    frame_writer_add(&writer, request_text, strlen(request_text));
    json_t *reply = NULL;
    if (frame_writer_flush_fds(&writer, fd, fds, fd_count) != FRAME_MESSAGE)
        error_set(err, ERROR_HOST, "the machine at '%s' closed the connection", path);
    else
        reply = await_reply(fd, err);
    const char *refusal = json_string_value(json_object_get(reply, "error"));
    if (refusal != NULL)
        error_set(err, ERROR_HOST, "%s", refusal);
    else if (reply != NULL)
        text = json_dumps(json_object_get(reply, "result"), JSON_INDENT(2) | JSON_ENCODE_ANY);
    json_decref(reply);
    json_decref(request);
    free(request_text);
    frame_writer_clear(&writer);
    close(fd);
    return text;
}
