/*
 * Accessed and dirty bits.  With menvcfg.ADUE=1 (Svadu) the walk sets them in the PTE, leaving
 * every other bit; with ADUE=0 an access that needs one set is a page fault and the PTE stays as it
 * is. A may be set by speculation, D may not: where an access is refused only D is checked.
 */
#include "mmu.h"

const char guest_name[] = "mmu_ad";

static const enum op ops[] = {OP_LB, OP_LD, OP_SB, OP_SD, OP_AMO, OP_LR, OP_FETCH};

#define RSW (3ul << 8) /* for software: hardware leaves them */

static bool writes(enum op op)
{
    return op == OP_SB || op == OP_SD || op == OP_AMO;
}

#define BLOCK (RAM_BASE + 0x1000000ul)

static void matrix(int levels, int level, bool adue, enum mode mode)
{
    struct space s;
    space_init_stubs(&s, levels, 0);
    u64 va = test_va(levels) & ~(LEVEL_SIZE(level) - 1);
    u64 base = BLOCK & ~(LEVEL_SIZE(level) - 1), off = BLOCK - base + 64;
    u64 flags = PTE_V | PTE_RWX | RSW | (mode == MODE_U ? PTE_U : 0);
    u64 *pte = space_map(&s, va, base, level, flags);
    u64 clean = *pte;
    space_use(&s);
    for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
        for (u64 ad = 0; ad < 4; ad++) {
            enum op op = ops[i];
            u64 before = clean | (ad & 1 ? PTE_A : 0) | (ad & 2 ? PTE_D : 0);
            *(volatile u32 *)(BLOCK + 64) = INSN_ECALL;
            fence_i();
            *(volatile u64 *)pte = before;
            sfence_all();
            u64 need = PTE_A | (writes(op) ? PTE_D : 0);
            bool ok = adue || (before & need) == need;
            struct result r = access(mode, op, va + off, 0);
            u64 after = *(volatile u64 *)pte;
            CHECK_EQ(r.cause, ok ? NO_TRAP : fault_of(op),
                     "Sv%d level %d %s AD %lu ADUE %d mode %d", 12 + 9 * levels, level, op_name[op],
                     ad, adue, mode);
            CHECK_EQ(after, ok ? before | need : before,
                     "PTE after Sv%d level %d %s AD %lu ADUE %d mode %d", 12 + 9 * levels, level,
                     op_name[op], ad, adue, mode);
            if (!ok) {
                CHECK_EQ(r.tval, va + off, "tval of %s AD %lu", op_name[op], ad);
            }
        }
    }
}

/* A translation first used by a load must not let a later store by without setting D. */
static void load_then_store(bool adue)
{
    struct space s;
    space_init_stubs(&s, 3, 0);
    u64 va = test_va(3), *pte = space_map(&s, va, BLOCK, 0, PTE_V | PTE_R | PTE_W | PTE_A);
    u64 clean = *pte;
    space_use(&s);
    CHECK_EQ(access(MODE_S, OP_LD, va, 0).cause, NO_TRAP, "load of a clean page, ADUE %d", adue);
    CHECK_EQ(*(volatile u64 *)pte, clean, "load leaves D, ADUE %d", adue);
    u64 old = *(volatile u64 *)BLOCK;
    struct result r = access(MODE_S, OP_SD, va, ~old);
    CHECK_EQ(r.cause, adue ? NO_TRAP : C_STORE_PAGE, "store to a clean page, ADUE %d", adue);
    CHECK_EQ(*(volatile u64 *)pte, adue ? clean | PTE_D : clean, "store sets D, ADUE %d", adue);
    CHECK_EQ(*(volatile u64 *)BLOCK, adue ? ~old : old, "memory after it, ADUE %d", adue);
    /* Cleaned by software and fenced: must be set again. */
    *(volatile u64 *)pte = clean;
    sfence_va(va, 0);
    r = access(MODE_S, OP_SD, va, old);
    CHECK_EQ(r.cause, adue ? NO_TRAP : C_STORE_PAGE, "store after cleaning, ADUE %d", adue);
    CHECK_EQ(*(volatile u64 *)pte, adue ? clean | PTE_D : clean, "D after cleaning, ADUE %d", adue);
}

/* A refused access does not dirty the page. */
static void refused(void)
{
    static const struct {
        u64 flags;
        enum mode mode;
        const char *why;
    } rows[] = {
        {PTE_V | PTE_R, MODE_S, "read-only"},
        {PTE_V | PTE_R | PTE_X | PTE_A, MODE_S, "read-execute"},
        {PTE_V | PTE_R | PTE_W, MODE_U, "supervisor page from U"},
        {PTE_V | PTE_R | PTE_W | PTE_U, MODE_S, "user page from S, SUM=0"},
        {PTE_V | PTE_W, MODE_S, "reserved W without R"},
        {PTE_R | PTE_W, MODE_S, "invalid"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct space s;
        space_init_stubs(&s, 3, 0);
        u64 *pte = space_map(&s, test_va(3), BLOCK, 0, rows[i].flags);
        space_use(&s);
        CHECK_EQ(access(rows[i].mode, OP_SD, test_va(3), 0).cause, C_STORE_PAGE, "store: %s",
                 rows[i].why);
        CHECK_EQ(*(volatile u64 *)pte & PTE_D, 0, "D after a refused store: %s", rows[i].why);
    }
}

/* Non-leaf PTEs never change. */
static void pointers_untouched(void)
{
    struct space s;
    space_init_stubs(&s, 5, 0);
    u64 va = test_va(5);
    space_map(&s, va, BLOCK, 0, PTE_V | PTE_R | PTE_W);
    u64 before[5];
    for (int l = 1; l < 5; l++) {
        before[l] = *space_slot(&s, va, l);
    }
    space_use(&s);
    CHECK_EQ(access(MODE_S, OP_SD, va, 0).cause, NO_TRAP, "store through five levels");
    for (int l = 1; l < 5; l++) {
        CHECK_EQ(*space_slot(&s, va, l), before[l], "pointer at level %d", l);
    }
}

void guest_main(void)
{
    for (int adue = 0; adue < 2; adue++) {
        csr_write(CSR_MENVCFG, adue ? MENVCFG_ADUE : 0);
        sfence_all();
        for (int levels = 3; levels <= 5; levels++) {
            for (int level = 0; level < levels; level++) {
                matrix(levels, level, adue, MODE_S);
                matrix(levels, level, adue, MODE_U);
            }
        }
        load_then_store(adue);
    }
    refused();
    pointers_untouched();
    csr_write(satp, 0);
    sfence_all();
}
