/*
 * A storm of traps: a loop in U- or S-mode in which nearly every instruction traps (calls, illegal
 * instructions, faults of loads, stores and fetches, breakpoints), through handlers of S- or
 * M-mode, while timers fire and hart 1 interrupts all the time. Each trap is counted once, each
 * interrupt comes between two instructions, and no register is lost. (P, "Machine Trap Vector";
 * "Supervisor Trap Vector"; "Machine Interrupt Registers")
 */
#include "mmu.h"

const char guest_name[] = "trap_storm";

enum { TURNS = 300, ENOUGH = 8, PERIOD = 200, ROUNDS_MAX = 100000 };

#define BAD_VA     0x1040000000ul /* nothing there */
#define READ_VA    0x1040001000ul /* a page that can only be read */
#define USER_VA    0x1080000000ul /* all of RAM for U-mode */
#define TO_USER(p) ((u64)(p)-RAM_BASE + USER_VA)

/* The handlers know the offsets. */
struct area {
    u64 save[4];
    u64 self;      /* 32: struct hart */
    u64 msip;      /* 40: addresses */
    u64 mtimecmp;  /* 48 */
    u64 period;    /* 56 */
    u64 traps[16]; /* 64: by cause */
    u64 irqs[16];  /* 192 */
};
static struct area m_area, s_area;
static struct space space;
static volatile u64 stop, sent;

void storm_m(void), storm_s(void);
u64 storm_loop(u64 turns, u64 unused);

/* clang-format off */
__asm__(
    ".text\n .balign 4\n .option push\n .option norvc\n"
    /* t6: the area. Counts the trap; t5: its cause. */
    ".macro ENTER_STORM x\n"
    " csrrw t6, \\x\\()scratch, t6\n sd t5, 0(t6)\n sd t4, 8(t6)\n"
    " csrr t5, \\x\\()cause\n slli t5, t5, 3\n add t5, t5, t6\n"
    " csrr t4, \\x\\()cause\n bgez t4, 1f\n addi t5, t5, 128\n"
    "1: ld t4, 64(t5)\n addi t4, t4, 1\n sd t4, 64(t5)\n"
    " csrr t5, \\x\\()cause\n"
    ".endm\n"
    /* A fetch goes on where it was called from, everything else behind itself. */
    ".macro SKIP x\n"
    " li t4, 12\n beq t5, t4, 2f\n"
    " csrr t5, \\x\\()epc\n addi t5, t5, 4\n csrw \\x\\()epc, t5\n j 3f\n"
    "2: csrw \\x\\()epc, ra\n"
    "3:\n"
    ".endm\n"
    ".macro LEAVE_STORM x\n"
    " ld t4, 8(t6)\n ld t5, 0(t6)\n csrrw t6, \\x\\()scratch, t6\n \\x\\()ret\n"
    ".endm\n"

    ".globl storm_m\nstorm_m:\n"
    " ENTER_STORM m\n bltz t5, 5f\n"
    " li t4, " CSR_STR(EXIT_MAGIC) "\n beq a7, t4, 4f\n"
    " SKIP m\n LEAVE_STORM m\n"
    /* The end: the runtime's handler takes over. */
    "4: ld t4, 8(t6)\n csrr t5, mscratch\n sd t5, 16(t6)\n ld t5, 32(t6)\n csrw mscratch, t5\n"
    " ld t5, 0(t6)\n ld t6, 16(t6)\n j m_trap\n"
    "5: andi t5, t5, 15\n li t4, 3\n beq t5, t4, 6f\n"
    " csrr t5, time\n ld t4, 56(t6)\n add t5, t5, t4\n ld t4, 48(t6)\n sd t5, 0(t4)\n"
    " LEAVE_STORM m\n"
    "6: ld t4, 40(t6)\n sw zero, 0(t4)\n fence ow, rw\n"
    " LEAVE_STORM m\n"

    ".globl storm_s\n.balign 4\nstorm_s:\n"
    " ENTER_STORM s\n bltz t5, 5f\n"
    " li t4, " CSR_STR(EXIT_MAGIC) "\n beq a7, t4, 4f\n"
    " SKIP s\n LEAVE_STORM s\n"
    "4: ecall\n"
    "5: csrr t5, time\n ld t4, 56(t6)\n add t5, t5, t4\n csrw 0x14d, t5\n"
    " LEAVE_STORM s\n"

    /* a0: turns. What registers hold is added up, so that one that is lost shows. */
    ".globl storm_loop\nstorm_loop:\n"
    " li a7, 0\n li a1, 0x1040000000\n li a2, 0x1040001000\n li s1, 0\n"
    " li s2, 1\n li s3, 2\n li s4, 3\n li s5, 4\n li s6, 5\n li s7, 6\n li s8, 7\n li s9, 8\n"
    " li t0, 9\n li t1, 10\n li t2, 11\n li a3, 12\n li a4, 13\n li a5, 14\n"
    "1: ecall\n add s1, s1, s2\n"
    " csrr t0, mscratch\n add s1, s1, t0\n" /* illegal below M */
    " ld t1, 0(a1)\n add s1, s1, t1\n"
    " sd t1, 8(a2)\n"
    " lw t2, 4(a1)\n add s1, s1, t2\n"
    " jalr ra, 0(a1)\n add s1, s1, a3\n"
    " ebreak\n add s1, s1, s9\n"
    " addi a0, a0, -1\n bnez a0, 1b\n"
    " add s1, s1, s3\n add s1, s1, s4\n add s1, s1, s5\n add s1, s1, s6\n add s1, s1, s7\n"
    " add s1, s1, s8\n add s1, s1, a4\n add s1, s1, a5\n"
    " mv a0, s1\n li a7, " CSR_STR(EXIT_MAGIC) "\n ecall\n"
    ".option pop\n");
/* clang-format on */

/* What storm_loop() adds up to. */
#define SUM (TURNS * (1 + 9 + 10 + 11 + 12 + 8) + 2 + 3 + 4 + 5 + 6 + 7 + 13 + 14)

static void interrupt_hart_0(void)
{
    while (!stop) {
        *MSIP(0) = 1;
        sent++;
        for (volatile u64 i = 0; i < 50; i++) {
        }
    }
}

static u64 traps(u64 cause)
{
    return m_area.traps[cause] + s_area.traps[cause];
}

static void check_round(enum mode mode, bool delegate, u64 sum)
{
    u64 forwarded = mode == MODE_U && delegate;
    CHECK_EQ(sum, SUM, "registers, mode %d", mode);
    /* One ends the loop: it goes to S first if it is delegated, and on from there. */
    CHECK_EQ(traps(C_ECALL_U) + traps(C_ECALL_S), TURNS + 1 + forwarded, "calls, mode %d", mode);
    CHECK_EQ(traps(mode == MODE_U ? C_ECALL_U : C_ECALL_S), TURNS + 1, "own calls, mode %d", mode);
    CHECK_EQ(traps(C_ILLEGAL), TURNS, "illegal instructions, mode %d", mode);
    CHECK_EQ(traps(C_LOAD_PAGE), 2 * TURNS, "loads, mode %d", mode);
    CHECK_EQ(traps(C_STORE_PAGE), TURNS, "stores, mode %d", mode);
    CHECK_EQ(traps(C_FETCH_PAGE), TURNS, "fetches, mode %d", mode);
    CHECK_EQ(traps(C_BREAKPOINT), TURNS, "breakpoints, mode %d", mode);
    memset(m_area.traps, 0, sizeof m_area.traps);
    memset(s_area.traps, 0, sizeof s_area.traps);
}

static void begin(bool delegate)
{
    memset(&m_area, 0, sizeof m_area);
    memset(&s_area, 0, sizeof s_area);
    m_area.self = (u64)self();
    m_area.msip = (u64)MSIP(0);
    m_area.mtimecmp = (u64)MTIMECMP(0);
    m_area.period = s_area.period = PERIOD;
    csr_write(medeleg, delegate ? 0xb1ff & ~BIT(C_ECALL_S) : 0);
    csr_write(mideleg, delegate ? BIT(IRQ_STI) : 0);
    csr_write(mie, BIT(IRQ_MSI) | BIT(delegate ? IRQ_STI : IRQ_MTI));
    csr_write(mtvec, (u64)storm_m);
    csr_write(stvec, (u64)storm_s);
    *MTIMECMP(0) = 0;
    csr_write(CSR_STIMECMP, 0);
    csr_set(mstatus, MSTATUS_SIE);
}

static void end(void)
{
    csr_write(mie, 0);
    csr_write(medeleg, 0);
    csr_write(mideleg, 0);
    csr_write(mtvec, (u64)m_trap);
    csr_clear(mstatus, MSTATUS_SIE);
}

/* Until there were interrupts enough, of both kinds. */
static void storm(enum mode mode, bool delegate)
{
    const volatile u64 *timers = delegate ? &s_area.irqs[IRQ_STI] : &m_area.irqs[IRQ_MTI];
    u64 fn = mode == MODE_U ? TO_USER(storm_loop) : (u64)storm_loop;
    begin(delegate);
    for (u64 i = 0; i < ROUNDS_MAX && (*timers < ENOUGH || m_area.irqs[IRQ_MSI] < ENOUGH); i++) {
        csr_write(mscratch, (u64)&m_area);
        csr_write(sscratch, (u64)&s_area);
        u64 sum = run_mode(mode, (u64(*)(u64, u64))fn, TURNS, 0);
        check_round(mode, delegate, sum);
    }
    end();
    CHECK(*timers >= ENOUGH, "timers, mode %d", mode);
    CHECK(m_area.irqs[IRQ_MSI] >= ENOUGH, "interrupts from hart 1, mode %d", mode);
}

void guest_main(void)
{
    space_init(&space, 3, 0);
    space_map(&space, RAM_BASE, RAM_BASE, 2, PTE_S_ALL);
    space_map(&space, USER_VA, RAM_BASE, 2, PTE_U_ALL);
    space_map(&space, READ_VA, (u64)page_alloc(), 0, PTE_V | PTE_R | PTE_U | PTE_AD);
    space_use(&space);
    csr_set(CSR_MENVCFG, MENVCFG_STCE);
    csr_write(mcounteren, 7);
    csr_write(scounteren, 7);
    start_hart(1, interrupt_hart_0);
    storm(MODE_U, true);
    storm(MODE_U, false);
    storm(MODE_S, true);
    storm(MODE_S, false);
    stop = 1;
    wait_hart(1);
    *MSIP(0) = 0;
    CHECK(sent >= 4 * ENOUGH, "hart 1 sent");
}
