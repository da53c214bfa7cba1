/*
 * Indirect jumps and calls that led to one place for long, and then lead elsewhere, or to the same
 * address with other code behind it: rewritten, mapped elsewhere, mapped nowhere. A machine may
 * remember where a jump went; where it goes is decided by its register, and what runs there by
 * memory and page tables at that time.
 */
#include "mmu.h"

const char guest_name[] = "indirect";

#define ROUNDS 200 /* enough for anything that is done only to code that runs often */

/* One call and one jump through a1 for each test: what they remember is of that test only. */
#define SITES(name)                                                                                \
    __asm__(".text\n" name "_call: addi sp, sp, -16\n sd ra, 0(sp)\n jalr ra, a1\n"                \
            " ld ra, 0(sp)\n addi sp, sp, 16\n ret\n" name "_jump: jr a1\n")
SITES("steady");
SITES("rewritten");
SITES("remapped");
extern const u8 steady_call[], steady_jump[], rewritten_call[], rewritten_jump[], remapped_call[],
    remapped_jump[];

__asm__(".text\n give_1: li a0, 1\n ret\n give_2: li a0, 2\n ret\n");
extern const u8 give_1[], give_2[];

static u64 go(const void *site, const void *to)
{
    register u64 a0 __asm__("a0") = 0;
    register u64 a1 __asm__("a1") = (u64)to;
    __asm__ volatile("jalr ra, %1" : "+r"(a0) : "r"(site), "r"(a1) : "ra", "memory");
    return a0;
}

static void steady(const u8 *site)
{
    for (u64 i = 0; i < ROUNDS; i++)
        CHECK_EQ(go(site, give_1), 1, "the same place");
    for (u64 i = 0; i < ROUNDS; i++)
        CHECK_EQ(go(site, i % 3 ? give_2 : give_1), i % 3 ? 2 : 1, "then one of two, turn %lu", i);
    for (u64 i = 0; i < ROUNDS; i++)
        CHECK_EQ(go(site, give_2), 2, "then the other");
}

static u32 code[1024] __attribute__((aligned(4096)));

static void write_giver(u32 *p, u32 v)
{
    p[0] = 0x00000513u | v << 20; /* li a0, v */
    p[1] = 0x00008067;            /* ret */
}

static void rewritten(const u8 *site)
{
    u32 written = ~0u;
    for (u32 i = 0; i < 8 * ROUNDS; i++) {
        u32 version = i < ROUNDS ? 0 : i < 7 * ROUNDS ? i / 60 : i;
        if (version != written) {
            write_giver(code, version);
            fence_i();
        }
        written = version;
        CHECK_EQ(go(site, code), version, "to new code, turn %u", i);
    }
}

#define VA   0x1040500000ul
#define ASID 5

static u32 pages[2][1024] __attribute__((aligned(4096)));

/* In S-mode; what it leads to may not be mapped. */
static u64 s_go(u64 site, u64 to)
{
    register u64 a0 __asm__("a0") = 0;
    register u64 a1 __asm__("a1") = to;
    __asm__ volatile("la t5, 1f\n sd t5, 0(tp)\n mv s2, sp\n jalr ra, %1\n1: sd zero, 0(tp)\n"
                     " mv sp, s2"
                     : "+r"(a0)
                     : "r"(site), "r"(a1)
                     : "ra", "s2", "t5", "memory");
    return a0;
}

static void remapped(u64 *slot, const u8 *site)
{
    for (u32 version = 0; version < 2; version++)
        write_giver(pages[version], 1 + version);
    fence_i();
    for (u64 i = 0; i < 4 * ROUNDS; i++) {
        u64 version = i < ROUNDS ? 0 : i / 5 % 3; /* 2: none */
        *(volatile u64 *)slot = version < 2 ? PTE_PPN(pages[version]) | PTE_S_ALL : 0;
        if (i < ROUNDS ? i == 0 : i % 5 == 0)
            sfence_all();
        trap_clear();
        u64 got = run_mode(MODE_S, s_go, (u64)site, VA);
        CHECK_EQ(self()->t.count, version == 2, "turn %lu: traps", i);
        if (version < 2) {
            CHECK_EQ(got, 1 + version, "turn %lu: to the page that is there now", i);
        } else {
            CHECK_EQ(self()->t.cause, C_FETCH_PAGE, "turn %lu: cause", i);
            CHECK_EQ(self()->t.epc, VA, "turn %lu: epc", i);
        }
    }
}

void guest_main(void)
{
    steady(steady_call);
    steady(steady_jump);
    rewritten(rewritten_call);
    rewritten(rewritten_jump);
    struct space space;
    space_init_stubs(&space, 3, ASID);
    space_map(&space, RAM_BASE, RAM_BASE, 2, PTE_S_ALL);
    space_map(&space, VA, (u64)pages[0], 0, PTE_S_ALL);
    space_use(&space);
    u64 *slot = space_slot(&space, VA, 0);
    remapped(slot, remapped_call);
    remapped(slot, remapped_jump);
}
