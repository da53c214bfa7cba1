/* SPDX-License-Identifier: MIT
 *
 * See api.h.
 */
#include "client/api.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "client/remote.h"

enum { ANSWER_MAX = 64 << 20, START_TRIES = 200, START_PAUSE_MS = 50, START_AGAIN = 20 };
enum { HEAD_MAX = 16 << 10, REFUSAL_MAX = 64 << 10, PATIENCE_S = 600 };

char *api_store_path(struct error **err)
{
    const char *own = getenv("TRAPEZE_HOME"), *xdg = getenv("XDG_DATA_HOME");
    const char *home = getenv("HOME");
    char *path = NULL;
    int length = -1;
    if (own != NULL && own[0] == '/')
        length = asprintf(&path, "%s", own);
    else if (own != NULL && own[0] != '\0')
        error_set(err, ERROR_USAGE, "TRAPEZE_HOME is an absolute path, not '%s'", own);
    else if (xdg != NULL && xdg[0] == '/')
        length = asprintf(&path, "%s/trapeze", xdg);
    else if (home != NULL && home[0] == '/')
        length = asprintf(&path, "%s/.local/share/trapeze", home);
    else
        error_set(err, ERROR_HOST, "there is no place for instances: set TRAPEZE_HOME to a folder");
    return length > 0 ? path : NULL;
}

bool api_make_folders(const char *path, struct error **err)
{
    char *copy = alloc_string(path);
    bool good = true;
    for (char *slash = strchr(copy + 1, '/'); slash != NULL && good;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        good = mkdir(copy, 0700) == 0 || errno == EEXIST;
        *slash = '/';
    }
    good = good && (mkdir(copy, 0700) == 0 || errno == EEXIST);
    if (!good)
        error_set_errno(err, errno, "cannot make the folder '%s'", path);
    free(copy);
    return good;
}

static int connect_in(const char *folder, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int at = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = at >= 0 ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", at, name);
    bool good = fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
    int number = errno;
    if (at >= 0)
        close(at);
    if (good)
        return fd;
    if (fd >= 0)
        close(fd);
    errno = number;
    return -1;
}

int api_connect_in(const char *folder, const char *name, struct error **err)
{
    int fd = connect_in(folder, name);
    if (fd < 0)
        error_set_errno(err, errno, "cannot connect to '%s/%s'", folder, name);
    return fd;
}

bool api_is_served(const char *store)
{
    int fd = connect_in(store, "daemon.sock");
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* ---- a daemon of our own ---- */

/* Nobody's child, in a session of its own; what it has to say goes to STORE/daemon.log. */
static void start_daemon(const char *store)
{
    pid_t pid = fork();
    if (pid != 0) {
        if (pid > 0)
            waitpid(pid, NULL, 0);
        return;
    }
    if (fork() != 0)
        _exit(0);
    char *log = NULL;
    setsid();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    int out = asprintf(&log, "%s/daemon.log", store) > 0
                  ? open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600)
                  : -1;
    dup2(out >= 0 ? out : null, STDERR_FILENO);
    close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    if (chdir("/") != 0)
        _exit(127);
    char *const argv[] = {"trapeze", "daemon", "--store", (char *)(uintptr_t)store, NULL};
    execv("/proc/self/exe", argv);
    _exit(127);
}

/* Several commands may do this at once: the store's lock lets one daemon live, and it serves all.
 */
static int reach(const char *store, struct error **err)
{
    int fd = connect_in(store, "daemon.sock");
    if (fd >= 0)
        return fd;
    if (!api_make_folders(store, err)) /* for its log */
        return -1;
    for (int i = 0; i < START_TRIES && fd < 0; i++) {
        if (i % START_AGAIN == 0) /* one that was just ending may have had the store */
            start_daemon(store);
        struct timespec pause = {0, START_PAUSE_MS * 1000000L};
        nanosleep(&pause, NULL);
        fd = connect_in(store, "daemon.sock");
    }
    if (fd < 0) {
        error_set_errno(err, errno, "the daemon does not start");
        error_hint(err, "'%s/daemon.log' says why.", store);
    }
    return fd;
}

/* ---- one request ---- */

bool api_send(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t count = send(fd, bytes, size, MSG_NOSIGNAL);
        if (count < 0 && errno != EINTR)
            return false;
        bytes += count > 0 ? count : 0;
        size -= count > 0 ? (size_t)count : 0;
    }
    return true;
}

/* Until the end of the stream ("Connection: close"); a 0 byte behind. NULL: it broke, *size bytes
 * were there before, and errno. */
static char *receive_all(int fd, size_t *size, void (*waiting)(void *opaque), void *opaque)
{
    enum { CHUNK = 65536, EVERY_MS = 500 };
    struct pollfd answer = {.fd = fd, .events = POLLIN};
    while (waiting != NULL && poll(&answer, 1, EVERY_MS) == 0)
        waiting(opaque);
    char *bytes = NULL;
    ssize_t count = 1;
    for (*size = 0; count > 0 && *size<ANSWER_MAX; *size += count> 0 ? (size_t)count : 0) {
        bytes = alloc_resize(bytes, *size + CHUNK + 1, 1);
        do
            count = recv(fd, bytes + *size, CHUNK, 0);
        while (count < 0 && errno == EINTR);
    }
    if (count == 0) {
        bytes[*size] = '\0';
        return bytes;
    }
    int number = errno;
    free(bytes);
    errno = number;
    return NULL;
}

/* "HTTP/1.1 200 OK", headers, an empty line, the body of Content-Length bytes. */
static char *body_of(const char *answer, size_t size, int *status)
{
    int end = 0;
    const char *blank = strstr(answer, "\r\n\r\n");
    if (blank == NULL || sscanf(answer, "HTTP/1.%*1[01] %3d%n", status, &end) != 1 || end == 0)
        return NULL;
    const char *length = strcasestr(answer, "\r\nContent-Length:");
    size_t have = size - (size_t)(blank + 4 - answer);
    if (length == NULL || length > blank ||
        strtoull(length + strlen("\r\nContent-Length:"), NULL, 10) != have)
        return NULL; /* it was cut off */
    return alloc_string(blank + 4);
}

/* Connected to the daemon of the settings, which are loaded into `found`; -1: err. */
static int connect_by_settings(struct client_remote *found, struct error **err)
{
    if (!client_remote_load(found, err))
        return -1;
    if (found->is_remote)
        return client_remote_connect(found, err);
    char *store = api_store_path(err);
    int fd = store != NULL ? reach(store, err) : -1;
    free(store);
    return fd;
}

static int connect_to(const struct client_remote *at, struct error **err)
{
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    int fd = client_remote_connect(at, err);
    if (fd >= 0) {
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    }
    return fd;
}

/* Sends the head of a request. A daemon of ours that ends just now has not seen it. */
static bool send_head(const struct client_remote *remote, int *fd, const char *head)
{
    if (api_send(*fd, head, strlen(head)))
        return true;
    close(*fd);
    *fd = remote->is_remote ? -1 : connect_by_settings(&(struct client_remote){0}, NULL);
    return *fd >= 0 && api_send(*fd, head, strlen(head));
}

int api_begin_at(const struct client_remote *at, const char *method, const char *path,
                 const char *headers, struct error **err)
{
    struct client_remote found = {.is_remote = false};
    char *head = NULL;
    int fd = at != NULL ? connect_to(at, err) : connect_by_settings(&found, err);
    const struct client_remote *remote = at != NULL ? at : &found;
    const char *host = remote->host != NULL ? remote->host : "localhost";
    bool v6 = strchr(host, ':') != NULL;
    if (fd >= 0 && (asprintf(&head, "%s %s HTTP/1.1\r\nHost: %s%s%s\r\n%s%s%s%s\r\n", method, path,
                             v6 ? "[" : "", host, v6 ? "]" : "",
                             remote->token != NULL ? "Authorization: Bearer " : "",
                             remote->token != NULL ? remote->token : "",
                             remote->token != NULL ? "\r\n" : "", headers) < 0 ||
                    !send_head(remote, &fd, head))) {
        error_set(err, ERROR_HOST, "the daemon does not listen");
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
    free(head);
    client_remote_clear(&found);
    return fd;
}

int api_begin(const char *method, const char *path, const char *headers, struct error **err)
{
    return api_begin_at(NULL, method, path, headers, err);
}

/* Of a request with a JSON body of `length` bytes. */
static int begin(const struct client_remote *at, const char *method, const char *path,
                 const char *more, size_t length, struct error **err)
{
    char *headers = NULL;
    int fd = -1;
    if (asprintf(&headers, "%s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n", more,
                 length) > 0)
        fd = api_begin_at(at, method, path, headers, err);
    free(headers);
    return fd;
}

bool api_may_ask_again(const struct client_remote *at, const char *method, int number)
{
    return at == NULL && !api_is_remote() &&
           (strcmp(method, "GET") == 0 || number == ECONNRESET || number == EPIPE);
}

/* "Retry-After: 0" of one that was about to end, and has done nothing. */
static bool was_put_off(const char *answer)
{
    static const char header[] = "\r\nRetry-After: 0\r\n";
    const char *found = strcasestr(answer, header), *blank = strstr(answer, "\r\n\r\n");
    return found != NULL && blank != NULL && found < blank;
}

struct question {
    const struct client_remote *at;
    const char *method, *path, *body;
    void (*waiting)(void *opaque);
    void *opaque;
};

/* *again: nothing came of it, and nothing has been done; otherwise NULL: err. */
static char *ask(const struct question *question, int *status, bool *again, struct error **err)
{
    char *answer = NULL, *text = NULL;
    const char *body = question->body != NULL ? question->body : "";
    size_t size = 0, length = strlen(body);
    *again = false;
    int fd =
        begin(question->at, question->method, question->path, "Connection: close", length, err);
    if (fd < 0)
        return NULL;
    /* Who refuses before he has read everything answers all the same. */
    (void)api_send(fd, body, length);
    answer = receive_all(fd, &size, question->waiting, question->opaque);
    int number = answer != NULL ? 0 : errno;
    if (answer != NULL && size > 0)
        text = body_of(answer, size, status);
    *again = size == 0 ? api_may_ask_again(question->at, question->method, number)
                       : question->at == NULL && text != NULL && *status == 503 &&
                             was_put_off(answer) && !api_is_remote();
    if (text == NULL && !*again)
        error_set(err, ERROR_HOST, "the daemon ended in the middle of its answer");
    free(answer);
    close(fd);
    return text;
}

static char *call(const struct question *question, int *status, struct error **err)
{
    bool again;
    char *text = ask(question, status, &again, err);
    if (!again)
        return text;
    free(text);
    text = ask(question, status, &again, err);
    if (text == NULL && again)
        error_set(err, ERROR_HOST, "the daemon ended in the middle of its answer, twice");
    return text;
}

char *api_call(const char *method, const char *path, const char *body, int *status,
               struct error **err)
{
    return call(&(struct question){NULL, method, path, body, NULL, NULL}, status, err);
}

char *api_call_at(const struct client_remote *at, const char *method, const char *path,
                  const char *body, int *status, struct error **err)
{
    return call(&(struct question){at, method, path, body, NULL, NULL}, status, err);
}

char *api_call_waiting(const char *method, const char *path, const char *body, int *status,
                       void (*waiting)(void *opaque), void *opaque, struct error **err)
{
    return call(&(struct question){NULL, method, path, body, waiting, opaque}, status, err);
}

/* Byte by byte, as what follows belongs to somebody else. False: it is none. */
static bool receive_head(int fd, char head[HEAD_MAX + 1])
{
    size_t size = 0;
    while (size < HEAD_MAX) {
        ssize_t count = recv(fd, head + size, 1, 0);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return false;
        head[++size] = '\0';
        if (size >= 4 && strcmp(head + size - 4, "\r\n\r\n") == 0)
            return true;
    }
    return false;
}

int api_upgrade(const char *path, const char *protocol, char **body, struct error **err)
{
    return api_upgrade_at(NULL, path, protocol, body, err);
}

int api_upgrade_at(const struct client_remote *at, const char *path, const char *protocol,
                   char **body, struct error **err)
{
    char *more = NULL, head[HEAD_MAX + 1] = "";
    int status = 0;
    size_t size = 0;
    *body = NULL;
    if (asprintf(&more, "Connection: Upgrade\r\nUpgrade: %s", protocol) < 0)
        return -1;
    int fd = begin(at, "GET", path, more, 0, err);
    bool good = fd >= 0 && receive_head(fd, head);
    if (fd >= 0 && head[0] == '\0' && api_may_ask_again(at, "GET", 0)) {
        close(fd);
        fd = begin(at, "GET", path, more, 0, err);
        good = fd >= 0 && receive_head(fd, head);
    }
    free(more);
    if (fd < 0)
        return -1;
    if (good && sscanf(head, "HTTP/1.%*1[01] %3d", &status) == 1 && status == 101)
        return fd;
    const char *length = strcasestr(head, "\r\nContent-Length:");
    size = length != NULL ? strtoul(length + strlen("\r\nContent-Length:"), NULL, 10) : 0;
    if (size > 0 && size <= REFUSAL_MAX) {
        *body = alloc_zeroed(1, size + 1);
        if (recv(fd, *body, size, MSG_WAITALL) != (ssize_t)size) {
            free(*body);
            *body = NULL;
        }
    }
    if (*body == NULL)
        error_set(err, ERROR_HOST, "the daemon ended in the middle of its answer");
    close(fd);
    return -1;
}

bool api_is_remote(void)
{
    struct client_remote remote;
    if (!client_remote_load(&remote, NULL))
        return true;
    bool is = remote.is_remote;
    client_remote_clear(&remote);
    return is;
}
