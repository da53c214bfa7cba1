/* SPDX-License-Identifier: MIT
 *
 * An engine's part of doorbells (mem/mem.h) without an engine, which does as KVM does: what is rung
 * goes to an eventfd, anything else is a vCPU's access.
 *
 *     doorbells_listen(&bells, space, 64);    // before devices are made
 *     if (!doorbells_ring(&bells, gpa, value, size))
 *         mem_io_write(space, gpa, size, value);
 */
#ifndef TRAPEZE_TESTS_DOORBELLS_H
#define TRAPEZE_TESTS_DOORBELLS_H

#include <assert.h>
#include <string.h>
#include <sys/eventfd.h>

#include "mem/mem.h"

#define DOORBELLS_MAX 64

struct doorbell_place {
    uint64_t gpa, value;
    unsigned size;
    int fd;
};

struct doorbells {
    struct mem_listener listener;
    struct doorbell_place places[DOORBELLS_MAX];
    unsigned count, limit; /* so many are taken */
};

/* None is put anywhere twice. */
static inline void doorbells_set(void *opaque, uint64_t gpa, const struct mem_doorbell *doorbell,
                                 bool on)
{
    struct doorbells *bells = opaque;
    const struct doorbell_place place = {gpa + doorbell->offset, doorbell->value, doorbell->size,
                                         doorbell->fd};
    for (unsigned i = 0; i < bells->count; i++)
        if (memcmp(&bells->places[i], &place, sizeof(place)) == 0) {
            assert(!on);
            bells->places[i] = bells->places[--bells->count];
            return;
        }
    if (on && bells->count < bells->limit)
        bells->places[bells->count++] = place;
}

static inline void doorbells_listen(struct doorbells *bells, struct mem_space *space,
                                    unsigned limit)
{
    assert(limit <= DOORBELLS_MAX);
    *bells = (struct doorbells){.listener = {.doorbell = doorbells_set, .opaque = bells},
                                .limit = limit};
    mem_listen(space, &bells->listener);
}

static inline bool doorbells_ring(struct doorbells *bells, uint64_t gpa, uint64_t value,
                                  unsigned size)
{
    for (unsigned i = 0; i < bells->count; i++) {
        const struct doorbell_place *place = &bells->places[i];
        if (place->gpa == gpa &&
            (place->size == 0 || (place->size == size && place->value == value))) {
            int result = eventfd_write(place->fd, 1);
            assert(result == 0);
            (void)result;
            return true;
        }
    }
    return false;
}

#endif
