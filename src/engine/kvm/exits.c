/* SPDX-License-Identifier: MIT
 *
 * What KVM leaves a guest for (api.rst, "5. The kvm_run structure").
 *
 * x86 has no access faults: where nothing answers, reads give all ones and writes are lost. An access
 * that a device does not take as it is, because of its size or alignment, is made of smaller ones.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "engine/kvm/kvm_internal.h"

/* ---- accesses to devices ---- */

static void access_io(struct mem_space *space, uint64_t gpa, uint8_t *data, unsigned size, bool write)
{
    uint8_t bytes[8] = {0};
    uint64_t value;
    if (size == 0)
        return;
    memcpy(bytes, data, size);
    value = load_le64(bytes);
    bool whole = is_power_of_two(size) && size <= 8;
    if (whole && (write ? mem_io_write(space, gpa, size, value) : mem_io_read(space, gpa, size, &value))) {
        store_le64(bytes, value);
        if (!write)
            memcpy(data, bytes, size);
        return;
    }
    if (size == 1) {
        if (!write)
            *data = UINT8_MAX;
        return;
    }
    unsigned half = whole ? size / 2 : 1;
    access_io(space, gpa, data, half, write);
    access_io(space, gpa + half, data + half, size - half, write);
}

/* A string instruction hands over many at once, all for the same port. */
static void serve_port(struct kvm_cpu *kvm)
{
    struct kvm_run *run = kvm->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    bool write = run->io.direction == KVM_EXIT_IO_OUT;
    kvm->io_exits++;
    for (uint32_t i = 0; i < run->io.count; i++)
        access_io(kvm->cpu->vcpu.ports, run->io.port, data + (size_t)i * run->io.size, run->io.size,
                  write);
}

/* An access may lie across the end of memory. */
static void serve_memory(struct kvm_cpu *kvm)
{
    struct kvm_run *run = kvm->run;
    struct vcpu *vcpu = &kvm->cpu->vcpu;
    unsigned size = run->mmio.len <= sizeof(run->mmio.data) ? run->mmio.len : 0;
    bool write = run->mmio.is_write != 0;
    kvm->mmio_exits++;
    if (mem_ram_find(vcpu->mem, run->mmio.phys_addr) == NULL)
        access_io(vcpu->mem, run->mmio.phys_addr, run->mmio.data, size, write);
    else if (write)
        (void)mem_write(vcpu->mem, run->mmio.phys_addr, run->mmio.data, size);
    else if (!mem_read(vcpu->mem, run->mmio.phys_addr, run->mmio.data, size))
        memset(run->mmio.data, UINT8_MAX, size);
}

/* ---- ends ---- */

static const char *const exit_names[] = {
    [KVM_EXIT_UNKNOWN] = "unknown hardware exit",
    [KVM_EXIT_EXCEPTION] = "exception",
    [KVM_EXIT_HYPERCALL] = "hypercall",
    [KVM_EXIT_HLT] = "halt",
    [KVM_EXIT_FAIL_ENTRY] = "failed entry",
    [KVM_EXIT_SET_TPR] = "TPR set",
    [KVM_EXIT_TPR_ACCESS] = "TPR access",
    [KVM_EXIT_INTERNAL_ERROR] = "internal error",
    [KVM_EXIT_SYSTEM_EVENT] = "system event",
    [KVM_EXIT_IOAPIC_EOI] = "I/O APIC EOI",
    [KVM_EXIT_HYPERV] = "Hyper-V",
    [KVM_EXIT_X86_RDMSR] = "RDMSR",
    [KVM_EXIT_X86_WRMSR] = "WRMSR",
    [KVM_EXIT_AP_RESET_HOLD] = "AP reset hold",
    [KVM_EXIT_X86_BUS_LOCK] = "bus lock",
    [KVM_EXIT_XEN] = "Xen",
    [KVM_EXIT_NOTIFY] = "no window for events",
};

static const char *const internal_names[] = {
    [KVM_INTERNAL_ERROR_EMULATION] = "it does not emulate the instruction at rip",
    [KVM_INTERNAL_ERROR_SIMUL_EX] = "exceptions at the same time",
    [KVM_INTERNAL_ERROR_DELIVERY_EV] = "an exit while an event is delivered",
    [KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "an exit that it does not know",
};

static const char *name_of(const char *const *names, size_t count, uint32_t number)
{
    return number < count && names[number] != NULL ? names[number] : "unknown";
}

/* What KVM has to say to an internal error beside its kind: where it was, as it knows that best. */
static void describe_internal(const struct kvm_run *run, char *text, size_t size)
{
    uint32_t words = run->internal.ndata < ARRAY_SIZE(run->internal.data)
                         ? run->internal.ndata
                         : (uint32_t)ARRAY_SIZE(run->internal.data);
    int used = snprintf(text, size, ": %s (%u)",
                        name_of(internal_names, ARRAY_SIZE(internal_names), run->internal.suberror),
                        run->internal.suberror);
    for (uint32_t i = 0; i < words && used > 0 && (size_t)used < size; i++)
        used += snprintf(text + used, size - (size_t)used, "%s%#" PRIx64, i == 0 ? ", data " : " ",
                         (uint64_t)run->internal.data[i]);
}

/* The rest of what KVM says. */
static void describe(const struct kvm_run *run, char *text, size_t size)
{
    text[0] = '\0';
    switch (run->exit_reason) {
    case KVM_EXIT_UNKNOWN:
        snprintf(text, size, ": hardware reason %#" PRIx64, (uint64_t)run->hw.hardware_exit_reason);
        break;
    case KVM_EXIT_EXCEPTION:
        snprintf(text, size, ": vector %u, code %#x", run->ex.exception, run->ex.error_code);
        break;
    case KVM_EXIT_FAIL_ENTRY:
        snprintf(text, size, ": hardware reason %#" PRIx64,
                 (uint64_t)run->fail_entry.hardware_entry_failure_reason);
        break;
    case KVM_EXIT_INTERNAL_ERROR:
        describe_internal(run, text, size);
        break;
    case KVM_EXIT_SYSTEM_EVENT:
        snprintf(text, size, ": type %u", run->system_event.type);
        break;
    }
}

/* From Linux 6.8 on, beside EFAULT and EHWPOISON; struct kvm_run has it where those of all exits are. */
#define EXIT_MEMORY_FAULT 39u
struct memory_fault {
    uint64_t flags, gpa, size;
};

void kvm_tell_error(struct kvm_cpu *kvm, int number)
{
    struct memory_fault fault;
    char where[64] = "";
    if (kvm->run->exit_reason == EXIT_MEMORY_FAULT) {
        memcpy(&fault, kvm->run->padding, sizeof(fault));
        snprintf(where, sizeof(where), " (guest memory at %#" PRIx64 ")", fault.gpa);
    }
    log_error(kvm->machine->log, "KVM does not run vCPU %u: %s%s", kvm->cpu->vcpu.index,
              strerror(number), where);
}

static bool fail(struct kvm_cpu *kvm, enum vcpu_exit *exit)
{
    char text[512];
    const struct kvm_run *run = kvm->run;
    describe(run, text, sizeof(text));
    log_error(kvm->machine->log, "KVM cannot run vCPU %u any further, %s (exit %u)%s",
              kvm->cpu->vcpu.index, name_of(exit_names, ARRAY_SIZE(exit_names), run->exit_reason),
              run->exit_reason, text);
    *exit = VCPU_EXIT_FAILED;
    return false;
}

bool kvm_serve(struct kvm_cpu *kvm, enum vcpu_exit *exit)
{
    switch (kvm->run->exit_reason) {
    case KVM_EXIT_IO:
        kvm->incomplete = true;
        serve_port(kvm);
        return true;
    case KVM_EXIT_MMIO:
        kvm->incomplete = true;
        serve_memory(kvm);
        return true;
    case KVM_EXIT_DIRTY_RING_FULL:
        kvm->ring_exits++;
        kvm_empty_rings(kvm->machine);
        return true;
    case KVM_EXIT_DEBUG:
        return kvm_debug_stop(kvm, exit);
    case KVM_EXIT_INTR:
    case KVM_EXIT_NMI:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        return true;
    case KVM_EXIT_SHUTDOWN: /* a triple fault (SDM 3A, 6.15) */
        *exit = VCPU_EXIT_RESET;
        return false;
    default:
        return fail(kvm, exit);
    }
}
