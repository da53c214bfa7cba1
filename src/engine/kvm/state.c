/* SPDX-License-Identifier: MIT
 *
 * A vCPU's architectural state, from KVM and to it. Each part of it is one pair of functions and one row
 * of a table, in the order in which it is written: CPUID comes before all (it decides what is allowed),
 * the local APIC before the MSRs (its timer's deadline is one), what is pending last.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "engine/kvm/kvm_internal.h"

/* ---- general registers ---- */

/* In the order of enum x86_register. */
static void general_places(struct kvm_regs *regs, __u64 *places[X86_REGISTERS])
{
    __u64 *const all[] = {&regs->rax, &regs->rcx, &regs->rdx, &regs->rbx, &regs->rsp, &regs->rbp,
                          &regs->rsi, &regs->rdi, &regs->r8,  &regs->r9,  &regs->r10, &regs->r11,
                          &regs->r12, &regs->r13, &regs->r14, &regs->r15};
    memcpy(places, all, sizeof(all));
}

static bool get_general(struct kvm_cpu *kvm, struct x86_state *state)
{
    struct kvm_regs regs;
    __u64 *places[X86_REGISTERS];
    if (kvm_ioctl(kvm->fd, KVM_GET_REGS, &regs) != 0)
        return false;
    general_places(&regs, places);
    for (unsigned i = 0; i < X86_REGISTERS; i++)
        state->gpr[i] = *places[i];
    state->rip = regs.rip;
    state->rflags = regs.rflags;
    return true;
}

static bool set_general(struct kvm_cpu *kvm, const struct x86_state *state)
{
    struct kvm_regs regs = {.rip = state->rip, .rflags = state->rflags};
    __u64 *places[X86_REGISTERS];
    general_places(&regs, places);
    for (unsigned i = 0; i < X86_REGISTERS; i++)
        *places[i] = state->gpr[i];
    return kvm_ioctl(kvm->fd, KVM_SET_REGS, &regs) == 0;
}

/* ---- segments and control registers ---- */

static void segment_places(struct kvm_sregs *sregs, struct kvm_segment *places[X86_SEGMENTS])
{
    struct kvm_segment *const all[] = {&sregs->es, &sregs->cs, &sregs->ss,  &sregs->ds,
                                       &sregs->fs, &sregs->gs, &sregs->ldt, &sregs->tr};
    memcpy(places, all, sizeof(all));
}

static bool get_special(struct kvm_cpu *kvm, struct x86_state *state)
{
    struct kvm_sregs sregs;
    struct kvm_segment *places[X86_SEGMENTS];
    if (kvm_ioctl(kvm->fd, KVM_GET_SREGS, &sregs) != 0)
        return false;
    segment_places(&sregs, places);
    for (unsigned i = 0; i < X86_SEGMENTS; i++) {
        const struct kvm_segment *from = places[i];
        state->segments[i] = (struct x86_segment){
            from->base,         from->limit,  from->selector, from->type,   from->dpl, from->present != 0,
            from->s != 0,       from->db != 0, from->l != 0,  from->g != 0, from->avl != 0,
            from->unusable != 0};
    }
    state->gdt = (struct x86_table){sregs.gdt.base, sregs.gdt.limit};
    state->idt = (struct x86_table){sregs.idt.base, sregs.idt.limit};
    state->cr0 = sregs.cr0;
    state->cr2 = sregs.cr2;
    state->cr3 = sregs.cr3;
    state->cr4 = sregs.cr4;
    state->cr8 = sregs.cr8;
    state->efer = sregs.efer;
    state->apic_base = sregs.apic_base;
    memcpy(state->external_interrupts, sregs.interrupt_bitmap, sizeof(state->external_interrupts));
    return true;
}

static bool set_special(struct kvm_cpu *kvm, const struct x86_state *state)
{
    struct kvm_sregs sregs = {0};
    struct kvm_segment *places[X86_SEGMENTS];
    segment_places(&sregs, places);
    for (unsigned i = 0; i < X86_SEGMENTS; i++) {
        const struct x86_segment *from = &state->segments[i];
        *places[i] = (struct kvm_segment){
            .base = from->base,       .limit = from->limit, .selector = from->selector,
            .type = from->type,       .dpl = from->dpl,     .present = from->present,
            .s = from->s,             .db = from->db,       .l = from->l,
            .g = from->g,             .avl = from->avl,     .unusable = from->unusable};
    }
    sregs.gdt = (struct kvm_dtable){.base = state->gdt.base, .limit = state->gdt.limit};
    sregs.idt = (struct kvm_dtable){.base = state->idt.base, .limit = state->idt.limit};
    sregs.cr0 = state->cr0;
    sregs.cr2 = state->cr2;
    sregs.cr3 = state->cr3;
    sregs.cr4 = state->cr4;
    sregs.cr8 = state->cr8;
    sregs.efer = state->efer;
    sregs.apic_base = state->apic_base;
    memcpy(sregs.interrupt_bitmap, state->external_interrupts, sizeof(sregs.interrupt_bitmap));
    return kvm_ioctl(kvm->fd, KVM_SET_SREGS, &sregs) == 0;
}

/* ---- floating point and what else XSAVE knows ---- */

_Static_assert(sizeof(struct kvm_xsave) == X86_XSAVE_SIZE, "the area is KVM's");

static bool get_xsave(struct kvm_cpu *kvm, struct x86_state *state)
{
    struct kvm_xcrs xcrs = {0};
    if (kvm_ioctl(kvm->fd, KVM_GET_XCRS, &xcrs) == 0 && xcrs.nr_xcrs > 0)
        state->xcr0 = xcrs.xcrs[0].value;
    return kvm_ioctl(kvm->fd, KVM_GET_XSAVE, state->xsave) == 0;
}

/* A processor without XSAVE has no XCR0. */
static bool set_xsave(struct kvm_cpu *kvm, const struct x86_state *state)
{
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = state->xcr0}}};
    if (state->xcr0 != 0 && kvm_ioctl(kvm->fd, KVM_SET_XCRS, &xcrs) != 0)
        return false;
    return kvm_ioctl(kvm->fd, KVM_SET_XSAVE, (void *)(uintptr_t)state->xsave) == 0;
}

/* ---- debug registers, local APIC ---- */

static bool get_debug(struct kvm_cpu *kvm, struct x86_state *state)
{
    struct kvm_debugregs debug = {0};
    if (kvm_ioctl(kvm->fd, KVM_GET_DEBUGREGS, &debug) != 0)
        return false;
    memcpy(state->dr, debug.db, sizeof(state->dr));
    state->dr6 = debug.dr6;
    state->dr7 = debug.dr7;
    return true;
}

static bool set_debug(struct kvm_cpu *kvm, const struct x86_state *state)
{
    struct kvm_debugregs debug = {.dr6 = state->dr6, .dr7 = state->dr7};
    memcpy(debug.db, state->dr, sizeof(debug.db));
    return kvm_ioctl(kvm->fd, KVM_SET_DEBUGREGS, &debug) == 0;
}

_Static_assert(sizeof(struct kvm_lapic_state) == X86_LAPIC_SIZE, "the page is KVM's");

static bool get_lapic(struct kvm_cpu *kvm, struct x86_state *state)
{
    return kvm_ioctl(kvm->fd, KVM_GET_LAPIC, state->lapic) == 0;
}

static bool set_lapic(struct kvm_cpu *kvm, const struct x86_state *state)
{
    return kvm_ioctl(kvm->fd, KVM_SET_LAPIC, (void *)(uintptr_t)state->lapic) == 0;
}

/* ---- MSRs ---- */

struct msr_list {
    struct kvm_msrs head;
    struct kvm_msr_entry entries[X86_MSRS_MAX];
};

struct one_msr {
    struct kvm_msrs head;
    struct kvm_msr_entry entries[1];
};

/* The time stamp counter, which KVM does not stop. */
static bool stands(struct kvm_cpu *kvm)
{
    return kvm->machine->clock_stands && kvm_tsc_can_stop(kvm);
}

static bool get_msrs(struct kvm_cpu *kvm, struct x86_state *state)
{
    struct msr_list list = {.head = {.nmsrs = kvm->machine->msr_count}};
    for (unsigned i = 0; i < kvm->machine->msr_count; i++)
        list.entries[i].index = kvm->machine->msrs[i];
    if (kvm_ioctl(kvm->fd, KVM_GET_MSRS, &list) != (int)kvm->machine->msr_count)
        return false;
    for (unsigned i = 0; i < kvm->machine->msr_count; i++)
        state->msrs[i] = (struct x86_msr){list.entries[i].index, list.entries[i].data};
    for (unsigned i = 0; i < kvm->machine->msr_count; i++)
        if (state->msrs[i].index == KVM_MSR_TSC && stands(kvm))
            state->msrs[i].value = kvm->tsc;
    state->msr_count = kvm->machine->msr_count;
    return true;
}

bool kvm_get_msr(int fd, struct x86_msr *msr)
{
    struct one_msr list = {.head = {.nmsrs = 1}};
    list.entries[0].index = msr->index;
    if (kvm_ioctl(fd, KVM_GET_MSRS, &list) != 1)
        return false;
    msr->value = list.entries[0].data;
    return true;
}

bool kvm_set_msr(int fd, const struct x86_msr *msr)
{
    struct one_msr list = {.head = {.nmsrs = 1}};
    list.entries[0] = (struct kvm_msr_entry){.index = msr->index, .data = msr->value};
    return kvm_ioctl(fd, KVM_SET_MSRS, &list) == 1;
}

bool kvm_saves_msr(const struct kvm_machine *machine, uint32_t index)
{
    for (unsigned i = 0; i < machine->msr_count; i++)
        if (machine->msrs[i] == index)
            return true;
    return false;
}

/* The time stamp counter waits until the machine goes on (tsc.c). */
static bool put_msr(struct kvm_cpu *kvm, const struct x86_msr *msr)
{
    if (msr->index != KVM_MSR_TSC || !kvm_tsc_can_stop(kvm))
        return kvm_saves_msr(kvm->machine, msr->index) && kvm_set_msr(kvm->fd, msr);
    kvm->tsc = msr->value;
    return true;
}

/* One that this host does not have is missed by a guest only if it held something. Whoever made the state
 * sets no others than those that we save. */
static bool set_msrs(struct kvm_cpu *kvm, const struct x86_state *state)
{
    for (unsigned i = 0; i < state->msr_count; i++)
        if (!put_msr(kvm, &state->msrs[i]) && state->msrs[i].value != 0) {
            log_error(kvm->machine->log, "KVM does not take MSR %#x with %#llx",
                      state->msrs[i].index, (unsigned long long)state->msrs[i].value);
            errno = EINVAL;
            return false;
        }
    return true;
}

/* Some that KVM lists depend on the processor's features, some cannot be written. */
static bool is_usable(struct kvm_cpu *kvm, uint32_t index)
{
    struct x86_msr msr = {.index = index};
    return kvm_get_msr(kvm->fd, &msr) && kvm_set_msr(kvm->fd, &msr);
}

static void sort_last(struct kvm_machine *machine, uint32_t index)
{
    unsigned at = 0;
    while (at < machine->msr_count && machine->msrs[at] != index)
        at++;
    for (; at + 1 < machine->msr_count; at++) {
        machine->msrs[at] = machine->msrs[at + 1];
        machine->msrs[at + 1] = index;
    }
}

bool kvm_find_msrs(struct kvm_cpu *kvm, struct error **err)
{
    struct kvm_machine *machine = kvm->machine;
    struct kvm_msr_list count = {0};
    if (machine->msr_count > 0)
        return true;
    (void)kvm_ioctl(machine->kvm, KVM_GET_MSR_INDEX_LIST, &count); /* E2BIG, and how many */
    struct kvm_msr_list *list =
        alloc_zeroed(1, sizeof(*list) + count.nmsrs * sizeof(list->indices[0]));
    list->nmsrs = count.nmsrs;
    bool good = kvm_ioctl(machine->kvm, KVM_GET_MSR_INDEX_LIST, list) == 0;
    for (unsigned i = 0; good && i < list->nmsrs && machine->msr_count < X86_MSRS_MAX; i++)
        if (is_usable(kvm, list->indices[i]))
            machine->msrs[machine->msr_count++] = list->indices[i];
    free(list);
    sort_last(machine, KVM_MSR_TSC_DEADLINE);
    return good || error_set_errno(err, errno, "KVM does not list its MSRs");
}

/* ---- the clock's frequency ---- */

static bool get_frequency(struct kvm_cpu *kvm, struct x86_state *state)
{
    int khz = ioctl(kvm->fd, KVM_GET_TSC_KHZ, 0);
    state->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
    return true;
}

/* A guest knows it, and does not look again. Another one than the host's takes a processor that scales. */
static bool set_frequency(struct kvm_cpu *kvm, const struct x86_state *state)
{
    int khz = ioctl(kvm->fd, KVM_GET_TSC_KHZ, 0);
    return state->tsc_khz == 0 || (khz > 0 && state->tsc_khz == (uint32_t)khz) ||
           ioctl(kvm->fd, KVM_SET_TSC_KHZ, (unsigned long)state->tsc_khz) == 0;
}

/* ---- what is pending ---- */

static bool get_events(struct kvm_cpu *kvm, struct x86_state *state)
{
    struct kvm_vcpu_events events = {0};
    struct kvm_mp_state activity = {0};
    if (kvm_ioctl(kvm->fd, KVM_GET_VCPU_EVENTS, &events) != 0 ||
        kvm_ioctl(kvm->fd, KVM_GET_MP_STATE, &activity) != 0 ||
        activity.mp_state > KVM_MP_STATE_SIPI_RECEIVED)
        return false;
    state->events = (struct x86_events){
        .exception_injected = events.exception.injected != 0,
        .exception_pending = events.exception.pending != 0,
        .exception_has_code = events.exception.has_error_code != 0,
        .exception = events.exception.nr,
        .exception_code = events.exception.error_code,
        .interrupt_injected = events.interrupt.injected != 0,
        .interrupt_soft = events.interrupt.soft != 0,
        .interrupt = events.interrupt.nr,
        .interrupt_shadow = events.interrupt.shadow,
        .nmi_injected = events.nmi.injected != 0,
        .nmi_pending = events.nmi.pending != 0,
        .nmi_masked = events.nmi.masked != 0,
        .sipi_vector = events.sipi_vector,
        .smm = events.smi.smm != 0,
        .smi_pending = events.smi.pending != 0,
        .smm_inside_nmi = events.smi.smm_inside_nmi != 0,
        .init_latched = events.smi.latched_init != 0,
    };
    static const uint8_t activities[] = {
        [KVM_MP_STATE_RUNNABLE] = X86_RUNS,
        [KVM_MP_STATE_UNINITIALIZED] = X86_WAITS_FOR_INIT,
        [KVM_MP_STATE_INIT_RECEIVED] = X86_WAITS_FOR_SIPI,
        [KVM_MP_STATE_HALTED] = X86_HALTED,
        [KVM_MP_STATE_SIPI_RECEIVED] = X86_SIPI_CAME,
    };
    state->activity = activities[activity.mp_state];
    return true;
}

static bool set_activity(struct kvm_cpu *kvm, const struct x86_state *state)
{
    static const uint8_t activities[X86_ACTIVITIES] = {
        [X86_RUNS] = KVM_MP_STATE_RUNNABLE,
        [X86_WAITS_FOR_INIT] = KVM_MP_STATE_UNINITIALIZED,
        [X86_WAITS_FOR_SIPI] = KVM_MP_STATE_INIT_RECEIVED,
        [X86_SIPI_CAME] = KVM_MP_STATE_SIPI_RECEIVED,
        [X86_HALTED] = KVM_MP_STATE_HALTED,
    };
    struct kvm_mp_state activity = {activities[state->activity]};
    return kvm_ioctl(kvm->fd, KVM_SET_MP_STATE, &activity) == 0;
}

static bool set_events(struct kvm_cpu *kvm, const struct x86_state *state)
{
    const struct x86_events *from = &state->events;
    struct kvm_vcpu_events events = {
        .exception = {.injected = from->exception_injected,
                      .nr = from->exception,
                      .has_error_code = from->exception_has_code,
                      .pending = from->exception_pending,
                      .error_code = from->exception_code},
        .interrupt = {.injected = from->interrupt_injected,
                      .nr = from->interrupt,
                      .soft = from->interrupt_soft,
                      .shadow = from->interrupt_shadow},
        .nmi = {.injected = from->nmi_injected,
                .pending = from->nmi_pending,
                .masked = from->nmi_masked},
        .sipi_vector = from->sipi_vector,
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
                 KVM_VCPUEVENT_VALID_SHADOW,
    };
    if (from->smm || from->smi_pending || from->smm_inside_nmi || from->init_latched) {
        events.flags |= KVM_VCPUEVENT_VALID_SMM;
        events.smi.smm = from->smm;
        events.smi.pending = from->smi_pending;
        events.smi.smm_inside_nmi = from->smm_inside_nmi;
        events.smi.latched_init = from->init_latched;
    }
    return kvm_ioctl(kvm->fd, KVM_SET_VCPU_EVENTS, &events) == 0;
}

/* ---- all of it ---- */

static const struct part {
    const char *name;
    bool (*get)(struct kvm_cpu *kvm, struct x86_state *state); /* or NULL: another row does */
    bool (*set)(struct kvm_cpu *kvm, const struct x86_state *state);
} parts[] = {
    {"TSC frequency", get_frequency, set_frequency},
    {"activity", NULL, set_activity},
    {"special registers", get_special, set_special},
    {"general registers", get_general, set_general},
    {"floating-point registers", get_xsave, set_xsave},
    {"debug registers", get_debug, set_debug},
    {"local APIC", get_lapic, set_lapic},
    {"MSRs", get_msrs, set_msrs},
    {"events", get_events, set_events},
};

static void fetch(struct x86_cpu *cpu)
{
    struct kvm_cpu *kvm = cpu->vcpu.engine_data;
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        if (parts[i].get != NULL && !parts[i].get(kvm, &cpu->state))
            log_error(kvm->machine->log, "KVM does not tell the %s of vCPU %u: %s", parts[i].name,
                      cpu->vcpu.index, strerror(errno));
}

static bool store(struct x86_cpu *cpu, struct error **err)
{
    struct kvm_cpu *kvm = cpu->vcpu.engine_data;
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        if (!parts[i].set(kvm, &cpu->state))
            return error_set_errno(err, errno, "KVM does not take the %s of vCPU %u", parts[i].name,
                                   cpu->vcpu.index);
    cpu->changed = false;
    kvm->incomplete = false;
    return true;
}

const struct x86_keeper kvm_keeper = {fetch, store, kvm_take_cpuid};
