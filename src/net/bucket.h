/* SPDX-License-Identifier: MIT
 *
 * A token bucket: `rate` bytes per second, and a burst of what comes in 50 ms (a large frame at
 * least). Whoever finds credit may take more than there is, and then waits the longer: frames are
 * not cut.
 *
 * Times are nanoseconds of one clock. Threads: none of its own.
 */
#ifndef TRAPEZE_NET_BUCKET_H
#define TRAPEZE_NET_BUCKET_H

#include <stdint.h>

struct net_bucket {
    uint64_t rate; /* bytes per second; 0: no limit */
    int64_t credit, last_ns;
};

enum { NET_BUCKET_BURST_MIN = 65536 };

static inline void net_bucket_set(struct net_bucket *bucket, uint64_t rate, int64_t now_ns)
{
    *bucket = (struct net_bucket){.rate = rate, .credit = NET_BUCKET_BURST_MIN, .last_ns = now_ns};
}

/* 0: there is credit; else nanoseconds until there is. */
static inline int64_t net_bucket_wait(struct net_bucket *bucket, int64_t now_ns)
{
    if (bucket->rate == 0)
        return 0;
    const double rate = (double)bucket->rate / 1e9;
    int64_t burst = (int64_t)(bucket->rate / 20);
    if (burst < NET_BUCKET_BURST_MIN)
        burst = NET_BUCKET_BURST_MIN;
    double earned = (double)(now_ns - bucket->last_ns) * rate;
    /* Whole bytes only, so that asking often does not lose any. */
    if (earned >= 1) {
        bucket->last_ns = now_ns;
        double credit = (double)bucket->credit + earned;
        bucket->credit = credit > (double)burst ? burst : (int64_t)credit;
    }
    return bucket->credit > 0 ? 0 : (int64_t)((double)(1 - bucket->credit) / rate) + 1;
}

static inline void net_bucket_take(struct net_bucket *bucket, uint64_t bytes)
{
    if (bucket->rate != 0)
        bucket->credit -= (int64_t)bytes;
}

#endif
