/* SPDX-License-Identifier: MIT
 *
 * A target against a source that sends anything. The frames are well formed up to where the input
 * says otherwise, and their checksums are right, so that what lies behind those is reached.
 * Whatever comes: the target never runs the machine unless it was told to, once everything was
 * there.
 *
 * Input: a byte of flags (1: two streams, 2: the last frame's checksum is wrong), then frames: a
 * byte of stream (highest bit) and type, and two of how many bytes of body follow. A HELLO, STATE
 * or END of no bytes is a right one. GO waits for "loaded", where that is to come.
 */
#include "fuzz.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/state.h"
#include "boot_files.h"
#include "config/machine.h"
#include "mem/mem.h"
#include "migrate/migrate.h"
#include "migrate/wire.h"
#include "vm/vm.h"

enum { HASTE_NS = 50000000, RAM_MIB = 32 };

struct fuzzed {
    struct loop *loop;
    struct log log;
    struct machine_config config;
    char path[32];
    struct vm *vm;
    struct migrate_target *target;
    struct wire wires[2];
    size_t streams;
    pthread_t thread;            /* the loop's */
    struct state_buffer state;   /* what a source would say that is this machine */
    uint8_t hello[4096];
    size_t hello_size;
    _Atomic bool ran, done, said_go;
    bool late;
};

static void on_end(void *opaque, enum vm_end end, uint32_t code)
{
    (void)opaque, (void)end, (void)code;
}

static void on_state(void *opaque, enum vm_state state)
{
    struct fuzzed *f = opaque;
    f->ran = f->ran || state == VM_RUNNING;
}

static void on_done(void *opaque, const struct error *error)
{
    struct fuzzed *f = opaque;
    fuzz_check(f->ran || error != NULL || vm_state(f->vm) == VM_PAUSED);
    f->done = true;
    loop_quit(f->loop, 0);
}

/* Its streams are dead, and so it stands still for ever: that was it. */
static void on_late(void *opaque, const struct error *error)
{
    struct fuzzed *f = opaque;
    fuzz_check(f->said_go);
    if (error == NULL)
        return;
    fuzz_check(vm_state(f->vm) != VM_RUNNING);
    f->done = true;
    loop_quit(f->loop, 0);
}

/* Before anything happens to it. */
static void describe(struct fuzzed *f)
{
    char *layout = vm_layout(f->vm);
    const struct mem_ram *ram = mem_ram_at(vm_memory(f->vm), 0);
    uint8_t *body = f->hello;
    size_t length = strlen(layout);
    fuzz_check(40 + length <= sizeof(f->hello));
    store_le32(body, WIRE_VERSION);
    store_le32(body + 4, WIRE_FEATURES);
    store_le32(body + 16, (uint32_t)f->streams);
    store_le32(body + 20, 1);
    store_le64(body + 24, ram->gpa);
    store_le64(body + 32, ram->size);
    memcpy(body + 40, layout, length);
    f->hello_size = 40 + length;
    free(layout);
    vm_save_state(f->vm, &f->state);
    fuzz_check(f->state.size <= WIRE_BODY_MAX);
}

static void open_target(struct fuzzed *f)
{
    static const uint32_t program[] = {0x10500073, 0xffdff06f}; /* wfi; j . - 4 */
    struct error *error = NULL;
    int streams[2];
    machine_config_init(&f->config);
    f->config.memory = RAM_MIB * MIB;
    int fd = put_file(program, sizeof(program), f->path);
    f->config.firmware = strdup(f->path);
    free(f->config.engine);
    f->config.engine = strdup("interp");
    f->loop = loop_new(NULL);
    log_init(&f->log, LOG_LEVEL_ERROR, -1, "");
    const struct vm_env env = {
        .loop = f->loop, .log = &f->log, .on_end = on_end, .on_state = on_state, .opaque = f};
    f->vm = vm_new(&f->config, &env, &error);
    fuzz_check(f->vm != NULL && fd >= 0);
    close(fd);
    for (size_t i = 0; i < f->streams; i++) {
        int pair[2];
        fuzz_check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
        wire_open(&f->wires[i], pair[0]);
        streams[i] = pair[1];
    }
    const struct migrate_target_options options = {
        .patience_ns = HASTE_NS, .late = on_late, .done = on_done, .opaque = f};
    describe(f);
    f->target = migrate_target_begin(f->vm, streams, f->streams, &options, &error);
    fuzz_check(f->target != NULL);
}

static void close_target(struct fuzzed *f)
{
    state_buffer_free(&f->state);
    migrate_target_free(f->target);
    vm_free(f->vm);
    for (size_t i = 0; i < f->streams; i++)
        wire_close(&f->wires[i]);
    loop_free(f->loop);
    machine_config_clear(&f->config);
}

static size_t put(uint8_t *body, const uint8_t *data, size_t size)
{
    memcpy(body, data, size);
    return size;
}

/* Or the end of what it says: it is the target's thread that says so, and what comes before is no "go". */
static void hear_loaded(struct fuzzed *f)
{
    struct wire_frame frame;
    while (wire_receive(&f->wires[0], &frame, HASTE_NS, NULL))
        if (frame.type == WIRE_LOADED || frame.type == WIRE_REFUSED)
            return;
}

static bool send_frame(struct fuzzed *f, struct fuzz_input *input, uint64_t *state_size, bool wrong)
{
    static uint8_t frame[WIRE_HEADER + WIRE_BODY_MAX];
    uint8_t *body = frame + WIRE_HEADER;
    uint64_t first = fuzz_take(input, 1), size = fuzz_take(input, 2);
    struct wire *wire = &f->wires[(first >> 7) % f->streams];
    enum wire_type type = (enum wire_type)(first & 0x7f);
    for (uint64_t i = 0; i < size; i++)
        body[i] = (uint8_t)fuzz_take(input, 1);
    if (size == 0 && type == WIRE_HELLO)
        size = put(body, f->hello, f->hello_size);
    if (size == 0 && type == WIRE_STATE)
        size = put(body, f->state.data, f->state.size);
    if (size == 0 && type == WIRE_END) {
        memset(body, 0, 16);
        store_le64(body, *state_size);
        size = 16;
    }
    *state_size += type == WIRE_STATE ? size : 0;
    f->said_go = f->said_go || type == WIRE_GO;
    if (type == WIRE_ROUND && size == 8 && load_le32(body + 4) == WIRE_LAST_POSTCOPY)
        f->late = true;
    if (type == WIRE_GO && f->late)
        hear_loaded(f);
    wire->sent += wrong;
    return wire_send(wire, type, frame, (size_t)size, HASTE_NS, NULL);
}

static void *run_loop(void *opaque)
{
    struct fuzzed *f = opaque;
    loop_run(f->loop);
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzzed f = {.streams = 1};
    struct fuzz_input input = {data, size};
    uint64_t flags = fuzz_take(&input, 1), state_size = 0;
    f.streams += flags & 1;
    open_target(&f);
    fuzz_check(pthread_create(&f.thread, NULL, run_loop, &f) == 0);
    bool good = true;
    for (unsigned i = 0; i < 64 && good && input.left > 0; i++)
        good = send_frame(&f, &input, &state_size, (flags & 2) != 0 && input.left < 16);
    for (size_t i = 0; i < f.streams; i++) /* that was all; its answers may still be read */
        (void)shutdown(f.wires[i].fd, SHUT_WR);
    pthread_join(f.thread, NULL);
    fuzz_check(f.done && (!f.ran || f.said_go));
    close_target(&f);
    return 0;
}

static size_t put_frame(uint8_t *data, size_t at, unsigned stream, enum wire_type type,
                        const uint8_t *body, size_t size)
{
    if (at + 3 + size > FUZZ_INPUT_MAX)
        return at;
    data[at] = (uint8_t)(stream << 7 | (unsigned)type);
    store_le16(data + at + 1, (uint16_t)size);
    if (size > 0)
        memcpy(data + at + 3, body, size);
    return at + 3 + size;
}

/* One number in eight frames is not what it should be. */
static size_t memory(uint64_t *seed, uint8_t *body)
{
    static const uint64_t places[] = {0x81fff000, 0x82000000, 0x7ffff000,
                                      0x80000008, 0,          0xfffffffffffff000};
    uint64_t r = fuzz_random(seed), wrong = r % 8 == 0 ? (r >> 8) % 6 + 1 : 0;
    uint64_t gpa = 0x80000000 + ((r >> 16) % 64 << 12);
    memset(body, 0, WIRE_MEMORY_HEADER + WIRE_RUN_HEADER);
    store_le32(body, wrong == 1 ? WIRE_PACKED : WIRE_PLAIN);
    store_le32(body + 4, WIRE_RUN_HEADER + (wrong == 2));
    store_le64(body + 8, wrong == 3 ? places[(r >> 24) % 6] : gpa);
    store_le32(body + 16, wrong == 4 ? UINT32_MAX >> (r >> 24) % 32 : 1 + (uint32_t)(r >> 24) % 4);
    store_le32(body + 20, wrong == 5 ? (uint32_t)(r >> 24) % 8 : WIRE_RUN_ZERO);
    store_le32(body + 24, wrong == 6 ? 16 : 0);
    return WIRE_MEMORY_HEADER + WIRE_RUN_HEADER;
}

/* The way a migration goes, a step of which is now and then another. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const enum wire_type way[] = {WIRE_HELLO,  WIRE_JOIN,  WIRE_MEMORY,  WIRE_ROUND,
                                         WIRE_MEMORY, WIRE_ROUND, WIRE_STOPPED, WIRE_MEMORY,
                                         WIRE_ROUND,  WIRE_ABSENT, WIRE_STATE,  WIRE_END,
                                         WIRE_GO,     WIRE_MEMORY, WIRE_ALIVE,  WIRE_MEMORY,
                                         WIRE_MEMORY};
    uint8_t body[64] = {0};
    unsigned streams = fuzz_random(seed) % 4 == 0 ? 2 : 1, round = 0;
    bool late = fuzz_random(seed) % 2 == 0;
    size_t size = 1;
    data[0] = (uint8_t)(streams - 1) | (fuzz_random(seed) % 16 == 0 ? 2 : 0);
    for (size_t i = 0; i < ARRAY_SIZE(way); i++) {
        uint64_t r = fuzz_random(seed);
        enum wire_type type = r % 24 == 0 ? (enum wire_type)((r >> 8) % 22) : way[i];
        size_t length = 0;
        if (r % 24 == 1 || (type == WIRE_JOIN && streams == 1) ||
            (type == WIRE_ABSENT && !late && (r >> 40) % 16 != 0) ||
            (!late && way[i] == WIRE_GO && (r >> 40) % 4 == 0))
            continue;
        memset(body, 0, sizeof(body));
        if (type == WIRE_MEMORY)
            length = memory(seed, body);
        if (type == WIRE_JOIN) {
            store_le32(body + 8, 1);
            length = 16;
        }
        if (type == WIRE_ROUND) {
            store_le32(body, ++round);
            store_le32(body + 4, round == 3 ? (late ? 2 : 1) : 0);
            length = 8;
        }
        if (type == WIRE_ABSENT) { /* the pages that memory() is about, or some of them */
            store_le64(body + 8, (r >> 40) % 8 == 0 ? (r >> 44) % 10000 : 0);
            store_le64(body + 16, (r >> 50) % 4 == 0 ? fuzz_random(seed) : UINT64_MAX);
            length = 24;
        }
        if (length > 0 && (r >> 16) % 24 == 0)
            body[(r >> 24) % length] ^= (uint8_t)(1u << (r >> 32) % 8);
        if (type == WIRE_ROUND || type == WIRE_JOIN)
            for (unsigned s = streams - 1; s > 0; s--)
                size = put_frame(data, size, s, type, body, length);
        if (type != WIRE_JOIN)
            size = put_frame(data, size, 0, type, body, length);
    }
    return size;
}
