/*
 * Zicbom, Zicboz, Zicbop: what they do to memory, and who may execute them under every value of
 * menvcfg/senvcfg CBIE, CBCFE, CBZE (CMO specification, "Software Discovery and Control").  Block
 * size 64, as the device tree says.
 */
#include "mmu.h"

const char guest_name[] = "isa_zicbo";

enum { BLOCK = 64 };

static u8 area[4 * BLOCK] __attribute__((aligned(BLOCK)));

static u64 cbo(u64 which, u64 addr)
{
    switch (which) {
    case 0:
        TRY("cbo.inval 0(%0)", OUT(), IN("r"(addr)));
        break;
    case 1:
        TRY("cbo.clean 0(%0)", OUT(), IN("r"(addr)));
        break;
    case 2:
        TRY("cbo.flush 0(%0)", OUT(), IN("r"(addr)));
        break;
    default:
        TRY("cbo.zero 0(%0)", OUT(), IN("r"(addr)));
        break;
    }
    return 0;
}

static const char *const names[] = {"cbo.inval", "cbo.clean", "cbo.flush", "cbo.zero"};

/* Field of xenvcfg that allows instruction `which`, given the three fields. */
static bool allowed(u64 which, u64 cbie, u64 cbcfe, u64 cbze)
{
    return which == 0 ? cbie != 0 : which == 3 ? cbze : cbcfe;
}

static u64 envcfg(u64 cbie, u64 cbcfe, u64 cbze)
{
    return cbie << 4 | cbcfe << 6 | cbze << 7;
}

static void permissions(void)
{
    static const u64 cbies[] = {0, 1, 3};
    for (int m = 0; m < 12; m++) {
        for (int s = 0; s < 12; s++) {
            u64 mi = cbies[m % 3], mc = m / 3 & 1, mz = m / 6;
            u64 si = cbies[s % 3], sc = s / 3 & 1, sz = s / 6;
            csr_write(CSR_MENVCFG, envcfg(mi, mc, mz));
            csr_write(CSR_SENVCFG, envcfg(si, sc, sz));
            for (u64 w = 0; w < 4; w++) {
                bool in_s = allowed(w, mi, mc, mz), in_u = in_s && allowed(w, si, sc, sz);
                cbo(w, (u64)area);
                CHECK_EQ(self()->t.cause, NO_TRAP, "%s from M menvcfg %d senvcfg %d", names[w], m,
                         s);
                run_mode(MODE_S, cbo, w, (u64)area);
                CHECK_EQ(self()->t.cause, in_s ? NO_TRAP : C_ILLEGAL,
                         "%s from S menvcfg %d senvcfg %d", names[w], m, s);
                run_mode(MODE_U, cbo, w, (u64)area);
                CHECK_EQ(self()->t.cause, in_u ? NO_TRAP : C_ILLEGAL,
                         "%s from U menvcfg %d senvcfg %d", names[w], m, s);
                if (!in_u) {
                    /* cbo.* 0(a1): imm w (4 for zero), the code is the tval */
                    CHECK_EQ(self()->t.tval & 0xfff07fff, (w == 3 ? 4ul : w) << 20 | 0x200f,
                             "%s from U tval", names[w]);
                }
            }
        }
    }
    csr_write(CSR_MENVCFG, envcfg(3, 1, 1));
    csr_write(CSR_SENVCFG, envcfg(3, 1, 1));
}

static void fill(void)
{
    for (size_t i = 0; i < sizeof area; i++) {
        area[i] = (u8)(i + 1);
    }
}

/* cbo.zero clears exactly the block that contains the address; the others change no data that a
 * coherent hart can see. */
static void effects(void)
{
    for (u64 o = BLOCK; o < 2 * BLOCK; o++) {
        fill();
        cbo(3, (u64)area + o);
        check_no_trap("cbo.zero at offset %lu", o - BLOCK);
        u64 bad = 0;
        for (u64 i = 0; i < sizeof area; i++) {
            bool in = i >= BLOCK && i < 2 * BLOCK;
            bad += area[i] != (in ? 0 : (u8)(i + 1));
        }
        CHECK_EQ(bad, 0, "cbo.zero at offset %lu: wrong bytes", o - BLOCK);
    }
    for (u64 w = 0; w < 3; w++) {
        fill();
        for (u64 o = 0; o < BLOCK; o += 7) {
            cbo(w, (u64)area + BLOCK + o);
            check_no_trap("%s at offset %lu", names[w], o);
        }
        u64 bad = 0;
        for (u64 i = 0; i < sizeof area; i++) {
            bad += area[i] != (u8)(i + 1);
        }
        CHECK_EQ(bad, 0, "%s keeps data", names[w]);
    }
    for (u64 w = 0; w < 4; w++) {
        cbo(w, 0x40000000000ul);
        check_trap(C_STORE_ACCESS, 0x40000000000ul, "%s of no memory", names[w]);
    }
}

/* Permissions of the page: cbo.zero is a store; management needs any of R, W, X... "if a load,
 * store or fetch is permitted"; a fault is a store page fault.  Prefetches never fault. */
static void translated(void)
{
    static const struct {
        u64 flags;
        bool zero, manage;
    } rows[] = {
        {PTE_V | PTE_R | PTE_W | PTE_AD, true, true},
        {PTE_V | PTE_R | PTE_AD, false, true},
        {PTE_V | PTE_R | PTE_X | PTE_AD, false, true},
        {PTE_V | PTE_RWX | PTE_AD, true, true},
        {0, false, false},
        {PTE_V | PTE_RWX | PTE_AD | PTE_U, false, false}, /* S with SUM=0 */
    };
    u64 va = 0x1040000000ul;
    struct space s;
    space_init_stubs(&s, 3, 0);
    u64 *page = page_alloc();
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        space_map(&s, va, (u64)page, 0, rows[i].flags);
        space_use(&s);
        static const enum op ops[] = {OP_CBO_INVAL, OP_CBO_CLEAN, OP_CBO_FLUSH, OP_CBO_ZERO};
        for (size_t o = 0; o < 4; o++) {
            bool ok = o == 3 ? rows[i].zero : rows[i].manage;
            struct result r = access(MODE_S, ops[o], va + 72, 0);
            CHECK_EQ(r.cause, ok ? NO_TRAP : C_STORE_PAGE, "%s, page row %lu", names[o], i);
            if (!ok && r.cause == C_STORE_PAGE) {
                /* "the faulting virtual address": rs1, not the block's start */
                CHECK_EQ(r.tval, va + 72, "%s, page row %lu tval", names[o], i);
            }
        }
        struct result r = access(MODE_S, OP_PREFETCH_W, va, 0);
        CHECK_EQ(r.cause, NO_TRAP, "prefetch.w, page row %lu", i);
    }
    csr_write(satp, 0);
    sfence_all();
}

static void prefetches(void)
{
    static const u64 where[] = {0, 8, 0x40000000000ul, ~31ul, RAM_BASE, UART_BASE};
    for (size_t i = 0; i < ARRAY_SIZE(where); i++) {
        TRY("prefetch.r 0(%0)", OUT(), IN("r"(where[i])));
        check_no_trap("prefetch.r 0x%lx", where[i]);
        TRY("prefetch.w 32(%0)", OUT(), IN("r"(where[i])));
        check_no_trap("prefetch.w 0x%lx", where[i]);
        TRY("prefetch.i -2048(%0)", OUT(), IN("r"(where[i])));
        check_no_trap("prefetch.i 0x%lx", where[i]);
    }
}

static void reserved(void)
{
    u64 v = 5;
    TRY(".insn i 0x0f, 2, x0, %0, 3", OUT("+r"(v)), IN());
    CHECK_EQ(self()->t.cause, C_ILLEGAL, "cbo function 3 is reserved");
    TRY(".insn i 0x0f, 2, x0, %0, 5", OUT("+r"(v)), IN());
    CHECK_EQ(self()->t.cause, C_ILLEGAL, "cbo function 5 is reserved");
    TRY(".insn i 0x0f, 2, %0, %0, 4", OUT("+r"(v)), IN());
    CHECK_EQ(self()->t.cause, C_ILLEGAL, "cbo.zero with rd != 0 is reserved");
}

void guest_main(void)
{
    permissions();
    effects();
    translated();
    prefetches();
    reserved();
}
