/* SPDX-License-Identifier: MIT
 *
 * The x86-64 ISA as the machine sees it: making, resetting and describing processors. Their
 * declared state is in state.c.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/error.h"
#include "isa/dump.h"
#include "isa/x86_64/isa_internal.h"
#include "mem/mem.h"

void x86_fetch(struct x86_cpu *cpu)
{
    if (cpu->keeper != NULL && !cpu->changed)
        cpu->keeper->fetch(cpu);
}

/* Fetching is no change. */
static const struct x86_state *state_of(const struct vcpu *vcpu)
{
    struct x86_cpu *cpu = (struct x86_cpu *)(uintptr_t)vcpu;
    x86_fetch(cpu);
    return &cpu->state;
}

static void cpu_reset(struct vcpu *vcpu)
{
    struct x86_cpu *cpu = x86_cpu_of(vcpu);
    cpu->state = cpu->power_on;
    x86_changed(cpu);
    vcpu->retired = 0;
}

bool x86_is_on(struct vcpu *vcpu)
{
    enum { APIC_BASE_BOOTS = 1 << 8, SPURIOUS = 0xf0, SPURIOUS_ENABLES = 1 << 8 };
    const struct x86_state *state = state_of(vcpu);
    if ((state->apic_base & APIC_BASE_BOOTS) != 0)
        return true;
    return state->activity != X86_WAITS_FOR_INIT && state->activity != X86_WAITS_FOR_SIPI &&
           (load_le32(state->lapic + SPURIOUS) & SPURIOUS_ENABLES) != 0;
}

static struct vcpu *cpu_new(const struct vcpu_setup *setup, struct error **err)
{
    struct x86_cpu *cpu = calloc(1, sizeof(*cpu));
    if (cpu == NULL) {
        error_set_errno(err, ENOMEM, "cannot make vCPU %u", setup->index);
        return NULL;
    }
    struct vcpu *vcpu = &cpu->vcpu;
    vcpu->isa = &isa_x86_64;
    vcpu->index = setup->index;
    vcpu->mem = setup->mem;
    vcpu->ports = setup->ports;
    vcpu->timebase = setup->timebase;
    vcpu->log = setup->log;
    vcpu->wake = setup->wake;
    vcpu->sampled = setup->sampled;
    vcpu->trace = setup->engine_options != NULL ? setup->engine_options->trace : NULL;
    vcpu->engine_options = setup->engine_options;
    vcpu->owner = setup->owner;
    return vcpu;
}

static void cpu_free(struct vcpu *vcpu)
{
    if (vcpu == NULL)
        return;
    state_buffer_free(&x86_cpu_of(vcpu)->msrs);
    state_buffer_free(&x86_cpu_of(vcpu)->leaves);
    free(vcpu);
}

static uint64_t cpu_pc(const struct vcpu *vcpu)
{
    return state_of(vcpu)->rip;
}

/* Interrupts are the keeper's affair, and so is waiting for them. */
static bool cpu_wait_is_over(struct vcpu *vcpu)
{
    (void)vcpu;
    return true;
}

static void cpu_obey(struct vcpu *vcpu)
{
    atomic_fetch_and(&vcpu->attention, (uint32_t)VCPU_ATTENTION_KICK);
}

/* Nothing is derived from memory or code here. */
static void cpu_drop(struct vcpu *vcpu, uint32_t bits)
{
    (void)vcpu, (void)bits;
}

struct x86_segment x86_flat_code64(uint16_t selector)
{
    return (struct x86_segment){.limit = UINT32_MAX,
                                .selector = selector,
                                .type = 11, /* code, readable, accessed */
                                .present = true,
                                .s = true,
                                .l = true,
                                .g = true};
}

struct x86_segment x86_flat_data(uint16_t selector)
{
    return (struct x86_segment){.limit = UINT32_MAX,
                                .selector = selector,
                                .type = 3, /* data, writable, accessed */
                                .present = true,
                                .s = true,
                                .db = true,
                                .g = true};
}

/* ---- the debugger's view of memory (SDM 3A, 4) ---- */

enum { ENTRY_PRESENT = 1, ENTRY_LARGE = 0x80 };
#define ENTRY_ADDRESS UINT64_C(0x000ffffffffff000)

static bool read_entry(struct mem_space *mem, uint64_t gpa, unsigned size, uint64_t *entry)
{
    uint8_t bytes[8] = {0};
    if (!mem_read(mem, gpa, bytes, size))
        return false;
    *entry = load_le64(bytes);
    return (*entry & ENTRY_PRESENT) != 0;
}

struct walk {
    unsigned levels, bits, entry_size; /* address bits that a level resolves */
};

static struct walk walk_of(const struct x86_state *state)
{
    if ((state->efer & X86_EFER_LMA) != 0)
        return (struct walk){(state->cr4 & X86_CR4_LA57) != 0 ? 5 : 4, 9, 8};
    if ((state->cr4 & X86_CR4_PAE) != 0)
        return (struct walk){3, 9, 8};
    return (struct walk){2, 10, 4};
}

static bool cpu_translate(struct vcpu *vcpu, uint64_t va, uint64_t *gpa)
{
    const struct x86_state *state = state_of(vcpu);
    *gpa = va;
    if ((state->cr0 & X86_CR0_PG) == 0)
        return true;
    const struct walk walk = walk_of(state);
    uint64_t entry = state->cr3;
    if (walk.levels == 3) /* four entries, 32-byte aligned */
        entry &= ~UINT64_C(31);
    else
        entry &= ENTRY_ADDRESS;
    for (unsigned level = walk.levels; level-- > 0;) {
        unsigned shift = 12 + level * walk.bits;
        unsigned width = walk.levels == 3 && level == 2 ? 2 : walk.bits;
        uint64_t table = walk.levels == 3 && level == 2 ? entry : entry & ENTRY_ADDRESS;
        if (!read_entry(vcpu->mem, table + bits_get(va, shift, width) * walk.entry_size,
                        walk.entry_size, &entry))
            return false;
        bool may_be_large = level > 0 && level < 3 && !(walk.levels == 3 && level == 2) &&
                            (walk.levels != 2 || (state->cr4 & X86_CR4_PSE) != 0);
        if (level > 0 && !(may_be_large && (entry & ENTRY_LARGE) != 0))
            continue;
        uint64_t offset = va & ((UINT64_C(1) << shift) - 1);
        /* PSE-36: bits 39:32 of a 4 MiB page are bits 20:13 of its entry. */
        uint64_t high = walk.levels == 2 && level == 1 ? bits_get(entry, 13, 8) << 32 : 0;
        *gpa = high | (((entry & ENTRY_ADDRESS) >> shift) << shift) | offset;
        return true;
    }
    return false;
}

/* ---- as text ---- */

static unsigned cpu_disassemble(const uint8_t *code, size_t available, uint64_t pc, char *text,
                                size_t text_size)
{
    (void)code, (void)available, (void)pc, (void)text, (void)text_size;
    return 0; /* nobody here decodes x86 */
}

static const char *cpu_mode(const struct vcpu *vcpu)
{
    static const char *const names[] = {"ring0", "ring1", "ring2", "ring3"};
    return names[state_of(vcpu)->segments[X86_SS].dpl & 3];
}

static void cpu_count(const struct vcpu *vcpu, vcpu_count_fn *each, void *opaque)
{
    (void)vcpu, (void)each, (void)opaque;
}

/* What it was about to execute, for a disassembler. */
static void dump_code(struct vcpu *vcpu, const struct x86_state *state, struct dump *dump)
{
    enum { BYTES = 16 };
    uint64_t va = state->segments[X86_CS].base + state->rip, gpa;
    uint8_t byte;
    dump_put(dump, " code");
    for (unsigned i = 0; i < BYTES && cpu_translate(vcpu, va + i, &gpa) && mem_ram_find(vcpu->mem, gpa) != NULL &&
                         mem_read(vcpu->mem, gpa, &byte, 1);
         i++)
        dump_put(dump, " %02x", byte);
    dump_put(dump, "\n");
}

static void cpu_dump(const struct vcpu *vcpu, char *to, size_t size)
{
    static const char *const names[X86_REGISTERS] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                                     "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                                     "r12", "r13", "r14", "r15"};
    static const char *const segment_names[X86_SEGMENTS] = {"es", "cs", "ss",  "ds",
                                                            "fs", "gs", "ldt", "tr"};
    const struct x86_state *state = state_of(vcpu);
    struct dump dump = {to, size};
    dump_put(&dump, "cpu %u: rip %016llx, rflags %08llx, %s\n", vcpu->index,
             (unsigned long long)state->rip, (unsigned long long)state->rflags, cpu_mode(vcpu));
    for (unsigned i = 0; i < X86_REGISTERS; i++)
        dump_put(&dump, "%5s %016llx%s", names[i], (unsigned long long)state->gpr[i],
                 i % 4 == 3 ? "\n" : "");
    for (unsigned i = 0; i < X86_SEGMENTS; i++) {
        const struct x86_segment *segment = &state->segments[i];
        dump_put(&dump, "%5s %04x base %016llx limit %08x type %2u dpl %u%s%s%s\n",
                 segment_names[i], segment->selector, (unsigned long long)segment->base,
                 segment->limit, segment->type, segment->dpl, segment->present ? " present" : "",
                 segment->l ? " 64-bit" : "", segment->db ? " 32-bit" : "");
    }
    dump_put(&dump, "  gdt %016llx limit %04x  idt %016llx limit %04x\n",
             (unsigned long long)state->gdt.base, state->gdt.limit,
             (unsigned long long)state->idt.base, state->idt.limit);
    dump_put(&dump, "  cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx cr8 %llx efer %08llx\n",
             (unsigned long long)state->cr0, (unsigned long long)state->cr2,
             (unsigned long long)state->cr3, (unsigned long long)state->cr4,
             (unsigned long long)state->cr8, (unsigned long long)state->efer);
    dump_code((struct vcpu *)(uintptr_t)vcpu, state, &dump);
}

const struct isa isa_x86_64 = {
    .name = "x86_64",
    .state = &x86_cpu_state,
    .has_ports = true,
    .vcpu_new = cpu_new,
    .vcpu_free = cpu_free,
    .vcpu_reset = cpu_reset,
    .pc = cpu_pc,
    .wait_is_over = cpu_wait_is_over,
    .obey = cpu_obey,
    .drop = cpu_drop,
    .translate = cpu_translate,
    .disassemble = cpu_disassemble,
    .dump = cpu_dump,
    .count = cpu_count,
    .mode = cpu_mode,
    .debug = &x86_isa_debug,
};
