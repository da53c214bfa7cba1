/* SPDX-License-Identifier: MIT
 *
 * NOR flash with Intel's command set and a bus of one byte (Intel 28F640J3 data sheet), as firmware
 * keeps its variables in: reads are memory's (struct mem_rom, where an engine shows that, of which
 * then no read comes to us); a byte that is written is a command, or what a command waits for. Of
 * the commands, those that need no description of the chip (CFI): programming a byte, erasing a
 * block of 4 KiB, status and identifier. As on QEMU's, which firmware tells from RAM by it, the
 * status is zero once it was cleared, and programming may set bits that erasing alone sets on a
 * chip.
 *
 * What is programmed goes to the store as one piece when the firmware goes back to reading (or
 * elsewhere), so that the order in which the flash changed is the order in which the store does:
 * firmware relies on that to survive a power cut.
 *
 * params: gpa, flash.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "bus/device.h"
#include "mem/mem.h"

enum { BLOCK = 4096, ERASED = 0xff };
enum {
    COMMAND_PROGRAM_OLD = 0x10,
    COMMAND_ERASE = 0x20,
    COMMAND_PROGRAM = 0x40,
    COMMAND_CLEAR_STATUS = 0x50,
    COMMAND_STATUS = 0x70,
    COMMAND_IDENTIFY = 0x90,
    COMMAND_CONFIRM = 0xd0,
    COMMAND_READ = 0xff
};
enum { STATUS_ERASE_FAILED = 1 << 5, STATUS_READY = 1 << 7 };
enum { MAKER_INTEL = 0x89, DEVICE_64_MBIT = 0x17 };
enum mode { READS_ARRAY, READS_STATUS, READS_IDENTIFIER, MODES };
enum pending { NOTHING, PROGRAM, ERASE, PENDINGS };

struct flash {
    struct device device;
    struct mem_io io;
    struct flash_store store;
    uint8_t *bytes;
    struct mem_rom *rom;               /* what reads give just now; NULL: they come here */
    uint64_t unsaved_from, unsaved_to; /* empty: nothing is */

    uint8_t mode, pending, status; /* enum mode; enum pending: what the next write is for */
    struct state_buffer
        blocks; /* those that are not erased: number, bytes; while saving, restoring */
};

static void save_range(struct flash *flash, uint64_t from, uint64_t to)
{
    if (flash->store.save != NULL && from < to)
        flash->store.save(flash->store.opaque, from, flash->bytes + from, to - from);
}

static void save_unsaved(struct flash *flash)
{
    save_range(flash, flash->unsaved_from, flash->unsaved_to);
    flash->unsaved_from = flash->unsaved_to = 0;
}

static void program(struct flash *flash, uint64_t offset, uint8_t value)
{
    if (offset != flash->unsaved_to) {
        save_unsaved(flash);
        flash->unsaved_from = offset;
    }
    flash->bytes[offset] = value;
    flash->unsaved_to = offset + 1;
    flash->status |= STATUS_READY;
}

static void erase(struct flash *flash, uint64_t offset)
{
    uint64_t from = align_down(offset, BLOCK);
    save_unsaved(flash);
    memset(flash->bytes + from, ERASED, BLOCK);
    save_range(flash, from, from + BLOCK);
    flash->status |= STATUS_READY;
}

static void command(struct flash *flash, uint8_t value)
{
    flash->mode = READS_STATUS;
    switch (value) {
    case COMMAND_PROGRAM_OLD:
    case COMMAND_PROGRAM:
        flash->pending = PROGRAM;
        break;
    case COMMAND_ERASE:
        flash->pending = ERASE;
        break;
    case COMMAND_CLEAR_STATUS:
        flash->status = 0;
        break;
    case COMMAND_STATUS:
        break;
    case COMMAND_IDENTIFY:
        flash->mode = READS_IDENTIFIER;
        break;
    default: /* COMMAND_READ, and all that there is not */
        flash->mode = READS_ARRAY;
        save_unsaved(flash);
        break;
    }
}

static void write_byte(struct flash *flash, uint64_t offset, uint8_t value)
{
    enum pending pending = flash->pending;
    flash->pending = NOTHING;
    if (pending == PROGRAM)
        program(flash, offset, value);
    else if (pending == ERASE && value == COMMAND_CONFIRM)
        erase(flash, offset);
    else if (pending == ERASE)
        flash->status |= STATUS_READY | STATUS_ERASE_FAILED;
    else
        command(flash, value);
}

static uint8_t read_byte(const struct flash *flash, uint64_t offset)
{
    switch (flash->mode) {
    case READS_STATUS:
        return flash->status;
    case READS_IDENTIFIER:
        return offset % BLOCK == 0 ? MAKER_INTEL : offset % BLOCK == 1 ? DEVICE_64_MBIT : 0;
    default:
        return flash->bytes[offset];
    }
}

/* What is not the array is the same in each block. */
static void show(const struct flash *flash)
{
    uint8_t block[BLOCK];
    if (flash->rom == NULL)
        return;
    if (flash->mode == READS_ARRAY) {
        memcpy(flash->rom->host, flash->bytes, (size_t)flash->store.size);
        return;
    }
    for (unsigned i = 0; i < BLOCK; i++)
        block[i] = read_byte(flash, i);
    for (uint64_t at = 0; at < flash->store.size; at += BLOCK)
        memcpy(flash->rom->host + at, block, BLOCK);
}

static uint64_t flash_read(void *opaque, uint64_t offset, unsigned size)
{
    struct flash *flash = opaque;
    uint64_t value = 0;
    pthread_mutex_lock(&flash->device.lock);
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)read_byte(flash, offset + i) << (8 * i);
    pthread_mutex_unlock(&flash->device.lock);
    return value;
}

static void flash_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct flash *flash = opaque;
    pthread_mutex_lock(&flash->device.lock);
    bool changed = false;
    for (unsigned i = 0; i < size; i++) {
        uint8_t mode = flash->mode, status = flash->status;
        write_byte(flash, offset + i, (uint8_t)(value >> (8 * i)));
        changed |= flash->mode != mode || (mode == READS_STATUS && flash->status != status);
    }
    if (changed) /* twice in a run of bytes that are programmed */
        show(flash);
    pthread_mutex_unlock(&flash->device.lock);
}

static const struct mem_io_ops io_ops = {flash_read, flash_write, 1, 8};

/* ---- life ---- */

static void fill(struct flash *flash)
{
    if (flash->store.load != NULL &&
        flash->store.load(flash->store.opaque, flash->bytes, flash->store.size))
        return;
    if (flash->store.format != NULL)
        flash->store.format(flash->bytes, flash->store.size);
    save_range(flash, 0, flash->store.size);
}

static bool flash_realize(struct device *device, const struct device_params *params,
                          struct error **err)
{
    struct flash *flash = CONTAINER_OF(device, struct flash, device);
    flash->store = *params->flash;
    if (flash->store.size == 0 || flash->store.size % BLOCK != 0)
        return error_set(err, ERROR_INTERNAL, "its size is no multiple of 4 KiB");
    flash->io = (struct mem_io){.name = "flash",
                                .gpa = params->gpa,
                                .size = flash->store.size,
                                .ops = &io_ops,
                                .opaque = flash};
    if (!mem_io_add(device->env->mem, &flash->io))
        return error_set(err, ERROR_INTERNAL, "its addresses overlap another device's");
    if (mem_shows_rom(device->env->mem)) {
        flash->rom = mem_add_rom(device->env->mem, params->gpa, flash->store.size, err);
        if (flash->rom == NULL) {
            mem_io_remove(device->env->mem, &flash->io);
            return false;
        }
    }
    flash->bytes = alloc_zeroed(1, (size_t)flash->store.size);
    memset(flash->bytes, ERASED, (size_t)flash->store.size);
    fill(flash);
    show(flash);
    return true;
}

static void flash_unrealize(struct device *device)
{
    struct flash *flash = CONTAINER_OF(device, struct flash, device);
    save_unsaved(flash);
    mem_io_remove(device->env->mem, &flash->io);
    state_buffer_free(&flash->blocks);
    free(flash->bytes);
}

/* Its contents stay. */
static void flash_reset(struct device *device)
{
    struct flash *flash = CONTAINER_OF(device, struct flash, device);
    save_unsaved(flash);
    flash->mode = READS_ARRAY;
    flash->pending = NOTHING;
    flash->status = 0;
    show(flash);
}

static void flash_quiesce(struct device *device)
{
    struct flash *flash = CONTAINER_OF(device, struct flash, device);
    pthread_mutex_lock(&device->lock);
    save_unsaved(flash);
    pthread_mutex_unlock(&device->lock);
}

/* ---- state ---- */

static bool is_erased(const uint8_t *block)
{
    return block[0] == ERASED && memcmp(block, block + 1, BLOCK - 1) == 0;
}

static void flash_pre_save(void *object)
{
    struct flash *flash = object;
    flash->blocks.size = 0;
    for (uint64_t at = 0; at < flash->store.size; at += BLOCK) {
        uint8_t number[4];
        if (is_erased(flash->bytes + at))
            continue;
        store_le32(number, (uint32_t)(at / BLOCK));
        state_buffer_add(&flash->blocks, number, sizeof(number));
        state_buffer_add(&flash->blocks, flash->bytes + at, BLOCK);
    }
}

static bool flash_restored(void *object, struct error **err)
{
    enum { ENTRY = 4 + BLOCK };
    struct flash *flash = object;
    uint64_t least = 0; /* the next block's number: they are in order */
    bool good = flash->mode < MODES && flash->pending < PENDINGS && flash->blocks.size % ENTRY == 0;
    memset(flash->bytes, ERASED, (size_t)flash->store.size);
    for (size_t at = 0; good && at < flash->blocks.size; at += ENTRY) {
        uint64_t number = load_le32(flash->blocks.data + at);
        good = number >= least && number < flash->store.size / BLOCK;
        if (good)
            memcpy(flash->bytes + number * BLOCK, flash->blocks.data + at + 4, BLOCK);
        least = number + 1;
    }
    flash->unsaved_from = flash->unsaved_to = 0;
    if (!good)
        return error_set(err, ERROR_USAGE, "the state of %s is damaged", flash->device.id);
    save_range(flash, 0, flash->store.size);
    show(flash);
    return true;
}

static const struct state_field flash_fields[] = {
    STATE_UINT(struct flash, mode, "mode"),
    STATE_UINT(struct flash, pending, "pending"),
    STATE_UINT(struct flash, status, "status"),
    STATE_BUFFER(struct flash, blocks, "blocks"),
    STATE_END,
};
static const struct state_table flash_state = {"nor-flash", 1, flash_fields, flash_pre_save,
                                               flash_restored};

const struct device_ops device_nor_flash = {
    .name = "nor-flash",
    .size = sizeof(struct flash),
    .realize = flash_realize,
    .unrealize = flash_unrealize,
    .reset = flash_reset,
    .quiesce = flash_quiesce,
    .state = &flash_state,
};
