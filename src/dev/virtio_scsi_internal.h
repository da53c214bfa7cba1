/* SPDX-License-Identifier: MIT
 *
 * Between virtio_scsi.c (requests, configuration, life), virtio_scsi_tmf.c (task management) and
 * virtio_scsi_drives.c (drives that come and go, events). Lock: the device's.
 */
#ifndef TRAPEZE_DEV_VIRTIO_SCSI_INTERNAL_H
#define TRAPEZE_DEV_VIRTIO_SCSI_INTERNAL_H

#include "base/state.h"
#include "bus/virtio_transport.h"
#include "dev/drive_bus.h"
#include "dev/scsi.h"

enum { QUEUE_CONTROL, QUEUE_EVENT, QUEUE_REQUEST }; /* and those behind it */

#define QUEUE_SIZE        256u
#define REQUEST_QUEUES    8u
#define IN_FLIGHT_MAX     512u
#define DRIVE_MAX         16u
#define VSCSI_EVENT_BYTES 16u
#define TARGET_MAX        15u
#define REQUEST_BYTES_MAX UINT32_MAX
#define PARAMETER_MAX     252u /* bytes of sense data and CDB that a driver may ask for */

#define VIRTIO_SCSI_F_HOTPLUG (UINT64_C(1) << 1)
#define VIRTIO_SCSI_F_CHANGE  (UINT64_C(1) << 2)

/* Configuration space (5.6.4). */
enum {
    CONFIG_QUEUES = 0,
    CONFIG_SEG_MAX = 4,
    CONFIG_MAX_SECTORS = 8,
    CONFIG_CMD_PER_LUN = 12,
    CONFIG_EVENT_SIZE = 16,
    CONFIG_SENSE_SIZE = 20,
    CONFIG_CDB_SIZE = 24,
    CONFIG_MAX_CHANNEL = 28,
    CONFIG_MAX_TARGET = 30,
    CONFIG_MAX_LUN = 32,
    CONFIG_BYTES = 36
};

enum {
    RESPONSE_OK = 0,
    RESPONSE_OVERRUN = 1,
    RESPONSE_ABORTED = 2,
    RESPONSE_BAD_TARGET = 3,
    RESPONSE_RESET = 4,
    RESPONSE_FAILURE = 9,
    RESPONSE_SUCCEEDED = 10,
    RESPONSE_REJECTED = 11,
    RESPONSE_INCORRECT_LUN = 12
};

enum vscsi_tmf_kind {
    TMF_ABORT_TASK,
    TMF_ABORT_TASK_SET,
    TMF_CLEAR_ACA,
    TMF_CLEAR_TASK_SET,
    TMF_NEXUS_RESET,
    TMF_UNIT_RESET,
    TMF_QUERY_TASK,
    TMF_QUERY_TASK_SET
};

#define NO_NOTICE UINT64_MAX

struct vscsi_place {
    bool used, leaving;
    bool untold; /* that it leaves: there was no buffer for the event yet */
    uint8_t target, lun;
    uint64_t notice; /* gpa of the event that said it leaves, until the driver gives it back */
};

struct vscsi_request {
    struct scsi_task task;
    struct virtio_scsi *scsi;
    struct virtqueue *queue;
    uint8_t target, lun;
    uint8_t abort_response; /* what a cancelled task answers */
    bool in;                /* data goes to the driver */
    bool parked;            /* came back from the disk in a pause; starts again after it */
    uint32_t sense_size;    /* room for sense data in the response */
    uint64_t id, data_size;
    uint64_t sequence;
    struct vscsi_request *next, *earlier; /* in flight, or spare (next) */
    struct iovec data[VIRTQ_SEGMENT_MAX];
    struct virtq_chain chain;
};

/* A task management function that waits for tasks to end. */
struct vscsi_tmf {
    enum vscsi_tmf_kind kind;
    uint8_t target, lun;
    uint64_t id;
    uint64_t sequence; /* tasks from here on are none of its business */
    struct vscsi_tmf *next;
    struct virtq_chain chain;
};

struct virtio_scsi {
    struct virtio_transport transport; /* first */
    struct vscsi_place places[DRIVE_MAX];
    struct scsi_unit units[DRIVE_MAX]; /* at the same index */
    bool events_missed;
    unsigned in_flight;
    uint64_t sequence;
    uint32_t stalled; /* queues in which requests were left: too many in flight */
    bool serving;     /* requests are being taken from a queue */
    struct vscsi_request *flight, *spare;
    struct vscsi_tmf *waiting;
    unsigned waiting_count;
    uint16_t saved_places[DRIVE_MAX]; /* for the state table: target and LUN */
    struct state_buffer parked;       /* ... requests, to be saved or just restored */
};

/* virtio_scsi_drives.c */
struct scsi_unit *vscsi_find_unit(struct virtio_scsi *scsi, unsigned target, unsigned lun);
uint64_t vscsi_luns_of(const struct virtio_scsi *scsi, unsigned target);
bool vscsi_has_target(const struct virtio_scsi *scsi, unsigned target);
/* Nothing of the unit's is at its disk when this returns. Event-loop thread, without the lock. */
void vscsi_drain(struct device *device, struct scsi_unit *unit);
/* Tells the driver what it could not be told before, if it has room now. */
void vscsi_tell_missed(struct virtio_scsi *scsi);

/* virtio_scsi_tmf.c */
/* An address of 5.6.6.1. False: another one, at which nothing is. */
bool vscsi_parse_lun(const uint8_t *address, uint8_t *target, uint8_t *lun);
bool vscsi_notify_control(struct virtio_scsi *scsi, struct virtqueue *queue);
/* A task has ended: answers the functions that waited for it. */
void vscsi_finish_tmfs(struct virtio_scsi *scsi);

#endif
