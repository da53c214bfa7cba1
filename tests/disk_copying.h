/* SPDX-License-Identifier: MIT
 *
 * Disks on their way from one end of migrate/disks.h to the other: through a socket, with a thread
 * at each end, while the loop runs a load on those that the test gives one.
 */
#ifndef TRAPEZE_TESTS_DISK_COPYING_H
#define TRAPEZE_TESTS_DISK_COPYING_H

#include "support.h"

#include <pthread.h>
#include <sys/socket.h>

#include "disk.h"
#include "migrate/disks.h"

#define DISKS     3
#define NEAR      (256 * KIB)
#define ROUNDS    40  /* at most */
#define LOAD_MOST 200 /* sectors of a request */

struct copying {
    struct loop *loop;
    struct disks_source_disk from[DISKS];
    struct disks_target_disk to[DISKS];
    size_t count;
    struct disk_load *loads[DISKS]; /* NULL: nothing happens on that disk */
    uint64_t budget;                /* of a round; 0: as much as there is */
    uint64_t cut;                   /* the stream ends after so many bytes; 0: it does not */

    struct disks_source *source;
    struct disks_target *target;
    int near_fd, far_fd;
    uint64_t written;
    unsigned rounds;
    struct error *source_error, *target_error;
    struct disks_progress progress;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool still; /* the machine stands still */
};

static inline bool write_all(struct copying *c, const void *data, size_t size)
{
    const uint8_t *at = data;
    if (c->cut != 0 && c->written + size > c->cut)
        size = c->cut - c->written;
    for (size_t done = 0; done < size;) {
        ssize_t part = send(c->near_fd, at + done, size - done, MSG_NOSIGNAL);
        if (part < 0)
            return false;
        done += (size_t)part;
    }
    c->written += size;
    if (c->cut == 0 || c->written < c->cut)
        return true;
    shutdown(c->near_fd, SHUT_RDWR);
    return false;
}

static inline bool send_message(void *opaque, const struct iovec *iov, unsigned count,
                                struct error **err)
{
    struct copying *c = opaque;
    uint8_t length[4];
    size_t size = 0;
    for (unsigned i = 0; i < count; i++)
        size += iov[i].iov_len;
    assert_true(size <= DISKS_MESSAGE_MAX);
    store_le32(length, (uint32_t)size);
    bool good = write_all(c, length, sizeof(length));
    for (unsigned i = 0; good && i < count; i++)
        good = write_all(c, iov[i].iov_base, iov[i].iov_len);
    return good || error_set(err, ERROR_HOST, "the connection is lost");
}

static inline bool read_all(int fd, void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t part = read(fd, (uint8_t *)data + done, size - done);
        if (part <= 0)
            return false;
        done += (size_t)part;
    }
    return true;
}

static inline void *receive(void *opaque)
{
    struct copying *c = opaque;
    uint8_t length[4], *message = malloc(DISKS_MESSAGE_MAX);
    while (!disks_target_finished(c->target) && read_all(c->far_fd, length, sizeof(length)) &&
           read_all(c->far_fd, message, load_le32(length)) &&
           disks_target_message(c->target, message, load_le32(length), &c->target_error))
        ;
    shutdown(c->far_fd, SHUT_RDWR);
    free(message);
    return NULL;
}

/* On the loop's thread: no more requests, and those there are complete. */
static inline void stand_still(void *opaque)
{
    struct copying *c = opaque;
    for (size_t i = 0; i < c->count; i++)
        if (c->from[i].block != NULL)
            block_drain(c->from[i].block);
    pthread_mutex_lock(&c->lock);
    c->still = true;
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static inline void end_loop(void *opaque)
{
    struct copying *c = opaque;
    loop_quit(c->loop, 0);
}

static inline bool send_all(struct copying *c)
{
    if (!disks_begin(c->source, &c->source_error))
        return false;
    do {
        if (!disks_round(c->source, c->budget == 0 ? UINT64_MAX : c->budget, &c->source_error))
            return false;
        c->rounds++;
    } while (disks_remaining(c->source) > NEAR && c->rounds < ROUNDS);
    loop_post(c->loop, stand_still, c);
    pthread_mutex_lock(&c->lock);
    while (!c->still)
        pthread_cond_wait(&c->changed, &c->lock);
    pthread_mutex_unlock(&c->lock);
    return disks_final(c->source, &c->source_error);
}

static inline void *copy_thread(void *opaque)
{
    struct copying *c = opaque;
    bool good = send_all(c);
    assert_int_equal(good, c->source_error == NULL);
    if (!good)
        shutdown(c->near_fd, SHUT_RDWR);
    loop_post(c->loop, end_loop, c);
    return NULL;
}

static inline void guest_step(void *opaque)
{
    struct copying *c = opaque;
    bool any = false;
    for (size_t i = 0; i < c->count && !c->still; i++)
        if (c->loads[i] != NULL) {
            (void)disk_load_submit(c->loads[i], LOAD_MOST);
            any = true;
        }
    if (any)
        loop_post(c->loop, guest_step, c);
}

/* True: the target has everything. */
static inline bool copy(struct copying *c)
{
    pthread_t near, far;
    int fds[2];
    struct error *err = NULL;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    c->near_fd = fds[0];
    c->far_fd = fds[1];
    c->still = false;
    c->written = c->rounds = 0;
    c->source_error = c->target_error = NULL;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    c->target = disks_target_new(c->to, c->count, &err);
    c->source = disks_source_new(c->from, c->count, send_message, c, &err);
    assert_no_error(err);
    assert_int_equal(pthread_create(&far, NULL, receive, c), 0);
    assert_int_equal(pthread_create(&near, NULL, copy_thread, c), 0);
    guest_step(c);
    loop_run(c->loop);
    loop_cancel(c->loop, guest_step, c);
    pthread_join(near, NULL);
    pthread_join(far, NULL);
    bool finished = disks_target_finished(c->target);
    disks_get_progress(c->source, &c->progress);
    disks_source_free(c->source);
    disks_target_free(c->target);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->changed);
    close(fds[0]);
    close(fds[1]);
    return finished;
}

#endif
