/* SPDX-License-Identifier: MIT
 *
 * A qcow2 image of anybody's making: opened, checked, read, written, discarded, resized.
 *
 * Input: 1 byte of flags (read-only, repair, resize), then patches of an image that is good
 * otherwise: 1 byte that says where (header, refcount table and block, L1, L2, anywhere), 2
 * bytes of offset in there, 1 byte of how many bytes, those bytes; then, after a patch of no
 * bytes, requests: 1 byte kind, 2 bytes offset and 2 bytes length in sectors. Or, with flag
 * 0x80, the input is the file's beginning itself.
 *
 * The checks are those of asserts and sanitizers, and: the file does not change if it is open
 * read-only; what a write that succeeded put there is what is read back, in an image whose
 * check found nothing.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "block/image.h"

#define IMAGE_SIZE  (256 * KIB)
#define CLUSTER     512u
#define REQUEST_MAX (64 * KIB)

enum flag { READ_ONLY = 1, REPAIR = 2, RESIZE = 4, CHECK = 8, WHOLE = 0x80 };

static const struct block_image_options options = {.format = "qcow2", .alone = true};
static const struct block_image_options to_check = {
    .format = "qcow2", .alone = true, .to_check = true};

static const struct block_image_options names_only = {
    .format = "qcow2", .alone = true, .names_only = true};

static struct block_image *open_image(int fd, bool read_only, const struct block_image_options *how)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int own = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    struct block_file *file = block_file_new(own, read_only, BLOCK_CACHE_UNSAFE, NULL);
    fuzz_check(file != NULL);
    struct block_image *image = block_image_open(file, "fuzz", how, NULL);
    if (image == NULL)
        block_file_close(file);
    return image;
}

/* A small image with data in it; the same every time. */
static int good_image(void)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    const struct block_create create = {.size = IMAGE_SIZE, .cluster_size = CLUSTER};
    struct block_file *file =
        block_file_new(fcntl(fd, F_DUPFD_CLOEXEC, 3), false, BLOCK_CACHE_UNSAFE, NULL);
    fuzz_check(block_format_find("qcow2")->create(file, &create, NULL));
    block_file_close(file);
    struct block_image *image = open_image(fd, false, &options);
    uint8_t data[3 * CLUSTER];
    memset(data, 0x5a, sizeof(data));
    for (unsigned i = 0; i < 4; i++)
        fuzz_check(block_image_write(image, i * 20 * CLUSTER, data, sizeof(data)) == 0);
    fuzz_check(image->format->zero(image, 5 * CLUSTER, 2 * CLUSTER, 0) == 0);
    block_image_close(image);
    return fd;
}

/* Clusters of good_image(): 0 header, 1 table, 2 block, 3 L1, then L2 and data. */
static uint64_t place_of(uint8_t where)
{
    static const uint64_t places[] = {0, CLUSTER, 2 * CLUSTER, 3 * CLUSTER, 4 * CLUSTER, 0};
    return places[where % ARRAY_SIZE(places)];
}

static void patch(int fd, struct fuzz_input *input)
{
    while (input->left > 0) {
        uint64_t at = place_of((uint8_t)fuzz_take(input, 1));
        at += fuzz_take(input, 2) % (16 * CLUSTER);
        uint8_t count = (uint8_t)fuzz_take(input, 1);
        if (count == 0)
            return;
        for (unsigned i = 0; i < count % 17u; i++, at++) {
            uint8_t byte = (uint8_t)fuzz_take(input, 1);
            fuzz_check(pwrite(fd, &byte, 1, (off_t)at) == 1);
        }
    }
}

static void write_and_compare(struct block_image *image, uint64_t offset, size_t size, bool sound)
{
    static uint8_t data[REQUEST_MAX], back[REQUEST_MAX];
    memset(data, 0xa5, size);
    if (image->read_only || block_image_write(image, offset, data, size) != 0 || !sound)
        return;
    fuzz_check(block_image_read(image, offset, back, size) == 0);
    fuzz_check(memcmp(data, back, size) == 0);
}

static void requests(struct block_image *image, struct fuzz_input *input, bool sound)
{
    static uint8_t data[REQUEST_MAX];
    for (unsigned i = 0; i < 64 && input->left > 0; i++) {
        uint8_t kind = (uint8_t)fuzz_take(input, 1);
        uint64_t sectors = image->size / BLOCK_SECTOR, offset, size, host;
        offset = fuzz_take(input, 2) * 7 % sectors * BLOCK_SECTOR;
        size = (fuzz_take(input, 2) % (REQUEST_MAX / BLOCK_SECTOR) + 1) * BLOCK_SECTOR;
        if (size > image->size - offset)
            size = image->size - offset;
        struct block_extent extent;
        switch (kind % 8) {
        case 0:
        case 1:
            (void)block_image_read(image, offset, data, (size_t)size);
            break;
        case 2:
        case 3:
            write_and_compare(image, offset, (size_t)size, sound);
            break;
        case 4:
            if (!image->read_only)
                (void)image->format->discard(image, offset, size);
            break;
        case 5:
            if (!image->read_only)
                (void)image->format->zero(image, offset, size, kind >> 3 & 1);
            break;
        case 6:
            (void)image->format->extent(image, offset, size, &extent);
            (void)image->format->direct(image, (kind & 8) != 0, offset, size, &host);
            break;
        default:
            if (!image->read_only)
                (void)image->format->flush(image);
        }
    }
}

static bool is_sound(int fd, bool repair)
{
    struct block_check result = {.report = NULL};
    struct block_image *image = open_image(fd, !repair, &to_check);
    bool good = image != NULL && image->format->check(image, repair, &result, NULL) &&
                result.corruptions == 0;
    block_image_close(image);
    return good;
}

/* Who opens the files of a chain finds the names that who opens the image finds. */
static void compare_names(int fd, const struct block_image *image)
{
    struct block_image *names = open_image(fd, true, &names_only);
    fuzz_check(image == NULL || names != NULL);
    if (image != NULL && image->backing_name != NULL)
        fuzz_check(names->backing_name != NULL &&
                   strcmp(names->backing_name, image->backing_name) == 0);
    else if (image != NULL)
        fuzz_check(names->backing_name == NULL);
    block_image_close(names);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    uint8_t flags = (uint8_t)fuzz_take(&input, 1);
    int fd;
    if ((flags & WHOLE) != 0) {
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        fuzz_check(write(fd, input.data, input.left) == (ssize_t)input.left);
        fuzz_check(ftruncate(fd, 64 * KIB) == 0);
    } else {
        fd = good_image();
        patch(fd, &input);
    }
    bool sound = (flags & (CHECK | REPAIR)) != 0 && is_sound(fd, (flags & REPAIR) != 0);
    struct stat before, after;
    fuzz_check(fstat(fd, &before) == 0);
    struct block_image *image = open_image(fd, (flags & READ_ONLY) != 0, &options);
    compare_names(fd, image);
    if (image != NULL && (flags & RESIZE) != 0 && !image->read_only)
        (void)image->format->resize(image, 300 * KIB, NULL);
    if (image != NULL)
        requests(image, &input, sound);
    block_image_close(image);
    fuzz_check(fstat(fd, &after) == 0);
    if ((flags & READ_ONLY) != 0 && (flags & REPAIR) == 0)
        fuzz_check(before.st_mtim.tv_nsec == after.st_mtim.tv_nsec &&
                   before.st_size == after.st_size);
    close(fd);
    return 0;
}

/* Bytes that mean something in a table: offsets of clusters that exist, with flags. */
static size_t make_entry(uint64_t *seed, uint8_t *data)
{
    uint64_t random = fuzz_random(seed);
    uint64_t entry = (random % 24) * CLUSTER;
    if (random >> 8 & 1)
        entry |= UINT64_C(1) << 63;
    if ((random >> 9 & 7) == 0)
        entry |= UINT64_C(1) << 62;
    if ((random >> 12 & 7) == 0)
        entry |= 1;
    if ((random >> 15 & 7) == 0)
        entry ^= UINT64_C(1) << (random >> 18 & 63);
    for (unsigned i = 0; i < 8; i++)
        data[i] = (uint8_t)(entry >> (56 - 8 * i));
    return 8;
}

size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    size_t size = 0;
    data[size++] = (uint8_t)(fuzz_random(seed) & 0xf);
    for (uint64_t patches = fuzz_random(seed) % 5; patches > 0; patches--) {
        uint64_t random = fuzz_random(seed);
        uint8_t where = (uint8_t)(random % 6);
        uint16_t offset = (uint16_t)(random >> 8 & 0x1ff);
        if (where != 0)
            offset = (uint16_t)(offset & ~7u);
        else
            offset %= 120;
        data[size++] = where;
        data[size++] = (uint8_t)offset;
        data[size++] = (uint8_t)(offset >> 8);
        bool entry = where != 0 && where != 2 && (random >> 32 & 3) != 0;
        uint8_t count = entry ? 8 : (uint8_t)(1 + (random >> 34 & 7));
        data[size++] = count;
        if (entry) {
            size += make_entry(seed, data + size);
        } else {
            for (unsigned i = 0; i < count; i++)
                data[size++] = (uint8_t)(fuzz_random(seed) >> 8);
        }
    }
    memset(data + size, 0, 4);
    size += 4;
    for (uint64_t count = fuzz_random(seed) % 40; count > 0; count--)
        for (unsigned i = 0; i < 5; i++)
            data[size++] = (uint8_t)(fuzz_random(seed) >> 8);
    return size;
}
