/* SPDX-License-Identifier: MIT
 *
 * See migrate.h: stage 2, pre-copy. Rounds are sent while the machine runs, until what is left
 * would be sent within the downtime, and a guest that writes faster than that is slowed down.
 */
#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "mem/mem.h"
#include "migrate/disk_sender.h"
#include "migrate/rounds.h"
#include "migrate/source_internal.h"
#include "vm/vm.h"

enum {
    RATE_BYTES = 1 << 20,    /* a round of less says nothing about the link */
    THROTTLE_STEP = 10,      /* percent */
    DISK_RATE_MIN = 64 << 10 /* bytes per second */
};
/* What the machine stands still for beside what is sent: the pause, its state; and the way of the
 * last round, of "loaded" and of "go". */
#define FIXED_NS  UINT64_C(1000000)
#define TRIPS(ns) ((ns) + (ns) / 2)

/* ---- rounds ---- */

static void set_sending(struct migrate_source *source, unsigned round, bool sending)
{
    pthread_mutex_lock(&source->lock);
    source->progress.round = round;
    source->sending = sending;
    pthread_mutex_unlock(&source->lock);
}

bool source_await_round(struct migrate_source *source, unsigned round, struct error **err)
{
    struct wire_frame frame;
    if (!source_expect(source, WIRE_ROUND_DONE, &frame, err))
        return false;
    return (frame.size == 4 && load_le32(frame.body) == round) ||
           wire_damaged(err, "the target is in another round");
}

bool source_send_round(struct migrate_source *source, unsigned round, enum wire_last last,
                       struct error **err)
{
    const struct round_options options = {.number = round,
                                          .last = last,
                                          .fresh = round == 1,
                                          .bandwidth =
                                              last != WIRE_NOT_LAST ? 0 : source->options.bandwidth,
                                          .patience_ns = source_patience(source)};
    set_sending(source, round, true);
    bool good = rounds_send(source->rounds, &options, err) &&
                (last != WIRE_NOT_LAST || source_await_round(source, round, err));
    set_sending(source, round, false);
    return good;
}

/* How long the link takes for the least there is. */
static bool measure_link(struct migrate_source *source, struct error **err)
{
    struct wire_frame frame;
    int64_t begun_ns = wire_now();
    if (!wire_put(&source->wires[0], WIRE_ALIVE, NULL, 0, source_patience(source), err) ||
        !source_expect(source, WIRE_ALIVE, &frame, err))
        return false;
    uint64_t trip_ns = (uint64_t)(wire_now() - begun_ns);
    if (source->trip_ns == 0 || trip_ns < source->trip_ns)
        source->trip_ns = trip_ns;
    return true;
}

static uint64_t fixed_ns(const struct migrate_source *source)
{
    return FIXED_NS + TRIPS(source->trip_ns) + source->record_ns;
}

/* A round: first of the disks, then of memory. */
struct round {
    int64_t begun_ns, memory_ns, ended_ns; /* wire_now() */
    uint64_t disk_sent;                    /* bytes, before it */
};

static double seconds_since(int64_t then_ns)
{
    int64_t took_ns = wire_now() - then_ns;
    return (double)(took_ns > 0 ? took_ns : 1) / 1e9;
}

/* Without the wait for the answer, which says nothing of how fast the link is. */
static double sending_time(const struct migrate_source *source, const struct round *round)
{
    int64_t took_ns = round->ended_ns - round->begun_ns, trip_ns = (int64_t)source->trip_ns;
    return (double)(took_ns > 2 * trip_ns ? took_ns - trip_ns : took_ns / 2 + 1) / 1e9;
}

/* What it tells about link and guest. */
static void measure(struct migrate_source *source, const struct round *round)
{
    uint64_t copied = rounds_copied(source->rounds), left = rounds_dirty(source->rounds);
    uint64_t disk_sent = disk_sender_sent(source->disks) - round->disk_sent, disk_total, disk_left;
    disk_sender_progress(source->disks, &disk_total, &disk_left);
    double whole = seconds_since(round->begun_ns), memory = seconds_since(round->memory_ns);
    pthread_mutex_lock(&source->lock);
    struct migrate_progress *progress = &source->progress;
    if (copied + disk_sent >= RATE_BYTES || progress->rate == 0)
        progress->rate = (uint64_t)((double)(copied + disk_sent) / sending_time(source, round)) + 1;
    source->left = left + disk_left;
    source->writes_disks = disk_sent + disk_left > (copied + left) / 3;
    progress->dirty_rate = (uint64_t)((double)left / memory + (double)disk_left / whole);
    progress->left = left;
    progress->estimate_ns =
        fixed_ns(source) + (uint64_t)((double)source->left / (double)progress->rate * 1e9);
    pthread_mutex_unlock(&source->lock);
}

/* No round helps against what is always needed: however long that is, half of the limit is for what
 * is to be sent. */
static uint64_t limit_ns(const struct migrate_source *source)
{
    uint64_t limit = source->options.downtime_ns, least = fixed_ns(source) + limit / 2;
    return limit > least ? limit : least;
}

/* After a round; `before` is what was left after the one before it. Rounds that at least halve what
 * is left are worth their while even if it would fit already: the machine stands still for less. */
static enum source_next decide(struct migrate_source *source, uint64_t before)
{
    const struct migrate_progress *progress = &source->progress;
    const struct migrate_source_options *options = &source->options;
    bool fits = progress->estimate_ns <= limit_ns(source);
    bool pays = source->left < before / 2 && source->left > RATE_BYTES;
    if (fits && !pays)
        return STOP_NOW;
    pthread_mutex_lock(&source->lock);
    bool asked = source->postcopy;
    pthread_mutex_unlock(&source->lock);
    /* The first round says nothing of the guest: it is of all memory. */
    bool converges = progress->round == 1 || source->left < before / 2;
    if (asked || (options->postcopy && (!converges || progress->round >= options->rounds)))
        return fits ? STOP_NOW : SWITCH_NOW;
    if (progress->round < options->rounds || options->last_resort == MIGRATE_KEEP_TRYING)
        return ANOTHER_ROUND;
    return fits || options->last_resort == MIGRATE_STOP_ANYWAY ? STOP_NOW : GIVE_UP;
}

/* ---- a guest that writes faster than its memory can be sent ---- */

/* The loop's thread. */
void source_throttle(void *opaque)
{
    struct migrate_source *source = opaque;
    pthread_mutex_lock(&source->lock);
    unsigned percent = source->progress.throttle;
    uint64_t disk_rate = source->disk_rate;
    pthread_mutex_unlock(&source->lock);
    if (source->held || source->cancelled)
        return;
    vm_throttle(source->vm, percent);
    vm_throttle_disks(source->vm, disk_rate);
}

void source_throttle_no_more(struct migrate_source *source)
{
    vm_throttle(source->vm, 0);
    vm_throttle_disks(source->vm, 0);
}

/* A vCPU that hardly runs can still keep disks busy, so these get a third of what can be sent, then
 * half of that, and so on. Reads are slowed down with writes. */
static uint64_t slower_disks(const struct migrate_source *source)
{
    uint64_t rate = source->disk_rate;
    if (!source->writes_disks)
        return rate;
    rate = rate == 0 ? source->progress.rate / 3 : rate / 2;
    return rate > DISK_RATE_MIN ? rate : DISK_RATE_MIN;
}

/* It is to run for so small a part of the time that it writes a third of what can be sent
 * meanwhile, as far as the last round tells; what it writes to again and again makes it look slower
 * than it is. */
static void slow_down(struct migrate_source *source, uint64_t before)
{
    struct migrate_progress *progress = &source->progress;
    if (!source->options.converge || progress->round < 2 || source->left < before / 2)
        return;
    double runs = 100.0 - progress->throttle;
    double enough = runs * (double)progress->rate / 3 / (double)(progress->dirty_rate + 1);
    unsigned percent = progress->throttle + THROTTLE_STEP;
    if (enough < 100.0 - percent)
        percent = 100 - (unsigned)enough;
    pthread_mutex_lock(&source->lock);
    progress->throttle = percent < VM_THROTTLE_MAX ? percent : VM_THROTTLE_MAX;
    source->disk_rate = slower_disks(source);
    pthread_mutex_unlock(&source->lock);
    loop_post(vm_loop(source->vm), source_throttle, source);
}

/* Before memory, which would only grow old meanwhile. */
static bool copy_disks(struct migrate_source *source, struct error **err)
{
    bool more = true;
    while (more) {
        if (!disk_sender_go_on(source->disks, &more, err))
            return false;
        source_report(source, false);
    }
    return true;
}

bool source_precopy(struct migrate_source *source, enum source_next *then, struct error **err)
{
    struct migrate_progress *progress = &source->progress;
    enum source_next next = ANOTHER_ROUND;
    source_enter(source, MIGRATE_PRECOPY);
    if (!copy_disks(source, err))
        return false;
    rounds_mark_all(source->rounds);
    source->left = progress->left;
    for (unsigned round = 1; next == ANOTHER_ROUND; round++) {
        uint64_t before = source->left;
        struct round now = {.begun_ns = wire_now(), .disk_sent = disk_sender_sent(source->disks)};
        if (!disk_sender_round(source->disks, err))
            return false;
        now.memory_ns = wire_now();
        if (round > 1)
            rounds_mark_dirty(source->rounds);
        if (!source_send_round(source, round, WIRE_NOT_LAST, err))
            return false;
        now.ended_ns = wire_now();
        if (!measure_link(source, err))
            return false;
        measure(source, &now);
        source_report(source, false);
        next = decide(source, before);
        if (next == ANOTHER_ROUND)
            slow_down(source, before);
    }
    *then = next;
    return next != GIVE_UP ||
           error_set(
               err, ERROR_HOST,
               "after %u rounds the guest still writes to its memory faster than it can be sent",
               progress->round);
}
