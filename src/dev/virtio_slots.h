/* SPDX-License-Identifier: MIT
 *
 * The slots for virtio devices of a board, and what each of them is to the guest.
 */
#ifndef TRAPEZE_DEV_VIRTIO_SLOTS_H
#define TRAPEZE_DEV_VIRTIO_SLOTS_H

struct device;
struct virtio_slots;

/* Of a device made from device_virtio_slots; lives as long as it. */
struct virtio_slots *virtio_slots_of(struct device *device);

#endif
