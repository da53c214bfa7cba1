/* SPDX-License-Identifier: MIT
 *
 * Between scsi.c (what every unit does), scsi_disk.c and scsi_cd.c. Commands are rows of
 * tables; a row's function ends in scsi_finish(), scsi_fail() or scsi_reply(), at once or when
 * a request to the disk is done.
 */
#ifndef TRAPEZE_DEV_SCSI_INTERNAL_H
#define TRAPEZE_DEV_SCSI_INTERNAL_H

#include <stddef.h>

#include "dev/scsi.h"

enum {
    SCSI_NEEDS_MEDIUM = 1, /* and a unit that is started */
    SCSI_NO_ATTENTION = 2, /* carried out in spite of a unit attention condition */
    SCSI_WRITES = 4        /* refused if the medium is read-only */
};

/* `usage`: the bits of the CDB that mean something, as REPORT SUPPORTED OPERATION CODES tells
 * them; its first byte is the operation code. */
struct scsi_command {
    const char *usage;
    uint8_t length;
    int16_t action; /* service action, -1: the operation has none */
    uint8_t flags;
    void (*run)(struct scsi_task *task);
};
#define SCSI_COMMAND(usage, action, flags, run)                                                    \
    {                                                                                              \
        usage, sizeof(usage) - 1, action, flags, run                                               \
    }

struct scsi_commands {
    const struct scsi_command *rows;
    size_t count;
};
extern const struct scsi_commands scsi_disk_commands, scsi_cd_commands;

#define SENSE_NO_MEDIUM   SCSI_SENSE(2, 0x3a, 0x01)
#define SENSE_TRAY_OPEN   SCSI_SENSE(2, 0x3a, 0x02)
#define SENSE_STOPPED     SCSI_SENSE(2, 0x04, 0x02)
#define SENSE_READ_ERROR  SCSI_SENSE(3, 0x11, 0x00)
#define SENSE_WRITE_ERROR SCSI_SENSE(3, 0x0c, 0x00)
#define SENSE_INTERNAL    SCSI_SENSE(4, 0x44, 0x00)
#define SENSE_LENGTH      SCSI_SENSE(5, 0x1a, 0x00) /* parameter list length error */
#define SENSE_OPCODE      SCSI_SENSE(5, 0x20, 0x00)
#define SENSE_RANGE       SCSI_SENSE(5, 0x21, 0x00)
#define SENSE_CDB_FIELD   SCSI_SENSE(5, 0x24, 0x00)
#define SENSE_NO_UNIT     SCSI_SENSE(5, 0x25, 0x00)
#define SENSE_PARAMETER   SCSI_SENSE(5, 0x26, 0x00)
#define SENSE_NOT_SAVED   SCSI_SENSE(5, 0x39, 0x00)
#define SENSE_TRAY_LOCKED SCSI_SENSE(5, 0x53, 0x02)
#define SENSE_TRACK_MODE  SCSI_SENSE(5, 0x64, 0x00)
#define SENSE_PROTECTED   SCSI_SENSE(7, 0x27, 0x00)
#define SENSE_NO_SPACE    SCSI_SENSE(7, 0x27, 0x07)

void scsi_finish(struct scsi_task *task); /* GOOD */
void scsi_fail(struct scsi_task *task, uint32_t why);
/* Data to the initiator: what of it fits into the allocation length and its buffer; GOOD. */
void scsi_reply(struct scsi_task *task, const uint8_t *data, size_t size, uint64_t allocation);
/* `size` bytes from the initiator, copied. False: it did not send so many (the task has failed). */
bool scsi_take(struct scsi_task *task, void *to, size_t size);

/* Reads or writes blocks, whole, between the medium and the initiator's buffer. */
void scsi_transfer(struct scsi_task *task, enum block_kind kind, uint64_t lba, uint64_t count);
/* Any other request to the disk; task->step follows. The range is checked. */
void scsi_submit(struct scsi_task *task, enum block_kind kind, uint64_t offset, uint64_t length);
/* GOOD, when what was written before is on stable storage. */
void scsi_flush(struct scsi_task *task);
bool scsi_range(struct scsi_task *task, uint64_t lba, uint64_t count); /* false: has failed */

/* What MODE SENSE knows of a page: `current` and the bits that MODE SELECT may change, both
 * with the page's two header bytes. */
#define SCSI_PAGE_MAX 24
struct scsi_page {
    uint8_t code;
    uint8_t size;
    void (*fill)(const struct scsi_unit *unit, uint8_t *page, uint8_t *changeable);
};
const struct scsi_page *scsi_cd_page(size_t index); /* NULL: no more */
const struct scsi_page *scsi_disk_page(size_t index);

/* Data in CDBs and answers is big-endian. */
static inline uint16_t load_be16(const uint8_t *from)
{
    return (uint16_t)(from[0] << 8 | from[1]);
}
static inline uint32_t load_be24(const uint8_t *from)
{
    return (uint32_t)from[0] << 16 | (uint32_t)from[1] << 8 | from[2];
}
static inline uint32_t load_be32(const uint8_t *from)
{
    return (uint32_t)load_be16(from) << 16 | load_be16(from + 2);
}
static inline uint64_t load_be64(const uint8_t *from)
{
    return (uint64_t)load_be32(from) << 32 | load_be32(from + 4);
}
static inline void store_be16(uint8_t *to, uint16_t value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
}
static inline void store_be24(uint8_t *to, uint32_t value)
{
    to[0] = (uint8_t)(value >> 16);
    store_be16(to + 1, (uint16_t)value);
}
static inline void store_be32(uint8_t *to, uint32_t value)
{
    store_be16(to, (uint16_t)(value >> 16));
    store_be16(to + 2, (uint16_t)value);
}
static inline void store_be64(uint8_t *to, uint64_t value)
{
    store_be32(to, (uint32_t)(value >> 32));
    store_be32(to + 4, (uint32_t)value);
}

#endif
