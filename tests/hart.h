/* SPDX-License-Identifier: MIT
 *
 * A hart with some RAM and nothing else, for tests that run instructions in this process.
 * It starts in M-mode at the beginning of RAM, untranslated, with the FPU on. Its trap vector
 * is 0, where nothing is mapped: a trap ends the run as VCPU_EXIT_WEDGED.
 */
#ifndef TRAPEZE_TESTS_HART_H
#define TRAPEZE_TESTS_HART_H

#include <assert.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/vclock.h"
#include "engine/dbt/dbt.h"
#include "engine/interp/interp.h"
#include "isa/riscv64/mmu.h"
#include "mem/mem.h"

struct test_hart {
    struct vclock *clock;
    struct vcpu_timebase timebase;
    struct log log;
    struct mem_space *mem;
    struct rv_hart *hart;
    struct rv_decoder *decoder;
};

static inline void test_hart_add_ram(struct test_hart *test, uint64_t gpa, uint64_t size)
{
    struct error *err = NULL;
    mem_add_ram(test->mem, "ram", gpa, size, MEM_BACKEND_ANONYMOUS, -1, &err);
    assert(!err);
}

static inline void test_hart_init_engine(struct test_hart *test, uint64_t gpa, uint64_t size,
                                         const struct engine *engine)
{
    struct error *err = NULL;
    memset(test, 0, sizeof(*test));
    test->clock = vclock_new(VCLOCK_COUNTED, 0);
    test->timebase.clock = test->clock;
    test->timebase.ns_per_tick = 100;
    log_init(&test->log, LOG_LEVEL_WARNING, 2, "");
    test->mem = mem_space_new();
    test_hart_add_ram(test, gpa, size);
    struct vcpu_setup setup = {
        .mem = test->mem,
        .timebase = &test->timebase,
        .log = &test->log,
    };
    struct vcpu *vcpu = isa_riscv64.vcpu_new(&setup, &err);
    assert(vcpu);
    test->hart = rv_hart_of(vcpu);
    bool attached = engine->attach(vcpu, &err);
    assert(attached);
    (void)attached;
    test->hart->pc = gpa;
    test->hart->mstatus |= RV_MSTATUS_FS;
    rv_mode_changed(test->hart);
    test->decoder = rv_decoder_new();
}

/* Another engine, or the same with other options. */
static inline void test_hart_use_engine(struct test_hart *test, const struct engine *engine,
                                        const struct engine_options *options)
{
    struct error *err = NULL;
    struct vcpu *vcpu = &test->hart->vcpu;
    vcpu->engine->detach(vcpu);
    vcpu->engine_options = options;
    bool attached = engine->attach(vcpu, &err);
    assert(attached);
    (void)attached;
    vcpu->engine_options = NULL;
}

/* What translations may use, in turn: each way to do without something is tried. */
static const char *const test_host_features[] = {
    NULL, "none", "-fma", "-avx,-fma", "-bmi2", "-bmi1", "-lzcnt", "-popcnt",
};

static inline void test_hart_init(struct test_hart *test, uint64_t gpa, uint64_t size)
{
    test_hart_init_engine(test, gpa, size, &engine_interp);
}

static inline void test_hart_destroy(struct test_hart *test)
{
    test->hart->vcpu.engine->detach(&test->hart->vcpu);
    isa_riscv64.vcpu_free(&test->hart->vcpu);
    rv_decoder_free(test->decoder);
    mem_space_free(test->mem);
    vclock_free(test->clock);
}

static inline uint8_t *test_hart_at(struct test_hart *test, uint64_t gpa)
{
    return mem_ram_pointer(test->mem, gpa, 1, MEM_READ);
}

static inline void test_hart_put32(struct test_hart *test, uint64_t gpa, uint32_t value)
{
    store_le32(test_hart_at(test, gpa), value);
}

static inline void test_hart_put(struct test_hart *test, uint64_t gpa, const uint32_t *code,
                                 size_t count)
{
    for (size_t i = 0; i < count; i++)
        test_hart_put32(test, gpa + 4 * i, code[i]);
}

/* Runs one instruction as the engine would inside a block, without fetching it. */
static inline enum rv_result test_hart_execute(struct test_hart *test, uint32_t bits)
{
    struct rv_insn insn;
    rv_decode(test->decoder, bits, &insn);
    return insn.exec(test->hart, &insn);
}

static inline enum vcpu_exit test_hart_run(struct test_hart *test, uint64_t budget)
{
    return test->hart->vcpu.engine->run(&test->hart->vcpu, budget);
}

#endif
