/* SPDX-License-Identifier: MIT
 *
 * See scsi.h. What every logical unit does (SPC-4), and how commands reach the disk. A command
 * is looked up in the table of its unit's kind, then in the one here.
 */
#include "dev/scsi.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/state.h"
#include "dev/scsi_internal.h"

#define VENDOR "TRAPEZE "

/* --- the end of a task --- */

void scsi_put_sense(uint8_t sense[SCSI_SENSE_SIZE], uint32_t why, uint64_t information)
{
    memset(sense, 0, SCSI_SENSE_SIZE);
    sense[0] = 0x70; /* current error, fixed format (SPC-4, 4.5.3) */
    sense[2] = (uint8_t)(why >> 16);
    sense[7] = SCSI_SENSE_SIZE - 8;
    sense[12] = (uint8_t)(why >> 8);
    sense[13] = (uint8_t)why;
    if (information <= UINT32_MAX) {
        sense[0] |= 0x80;
        store_be32(sense + 3, (uint32_t)information);
    }
}

static void end(struct scsi_task *task, uint8_t status)
{
    free(task->parameters);
    task->parameters = NULL;
    task->status = status;
    task->done(task);
}

void scsi_finish(struct scsi_task *task)
{
    end(task, SCSI_GOOD);
}

void scsi_fail(struct scsi_task *task, uint32_t why)
{
    task->why = why;
    scsi_put_sense(task->sense, why, task->information);
    if (task->unit != NULL && !task->unit->params.autosense)
        task->unit->kept_sense = why;
    end(task, SCSI_CHECK_CONDITION);
}

void scsi_reply(struct scsi_task *task, const uint8_t *data, size_t size, uint64_t allocation)
{
    uint64_t left = size < allocation ? size : allocation;
    for (unsigned i = 0; i < task->in_count && left > 0; i++) {
        size_t part = left < task->in[i].iov_len ? (size_t)left : task->in[i].iov_len;
        memcpy(task->in[i].iov_base, data + task->moved, part);
        task->moved += part;
        left -= part;
    }
    scsi_finish(task);
}

bool scsi_take(struct scsi_task *task, void *to, size_t size)
{
    size_t got = 0;
    for (unsigned i = 0; i < task->out_count && got < size; i++) {
        size_t part = size - got < task->out[i].iov_len ? size - got : task->out[i].iov_len;
        memcpy((uint8_t *)to + got, task->out[i].iov_base, part);
        got += part;
    }
    if (got == size) {
        task->moved = size;
        return true;
    }
    task->overrun = true;
    scsi_fail(task, SENSE_LENGTH);
    return false;
}

/* --- requests to the disk --- */

static uint32_t sense_of(enum block_kind kind, int error)
{
    if (error == ENOSPC)
        return SENSE_NO_SPACE;
    if (error == ENOTSUP || error == ENOMEM)
        return SENSE_INTERNAL;
    return kind == BLOCK_READ ? SENSE_READ_ERROR : SENSE_WRITE_ERROR;
}

static void io_done(struct block_request *io, int error)
{
    static const char *const verbs[] = {"read", "write", "flush", "discard", "write-zeroes"};
    struct scsi_task *task = CONTAINER_OF(io, struct scsi_task, io);
    struct scsi_unit *unit = task->unit;
    pthread_mutex_t *lock = unit->params.lock;
    if (error != 0 && error != ECANCELED)
        log_guest(unit->params.log, &unit->log_limit, "%s: %s at %llu failed: %s", unit->id,
                  verbs[io->kind], (unsigned long long)io->offset, strerror(error));
    pthread_mutex_lock(lock);
    unit->in_flight--;
    if (error == ECANCELED || task->cancelled) {
        end(task, SCSI_TASK_ABORTED);
    } else if (error != 0) {
        if (io->kind != BLOCK_FLUSH)
            task->information = io->offset / unit->block_size;
        scsi_fail(task, sense_of(io->kind, error));
    } else {
        task->step(task);
    }
    pthread_mutex_unlock(lock);
}

void scsi_submit(struct scsi_task *task, enum block_kind kind, uint64_t offset, uint64_t length)
{
    struct scsi_unit *unit = task->unit;
    task->io.kind = kind;
    task->io.offset = offset;
    task->io.length = length;
    task->io.done = io_done;
    unit->in_flight++;
    if (!unit->plugged) {
        unit->plugged = true;
        block_plug(unit->params.disk);
    }
    block_submit(unit->params.disk, &task->io);
}

void scsi_unplug(struct scsi_unit *unit)
{
    if (unit->plugged)
        block_unplug(unit->params.disk);
    unit->plugged = false;
}

bool scsi_range(struct scsi_task *task, uint64_t lba, uint64_t count)
{
    if (range_within(lba, count, task->unit->blocks))
        return true;
    task->information = lba;
    scsi_fail(task, SENSE_RANGE);
    return false;
}

void scsi_flush(struct scsi_task *task)
{
    if (block_read_only(task->unit->params.disk)) {
        scsi_finish(task);
        return;
    }
    task->io.iov = NULL;
    task->io.iov_count = 0;
    task->step = scsi_finish;
    scsi_submit(task, BLOCK_FLUSH, 0, 0);
    scsi_unplug(task->unit);
}

static void transferred(struct scsi_task *task)
{
    task->moved = task->left;
    if (task->flush)
        scsi_flush(task);
    else
        scsi_finish(task);
}

void scsi_transfer(struct scsi_task *task, enum block_kind kind, uint64_t lba, uint64_t count)
{
    uint32_t block = task->unit->block_size;
    bool read = kind == BLOCK_READ;
    if (!scsi_range(task, lba, count))
        return;
    if (count == 0) {
        scsi_finish(task);
        return;
    }
    struct iovec *iov = read ? task->in : task->out;
    unsigned left = read ? task->in_count : task->out_count;
    uint64_t size = count * block; /* count: 32 bits at most, as CDBs have them */
    if (size > (read ? task->in_size : task->out_size)) {
        task->overrun = true;
        scsi_fail(task, SCSI_SENSE(0x0b, 0x4b, 0x00)); /* data phase error */
        return;
    }
    /* The buffer may go on behind what is transferred. */
    unsigned used = 0;
    for (uint64_t rest = size; rest > 0; used++) {
        assert(used < left);
        if (iov[used].iov_len > rest)
            iov[used].iov_len = (size_t)rest;
        rest -= iov[used].iov_len;
    }
    task->io.iov = iov;
    task->io.iov_count = used;
    task->left = size;
    task->flush = !read && (task->flush || !task->unit->write_cache);
    task->step = transferred;
    scsi_submit(task, kind, lba * block, size);
}

/* --- commands of every unit --- */

static bool is_disk(const struct scsi_unit *unit)
{
    return !unit->params.optical;
}

static uint32_t pop_attention(struct scsi_unit *unit)
{
    uint32_t why = unit->attention[0];
    memmove(unit->attention, unit->attention + 1,
            sizeof(unit->attention) - sizeof(unit->attention[0]));
    unit->attention[SCSI_ATTENTION_MAX - 1] = 0;
    return why;
}

static void test_unit_ready(struct scsi_task *task)
{
    scsi_finish(task);
}

static void request_sense(struct scsi_task *task)
{
    struct scsi_unit *unit = task->unit;
    uint8_t sense[SCSI_SENSE_SIZE];
    if ((task->cdb[1] & 1) != 0) { /* descriptor format */
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    uint32_t why = unit->kept_sense;
    unit->kept_sense = 0;
    if (why == 0)
        why = pop_attention(unit);
    scsi_put_sense(sense, why, UINT64_MAX);
    scsi_reply(task, sense, sizeof(sense), task->cdb[4]);
}

/* Text in a field of fixed size, filled up with spaces. */
static void put_text(uint8_t *to, const char *text, size_t size)
{
    size_t length = strnlen(text, size);
    memset(to, ' ', size);
    memcpy(to, text, length);
}

static size_t identification(const struct scsi_unit *unit, uint8_t *data)
{
    const char *name = unit->serial[0] != '\0' ? unit->serial : unit->id;
    size_t length = strlen(name);
    data[0] = 0x02; /* ASCII */
    data[1] = 0x01; /* of the logical unit, T10 vendor identification */
    data[3] = (uint8_t)(8 + length);
    put_text(data + 4, VENDOR, 8);
    memcpy(data + 12, name, length);
    return 12 + length;
}

/* Vital product data (SPC-4, 7.8; SBC-3, 6.6): what follows a page's four header bytes. */
static size_t block_limits(const struct scsi_unit *unit, uint8_t *data)
{
    uint32_t granularity = block_cluster_size(unit->params.disk) / unit->block_size;
    bool unmaps = block_can_discard(unit->params.disk);
    data[0] = 1; /* WSNZ: WRITE SAME of nothing is none of everything */
    store_be16(data + 2, granularity <= UINT16_MAX ? (uint16_t)granularity : 0);
    if (unmaps) {
        store_be32(data + 16, 0x400000); /* blocks of an UNMAP */
        store_be32(data + 20, 256);      /* descriptors of one */
        store_be32(data + 24, granularity);
    }
    store_be64(data + 32, 0x400000); /* of a WRITE SAME */
    return 60;
}

static size_t characteristics(const struct scsi_unit *unit, uint8_t *data)
{
    (void)unit;
    data[1] = 1; /* does not rotate */
    return 60;
}

static size_t provisioning(const struct scsi_unit *unit, uint8_t *data)
{
    if (block_can_discard(unit->params.disk)) {
        data[1] = 0xe0; /* UNMAP, and WRITE SAME of both sizes with its UNMAP bit */
        data[2] = 0x02; /* thin */
    }
    return 4;
}

static size_t serial_number(const struct scsi_unit *unit, uint8_t *data)
{
    memcpy(data, unit->serial, strlen(unit->serial));
    return strlen(unit->serial);
}

static const struct vpd {
    uint8_t page;
    bool disk_only;
    size_t (*fill)(const struct scsi_unit *unit, uint8_t *data);
} vpd_pages[] = {
    {0x00, false, NULL},        {0x80, false, serial_number},  {0x83, false, identification},
    {0xb0, true, block_limits}, {0xb1, true, characteristics}, {0xb2, true, provisioning},
};

static bool has_page(const struct scsi_unit *unit, const struct vpd *vpd)
{
    return (!vpd->disk_only || is_disk(unit)) &&
           (vpd->fill != serial_number || unit->serial[0] != '\0');
}

static size_t vital_data(const struct scsi_unit *unit, uint8_t page, uint8_t *data)
{
    size_t size = 0;
    for (size_t i = 0; i < ARRAY_SIZE(vpd_pages); i++) {
        const struct vpd *vpd = &vpd_pages[i];
        if (!has_page(unit, vpd))
            continue;
        if (page == 0x00)
            data[4 + size++] = vpd->page;
        else if (vpd->page == page)
            size = vpd->fill(unit, data + 4);
    }
    store_be16(data + 2, (uint16_t)size);
    return size > 0 ? size + 4 : 0;
}

static void inquiry(struct scsi_task *task)
{
    const struct scsi_unit *unit = task->unit;
    uint16_t allocation = load_be16(task->cdb + 3);
    uint8_t data[96] = {unit->params.optical ? 0x05 : 0x00};
    if ((task->cdb[1] & 1) != 0) {
        data[1] = task->cdb[2];
        size_t size = vital_data(unit, task->cdb[2], data);
        if (size == 0)
            scsi_fail(task, SENSE_CDB_FIELD);
        else
            scsi_reply(task, data, size, allocation);
        return;
    }
    if (task->cdb[1] != 0 || task->cdb[2] != 0) {
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    data[1] = unit->params.optical ? 0x80 : 0; /* removable medium */
    data[2] = 0x06;                            /* SPC-4 */
    data[3] = 0x12;                            /* hierarchical LUNs, this format */
    data[4] = 36 - 5;
    data[7] = 0x02; /* takes several tasks at once */
    put_text(data + 8, VENDOR, 8);
    put_text(data + 16, unit->params.optical ? "VIRTUAL CD-ROM" : "VIRTUAL DISK", 16);
    put_text(data + 32, "1", 4);
    scsi_reply(task, data, 36, allocation);
}

static void report_luns(struct scsi_task *task)
{
    uint8_t data[8 + 8 * SCSI_LUN_MAX] = {0};
    uint32_t allocation = load_be32(task->cdb + 6);
    size_t size = 8;
    if (task->cdb[2] > 2 || allocation < 16) {
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    for (unsigned lun = 0; task->cdb[2] != 1 && lun < SCSI_LUN_MAX; lun++) /* 1: well-known only */
        if ((task->luns >> lun & 1) != 0) {
            data[size + 1] = (uint8_t)lun;
            size += 8;
        }
    store_be32(data, (uint32_t)(size - 8));
    scsi_reply(task, data, size, allocation);
}

/* --- mode pages --- */

static const struct scsi_page *page_at(const struct scsi_unit *unit, size_t index)
{
    return unit->params.optical ? scsi_cd_page(index) : scsi_disk_page(index);
}

static bool write_protected(const struct scsi_unit *unit)
{
    return unit->params.disk == NULL || block_read_only(unit->params.disk);
}

static void mode_sense(struct scsi_task *task)
{
    const struct scsi_unit *unit = task->unit;
    const uint8_t *cdb = task->cdb;
    bool ten = cdb[0] == 0x5a;
    unsigned control = cdb[2] >> 6, wanted = cdb[2] & 0x3f, header = ten ? 8 : 4, pages = 0;
    uint8_t data[256] = {0};
    size_t size = header;
    if (control == 3 || (cdb[3] != 0 && cdb[3] != 0xff)) {
        scsi_fail(task, control == 3 ? SENSE_NOT_SAVED : SENSE_CDB_FIELD);
        return;
    }
    uint8_t specific = is_disk(unit) ? (uint8_t)(0x10 | (write_protected(unit) ? 0x80 : 0)) : 0;
    if (is_disk(unit) && (cdb[1] & 0x08) == 0) { /* a block descriptor */
        uint64_t blocks = unit->blocks <= UINT32_MAX ? unit->blocks : UINT32_MAX;
        store_be32(data + size, (uint32_t)blocks);
        store_be24(data + size + 5, unit->block_size);
        size += 8;
    }
    uint8_t descriptor = (uint8_t)(size - header);
    const struct scsi_page *page;
    for (size_t i = 0; (page = page_at(unit, i)) != NULL; i++) {
        uint8_t current[SCSI_PAGE_MAX] = {0}, changeable[SCSI_PAGE_MAX] = {0};
        if (wanted != 0x3f && wanted != page->code)
            continue;
        assert(page->size <= SCSI_PAGE_MAX && size + page->size <= sizeof(data));
        page->fill(unit, current, changeable);
        memcpy(data + size, control == 1 ? changeable : current, page->size);
        data[size] = page->code;
        data[size + 1] = (uint8_t)(page->size - 2);
        size += page->size;
        pages++;
    }
    if (pages == 0) {
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    if (ten) {
        store_be16(data, (uint16_t)(size - 2));
        data[3] = specific;
        data[7] = descriptor;
    } else {
        data[0] = (uint8_t)(size - 1);
        data[2] = specific;
        data[3] = descriptor;
    }
    scsi_reply(task, data, size, ten ? load_be16(cdb + 7) : cdb[4]);
}

/* One page of a MODE SELECT: nothing may change but what can. The only thing that can is the
 * write cache. */
static bool select_page(struct scsi_unit *unit, const uint8_t *data, size_t size, bool apply)
{
    const struct scsi_page *page;
    for (size_t i = 0; (page = page_at(unit, i)) != NULL; i++) {
        uint8_t current[SCSI_PAGE_MAX] = {0}, changeable[SCSI_PAGE_MAX] = {0};
        if (page->code != (data[0] & 0x7f))
            continue;
        page->fill(unit, current, changeable);
        if (page->size != size)
            return false;
        for (size_t at = 2; at < size; at++)
            if (((data[at] ^ current[at]) & ~changeable[at]) != 0)
                return false;
        if (apply && page->code == 0x08)
            unit->write_cache = (data[2] & 0x04) != 0;
        return true;
    }
    return false;
}

static void mode_select(struct scsi_task *task)
{
    const uint8_t *cdb = task->cdb;
    bool ten = cdb[0] == 0x55;
    size_t length = ten ? load_be16(cdb + 7) : cdb[4], header = ten ? 8 : 4;
    uint8_t data[256];
    if ((cdb[1] & 0x01) != 0 || (cdb[1] & 0x10) == 0) { /* save pages; not in page format */
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    if (length == 0) {
        scsi_finish(task);
        return;
    }
    if (length < header || length > sizeof(data)) {
        scsi_fail(task, SENSE_LENGTH);
        return;
    }
    if (!scsi_take(task, data, length))
        return;
    size_t descriptor = ten ? load_be16(data + 6) : data[3];
    size_t first = header + descriptor;
    if (first > length || (descriptor != 0 && (descriptor != 8 || load_be24(data + header + 5) !=
                                                                      task->unit->block_size))) {
        scsi_fail(task, SENSE_PARAMETER);
        return;
    }
    /* All of it or nothing. */
    for (unsigned apply = 0; apply < 2; apply++)
        for (size_t at = first; at < length;) {
            size_t size = at + 2 <= length ? 2u + data[at + 1] : SIZE_MAX;
            if (size > length - at || (data[at] & 0x40) != 0 ||
                !select_page(task->unit, data + at, size, apply != 0)) {
                scsi_fail(task, size > length - at ? SENSE_LENGTH : SENSE_PARAMETER);
                return;
            }
            at += size;
        }
    /* What was cached before the cache was turned off is not to stay there (SBC-3, 4.16). */
    if (task->unit->write_cache)
        scsi_finish(task);
    else
        scsi_flush(task);
}

static void prevent_allow(struct scsi_task *task)
{
    if ((task->cdb[4] & 2) != 0) { /* persistent prevention */
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    task->unit->prevented = (task->cdb[4] & 1) != 0;
    scsi_finish(task);
}

static void report_operations(struct scsi_task *task);

static const struct scsi_command common_rows[] = {
    SCSI_COMMAND("\x00\x00\x00\x00\x00\x00", -1, SCSI_NEEDS_MEDIUM, test_unit_ready),
    SCSI_COMMAND("\x03\x01\x00\x00\xff\x00", -1, SCSI_NO_ATTENTION, request_sense),
    SCSI_COMMAND("\x12\x01\xff\xff\xff\x00", -1, SCSI_NO_ATTENTION, inquiry),
    SCSI_COMMAND("\x15\x11\x00\x00\xff\x00", -1, 0, mode_select),
    SCSI_COMMAND("\x55\x11\x00\x00\x00\x00\x00\xff\xff\x00", -1, 0, mode_select),
    SCSI_COMMAND("\x1a\x08\xff\xff\xff\x00", -1, 0, mode_sense),
    SCSI_COMMAND("\x5a\x18\xff\xff\x00\x00\x00\xff\xff\x00", -1, 0, mode_sense),
    SCSI_COMMAND("\x1e\x00\x00\x00\x03\x00", -1, 0, prevent_allow),
    SCSI_COMMAND("\xa0\x00\xff\x00\x00\x00\xff\xff\xff\xff\x00\x00", -1, SCSI_NO_ATTENTION,
                 report_luns),
    SCSI_COMMAND("\xa3\x1f\x87\xff\xff\xff\xff\xff\xff\xff\x00\x00", 0x0c, 0, report_operations),
};
static const struct scsi_commands common_commands = {common_rows, ARRAY_SIZE(common_rows)};

/* --- which command it is --- */

/* `found`: the operation code exists, whatever its service action. */
static const struct scsi_command *find_in(const struct scsi_commands *commands, uint8_t operation,
                                          int action, bool *found)
{
    for (size_t i = 0; i < commands->count; i++) {
        const struct scsi_command *command = &commands->rows[i];
        if ((uint8_t)command->usage[0] != operation)
            continue;
        *found = true;
        if (command->action < 0 || command->action == action)
            return command;
    }
    return NULL;
}

static const struct scsi_command *find(const struct scsi_unit *unit, uint8_t operation, int action,
                                       bool *found)
{
    const struct scsi_commands *own =
        unit->params.optical ? &scsi_cd_commands : &scsi_disk_commands;
    const struct scsi_command *command = find_in(own, operation, action, found);
    return command != NULL ? command : find_in(&common_commands, operation, action, found);
}

/* All commands (SPC-4, 6.35.2), 8 bytes each. */
static size_t list_operations(const struct scsi_unit *unit, uint8_t *data, size_t room)
{
    const struct scsi_commands *const tables[] = {
        &common_commands, unit->params.optical ? &scsi_cd_commands : &scsi_disk_commands};
    size_t size = 4;
    for (size_t t = 0; t < ARRAY_SIZE(tables); t++)
        for (size_t i = 0; i < tables[t]->count; i++, size += 8) {
            const struct scsi_command *command = &tables[t]->rows[i];
            assert(size + 8 <= room);
            data[size] = (uint8_t)command->usage[0];
            if (command->action >= 0) {
                store_be16(data + size + 2, (uint16_t)command->action);
                data[size + 5] = 0x01; /* has service actions */
            }
            store_be16(data + size + 6, command->length);
        }
    (void)room;
    store_be32(data, (uint32_t)(size - 4));
    return size;
}

static void report_operations(struct scsi_task *task)
{
    const uint8_t *cdb = task->cdb;
    uint32_t allocation = load_be32(cdb + 6);
    unsigned options = cdb[2] & 7;
    uint8_t data[1024] = {0};
    bool found = false;
    if (options > 3 || (cdb[2] & 0x80) != 0) { /* no time-outs */
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    if (options == 0) {
        scsi_reply(task, data, list_operations(task->unit, data, sizeof(data)), allocation);
        return;
    }
    int action = options == 1 ? -1 : load_be16(cdb + 4);
    const struct scsi_command *command = find(task->unit, cdb[3], action, &found);
    bool has_actions = found && (command == NULL || command->action >= 0);
    if ((options == 1 && has_actions) || (options == 2 && found && !has_actions)) {
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    data[1] = command != NULL ? 3 : 1; /* supported as standards say, or not at all */
    if (command != NULL) {
        store_be16(data + 2, command->length);
        memcpy(data + 4, command->usage, command->length);
        if (command->action >= 0)
            data[5] = (uint8_t)((data[5] & 0xe0) | command->action);
    }
    scsi_reply(task, data, 4u + (command != NULL ? command->length : 0), allocation);
}

/* SPC-4, 5.6.5.1 and 6.4.1: what there is to know of a logical unit that is not there. */
static void start_absent(struct scsi_task *task)
{
    uint8_t data[36] = {0x7f, 0, 0x06, 0x12, 36 - 5}, sense[SCSI_SENSE_SIZE];
    switch (task->cdb[0]) {
    case 0x12:
        put_text(data + 8, VENDOR, 28);
        if (task->cdb[1] != 0 || task->cdb[2] != 0)
            break;
        scsi_reply(task, data, sizeof(data), load_be16(task->cdb + 3));
        return;
    case 0x03:
        scsi_put_sense(sense, SENSE_NO_UNIT, UINT64_MAX);
        scsi_reply(task, sense, sizeof(sense), task->cdb[4]);
        return;
    case 0xa0:
        report_luns(task);
        return;
    }
    scsi_fail(task, SENSE_NO_UNIT);
}

static uint32_t why_not(struct scsi_unit *unit, const struct scsi_command *command)
{
    if (unit->attention[0] != 0 && (command->flags & SCSI_NO_ATTENTION) == 0)
        return pop_attention(unit);
    if ((command->flags & SCSI_NEEDS_MEDIUM) == 0)
        return 0;
    if (unit->tray_open)
        return SENSE_TRAY_OPEN;
    if (unit->blocks == 0)
        return SENSE_NO_MEDIUM;
    if (unit->stopped)
        return SENSE_STOPPED;
    return (command->flags & SCSI_WRITES) != 0 && write_protected(unit) ? SENSE_PROTECTED : 0;
}

void scsi_start(struct scsi_task *task)
{
    struct scsi_unit *unit = task->unit;
    bool found = false;
    task->status = SCSI_GOOD;
    task->why = 0;
    task->overrun = task->flush = task->cancelled = false;
    task->moved = task->at = task->left = 0;
    task->parameters = NULL;
    task->information = UINT64_MAX;
    if (unit == NULL) {
        start_absent(task);
        return;
    }
    unit->started++;
    unit->last_command = task->cdb[0];
    if (task->cdb[0] != 0x03)
        unit->kept_sense = 0;
    const struct scsi_command *command = find(unit, task->cdb[0], task->cdb[1] & 0x1f, &found);
    if (command == NULL) {
        scsi_fail(task, found ? SENSE_CDB_FIELD : SENSE_OPCODE);
        return;
    }
    uint32_t why = why_not(unit, command);
    /* NACA: there is no auto contingent allegiance here (SAM-5, 5.2). */
    if (why == 0 && (task->cdb[command->length - 1] & 0x04) != 0)
        why = SENSE_CDB_FIELD;
    if (why != 0)
        scsi_fail(task, why);
    else
        command->run(task);
}

/* --- units --- */

static void measure(struct scsi_unit *unit)
{
    struct block *disk = unit->params.disk;
    unit->block_size = unit->params.optical ? 2048 : BLOCK_SECTOR;
    unit->blocks = disk != NULL ? block_size(disk) / unit->block_size : 0;
}

void scsi_unit_init(struct scsi_unit *unit, const struct scsi_unit_params *params)
{
    *unit = (struct scsi_unit){.params = *params};
    assert(params->disk != NULL || params->optical);
    memcpy(unit->id, params->id, strnlen(params->id, sizeof(unit->id) - 1));
    if (params->serial != NULL)
        memcpy(unit->serial, params->serial, strnlen(params->serial, SCSI_SERIAL_MAX));
    unit->params.id = unit->params.serial = NULL;
    measure(unit);
    scsi_unit_reset(unit);
}

void scsi_unit_reset(struct scsi_unit *unit)
{
    unit->write_cache = true;
    unit->stopped = unit->prevented = unit->tray_open = false;
    unit->media_event = 0;
    unit->kept_sense = 0;
    memset(unit->attention, 0, sizeof(unit->attention));
    unit->attention[0] = SCSI_POWERED_ON;
}

void scsi_unit_attention(struct scsi_unit *unit, uint32_t what)
{
    unsigned i = 0;
    while (i < SCSI_ATTENTION_MAX && unit->attention[i] != 0 && unit->attention[i] != what)
        i++;
    if (i < SCSI_ATTENTION_MAX)
        unit->attention[i] = what;
}

void scsi_unit_insert(struct scsi_unit *unit, struct block *disk)
{
    assert(unit->params.optical && unit->in_flight == 0);
    unit->params.disk = disk;
    unit->tray_open = unit->stopped = unit->prevented = false;
    unit->media_event = disk != NULL ? 2 : 3; /* new medium, medium removed */
    measure(unit);
    if (disk != NULL)
        scsi_unit_attention(unit, SCSI_MEDIUM_CHANGED);
}

bool scsi_unit_press_eject(struct scsi_unit *unit)
{
    unit->media_event = unit->prevented ? 1 : 3; /* the user wants to; it is out */
    if (!unit->prevented)
        unit->tray_open = true;
    return !unit->prevented;
}

/* A medium of another size is another medium. */
static bool unit_restored(void *object, struct error **err)
{
    struct scsi_unit *unit = object;
    uint64_t saved = unit->blocks;
    bool good = unit->media_event <= 3;
    measure(unit);
    if (saved != unit->blocks)
        return error_set(err, ERROR_USAGE,
                         "the saved state is of a medium of %llu blocks, that in '%s' has %llu: "
                         "attach the one that was there when it was saved",
                         (unsigned long long)saved, unit->id, (unsigned long long)unit->blocks);
    for (unsigned i = 0; i < SCSI_ATTENTION_MAX; i++)
        good = good && unit->attention[i] >> 20 == 0 &&
               (i == 0 || unit->attention[i] == 0 || unit->attention[i - 1] != 0);
    return good || error_set(err, ERROR_USAGE, "the saved state of a SCSI unit is impossible");
}

static const struct state_field unit_fields[] = {
    STATE_BOOL(struct scsi_unit, write_cache, "write-cache"),
    STATE_BOOL(struct scsi_unit, stopped, "stopped"),
    STATE_BOOL(struct scsi_unit, prevented, "prevented"),
    STATE_BOOL(struct scsi_unit, tray_open, "tray-open"),
    STATE_UINT(struct scsi_unit, media_event, "media-event"),
    STATE_UINTS(struct scsi_unit, attention, "attention"),
    STATE_UINT(struct scsi_unit, kept_sense, "kept-sense"),
    STATE_UINT(struct scsi_unit, blocks, "blocks"),
    STATE_END,
};

const struct state_table scsi_unit_state = {"scsi-unit", 1, unit_fields, NULL, unit_restored};
