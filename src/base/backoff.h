/* SPDX-License-Identifier: MIT
 *
 * Waiting for another thread that will be done in microseconds, unless the host has taken it off
 * its core; then spinning only keeps it off.
 */
#ifndef TRAPEZE_BASE_BACKOFF_H
#define TRAPEZE_BASE_BACKOFF_H

#include <sched.h>
#include <stdatomic.h>
#include <time.h>

/* Waits a little, longer in later rounds; `round` counts from 0. */
static inline void backoff(unsigned round)
{
    const struct timespec nap = {.tv_sec = 0, .tv_nsec = 50000};
    if (round < 64)
        atomic_thread_fence(memory_order_seq_cst); /* some tens of cycles, on any host */
    else if (round < 256)
        sched_yield();
    else
        nanosleep(&nap, NULL);
}

#endif
