/* SPDX-License-Identifier: MIT
 *
 * What a machine does with a virtio entropy device besides device_ops.
 *
 * Threads: the event loop's, without the device's lock.
 */
#ifndef TRAPEZE_DEV_VIRTIO_RNG_H
#define TRAPEZE_DEV_VIRTIO_RNG_H

#include <stdint.h>

struct device;

/* What its driver gets in a second; 0: no limit. Requests beyond that wait. */
void virtio_rng_limit(struct device *device, uint64_t bytes, uint64_t requests);

#endif
