/* SPDX-License-Identifier: MIT
 *
 * virtio memory balloon (virtio 1.2, 5.5): the guest gives pages up until it has the memory it
 * is meant to have, and tells which pages it does not need at the moment (free page reporting);
 * either way their host memory goes back to the host, and comes again, zeroed, when touched.
 *
 * Statistics: a driver keeps one buffer of them in a queue and fills it again each time it gets
 * it back. Whoever asks is told what is known and has new figures fetched: the buffer is
 * returned, what comes next is read. So nothing is held between two notifications.
 *
 * The queue of free page hints is not there: its one user is the migration of other VMMs.
 *
 * params: balloon, pci_slot.
 */
#include <assert.h>
#include <string.h>

#include "base/bits.h"
#include "base/state.h"
#include "bus/backend.h"
#include "bus/virtio_transport.h"
#include "mem/mem.h"

#define QUEUE_SIZE        128u
#define TURNS_MAX         16u /* requests of one notification, then others have theirs */
#define INFLATE_BYTES_MAX (UINT64_C(256) * 1024)
#define STATS_BYTES_MAX   UINT64_C(4096)
#define BATCH             256u /* page numbers looked at together */

#define FEATURE_STATS          (UINT64_C(1) << 1)
#define FEATURE_DEFLATE_ON_OOM (UINT64_C(1) << 2)
#define FEATURE_REPORTING      (UINT64_C(1) << 5)

enum { QUEUE_INFLATE, QUEUE_DEFLATE, QUEUE_STATS, QUEUE_REPORTING, QUEUE_COUNT };

/* Configuration space (5.5.4): pages of 4 KiB wanted in the balloon, and in it. */
enum { CONFIG_WANTED = 0, CONFIG_ACTUAL = 4, CONFIG_BYTES = 8 };

/* A statistic (5.5.6.3): tag and value. */
enum { STAT_BYTES = 10 };

/* STATS_ASKED: what comes next is fresh. */
enum { STATS_IDLE, STATS_ASKED };

struct virtio_balloon {
    struct virtio_transport transport; /* first */
    struct balloon *balloon;
    uint32_t wanted, actual; /* pages */
    uint8_t stats_state;
    uint64_t stats[BALLOON_STAT_COUNT]; /* UINT64_MAX: not told */
    struct virtq_chain chain;           /* the request being handled */
};

static struct virtio_balloon *balloon_of(struct virtio *virtio)
{
    return CONTAINER_OF(virtio, struct virtio_balloon, transport.virtio);
}

static void fill_config(struct virtio_balloon *balloon)
{
    store_le32(balloon->transport.virtio.config + CONFIG_WANTED, balloon->wanted);
    store_le32(balloon->transport.virtio.config + CONFIG_ACTUAL, balloon->actual);
}

static void balloon_config_write(struct virtio *virtio, unsigned offset, uint8_t value)
{
    struct virtio_balloon *balloon = balloon_of(virtio);
    if (offset < CONFIG_ACTUAL)
        return;
    virtio->config[offset] = value;
    balloon->actual = load_le32(virtio->config + CONFIG_ACTUAL);
}

/* --- pages that come --- */

/* Neighbours go together: one call of the host for a run of pages, whichever way it runs. */
static void inflate(struct virtio_balloon *balloon)
{
    struct mem_space *mem = balloon->transport.device.env->mem;
    const struct virtq_chain *chain = &balloon->chain;
    uint8_t numbers[4 * BATCH];
    for (uint64_t at = 0; at < chain->out_size; at += sizeof(numbers)) {
        size_t count = virtq_read(chain, at, numbers, sizeof(numbers)) / 4;
        for (size_t i = 0; i < count;) {
            uint64_t first = load_le32(numbers + 4 * i), last = first;
            for (i++; i < count; i++) {
                uint64_t page = load_le32(numbers + 4 * i);
                if (page == last + 1)
                    last++;
                else if (page + 1 == first)
                    first--;
                else
                    break;
            }
            /* Pages outside of memory: the driver's mistake costs nobody anything. */
            (void)mem_discard(mem, first << MEM_PAGE_SHIFT, (last - first + 1) << MEM_PAGE_SHIFT);
        }
    }
}

/* Free pages are described by the buffers themselves; whole pages of them go. */
static void report(struct virtio_balloon *balloon)
{
    struct mem_space *mem = balloon->transport.device.env->mem;
    struct virtq_chain *chain = &balloon->chain;
    for (unsigned i = chain->out_count; i < chain->out_count + chain->in_count; i++) {
        const struct virtq_range *range = &chain->range[i];
        uint64_t first = align_up(range->gpa, MEM_PAGE_SIZE);
        uint64_t end = align_down(range->gpa + range->length, MEM_PAGE_SIZE);
        if (first < end)
            (void)mem_discard(mem, first, end - first);
    }
    chain->touched = 0; /* mem_discard() noted what changed */
}

/* --- statistics --- */

static bool stats_queue_works(const struct virtio *virtio)
{
    const struct virtqueue *queue = &virtio->queues[QUEUE_STATS];
    return virtio->active && virtio->dma && !virtio->quiesced && queue->enabled && !queue->broken &&
           virtio_has(virtio, FEATURE_STATS);
}

static void read_stats(struct virtio_balloon *balloon)
{
    uint8_t stat[STAT_BYTES];
    for (uint64_t at = 0; virtq_read(&balloon->chain, at, stat, STAT_BYTES) == STAT_BYTES;
         at += STAT_BYTES) {
        uint16_t tag = load_le16(stat);
        if (tag < BALLOON_STAT_COUNT)
            balloon->stats[tag] = load_le64(stat + 2);
    }
}

/* Lock held. Returns the buffer to the driver, if it has given us one. */
static void return_stats(struct virtio_balloon *balloon, bool fresh)
{
    struct virtqueue *queue = &balloon->transport.virtio.queues[QUEUE_STATS];
    if (!virtqueue_pop(queue, &balloon->chain, STATS_BYTES_MAX))
        return;
    if (fresh)
        read_stats(balloon);
    balloon->stats_state = fresh ? STATS_IDLE : STATS_ASKED;
    balloon->chain.touched = 0;
    virtqueue_arm(queue); /* before the driver has it back and gives it again */
    virtqueue_push(queue, &balloon->chain, 0);
    virtqueue_signal(queue);
}

/* --- queues --- */

static bool balloon_notify(struct virtio *virtio, struct virtqueue *queue)
{
    struct virtio_balloon *balloon = balloon_of(virtio);
    bool more = true;
    if (queue->index == QUEUE_STATS) {
        if (balloon->stats_state == STATS_ASKED)
            return_stats(balloon, true);
        return false;
    }
    for (unsigned turn = 0; more && turn < TURNS_MAX; turn++) {
        /* A report's buffers are the free memory itself. */
        more = virtqueue_pop(queue, &balloon->chain,
                             queue->index == QUEUE_REPORTING ? UINT64_MAX : INFLATE_BYTES_MAX);
        if (!more)
            break;
        balloon->chain.touched = 0;
        if (queue->index == QUEUE_INFLATE)
            inflate(balloon);
        else if (queue->index == QUEUE_REPORTING)
            report(balloon);
        /* Deflate: pages are there as soon as they are touched. */
        virtqueue_push(queue, &balloon->chain, 0);
    }
    virtqueue_signal(queue);
    return more;
}

static bool balloon_deactivate(struct virtio *virtio)
{
    struct virtio_balloon *balloon = balloon_of(virtio);
    balloon->stats_state = STATS_IDLE;
    return true;
}

/* --- from outside --- */

static void balloon_set(void *opaque, uint64_t bytes)
{
    struct virtio_balloon *balloon = opaque;
    uint64_t pages = bytes >> MEM_PAGE_SHIFT;
    pthread_mutex_lock(&balloon->transport.device.lock);
    balloon->wanted = pages < UINT32_MAX ? (uint32_t)pages : UINT32_MAX;
    fill_config(balloon);
    virtio_config_changed(&balloon->transport.virtio);
    pthread_mutex_unlock(&balloon->transport.device.lock);
}

static void balloon_get(void *opaque, struct balloon_status *status)
{
    struct virtio_balloon *balloon = opaque;
    const struct virtio *virtio = &balloon->transport.virtio;
    pthread_mutex_lock(&balloon->transport.device.lock);
    *status = (struct balloon_status){.driven = virtio->active,
                                      .wanted = (uint64_t)balloon->wanted << MEM_PAGE_SHIFT,
                                      .actual = (uint64_t)balloon->actual << MEM_PAGE_SHIFT};
    memcpy(status->stats, balloon->stats, sizeof(status->stats));
    if (stats_queue_works(virtio) && balloon->stats_state == STATS_IDLE)
        return_stats(balloon, false);
    pthread_mutex_unlock(&balloon->transport.device.lock);
}

/* --- life --- */

static const struct virtio_ops balloon_ops = {
    .name = "virtio-balloon",
    .device_id = 5,
    .class_code = 0x00ff00,
    .queue_count = QUEUE_COUNT,
    .queue_size = QUEUE_SIZE,
    .config_size = CONFIG_BYTES,
    .deactivate = balloon_deactivate,
    .notify = balloon_notify,
    .config_write = balloon_config_write,
};

static bool balloon_realize(struct device *device, const struct device_params *params,
                            struct error **err)
{
    struct virtio_balloon *balloon = CONTAINER_OF(device, struct virtio_balloon, transport.device);
    assert(params->balloon != NULL);
    bool keeps = params->balloon->keeps;
    if (!virtio_transport_realize(
            &balloon->transport, &balloon_ops,
            FEATURE_STATS | (keeps ? 0 : FEATURE_DEFLATE_ON_OOM) | FEATURE_REPORTING, params, err))
        return false;
    balloon->balloon = params->balloon;
    *balloon->balloon = (struct balloon){keeps, balloon_set, balloon_get, balloon};
    return true;
}

static void balloon_unrealize(struct device *device)
{
    struct virtio_balloon *balloon = CONTAINER_OF(device, struct virtio_balloon, transport.device);
    *balloon->balloon = (struct balloon){balloon->balloon->keeps, NULL, NULL, NULL};
    virtio_transport_unrealize(device);
}

/* What is wanted outlives a reset: it is the host's wish, not the guest's state. */
static void balloon_reset(struct device *device)
{
    struct virtio_balloon *balloon = CONTAINER_OF(device, struct virtio_balloon, transport.device);
    virtio_transport_reset(device);
    balloon->actual = 0;
    balloon->stats_state = STATS_IDLE;
    memset(balloon->stats, 0xff, sizeof(balloon->stats));
    fill_config(balloon);
}

static bool balloon_post_restore(void *object, struct error **err)
{
    struct virtio_balloon *balloon = object;
    (void)err;
    balloon->stats_state = balloon->stats_state != STATS_IDLE ? STATS_ASKED : STATS_IDLE;
    fill_config(balloon);
    return true;
}

#define SOME_STATS(name, first, end, since)                                                        \
    {                                                                                              \
        name, STATE_KIND_UINT, (uint32_t)offsetof(struct virtio_balloon, stats[first]),            \
            sizeof(uint64_t), (end) - (first), since, NULL                                         \
    }

/* "pci" first: restoring it deactivates what the device was before. */
static const struct state_field balloon_fields[] = {
    STATE_STRUCT(struct virtio_balloon, transport, "pci", &virtio_transport_state),
    STATE_UINT(struct virtio_balloon, wanted, "wanted"),
    STATE_UINT(struct virtio_balloon, actual, "actual"),
    STATE_UINT(struct virtio_balloon, stats_state, "stats-state"),
    SOME_STATS("stats", 0, BALLOON_STAT_HUGE_PAGES, 0),
    SOME_STATS("more-stats", BALLOON_STAT_HUGE_PAGES, BALLOON_STAT_COUNT, 2),
    STATE_END,
};

static const struct state_table balloon_state = {"virtio-balloon", 2, balloon_fields, NULL,
                                                 balloon_post_restore};

const struct device_ops device_virtio_balloon = {
    .name = "virtio-balloon",
    .size = sizeof(struct virtio_balloon),
    .realize = balloon_realize,
    .unrealize = balloon_unrealize,
    .reset = balloon_reset,
    .state = &balloon_state,
    .quiesce = virtio_transport_quiesce,
    .unquiesce = virtio_transport_unquiesce,
};
