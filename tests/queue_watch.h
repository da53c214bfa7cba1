/* SPDX-License-Identifier: MIT
 *
 * What a virtqueue under test says to its device and to the guest.
 */
#ifndef TRAPEZE_TESTS_QUEUE_WATCH_H
#define TRAPEZE_TESTS_QUEUE_WATCH_H

#include "support.h"

#include "bus/virtqueue.h"

struct queue_watch {
    const struct virtqueue *queue;
    const char *violation; /* the last one */
    unsigned violations, interrupts;
};

static inline void queue_watch_violation(void *opaque, struct virtqueue *queue, const char *what)
{
    struct queue_watch *watch = opaque;
    assert_ptr_equal(queue, watch->queue);
    watch->violation = what;
    watch->violations++;
}

static inline void queue_watch_interrupt(void *opaque, unsigned index)
{
    struct queue_watch *watch = opaque;
    assert_int_equal(index, 0);
    watch->interrupts++;
}

static inline void queue_watch_start(struct queue_watch *watch, struct virtqueue *queue)
{
    *watch = (struct queue_watch){.queue = queue};
    queue->violation = queue_watch_violation;
    queue->violation_opaque = watch;
    notifier_bind(&queue->interrupt, queue_watch_interrupt, watch);
}

#endif
