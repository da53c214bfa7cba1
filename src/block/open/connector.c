/* SPDX-License-Identifier: MIT
 *
 * See connector.h.
 */
#include "block/open/connector.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <netinet/tcp.h>

#include "base/bits.h"
#include "base/error.h"
#include "block/nbd_socket.h"
#include "block/open/nbd_tls.h"

enum { CONNECT_MS = 5000 };

/* --- connecting --- */

static bool connect_within(int fd, const struct sockaddr *address, socklen_t size)
{
    int error = 0;
    socklen_t length = sizeof(error);
    struct pollfd ready = {.fd = fd, .events = POLLOUT};
    if (connect(fd, address, size) != 0) {
        if (errno != EINPROGRESS && errno != EAGAIN)
            return false;
        int count = poll(&ready, 1, CONNECT_MS);
        if (count <= 0) {
            errno = ETIMEDOUT;
            return false;
        }
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error != 0) {
            errno = error != 0 ? error : errno;
            return false;
        }
    }
    return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) == 0;
}

static int connect_unix(const char *path, struct error **err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path)) {
        error_set(err, ERROR_USAGE, "the socket's path is longer than %zu bytes",
                  sizeof(address.sun_path) - 1);
        return -1;
    }
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    error_set_errno(err, errno, "'%s'", path);
    if (fd >= 0)
        close(fd);
    return -1;
}

int block_connect_tcp(const char *host, const char *port, struct error **err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    int fd = -1, error = getaddrinfo(host, port, &hints, &found), one = 1;
    if (error != 0) {
        error_set(err, ERROR_HOST, "'%s': %s", host, gai_strerror(error));
        return -1;
    }
    for (const struct addrinfo *at = found; at != NULL && fd < 0; at = at->ai_next) {
        fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, at->ai_protocol);
        if (fd >= 0 && !connect_within(fd, at->ai_addr, at->ai_addrlen)) {
            error = errno;
            close(fd);
            errno = error;
            fd = -1;
        }
    }
    error = errno;
    freeaddrinfo(found);
    if (fd < 0)
        error_set_errno(err, error, "%s, port %s", host, port);
    else
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

int block_connect(const struct nbd_uri *uri, struct error **err)
{
    int fd = uri->socket != NULL ? connect_unix(uri->socket, err)
                                 : block_connect_tcp(uri->host, uri->port, err);
    if (fd < 0)
        error_hint(err, "Is the server running, and is this its address?");
    return fd >= 0 && uri->tls ? block_tls_start(fd, uri, err) : fd;
}

/* --- the process --- */

static bool answer(int socket, uint32_t number, const char *text, int connection)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    size_t length = strlen(text);
    struct iovec iov[] = {
        {&number, sizeof(number)},
        {(void *)(uintptr_t)text, length < NBD_SOCKET_TEXT_MAX ? length : NBD_SOCKET_TEXT_MAX - 1},
    };
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = ARRAY_SIZE(iov)};
    if (connection >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
        control.header = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), &connection, sizeof(int));
    }
    bool good = sendmsg(socket, &message, MSG_NOSIGNAL) > 0;
    if (connection >= 0)
        close(connection);
    return good;
}

/* The first connection, before anybody waits for it: -1: err. A server that has something to say
 * says it first. */
static int connect_ahead(const struct nbd_uri *uri, struct error **err)
{
    struct pollfd ready = {.fd = block_connect(uri, err), .events = POLLIN};
    if (ready.fd < 0 || poll(&ready, 1, CONNECT_MS) > 0)
        return ready.fd;
    close(ready.fd);
    error_set(err, ERROR_HOST, "the server does not answer");
    error_hint(err, "Is it an NBD server?");
    return -1;
}

static bool is_open(int connection)
{
    struct pollfd gone = {.fd = connection, .events = POLLRDHUP};
    return poll(&gone, 1, 0) == 0;
}

/* `ahead`: a connection for the first question. */
static void serve(int socket, const struct nbd_uri *uri, int ahead)
{
    uint32_t number;
    bool good = true;
    while (good && recv(socket, &number, sizeof(number), 0) == sizeof(number)) {
        struct error *error = NULL;
        bool fresh = ahead >= 0 && is_open(ahead);
        int connection = fresh ? ahead : block_connect(uri, &error);
        if (ahead >= 0 && !fresh)
            close(ahead);
        ahead = -1;
        good = answer(socket, number, connection >= 0 ? uri->export : error_message(error),
                      connection);
        error_free(error);
    }
}

int block_connector_main(int argc, char **argv)
{
    struct nbd_uri uri;
    struct error *error = NULL;
    if (argc != 4)
        return 1;
    int status = atoi(argv[1]), socket = atoi(argv[2]);
    int ahead = -1;
    if (nbd_uri_parse(argv[3], &uri, &error)) {
        ahead = connect_ahead(&uri, &error);
        error_prefix(&error, "cannot connect");
    }
    if (ahead < 0) {
        const char *text = error_message(error);
        ssize_t written = write(status, text, strlen(text));
        error_free(error);
        return written < 0 ? 2 : 1;
    }
    close(status);
    fcntl(socket, F_SETFD, FD_CLOEXEC);
    serve(socket, &uri, ahead);
    nbd_uri_clear(&uri);
    return 0;
}
