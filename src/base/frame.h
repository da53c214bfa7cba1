/* SPDX-License-Identifier: MIT
 *
 * Length-prefixed messages over a stream socket: a u32 little-endian byte count, then that
 * many bytes. The control protocol's framing, for both ends. Sizes come from a stranger:
 * a message longer than FRAME_MAX ends the connection.
 *
 * Threads: none of its own; a struct belongs to one thread.
 */
#ifndef TRAPEZE_BASE_FRAME_H
#define TRAPEZE_BASE_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define FRAME_MAX (UINT32_C(4) << 20) /* bytes; the console ring as JSON fits */

/* Received bytes and the messages in them. Zero-initialise; frame_reader_clear() at the end. */
struct frame_reader {
    uint8_t *data;
    size_t size;     /* bytes held */
    size_t capacity;
    size_t consumed; /* bytes at the front that were handed out already */
};

/* Descriptors that come along on a unix socket (SCM_RIGHTS), with the first bytes of a message. */
#define FRAME_FD_MAX 253 /* what Linux sends at once (SCM_MAX_FD) */
struct frame_fds {
    int fds[FRAME_FD_MAX]; /* -1: somebody took it */
    size_t count;
};
void frame_fds_close(struct frame_fds *fds);

enum frame_status { FRAME_MESSAGE, FRAME_MORE, FRAME_CLOSED, FRAME_BROKEN };

/* Reads what the descriptor has (one read(2)). FRAME_MORE: fine, look for messages;
 * FRAME_CLOSED: end of stream; FRAME_BROKEN: read error (errno). EAGAIN is FRAME_MORE. */
enum frame_status frame_reader_fill(struct frame_reader *reader, int fd);
/* The same with recvmsg(2): adds what descriptors come, closes those beyond FRAME_FD_MAX. */
enum frame_status frame_reader_fill_fds(struct frame_reader *reader, int fd,
                                        struct frame_fds *fds);

/* The next whole message: FRAME_MESSAGE, with data and size valid until the next fill;
 * FRAME_MORE if none is complete; FRAME_BROKEN if the peer announced more than `limit`. */
enum frame_status frame_reader_next(struct frame_reader *reader, size_t limit,
                                    const uint8_t **data, size_t *size);
void frame_reader_clear(struct frame_reader *reader);

/* Bytes waiting to be sent. Zero-initialise; frame_writer_clear() at the end. */
struct frame_writer {
    uint8_t *data;
    size_t size;
    size_t capacity;
};

/* Queues one message; false if it is larger than FRAME_MAX or the queue passes 4 × that. */
bool frame_writer_add(struct frame_writer *writer, const void *data, size_t size);

/* Sends what the socket takes. FRAME_MESSAGE: all sent; FRAME_MORE: wait for LOOP_WRITABLE;
 * FRAME_BROKEN: the peer is gone. Never raises SIGPIPE. */
enum frame_status frame_writer_flush(struct frame_writer *writer, int fd);
/* Sends the first bytes with these descriptors (borrowed), the rest as flush does; blocking
 * sockets. */
enum frame_status frame_writer_flush_fds(struct frame_writer *writer, int fd, const int *fds,
                                         size_t count);
void frame_writer_clear(struct frame_writer *writer);

/* The process that sent the next message of a socket with SO_PASSCRED, as this one counts: the kernel
 * says so, whatever PID namespace the sender is in. The message is `size` bytes, 8 at most; waits for it.
 * -1: another one came, or none. */
pid_t frame_receive_pid(int fd, size_t size);

#endif
