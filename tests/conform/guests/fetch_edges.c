/*
 * Instruction fetch at the edges of memory.  Privileged ISA "Machine Trap Value": for a fetch that
 * faults in the middle of an instruction mtval holds the address of the part that faulted.
 */
#include "rt.h"

const char guest_name[] = "fetch_edges";

/* An instruction that straddles the end of RAM, and jumps to odd places. */
void guest_main(void)
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
