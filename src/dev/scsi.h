/* SPDX-License-Identifier: MIT
 *
 * SCSI logical units on a struct block: disks (SPC-4, SBC-3) and optical drives with a data
 * disc in them (MMC-5). Host adapters (virtio-scsi, AHCI's ATAPI devices) bring commands:
 *
 *     task->unit = &unit; memcpy(task->cdb, ...); task->in = iov; task->in_size = bytes;
 *     task->done = finished;
 *     scsi_start(task);          // finished(task): task->status, task->sense, task->moved
 *
 * Each unit has one initiator. A unit that reports CHECK CONDITION hands the sense data over
 * with the status; REQUEST SENSE returns it as well if the adapter cannot carry it (`autosense`).
 *
 * Threads: everything is called with the adapter's lock (unit->lock) held, and so is done(),
 * which may be called before scsi_start() returns. Medium changes, and freeing a unit's disk,
 * on the event loop's thread, after the disk has been drained.
 */
#ifndef TRAPEZE_DEV_SCSI_H
#define TRAPEZE_DEV_SCSI_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "block/block.h"

struct state_table;

#define SCSI_CDB_SIZE   16
#define SCSI_SENSE_SIZE 18
#define SCSI_SERIAL_MAX 20
#define SCSI_LUN_MAX    64 /* logical units of a target: 0..63 */

enum scsi_status { SCSI_GOOD = 0x00, SCSI_CHECK_CONDITION = 0x02, SCSI_TASK_ABORTED = 0x40 };

/* Sense data in short: key, additional sense code and qualifier. */
#define SCSI_SENSE(key, code, qualifier)                                                           \
    ((uint32_t)(key) << 16 | (uint32_t)(code) << 8 | (uint32_t)(qualifier))
#define SCSI_POWERED_ON     SCSI_SENSE(6, 0x29, 0x00)
#define SCSI_MEDIUM_CHANGED SCSI_SENSE(6, 0x28, 0x00)
#define SCSI_LUNS_CHANGED   SCSI_SENSE(6, 0x3f, 0x0e)

struct scsi_unit_params {
    struct block *disk; /* NULL: an optical drive without a medium */
    bool optical;
    bool autosense; /* the adapter delivers sense data with the status */
    const char *id; /* "disk3": for messages, and to identify it if there is no serial */
    const char *serial;
    struct log *log;
    pthread_mutex_t *lock;
};

#define SCSI_ATTENTION_MAX 4

struct scsi_unit {
    struct scsi_unit_params params; /* disk: the present one; id, serial: not used */
    char id[32], serial[SCSI_SERIAL_MAX + 1];
    uint32_t block_size; /* bytes */
    uint64_t blocks;     /* of the medium */
    unsigned in_flight;  /* requests at the disk */
    uint64_t started;    /* commands, ever */
    uint8_t last_command;
    bool plugged; /* see scsi_unplug() */
    struct log_limit log_limit;

    /* What commands change. */
    bool write_cache;
    bool stopped;                           /* by START STOP UNIT */
    bool prevented;                         /* the initiator keeps the tray shut */
    bool tray_open;                         /* what lies in it cannot be reached */
    uint8_t media_event;                    /* of GET EVENT STATUS NOTIFICATION, not yet told */
    uint32_t attention[SCSI_ATTENTION_MAX]; /* unit attention conditions, oldest first; 0: none */
    uint32_t kept_sense;                    /* without autosense: what REQUEST SENSE tells */
};

/* Owned by the adapter; lives until done(). */
struct scsi_task {
    struct scsi_unit *unit; /* NULL: there is no such logical unit */
    uint64_t luns;          /* a bit for every logical unit of the target */
    uint8_t cdb[SCSI_CDB_SIZE];
    struct iovec *out, *in; /* the initiator's buffers, from it and to it; changed on the way */
    unsigned out_count, in_count;
    uint64_t out_size, in_size; /* bytes */
    bool cancelled;             /* by the adapter: ends with TASK ABORTED, soon */
    void (*done)(struct scsi_task *task);

    /* The answer. */
    uint8_t status;                 /* enum scsi_status */
    bool overrun;                   /* the buffers are too small: nothing was done */
    uint32_t why;                   /* SCSI_SENSE(); 0 unless CHECK CONDITION */
    uint8_t sense[SCSI_SENSE_SIZE]; /* fixed format */
    uint64_t moved;                 /* bytes of data, in either direction */

    /* Kept by scsi*.c. */
    struct block_request io;
    void (*step)(struct scsi_task *task); /* when io is done */
    struct iovec piece;
    uint8_t *parameters; /* malloc()ed */
    uint64_t at, left;
    uint64_t information; /* the LBA that failed; UINT64_MAX: none */
    bool flush;
};

void scsi_unit_init(struct scsi_unit *unit, const struct scsi_unit_params *params);
/* Power on: the initiator's settings are gone. */
void scsi_unit_reset(struct scsi_unit *unit);
/* The initiator hears of it with its next command. */
void scsi_unit_attention(struct scsi_unit *unit, uint32_t what);

/* Another medium, or none (NULL), in an optical drive; with the lock, the old one drained. */
void scsi_unit_insert(struct scsi_unit *unit, struct block *disk);
/* Someone pressed the eject button. False: the initiator has locked the tray, and was asked. */
bool scsi_unit_press_eject(struct scsi_unit *unit);

void scsi_start(struct scsi_task *task);
/* After several scsi_start(): what waited for more to come goes to the disk. */
void scsi_unplug(struct scsi_unit *unit);

/* The fixed-format sense data of `why`. */
void scsi_put_sense(uint8_t sense[SCSI_SENSE_SIZE], uint32_t why, uint64_t information);

extern const struct state_table scsi_unit_state;

#endif
