/*
 * The runtime tests itself: traps are recorded exactly, modes are entered and left, and a console
 * and test device exist.  Everything else in the suite relies on this.
 */
#include "rt.h"

const char guest_name[] = "smoke";

static u64 add_in_mode(u64 a, u64 b)
{
    return a + b;
}

static u64 trap_in_mode(u64 a, u64 b)
{
    (void)b;
    u64 v = 0x5a5a;
    TRY("csrr %0, mscratch", OUT("+r"(v)), IN("r"(a)));
    return v;
}

void guest_main(void)
{
    static const enum mode modes[] = {MODE_U, MODE_S, MODE_M};
    for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
        CHECK_EQ(run_mode(modes[i], add_in_mode, 40, 2), 42, "run_mode %d", modes[i]);
    }
    for (size_t i = 0; i < 2; i++) {
        CHECK_EQ(run_mode(modes[i], trap_in_mode, 40, 2), 0x5a5a, "rd kept by a trap, mode %d",
                 modes[i]);
        CHECK_EQ(self()->t.cause, C_ILLEGAL, "mscratch from mode %d", modes[i]);
        CHECK_EQ(self()->t.from, modes[i], "trap from mode %d", modes[i]);
        CHECK_EQ(self()->t.epc, self()->at, "epc from mode %d", modes[i]);
    }
    u64 v = 7;
    TRY("ebreak", OUT("+r"(v)), IN("r"(v)));
    /* Sstvala leaves open whether ebreak writes its address or zero. */
    CHECK(self()->t.tval == 0 || self()->t.tval == self()->at, "ebreak tval");
    check_trap(C_BREAKPOINT, self()->t.tval, "ebreak");
    TRY("nop", OUT("+r"(v)), IN("r"(v)));
    check_no_trap("nop");
}
