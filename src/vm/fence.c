/* SPDX-License-Identifier: MIT
 *
 * Remote sfence.vma, as the SBI offers it (SBI §8): what to forget is put into the target's list,
 * and the target's thread carries it out before it enters the guest again.
 *
 * Who asks and who enters follow Dekker's pattern, as in isa/vcpu.c; all four are seq_cst:
 *
 *     requester                   target
 *     posted = n    (R1)          running = true   (T1)
 *     read running  (R2)          read posted      (T2)
 *
 * If R2 reads false, T2 sees the request. If it reads true, the requester kicks the target and
 * waits until that has left run() or has carried out the request.
 *
 * vcpu.in_guest would not do in the place of `running`: it is false during an I/O callback, after
 * which the target goes on in the middle of a block, where it does not look here. Nobody waits in
 * a circle: a requester is outside of run(), where no other one waits for it, and holds no lock.
 *
 * Why ranges: four shells that start 60 processes each, Debian's kernel, PLIC, TLB refills beyond
 * those of the boot (`--deterministic --trace mmu`): 586,000 became 103,000 with two harts (2,929
 * flushes of everything became 40), 202,000 became 111,000 with four.
 */
#include "base/backoff.h"
#include "isa/riscv64/mmu.h"
#include "vm/machine.h"

static bool is_whole(const struct vm_fence *fence)
{
    return fence->pages > VM_FENCE_PAGES;
}

static uint64_t post(struct vm_fences *fences, const struct vm_fence *fence)
{
    uint64_t pages = is_whole(fence) ? 1 : fence->pages; /* one flush */
    pthread_mutex_lock(&fences->lock);
    if ((is_whole(fence) && !fence->one_space) || fences->count == VM_FENCES ||
        fences->pages + pages > VM_FENCE_PAGES) {
        fences->everything = true;
    } else {
        fences->list[fences->count++] = *fence;
        fences->pages += pages;
    }
    uint64_t number = atomic_load(&fences->posted) + 1;
    atomic_store(&fences->posted, number);
    pthread_mutex_unlock(&fences->lock);
    return number;
}

static void obey(struct rv_hart *hart, const struct vm_fence *fence)
{
    if (is_whole(fence)) {
        rv_tlb_flush_asid(hart, fence->asid);
        return;
    }
    for (uint64_t i = 0; i < fence->pages; i++) {
        uint64_t va = fence->start + (i << MEM_PAGE_SHIFT);
        if (fence->one_space)
            rv_tlb_flush_page_of(hart, va, fence->asid);
        else
            rv_tlb_flush_page(hart, va);
    }
}

void vm_fence_enter(struct vm_cpu *cpu)
{
    struct vm_fences *fences = &cpu->fences;
    atomic_store(&fences->running, true);
    if (atomic_load(&fences->posted) == atomic_load(&fences->done))
        return;
    pthread_mutex_lock(&fences->lock);
    if (fences->everything)
        rv_tlb_flush_all(rv_hart_of(cpu->vcpu));
    for (unsigned i = 0; i < fences->count && !fences->everything; i++)
        obey(rv_hart_of(cpu->vcpu), &fences->list[i]);
    fences->everything = false;
    fences->count = 0;
    fences->pages = 0;
    atomic_store(&fences->done, atomic_load(&fences->posted));
    pthread_mutex_unlock(&fences->lock);
}

void vm_fence_leave(struct vm_cpu *cpu)
{
    atomic_store(&cpu->fences.running, false);
}

static bool has_obeyed(struct vm_fences *fences, uint64_t number)
{
    return !atomic_load(&fences->running) || atomic_load(&fences->done) >= number;
}

void vm_fence(struct vm *vm, uint64_t harts, const struct vm_fence *fence)
{
    uint64_t numbers[MACHINE_MAX_CPUS] = {0};
    if (fence->pages == 0)
        return;
    /* All first, then wait: they obey at the same time. */
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        if ((harts >> i & 1) == 0)
            continue;
        numbers[i] = post(&vm->cpus[i].fences, fence);
        /* Without a wake-up: who sleeps looks here before it enters the guest. */
        if (!has_obeyed(&vm->cpus[i].fences, numbers[i]))
            atomic_fetch_or(&vm->vcpus[i]->attention, (uint32_t)VCPU_ATTENTION_KICK);
    }
    for (unsigned i = 0; i < vm->cpu_count; i++)
        for (unsigned round = 0; !has_obeyed(&vm->cpus[i].fences, numbers[i]); round++)
            backoff(round);
}
