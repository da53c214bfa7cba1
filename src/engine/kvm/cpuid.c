/* SPDX-License-Identifier: MIT
 *
 * What CPUID tells the guest: what KVM supports on this host's processor, with the places of this vCPU
 * among the others (SDM 2A, CPUID).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "engine/kvm/kvm_internal.h"

static struct kvm_cpuid2 *new_list(size_t count)
{
    struct kvm_cpuid2 *list = alloc_zeroed(1, sizeof(*list) + count * sizeof(list->entries[0]));
    list->nent = (uint32_t)count;
    return list;
}

bool kvm_read_supported_cpuid(struct kvm_machine *machine, struct error **err)
{
    struct kvm_cpuid2 *list = new_list(X86_CPUID_MAX);
    bool good = kvm_ioctl(machine->kvm, KVM_GET_SUPPORTED_CPUID, list) == 0;
    if (!good)
        error_set_errno(err, errno, "KVM does not tell what its processors can do");
    for (size_t i = 0; good && i < list->nent; i++) {
        const struct kvm_cpuid_entry2 *from = &list->entries[i];
        machine->supported[machine->supported_count++] = (struct x86_cpuid){
            .function = from->function,
            .index = from->index,
            .indexed = (from->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0,
            .eax = from->eax,
            .ebx = from->ebx,
            .ecx = from->ecx,
            .edx = from->edx,
        };
    }
    free(list);
    return good;
}

/* Bits of an APIC id that are below a package's. */
static unsigned package_bits(unsigned vcpus)
{
    unsigned bits = 0;
    while (1u << bits < vcpus)
        bits++;
    return bits;
}

static void place_leaf(struct x86_cpuid *leaf, unsigned cpu, unsigned vcpus)
{
    enum { HYPERVISOR = 31, X2APIC = 21, TSC_DEADLINE = 24 };
    switch (leaf->function) {
    case 0x1:
        leaf->ebx = (uint32_t)bits_set(leaf->ebx, 24, 8, cpu);
        leaf->ebx = (uint32_t)bits_set(leaf->ebx, 16, 8, 1u << package_bits(vcpus));
        leaf->ecx |= 1u << HYPERVISOR | 1u << X2APIC | 1u << TSC_DEADLINE;
        break;
    case 0x4: /* caches: shared by nobody; cores of the package */
        leaf->eax = (uint32_t)bits_set(leaf->eax, 14, 12, 0);
        leaf->eax = (uint32_t)bits_set(leaf->eax, 26, 6, (1u << package_bits(vcpus)) - 1);
        break;
    case 0x80000008:
        leaf->ecx = (vcpus - 1) | package_bits(vcpus) << 12;
        break;
    case 0x8000001e: /* a core each */
        leaf->eax = cpu;
        leaf->ebx = cpu;
        leaf->ecx = 0;
        break;
    }
}

static bool is_topology(const struct x86_cpuid *leaf)
{
    return leaf->function == 0xb || leaf->function == 0x1f || leaf->function == 0x80000026;
}

/* Two levels: a thread in a core, cores in the package. */
static void add_topology(struct x86_cpu *cpu, unsigned vcpus)
{
    if (cpu->cpuid_count + 2 > X86_CPUID_MAX)
        return;
    const struct x86_cpuid levels[] = {
        {0xb, 0, true, 0, 1, 1 << 8, cpu->vcpu.index},
        {0xb, 1, true, package_bits(vcpus), vcpus, 2 << 8 | 1, cpu->vcpu.index},
    };
    memcpy(&cpu->cpuid[cpu->cpuid_count], levels, sizeof(levels));
    cpu->cpuid_count += ARRAY_SIZE(levels);
}

static void choose(struct kvm_cpu *kvm)
{
    const struct kvm_machine *machine = kvm->machine;
    struct x86_cpu *cpu = kvm->cpu;
    cpu->cpuid_count = 0;
    for (size_t i = 0; i < machine->supported_count; i++) {
        if (is_topology(&machine->supported[i]))
            continue;
        struct x86_cpuid *leaf = &cpu->cpuid[cpu->cpuid_count++];
        *leaf = machine->supported[i];
        place_leaf(leaf, cpu->vcpu.index, machine->vcpu_count);
    }
    add_topology(cpu, machine->vcpu_count);
}

bool kvm_set_cpuid(struct kvm_cpu *kvm, struct error **err)
{
    choose(kvm);
    struct kvm_cpuid2 *list = new_list(kvm->cpu->cpuid_count);
    for (size_t i = 0; i < kvm->cpu->cpuid_count; i++) {
        const struct x86_cpuid *from = &kvm->cpu->cpuid[i];
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
