/* SPDX-License-Identifier: MIT
 *
 * block/qcow2*.c: random loads against a model, layers, resizing, damage, and the order in
 * which metadata reaches the file.
 */
#include "support.h"

#include <errno.h>

#include "disk.h"

static const struct block_image_options qcow2 = {.format = "qcow2"};

static int new_image(uint64_t size, uint32_t cluster)
{
    struct error *err = NULL;
    int fd = disk_memory_file();
    disk_create(fd, "qcow2", &(struct block_create){.size = size, .cluster_size = cluster}, &err);
    assert_no_error(err);
    return fd;
}

static struct block_image *open_image(int fd, const struct block_image_options *options)
{
    struct error *err = NULL;
    struct block_image *image = disk_open(fd, options, BLOCK_CACHE_WRITEBACK, &err);
    assert_no_error(err);
    return image;
}

static void print_finding(void *opaque, const char *text)
{
    (void)opaque;
    fprintf(stderr, "# %s\n", text);
}

static struct block_check check(int fd, bool repair)
{
    struct error *err = NULL;
    struct block_check result = {.report = repair ? NULL : print_finding};
    struct block_image_options options = {.format = "qcow2", .alone = true, .to_check = true};
    struct block_image *image = open_image(fd, &options);
    image->format->check(image, repair, &result, &err);
    assert_no_error(err);
    block_image_close(image);
    return result;
}

static void assert_consistent(int fd)
{
    struct block_check result = check(fd, false);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
}

/* --- a random load --- */

struct variant {
    uint64_t size;
    uint32_t cluster;
    bool threads_only, layered;
};

static const struct block_image_options *chain_options(int below, struct block_opener *opener,
                                                       struct block_image_options *options);

static void run_load(const struct variant *variant, uint64_t seed, unsigned requests)
{
    struct error *err = NULL;
    struct loop *loop = loop_new(&err);
    struct block_env env = {.loop = loop};
    struct block_options options = {.threads_only = variant->threads_only};
    struct block_opener opener;
    struct block_image_options how = qcow2;
    int below = -1, fd;
    if (variant->layered) {
        below = new_image(variant->size, 4096);
        fd = disk_memory_file();
        disk_create(fd, "qcow2",
                    &(struct block_create){.size = variant->size,
                                           .cluster_size = variant->cluster,
                                           .backing = "below",
                                           .backing_format = "qcow2"},
                    &err);
        assert_no_error(err);
        chain_options(below, &opener, &how);
    } else {
        fd = new_image(variant->size, variant->cluster);
    }
    struct disk_load load;
    struct block *disk = block_new(open_image(fd, &how), &options, &env, &err);
    assert_no_error(err);
    disk_load_init(&load, disk, seed);
    for (unsigned i = 0; i < requests;) {
        if (disk_load_submit(&load, 300))
            i++;
        else
            disk_pump(loop);
    }
    block_drain(disk);
    assert_int_equal(load.in_flight, 0);
    disk_compare_all(&load, block_image(disk));
    block_free(disk);
    assert_consistent(fd);
    /* And from the file alone. */
    struct block_image *again = open_image(fd, &how);
    disk_compare_all(&load, again);
    block_image_close(again);
    if (load.wrong != 0 || load.errors != 0)
        fail_msg("seed %llu, cluster %u: %llu sectors wrong, %u errors (%s)",
                 (unsigned long long)seed, variant->cluster, (unsigned long long)load.wrong,
                 load.errors, strerror(load.last_error));
    disk_load_free(&load);
    loop_free(loop);
    close(fd);
    if (below >= 0)
        close(below);
}

static void random_loads_keep_every_sector(void **state)
{
    (void)state;
    static const struct variant variants[] = {
        {8 * MIB, 512, false, false},    {8 * MIB, 4096, false, false},
        {64 * MIB, 65536, false, false}, {64 * MIB, 2097152, false, false},
        {8 * MIB, 4096, true, false},    {8 * MIB - 512, 65536, true, false},
        {8 * MIB, 16384, false, true},   {5 * MIB + 512, 65536, false, true},
    };
    unsigned long rounds = tier_count(2, 60);
    for (unsigned long i = 0; i < rounds; i++)
        for (unsigned k = 0; k < ARRAY_SIZE(variants); k++)
            run_load(&variants[k], 1000 * i + k, 1500);
}

/* --- layers --- */

static struct block_file *give_file(const struct block_opener *opener, const char *above,
                                    const char *name, char **resolved, struct error **err)
{
    (void)above;
    *resolved = strdup(name);
    int fd = fcntl(*(int *)opener->opaque, F_DUPFD_CLOEXEC, 3);
    struct block_file *file = block_file_new(fd, true, BLOCK_CACHE_WRITEBACK, err);
    if (file == NULL) {
        close(fd);
        free(*resolved);
        *resolved = NULL;
    }
    return file;
}

static int below_fd; /* where the opener of the test that runs finds the file */

static const struct block_image_options *chain_options(int below, struct block_opener *opener,
                                                       struct block_image_options *options)
{
    below_fd = below;
    *opener = (struct block_opener){give_file, &below_fd};
    *options = (struct block_image_options){.format = "qcow2", .opener = opener};
    return options;
}

static int new_layer(uint64_t size, const char *format)
{
    struct error *err = NULL;
    int fd = disk_memory_file();
    disk_create(fd, "qcow2",
                &(struct block_create){.size = size, .backing = "below", .backing_format = format},
                &err);
    assert_no_error(err);
    return fd;
}

static int raw_file(size_t size, uint8_t fill)
{
    int fd = disk_memory_file();
    uint8_t *data = malloc(size);
    memset(data, fill, size);
    assert_int_equal(write(fd, data, size), size);
    free(data);
    return fd;
}

static void assert_filled(struct block_image *image, uint64_t offset, size_t size, uint8_t fill)
{
    uint8_t *data = malloc(size), *wanted = malloc(size);
    memset(wanted, fill, size);
    assert_int_equal(block_image_read(image, offset, data, size), 0);
    assert_memory_equal(data, wanted, size);
    free(data);
    free(wanted);
}

static void a_layer_shows_what_lies_below(void **state)
{
    (void)state;
    struct block_opener opener;
    struct block_image_options options;
    int below = raw_file(300 * 1024, 7), fd = new_layer(1 * MIB, "raw");
    struct block_image *image = open_image(fd, chain_options(below, &opener, &options));
    uint8_t nine[1000];
    memset(nine, 9, sizeof(nine));
    assert_filled(image, 0, 300 * 1024, 7);
    assert_filled(image, 300 * 1024, 700 * 1024, 0); /* the file below is shorter */
    assert_int_equal(block_image_write(image, 66000, nine, sizeof(nine)), 0);
    assert_filled(image, 65536, 464, 7);
    assert_filled(image, 66000, 1000, 9);
    assert_filled(image, 67000, 64072, 7);
    /* Discarded or zeroed, the old content does not come back. */
    assert_int_equal(image->format->discard(image, 65536, 65536), 0);
    assert_filled(image, 65536, 65536, 0);
    assert_int_equal(image->format->zero(image, 0, 1024, 0), 0);
    assert_filled(image, 0, 1024, 0);
    assert_filled(image, 1024, 64512, 7);
    /* The cluster that the end of the file below divides. */
    assert_int_equal(block_image_write(image, 299 * 1024, nine, 512), 0);
    assert_filled(image, 299 * 1024 + 512, 512, 7);
    assert_filled(image, 300 * 1024, 20 * 1024, 0);
    block_image_close(image);
    assert_consistent(fd);
    assert_int_equal(lseek(below, 0, SEEK_END), 300 * 1024);
    close(fd);
    close(below);
}

static void a_grown_layer_shows_zeros(void **state)
{
    (void)state;
    struct error *err = NULL;
    struct block_opener opener;
    struct block_image_options options;
    int below = raw_file(400 * 1024, 7), fd = new_layer(100 * 1024, "raw");
    struct block_image *image = open_image(fd, chain_options(below, &opener, &options));
    assert_true(image->format->resize(image, 400 * 1024, &err));
    assert_no_error(err);
    block_image_close(image);
    image = open_image(fd, &options);
    assert_filled(image, 0, 100 * 1024, 7);
    assert_filled(image, 100 * 1024, 300 * 1024, 0);
    block_image_close(image);
    assert_consistent(fd);
    close(fd);
    close(below);
}

static void a_chain_without_end_is_refused(void **state)
{
    (void)state;
    struct error *err = NULL;
    struct block_opener opener;
    struct block_image_options options;
    int fd = new_layer(1 * MIB, "qcow2");
    assert_null(disk_open(fd, chain_options(fd, &opener, &options), BLOCK_CACHE_WRITEBACK, &err));
    assert_error(&err, ERROR_USAGE, "also above itself");
    close(fd);
}

/* An opener that makes another layer each time. */
static struct block_file *give_layer(const struct block_opener *opener, const char *above,
                                     const char *name, char **resolved, struct error **err)
{
    (void)opener, (void)above;
    *resolved = strdup(name);
    return block_file_new(new_layer(1 * MIB, "qcow2"), true, BLOCK_CACHE_WRITEBACK, err);
}

static void a_chain_too_deep_is_refused(void **state)
{
    (void)state;
    struct error *err = NULL;
    const struct block_opener opener = {give_layer, NULL};
    const struct block_image_options options = {.format = "qcow2", .opener = &opener};
    int fd = new_layer(1 * MIB, "qcow2");
    assert_null(disk_open(fd, &options, BLOCK_CACHE_WRITEBACK, &err));
    assert_error(&err, ERROR_USAGE, "more than 16 deep");
    close(fd);
}

static void a_backing_file_of_another_format_is_refused(void **state)
{
    (void)state;
    struct error *err = NULL;
    struct block_opener opener;
    struct block_image_options options;
    int below = raw_file(64 * 1024, 7), fd = new_layer(1 * MIB, "qcow2");
    assert_null(
        disk_open(fd, chain_options(below, &opener, &options), BLOCK_CACHE_WRITEBACK, &err));
    assert_error(&err, ERROR_USAGE, "backing file 'below': it is no qcow2 image");
    close(below);
    close(fd);
}

/* --- which format --- */

static void what_is_not_named_is_not_trusted(void **state)
{
    (void)state;
    struct error *err = NULL;
    struct block_image_options unnamed = {.format = NULL}, raw = {.format = "raw"};
    int plain = raw_file(64 * 1024, 0), image = new_image(1 * MIB, 0),
        layer = new_layer(1 * MIB, "raw");
    struct block_image *opened = open_image(plain, &unnamed);
    assert_string_equal(opened->format->name, "raw");
    block_image_close(opened);
    opened = open_image(image, &unnamed);
    assert_string_equal(opened->format->name, "qcow2");
    block_image_close(opened);
    /* The header might be a guest's work: it may not name files of the host. */
    assert_null(disk_open(layer, &unnamed, BLOCK_CACHE_WRITEBACK, &err));
    assert_error(&err, ERROR_USAGE, "say format=qcow2");
    opened = open_image(layer, &raw); /* the user's word */
    assert_string_equal(opened->format->name, "raw");
    block_image_close(opened);
    assert_int_equal(pwrite(plain, "KDMV", 4, 0), 4);
    assert_null(disk_open(plain, &unnamed, BLOCK_CACHE_WRITEBACK, &err));
    assert_error(&err, ERROR_USAGE, "begins like a VMDK image");
    assert_null(disk_open(plain, &qcow2, BLOCK_CACHE_WRITEBACK, &err));
    assert_error(&err, ERROR_USAGE, "it is no qcow2 image");
    struct block_image_options unknown = {.format = "vmdk3"};
    assert_null(disk_open(plain, &unknown, BLOCK_CACHE_WRITEBACK, &err));
    assert_error(&err, ERROR_USAGE, "no disk format 'vmdk3'. There are: raw, fixed, qcow2");
    close(plain);
    close(image);
    close(layer);
}

/* --- sizes --- */

static void resizing_keeps_what_is_there(void **state)
{
    (void)state;
    struct error *err = NULL;
    int fd = new_image(1 * MIB, 512);
    struct block_image *image = open_image(fd, &qcow2);
    uint8_t data[4096];
    memset(data, 3, sizeof(data));
    for (uint64_t at = 0; at < 1 * MIB; at += 64 * 1024)
        assert_int_equal(block_image_write(image, at, data, sizeof(data)), 0);
    assert_true(image->format->resize(image, 512 * MIB, &err)); /* another L1 table */
    assert_no_error(err);
    assert_filled(image, 1 * MIB, 1 * MIB, 0);
    assert_int_equal(block_image_write(image, 511 * MIB, data, sizeof(data)), 0);
    block_image_close(image);
    assert_consistent(fd);
    image = open_image(fd, &qcow2);
    assert_int_equal(image->size, 512 * MIB);
    for (uint64_t at = 0; at < 1 * MIB; at += 64 * 1024)
        assert_filled(image, at, sizeof(data), 3);
    assert_filled(image, 511 * MIB, sizeof(data), 3);
    assert_true(image->format->resize(image, 512 * 1024 + 1024, &err));
    assert_no_error(err);
    block_image_close(image);
    assert_consistent(fd);
    image = open_image(fd, &qcow2);
    assert_filled(image, 512 * 1024, 1024, 3);
    assert_true(image->format->resize(image, 1 * MIB, &err));
    assert_no_error(err);
    assert_filled(image, 512 * 1024 + 1024, 512 * 1024 - 1024, 0); /* gone for good */
    block_image_close(image);
    close(fd);
}

static void impossible_sizes_are_refused(void **state)
{
    (void)state;
    struct error *err = NULL;
    int fd = disk_memory_file();
    assert_false(disk_create(fd, "qcow2",
                             &(struct block_create){.size = 1 * MIB, .cluster_size = 1000}, &err));
    assert_error(&err, ERROR_USAGE, "a power of two");
    assert_false(disk_create(
        fd, "qcow2", &(struct block_create){.size = 1024 * GIB, .cluster_size = 512}, &err));
    assert_error(&err, ERROR_USAGE, "too small for so large a disk");
    close(fd);
}

/* --- damage --- */

static void put_be64(int fd, uint64_t offset, uint64_t value)
{
    uint8_t data[8];
    for (unsigned i = 0; i < 8; i++)
        data[i] = (uint8_t)(value >> (56 - 8 * i));
    assert_int_equal(pwrite(fd, data, sizeof(data), (off_t)offset), sizeof(data));
}

static uint64_t get_be64(int fd, uint64_t offset)
{
    uint8_t data[8];
    uint64_t value = 0;
    assert_int_equal(pread(fd, data, sizeof(data), (off_t)offset), sizeof(data));
    for (unsigned i = 0; i < 8; i++)
        value = value << 8 | data[i];
    return value;
}

/* Cluster 0: header, 1: refcount table, 2: its block, 3: L1; then in order of need. */
#define CLUSTER      65536u
#define L1_AT        (3 * CLUSTER)
#define INCOMPATIBLE 72
#define OFFSET_MASK  UINT64_C(0x00fffffffffffe00)

static int damaged_image(void)
{
    int fd = new_image(16 * MIB, 0);
    struct block_image *image = open_image(fd, &qcow2);
    uint8_t data[512];
    memset(data, 5, sizeof(data));
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(block_image_write(image, i * CLUSTER, data, sizeof(data)), 0);
    block_image_close(image);
    return fd;
}

static char warning[200];

static void keep_warning(void *opaque, const char *image, const char *text)
{
    (void)opaque, (void)image;
    snprintf(warning, sizeof(warning), "%s", text);
}

static void data_on_top_of_metadata_is_not_written(void **state)
{
    (void)state;
    struct block_image_options options = {.format = "qcow2", .warn = keep_warning};
    uint8_t data[512] = {1};
    for (unsigned target = 0; target < 5; target++) {
        int fd = damaged_image();
        uint64_t l2 = get_be64(fd, L1_AT) & OFFSET_MASK;
        uint64_t where = target < 4 ? target * CLUSTER : l2;
        /* Cluster 0 cannot be named: an offset of 0 means none. */
        put_be64(fd, l2 + 8, where | UINT64_C(1) << 63);
        uint8_t before[CLUSTER];
        assert_int_equal(pread(fd, before, CLUSTER, (off_t)where), CLUSTER);
        struct block_image *image = open_image(fd, &options);
        warning[0] = '\0';
        int error = block_image_write(image, CLUSTER, data, sizeof(data));
        if (target > 0) {
            assert_int_equal(error, EIO);
            assert_non_null(strstr(warning, "metadata"));
            assert_int_equal(block_image_write(image, 0, data, sizeof(data)), EIO);
            uint8_t after[CLUSTER];
            assert_int_equal(pread(fd, after, CLUSTER, (off_t)where), CLUSTER);
            assert_memory_equal(after, before, CLUSTER);
        }
        block_image_close(image);
        if (target > 0) {
            struct error *err = NULL;
            assert_int_equal(get_be64(fd, INCOMPATIBLE), 2);
            assert_null(disk_open(fd, &qcow2, BLOCK_CACHE_WRITEBACK, &err));
            assert_error(&err, ERROR_USAGE, "marked corrupt and may only be read");
        }
        close(fd);
    }
}

static void metadata_counted_as_free_is_not_overwritten(void **state)
{
    (void)state;
    struct block_image_options options = {.format = "qcow2", .warn = keep_warning};
    int fd = damaged_image();
    uint8_t zeros[8] = {0}, data[512] = {1};
    assert_int_equal(pwrite(fd, zeros, 8, 2 * CLUSTER), 8); /* clusters 0 to 3 */
    struct block_image *image = open_image(fd, &options);
    warning[0] = '\0';
    assert_int_equal(block_image_write(image, 8 * MIB, data, sizeof(data)), EIO);
    assert_non_null(strstr(warning, "counted as free"));
    block_image_close(image);
    struct block_check result = check(fd, true);
    assert_int_equal(result.corruptions, 4);
    assert_int_equal(result.corruptions_fixed, 4);
    assert_consistent(fd);
    image = open_image(fd, &qcow2); /* the mark is gone as well */
    block_image_close(image);
    close(fd);
}

static void impossible_tables_are_found(void **state)
{
    (void)state;
    static const struct {
        uint64_t at, value;
        const char *text;
    } cases[] = {
        {24, 0, "no positive multiple"},
        {24, UINT64_MAX, "no positive multiple"},
        {24, UINT64_C(1) << 40, "too short"},
        {40, 17, "L1 table"},
        {40, UINT64_C(1) << 50, "does not lie in the file"},
        {40, CLUSTER, "on top of each other"},
        {48, 0, "refcount table"},
        {48, 2 * CLUSTER, "on top of each other"},
        {L1_AT, UINT64_C(1) << 40, "outside of the file"},
        {L1_AT, 2 * CLUSTER, "on top of each other"},
        {CLUSTER, UINT64_C(1) << 40, "outside of the file"},
        {INCOMPATIBLE, 4, "keeps its data in another file"},
        {INCOMPATIBLE, 16, "extended L2"},
        {INCOMPATIBLE, 1 << 20, "does not know"},
        {INCOMPATIBLE, 1, "not closed"},
        {32, UINT64_C(1) << 32, "encrypted"},
        {96, UINT64_C(7) << 32 | 112, "refcounts would have"},
        {96, UINT64_C(4) << 32 | 100, "impossible length"},
        {16, UINT64_C(0) << 32 | 30, "2^30 bytes"},
        {8, 4096, "name of its backing file would have 0 bytes"},
        {60, UINT64_C(2) << 32, "internal snapshots"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct error *err = NULL;
        int fd = damaged_image();
        put_be64(fd, cases[i].at, cases[i].value);
        if (disk_open(fd, &qcow2, BLOCK_CACHE_WRITEBACK, &err) != NULL)
            fail_msg("case %u was opened", i);
        assert_error(&err, ERROR_USAGE, cases[i].text);
        close(fd);
    }
}

static void impossible_entries_are_errors(void **state)
{
    (void)state;
    struct block_image_options options = {.format = "qcow2", .warn = keep_warning};
    static const uint64_t entries[] = {
        UINT64_C(1) << 63 | UINT64_C(1) << 50,  /* outside of the file */
        UINT64_C(1) << 63 | 4 * CLUSTER | 4096, /* in the middle of a cluster */
        UINT64_C(1) << 62 | UINT64_C(1) << 50,  /* compressed, outside */
        UINT64_C(1) << 62 | 5 * CLUSTER,        /* compressed, but is not */
    };
    for (unsigned i = 0; i < ARRAY_SIZE(entries); i++) {
        int fd = damaged_image();
        uint64_t l2 = get_be64(fd, L1_AT) & OFFSET_MASK;
        put_be64(fd, l2 + 8, entries[i]);
        uint8_t data[512];
        struct block_image *image = open_image(fd, &options);
        assert_int_equal(block_image_read(image, 0, data, sizeof(data)), 0);
        assert_int_equal(block_image_read(image, CLUSTER, data, sizeof(data)), EIO);
        block_image_close(image);
        close(fd);
    }
}

static void leaks_are_found_and_repaired(void **state)
{
    (void)state;
    int fd = damaged_image();
    uint8_t one[2] = {0, 1};
    assert_int_equal(pwrite(fd, one, 2, 2 * CLUSTER + 2 * 100), 2);
    struct block_check result = check(fd, true);
    assert_int_equal(result.leaks, 1);
    assert_int_equal(result.leaks_fixed, 1);
    assert_consistent(fd);
    close(fd);
}

/* --- space --- */

static uint64_t file_blocks(int fd)
{
    uint64_t blocks = 0;
    off_t end = lseek(fd, 0, SEEK_END);
    for (off_t at = 0; at < end;) {
        off_t data = lseek(fd, at, SEEK_DATA);
        if (data < 0)
            break;
        at = lseek(fd, data, SEEK_HOLE);
        blocks += (uint64_t)(at - data);
    }
    return blocks;
}

static void discarded_space_is_given_back_and_used_again(void **state)
{
    (void)state;
    int fd = new_image(64 * MIB, 0);
    struct block_image *image = open_image(fd, &qcow2);
    static uint8_t data[8 * 1024 * 1024];
    memset(data, 6, sizeof(data));
    assert_int_equal(block_image_write(image, 0, data, sizeof(data)), 0);
    assert_int_equal(image->format->flush(image), 0);
    uint64_t full = file_blocks(fd);
    assert_true(full >= sizeof(data));
    assert_int_equal(image->format->discard(image, 0, sizeof(data)), 0);
    assert_int_equal(image->format->flush(image), 0);
    assert_true(file_blocks(fd) < 1024 * 1024);
    off_t end = lseek(fd, 0, SEEK_END);
    assert_int_equal(block_image_write(image, 32 * MIB, data, sizeof(data)), 0);
    assert_int_equal(image->format->flush(image), 0);
    assert_true(lseek(fd, 0, SEEK_END) <= end + 2 * (off_t)CLUSTER);
    block_image_close(image);
    assert_consistent(fd);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_loads_keep_every_sector),
        cmocka_unit_test(a_layer_shows_what_lies_below),
        cmocka_unit_test(a_grown_layer_shows_zeros),
        cmocka_unit_test(a_chain_without_end_is_refused),
        cmocka_unit_test(a_chain_too_deep_is_refused),
        cmocka_unit_test(a_backing_file_of_another_format_is_refused),
        cmocka_unit_test(what_is_not_named_is_not_trusted),
        cmocka_unit_test(resizing_keeps_what_is_there),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(data_on_top_of_metadata_is_not_written),
        cmocka_unit_test(metadata_counted_as_free_is_not_overwritten),
        cmocka_unit_test(impossible_tables_are_found),
        cmocka_unit_test(impossible_entries_are_errors),
        cmocka_unit_test(leaks_are_found_and_repaired),
        cmocka_unit_test(discarded_space_is_given_back_and_used_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
