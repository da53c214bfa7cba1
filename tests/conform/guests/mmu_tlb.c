/*
 * What must become visible, and when: the four forms of sfence.vma, Svinval, ASIDs, global pages,
 * satp writes, Svvptc.  Only what the specification requires is checked: a stale translation before
 * a fence is allowed, one after it is not.
 */
#include "mmu.h"

const char guest_name[] = "mmu_tlb";

#define VA     0x1040000000ul
#define FLAGS  PTE_S_ALL
#define NPAGES 8

static u64 *pages[NPAGES]; /* pages[i][0] == i */

static void load_is(u64 va, u64 want, const char *what, u64 n)
{
    struct result r = access(MODE_S, OP_LD, va, 0);
    CHECK_EQ(r.cause, NO_TRAP, "%s %lu cause", what, n);
    CHECK_EQ(r.value, want, "%s %lu value", what, n);
}

static void sinval_all(void)
{
    __asm__ volatile("sfence.w.inval\n sinval.vma x0, x0\n sfence.inval.ir" ::: "memory");
}
static void sinval_va(u64 va, u64 unused)
{
    (void)unused;
    __asm__ volatile("sfence.w.inval\n sinval.vma %0, x0\n sfence.inval.ir" ::"r"(va) : "memory");
}
static void sinval_asid(u64 unused, u64 asid)
{
    (void)unused;
    __asm__ volatile("sfence.w.inval\n sinval.vma x0, %0\n sfence.inval.ir" ::"r"(asid) : "memory");
}
static void sinval_va_asid(u64 va, u64 asid)
{
    __asm__ volatile("sfence.w.inval\n sinval.vma %0, %1\n sfence.inval.ir" ::"r"(va), "r"(asid)
                     : "memory");
}
static void all(u64 va, u64 asid)
{
    (void)va, (void)asid;
    sfence_all();
}
static void inval_all(u64 va, u64 asid)
{
    (void)va, (void)asid;
    sinval_all();
}
/* The fence executed in S-mode through the mapping itself. */
static void from_s(u64 va, u64 asid)
{
    (void)asid;
    CHECK_EQ(access(MODE_S, OP_SFENCE, va, 0).cause, NO_TRAP, "sfence.vma from S");
}

static const struct {
    const char *name;
    void (*fn)(u64 va, u64 asid);
    bool global;   /* drops global mappings too (rs2 = x0) */
    bool pointers; /* drops cached pointers too (rs1 = x0) */
} fences[] = {
    {"sfence.vma", all, true, true},
    {"sfence.vma va", sfence_va, true, false},
    {"sfence.vma asid", sfence_asid, false, true},
    {"sfence.vma va asid", sfence_va_asid, false, false},
    {"sinval.vma", inval_all, true, true},
    {"sinval.vma va", sinval_va, true, false},
    {"sinval.vma asid", sinval_asid, false, true},
    {"sinval.vma va asid", sinval_va_asid, false, false},
    {"sfence.vma in S", from_s, true, true},
};

/* Change a leaf of each level; the fence with any address inside it must show the change. */
static void leaf_changes(void)
{
    for (size_t f = 0; f < ARRAY_SIZE(fences); f++) {
        for (u64 asid = 0; asid < 3; asid++) {
            struct space s;
            space_init_stubs(&s, 3, asid * 0x5a5);
            u64 *pte = space_map(&s, VA, (u64)pages[0], 0, FLAGS);
            space_use(&s);
            for (u64 i = 0; i < 2 * NPAGES; i++) {
                *(volatile u64 *)pte = PTE_PPN(pages[i % NPAGES]) | FLAGS;
                fences[f].fn(VA + (i * 264 & 0xff8), s.asid);
                load_is(VA, i % NPAGES, fences[f].name, i);
            }
            /* to invalid, to read-only, and back */
            *(volatile u64 *)pte = 0;
            fences[f].fn(VA, s.asid);
            CHECK_EQ(access(MODE_S, OP_LD, VA, 0).cause, C_LOAD_PAGE, "%s: unmapped",
                     fences[f].name);
            *(volatile u64 *)pte = PTE_PPN(pages[1]) | (FLAGS & ~PTE_W);
            fences[f].fn(VA, s.asid);
            load_is(VA, 1, fences[f].name, 100);
            CHECK_EQ(access(MODE_S, OP_SD, VA, 1).cause, C_STORE_PAGE, "%s: read-only",
                     fences[f].name);
            *(volatile u64 *)pte = PTE_PPN(pages[1]) | FLAGS;
            fences[f].fn(VA, s.asid);
            CHECK_EQ(access(MODE_S, OP_SD, VA, 1).cause, NO_TRAP, "%s: writable again",
                     fences[f].name);
        }
    }
}

static void superpage_changes(void)
{
    u64 *const a = (u64 *)(RAM_BASE + 0x1000000), *const b = (u64 *)(RAM_BASE + 0x1200000);
    for (u64 i = 0; i < 512; i++) {
        a[512 * i] = 1000 + i;
        b[512 * i] = 2000 + i;
    }
    for (size_t f = 0; f < ARRAY_SIZE(fences); f++) {
        struct space s;
        space_init_stubs(&s, 4, 7);
        u64 *pte = space_map(&s, VA, (u64)a, 1, FLAGS);
        space_use(&s);
        for (u64 by = 0; by < 512; by += 73) {
            for (u64 i = 0; i < 512; i += 31) {
                load_is(VA + i * PAGE, 1000 + i, "superpage before", i);
            }
            *(volatile u64 *)pte = PTE_PPN(b) | FLAGS;
            fences[f].fn(VA + by * PAGE, s.asid);
            for (u64 i = 0; i < 512; i += 31) {
                load_is(VA + i * PAGE, 2000 + i, fences[f].name, i);
            }
            *(volatile u64 *)pte = PTE_PPN(a) | FLAGS;
            fences[f].fn(VA + (511 - by) * PAGE, s.asid);
        }
    }
}

/* A changed pointer needs rs1 = x0. */
static void pointer_changes(void)
{
    for (size_t f = 0; f < ARRAY_SIZE(fences); f++) {
        if (!fences[f].pointers) {
            continue;
        }
        for (int level = 1; level < 5; level++) {
            struct space s, other;
            space_init_stubs(&s, 5, 9);
            space_init(&other, 5, 9);
            space_map(&s, VA, (u64)pages[2], 0, FLAGS);
            space_map(&other, VA, (u64)pages[3], 0, FLAGS);
            u64 *p = space_slot(&s, VA, level), mine = *p, theirs = *space_slot(&other, VA, level);
            if (level > 2) {
                continue; /* the stubs share the tables above */
            }
            space_use(&s);
            for (int i = 0; i < 4; i++) {
                load_is(VA, 2, "pointer before", (u64)level);
                *(volatile u64 *)p = theirs;
                fences[f].fn(0, s.asid);
                load_is(VA, 3, fences[f].name, (u64)level);
                *(volatile u64 *)p = mine;
                fences[f].fn(0, s.asid);
            }
        }
    }
}

/* Spaces with ASIDs of their own: satp writes alone switch, in any order, without a fence. */
static void asids(void)
{
    enum { SPACES = 6 };
    static const u64 ids[SPACES] = {0, 1, 2, 0x100, 0x7fff, 0xffff};
    static struct space s[SPACES];
    u64 seed = 12345;
    for (int i = 0; i < SPACES; i++) {
        space_init_stubs(&s[i], 3 + i % 3, ids[i]);
        space_map(&s[i], VA, (u64)pages[i], 0, FLAGS);
    }
    sfence_all();
    for (u64 n = 0; n < 600; n++) {
        u64 i = rnd(&seed) >> 32;
        i %= SPACES;
        csr_write(satp, space_satp(&s[i]));
        load_is(VA, i, "asid switch", n);
    }
    /* A fence for one ASID shows its change; the others stay right throughout. */
    for (u64 n = 0; n < 60; n++) {
        u64 i = n % SPACES, value = (n / SPACES) % NPAGES;
        u64 *pte = space_slot(&s[i], VA, 0);
        *(volatile u64 *)pte = PTE_PPN(pages[value]) | FLAGS;
        if (ids[i]) {
            sfence_va_asid(VA, ids[i]);
        } else {
            sfence_va(VA, 0);
        }
        csr_write(satp, space_satp(&s[i]));
        load_is(VA, value, "change under its asid", n);
    }
    /* One ASID reused for another root: needs the fence, and with it must switch. */
    for (u64 i = 0; i < SPACES; i++) {
        s[i].asid = 0x33;
        csr_write(satp, space_satp(&s[i]));
        sfence_asid(0, 0x33);
        u64 value = *(u64 *)((*space_slot(&s[i], VA, 0) >> 10) << 12);
        if (s[i].levels == 3) {
            load_is(VA, value, "reused asid", i);
        }
    }
}

/* Global pages are in every address space; a fence with rs2 = x0 drops them. */
static void globals(void)
{
    static struct space s[3];
    for (u64 i = 0; i < 3; i++) {
        space_init_stubs(&s[i], 3, i + 1);
        space_map(&s[i], VA, (u64)pages[4], 0, FLAGS | PTE_G);
        space_map(&s[i], VA + PAGE, (u64)pages[i], 0, FLAGS);
    }
    sfence_all();
    for (u64 n = 0; n < 12; n++) {
        csr_write(satp, space_satp(&s[n % 3]));
        load_is(VA, 4, "global", n);
        load_is(VA + PAGE, n % 3, "private beside a global", n);
    }
    for (size_t f = 0; f < ARRAY_SIZE(fences); f++) {
        u64 value = 5 + f % 2;
        if (!fences[f].global) {
            continue;
        }
        for (u64 i = 0; i < 3; i++) {
            space_map(&s[i], VA, (u64)pages[value], 0, FLAGS | PTE_G);
        }
        fences[f].fn(VA, 0);
        for (u64 i = 0; i < 3; i++) {
            csr_write(satp, space_satp(&s[i]));
            load_is(VA, value, fences[f].name, i);
        }
    }
    /* A global superpage and a global pointer (G in a pointer covers what is below it). */
    for (u64 i = 0; i < 3; i++) {
        *space_slot(&s[i], VA, 1) |= PTE_G;
    }
    sfence_all();
    for (u64 i = 0; i < 3; i++) {
        csr_write(satp, space_satp(&s[i]));
        load_is(VA, *(u64 *)((*space_slot(&s[i], VA, 0) >> 10) << 12), "global pointer", i);
    }
}

/* "Changing satp.MODE from Bare to other modes and vice versa takes effect immediately". */
static void bare_and_back(void)
{
    struct space s;
    space_init_stubs(&s, 3, 0);
    /* the page that Bare reaches at this address maps to another one */
    u64 pa = (u64)pages[0];
    space_map(&s, pa, (u64)pages[1], 0, FLAGS);
    space_use(&s);
    for (u64 i = 0; i < 10; i++) {
        load_is(pa, 1, "translated", i);
        csr_write(satp, 0);
        CHECK_EQ(access_bare(MODE_S, OP_LD, pa, 0).value, 0, "bare %lu", i);
        csr_write(satp, space_satp(&s));
    }
    csr_write(satp, 0);
}

/* Svvptc: a PTE made valid is seen without a fence "within a bounded timeframe". */
static void svvptc(void)
{
    struct space s;
    space_init_stubs(&s, 3, 0);
    u64 *pte = space_map(&s, VA, 0, 0, 0);
    space_use(&s);
    for (u64 i = 0; i < 50; i++) {
        *(volatile u64 *)pte = 0;
        sfence_all();
        CHECK_EQ(access(MODE_S, OP_LD, VA, 0).cause, C_LOAD_PAGE, "svvptc unmapped %lu", i);
        CHECK_EQ(access(MODE_S, OP_SD, VA, 0).cause, C_STORE_PAGE, "svvptc unmapped store %lu", i);
        *(volatile u64 *)pte = PTE_PPN(pages[i % NPAGES]) | FLAGS;
        struct result r;
        u64 end = *MTIME + TIMEBASE;
        do {
            r = access(MODE_S, OP_LD, VA, 0);
        } while (r.cause != NO_TRAP && *MTIME < end);
        CHECK_EQ(r.value, i % NPAGES, "svvptc becomes visible %lu", i);
    }
}

/* Far more pages than any TLB has entries, twice over, with an unmap in the middle. */
static void capacity(void)
{
    struct space s;
    enum { N = 20000 };
    space_init_stubs(&s, 3, 0);
    for (u64 i = 0; i < N; i++) {
        space_map(&s, VA + i * PAGE, (u64)pages[(i * 7 + i / 512) % NPAGES], 0, FLAGS);
    }
    space_use(&s);
    u64 bad = 0;
    for (int round = 0; round < 2; round++) {
        for (u64 i = 0; i < N; i++) {
            bad += access(MODE_S, OP_LD, VA + i * PAGE, 0).value != (i * 7 + i / 512) % NPAGES;
        }
    }
    CHECK_EQ(bad, 0, "many pages");
    for (u64 i = 0; i < N; i += 3) {
        *space_slot(&s, VA + i * PAGE, 0) = 0;
        sfence_va(VA + i * PAGE, 0);
    }
    for (u64 i = 0; i < N; i++) {
        bad += (access(MODE_S, OP_LD, VA + i * PAGE, 0).cause == NO_TRAP) != (i % 3 != 0);
    }
    CHECK_EQ(bad, 0, "many pages, a third unmapped");
}

/* Fences take any address. */
static void odd_fences(void)
{
    static const u64 vas[] = {1, VA + 1, 1ul << 63, 1ul << 45, ~0ul};
    for (size_t i = 0; i < ARRAY_SIZE(vas); i++) {
        TRY("sfence.vma %0, x0", OUT(), IN("r"(vas[i])));
        check_no_trap("sfence.vma 0x%lx", vas[i]);
        TRY("sfence.vma %0, %1", OUT(), IN("r"(vas[i]), "r"(~0ul)));
        check_no_trap("sfence.vma 0x%lx, -1", vas[i]);
        TRY("sinval.vma %0, %1", OUT(), IN("r"(vas[i]), "r"(~0ul)));
        check_no_trap("sinval.vma 0x%lx, -1", vas[i]);
    }
}

void guest_main(void)
{
    for (u64 i = 0; i < NPAGES; i++) {
        pages[i] = page_alloc();
        pages[i][0] = i;
    }
    csr_write(CSR_MENVCFG, 0);
    leaf_changes();
    superpage_changes();
    pointer_changes();
    asids();
    globals();
    bare_and_back();
    svvptc();
    capacity();
    odd_fences();
    csr_write(satp, 0);
    sfence_all();
}
