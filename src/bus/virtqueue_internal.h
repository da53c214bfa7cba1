/* SPDX-License-Identifier: MIT
 *
 * Between the two ring layouts (virtqueue.c: split, virtqueue_packed.c: packed): guest memory
 * and what becomes of a descriptor are the same for both.
 */
#ifndef TRAPEZE_BUS_VIRTQUEUE_INTERNAL_H
#define TRAPEZE_BUS_VIRTQUEUE_INTERNAL_H

#include "bus/virtqueue.h"

enum { VIRTQ_DESC_NEXT = 1, VIRTQ_DESC_WRITE = 2, VIRTQ_DESC_INDIRECT = 4 };

#define VIRTQ_DESC_BYTES  16u
#define VIRTQ_EVENT_BYTES 4u /* packed: struct pvirtq_event_suppress (2.8.14) */

struct virtq_descriptor {
    uint64_t gpa;
    uint32_t length;
    uint16_t flags;
    uint16_t next; /* split: the next one; packed: the buffer's id */
};

/* A table of descriptors being walked: the queue's or an indirect one. */
struct virtq_table {
    uint64_t gpa;
    uint32_t count;
    bool indirect;
    unsigned walked;
};

/* The driver broke a rule: the queue is dead. Returns false. */
bool virtq_fail(struct virtqueue *queue, const char *what);

/* 16 bits of guest memory, with acquire and release. */
bool virtq_load16(struct virtqueue *queue, uint64_t gpa, uint16_t *value);
bool virtq_store16(struct virtqueue *queue, uint64_t gpa, uint16_t value);
bool virtq_in_ram(const struct virtqueue *queue, uint64_t gpa, uint64_t size);
/* False: it is still on its way, and pop is to find nothing. */
bool virtq_ready(struct virtqueue *queue, uint64_t gpa, uint64_t size);

/* Copies one descriptor; index < table->count. */
bool virtq_load_descriptor(struct virtqueue *queue, const struct virtq_table *table, uint32_t index,
                           struct virtq_descriptor *descriptor);
/* Adds a buffer to the chain; `limit`: bytes of the whole chain. */
bool virtq_add_buffer(struct virtqueue *queue, struct virtq_chain *chain,
                      const struct virtq_descriptor *descriptor, uint64_t limit);
/* The table that an indirect descriptor in `table` stands for replaces it. */
bool virtq_enter_indirect(struct virtqueue *queue, const struct virtq_descriptor *descriptor,
                          struct virtq_table *table);

/* virtqueue_packed.c: what the functions of virtqueue.h do in that layout. */
const char *virtq_packed_check(const struct virtqueue *queue);
bool virtq_packed_available(struct virtqueue *queue);
unsigned virtq_packed_waiting(struct virtqueue *queue);
bool virtq_packed_pop(struct virtqueue *queue, struct virtq_chain *chain, uint64_t limit);
void virtq_packed_push_all(struct virtqueue *queue, struct virtq_chain *const *chains,
                           const uint32_t *written, unsigned count);
void virtq_packed_unpop(struct virtqueue *queue, const struct virtq_chain *chain);
/* Whether the driver wants an interrupt for what was pushed since the last call. */
bool virtq_packed_wants_interrupt(struct virtqueue *queue);

#endif
