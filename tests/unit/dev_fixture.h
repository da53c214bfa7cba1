/* SPDX-License-Identifier: MIT
 *
 * A bench for one platform device: an address space, a counted clock, harts that are nothing
 * but their interrupt lines, a character backend that remembers, and scripts of register
 * accesses.
 */
#ifndef TRAPEZE_TESTS_UNIT_DEV_FIXTURE_H
#define TRAPEZE_TESTS_UNIT_DEV_FIXTURE_H

#include "support.h"

#include <libfdt.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/vclock.h"
#include "bus/device.h"
#include "dev/devices.h"
#include "isa/vcpu.h"
#include "mem/mem.h"

#define BENCH_GPA   UINT64_C(0x10000000)
#define BENCH_GPA_M (BENCH_GPA + 0x1000000) /* the part for machine-level software */
#define BENCH_HARTS 2
#define BENCH_WALL  (INT64_C(1700000000) * NS_PER_S)
#define BENCH_TICK  100 /* ns */

struct bench {
    struct device_env env;
    struct device_params params;
    struct device *device;
    struct vcpu harts[BENCH_HARTS];
    struct vcpu *hart_list[BENCH_HARTS];
    struct vcpu_timebase timebase;
    struct log log;

    bool irq; /* the device's line */
    unsigned irq_changes;

    unsigned messages; /* that the device sent, or that reached a hart */
    uint64_t message_address;
    uint32_t message_data;
    unsigned message_hart, message_file, message_resets;

    struct char_backend chr;
    uint8_t sent[256];
    size_t sent_size;
    unsigned resumes;

    struct entropy entropy;
    uint8_t entropy_given;
    struct generation generation;
    struct power_button button;
    struct keyboard keyboard;

    enum device_power power;
    uint32_t power_code;
    unsigned power_requests;
    unsigned boots; /* that the guest told of */
};

static void bench_irq(void *sink, unsigned input, bool level)
{
    struct bench *bench = sink;
    (void)input;
    bench->irq_changes += bench->irq != level;
    bench->irq = level;
}

static inline void bench_message(void *sink, uint64_t address, uint32_t data)
{
    struct bench *bench = sink;
    bench->messages++;
    bench->message_address = address;
    bench->message_data = data;
}

static inline void bench_hart_message(struct vcpu *vcpu, unsigned file, uint32_t identity)
{
    struct bench *bench = vcpu->owner;
    bench->messages++;
    bench->message_hart = vcpu->index;
    bench->message_file = file;
    bench->message_data = identity;
}

static inline void bench_hart_reset(struct vcpu *vcpu)
{
    ((struct bench *)vcpu->owner)->message_resets++;
}

static const struct vcpu_messages bench_hart_messages = {bench_hart_message, bench_hart_reset};

static void bench_send(struct char_backend *backend, const uint8_t *data, size_t size)
{
    struct bench *bench = CONTAINER_OF(backend, struct bench, chr);
    for (size_t i = 0; i < size && bench->sent_size < sizeof(bench->sent); i++)
        bench->sent[bench->sent_size++] = data[i];
}

static void bench_resume(struct char_backend *backend)
{
    CONTAINER_OF(backend, struct bench, chr)->resumes++;
}

static void bench_fill(struct entropy *entropy, void *data, size_t size)
{
    struct bench *bench = CONTAINER_OF(entropy, struct bench, entropy);
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)data)[i] = ++bench->entropy_given;
}

static void bench_power(void *machine, enum device_power request, uint32_t code)
{
    struct bench *bench = machine;
    bench->power = request;
    bench->power_code = code;
    bench->power_requests++;
}

static void bench_booted(void *machine)
{
    struct bench *bench = machine;
    bench->boots++;
}

static inline void bench_make(struct bench *bench, uint64_t io_port)
{
    *bench = (struct bench){.chr = {.write = bench_send, .resume_input = bench_resume},
                            .entropy = {bench_fill}};
    log_init(&bench->log, LOG_LEVEL_ERROR, 2, "test");
    struct vclock *clock = vclock_new(VCLOCK_COUNTED, BENCH_WALL);
    vclock_resume(clock);
    bench->timebase = (struct vcpu_timebase){.clock = clock, .ns_per_tick = BENCH_TICK};
    for (unsigned i = 0; i < BENCH_HARTS; i++) {
        bench->harts[i].index = i;
        bench->harts[i].owner = bench;
        bench->harts[i].messages = &bench_hart_messages;
        bench->hart_list[i] = &bench->harts[i];
    }
    bench->env = (struct device_env){
        .mem = mem_space_new(),
        .ports = io_port != 0 ? mem_space_new() : NULL,
        .clock = clock,
        .timebase = &bench->timebase,
        .log = &bench->log,
        .entropy = &bench->entropy,
        .vcpus = bench->hart_list,
        .vcpu_count = BENCH_HARTS,
        .power = bench_power,
        .booted = bench_booted,
        .machine = bench,
    };
    bench->params = (struct device_params){
        .id = "dut",
        .gpa = BENCH_GPA,
        .io_port = io_port,
        .gpa_machine = BENCH_GPA_M,
        .msi = {bench_message, bench},
        .irq_number = 7,
        .irq_phandle = 40,
        .phandle = 50,
        .chr = &bench->chr,
        .button = &bench->button,
        .generation = &bench->generation,
        .inputs = 95,
    };
    irq_line_bind(&bench->params.irq, bench_irq, bench, 7);
}

static inline void bench_begin(struct bench *bench, const struct device_ops *ops)
{
    struct error *error = NULL;
    bench->device = device_new(ops, &bench->env, &bench->params, &error);
    assert_non_null(bench->device);
    bench->resumes = 0;
}

/* `io_port`: the first of the device's ports; 0: it has registers in memory, at BENCH_GPA. */
static inline void bench_open_at(struct bench *bench, const struct device_ops *ops, uint64_t io_port)
{
    bench_make(bench, io_port);
    bench_begin(bench, ops);
}

static inline void bench_open(struct bench *bench, const struct device_ops *ops)
{
    bench_open_at(bench, ops, 0);
}

static inline void bench_close(struct bench *bench)
{
    device_free(bench->device);
    mem_space_free(bench->env.mem);
    if (bench->env.ports != NULL)
        mem_space_free(bench->env.ports);
    vclock_free(bench->env.clock);
}

static inline void bench_advance(struct bench *bench, int64_t ns)
{
    vclock_advance(bench->env.clock, ns);
    vclock_run_timers(bench->env.clock);
}

static inline bool bench_line(const struct bench *bench, unsigned hart, unsigned line)
{
    return atomic_load(&bench->harts[hart].interrupts) >> line & 1;
}

static inline struct mem_space *bench_space(const struct bench *bench)
{
    return bench->params.io_port != 0 ? bench->env.ports : bench->env.mem;
}

static inline uint64_t bench_base(const struct bench *bench)
{
    return bench->params.io_port != 0 ? bench->params.io_port : BENCH_GPA;
}

static inline uint64_t bench_read(struct bench *bench, uint64_t offset, unsigned size)
{
    uint64_t value = 0xdeadbeef;
    assert_true(mem_io_read(bench_space(bench), bench_base(bench) + offset, size, &value));
    return value;
}

static inline void bench_write(struct bench *bench, uint64_t offset, unsigned size, uint64_t value)
{
    assert_true(mem_io_write(bench_space(bench), bench_base(bench) + offset, size, value));
}

/* ---- scripts: one register access a line ---- */

enum step_kind {
    STEP_END,
    STEP_WRITE, /* value to the register */
    STEP_READ,  /* the register holds value */
    STEP_IRQ    /* the device's line has the level `value` */
};

struct step {
    enum step_kind kind;
    uint64_t offset, value;
};

static inline void bench_script(struct bench *bench, const char *name, unsigned size,
                                const struct step *steps)
{
    for (unsigned i = 0; steps[i].kind != STEP_END; i++) {
        const struct step *step = &steps[i];
        uint64_t seen = step->value;
        if (step->kind == STEP_WRITE)
            bench_write(bench, step->offset, size, step->value);
        else
            seen = step->kind == STEP_READ ? bench_read(bench, step->offset, size) : bench->irq;
        if (seen != step->value)
            fail_msg("%s, step %u: saw %#llx, not %#llx", name, i, (unsigned long long)seen,
                     (unsigned long long)step->value);
    }
}

/* ---- what every device promises ---- */

/* What every table promises; and a stream with one bit flipped does no worse than fail. */
static inline void bench_check_state(struct bench *bench)
{
    const struct state_table *table = bench->device->ops->state;
    struct state_buffer stream = {0};
    struct bench other;
    bench_make(&other, bench->params.io_port);
    other.params.keyboard = bench->params.keyboard != NULL ? &other.keyboard : NULL;
    bench_begin(&other, bench->device->ops);
    assert_state_round_trip(table, bench->device, other.device);
    state_save(table, bench->device, &stream);
    for (size_t bit = 0; bit < 8 * stream.size; bit++) {
        size_t at = 0;
        stream.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        state_restore(table, other.device, stream.data, stream.size, &at, NULL);
        stream.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    state_buffer_free(&stream);
    bench_close(&other);
}

/* The device's nodes as a tree of their own; free() it. */
static inline void *bench_fdt(struct bench *bench)
{
    int size = 65536;
    void *fdt = calloc(1, (size_t)size);
    const struct device_ops *ops = bench->device->ops;
    int error = fdt_create(fdt, size);
    error |= fdt_finish_reservemap(fdt);
    error |= fdt_begin_node(fdt, "");
    error |= fdt_property_u32(fdt, "#address-cells", 2);
    error |= fdt_property_u32(fdt, "#size-cells", 2);
    assert_true(ops->fdt(bench->device, fdt));
    if (ops->fdt_root != NULL)
        assert_true(ops->fdt_root(bench->device, fdt));
    error |= fdt_end_node(fdt);
    error |= fdt_finish(fdt);
    assert_int_equal(error, 0);
    assert_int_equal(fdt_check_full(fdt, (size_t)fdt_totalsize(fdt)), 0);
    return fdt;
}

/* A property equals the given cells. */
static inline void fdt_expect_cells(const void *fdt, const char *path, const char *property,
                                    const uint32_t *cells, unsigned count)
{
    int node = fdt_path_offset(fdt, path);
    assert_true(node >= 0);
    int size = 0;
    const fdt32_t *value = fdt_getprop(fdt, node, property, &size);
    assert_non_null(value);
    assert_int_equal(size, count * sizeof(*value));
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(fdt32_to_cpu(value[i]), cells[i]);
}

static inline void fdt_expect_compatible(const void *fdt, const char *path, const char *name)
{
    int node = fdt_path_offset(fdt, path);
    assert_true(node >= 0);
    if (fdt_node_check_compatible(fdt, node, name) != 0)
        fail_msg("%s is not compatible with %s", path, name);
}

/* The device's buffer may be too small anywhere: false, never a write behind its end. */
static inline void bench_check_fdt_space(struct bench *bench)
{
    for (int size = 64; size < 1024; size++) {
        void *fdt = malloc((size_t)size);
        int error = fdt_create(fdt, size);
        error |= fdt_finish_reservemap(fdt);
        error |= fdt_begin_node(fdt, "");
        if (error == 0)
            bench->device->ops->fdt(bench->device, fdt);
        free(fdt);
    }
}

#endif
