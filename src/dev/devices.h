/* SPDX-License-Identifier: MIT
 *
 * Every device that there is, from devices.list: device_NAME for NAME.
 */
#ifndef TRAPEZE_DEV_DEVICES_H
#define TRAPEZE_DEV_DEVICES_H

#include "bus/device.h"

#define X(name) extern const struct device_ops device_##name;
#include "dev/devices.inc"
#undef X

#endif
