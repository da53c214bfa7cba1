/* SPDX-License-Identifier: MIT
 *
 * See sbi.h: the table of extensions and what they share.
 */
#include "vm/sbi/sbi.h"

#include "base/bits.h"

static const struct sbi_extension extensions[] = {
    {0x00, 0x08, sbi_legacy, true},              /* SBI §5 */
    {0x10, 0x10, sbi_base, false},               /* §4 */
    {0x54494d45, 0x54494d45, sbi_time, false},   /* "TIME", §6 */
    {0x735049, 0x735049, sbi_ipi, false},        /* "sPI", §7 */
    {0x52464e43, 0x52464e43, sbi_rfence, false}, /* "RFNC", §8 */
    {0x48534d, 0x48534d, sbi_hsm, false},        /* "HSM", §9 */
    {0x53525354, 0x53525354, sbi_srst, false},   /* "SRST", §10 */
    {0x4442434e, 0x4442434e, sbi_dbcn, false},   /* "DBCN", §12 */
};

static const struct sbi_extension *find(uint64_t id)
{
    for (size_t i = 0; i < ARRAY_SIZE(extensions); i++)
        if (id >= extensions[i].first && id <= extensions[i].last)
            return &extensions[i];
    return NULL;
}

bool sbi_has_extension(uint64_t id)
{
    return find(id) != NULL;
}

bool sbi_call(struct vm_cpu *cpu)
{
    enum { A0 = 10, A1 = 11, A6 = 16, A7 = 17 };
    struct rv_hart *hart = rv_hart_of(cpu->vcpu);
    struct sbi_call call = {.cpu = cpu, .extension = hart->x[A7], .function = hart->x[A6]};
    for (unsigned i = 0; i < 6; i++)
        call.args[i] = hart->x[A0 + i];
    const struct sbi_extension *extension = find(call.extension);
    int64_t result = extension != NULL ? extension->run(&call) : SBI_ERR_NOT_SUPPORTED;
    if (call.again)
        hart->pc -= 4; /* ecall's size */
    if (call.silent || call.again)
        return call.wait;
    hart->x[A0] = (uint64_t)result;
    if (extension == NULL || !extension->legacy)
        hart->x[A1] = call.value;
    return call.wait;
}

bool sbi_want(struct sbi_call *call, uint64_t gpa, uint64_t size)
{
    struct mem_space *mem = call->cpu->vm->mem;
    struct mem_ram *ram = mem_ram_find(mem, gpa);
    call->again = ram != NULL && range_within(gpa - ram->gpa, size, ram->size) &&
                  mem_want_unless(mem, ram, gpa, size, &call->cpu->vcpu->attention) == MEM_LATER;
    return !call->again;
}

int64_t sbi_for_harts(struct sbi_call *call, uint64_t mask, uint64_t base,
                      void (*fn)(struct sbi_call *call, struct vm_cpu *target))
{
    struct vm *vm = call->cpu->vm;
    if (base == UINT64_MAX) {
        mask = (UINT64_C(1) << vm->cpu_count) - 1;
        base = 0;
    }
    if (mask != 0 &&
        (base >= vm->cpu_count || 63u - (unsigned)__builtin_clzll(mask) >= vm->cpu_count - base))
        return SBI_ERR_INVALID_PARAM;
    for (; mask != 0; mask &= mask - 1)
        fn(call, &vm->cpus[base + (unsigned)__builtin_ctzll(mask)]);
    return SBI_SUCCESS;
}

void sbi_set_timer(struct vm_cpu *cpu, uint64_t ticks)
{
    struct rv_hart *hart = rv_hart_of(cpu->vcpu);
    atomic_store(&hart->stimecmp, ticks);
    rv_stimer_update(hart);
}

void sbi_send_ipi(struct sbi_call *call, struct vm_cpu *target)
{
    (void)call;
    vcpu_set_interrupt(target->vcpu, RV_IRQ_SSI, true);
}
