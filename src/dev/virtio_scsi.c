/* SPDX-License-Identifier: MIT
 *
 * virtio SCSI host adapter (virtio 1.2, 5.6): commands for the logical units of dev/scsi.h,
 * task management, and events when units come, go or change.
 *
 * As in virtio_blk.c, a reset is over when the last request in flight has come home, and what the
 * disk holds back is parked in a pause, saved with the machine, and started again after it. A
 * task management function that aborts tasks is answered when they have ended.
 *
 * A drive's address is TARGET[:LUN]. params: queues, pci_slot.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "dev/virtio_scsi_internal.h"

/* struct virtio_scsi_req_cmd (5.6.6.1): offsets. */
enum { REQ_LUN = 0, REQ_ID = 8, REQ_CDB = 19 };
enum {
    RESP_SENSE_LENGTH = 0,
    RESP_RESIDUAL = 4,
    RESP_STATUS = 10,
    RESP_RESPONSE = 11,
    RESP_SENSE = 12
};

#define NO_PLACE 0xffffu

static struct virtio_scsi *scsi_of(struct virtio *virtio)
{
    return CONTAINER_OF(virtio, struct virtio_scsi, transport.virtio);
}

/* --- requests --- */

static struct vscsi_request *request_get(struct virtio_scsi *scsi)
{
    struct vscsi_request *request = scsi->spare;
    if (request != NULL)
        scsi->spare = request->next;
    else
        request = alloc_zeroed(1, sizeof(*request)); /* at most IN_FLIGHT_MAX times */
    request->scsi = scsi;
    request->parked = false;
    return request;
}

static void request_put(struct vscsi_request *request)
{
    request->next = request->scsi->spare;
    request->scsi->spare = request;
}

static void enlist(struct vscsi_request *request)
{
    struct virtio_scsi *scsi = request->scsi;
    scsi->in_flight++;
    request->sequence = scsi->sequence++;
    request->earlier = NULL;
    request->next = scsi->flight;
    if (scsi->flight != NULL)
        scsi->flight->earlier = request;
    scsi->flight = request;
}

static void delist(struct vscsi_request *request)
{
    struct virtio_scsi *scsi = request->scsi;
    scsi->in_flight--;
    if (request->earlier != NULL)
        request->earlier->next = request->next;
    else
        scsi->flight = request->next;
    if (request->next != NULL)
        request->next->earlier = request->earlier;
}

static uint32_t config_word(const struct virtio_scsi *scsi, unsigned offset)
{
    return load_le32(scsi->transport.virtio.config + offset);
}

static void answer(struct vscsi_request *request, uint8_t response)
{
    const struct scsi_task *task = &request->task;
    uint32_t room = request->sense_size;
    uint8_t header[RESP_SENSE + PARAMETER_MAX] = {0};
    uint64_t moved = response == RESPONSE_OK ? task->moved : 0;
    header[RESP_RESPONSE] = response;
    store_le32(header + RESP_RESIDUAL, (uint32_t)(request->data_size - moved));
    if (response == RESPONSE_OK) {
        header[RESP_STATUS] = task->status;
        if (task->status == SCSI_CHECK_CONDITION) {
            uint32_t length = room < SCSI_SENSE_SIZE ? room : SCSI_SENSE_SIZE;
            store_le32(header + RESP_SENSE_LENGTH, length);
            memcpy(header + RESP_SENSE, task->sense, length);
        }
    }
    virtq_write(&request->chain, 0, header, RESP_SENSE + room);
    virtqueue_push(request->queue, &request->chain,
                   (uint32_t)(RESP_SENSE + room + (request->in ? moved : 0)));
}

static void resume(struct virtio_scsi *scsi);

/* Lock held; from block I/O, or at once from scsi_start(). */
static void task_done(struct scsi_task *task)
{
    struct vscsi_request *request = CONTAINER_OF(task, struct vscsi_request, task);
    struct virtio_scsi *scsi = request->scsi;
    struct virtio *virtio = &scsi->transport.virtio;
    if (virtio->active && virtio->quiesced && task->status == SCSI_TASK_ABORTED &&
        !task->cancelled) {
        request->parked = true;
        return;
    }
    delist(request);
    if (virtio->active) {
        uint8_t response = RESPONSE_OK;
        if (task->cancelled || task->status == SCSI_TASK_ABORTED)
            response = request->abort_response;
        else if (task->overrun)
            response = RESPONSE_OVERRUN;
        answer(request, response);
        virtqueue_signal(request->queue);
        vscsi_finish_tmfs(scsi);
    } else {
        /* Nobody waits for it any more, but it wrote into memory. */
        virtqueue_note_touched(request->queue, &request->chain);
    }
    request_put(request);
    if (scsi->in_flight == 0 && virtio->resetting)
        virtio_deactivated(virtio);
    if (!scsi->serving)
        resume(scsi);
}

/* The driver's buffer for a task, narrowed to bytes [offset, ...) of its part of the chain. */
static void lend_data(struct vscsi_request *request, const struct iovec *segments, unsigned count,
                      uint64_t offset, uint64_t size)
{
    struct iovec *iov = request->data;
    memcpy(iov, segments, count * sizeof(*iov));
    bool whole = virtq_slice(&iov, &count, offset, size);
    assert(whole && "a slice of what the chain counted");
    (void)whole;
    request->data_size = size;
    if (request->in) {
        request->task.in = iov;
        request->task.in_count = count;
        request->task.in_size = size;
    } else {
        request->task.out = iov;
        request->task.out_count = count;
        request->task.out_size = size;
    }
}

/* False: the driver broke the rules. */
static bool handle(struct vscsi_request *request)
{
    struct virtio_scsi *scsi = request->scsi;
    struct virtq_chain *chain = &request->chain;
    struct scsi_task *task = &request->task;
    uint32_t cdb_size = config_word(scsi, CONFIG_CDB_SIZE);
    uint32_t sense_size = config_word(scsi, CONFIG_SENSE_SIZE);
    uint8_t header[REQ_CDB + PARAMETER_MAX];
    if (cdb_size > PARAMETER_MAX || sense_size > PARAMETER_MAX) {
        virtio_violation(&scsi->transport.virtio, "a CDB or sense data of more than 252 bytes");
        return false;
    }
    uint64_t out = REQ_CDB + (uint64_t)cdb_size, in = RESP_SENSE + (uint64_t)sense_size;
    if (virtq_read(chain, 0, header, out) != out || chain->in_size < in) {
        virtio_violation(&scsi->transport.virtio, "a request has no room for header and response");
        return false;
    }
    *task = (struct scsi_task){.done = task_done};
    request->id = load_le64(header + REQ_ID);
    request->in = chain->in_size > in;
    request->sense_size = sense_size;
    request->data_size = 0;
    request->abort_response = RESPONSE_ABORTED;
    bool known = vscsi_parse_lun(header + REQ_LUN, &request->target, &request->lun);
    if (request->in && chain->out_size > out) { /* both ways: not without VIRTIO_SCSI_F_INOUT */
        answer(request, RESPONSE_FAILURE);
        request_put(request);
        return true;
    }
    if (request->in)
        lend_data(request, virtq_in(chain), chain->in_count, in, chain->in_size - in);
    else if (chain->out_size > out)
        lend_data(request, chain->segment, chain->out_count, out, chain->out_size - out);
    memcpy(task->cdb, header + REQ_CDB, cdb_size < SCSI_CDB_SIZE ? cdb_size : SCSI_CDB_SIZE);
    if (!known || !vscsi_has_target(scsi, request->target)) {
        answer(request, RESPONSE_BAD_TARGET);
        request_put(request);
        return true;
    }
    task->unit = vscsi_find_unit(scsi, request->target, request->lun);
    task->luns = vscsi_luns_of(scsi, request->target);
    enlist(request);
    scsi_start(task);
    return true;
}

static void unplug_all(struct virtio_scsi *scsi)
{
    for (unsigned i = 0; i < DRIVE_MAX; i++)
        if (scsi->places[i].used)
            scsi_unplug(&scsi->units[i]);
}

static bool notify_requests(struct virtio_scsi *scsi, struct virtqueue *queue)
{
    bool more = true;
    scsi->serving = true;
    uint32_t bit = UINT32_C(1) << queue->index;
    for (unsigned turn = 0; turn < QUEUE_SIZE && scsi->in_flight < IN_FLIGHT_MAX; turn++) {
        struct vscsi_request *request = request_get(scsi);
        request->queue = queue;
        more = virtqueue_pop(queue, &request->chain, REQUEST_BYTES_MAX);
        if (!more || !handle(request)) {
            request_put(request);
            more = false;
            break;
        }
    }
    scsi->serving = false;
    unplug_all(scsi);
    virtqueue_signal(queue);
    if (!more || scsi->in_flight < IN_FLIGHT_MAX)
        return more;
    scsi->stalled |= bit;
    return false;
}

/* There is room again for what was left in the queues. Lock held. */
static void resume(struct virtio_scsi *scsi)
{
    struct virtio *virtio = &scsi->transport.virtio;
    uint32_t stalled = scsi->stalled;
    scsi->stalled = 0;
    for (unsigned i = 0; stalled >> i != 0; i++) {
        if ((stalled >> i & 1) == 0)
            continue;
        if (!virtio->device->env->deterministic)
            virtio_notified(virtio, i);
        else /* would take the lock itself, and is done at once */
            while (virtio->active && !virtio->quiesced && virtio->dma &&
                   notify_requests(scsi, &virtio->queues[i]))
                ;
    }
}

static bool scsi_notify(struct virtio *virtio, struct virtqueue *queue)
{
    struct virtio_scsi *scsi = scsi_of(virtio);
    if (queue->index == QUEUE_CONTROL)
        return vscsi_notify_control(scsi, queue);
    if (queue->index != QUEUE_EVENT)
        return notify_requests(scsi, queue);
    vscsi_tell_missed(scsi);
    return false;
}

static void scsi_config_write(struct virtio *virtio, unsigned offset, uint8_t value)
{
    if (offset >= CONFIG_SENSE_SIZE && offset < CONFIG_MAX_CHANNEL)
        virtio->config[offset] = value;
}

static struct virtio_scsi *scsi_of_device(struct device *device)
{
    return CONTAINER_OF(device, struct virtio_scsi, transport.device);
}

/* --- life --- */

static void reset_units(struct virtio_scsi *scsi)
{
    for (unsigned i = 0; i < DRIVE_MAX; i++)
        if (scsi->places[i].used)
            scsi_unit_reset(&scsi->units[i]);
}

static void put_config(struct virtio_scsi *scsi)
{
    uint8_t *config = scsi->transport.virtio.config;
    store_le32(config + CONFIG_QUEUES,
               (uint32_t)scsi->transport.virtio.queue_count - QUEUE_REQUEST);
    store_le32(config + CONFIG_SEG_MAX, QUEUE_SIZE - 2);
    store_le32(config + CONFIG_MAX_SECTORS, 0xffff);
    store_le32(config + CONFIG_CMD_PER_LUN, 128);
    store_le32(config + CONFIG_EVENT_SIZE, VSCSI_EVENT_BYTES);
    store_le32(config + CONFIG_SENSE_SIZE, 96);
    store_le32(config + CONFIG_CDB_SIZE, 32);
    store_le16(config + CONFIG_MAX_CHANNEL, 0);
    store_le16(config + CONFIG_MAX_TARGET, TARGET_MAX);
    store_le32(config + CONFIG_MAX_LUN, SCSI_LUN_MAX - 1);
}

/* The one that came first; NULL: there is none. */
static struct vscsi_request *oldest_parked(const struct virtio_scsi *scsi)
{
    struct vscsi_request *oldest = NULL;
    for (struct vscsi_request *request = scsi->flight; request != NULL; request = request->next)
        if (request->parked)
            oldest = request;
    return oldest;
}

static void drop_parked(struct virtio_scsi *scsi)
{
    struct vscsi_request *request;
    while ((request = oldest_parked(scsi)) != NULL) {
        delist(request);
        virtqueue_note_touched(request->queue, &request->chain);
        request_put(request);
    }
}

static bool scsi_deactivate(struct virtio *virtio)
{
    struct virtio_scsi *scsi = scsi_of(virtio);
    drop_parked(scsi);
    scsi->stalled = 0;
    scsi->events_missed = false;
    for (struct vscsi_request *request = scsi->flight; request != NULL; request = request->next)
        request->task.cancelled = true;
    while (scsi->waiting != NULL) {
        struct vscsi_tmf *tmf = scsi->waiting;
        scsi->waiting = tmf->next;
        free(tmf);
    }
    scsi->waiting_count = 0;
    for (unsigned i = 0; i < DRIVE_MAX; i++) { /* no buffer comes from a driver that is gone */
        scsi->places[i].untold = false;
        scsi->places[i].notice = NO_NOTICE;
    }
    put_config(scsi); /* 5.6.4: a reset restores what the driver wrote */
    reset_units(scsi);
    return scsi->in_flight == 0;
}

static const struct virtio_ops scsi_ops = {
    .name = "virtio-scsi",
    .device_id = 8,
    .class_code = 0x010000, /* mass storage, SCSI */
    .queue_count = QUEUE_REQUEST + 1,
    .queue_step = 1,
    .queue_size = QUEUE_SIZE,
    .config_size = CONFIG_BYTES,
    .deactivate = scsi_deactivate,
    .notify = scsi_notify,
    .config_write = scsi_config_write,
};

static bool scsi_realize(struct device *device, const struct device_params *params,
                         struct error **err)
{
    struct virtio_scsi *scsi = scsi_of_device(device);
    struct device_params limited = *params;
    static_assert(QUEUE_REQUEST + REQUEST_QUEUES <= VIRTIO_QUEUE_MAX, "a queue for each");
    if (limited.queues > REQUEST_QUEUES)
        limited.queues = REQUEST_QUEUES;
    if (!virtio_transport_realize(&scsi->transport, &scsi_ops,
                                  VIRTIO_SCSI_F_HOTPLUG | VIRTIO_SCSI_F_CHANGE, &limited, err))
        return false;
    put_config(scsi);
    return true;
}

static void scsi_unrealize(struct device *device)
{
    struct virtio_scsi *scsi = scsi_of_device(device);
    virtio_transport_unrealize(device);
    for (unsigned i = 0; i < DRIVE_MAX; i++)
        if (scsi->places[i].used)
            vscsi_drain(device, &scsi->units[i]);
    assert(scsi->in_flight == 0);
    state_buffer_free(&scsi->parked);
    while (scsi->spare != NULL) {
        struct vscsi_request *request = scsi->spare;
        scsi->spare = request->next;
        free(request);
    }
}

static void scsi_reset(struct device *device)
{
    struct virtio_scsi *scsi = scsi_of_device(device);
    virtio_transport_reset(device);
    pthread_mutex_lock(&device->lock);
    put_config(scsi);
    reset_units(scsi);
    pthread_mutex_unlock(&device->lock);
}

static void scsi_quiesce(struct device *device)
{
    struct virtio_scsi *scsi = scsi_of_device(device);
    virtio_transport_quiesce(device);
    for (unsigned i = 0; i < DRIVE_MAX; i++)
        if (scsi->places[i].used)
            vscsi_drain(device, &scsi->units[i]);
}

/* Starts what is parked, as if it had just been popped. */
static void scsi_unquiesce(struct device *device)
{
    struct virtio_scsi *scsi = scsi_of_device(device);
    struct vscsi_request *request;
    pthread_mutex_lock(&device->lock);
    scsi->serving = true;
    while ((request = oldest_parked(scsi)) != NULL) {
        request->parked = false;
        delist(request);
        if (!handle(request))
            request_put(request);
    }
    scsi->serving = false;
    unplug_all(scsi);
    for (unsigned i = 0; i < scsi->transport.virtio.queue_count; i++)
        virtqueue_signal(&scsi->transport.virtio.queues[i]);
    pthread_mutex_unlock(&device->lock);
    virtio_transport_unquiesce(device);
}

static void save_places(struct virtio_scsi *scsi)
{
    for (unsigned i = 0; i < DRIVE_MAX; i++) {
        const struct vscsi_place *place = &scsi->places[i];
        unsigned where = place->used ? (unsigned)place->target << 8 | place->lun : NO_PLACE;
        scsi->saved_places[i] = (uint16_t)where;
    }
}

static void scsi_pre_save(void *object)
{
    struct virtio_scsi *scsi = object;
    const struct vscsi_request *request = scsi->flight;
    save_places(scsi);
    state_buffer_free(&scsi->parked);
    /* A device that needs a reset answers nothing before it, and is not restored in use: what the
     * reset does to an active one is done now. */
    if ((scsi->transport.virtio.status & VIRTIO_STATUS_NEEDS_RESET) != 0) {
        put_config(scsi);
        reset_units(scsi);
        return;
    }
    while (request != NULL && request->next != NULL)
        request = request->next;
    for (; request != NULL; request = request->earlier) {
        assert(request->parked && "nothing else is in flight in a quiesced machine");
        virtqueue_save_chain(request->queue, &request->chain, &scsi->parked);
    }
}

static bool restore_parked(struct virtio_scsi *scsi, struct error **err)
{
    struct virtio *virtio = &scsi->transport.virtio;
    for (size_t at = 0; at < scsi->parked.size;) {
        struct vscsi_request *request = request_get(scsi);
        request->queue =
            virtqueue_restore_chain(virtio->queues, virtio->queue_count, &request->chain,
                                    REQUEST_BYTES_MAX, &scsi->parked, &at, err);
        bool known = request->queue != NULL;
        if (!known || !virtio->active || request->queue->index < QUEUE_REQUEST ||
            scsi->in_flight == IN_FLIGHT_MAX) {
            request_put(request);
            return known && error_set(err, ERROR_USAGE,
                                      "the saved state has a request that '%s' cannot have",
                                      scsi->transport.device.id);
        }
        request->parked = true;
        enlist(request);
    }
    return true;
}

static bool scsi_post_restore(void *object, struct error **err)
{
    struct virtio_scsi *scsi = object;
    uint16_t restored[DRIVE_MAX];
    uint32_t sense_size = config_word(scsi, CONFIG_SENSE_SIZE);
    uint32_t cdb_size = config_word(scsi, CONFIG_CDB_SIZE);
    put_config(scsi); /* of which only these two change */
    store_le32(scsi->transport.virtio.config + CONFIG_SENSE_SIZE, sense_size);
    store_le32(scsi->transport.virtio.config + CONFIG_CDB_SIZE, cdb_size);
    memcpy(restored, scsi->saved_places, sizeof(restored));
    save_places(scsi);
    if (memcmp(restored, scsi->saved_places, sizeof(restored)) == 0)
        return restore_parked(scsi, err);
    return error_set(err, ERROR_USAGE,
                     "the saved state is of a machine with other drives on its SCSI adapter: "
                     "attach those that were there when it was saved");
}

/* The transport before the units: restoring it ends what the device did before. */
static const struct state_field scsi_fields[] = {
    STATE_UINTS(struct virtio_scsi, saved_places, "places"),
    STATE_STRUCT(struct virtio_scsi, transport, "pci", &virtio_transport_state),
    STATE_BYTES(struct virtio_scsi, transport.virtio.config, "config"),
    STATE_STRUCTS(struct virtio_scsi, units, "units", &scsi_unit_state),
    STATE_BOOL(struct virtio_scsi, events_missed, "events-missed"),
    STATE_BUFFER(struct virtio_scsi, parked, "parked"),
    STATE_END,
};
static const struct state_table scsi_state = {"virtio-scsi", 1, scsi_fields, scsi_pre_save,
                                              scsi_post_restore};

const struct device_ops device_virtio_scsi = {
    .name = "virtio-scsi",
    .size = sizeof(struct virtio_scsi),
    .realize = scsi_realize,
    .unrealize = scsi_unrealize,
    .reset = scsi_reset,
    .state = &scsi_state,
    .quiesce = scsi_quiesce,
    .unquiesce = scsi_unquiesce,
};
