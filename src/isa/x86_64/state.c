/* SPDX-License-Identifier: MIT
 *
 * The declared state of an x86-64 processor. What KVM keeps is asked for before it is saved, and given
 * back when it was restored: whether it can be is KVM's to say, for a stream is hostile and KVM is what
 * has to bear it. Here only what this program relies on is checked.
 */
#include "base/bits.h"
#include "base/error.h"
#include "isa/x86_64/isa_internal.h"

enum { MSR_BYTES = 12 };

static void pre_save(void *object)
{
    struct x86_cpu *cpu = object;
    x86_fetch(cpu);
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
    STATE_END,
};

const struct state_table x86_cpu_state = {"x86-64-cpu", 1, fields, pre_save, post_restore};
