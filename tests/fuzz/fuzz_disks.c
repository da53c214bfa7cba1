/* SPDX-License-Identifier: MIT
 *
 * What a stranger sends instead of a machine's disks: BEGIN, whole or changed, and then messages of
 * any kind. Nothing is written but the disks that are to be written to, and of those only what a
 * message named; what was accepted reads back.
 *
 * The input: a byte of flags (1: BEGIN is as it ought to be, otherwise its last 6 bytes come from
 * the input), then messages: a byte of kind, of which the highest bit says that the message is raw:
 * a byte of length and its bytes; otherwise disk (1), offset (3), length (3) and a byte that the
 * contents are of.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bits.h"
#include "base/error.h"
#include "block/image.h"
#include "migrate/disks.h"
#include "migrate/disks_internal.h"

#define SIZE (64 * KIB + 512)

enum { RAW, QCOW2, SAME, SHARED, NONE, TOP, DISKS };

/* `upon`: another one, which is raw. */
static int make_file(const char *format, bool upon)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    const struct block_create create = {.size = SIZE,
                                        .backing = upon ? "below" : NULL,
                                        .backing_format = upon ? "raw" : NULL};
    struct block_file *file =
        block_file_new(fcntl(fd, F_DUPFD_CLOEXEC, 3), false, BLOCK_CACHE_UNSAFE, NULL);
    fuzz_check(block_format_find(format)->create(file, &create, NULL));
    block_file_close(file);
    return fd;
}

static struct block_file *open_below(const struct block_opener *opener, const char *above,
                                     const char *name, char **resolved, struct error **err)
{
    const int *fd = opener->opaque;
    (void)above;
    *resolved = strdup(name);
    return block_file_new(fcntl(*fd, F_DUPFD_CLOEXEC, 3), true, BLOCK_CACHE_UNSAFE, err);
}

static struct block_image *open_image(int fd, const char *format, const struct block_opener *opener)
{
    const struct block_image_options options = {.format = format, .opener = opener};
    struct block_file *file =
        block_file_new(fcntl(fd, F_DUPFD_CLOEXEC, 3), false, BLOCK_CACHE_UNSAFE, NULL);
    struct block_image *image = block_image_open(file, "fuzz", &options, NULL);
    fuzz_check(image != NULL);
    return image;
}

static size_t make_begin(uint8_t message[DISKS_BEGIN_BYTES + DISKS * DISKS_BEGIN_DISK_BYTES],
                         const struct disks_target_disk *disks)
{
    uint8_t *row = message + DISKS_BEGIN_BYTES;
    message[0] = DISKS_BEGIN;
    store_le16(message + 1, DISKS);
    for (size_t i = 0; i < DISKS; i++, row += DISKS_BEGIN_DISK_BYTES) {
        row[0] = (uint8_t)disks[i].how;
        row[1] = (uint8_t)((disks[i].image != NULL ? DISKS_PRESENT : 0) |
                           (disks[i].how == DISKS_VERIFY ? DISKS_READ_ONLY : 0));
        store_le64(row + 2, disks[i].image != NULL ? SIZE : 0);
    }
    return (size_t)(row - message);
}

static bool give(struct disks_target *target, const uint8_t *message, size_t size)
{
    struct error *error = NULL;
    bool good = disks_target_message(target, message, size, &error);
    fuzz_check(good == (error == NULL));
    error_free(error);
    return good;
}

/* What an accepted message says is so. */
static void check_written(const struct disks_target_disk *disk, const uint8_t *message, size_t size)
{
    static uint8_t back[SIZE];
    uint64_t offset = load_le64(message + 3);
    uint64_t length = message[0] == DISKS_DATA ? size - DISKS_DATA_BYTES : load_le64(message + 11);
    fuzz_check((disk->how == DISKS_COPY || disk->how == DISKS_TOP) &&
               range_within(offset, length, SIZE));
    fuzz_check(block_image_read(disk->image, offset, back, (size_t)length) == 0);
    for (uint64_t i = 0; i < length; i++)
        fuzz_check(back[i] == (message[0] == DISKS_DATA ? message[DISKS_DATA_BYTES + i] : 0));
}

/* One message of the input; its size. */
static size_t take_message(struct fuzz_input *input, uint64_t before, uint8_t *message)
{
    uint8_t kind = (uint8_t)fuzz_take(input, 1);
    size_t size = 0;
    if ((kind & 0x80) != 0) {
        size = fuzz_take(input, 1);
        for (size_t i = 0; i < size; i++)
            message[i] = (uint8_t)fuzz_take(input, 1);
        return size;
    }
    message[0] = kind;
    store_le16(message + 1, (uint16_t)fuzz_take(input, 1));
    store_le64(message + 3, fuzz_take(input, 3));
    uint64_t length = fuzz_take(input, 3);
    uint8_t filled = (uint8_t)fuzz_take(input, 1);
    switch (kind) {
    case DISKS_DATA:
        length %= 2 * SIZE;
        memset(message + DISKS_DATA_BYTES, filled, (size_t)length);
        return DISKS_DATA_BYTES + (size_t)length;
    case DISKS_ZERO:
        store_le64(message + 11, length);
        return DISKS_ZERO_BYTES;
    case DISKS_SAME:
        store_le64(message + 11, length);
        store_le64(message + 19, filled);
        return DISKS_SAME_BYTES;
    default:
        store_le64(message + 1, filled != 0 ? length : before);
        return DISKS_END_BYTES;
    }
}

static void run(struct disks_target *target, const struct disks_target_disk *disks,
                struct fuzz_input *input)
{
    static uint8_t message[2 * SIZE + 64];
    uint8_t begin[DISKS_BEGIN_BYTES + DISKS * DISKS_BEGIN_DISK_BYTES];
    size_t size = make_begin(begin, disks);
    uint64_t flags = fuzz_take(input, 1);
    for (size_t i = 1; (flags & 1) == 0 && i <= 6; i++)
        begin[(i * 17 + flags) % size] = (uint8_t)fuzz_take(input, 1);
    bool good = give(target, begin, size);
    for (uint64_t count = 1; good && input->left > 0 && count < 64; count++) {
        size = take_message(input, count, message);
        good = give(target, message, size);
        if (good && (message[0] == DISKS_DATA || message[0] == DISKS_ZERO))
            check_written(&disks[load_le16(message + 1)], message, size);
    }
}

static uint64_t hash_file(int fd)
{
    static uint8_t data[SIZE];
    fuzz_check(pread(fd, data, SIZE, 0) == SIZE);
    return XXH3_64bits(data, SIZE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const formats[] = {"raw", "qcow2", "raw", "raw", NULL, "qcow2"};
    static const enum disks_how hows[] = {DISKS_COPY,   DISKS_COPY,   DISKS_VERIFY,
                                          DISKS_SHARED, DISKS_SHARED, DISKS_TOP};
    struct fuzz_input input = {data, size};
    struct disks_target_disk disks[DISKS] = {{.image = NULL}};
    int fds[DISKS];
    for (size_t i = 0; i < DISKS; i++) {
        const struct block_opener below = {open_below, &fds[SHARED]};
        disks[i].how = hows[i];
        if (i == NONE)
            continue;
        fds[i] = make_file(formats[i], i == TOP);
        disks[i].image = open_image(fds[i], formats[i], i == TOP ? &below : NULL);
    }
    fuzz_check(pwrite(fds[SAME], "same", 4, 0) == 4 && pwrite(fds[SHARED], "shared", 6, 0) == 6);
    uint64_t same = hash_file(fds[SAME]), shared = hash_file(fds[SHARED]);
    struct disks_target *target = disks_target_new(disks, DISKS, NULL);
    run(target, disks, &input);
    disks_target_free(target);
    fuzz_check(hash_file(fds[SAME]) == same && hash_file(fds[SHARED]) == shared);
    for (size_t i = DISKS; i-- > 0;)
        if (i != NONE) {
            block_image_close(disks[i].image);
            close(fds[i]);
        }
    return 0;
}

size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    size_t size = 0;
    data[size++] = (uint8_t)(fuzz_random(seed) % 8 == 0 ? fuzz_random(seed) : 1);
    for (uint64_t n = (data[0] & 1) != 0 ? 0 : 6; n > 0; n--)
        data[size++] = (uint8_t)fuzz_random(seed);
    for (uint64_t n = fuzz_random(seed) % 24; n > 0; n--) {
        uint64_t r = fuzz_random(seed);
        data[size++] = (uint8_t)(r % 32 == 0  ? r >> 8
                                 : r % 8 == 0 ? r / 8 % 7
                                              : DISKS_DATA + r % 2);
        static const uint8_t written[] = {RAW, QCOW2, TOP, TOP};
        data[size++] = (uint8_t)(r % 16 == 1 ? r >> 16 : written[r >> 16 & 3]);
        uint64_t offset = (r >> 20) % (SIZE / 512 + 1) * 512, length = (r >> 32) % 40 * 512;
        if (r % 16 == 2)
            offset = r >> 36, length = r >> 33;
        store_le32(data + size, (uint32_t)offset);
        store_le32(data + size + 3, (uint32_t)length);
        data[size + 6] = (uint8_t)(r >> 60);
        size += 7;
    }
    return size;
}
