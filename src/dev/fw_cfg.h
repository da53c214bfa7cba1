/* SPDX-License-Identifier: MIT
 *
 * What the board tells its firmware by a device of QEMU's making (QEMU, docs/specs/fw_cfg.rst):
 * items of bytes under a number, some of which have a name too.
 *
 * Threads: the loop's, while no vCPU runs. Items are no state: who restores a machine adds them
 * again.
 */
#ifndef TRAPEZE_DEV_FW_CFG_H
#define TRAPEZE_DEV_FW_CFG_H

#include <stddef.h>
#include <stdint.h>

struct device;

enum fw_cfg_key {
    FW_CFG_CPUS = 0x05, /* 16 bits, as the next: */
    FW_CFG_MAX_CPUS = 0x0f,
    FW_CFG_KERNEL_SIZE = 0x08, /* sizes: 32 bits */
    FW_CFG_INITRD_SIZE = 0x0b,
    FW_CFG_KERNEL = 0x11,
    FW_CFG_INITRD = 0x12,
    FW_CFG_COMMAND_LINE_SIZE = 0x14,
    FW_CFG_COMMAND_LINE = 0x15, /* with its zero */
    FW_CFG_SETUP_SIZE = 0x17,
    FW_CFG_SETUP = 0x18
};

#define FW_CFG_ITEMS_MAX 32
#define FW_CFG_NAME_MAX  55

void fw_cfg_clear(struct device *device);
void fw_cfg_add(struct device *device, uint16_t key, const void *bytes, size_t size);
void fw_cfg_add_number(struct device *device, uint16_t key, uint64_t value, unsigned size);
/* Bytes of an open file, which is borrowed; what it has lost since then is zeroes. */
void fw_cfg_add_part(struct device *device, uint16_t key, int fd, uint64_t offset, uint64_t size);
/* `name` has at most FW_CFG_NAME_MAX bytes: "etc/e820". */
void fw_cfg_add_file(struct device *device, const char *name, const void *bytes, size_t size);

#endif
