/* SPDX-License-Identifier: MIT
 *
 * The control queue of the virtio SCSI adapter (virtio 1.2, 5.6.6.2): task management and
 * asynchronous notifications. A function that aborts tasks is answered when they have ended.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "dev/virtio_scsi_internal.h"

/* Control queue (5.6.6.2). */
enum { TYPE_TMF = 0, TYPE_AN_QUERY = 1, TYPE_AN_SUBSCRIBE = 2 };
enum { TMF_SUBTYPE = 4, TMF_LUN = 8, TMF_ID = 16, TMF_BYTES = 24, AN_BYTES = 16 };

/* 5.6.6.1: 1, target, the LUN by peripheral device or flat addressing, zeros. False: another
 * address, at which nothing is. */
bool vscsi_parse_lun(const uint8_t *address, uint8_t *target, uint8_t *lun)
{
    unsigned number = (unsigned)(address[2] & 0x3f) << 8 | address[3];
    *target = address[1];
    *lun = (uint8_t)number;
    return address[0] == 1 && (address[2] & 0x80) == 0 && number < SCSI_LUN_MAX &&
           load_le32(address + 4) == 0;
}

/* --- task management --- */

static bool concerns(const struct vscsi_tmf *tmf, const struct vscsi_request *request)
{
    if (request->target != tmf->target || request->sequence >= tmf->sequence)
        return false;
    if (tmf->kind == TMF_NEXUS_RESET)
        return true;
    if (request->lun != tmf->lun)
        return false;
    return (tmf->kind != TMF_ABORT_TASK && tmf->kind != TMF_QUERY_TASK) || request->id == tmf->id;
}

static const struct vscsi_request *any_task(const struct virtio_scsi *scsi,
                                            const struct vscsi_tmf *tmf)
{
    const struct vscsi_request *request = scsi->flight;
    while (request != NULL && !concerns(tmf, request))
        request = request->next;
    return request;
}

static void answer_tmf(struct virtio_scsi *scsi, struct vscsi_tmf *tmf, uint8_t response)
{
    struct virtqueue *queue = &scsi->transport.virtio.queues[QUEUE_CONTROL];
    virtqueue_push(queue, &tmf->chain, (uint32_t)virtq_write(&tmf->chain, 0, &response, 1));
    virtqueue_signal(queue);
    free(tmf);
}

static void after_tmf(struct virtio_scsi *scsi, const struct vscsi_tmf *tmf)
{
    for (unsigned i = 0; i < DRIVE_MAX; i++) {
        const struct vscsi_place *place = &scsi->places[i];
        if (place->used && place->target == tmf->target &&
            (tmf->kind == TMF_NEXUS_RESET ||
             (tmf->kind == TMF_UNIT_RESET && place->lun == tmf->lun)))
            scsi_unit_reset(&scsi->units[i]);
    }
}

void vscsi_finish_tmfs(struct virtio_scsi *scsi)
{
    for (struct vscsi_tmf **at = &scsi->waiting; *at != NULL;) {
        struct vscsi_tmf *tmf = *at;
        if (any_task(scsi, tmf) != NULL) {
            at = &tmf->next;
            continue;
        }
        *at = tmf->next;
        scsi->waiting_count--;
        after_tmf(scsi, tmf);
        answer_tmf(scsi, tmf, RESPONSE_OK); /* function complete */
    }
}

static void abort_tasks(struct virtio_scsi *scsi, struct vscsi_tmf *tmf)
{
    bool reset = tmf->kind == TMF_NEXUS_RESET || tmf->kind == TMF_UNIT_RESET;
    for (struct vscsi_request *request = scsi->flight; request != NULL; request = request->next)
        if (concerns(tmf, request) && !request->task.cancelled) {
            request->task.cancelled = true;
            request->abort_response = reset ? RESPONSE_RESET : RESPONSE_ABORTED;
        }
    tmf->next = scsi->waiting;
    scsi->waiting = tmf;
    scsi->waiting_count++;
    vscsi_finish_tmfs(scsi);
}

static void run_tmf(struct virtio_scsi *scsi, struct vscsi_tmf *tmf)
{
    if (!vscsi_has_target(scsi, tmf->target)) {
        answer_tmf(scsi, tmf, RESPONSE_BAD_TARGET);
        return;
    }
    if (tmf->kind != TMF_NEXUS_RESET && vscsi_find_unit(scsi, tmf->target, tmf->lun) == NULL) {
        answer_tmf(scsi, tmf, RESPONSE_INCORRECT_LUN);
        return;
    }
    switch (tmf->kind) {
    case TMF_ABORT_TASK:
    case TMF_ABORT_TASK_SET:
    case TMF_CLEAR_TASK_SET:
    case TMF_NEXUS_RESET:
    case TMF_UNIT_RESET:
        abort_tasks(scsi, tmf);
        return;
    case TMF_QUERY_TASK:
    case TMF_QUERY_TASK_SET: /* complete: no such task; succeeded: there is one */
        answer_tmf(scsi, tmf, any_task(scsi, tmf) != NULL ? RESPONSE_SUCCEEDED : RESPONSE_OK);
        return;
    case TMF_CLEAR_ACA:
        break;
    }
    answer_tmf(scsi, tmf, RESPONSE_REJECTED);
}

/* Asynchronous notifications: none are offered, so none can be had. */
static bool answer_query(struct virtio_scsi *scsi, struct vscsi_tmf *tmf)
{
    struct virtqueue *queue = &scsi->transport.virtio.queues[QUEUE_CONTROL];
    uint8_t answer_bytes[5] = {0};
    if (tmf->chain.out_size < AN_BYTES || tmf->chain.in_size < sizeof(answer_bytes))
        return false;
    virtqueue_push(queue, &tmf->chain,
                   (uint32_t)virtq_write(&tmf->chain, 0, answer_bytes, sizeof(answer_bytes)));
    virtqueue_signal(queue);
    free(tmf);
    return true;
}

/* False: the driver broke the rules, and tmf is still the caller's. */
static bool handle_control(struct virtio_scsi *scsi, struct vscsi_tmf *tmf)
{
    uint8_t data[TMF_BYTES] = {0};
    size_t size = virtq_read(&tmf->chain, 0, data, sizeof(data));
    uint32_t type = size >= 4 ? load_le32(data) : UINT32_MAX;
    if (type == TYPE_AN_QUERY || type == TYPE_AN_SUBSCRIBE)
        return answer_query(scsi, tmf);
    if (type != TYPE_TMF || size < TMF_BYTES || tmf->chain.in_size < 1)
        return false;
    uint32_t kind = load_le32(data + TMF_SUBTYPE);
    bool known = vscsi_parse_lun(data + TMF_LUN, &tmf->target, &tmf->lun);
    tmf->kind = (enum vscsi_tmf_kind)kind;
    tmf->id = load_le64(data + TMF_ID);
    tmf->sequence = scsi->sequence;
    if (kind > TMF_QUERY_TASK_SET)
        answer_tmf(scsi, tmf, RESPONSE_REJECTED);
    else if (!known)
        answer_tmf(scsi, tmf, RESPONSE_BAD_TARGET);
    else
        run_tmf(scsi, tmf);
    return true;
}

bool vscsi_notify_control(struct virtio_scsi *scsi, struct virtqueue *queue)
{
    for (unsigned turn = 0; turn < QUEUE_SIZE && scsi->waiting_count < QUEUE_SIZE; turn++) {
        struct vscsi_tmf *tmf = alloc_zeroed(1, sizeof(*tmf));
        bool got = virtqueue_pop(queue, &tmf->chain, REQUEST_BYTES_MAX);
        if (got && handle_control(scsi, tmf))
            continue;
        free(tmf);
        if (got)
            virtio_violation(&scsi->transport.virtio,
                             "a control request of an impossible size or type");
        return false;
    }
    return scsi->waiting_count < QUEUE_SIZE;
}
