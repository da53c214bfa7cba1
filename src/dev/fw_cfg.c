/* SPDX-License-Identifier: MIT
 *
 * QEMU's firmware configuration device (docs/specs/fw_cfg.rst): an item is chosen by its number,
 * and read byte by byte at a port, or all at once into guest memory by a command there. Nothing can
 * be written. What lies behind an item's end reads as zeroes.
 *
 * params: io_port.
 */
#include "dev/fw_cfg.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "bus/device.h"
#include "dev/devices.h"
#include "mem/mem.h"

enum { SELECTOR = 0, DATA = 1, DMA_HIGH = 4, DMA_LOW = 8, PORTS = 12 };
enum { KEY_SIGNATURE = 0x00, KEY_ID = 0x01, KEY_DIRECTORY = 0x19, KEY_FIRST_FILE = 0x20 };
enum { ID_TRADITIONAL = 1 << 0, ID_DMA = 1 << 1 };
enum {
    DMA_ERROR = 1 << 0,
    DMA_READ = 1 << 1,
    DMA_SKIP = 1 << 2,
    DMA_SELECT = 1 << 3,
    DMA_WRITE = 1 << 4
};
enum { DMA_COMMAND = 16, DIRECTORY_ENTRY = 64, CHUNK = 65536 };
#define DMA_SIGNATURE UINT64_C(0x51454d5520434647) /* "QEMU CFG" */

static void store_be16(uint8_t *to, uint16_t value)
{
    store_le16(to, __builtin_bswap16(value));
}

static void store_be32(uint8_t *to, uint32_t value)
{
    store_le32(to, __builtin_bswap32(value));
}

static uint32_t load_be32(const uint8_t *from)
{
    return __builtin_bswap32(load_le32(from));
}

struct item {
    uint16_t key;
    uint8_t *bytes; /* NULL: of the file */
    int fd;
    uint64_t at, size;
    char name[FW_CFG_NAME_MAX + 1]; /* empty: it has none */
};

struct fw_cfg {
    struct device device;
    struct mem_io io;
    struct item items[FW_CFG_ITEMS_MAX];
    size_t count;

    uint16_t key;
    uint64_t offset; /* in that item, of what is read next */
    uint32_t dma_high;
};

static struct fw_cfg *fw_cfg_of(struct device *device)
{
    assert(device->ops == &device_fw_cfg);
    return CONTAINER_OF(device, struct fw_cfg, device);
}

/* ---- items ---- */

static const struct item *find(const struct fw_cfg *fw_cfg, uint16_t key)
{
    for (size_t i = 0; i < fw_cfg->count; i++)
        if (fw_cfg->items[i].key == key)
            return &fw_cfg->items[i];
    return NULL;
}

static struct item *add(struct fw_cfg *fw_cfg, uint16_t key, uint64_t size)
{
    assert(fw_cfg->count < FW_CFG_ITEMS_MAX && find(fw_cfg, key) == NULL);
    struct item *item = &fw_cfg->items[fw_cfg->count++];
    *item = (struct item){.key = key, .fd = -1, .size = size};
    return item;
}

void fw_cfg_add(struct device *device, uint16_t key, const void *bytes, size_t size)
{
    struct item *item = add(fw_cfg_of(device), key, size);
    item->bytes = alloc_zeroed(1, size + 1);
    memcpy(item->bytes, bytes, size);
}

void fw_cfg_add_number(struct device *device, uint16_t key, uint64_t value, unsigned size)
{
    uint8_t bytes[8];
    store_le64(bytes, value);
    fw_cfg_add(device, key, bytes, size);
}

void fw_cfg_add_part(struct device *device, uint16_t key, int fd, uint64_t offset, uint64_t size)
{
    struct item *item = add(fw_cfg_of(device), key, size);
    item->fd = fd;
    item->at = offset;
}

static bool is_file(const struct item *item)
{
    return item->name[0] != '\0';
}

/* All numbers are big-endian. */
static void write_directory(struct fw_cfg *fw_cfg)
{
    struct item *directory = &fw_cfg->items[0];
    uint32_t files = 0;
    free(directory->bytes);
    directory->bytes = alloc_zeroed(FW_CFG_ITEMS_MAX + 1, DIRECTORY_ENTRY);
    for (size_t i = 0; i < fw_cfg->count; i++) {
        const struct item *item = &fw_cfg->items[i];
        if (!is_file(item))
            continue;
        uint8_t *entry = directory->bytes + 4 + (size_t)files++ * DIRECTORY_ENTRY;
        store_be32(entry, (uint32_t)item->size);
        store_be16(entry + 4, item->key);
        memcpy(entry + 8, item->name, sizeof(item->name));
    }
    store_be32(directory->bytes, files);
    directory->size = 4 + (uint64_t)files * DIRECTORY_ENTRY;
}

void fw_cfg_add_file(struct device *device, const char *name, const void *bytes, size_t size)
{
    struct fw_cfg *fw_cfg = fw_cfg_of(device);
    assert(strlen(name) <= FW_CFG_NAME_MAX && size <= UINT32_MAX);
    fw_cfg_add(device, (uint16_t)(KEY_FIRST_FILE + fw_cfg->count), bytes, size);
    memcpy(fw_cfg->items[fw_cfg->count - 1].name, name, strlen(name));
    write_directory(fw_cfg);
}

void fw_cfg_clear(struct device *device)
{
    struct fw_cfg *fw_cfg = fw_cfg_of(device);
    while (fw_cfg->count > 0)
        free(fw_cfg->items[--fw_cfg->count].bytes);
    add(fw_cfg, KEY_DIRECTORY, 0);
    write_directory(fw_cfg);
    fw_cfg_add(device, KEY_SIGNATURE, "QEMU", 4);
    fw_cfg_add_number(device, KEY_ID, ID_TRADITIONAL | ID_DMA, 4);
}

/* The next `size` bytes of the chosen item. */
static void read_item(struct fw_cfg *fw_cfg, uint8_t *to, size_t size)
{
    const struct item *item = find(fw_cfg, fw_cfg->key);
    uint64_t left = item != NULL && fw_cfg->offset < item->size ? item->size - fw_cfg->offset : 0;
    size_t count = size < left ? size : (size_t)left, have = 0;
    if (count > 0 && item->bytes != NULL) {
        memcpy(to, item->bytes + fw_cfg->offset, count);
        have = count;
    }
    while (have < count) {
        ssize_t got =
            pread(item->fd, to + have, count - have, (off_t)(item->at + fw_cfg->offset + have));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        have += (size_t)got;
    }
    memset(to + have, 0, size - have);
    if (__builtin_add_overflow(fw_cfg->offset, size, &fw_cfg->offset))
        fw_cfg->offset = UINT64_MAX;
}

/* ---- the guest's side ---- */

static void choose(struct fw_cfg *fw_cfg, uint16_t key)
{
    fw_cfg->key = key;
    fw_cfg->offset = 0;
}

static bool copy_to_guest(struct fw_cfg *fw_cfg, uint64_t gpa, uint32_t length)
{
    struct mem_space *mem = fw_cfg->device.env->mem;
    uint8_t *chunk = alloc_zeroed(1, CHUNK);
    bool good = true;
    while (good && length > 0) {
        uint32_t size = length < CHUNK ? length : CHUNK;
        read_item(fw_cfg, chunk, size);
        good = gpa + size >= gpa && mem_write(mem, gpa, chunk, size);
        gpa += size;
        length -= size;
    }
    free(chunk);
    return good;
}

/* A command: control, length and address of memory, all big-endian; control is the answer. */
static void carry_out(struct fw_cfg *fw_cfg, uint64_t gpa)
{
    struct mem_space *mem = fw_cfg->device.env->mem;
    uint8_t command[DMA_COMMAND], answer[4];
    if (gpa + DMA_COMMAND < gpa || !mem_read(mem, gpa, command, sizeof(command)))
        return;
    uint32_t control = load_be32(command), length = load_be32(command + 4);
    bool good = (control & DMA_WRITE) == 0;
    if ((control & DMA_SELECT) != 0)
        choose(fw_cfg, (uint16_t)(control >> 16));
    if (good && (control & DMA_READ) != 0)
        good = copy_to_guest(fw_cfg, __builtin_bswap64(load_le64(command + 8)), length);
    else if (good && (control & DMA_SKIP) != 0 &&
             __builtin_add_overflow(fw_cfg->offset, length, &fw_cfg->offset))
        fw_cfg->offset = UINT64_MAX;
    store_be32(answer, good ? 0 : DMA_ERROR);
    (void)mem_write(mem, gpa, answer, sizeof(answer));
}

static uint64_t ports_read(void *opaque, uint64_t offset, unsigned size)
{
    struct fw_cfg *fw_cfg = opaque;
    uint8_t byte = 0;
    if (size == 4 && (offset == DMA_HIGH || offset == DMA_LOW))
        return __builtin_bswap32((uint32_t)(DMA_SIGNATURE >> (offset == DMA_HIGH ? 32 : 0)));
    if (size != 1 || offset != DATA)
        return 0;
    pthread_mutex_lock(&fw_cfg->device.lock);
    read_item(fw_cfg, &byte, 1);
    pthread_mutex_unlock(&fw_cfg->device.lock);
    return byte;
}

static void ports_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct fw_cfg *fw_cfg = opaque;
    pthread_mutex_lock(&fw_cfg->device.lock);
    if (offset == SELECTOR && size == 2) {
        choose(fw_cfg, (uint16_t)value);
    } else if (offset == DMA_HIGH && size == 4) {
        fw_cfg->dma_high = __builtin_bswap32((uint32_t)value);
    } else if (offset == DMA_LOW && size == 4) {
        uint64_t gpa = (uint64_t)fw_cfg->dma_high << 32 | __builtin_bswap32((uint32_t)value);
        fw_cfg->dma_high = 0;
        carry_out(fw_cfg, gpa);
    }
    pthread_mutex_unlock(&fw_cfg->device.lock);
}

static const struct mem_io_ops ports_ops = {ports_read, ports_write, 1, 4};

static void fw_cfg_reset(struct device *device)
{
    struct fw_cfg *fw_cfg = fw_cfg_of(device);
    choose(fw_cfg, KEY_SIGNATURE);
    fw_cfg->dma_high = 0;
}

static bool fw_cfg_realize(struct device *device, const struct device_params *params,
                           struct error **err)
{
    struct fw_cfg *fw_cfg = fw_cfg_of(device);
    fw_cfg->io = (struct mem_io){.name = "fw-cfg",
                                 .gpa = params->io_port,
                                 .size = PORTS,
                                 .ops = &ports_ops,
                                 .opaque = fw_cfg};
    fw_cfg_clear(device);
    return mem_io_add(device->env->ports, &fw_cfg->io) ||
           error_set(err, ERROR_INTERNAL, "its ports overlap another device's");
}

static void fw_cfg_unrealize(struct device *device)
{
    struct fw_cfg *fw_cfg = fw_cfg_of(device);
    mem_io_remove(device->env->ports, &fw_cfg->io);
    while (fw_cfg->count > 0)
        free(fw_cfg->items[--fw_cfg->count].bytes);
}

static const struct state_field fw_cfg_fields[] = {
    STATE_UINT(struct fw_cfg, key, "key"),
    STATE_UINT(struct fw_cfg, offset, "offset"),
    STATE_UINT(struct fw_cfg, dma_high, "dma-high"),
    STATE_END,
};
static const struct state_table fw_cfg_state = {"fw-cfg", 1, fw_cfg_fields, NULL, NULL};

const struct device_ops device_fw_cfg = {
    .name = "fw-cfg",
    .size = sizeof(struct fw_cfg),
    .realize = fw_cfg_realize,
    .unrealize = fw_cfg_unrealize,
    .reset = fw_cfg_reset,
    .state = &fw_cfg_state,
};
