/* SPDX-License-Identifier: MIT
 *
 * What a machine does with a UART besides device_ops.
 *
 * Threads: the event loop's, without the device's lock.
 */
#ifndef TRAPEZE_DEV_UART16550_H
#define TRAPEZE_DEV_UART16550_H

#include <stdint.h>

struct device;

/* What of its output gets through in a second; 0: no limit. The rest is dropped: the guest does not
 * wait. */
void uart16550_limit(struct device *device, uint64_t bytes);
uint64_t uart16550_dropped(struct device *device); /* bytes */

#endif
