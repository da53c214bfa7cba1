/* SPDX-License-Identifier: MIT
 *
 * See link.h. One system call a frame, no copy on the fast path: the kernel gathers from guest
 * memory. What a peer wants finished is copied first, because completing writes into the frame.
 */
#include "net/link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "base/bits.h"

/* Room for several of the largest frames, so that both ends work at the same time. The kernel
 * bounds it by net.core.wmem_max. */
#define SOCKET_BUFFER (1 << 20)

struct net_queued {
    struct net_queued *next;
    size_t size;
    struct net_message message;
    uint8_t data[];
};

void net_link_init(struct net_link *link, int fd, size_t limit)
{
    int bytes = SOCKET_BUFFER;
    *link = (struct net_link){.fd = fd, .limit = limit};
    link->last = &link->first;
    link->buffer = alloc_zeroed(1, NET_FRAME_MAX);
    link->copy = alloc_zeroed(1, NET_FRAME_MAX);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

static void drop_first(struct net_link *link)
{
    struct net_queued *queued = link->first;
    link->first = queued->next;
    link->waiting -= queued->size;
    if (link->first == NULL)
        link->last = &link->first;
    free(queued);
}

void net_link_clear(struct net_link *link)
{
    while (link->first != NULL)
        drop_first(link);
    free(link->buffer);
    free(link->copy);
    *link = (struct net_link){.fd = -1};
}

static enum net_status send_message(int fd, const struct iovec *iov, size_t count)
{
    struct msghdr header = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = count};
    ssize_t sent;
    do
        sent = sendmsg(fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (sent >= 0)
        return NET_DONE;
    /* ENOBUFS: a host short of memory is like a full socket. */
    return errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM ? NET_AGAIN : NET_GONE;
}

static void enqueue(struct net_link *link, const struct net_message *message, const void *data,
                    size_t size)
{
    if (size > link->limit - link->waiting) {
        link->dropped++;
        return;
    }
    struct net_queued *queued = alloc_zeroed(1, sizeof(*queued) + size);
    queued->size = size;
    queued->message = *message;
    if (size > 0)
        memcpy(queued->data, data, size);
    link->waiting += size;
    *link->last = queued;
    link->last = &queued->next;
}

enum net_status net_link_flush(struct net_link *link)
{
    while (link->first != NULL) {
        struct net_queued *queued = link->first;
        const struct iovec iov[] = {{&queued->message, sizeof(queued->message)},
                                    {queued->data, queued->size}};
        enum net_status status = send_message(link->fd, iov, ARRAY_SIZE(iov));
        if (status != NET_DONE)
            return status;
        drop_first(link);
    }
    return NET_DONE;
}

static void put_message(struct net_link *link, const struct net_message *message, const void *data,
                        size_t size)
{
    const struct iovec iov[] = {{(void *)(uintptr_t)message, sizeof(*message)},
                                {(void *)(uintptr_t)data, size}};
    if (link->first != NULL || send_message(link->fd, iov, ARRAY_SIZE(iov)) == NET_AGAIN)
        enqueue(link, message, data, size);
}

static void put_finished(void *opaque, const struct net_frame *frame)
{
    const struct net_message message = {.kind = NET_MESSAGE_FRAME, .offload = frame->offload};
    put_message(opaque, &message, frame->data, frame->size);
}

void net_link_put(struct net_link *link, struct net_frame *frame)
{
    net_adapt(frame, link->accepts, put_finished, link);
}

static bool takes(const struct net_link *link, const struct net_offload *offload)
{
    unsigned needed = (offload->flags & NET_NEEDS_CHECKSUM) != 0 ? NET_ACCEPT_CHECKSUM : 0;
    if (offload->gso != NET_GSO_NONE)
        needed |= offload->gso == NET_GSO_TCP4 ? NET_ACCEPT_TCP4 : NET_ACCEPT_TCP6;
    return (link->accepts & needed) == needed;
}

enum net_status net_link_send(struct net_link *link, const struct net_offload *offload,
                              const struct iovec *iov, unsigned count)
{
    struct net_message message = {.kind = NET_MESSAGE_FRAME, .offload = *offload};
    struct iovec parts[NET_LINK_IOV_MAX + 1];
    if (link->first != NULL)
        return NET_AGAIN;
    if (takes(link, offload) && count <= NET_LINK_IOV_MAX) {
        parts[0] = (struct iovec){&message, sizeof(message)};
        memcpy(parts + 1, iov, count * sizeof(*iov));
        return send_message(link->fd, parts, count + 1);
    }
    struct net_frame frame = {.offload = *offload, .data = link->copy};
    for (unsigned i = 0; i < count; i++) {
        if (iov[i].iov_len > NET_FRAME_MAX - frame.size)
            return NET_DONE; /* longer than any frame: dropped */
        memcpy(frame.data + frame.size, iov[i].iov_base, iov[i].iov_len);
        frame.size += iov[i].iov_len;
    }
    /* Segments that the socket does not take now wait in the queue: the frame is taken. */
    net_link_put(link, &frame);
    return NET_DONE;
}

void net_link_announce(struct net_link *link, unsigned accepts)
{
    const struct net_message message = {.kind = NET_MESSAGE_ACCEPTS, .value = (uint8_t)accepts};
    put_message(link, &message, NULL, 0);
}

bool net_link_join(int fd, uint16_t vlan)
{
    const struct net_message message = {.kind = NET_MESSAGE_JOIN, .vlan = vlan};
    const struct iovec iov = {(void *)(uintptr_t)&message, sizeof(message)};
    return send_message(fd, &iov, 1) == NET_DONE;
}

/* True: it is a frame. */
static bool understand(struct net_link *link, const struct net_message *message, size_t size)
{
    switch (message->kind) {
    case NET_MESSAGE_FRAME:
        return net_offload_check(&message->offload, size);
    case NET_MESSAGE_ACCEPTS:
        /* Segmentation without checksums makes no sense (virtio 1.2, 5.1.3.1). */
        link->accepts = (message->value & NET_ACCEPT_CHECKSUM) != 0 ? message->value : 0;
        return false;
    case NET_MESSAGE_JOIN:
        link->vlan = message->vlan & 0xfff;
        return false;
    default:
        return false;
    }
}

enum net_status net_link_receive(struct net_link *link, struct net_frame *frame)
{
    for (unsigned turn = 0; turn < 64; turn++) {
        struct net_message message;
        struct iovec iov[] = {{&message, sizeof(message)}, {link->buffer, NET_FRAME_MAX}};
        struct msghdr header = {.msg_iov = iov, .msg_iovlen = ARRAY_SIZE(iov)};
        ssize_t got = recvmsg(link->fd, &header, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 && errno == EAGAIN ? NET_AGAIN : NET_GONE;
        if ((size_t)got < sizeof(message) || (header.msg_flags & MSG_TRUNC) != 0)
            continue;
        *frame = (struct net_frame){.offload = message.offload,
                                    .data = link->buffer,
                                    .size = (size_t)got - sizeof(message)};
        if (understand(link, &message, frame->size))
            return NET_DONE;
    }
    return NET_AGAIN; /* 64 messages that are no frames: others have their turn */
}
