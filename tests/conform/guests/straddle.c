/*
 * An instruction whose halves lie on two pages: both pages' contents and mappings count, each time,
 * however often the instruction has run before.
 */
#include "mmu.h"

const char guest_name[] = "straddle";

#define ROUNDS 60
#define VA     0x1040500000ul
#define AT     (VA + PAGE - 2)

enum { ADDI_A0 = 0x0513, LUI_A0 = 0x0537 }; /* first halves */
/* What follows the second half: a loop back to the instruction, a1 times. */
enum { C_ADDI_A1_MINUS_1 = 0x15fd, C_BNEZ_A1_MINUS_6 = 0xfded, C_JR_RA = 0x8082 };

static u16 pages[3][PAGE / 2] __attribute__((aligned(4096))); /* 1 and 2: what may come second */

static void write_second(u64 page, u16 half)
{
    volatile u16 *at = pages[page];
    at[0] = half;
    at[1] = C_ADDI_A1_MINUS_1;
    at[2] = C_BNEZ_A1_MINUS_6;
    at[3] = C_JR_RA;
}

static void write_first(u16 half)
{
    ((volatile u16 *)pages[0])[PAGE / 2 - 1] = half;
}

/* In S-mode. */
static u64 s_call(u64 at, u64 unused)
{
    (void)unused;
    register u64 a0 __asm__("a0") = 7777;
    register u64 a1 __asm__("a1") = 3;
    __asm__ volatile("la t5, 1f\n sd t5, 0(tp)\n jalr ra, %2\n1: sd zero, 0(tp)"
                     : "+r"(a0), "+r"(a1)
                     : "r"(at)
                     : "ra", "t5", "memory");
    return a0;
}

static void runs(u64 want, const char *what)
{
    for (u64 i = 0; i < ROUNDS; i++) {
        trap_clear();
        CHECK_EQ(run_mode(MODE_S, s_call, AT, 0), want, "%s, run %lu", what, i);
        CHECK_EQ(self()->t.count, 0, "%s traps", what);
    }
}

static void traps(const char *what)
{
    for (u64 i = 0; i < 3; i++) {
        trap_clear();
        (void)run_mode(MODE_S, s_call, AT, 0);
        CHECK_EQ(self()->t.cause, C_FETCH_PAGE, "%s: cause", what);
        CHECK_EQ(self()->t.epc, AT, "%s: epc", what);
        CHECK_EQ(self()->t.tval, VA + PAGE, "%s: tval", what);
    }
}

void guest_main(void)
{
    struct space space;
    space_init_stubs(&space, 3, 3);
    space_map(&space, RAM_BASE, RAM_BASE, 2, PTE_S_ALL);
    space_map(&space, VA, (u64)pages[0], 0, PTE_S_ALL);
    volatile u64 *slot = space_map(&space, VA + PAGE, (u64)pages[1], 0, PTE_S_ALL);
    space_use(&space);
    write_first(ADDI_A0);
    write_second(2, 99 << 4);
    for (u64 i = 0; i < 8; i++) {
        write_second(1, (u16)(i << 4));
        fence_i();
        runs(i, "second half rewritten");
        write_first(LUI_A0);
        fence_i();
        runs(i << 20, "first half rewritten");
        write_first(ADDI_A0);
        fence_i();
        runs(i, "and back");
        *slot = PTE_PPN(pages[2]) | PTE_S_ALL;
        sfence_va(VA + PAGE, 0);
        runs(99, "second page mapped elsewhere");
        *slot = 0;
        sfence_va_asid(VA + PAGE, 3);
        traps("second page not mapped");
        *slot = PTE_PPN(pages[1]) | PTE_S_ALL;
        sfence_asid(0, 3);
        runs(i, "mapped as before");
    }
}
