/*
 * Returns that are none of the expected ones. A machine may predict or pair calls and returns as it
 * likes; where a return goes is decided by its register, and what runs there by memory and page
 * tables at that time.
 */
#include "mmu.h"

const char guest_name[] = "returns";

#define ROUNDS 200 /* enough for anything that is done only to code that runs often */

static u8 stacks[2][1 << 20] __attribute__((aligned(4096)));

/* ---- depth ---- */

/* a0 = n + (n - 1) + ... + 1 in n nested calls, 16 bytes of stack each. */
__asm__(".text\n"
        "nested: beqz a0, 1f\n"
        " addi sp, sp, -16\n sd ra, 0(sp)\n sd a0, 8(sp)\n"
        " addi a0, a0, -1\n jal ra, nested\n"
        " ld t1, 8(sp)\n add a0, a0, t1\n ld ra, 0(sp)\n addi sp, sp, 16\n"
        "1: ret\n");

static u64 call_nested(u64 n)
{
    register u64 a0 __asm__("a0") = n;
    __asm__ volatile("mv s2, sp\n mv sp, %1\n jal ra, nested\n mv sp, s2"
                     : "+r"(a0)
                     : "r"(stacks[0] + sizeof(stacks[0]))
                     : "ra", "t1", "s2", "memory");
    return a0;
}

static void deep(void)
{
    static const u64 depths[] = {1, 30, 4000, 4095, 4096, 4097, 8200, 60000, 3, 4094};
    for (u64 round = 0; round < 3; round++)
        for (size_t i = 0; i < ARRAY_SIZE(depths); i++)
            CHECK_EQ(call_nested(depths[i]), depths[i] * (depths[i] + 1) / 2, "%lu nested calls",
                     depths[i]);
}

/* ---- other returns than the calls' ---- */

/* a0: how far down; a1: from the bottom, one jump (longjmp) goes back to where a0 was that.
 * a2 counts ordinary returns. */
__asm__(".text\n"
        "unwind: addi sp, sp, -16\n sd ra, 0(sp)\n"
        " bne a0, a1, 1f\n mv s3, sp\n"
        "1: beqz a0, 2f\n addi a0, a0, -1\n jal ra, unwind\n addi a2, a2, 1\n"
        " ld ra, 0(sp)\n addi sp, sp, 16\n ret\n"
        "2: mv sp, s3\n ld ra, 0(sp)\n addi sp, sp, 16\n ret\n");

static u64 call_unwind(u64 depth, u64 to)
{
    register u64 a0 __asm__("a0") = depth;
    register u64 a1 __asm__("a1") = to;
    register u64 a2 __asm__("a2") = 0;
    __asm__ volatile("jal ra, unwind" : "+r"(a0), "+r"(a2) : "r"(a1) : "ra", "s3", "memory");
    return a2;
}

static void unwinding(void)
{
    u64 seed = 1;
    for (u64 round = 0; round < 4 * ROUNDS; round++) {
        u64 depth = rnd(&seed) % 60, to = rnd(&seed) % (depth + 1);
        CHECK_EQ(call_unwind(depth, to), depth - to, "longjmp from %lu to %lu", depth, to);
    }
}

/* Two coroutines that change places by returning into each other. */
__asm__(".text\n"
        "co_switch: sd ra, 0(a3)\n sd sp, 8(a3)\n ld ra, 0(a4)\n ld sp, 8(a4)\n"
        " mv t2, a3\n mv a3, a4\n mv a4, t2\n ret\n"
        "co_other: jal ra, co_deeper\n j co_other\n"
        "co_deeper: addi sp, sp, -16\n sd ra, 0(sp)\n slli a0, a0, 1\n jal ra, co_switch\n"
        " addi a0, a0, 3\n jal ra, co_switch\n ld ra, 0(sp)\n addi sp, sp, 16\n ret\n"
        "co_main: addi sp, sp, -16\n sd ra, 0(sp)\n"
        "1: jal ra, co_switch\n addi a1, a1, -1\n bnez a1, 1b\n"
        " ld ra, 0(sp)\n addi sp, sp, 16\n ret\n");

extern const u8 co_other[];

static void coroutines(void)
{
    u64 want = 1;
    u64 main_context[2] = {0}, other_context[2] = {(u64)co_other, (u64)stacks[1]};
    other_context[1] += sizeof(stacks[1]);
    register u64 a0 __asm__("a0") = 1;
    register u64 a1 __asm__("a1") = ROUNDS;
    register u64 a3 __asm__("a3") = (u64)main_context;
    register u64 a4 __asm__("a4") = (u64)other_context;
    __asm__ volatile("jal ra, co_main"
                     : "+r"(a0), "+r"(a1), "+r"(a3), "+r"(a4)
                     :
                     : "ra", "t2", "memory");
    for (u64 i = 0; i < ROUNDS; i++)
        want = i % 2 ? want + 3 : want * 2;
    CHECK_EQ(a0, want, "coroutines");
}

/* How the callee's return differs from what the call left in its link register. */
__asm__(".text\n"
        "skip_4: addi ra, ra, 4\n ret\n"
        "odd: ori ra, ra, 1\n ret\n"
        "by_t0: mv t0, ra\n jr t0\n"
        "through_t0: jr t0\n");

#define RETURNING(call) /* 1: the instruction behind the call was run, 2: the one after it */      \
    ({                                                                                             \
        u64 got_ = 0;                                                                              \
        __asm__ volatile(".option push\n .option norvc\n" call                                     \
                         "\n addi %0, %0, 1\n addi %0, %0, 2\n .option pop"                        \
                         : "+r"(got_)                                                              \
                         :                                                                         \
                         : "ra", "t0", "memory");                                                  \
        got_;                                                                                      \
    })

static void near_misses(void)
{
    for (u64 i = 0; i < ROUNDS; i++) {
        CHECK_EQ(RETURNING("jal ra, skip_4"), 2, "return behind the next instruction");
        CHECK_EQ(RETURNING("jal ra, odd"), 3, "return to an odd address");
        CHECK_EQ(RETURNING("jal ra, by_t0"), 3, "return through another register");
        CHECK_EQ(RETURNING("jal t0, through_t0"), 3, "call and return through t0");
        CHECK_EQ(RETURNING("la ra, 1f\n j through_ra\n through_ra: ret\n1:"), 3,
                 "return without a call");
    }
}

/* A return to nowhere: the odd and the even address that no instruction can have. */
static void nowhere(void)
{
    for (u64 i = 0; i < ROUNDS; i++) {
        for (u64 odd = 0; odd < 2; odd++) {
            u64 to = ~1ul + odd;
            trap_clear();
            __asm__ volatile("la t5, 1f\n sd t5, 0(tp)\n mv ra, %0\n ret\n1: sd zero, 0(tp)"
                             :
                             : "r"(to)
                             : "t5", "ra", "memory");
            CHECK_EQ(self()->t.cause, C_FETCH_ACCESS, "return to %lx: cause", to);
            CHECK_EQ(self()->t.epc, ~1ul, "return to %lx: epc", to);
            CHECK_EQ(self()->t.tval, ~1ul, "return to %lx: tval", to);
        }
    }
}

/* ---- code that changes while a call is under way ---- */

static u32 code[2048] __attribute__((aligned(4096)));

enum {
    MV_T3_RA = 0x00008e13,
    JALR_A1 = 0x000580e7,
    JR_T3 = 0x000e0067,
};

static u32 li_a0(u32 v)
{
    return 0x00000513u | v << 20;
}

/* t3 keeps the way home: callees leave it alone. */
static void write_caller(u32 *p, u32 v)
{
    p[0] = MV_T3_RA;
    p[1] = JALR_A1;
    p[2] = li_a0(v);
    p[3] = JR_T3;
}

/* a0: what to write to *a2. */
__asm__(".text\n rewrite: sw a0, 0(a2)\n fence.i\n ret\n");
extern const u8 rewrite[];

static u64 call_code(const void *at, const void *callee, u64 arg0, u64 arg2)
{
    register u64 a0 __asm__("a0") = arg0;
    register u64 a1 __asm__("a1") = (u64)callee;
    register u64 a2 __asm__("a2") = arg2;
    __asm__ volatile("jalr ra, %1"
                     : "+r"(a0)
                     : "r"(at), "r"(a1), "r"(a2)
                     : "ra", "t1", "t3", "memory");
    return a0;
}

static void rewritten(void)
{
    write_caller(code, 1);
    fence_i();
    for (u32 i = 0; i < ROUNDS; i++)
        CHECK_EQ(call_code(code, rewrite, li_a0(i), (u64)&code[2]), i, "return to new code %u", i);
}

/* ---- mappings and modes that change while a call is under way ---- */

#define VA      0x1040500000ul /* two pages: the first stays, the second changes */
#define VA_DATA 0x1040502000ul /* of U-mode */
#define ASID    5

static u32 pages[4][1024] __attribute__((aligned(4096)));

/* a0: the PTE to store to *a2; then one of the fences. */
__asm__(".text\n"
        "remap_all: sd a0, 0(a2)\n sfence.vma\n ret\n"
        "remap_va: sd a0, 0(a2)\n li t1, 0x1040501000\n sfence.vma t1\n ret\n"
        "remap_asid: sd a0, 0(a2)\n li t1, 5\n sfence.vma x0, t1\n ret\n"
        "remap_both: sd a0, 0(a2)\n li t1, 5\n li t2, 0x1040501000\n sfence.vma t2, t1\n ret\n"
        "plain: ret\n"
        "toggle_sum: csrr t1, sstatus\n xor t1, t1, a0\n csrw sstatus, t1\n ret\n");
extern const u8 remap_all[], remap_va[], remap_asid[], remap_both[], plain[], toggle_sum[];

static const struct {
    const char *name;
    const u8 *callee;
} remaps[] = {
    {"sfence.vma", remap_all},
    {"sfence.vma va", remap_va},
    {"sfence.vma asid", remap_asid},
    {"sfence.vma va asid", remap_both},
};

static struct {
    u64 at; /* of the caller */
    const u8 *callee;
    u64 *slot;
} remap;

/* In S-mode; what the return leads to may not be mapped. */
static u64 s_remapped(u64 pte, u64 unused)
{
    (void)unused;
    register u64 a0 __asm__("a0") = pte;
    register u64 a1 __asm__("a1") = (u64)remap.callee;
    register u64 a2 __asm__("a2") = (u64)remap.slot;
    __asm__ volatile("la t5, 1f\n sd t5, 0(tp)\n jalr ra, %1\n1: sd zero, 0(tp)"
                     : "+r"(a0)
                     : "r"(remap.at), "r"(a1), "r"(a2)
                     : "ra", "t1", "t2", "t3", "t5", "memory");
    return a0;
}

/* The caller begins `offset` bytes behind VA; pages 1 and 2 are what may be in its second page. */
static void place_caller(u64 offset)
{
    for (u32 version = 1; version < 3; version++) {
        u32 words[4];
        write_caller(words, version);
        for (u64 i = 0; i < ARRAY_SIZE(words); i++) {
            u64 at = offset + 4 * i;
            pages[at < PAGE ? 0 : version][at % PAGE / 4] = words[i];
        }
    }
    fence_i();
}

static void remapped(struct space *space, u64 offset)
{
    u64 *slot = space_slot(space, VA + PAGE, 0);
    remap.at = VA + offset;
    remap.slot = slot;
    place_caller(offset);
    for (size_t k = 0; k < ARRAY_SIZE(remaps); k++) {
        *(volatile u64 *)slot = PTE_PPN(pages[1]) | PTE_S_ALL;
        sfence_all();
        u64 version = 1;
        for (u64 i = 0; i < ROUNDS; i++) {
            bool change = i % 5 == 4;
            version = change ? 3 - version : version;
            remap.callee = change ? remaps[k].callee : plain;
            u64 pte = PTE_PPN(pages[version]) | PTE_S_ALL;
            trap_clear();
            CHECK_EQ(run_mode(MODE_S, s_remapped, pte, 0), version, "%s: return %lu to a new page",
                     remaps[k].name, i);
        }
        for (u64 i = 0; i < ROUNDS; i++) {
            bool change = i % 5 == 4;
            remap.callee = change ? remaps[k].callee : plain;
            trap_clear();
            (void)run_mode(MODE_S, s_remapped, 0, 0);
            CHECK_EQ(self()->t.count, change, "%s: traps", remaps[k].name);
            if (change) {
                CHECK_EQ(self()->t.cause, C_FETCH_PAGE, "%s: cause", remaps[k].name);
                CHECK_EQ(self()->t.epc, remap.at + 8, "%s: epc", remaps[k].name);
                *(volatile u64 *)slot = PTE_PPN(pages[1]) | PTE_S_ALL;
                sfence_all();
            }
        }
    }
}

static u64 loaded;

static u64 s_toggle(u64 bit, u64 unused)
{
    (void)unused;
    register u64 a0 __asm__("a0") = bit;
    u64 value = 0;
    __asm__ volatile("la t5, 1f\n sd t5, 0(tp)\n jal ra, toggle_sum\n ld %0, 0(%2)\n"
                     "1: sd zero, 0(tp)"
                     : "=&r"(value), "+r"(a0)
                     : "r"(VA_DATA)
                     : "ra", "t1", "t5", "memory");
    loaded = value;
    return 0;
}

static void changed_mode(void)
{
    for (u64 i = 0; i < ROUNDS; i++) {
        trap_clear();
        loaded = 0;
        (void)run_mode(MODE_S, s_toggle, i % 5 == 4 ? MSTATUS_SUM : 0, 0);
        bool permitted = csr_read(mstatus) & MSTATUS_SUM;
        CHECK_EQ(self()->t.count, permitted ? 0 : 1, "SUM is now %u: traps", permitted);
        if (permitted)
            CHECK_EQ(loaded, 77, "load with SUM");
    }
}

static void translated(void)
{
    struct space space;
    space_init_stubs(&space, 3, ASID);
    space_map(&space, RAM_BASE, RAM_BASE, 2, PTE_S_ALL);
    space_map(&space, VA, (u64)pages[0], 0, PTE_S_ALL);
    space_map(&space, VA + PAGE, (u64)pages[1], 0, PTE_S_ALL);
    space_map(&space, VA_DATA, (u64)pages[3], 0, PTE_U_ALL);
    pages[3][0] = 77;
    space_use(&space);
    remapped(&space, PAGE + 256);
    remapped(&space, PAGE - 8); /* the call is the last instruction of its page */
    changed_mode();
}

void guest_main(void)
{
    deep();
    unwinding();
    coroutines();
    near_misses();
    nowhere();
    rewritten();
    translated();
}
