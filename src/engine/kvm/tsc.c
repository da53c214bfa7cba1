/* SPDX-License-Identifier: MIT
 *
 * Time stamp counters stand still while the machine's clock does: guests may have no other clock,
 * and none of it is lost or won on the way to another process. What they go on with is said by
 * their distances from the host's counter (Linux, Documentation/virt/kvm/devices/vcpu.rst,
 * KVM_VCPU_TSC_OFFSET), so that counters stay as far from each other as they are, however long it
 * takes to tell KVM of one after the other. A KVM without that (before Linux 5.16) lets them run
 * on.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "base/log.h"
#include "engine/kvm/kvm_internal.h"

static bool access_offset(struct kvm_cpu *kvm, unsigned long request, uint64_t *offset)
{
    struct kvm_device_attr attribute = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)offset};
    return kvm_ioctl(kvm->fd, request, &attribute) == 0;
}

bool kvm_tsc_can_stop(struct kvm_cpu *kvm)
{
    uint64_t offset;
    return access_offset(kvm, KVM_GET_DEVICE_ATTR, &offset);
}

/* Of the first counter; the others' are told by their offsets. */
static bool read_first(struct kvm_machine *machine, uint64_t *tsc, uint64_t *offset)
{
    struct kvm_cpu *first = machine->attached[0];
    struct x86_msr msr = {.index = KVM_MSR_TSC};
    if (first == NULL || !access_offset(first, KVM_GET_DEVICE_ATTR, offset) ||
        !kvm_get_msr(first->fd, &msr))
        return false;
    *tsc = msr.value;
    return true;
}

void kvm_tsc_stop(struct kvm_machine *machine)
{
    uint64_t tsc, first, offset;
    if (!read_first(machine, &tsc, &first))
        return;
    for (unsigned i = 0; i < machine->vcpu_count; i++)
        if (machine->attached[i] != NULL &&
            access_offset(machine->attached[i], KVM_GET_DEVICE_ATTR, &offset))
            machine->attached[i]->tsc = tsc + offset - first;
}

/* A timer that waits for a value of the counter is set by what that was worth then. */
static void set_timer_again(struct kvm_cpu *kvm)
{
    struct x86_msr deadline = {.index = KVM_MSR_TSC_DEADLINE};
    if (kvm_get_msr(kvm->fd, &deadline) && deadline.value != 0)
        (void)kvm_set_msr(kvm->fd, &deadline);
}

void kvm_tsc_go_on(struct kvm_machine *machine)
{
    uint64_t tsc, first;
    if (!read_first(machine, &tsc, &first))
        return;
    for (unsigned i = 0; i < machine->vcpu_count; i++) {
        struct kvm_cpu *kvm = machine->attached[i];
        if (kvm == NULL)
            continue;
        uint64_t offset = first - tsc + kvm->tsc;
        if (!access_offset(kvm, KVM_SET_DEVICE_ATTR, &offset))
            log_error(machine->log, "KVM does not set the time stamp counter of vCPU %u: %s", i,
                      strerror(errno));
        set_timer_again(kvm);
    }
}
