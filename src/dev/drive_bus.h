/* SPDX-License-Identifier: MIT
 *
 * A host adapter that drives are attached to, before the machine starts and while it runs.
 *
 *     virtio_scsi_drives.attach(hba, &(struct drive_params){.id = "disk1", .disk = disk}, err);
 *     virtio_scsi_drives.leave(hba, "disk1");       // the guest is told that it goes
 *     ... until virtio_scsi_drives.activity(hba, "disk1", &activity) says that it rests
 *     virtio_scsi_drives.detach(hba, "disk1");      // and then block_free(disk)
 *
 * Drives are named by their ids. Threads: the event loop's, without the adapter's lock;
 * attach(), detach() and insert() while no vCPU runs.
 */
#ifndef TRAPEZE_DEV_DRIVE_BUS_H
#define TRAPEZE_DEV_DRIVE_BUS_H

#include <stdbool.h>
#include <stdint.h>

struct block;
struct device;
struct error;

struct drive_params {
    const char *id;
    struct block *disk; /* borrowed until detach(); NULL: an optical drive without a medium */
    bool optical;
    const char *serial;  /* NULL: none */
    const char *address; /* where on the adapter, as it documents; NULL: the next free place */
    unsigned number; /* 1 + the one that drive_where tells, where it went before; 0: the next free */
};

/* What another adapter has to be told to have its drive at the same place. */
struct drive_where {
    char address[16];
    unsigned number; /* among the adapter's drives, in its saved state */
};

struct drive_activity {
    uint64_t started; /* commands, ever */
    bool busy;        /* some are not finished */
    bool flushed;     /* the last one was what a driver sends when it lets go of a drive */
    /* The driver was told that the drive leaves and has given back the message: Linux does so when
     * it has written out and removed the drive, others at once. Where there are no messages, true.
     */
    bool handled;
    bool watched; /* a driver has been told, or would have been */
};

struct drive_bus {
    bool (*attach)(struct device *hba, const struct drive_params *params, struct error **err);
    void (*leave)(struct device *hba, const char *id);
    void (*activity)(struct device *hba, const char *id, struct drive_activity *activity);
    /* Drains the disk; the drive is no more. */
    void (*detach)(struct device *hba, const char *id);
    /* Optical drives. insert() drains the old medium, which is the caller's again, and closes
     * the tray. NULL: an empty drive. */
    void (*insert)(struct device *hba, const char *id, struct block *disk);
    /* Opens the tray; false: the guest has locked it, and was told that somebody wants to. */
    bool (*eject)(struct device *hba, const char *id);
    void (*where)(struct device *hba, const char *id, struct drive_where *where);
};

extern const struct drive_bus virtio_scsi_drives; /* address: "TARGET[:LUN]" */
extern const struct drive_bus ahci_drives;        /* "PORT" */

#endif
