/* SPDX-License-Identifier: MIT
 *
 * Optical drives (MMC-5) that hold an image of a data disc: one session, one track of mode 1,
 * 2048 bytes a block. What fits onto a CD is one, what is larger a DVD-ROM. They read, open
 * and close; they do not burn or play.
 */
#include <string.h>

#include "base/bits.h"
#include "dev/scsi_internal.h"

#define CD_BLOCKS_MAX (UINT64_C(80) * 60 * 75) /* 80 minutes */
#define LEAD_OUT      0xaau
#define MSF_START     150u /* frames before logical block 0 */

enum { PROFILE_NONE = 0, PROFILE_CD_ROM = 0x08, PROFILE_DVD_ROM = 0x10 };

static bool has_medium(const struct scsi_unit *unit)
{
    return unit->blocks > 0 && !unit->tray_open;
}

static uint16_t profile_of(const struct scsi_unit *unit)
{
    if (!has_medium(unit))
        return PROFILE_NONE;
    return unit->blocks <= CD_BLOCKS_MAX ? PROFILE_CD_ROM : PROFILE_DVD_ROM;
}

static uint32_t blocks_of(const struct scsi_unit *unit)
{
    return unit->blocks < UINT32_MAX ? (uint32_t)unit->blocks : UINT32_MAX;
}

static void read_10(struct scsi_task *task)
{
    scsi_transfer(task, BLOCK_READ, load_be32(task->cdb + 2), load_be16(task->cdb + 7));
}

static void read_12(struct scsi_task *task)
{
    scsi_transfer(task, BLOCK_READ, load_be32(task->cdb + 2), load_be32(task->cdb + 6));
}

/* User data only: an image has no headers, error correction or subchannels to give. */
static void read_cd(struct scsi_task *task)
{
    const uint8_t *cdb = task->cdb;
    unsigned type = cdb[1] >> 2 & 7; /* 0: any, 2: mode 1 */
    uint64_t lba = load_be32(cdb + 2), count = load_be24(cdb + 6);
    bool nothing = (cdb[9] & 0xf8) == 0;
    if (type != 0 && type != 2) {
        if (scsi_range(task, lba, count))
            scsi_fail(task, SENSE_TRACK_MODE);
        return;
    }
    if ((!nothing && (cdb[9] & 0xf8) != 0x10) || (cdb[9] & 0x06) != 0 || (cdb[10] & 7) != 0) {
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    if (!nothing)
        scsi_transfer(task, BLOCK_READ, lba, count);
    else if (scsi_range(task, lba, count))
        scsi_finish(task);
}

static void seek(struct scsi_task *task)
{
    if (scsi_range(task, load_be32(task->cdb + 2), 1))
        scsi_finish(task);
}

static void read_capacity(struct scsi_task *task)
{
    uint8_t data[8];
    store_be32(data, blocks_of(task->unit) - 1);
    store_be32(data + 4, task->unit->block_size);
    scsi_reply(task, data, sizeof(data), sizeof(data));
}

static void start_stop(struct scsi_task *task)
{
    struct scsi_unit *unit = task->unit;
    bool start = (task->cdb[4] & 1) != 0, load_eject = (task->cdb[4] & 2) != 0;
    if (load_eject && !start && unit->prevented && !unit->tray_open) {
        scsi_fail(task, SENSE_TRAY_LOCKED);
        return;
    }
    if (task->cdb[4] >> 4 == 0 && load_eject) {
        bool moves = unit->tray_open == start;
        unit->tray_open = !start;
        if (moves && unit->blocks > 0) {
            unit->media_event = start ? 2 : 3;
            if (start)
                scsi_unit_attention(unit, SCSI_MEDIUM_CHANGED);
        }
    }
    scsi_finish(task);
}

static void mechanism_status(struct scsi_task *task)
{
    uint8_t data[8] = {0};
    data[1] = task->unit->tray_open ? 0x10 : 0;
    scsi_reply(task, data, sizeof(data), load_be16(task->cdb + 8));
}

/* --- the table of contents --- */

static void put_address(uint8_t *to, uint32_t block, bool msf)
{
    if (!msf) {
        store_be32(to, block);
        return;
    }
    uint32_t frames = block + MSF_START;
    uint32_t minutes = frames / (60 * 75);
    to[0] = 0;
    to[1] = minutes <= 255 ? (uint8_t)minutes : 255;
    to[2] = (uint8_t)(frames / 75 % 60);
    to[3] = (uint8_t)(frames % 75);
}

/* A track's descriptor (formats 0 and 1). */
static size_t put_track(uint8_t *to, uint8_t track, uint32_t block, bool msf)
{
    memset(to, 0, 8);
    to[1] = 0x14; /* a data track, its position follows */
    to[2] = track;
    put_address(to + 4, block, msf);
    return 8;
}

static size_t put_raw(uint8_t *to, uint8_t point, uint32_t block)
{
    uint8_t address[4];
    memset(to, 0, 11);
    to[0] = 1; /* session */
    to[1] = 0x14;
    to[3] = point;
    if (point == 0xa0 || point == 0xa1) {
        to[8] = 1; /* first and last track */
    } else {
        put_address(address, block, true);
        memcpy(to + 8, address + 1, 3);
    }
    return 11;
}

static void read_toc(struct scsi_task *task)
{
    const uint8_t *cdb = task->cdb;
    bool msf = (cdb[1] & 2) != 0;
    unsigned format = cdb[2] & 15, first = cdb[6];
    uint32_t end = blocks_of(task->unit);
    uint8_t data[64] = {0, 0, 1, 1};
    size_t size = 4;
    if (format == 0)
        format = cdb[9] >> 6; /* where SFF-8020 had it */
    switch (format) {
    case 0:
        if (first > 1 && first != LEAD_OUT) {
            scsi_fail(task, SENSE_CDB_FIELD);
            return;
        }
        if (first <= 1)
            size += put_track(data + size, 1, 0, msf);
        size += put_track(data + size, LEAD_OUT, end, msf);
        break;
    case 1: /* sessions: the first track of the last one */
        size += put_track(data + size, 1, 0, msf);
        break;
    case 2:
        size += put_raw(data + size, 0xa0, 0);
        size += put_raw(data + size, 0xa1, 0);
        size += put_raw(data + size, 0xa2, end);
        size += put_raw(data + size, 1, 0);
        break;
    default:
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    store_be16(data, (uint16_t)(size - 2));
    scsi_reply(task, data, size, load_be16(cdb + 7));
}

static void read_disc_information(struct scsi_task *task)
{
    uint8_t data[34] = {0};
    if ((task->cdb[1] & 7) != 0) {
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    store_be16(data, sizeof(data) - 2);
    data[2] = 0x0e;                            /* a complete session on a finalized disc */
    data[3] = data[4] = data[5] = data[6] = 1; /* tracks and sessions */
    data[7] = 0x20;                            /* unrestricted use */
    scsi_reply(task, data, sizeof(data), load_be16(task->cdb + 7));
}

static void read_track_information(struct scsi_task *task)
{
    uint8_t data[36] = {0};
    uint32_t blocks = blocks_of(task->unit), which = load_be32(task->cdb + 2);
    unsigned type = task->cdb[1] & 3; /* a block's, a track's or a session's */
    if (type == 3 || (type == 0 ? which >= blocks : which != 1)) {
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    store_be16(data, sizeof(data) - 2);
    data[2] = data[3] = 1; /* track, session */
    data[5] = 0x04;        /* a data track */
    data[6] = 0x01;        /* mode 1 */
    store_be32(data + 24, blocks);
    scsi_reply(task, data, sizeof(data), load_be16(task->cdb + 7));
}

/* Physical format information of a DVD (6.22.3.2). */
static void read_dvd_structure(struct scsi_task *task)
{
    const struct scsi_unit *unit = task->unit;
    uint8_t data[4 + 2048] = {0};
    if (profile_of(unit) != PROFILE_DVD_ROM) {
        scsi_fail(task, SCSI_SENSE(5, 0x30, 0x02)); /* incompatible format */
        return;
    }
    if ((task->cdb[1] & 15) != 0 || task->cdb[7] != 0 || task->cdb[6] != 0) {
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    store_be16(data, sizeof(data) - 2);
    data[4] = 0x01; /* DVD-ROM */
    data[5] = 0x0f; /* 120 mm, no maximum rate given */
    data[6] = 0x01; /* one layer, read-only */
    store_be24(data + 9, 0x30000);
    store_be24(data + 13, 0x30000 + blocks_of(unit) - 1);
    scsi_reply(task, data, sizeof(data), load_be16(task->cdb + 8));
}

/* --- features and events --- */

static const struct feature {
    uint16_t code;
    uint8_t flags; /* version, persistent, current whenever a medium is there */
    uint8_t size;  /* of data */
    uint8_t data[8];
} features[] = {
    {0x0000, 0x03, 8, {0, PROFILE_DVD_ROM, 0, 0, 0, PROFILE_CD_ROM, 0, 0}},
    {0x0001, 0x0b, 8, {0, 0, 0, 0x01, 0, 0, 0, 0}}, /* core: SCSI, or as below */
    {0x0002, 0x07, 4, {0x02, 0, 0, 0}},             /* morphing: GET EVENT STATUS */
    {0x0003, 0x03, 4, {0x29, 0, 0, 0}},             /* tray, ejects, locks */
    {0x0010, 0x00, 8, {0, 0, 8, 0, 0, 1, 0, 0}},    /* random access, 2048 bytes a block */
    {0x001e, 0x08, 4, {0, 0, 0, 0}},                /* reads CDs */
    {0x001f, 0x00, 0, {0}},                         /* reads DVDs */
    {0x0100, 0x03, 0, {0}},                         /* power management */
};

static bool is_current(const struct feature *feature, uint16_t profile)
{
    if (feature->code == 0x0010)
        return profile != PROFILE_NONE;
    if (feature->code == 0x001e)
        return profile == PROFILE_CD_ROM;
    if (feature->code == 0x001f)
        return profile == PROFILE_DVD_ROM;
    return true;
}

static void get_configuration(struct scsi_task *task)
{
    const uint8_t *cdb = task->cdb;
    unsigned type = cdb[1] & 3, first = load_be16(cdb + 2); /* 0: all, 1: current, 2: one */
    uint16_t profile = profile_of(task->unit);
    uint8_t data[8 + ARRAY_SIZE(features) * 12] = {0};
    size_t size = 8;
    if (type == 3) {
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
        const struct feature *feature = &features[i];
        bool current = is_current(feature, profile);
        if (type == 2 ? feature->code != first : feature->code < first || (type == 1 && !current))
            continue;
        store_be16(data + size, feature->code);
        data[size + 2] = (uint8_t)((feature->flags & 0xfe) | current);
        data[size + 3] = feature->size;
        memcpy(data + size + 4, feature->data, feature->size);
        if (feature->code == 0x0000) { /* which profile of the list it is */
            data[size + 6] = profile == PROFILE_DVD_ROM;
            data[size + 10] = profile == PROFILE_CD_ROM;
        }
        if (feature->code == 0x0001 && !task->unit->params.autosense)
            data[size + 7] = 0x02; /* ATAPI */
        size += 4u + feature->size;
    }
    store_be32(data, (uint32_t)(size - 4));
    store_be16(data + 6, profile);
    scsi_reply(task, data, size, load_be16(cdb + 7));
}

static void get_event(struct scsi_task *task)
{
    struct scsi_unit *unit = task->unit;
    uint8_t data[8] = {0};
    if ((task->cdb[1] & 1) == 0) { /* not by asking: only a queue of tasks could wait for it */
        scsi_fail(task, SENSE_CDB_FIELD);
        return;
    }
    data[3] = 0x10; /* events of the medium are all there are */
    if ((task->cdb[4] & 0x10) == 0) {
        store_be16(data, 2);
        data[2] = 0x80;
        scsi_reply(task, data, 4, load_be16(task->cdb + 7));
        return;
    }
    store_be16(data, 6);
    data[2] = 4;
    data[4] = unit->media_event;
    data[5] = (uint8_t)((unit->tray_open ? 1 : 0) | (has_medium(unit) ? 2 : 0));
    if (load_be16(task->cdb + 7) >= 5)
        unit->media_event = 0;
    scsi_reply(task, data, 8, load_be16(task->cdb + 7));
}

static void set_speed(struct scsi_task *task)
{
    scsi_finish(task);
}

#define READS SCSI_NEEDS_MEDIUM

static const struct scsi_command rows[] = {
    SCSI_COMMAND("\x28\x18\xff\xff\xff\xff\x00\xff\xff\x00", -1, READS, read_10),
    SCSI_COMMAND("\xa8\x18\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", -1, READS, read_12),
    SCSI_COMMAND("\xbe\x1c\xff\xff\xff\xff\xff\xff\xff\xf8\x07\x00", -1, READS, read_cd),
    SCSI_COMMAND("\x2b\x00\xff\xff\xff\xff\x00\x00\x00\x00", -1, READS, seek),
    SCSI_COMMAND("\x25\x00\x00\x00\x00\x00\x00\x00\x00\x00", -1, READS, read_capacity),
    SCSI_COMMAND("\x43\x02\x0f\x00\x00\x00\xff\xff\xff\xc0", -1, READS, read_toc),
    SCSI_COMMAND("\x51\x07\x00\x00\x00\x00\x00\xff\xff\x00", -1, READS, read_disc_information),
    SCSI_COMMAND("\x52\x03\xff\xff\xff\xff\x00\xff\xff\x00", -1, READS, read_track_information),
    SCSI_COMMAND("\xad\x0f\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00", -1, READS, read_dvd_structure),
    SCSI_COMMAND("\x46\x03\xff\xff\x00\x00\x00\xff\xff\x00", -1, SCSI_NO_ATTENTION,
                 get_configuration),
    SCSI_COMMAND("\x4a\x01\x00\x00\xff\x00\x00\xff\xff\x00", -1, SCSI_NO_ATTENTION, get_event),
    SCSI_COMMAND("\xbd\x00\x00\x00\x00\x00\x00\x00\xff\xff\x00\x00", -1, 0, mechanism_status),
    SCSI_COMMAND("\xbb\x00\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00", -1, 0, set_speed),
    SCSI_COMMAND("\x1b\x01\x00\x00\xf3\x00", -1, 0, start_stop),
};
const struct scsi_commands scsi_cd_commands = {rows, ARRAY_SIZE(rows)};

static void page_recovery(const struct scsi_unit *unit, uint8_t *page, uint8_t *changeable)
{
    (void)unit, (void)page, (void)changeable;
}

/* Capabilities and mechanical status: gone from MMC-5, still what drivers look at. */
static void page_capabilities(const struct scsi_unit *unit, uint8_t *page, uint8_t *changeable)
{
    (void)changeable;
    page[2] = 0x08;                                           /* reads DVD-ROMs */
    page[6] = (uint8_t)(0x29 | (unit->prevented ? 0x02 : 0)); /* tray, ejects, locks */
    store_be16(page + 8, 50 * 176);                           /* kB/s at most, and now */
    store_be16(page + 12, 512);                               /* KiB of buffer */
    store_be16(page + 14, 50 * 176);
}

static const struct scsi_page pages[] = {
    {0x01, 12, page_recovery},
    {0x2a, 22, page_capabilities},
};

const struct scsi_page *scsi_cd_page(size_t index)
{
    return index < ARRAY_SIZE(pages) ? &pages[index] : NULL;
}
