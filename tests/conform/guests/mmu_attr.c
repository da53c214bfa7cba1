/*
 * Svnapot (64 KiB pages from 16 PTEs) and Svpbmt (memory types), with every reserved encoding.
 */
#include "mmu.h"

const char guest_name[] = "mmu_attr";

#define VA    0x1040000000ul
#define BLOCK (RAM_BASE + 0x1000000ul)

static u64 *napot_ptes(struct space *s, u64 va, u64 pa, u64 flags)
{
    u64 *first = NULL;
    for (u64 i = 0; i < 16; i++) {
        /* all 16 the same: PPN[3:0] = 1000 says 64 KiB, the page's number comes from the address */
        u64 *pte = space_slot(s, va + i * PAGE, 0);
        *pte = PTE_PPN(pa) | 8ul << 10 | PTE_N | flags;
        first = first ? first : pte;
    }
    return first;
}

static void napot(enum mode mode)
{
    u64 user = mode == MODE_U ? PTE_U : 0;
    for (int levels = 3; levels <= 5; levels++) {
        struct space s;
        space_init_stubs(&s, levels, 0);
        napot_ptes(&s, VA, BLOCK, PTE_S_ALL | user);
        space_use(&s);
        for (u64 i = 0; i < 16; i++) {
            u64 *word = (u64 *)(BLOCK + i * PAGE + 8 * i);
            *word = 0xabcd0000 + i;
            struct result r = access(mode, OP_LD, VA + i * PAGE + 8 * i, 0);
            CHECK_EQ(r.cause, NO_TRAP, "NAPOT page %lu levels %d cause", i, levels);
            CHECK_EQ(r.value, 0xabcd0000 + i, "NAPOT page %lu levels %d value", i, levels);
            r = access(mode, OP_SD, VA + i * PAGE + 8 * i, i);
            CHECK_EQ(*word, i, "NAPOT page %lu levels %d store", i, levels);
            *(u32 *)word = INSN_ECALL;
            fence_i();
            CHECK_EQ(access(mode, OP_FETCH, VA + i * PAGE + 8 * i, 0).cause, NO_TRAP,
                     "NAPOT page %lu levels %d fetch", i, levels);
        }
    }
}

/* Every other PPN[3:0] with N set is reserved at level 0, and N is at every other level. */
static void napot_reserved(void)
{
    struct space s;
    space_init_stubs(&s, 3, 0);
    u64 *pte = space_map(&s, VA, BLOCK, 0, 0);
    space_use(&s);
    for (u64 low = 0; low < 16; low++) {
        *pte = PTE_PPN(BLOCK) | low << 10 | PTE_N | PTE_S_ALL;
        sfence_all();
        CHECK_EQ(access(MODE_S, OP_LD, VA, 0).cause, low == 8 ? NO_TRAP : C_LOAD_PAGE,
                 "N with ppn[3:0] = %lu", low);
        CHECK_EQ(access(MODE_S, OP_SD, VA, 0).cause, low == 8 ? NO_TRAP : C_STORE_PAGE,
                 "N with ppn[3:0] = %lu, store", low);
    }
    for (int levels = 3; levels <= 5; levels++) {
        for (int level = 1; level < levels; level++) {
            space_init_stubs(&s, levels, 0);
            /* aligned superpage, and the same with the 64 KiB pattern in its low PPN */
            u64 va = test_va(levels) & ~(LEVEL_SIZE(level) - 1),
                pa = BLOCK & ~(LEVEL_SIZE(level) - 1);
            pte = space_map(&s, va, pa, level, PTE_S_ALL | PTE_N);
            space_use(&s);
            u64 probe = va + (BLOCK - pa);
            CHECK_EQ(access(MODE_S, OP_LD, probe, 0).cause, C_LOAD_PAGE,
                     "N on a superpage, levels %d level %d", levels, level);
            *pte |= 8ul << 10;
            sfence_all();
            CHECK_EQ(access(MODE_S, OP_LD, probe, 0).cause, C_LOAD_PAGE,
                     "N and pattern on a superpage, levels %d level %d", levels, level);
        }
    }
}

/* sfence.vma with any address of the NAPOT page drops the whole of it. */
static void napot_fence(void)
{
    struct space s;
    space_init_stubs(&s, 3, 1);
    napot_ptes(&s, VA, BLOCK, PTE_S_ALL);
    space_use(&s);
    for (u64 i = 0; i < 16; i++) {
        *(u64 *)(BLOCK + i * PAGE) = i;
        *(u64 *)(BLOCK + 0x10000 + i * PAGE) = 100 + i;
    }
    for (u64 by = 0; by < 16; by++) {
        napot_ptes(&s, VA, BLOCK, PTE_S_ALL);
        sfence_all();
        for (u64 i = 0; i < 16; i++) {
            CHECK_EQ(access(MODE_S, OP_LD, VA + i * PAGE, 0).value, i, "NAPOT before, page %lu", i);
        }
        napot_ptes(&s, VA, BLOCK + 0x10000, PTE_S_ALL);
        sfence_va(VA + by * PAGE, 0);
        for (u64 i = 0; i < 16; i++) {
            CHECK_EQ(access(MODE_S, OP_LD, VA + i * PAGE, 0).value, 100 + i,
                     "NAPOT fenced by page %lu, page %lu", by, i);
        }
    }
}

/* Svadu on a NAPOT page: at least one of the PTEs gets the bits, and the access goes through. */
static void napot_ad(void)
{
    struct space s;
    csr_set(CSR_MENVCFG, MENVCFG_ADUE);
    space_init_stubs(&s, 3, 0);
    u64 *pte = napot_ptes(&s, VA, BLOCK, PTE_V | PTE_R | PTE_W);
    space_use(&s);
    CHECK_EQ(access(MODE_S, OP_SD, VA + 5 * PAGE, 77).cause, NO_TRAP,
             "store to a clean NAPOT page");
    CHECK_EQ(*(u64 *)(BLOCK + 5 * PAGE), 77, "clean NAPOT page value");
    u64 any = 0;
    for (int i = 0; i < 16; i++) {
        any |= pte[i] & PTE_AD;
        CHECK_EQ(pte[i] >> 10, (PTE_PPN(BLOCK) | 8ul << 10 | PTE_N) >> 10, "NAPOT PTE %d PPN", i);
    }
    CHECK_EQ(any, PTE_AD, "A and D set in a NAPOT page");
    csr_clear(CSR_MENVCFG, MENVCFG_ADUE);
}

/* PBMT 1 (NC) and 2 (IO) override the memory type of a leaf; 3 is reserved. */
static void pbmt(void)
{
    for (int pbmte = 0; pbmte < 2; pbmte++) {
        csr_clear(CSR_MENVCFG, MENVCFG_PBMTE);
        csr_set(CSR_MENVCFG, pbmte ? MENVCFG_PBMTE : 0);
        for (int levels = 3; levels <= 5; levels++) {
            for (int level = 0; level < levels; level++) {
                struct space s;
                space_init_stubs(&s, levels, 0);
                u64 va = test_va(levels) & ~(LEVEL_SIZE(level) - 1),
                    pa = BLOCK & ~(LEVEL_SIZE(level) - 1);
                for (u64 type = 0; type < 4; type++) {
                    space_map(&s, va, pa, level, PTE_S_ALL | PTE_PBMT(type));
                    space_use(&s);
                    u64 probe = va + (BLOCK - pa) + 64;
                    bool ok = type == 0 || (pbmte && type < 3);
                    *(u64 *)(BLOCK + 64) = 0x1234567800000073ul;
                    fence_i();
                    static const enum op ops[] = {OP_LD, OP_SD, OP_FETCH};
                    for (size_t o = 0; o < 3; o++) {
                        CHECK_EQ(access(MODE_S, ops[o], probe, 0x73).cause,
                                 ok ? NO_TRAP : fault_of(ops[o]),
                                 "%s PBMT %lu PBMTE %d levels %d level %d", op_name[ops[o]], type,
                                 pbmte, levels, level);
                    }
                }
                if (level == 0) {
                    continue;
                }
                /* in a pointer: reserved whatever PBMTE says */
                space_init_stubs(&s, levels, 0);
                va = test_va(levels);
                space_map(&s, va, BLOCK, 0, PTE_S_ALL);
                *space_slot(&s, va, level) |= PTE_PBMT(1);
                space_use(&s);
                CHECK_EQ(access(MODE_S, OP_LD, va, 0).cause, C_LOAD_PAGE,
                         "PBMT in a pointer, PBMTE %d levels %d level %d", pbmte, levels, level);
            }
        }
    }
    /* Both at once. */
    struct space s;
    space_init_stubs(&s, 3, 0);
    napot_ptes(&s, VA, BLOCK, PTE_S_ALL | PTE_PBMT(1));
    space_use(&s);
    CHECK_EQ(access(MODE_S, OP_LD, VA + 3 * PAGE, 0).cause, NO_TRAP, "NAPOT with PBMT");
    csr_clear(CSR_MENVCFG, MENVCFG_PBMTE);
}

void guest_main(void)
{
    csr_write(CSR_MENVCFG, 0);
    napot(MODE_S);
    napot(MODE_U);
    napot_reserved();
    napot_fence();
    napot_ad();
    pbmt();
    csr_write(satp, 0);
    sfence_all();
}
