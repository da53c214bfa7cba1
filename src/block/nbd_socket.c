/* SPDX-License-Identifier: MIT
 *
 * See nbd_socket.h: the side that asks.
 */
#include "block/nbd_socket.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "block/nbd.h"
#include "block/nbd_library.h"

enum { PATIENCE_MS = 20000 /* of which the other side uses at most 15000 */ };

struct asker {
    int fd;
    uint32_t number; /* of the last question: an answer that comes too late is told by it */
    char *name;
    void (*warn)(void *opaque, const char *image, const char *text);
    void *opaque;
};

struct answer {
    uint32_t number;
    char text[NBD_SOCKET_TEXT_MAX + 1];
};

/* One message; its descriptor or -1 in *connection. False: the other side is gone. */
static bool receive(int fd, struct answer *answer, int *connection)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {answer, sizeof(*answer) - 1};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    ssize_t size = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    *connection = -1;
    if (size < (ssize_t)sizeof(answer->number))
        return false;
    ((char *)answer)[size] = '\0';
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(connection, CMSG_DATA(header), sizeof(int));
    return true;
}

static bool ask(struct asker *asker, struct answer *answer, int *connection, struct error **err)
{
    uint32_t number = ++asker->number;
    bool good = send(asker->fd, &number, sizeof(number), MSG_NOSIGNAL) == sizeof(number);
    while (good) {
        struct pollfd ready = {.fd = asker->fd, .events = POLLIN};
        int count = poll(&ready, 1, PATIENCE_MS);
        if (count < 0 && errno == EINTR)
            continue;
        if (count == 0)
            return error_set(err, ERROR_HOST, "cannot connect: the server does not answer");
        good = receive(asker->fd, answer, connection);
        if (good && answer->number == number)
            return true;
        if (*connection >= 0)
            close(*connection);
    }
    return error_set(err, ERROR_HOST, "cannot connect: the process that would is gone");
}

static struct nbd_handle *connect_socket(void *opaque, const struct nbd_library *library,
                                         struct error **err)
{
    struct asker *asker = opaque;
    struct answer answer;
    int connection = -1;
    if (!ask(asker, &answer, &connection, err))
        return NULL;
    if (connection < 0) {
        error_set(err, ERROR_HOST, "cannot connect: %s", answer.text);
        return NULL;
    }
    return block_nbd_negotiate(library, connection, answer.text, err);
}

static void free_asker(void *opaque)
{
    struct asker *asker = opaque;
    close(asker->fd);
    free(asker->name);
    free(asker);
}

static void say(void *opaque, const char *text)
{
    const struct asker *asker = opaque;
    if (asker->warn != NULL)
        asker->warn(asker->opaque, asker->name, text);
}

struct block_file *block_file_nbd_socket(int fd, const char *name, bool read_only,
                                         const struct block_chain_options *options,
                                         struct error **err)
{
    struct nbd_library library;
    if (!nbd_library_find(&library, err))
        return NULL;
    struct asker *asker = alloc_zeroed(1, sizeof(*asker));
    *asker = (struct asker){fd, 0, alloc_string(name), options->warn, options->opaque};
    const struct block_nbd_connector connector = {
        .connect = connect_socket,
        .free = free_asker,
        .opaque = asker,
        .reconnect_ns = (int64_t)options->reconnect_s * INT64_C(1000000000),
        .say = say,
    };
    struct block_file *file = block_file_nbd(
        &connector, &library, read_only,
        options->cache == BLOCK_CACHE_NONE ? BLOCK_CACHE_WRITEBACK : options->cache, err);
    if (file == NULL) {
        free(asker->name);
        free(asker);
    }
    return file;
}
