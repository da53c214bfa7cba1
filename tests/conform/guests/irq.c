/*
 * Interrupts of one hart: enables, priorities, delegation, software and timer sources, Sstc, wfi.
 * Privileged ISA "Machine Interrupt (mip and mie) Registers", "Wait for Interrupt"; Sstc; ACLINT.
 */
#include "rt.h"

const char guest_name[] = "irq";

static u64 taken[16], n_taken, seen_from[16];

/* Mask the interrupt that was taken, so that the next one in priority order comes. */
static void mask_it(u64 code)
{
    taken[n_taken & 15] = code;
    seen_from[n_taken++ & 15] = self()->t.from;
    csr_clear(mie, BIT(code));
}

static void mask_it_s(u64 code)
{
    taken[n_taken & 15] = code;
    seen_from[n_taken++ & 15] = self()->t.from;
    csr_clear(sie, BIT(code));
}

static u64 window(u64 a, u64 b)
{
    (void)a, (void)b;
    __asm__ volatile("nop\n nop\n nop\n nop");
    return 0;
}

/* S-mode: open the window with SIE set. */
static u64 window_sie(u64 a, u64 b)
{
    (void)a, (void)b;
    csr_set(sstatus, MSTATUS_SIE);
    __asm__ volatile("nop\n nop\n nop\n nop");
    csr_clear(sstatus, MSTATUS_SIE);
    return 0;
}

static void quiet(void)
{
    csr_write(mie, 0);
    *MSIP(0) = 0;
    *MTIMECMP(0) = ~0ul;
    csr_clear(CSR_MENVCFG, MENVCFG_STCE);
    csr_write(mip, 0);
    csr_write(mideleg, 0);
    csr_clear(mstatus, MSTATUS_MIE | MSTATUS_SIE);
    n_taken = 0;
}

/* Bounded wait until mip & mask == want: sources outside the hart need not be instantaneous. */
static u64 wait_mip(u64 mask, u64 want)
{
    u64 v = 0;
    for (u64 end = *MTIME + TIMEBASE * 2; *MTIME < end;) {
        v = csr_read(mip) & mask;
        if (v == want) {
            break;
        }
    }
    return v;
}

static void sources(void)
{
    quiet();
    CHECK_EQ(csr_read(mip), 0, "mip quiet");
    *MSIP(0) = 1;
    CHECK_EQ(wait_mip(BIT(IRQ_MSI), BIT(IRQ_MSI)), BIT(IRQ_MSI), "msip sets MSIP");
    CHECK_EQ(*MSIP(0), 1, "msip reads back");
    csr_write(mip, 0);
    CHECK_EQ(csr_read(mip) & BIT(IRQ_MSI), BIT(IRQ_MSI), "mip.MSIP is read-only");
    *MSIP(0) = 0xfffffffe;
    CHECK_EQ(wait_mip(BIT(IRQ_MSI), 0), 0, "msip clears MSIP");
    CHECK_EQ(*MSIP(0), 0, "msip has one bit");
    u64 now = *MTIME;
    *MTIMECMP(0) = now;
    CHECK_EQ(wait_mip(BIT(IRQ_MTI), BIT(IRQ_MTI)), BIT(IRQ_MTI), "mtime >= mtimecmp sets MTIP");
    csr_write(mip, 0);
    CHECK_EQ(csr_read(mip) & BIT(IRQ_MTI), BIT(IRQ_MTI), "mip.MTIP is read-only");
    *MTIMECMP(0) = ~0ul;
    CHECK_EQ(wait_mip(BIT(IRQ_MTI), 0), 0, "mtimecmp in the future clears MTIP");
    CHECK_EQ(*MTIMECMP(0), ~0ul, "mtimecmp reads back");
    /* 32-bit halves */
    volatile u32 *half = (volatile u32 *)MTIMECMP(0);
    half[0] = 0x12345678;
    half[1] = 0x7fffffff;
    CHECK_EQ(*MTIMECMP(0), 0x7fffffff12345678ul, "mtimecmp by halves");
    u64 t0 = *MTIME, t1;
    u32 hi = ((volatile u32 *)MTIME)[1], lo = ((volatile u32 *)MTIME)[0];
    t1 = *MTIME;
    CHECK(((u64)hi << 32 | lo) >= t0 && ((u64)hi << 32 | lo) <= t1, "mtime by halves");
    now = *MTIME;
    *MTIMECMP(0) = now + TIMEBASE / 100;
    CHECK_EQ(csr_read(mip) & BIT(IRQ_MTI) && *MTIME < now + TIMEBASE / 100, 0, "MTIP too early");
    CHECK_EQ(wait_mip(BIT(IRQ_MTI), BIT(IRQ_MTI)), BIT(IRQ_MTI), "MTIP after 10 ms");
    CHECK(*MTIME >= now + TIMEBASE / 100, "MTIP not before its time");
    quiet();
}

/* "MEI, MSI, MTI, SEI, SSI, STI" in decreasing priority; all pending at once, each masked in turn.
 */
static void priorities(void)
{
    quiet();
    *MSIP(0) = 1;
    *MTIMECMP(0) = 0;
    csr_write(mip, BIT(IRQ_SSI) | BIT(IRQ_STI) | BIT(IRQ_SEI));
    u64 want = BIT(IRQ_MSI) | BIT(IRQ_MTI) | BIT(IRQ_SSI) | BIT(IRQ_STI) | BIT(IRQ_SEI);
    CHECK_EQ(wait_mip(want, want), want, "five pending");
    self()->on_irq = mask_it;
    csr_write(mie, want);
    csr_set(mstatus, MSTATUS_MIE);
    window(0, 0);
    csr_clear(mstatus, MSTATUS_MIE);
    static const u64 order[] = {IRQ_MSI, IRQ_MTI, IRQ_SEI, IRQ_SSI, IRQ_STI};
    CHECK_EQ(n_taken, 5, "all five taken");
    for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
        CHECK_EQ(taken[i], order[i], "priority %lu", i);
    }
    /* Delegated: S-mode takes SEI, SSI, STI in this order, MSI and MTI still go to M first. */
    n_taken = 0;
    csr_write(mideleg, 0x222);
    s_trap_install();
    self()->on_sirq = mask_it_s;
    csr_write(mie, want);
    csr_clear(mstatus, MSTATUS_MIE);
    run_mode(MODE_S, window_sie, 0, 0);
    CHECK_EQ(n_taken, 5, "all five taken, three delegated");
    for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
        CHECK_EQ(taken[i], order[i], "priority with delegation %lu", i);
        CHECK_EQ(seen_from[i], MODE_S, "interrupted mode %lu", i);
    }
    quiet();
}

/* Which (mode, xIE) combinations let an M or an S interrupt through. */
static void enables(void)
{
    static const enum mode modes[] = {MODE_U, MODE_S, MODE_M};
    static const u64 codes[] = {IRQ_MSI, IRQ_SSI, IRQ_STI, IRQ_SEI};
    s_trap_install();
    self()->on_irq = mask_it;
    self()->on_sirq = mask_it_s;
    for (size_t c = 0; c < ARRAY_SIZE(codes); c++) {
        for (size_t m = 0; m < ARRAY_SIZE(modes); m++) {
            for (int ie = 0; ie < 16; ie++) {
                bool xmie = ie & 1, xsie = ie & 2, deleg = ie & 4, enabled = ie & 8;
                if (deleg && codes[c] == IRQ_MSI) {
                    continue;
                }
                quiet();
                csr_write(mideleg, deleg ? BIT(codes[c]) : 0);
                if (codes[c] == IRQ_MSI) {
                    *MSIP(0) = 1;
                } else {
                    csr_write(mip, BIT(codes[c]));
                }
                wait_mip(BIT(codes[c]), BIT(codes[c]));
                csr_write(mie, enabled ? BIT(codes[c]) : ~BIT(codes[c]) & 0x222);
                csr_set(mstatus, xsie ? MSTATUS_SIE : 0);
                bool want;
                if (deleg) {
                    want = modes[m] == MODE_U || (modes[m] == MODE_S && xsie);
                } else {
                    want = modes[m] != MODE_M || xmie;
                }
                if (modes[m] == MODE_M) {
                    csr_set(mstatus, xmie ? MSTATUS_MIE : 0);
                    window(0, 0);
                    csr_clear(mstatus, MSTATUS_MIE);
                } else {
                    csr_clear(mstatus, MSTATUS_MIE);
                    run_mode(modes[m], window, 0, 0);
                }
                CHECK_EQ(n_taken, want && enabled, "irq %lu mode %d MIE %d SIE %d deleg %d en %d",
                         codes[c], modes[m], xmie, xsie, deleg, enabled);
                if (n_taken) {
                    CHECK_EQ(self()->t.by, deleg ? MODE_S : MODE_M, "irq %lu handled by", codes[c]);
                    CHECK_EQ(self()->t.cause, IRQ(codes[c]), "irq %lu cause", codes[c]);
                    CHECK_EQ(self()->t.from, modes[m], "irq %lu from", codes[c]);
                    CHECK_EQ(self()->t.tval, 0, "irq %lu tval", codes[c]);
                }
            }
        }
    }
    quiet();
}

/* Pending and enabled: taken before the next instruction after the enabling one ("evaluated when
 * ... explicit writes to CSRs on which these conditions depend", xRET too). */
static void immediate(void)
{
    quiet();
    self()->on_irq = mask_it;
    csr_write(mip, BIT(IRQ_SSI));
    csr_write(mie, BIT(IRQ_SSI));
    u64 v = 0, at;
    __asm__ volatile("la %1, 1f\n csrsi mstatus, 8\n1: li %0, 1\n csrci mstatus, 8"
                     : "+&r"(v), "=&r"(at)::"memory");
    CHECK_EQ(n_taken, 1, "enabling MIE takes the interrupt");
    CHECK_EQ(self()->t.epc, at, "mepc is the next instruction");
    CHECK_EQ(v, 1, "the next instruction ran after the return");
    quiet();
    csr_set(mstatus, MSTATUS_MIE);
    csr_write(mie, BIT(IRQ_SSI));
    __asm__ volatile("la %1, 1f\n csrsi mip, 2\n1: li %0, 2\n" : "+&r"(v), "=&r"(at)::"memory");
    CHECK_EQ(n_taken, 1, "setting SSIP takes the interrupt");
    CHECK_EQ(self()->t.epc, at, "mepc after setting SSIP");
    quiet();
}

static void wait_timer(u64 code)
{
    taken[n_taken++ & 15] = code;
    csr_clear(mie, BIT(code));
    if (code == IRQ_MTI) {
        *MTIMECMP(0) = ~0ul;
    } else {
        csr_write(CSR_STIMECMP, ~0ul);
    }
}

static void rearm(u64 code)
{
    taken[n_taken++ & 15] = code;
    *MTIMECMP(0) = *MTIME + TIMEBASE / 50;
}

/* wfi resumes on a pending and locally enabled interrupt whatever the global enable says. */
static void wfi(void)
{
    quiet();
    self()->on_irq = wait_timer;
    u64 now = *MTIME;
    *MTIMECMP(0) = now + TIMEBASE / 50;
    csr_write(mie, BIT(IRQ_MTI));
    do {
        __asm__ volatile("wfi");
    } while (!(csr_read(mip) & BIT(IRQ_MTI)));
    CHECK_EQ(n_taken, 0, "wfi with MIE=0 takes no trap");
    CHECK(*MTIME >= now + TIMEBASE / 50, "wfi woke for the timer");
    /* Already pending: returns at once. */
    __asm__ volatile("wfi\n wfi");
    /* With MIE=1 wfi takes the trap.  The handler arms the next tick, so that one that comes
     * between the test and wfi does not put us to sleep for good. */
    self()->on_irq = rearm;
    csr_set(mstatus, MSTATUS_MIE);
    while (*(volatile u64 *)&n_taken < 2) {
        __asm__ volatile("wfi");
    }
    csr_clear(mstatus, MSTATUS_MIE);
    CHECK_EQ(taken[0], IRQ_MTI, "wfi with MIE=1 takes the timer");
    /* Not enabled in mie, but pending: must not matter; another source must still wake. */
    quiet();
    csr_write(mip, BIT(IRQ_SSI));
    csr_write(mie, BIT(IRQ_MTI));
    *MTIMECMP(0) = *MTIME + TIMEBASE / 50;
    do {
        __asm__ volatile("wfi");
    } while (!(csr_read(mip) & BIT(IRQ_MTI)));
    CHECK(csr_read(mip) & BIT(IRQ_MTI), "wfi with another interrupt pending but disabled");
    quiet();
}

/* wfi in S-mode wakes for a delegated interrupt with SIE=0 too. */
static u64 s_wfi(u64 deadline, u64 unused)
{
    (void)unused;
    csr_write(0x14d, deadline);
    do {
        __asm__ volatile("wfi");
    } while (!(csr_read(sip) & BIT(IRQ_STI)));
    return csr_read(time) >= deadline;
}

static void sstc(void)
{
    quiet();
    csr_write(mcounteren, ~0ul);
    csr_write(CSR_STIMECMP, 0);
    CHECK_EQ(csr_read(mip) & BIT(IRQ_STI), 0, "STCE=0: stimecmp does not drive STIP");
    csr_write(mip, BIT(IRQ_STI));
    CHECK_EQ(csr_read(mip) & BIT(IRQ_STI), BIT(IRQ_STI), "STCE=0: STIP is a plain bit");
    csr_write(mip, 0);
    csr_set(CSR_MENVCFG, MENVCFG_STCE);
    csr_write(CSR_STIMECMP, 0);
    CHECK_EQ(wait_mip(BIT(IRQ_STI), BIT(IRQ_STI)), BIT(IRQ_STI),
             "STCE=1: time >= stimecmp sets STIP");
    csr_write(mip, 0);
    CHECK_EQ(csr_read(mip) & BIT(IRQ_STI), BIT(IRQ_STI), "STCE=1: STIP is read-only in mip");
    csr_write(CSR_STIMECMP, ~0ul);
    CHECK_EQ(wait_mip(BIT(IRQ_STI), 0), 0, "STCE=1: stimecmp in the future clears STIP");
    csr_write(mip, BIT(IRQ_STI));
    CHECK_EQ(csr_read(mip) & BIT(IRQ_STI), 0, "STCE=1: STIP cannot be set by mip");
    /* M-mode interrupt from stimecmp when not delegated. */
    self()->on_irq = wait_timer;
    csr_write(mie, BIT(IRQ_STI));
    csr_write(CSR_STIMECMP, *MTIME + TIMEBASE / 100);
    csr_set(mstatus, MSTATUS_MIE);
    for (u64 end = *MTIME + TIMEBASE * 2; !*(volatile u64 *)&n_taken && *MTIME < end;) {
    }
    csr_clear(mstatus, MSTATUS_MIE);
    CHECK_EQ(n_taken, 1, "STI taken in M-mode");
    CHECK_EQ(taken[0], IRQ_STI, "STI cause");
    /* Delegated, polled with wfi in S-mode. */
    n_taken = 0;
    csr_write(mideleg, BIT(IRQ_STI));
    csr_write(mie, BIT(IRQ_STI));
    CHECK_EQ(run_mode(MODE_S, s_wfi, *MTIME + TIMEBASE / 50, 0), 1,
             "wfi in S-mode wakes with SIE=0");
    CHECK_EQ(n_taken, 0, "and takes no trap");
    csr_write(CSR_STIMECMP, ~0ul);
    quiet();
}

/* An interrupt in the middle of a tight loop without memory accesses or calls. */
static void tight_loop(void)
{
    quiet();
    self()->on_irq = wait_timer;
    *MTIMECMP(0) = *MTIME + TIMEBASE / 100;
    csr_write(mie, BIT(IRQ_MTI));
    csr_set(mstatus, MSTATUS_MIE);
    u64 n = 0;
    __asm__ volatile("1: addi %0, %0, 1\n csrr t0, mie\n andi t0, t0, 0x80\n bnez t0, 1b"
                     : "+r"(n)::"t0", "memory");
    CHECK_EQ(n_taken, 1, "timer interrupts a loop");
    csr_clear(mstatus, MSTATUS_MIE);
    quiet();
}

void guest_main(void)
{
    sources();
    priorities();
    enables();
    immediate();
    wfi();
    sstc();
    tight_loop();
}
