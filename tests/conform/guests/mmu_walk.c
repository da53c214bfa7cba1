/*
 * Address translation: privileged ISA "Sv39", "Sv48", "Sv57" and "Virtual Address Translation
 * Process".  Every level of every mode as a leaf, misaligned superpages, non-canonical addresses,
 * malformed and reserved PTEs at each level, walks through memory that does not exist.
 */
#include "mmu.h"

const char guest_name[] = "mmu_walk";

/* A 2 MiB aligned block of RAM that nothing else uses: the image is far smaller than 16 MiB. */
#define BLOCK (RAM_BASE + 0x1000000ul)

static const enum mode modes[] = {MODE_S, MODE_U};

static u64 user_bit(enum mode m)
{
    return m == MODE_U ? PTE_U : 0;
}

static void expect_ok(enum mode m, enum op op, u64 va, u64 want, const char *what, int levels,
                      int level)
{
    struct result r = access(m, op, va, 0);
    CHECK_EQ(r.cause, NO_TRAP, "Sv%d level %d %s mode %d %s cause", 12 + 9 * levels, level, what, m,
             op_name[op]);
    if (r.cause == NO_TRAP && op == OP_LD) {
        CHECK_EQ(r.value, want, "Sv%d level %d %s mode %d value", 12 + 9 * levels, level, what, m);
    }
}

static void expect_fault(enum mode m, enum op op, u64 va, u64 cause, const char *what, int levels,
                         int level)
{
    struct result r = access(m, op, va, 0);
    CHECK_EQ(r.cause, cause, "Sv%d level %d %s mode %d %s cause", 12 + 9 * levels, level, what, m,
             op_name[op]);
    CHECK_EQ(r.tval, va, "Sv%d level %d %s mode %d %s tval", 12 + 9 * levels, level, what, m,
             op_name[op]);
    CHECK_EQ(r.epc, op == OP_FETCH ? va : stub_va(m, op), "Sv%d level %d %s mode %d %s epc",
             12 + 9 * levels, level, what, m, op_name[op]);
    if (op != OP_FETCH) {
        r = access_mprv(m, op, va, 0);
        CHECK_EQ(r.cause, cause, "Sv%d level %d %s mode %d %s MPRV cause", 12 + 9 * levels, level,
                 what, m, op_name[op]);
        CHECK_EQ(r.tval, va, "Sv%d level %d %s mode %d %s MPRV tval", 12 + 9 * levels, level, what,
                 m, op_name[op]);
    }
}

static const enum op some_ops[] = {OP_LD, OP_SD, OP_AMO, OP_LR, OP_FETCH};

/* A leaf at `level`: pa is the level's aligned base that contains RAM; probe an offset inside. */
static void leaf_at(int levels, int level)
{
    for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
        struct space s;
        space_init_stubs(&s, levels, 0);
        u64 va = test_va(levels) & ~(LEVEL_SIZE(level) - 1);
        u64 base = BLOCK & ~(LEVEL_SIZE(level) - 1);
        u64 off = (BLOCK & (LEVEL_SIZE(level) - 1)) + (level ? 0x1238 : 0x238);
        u64 *word = (u64 *)(base + off);
        u64 flags = PTE_S_ALL | user_bit(modes[i]);
        *word = 0x1122334455667788ul + (u64)level;
        space_map(&s, va, base, level, flags);
        space_use(&s);
        expect_ok(modes[i], OP_LD, va + off, *word, "leaf", levels, level);
        u64 v = *word;
        struct result r = access(modes[i], OP_SD, va + off, ~v);
        CHECK_EQ(r.cause, NO_TRAP, "Sv%d level %d store cause", 12 + 9 * levels, level);
        CHECK_EQ(*word, ~v, "Sv%d level %d store value", 12 + 9 * levels, level);
        r = access_mprv(modes[i], OP_LD, va + off, 0);
        CHECK_EQ(r.value, ~v, "Sv%d level %d MPRV load", 12 + 9 * levels, level);
        *(u32 *)word = INSN_ECALL;
        fence_i();
        expect_ok(modes[i], OP_FETCH, va + off, 0, "fetch", levels, level);

        /* A superpage whose PPN is not aligned to its size: page fault (step 5 of the process). */
        for (int bit = 0; bit < 9 * level; bit++) {
            space_map(&s, va, base, level, flags | (1ul << (10 + bit)));
            sfence_all();
            expect_fault(modes[i], OP_LD, va + off, C_LOAD_PAGE, "misaligned superpage", levels,
                         level);
        }
    }
}

static void bad_ptes(int levels, int level)
{
    static const struct {
        const char *what;
        u64 bits; /* instead of the right flags */
        bool leaf_only;
    } bad[] = {
        {"V=0", PTE_RWX | PTE_AD, false},
        {"zero", 0, false},
        {"W without R", PTE_V | PTE_W | PTE_AD, false},
        {"WX without R", PTE_V | PTE_W | PTE_X | PTE_AD, false},
        {"bit 54", PTE_S_ALL | 1ul << 54, false},
        {"bit 57", PTE_S_ALL | 1ul << 57, false},
        {"bit 60", PTE_S_ALL | 1ul << 60, false},
        /* menvcfg.PBMTE is 0 here */
        {"PBMT=1 without PBMTE", PTE_S_ALL | PTE_PBMT(1), false},
        {"PBMT=2 without PBMTE", PTE_S_ALL | PTE_PBMT(2), false},
        {"PBMT=3 without PBMTE", PTE_S_ALL | PTE_PBMT(3), false},
        /* ppn[3:0] = 0 is not the one encoding Svnapot has */
        {"N with ppn 0", PTE_S_ALL | PTE_N, false},
    };
    /* A pointer has D, A, U clear and neither N nor PBMT set ("reserved for future use"). */
    static const struct {
        const char *what;
        u64 bits;
    } bad_pointer[] = {
        {"pointer with U", PTE_U},
        {"pointer with A", PTE_A},
        {"pointer with D", PTE_D},
        {"pointer with N", PTE_N},
        {"pointer with PBMT=1", PTE_PBMT(1)},
        {"pointer with bit 54", 1ul << 54},
        {"pointer with bit 58", 1ul << 58},
    };
    u64 va = test_va(levels);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        for (size_t m = 0; m < ARRAY_SIZE(modes); m++) {
            struct space s;
            space_init_stubs(&s, levels, 0);
            u64 base = BLOCK & ~(LEVEL_SIZE(level) - 1);
            space_map(&s, va, base, level, bad[i].bits | (bad[i].bits ? user_bit(modes[m]) : 0));
            space_use(&s);
            for (size_t o = 0; o < ARRAY_SIZE(some_ops); o++) {
                expect_fault(modes[m], some_ops[o], va, fault_of(some_ops[o]), bad[i].what, levels,
                             level);
            }
        }
    }
    if (level == 0) {
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad_pointer); i++) {
        struct space s;
        space_init_stubs(&s, levels, 0);
        space_map(&s, va, BLOCK, 0, PTE_S_ALL);
        space_use(&s);
        expect_ok(MODE_S, OP_LD, va, *(u64 *)BLOCK, "good pointer", levels, level);
        *space_slot(&s, va, level) |= bad_pointer[i].bits;
        sfence_all();
        expect_fault(MODE_S, OP_LD, va, C_LOAD_PAGE, bad_pointer[i].what, levels, level);
        expect_fault(MODE_S, OP_SD, va, C_STORE_PAGE, bad_pointer[i].what, levels, level);
        expect_fault(MODE_S, OP_FETCH, va, C_FETCH_PAGE, bad_pointer[i].what, levels, level);
    }
}

/* A walk that reads a PTE where there is no memory is an access fault of the original access. */
static void walks_into_nothing(int levels, int level)
{
    static const u64 nowhere[] = {0x40000000000ul, 0xfffffffffff000ul, 0x28000000ul};
    for (size_t i = 0; i < ARRAY_SIZE(nowhere); i++) {
        struct space s;
        space_init_stubs(&s, levels, 0);
        u64 va = test_va(levels);
        *space_slot(&s, va, level) = PTE_PPN(nowhere[i]) | PTE_V;
        space_use(&s);
        for (size_t o = 0; o < ARRAY_SIZE(some_ops); o++) {
            expect_fault(MODE_S, some_ops[o], va, access_fault_of(some_ops[o]), "table nowhere",
                         levels, level);
            expect_fault(MODE_U, some_ops[o], va, access_fault_of(some_ops[o]), "table nowhere",
                         levels, level);
        }
    }
    /* A leaf that points there: the access itself faults. */
    struct space s;
    space_init_stubs(&s, levels, 0);
    u64 va = test_va(levels);
    space_map(&s, va, 0x40000000000ul, 0, PTE_S_ALL);
    space_use(&s);
    for (size_t o = 0; o < ARRAY_SIZE(some_ops); o++) {
        expect_fault(MODE_S, some_ops[o], va, access_fault_of(some_ops[o]), "page nowhere", levels,
                     0);
    }
}

/* A pointer at the last level is no leaf: page fault. */
static void pointer_at_level_0(int levels)
{
    struct space s;
    space_init_stubs(&s, levels, 0);
    u64 va = test_va(levels);
    space_map(&s, va, BLOCK, 0, PTE_V);
    space_use(&s);
    for (size_t o = 0; o < ARRAY_SIZE(some_ops); o++) {
        expect_fault(MODE_S, some_ops[o], va, fault_of(some_ops[o]), "pointer", levels, 0);
    }
}

/* Bits above the top one must equal it; the top half of the space is reached by negative addresses.
 */
static void canonical(int levels)
{
    int bits = 12 + 9 * levels;
    struct space s;
    space_init_stubs(&s, levels, 0);
    u64 low = test_va(levels), high = -(1ul << (bits - 1)) + 0x40000000ul;
    *(u64 *)BLOCK = 0xc0ffee00c0ffee00ul;
    space_map(&s, low, BLOCK, 0, PTE_S_ALL);
    space_map(&s, high, BLOCK, 0, PTE_S_ALL);
    space_map(&s, -PAGE, BLOCK, 0, PTE_S_ALL);
    space_use(&s);
    expect_ok(MODE_S, OP_LD, low, *(u64 *)BLOCK, "low", levels, 0);
    expect_ok(MODE_S, OP_LD, high, *(u64 *)BLOCK, "high", levels, 0);
    expect_ok(MODE_S, OP_LD, -PAGE, *(u64 *)BLOCK, "last page", levels, 0);
    for (int b = bits; b < 64; b++) {
        for (size_t o = 0; o < ARRAY_SIZE(some_ops); o++) {
            expect_fault(MODE_S, some_ops[o], low ^ (1ul << b), fault_of(some_ops[o]),
                         "non-canonical low", levels, 0);
            expect_fault(MODE_S, some_ops[o], high ^ (1ul << b), fault_of(some_ops[o]),
                         "non-canonical high", levels, 0);
        }
    }
    u64 hole = 1ul << (bits - 1);
    expect_fault(MODE_S, OP_LD, hole, C_LOAD_PAGE, "first of the hole", levels, 0);
    expect_fault(MODE_S, OP_LD, -hole - 8, C_LOAD_PAGE, "last of the hole", levels, 0);
}

void guest_main(void)
{
    csr_write(CSR_MENVCFG, 0);
    for (int levels = 3; levels <= 5; levels++) {
        for (int level = 0; level < levels; level++) {
            leaf_at(levels, level);
            bad_ptes(levels, level);
            if (level > 0) {
                walks_into_nothing(levels, level);
            }
        }
        pointer_at_level_0(levels);
        canonical(levels);
    }
    csr_write(satp, 0);
    sfence_all();
}
