/* SPDX-License-Identifier: MIT
 *
 * The drives of the virtio SCSI adapter: where they are, how they come and go, and the events
 * that tell the driver (virtio 1.2, 5.6.6.3).
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "dev/virtio_scsi_internal.h"

/* Events (5.6.6.3). */
enum { EVENT_LUN = 4, EVENT_REASON = 12 };
enum { EVENT_NONE = 0, EVENT_TRANSPORT_RESET = 1, EVENT_PARAMETERS = 3 };
enum { REASON_RESCAN = 1, REASON_REMOVED = 2 };
#define EVENTS_MISSED UINT32_C(0x80000000)

/* --- who is there --- */

struct scsi_unit *vscsi_find_unit(struct virtio_scsi *scsi, unsigned target, unsigned lun)
{
    for (unsigned i = 0; i < DRIVE_MAX; i++)
        if (scsi->places[i].used && scsi->places[i].target == target && scsi->places[i].lun == lun)
            return &scsi->units[i];
    return NULL;
}

uint64_t vscsi_luns_of(const struct virtio_scsi *scsi, unsigned target)
{
    uint64_t luns = 0;
    for (unsigned i = 0; i < DRIVE_MAX; i++)
        if (scsi->places[i].used && scsi->places[i].target == target && !scsi->places[i].leaving)
            luns |= UINT64_C(1) << scsi->places[i].lun;
    return luns;
}

bool vscsi_has_target(const struct virtio_scsi *scsi, unsigned target)
{
    for (unsigned i = 0; i < DRIVE_MAX; i++)
        if (scsi->places[i].used && scsi->places[i].target == target)
            return true;
    return false;
}

/* --- events --- */

static bool can_take_events(const struct virtio_scsi *scsi)
{
    const struct virtio *virtio = &scsi->transport.virtio;
    return virtio->active && !virtio->quiesced && virtio->dma;
}

/* Where in guest memory the driver reads it, NO_NOTICE: there was no buffer for it. */
static uint64_t send_event(struct virtio_scsi *scsi, uint32_t event,
                           const struct vscsi_place *place, uint32_t reason)
{
    struct virtqueue *queue = &scsi->transport.virtio.queues[QUEUE_EVENT];
    struct virtq_chain *chain = alloc_zeroed(1, sizeof(*chain));
    uint8_t data[VSCSI_EVENT_BYTES] = {0};
    uint64_t gpa = NO_NOTICE;
    bool sent = can_take_events(scsi) && virtqueue_pop(queue, chain, REQUEST_BYTES_MAX);
    if (sent) {
        store_le32(data, event | (scsi->events_missed ? EVENTS_MISSED : 0));
        store_le32(data + EVENT_REASON, reason);
        if (place != NULL) {
            data[EVENT_LUN] = 1;
            data[EVENT_LUN + 1] = place->target;
            data[EVENT_LUN + 3] = place->lun;
        }
        uint32_t written = (uint32_t)virtq_write(chain, 0, data, sizeof(data));
        if (written > 0)
            gpa = chain->range[chain->out_count].gpa;
        virtqueue_push(queue, chain, written);
        virtqueue_signal(queue);
    }
    scsi->events_missed = !sent;
    free(chain);
    return gpa;
}

/* Whether the buffer at `gpa` is among those that the driver has ready for events. */
static bool is_back(struct virtio_scsi *scsi, uint64_t gpa)
{
    struct virtqueue *queue = &scsi->transport.virtio.queues[QUEUE_EVENT];
    struct virtq_chain *chains = alloc_zeroed(QUEUE_SIZE, sizeof(*chains));
    bool found = false;
    unsigned count = 0;
    while (!found && count < QUEUE_SIZE && can_take_events(scsi) &&
           virtqueue_pop(queue, &chains[count], REQUEST_BYTES_MAX)) {
        const struct virtq_chain *chain = &chains[count++];
        found = chain->in_count > 0 && chain->range[chain->out_count].gpa == gpa;
    }
    while (count > 0)
        virtqueue_unpop(queue, &chains[--count]);
    free(chains);
    return found;
}

/* A unit came, went or changed; a driver that wants to know, and cannot be told now, is told
 * later that it missed something. Returns as send_event() does. */
static uint64_t tell(struct virtio_scsi *scsi, uint64_t feature, uint32_t event,
                     const struct vscsi_place *place, uint32_t reason)
{
    if (!scsi->transport.virtio.active || !virtio_has(&scsi->transport.virtio, feature))
        return NO_NOTICE;
    return send_event(scsi, event, place, reason);
}

/* That a unit leaves is not to be missed: it is said again until there is a buffer. */
static void tell_leaving(struct virtio_scsi *scsi, struct vscsi_place *place)
{
    bool missed = scsi->events_missed;
    place->notice = tell(scsi, VIRTIO_SCSI_F_HOTPLUG, EVENT_TRANSPORT_RESET, place, REASON_REMOVED);
    place->untold = place->notice == NO_NOTICE && scsi->transport.virtio.active &&
                    virtio_has(&scsi->transport.virtio, VIRTIO_SCSI_F_HOTPLUG);
    if (place->untold)
        scsi->events_missed = missed;
}

void vscsi_tell_missed(struct virtio_scsi *scsi)
{
    for (unsigned i = 0; i < DRIVE_MAX; i++)
        if (scsi->places[i].used && scsi->places[i].untold)
            tell_leaving(scsi, &scsi->places[i]);
    if (scsi->events_missed)
        (void)send_event(scsi, EVENT_NONE, NULL, 0);
}

/* --- drives --- */

/* Other units of a target: their initiator hears there, too, that a unit came or went. */
static void luns_changed(struct virtio_scsi *scsi, const struct vscsi_place *place)
{
    for (unsigned i = 0; i < DRIVE_MAX; i++)
        if (scsi->places[i].used && &scsi->places[i] != place &&
            scsi->places[i].target == place->target)
            scsi_unit_attention(&scsi->units[i], SCSI_LUNS_CHANGED);
}

static struct virtio_scsi *scsi_of_device(struct device *device)
{
    return CONTAINER_OF(device, struct virtio_scsi, transport.device);
}

static unsigned drive_index(const struct virtio_scsi *scsi, const char *id)
{
    unsigned i = 0;
    while (!scsi->places[i].used || strcmp(scsi->units[i].id, id) != 0)
        i++, assert(i < DRIVE_MAX);
    return i;
}

static bool parse_address(const char *text, struct vscsi_place *place)
{
    char *end;
    unsigned long target = strtoul(text, &end, 10), lun = 0;
    if (end == text || text[0] < '0' || text[0] > '9')
        return false;
    if (*end == ':') {
        const char *second = end + 1;
        lun = strtoul(second, &end, 10);
        if (end == second || second[0] < '0' || second[0] > '9')
            return false;
    }
    place->target = (uint8_t)target;
    place->lun = (uint8_t)lun;
    return *end == '\0' && target <= TARGET_MAX && lun < SCSI_LUN_MAX;
}

static bool choose_place(const struct virtio_scsi *scsi, const char *address,
                         struct vscsi_place *place, struct error **err)
{
    if (address == NULL) {
        place->lun = 0;
        while (place->target <= TARGET_MAX && vscsi_has_target(scsi, place->target))
            place->target++;
        return place->target <= TARGET_MAX ||
               error_set(err, ERROR_USAGE, "the SCSI adapter has no free target");
    }
    if (!parse_address(address, place)) {
        error_set(err, ERROR_USAGE, "'%s' is no address on the SCSI adapter", address);
        error_hint(err, "It is TARGET or TARGET:LUN, from 0 to %u and from 0 to %u", TARGET_MAX,
                   SCSI_LUN_MAX - 1);
        return false;
    }
    for (unsigned i = 0; i < DRIVE_MAX; i++)
        if (scsi->places[i].used && scsi->places[i].target == place->target &&
            scsi->places[i].lun == place->lun)
            return error_set(err, ERROR_USAGE, "SCSI address %s is taken by '%s'", address,
                             scsi->units[i].id);
    return true;
}

static bool drives_attach(struct device *device, const struct drive_params *params,
                          struct error **err)
{
    struct virtio_scsi *scsi = scsi_of_device(device);
    struct vscsi_place place = {.used = true, .notice = NO_NOTICE};
    unsigned i = params->number > 0 ? params->number - 1 : 0;
    pthread_mutex_lock(&device->lock);
    while (i < DRIVE_MAX && scsi->places[i].used)
        i++;
    bool good = i < DRIVE_MAX || error_set(err, ERROR_USAGE,
                                           "the SCSI adapter has %u drives, "
                                           "and no room for more",
                                           DRIVE_MAX);
    if (good && (good = choose_place(scsi, params->address, &place, err))) {
        const struct scsi_unit_params unit = {.disk = params->disk,
                                              .optical = params->optical,
                                              .autosense = true,
                                              .id = params->id,
                                              .serial = params->serial,
                                              .log = device->env->log,
                                              .lock = &device->lock};
        scsi_unit_init(&scsi->units[i], &unit);
        scsi->places[i] = place;
        luns_changed(scsi, &scsi->places[i]);
        (void)tell(scsi, VIRTIO_SCSI_F_HOTPLUG, EVENT_TRANSPORT_RESET, &place, REASON_RESCAN);
    }
    pthread_mutex_unlock(&device->lock);
    return good;
}

static void drives_leave(struct device *device, const char *id)
{
    struct virtio_scsi *scsi = scsi_of_device(device);
    pthread_mutex_lock(&device->lock);
    struct vscsi_place *place = &scsi->places[drive_index(scsi, id)];
    if (!place->leaving) {
        luns_changed(scsi, place);
        tell_leaving(scsi, place);
    }
    place->leaving = true;
    pthread_mutex_unlock(&device->lock);
}

static void drives_activity(struct device *device, const char *id, struct drive_activity *activity)
{
    struct virtio_scsi *scsi = scsi_of_device(device);
    pthread_mutex_lock(&device->lock);
    unsigned i = drive_index(scsi, id);
    const struct scsi_unit *unit = &scsi->units[i];
    struct vscsi_place *place = &scsi->places[i];
    if (place->untold)
        tell_leaving(scsi, place);
    else if (place->notice != NO_NOTICE && is_back(scsi, place->notice))
        place->notice = NO_NOTICE;
    *activity = (struct drive_activity){
        .started = unit->started,
        .busy = unit->in_flight > 0,
        .flushed = unit->last_command == 0x35 || unit->last_command == 0x91,
        .handled = !place->untold && place->notice == NO_NOTICE,
        .watched = scsi->transport.virtio.active &&
                   virtio_has(&scsi->transport.virtio, VIRTIO_SCSI_F_HOTPLUG),
    };
    pthread_mutex_unlock(&device->lock);
}

/* Nothing of the unit's is at its disk when this returns. */
void vscsi_drain(struct device *device, struct scsi_unit *unit)
{
    struct block *disk = unit->params.disk;
    if (disk == NULL)
        return;
    block_cancel(disk); /* what is held for want of space, say */
    block_drain(disk);
    block_cancel(disk);
    pthread_mutex_lock(&device->lock);
    assert(unit->in_flight == 0);
    pthread_mutex_unlock(&device->lock);
}

static void drives_detach(struct device *device, const char *id)
{
    struct virtio_scsi *scsi = scsi_of_device(device);
    pthread_mutex_lock(&device->lock);
    unsigned i = drive_index(scsi, id);
    if (!scsi->places[i].leaving)
        luns_changed(scsi, &scsi->places[i]);
    scsi->places[i].used = scsi->places[i].leaving = false; /* no more tasks come */
    pthread_mutex_unlock(&device->lock);
    vscsi_drain(device, &scsi->units[i]);
    pthread_mutex_lock(&device->lock);
    scsi->units[i] = (struct scsi_unit){.blocks = 0};
    pthread_mutex_unlock(&device->lock);
}

static void drives_insert(struct device *device, const char *id, struct block *disk)
{
    struct virtio_scsi *scsi = scsi_of_device(device);
    pthread_mutex_lock(&device->lock);
    unsigned i = drive_index(scsi, id);
    struct scsi_unit *unit = &scsi->units[i];
    unit->tray_open = true; /* no more reads come */
    pthread_mutex_unlock(&device->lock);
    vscsi_drain(device, unit);
    pthread_mutex_lock(&device->lock);
    scsi_unit_insert(unit, disk);
    (void)tell(scsi, VIRTIO_SCSI_F_CHANGE, EVENT_PARAMETERS, &scsi->places[i], 0x28);
    pthread_mutex_unlock(&device->lock);
}

static bool drives_eject(struct device *device, const char *id)
{
    struct virtio_scsi *scsi = scsi_of_device(device);
    pthread_mutex_lock(&device->lock);
    bool out = scsi_unit_press_eject(&scsi->units[drive_index(scsi, id)]);
    pthread_mutex_unlock(&device->lock);
    return out;
}

static void drives_where(struct device *device, const char *id, struct drive_where *where)
{
    struct virtio_scsi *scsi = scsi_of_device(device);
    pthread_mutex_lock(&device->lock);
    unsigned i = drive_index(scsi, id);
    snprintf(where->address, sizeof(where->address), "%u:%u", scsi->places[i].target,
             scsi->places[i].lun);
    where->number = i;
    pthread_mutex_unlock(&device->lock);
}

const struct drive_bus virtio_scsi_drives = {
    drives_attach, drives_leave, drives_activity, drives_detach,
    drives_insert, drives_eject, drives_where,
};
