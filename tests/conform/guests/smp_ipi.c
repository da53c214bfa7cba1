/*
 * Harts signal each other: msip interrupts, a ring of them, wfi wake-ups, remote fence.i and remote
 * sfence.vma as firmware does them, per-hart timers, PLIC contexts.
 */
#include "mmu.h"

const char guest_name[] = "smp_ipi";

enum { HARTS = 4 };

static volatile u64 hits[HARTS], acks[HARTS], ready[HARTS], stop;
static u32 code[64] __attribute__((aligned(4096)));
static u32 *volatile page_now;

static void kick(u64 h)
{
    __asm__ volatile("fence rw, ow" ::: "memory");
    *MSIP(h) = 1;
}

/* Waiting harts sleep: a host with fewer cores than harts would give each spinning one a time
 * slice. Hart 0 waits with MIE=0; whoever answers sets its msip after the answer. */
static void answer(u64 n)
{
    __asm__ volatile("fence rw, rw" ::: "memory");
    acks[self()->id] = n;
    kick(0);
}

static void wait_word(volatile u64 *word, u64 n)
{
    csr_set(mie, BIT(IRQ_MSI));
    while (*word != n) {
        __asm__ volatile("wfi");
        *MSIP(0) = 0;
        __asm__ volatile("fence ow, rw" ::: "memory");
    }
}

/* Kick a hart until it returns: one signal may come between its test of stop and its wfi. */
static void finish_hart(u64 h)
{
    while (!__atomic_load_n(&harts[h].done, __ATOMIC_ACQUIRE)) {
        kick(h);
    }
}

/* ---- a ring ------------------------------------------------------------------------------- */
static void ring_irq(u64 irq)
{
    u64 id = self()->id;
    CHECK_EQ(irq, IRQ_MSI, "only msip is enabled");
    *MSIP(id) = 0;
    __asm__ volatile("fence ow, rw" ::: "memory");
    hits[id]++;
    if (!stop) {
        kick((id + 1) % HARTS);
    }
}

static void ring(void)
{
    self()->on_irq = ring_irq;
    answer(1);
    __asm__ volatile("fence ow, w" ::: "memory");
    ready[self()->id] = 1;
    csr_set(mstatus, MSTATUS_MIE);
    while (!stop) {
        __asm__ volatile("wfi");
    }
    csr_clear(mstatus, MSTATUS_MIE);
}

static void check_ring(void)
{
    for (u64 h = 1; h < HARTS; h++) {
        start_hart(h, ring);
        wait_word(&acks[h], 1);
        /* An answer can be seen before the signal that follows it, which must not go round. */
        while (!ready[h]) {
        }
        ready[h] = 0;
    }
    *MSIP(0) = 0;
    __asm__ volatile("fence ow, rw" ::: "memory");
    self()->on_irq = ring_irq;
    csr_set(mie, BIT(IRQ_MSI));
    csr_set(mstatus, MSTATUS_MIE);
    kick(1);
    while (hits[0] < 1000) {
        __asm__ volatile("wfi");
    }
    csr_clear(mstatus, MSTATUS_MIE);
    stop = 1;
    for (u64 h = 1; h < HARTS; h++) {
        finish_hart(h);
        CHECK(hits[h] >= 1000, "hart %lu saw each round", h);
    }
    *MSIP(0) = 0;
}

/* ---- remote fence.i ----------------------------------------------------------------------- */
static volatile u64 request, answers[HARTS];

static void fence_irq(u64 irq)
{
    (void)irq;
    *MSIP(self()->id) = 0;
    __asm__ volatile("fence ow, rw" ::: "memory");
    fence_i();
    answers[self()->id] = ((u64(*)(void))code)();
    answer(request);
}

static void runner(void)
{
    self()->on_irq = fence_irq;
    csr_set(mstatus, MSTATUS_MIE);
    ready[self()->id] = 1;
    kick(0);
    while (!stop) {
        for (int i = 0; request && i < 10; i++) {
            (void)((u64(*)(void))code)(); /* keep the old code hot */
        }
        __asm__ volatile("wfi");
    }
    csr_clear(mstatus, MSTATUS_MIE);
}

static void remote_fence_i(void)
{
    stop = request = 0;
    code[0] = 0x00000513;
    code[1] = 0x00008067;
    fence_i();
    for (u64 h = 1; h < HARTS; h++) {
        acks[h] = 0;
        start_hart(h, runner);
        /* a request must not merge with the start signal */
        wait_word(&ready[h], 1);
    }
    for (u32 n = 1; n <= 300; n++) {
        *(volatile u32 *)&code[0] = 0x00000513u | n << 20;
        __asm__ volatile("fence rw, rw" ::: "memory");
        request = n;
        for (u64 h = 1; h < HARTS; h++) {
            kick(h);
        }
        for (u64 h = 1; h < HARTS; h++) {
            wait_word(&acks[h], n);
            CHECK_EQ(answers[h], n, "hart %lu runs the new code", h);
        }
    }
    stop = 1;
    for (u64 h = 1; h < HARTS; h++) {
        finish_hart(h);
    }
}

/* ---- TLB shootdown ------------------------------------------------------------------------ */
#define VA 0x1040000000ul

static struct space shared;
static volatile u64 turn;
static u64 *pages[8];

/* Polls for a request; each one is "fence, then read through the mapping". */
static void reader(void)
{
    u64 id = self()->id, seen = 0;
    csr_write(CSR_MENVCFG, 0);
    space_use(&shared);
    while (!stop) {
        /* below M-mode the signal would interrupt: it is enabled only to wake wfi */
        csr_set(mie, BIT(IRQ_MSI));
        if (turn == seen) {
            __asm__ volatile("wfi");
        }
        csr_clear(mie, BIT(IRQ_MSI));
        *MSIP(id) = 0;
        __asm__ volatile("fence ow, rw" ::: "memory");
        u64 t = turn;
        if (t == seen) {
            continue;
        }
        seen = t;
        __asm__ volatile("fence rw, rw" ::: "memory");
        if (t & 1) {
            sfence_va(VA, 0);
        } else {
            sfence_all();
        }
        struct result r = access(MODE_S, OP_LD, VA, 0);
        answers[id] = r.cause == NO_TRAP ? r.value : r.cause | 1ul << 63;
        answer(t);
        for (int i = 0; i < 10; i++) {
            (void)access(MODE_S, OP_LD, VA, 0); /* keep the old translation hot */
        }
    }
    csr_set(mie, BIT(IRQ_MSI));
    csr_write(satp, 0);
    sfence_all();
}

static void shootdown(void)
{
    stop = turn = 0;
    for (u64 i = 0; i < 8; i++) {
        pages[i] = page_alloc();
        pages[i][0] = i;
    }
    space_init_stubs(&shared, 3, 0);
    u64 *pte = space_map(&shared, VA, (u64)pages[0], 0, PTE_S_ALL);
    for (u64 h = 1; h < HARTS; h++) {
        acks[h] = 0;
        start_hart(h, reader);
    }
    for (u64 n = 1; n <= 300; n++) {
        bool unmap = n % 5 == 0;
        *(volatile u64 *)pte = unmap ? 0 : PTE_PPN(pages[n % 8]) | PTE_S_ALL;
        __asm__ volatile("fence rw, rw" ::: "memory");
        turn = n;
        for (u64 h = 1; h < HARTS; h++) {
            kick(h);
        }
        for (u64 h = 1; h < HARTS; h++) {
            wait_word(&acks[h], n);
            CHECK_EQ(answers[h], unmap ? C_LOAD_PAGE | 1ul << 63 : n % 8,
                     "hart %lu sees the new translation", h);
        }
    }
    stop = 1;
    for (u64 h = 1; h < HARTS; h++) {
        finish_hart(h);
    }
}

/* A/D bits set by several harts in PTEs of one table: no update may be lost. */
static void dirtier(void)
{
    csr_clear(mie, BIT(IRQ_MSI)); /* would interrupt S-mode */
    csr_write(CSR_MENVCFG, MENVCFG_ADUE);
    space_use(&shared);
    for (u64 i = 0; i < 512; i++) {
        u64 k = (i * 37 + self()->id * 128) % 512;
        (void)access(MODE_S, OP_SD, VA + k * PAGE, i);
    }
    csr_set(mie, BIT(IRQ_MSI));
    csr_write(satp, 0);
    sfence_all();
}

static void concurrent_ad(void)
{
    space_init_stubs(&shared, 3, 0);
    for (u64 i = 0; i < 512; i++) {
        space_map(&shared, VA + i * PAGE, (u64)pages[i % 8], 0, PTE_V | PTE_R | PTE_W);
    }
    for (u64 h = 1; h < HARTS; h++) {
        start_hart(h, dirtier);
    }
    for (u64 h = 1; h < HARTS; h++) {
        wait_hart(h);
    }
    u64 bad = 0;
    for (u64 i = 0; i < 512; i++) {
        bad += *space_slot(&shared, VA + i * PAGE, 0) !=
               (PTE_PPN(pages[i % 8]) | PTE_V | PTE_R | PTE_W | PTE_AD);
    }
    CHECK_EQ(bad, 0, "PTEs dirtied by three harts");
}

/* ---- what each hart has for itself -------------------------------------------------------- */
static volatile u64 timer_fired[HARTS], id_seen[HARTS];

static void timer_irq(u64 irq)
{
    u64 id = self()->id;
    if (irq == IRQ_MTI) {
        timer_fired[id] = *MTIME;
        *MTIMECMP(id) = ~0ul;
    } else {
        *MSIP(id) = 0;
    }
}

static void own_timer(void)
{
    u64 id = self()->id, now = *MTIME;
    id_seen[id] = csr_read(mhartid);
    self()->on_irq = timer_irq;
    timer_fired[id] = 0;
    *MTIMECMP(id) = now + TIMEBASE / 100 * (id + 1);
    csr_set(mie, BIT(IRQ_MTI));
    csr_set(mstatus, MSTATUS_MIE);
    while (!timer_fired[id]) {
    }
    csr_clear(mstatus, MSTATUS_MIE);
    csr_clear(mie, BIT(IRQ_MTI));
    CHECK(timer_fired[id] >= now + TIMEBASE / 100 * (id + 1), "timer of hart %lu not early", id);
}

static void per_hart(void)
{
    for (u64 h = 1; h < HARTS; h++) {
        start_hart(h, own_timer);
    }
    own_timer();
    for (u64 h = 1; h < HARTS; h++) {
        wait_hart(h);
    }
    for (u64 h = 0; h < HARTS; h++) {
        CHECK_EQ(id_seen[h], h, "mhartid of hart %lu", h);
    }
}

void guest_main(void)
{
    check_ring();
    remote_fence_i();
    shootdown();
    concurrent_ad();
    per_hart();
}
