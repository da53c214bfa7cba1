/* SPDX-License-Identifier: MIT
 *
 * A target against a source that sends anything. The frames are well formed up to where the input
 * says otherwise, and their checksums are right, so that what lies behind those is reached.
 * Whatever comes: the target never runs the machine unless it was told to, once everything was
 * there.
 *
 * Input: a byte of flags (1: two streams, 2: the last frame's checksum is wrong), then frames: a
 * byte of stream (highest bit) and type, and two of how many bytes of body follow. A HELLO, STATE
 * or END of no bytes is a right one.
 */
#include "fuzz.h"

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
    bool ran, done, said_go;
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
        .patience_ns = HASTE_NS, .done = on_done, .opaque = f};
    f->target = migrate_target_begin(f->vm, streams, f->streams, &options, &error);
    fuzz_check(f->target != NULL);
}

static void close_target(struct fuzzed *f)
{
    migrate_target_free(f->target);
    vm_free(f->vm);
    for (size_t i = 0; i < f->streams; i++)
        wire_close(&f->wires[i]);
    loop_free(f->loop);
    machine_config_clear(&f->config);
}

/* What a source would say that is this machine. */
static size_t right_hello(struct fuzzed *f, uint8_t *body)
{
    char *layout = vm_layout(f->vm);
    const struct mem_ram *ram = mem_ram_at(vm_memory(f->vm), 0);
    size_t length = strlen(layout);
    memset(body, 0, 40);
    store_le32(body, WIRE_VERSION);
    store_le32(body + 4, WIRE_FEATURES);
    store_le32(body + 16, (uint32_t)f->streams);
    store_le32(body + 20, 1);
    store_le64(body + 24, ram->gpa);
    store_le64(body + 32, ram->size);
    memcpy(body + 40, layout, length);
    free(layout);
    return 40 + length;
}

static size_t right_state(struct fuzzed *f, uint8_t *body)
{
    struct state_buffer state = {0};
    vm_save_state(f->vm, &state);
    fuzz_check(state.size <= WIRE_BODY_MAX);
    memcpy(body, state.data, state.size);
    size_t size = state.size;
    state_buffer_free(&state);
    return size;
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
        size = right_hello(f, body);
    if (size == 0 && type == WIRE_STATE)
        size = right_state(f, body);
    if (size == 0 && type == WIRE_END) {
        memset(body, 0, 16);
        store_le64(body, *state_size);
        size = 16;
    }
    *state_size += type == WIRE_STATE ? size : 0;
    f->said_go = f->said_go || type == WIRE_GO;
    wire->sent += wrong;
    return wire_send(wire, type, frame, (size_t)size, HASTE_NS, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzzed f = {.streams = 1};
    struct fuzz_input input = {data, size};
    uint64_t flags = fuzz_take(&input, 1), state_size = 0;
    f.streams += flags & 1;
    open_target(&f);
    bool good = true;
    for (unsigned i = 0; i < 64 && good && input.left > 0; i++)
        good = send_frame(&f, &input, &state_size, (flags & 2) != 0 && input.left < 16);
    for (size_t i = 0; i < f.streams; i++) /* that was all; its answers may still be read */
        (void)shutdown(f.wires[i].fd, SHUT_WR);
    loop_run(f.loop);
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
                                         WIRE_ROUND,  WIRE_STATE, WIRE_END,     WIRE_GO};
    uint8_t body[64] = {0};
    unsigned streams = fuzz_random(seed) % 4 == 0 ? 2 : 1, round = 0;
    size_t size = 1;
    data[0] = (uint8_t)(streams - 1) | (fuzz_random(seed) % 16 == 0 ? 2 : 0);
    for (size_t i = 0; i < ARRAY_SIZE(way); i++) {
        uint64_t r = fuzz_random(seed);
        enum wire_type type = r % 24 == 0 ? (enum wire_type)((r >> 8) % 16) : way[i];
        size_t length = 0;
        if (r % 24 == 1 || (type == WIRE_JOIN && streams == 1))
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
            store_le32(body + 4, round == 3);
            length = 8;
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
