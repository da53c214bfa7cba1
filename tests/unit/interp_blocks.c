/* SPDX-License-Identifier: MIT
 *
 * The interpreter's contract: budgets, exits, traps, and above all that predecoded blocks are
 * never older than the architecture allows.
 */
#include "support.h"

#include <sys/mman.h>

#include "engine/interp/blocks.h"
#include "hart.h"
#include "isa/riscv64/mmu_internal.h"

#define RAM      UINT64_C(0x80000000)
#define RAM_SIZE (64 * KIB)
#define HANDLER  (RAM + 0x8000) /* holds a wfi: a trap ends as VCPU_EXIT_WAIT */

#define NOP     0x00000013u
#define WFI     0x10500073u
#define ECALL   0x00000073u
#define FENCE_I 0x0000100fu
#define LOOP    0x0000006fu /* jal zero, 0 */
#define RET     0x00008067u
#define ILLEGAL 0xffffffffu

static uint32_t addi(uint32_t rd, uint32_t rs1, int imm)
{
    return 0x13u | rd << 7 | rs1 << 15 | (uint32_t)imm << 20;
}

static uint32_t jal(uint32_t rd, int displacement)
{
    uint32_t to = (uint32_t)displacement;
    return 0x6fu | rd << 7 | (to >> 20 & 1) << 31 | (to >> 1 & 0x3ff) << 21 | (to >> 11 & 1) << 20 |
           (to >> 12 & 0xff) << 12;
}

static int setup(void **state)
{
    struct test_hart *test = calloc(1, sizeof(*test));
    test_hart_init(test, RAM, RAM_SIZE);
    test->hart->mtvec = HANDLER;
    test_hart_put32(test, HANDLER, WFI);
    *state = test;
    return 0;
}

static int teardown(void **state)
{
    test_hart_destroy(*state);
    free(*state);
    return 0;
}

#define PUT(test, address, ...)                                                                    \
    test_hart_put(test, address, (const uint32_t[]){__VA_ARGS__},                                  \
                  sizeof((uint32_t[]){__VA_ARGS__}) / 4)

/* ---- budget ---- */

/* Ten turns of a loop of four, with a branch out of the middle of a block. */
static void put_loop(struct test_hart *test)
{
    PUT(test, RAM, addi(10, 0, 10), /* li a0, 10 */
        addi(11, 11, 3),            /* 1: addi a1, a1, 3 */
        addi(10, 10, -1),           /* addi a0, a0, -1 */
        0x00050463,                 /* beqz a0, +8 */
        jal(0, -12),                /* j 1b */
        WFI);
}

static void test_budget(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    const uint64_t whole = 1 + 9 * 4 + 3 + 1;
    put_loop(test);
    assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WAIT);
    assert_int_equal(hart->vcpu.retired, whole);
    assert_int_equal(hart->pc, RAM + 24);
    assert_int_equal(hart->x[11], 30);

    /* In pieces of every size: never more than asked for, and the same in the end. */
    for (uint64_t piece = 1; piece <= whole; piece++) {
        isa_riscv64.vcpu_reset(&hart->vcpu);
        hart->pc = RAM;
        for (uint64_t before = 0; before + piece < whole; before += piece) {
            assert_int_equal(test_hart_run(test, piece), VCPU_EXIT_BUDGET);
            assert_int_equal(hart->vcpu.retired, before + piece);
        }
        assert_int_equal(test_hart_run(test, piece), VCPU_EXIT_WAIT);
        assert_int_equal(hart->vcpu.retired, whole);
        assert_int_equal(hart->x[11], 30);
        assert_int_equal(hart->pc, RAM + 24);
    }
    /* Nothing at all. */
    hart->pc = RAM;
    assert_int_equal(test_hart_run(test, 0), VCPU_EXIT_BUDGET);
    assert_int_equal(hart->vcpu.retired, whole);
    assert_int_equal(hart->pc, RAM);
}

/* ---- counting ---- */

static void test_instret(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    PUT(test, RAM, NOP, NOP, 0xc0202573 /* rdinstret a0 */, NOP, 0xc02025f3 /* rdinstret a1 */,
        ILLEGAL);
    assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WAIT);
    assert_int_equal(hart->x[10], 2);
    assert_int_equal(hart->x[11], 4);
    assert_int_equal(hart->mepc, RAM + 20);
    assert_int_equal(hart->mcause, RV_CAUSE_ILLEGAL);
    assert_int_equal(hart->mtval, ILLEGAL);
    assert_int_equal(hart->vcpu.retired, 5 + 1); /* and the wfi of the handler */
}

static void test_trap_inside_block(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    PUT(test, RAM, addi(10, 0, 1), 0x00003583 /* ld a1, 0(zero) */, addi(10, 0, 2));
    assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WAIT);
    assert_int_equal(hart->x[10], 1);
    assert_int_equal(hart->mepc, RAM + 4);
    assert_int_equal(hart->mcause, RV_CAUSE_LOAD_ACCESS);
    assert_int_equal(hart->vcpu.retired, 1 + 1);
}

static void test_ecall_does_not_retire(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    PUT(test, RAM, NOP, ECALL);
    assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WAIT);
    assert_int_equal(hart->mcause, RV_CAUSE_ECALL_M);
    assert_int_equal(hart->mepc, RAM + 4);
    assert_int_equal(hart->vcpu.retired, 1 + 1);

    isa_riscv64.vcpu_reset(&hart->vcpu);
    rv_enter_supervisor(hart, RAM, 0, 0);
    hart->sbi_calls = true;
    assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_ECALL);
    assert_int_equal(hart->pc, RAM + 8);
    assert_int_equal(hart->vcpu.retired, 1);
}

/* ---- self-modifying code ---- */

/* A function is rewritten and called a hundred times, with a fence.i in between. */
static void test_fence_i(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    const uint64_t function = RAM + 0x400;
    PUT(test, function, addi(10, 10, 0), RET);
    PUT(test, RAM, 0x00c6a023,                  /* 1: sw a2, 0(a3): addi a0, a0, <n> */
        FENCE_I, jal(1, 0x400 - 8), 0x00e60633, /* add a2, a2, a4: the next immediate */
        addi(15, 15, -1), 0xfe0796e3,           /* bnez a5, 1b */
        WFI);
    hart->x[12] = addi(10, 10, 1);
    hart->x[13] = function;
    hart->x[14] = UINT64_C(1) << 20;
    hart->x[15] = 100;
    assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WAIT);
    assert_int_equal(hart->x[10], 100 * 101 / 2);
}

/* Somebody else writes the code and asks for the fence. */
static void test_remote_fence_i(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    for (int i = 1; i <= 20; i++) {
        PUT(test, RAM, addi(10, 0, i), WFI);
        vcpu_attention(&hart->vcpu, VCPU_ATTENTION_FENCE_I);
        hart->pc = RAM;
        assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WAIT);
        assert_int_equal(hart->x[10], i);
        assert_int_equal(atomic_load(&hart->vcpu.attention), 0);
    }
}

/* Unchanged code survives a fence, changed code of another length is seen. */
static void test_fence_changes_length(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    for (int round = 0; round < 4; round++) {
        PUT(test, RAM, round & 1 ? 0x05050505 /* c.addi a0, 1, twice */ : addi(10, 10, 1), WFI);
        vcpu_attention(&hart->vcpu, VCPU_ATTENTION_FENCE_I);
        hart->x[10] = 0;
        hart->pc = RAM;
        assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WAIT);
        assert_int_equal(hart->x[10], round & 1 ? 2 : 1);
    }
}

static void test_reset_forgets(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    for (int i = 1; i <= 3; i++) {
        PUT(test, RAM, addi(10, 0, i), WFI);
        isa_riscv64.vcpu_reset(&hart->vcpu);
        hart->pc = RAM;
        assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WAIT);
        assert_int_equal(hart->x[10], i);
    }
}

/* ---- pages ---- */

static void put16(struct test_hart *test, uint64_t gpa, uint32_t value)
{
    store_le16(test_hart_at(test, gpa), (uint16_t)value);
}

/* An instruction in two pages is fetched anew in halves every time. */
static void test_straddling(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    const uint64_t last = RAM + 0x1000 - 2;
    for (int i = 1; i <= 10; i++) {
        uint32_t bits = addi(10, 0, i);
        put16(test, last - 2, 0x0001); /* c.nop: it is not the first of its block */
        put16(test, last, bits);
        put16(test, last + 2, bits >> 16);
        PUT(test, last + 4, WFI);
        hart->pc = last - 2;
        assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WAIT);
        assert_int_equal(hart->x[10], i);
        assert_int_equal(hart->pc, last + 8);
        assert_int_equal(hart->vcpu.retired, 3 * i);
    }
}

/* Its second half cannot be fetched: tval says which half, epc where the instruction is. */
static void test_straddling_fault(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    const uint64_t last = RAM + RAM_SIZE - 2;
    put16(test, last - 2, 0x0001);
    put16(test, last, NOP);
    hart->pc = last - 2;
    assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WAIT);
    assert_int_equal(hart->mcause, RV_CAUSE_FETCH_ACCESS);
    assert_int_equal(hart->mepc, last);
    assert_int_equal(hart->mtval, last + 2);
    /* A 2-byte instruction there needs no second half. */
    put16(test, last, 0x0001);
    hart->pc = last;
    assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WAIT);
    assert_int_equal(hart->mepc, last + 2);
    assert_int_equal(hart->mtval, last + 2);
}

/* PMP cuts a page in two: execution stops exactly there. */
static void test_pmp_inside_page(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    isa_riscv64.vcpu_reset(&hart->vcpu);
    rv_enter_supervisor(hart, RAM, 0, 0);
    hart->pmpaddr[0] = (RAM + 0x104) >> 2;
    hart->pmpcfg[0] = RV_PMP_TOR | RV_PMP_R | RV_PMP_W | RV_PMP_X;
    rv_pmp_update(hart);
    rv_tlb_flush_all(hart);
    hart->stvec = RAM;
    PUT(test, RAM, WFI);
    for (unsigned i = 0; i < 64; i++)
        PUT(test, RAM + 0xc0 + 4 * i, NOP);
    hart->pc = RAM + 0xc0;
    assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WAIT);
    assert_int_equal(hart->scause, RV_CAUSE_FETCH_ACCESS);
    assert_int_equal(hart->sepc, RAM + 0x104);
    assert_int_equal(hart->vcpu.retired, 17 + 1);
    /* Also in the middle of an instruction. */
    PUT(test, RAM + 0xfe, 0x00010001, 0x00130001, 0x00010000); /* nops of both sizes */
    hart->pc = RAM + 0xfe;
    assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WAIT);
    assert_int_equal(hart->sepc, RAM + 0x104);
    assert_int_equal(hart->stval, RAM + 0x104);
    put16(test, RAM + 0x102, NOP);
    put16(test, RAM + 0x104, NOP >> 16);
    hart->pc = RAM + 0x102;
    assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WAIT);
    assert_int_equal(hart->sepc, RAM + 0x102);
    assert_int_equal(hart->stval, RAM + 0x104);
}

/* More code than the arena holds, three times over. */
static void test_many_blocks(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    const uint64_t start = UINT64_C(0x90000000), size = 8 * MIB;
    test_hart_add_ram(test, start, size);
    uint8_t *code = test_hart_at(test, start);
    for (uint64_t at = 0; at < size; at += 4)
        store_le32(code + at, addi(10, 10, 1));
    store_le32(code + size - 4, WFI);
    for (int round = 1; round <= 3; round++) {
        hart->pc = start;
        hart->x[10] = 0;
        assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WAIT);
        assert_int_equal(hart->x[10], size / 4 - 1);
        assert_int_equal(hart->vcpu.retired, (uint64_t)round * size / 4);
    }
}

/* ---- other exits ---- */

static void test_kick(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    PUT(test, RAM, LOOP);
    vcpu_kick(&hart->vcpu);
    assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_KICK);
    assert_int_equal(hart->vcpu.retired, 0);
    assert_int_equal(atomic_load(&hart->vcpu.attention), 0);
    assert_false(atomic_load(&hart->vcpu.in_guest));
    assert_int_equal(test_hart_run(test, 5), VCPU_EXIT_BUDGET);
    assert_int_equal(hart->vcpu.retired, 5);
}

static void test_htif(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    hart->vcpu.htif_tohost = RAM + 0x2000;
    hart->x[10] = RAM + 0x2000;
    hart->x[11] = 7;
    PUT(test, RAM, NOP, 0x00b53023 /* sd a1, 0(a0) */, LOOP);
    assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_HTIF);
    assert_int_equal(hart->vcpu.htif_value, 7);
    assert_int_equal(load_le64(test_hart_at(test, RAM + 0x2000)), 7);
}

static void test_wedged(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    PUT(test, RAM, NOP, ILLEGAL);
    hart->mtvec = RAM + 0x100;
    PUT(test, RAM + 0x100, ILLEGAL);
    assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WEDGED);
    assert_int_equal(hart->vcpu.retired, 1);
    /* Where the vector itself cannot be fetched. */
    isa_riscv64.vcpu_reset(&hart->vcpu);
    hart->pc = 0x1000;
    assert_int_equal(test_hart_run(test, UINT64_MAX), VCPU_EXIT_WEDGED);
    assert_int_equal(hart->vcpu.retired, 0);
    assert_int_equal(hart->mepc, 0);
}

/* A handler that traps again and again but gets somewhere in between is not wedged. */
static void test_not_wedged(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    hart->mtvec = RAM + 0x100;
    PUT(test, RAM + 0x100, addi(10, 10, 1), ILLEGAL);
    PUT(test, RAM, ILLEGAL);
    assert_int_equal(test_hart_run(test, 1000), VCPU_EXIT_BUDGET);
    assert_int_equal(hart->x[10], 1000);
}

/* An interrupt that a CSR write enables is taken before the next instruction. */
static void test_interrupt_after_csr_write(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    vcpu_set_interrupt(&hart->vcpu, RV_IRQ_MSI, true);
    hart->mie = RV_MIP_MSIP;
    PUT(test, RAM, NOP, 0x30046073 /* csrsi mstatus, 8 */, addi(10, 0, 1), addi(10, 0, 2));
    assert_int_equal(test_hart_run(test, 2), VCPU_EXIT_BUDGET);
    assert_int_equal(hart->pc, HANDLER);
    assert_int_equal(hart->mcause, RV_CAUSE_INTERRUPT | RV_IRQ_MSI);
    assert_int_equal(hart->mepc, RAM + 8);
    assert_int_equal(hart->x[10], 0);
}

/* Pages of [from, from+size) that the host has given memory for. */
static size_t resident(const void *from, size_t size)
{
    unsigned char there[1024];
    size_t count = 0, pages = size / 4096;
    assert_true(pages <= sizeof(there));
    assert_int_equal(mincore((void *)(uintptr_t)from, size, there), 0);
    for (size_t i = 0; i < pages; i++)
        count += there[i] & 1;
    return count;
}

static void memory_is_there_once_it_is_warm(void **state)
{
    (void)state;
    struct error *err = NULL;
    struct blocks blocks;
    assert_true(blocks_init(&blocks, &err));
    assert_int_equal(resident(blocks.arena, 4 * MIB), 0);
    blocks_warm(&blocks);
    assert_int_equal(resident(blocks.arena, 4 * MIB), 1024);
    assert_int_equal(resident(blocks.table, BLOCK_TABLE * sizeof(struct block *)), 128);
    blocks.arena_used = 32 * MIB - 4096; /* at its end: not a byte beyond */
    blocks_warm(&blocks);
    blocks.arena_used = 32 * MIB;
    blocks_warm(&blocks);
    blocks_destroy(&blocks);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_there_once_it_is_warm),
        TEST(test_budget),
        TEST(test_instret),
        TEST(test_trap_inside_block),
        TEST(test_ecall_does_not_retire),
        TEST(test_fence_i),
        TEST(test_remote_fence_i),
        TEST(test_fence_changes_length),
        TEST(test_reset_forgets),
        TEST(test_straddling),
        TEST(test_straddling_fault),
        TEST(test_pmp_inside_page),
        TEST(test_many_blocks),
        TEST(test_kick),
        TEST(test_htif),
        TEST(test_wedged),
        TEST(test_not_wedged),
        TEST(test_interrupt_after_csr_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
