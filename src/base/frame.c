/* SPDX-License-Identifier: MIT
 *
 * See frame.h. Both directions keep one flat buffer: messages are small and few, so moving
 * the tail after each hand-out costs less than a ring's wrap-around would complicate.
 */
#include "base/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"

enum { PREFIX = 4, READ_CHUNK = 16384 };

static bool reserve(uint8_t **data, size_t *capacity, size_t needed)
{
    if (needed <= *capacity)
        return true;
    size_t grown = *capacity == 0 ? READ_CHUNK : *capacity;
    while (grown < needed)
        grown *= 2;
    uint8_t *moved = realloc(*data, grown);
    if (moved == NULL)
        return false;
    *data = moved;
    *capacity = grown;
    return true;
}

/* Makes room behind what is held. */
static bool prepare(struct frame_reader *reader)
{
    if (reader->consumed > 0) {
        memmove(reader->data, reader->data + reader->consumed, reader->size - reader->consumed);
        reader->size -= reader->consumed;
        reader->consumed = 0;
    }
    return reserve(&reader->data, &reader->capacity, reader->size + READ_CHUNK);
}

static enum frame_status filled(struct frame_reader *reader, ssize_t count)
{
    if (count == 0)
        return FRAME_CLOSED;
    if (count < 0)
        return errno == EAGAIN || errno == EINTR ? FRAME_MORE : FRAME_BROKEN;
    reader->size += (size_t)count;
    return FRAME_MORE;
}

enum frame_status frame_reader_fill(struct frame_reader *reader, int fd)
{
    if (!prepare(reader))
        return FRAME_BROKEN;
    return filled(reader, read(fd, reader->data + reader->size, READ_CHUNK));
}

void frame_fds_close(struct frame_fds *fds)
{
    for (size_t i = 0; i < fds->count; i++)
        if (fds->fds[i] >= 0)
            close(fds->fds[i]);
    fds->count = 0;
}

enum frame_status frame_reader_fill_fds(struct frame_reader *reader, int fd, struct frame_fds *fds)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(fds->fds))];
    } control;
    if (!prepare(reader))
        return FRAME_BROKEN;
    struct iovec iov = {reader->data + reader->size, READ_CHUNK};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    ssize_t count = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    if (count < 0)
        return filled(reader, count);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
            int got;
            memcpy(&got, (const char *)c + at, sizeof(got));
            if (fds->count < FRAME_FD_MAX)
                fds->fds[fds->count++] = got;
            else
                close(got);
        }
    }
    return filled(reader, count);
}

enum frame_status frame_reader_next(struct frame_reader *reader, size_t limit,
                                    const uint8_t **data, size_t *size)
{
    size_t held = reader->size - reader->consumed;
    if (held < PREFIX)
        return FRAME_MORE;
    const uint8_t *front = reader->data + reader->consumed;
    size_t length = load_le32(front);
    if (length > limit)
        return FRAME_BROKEN;
    if (held - PREFIX < length)
        return FRAME_MORE;
    *data = front + PREFIX;
    *size = length;
    reader->consumed += PREFIX + length;
    return FRAME_MESSAGE;
}

void frame_reader_clear(struct frame_reader *reader)
{
    free(reader->data);
    *reader = (struct frame_reader){0};
}

bool frame_writer_add(struct frame_writer *writer, const void *data, size_t size)
{
    if (size > FRAME_MAX || writer->size > 4 * (size_t)FRAME_MAX)
        return false;
    if (!reserve(&writer->data, &writer->capacity, writer->size + PREFIX + size))
        return false;
    store_le32(writer->data + writer->size, (uint32_t)size);
    memcpy(writer->data + writer->size + PREFIX, data, size);
    writer->size += PREFIX + size;
    return true;
}

enum frame_status frame_writer_flush(struct frame_writer *writer, int fd)
{
    size_t sent = 0;
    while (sent < writer->size) {
        ssize_t count = send(fd, writer->data + sent, writer->size - sent, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0 && errno != EAGAIN)
            return FRAME_BROKEN;
        if (count < 0)
            break;
        sent += (size_t)count;
    }
    if (sent > 0)
        memmove(writer->data, writer->data + sent, writer->size - sent);
    writer->size -= sent;
    return writer->size == 0 ? FRAME_MESSAGE : FRAME_MORE;
}

enum frame_status frame_writer_flush_fds(struct frame_writer *writer, int fd, const int *fds,
                                         size_t count)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(FRAME_FD_MAX * sizeof(int))];
    } control = {0};
    if (count == 0)
        return frame_writer_flush(writer, fd);
    if (count > FRAME_FD_MAX || writer->size == 0)
        return FRAME_BROKEN;
    struct iovec iov = {writer->data, writer->size};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    *rights = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
                               .cmsg_type = SCM_RIGHTS,
                               .cmsg_len = CMSG_LEN(count * sizeof(int))};
    memcpy(CMSG_DATA(rights), fds, count * sizeof(int));
    ssize_t sent;
    do
        sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent <= 0)
        return FRAME_BROKEN;
    memmove(writer->data, writer->data + sent, writer->size - (size_t)sent);
    writer->size -= (size_t)sent;
    return frame_writer_flush(writer, fd);
}

void frame_writer_clear(struct frame_writer *writer)
{
    free(writer->data);
    *writer = (struct frame_writer){0};
}

pid_t frame_receive_pid(int fd, size_t size)
{
    char text[8];
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(struct ucred))];
    } control;
    struct iovec iov = {text, sizeof(text)};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    struct ucred sender;
    ssize_t received;
    while ((received = recvmsg(fd, &message, 0)) < 0 && errno == EINTR)
        ;
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (received != (ssize_t)size || header == NULL || header->cmsg_type != SCM_CREDENTIALS)
        return -1;
    memcpy(&sender, CMSG_DATA(header), sizeof(sender));
    return sender.pid;
}
