/* SPDX-License-Identifier: MIT
 *
 * Small programs as guests of the host's KVM, for tests: memory, a few devices that note what is done to
 * them, 64-bit mode.
 */
#ifndef TRAPEZE_TESTS_KVM_GUEST_H
#define TRAPEZE_TESTS_KVM_GUEST_H

#include "support.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "engine/kvm/kvm.h"
#include "engine/kvm/probe.h"
#include "isa/x86_64/cpu.h"
#include "mem/mem.h"

#ifdef __x86_64__

#define RAM_SIZE  (32 * MIB)
#define TABLES    UINT64_C(0x1000) /* PML4, PDPT, four page directories of 2 MiB pages: 4 GiB as they are */
#define IDT       UINT64_C(0x8000)
#define GDT       UINT64_C(0x9000)
#define CODE      UINT64_C(0x10000)
#define STACK     UINT64_C(0x20000)
#define DATA      UINT64_C(0x30000)
#define PORT      0x3f8u
#define PORT_WIDE 0x500u
#define PORT_END  0xf4u
#define DEVICE    UINT64_C(0xd0000000)

/* Programs: they begin at CODE, and their symbols are offsets from there. */
#define PROGRAM(name, text)                                                                        \
    __asm__(".pushsection .rodata\n" #name "_begin:\n" text "\n" #name "_end:\n.popsection\n");    \
    extern const uint8_t name##_begin[], name##_end[]

struct fixture {
    struct log log;
    struct mem_space *mem, *ports;
    struct mem_ram *ram;
    struct vclock *clock;
    struct vcpu_timebase timebase;
    int kvm;
    bool bitmap;     /* machines that are made next: the log of written pages as bitmaps */
    const char *cpu; /* of the machines that are made next; NULL: the host's */
    struct engine_machine *machine;
    struct vcpu *vcpus[2];
    unsigned vcpu_count;
    struct mem_io serial, wide, end, device;
    char text[64];
    unsigned text_size;
    uint64_t accesses[16]; /* of `device`: offset << 40 | size << 32 | value */
    unsigned access_count;
    uint64_t code; /* what was written to PORT_END */
};

static inline uint64_t read_serial(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque, (void)offset, (void)size;
    return 'A';
}

static inline void write_serial(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct fixture *f = opaque;
    (void)offset, (void)size;
    if (f->text_size < sizeof(f->text) - 1)
        f->text[f->text_size++] = (char)value;
}

static inline uint64_t read_wide(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque, (void)offset;
    return UINT64_C(0x1122334455667788) >> (64 - 8 * size);
}

static inline void write_end(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct fixture *f = opaque;
    (void)offset, (void)size;
    f->code = value;
    vcpu_kick(f->vcpus[0]);
}

static inline uint64_t read_device(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque, (void)size;
    return 0x10203040 + offset;
}

static inline void write_device(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct fixture *f = opaque;
    if (f->access_count < ARRAY_SIZE(f->accesses))
        f->accesses[f->access_count++] = offset << 40 | (uint64_t)size << 32 | value;
}

static const struct mem_io_ops serial_ops = {read_serial, write_serial, 1, 1};
static const struct mem_io_ops wide_ops = {read_wide, write_end, 4, 4};
static const struct mem_io_ops end_ops = {read_serial, write_end, 1, 4};
static const struct mem_io_ops device_ops = {read_device, write_device, 1, 4};

/* A vCPU whose owner does not sleep. */
static inline void wake(struct vcpu *vcpu)
{
    if (vcpu->engine != NULL && atomic_load(&vcpu->in_guest))
        vcpu->engine->kick(vcpu);
}

static inline void add_region(struct fixture *f, struct mem_space *space, struct mem_io *io, uint64_t at,
                       uint64_t size, const struct mem_io_ops *ops)
{
    *io = (struct mem_io){.name = "test", .gpa = at, .size = size, .ops = ops, .opaque = f};
    assert_true(mem_io_add(space, io));
}

static inline void make_tables(struct fixture *f)
{
    store_le64(f->ram->host + TABLES, (TABLES + 0x1000) | 3);
    for (uint64_t i = 0; i < 4; i++) {
        store_le64(f->ram->host + TABLES + 0x1000 + 8 * i, (TABLES + 0x2000 + 0x1000 * i) | 3);
        for (uint64_t j = 0; j < 512; j++)
            store_le64(f->ram->host + TABLES + 0x2000 + 0x1000 * i + 8 * j,
                       (i << 30 | j << 21) | 0x83);
    }
    store_le64(f->ram->host + GDT + 8, UINT64_C(0x00af9b000000ffff));
    store_le64(f->ram->host + GDT + 16, UINT64_C(0x00cf93000000ffff));
}

/* An interrupt gate to CODE + offset (SDM 3A, 6.14.1). */
static inline void set_handler(struct fixture *f, unsigned vector, uint64_t offset)
{
    uint64_t to = CODE + offset;
    uint8_t *gate = f->ram->host + IDT + 16 * vector;
    store_le64(gate, (to & 0xffff) | 8 << 16 | UINT64_C(0x8e) << 40 | (to >> 16 & 0xffff) << 48);
    store_le64(gate + 8, to >> 32);
}

static inline void make_vcpus(struct fixture *f, unsigned count)
{
    struct error *error = NULL;
    const struct engine_setup setup = {.mem = f->mem,
                                       .log = &f->log,
                                       .vcpu_count = count,
                                       .kvm_fd = f->kvm,
                                       .cpu = f->cpu,
                                       .kvm_bitmap = f->bitmap,
                                       .kvm_may_emulate = true};
    f->machine = engine_kvm.machine_new(&setup, &error);
    assert_no_error(error);
    for (unsigned i = 0; i < count; i++) {
        const struct vcpu_setup vcpu_setup = {.index = i,
                                              .mem = f->mem,
                                              .ports = f->ports,
                                              .timebase = &f->timebase,
                                              .log = &f->log,
                                              .wake = wake};
        f->vcpus[i] = isa_x86_64.vcpu_new(&vcpu_setup, &error);
        assert_no_error(error);
        f->vcpus[i]->engine = &engine_kvm;
        f->vcpus[i]->machine = f->machine;
        assert_true(engine_kvm.attach(f->vcpus[i], &error));
        isa_x86_64.vcpu_reset(f->vcpus[i]);
    }
    f->vcpu_count = count;
}

static inline bool open_fixture(struct fixture *f)
{
    struct error *error = NULL;
    *f = (struct fixture){.kvm = kvm_open(KVM_DEVICE, NULL)};
    if (f->kvm < 0)
        return false;
    log_init(&f->log, LOG_LEVEL_ERROR, STDERR_FILENO, "test");
    f->clock = vclock_new(VCLOCK_REAL, 0);
    f->timebase = (struct vcpu_timebase){.clock = f->clock, .ns_per_tick = 1};
    f->mem = mem_space_new();
    f->ports = mem_space_new();
    f->ram = mem_add_ram(f->mem, "ram", 0, RAM_SIZE, MEM_BACKEND_ANONYMOUS, -1, &error);
    assert_no_error(error);
    add_region(f, f->ports, &f->serial, PORT, 1, &serial_ops);
    add_region(f, f->ports, &f->wide, PORT_WIDE, 4, &wide_ops);
    add_region(f, f->ports, &f->end, PORT_END, 4, &end_ops);
    add_region(f, f->mem, &f->device, DEVICE, 0x100, &device_ops);
    make_tables(f);
    make_vcpus(f, 1);
    return true;
}

static inline void free_vcpus(struct fixture *f)
{
    for (unsigned i = 0; i < f->vcpu_count; i++) {
        engine_kvm.detach(f->vcpus[i]);
        isa_x86_64.vcpu_free(f->vcpus[i]);
    }
    f->machine->free(f->machine);
}

static inline void close_fixture(struct fixture *f)
{
    free_vcpus(f);
    mem_space_free(f->mem);
    mem_space_free(f->ports);
    vclock_free(f->clock);
    close(f->kvm);
}

static inline struct x86_state *state_of(struct fixture *f)
{
    x86_fetch(x86_cpu_of(f->vcpus[0]));
    return &x86_cpu_of(f->vcpus[0])->state;
}

/* 64-bit mode, as the boot protocol of Linux has it. */
static inline void load(struct fixture *f, const uint8_t *begin, const uint8_t *end)
{
    struct x86_state *state = state_of(f);
    memcpy(f->ram->host + CODE, begin, (size_t)(end - begin));
    state->cr0 = X86_CR0_PG | X86_CR0_NE | X86_CR0_ET | X86_CR0_PE;
    state->cr3 = TABLES;
    state->cr4 = X86_CR4_PAE;
    state->efer = X86_EFER_LME | X86_EFER_LMA;
    state->segments[X86_CS] = x86_flat_code64(8);
    for (unsigned i = X86_SS; i <= X86_GS; i++)
        state->segments[i] = x86_flat_data(16);
    state->segments[X86_ES] = x86_flat_data(16);
    state->gdt = (struct x86_table){GDT, 23};
    state->idt = (struct x86_table){IDT, 0xfff};
    state->rip = CODE;
    state->gpr[X86_RSP] = STACK;
    state->rflags = X86_RFLAGS_FIXED;
    x86_changed(x86_cpu_of(f->vcpus[0]));
}

#define LOAD(f, name) load((f), name##_begin, name##_end)

static inline void run_to_end(struct fixture *f)
{
    enum vcpu_exit exit = engine_kvm.run(f->vcpus[0], UINT64_MAX);
    if (exit != VCPU_EXIT_KICK) {
        char text[4096];
        isa_x86_64.dump(f->vcpus[0], text, sizeof(text));
        fail_msg("left with %d\n%s", (int)exit, text);
    }
}

#define OPEN(f)                                                                                    \
    struct fixture f;                                                                              \
    (void)state;                                                                                   \
    if (!open_fixture(&f))                                                                         \
    skip()

#endif

#endif
