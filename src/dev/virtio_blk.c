/* SPDX-License-Identifier: MIT
 *
 * virtio block device (virtio 1.2, 5.2) on a struct block: read, write, flush, discard, write
 * zeroes, identify.
 *
 * Requests are popped on notification, up to as many in flight as the ring has entries, and
 * completed in whatever order the disk finishes them, each in the queue it came from. A reset, of
 * the device or of a queue, while some are in flight is over when the last of them has come home;
 * until then the driver reads a status that is not 0. Nobody waits for that, least of all the
 * event loop: it would wait for as much I/O as a guest likes.
 *
 * A pause waits for what the host is doing. What it is not doing yet, because of a limit or
 * because an error stopped the machine (werror=stop), comes back from the disk and is parked:
 * it goes along when the machine is saved, and starts again from its descriptors, header first,
 * when the machine goes on. The same if the image is replaced by another, of any size, meanwhile.
 *
 * params: disk, serial, queues, pci_slot.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "block/block.h"
#include "bus/virtio_transport.h"
#include "dev/virtio_blk.h"

#define QUEUE_SIZE 256u
/* Of a request's descriptors two hold header and status. */
#define SEGMENT_MAX       (QUEUE_SIZE - 2)
#define REQUEST_BYTES_MAX UINT32_MAX /* so that a length fits into the used ring */
#define HEADER_BYTES      16u
#define SERIAL_BYTES      20u

#define VIRTIO_BLK_F_SEG_MAX  (UINT64_C(1) << 2)
#define VIRTIO_BLK_F_RO       (UINT64_C(1) << 5)
#define VIRTIO_BLK_F_BLK_SIZE (UINT64_C(1) << 6)
#define VIRTIO_BLK_F_FLUSH    (UINT64_C(1) << 9)
#define VIRTIO_BLK_F_MQ       (UINT64_C(1) << 12)
#define VIRTIO_BLK_F_DISCARD  (UINT64_C(1) << 13)
#define VIRTIO_BLK_F_ZEROES   (UINT64_C(1) << 14)

/* Configuration space (5.2.4). */
enum {
    CONFIG_CAPACITY = 0,
    CONFIG_SEG_MAX = 12,
    CONFIG_BLK_SIZE = 20,
    CONFIG_QUEUES = 34,
    CONFIG_DISCARD_SECTORS = 36,
    CONFIG_DISCARD_SEGMENTS = 40,
    CONFIG_DISCARD_ALIGNMENT = 44,
    CONFIG_ZEROES_SECTORS = 48,
    CONFIG_ZEROES_SEGMENTS = 52,
    CONFIG_ZEROES_MAY_UNMAP = 56,
    CONFIG_BYTES = 60
};

enum {
    TYPE_IN = 0,
    TYPE_OUT = 1,
    TYPE_FLUSH = 4,
    TYPE_GET_ID = 8,
    TYPE_DISCARD = 11,
    TYPE_WRITE_ZEROES = 13
};

/* Of a discard or write-zeroes (5.2.6): one stretch in each, of at most 2 GiB. */
#define RANGE_BYTES       16u
#define RANGE_SECTORS_MAX (UINT32_C(1) << 22)
#define RANGE_UNMAP       UINT32_C(1)
enum { STATUS_OK = 0, STATUS_IOERR = 1, STATUS_UNSUPP = 2 };

struct virtio_blk {
    struct virtio_transport transport; /* first */
    struct block *disk;
    uint64_t capacity;         /* sectors */
    char serial[SERIAL_BYTES]; /* not terminated if all are used */
    struct lane {
        unsigned in_flight;    /* requests that were popped and not given back, those parked too */
        bool stalled;          /* requests were left in the ring: too many in flight */
    } lanes[VIRTIO_QUEUE_MAX]; /* by queue */
    struct request *first, *last; /* in flight, in the order in which they came */
    struct request *spare;
    struct state_buffer parked; /* to be saved, or just restored */
    struct log_limit log_limit;
};

struct request {
    struct block_request io;
    struct virtio_blk *blk;
    struct virtqueue *queue;
    uint8_t *status; /* in guest memory */
    uint32_t bytes;  /* of data */
    bool is_read;
    bool parked;
    struct request *next, *earlier;       /* of those in flight, or the spare ones */
    struct iovec data[VIRTQ_SEGMENT_MAX]; /* the part of the chain that is transferred */
    struct virtq_chain chain;
};

static struct virtio_blk *blk_of(struct virtio *virtio)
{
    return CONTAINER_OF(virtio, struct virtio_blk, transport.virtio);
}

static struct virtio_blk *blk_of_device(struct device *device)
{
    return CONTAINER_OF(device, struct virtio_blk, transport.device);
}

static struct lane *lane_of(const struct request *request)
{
    return &request->blk->lanes[request->queue->index];
}

/* --- request memory --- */

static struct request *request_get(struct virtio_blk *blk, struct virtqueue *queue)
{
    struct request *request = blk->spare;
    if (request != NULL)
        blk->spare = request->next;
    else
        request = alloc_zeroed(1, sizeof(*request)); /* at most QUEUE_SIZE times for each queue */
    request->blk = blk;
    request->queue = queue;
    request->parked = false;
    return request;
}

static void request_put(struct request *request)
{
    request->next = request->blk->spare;
    request->blk->spare = request;
}

static void enter(struct request *request)
{
    struct virtio_blk *blk = request->blk;
    request->next = NULL;
    request->earlier = blk->last;
    *(blk->last != NULL ? &blk->last->next : &blk->first) = request;
    blk->last = request;
    lane_of(request)->in_flight++;
}

static void leave(struct request *request)
{
    struct virtio_blk *blk = request->blk;
    *(request->earlier != NULL ? &request->earlier->next : &blk->first) = request->next;
    *(request->next != NULL ? &request->next->earlier : &blk->last) = request->earlier;
    lane_of(request)->in_flight--;
}

/* Nobody wants what is parked in this queue (NULL: in any) any more. */
static void drop_parked(struct virtio_blk *blk, const struct virtqueue *queue)
{
    struct request *next;
    for (struct request *request = blk->first; request != NULL; request = next) {
        next = request->next;
        if (!request->parked || (queue != NULL && request->queue != queue))
            continue;
        leave(request);
        virtqueue_note_touched(request->queue, &request->chain);
        request_put(request);
    }
}

/* --- completion --- */

/* Lock held. The request is the guest's again, and its memory ours. */
static void finish(struct request *request, uint8_t status)
{
    *request->status = status;
    /* What the driver may rely on having been written, from the start: after a failed read
     * nothing. The status byte is the last one. */
    uint32_t written = 1;
    if (request->is_read)
        written = status == STATUS_OK ? request->bytes + 1 : 0;
    virtqueue_push(request->queue, &request->chain, written);
    request_put(request);
}

/* Without the FLUSH feature a write is complete when it is on stable storage (5.2.6.2). */
static bool needs_flush(const struct request *request)
{
    return (request->io.kind == BLOCK_WRITE || request->io.kind == BLOCK_WRITE_ZEROES) &&
           !virtio_has(&request->blk->transport.virtio, VIRTIO_BLK_F_FLUSH);
}

/* Lock held: the end of a request that nobody waits for any more, but that wrote into memory. */
static void forget(struct request *request)
{
    struct virtio *virtio = &request->blk->transport.virtio;
    struct virtqueue *queue = request->queue;
    unsigned left = lane_of(request)->in_flight;
    virtqueue_note_touched(queue, &request->chain);
    request_put(request);
    if (queue->resetting && left == 0)
        virtio_queue_deactivated(virtio, queue);
    if (virtio->resetting && blk_of(virtio)->first == NULL)
        virtio_deactivated(virtio);
}

static void blk_done(struct block_request *io, int error)
{
    static const char *const verbs[] = {"read", "write", "flush", "discard", "write-zeroes"};
    struct request *request = CONTAINER_OF(io, struct request, io);
    struct virtio_blk *blk = request->blk;
    if (error != 0 && error != ECANCELED)
        log_guest(blk->transport.device.env->log, &blk->log_limit,
                  "%s: %s of %u bytes at %llu failed: %s", blk->transport.device.id,
                  verbs[io->kind], request->bytes, (unsigned long long)io->offset, strerror(error));

    pthread_mutex_lock(&blk->transport.device.lock);
    struct virtqueue *queue = request->queue;
    struct lane *lane = lane_of(request);
    bool wanted = blk->transport.virtio.active && !queue->resetting;
    if (wanted && error == ECANCELED && blk->transport.virtio.quiesced) {
        request->parked = true;
        pthread_mutex_unlock(&blk->transport.device.lock);
        return;
    }
    if (wanted && error == 0 && needs_flush(request)) {
        io->kind = BLOCK_FLUSH;
        block_submit(blk->disk, io);
        pthread_mutex_unlock(&blk->transport.device.lock);
        return;
    }
    leave(request);
    if (wanted) {
        finish(request, error == 0 ? STATUS_OK : STATUS_IOERR);
        virtqueue_signal(queue);
    } else {
        forget(request);
    }
    bool resume = lane->stalled;
    lane->stalled = false;
    pthread_mutex_unlock(&blk->transport.device.lock);
    if (resume)
        virtio_notified(&blk->transport.virtio, queue->index);
}

/* --- requests --- */

static void submit(struct request *request)
{
    request->io.done = blk_done;
    enter(request);
    block_submit(request->blk->disk, &request->io);
}

static bool start_io(struct request *request, enum block_kind kind, uint64_t sector)
{
    struct virtio_blk *blk = request->blk;
    if (request->bytes % BLOCK_SECTOR != 0 ||
        !range_within(sector, request->bytes / BLOCK_SECTOR, blk->capacity) ||
        (kind == BLOCK_WRITE && block_read_only(blk->disk)))
        return false;
    request->io.kind = kind;
    request->io.offset = sector * BLOCK_SECTOR;
    submit(request);
    return true;
}

static bool start_transfer(struct request *request, enum block_kind kind, uint64_t sector)
{
    struct virtq_chain *chain = &request->chain;
    bool read = kind == BLOCK_READ;
    request->is_read = read;
    request->bytes = (uint32_t)(read ? chain->in_size - 1 : chain->out_size - HEADER_BYTES);
    struct iovec *iov = request->data;
    request->io.iov_count = read ? chain->in_count : chain->out_count;
    /* The chain stays whole: who was parked starts again with the header. */
    memcpy(iov, read ? virtq_in(chain) : chain->segment, request->io.iov_count * sizeof(*iov));
    bool whole = virtq_slice(&iov, &request->io.iov_count, read ? 0 : HEADER_BYTES, request->bytes);
    request->io.iov = iov;
    assert(whole && "a slice of what the chain counted");
    (void)whole;
    return start_io(request, kind, sector);
}

/* Discard and write-zeroes; returns false, and the status, if there is nothing to start. */
static bool start_range(struct request *request, enum block_kind kind, uint8_t *status)
{
    struct virtio_blk *blk = request->blk;
    uint8_t range[RANGE_BYTES];
    if (request->chain.out_size != HEADER_BYTES + RANGE_BYTES ||
        virtq_read(&request->chain, HEADER_BYTES, range, RANGE_BYTES) != RANGE_BYTES)
        return false;
    uint64_t sector = load_le64(range);
    uint32_t sectors = load_le32(range + 8), flags = load_le32(range + 12);
    if ((flags & ~RANGE_UNMAP) != 0 || (kind == BLOCK_DISCARD && flags != 0)) {
        *status = STATUS_UNSUPP;
        return false;
    }
    if (sectors > RANGE_SECTORS_MAX || !range_within(sector, sectors, blk->capacity) ||
        block_read_only(blk->disk))
        return false;
    request->io.kind = kind;
    request->io.unmap = (flags & RANGE_UNMAP) != 0;
    request->io.offset = sector * BLOCK_SECTOR;
    request->io.length = (uint64_t)sectors * BLOCK_SECTOR;
    request->bytes = sectors * BLOCK_SECTOR;
    submit(request);
    return true;
}

static uint8_t identify(struct request *request)
{
    size_t room = (size_t)(request->chain.in_size - 1);
    request->is_read = true;
    request->bytes = (uint32_t)virtq_write(&request->chain, 0, request->blk->serial,
                                           room < SERIAL_BYTES ? room : SERIAL_BYTES);
    return STATUS_OK;
}

/* Starts or finishes one request; false: the driver broke the rules. */
static bool handle(struct request *request)
{
    struct virtio_blk *blk = request->blk;
    struct virtq_chain *chain = &request->chain;
    uint8_t header[HEADER_BYTES];
    if (virtq_read(chain, 0, header, HEADER_BYTES) != HEADER_BYTES || chain->in_size == 0) {
        virtio_violation(&blk->transport.virtio, "a request has no room for header and status");
        return false;
    }
    const struct iovec *last = &virtq_in(chain)[chain->in_count - 1];
    request->status = (uint8_t *)last->iov_base + last->iov_len - 1;
    request->bytes = 0;
    request->is_read = false;

    uint8_t status = STATUS_IOERR;
    switch (load_le32(header)) {
    case TYPE_IN:
        if (start_transfer(request, BLOCK_READ, load_le64(header + 8)))
            return true;
        break;
    case TYPE_OUT:
        if (start_transfer(request, BLOCK_WRITE, load_le64(header + 8)))
            return true;
        break;
    case TYPE_FLUSH:
        if (block_read_only(blk->disk))
            status = STATUS_OK;
        else if (start_io(request, BLOCK_FLUSH, 0))
            return true;
        break;
    case TYPE_GET_ID:
        status = identify(request);
        break;
    case TYPE_DISCARD:
        if (!virtio_has(&blk->transport.virtio, VIRTIO_BLK_F_DISCARD))
            status = STATUS_UNSUPP;
        else if (start_range(request, BLOCK_DISCARD, &status))
            return true;
        break;
    case TYPE_WRITE_ZEROES:
        if (!virtio_has(&blk->transport.virtio, VIRTIO_BLK_F_ZEROES))
            status = STATUS_UNSUPP;
        else if (start_range(request, BLOCK_WRITE_ZEROES, &status))
            return true;
        break;
    default:
        status = STATUS_UNSUPP;
    }
    finish(request, status);
    return true;
}

static bool blk_notify(struct virtio *virtio, struct virtqueue *queue)
{
    struct virtio_blk *blk = blk_of(virtio);
    struct lane *lane = &blk->lanes[queue->index];
    bool more = true;
    block_plug(blk->disk);
    /* Requests that fail at once do not count as in flight: bound the turn as well. */
    for (unsigned turn = 0; turn < QUEUE_SIZE && lane->in_flight < QUEUE_SIZE; turn++) {
        struct request *request = request_get(blk, queue);
        more = virtqueue_pop(queue, &request->chain, REQUEST_BYTES_MAX);
        if (!more || !handle(request)) {
            request_put(request);
            more = false;
            break;
        }
    }
    block_unplug(blk->disk);
    virtqueue_signal(queue);
    lane->stalled = more && lane->in_flight == QUEUE_SIZE;
    return more && !lane->stalled;
}

/* --- life --- */

static bool blk_deactivate(struct virtio *virtio)
{
    struct virtio_blk *blk = blk_of(virtio);
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++)
        blk->lanes[i].stalled = false;
    drop_parked(blk, NULL);
    return blk->first == NULL;
}

static bool blk_reset_queue(struct virtio *virtio, struct virtqueue *queue)
{
    struct virtio_blk *blk = blk_of(virtio);
    blk->lanes[queue->index].stalled = false;
    drop_parked(blk, queue);
    return blk->lanes[queue->index].in_flight == 0;
}

static const struct virtio_ops blk_ops = {
    .name = "virtio-blk",
    .device_id = 2,
    .class_code = 0x010000, /* mass storage, SCSI: what QEMU says, and drivers expect */
    .queue_count = 1,
    .queue_step = 1,
    .queue_size = QUEUE_SIZE,
    .config_size = CONFIG_BYTES,
    .deactivate = blk_deactivate,
    .reset_queue = blk_reset_queue,
    .notify = blk_notify,
};

/* What the configuration space says of the image. */
static void describe_disk(struct virtio_blk *blk)
{
    uint8_t *config = blk->transport.virtio.config;
    blk->capacity = block_size(blk->disk) / BLOCK_SECTOR;
    store_le64(config + CONFIG_CAPACITY, blk->capacity);
    store_le32(config + CONFIG_DISCARD_ALIGNMENT, block_cluster_size(blk->disk) / BLOCK_SECTOR);
}

void virtio_blk_changed(struct device *device)
{
    struct virtio_blk *blk = blk_of_device(device);
    pthread_mutex_lock(&device->lock);
    describe_disk(blk);
    virtio_config_changed(&blk->transport.virtio);
    pthread_mutex_unlock(&device->lock);
}

static bool blk_realize(struct device *device, const struct device_params *params,
                        struct error **err)
{
    struct virtio_blk *blk = blk_of_device(device);
    assert(params->disk != NULL);
    blk->disk = params->disk;
    if (params->serial != NULL)
        memcpy(blk->serial, params->serial, strnlen(params->serial, SERIAL_BYTES));

    uint64_t features = VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_BLK_SIZE | VIRTIO_BLK_F_FLUSH;
    if (block_read_only(blk->disk))
        features |= VIRTIO_BLK_F_RO;
    else
        features |= VIRTIO_BLK_F_ZEROES;
    if (block_can_discard(blk->disk))
        features |= VIRTIO_BLK_F_DISCARD;
    if (params->queues > 1)
        features |= VIRTIO_BLK_F_MQ;
    if (!virtio_transport_realize(&blk->transport, &blk_ops, features, params, err))
        return false;
    uint8_t *config = blk->transport.virtio.config;
    describe_disk(blk);
    store_le32(config + CONFIG_SEG_MAX, SEGMENT_MAX);
    store_le32(config + CONFIG_BLK_SIZE, BLOCK_SECTOR);
    store_le16(config + CONFIG_QUEUES, blk->transport.virtio.queue_count);
    store_le32(config + CONFIG_DISCARD_SECTORS, RANGE_SECTORS_MAX);
    store_le32(config + CONFIG_DISCARD_SEGMENTS, 1);
    store_le32(config + CONFIG_ZEROES_SECTORS, RANGE_SECTORS_MAX);
    store_le32(config + CONFIG_ZEROES_SEGMENTS, 1);
    config[CONFIG_ZEROES_MAY_UNMAP] = block_can_discard(blk->disk);
    return true;
}

/* What the disk holds back comes home at once (ECANCELED), the rest when the host has done it. */
static void bring_home(struct virtio_blk *blk)
{
    block_cancel(blk->disk);
    block_drain(blk->disk);
    block_cancel(blk->disk); /* what could not be done, for want of space, say */
}

static void blk_unrealize(struct device *device)
{
    struct virtio_blk *blk = blk_of_device(device);
    virtio_transport_unrealize(device);
    bring_home(blk);
    assert(blk->first == NULL);
    state_buffer_free(&blk->parked);
    while (blk->spare != NULL) {
        struct request *request = blk->spare;
        blk->spare = request->next;
        free(request);
    }
}

static void blk_quiesce(struct device *device)
{
    virtio_transport_quiesce(device);
    bring_home(blk_of_device(device));
}

/* Starts what is parked, as if it had just been popped. */
static void blk_unquiesce(struct device *device)
{
    struct virtio_blk *blk = blk_of_device(device);
    struct request *end, *next;
    pthread_mutex_lock(&device->lock);
    end = blk->last;
    block_plug(blk->disk);
    for (struct request *request = blk->first; request != NULL; request = next) {
        next = request == end ? NULL : request->next; /* those that start go behind the end */
        if (!request->parked)
            continue;
        request->parked = false;
        leave(request);
        if (!handle(request))
            request_put(request);
    }
    block_unplug(blk->disk);
    for (unsigned i = 0; i < blk->transport.virtio.queue_count; i++)
        virtqueue_signal(&blk->transport.virtio.queues[i]);
    pthread_mutex_unlock(&device->lock);
    virtio_transport_unquiesce(device);
}

/* ---- state ---- */

static void blk_pre_save(void *object)
{
    struct virtio_blk *blk = object;
    state_buffer_free(&blk->parked);
    /* A device that needs a reset answers nothing before it, and is not restored in use. */
    if ((blk->transport.virtio.status & VIRTIO_STATUS_NEEDS_RESET) != 0)
        return;
    for (const struct request *request = blk->first; request != NULL; request = request->next) {
        assert(request->parked && "nothing else is in flight in a quiesced machine");
        virtqueue_save_chain(request->queue, &request->chain, &blk->parked);
    }
}

static bool restore_parked(struct virtio_blk *blk, struct error **err)
{
    struct virtio *virtio = &blk->transport.virtio;
    for (size_t at = 0; at < blk->parked.size;) {
        struct request *request = request_get(blk, NULL);
        request->queue =
            virtqueue_restore_chain(virtio->queues, virtio->queue_count, &request->chain,
                                    REQUEST_BYTES_MAX, &blk->parked, &at, err);
        if (request->queue == NULL || !virtio->active ||
            lane_of(request)->in_flight == QUEUE_SIZE) {
            bool told = request->queue == NULL;
            request_put(request);
            return !told && error_set(err, ERROR_USAGE,
                                      "the saved state has more requests than '%s' can have",
                                      blk->transport.device.id);
        }
        request->parked = true;
        enter(request);
    }
    return true;
}

static bool blk_post_restore(void *object, struct error **err)
{
    struct virtio_blk *blk = object;
    uint64_t sectors = block_size(blk->disk) / BLOCK_SECTOR;
    if (blk->capacity == sectors)
        return restore_parked(blk, err);
    return error_set(err, ERROR_USAGE,
                     "the saved state is of a disk of %llu sectors, '%s' has %llu: attach the "
                     "disk that was there when it was saved",
                     (unsigned long long)blk->capacity, blk->transport.device.id,
                     (unsigned long long)sectors);
}

static const struct state_field blk_fields[] = {
    STATE_UINT(struct virtio_blk, capacity, "capacity"),
    STATE_STRUCT(struct virtio_blk, transport, "pci", &virtio_transport_state),
    STATE_BUFFER(struct virtio_blk, parked, "parked"),
    STATE_END,
};

static const struct state_table blk_state = {"virtio-blk", 2, blk_fields, blk_pre_save,
                                             blk_post_restore};

const struct device_ops device_virtio_blk = {
    .name = "virtio-blk",
    .size = sizeof(struct virtio_blk),
    .realize = blk_realize,
    .unrealize = blk_unrealize,
    .reset = virtio_transport_reset,
    .state = &blk_state,
    .quiesce = blk_quiesce,
    .unquiesce = blk_unquiesce,
};
