/*
 * Self-modifying code: after fence.i a hart runs what its stores wrote, wherever the code lies and
 * however it was written; after sfence.vma it runs what the page tables now say.
 */
#include "mmu.h"

const char guest_name[] = "smc";

static u32 code[2048] __attribute__((aligned(4096)));

typedef u64 fn_t(void);

static u32 li_a0(u32 v)
{
    return 0x00000513u | v << 20; /* addi a0, x0, v */
}

enum { RET = 0x00008067 };

static void write_fn(u32 *p, u32 v)
{
    p[0] = li_a0(v);
    p[1] = RET;
}

static u64 call(const void *p)
{
    return ((fn_t *)p)();
}

static void simple(void)
{
    for (u32 i = 0; i < 1000; i++) {
        write_fn(code, i);
        fence_i();
        CHECK_EQ(call(code), i, "rewritten function %u", i);
        CHECK_EQ(call(code), i, "called again %u", i);
    }
}

/* Every store width, and stores that are not simple stores, changing the immediate in place. */
static void by_width(void)
{
    static const char *const names[] = {
        "sb", "sh", "sw", "sd", "amoswap.w", "amoswap.d", "sc.w", "misaligned sw", "sd over two"};
    u8 *p = (u8 *)code;
    for (u32 round = 0; round < 20; round++) {
        for (u32 k = 0; k < ARRAY_SIZE(names); k++) {
            write_fn(code, 1);
            fence_i();
            CHECK_EQ(call(code), 1, "before %s", names[k]);
            u32 v = 2 + round * 16 + k, insn = li_a0(v);
            u64 both = insn | (u64)RET << 32, old;
            switch (k) {
            case 0:
                *(volatile u8 *)(p + 3) = (u8)(insn >> 24);
                *(volatile u8 *)(p + 2) = (u8)(insn >> 16);
                break;
            case 1:
                *(volatile u16 *)(p + 2) = (u16)(insn >> 16);
                break;
            case 2:
                *(volatile u32 *)p = insn;
                break;
            case 3:
                *(volatile u64 *)p = both;
                break;
            case 4:
                __asm__ volatile("amoswap.w x0, %0, (%1)" ::"r"(insn), "r"(p) : "memory");
                break;
            case 5:
                __asm__ volatile("amoswap.d x0, %0, (%1)" ::"r"(both), "r"(p) : "memory");
                break;
            case 6:
                do {
                    __asm__ volatile("lr.w %0, (%2)\n sc.w %0, %1, (%2)"
                                     : "=&r"(old)
                                     : "r"(insn), "r"(p)
                                     : "memory");
                } while (old);
                break;
            case 7:
                __asm__ volatile("sw %0, 1(%1)" ::"r"(insn >> 8 | 0x67u << 24), "r"(p) : "memory");
                break;
            default:
                *(volatile u64 *)(code + 0) = both;
                break;
            }
            fence_i();
            CHECK_EQ(call(code), v, "after %s", names[k]);
        }
    }
}

/* Code at and across a page end; each half changed alone. */
static void across_pages(void)
{
    u16 *p = (u16 *)((u8 *)code + PAGE - 2);
    for (u32 i = 0; i < 200; i++) {
        u32 insn = li_a0(i);
        p[0] = (u16)insn;
        p[1] = (u16)(insn >> 16);
        p[2] = 0x8082; /* c.jr ra */
        fence_i();
        CHECK_EQ(call(p), i, "across a page end %u", i);
        p[1] = (u16)(li_a0(i + 1000) >> 16);
        fence_i();
        CHECK_EQ(call(p), i + 1000, "second half changed %u", i);
        p[0] = (u16)(insn | 0x80); /* rd = a1: a0 keeps what it had */
        p[0] = (u16)insn;
        fence_i();
        CHECK_EQ(call(p), i + 1000, "first half written back %u", i);
    }
    /* a block that falls from one page into the next, changed in the second only */
    u32 *q = code + 1024 - 2;
    for (u32 i = 0; i < 100; i++) {
        q[0] = li_a0(1);
        q[1] = 0x00150513; /* addi a0, a0, 1 */
        q[2] = 0x00050513 | i << 20;
        q[3] = RET;
        fence_i();
        CHECK_EQ(call(q), 2 + i, "block over a page end %u", i);
    }
}

/* The function rewrites its own next instruction, with fence.i between. */
static void self_patch(void)
{
    u64 v;
    for (u64 i = 0; i < 100; i++) {
        u32 insn = li_a0((u32)i);
        __asm__ volatile(".option push\n.option norvc\n"
                         "la t0, 1f\n sw %1, 0(t0)\n fence.i\n"
                         "1: li a0, 2047\n mv %0, a0\n.option pop"
                         : "=r"(v)
                         : "r"(insn)
                         : "t0", "a0", "memory");
        CHECK_EQ(v, i, "patched ahead %lu", i);
    }
    /* A loop whose body changes each time round. */
    __asm__ volatile(".option push\n.option norvc\n"
                     "li t1, 10\n li %0, 0\n la t0, 1f\n lw t2, 0(t0)\n mv t3, t2\n"
                     "2:\n1: addi %0, %0, 1\n"
                     "lui t4, 0x100\n add t2, t2, t4\n sw t2, 0(t0)\n fence.i\n"
                     "addi t1, t1, -1\n bnez t1, 2b\n sw t3, 0(t0)\n fence.i\n.option pop"
                     : "=&r"(v)::"t0", "t1", "t2", "t3", "t4", "memory");
    CHECK_EQ(v, 55, "loop that increments its own increment");
}

/* A jump target inside an instruction run before: both decodings stay valid. */
static void overlapping(void)
{
    /* lui a5, 0x80820 ends in the halfword 0x8082 = c.jr ra */
    code[0] = li_a0(7);
    code[1] = 0x808207b7;
    code[2] = li_a0(9);
    code[3] = RET;
    fence_i();
    register u64 a0 __asm__("a0");
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(call(code), 9, "over the lui %d", i);
        __asm__ volatile("li a0, 3\n jalr %1"
                         : "=r"(a0)
                         : "r"((u8 *)code + 6)
                         : "ra", "a5", "memory");
        CHECK_EQ(a0, 3, "into the lui %d", i);
    }
}

/* Many functions in one page; changing one leaves the others, and data beside code may change. */
static void neighbours(void)
{
    for (u32 i = 0; i < 256; i++) {
        write_fn(code + 4 * i, i);
    }
    fence_i();
    for (u32 n = 0; n < 256; n++) {
        write_fn(code + 4 * n, n + 1000);
        code[4 * n + 2] = n; /* data in the same page */
        fence_i();
        u64 bad = 0;
        for (u32 i = 0; i < 256; i++) {
            bad += call(code + 4 * i) != (i <= n ? i + 1000 : i);
        }
        CHECK_EQ(bad, 0, "neighbours after changing %u", n);
    }
}

/* Written through one mapping, run through another. */
static void aliases(void)
{
    struct space s;
    u64 va = 0x1040000000ul;
    u32 *page = page_alloc();
    space_init_stubs(&s, 3, 0);
    space_map(&s, va, (u64)page, 0, PTE_V | PTE_R | PTE_W | PTE_AD);
    space_map(&s, va + PAGE, (u64)page, 0, PTE_V | PTE_X | PTE_A);
    space_use(&s);
    page[1] = INSN_ECALL;
    for (u32 i = 0; i < 100; i++) {
        CHECK_EQ(access(MODE_S, OP_SW, va, li_a0(i)).cause, NO_TRAP, "store by an alias %u", i);
        fence_i();
        struct result r = access(MODE_S, OP_FETCH, va + PAGE, 0);
        CHECK_EQ(r.value, i, "run by another alias %u", i);
        page[0] = li_a0(i + 1000);
        fence_i();
        CHECK_EQ(access(MODE_S, OP_FETCH, va + PAGE, 0).value, i + 1000, "physical store %u", i);
    }
    csr_write(satp, 0);
    sfence_all();
}

/* The same virtual address, other physical pages: only the page tables change, so no fence.i. */
static void remapped(void)
{
    enum { N = 4 };
    struct space s, other;
    u64 va = 0x1040000000ul;
    u32 *pages[N];
    space_init_stubs(&s, 3, 1);
    space_init_stubs(&other, 3, 2);
    for (u32 i = 0; i < N; i++) {
        pages[i] = page_alloc();
        pages[i][0] = li_a0(i + 1);
        pages[i][1] = INSN_ECALL;
        pages[i][1023] = li_a0(i + 100); /* runs on into the next page */
    }
    fence_i();
    u64 *pte = space_map(&s, va, 0, 0, 0), *next = space_map(&s, va + PAGE, 0, 0, 0);
    space_use(&s);
    for (u32 i = 0; i < 400; i++) {
        *pte = PTE_PPN(pages[i % N]) | PTE_V | PTE_X | PTE_A;
        sfence_va(va, 0);
        CHECK_EQ(access(MODE_S, OP_FETCH, va, 0).value, i % N + 1, "remapped code %u", i);
    }
    /* The end of one page into another that changes. */
    for (u32 i = 0; i < 100; i++) {
        *pte = PTE_PPN(pages[i % N]) | PTE_V | PTE_X | PTE_A;
        *next = PTE_PPN(pages[i / N % N]) | PTE_V | PTE_X | PTE_A;
        sfence_all();
        struct result r = access(MODE_S, OP_FETCH, va + PAGE - 4, 0);
        CHECK_EQ(r.value, i / N % N + 1, "fell into the next page %u", i);
        CHECK_EQ(r.epc, va + PAGE + 4, "fell into the next page %u epc", i);
    }
    *next = 0;
    sfence_all();
    CHECK_EQ(access(MODE_S, OP_FETCH, va + PAGE - 4, 0).cause, C_FETCH_PAGE, "next page gone");
    *pte = PTE_PPN(pages[0]) | PTE_V | PTE_R | PTE_A;
    sfence_all();
    CHECK_EQ(access(MODE_S, OP_FETCH, va, 0).cause, C_FETCH_PAGE, "no longer executable");
    /* Two address spaces with other code at the same address. */
    *pte = PTE_PPN(pages[0]) | PTE_V | PTE_X | PTE_A;
    space_map(&other, va, (u64)pages[1], 0, PTE_V | PTE_X | PTE_A);
    sfence_all();
    for (u32 i = 0; i < 100; i++) {
        csr_write(satp, space_satp(i & 1 ? &other : &s));
        CHECK_EQ(access(MODE_S, OP_FETCH, va, 0).value, (i & 1) + 1, "two address spaces %u", i);
    }
    csr_write(satp, 0);
    sfence_all();
}

/* U and S run the same physical code; what S may not run it must not run from a cache either. */
static void modes(void)
{
    struct space s;
    u64 va = 0x1040000000ul;
    u32 *page = page_alloc();
    page[0] = li_a0(5);
    page[1] = INSN_ECALL;
    fence_i();
    space_init_stubs(&s, 3, 0);
    space_map(&s, va, (u64)page, 0, PTE_V | PTE_X | PTE_A | PTE_U);
    space_map(&s, va + PAGE, (u64)page, 0, PTE_V | PTE_X | PTE_A);
    space_use(&s);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(access(MODE_U, OP_FETCH, va, 0).cause, NO_TRAP, "user code from U %d", i);
        CHECK_EQ(access(MODE_S, OP_FETCH, va, 0).cause, C_FETCH_PAGE, "user code from S %d", i);
        CHECK_EQ(access(MODE_S, OP_FETCH, va + PAGE, 0).cause, NO_TRAP, "code from S %d", i);
        CHECK_EQ(access(MODE_U, OP_FETCH, va + PAGE, 0).cause, C_FETCH_PAGE, "code from U %d", i);
    }
    csr_write(satp, 0);
    sfence_all();
}

void guest_main(void)
{
    csr_write(CSR_MENVCFG, 0);
    simple();
    by_width();
    across_pages();
    self_patch();
    overlapping();
    neighbours();
    aliases();
    remapped();
    modes();
}
