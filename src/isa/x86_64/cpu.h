/* SPDX-License-Identifier: MIT
 *
 * An x86-64 processor: the architectural state that snapshots, migration and debuggers read. Nothing here
 * executes instructions: engines that do keep the state with them while it is not looked at (`keeper`),
 * and it is fetched when somebody does.
 *
 * References: Intel 64 and IA-32 Architectures Software Developer's Manual (SDM), AMD64 Architecture
 * Programmer's Manual (APM).
 *
 * Threads: the vCPU's owner; while no thread runs it, whoever quiesced it.
 */
#ifndef TRAPEZE_ISA_X86_64_CPU_H
#define TRAPEZE_ISA_X86_64_CPU_H

#include "base/state.h"
#include "isa/vcpu.h"
#include "isa/x86_64/cpuid.h"

/* In the order of their encoding. */
enum x86_register {
    X86_RAX,
    X86_RCX,
    X86_RDX,
    X86_RBX,
    X86_RSP,
    X86_RBP,
    X86_RSI,
    X86_RDI,
    X86_R8,
    X86_REGISTERS = 16
};
enum x86_segment_register {
    X86_ES,
    X86_CS,
    X86_SS,
    X86_DS,
    X86_FS,
    X86_GS,
    X86_LDTR,
    X86_TR,
    X86_SEGMENTS
};

#define X86_CR0_PE    UINT64_C(0x1)
#define X86_CR0_ET    UINT64_C(0x10)
#define X86_CR0_NE    UINT64_C(0x20)
#define X86_CR0_PG    UINT64_C(0x80000000)
#define X86_CR4_PAE   UINT64_C(0x20)
#define X86_CR4_PSE   UINT64_C(0x10)
#define X86_CR4_LA57  UINT64_C(0x1000)
#define X86_EFER_LME  UINT64_C(0x100)
#define X86_EFER_LMA  UINT64_C(0x400)
#define X86_RFLAGS_FIXED UINT64_C(2)

/* With what a processor remembers of its descriptor (SDM 3A, 3.4.3). */
struct x86_segment {
    uint64_t base;
    uint32_t limit; /* bytes, whatever `g` says */
    uint16_t selector;
    uint8_t type, dpl;
    bool present, s, db, l, g, avl, unusable;
};
struct x86_table {
    uint64_t base;
    uint16_t limit;
};
struct x86_msr {
    uint32_t index;
    uint64_t value;
};

#define X86_XSAVE_SIZE 4096
#define X86_LAPIC_SIZE 1024
#define X86_MSRS_MAX   512
#define X86_DEBUG_POINTS 4 /* that a processor has registers for */

/* What a processor is about to deliver or does not take yet (SDM 3A, 6). */
struct x86_events {
    bool exception_injected, exception_pending, exception_has_code;
    uint8_t exception;
    uint32_t exception_code;
    bool interrupt_injected, interrupt_soft;
    uint8_t interrupt, interrupt_shadow;
    bool nmi_injected, nmi_pending, nmi_masked;
    uint32_t sipi_vector;
    bool smm, smi_pending, smm_inside_nmi, init_latched;
};

/* How a processor takes part (SDM 3A, 8.4). */
enum x86_activity {
    X86_RUNS,
    X86_WAITS_FOR_INIT,
    X86_WAITS_FOR_SIPI, /* INIT came */
    X86_SIPI_CAME,
    X86_HALTED,
    X86_ACTIVITIES
};

struct x86_state {
    uint64_t gpr[X86_REGISTERS];
    uint64_t rip, rflags;
    struct x86_segment segments[X86_SEGMENTS];
    struct x86_table gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base;
    uint64_t external_interrupts[4]; /* bit per vector: taken from the interrupt controller, not delivered */
    uint64_t xcr0;
    uint8_t xsave[X86_XSAVE_SIZE]; /* the XSAVE area, standard format */
    uint64_t dr[4], dr6, dr7;
    uint8_t lapic[X86_LAPIC_SIZE]; /* its register page */
    struct x86_events events;
    uint32_t activity; /* enum x86_activity */
    uint32_t tsc_khz;  /* 0: not known */
    struct x86_msr msrs[X86_MSRS_MAX];
    unsigned msr_count;
};

struct x86_cpu;

/* The engine that has the state. The vCPU does not run, or asks itself. */
struct x86_keeper {
    void (*fetch)(struct x86_cpu *cpu);
    bool (*store)(struct x86_cpu *cpu, struct error **err);
    /* The guest was told this of its processor; cpu->cpuid is what it is now. The vCPU has not run. */
    bool (*take_cpuid)(struct x86_cpu *cpu, const struct x86_cpuid *leaves, size_t count,
                       uint32_t arch_capabilities, struct error **err);
};

struct x86_cpu {
    struct vcpu vcpu; /* first */
    struct x86_state state;
    struct x86_state power_on; /* what a reset makes of it; the keeper says when it is attached */
    const struct x86_keeper *keeper; /* NULL: `state` is all there is */
    bool changed; /* `state` is newer than what the keeper has: it is stored before the vCPU runs */
    struct x86_cpuid cpuid[X86_CPUID_MAX]; /* what the guest is told of its processor */
    size_t cpuid_count;
    uint32_t saved_capabilities; /* as below, in a state */
    uint32_t arch_capabilities; /* of MSR_IA32_ARCH_CAPABILITIES, the bits that guest_cpu.h is about */
    /* On the wire: u32 index, u64 value each; the seven u32 of struct x86_cpuid each. */
    struct state_buffer msrs, leaves;
};

static inline struct x86_cpu *x86_cpu_of(struct vcpu *vcpu)
{
    return (struct x86_cpu *)(void *)vcpu;
}

extern const struct isa isa_x86_64;

/* Brings `state` up to date before it is looked at or changed. */
void x86_fetch(struct x86_cpu *cpu);
/* `state` was changed, after x86_fetch() or a reset. */
static inline void x86_changed(struct x86_cpu *cpu)
{
    cpu->changed = true;
}

/* Not while it waits to be started, nor when its system has switched off its local APIC (SDM 3A, 10.4.7.2):
 * nothing but INIT reaches it then, as with Linux' processors that are offline. It does not run. */
bool x86_is_on(struct vcpu *vcpu);

/* A segment as 64-bit code (X86_CS) or flat data has it. */
struct x86_segment x86_flat_code64(uint16_t selector);
struct x86_segment x86_flat_data(uint16_t selector);

#endif
