/* SPDX-License-Identifier: MIT
 *
 * See input_gate.h.
 */
#include "vm/input_gate.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"

#define GATE_SIZE 4096

struct input_gate {
    struct char_backend inside;
    struct char_backend *outside;
    void (*wake)(void *opaque);
    void *opaque;

    pthread_mutex_t lock; /* what follows */
    uint8_t waiting[GATE_SIZE];
    size_t size;
    bool refused; /* the outside offered more than there was room for */
    bool resized;
    uint16_t columns, rows;
};

static size_t on_input(void *device, const uint8_t *data, size_t size)
{
    struct input_gate *gate = device;
    pthread_mutex_lock(&gate->lock);
    size_t taken = GATE_SIZE - gate->size;
    if (taken > size)
        taken = size;
    memcpy(gate->waiting + gate->size, data, taken);
    gate->size += taken;
    gate->refused = gate->refused || taken < size;
    pthread_mutex_unlock(&gate->lock);
    gate->wake(gate->opaque);
    return taken;
}

static void on_resize(void *device, uint16_t columns, uint16_t rows)
{
    struct input_gate *gate = device;
    pthread_mutex_lock(&gate->lock);
    gate->resized = true;
    gate->columns = columns;
    gate->rows = rows;
    pthread_mutex_unlock(&gate->lock);
    gate->wake(gate->opaque);
}

static void write_through(struct char_backend *backend, const uint8_t *data, size_t size)
{
    struct input_gate *gate = CONTAINER_OF(backend, struct input_gate, inside);
    gate->outside->write(gate->outside, data, size);
}

static bool deliver_size(struct input_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    bool resized = gate->resized;
    uint16_t columns = gate->columns, rows = gate->rows;
    gate->resized = false;
    pthread_mutex_unlock(&gate->lock);
    if (!resized || gate->inside.on_resize == NULL)
        return false;
    gate->inside.on_resize(gate->inside.device, columns, rows);
    return true;
}

/* Only this thread takes bytes away, so the first ones stay where they are while the device
 * looks at a copy of them without the lock. */
static bool deliver_bytes(struct input_gate *gate)
{
    uint8_t bytes[256];
    pthread_mutex_lock(&gate->lock);
    size_t size = gate->size < sizeof(bytes) ? gate->size : sizeof(bytes);
    memcpy(bytes, gate->waiting, size);
    pthread_mutex_unlock(&gate->lock);
    if (size == 0 || gate->inside.on_input == NULL)
        return false;
    size_t taken = gate->inside.on_input(gate->inside.device, bytes, size);
    pthread_mutex_lock(&gate->lock);
    gate->size -= taken;
    memmove(gate->waiting, gate->waiting + taken, gate->size);
    bool resume = gate->refused && taken > 0;
    if (resume)
        gate->refused = false;
    pthread_mutex_unlock(&gate->lock);
    if (resume && gate->outside->resume_input != NULL)
        gate->outside->resume_input(gate->outside);
    return taken > 0;
}

bool input_gate_deliver(struct input_gate *gate)
{
    if (gate == NULL)
        return false;
    bool resized = deliver_size(gate);
    return deliver_bytes(gate) || resized;
}

struct char_backend *input_gate_inside(struct input_gate *gate)
{
    return &gate->inside;
}

struct input_gate *input_gate_new(struct char_backend *outside, void (*wake)(void *opaque),
                                  void *opaque)
{
    struct input_gate *gate = alloc_zeroed(1, sizeof(*gate));
    gate->inside.write = write_through;
    gate->outside = outside;
    gate->wake = wake;
    gate->opaque = opaque;
    pthread_mutex_init(&gate->lock, NULL);
    outside->on_input = on_input;
    outside->on_resize = on_resize;
    outside->device = gate;
    return gate;
}

void input_gate_free(struct input_gate *gate)
{
    if (gate == NULL)
        return;
    gate->outside->on_input = NULL;
    gate->outside->on_resize = NULL;
    gate->outside->device = NULL;
    pthread_mutex_destroy(&gate->lock);
    free(gate);
}
