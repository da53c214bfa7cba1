/*
 * Instruction fetch at the edges of memory.  Privileged ISA "Machine Trap Value": for a fetch that
 * faults in the middle of an instruction mtval holds the address of the part that faulted.
 */
#include "mmu.h"

const char guest_name[] = "fetch_edges";

/* An instruction that straddles the end of RAM, and jumps to odd places. */
static void end_of_ram(void)
{
    u16 *last = (u16 *)(RAM_BASE + RAM_SIZE - 2);
    *last = 0x0001; /* c.nop, then nothing */
    fence_i();
    TRY("jalr %0", OUT(), IN("r"(last)));
    CHECK_EQ(self()->t.cause, C_FETCH_ACCESS, "running off the end of RAM cause");
    CHECK_EQ(self()->t.epc, (u64)last + 2, "running off the end of RAM epc");
    CHECK_EQ(self()->t.tval, (u64)last + 2, "running off the end of RAM tval");
    *last = 0x0013; /* lower half of a 32-bit instruction */
    fence_i();
    TRY("jalr %0", OUT(), IN("r"(last)));
    CHECK_EQ(self()->t.cause, C_FETCH_ACCESS, "half an instruction cause");
    CHECK_EQ(self()->t.epc, (u64)last, "half an instruction epc");
    /* "xtval contains the virtual address of the portion of the instruction that faulted" */
    CHECK_EQ(self()->t.tval, (u64)last + 2, "half an instruction tval");
    /* With C no jump is misaligned: bit 0 of jalr's target is ignored, bit 1 is allowed. */
    static const u32 ret[] __attribute__((aligned(4))) = {0x80820000, 0x80828082};
    TRY("jalr 1(%0)", OUT(), IN("r"((u64)ret + 2)));
    check_no_trap("jalr to a half-word address");
    /* Devices hold no instructions. */
    TRY("jalr %0", OUT(), IN("r"(CLINT_BASE)));
    CHECK(self()->t.cause == C_FETCH_ACCESS || self()->t.cause == C_ILLEGAL, "fetch from a device");
}

/* Second half mapped to where there is no memory: access fault at the second half's address. */
static void mapped_to_nothing(void)
{
    u64 va = test_va(3), at = va + PAGE - 2;
    struct space s;
    u16 *page = page_alloc();
    page[PAGE / 2 - 1] = (u16)INSN_ECALL;
    fence_i();
    space_init_stubs(&s, 3, 0);
    space_map(&s, va, (u64)page, 0, PTE_V | PTE_X | PTE_A);
    space_map(&s, va + PAGE, 0x40000000000ul, 0, PTE_V | PTE_X | PTE_A);
    space_use(&s);
    struct result r = access(MODE_S, OP_FETCH, at, 0);
    CHECK_EQ(r.cause, C_FETCH_ACCESS, "second half mapped to nothing cause");
    CHECK_EQ(r.tval, va + PAGE, "second half mapped to nothing tval");
    CHECK_EQ(r.epc, at, "second half mapped to nothing epc");
    r = access(MODE_S, OP_FETCH, va + PAGE, 0);
    CHECK_EQ(r.cause, C_FETCH_ACCESS, "mapped to nothing cause");
    CHECK_EQ(r.tval, va + PAGE, "mapped to nothing tval");
    csr_write(satp, 0);
    sfence_all();
}

void guest_main(void)
{
    end_of_ram();
    mapped_to_nothing();
}
