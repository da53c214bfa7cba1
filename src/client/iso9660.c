/* SPDX-License-Identifier: MIT
 *
 * Layout, in sectors of 2048 bytes: 16 primary volume descriptor, 17 terminator, 18 and 19 path
 * tables (little- and big-endian), 20 the root directory, 21 on the files. Names of the plain
 * file system are F0., F1. ...; what people see is Rock Ridge's NM entry.
 */
#include "client/iso9660.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"

enum {
    SECTOR = 2048,
    VOLUME = 16,
    TERMINATOR = 17,
    TABLE_LE = 18,
    TABLE_BE = 19,
    ROOT = 20,
    FIRST_FILE = 21
};
enum { RECORD_MAX = 256 };

static void both16(uint8_t *to, uint16_t value)
{
    store_le16(to, value);
    to[2] = (uint8_t)(value >> 8);
    to[3] = (uint8_t)value;
}

static void be32(uint8_t *to, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> (24 - 8 * i));
}

static void both32(uint8_t *to, uint32_t value)
{
    store_le32(to, value);
    be32(to + 4, value);
}

/* A directory record without its system use area (9.1); returns its length. */
static size_t record(uint8_t *to, uint32_t sector, uint32_t size, bool directory, const char *name,
                     size_t name_size)
{
    size_t length = (33 + name_size + 1) & ~(size_t)1;
    memset(to, 0, length);
    to[0] = (uint8_t)length;
    both32(to + 2, sector);
    both32(to + 10, size);
    to[25] = directory ? 2 : 0;
    both16(to + 28, 1);
    to[32] = (uint8_t)name_size;
    memcpy(to + 33, name, name_size);
    return length;
}

/* POSIX attributes (Rock Ridge PX). */
static size_t attributes(uint8_t *to, uint32_t mode, uint32_t links)
{
    memset(to, 0, 36);
    memcpy(to, "PX\x24\x01", 4);
    both32(to + 4, mode);
    both32(to + 12, links);
    return 36;
}

static size_t add_dot(uint8_t *to, char name)
{
    size_t length = record(to, ROOT, SECTOR, true, &name, 1);
    if (name == 0) {
        /* The first entry says that there is a system use area at all (SUSP 5.3). */
        memcpy(to + length, "SP\x07\x01\xbe\xef\0", 7);
        length += 7;
    }
    length += attributes(to + length, S_IFDIR | 0555, 2);
    length += length & 1;
    to[0] = (uint8_t)length;
    return length;
}

static size_t add_file(uint8_t *to, uint32_t sector, const struct iso_file *file, unsigned number)
{
    char plain[8];
    size_t name = strlen(file->name);
    int plain_size = snprintf(plain, sizeof(plain), "F%u.;1", number);
    assert(name <= ISO_MAX_NAME);
    size_t length = record(to, sector, (uint32_t)file->size, false, plain, (size_t)plain_size);
    length += attributes(to + length, S_IFREG | 0444, 1);
    uint8_t *alternate = to + length;
    memcpy(alternate, "NM\0\x01\0", 5);
    alternate[2] = (uint8_t)(5 + name);
    memcpy(alternate + 5, file->name, name);
    length += 5 + name;
    if (length & 1)
        to[length++] = 0;
    to[0] = (uint8_t)length;
    return length;
}

static void volume_descriptor(uint8_t *to, const char *label, uint32_t sectors)
{
    to[0] = 1;
    memcpy(to + 1, "CD001\x01", 6);
    memset(to + 8, ' ', 64);
    memcpy(to + 40, label, strnlen(label, 32));
    both32(to + 80, sectors);
    both16(to + 120, 1);
    both16(to + 124, 1);
    both16(to + 128, SECTOR);
    both32(to + 132, 10); /* bytes of the path table */
    store_le32(to + 140, TABLE_LE);
    be32(to + 148, TABLE_BE);
    record(to + 156, ROOT, SECTOR, true, "", 1);
    memset(to + 190, ' ', 623);
    for (unsigned i = 0; i < 4; i++)
        memset(to + 813 + 17 * i, '0', 16); /* dates: not specified (8.4.26.1) */
    to[881] = 1;
}

static bool write_all(int fd, const uint8_t *data, size_t size, struct error **err)
{
    while (size > 0) {
        ssize_t count = write(fd, data, size);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return error_set_errno(err, errno, "cannot write a disk image");
        data += count;
        size -= (size_t)count;
    }
    return true;
}

bool iso_write(int fd, const char *label, const struct iso_file *files, size_t count,
               struct error **err)
{
    uint32_t sectors = FIRST_FILE;
    assert(count <= ISO_MAX_FILES);
    for (size_t i = 0; i < count; i++) {
        if (files[i].size > GIB)
            return error_set(err, ERROR_USAGE, "'%s' is too large for a seed", files[i].name);
        sectors += (uint32_t)(files[i].size / SECTOR + 1);
    }
    uint8_t *image = alloc_zeroed(sectors, SECTOR), *root = image + ROOT * SECTOR;
    volume_descriptor(image + VOLUME * SECTOR, label, sectors);
    memcpy(image + TERMINATOR * SECTOR,
           "\xff"
           "CD001\x01",
           7);
    uint8_t *table = image + TABLE_LE * SECTOR;
    table[0] = 1;
    store_le32(table + 2, ROOT);
    store_le16(table + 6, 1);
    table = image + TABLE_BE * SECTOR;
    table[0] = 1;
    be32(table + 2, ROOT);
    table[7] = 1;
    root += add_dot(root, 0);
    root += add_dot(root, 1);
    uint32_t sector = FIRST_FILE;
    for (size_t i = 0; i < count; i++) {
        root += add_file(root, sector, &files[i], (unsigned)i);
        if (files[i].size > 0)
            memcpy(image + (size_t)sector * SECTOR, files[i].data, files[i].size);
        sector += (uint32_t)(files[i].size / SECTOR + 1);
    }
    assert(root <= image + FIRST_FILE * SECTOR && "records of ISO_MAX_FILES fit into a sector");
    bool good = write_all(fd, image, (size_t)sectors * SECTOR, err);
    free(image);
    return good;
}
