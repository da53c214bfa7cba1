/* SPDX-License-Identifier: MIT
 *
 * A machine's .nvram file over its power cycles: what firmware has put into the flash
 * (dev/nor_flash.c) is there in the next life, and when the worker is killed in the middle, that is
 * a power cut.
 */
#include "support.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "bus/device.h"
#include "dev/devices.h"
#include "mem/mem.h"
#include "worker/nvram.h"

enum { BLOCK = 4096, FLASH_SIZE = 4 * BLOCK };
enum { PROGRAM = 0x40, ERASE = 0x20, CONFIRM = 0xd0, ARRAY = 0xff };
#define FLASH_GPA UINT64_C(0xffc00000)

/* One life of a machine; it is killed instead of its save number `last`. */
struct machine {
    int fd;
    struct log log;
    struct device_env env;
    struct device *flash;
    unsigned saves, last;
    bool loaded;
};

static bool load(void *opaque, uint8_t *to, uint64_t size)
{
    struct machine *m = opaque;
    m->loaded = nvram_load_flash(m->fd, to, size, &m->log);
    return m->loaded;
}

static void save(void *opaque, uint64_t offset, const uint8_t *from, uint64_t length)
{
    struct machine *m = opaque;
    if (m->saves++ == m->last)
        raise(SIGKILL);
    nvram_save_flash(m->fd, offset, from, length, &m->log);
}

static void machine_start(struct machine *m, int fd, uint64_t size)
{
    const struct flash_store store = {size, NULL, load, save, m};
    const struct device_params params = {.id = "flash0", .gpa = FLASH_GPA, .flash = &store};
    *m = (struct machine){.fd = fd, .env = {.mem = mem_space_new()}, .last = UINT32_MAX};
    log_init(&m->log, LOG_LEVEL_ERROR, 2, "test");
    m->flash = device_new(&device_nor_flash, &m->env, &params, NULL);
    assert_non_null(m->flash);
}

static void machine_stop(struct machine *m)
{
    device_free(m->flash);
    mem_space_free(m->env.mem);
}

static void put(struct machine *m, uint64_t offset, uint8_t value)
{
    assert_true(mem_io_write(m->env.mem, FLASH_GPA + offset, 1, value));
}

static uint8_t get(struct machine *m, uint64_t offset)
{
    uint64_t value = 0;
    assert_true(mem_io_read(m->env.mem, FLASH_GPA + offset, 1, &value));
    return (uint8_t)value;
}

static void program(struct machine *m, uint64_t offset, const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        put(m, offset + i, PROGRAM);
        put(m, offset + i, ((const uint8_t *)bytes)[i]);
    }
    put(m, offset, ARRAY);
}

static void erase(struct machine *m, uint64_t offset)
{
    put(m, offset, ERASE);
    put(m, offset, CONFIRM);
    put(m, offset, ARRAY);
}

static int new_file(void)
{
    int fd = memfd_create("nvram", MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void set_clock(struct machine *m, int64_t offset)
{
    const struct nvram nvram = {.rtc_offset = offset};
    nvram_write_file(m->fd, &nvram, &m->log);
}

static int64_t clock_of(int fd)
{
    struct nvram nvram;
    assert_true(nvram_read_file(fd, &nvram, NULL));
    return nvram.rtc_offset;
}

static void test_the_next_life_has_it(void **state)
{
    struct machine m;
    struct stat status;
    int fd = new_file();
    (void)state;
    machine_start(&m, fd, FLASH_SIZE);
    assert_false(m.loaded);
    program(&m, BLOCK - 2, "Boot", 4); /* across blocks */
    set_clock(&m, -INT64_C(3600000000000));
    machine_stop(&m);
    for (unsigned life = 0; life < 3; life++) {
        machine_start(&m, fd, FLASH_SIZE);
        assert_true(m.loaded);
        assert_int_equal(get(&m, BLOCK - 2), 'B');
        assert_int_equal(get(&m, BLOCK + 1), 't');
        assert_int_equal(get(&m, BLOCK + 2), 0xff);
        assert_int_equal(get(&m, 3 * BLOCK), life == 0 ? 0xff : life);
        assert_int_equal(clock_of(fd), life == 0 ? -INT64_C(3600000000000) : life);
        set_clock(&m, life + 1);
        erase(&m, 3 * BLOCK);
        program(&m, 3 * BLOCK, (uint8_t[]){(uint8_t)(life + 1)}, 1);
        machine_stop(&m);
    }
    machine_start(&m, fd, 2 * BLOCK); /* another firmware's */
    assert_false(m.loaded);
    assert_int_equal(get(&m, BLOCK), 0xff);
    machine_stop(&m);
    assert_int_equal(fstat(fd, &status), 0);
    assert_int_equal(status.st_size, NVRAM_FLASH_AT + 2 * BLOCK);
    assert_int_equal(clock_of(fd), 3);
    close(fd);
}

/* As firmware does: what replaces a variable is written beside it, and then valid by a byte of its
 * own; the old one is void after that, and its block erased before it is used again, which it is in
 * the end. */
enum { VALID = 0x3f, VOID = 0x3c, RECORD = 200, ROOM = BLOCK / (RECORD + 1), SLOTS = 4 * ROOM };
enum { ROUNDS = SLOTS + 5 };

static uint64_t place(unsigned round)
{
    return (uint64_t)(round % SLOTS / ROOM) * BLOCK + (uint64_t)(round % ROOM) * (RECORD + 1);
}

static void write_round(struct machine *m, unsigned round)
{
    uint8_t record[RECORD];
    memset(record, (int)round, sizeof(record));
    if (round % ROOM == 0)
        erase(m, place(round));
    program(m, place(round) + 1, record, sizeof(record));
    program(m, place(round), (uint8_t[]){VALID}, 1);
    if (round > 0)
        program(m, place(round - 1), (uint8_t[]){VOID}, 1);
}

/* The round whose record is valid and whole; where two are, the later one. -1: none. */
static int find_round(struct machine *m)
{
    int found = -1;
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        unsigned round = get(m, place(slot) + 1);
        if (get(m, place(slot)) != VALID)
            continue;
        assert_int_equal(round % SLOTS, slot);
        for (unsigned i = 0; i < RECORD; i++)
            assert_int_equal(get(m, place(slot) + 1 + i), round);
        found = (int)round > found ? (int)round : found;
    }
    return found;
}

/* False: it came to its end. */
static bool killed_at(int fd, unsigned last)
{
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct machine m;
        machine_start(&m, fd, FLASH_SIZE);
        m.saves = 0;
        m.last = last;
        for (unsigned round = 0; round < ROUNDS; round++) {
            set_clock(&m, round + 1);
            write_round(&m, round);
        }
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true((WIFEXITED(status) && WEXITSTATUS(status) == 0) ||
                (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
    return WIFSIGNALED(status);
}

static void test_a_kill_leaves_the_old_or_the_new(void **state)
{
    int before = -1;
    bool killed = true;
    (void)state;
    for (unsigned last = 0; killed; last++) {
        struct machine m;
        int fd = new_file();
        killed = killed_at(fd, last);
        int64_t begun = clock_of(fd);
        machine_start(&m, fd, FLASH_SIZE);
        assert_true(m.loaded);
        int found = find_round(&m);
        assert_true(found == before || found == before + 1);
        assert_true(begun == found + 1 || begun == found + 2);
        before = found;
        machine_stop(&m);
        close(fd);
    }
    assert_int_equal(before, ROUNDS - 1);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_next_life_has_it),
        cmocka_unit_test(test_a_kill_leaves_the_old_or_the_new),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
