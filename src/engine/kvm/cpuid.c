/* SPDX-License-Identifier: MIT
 *
 * The guest's processor and KVM: what KVM offers, what of it a guest is told (isa/x86_64/guest_cpu.h), and
 * which MSRs it does not reach.
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
#include "engine/kvm/probe.h"

#define MSR_ARCH_CAPABILITIES 0x10au

static struct kvm_cpuid2 *new_list(size_t count)
{
    struct kvm_cpuid2 *list = alloc_zeroed(1, sizeof(*list) + count * sizeof(list->entries[0]));
    list->nent = (uint32_t)count;
    return list;
}

/* ---- what there is ---- */

static uint32_t read_arch_capabilities(int kvm)
{
    struct x86_msr msr = {.index = MSR_ARCH_CAPABILITIES};
    bool read = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_GET_MSR_FEATURES) > 0 && kvm_get_msr(kvm, &msr);
    return read ? (uint32_t)msr.value : 0;
}

bool kvm_read_host(int kvm, struct x86_cpu_host *host, struct error **err)
{
    enum { LEAF = 1, X2APIC = 21, TSC_DEADLINE = 24, HYPERVISOR = 31 };
    struct kvm_cpuid2 *list = new_list(X86_CPUID_MAX);
    bool good = kvm_ioctl(kvm, KVM_GET_SUPPORTED_CPUID, list) == 0;
    if (!good)
        error_set_errno(err, errno, "KVM does not tell what its processors can do");
    *host = (struct x86_cpu_host){.arch_capabilities = read_arch_capabilities(kvm)};
    bool deadline = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    for (size_t i = 0; good && i < list->nent; i++) {
        const struct kvm_cpuid_entry2 *from = &list->entries[i];
        struct x86_cpuid *leaf = &host->leaves[host->count++];
        *leaf = (struct x86_cpuid){
            .function = from->function,
            .index = from->index,
            .indexed = (from->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0,
            .eax = from->eax,
            .ebx = from->ebx,
            .ecx = from->ecx,
            .edx = from->edx,
        };
        /* What its local APICs can do, KVM tells elsewhere or not at all. */
        if (leaf->function == LEAF)
            leaf->ecx |= 1u << HYPERVISOR | 1u << X2APIC | (deadline ? 1u << TSC_DEADLINE : 0);
    }
    free(list);
    return good;
}

bool kvm_models(int kvm, char *text, size_t size, struct error **err)
{
    struct x86_cpu_host *host = alloc_zeroed(1, sizeof(*host));
    bool good = kvm_read_host(kvm, host, err);
    if (good)
        x86_cpu_models(host, text, size);
    free(host);
    return good;
}

bool kvm_choose_cpu(struct kvm_machine *machine, const char *text, struct error **err)
{
    struct x86_cpu_wish wish;
    struct x86_cpu_choice *choice = &machine->choice;
    if (!x86_cpu_parse(text, &wish, err) || !kvm_read_host(machine->kvm, &machine->host, err) ||
        !x86_cpu_choose(&wish, &machine->host, choice, err))
        return false;
    for (size_t i = 0; i < wish.changes.capability_count; i++)
        if (ioctl(machine->kvm, KVM_CHECK_EXTENSION, wish.changes.capabilities[i]) <= 0)
            return error_set(err, ERROR_HOST, "KVM does not have capability %u, which the CPU template wants",
                             wish.changes.capabilities[i]);
    if (!x86_features_none(&choice->left_out)) {
        char names[1024];
        x86_features_print(&choice->left_out, " ", names, sizeof(names));
        log_warning(machine->log, "The guest's processor is without what this host does not have:%s",
                    names);
    }
    return true;
}

/* ---- what the guest does not reach ---- */

/* Those of Hyper-V's interface, which no CPUID leaf here announces, and KVM would serve none the less. */
bool kvm_filter_msrs(struct kvm_machine *machine, struct error **err)
{
    enum { BASE = 0x40000000, COUNT = 0x120 };
    uint8_t denied[COUNT / 8] = {0}; /* a bit that is 0 */
    struct kvm_msr_filter filter = {
        .flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
        .ranges = {{.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
                    .base = BASE,
                    .nmsrs = COUNT,
                    .bitmap = denied}},
    };
    if (ioctl(machine->kvm, KVM_CHECK_EXTENSION, KVM_CAP_X86_MSR_FILTER) <= 0)
        return true;
    return kvm_ioctl(machine->vm, KVM_X86_SET_MSR_FILTER, &filter) == 0 ||
           error_set_errno(err, errno, "KVM does not keep a guest from MSRs");
}

/* Before there are vCPUs: counters cost time at every change between guest and host. */
bool kvm_drop_pmu(struct kvm_machine *machine, struct error **err)
{
    struct kvm_enable_cap cap = {.cap = KVM_CAP_PMU_CAPABILITY, .args = {KVM_PMU_CAP_DISABLE}};
    int has = ioctl(machine->kvm, KVM_CHECK_EXTENSION, KVM_CAP_PMU_CAPABILITY);
    if (machine->choice.wish.pmu || has < 0 || (has & KVM_PMU_CAP_DISABLE) == 0)
        return true;
    return kvm_ioctl(machine->vm, KVM_ENABLE_CAP, &cap) == 0 ||
           error_set_errno(err, errno, "KVM does not switch its performance counters off");
}

/* ---- what the guest is told ---- */

static bool write_list(struct kvm_cpu *kvm, const struct x86_cpuid *leaves, size_t count,
                       struct error **err)
{
    struct kvm_cpuid2 *list = new_list(count);
    for (size_t i = 0; i < count; i++) {
        const struct x86_cpuid *from = &leaves[i];
        list->entries[i] = (struct kvm_cpuid_entry2){
            .function = from->function,
            .index = from->index,
            .flags = from->indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = from->eax,
            .ebx = from->ebx,
            .ecx = from->ecx,
            .edx = from->edx,
        };
    }
    bool good = kvm_ioctl(kvm->fd, KVM_SET_CPUID2, list) == 0;
    free(list);
    return good || error_set_errno(err, errno, "KVM does not take what CPUID is to tell");
}

/* A guest gets those of KVM's services alone that it is told of. */
static bool hold_to_leaves(struct kvm_cpu *kvm, struct error **err)
{
    struct kvm_enable_cap cap = {.cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = {1}};
    if (ioctl(kvm->machine->kvm, KVM_CHECK_EXTENSION, KVM_CAP_ENFORCE_PV_FEATURE_CPUID) <= 0)
        return true;
    return kvm_ioctl(kvm->fd, KVM_ENABLE_CAP, &cap) == 0 ||
           error_set_errno(err, errno, "KVM does not keep to what CPUID tells");
}

/* A vCPU may have less of it than KVM says that the host has; with `less` that will do. */
static bool set_arch_capabilities(struct kvm_cpu *kvm, uint32_t value, bool less, struct error **err)
{
    const struct x86_msr msr = {MSR_ARCH_CAPABILITIES, value};
    struct x86_msr now = {.index = MSR_ARCH_CAPABILITIES};
    (void)kvm_get_msr(kvm->fd, &now);
    kvm->cpu->arch_capabilities = value;
    if (now.value == value || kvm_set_msr(kvm->fd, &msr))
        return true;
    kvm->cpu->arch_capabilities = (uint32_t)now.value;
    return (less && (now.value & ~(uint64_t)value) == 0) ||
           error_set_errno(err, errno, "KVM does not take MSR %#x", msr.index);
}

bool kvm_set_cpuid(struct kvm_cpu *kvm, struct error **err)
{
    struct kvm_machine *machine = kvm->machine;
    struct x86_cpu *cpu = kvm->cpu;
    int khz = ioctl(kvm->fd, KVM_GET_TSC_KHZ, 0);
    machine->host.tsc_khz = khz > 0 ? (uint32_t)khz : 0;
    cpu->cpuid_count = x86_cpu_leaves(&machine->choice, &machine->host, cpu->vcpu.index,
                                      machine->vcpu_count, cpu->cpuid);
    return write_list(kvm, cpu->cpuid, cpu->cpuid_count, err) && hold_to_leaves(kvm, err) &&
           set_arch_capabilities(kvm, machine->choice.features.words[X86_ARCH_CAPABILITIES], true,
                                 err);
}

/* A reset writes what is there now. */
static void keep_usable(const struct kvm_machine *machine, struct x86_state *state,
                        uint32_t arch_capabilities)
{
    unsigned count = 0;
    for (unsigned i = 0; i < state->msr_count; i++) {
        struct x86_msr msr = state->msrs[i];
        if (msr.index == MSR_ARCH_CAPABILITIES)
            msr.value = arch_capabilities;
        if (kvm_saves_msr(machine, msr.index))
            state->msrs[count++] = msr;
    }
    state->msr_count = count;
}

bool kvm_take_cpuid(struct x86_cpu *cpu, const struct x86_cpuid *leaves, size_t count,
                    uint32_t arch_capabilities, struct error **err)
{
    struct kvm_cpu *kvm = cpu->vcpu.engine_data;
    struct kvm_machine *machine = kvm->machine;
    bool same = count == cpu->cpuid_count &&
                memcmp(leaves, cpu->cpuid, count * sizeof(leaves[0])) == 0 &&
                arch_capabilities == cpu->arch_capabilities;
    if (same)
        return true;
    if (!x86_cpu_accepts(&machine->choice, &machine->host, leaves, count, arch_capabilities, err) ||
        !write_list(kvm, leaves, count, err) || !set_arch_capabilities(kvm, arch_capabilities, false, err))
        return false;
    memcpy(cpu->cpuid, leaves, count * sizeof(leaves[0]));
    cpu->cpuid_count = count;
    machine->msr_count = 0; /* which there are depends on the leaves */
    if (!kvm_find_msrs(kvm, err))
        return false;
    keep_usable(machine, &cpu->power_on, cpu->arch_capabilities);
    return true;
}
