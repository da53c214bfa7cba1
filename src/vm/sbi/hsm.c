/* SPDX-License-Identifier: MIT
 *
 * SBI §9, hart state management. A hart's state is one atomic; the starter writes where to
 * start before it moves STOPPED → START_PENDING, the target reads it after it saw that.
 */
#include "vm/sbi/sbi.h"

#include "base/bits.h"

static bool can_execute(struct vm_cpu *cpu, uint64_t gpa)
{
    return (gpa & 1) == 0 && mem_ram_find(cpu->vm->mem, gpa) != NULL;
}

static int64_t start(struct sbi_call *call)
{
    uint64_t hart = call->args[0], pc = call->args[1];
    if (hart >= call->cpu->vm->cpu_count)
        return SBI_ERR_INVALID_PARAM;
    if (!can_execute(call->cpu, pc))
        return SBI_ERR_INVALID_ADDRESS;
    struct vm_cpu *target = &call->cpu->vm->cpus[hart];
    int stopped = CPU_STOPPED; /* two starters cannot both claim it */
    if (!atomic_compare_exchange_strong(&target->state, &stopped, CPU_CLAIMED))
        return SBI_ERR_ALREADY_AVAILABLE;
    target->start_pc = pc;
    target->start_opaque = call->args[2];
    atomic_store(&target->state, CPU_START_PENDING);
    vm_cpu_wake(target->vcpu);
    return SBI_SUCCESS;
}

static int64_t stop(struct sbi_call *call)
{
    atomic_store(&call->cpu->state, CPU_STOPPED);
    call->silent = true; /* it does not return, unless it fails */
    return SBI_SUCCESS;
}

static int64_t status(struct sbi_call *call)
{
    if (call->args[0] >= call->cpu->vm->cpu_count)
        return SBI_ERR_INVALID_PARAM;
    int state = atomic_load(&call->cpu->vm->cpus[call->args[0]].state);
    call->value = (uint64_t)(state == CPU_CLAIMED ? CPU_START_PENDING : state);
    return SBI_SUCCESS;
}

static int64_t suspend(struct sbi_call *call)
{
    enum { RETENTIVE = 0, NON_RETENTIVE = 0x80000000u };
    struct vm_cpu *cpu = call->cpu;
    uint32_t type = (uint32_t)call->args[0];
    if (type != RETENTIVE && type != NON_RETENTIVE)
        /* Platform-specific types are valid numbers that we do not have; the rest reserved. */
        return (type & 0x7fffffff) >= 0x10000000 ? SBI_ERR_NOT_SUPPORTED : SBI_ERR_INVALID_PARAM;
    if (type == NON_RETENTIVE) {
        if (!can_execute(cpu, call->args[1]))
            return SBI_ERR_INVALID_ADDRESS;
        cpu->start_pc = call->args[1];
        cpu->start_opaque = call->args[2];
        cpu->resume_at_start = true;
    }
    atomic_store(&cpu->state, CPU_SUSPENDED);
    call->wait = true;
    return SBI_SUCCESS;
}

int64_t sbi_hsm(struct sbi_call *call)
{
    static sbi_fn *const functions[] = {start, stop, status, suspend};
    if (call->function >= ARRAY_SIZE(functions))
        return SBI_ERR_NOT_SUPPORTED;
    return functions[call->function](call);
}
