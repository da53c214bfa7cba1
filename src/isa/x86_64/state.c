/* SPDX-License-Identifier: MIT
 *
 * The declared state of an x86-64 processor. What KVM keeps is asked for before it is saved, and given
 * back when it was restored: whether it can be is KVM's to say, for a stream is hostile and KVM is what
 * has to bear it. Here only what this program relies on is checked.
 */
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "isa/x86_64/isa_internal.h"

enum { MSR_BYTES = 12, LEAF_WORDS = 7, LEAF_BYTES = 4 * LEAF_WORDS };

static void put_leaves(struct x86_cpu *cpu)
{
    state_buffer_free(&cpu->leaves);
    cpu->leaves = (struct state_buffer){0};
    for (size_t i = 0; i < cpu->cpuid_count; i++) {
        const struct x86_cpuid *leaf = &cpu->cpuid[i];
        const uint32_t words[LEAF_WORDS] = {leaf->function, leaf->index, leaf->indexed, leaf->eax,
                                            leaf->ebx,      leaf->ecx,   leaf->edx};
        uint8_t bytes[LEAF_BYTES];
        for (size_t k = 0; k < LEAF_WORDS; k++)
            store_le32(bytes + 4 * k, words[k]);
        state_buffer_add(&cpu->leaves, bytes, sizeof(bytes));
    }
}

static void pre_save(void *object)
{
    struct x86_cpu *cpu = object;
    x86_fetch(cpu);
    put_leaves(cpu);
    cpu->saved_capabilities = cpu->arch_capabilities;
    state_buffer_free(&cpu->msrs);
    cpu->msrs = (struct state_buffer){0};
    for (unsigned i = 0; i < cpu->state.msr_count; i++) {
        uint8_t bytes[MSR_BYTES];
        store_le32(bytes, cpu->state.msrs[i].index);
        store_le64(bytes + 4, cpu->state.msrs[i].value);
        state_buffer_add(&cpu->msrs, bytes, sizeof(bytes));
    }
}

static bool impossible(struct error **err, const char *what)
{
    error_set(err, ERROR_HOST, "the saved state of a processor has impossible %s", what);
    error_hint(err, "It is damaged or was made by another version of Trapeze");
    return false;
}

/* What the guest was told of its processor; nothing in states from before that was saved. */
static bool take_leaves(struct x86_cpu *cpu, struct error **err)
{
    struct x86_cpuid leaves[X86_CPUID_MAX] = {0};
    size_t count = cpu->leaves.size / LEAF_BYTES;
    if (cpu->leaves.size % LEAF_BYTES != 0 || count > X86_CPUID_MAX)
        return impossible(err, "CPUID leaves");
    if (count == 0)
        return true;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *bytes = cpu->leaves.data + LEAF_BYTES * i;
        if (load_le32(bytes + 8) > 1)
            return impossible(err, "CPUID leaves");
        struct x86_cpuid *leaf = &leaves[i];
        leaf->function = load_le32(bytes);
        leaf->index = load_le32(bytes + 4);
        leaf->indexed = load_le32(bytes + 8);
        leaf->eax = load_le32(bytes + 12);
        leaf->ebx = load_le32(bytes + 16);
        leaf->ecx = load_le32(bytes + 20);
        leaf->edx = load_le32(bytes + 24);
    }
    if (cpu->keeper != NULL)
        return cpu->keeper->take_cpuid(cpu, leaves, count, cpu->saved_capabilities, err);
    memcpy(cpu->cpuid, leaves, sizeof(leaves));
    cpu->cpuid_count = count;
    cpu->arch_capabilities = cpu->saved_capabilities;
    return true;
}

static bool post_restore(void *object, struct error **err)
{
    struct x86_cpu *cpu = object;
    struct x86_state *state = &cpu->state;
    if (cpu->msrs.size % MSR_BYTES != 0 || cpu->msrs.size / MSR_BYTES > X86_MSRS_MAX)
        return impossible(err, "model-specific registers");
    if (state->activity >= X86_ACTIVITIES)
        return impossible(err, "activity");
    for (size_t i = 0; i < X86_SEGMENTS; i++)
        if (state->segments[i].type > 15 || state->segments[i].dpl > 3)
            return impossible(err, "segments");
    state->msr_count = (unsigned)(cpu->msrs.size / MSR_BYTES);
    for (unsigned i = 0; i < state->msr_count; i++)
        state->msrs[i] = (struct x86_msr){load_le32(cpu->msrs.data + MSR_BYTES * i),
                                          load_le64(cpu->msrs.data + MSR_BYTES * i + 4)};
    if (!take_leaves(cpu, err))
        return false;
    x86_changed(cpu);
    return cpu->keeper == NULL || cpu->keeper->store(cpu, err);
}

static const struct state_field segment_fields[] = {
    STATE_UINT(struct x86_segment, base, "base"),
    STATE_UINT(struct x86_segment, limit, "limit"),
    STATE_UINT(struct x86_segment, selector, "selector"),
    STATE_UINT(struct x86_segment, type, "type"),
    STATE_UINT(struct x86_segment, dpl, "dpl"),
    STATE_BOOL(struct x86_segment, present, "present"),
    STATE_BOOL(struct x86_segment, s, "s"),
    STATE_BOOL(struct x86_segment, db, "db"),
    STATE_BOOL(struct x86_segment, l, "l"),
    STATE_BOOL(struct x86_segment, g, "g"),
    STATE_BOOL(struct x86_segment, avl, "avl"),
    STATE_BOOL(struct x86_segment, unusable, "unusable"),
    STATE_END,
};
static const struct state_table segment_state = {"x86-segment", 1, segment_fields, NULL, NULL};

#define EVENT(member, name) STATE_UINT(struct x86_cpu, state.events.member, "event-" name)
#define FLAG(member, name)  STATE_BOOL(struct x86_cpu, state.events.member, "event-" name)

/* What version 1 did not have. */
#define SINCE_2(member, kind, name) STATE_SINCE(2, kind, struct x86_cpu, member, name)

static const struct state_field fields[] = {
    STATE_UINTS(struct x86_cpu, state.gpr, "gpr"),
    STATE_UINT(struct x86_cpu, state.rip, "rip"),
    STATE_UINT(struct x86_cpu, state.rflags, "rflags"),
    STATE_STRUCTS(struct x86_cpu, state.segments, "segments", &segment_state),
    STATE_UINT(struct x86_cpu, state.gdt.base, "gdt-base"),
    STATE_UINT(struct x86_cpu, state.gdt.limit, "gdt-limit"),
    STATE_UINT(struct x86_cpu, state.idt.base, "idt-base"),
    STATE_UINT(struct x86_cpu, state.idt.limit, "idt-limit"),
    STATE_UINT(struct x86_cpu, state.cr0, "cr0"),
    STATE_UINT(struct x86_cpu, state.cr2, "cr2"),
    STATE_UINT(struct x86_cpu, state.cr3, "cr3"),
    STATE_UINT(struct x86_cpu, state.cr4, "cr4"),
    STATE_UINT(struct x86_cpu, state.cr8, "cr8"),
    STATE_UINT(struct x86_cpu, state.efer, "efer"),
    STATE_UINT(struct x86_cpu, state.apic_base, "apic-base"),
    STATE_UINTS(struct x86_cpu, state.external_interrupts, "external-interrupts"),
    STATE_UINT(struct x86_cpu, state.xcr0, "xcr0"),
    STATE_BYTES(struct x86_cpu, state.xsave, "xsave"),
    STATE_UINTS(struct x86_cpu, state.dr, "dr"),
    STATE_UINT(struct x86_cpu, state.dr6, "dr6"),
    STATE_UINT(struct x86_cpu, state.dr7, "dr7"),
    STATE_BYTES(struct x86_cpu, state.lapic, "lapic"),
    FLAG(exception_injected, "exception-injected"),
    FLAG(exception_pending, "exception-pending"),
    FLAG(exception_has_code, "exception-has-code"),
    EVENT(exception, "exception"),
    EVENT(exception_code, "exception-code"),
    FLAG(interrupt_injected, "interrupt-injected"),
    FLAG(interrupt_soft, "interrupt-soft"),
    EVENT(interrupt, "interrupt"),
    EVENT(interrupt_shadow, "interrupt-shadow"),
    FLAG(nmi_injected, "nmi-injected"),
    FLAG(nmi_pending, "nmi-pending"),
    FLAG(nmi_masked, "nmi-masked"),
    EVENT(sipi_vector, "sipi-vector"),
    FLAG(smm, "smm"),
    FLAG(smi_pending, "smi-pending"),
    FLAG(smm_inside_nmi, "smm-inside-nmi"),
    FLAG(init_latched, "init-latched"),
    STATE_UINT(struct x86_cpu, state.activity, "activity"),
    STATE_BUFFER(struct x86_cpu, msrs, "msrs"),
    SINCE_2(leaves, STATE_KIND_BUFFER, "cpuid"),
    SINCE_2(saved_capabilities, STATE_KIND_UINT, "arch-capabilities"),
    SINCE_2(state.tsc_khz, STATE_KIND_UINT, "tsc-khz"),
    STATE_END,
};

const struct state_table x86_cpu_state = {"x86-64-cpu", 2, fields, pre_save, post_restore};
