/* SPDX-License-Identifier: MIT
 *
 * What the fuzz targets of single devices share: steps of twelve bytes, and saving and
 * restoring in the middle of anything.
 */
#ifndef TRAPEZE_TESTS_FUZZ_DEVICE_H
#define TRAPEZE_TESTS_FUZZ_DEVICE_H

#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "bus/device.h"
#include "fuzz.h"

/* Appends a step to an input: kind and four operands. */
static inline void fuzz_add(uint8_t **at, uint8_t kind, uint8_t a, uint16_t b, uint32_t c,
                            uint32_t d)
{
    (*at)[0] = kind;
    (*at)[1] = a;
    store_le16(*at + 2, b);
    store_le32(*at + 4, c);
    store_le32(*at + 8, d);
    *at += 12;
}

/* As a reset of the machine has it. */
static inline void fuzz_machine_reset(struct device *device)
{
    device->ops->quiesce(device);
    device->ops->reset(device);
    device->ops->unquiesce(device);
}

/* Save, restore, save gives the same bytes. With byte != 0 one byte of the stream is changed by
 * it: refused or not, the device must stand whatever that left. */
static inline void fuzz_save_restore(struct device *device, uint32_t damage, uint8_t byte)
{
    struct state_buffer first = {0}, second = {0};
    struct error *err = NULL;
    size_t at = 0;
    device->ops->quiesce(device);
    state_save(device->ops->state, device, &first);
    bool restored = state_restore(device->ops->state, device, first.data, first.size, &at, &err);
    if (!restored)
        fprintf(stderr, "%s\n", error_message(err));
    fuzz_check(restored && at == first.size);
    state_save(device->ops->state, device, &second);
    fuzz_check(first.size == second.size && memcmp(first.data, second.data, first.size) == 0);
    if (byte != 0) {
        first.data[damage % first.size] ^= byte;
        at = 0;
        if (!state_restore(device->ops->state, device, first.data, first.size, &at, NULL)) {
            at = 0;
            fuzz_check(
                state_restore(device->ops->state, device, second.data, second.size, &at, NULL));
        }
    }
    state_buffer_free(&first);
    state_buffer_free(&second);
    device->ops->unquiesce(device);
}

#endif
