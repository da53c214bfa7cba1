/* SPDX-License-Identifier: MIT
 *
 * Virtqueues seen from the device, split and packed ones (virtio 1.2, 2.7 and 2.8): the only
 * code that reads descriptors.
 *
 *     while (virtqueue_pop(queue, &chain, limit)) {
 *         size_t got = virtq_read(&chain, 0, &header, sizeof(header));
 *         ...
 *         virtqueue_push(queue, &chain, bytes_written);
 *     }
 *     virtqueue_signal(queue);
 *
 * A chain that was popped consists of host memory only: its segments lie in guest RAM, were
 * fetched once, and do not change when the guest rewrites its descriptors. What the buffers
 * hold may change at any time: read it once, then judge the copy.
 *
 * Memory that is still to come from another host (mem_ready()) keeps nobody waiting: pop finds nothing as
 * long as any of a request, or of the rings, is not there, and `notify` comes again when something is. What
 * a request needs at its end (the used ring) was there when it was popped.
 *
 * A queue that breaks the rules calls `violation` once and is dead until it is reset: pop
 * finds nothing and push does nothing.
 *
 * Writable segments are noted as written (mem_note_write) by pop, before the device writes,
 * and again by push, after it did: I/O may take long and the dirty log may be read meanwhile.
 *
 * Threads: the owning device's lock protects the queue. `notify` and `interrupt` are bound
 * while nothing runs; `notify` is fired by the transport from any thread.
 */
#ifndef TRAPEZE_BUS_VIRTQUEUE_H
#define TRAPEZE_BUS_VIRTQUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "bus/line.h"
#include "mem/mem.h"

struct error;
struct state_buffer;
struct state_table;

#define VIRTQ_SIZE_MAX 256 /* descriptors in a ring and in a chain */
/* A segment ends where a RAM region does, so a chain may have a few more of them. */
#define VIRTQ_SEGMENT_MAX (VIRTQ_SIZE_MAX + 16)

struct virtqueue {
    /* Bound by the transport; constant while the machine runs. */
    struct mem_space *mem;
    struct notifier notify;    /* guest → device; value: index */
    struct notifier interrupt; /* device → guest; value: index */
    void (*violation)(void *opaque, struct virtqueue *queue, const char *what);
    void *violation_opaque;
    uint16_t index;
    uint16_t size_max;

    /* Set up by the driver. */
    uint16_t size;
    bool enabled;
    uint64_t desc, avail, used; /* gpa; packed: descriptors, driver's and device's events */

    /* Negotiated features; the last two are derived. */
    bool packed, event_idx, indirect;

    /* Progress. */
    bool broken;
    bool resetting; /* the driver resets it, and its requests have not all come home */
    uint16_t avail_next; /* entries of the available ring consumed; packed: where the next is */
    uint16_t used_next;  /* entries of the used ring filled; packed: where the next goes */
    uint16_t signalled;  /* split: used_next at the last decision about an interrupt */
    bool avail_wrap, used_wrap; /* packed */
    uint32_t unsignalled;       /* packed: descriptors given back since that decision */

    /* Memory that the next request needs is still on its way from another host. */
    struct mem_waiter starved;
    bool starving; /* ... as pop has found out just now */
};

struct virtq_range {
    uint64_t gpa, length;
};

/* One request: readable segments, then writable ones. Large; allocate it with the request.
 * The device may change `segment` as it likes (virtq_slice, partial I/O). */
struct virtq_chain {
    uint16_t head;                /* what names it to the driver */
    uint16_t descriptors;         /* packed: places it takes in the ring */
    unsigned out_count, in_count; /* segments the device reads, and those it writes */
    uint64_t out_size, in_size;   /* bytes */
    uint64_t touched; /* bytes of the writable part that may be written: in_size, or less if
                         the device knows better when it pushes */
    struct iovec segment[VIRTQ_SEGMENT_MAX];
    struct virtq_range range[VIRTQ_SEGMENT_MAX]; /* where each segment was */
};

static inline struct iovec *virtq_in(struct virtq_chain *chain)
{
    return chain->segment + chain->out_count;
}

/* Sets the queue's power-on state; keeps what is bound and size_max. */
void virtqueue_reset(struct virtqueue *queue);

/* NULL if the driver's set-up is valid (size, alignment, all rings in RAM), else what is not. */
const char *virtqueue_check(const struct virtqueue *queue);

/* Before the queue goes: it is not notified any more of memory that has come. */
void virtqueue_forget(struct virtqueue *queue);

/* Takes the next request. False: none, or the queue is broken or not enabled; a later
 * arrival is notified. `limit`: most bytes (both parts together) a request may have. */
bool virtqueue_pop(struct virtqueue *queue, struct virtq_chain *chain, uint64_t limit);

/* Has the next arrival notified, where one that was not waited for was taken: a pop that finds
 * something leaves the driver's notifications as they are. */
void virtqueue_arm(struct virtqueue *queue);

/* How many of the driver's buffers (of a packed ring: descriptors) wait to be taken, as it says. */
unsigned virtqueue_waiting(struct virtqueue *queue);

/* Notes the part of memory that a request's device has written (chain->touched); push does it
 * too. For requests that are not given back: those of before a reset. */
void virtqueue_note_touched(struct virtqueue *queue, const struct virtq_chain *chain);

/* Gives a request back; `written`: bytes of the writable part the device filled, from its
 * start. */
void virtqueue_push(struct virtqueue *queue, const struct virtq_chain *chain, uint32_t written);

/* The same for chains that the driver must find together (5.1.6.4: a frame in several buffers),
 * in the order in which they were popped. */
void virtqueue_push_all(struct virtqueue *queue, struct virtq_chain *const *chains,
                        const uint32_t *written, unsigned count);

/* Takes the last pop back: the request is in the ring again, untouched. */
void virtqueue_unpop(struct virtqueue *queue, const struct virtq_chain *chain);

/* Interrupts the driver if it wants that for what was pushed since the last call. */
void virtqueue_signal(struct virtqueue *queue);

/* Copy from the readable part / into the writable part, at a byte offset in it; return how
 * many bytes there were. Before the segments are changed. */
size_t virtq_read(const struct virtq_chain *chain, uint64_t offset, void *to, size_t size);
size_t virtq_write(const struct virtq_chain *chain, uint64_t offset, const void *from, size_t size);

/* Narrows iov[0..*count) in place to bytes [offset, offset+size); true if it had them all. */
bool virtq_slice(struct iovec **iov, unsigned *count, uint64_t offset, uint64_t size);

/* A request that a device keeps while the machine is saved: appends it, and makes it again from
 * to->data[*at...], with one of queues[0..count), which are restored already. Returns that
 * queue, or NULL and err. */
void virtqueue_save_chain(const struct virtqueue *queue, const struct virtq_chain *chain,
                          struct state_buffer *out);
struct virtqueue *virtqueue_restore_chain(struct virtqueue *queues, unsigned count,
                                          struct virtq_chain *chain, uint64_t limit,
                                          const struct state_buffer *from, size_t *at,
                                          struct error **err);

extern const struct state_table virtqueue_state;

#endif
