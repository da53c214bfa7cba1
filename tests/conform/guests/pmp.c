/*
 * Physical memory protection: address matching, priority, permissions per mode, locked entries,
 * partial matches, page walks.  Privileged ISA "Physical Memory Protection".
 */
#include "mmu.h"

const char guest_name[] = "pmp";

#define REGION (RAM_BASE + 0x1000000ul)

enum { P_R = 1, P_W = 2, P_X = 4, P_TOR = 1 << 3, P_NA4 = 2 << 3, P_NAPOT = 3 << 3, P_L = 0x80 };

static void set_addr(int i, u64 v)
{
    switch (i) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        csr_write(pmpaddr##n, v);                                                                  \
        break;
        CASE(0)
        CASE(1)
        CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
            CASE(13) CASE(14) CASE(15) default : break;
    }
}

static u64 get_addr(int i)
{
    switch (i) {
#undef CASE
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        return csr_read(pmpaddr##n);
        CASE(0)
        CASE(1)
        CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
            CASE(13) CASE(14) CASE(15) default : return 0;
    }
}

static void set_cfg(int i, u64 v)
{
    u64 shift = 8ul * (u64)(i & 7);
    if (i < 8) {
        csr_write(pmpcfg0, (csr_read(pmpcfg0) & ~(0xfful << shift)) | v << shift);
    } else {
        csr_write(pmpcfg2, (csr_read(pmpcfg2) & ~(0xfful << shift)) | v << shift);
    }
    sfence_all(); /* "PMP settings may be cached with translations" */
}

static u64 get_cfg(int i)
{
    return (i < 8 ? csr_read(pmpcfg0) : csr_read(pmpcfg2)) >> (8 * (i & 7)) & 0xff;
}

static u64 napot(u64 base, u64 size)
{
    return (base | (size / 2 - 1)) >> 2;
}

/* Everything open to S and U through the last entry; entries 0..14 are the test's. */
static void reset(void)
{
    csr_write(pmpcfg0, 0);
    set_addr(15, -1);
    csr_write(pmpcfg2, (u64)(P_NAPOT | P_R | P_W | P_X) << 56);
    sfence_all();
}

static const enum op ops[] = {OP_LB, OP_LW, OP_LD, OP_SB, OP_SW, OP_SD, OP_AMO, OP_LR, OP_FETCH};

static u64 need(enum op op)
{
    return op == OP_FETCH ? P_X : op == OP_AMO ? P_R | P_W : op < OP_SB || op == OP_LR ? P_R : P_W;
}

static void expect(enum mode mode, enum op op, u64 pa, bool ok, const char *what)
{
    struct result r = access_bare(mode, op, pa, INSN_ECALL);
    CHECK_EQ(r.cause, ok ? NO_TRAP : access_fault_of(op), "%s %s mode %d at 0x%lx", what,
             op_name[op], mode, pa);
    if (!ok) {
        CHECK_EQ(r.tval, pa, "%s %s mode %d tval", what, op_name[op], mode);
    }
    if (op != OP_FETCH) {
        r = access_mprv(mode, op, pa, INSN_ECALL);
        CHECK_EQ(r.cause, ok ? NO_TRAP : access_fault_of(op), "%s %s MPRV mode %d at 0x%lx", what,
                 op_name[op], mode, pa);
    }
}

/* 16 entries that hold what is written (granularity 4), RV64 cfg registers. */
static void registers(void)
{
    for (int i = 0; i < 16; i++) {
        set_addr(i, ~0ul);
        CHECK_EQ(get_addr(i), (1ul << 54) - 1, "pmpaddr%d is 54 bits, granularity 4", i);
        set_addr(i, 0);
        CHECK_EQ(get_addr(i), 0, "pmpaddr%d zero", i);
    }
    for (int i = 0; i < 15; i++) {
        for (u64 a = 0; a < 32; a += 8) {
            for (u64 rwx = 0; rwx < 8; rwx++) {
                set_cfg(i, a | rwx);
                if ((rwx & 3) == P_W) {
                    /* R=0 W=1 is reserved: whatever it becomes, it is not that */
                    CHECK((get_cfg(i) & 3) != P_W, "pmp%dcfg W without R", i);
                } else {
                    CHECK_EQ(get_cfg(i), a | rwx, "pmp%dcfg holds 0x%lx", i, a | rwx);
                }
            }
        }
        set_cfg(i, 0x60);
        CHECK_EQ(get_cfg(i), 0, "pmp%dcfg bits 5 and 6", i);
    }
    reset();
}

/* Every rwx against every access, in S and U; M is not bound by unlocked entries. */
static void permissions(void)
{
    for (u64 rwx = 0; rwx < 8; rwx++) {
        if ((rwx & 3) == P_W) {
            continue;
        }
        reset();
        set_addr(0, napot(REGION, 4096));
        set_cfg(0, P_NAPOT | rwx);
        for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
            *(volatile u32 *)(REGION + 64) = INSN_ECALL;
            fence_i();
            bool ok = (rwx & need(ops[i])) == need(ops[i]);
            expect(MODE_S, ops[i], REGION + 64, ok, "rwx");
            *(volatile u32 *)(REGION + 64) = INSN_ECALL;
            fence_i();
            expect(MODE_U, ops[i], REGION + 64, ok, "rwx");
        }
        u64 v = 0;
        TRY("ld %0, 0(%1)\n sd %0, 0(%1)", OUT("+r"(v)), IN("r"(REGION)));
        check_no_trap("M-mode ignores unlocked entries");
    }
}

/* Each NAPOT size: first and last byte in, the neighbours out. */
static void napot_sizes(void)
{
    for (int log = 3; log <= 22; log++) {
        u64 size = 1ul << log, base = REGION + 0x400000;
        reset();
        set_addr(3, napot(base, size));
        set_cfg(3, P_NAPOT);
        expect(MODE_S, OP_LB, base, false, "NAPOT first");
        expect(MODE_S, OP_LB, base + size - 1, false, "NAPOT last");
        expect(MODE_S, OP_LB, base - 1, true, "NAPOT before");
        expect(MODE_S, OP_LB, base + size, true, "NAPOT after");
    }
    reset();
    set_addr(2, (REGION + 16) >> 2);
    set_cfg(2, P_NA4);
    expect(MODE_S, OP_LW, REGION + 12, true, "NA4 before");
    expect(MODE_S, OP_LW, REGION + 16, false, "NA4");
    expect(MODE_S, OP_LB, REGION + 19, false, "NA4 last");
    expect(MODE_S, OP_LW, REGION + 20, true, "NA4 after");
}

static void tor(void)
{
    reset();
    set_addr(4, (REGION + 0x100) >> 2);
    set_addr(5, (REGION + 0x214) >> 2);
    set_cfg(5, P_TOR | P_R);
    expect(MODE_S, OP_SB, REGION + 0xff, true, "TOR below");
    expect(MODE_S, OP_SB, REGION + 0x100, false, "TOR first");
    expect(MODE_S, OP_LB, REGION + 0x100, true, "TOR first");
    expect(MODE_S, OP_SB, REGION + 0x213, false, "TOR last");
    expect(MODE_S, OP_SB, REGION + 0x214, true, "TOR end");
    /* Entry 0's lower bound is zero. */
    reset();
    set_addr(0, (REGION + 0x40) >> 2);
    set_addr(1, (REGION + 0x80) >> 2);
    set_cfg(1, P_TOR);
    set_cfg(0, P_TOR | P_R | P_W | P_X);
    expect(MODE_S, OP_LB, REGION, true, "TOR from zero");
    expect(MODE_S, OP_LB, REGION + 0x40, false, "TOR second");
    expect(MODE_S, OP_LB, REGION + 0x7f, false, "TOR second end");
    expect(MODE_S, OP_LB, REGION + 0x80, true, "TOR behind");
    /* An empty or inverted range matches nothing. */
    reset();
    set_addr(4, (REGION + 0x100) >> 2);
    set_addr(5, (REGION + 0x100) >> 2);
    set_cfg(5, P_TOR);
    expect(MODE_S, OP_LB, REGION + 0x100, true, "TOR empty");
    set_addr(5, REGION >> 2);
    expect(MODE_S, OP_LB, REGION + 0x80, true, "TOR inverted");
    /* The entry below gives the bound whatever its own mode. */
    reset();
    set_addr(6, napot(REGION, 4096));
    set_cfg(6, P_NAPOT | P_R | P_W | P_X);
    set_addr(7, (REGION + 0x1000) >> 2);
    set_cfg(7, P_TOR);
    expect(MODE_S, OP_LB, REGION + 0x200, true, "entry 6 before entry 7");
}

/* The lowest-numbered match decides alone. */
static void priority(void)
{
    reset();
    set_addr(1, napot(REGION, 64));
    set_addr(2, napot(REGION, 4096));
    set_cfg(1, P_NAPOT | P_R);
    set_cfg(2, P_NAPOT | P_R | P_W | P_X);
    expect(MODE_S, OP_SD, REGION, false, "first entry wins");
    expect(MODE_S, OP_LD, REGION, true, "first entry wins");
    expect(MODE_S, OP_SD, REGION + 64, true, "second entry");
    set_cfg(1, P_NAPOT | P_R | P_W);
    set_cfg(2, P_NAPOT);
    expect(MODE_S, OP_SD, REGION, true, "first entry allows");
    expect(MODE_S, OP_LD, REGION + 64, false, "second entry denies");
    set_cfg(1, 0);
    expect(MODE_S, OP_LD, REGION, false, "OFF entries match nothing");
    /* No entry matches at all: S and U fail, M succeeds. */
    reset();
    set_addr(0, (REGION) >> 2);
    set_cfg(0, P_TOR | P_R | P_W | P_X);
    csr_write(pmpcfg2, 0);
    sfence_all();
    expect(MODE_S, OP_LD, REGION, false, "no entry");
    expect(MODE_U, OP_SD, REGION, false, "no entry");
    u64 v;
    TRY("ld %0, 0(%1)", OUT("=r"(v)), IN("r"(REGION)));
    check_no_trap("no entry, M-mode");
    reset();
}

/* "the matching entry must match all bytes": otherwise the access fails whatever the permissions.
 */
static void partial(void)
{
    reset();
    set_addr(0, (REGION + 16) >> 2);
    set_cfg(0, P_NA4 | P_R | P_W | P_X);
    struct result r = access_bare(MODE_S, OP_LD, REGION + 16, 0);
    CHECK_EQ(r.cause, C_LOAD_ACCESS, "8-byte load, first half matches");
    r = access_bare(MODE_S, OP_SD, REGION + 16, 0);
    CHECK_EQ(r.cause, C_STORE_ACCESS, "8-byte store, first half matches");
    set_addr(0, (REGION + 20) >> 2);
    sfence_all();
    r = access_bare(MODE_S, OP_LD, REGION + 16, 0);
    CHECK_EQ(r.cause, C_LOAD_ACCESS, "8-byte load, second half matches");
    r = access_bare(MODE_S, OP_LW, REGION + 16, 0);
    CHECK_EQ(r.cause, NO_TRAP, "4-byte load beside the match");
    /* Misaligned over a page end: each byte of both parts counts. */
    set_addr(0, (REGION + 0x1004) >> 2);
    set_cfg(0, P_NA4);
    for (u64 off = 0xff9; off < 0x1000; off++) {
        u64 cause = off + 8 > 0x1004 ? C_LOAD_ACCESS : NO_TRAP;
        r = access_bare(MODE_S, OP_LD, REGION + off, 0);
        CHECK_EQ(r.cause, cause, "load over a page end into a denied word at 0x%lx", off);
        r = access_bare(MODE_S, OP_SD, REGION + off, 0);
        CHECK_EQ(r.cause, cause == NO_TRAP ? NO_TRAP : C_STORE_ACCESS,
                 "store over a page end into a denied word at 0x%lx", off);
    }
    set_addr(0, (REGION + 20) >> 2);
    set_cfg(0, P_NA4 | P_R | P_W | P_X);
    /* unlocked, so M-mode: "fails irrespective of the L, R, W, and X bits" holds for it too */
    u64 v = 0x77;
    TRY("ld %0, 0(%1)", OUT("+r"(v)), IN("r"(REGION + 16)));
    CHECK_EQ(self()->t.cause, C_LOAD_ACCESS, "8-byte load from M, second half matches");
    reset();
}

/* Reads of page tables are S-mode reads, A/D updates S-mode writes: denied ones are access faults
 * of the original access. */
static void walks(void)
{
    static const enum op some[] = {OP_LD, OP_SD, OP_AMO, OP_FETCH};
    u64 va = 0x1040000000ul, page = REGION + 0x2000;
    struct space s;
    reset();
    csr_set(CSR_MENVCFG, MENVCFG_ADUE);
    space_init_stubs(&s, 3, 0);
    space_map(&s, va, page, 0, PTE_V | PTE_RWX);
    u64 *table = (u64 *)((u64)space_slot(&s, va, 0) & ~4095ul), *slot = space_slot(&s, va, 0);
    u64 clean = *slot;
    space_use(&s);
    for (size_t i = 0; i < ARRAY_SIZE(some); i++) {
        *(volatile u32 *)page = INSN_ECALL;
        fence_i();
        set_addr(0, napot((u64)table, 4096));
        /* the table of the stubs is another one */
        *slot = clean | PTE_AD;
        set_cfg(0, P_NAPOT);
        struct result r = access(MODE_S, some[i], va, 0);
        CHECK_EQ(r.cause, access_fault_of(some[i]), "%s, table unreadable", op_name[some[i]]);
        CHECK_EQ(r.tval, va, "%s, table unreadable, tval", op_name[some[i]]);
        set_cfg(0, P_NAPOT | P_R);
        r = access(MODE_S, some[i], va, INSN_ECALL);
        CHECK_EQ(r.cause, NO_TRAP, "%s, table read-only, A and D set", op_name[some[i]]);
        *slot = clean;
        sfence_all();
        r = access(MODE_S, some[i], va, 0);
        CHECK_EQ(r.cause, access_fault_of(some[i]), "%s, table read-only, A clear",
                 op_name[some[i]]);
        CHECK_EQ(*slot, clean, "%s, PTE unchanged", op_name[some[i]]);
        set_cfg(0, P_NAPOT | P_R | P_W);
        *(volatile u32 *)page = INSN_ECALL;
        fence_i();
        r = access(MODE_S, some[i], va, INSN_ECALL);
        CHECK_EQ(r.cause, NO_TRAP, "%s, table writable", op_name[some[i]]);
        /* the page itself */
        set_addr(0, napot(page, 4096));
        *slot = clean | PTE_AD;
        set_cfg(0, P_NAPOT);
        r = access(MODE_S, some[i], va, 0);
        CHECK_EQ(r.cause, access_fault_of(some[i]), "%s, page protected", op_name[some[i]]);
        CHECK_EQ(r.tval, va, "%s, page protected, tval", op_name[some[i]]);
        set_cfg(0, 0);
    }
    /* Half a page protected: translation caches must not lose that. */
    set_addr(0, napot(page, 2048));
    *slot = clean | PTE_AD;
    set_cfg(0, P_NAPOT);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(access(MODE_S, OP_LD, va + 2048, 0).cause, NO_TRAP, "unprotected half %d", i);
        CHECK_EQ(access(MODE_S, OP_LD, va, 0).cause, C_LOAD_ACCESS, "protected half %d", i);
        CHECK_EQ(access(MODE_S, OP_SD, va + 2040, 0).cause, C_STORE_ACCESS, "protected end %d", i);
    }
    csr_write(satp, 0);
    csr_clear(CSR_MENVCFG, MENVCFG_ADUE);
    reset();
}

/* Locked entries bind M-mode and cannot be changed until reset.  Last: it cannot be undone. */
static void locked(void)
{
    reset();
    u64 v;
    set_addr(8, napot(REGION, 4096));
    set_cfg(8, P_L | P_NAPOT | P_R);
    CHECK_EQ(get_cfg(8), P_L | P_NAPOT | P_R, "locked cfg");
    TRY("ld %0, 0(%1)", OUT("=r"(v)), IN("r"(REGION)));
    check_no_trap("M-mode load from a locked R region");
    TRY("sd x0, 0(%0)", OUT(), IN("r"(REGION)));
    check_trap(C_STORE_ACCESS, REGION, "M-mode store to a locked R region");
    TRY("jalr %0", OUT(), IN("r"(REGION)));
    CHECK_EQ(self()->t.cause, C_FETCH_ACCESS, "M-mode fetch from a locked R region");
    CHECK_EQ(self()->t.epc, REGION, "M-mode fetch from a locked R region epc");
    set_cfg(8, P_NAPOT | P_R | P_W | P_X);
    CHECK_EQ(get_cfg(8), P_L | P_NAPOT | P_R, "locked cfg stays");
    set_addr(8, 0);
    CHECK_EQ(get_addr(8), napot(REGION, 4096), "locked address stays");
    expect(MODE_S, OP_SD, REGION, false, "locked");
    expect(MODE_S, OP_LD, REGION, true, "locked");
    /* A locked TOR entry locks the address below it. */
    set_addr(10, (REGION + 0x2000) >> 2);
    set_addr(11, (REGION + 0x3000) >> 2);
    set_cfg(11, P_L | P_TOR);
    set_addr(10, 0);
    CHECK_EQ(get_addr(10), (REGION + 0x2000) >> 2, "address below a locked TOR stays");
    set_cfg(10, P_NAPOT);
    CHECK_EQ(get_cfg(10), P_NAPOT, "cfg below a locked TOR can change");
    set_cfg(10, 0);
    TRY("lb %0, 0(%1)", OUT("=r"(v)), IN("r"(REGION + 0x2fff)));
    check_trap(C_LOAD_ACCESS, REGION + 0x2fff, "M-mode load from a locked TOR");
    TRY("lb %0, 0(%1)", OUT("=r"(v)), IN("r"(REGION + 0x3000)));
    check_no_trap("M-mode load behind a locked TOR");
    /* A locked OFF entry locks its address. */
    set_addr(12, 0x1234);
    set_cfg(12, P_L);
    set_addr(12, 0);
    CHECK_EQ(get_addr(12), 0x1234, "address of a locked OFF entry stays");
}

void guest_main(void)
{
    registers();
    permissions();
    napot_sizes();
    tor();
    priority();
    partial();
    walks();
    locked();
}
