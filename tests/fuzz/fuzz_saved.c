/* SPDX-License-Identifier: MIT
 *
 * The file of a suspended machine: a valid one, made by our own writer, is changed as the input says,
 * and its checksums are put right again, so that what lies behind them is reached. Whatever is taken
 * for whole can be read to the end, inside of its memory.
 *
 * The input: a byte of flags (1: compressed, 2: checksums stay wrong, 4: memory lies in another file), then changes of 4 bytes, where
 * (2; from the sections on if the highest bit is set), how many bytes (1) and what (1).
 */
#include "fuzz.h"

#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bits.h"
#include "base/error.h"
#include "migrate/image.h"
#include "migrate/image_internal.h"

enum { SIZE_A = 160 << 10, SIZE_B = 8 << 10, FILE_MAX = 1 << 20 };

static const uint8_t *memory(void *opaque, uint64_t gpa, uint32_t size)
{
    const uint8_t *bytes = opaque;
    fuzz_check((gpa & 0xfffff) + size <= SIZE_A);
    return bytes + (gpa & 0xfffff);
}

static size_t make_file(int fd, bool compress, int apart, uint8_t *file)
{
    static uint8_t bytes[SIZE_A];
    for (size_t i = 0; i < SIZE_A; i++)
        bytes[i] = i < SIZE_A / 2 ? (uint8_t)(i * i >> 7) : 0;
    const struct saved_source source = {.compress = compress,
                                        .apart = apart >= 0,
                                        .memory_file = apart,
                                        .regions = {{0x80000000, SIZE_A}, {0x90000000, SIZE_B}},
                                        .region_count = 2,
                                        .sections = {{"memsize = \"32\"\n", 15},
                                                     {"harts 1\n", 8},
                                                     {"0 65536@1.000000000\n", 20},
                                                     {"state", 5},
                                                     [SAVED_NOTES] = {"notes", 5}},
                                        .memory = memory,
                                        .opaque = bytes,
                                        .threads = 1};
    fuzz_check(saved_write(fd, &source, NULL));
    ssize_t size = pread(fd, file, FILE_MAX, 0);
    fuzz_check(size > SAVED_HEADER);
    return (size_t)size;
}

/* Every checksum that the changed numbers still lead to. */
static void put_right(uint8_t *file, size_t size)
{
    store_le64(file + HEADER_FILE_SIZE, size);
    uint8_t *table = NULL;
    uint64_t table_size = 0;
    for (size_t i = 0; i < SAVED_SECTION_COUNT; i++) {
        uint8_t *row = file + HEADER_SECTIONS + 24 * i;
        uint64_t at = load_le64(row), length = load_le64(row + 8);
        if (!range_within(at, length, size))
            continue;
        if (i == SAVED_CHUNKS) {
            table = file + at;
            table_size = length;
        }
    }
    for (uint64_t at = 0; table != NULL && at + CHUNK_BYTES <= table_size; at += CHUNK_BYTES) {
        uint64_t place = load_le64(table + at);
        uint32_t stored = load_le32(table + at + 16);
        if (stored > 0 && range_within(place, stored, size))
            store_le64(table + at + 8, XXH3_64bits(file + place, stored));
    }
    for (size_t i = 0; i < SAVED_SECTION_COUNT; i++) {
        uint8_t *row = file + HEADER_SECTIONS + 24 * i;
        uint64_t at = load_le64(row), length = load_le64(row + 8);
        if (range_within(at, length, size))
            store_le64(row + 16, XXH3_64bits(file + at, length));
    }
    store_le64(file + HEADER_HASH, XXH3_64bits(file, HEADER_HASH));
}

/* What a stranger's file becomes when it is imported. */
static void replace(int fd)
{
    static const char text[] = "0 1@2.000000003\n";
    struct saved_image before, after;
    bool good = saved_open(&before, fd, SAVED_ALL, NULL);
    bool done = saved_replace(fd, SAVED_DISKS, text, sizeof(text) - 1, NULL);
    fuzz_check(done || !good);
    if (good) {
        fuzz_check(saved_open(&after, fd, SAVED_ALL, NULL));
        fuzz_check(strcmp((char *)after.sections[SAVED_DISKS].data, text) == 0);
        fuzz_check(after.sections[SAVED_STATE].hash == before.sections[SAVED_STATE].hash);
        saved_clear(&after);
    }
    saved_clear(&before);
}

static void read_all(int fd, int apart)
{
    struct saved_image image;
    struct error *error = NULL;
    bool good = saved_open(&image, fd, SAVED_ALL, &error) &&
                (!image.apart || saved_set_memory(&image, apart >= 0 ? apart : fd, &error));
    fuzz_check(good == (error == NULL));
    error_free(error);
    if (good) {
        uint8_t *chunk = malloc(image.chunk_size), *scratch = malloc(image.chunk_size);
        for (size_t i = 0; i < image.chunk_count && i < 64; i++) {
            fuzz_check(saved_chunk_size(&image, i) <= image.chunk_size);
            if (saved_read_chunk(&image, i, chunk, scratch, NULL) &&
                image.chunks[i].kind != SAVED_ZSTD)
                fuzz_check(saved_check_chunk(&image, i, chunk));
        }
        free(chunk);
        free(scratch);
    }
    saved_clear(&image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t file[FILE_MAX];
    struct fuzz_input input = {data, size};
    uint64_t flags = fuzz_take(&input, 1);
    int fd = memfd_create("saved", MFD_CLOEXEC);
    int apart = (flags & 5) == 4 ? memfd_create("memory", MFD_CLOEXEC) : -1;
    size_t length = make_file(fd, (flags & 1) != 0, apart, file);
    size_t sections = (size_t)load_le64(file + HEADER_SECTIONS);
    for (unsigned i = 0; i < 64 && input.left > 0; i++) {
        uint64_t where = fuzz_take(&input, 2);
        size_t at = (where & 0x8000) != 0 ? sections + (where & 0x7fff) : (size_t)where % SAVED_HEADER;
        size_t count = fuzz_take(&input, 1) % 9;
        uint8_t value = (uint8_t)fuzz_take(&input, 1);
        if (at < length)
            memset(file + at, value, count < length - at ? count : length - at);
    }
    if ((flags & 2) == 0)
        put_right(file, length);
    fuzz_check(pwrite(fd, file, length, 0) == (ssize_t)length);
    read_all(fd, apart);
    replace(fd);
    read_all(fd, apart);
    close(fd);
    if (apart >= 0)
        close(apart);
    return 0;
}

/* Mostly numbers of the header and of the table of chunks. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const uint8_t values[] = {0, 1, 2, 0x10, 0x7f, 0x80, 0xfe, 0xff};
    static const uint16_t places[] = {HEADER_VERSION,  HEADER_FLAGS,    HEADER_CHUNK_SIZE,
                                      HEADER_DATA_AT,  HEADER_DATA_SIZE, HEADER_REGION_COUNT,
                                      HEADER_REGIONS,  HEADER_SECTIONS, HEADER_SECTIONS + 96};
    size_t size = 0;
    data[size++] = (uint8_t)((fuzz_random(seed) % 8 == 0 ? 2 : fuzz_random(seed) % 2) |
                             (fuzz_random(seed) % 3 == 0 ? 4 : 0));
    for (uint64_t n = fuzz_random(seed) % 5; n > 0; n--) {
        uint64_t r = fuzz_random(seed);
        uint16_t where = (uint16_t)(places[r % 9] + (r >> 8) % 24);
        if ((r >> 16) % 2 == 0)
            where = (uint16_t)(0x8000 + 48 + (r >> 20) % (5 * CHUNK_BYTES));
        store_le16(data + size, where);
        data[size + 2] = (uint8_t)(1 + (r >> 40) % 8);
        data[size + 3] = values[(r >> 48) % 8];
        size += 4;
    }
    return size;
}
