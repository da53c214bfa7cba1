/*
 * Accesses that cross pages, with every combination of page states; instructions that cross pages;
 * the ends of the address space; MMIO through translation.  xtval is the address of the part that
 * faulted (privileged ISA "Supervisor Trap Value": "the portion of the access that caused the
 * fault"), and where both pages fault, the lower one's.
 */
#include "mmu.h"

const char guest_name[] = "mmu_edges";

#define VA 0x1040000000ul

static const struct {
    enum op op;
    u64 size;
} ops[] = {{OP_LH, 2}, {OP_LW, 4}, {OP_LD, 8}, {OP_SH, 2}, {OP_SW, 4}, {OP_SD, 8}};

static const struct {
    const char *name;
    u64 flags;
    bool r, w;
} states[] = {
    {"rw", PTE_V | PTE_R | PTE_W | PTE_AD, true, true},
    {"ro", PTE_V | PTE_R | PTE_A, true, false},
    {"none", 0, false, false},
    {"user", PTE_V | PTE_R | PTE_W | PTE_AD | PTE_U, false, false},
};

static u8 *pages[2]; /* not adjacent in physical memory */

static bool allows(size_t state, enum op op)
{
    return op < OP_SB ? states[state].r : states[state].w;
}

static u64 expected_load(enum op op, u64 off)
{
    u64 n = op == OP_LH ? 2 : op == OP_LW ? 4 : 8, v = 0;
    for (u64 i = 0; i < n; i++) {
        u64 o = off + i;
        v |= (u64)(o < PAGE ? pages[0][o] : pages[1][o - PAGE]) << (8 * i);
    }
    return op == OP_LH ? (u64)(i64)(int16_t)v : op == OP_LW ? (u64)(i64)(int)v : v;
}

static void fill(void)
{
    for (u64 i = 0; i < PAGE; i++) {
        pages[0][i] = (u8)(i * 13 + 1);
        pages[1][i] = (u8)(i * 29 + 0x80);
    }
}

static void crossing(size_t a, size_t b, size_t k, bool mprv)
{
    enum op op = ops[k].op;
    for (u64 off = PAGE - ops[k].size + 1; off < PAGE; off++) {
        fill();
        u64 va = VA + off, want = expected_load(op, off), value = 0x8877665544332211ul;
        struct result r = mprv ? access_mprv(MODE_S, op, va, value) : access(MODE_S, op, va, value);
        bool first = allows(a, op), second = allows(b, op);
        CHECK_EQ(r.cause, first && second ? NO_TRAP : fault_of(op),
                 "%s at -%lu, %s then %s, MPRV %d", op_name[op], PAGE - off, states[a].name,
                 states[b].name, mprv);
        if (!first || !second) {
            CHECK_EQ(r.tval, first ? VA + PAGE : va, "tval of %s at -%lu, %s then %s, MPRV %d",
                     op_name[op], PAGE - off, states[a].name, states[b].name, mprv);
        } else if (op < OP_SB) {
            CHECK_EQ(r.value, want, "value of %s at -%lu", op_name[op], PAGE - off);
        } else {
            u64 mask = ops[k].size == 8 ? ~0ul : (1ul << 8 * ops[k].size) - 1;
            CHECK_EQ(expected_load(OP_LD, off) & mask, value & mask, "memory after %s at -%lu",
                     op_name[op], PAGE - off);
            CHECK_EQ(pages[0][off - 1], (u8)((off - 1) * 13 + 1), "byte before %s", op_name[op]);
            u64 end = off + ops[k].size - PAGE;
            CHECK_EQ(pages[1][end], (u8)(end * 29 + 0x80), "byte after %s", op_name[op]);
        }
    }
}

static void data_crossing(void)
{
    struct space s;
    space_init_stubs(&s, 3, 0);
    for (size_t a = 0; a < ARRAY_SIZE(states); a++) {
        for (size_t b = 0; b < ARRAY_SIZE(states); b++) {
            space_map(&s, VA, (u64)pages[0], 0, states[a].flags);
            space_map(&s, VA + PAGE, (u64)pages[1], 0, states[b].flags);
            space_use(&s);
            for (size_t k = 0; k < ARRAY_SIZE(ops); k++) {
                crossing(a, b, k, false);
                crossing(a, b, k, true);
            }
        }
    }
}

/* A 32-bit instruction with its halves in two pages; a 16-bit one that ends the first. */
static void fetch_crossing(void)
{
    struct space s;
    u16 *last = (u16 *)(pages[0] + PAGE - 2), *first = (u16 *)pages[1];
    u64 x = PTE_V | PTE_X | PTE_A;
    space_init_stubs(&s, 3, 0);
    u64 *pte0 = space_map(&s, VA, (u64)pages[0], 0, x);
    u64 *pte1 = space_map(&s, VA + PAGE, (u64)pages[1], 0, x);
    *last = (u16)INSN_ECALL;
    first[0] = (u16)(INSN_ECALL >> 16);
    first[1] = 0x9002; /* c.ebreak: where a 16-bit instruction before leads */
    fence_i();
    space_use(&s);
    u64 at = VA + PAGE - 2;
    struct result r = access(MODE_S, OP_FETCH, at, 0);
    CHECK_EQ(r.cause, NO_TRAP, "ecall across pages");
    CHECK_EQ(r.epc, at, "ecall across pages epc");
    static const struct {
        const char *name;
        u64 flags;
    } bad[] = {
        {"unmapped", 0},
        {"not executable", PTE_V | PTE_R | PTE_W | PTE_AD},
        {"user", PTE_V | PTE_X | PTE_A | PTE_U},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        *pte1 = PTE_PPN(pages[1]) | bad[i].flags;
        sfence_all();
        r = access(MODE_S, OP_FETCH, at, 0);
        CHECK_EQ(r.cause, C_FETCH_PAGE, "second half %s cause", bad[i].name);
        CHECK_EQ(r.tval, VA + PAGE, "second half %s tval", bad[i].name);
        CHECK_EQ(r.epc, at, "second half %s epc", bad[i].name);
        *pte1 = PTE_PPN(pages[1]) | x;
        *pte0 = PTE_PPN(pages[0]) | bad[i].flags;
        sfence_all();
        r = access(MODE_S, OP_FETCH, at, 0);
        CHECK_EQ(r.cause, C_FETCH_PAGE, "first half %s cause", bad[i].name);
        CHECK_EQ(r.tval, at, "first half %s tval", bad[i].name);
        CHECK_EQ(r.epc, at, "first half %s epc", bad[i].name);
        *pte0 = PTE_PPN(pages[0]) | x;
    }
    /* c.nop in the last halfword: the next page faults only when it is reached. */
    *last = 0x0001;
    fence_i();
    *pte1 = 0;
    sfence_all();
    r = access(MODE_S, OP_FETCH, at, 0);
    CHECK_EQ(r.cause, C_FETCH_PAGE, "running into an unmapped page cause");
    CHECK_EQ(r.epc, VA + PAGE, "running into an unmapped page epc");
    CHECK_EQ(r.tval, VA + PAGE, "running into an unmapped page tval");
    /* c.ebreak there needs no second page at all. */
    *last = 0x9002;
    fence_i();
    CHECK_EQ(access(MODE_S, OP_FETCH, at, 0).cause, C_BREAKPOINT, "16-bit instruction at the end");
    /* An illegal 32-bit instruction across pages: tval is all of it. */
    *pte1 = PTE_PPN(pages[1]) | x;
    *last = 0xffff;
    first[0] = 0x1234;
    fence_i();
    sfence_all();
    r = access(MODE_S, OP_FETCH, at, 0);
    CHECK_EQ(r.cause, C_ILLEGAL, "illegal across pages cause");
    CHECK_EQ(r.tval, 0x1234ffff, "illegal across pages tval");
}

/* The last bytes of the lower half, and the wrap at the top. */
static void space_ends(void)
{
    for (int levels = 3; levels <= 5; levels++) {
        struct space s;
        u64 hole = 1ul << (11 + 9 * levels);
        space_init_stubs(&s, levels, 0);
        space_map(&s, hole - PAGE, (u64)pages[0], 0, PTE_S_ALL);
        space_map(&s, -hole, (u64)pages[0], 0, PTE_S_ALL);
        space_map(&s, -PAGE, (u64)pages[0], 0, PTE_S_ALL);
        space_map(&s, 0, (u64)pages[1], 0, PTE_S_ALL);
        space_use(&s);
        fill();
        CHECK_EQ(access(MODE_S, OP_LD, hole - 8, 0).cause, NO_TRAP, "end of the lower half");
        struct result r = access(MODE_S, OP_LD, hole - 4, 0);
        CHECK_EQ(r.cause, C_LOAD_PAGE, "into the hole, levels %d", levels);
        CHECK_EQ(r.tval, hole, "into the hole, levels %d, tval", levels);
        r = access(MODE_S, OP_SD, hole - 1, 0);
        CHECK_EQ(r.cause, C_STORE_PAGE, "store into the hole, levels %d", levels);
        CHECK_EQ(r.tval, hole, "store into the hole, levels %d, tval", levels);
        r = access(MODE_S, OP_LD, -hole - 4, 0);
        CHECK_EQ(r.cause, C_LOAD_PAGE, "out of the hole, levels %d", levels);
        CHECK_EQ(r.tval, -hole - 4, "out of the hole, levels %d, tval", levels);
        fill();
        r = access(MODE_S, OP_LD, -4, 0);
        CHECK_EQ(r.cause, NO_TRAP, "around the end of the address space, levels %d", levels);
        CHECK_EQ(r.value, expected_load(OP_LD, PAGE - 4), "value around the end, levels %d",
                 levels);
    }
}

/* Devices through page tables: reads of mtime, a UART scratch register, the PLIC. */
static void mmio(void)
{
    struct space s;
    space_init_stubs(&s, 3, 0);
    u64 rw = PTE_V | PTE_R | PTE_W | PTE_AD;
    space_map(&s, VA, CLINT_BASE + 0xb000, 0, rw);
    space_map(&s, VA + PAGE, UART_BASE, 0, rw);
    space_map(&s, VA + 2 * PAGE, PLIC_BASE, 0, rw);
    space_map(&s, VA + 4 * PAGE, UART_BASE, 0, PTE_V | PTE_R | PTE_A);
    space_use(&s);
    u64 t0 = *MTIME, t = access(MODE_S, OP_LD, VA + 0xff8, 0).value, t1 = *MTIME;
    CHECK(t0 <= t && t <= t1, "mtime through translation");
    t = access_mprv(MODE_S, OP_LD, VA + 0xff8, 0).value;
    CHECK(t >= t1, "mtime with MPRV");
    access(MODE_S, OP_SB, VA + PAGE + 7, 0x5a); /* SCR */
    CHECK_EQ(read8(UART_BASE + 7), 0x5a, "UART scratch written through translation");
    CHECK_EQ(access(MODE_S, OP_LB, VA + PAGE + 7, 0).value, 0x5a, "UART scratch read back");
    access(MODE_S, OP_SW, VA + 2 * PAGE + 4 * 10, 3);
    CHECK_EQ(read32(PLIC_BASE + 4 * 10), 3, "PLIC priority written through translation");
    CHECK_EQ(access(MODE_S, OP_LW, VA + 2 * PAGE + 4 * 10, 0).value, 3, "PLIC priority read back");
    write32(PLIC_BASE + 4 * 10, 0);
    struct result r = access(MODE_S, OP_SB, VA + 4 * PAGE + 7, 0x11);
    CHECK_EQ(r.cause, C_STORE_PAGE, "read-only mapping of a device");
    CHECK_EQ(read8(UART_BASE + 7), 0x5a, "read-only mapping of a device: unchanged");
}

void guest_main(void)
{
    pages[0] = page_alloc();
    page_alloc();
    pages[1] = page_alloc();
    csr_write(CSR_MENVCFG, 0);
    data_crossing();
    fetch_crossing();
    space_ends();
    mmio();
    csr_write(satp, 0);
    sfence_all();
}
