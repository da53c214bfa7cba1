/* SPDX-License-Identifier: MIT
 *
 * The x86-64 board with firmware: an image that begins where a PC's processor does, like OVMF or
 * SeaBIOS from Debian, and what it is told of the machine. The board is then one that such firmware
 * knows: QEMU's `pc`, as far as it looks (host bridge, PIIX, fw_cfg).
 *
 *     4 GiB - size of file and flash    flash for its variables, if it leaves room for any
 *     4 GiB - size of file              the file, read-only
 *     1 MiB - 128 KiB                   the end of the file once more, in RAM
 *
 * File and flash together are a power of two, as the images of EDK2 are before they are split.
 */
#ifndef TRAPEZE_VM_PC_FIRMWARE_H
#define TRAPEZE_VM_PC_FIRMWARE_H

#include <stdbool.h>
#include <stdint.h>

struct boot;
struct error;
struct vm;

#define PC_FIRMWARE_END UINT64_C(0x100000000)
#define PC_FIRMWARE_MAX UINT64_C(0x1000000) /* bytes of file and flash */

/* A kernel and its initrd are the firmware's to load. */
bool pc_firmware_plan(struct boot *boot, uint64_t low_ram, struct error **err);
/* Its flash's size; 0: there is none, and no firmware at all if `boot` has none. */
uint64_t pc_firmware_flash(const struct boot *boot, uint64_t *gpa);
/* What EDK2's build puts into a new flash, an empty store of variables: its driver does not make one. */
void pc_firmware_format(uint8_t *flash, uint64_t size);
/* Gives the machine's fw_cfg all items anew. */
bool pc_firmware_describe(struct vm *vm, struct error **err);

#endif
