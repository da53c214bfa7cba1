/* SPDX-License-Identifier: MIT
 *
 * The slots for virtio devices of a board, and what each of them is to the guest.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DEV_VIRTIO_SLOTS_H
#define TRAPEZE_DEV_VIRTIO_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

struct device;
struct virtio_slots;

/* Of a device made from device_virtio_slots; lives as long as it. */
struct virtio_slots *virtio_slots_of(struct device *device);

struct virtio_slot {
    uint64_t gpa; /* of VIRTIO_SLOT_SIZE bytes */
    unsigned irq; /* the controller's input, */
    bool shared;  /* which is another device's, too */
};

/* The same. False: there is no device in it. */
bool virtio_slot_at(struct device *device, unsigned slot, struct virtio_slot *place);

#endif
