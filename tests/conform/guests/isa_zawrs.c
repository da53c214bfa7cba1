/*
 * Zawrs and Zihintpause.  wrs.sto stalls a short time at most; wrs.nto may stall until the
 * reservation set is written or an interrupt is pending, "even if the interrupt is disabled"; under
 * mstatus.TW wrs.nto below M-mode must not stall for good: it completes or traps as illegal.
 */
#include "rt.h"

const char guest_name[] = "isa_zawrs";

static u64 cell __attribute__((aligned(64)));

static u64 sto(u64 n, u64 b)
{
    (void)b;
    u64 v;
    trap_clear();
    for (u64 i = 0; i < n; i++) {
        __asm__ volatile("lr.d %0, (%1)\n wrs.sto" : "=r"(v) : "r"(&cell) : "memory");
    }
    return n;
}

static u64 nto(u64 a, u64 b)
{
    (void)a, (void)b;
    u64 v;
    TRY("wrs.nto", OUT("=r"(v)), IN());
    return 0;
}

static u64 pauses(u64 n, u64 b)
{
    (void)b;
    trap_clear();
    for (u64 i = 0; i < n; i++) {
        __asm__ volatile(".4byte 0x0100000f");
    }
    return n;
}

void guest_main(void)
{
    static const enum mode modes[] = {MODE_U, MODE_S, MODE_M};
    for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
        u64 t0 = *MTIME;
        CHECK_EQ(run_mode(modes[i], sto, 100, 0), 100, "wrs.sto in mode %d", modes[i]);
        CHECK_EQ(run_mode(modes[i], pauses, 100, 0), 100, "pause in mode %d", modes[i]);
        CHECK(*MTIME - t0 < 100 * TIMEBASE, "bounded stalls in mode %d", modes[i]);
    }
    /* Without a reservation there is nothing to wait for. */
    u64 fail;
    __asm__ volatile("sc.d %0, x0, (%1)" : "=&r"(fail) : "r"(&cell) : "memory");
    nto(0, 0);
    check_no_trap("wrs.nto without a reservation");
    /* A pending interrupt ends the stall although it is disabled globally. */
    csr_write(mie, BIT(IRQ_MTI));
    *MTIMECMP(0) = *MTIME + TIMEBASE / 50;
    u64 v;
    do {
        __asm__ volatile("lr.d %0, (%1)\n wrs.nto" : "=r"(v) : "r"(&cell) : "memory");
    } while (!(csr_read(mip) & BIT(IRQ_MTI)));
    CHECK(csr_read(mip) & BIT(IRQ_MTI), "wrs.nto ends with a pending interrupt");
    __asm__ volatile("lr.d %0, (%1)\n wrs.nto" : "=r"(v) : "r"(&cell) : "memory");
    /* TW=1, interrupt neither pending nor enabled. */
    csr_write(mie, 0);
    *MTIMECMP(0) = ~0ul;
    csr_set(mstatus, MSTATUS_TW);
    for (size_t i = 0; i < 2; i++) {
        run_mode(modes[i], nto, 0, 0);
        u64 cause = self()->t.cause;
        CHECK(cause == NO_TRAP || (cause == C_ILLEGAL && self()->t.tval == 0x00d00073),
              "wrs.nto with TW in mode %d", modes[i]);
        CHECK_EQ(run_mode(modes[i], sto, 3, 0), 3, "wrs.sto ignores TW in mode %d", modes[i]);
    }
    csr_clear(mstatus, MSTATUS_TW);
    nto(0, 0);
    check_no_trap("wrs.nto from M");
}
