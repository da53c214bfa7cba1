/* SPDX-License-Identifier: MIT
 *
 * See batch.h.
 */
#include "migrate/batch.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "mem/mem.h"

enum {
    PAYLOAD = 256 << 10, /* bytes of a frame's runs: fits into a core's cache with its copy */
    LEVEL = 1            /* of zstd: what a link of 1 Gbit/s takes in as fast as it comes */
};

bool batch_init(struct batch *batch, bool pack, struct error **err)
{
    *batch = (struct batch){.frame = alloc_zeroed(1, WIRE_HEADER + WIRE_MEMORY_HEADER + PAYLOAD)};
    if (!pack)
        return true;
    batch->packed = alloc_zeroed(1, WIRE_HEADER + WIRE_MEMORY_HEADER + PAYLOAD);
    batch->zstd = ZSTD_createCCtx();
    return batch->zstd != NULL || error_set(err, ERROR_HOST, "the host is out of memory");
}

void batch_clear(struct batch *batch)
{
    ZSTD_freeCCtx(batch->zstd);
    free(batch->frame);
    free(batch->packed);
    *batch = (struct batch){.frame = NULL};
}

void batch_empty(struct batch *batch)
{
    batch->size = 0;
    batch->run = NULL;
}

bool batch_is_full(const struct batch *batch)
{
    return batch->size + WIRE_RUN_HEADER + MEM_PAGE_SIZE > PAYLOAD;
}

static uint8_t *runs_of(uint8_t *frame)
{
    return frame + WIRE_HEADER + WIRE_MEMORY_HEADER;
}

static bool continues(const struct batch *batch, enum wire_run kind, uint64_t gpa)
{
    return batch->run != NULL && batch->run_end == gpa &&
           load_le32(batch->run + 12) == (uint32_t)kind;
}

uint8_t *batch_room(const struct batch *batch, uint64_t gpa)
{
    size_t gap = continues(batch, WIRE_RUN_BYTES, gpa) ? 0 : WIRE_RUN_HEADER;
    return runs_of(batch->frame) + batch->size + gap;
}

void batch_add(struct batch *batch, enum wire_run kind, uint64_t gpa)
{
    if (!continues(batch, kind, gpa)) {
        batch->run = runs_of(batch->frame) + batch->size;
        batch->size += WIRE_RUN_HEADER;
        store_le64(batch->run, gpa);
        store_le32(batch->run + 8, 0);
        store_le32(batch->run + 12, (uint32_t)kind);
        store_le32(batch->run + 16, 0);
        store_le32(batch->run + 20, 0);
    }
    store_le32(batch->run + 8, load_le32(batch->run + 8) + 1);
    batch->run_end = gpa + MEM_PAGE_SIZE;
    if (kind != WIRE_RUN_BYTES)
        return;
    store_le32(batch->run + 16, load_le32(batch->run + 16) + (uint32_t)MEM_PAGE_SIZE);
    batch->size += MEM_PAGE_SIZE;
}

void batch_add_delta(struct batch *batch, uint64_t gpa, const uint8_t *delta, size_t size)
{
    batch->run = NULL; /* each is a run of its own */
    batch_add(batch, WIRE_RUN_DELTA, gpa);
    store_le32(batch->run + 16, (uint32_t)size);
    memcpy(batch->run + WIRE_RUN_HEADER, delta, size);
    batch->size += size;
    batch->run = NULL;
}

/* The frame that is worth sending, and the size of its runs. */
static uint8_t *pack(struct batch *batch, size_t *size)
{
    *size = batch->size;
    if (batch->zstd == NULL)
        return batch->frame;
    size_t packed = ZSTD_compressCCtx(batch->zstd, runs_of(batch->packed), PAYLOAD,
                                      runs_of(batch->frame), batch->size, LEVEL);
    if (ZSTD_isError(packed) || packed >= batch->size)
        return batch->frame;
    *size = packed;
    return batch->packed;
}

uint8_t *batch_finish(struct batch *batch, size_t *size)
{
    uint8_t *frame = pack(batch, size), *body = frame + WIRE_HEADER;
    store_le32(body, frame == batch->packed ? WIRE_PACKED : WIRE_PLAIN);
    store_le32(body + 4, (uint32_t)batch->size);
    *size += WIRE_MEMORY_HEADER;
    batch_empty(batch);
    return frame;
}

/* What the guest writes meanwhile is marked dirty, so a torn copy is not the last one. */
__attribute__((no_sanitize("thread"))) bool batch_copy(uint8_t *to, const uint8_t *from)
{
    typedef uint64_t word __attribute__((may_alias));
    typedef uint64_t loose __attribute__((may_alias, aligned(1))); /* in a frame, between headers */
    const word *source = (const word *)(const void *)from;
    loose *target = (loose *)(void *)to;
    uint64_t any = 0;
    for (size_t i = 0; i < MEM_PAGE_SIZE / sizeof(word); i++) {
        uint64_t value = source[i];
        target[i] = value;
        any |= value;
    }
    return any == 0;
}
