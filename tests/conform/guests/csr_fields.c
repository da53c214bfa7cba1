/*
 * What CSR fields hold after writes: WARL and read-only fields, views (sstatus, sie, sip), counters
 * and their enables, TVM/TW/TSR, satp modes.  Privileged ISA, the section named in each function.
 */
#include "mmu.h"

const char guest_name[] = "csr_fields";

static bool trapped(void)
{
    return self()->t.cause != NO_TRAP;
}

/* "Machine ISA (misa)" */
static void misa(void)
{
    u64 v = csr_read(misa);
    u64 want = 0;
    for (const char *p = "acdfimsu"; *p; p++) {
        want |= BIT(*p - 'a');
    }
    CHECK_EQ(v >> 62, 2, "misa MXL");
    CHECK_EQ(v & 0x3ffffff & ~BIT(1), want, "misa extensions"); /* B may be shown */
    CHECK_EQ(v << 2 >> 28, 0, "misa bits 26..61");
    csr_write(misa, ~0ul);
    CHECK_EQ(csr_read(misa) >> 62, 2, "misa MXL after a write");
    csr_write(misa, v);
    CHECK_EQ(csr_read(misa), v, "misa written back");
}

static void ids(void)
{
    CHECK_EQ(csr_read(mhartid), 0, "mhartid");
    CHECK_EQ(csr_read(mvendorid) >> 32, 0, "mvendorid is 32 bits");
    (void)csr_read(0xf15); /* mconfigptr: zero or a pointer to a structure */
    CHECK_EQ(csr_read(0xf15) & 7, 0, "mconfigptr alignment");
}

/* "Machine Status Registers": every writable field toggles, every other one stays. */
static void mstatus(void)
{
    u64 writable = MSTATUS_SIE | MSTATUS_SPIE | MSTATUS_MPIE | MSTATUS_SPP | MSTATUS_FS |
                   MSTATUS_MPRV | MSTATUS_SUM | MSTATUS_MXR | MSTATUS_TVM | MSTATUS_TW |
                   MSTATUS_TSR;
    u64 base = csr_read(mstatus) & ~(writable | MSTATUS_MPP | MSTATUS_SD | MSTATUS_MIE);
    /* MPP = M while MPRV is set, so that our own loads stay as they are */
    csr_write(mie, 0);
    csr_write(mstatus, base | MSTATUS_MPP);
    CHECK_EQ(csr_read(mstatus), base | MSTATUS_MPP, "mstatus cleared");
    u64 ones;
    __asm__ volatile("csrw mstatus, %1\n csrr %0, mstatus\n csrw mstatus, %2"
                     : "=&r"(ones)
                     : "r"(~0ul & ~MSTATUS_UBE & ~(3ul << 36)), "r"(base | MSTATUS_MPP)
                     : "memory");
    CHECK_EQ(ones & writable, writable, "mstatus ones: writable fields");
    CHECK_EQ(ones & MSTATUS_MPP, MSTATUS_MPP, "mstatus ones: MPP");
    CHECK_EQ(ones & MSTATUS_MIE, MSTATUS_MIE, "mstatus ones: MIE");
    CHECK_EQ(ones >> 63, 1, "mstatus ones: SD");
    CHECK_EQ(ones & MSTATUS_XS, 0, "mstatus ones: XS read-only 0");
    CHECK_EQ(ones & MSTATUS_VS, 0, "mstatus ones: VS read-only 0 without V");
    CHECK_EQ(ones & (1ul | 1ul << 2 | 1ul << 4), 0, "mstatus ones: WPRI bits 0, 2, 4");
    CHECK_EQ(ones >> 32 & 3, 2, "mstatus UXL stays 64");
    CHECK_EQ(ones >> 34 & 3, 2, "mstatus SXL stays 64");
    CHECK_EQ(ones << 1 >> 39 & 0x1ffffff, 0, "mstatus ones: WPRI above GVA"); /* 38..62 */
    /* MPP = 2 is no mode: the write must leave a legal one. */
    csr_write(mstatus, base | MPP(2));
    CHECK((csr_read(mstatus) >> 11 & 3) != 2, "MPP holds only implemented modes");
    for (u64 m = 0; m < 4; m++) {
        if (m != 2) {
            csr_write(mstatus, base | MPP(m));
            CHECK_EQ(csr_read(mstatus) >> 11 & 3, m, "MPP %lu", m);
        }
    }
    /* Big-endian data is not offered: MBE, SBE, UBE read-only 0. */
    csr_set(mstatus, MSTATUS_UBE);
    CHECK_EQ(csr_read(mstatus) & MSTATUS_UBE, 0, "UBE");
    csr_write(mstatus, base | MSTATUS_MPP);
    for (u64 fs = 0; fs < 4; fs++) {
        csr_clear(mstatus, MSTATUS_FS);
        csr_set(mstatus, fs << 13);
        CHECK_EQ(csr_read(mstatus) >> 13 & 3, fs, "FS %lu", fs);
        CHECK_EQ(csr_read(mstatus) >> 63, fs == 3, "SD with FS %lu", fs);
        CHECK_EQ(csr_read(sstatus) >> 63, fs == 3, "sstatus.SD with FS %lu", fs);
    }
    csr_clear(mstatus, MSTATUS_FS);
}

/* "Supervisor Status Register": a view. */
static void sstatus(void)
{
    u64 view = MSTATUS_SIE | MSTATUS_SPIE | MSTATUS_SPP | MSTATUS_FS | MSTATUS_SUM | MSTATUS_MXR;
    u64 fixed = 2ul << 32;
    csr_write(sstatus, 0);
    CHECK_EQ(csr_read(sstatus), fixed, "sstatus zero");
    csr_write(mstatus, csr_read(mstatus) | MSTATUS_TVM | MSTATUS_TW | MSTATUS_TSR | MSTATUS_MPIE |
                           MSTATUS_MPP);
    u64 m = csr_read(mstatus);
    CHECK_EQ(csr_read(sstatus), fixed, "sstatus shows no M-mode field");
    csr_write(sstatus, ~0ul & ~MSTATUS_UBE);
    CHECK_EQ(csr_read(sstatus), fixed | view | MSTATUS_SD, "sstatus ones");
    CHECK_EQ(csr_read(mstatus), m | view | MSTATUS_SD, "mstatus after sstatus ones");
    csr_write(sstatus, 0);
    CHECK_EQ(csr_read(mstatus), m, "mstatus after sstatus zero");
    csr_clear(mstatus, MSTATUS_TVM | MSTATUS_TW | MSTATUS_TSR | MSTATUS_MPIE);
}

/* "Machine Trap-Vector", "Machine Exception Program Counter", and their S forms. */
static void trap_registers(void)
{
    u64 old = csr_read(mtvec);
    csr_write(mtvec, (u64)m_trap | 1);
    CHECK_EQ(csr_read(mtvec), (u64)m_trap | 1, "mtvec vectored");
    csr_write(mtvec, (u64)m_trap | 2);
    CHECK((csr_read(mtvec) & 3) < 2, "mtvec mode 2 is reserved");
    csr_write(mtvec, (u64)m_trap | 3);
    CHECK((csr_read(mtvec) & 3) < 2, "mtvec mode 3 is reserved");
    csr_write(mtvec, old);
    csr_write(stvec, 0x80001004ul);
    CHECK_EQ(csr_read(stvec), 0x80001004ul, "stvec direct, 4-byte aligned");
    csr_write(stvec, 0x80001001ul);
    CHECK_EQ(csr_read(stvec), 0x80001001ul, "stvec vectored");
    csr_write(stvec, 0xffffffff80001002ul);
    CHECK((csr_read(stvec) & 3) < 2, "stvec mode 2 is reserved");

#define EPC(reg)                                                                                   \
    csr_write(reg, ~0ul);                                                                          \
    CHECK_EQ(csr_read(reg) & 1, 0, #reg " bit 0");                                                 \
    csr_write(reg, 0x80000002ul);                                                                  \
    CHECK_EQ(csr_read(reg), 0x80000002ul, #reg " keeps bit 1 with C");                             \
    csr_write(reg, 0xffffffc012345678ul);                                                          \
    CHECK_EQ(csr_read(reg), 0xffffffc012345678ul, #reg " keeps a high address");
    EPC(mepc)
    EPC(sepc)
#define HOLDS(reg, value)                                                                          \
    csr_write(reg, value);                                                                         \
    CHECK_EQ(csr_read(reg), value, #reg " holds " #value);
    HOLDS(mtval, 0x123456789abcdef0ul)
    HOLDS(stval, 0x123456789abcdef0ul)
    HOLDS(mtval, ~0ul)
    HOLDS(stval, ~0ul)
    HOLDS(sscratch, ~0ul)
    HOLDS(sscratch, 0x5555aaaa5555aaaaul)
    /* xcause are WLRL: they must hold every supported cause. */
    for (u64 c = 0; c < 16; c++) {
        static const u16 exceptions = 0xbbff, interrupts = 0x0aaa;
        if (exceptions >> c & 1) {
            csr_write(mcause, c);
            CHECK_EQ(csr_read(mcause), c, "mcause %lu", c);
            csr_write(scause, c);
            CHECK_EQ(csr_read(scause), c, "scause %lu", c);
        }
        if (interrupts >> c & 1) {
            csr_write(mcause, IRQ(c));
            CHECK_EQ(csr_read(mcause), IRQ(c), "mcause irq %lu", c);
            csr_write(scause, IRQ(c));
            CHECK_EQ(csr_read(scause), IRQ(c), "scause irq %lu", c);
        }
    }
}

/* "Machine Trap Delegation Registers" */
static void delegation(void)
{
    csr_write(medeleg, ~0ul);
    u64 e = csr_read(medeleg);
    u64 must = BIT(C_FETCH_ACCESS) | BIT(C_ILLEGAL) | BIT(C_BREAKPOINT) | BIT(C_LOAD_MISALIGNED) |
               BIT(C_LOAD_ACCESS) | BIT(C_STORE_MISALIGNED) | BIT(C_STORE_ACCESS) | BIT(C_ECALL_U) |
               BIT(C_FETCH_PAGE) | BIT(C_LOAD_PAGE) | BIT(C_STORE_PAGE);
    CHECK_EQ(e & must, must, "medeleg delegates");
    CHECK_EQ(e & BIT(C_ECALL_M), 0, "medeleg[11] read-only 0");
    CHECK_EQ(e & (BIT(10) | BIT(14) | BIT(17)), 0, "medeleg reserved causes");
    csr_write(medeleg, 0);
    CHECK_EQ(csr_read(medeleg), 0, "medeleg zero");
    csr_write(mideleg, ~0ul);
    CHECK_EQ(csr_read(mideleg) & 0xfff, BIT(IRQ_SSI) | BIT(IRQ_STI) | BIT(IRQ_SEI), "mideleg ones");
    csr_write(mideleg, 0);
    CHECK_EQ(csr_read(mideleg), 0, "mideleg zero");
}

/* "Machine Interrupt (mip and mie) Registers" and sip, sie. */
static void interrupt_registers(void)
{
    const u64 all = 0xaaa, s = 0x222;
    csr_write(mideleg, 0);
    csr_write(mie, ~0ul);
    CHECK_EQ(csr_read(mie) & 0xfff, all, "mie ones");
    CHECK_EQ(csr_read(sie) & 0xfff, 0, "sie shows nothing undelegated");
    csr_write(sie, ~0ul);
    csr_write(sie, 0);
    CHECK_EQ(csr_read(mie) & 0xfff, all, "sie cannot change what is not delegated");
    csr_write(mideleg, s);
    CHECK_EQ(csr_read(sie) & 0xfff, s, "sie shows what is delegated");
    csr_write(sie, 0);
    CHECK_EQ(csr_read(mie) & 0xfff, all & ~s, "sie clears what is delegated");
    csr_write(mie, 0);
    csr_write(sie, ~0ul);
    CHECK_EQ(csr_read(mie) & 0xfff, s, "sie sets only what is delegated");
    csr_write(mie, 0);

    csr_clear(CSR_MENVCFG, MENVCFG_STCE);
    csr_write(mip, 0);
    csr_write(mip, ~0ul);
    CHECK_EQ(csr_read(mip) & s, s, "mip: SSIP, STIP and SEIP are writable in M-mode");
    CHECK_EQ(csr_read(mip) & (BIT(IRQ_MSI) | BIT(IRQ_MEI)), 0, "mip: MSIP and MEIP are read-only");
    CHECK_EQ(csr_read(sip) & 0xfff, s, "sip shows what is delegated");
    csr_write(sip, 0);
    CHECK_EQ(csr_read(sip) & 0xfff, s & ~BIT(IRQ_SSI), "sip: only SSIP is writable");
    csr_write(sip, ~0ul);
    CHECK_EQ(csr_read(sip) & 0xfff, s, "sip: SSIP can be set");
    csr_write(mideleg, 0);
    CHECK_EQ(csr_read(sip) & 0xfff, 0, "sip shows nothing undelegated");
    csr_write(sip, 0);
    CHECK_EQ(csr_read(mip) & s, s, "sip cannot clear what is not delegated");
    csr_write(mip, 0);
    CHECK_EQ(csr_read(mip) & s, 0, "mip cleared");
}

static u64 read_counter(u64 which, u64 unused)
{
    (void)unused;
    u64 v = 0;
    if (which == 0) {
        TRY("csrr %0, cycle", OUT("+r"(v)), IN());
    } else if (which == 1) {
        TRY("csrr %0, time", OUT("+r"(v)), IN());
    } else if (which == 2) {
        TRY("csrr %0, instret", OUT("+r"(v)), IN());
    } else {
        TRY("csrr %0, hpmcounter3", OUT("+r"(v)), IN());
    }
    return v;
}

/* "Machine Counter-Enable", "Supervisor Counter-Enable": U needs both bits, S needs mcounteren. */
static void counter_enable(void)
{
    for (u64 c = 0; c < 4; c++) {
        for (u64 men = 0; men < 2; men++) {
            for (u64 sen = 0; sen < 2; sen++) {
                csr_write(mcounteren, men ? ~0ul : ~(1ul << c));
                csr_write(scounteren, sen ? ~0ul : ~(1ul << c));
                run_mode(MODE_S, read_counter, c, 0);
                CHECK_EQ(self()->t.cause, men ? NO_TRAP : C_ILLEGAL,
                         "counter %lu from S, mcounteren %lu scounteren %lu", c, men, sen);
                run_mode(MODE_U, read_counter, c, 0);
                CHECK_EQ(self()->t.cause, men && sen ? NO_TRAP : C_ILLEGAL,
                         "counter %lu from U, mcounteren %lu scounteren %lu", c, men, sen);
                read_counter(c, 0);
                CHECK(!trapped(), "counter %lu from M", c);
            }
        }
    }
    csr_write(mcounteren, 0);
    CHECK_EQ(csr_read(mcounteren), 0, "mcounteren zero");
    csr_write(scounteren, 0);
    CHECK_EQ(csr_read(scounteren), 0, "scounteren zero");
    csr_write(mcounteren, ~0ul);
    CHECK_EQ(csr_read(mcounteren) & 7, 7, "mcounteren CY TM IR");
    CHECK_EQ(csr_read(mcounteren) >> 32, 0, "mcounteren is 32 bits");
    csr_write(scounteren, ~0ul);
    CHECK_EQ(csr_read(scounteren) & 7, 7, "scounteren CY TM IR");
}

/* "Hardware Performance Monitor", "Machine Counter-Inhibit" */
static void counters(void)
{
    u64 a, b, v;
    csr_write(mcountinhibit, 0);
    __asm__ volatile(".option push\n.option norvc\ncsrr %0, minstret\n nop\n nop\n nop\n"
                     "csrr %1, minstret\n.option pop"
                     : "=&r"(a), "=&r"(b));
    CHECK_EQ(b - a, 4, "minstret counts retired instructions");
    __asm__ volatile("csrr %0, instret\n csrr %1, minstret" : "=&r"(a), "=&r"(b));
    CHECK_EQ(b - a, 1, "instret is minstret");
    /* A trapping instruction does not retire; the handler's instructions do, so compare twice. */
    csr_write(minstret, 1000);
    a = csr_read(minstret);
    CHECK(a >= 1000 && a < 1010, "minstret is writable");
    __asm__ volatile("csrw minstret, %1\n csrr %0, minstret" : "=&r"(v) : "r"(0x123456789abcdeful));
    /* "The value written is the value the following instruction reads" */
    CHECK_EQ(v, 0x123456789abcdeful, "minstret read right after a write");
    __asm__ volatile("csrr %0, mcycle\n nop\n nop\n csrr %1, mcycle" : "=&r"(a), "=&r"(b));
    CHECK(b > a, "mcycle advances");
    csr_write(mcycle, 0x7000000000000000ul);
    CHECK(csr_read(mcycle) - 0x7000000000000000ul < 1ul << 40, "mcycle is writable, 64 bits");
    csr_write(mcountinhibit, 4);
    if (csr_read(mcountinhibit) & 4) {
        a = csr_read(minstret);
        __asm__ volatile("nop\n nop");
        CHECK_EQ(csr_read(minstret), a, "mcountinhibit.IR stops minstret");
    }
    csr_write(mcountinhibit, 1);
    if (csr_read(mcountinhibit) & 1) {
        a = csr_read(mcycle);
        __asm__ volatile("nop\n nop");
        CHECK_EQ(csr_read(mcycle), a, "mcountinhibit.CY stops mcycle");
    }
    CHECK_EQ(csr_read(mcountinhibit) & 2, 0, "mcountinhibit[1] read-only 0");
    csr_write(mcountinhibit, 0);
    /* time is mtime */
    csr_write(mcounteren, -1);
    u64 t0 = *MTIME, t = csr_read(time), t1 = *MTIME;
    CHECK(t0 <= t && t <= t1, "time shows mtime");
    /* Whatever hpm counters and events are hardwired to, writing them does not trap. */
    csr_write(mhpmevent3, 0);
    csr_write(mhpmcounter3, 0);
    CHECK_EQ(csr_read(mhpmevent3), 0, "mhpmevent3 zero");
}

static u64 do_sret(u64 pc, u64 unused)
{
    (void)unused;
    csr_write(sepc, pc);
    csr_set(sstatus, MSTATUS_SPP);
    TRY("sret", OUT(), IN());
    return 0;
}
static u64 do_wfi(u64 a, u64 b)
{
    (void)a, (void)b;
    TRY("wfi", OUT(), IN());
    return 0;
}
static u64 do_read_satp(u64 a, u64 b)
{
    (void)a, (void)b;
    u64 v;
    TRY("csrr %0, satp", OUT("=r"(v)), IN());
    return 0;
}
static u64 do_write_satp(u64 a, u64 b)
{
    (void)a, (void)b;
    TRY("csrw satp, x0", OUT(), IN());
    return 0;
}
static u64 do_sfence(u64 a, u64 b)
{
    (void)a, (void)b;
    TRY("sfence.vma", OUT(), IN());
    return 0;
}
static u64 do_sinval(u64 a, u64 b)
{
    (void)a, (void)b;
    TRY("sinval.vma x0, x0", OUT(), IN());
    return 0;
}
static u64 do_sfence_w_inval(u64 a, u64 b)
{
    (void)a, (void)b;
    TRY("sfence.w.inval", OUT(), IN());
    return 0;
}
static u64 do_sfence_inval_ir(u64 a, u64 b)
{
    (void)a, (void)b;
    TRY("sfence.inval.ir", OUT(), IN());
    return 0;
}
static u64 do_mret(u64 a, u64 b)
{
    (void)a, (void)b;
    TRY("mret", OUT(), IN());
    return 0;
}

/* "Virtualization Support in mstatus": who may do what under TVM, TW, TSR. */
static void virtualization(void)
{
    static const struct {
        const char *name;
        u64 (*fn)(u64, u64);
        u64 bit;         /* traps in S when set */
        bool s_ok, u_ok; /* otherwise */
    } ops[] = {
        {"csrr satp", do_read_satp, MSTATUS_TVM, true, false},
        {"csrw satp", do_write_satp, MSTATUS_TVM, true, false},
        {"sfence.vma", do_sfence, MSTATUS_TVM, true, false},
        {"sinval.vma", do_sinval, MSTATUS_TVM, true, false},
        {"sfence.w.inval", do_sfence_w_inval, 0, true, false},
        {"sfence.inval.ir", do_sfence_inval_ir, 0, true, false},
        {"mret", do_mret, 0, false, false},
    };
    static const u64 bits[] = {0, MSTATUS_TVM, MSTATUS_TW, MSTATUS_TSR};
    for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
        for (size_t b = 0; b < ARRAY_SIZE(bits); b++) {
            csr_clear(mstatus, MSTATUS_TVM | MSTATUS_TW | MSTATUS_TSR);
            csr_set(mstatus, bits[b]);
            bool ok = ops[i].s_ok && (bits[b] & ops[i].bit) == 0;
            run_mode(MODE_S, ops[i].fn, 0, 0);
            CHECK_EQ(self()->t.cause, ok ? NO_TRAP : C_ILLEGAL, "%s from S, bits 0x%lx",
                     ops[i].name, bits[b]);
            run_mode(MODE_U, ops[i].fn, 0, 0);
            CHECK_EQ(self()->t.cause, ops[i].u_ok ? NO_TRAP : C_ILLEGAL, "%s from U, bits 0x%lx",
                     ops[i].name, bits[b]);
            if (ops[i].bit) {
                ops[i].fn(0, 0);
                CHECK(!trapped(), "%s from M, bits 0x%lx", ops[i].name, bits[b]);
            }
        }
    }
    csr_clear(mstatus, MSTATUS_TVM | MSTATUS_TW | MSTATUS_TSR);
    csr_set(mstatus, MSTATUS_TSR);
    run_mode(MODE_S, do_sret, 0, 0);
    CHECK_EQ(self()->t.cause, C_ILLEGAL, "sret from S with TSR");
    CHECK_EQ(self()->t.tval, 0x10200073, "sret from S with TSR tval");
    csr_clear(mstatus, MSTATUS_TSR);

    /* TW: wfi may still complete within a bounded time when an interrupt is already pending, but
     * with none it must trap; U-mode wfi with TW=0 may trap or wait, so it is not checked. */
    csr_write(mie, 0);
    csr_set(mstatus, MSTATUS_TW);
    run_mode(MODE_S, do_wfi, 0, 0);
    CHECK_EQ(self()->t.cause, C_ILLEGAL, "wfi from S with TW");
    CHECK_EQ(self()->t.tval, 0x10500073, "wfi from S with TW tval");
    run_mode(MODE_U, do_wfi, 0, 0);
    CHECK_EQ(self()->t.cause, C_ILLEGAL, "wfi from U with TW");
    csr_clear(mstatus, MSTATUS_TW);
}

/* "Supervisor Address Translation and Protection": a write with an unsupported MODE changes
 * nothing. */
static void satp_modes(void)
{
    csr_write(satp, 0);
    for (u64 mode = 0; mode < 16; mode++) {
        csr_write(satp, 8ul << 60 | 0x12345);
        u64 before = csr_read(satp);
        CHECK_EQ(before >> 60, 8, "Sv39 supported");
        csr_write(satp, mode << 60 | (mode ? 0x54321ul : 0));
        u64 now = csr_read(satp);
        if (mode == 0 || (mode >= 8 && mode <= 10)) {
            CHECK_EQ(now, mode << 60 | (mode ? 0x54321ul : 0), "satp mode %lu", mode);
        } else {
            CHECK_EQ(now, before, "satp mode %lu is reserved: no effect", mode);
        }
    }
    csr_write(satp, 8ul << 60 | 0xffffffffffffffful);
    u64 v = csr_read(satp);
    CHECK_EQ(v >> 44 & 0xffff, 0xffff, "ASIDLEN 16");
    CHECK_EQ(v & ((1ul << 44) - 1), (1ul << 44) - 1, "satp PPN is 44 bits");
    csr_write(satp, 0);
    sfence_all();
}

/* "Machine/Supervisor Environment Configuration": fields of what is implemented are writable. */
static void envcfg(void)
{
    u64 m = MENVCFG_FIOM | ENVCFG_CBIE | ENVCFG_CBCFE | ENVCFG_CBZE | MENVCFG_ADUE | MENVCFG_PBMTE |
            MENVCFG_STCE;
    csr_write(CSR_MENVCFG, 0);
    CHECK_EQ(csr_read(CSR_MENVCFG), 0, "menvcfg zero");
    csr_write(CSR_MENVCFG, m);
    CHECK_EQ(csr_read(CSR_MENVCFG), m, "menvcfg fields");
    csr_write(CSR_MENVCFG, ~0ul);
    CHECK_EQ(csr_read(CSR_MENVCFG) & ~m, 0, "menvcfg has nothing else");
    csr_write(CSR_MENVCFG, 2ul << 4);
    CHECK((csr_read(CSR_MENVCFG) >> 4 & 3) != 2, "menvcfg.CBIE = 2 is reserved");
    csr_write(CSR_MENVCFG, 0);
    u64 s = MENVCFG_FIOM | ENVCFG_CBIE | ENVCFG_CBCFE | ENVCFG_CBZE;
    csr_write(CSR_SENVCFG, s);
    CHECK_EQ(csr_read(CSR_SENVCFG), s, "senvcfg fields");
    csr_write(CSR_SENVCFG, ~0ul);
    CHECK_EQ(csr_read(CSR_SENVCFG) & ~s, 0, "senvcfg has nothing else");
    csr_write(CSR_SENVCFG, 0);
    CHECK_EQ(csr_read(CSR_SENVCFG), 0, "senvcfg zero");
}

/* stimecmp: S-mode needs menvcfg.STCE and mcounteren.TM (Sstc). */
static u64 read_stimecmp(u64 a, u64 b)
{
    (void)a, (void)b;
    u64 v = 0;
    TRY("csrr %0, 0x14d", OUT("+r"(v)), IN());
    return v;
}

static void stimecmp_access(void)
{
    for (int stce = 0; stce < 2; stce++) {
        for (int tm = 0; tm < 2; tm++) {
            csr_write(mcounteren, tm ? 2 : 0);
            csr_clear(CSR_MENVCFG, MENVCFG_STCE);
            csr_set(CSR_MENVCFG, stce ? MENVCFG_STCE : 0);
            run_mode(MODE_S, read_stimecmp, 0, 0);
            CHECK_EQ(self()->t.cause, stce && tm ? NO_TRAP : C_ILLEGAL,
                     "stimecmp from S, STCE %d TM %d", stce, tm);
            run_mode(MODE_U, read_stimecmp, 0, 0);
            CHECK_EQ(self()->t.cause, C_ILLEGAL, "stimecmp from U, STCE %d TM %d", stce, tm);
            read_stimecmp(0, 0);
            CHECK(!trapped(), "stimecmp from M");
        }
    }
    csr_write(CSR_STIMECMP, 0x123456789abcdef0ul);
    CHECK_EQ(csr_read(CSR_STIMECMP), 0x123456789abcdef0ul, "stimecmp holds 64 bits");
    csr_write(CSR_STIMECMP, -1);
    csr_clear(CSR_MENVCFG, MENVCFG_STCE);
}

void guest_main(void)
{
    misa();
    ids();
    mstatus();
    sstatus();
    trap_registers();
    delegation();
    interrupt_registers();
    counter_enable();
    counters();
    virtualization();
    satp_modes();
    envcfg();
    stimecmp_access();
}
