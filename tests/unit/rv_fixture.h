/* SPDX-License-Identifier: MIT
 *
 * A hart with 16 MiB of RAM at 0x80000000, one I/O register page at 0x10000000 and a counted
 * clock of 100 ns per tick. It runs no engine: tests call what instructions call.
 */
#ifndef TRAPEZE_TESTS_RV_FIXTURE_H
#define TRAPEZE_TESTS_RV_FIXTURE_H

#include "support.h"

#include "base/bits.h"
#include "base/log.h"
#include "isa/riscv64/isa_internal.h"
#include "isa/riscv64/mmu_internal.h"

#define RAM_BASE    UINT64_C(0x80000000)
#define RAM_SIZE    (16 * MIB)
#define IO_BASE     UINT64_C(0x10000000)
#define NS_PER_TICK 100

struct fixture {
    struct mem_space *mem;
    struct mem_ram *ram;
    struct mem_io io;
    uint64_t io_offset, io_value; /* of the last access */
    unsigned io_reads, io_writes, io_size;
    bool io_in_guest;
    struct vclock *clock;
    struct vcpu_timebase timebase;
    struct log log;
    struct rv_hart *hart;
    unsigned wakes;
};

static inline uint64_t fixture_io_read(void *opaque, uint64_t offset, unsigned size)
{
    struct fixture *f = opaque;
    f->io_reads++;
    f->io_offset = offset;
    f->io_size = size;
    f->io_in_guest = atomic_load(&f->hart->vcpu.in_guest);
    return f->io_value;
}

static inline void fixture_io_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct fixture *f = opaque;
    f->io_writes++;
    f->io_offset = offset;
    f->io_value = value;
    f->io_size = size;
}

static const struct mem_io_ops fixture_io_ops = {
    .read = fixture_io_read, .write = fixture_io_write, .min_size = 4, .max_size = 8};

static inline void fixture_wake(struct vcpu *vcpu)
{
    ((struct fixture *)vcpu->owner)->wakes++;
}

static inline struct rv_hart *fixture_hart_with(struct fixture *f, unsigned index, bool messages)
{
    struct error *err = NULL;
    const struct vcpu_setup vcpu_setup = {.index = index,
                                          .mem = f->mem,
                                          .timebase = &f->timebase,
                                          .log = &f->log,
                                          .messages = messages,
                                          .wake = fixture_wake,
                                          .owner = f};
    struct vcpu *vcpu = isa_riscv64.vcpu_new(&vcpu_setup, &err);
    assert_no_error(err);
    assert_non_null(vcpu);
    return rv_hart_of(vcpu);
}

static inline struct rv_hart *fixture_hart(struct fixture *f, unsigned index)
{
    return fixture_hart_with(f, index, false);
}

static inline int fixture_setup(void **state)
{
    struct error *err = NULL;
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    f->mem = mem_space_new();
    f->ram = mem_add_ram(f->mem, "ram", RAM_BASE, RAM_SIZE, MEM_BACKEND_ANONYMOUS, -1, &err);
    assert_no_error(err);
    f->io = (struct mem_io){
        .name = "io", .gpa = IO_BASE, .size = 0x1000, .ops = &fixture_io_ops, .opaque = f};
    assert_true(mem_io_add(f->mem, &f->io));
    f->clock = vclock_new(VCLOCK_COUNTED, 0);
    vclock_resume(f->clock);
    f->timebase.clock = f->clock;
    f->timebase.ns_per_tick = NS_PER_TICK;
    log_init(&f->log, LOG_LEVEL_ERROR, 2, "test");
    f->hart = fixture_hart(f, 3);
    *state = f;
    return 0;
}

static inline int fixture_teardown(void **state)
{
    struct fixture *f = *state;
    isa_riscv64.vcpu_free(&f->hart->vcpu);
    vclock_free(f->clock);
    mem_io_remove(f->mem, &f->io);
    mem_space_free(f->mem);
    free(f);
    return 0;
}

/* The same with a hart that has an IMSIC. */
static inline int fixture_setup_aia(void **state)
{
    fixture_setup(state);
    struct fixture *f = *state;
    isa_riscv64.vcpu_free(&f->hart->vcpu);
    f->hart = fixture_hart_with(f, 3, true);
    return 0;
}

#define FIXTURE_TEST(function)                                                                     \
    cmocka_unit_test_setup_teardown(function, fixture_setup, fixture_teardown)

#define FIXTURE_TEST_AIA(function)                                                                 \
    cmocka_unit_test_setup_teardown(function, fixture_setup_aia, fixture_teardown)

static inline void set_privilege(struct rv_hart *hart, unsigned privilege)
{
    hart->privilege = (uint8_t)privilege;
    rv_mode_changed(hart);
}

/* A CSR write that M-mode makes, whatever the mode. */
static inline void poke(struct rv_hart *hart, unsigned csr, uint64_t value)
{
    uint8_t privilege = hart->privilege;
    hart->privilege = RV_M;
    assert_true(rv_csr_write(hart, NULL, csr, value));
    set_privilege(hart, privilege);
}

static inline uint64_t peek(struct rv_hart *hart, unsigned csr)
{
    uint8_t privilege = hart->privilege;
    uint64_t value = 0;
    hart->privilege = RV_M;
    assert_true(rv_csr_read(hart, NULL, csr, false, &value));
    hart->privilege = privilege;
    return value;
}

/* One PMP entry that lets S and U do everything everywhere. */
static inline void open_pmp(struct rv_hart *hart)
{
    poke(hart, RV_CSR_PMPADDR0, ~UINT64_C(0));
    poke(hart, RV_CSR_PMPCFG0, RV_PMP_NAPOT | RV_PMP_R | RV_PMP_W | RV_PMP_X);
}

static inline void ram_put(struct fixture *f, uint64_t gpa, uint64_t value)
{
    memcpy(f->ram->host + (gpa - RAM_BASE), &value, 8);
}

static inline uint64_t ram_get(struct fixture *f, uint64_t gpa)
{
    uint64_t value;
    memcpy(&value, f->ram->host + (gpa - RAM_BASE), 8);
    return value;
}

#endif
