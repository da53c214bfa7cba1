/* SPDX-License-Identifier: MIT
 *
 * What a machine does with a virtio block device besides device_ops.
 *
 * Threads: the event loop's, without the device's lock.
 */
#ifndef TRAPEZE_DEV_VIRTIO_BLK_H
#define TRAPEZE_DEV_VIRTIO_BLK_H

struct device;

/* The image behind params.disk is another one (block_swap()). The device is quiesced; the driver is
 * told that its configuration has changed, which has the new size. */
void virtio_blk_changed(struct device *device);

#endif
