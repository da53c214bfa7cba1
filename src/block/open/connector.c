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

static int connect_tcp(const char *host, const char *port, struct error **err)
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
                                 : connect_tcp(uri->host, uri->port, err);
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

static void serve(int socket, const struct nbd_uri *uri)
{
    uint32_t number;
    bool good = true;
    while (good && recv(socket, &number, sizeof(number), 0) == sizeof(number)) {
        struct error *error = NULL;
        int connection = block_connect(uri, &error);
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
    bool good = nbd_uri_parse(argv[3], &uri, &error);
    if (!good) {
        const char *text = error_message(error);
        good = write(status, text, strlen(text)) < 0;
        error_free(error);
        return 1;
    }
    close(status);
    fcntl(socket, F_SETFD, FD_CLOEXEC);
    serve(socket, &uri);
    nbd_uri_clear(&uri);
    return 0;
}
