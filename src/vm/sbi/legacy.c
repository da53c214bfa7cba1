/* SPDX-License-Identifier: MIT
 *
 * SBI §5, legacy extensions 0 to 8: the result is in a0, hart masks are read through a
 * virtual address of the caller (0 = all harts).
 */
#include "vm/sbi/sbi.h"

#include "base/bits.h"

/* The caller's mask; false: its address is not mapped. */
static bool read_mask(struct sbi_call *call, uint64_t *mask)
{
    struct vm *vm = call->cpu->vm;
    uint64_t va = call->args[0], all = (UINT64_C(1) << vm->cpu_count) - 1;
    uint8_t bytes[8];
    if (va == 0) {
        *mask = all;
        return true;
    }
    for (unsigned i = 0; i < sizeof(bytes); i++) { /* it may straddle a page */
        uint64_t gpa;
        if (!vm->isa->translate(call->cpu->vcpu, va + i, &gpa)) {
            call->again = mem_is_late(vm->mem); /* a page table may be on its way */
            return false;
        }
        if (!sbi_want(call, gpa, 1) || !mem_read(vm->mem, gpa, &bytes[i], 1))
            return false;
    }
    *mask = load_le64(bytes) & all;
    return true;
}

int64_t sbi_legacy(struct sbi_call *call)
{
    enum {
        SET_TIMER,
        PUTCHAR,
        GETCHAR,
        CLEAR_IPI,
        SEND_IPI,
        FENCE_I,
        SFENCE,
        SFENCE_ASID,
        SHUTDOWN
    };
    uint8_t byte = (uint8_t)call->args[0];
    uint64_t mask = 0;
    switch (call->extension) {
    case SET_TIMER:
        sbi_set_timer(call->cpu, call->args[0]);
        return 0;
    case PUTCHAR:
        sbi_put(call->cpu, &byte, 1);
        return 0;
    case GETCHAR:
        return sbi_get(call->cpu);
    case CLEAR_IPI:
        vcpu_set_interrupt(call->cpu->vcpu, RV_IRQ_SSI, false);
        return 0;
    case SHUTDOWN:
        vm_power(call->cpu->vm, VM_POWER_OFF, 0);
        call->silent = true;
        return 0;
    default:
        break;
    }
    if (!read_mask(call, &mask))
        return SBI_ERR_INVALID_ADDRESS;
    if (call->extension == SEND_IPI)
        return sbi_for_harts(call, mask, 0, sbi_send_ipi);
    if (call->extension == FENCE_I)
        sbi_fence_i(call->cpu, mask);
    else
        sbi_sfence(call->cpu, mask, &call->args[1], call->extension == SFENCE_ASID);
    return 0;
}
