/*
 * A storm: seven harts run hot loops in S-mode, through translations, and contend for counters with
 * AMOs and LR/SC, while hart 0 rewrites the loop they are in, maps other pages under their data and
 * code, and has each of them execute fence.i and sfence.vma, over and over. What a hart computes
 * must be of versions no older than those published before it began, and no newer than the one
 * after those published when it ended (U, "Zifencei"; P, "sfence.vma").
 */
#include "mmu.h"

const char guest_name[] = "smp_storm";

enum { HARTS = 8, ROUNDS = 40, TURNS = 1500, ADDS = 40 };

#define DATA_VA 0x1040000000ul
#define CODE_VA 0x1040001000ul

static struct space shared;
static u32 loop[8] __attribute__((aligned(4096)));
static u64 *data_page[2];
static u32 *code_page[2];
static volatile u64 request, published, stop, acks[HARTS], calls[HARTS], adds[HARTS];
static u64 by_amo __attribute__((aligned(64))), by_lrsc __attribute__((aligned(64)));
static u32 by_word __attribute__((aligned(64)));

/* What was wrong first, of each hart: S-mode has no console. */
static struct bad {
    volatile u64 count, what, value, low, high;
} bad[HARTS];

static void kick(u64 h)
{
    __asm__ volatile("fence rw, ow" ::: "memory");
    *MSIP(h) = 1;
}

static void storm_irq(u64 irq)
{
    u64 id = self()->id;
    (void)irq;
    *MSIP(id) = 0;
    __asm__ volatile("fence ow, rw" ::: "memory");
    u64 n = request;
    __asm__ volatile("fence rw, rw" ::: "memory");
    switch (n % 3) {
    case 0:
        sfence_all();
        break;
    case 1:
        sfence_va(DATA_VA, 0);
        sfence_va(CODE_VA, 0);
        break;
    default:
        sfence_asid(0, 0);
    }
    fence_i();
    __asm__ volatile("fence rw, rw" ::: "memory");
    acks[id] = n;
    kick(0);
}

/* In S-mode from here on. */
static void check_version(u64 what, u64 value, u64 before, u64 scale)
{
    struct bad *mine = &bad[self()->id];
    u64 low = scale * before, high = scale * (published + 1);
    if (value >= low && value <= high)
        return;
    if (mine->count++ == 0) {
        mine->what = what;
        mine->value = value;
        mine->low = low;
        mine->high = high;
    }
}

static u64 version(void)
{
    u64 now = published;
    __asm__ volatile("fence rw, rw" ::: "memory");
    return now;
}

static void add(void)
{
    u64 t, fail;
    for (u64 i = 0; i < ADDS; i++) {
        __asm__ volatile("amoadd.d x0, %0, (%1)" ::"r"(1ul), "r"(&by_amo) : "memory");
        __asm__ volatile("1: lr.d.aq %0, (%2)\n addi %0, %0, 1\n sc.d.rl %1, %0, (%2)\n bnez %1, 1b"
                         : "=&r"(t), "=&r"(fail)
                         : "r"(&by_lrsc)
                         : "memory");
        __asm__ volatile("1: lr.w %0, (%2)\n addi %0, %0, 1\n sc.w %1, %0, (%2)\n bnez %1, 1b"
                         : "=&r"(t), "=&r"(fail)
                         : "r"(&by_word)
                         : "memory");
    }
    adds[self()->id] += ADDS;
}

static u64 in_the_storm(u64 unused, u64 unused_too)
{
    (void)unused, (void)unused_too;
    while (!stop) {
        u64 before = version();
        check_version(1, ((u64(*)(u64, u64))loop)(TURNS, 0), before, TURNS);
        before = version();
        check_version(2, *(volatile u64 *)DATA_VA, before, 1);
        before = version();
        check_version(3, ((u64(*)(void))CODE_VA)(), before, 1);
        add();
        calls[self()->id]++;
    }
    return 0;
}

/* In M-mode again. */
static void worker(void)
{
    self()->on_irq = storm_irq;
    space_use(&shared);
    run_mode(MODE_S, in_the_storm, 0, 0);
    csr_write(satp, 0);
    sfence_all();
}

/* A loop of TURNS turns that adds n in each, and pages for data and code that say n. */
static void write_version(u64 n)
{
    volatile u32 *code = code_page[n & 1];
    *(volatile u32 *)&loop[0] = 0x00058593u | (u32)n << 20; /* addi a1, a1, n */
    *(volatile u64 *)data_page[n & 1] = n;
    code[0] = 0x00000513u | (u32)n << 20; /* addi a0, x0, n */
    code[1] = 0x00008067u;                /* ret */
    __asm__ volatile("fence rw, rw" ::: "memory");
    *(volatile u64 *)space_slot(&shared, DATA_VA, 0) = PTE_PPN(data_page[n & 1]) | PTE_S_ALL;
    *(volatile u64 *)space_slot(&shared, CODE_VA, 0) = PTE_PPN(code_page[n & 1]) | PTE_S_ALL;
    __asm__ volatile("fence rw, rw" ::: "memory");
}

static void prepare(void)
{
    loop[1] = 0xfff50513u; /* addi a0, a0, -1 */
    loop[2] = 0xfe051ce3u; /* bnez a0, -8 */
    loop[3] = 0x00058513u; /* mv a0, a1 */
    loop[4] = 0x00008067u; /* ret */
    for (u64 i = 0; i < 2; i++) {
        data_page[i] = page_alloc();
        code_page[i] = page_alloc();
    }
    space_init(&shared, 3, 0);
    space_map(&shared, RAM_BASE, RAM_BASE, 2, PTE_S_ALL);
    space_map(&shared, DATA_VA, (u64)data_page[0], 0, PTE_S_ALL);
    space_map(&shared, CODE_VA, (u64)code_page[0], 0, PTE_S_ALL);
    write_version(0);
    fence_i();
}

static void wait_for_all(u64 n)
{
    for (u64 h = 1; h < HARTS; h++)
        while (acks[h] != n) {
            __asm__ volatile("wfi");
            *MSIP(0) = 0;
            __asm__ volatile("fence ow, rw" ::: "memory");
        }
}

void guest_main(void)
{
    u64 total = 0;
    prepare();
    for (u64 h = 1; h < HARTS; h++)
        start_hart(h, worker);
    for (u64 h = 1; h < HARTS; h++)
        while (calls[h] == 0) {
        }
    csr_set(mie, BIT(IRQ_MSI)); /* wakes, and does not interrupt: MIE is 0 */
    for (u64 n = 1; n <= ROUNDS; n++) {
        write_version(n);
        request = n;
        for (u64 h = 1; h < HARTS; h++)
            kick(h);
        wait_for_all(n);
        published = n;
    }
    stop = 1;
    for (u64 h = 1; h < HARTS; h++) {
        wait_hart(h);
        CHECK_EQ(bad[h].count, 0, "hart %lu: kind %lu was %lu, not within %lu and %lu", h,
                 bad[h].what, bad[h].value, bad[h].low, bad[h].high);
        total += adds[h];
    }
    CHECK_EQ(by_amo, total, "amoadd.d");
    CHECK_EQ(by_lrsc, total, "lr.d sc.d");
    CHECK_EQ(by_word, (u32)total, "lr.w sc.w");
}
