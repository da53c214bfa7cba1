/* SPDX-License-Identifier: MIT
 *
 * What a board and the APLIC need to know of the interrupt files beyond struct device_ops.
 */
#ifndef TRAPEZE_DEV_IMSIC_H
#define TRAPEZE_DEV_IMSIC_H

#include <stdint.h>

#define IMSIC_M_GPA     UINT64_C(0x24000000)
#define IMSIC_S_GPA     UINT64_C(0x28000000)
#define IMSIC_FILE_SIZE UINT64_C(0x1000)

/* A message of a device: a sink of struct msi_sink (bus/line.h); `device` is the IMSIC's. Any
 * thread; takes no device's lock. */
void imsic_send(void *device, uint64_t address, uint32_t data);

#endif
