/* SPDX-License-Identifier: MIT
 *
 * See intake.h; what the numbers are: wire.h.
 */
#include "migrate/intake.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "mem/mem.h"
#include "migrate/delta.h"
#include "migrate/demand.h"
#include "migrate/image_internal.h"
#include "migrate/wire.h"

#define HUGE_PAGE (UINT64_C(2) << 20)

/* Pages that are zeroes already stay unallocated; whole huge pages become so again, before the machine
 * runs. */
static void clear(const struct intake *intake, struct mem_ram *ram, uint64_t gpa, uint64_t size)
{
    struct mem_space *mem = intake->mem;
    uint8_t *at = ram->host + (gpa - ram->gpa);
    if (intake->demand == NULL && (gpa - ram->gpa) % HUGE_PAGE == 0 && size % HUGE_PAGE == 0 && mem_discard(mem, gpa, size))
        return;
    for (uint64_t page = 0; page < size; page += MEM_PAGE_SIZE)
        if (!saved_is_zero(at + page, MEM_PAGE_SIZE))
            memset(at + page, 0, MEM_PAGE_SIZE);
}

/* One run at `at`; *size: its bytes, header included. */
static bool take_run(const struct intake *intake, const uint8_t *at, size_t left, size_t *size,
                     struct error **err)
{
    if (left < WIRE_RUN_HEADER)
        return wire_damaged(err, "a run of pages is cut off");
    uint64_t gpa = load_le64(at), bytes = (uint64_t)load_le32(at + 8) << MEM_PAGE_SHIFT;
    uint32_t kind = load_le32(at + 12), follow = load_le32(at + 16);
    struct mem_ram *ram = mem_ram_find(intake->mem, gpa);
    if (gpa % MEM_PAGE_SIZE != 0 || bytes == 0 || ram == NULL ||
        !range_within(gpa - ram->gpa, bytes, ram->size))
        return wire_damaged(err, "a run of pages is outside of the machine's memory");
    if (kind > WIRE_RUN_DELTA || load_le32(at + 20) != 0)
        return wire_damaged(err, "a run of pages is of a kind that nobody knows");
    bool fits = kind == WIRE_RUN_DELTA ? bytes == MEM_PAGE_SIZE
                                       : follow == (kind == WIRE_RUN_BYTES ? bytes : 0);
    if (!fits || follow > left - WIRE_RUN_HEADER)
        return wire_damaged(err, "a run of pages has another size");
    if (intake->demand != NULL &&
        (kind == WIRE_RUN_DELTA || !demand_claim(intake->demand, ram, gpa - ram->gpa, bytes)))
        return wire_damaged(err, "there is a page that was not to come");
    if (kind == WIRE_RUN_BYTES)
        memcpy(ram->host + (gpa - ram->gpa), at + WIRE_RUN_HEADER, follow);
    else if (kind == WIRE_RUN_ZERO)
        clear(intake, ram, gpa, bytes);
    else if (!delta_apply(ram->host + (gpa - ram->gpa), at + WIRE_RUN_HEADER, follow))
        return wire_damaged(err, "what has changed in a page cannot be");
    if (intake->demand != NULL)
        demand_arrived(intake->demand, ram, gpa - ram->gpa, bytes);
    *size = WIRE_RUN_HEADER + follow;
    return true;
}

/* The runs, unpacked. */
static const uint8_t *unpack(struct intake *intake, const struct wire_frame *frame, size_t *size,
                             struct error **err)
{
    if (frame->size < WIRE_MEMORY_HEADER) {
        wire_damaged(err, "a frame of memory is cut off");
        return NULL;
    }
    const uint8_t *from = frame->body + WIRE_MEMORY_HEADER;
    size_t packed = frame->size - WIRE_MEMORY_HEADER;
    uint32_t encoding = load_le32(frame->body);
    *size = load_le32(frame->body + 4);
    if (encoding == WIRE_PLAIN && *size == packed)
        return from;
    if (encoding == WIRE_PACKED && *size <= WIRE_BODY_MAX) {
        if (intake->unpacked == NULL)
            intake->unpacked = alloc_zeroed(1, WIRE_BODY_MAX);
        if (ZSTD_decompress(intake->unpacked, *size, from, packed) == *size)
            return intake->unpacked;
    }
    wire_damaged(err, "a frame of memory cannot be unpacked");
    return NULL;
}

bool intake_take(struct intake *intake, const struct wire_frame *frame, struct error **err)
{
    size_t left, size = 0;
    const uint8_t *at = unpack(intake, frame, &left, err);
    if (at == NULL)
        return false;
    for (; left > 0; at += size, left -= size)
        if (!take_run(intake, at, left, &size, err))
            return false;
    return true;
}

void intake_clear(struct intake *intake)
{
    free(intake->unpacked);
    intake->unpacked = NULL;
}
