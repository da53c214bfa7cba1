/* SPDX-License-Identifier: MIT
 *
 * SBI §8, remote fences. The calls return when every target has obeyed.
 */
#include "vm/sbi/sbi.h"

#include "base/bits.h"

void sbi_fence_i(struct vm_cpu *cpu, uint64_t harts)
{
    struct vcpu *targets[MACHINE_MAX_CPUS];
    size_t count = 0;
    for (unsigned i = 0; i < cpu->vm->cpu_count; i++)
        if ((harts >> i & 1) != 0)
            targets[count++] = cpu->vm->vcpus[i];
    vcpu_attention_sync(cpu->vcpu, targets, count, VCPU_ATTENTION_FENCE_I);
}

void sbi_sfence(struct vm_cpu *cpu, uint64_t harts, const uint64_t *range, bool one_space)
{
    uint64_t start = range[0], size = range[1], last = start + (size - 1);
    struct vm_fence fence = {.start = align_down(start, MEM_PAGE_SIZE), .one_space = one_space};
    if (one_space)
        fence.asid = range[2];
    /* 0, 0 and a size of 2^64 - 1 say "all"; what wraps around is not worth an error. */
    if ((start == 0 && size == 0) || size == UINT64_MAX || (size != 0 && last < start))
        fence.pages = UINT64_MAX;
    else if (size != 0)
        fence.pages = (last >> MEM_PAGE_SHIFT) - (start >> MEM_PAGE_SHIFT) + 1;
    vm_fence(cpu->vm, harts, &fence);
}

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
    if (result != SBI_SUCCESS)
        return result;
    if (call->function == FENCE_I)
        sbi_fence_i(call->cpu, harts);
    else
        sbi_sfence(call->cpu, harts, &call->args[2], call->function == SFENCE_VMA_ASID);
    return SBI_SUCCESS;
}
