/* SPDX-License-Identifier: MIT
 *
 * Where device data comes from and goes to: characters, entropy, the power button. Disks are
 * block/block.h.
 * Backends belong to the machine and outlive its devices.
 */
#ifndef TRAPEZE_BUS_BACKEND_H
#define TRAPEZE_BUS_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A character stream with one device at one end. */
struct char_backend {
    /* Device → outside; any thread; never blocks the guest for long: what cannot be taken
     * now is buffered by the backend, up to its own limit, then dropped and counted. */
    void (*write)(struct char_backend *backend, const uint8_t *data, size_t size);
    /* Device has room again after it took less than offered; any thread. May be NULL. */
    void (*resume_input)(struct char_backend *backend);

    /* Outside → device; set by the device when it is realized. Called on the event-loop
     * thread. Returns how many bytes it took; the rest is offered again after
     * resume_input(). */
    size_t (*on_input)(void *device, const uint8_t *data, size_t size);
    /* Terminal size changed (columns, rows); may be NULL. */
    void (*on_resize)(void *device, uint16_t columns, uint16_t rows);
    void *device;
};

/* A source of random bytes: the host's, or seeded in deterministic mode. Any thread. */
struct entropy {
    void (*fill)(struct entropy *entropy, void *data, size_t size);
};

/* What a flash memory holds while the machine is not there; NULL members: nothing does. Called before
 * the machine runs, and on any thread with the device's lock held. */
struct flash_store {
    uint64_t size; /* of the flash, bytes */
    void (*format)(uint8_t *to, uint64_t size); /* what an erased flash is to hold at first */
    /* False: it holds nothing for a flash of that size, and `to` is as it was. */
    bool (*load)(void *opaque, uint8_t *to, uint64_t size);
    void (*save)(void *opaque, uint64_t offset, const uint8_t *from, uint64_t length);
    void *opaque;
};

/* The machine's power button, which some device makes heard in the guest. */
struct power_button {
    /* Outside → device; set by the device when it is realized. Event-loop thread, no vCPU
     * running. False: nothing in the guest listens. */
    bool (*press)(void *device);
    void *device;
};

/* A keyboard that knows Ctrl-Alt-Del; set by the device when it is realized. */
struct keyboard {
    /* Any thread. False: it has been told to be silent, or nobody hears it. */
    bool (*press)(void *device);
    void *device;
};

/* The machine's generation (dev/vmgenid.c); set by the device when it is realized. */
struct generation {
    void (*renew)(void *device); /* it is another machine from now on. Any thread */
    void *device;
};

/* Tags of a guest's memory statistics (virtio 1.2, 5.5.6.3; those behind the counts of huge pages: Linux'
 * uapi/linux/virtio_balloon.h, from 6.12 on). Bytes, but for counts. */
enum balloon_stat {
    BALLOON_STAT_SWAP_IN,
    BALLOON_STAT_SWAP_OUT,
    BALLOON_STAT_MAJOR_FAULTS, /* a count, as the next */
    BALLOON_STAT_MINOR_FAULTS,
    BALLOON_STAT_FREE,
    BALLOON_STAT_TOTAL,
    BALLOON_STAT_AVAILABLE,
    BALLOON_STAT_CACHES,
    BALLOON_STAT_HUGE_PAGES, /* allocations: counts, as what follows */
    BALLOON_STAT_HUGE_PAGE_FAILURES,
    BALLOON_STAT_OOM_KILLS,
    BALLOON_STAT_ALLOCATION_STALLS,
    BALLOON_STAT_ASYNC_SCANS, /* of pages */
    BALLOON_STAT_DIRECT_SCANS,
    BALLOON_STAT_ASYNC_RECLAIMS,
    BALLOON_STAT_DIRECT_RECLAIMS,
    BALLOON_STAT_COUNT
};

struct balloon_status {
    bool driven;             /* a driver in the guest listens */
    uint64_t wanted, actual; /* bytes that the guest is to give up, and has given up */
    uint64_t stats[BALLOON_STAT_COUNT]; /* UINT64_MAX: not told; as of the question before */
};

/* Memory that a guest lends back to the host. */
struct balloon {
    bool keeps; /* set before the device is realized: a guest that runs out of memory takes none back
                   by itself */
    /* Outside → device; set by the device when it is realized. Event-loop thread. */
    void (*set)(void *device, uint64_t bytes); /* to give up */
    void (*get)(void *device, struct balloon_status *status);
    void *device;
};

#endif
