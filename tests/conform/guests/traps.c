/*
 * Exceptions: causes, xepc, xtval, xstatus stacks, delegation, vectored mode, nesting, xRET, and
 * misaligned accesses.  Privileged ISA "Machine Cause", "Trap Values", "Privilege and Global
 * Interrupt-Enable Stack"; Sstvala for what stval holds.
 */
#include "rt.h"

const char guest_name[] = "traps";

#define NOWHERE 0x40000000000ul /* no memory, no device */

static u64 op_illegal(u64 a, u64 b)
{
    (void)a, (void)b;
    TRY(".4byte 0xffffffff", OUT(), IN());
    return 0;
}
static u64 op_illegal16(u64 a, u64 b)
{
    (void)a, (void)b;
    TRY(".2byte 0x8002", OUT(), IN()); /* c.jr x0: reserved */
    return 0;
}
static u64 op_zero(u64 a, u64 b)
{
    (void)a, (void)b;
    TRY(".2byte 0", OUT(), IN());
    return 0;
}
static u64 op_csr(u64 a, u64 b)
{
    (void)a, (void)b;
    TRY("csrw mvendorid, x0", OUT(), IN());
    return 0;
}
static u64 op_ebreak(u64 a, u64 b)
{
    (void)a, (void)b;
    TRY(".option push\n.option norvc\nebreak\n.option pop", OUT(), IN());
    return 0;
}
static u64 op_c_ebreak(u64 a, u64 b)
{
    (void)a, (void)b;
    TRY("c.ebreak", OUT(), IN());
    return 0;
}
static u64 op_ecall(u64 a, u64 b)
{
    (void)a, (void)b;
    TRY("li a7, 0\n ecall", OUT(), IN());
    self()->at += 2; /* the ecall behind c.li */
    return 0;
}
static u64 op_load(u64 a, u64 b)
{
    u64 v = b;
    TRY("lw %0, 0(%1)", OUT("+r"(v)), IN("r"(a)));
    return v;
}
static u64 op_load_offset(u64 a, u64 b)
{
    u64 v = b;
    TRY("ld %0, -8(%1)", OUT("+r"(v)), IN("r"(a + 8)));
    return v;
}
static u64 op_store(u64 a, u64 b)
{
    TRY("sb %0, 0(%1)", OUT(), IN("r"(b), "r"(a)));
    return b;
}
static u64 op_amo(u64 a, u64 b)
{
    TRY("amoadd.w %0, %0, (%1)", OUT("+r"(b)), IN("r"(a)));
    return b;
}
static u64 op_lr(u64 a, u64 b)
{
    u64 v = b;
    TRY("lr.w %0, (%1)", OUT("+r"(v)), IN("r"(a)));
    return v;
}
static u64 op_jump(u64 a, u64 b)
{
    (void)b;
    TRY("jalr %0", OUT(), IN("r"(a)));
    self()->at = a; /* the fetch faults, not the jump */
    return b;
}

enum { TV_ZERO, TV_CODE, TV_ADDR, TV_BREAK };

static const struct {
    const char *name;
    u64 (*fn)(u64, u64);
    u64 cause;
    int tval;
    u64 code;
} ops[] = {
    {"illegal", op_illegal, C_ILLEGAL, TV_CODE, 0xffffffff},
    {"illegal 16-bit", op_illegal16, C_ILLEGAL, TV_CODE, 0x8002},
    {"all zeros", op_zero, C_ILLEGAL, TV_CODE, 0},
    {"read-only csr", op_csr, C_ILLEGAL, TV_CODE, 0xf1101073},
    {"ebreak", op_ebreak, C_BREAKPOINT, TV_BREAK, 0},
    {"c.ebreak", op_c_ebreak, C_BREAKPOINT, TV_BREAK, 0},
    {"ecall", op_ecall, 0, TV_ZERO, 0},
    {"load", op_load, C_LOAD_ACCESS, TV_ADDR, 0},
    {"load with offset", op_load_offset, C_LOAD_ACCESS, TV_ADDR, 0},
    {"store", op_store, C_STORE_ACCESS, TV_ADDR, 0},
    {"amo", op_amo, C_STORE_ACCESS, TV_ADDR, 0},
    {"lr", op_lr, C_LOAD_ACCESS, TV_ADDR, 0},
    {"fetch", op_jump, C_FETCH_ACCESS, TV_ADDR, 0},
};

static void check_op(size_t i, enum mode mode, enum mode by)
{
    const struct trap t = self()->t;
    u64 cause = ops[i].cause;
    if (cause == 0) {
        cause = mode == MODE_M ? C_ECALL_M : mode == MODE_S ? C_ECALL_S : C_ECALL_U;
    }
    CHECK_EQ(t.cause, cause, "%s mode %d by %d cause", ops[i].name, mode, by);
    CHECK_EQ(t.epc, self()->at, "%s mode %d by %d epc", ops[i].name, mode, by);
    CHECK_EQ(t.by, by, "%s mode %d handled by", ops[i].name, mode);
    CHECK_EQ(t.from, mode, "%s mode %d by %d xPP", ops[i].name, mode, by);
    CHECK_EQ(t.count, 1, "%s mode %d by %d count", ops[i].name, mode, by);
    CHECK_EQ(t.status & (by == MODE_M ? MSTATUS_MIE : MSTATUS_SIE), 0, "%s mode %d by %d xIE",
             ops[i].name, mode, by);
    if (ops[i].tval == TV_BREAK) {
        CHECK(t.tval == 0 || t.tval == t.epc, "%s mode %d by %d tval", ops[i].name, mode, by);
    } else {
        CHECK_EQ(t.tval, ops[i].tval == TV_ADDR ? NOWHERE : ops[i].code, "%s mode %d by %d tval",
                 ops[i].name, mode, by);
    }
}

/* Each exception from each mode, undelegated and delegated; never delegated out of M-mode. */
static void causes(void)
{
    static const enum mode modes[] = {MODE_U, MODE_S, MODE_M};
    s_trap_install();
    for (size_t m = 0; m < ARRAY_SIZE(modes); m++) {
        for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
            for (int delegate = 0; delegate < 2; delegate++) {
                /* ecall from S stays with M: it is how run_mode returns. */
                csr_write(medeleg, delegate ? ~BIT(C_ECALL_S) : 0);
                if (delegate && modes[m] == MODE_U) {
                    csr_clear(medeleg, BIT(C_ECALL_U));
                }
                enum mode by = delegate && modes[m] != MODE_M ? MODE_S : MODE_M;
                if (ops[i].cause == 0) {
                    by = MODE_M;
                }
                u64 r = modes[m] == MODE_M ? ops[i].fn(NOWHERE, 0x5a)
                                           : run_mode(modes[m], ops[i].fn, NOWHERE, 0x5a);
                if (ops[i].fn == op_load || ops[i].fn == op_amo || ops[i].fn == op_lr) {
                    CHECK_EQ(r, 0x5a, "%s mode %d rd unchanged", ops[i].name, modes[m]);
                }
                check_op(i, modes[m], by);
            }
        }
    }
    csr_write(medeleg, 0);
}

/* Delegating one cause does not delegate its neighbours. */
static void single_delegation(void)
{
    for (size_t d = 0; d < ARRAY_SIZE(ops); d++) {
        for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
            if (ops[d].cause == 0) {
                continue;
            }
            csr_write(medeleg, BIT(ops[d].cause));
            run_mode(MODE_U, ops[i].fn, NOWHERE, 0);
            check_op(i, MODE_U, ops[i].cause == ops[d].cause ? MODE_S : MODE_M);
        }
    }
    csr_write(medeleg, 0);
}

/* ecall from U and S delegated: the handler must be S-mode's.  s_trap_c cannot leave run_mode, so
 * enter a stub whose S handler is M's by way of a second, undelegated trap. */
void deleg_stub(void);
void deleg_handler(void);
__asm__(".text\n.balign 4\n"
        "deleg_stub: ecall\n"
        ".balign 4\n"
        "deleg_handler: csrr a0, scause\n csrr a1, sepc\n csrr a2, stval\n csrr a3, sstatus\n"
        ".2byte 0x9002\n"); /* breakpoint: undelegated, ends enter() */

static void delegated_ecall(void)
{
    static const enum mode modes[] = {MODE_U, MODE_S};
    for (size_t i = 0; i < 2; i++) {
        u64 regs[32] = {0};
        csr_write(medeleg, BIT(C_ECALL_U) | BIT(C_ECALL_S));
        csr_write(stvec, (u64)deleg_handler);
        csr_clear(mstatus, MSTATUS_SPP | MSTATUS_SPIE);
        csr_set(mstatus, MSTATUS_SIE | (modes[i] == MODE_U ? MSTATUS_SPP : 0));
        self()->leave_on_trap = 1;
        trap_clear();
        enter(modes[i], (u64)deleg_stub, regs);
        const u64 *x = self()->exit_regs;
        CHECK_EQ(x[10], modes[i] == MODE_U ? C_ECALL_U : C_ECALL_S, "delegated ecall scause %d",
                 modes[i]);
        CHECK_EQ(x[11], (u64)deleg_stub, "delegated ecall sepc %d", modes[i]);
        CHECK_EQ(x[12], 0, "delegated ecall stval %d", modes[i]);
        CHECK_EQ(x[13] & (MSTATUS_SIE | MSTATUS_SPIE | MSTATUS_SPP),
                 MSTATUS_SPIE | (modes[i] == MODE_S ? MSTATUS_SPP : 0),
                 "delegated ecall sstatus %d", modes[i]);
        CHECK_EQ(self()->t.from, MODE_S, "delegated ecall handler ran in S");
    }
    csr_write(medeleg, 0);
    csr_clear(mstatus, MSTATUS_SIE);
    s_trap_install();
}

/* In M-mode, the status stack by hand: mstatus before, a trap, mstatus in the handler, mret. */
void raw_vector(void);
void vectored_table(void);
__asm__(".text\n.balign 256\n"
        /* t0: mstatus as found, then as left by mret; t1: which vector slot was taken */
        "vectored_table:\n.option push\n.option norvc\n"
        "j vec0\n j vec1\n j vec2\n j vec3\n j vec4\n j vec5\n j vec6\n j vec7\n j vec8\n j vec9\n"
        "j vec10\n j vec11\n.option pop\n"
        "vec0: li t1, 0\n j raw_vector\n vec1: li t1, 1\n j raw_vector\n"
        "vec2: li t1, 2\n j raw_vector\n vec3: li t1, 3\n j raw_vector\n"
        "vec4: li t1, 4\n j raw_vector\n vec5: li t1, 5\n j raw_vector\n"
        "vec6: li t1, 6\n j raw_vector\n vec7: li t1, 7\n j raw_vector\n"
        "vec8: li t1, 8\n j raw_vector\n vec9: li t1, 9\n j raw_vector\n"
        "vec10: li t1, 10\n j raw_vector\n vec11: li t1, 11\n j raw_vector\n"
        ".balign 4\n"
        "raw_vector: csrr t0, mstatus\n csrr t2, mcause\n csrw mie, x0\n csrw mepc, t3\n mret\n");

static void status_stack(void)
{
    u64 vec = csr_read(mtvec);
    for (u64 mie = 0; mie < 2; mie++) {
        u64 in, out, cause;
        csr_write(mie, 0);
        __asm__ volatile("csrw mtvec, %6\n la t3, 1f\n csrc mstatus, %3\n csrs mstatus, %4\n"
                         "ecall\n1: csrr %1, mstatus\n mv %0, t0\n mv %2, t2\n csrc mstatus, 8\n"
                         "csrw mtvec, %5"
                         : "=&r"(in), "=&r"(out), "=&r"(cause)
                         : "r"(MSTATUS_MIE | MSTATUS_MPIE | MSTATUS_MPP),
                           "r"(mie ? MSTATUS_MIE : MSTATUS_MPIE), "r"(vec), "r"(raw_vector)
                         : "t0", "t1", "t2", "t3", "memory");
        CHECK_EQ(cause, C_ECALL_M, "ecall from M");
        CHECK_EQ(in >> 3 & 1, 0, "trap clears MIE (%lu)", mie);
        CHECK_EQ(in >> 7 & 1, mie, "trap saves MIE in MPIE (%lu)", mie);
        CHECK_EQ(in >> 11 & 3, MODE_M, "trap saves the mode in MPP (%lu)", mie);
        CHECK_EQ(out >> 3 & 1, mie, "mret restores MIE (%lu)", mie);
        CHECK_EQ(out >> 7 & 1, 1, "mret sets MPIE (%lu)", mie);
        CHECK_EQ(out >> 11 & 3, MODE_U, "mret sets MPP to the least mode (%lu)", mie);
    }
}

/* "mret/sret: if the new mode is less privileged than M, also sets MPRV=0." */
static void mprv_cleared(void)
{
    static const enum mode modes[] = {MODE_U, MODE_S};
    for (size_t i = 0; i < 2; i++) {
        u64 regs[32] = {0}, out;
        self()->leave_on_trap = 1;
        trap_clear();
        /* enter() sets MPP; MPRV then only matters after mret, where it must be gone. */
        csr_set(mstatus, MSTATUS_MPP);
        csr_set(mstatus, MSTATUS_MPRV);
        enter(modes[i], (u64)deleg_stub, regs);
        out = self()->t.status;
        CHECK_EQ(out >> 17 & 1, 0, "mret to mode %d clears MPRV", modes[i]);
    }
    u64 v;
    /* mret to M keeps it. */
    __asm__ volatile("la %0, 1f\n csrw mepc, %0\n csrs mstatus, %1\n csrs mstatus, %2\n mret\n"
                     "1: csrs mstatus, %1\n csrr %0, mstatus\n csrc mstatus, %2"
                     : "=&r"(v)
                     : "r"(MSTATUS_MPP), "r"(MSTATUS_MPRV)
                     : "memory");
    CHECK_EQ(v >> 17 & 1, 1, "mret to M keeps MPRV");
}

/* sret from M-mode and from S-mode: SPP, SPIE. */
static void sret_stack(void)
{
    static const enum mode modes[] = {MODE_U, MODE_S};
    for (size_t i = 0; i < 2; i++) {
        for (u64 spie = 0; spie < 2; spie++) {
            u64 regs[32] = {0};
            regs[5] = (u64)deleg_stub;
            csr_clear(mstatus, MSTATUS_SPP | MSTATUS_SPIE | MSTATUS_SIE);
            csr_set(mstatus, (modes[i] == MODE_S ? MSTATUS_SPP : 0) | (spie ? MSTATUS_SPIE : 0));
            csr_write(sepc, (u64)deleg_stub);
            csr_write(mie, 0);
            self()->leave_on_trap = 1;
            trap_clear();
            static const u32 sret = 0x10200073;
            fence_i();
            enter(MODE_S, (u64)&sret, regs);
            CHECK_EQ(self()->t.cause, modes[i] == MODE_U ? C_ECALL_U : C_ECALL_S, "sret to mode %d",
                     modes[i]);
            CHECK_EQ(self()->t.epc, (u64)deleg_stub, "sret goes to sepc");
            CHECK_EQ(self()->t.status >> 1 & 1, spie, "sret restores SIE");
            CHECK_EQ(self()->t.status >> 5 & 1, 1, "sret sets SPIE");
            CHECK_EQ(self()->t.status >> 8 & 1, 0, "sret sets SPP to U");
        }
    }
    csr_clear(mstatus, MSTATUS_SIE);
}

/* Vectored mode: exceptions to BASE, interrupts to BASE + 4 * cause. */
static void vectored(void)
{
    u64 vec = csr_read(mtvec), slot, cause;
    csr_write(mie, 0);
    __asm__ volatile("csrw mtvec, %3\n la t3, 1f\n ecall\n1: mv %0, t1\n mv %1, t2\n csrw mtvec, %2"
                     : "=&r"(slot), "=&r"(cause)
                     : "r"(vec), "r"((u64)vectored_table | 1)
                     : "t0", "t1", "t2", "t3", "memory");
    CHECK_EQ(slot, 0, "vectored exception slot");
    CHECK_EQ(cause, C_ECALL_M, "vectored exception cause");
    static const int irqs[] = {IRQ_SSI, IRQ_STI, IRQ_SEI};
    for (size_t i = 0; i < ARRAY_SIZE(irqs); i++) {
        csr_clear(CSR_MENVCFG, MENVCFG_STCE);
        csr_write(mip, BIT(irqs[i]));
        __asm__ volatile(
            "csrw mtvec, %3\n la t3, 1f\n li t1, 99\n csrw mie, %4\n csrsi mstatus, 8\n"
            "nop\n1: csrci mstatus, 8\n mv %0, t1\n mv %1, t2\n csrw mtvec, %2"
            : "=&r"(slot), "=&r"(cause)
            : "r"(vec), "r"((u64)vectored_table | 1), "r"(BIT(irqs[i]))
            : "t0", "t1", "t2", "t3", "memory");
        CHECK_EQ(slot, (u64)irqs[i], "vectored interrupt %d slot", irqs[i]);
        CHECK_EQ(cause, IRQ(irqs[i]), "vectored interrupt %d cause", irqs[i]);
        csr_write(mip, 0);
    }
    csr_write(mie, 0);
}

/* Loads and stores of RAM at any alignment just work (Zicclsm), from every mode. */
static u64 misaligned_in(u64 p, u64 unused)
{
    (void)unused;
    u64 v;
    TRY("sd %2, 0(%1)\n ld %0, 0(%1)", OUT("=&r"(v)), IN("r"(p), "r"(0x1122334455667788ul)));
    return v;
}

static void misaligned(void)
{
    static u8 pages[8192] __attribute__((aligned(4096)));
    static const enum mode modes[] = {MODE_U, MODE_S, MODE_M};
    for (size_t m = 0; m < ARRAY_SIZE(modes); m++) {
        for (u64 o = 4080; o < 4104; o++) {
            u64 p = (u64)pages + o;
            u64 v =
                modes[m] == MODE_M ? misaligned_in(p, 0) : run_mode(modes[m], misaligned_in, p, 0);
            CHECK_EQ(self()->t.cause, NO_TRAP, "misaligned at %lu mode %d", o, modes[m]);
            CHECK_EQ(v, 0x1122334455667788ul, "misaligned at %lu mode %d", o, modes[m]);
        }
    }
    /* The end of RAM: the first byte that is not there is what faults. */
    u64 end = RAM_BASE + RAM_SIZE;
    for (u64 o = 1; o < 8; o++) {
        u64 v = 0x77;
        TRY("ld %0, 0(%1)", OUT("+r"(v)), IN("r"(end - o)));
        CHECK_EQ(self()->t.cause, C_LOAD_ACCESS, "load over the end of RAM by %lu", 8 - o);
        CHECK_EQ(v, 0x77, "load over the end of RAM: rd");
        *(volatile u64 *)(end - 8) = 0x4242424242424242ul;
        TRY("sd %0, 0(%1)", OUT(), IN("r"(0ul), "r"(end - o)));
        CHECK_EQ(self()->t.cause, C_STORE_ACCESS, "store over the end of RAM by %lu", 8 - o);
    }
    u64 v;
    TRY("ld %0, 0(%1)", OUT("=r"(v)), IN("r"(end - 8)));
    check_no_trap("last doubleword of RAM");
    TRY("ld %0, 0(%1)", OUT("=r"(v)), IN("r"(end)));
    check_trap(C_LOAD_ACCESS, end, "first doubleword after RAM");
    TRY("sb x0, 0(%0)", OUT(), IN("r"(end)));
    check_trap(C_STORE_ACCESS, end, "first byte after RAM");
    TRY("ld %0, 0(%1)", OUT("=r"(v)), IN("r"(~7ul)));
    check_trap(C_LOAD_ACCESS, ~7ul, "last doubleword of the address space");
    TRY("lw %0, 0(x0)", OUT("=r"(v)), IN());
    CHECK(self()->t.cause == C_LOAD_ACCESS || self()->t.cause == NO_TRAP, "address zero");
}

/* A trap inside an S-mode handler goes to M when undelegated, and leaves S's registers alone. */
static u64 s_nested(u64 a, u64 b)
{
    (void)a, (void)b;
    csr_write(sepc, 0x1234560);
    csr_write(scause, 5);
    csr_write(stval, 0x789);
    TRY(".4byte 0xffffffff", OUT(), IN());
    u64 ok = csr_read(sepc) == 0x1234560 && csr_read(scause) == 5 && csr_read(stval) == 0x789;
    return ok;
}

void guest_main(void)
{
    causes();
    single_delegation();
    delegated_ecall();
    status_stack();
    mprv_cleared();
    sret_stack();
    vectored();
    misaligned();
    CHECK_EQ(run_mode(MODE_S, s_nested, 0, 0), 1, "a trap to M leaves sepc, scause, stval");
}
