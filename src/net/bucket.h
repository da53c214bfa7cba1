/* SPDX-License-Identifier: MIT
 *
 * A token bucket: `rate` bytes (or other units) per second, and a burst of what comes in 50 ms,
 * `least` at least: of bytes a large frame. Whoever finds credit may take more than there is, and
 * then waits the longer: frames are not cut.
 *
 * Times are nanoseconds of one clock. Threads: none of its own.
 */
#ifndef TRAPEZE_NET_BUCKET_H
#define TRAPEZE_NET_BUCKET_H

#include <stdint.h>

struct net_bucket {
    uint64_t rate; /* per second; 0: no limit */
    int64_t credit, least, last_ns;
};

enum { NET_BUCKET_BURST_MIN = 65536 };

static inline void net_bucket_set_of(struct net_bucket *bucket, uint64_t rate, int64_t least,
                                     int64_t now_ns)
{
    *bucket = (struct net_bucket){.rate = rate, .credit = least, .least = least, .last_ns = now_ns};
}

/* Of bytes. */
static inline void net_bucket_set(struct net_bucket *bucket, uint64_t rate, int64_t now_ns)
{
    net_bucket_set_of(bucket, rate, NET_BUCKET_BURST_MIN, now_ns);
}

/* 0: there is credit; else nanoseconds until there is. */
static inline int64_t net_bucket_wait(struct net_bucket *bucket, int64_t now_ns)
{
    if (bucket->rate == 0)
        return 0;
    const double rate = (double)bucket->rate / 1e9;
    int64_t burst = (int64_t)(bucket->rate / 20);
    if (burst < bucket->least)
        burst = bucket->least;
    double earned = (double)(now_ns - bucket->last_ns) * rate;
    double credit = (double)bucket->credit + earned;
    if (credit >= (double)burst) {
        bucket->credit = burst;
        bucket->last_ns = now_ns;
    } else if (earned >= 1) { /* whole ones, and their time: asking often does not lose any */
        int64_t whole = (int64_t)earned;
        bucket->credit += whole;
        bucket->last_ns += (int64_t)((double)whole / rate);
    }
    if (bucket->credit > 0)
        return 0;
    int64_t left = (int64_t)((double)(1 - bucket->credit) / rate) - (now_ns - bucket->last_ns);
    return left > 0 ? left + 1 : 1;
}

static inline void net_bucket_take(struct net_bucket *bucket, uint64_t count)
{
    if (bucket->rate != 0)
        bucket->credit -= (int64_t)count;
}

#endif
