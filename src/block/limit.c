/* SPDX-License-Identifier: MIT
 *
 * Limits on requests and bytes per second, with a burst of a tenth of a second.
 */
#include "block/queue_internal.h"

#include "base/vclock.h"

#define BURST_NS (NS_PER_S / 10)

void limiter_set(struct limiter *limiter, const struct block_limits *limits, int64_t now)
{
    limiter->requests = (struct rate){limits->iops, now};
    limiter->bytes = (struct rate){limits->bytes, now};
}

bool limiter_active(const struct limiter *limiter)
{
    return limiter->requests.per_second != 0 || limiter->bytes.per_second != 0;
}

static int64_t admit(struct rate *rate, uint64_t units, int64_t now)
{
    if (rate->per_second == 0)
        return now;
    int64_t start = rate->due - BURST_NS;
    if (rate->due < now)
        rate->due = now;
    /* Units are at most a request's bytes; the sum of what is queued stays far below 2^63 ns
     * for any rate >= 1: a request of 4 GiB at 1 byte/s takes 2^62. */
    unsigned __int128 cost = (unsigned __int128)units * (uint64_t)NS_PER_S / rate->per_second;
    if (cost > (uint64_t)(VCLOCK_NEVER - 1 - rate->due))
        rate->due = VCLOCK_NEVER - 1;
    else
        rate->due += (int64_t)cost;
    return start;
}

int64_t limiter_admit(struct limiter *limiter, uint64_t bytes, int64_t now)
{
    int64_t start = admit(&limiter->requests, 1, now);
    int64_t other = admit(&limiter->bytes, bytes, now);
    return start > other ? start : other;
}
