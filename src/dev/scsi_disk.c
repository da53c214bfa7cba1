/* SPDX-License-Identifier: MIT
 *
 * Direct-access block devices (SBC-3): reading, writing, flushing and giving space back.
 *
 * Logical blocks are 512 bytes. What UNMAP leaves behind is not promised (LBPRZ is 0); WRITE
 * SAME of zeros reads as zeros, and gives space back if its UNMAP bit says so.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "dev/scsi_internal.h"

#define UNMAP_DESCRIPTORS 256u /* as VPD page B0h says, like the next */
#define RANGE_BLOCKS_MAX  UINT64_C(0x400000)
#define PATTERN_BYTES     (UINT64_C(256) << 10)

/* Where and how many: by the CDB's size, which its group code tells (SPC-4, 4.2.5.1). */
static uint64_t lba_of(const uint8_t *cdb)
{
    switch (cdb[0] >> 5) {
    case 0:
        return load_be24(cdb + 1) & 0x1fffff;
    case 4:
        return load_be64(cdb + 2);
    default:
        return load_be32(cdb + 2);
    }
}

static uint32_t count_of(const uint8_t *cdb)
{
    switch (cdb[0] >> 5) {
    case 0:
        return cdb[4] == 0 ? 256 : cdb[4];
    case 1:
    case 2:
        return load_be16(cdb + 7);
    case 4:
        return load_be32(cdb + 10);
    default:
        return load_be32(cdb + 6);
    }
}

/* RDPROTECT, WRPROTECT, VRPROTECT: there is no protection information here. */
static bool wants_protection(const uint8_t *cdb)
{
    return cdb[0] >> 5 != 0 && (cdb[1] & 0xe0) != 0;
}

static void read_blocks(struct scsi_task *task)
{
    if (wants_protection(task->cdb))
        scsi_fail(task, SENSE_CDB_FIELD);
    else
        scsi_transfer(task, BLOCK_READ, lba_of(task->cdb), count_of(task->cdb));
}

static void write_blocks(struct scsi_task *task)
{
    const uint8_t *cdb = task->cdb;
    if (wants_protection(cdb)) {
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    task->flush = cdb[0] >> 5 != 0 && (cdb[1] & 0x08) != 0; /* FUA */
    scsi_transfer(task, BLOCK_WRITE, lba_of(cdb), count_of(cdb));
}

/* WRITE AND VERIFY: the byte check would compare with what was just written. */
static void write_and_verify(struct scsi_task *task)
{
    const uint8_t *cdb = task->cdb;
    if (wants_protection(cdb) || (cdb[1] & 0x06) == 0x06 || (cdb[1] & 0x06) == 0x04) {
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    task->flush = true;
    scsi_transfer(task, BLOCK_WRITE, lba_of(cdb), count_of(cdb));
}

/* Without a byte check: the blocks exist. */
static void verify(struct scsi_task *task)
{
    const uint8_t *cdb = task->cdb;
    if (wants_protection(cdb) || (cdb[1] & 0x06) != 0)
        scsi_fail(task, SENSE_CDB_FIELD);
    else if (scsi_range(task, lba_of(cdb), count_of(cdb)))
        scsi_finish(task);
}

/* The end of what is written in another way than scsi_transfer() does. */
static void written(struct scsi_task *task)
{
    if (task->unit->write_cache)
        scsi_finish(task);
    else
        scsi_flush(task);
}

static void synchronize(struct scsi_task *task)
{
    if (scsi_range(task, lba_of(task->cdb), count_of(task->cdb)))
        scsi_flush(task);
}

static void read_capacity_10(struct scsi_task *task)
{
    uint8_t data[8];
    uint64_t last = task->unit->blocks - 1;
    store_be32(data, last <= UINT32_MAX ? (uint32_t)last : UINT32_MAX);
    store_be32(data + 4, task->unit->block_size);
    scsi_reply(task, data, sizeof(data), sizeof(data));
}

static void read_capacity_16(struct scsi_task *task)
{
    uint8_t data[32] = {0};
    store_be64(data, task->unit->blocks - 1);
    store_be32(data + 8, task->unit->block_size);
    if (block_can_discard(task->unit->params.disk))
        data[14] = 0x80; /* LBPME */
    scsi_reply(task, data, sizeof(data), load_be32(task->cdb + 10));
}

/* SBC-3, 5.25: what is cached is written before the medium stops. */
static void start_stop(struct scsi_task *task)
{
    bool start = (task->cdb[4] & 0x01) != 0, no_flush = (task->cdb[4] & 0x04) != 0;
    bool power_condition = task->cdb[4] >> 4 != 0; /* changes nothing here */
    if (!power_condition)
        task->unit->stopped = !start;
    if (power_condition || start || no_flush)
        scsi_finish(task);
    else
        scsi_flush(task);
}

/* A single initiator reserves nothing from anybody. */
static void reserve(struct scsi_task *task)
{
    scsi_finish(task);
}

/* --- UNMAP --- */

/* task->at: the next descriptor, task->left: behind the last one. */
static void unmap_next(struct scsi_task *task)
{
    while (task->at < task->left) {
        const uint8_t *descriptor = task->parameters + task->at;
        uint64_t count = load_be32(descriptor + 8);
        task->at += 16;
        if (count > 0) {
            uint32_t block = task->unit->block_size;
            scsi_submit(task, BLOCK_DISCARD, load_be64(descriptor) * block, count * block);
            scsi_unplug(task->unit);
            return;
        }
    }
    scsi_finish(task);
}

static void unmap(struct scsi_task *task)
{
    size_t length = load_be16(task->cdb + 7);
    if ((task->cdb[1] & 1) != 0 || !block_can_discard(task->unit->params.disk)) { /* ANCHOR */
        scsi_fail(task,
                  block_can_discard(task->unit->params.disk) ? SENSE_CDB_FIELD : SENSE_OPCODE);
        return;
    }
    if (length == 0) {
        scsi_finish(task);
        return;
    }
    if (length < 8) {
        scsi_fail(task, SENSE_LENGTH);
        return;
    }
    task->parameters = alloc_zeroed(1, length);
    if (!scsi_take(task, task->parameters, length))
        return;
    size_t bytes = load_be16(task->parameters + 2) & ~(size_t)15;
    if (bytes > length - 8)
        bytes = (length - 8) & ~(size_t)15;
    if (bytes / 16 > UNMAP_DESCRIPTORS) {
        scsi_fail(task, SENSE_PARAMETER);
        return;
    }
    uint64_t total = 0;
    for (size_t at = 8; at < 8 + bytes; at += 16) {
        uint32_t count = load_be32(task->parameters + at + 8);
        if (!scsi_range(task, load_be64(task->parameters + at), count))
            return;
        total += count;
    }
    if (total > RANGE_BLOCKS_MAX) {
        scsi_fail(task, SENSE_PARAMETER);
        return;
    }
    task->io.iov = NULL;
    task->io.iov_count = 0;
    task->at = 8;
    task->left = 8 + bytes;
    task->step = unmap_next;
    unmap_next(task);
}

/* --- WRITE SAME --- */

/* Blocks that are not zero: the pattern many times over, task->left bytes from task->at on. */
static void same_next(struct scsi_task *task)
{
    if (task->left == 0) {
        written(task);
        return;
    }
    uint64_t size = task->left < PATTERN_BYTES ? task->left : PATTERN_BYTES;
    task->piece = (struct iovec){task->parameters, (size_t)size};
    task->io.iov = &task->piece;
    task->io.iov_count = 1;
    uint64_t offset = task->at;
    task->at += size;
    task->left -= size;
    scsi_submit(task, BLOCK_WRITE, offset, size);
    scsi_unplug(task->unit);
}

static bool is_zero(const uint8_t *data, size_t size)
{
    while (size > 0 && *data == 0)
        data++, size--;
    return size == 0;
}

static void write_same(struct scsi_task *task)
{
    const uint8_t *cdb = task->cdb;
    uint64_t lba = lba_of(cdb), count = count_of(cdb);
    uint32_t block = task->unit->block_size;
    uint8_t pattern[BLOCK_SECTOR] = {0};
    bool has_data = cdb[0] != 0x93 || (cdb[1] & 1) == 0; /* NDOB */
    bool give_back = (cdb[1] & 0x08) != 0;
    assert(block == sizeof(pattern));
    if (wants_protection(cdb) || (cdb[1] & 0x10) != 0 || count == 0 || count > RANGE_BLOCKS_MAX ||
        (give_back && !block_can_discard(task->unit->params.disk))) {
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    if (!scsi_range(task, lba, count) || (has_data && !scsi_take(task, pattern, block)))
        return;
    task->io.iov = NULL;
    task->io.iov_count = 0;
    if (is_zero(pattern, block)) {
        task->io.unmap = give_back;
        task->step = written;
        scsi_submit(task, BLOCK_WRITE_ZEROES, lba * block, count * block);
        return;
    }
    task->at = lba * block;
    task->left = count * block;
    size_t room = (size_t)(task->left < PATTERN_BYTES ? task->left : PATTERN_BYTES);
    task->parameters = alloc_zeroed(1, room);
    for (size_t at = 0; at < room; at += block)
        memcpy(task->parameters + at, pattern, block);
    task->step = same_next;
    same_next(task);
}

/* --- tables --- */

#define READS  SCSI_NEEDS_MEDIUM
#define WRITES (SCSI_NEEDS_MEDIUM | SCSI_WRITES)

static const struct scsi_command rows[] = {
    SCSI_COMMAND("\x08\x1f\xff\xff\xff\x00", -1, READS, read_blocks),
    SCSI_COMMAND("\x28\x18\xff\xff\xff\xff\x00\xff\xff\x00", -1, READS, read_blocks),
    SCSI_COMMAND("\xa8\x18\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", -1, READS, read_blocks),
    SCSI_COMMAND("\x88\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", -1, READS,
                 read_blocks),
    SCSI_COMMAND("\x0a\x1f\xff\xff\xff\x00", -1, WRITES, write_blocks),
    SCSI_COMMAND("\x2a\x18\xff\xff\xff\xff\x00\xff\xff\x00", -1, WRITES, write_blocks),
    SCSI_COMMAND("\xaa\x18\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", -1, WRITES, write_blocks),
    SCSI_COMMAND("\x8a\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", -1, WRITES,
                 write_blocks),
    SCSI_COMMAND("\x2e\x12\xff\xff\xff\xff\x00\xff\xff\x00", -1, WRITES, write_and_verify),
    SCSI_COMMAND("\xae\x12\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", -1, WRITES, write_and_verify),
    SCSI_COMMAND("\x8e\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", -1, WRITES,
                 write_and_verify),
    SCSI_COMMAND("\x2f\x10\xff\xff\xff\xff\x00\xff\xff\x00", -1, READS, verify),
    SCSI_COMMAND("\xaf\x10\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", -1, READS, verify),
    SCSI_COMMAND("\x8f\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", -1, READS,
                 verify),
    SCSI_COMMAND("\x35\x06\xff\xff\xff\xff\x00\xff\xff\x00", -1, READS, synchronize),
    SCSI_COMMAND("\x91\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", -1, READS,
                 synchronize),
    SCSI_COMMAND("\x25\x00\x00\x00\x00\x00\x00\x00\x00\x00", -1, READS, read_capacity_10),
    SCSI_COMMAND("\x9e\x1f\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00", 0x10, READS,
                 read_capacity_16),
    SCSI_COMMAND("\x42\x00\x00\x00\x00\x00\x00\xff\xff\x00", -1, WRITES, unmap),
    SCSI_COMMAND("\x41\x08\xff\xff\xff\xff\x00\xff\xff\x00", -1, WRITES, write_same),
    SCSI_COMMAND("\x93\x09\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", -1, WRITES,
                 write_same),
    SCSI_COMMAND("\x1b\x01\x00\x00\xf5\x00", -1, 0, start_stop),
    SCSI_COMMAND("\x16\x00\x00\x00\x00\x00", -1, 0, reserve),
    SCSI_COMMAND("\x17\x00\x00\x00\x00\x00", -1, 0, reserve),
};
const struct scsi_commands scsi_disk_commands = {rows, ARRAY_SIZE(rows)};

static void page_recovery(const struct scsi_unit *unit, uint8_t *page, uint8_t *changeable)
{
    (void)unit, (void)changeable;
    page[2] = 0x80; /* AWRE: blocks are reassigned by themselves */
}

static void page_caching(const struct scsi_unit *unit, uint8_t *page, uint8_t *changeable)
{
    page[2] = unit->write_cache ? 0x04 : 0;
    changeable[2] = 0x04;
}

static void page_empty(const struct scsi_unit *unit, uint8_t *page, uint8_t *changeable)
{
    (void)unit, (void)page, (void)changeable;
}

static const struct scsi_page pages[] = {
    {0x01, 12, page_recovery},
    {0x08, 20, page_caching},
    {0x0a, 12, page_empty}, /* control */
    {0x1c, 12, page_empty}, /* informational exceptions: none are reported */
};

const struct scsi_page *scsi_disk_page(size_t index)
{
    return index < ARRAY_SIZE(pages) ? &pages[index] : NULL;
}
