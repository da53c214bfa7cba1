/* SPDX-License-Identifier: MIT
 *
 * virtio 9P transport (Linux, include/uapi/linux/virtio_9p.h and net/9p/trans_virtio.c): one
 * queue of requests, whose readable part is a message and whose writable part takes the answer.
 * What the messages mean is fs/p9.h's business.
 *
 * A file system may take its time, so a thread of the device serves the queue, one message after
 * the other; it holds the device's lock except while a message is handled, which touches no guest
 * memory. In deterministic mode the caller of notify() serves.
 *
 * Files that the guest holds are saved by their paths and found again where they still are
 * (fs/p9.h); the guest is told of the others when it uses them (ESTALE).
 *
 * params: share, pci_slot.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/state.h"
#include "bus/virtio_transport.h"
#include "fs/p9.h"

#define QUEUE_SIZE 128u /* what the driver expects for messages of 500 KiB */

enum { CONFIG_TAG_LENGTH = 0, CONFIG_TAG = 2 };
#define FEATURE_MOUNT_TAG (UINT64_C(1) << 0)

struct virtio_9p {
    struct virtio_transport transport; /* first */
    struct virtio_ops ops;             /* config_size is the tag's */
    struct p9 *server;
    pthread_t thread;
    bool threaded;
    pthread_cond_t changed; /* of the rest; device lock */
    bool work, busy, quit;
    bool fresh;                /* the server shall forget its files before the next message */
    struct state_buffer files; /* saved ones */
    struct virtq_chain chain;
    uint8_t request[P9_MESSAGE_MAX], reply[P9_MESSAGE_MAX];
};

static struct virtio_9p *share_of(struct virtio *virtio)
{
    return CONTAINER_OF(virtio, struct virtio_9p, transport.virtio);
}

static bool may_serve(const struct virtio_9p *share)
{
    const struct virtio *virtio = &share->transport.virtio;
    return virtio->active && !virtio->quiesced && virtio->dma;
}

/* Lock held, released in between. False: there was nothing. */
static bool serve_one(struct virtio_9p *share)
{
    struct virtqueue *queue = &share->transport.virtio.queues[0];
    pthread_mutex_t *lock = &share->transport.device.lock;
    if (!may_serve(share) || !virtqueue_pop(queue, &share->chain, 2 * (uint64_t)P9_MESSAGE_MAX))
        return false;
    share->chain.touched = 0;
    size_t size = virtq_read(&share->chain, 0, share->request, sizeof(share->request));
    size_t room = share->chain.in_size < P9_MESSAGE_MAX ? (size_t)share->chain.in_size
                                                        : (size_t)P9_MESSAGE_MAX;
    bool fresh = share->fresh;
    share->fresh = false;
    share->busy = true;
    pthread_mutex_unlock(lock);
    if (fresh)
        p9_reset(share->server);
    size_t answer = p9_handle(share->server, share->request, size, share->reply, room);
    pthread_mutex_lock(lock);
    share->busy = false;
    pthread_cond_broadcast(&share->changed);
    if (share->transport.virtio.resetting) {
        virtio_deactivated(&share->transport.virtio);
        return true;
    }
    if (answer == 0) {
        virtio_violation(&share->transport.virtio,
                         "a request is no 9P message, or its answer has no room");
        return true;
    }
    share->chain.touched = virtq_write(&share->chain, 0, share->reply, answer);
    virtqueue_push(queue, &share->chain, (uint32_t)answer);
    virtqueue_signal(queue);
    return true;
}

static void *serve(void *opaque)
{
    struct virtio_9p *share = opaque;
    pthread_setname_np(pthread_self(), "9p");
    pthread_mutex_lock(&share->transport.device.lock);
    while (!share->quit) {
        if (serve_one(share))
            continue;
        share->work = false;
        while (!share->work && !share->quit)
            pthread_cond_wait(&share->changed, &share->transport.device.lock);
    }
    pthread_mutex_unlock(&share->transport.device.lock);
    return NULL;
}

static bool share_notify(struct virtio *virtio, struct virtqueue *queue)
{
    struct virtio_9p *share = share_of(virtio);
    (void)queue;
    if (!share->threaded)
        return serve_one(share);
    share->work = true;
    pthread_cond_broadcast(&share->changed);
    return false;
}

static bool share_deactivate(struct virtio *virtio)
{
    struct virtio_9p *share = share_of(virtio);
    share->fresh = true;
    return !share->busy;
}

/* ---- life ---- */

static const struct virtio_ops share_ops = {
    .name = "virtio-9p",
    .device_id = 9,
    .class_code = 0x018000, /* storage, other */
    .queue_count = 1,
    .queue_size = QUEUE_SIZE,
    .deactivate = share_deactivate,
    .notify = share_notify,
};

static bool start_thread(struct virtio_9p *share, struct error **err)
{
    share->threaded = pthread_create(&share->thread, NULL, serve, share) == 0;
    return share->threaded ||
           error_set(err, ERROR_HOST, "cannot start a thread for a shared folder");
}

static void stop(struct virtio_9p *share)
{
    pthread_mutex_lock(&share->transport.device.lock);
    share->quit = true;
    pthread_cond_broadcast(&share->changed);
    pthread_mutex_unlock(&share->transport.device.lock);
    if (share->threaded)
        pthread_join(share->thread, NULL);
    p9_free(share->server);
    state_buffer_free(&share->files);
    pthread_cond_destroy(&share->changed);
}

static bool share_realize(struct device *device, const struct device_params *params,
                          struct error **err)
{
    struct virtio_9p *share = CONTAINER_OF(device, struct virtio_9p, transport.device);
    const struct device_share *what = params->share;
    size_t length = strlen(what->tag);
    assert(length > 0 && CONFIG_TAG + length <= VIRTIO_CONFIG_MAX);
    share->server = p9_new(what->folder, what->own_fds, what->read_only);
    pthread_cond_init(&share->changed, NULL);
    share->ops = share_ops;
    share->ops.config_size = (unsigned)(CONFIG_TAG + length);
    bool good =
        virtio_transport_realize(&share->transport, &share->ops, FEATURE_MOUNT_TAG, params, err);
    if (good) {
        store_le16(share->transport.virtio.config + CONFIG_TAG_LENGTH, (uint16_t)length);
        memcpy(share->transport.virtio.config + CONFIG_TAG, what->tag, length);
        /* Last: it looks at all of the above. */
        good = device->env->deterministic || start_thread(share, err);
        if (!good)
            virtio_transport_unrealize(device);
    }
    if (!good)
        stop(share);
    return good;
}

static void share_unrealize(struct device *device)
{
    struct virtio_9p *share = CONTAINER_OF(device, struct virtio_9p, transport.device);
    stop(share); /* first: then nothing is busy */
    virtio_transport_unrealize(device);
}

static void wait_until_idle(struct virtio_9p *share)
{
    pthread_mutex_lock(&share->transport.device.lock);
    while (share->busy)
        pthread_cond_wait(&share->changed, &share->transport.device.lock);
    pthread_mutex_unlock(&share->transport.device.lock);
}

static void share_quiesce(struct device *device)
{
    virtio_transport_quiesce(device);
    wait_until_idle(CONTAINER_OF(device, struct virtio_9p, transport.device));
}

/* While the machine is quiesced: nothing is busy. */
static void share_reset(struct device *device)
{
    struct virtio_9p *share = CONTAINER_OF(device, struct virtio_9p, transport.device);
    virtio_transport_reset(device);
    share->fresh = true;
}

static void share_pre_save(void *object)
{
    struct virtio_9p *share = object;
    if (share->fresh)
        p9_reset(share->server);
    share->fresh = false;
    share->files.size = 0;
    p9_save(share->server, &share->files);
}

/* Behind `transport`, whose restoring may deactivate: the server forgets before it is told. */
static bool share_restored(void *object, struct error **err)
{
    struct virtio_9p *share = object;
    unsigned lost;
    share->fresh = false;
    bool good = p9_restore(share->server, share->files.data, share->files.size, &lost, err);
    state_buffer_free(&share->files);
    if (good && lost > 0)
        log_warning(share->transport.device.env->log,
                    "%s: %u files that the guest had open in the shared folder are gone, or others "
                    "by now; it gets 'stale file handle' for them",
                    share->transport.device.id, lost);
    return good;
}

static const struct state_field share_fields[] = {
    STATE_STRUCT(struct virtio_9p, transport, "pci", &virtio_transport_state),
    STATE_BUFFER(struct virtio_9p, files, "files"),
    STATE_END,
};
static const struct state_table share_state = {"virtio-9p", 1, share_fields, share_pre_save,
                                               share_restored};

const struct device_ops device_virtio_9p = {
    .name = "virtio-9p",
    .size = sizeof(struct virtio_9p),
    .realize = share_realize,
    .unrealize = share_unrealize,
    .reset = share_reset,
    .state = &share_state,
    .quiesce = share_quiesce,
    .unquiesce = virtio_transport_unquiesce,
};
