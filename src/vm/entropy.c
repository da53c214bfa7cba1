/* SPDX-License-Identifier: MIT
 *
 * Random bytes for the guest: the host's, or in deterministic mode a generator's
 * (xoshiro256**, seeded by splitmix64), the same in every run.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "vm/machine.h"

struct source {
    struct entropy entropy; /* first */
    pthread_mutex_t lock;
    uint64_t state[ENTROPY_STATE_WORDS];
};

static void fill_host(struct entropy *entropy, void *data, size_t size)
{
    (void)entropy;
    for (size_t done = 0; done < size;) {
        ssize_t count = getrandom((char *)data + done, size - done, 0);
        if (count > 0)
            done += (size_t)count;
    }
}

static uint64_t rotate(uint64_t value, unsigned by)
{
    return value << by | value >> (64 - by);
}

static uint64_t next(uint64_t state[4])
{
    uint64_t result = rotate(state[1] * 5, 7) * 9, shifted = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = rotate(state[3], 45);
    return result;
}

static void fill_seeded(struct entropy *entropy, void *data, size_t size)
{
    struct source *source = (struct source *)entropy;
    pthread_mutex_lock(&source->lock);
    for (size_t done = 0; done < size;) {
        uint64_t value = next(source->state);
        size_t count = size - done < sizeof(value) ? size - done : sizeof(value);
        memcpy((char *)data + done, &value, count);
        done += count;
    }
    pthread_mutex_unlock(&source->lock);
}

void entropy_save(struct entropy *entropy, uint64_t state[ENTROPY_STATE_WORDS])
{
    struct source *source = (struct source *)entropy;
    pthread_mutex_lock(&source->lock);
    memcpy(state, source->state, sizeof(source->state));
    pthread_mutex_unlock(&source->lock);
}

void entropy_restore(struct entropy *entropy, const uint64_t state[ENTROPY_STATE_WORDS])
{
    struct source *source = (struct source *)entropy;
    pthread_mutex_lock(&source->lock);
    memcpy(source->state, state, sizeof(source->state));
    pthread_mutex_unlock(&source->lock);
}

struct entropy *entropy_new(bool deterministic, uint64_t seed)
{
    struct source *source = alloc_zeroed(1, sizeof(*source));
    source->entropy.fill = deterministic ? fill_seeded : fill_host;
    pthread_mutex_init(&source->lock, NULL);
    for (size_t i = 0; i < 4; i++) {
        uint64_t mixed = (seed += UINT64_C(0x9e3779b97f4a7c15));
        mixed = (mixed ^ mixed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
        source->state[i] = mixed ^ mixed >> 31;
    }
    return &source->entropy;
}

void entropy_free(struct entropy *entropy)
{
    struct source *source = (struct source *)entropy;
    if (source == NULL)
        return;
    pthread_mutex_destroy(&source->lock);
    free(source);
}
