/* SPDX-License-Identifier: MIT
 *
 * SBI §8, remote fences. Address ranges and ASIDs are taken as "everything": a flush may
 * always drop more than was asked for. The call returns when every target has obeyed.
 */
#include "vm/sbi/sbi.h"

static void collect(struct sbi_call *call, struct vm_cpu *target)
{
    call->value |= UINT64_C(1) << target->vcpu->index;
}

int64_t sbi_rfence(struct sbi_call *call)
{
    enum { FENCE_I, SFENCE_VMA, SFENCE_VMA_ASID };
    if (call->function > SFENCE_VMA_ASID) /* 3..6 need the hypervisor extension */
        return SBI_ERR_NOT_SUPPORTED;
    int64_t result = sbi_for_harts(call, call->args[0], call->args[1], collect);
    uint64_t harts = call->value;
    call->value = 0;
    if (result == SBI_SUCCESS)
        sbi_fence(call->cpu, harts,
                  call->function == FENCE_I ? VCPU_ATTENTION_FENCE_I : VCPU_ATTENTION_TLB);
    return result;
}
