/* SPDX-License-Identifier: MIT
 *
 * Drives behind an AHCI port: ATA disks (ATA8-ACS, TRIM from ACS-2) of 512-byte sectors, and
 * ATAPI drives, whose packets are SCSI commands (dev/scsi.h).
 *
 * A read or write goes window by window: as much of the driver's buffer as fits into one
 * request to the disk.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/state.h"
#include "dev/ahci_internal.h"

#define SECTOR        BLOCK_SECTOR
#define LBA28_MAX     UINT64_C(0x0fffffff)
#define LBA48_MAX     (UINT64_C(1) << 48)
#define HEADS         16u
#define TRACK_SECTORS 63u
#define MULTIPLE_MAX  16u
#define TRIM_SECTORS  8u /* of ranges in one DATA SET MANAGEMENT */
#define READ_FPDMA    0x60
#define WRITE_FPDMA   0x61
#define FUA           0x80u /* in the device register of a queued write */
#define LBA_MODE      0x40u

static struct ata_drive *drive_of(struct ahci_command *command)
{
    return &command->port->drive;
}

static struct block *disk_of(struct ahci_command *command)
{
    return drive_of(command)->unit.params.disk;
}

static uint64_t sectors_of(const struct ata_drive *drive)
{
    uint64_t sectors = drive->unit.blocks;
    return sectors < LBA48_MAX ? sectors : LBA48_MAX;
}

/* --- the end of a command --- */

static void good(struct ahci_command *command)
{
    ahci_complete(command, ATA_READY, 0);
}

static void fail(struct ahci_command *command, uint8_t error)
{
    struct ata_drive *drive = drive_of(command);
    uint8_t status = ATA_READY | ATA_ERR;
    if (command->end == AHCI_END_QUEUED && !command->cancelled) {
        drive->failed = true;
        drive->failed_tag = command->slot;
        drive->failed_status = status;
        drive->failed_error = error;
        drive->failed_lba = command->lba_out;
    }
    ahci_complete(command, status, error);
}

static void refuse(struct ahci_command *command)
{
    fail(command, ATA_ABRT);
}

/* --- requests to the disk --- */

static void next_window(struct ahci_command *command);
static void next_range(struct ahci_command *command);

static void go_on(struct ahci_command *command, enum block_kind kind)
{
    if (kind == BLOCK_READ || kind == BLOCK_WRITE)
        next_window(command);
    else if (kind == BLOCK_DISCARD)
        next_range(command);
    else
        good(command);
}

static void io_done(struct block_request *io, int error)
{
    static const char *const verbs[] = {"read", "write", "flush", "discard", "write-zeroes"};
    struct ahci_command *command = CONTAINER_OF(io, struct ahci_command, io);
    struct scsi_unit *unit = &drive_of(command)->unit;
    pthread_mutex_t *lock = ahci_lock(command->port);
    if (error != 0 && error != ECANCELED)
        log_guest(unit->params.log, &unit->log_limit, "%s: %s at %llu failed: %s", unit->id,
                  verbs[io->kind], (unsigned long long)io->offset, strerror(error));
    pthread_mutex_lock(lock);
    if (io->kind == BLOCK_READ)
        ahci_note_window(command);
    if (error == 0 && !command->cancelled) {
        go_on(command, io->kind);
    } else if (ahci_is_pausing(command, error == ECANCELED)) {
        ahci_park(command);
    } else {
        command->lba_out = io->offset / SECTOR;
        fail(command, io->kind == BLOCK_READ ? ATA_UNC : ATA_ABRT);
    }
    pthread_mutex_unlock(lock);
}

static void submit(struct ahci_command *command, enum block_kind kind, uint64_t offset,
                   uint64_t length)
{
    bool data = kind == BLOCK_READ || kind == BLOCK_WRITE;
    command->io.kind = kind;
    command->io.offset = offset;
    command->io.length = length;
    command->io.iov = data ? command->iov : NULL;
    command->io.iov_count = data ? command->iov_count : 0;
    command->io.done = io_done;
    block_submit(disk_of(command), &command->io);
}

static void next_window(struct ahci_command *command)
{
    enum block_kind kind = command->io.kind;
    if (command->left == 0) {
        if (command->flush)
            submit(command, BLOCK_FLUSH, 0, 0);
        else
            good(command);
        return;
    }
    uint64_t size = ahci_window(command, command->left, kind == BLOCK_READ);
    if (size == 0) { /* a buffer that is too short, or not in memory */
        command->lba_out = command->offset / SECTOR;
        refuse(command);
        return;
    }
    uint64_t offset = command->offset;
    command->offset += size;
    command->left -= size;
    submit(command, kind, offset, size);
}

static void transfer(struct ahci_command *command, enum block_kind kind, uint64_t lba,
                     uint64_t count)
{
    command->lba_out = lba;
    if (!range_within(lba, count, sectors_of(drive_of(command)))) {
        fail(command, ATA_IDNF);
        return;
    }
    if (kind == BLOCK_WRITE && block_read_only(disk_of(command))) {
        refuse(command);
        return;
    }
    command->offset = lba * SECTOR;
    command->left = count * SECTOR;
    command->io.kind = kind;
    command->flush = kind == BLOCK_WRITE && (command->flush || !drive_of(command)->write_cache);
    next_window(command);
}

/* --- reading and writing --- */

static bool is_wide(const struct ahci_command *command)
{
    /* The 48-bit commands; their opcodes have no pattern. */
    static const uint8_t wide[] = {0x24, 0x25, 0x29, 0x34, 0x35, 0x39, 0x3d, 0x42, 0xce};
    return memchr(wide, command->opcode, sizeof(wide)) != NULL;
}

static uint64_t lba_of(const struct ahci_command *command)
{
    if (is_wide(command))
        return command->lba;
    uint64_t lba = (command->lba & 0xffffff) | (uint64_t)(command->device & 15) << 24;
    if ((command->device & LBA_MODE) != 0)
        return lba;
    uint64_t cylinder = lba >> 8 & 0xffff, sector = lba & 0xff; /* head: bits 24 to 27 */
    return (cylinder * HEADS + (lba >> 24)) * TRACK_SECTORS + sector - 1;
}

static uint32_t count_of(const struct ahci_command *command)
{
    if (is_wide(command))
        return command->count == 0 ? 65536 : command->count;
    return (command->count & 0xff) == 0 ? 256 : command->count & 0xff;
}

static void read_dma(struct ahci_command *command)
{
    transfer(command, BLOCK_READ, lba_of(command), count_of(command));
}

static void read_pio(struct ahci_command *command)
{
    command->end = AHCI_END_PIO_IN;
    read_dma(command);
}

static void write_dma(struct ahci_command *command)
{
    command->flush = command->opcode == 0x3d || command->opcode == 0xce; /* FUA */
    transfer(command, BLOCK_WRITE, lba_of(command), count_of(command));
}

static void write_pio(struct ahci_command *command)
{
    ahci_pio_out(command);
    write_dma(command);
}

static void read_multiple(struct ahci_command *command)
{
    if (drive_of(command)->multiple == 0)
        refuse(command);
    else
        read_pio(command);
}

static void write_multiple(struct ahci_command *command)
{
    if (drive_of(command)->multiple == 0)
        refuse(command);
    else
        write_pio(command);
}

static void queued(struct ahci_command *command)
{
    uint32_t count = command->features == 0 ? 65536 : command->features;
    if ((command->count >> 3 & 31) != command->slot) {
        refuse(command);
        return;
    }
    command->flush = (command->device & FUA) != 0;
    transfer(command, command->opcode == READ_FPDMA ? BLOCK_READ : BLOCK_WRITE, command->lba,
             count);
}

static void verify(struct ahci_command *command)
{
    command->lba_out = lba_of(command);
    if (range_within(lba_of(command), count_of(command), sectors_of(drive_of(command))))
        good(command);
    else
        fail(command, ATA_IDNF);
}

static void flush(struct ahci_command *command)
{
    struct block *disk = disk_of(command);
    if (disk == NULL || block_read_only(disk))
        good(command);
    else
        submit(command, BLOCK_FLUSH, 0, 0);
}

/* --- TRIM --- */

/* command->left: bytes of ranges; command->offset: where the next one is. */
static void next_range(struct ahci_command *command)
{
    while (command->offset < command->left) {
        uint64_t range = load_le64(command->ranges + command->offset);
        uint64_t lba = range & (LBA48_MAX - 1), count = range >> 48;
        command->offset += 8;
        if (count > 0) {
            submit(command, BLOCK_DISCARD, lba * SECTOR, count * SECTOR);
            return;
        }
    }
    good(command);
}

static void data_set_management(struct ahci_command *command)
{
    struct block *disk = disk_of(command);
    size_t size = (size_t)command->count * SECTOR;
    if ((command->features & 1) == 0 || command->count == 0 || command->count > TRIM_SECTORS ||
        !block_can_discard(disk)) {
        refuse(command);
        return;
    }
    command->ranges = alloc_zeroed(1, size);
    if (ahci_copy(command, command->ranges, size, false) != size) {
        refuse(command);
        return;
    }
    for (size_t at = 0; at < size; at += 8) {
        uint64_t range = load_le64(command->ranges + at);
        if (range >> 48 != 0 &&
            !range_within(range & (LBA48_MAX - 1), range >> 48, sectors_of(drive_of(command)))) {
            command->lba_out = range & (LBA48_MAX - 1);
            fail(command, ATA_IDNF);
            return;
        }
    }
    command->offset = 0;
    command->left = size;
    next_range(command);
}

/* --- what a drive is --- */

/* Text of ATA: bytes swapped in pairs, filled up with spaces. */
static void put_text(uint8_t *words, const char *text, size_t size)
{
    size_t length = strnlen(text, size);
    for (size_t i = 0; i < size; i++)
        words[i ^ 1] = i < length ? (uint8_t)text[i] : ' ';
}

struct word {
    uint16_t index, value;
};

static void put_words(uint8_t *data, const struct word *words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        store_le16(data + 2u * words[i].index, words[i].value);
}

static void reply(struct ahci_command *command, uint8_t *data, size_t size)
{
    command->end = AHCI_END_PIO_IN;
    if (ahci_copy(command, data, size, true) == size)
        good(command);
    else
        refuse(command);
}

static void put_checksum(uint8_t *data)
{
    uint8_t sum = 0;
    for (unsigned i = 0; i < SECTOR - 1; i++)
        sum = (uint8_t)(sum + data[i]);
    data[SECTOR - 1] = (uint8_t)-sum;
}

static void put_identity(const struct ata_drive *drive, uint8_t *data, const char *model)
{
    static const struct word words[] = {
        {50, 0x4000}, {53, 0x0006}, {63, 0x0007}, {64, 0x0003}, {65, 120},     {66, 120},
        {67, 120},    {68, 120},    {80, 0x03f0}, {88, 0x407f}, {222, 0x103f},
    };
    put_words(data, words, ARRAY_SIZE(words));
    put_text(data + 20, drive->serial, 20);
    put_text(data + 46, "1", 8);
    put_text(data + 54, model, 40);
    data[510] = 0xa5; /* a checksum follows */
    put_checksum(data);
}

static void identify_disk(struct ahci_command *command)
{
    const struct ata_drive *drive = drive_of(command);
    uint64_t sectors = sectors_of(drive), cylinders = sectors / (HEADS * TRACK_SECTORS);
    uint16_t caches = (uint16_t)((drive->write_cache ? 0x20 : 0) | (drive->read_ahead ? 0x40 : 0));
    uint8_t data[SECTOR] = {0};
    const struct word words[] = {
        {0, 0x0040},
        {1, (uint16_t)(cylinders < 16383 ? cylinders : 16383)},
        {3, HEADS},
        {6, TRACK_SECTORS},
        {47, 0x8000 | MULTIPLE_MAX},
        {48, 0x4000},
        {49, 0x2f00}, /* DMA, LBA, IORDY, standard standby timers */
        {59, (uint16_t)(drive->multiple != 0 ? 0x0100 | drive->multiple : 0)},
        {75, AHCI_SLOTS - 1},
        {76, 0x010e}, /* queuing; 1.5, 3 and 6 Gbit/s */
        {82, 0x4069}, /* NOP, look-ahead, write cache, power management, SMART */
        {83, 0x7400}, /* FLUSH CACHE (EXT), 48-bit addresses */
        {84, 0x4060}, /* WRITE DMA FUA EXT, general purpose logs */
        {85, (uint16_t)(0x4008 | caches | drive->smart)},
        {86, 0x3400},
        {87, 0x4060},
        {105, TRIM_SECTORS},
        {106, 0x4000},
        {169, block_can_discard(drive->unit.params.disk)},
        {217, 1}, /* does not rotate */
    };
    put_words(data, words, ARRAY_SIZE(words));
    store_le32(data + 120, (uint32_t)(sectors < LBA28_MAX ? sectors : LBA28_MAX));
    store_le64(data + 200, sectors);
    put_identity(drive, data, "TRAPEZE VIRTUAL DISK");
    reply(command, data, sizeof(data));
}

static void identify_packet(struct ahci_command *command)
{
    static const struct word words[] = {
        {0, 0x85c0},  {49, 0x0f00}, /* an optical drive, 12-byte packets; DMA, LBA, IORDY */
        {76, 0x000e}, {82, 0x4218}, {83, 0x4000}, {84, 0x4000}, {85, 0x4218}, {87, 0x4000},
    };
    uint8_t data[SECTOR] = {0};
    put_words(data, words, ARRAY_SIZE(words));
    put_identity(drive_of(command), data, "TRAPEZE VIRTUAL CD-ROM");
    reply(command, data, sizeof(data));
}

void ata_signature(const struct ata_drive *drive, uint64_t *lba, uint16_t *count)
{
    *lba = drive->optical ? 0xeb1401 : 0x000001;
    *count = 1;
}

void ata_power_on(struct ata_drive *drive)
{
    drive->write_cache = drive->read_ahead = drive->smart = true;
    drive->multiple = MULTIPLE_MAX;
    drive->failed = false;
    if (drive->optical)
        scsi_unit_reset(&drive->unit);
}

/* A command of the other kind of drive: refused, with the signature (ATA8-ACS, 7.16, 7.17). */
static void wrong_kind(struct ahci_command *command)
{
    ata_signature(drive_of(command), &command->lba_out, &command->count_out);
    refuse(command);
}

/* --- settings, logs, power --- */

static void set_features(struct ahci_command *command)
{
    struct ata_drive *drive = drive_of(command);
    switch (command->features & 0xff) {
    case 0x02:
    case 0x82:
        if (drive->optical)
            break;
        drive->write_cache = (command->features & 0xff) == 0x02;
        if (drive->write_cache)
            good(command);
        else /* what is in it goes to stable storage first (ATA8-ACS, 7.47.5) */
            flush(command);
        return;
    case 0xaa:
    case 0x55:
        if (drive->optical)
            break;
        drive->read_ahead = (command->features & 0xff) == 0xaa;
        good(command);
        return;
    case 0x03: /* the transfer mode: PIO, multiword or Ultra DMA */
        if ((command->count & 0xff) >> 3 > 8 || ((command->count & 0xff) >> 3 & 3) == 3)
            break;
        good(command);
        return;
    case 0x66: /* what happens to these at a software reset */
    case 0xcc:
        good(command);
        return;
    }
    refuse(command);
}

static void set_multiple(struct ahci_command *command)
{
    unsigned sectors = command->count & 0xff;
    if (sectors > MULTIPLE_MAX || (sectors & (sectors - 1)) != 0) {
        refuse(command);
        return;
    }
    drive_of(command)->multiple = (uint8_t)sectors;
    good(command);
}

static void read_log(struct ahci_command *command)
{
    struct ata_drive *drive = drive_of(command);
    unsigned log = command->lba & 0xff;
    uint8_t data[SECTOR] = {0};
    if (command->count != 1 || (command->lba >> 8 & 0xff) != 0 || (log != 0x00 && log != 0x10)) {
        refuse(command);
        return;
    }
    if (log == 0x00) { /* which there are: this one, and the next, of a sector each */
        store_le16(data, 1);
        store_le16(data + 2 * 0x10, 1);
    } else if (drive->failed) {
        data[0] = drive->failed_tag;
        data[2] = drive->failed_status;
        data[3] = drive->failed_error;
        for (unsigned i = 0; i < 3; i++) {
            data[4 + i] = (uint8_t)(drive->failed_lba >> (8 * i));
            data[8 + i] = (uint8_t)(drive->failed_lba >> (8 * i + 24));
        }
        data[7] = LBA_MODE;
    } else {
        data[0] = 0x80; /* no queued command */
    }
    if (log == 0x10)
        put_checksum(data);
    drive->failed = drive->failed && log != 0x10;
    bool dma = command->opcode == 0x47;
    if (!dma) {
        reply(command, data, sizeof(data));
    } else if (ahci_copy(command, data, sizeof(data), true) == sizeof(data)) {
        good(command);
    } else {
        refuse(command);
    }
}

enum { SMART_KEY = 0xc24f }; /* LBA bits 23:8 */

/* Enough to be healthy: there are no attributes. */
static void smart(struct ahci_command *command)
{
    struct ata_drive *drive = drive_of(command);
    unsigned what = command->features & 0xff;
    uint8_t data[SECTOR] = {0};
    if ((command->lba >> 8 & 0xffff) != SMART_KEY || (!drive->smart && what != 0xd8)) {
        refuse(command);
        return;
    }
    switch (what) {
    case 0xd0: /* data, and thresholds */
    case 0xd1:
        store_le16(data, 1);
        put_checksum(data);
        reply(command, data, sizeof(data));
        return;
    case 0xd8:
    case 0xd9:
        drive->smart = what == 0xd8;
        good(command);
        return;
    case 0xda: /* the registers stay as they are: no threshold is exceeded */
        good(command);
        return;
    }
    refuse(command);
}

static void check_power(struct ahci_command *command)
{
    command->count_out = 0xff; /* active */
    good(command);
}

static void read_native_max(struct ahci_command *command)
{
    uint64_t last = sectors_of(drive_of(command)) - 1;
    bool wide = command->opcode == 0x27;
    if (!wide && last > LBA28_MAX)
        last = LBA28_MAX;
    command->lba_out = wide ? last : last & 0xffffff;
    if (!wide)
        command->device = (uint8_t)(LBA_MODE | last >> 24);
    good(command);
}

static void device_reset(struct ahci_command *command)
{
    struct ata_drive *drive = drive_of(command);
    ata_power_on(drive);
    ata_signature(drive, &command->lba_out, &command->count_out);
    ahci_complete(command, ATA_READY, 0);
}

/* --- packets --- */

/* The interrupt reason in the count: a command's end (I/O and C/D set). */
enum { PACKET_END = 3 };

static void packet_done(struct scsi_task *task)
{
    struct ahci_port *port = CONTAINER_OF(task, struct ahci_port, drive.task);
    struct ahci_command *command = task->io.opaque;
    assert(command->port == port);
    (void)port;
    command->moved = task->moved;
    command->count_out = PACKET_END;
    ahci_note_window(command);
    if (ahci_is_pausing(command, task->status == SCSI_TASK_ABORTED))
        ahci_park(command);
    else if (task->status == SCSI_GOOD)
        good(command);
    else
        fail(command, (uint8_t)((task->why >> 16) << 4 | ATA_ABRT));
}

static void packet(struct ahci_command *command)
{
    struct ata_drive *drive = drive_of(command);
    struct scsi_task *task = &drive->task;
    /* All that the driver lends, as far as one window goes. */
    uint64_t size = ahci_window(command, UINT64_MAX, true);
    *task = (struct scsi_task){.unit = &drive->unit, .luns = 1, .done = packet_done};
    memcpy(task->cdb, command->packet, 12);
    task->in = task->out = command->iov;
    task->in_count = task->out_count = command->iov_count;
    task->in_size = task->out_size = size;
    task->io.opaque = command;
    scsi_start(task);
    scsi_unplug(&drive->unit);
}

/* --- commands --- */

enum { DISK = 1, PACKET = 2 };

static const struct row {
    uint8_t opcode, kinds;
    void (*run)(struct ahci_command *command);
} rows[] = {
    {0x06, DISK, data_set_management},
    {0x08, PACKET, device_reset},
    {0x10, DISK, good}, /* RECALIBRATE */
    {0x20, DISK, read_pio},
    {0x24, DISK, read_pio},
    {0x25, DISK, read_dma},
    {0x27, DISK, read_native_max},
    {0x29, DISK, read_multiple},
    {0x2f, DISK, read_log},
    {0x30, DISK, write_pio},
    {0x34, DISK, write_pio},
    {0x35, DISK, write_dma},
    {0x39, DISK, write_multiple},
    {0x3d, DISK, write_dma},
    {0x40, DISK, verify},
    {0x42, DISK, verify},
    {0x47, DISK, read_log},
    {READ_FPDMA, DISK, queued},
    {WRITE_FPDMA, DISK, queued},
    {0x70, DISK, verify}, /* SEEK */
    {0x91, DISK, good},   /* INITIALIZE DEVICE PARAMETERS */
    {0xa0, PACKET, packet},
    {0xa1, PACKET, identify_packet},
    {0xa1, DISK, wrong_kind},
    {0xb0, DISK, smart},
    {0xc4, DISK, read_multiple},
    {0xc5, DISK, write_multiple},
    {0xc6, DISK, set_multiple},
    {0xc8, DISK, read_dma},
    {0xca, DISK, write_dma},
    {0xce, DISK, write_multiple},
    {0xe0, DISK | PACKET, flush}, /* STANDBY IMMEDIATE: everything is written */
    {0xe1, DISK | PACKET, good},  /* IDLE IMMEDIATE */
    {0xe2, DISK, flush},          /* STANDBY */
    {0xe3, DISK, good},           /* IDLE */
    {0xe5, DISK | PACKET, check_power},
    {0xe6, DISK | PACKET, flush}, /* SLEEP */
    {0xe7, DISK, flush},
    {0xea, DISK, flush},
    {0xec, DISK, identify_disk},
    {0xec, PACKET, wrong_kind},
    {0x20, PACKET, wrong_kind},
    {0xef, DISK | PACKET, set_features},
    {0xf8, DISK, read_native_max},
};

bool ata_is_queued(const struct ahci_port *port, uint8_t opcode)
{
    return !port->drive.optical && (opcode == READ_FPDMA || opcode == WRITE_FPDMA);
}

void ata_run(struct ahci_command *command)
{
    unsigned kind = drive_of(command)->optical ? PACKET : DISK;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (rows[i].opcode == command->opcode && (rows[i].kinds & kind) != 0) {
            rows[i].run(command);
            return;
        }
    refuse(command);
}

static bool drive_restored(void *object, struct error **err)
{
    const struct ata_drive *drive = object;
    return (drive->multiple <= MULTIPLE_MAX && drive->failed_tag < AHCI_SLOTS) ||
           error_set(err, ERROR_USAGE, "the saved state of an ATA drive is impossible");
}

static const struct state_field drive_fields[] = {
    STATE_BOOL(struct ata_drive, write_cache, "write-cache"),
    STATE_BOOL(struct ata_drive, read_ahead, "read-ahead"),
    STATE_BOOL(struct ata_drive, smart, "smart"),
    STATE_UINT(struct ata_drive, multiple, "multiple"),
    STATE_BOOL(struct ata_drive, failed, "failed"),
    STATE_UINT(struct ata_drive, failed_tag, "failed-tag"),
    STATE_UINT(struct ata_drive, failed_status, "failed-status"),
    STATE_UINT(struct ata_drive, failed_error, "failed-error"),
    STATE_UINT(struct ata_drive, failed_lba, "failed-lba"),
    STATE_STRUCT(struct ata_drive, unit, "unit", &scsi_unit_state),
    STATE_END,
};
const struct state_table ata_drive_state = {"ata-drive", 1, drive_fields, NULL, drive_restored};
