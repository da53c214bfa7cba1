/* SPDX-License-Identifier: MIT
 *
 * The interpreter against the translator: the same random code on two harts, in steps of a
 * random number of instructions, after each of which everything architectural must be equal.
 *
 *     engines [FIRST-SEED [PROGRAMS]]
 *
 * Code is any mixture of table rows, privileged ones included: it traps, changes modes, leaves
 * translation and protection behind in any state, faults in the middle of blocks and jumps
 * anywhere; in half of the programs it loops, and loops become regions at once. The trap handler
 * goes on at the next of 32-byte steps. What it must not do is
 * store to code (until fence.i harts may differ) or to the handler: a locked PMP entry forbids
 * it. Stores go through x8, which little writes, and which points into a page, to the end of one,
 * to where RAM ends or to where stores are allowed from. Code is replaced between rounds, with a
 * fence.i.
 */
#include "support.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/alloc.h"
#include "hart.h"

#define RAM       UINT64_C(0x80000000)
#define RAM_SIZE  (64 * KIB)
#define HANDLER   RAM
#define CODE      (RAM + 4 * KIB)
#define CODE_SIZE (16 * KIB)
#define DATA      (RAM + 32 * KIB)
#define ROUNDS    4
#define STEPS     250

static const struct engine *const engines[] = {&engine_interp, &engine_dbt};
enum { SIDES = ARRAY_SIZE(engines) };

struct pair {
    struct test_hart sides[SIDES];
};

static uint64_t next(uint64_t *seed)
{
    *seed += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = *seed;
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static unsigned below(uint64_t *seed, unsigned limit)
{
    return (unsigned)(next(seed) % limit);
}

/* mscratch holds where to go on; t6 and t5 are lost. */
static const uint32_t handler[] = {
    0x34002ff3, /* csrr t6, mscratch */
    0x020f8f93, /* addi t6, t6, 32 */
    0x00004f37, /* lui t5, 4 */
    0xffff0f13, /* addi t5, t5, -1 */
    0x01efffb3, /* and t6, t6, t5 */
    0x80001f37, /* lui t5, 0x80001 */
    0x020f1f13, /* slli t5, t5, 32 */
    0x020f5f13, /* srli t5, t5, 32 */
    0x340f9073, /* csrw mscratch, t6 */
    0x01ef8fb3, /* add t6, t6, t5 */
    0x341f9073, /* csrw mepc, t6 */
    0x00007f37, /* lui t5, 7: MPP = M, FS = dirty */
    0x800f0f13, /* addi t5, t5, -2048 */
    0x300f2073, /* csrs mstatus, t5 */
    0x30200073, /* mret */
};

/* Not for us: what takes the handler away, and what makes a wait out of the test. */
static bool is_forbidden(const struct rv_insn *insn, const struct rv_row *row)
{
    bool csr = row->format == RV_FORMAT_CSR || row->format == RV_FORMAT_CSRI;
    if (csr && (insn->imm == 0x305 || insn->imm == 0x340 || insn->imm == 0x302))
        return true;
    bool stores = (row->flags & RV_ROW_STORE) || row->format == RV_FORMAT_CBO;
    if (stores && insn->rs1 != 8)
        return true;
    return insn->rd == 8;
}

/* A branch a few instructions back, whose distance may lie in the middle of one. */
static uint32_t back(uint32_t bits, uint64_t *seed)
{
    uint32_t distance = 2 + 2 * below(seed, 60), imm = (uint32_t)-distance;
    return (bits & 0x01fff07f) | (imm >> 12 & 1) << 31 | (imm >> 5 & 63) << 25 |
           (imm >> 1 & 15) << 8 | (imm >> 11 & 1) << 7;
}

static uint32_t draw(const struct rv_decoder *decoder, uint64_t *seed, bool loops, unsigned *length)
{
    for (;;) {
        const struct rv_row *row =
            rv_decoder_row(decoder, below(seed, (unsigned)rv_decoder_row_count(decoder)));
        bool wide = (row->match & 3) == 3;
        uint32_t bits = row->match | ((uint32_t)next(seed) & ~row->mask);
        if (!wide)
            bits &= 0xffff;
        /* Mostly the pointers, mostly near. */
        bool memory = row->flags & (RV_ROW_LOAD | RV_ROW_STORE);
        if (wide && (memory || row->format == RV_FORMAT_CBO) &&
            ((row->flags & RV_ROW_STORE) || below(seed, 4) != 0))
            bits = (bits & ~0xf8000u) | 8u << 15;
        if (wide && (row->flags & RV_ROW_BRANCH) && below(seed, 4) != 0)
            bits = (bits & 0x01fff07f) | (below(seed, 16) << 8) | below(seed, 2) << 31 |
                   below(seed, 2) << 25;
        if (wide && loops && (row->flags & RV_ROW_BRANCH) && below(seed, 2) != 0)
            bits = back(bits, seed);
        bits = (bits & ~row->mask) | row->match;
        struct rv_insn insn;
        rv_decode(decoder, bits, &insn);
        if (insn.row == UINT16_MAX)
            continue;
        row = rv_decoder_row(decoder, insn.row);
        if (is_forbidden(&insn, row))
            continue;
        *length = insn.length;
        return bits;
    }
}

/* Sequences that compilers emit and the translator knows as a whole. */
static unsigned idiom(uint64_t *seed, uint32_t bits[3])
{
    uint32_t rd = 9 + below(seed, 20), rs = below(seed, 32), other = below(seed, 32);
    uint32_t clear = 8 * below(seed, 8), right = below(seed, 4) ? clear : below(seed, 64);
    switch (below(seed, 3)) {
    case 0: /* slli, srli */
        bits[0] = 0x00001013 | clear << 20 | rs << 15 | rd << 7;
        bits[1] = 0x00005013 | right << 20 | rd << 15 | rd << 7;
        return 2;
    case 1: /* lui or auipc, addi or addiw */
        bits[0] = 0x00000017 | below(seed, 2) << 5 | (uint32_t)next(seed) << 12 | rd << 7;
        bits[1] =
            0x00000013 | below(seed, 2) << 3 | (uint32_t)next(seed) << 20 | rd << 15 | rd << 7;
        return 2;
    default: /* csrr fflags, fle.d or flt.d, csrw fflags */
        bits[0] = 0x00102073 | rd << 7;
        bits[1] = 0xa2000053 | other << 20 | rs << 15 | below(seed, 2) << 12 | (rd + 1) << 7;
        bits[2] = 0x00101073 | rd << 15;
        return 3;
    }
}

/* Loads and stores near each other, through x8, a copy of it or the stack pointer, whose pages may
 * end in between, and now and then an instruction that moves a pointer or computes. */
enum { RUN = 10 };
static unsigned run_of_accesses(uint64_t *seed, uint32_t bits[RUN])
{
    static const uint32_t loads[] = {0x3, 0x1003, 0x2003, 0x3003, 0x4003, 0x5003, 0x6003, 0x3007};
    static const uint32_t stores[] = {0x23, 0x1023, 0x2023, 0x3023, 0x3027, 0x2027};
    unsigned count = 3 + below(seed, RUN - 2), pointer = below(seed, 2) ? 2 : 8;
    int32_t middle = below(seed, 3) ? (int32_t)below(seed, 128) : (int32_t)below(seed, 3900) - 1950;
    for (unsigned i = 0; i < count; i++) {
        uint32_t reg = 9 + below(seed, 20);
        uint32_t imm = (uint32_t)(middle + (int32_t)below(seed, 96) - 48);
        uint32_t base = below(seed, 4) ? pointer : 8;
        switch (below(seed, 8)) {
        case 0: /* addi; or the copy */
            bits[i] = below(seed, 2) ? 0x13 | (imm & 63) << 20 | reg << 15 | (reg + 1) << 7
                                     : 0x13 | (imm & 31) << 20 | base << 15 | 2 << 7;
            break;
        case 1: /* add */
            bits[i] = 0x33 | below(seed, 32) << 20 | below(seed, 32) << 15 | reg << 7;
            break;
        case 2:
        case 3:
        case 4:
            bits[i] = stores[below(seed, ARRAY_SIZE(stores))] | (imm >> 5 & 127) << 25 |
                      below(seed, 32) << 20 | 8 << 15 | (imm & 31) << 7;
            break;
        default:
            bits[i] = loads[below(seed, ARRAY_SIZE(loads))] | imm << 20 | base << 15 | reg << 7;
        }
    }
    return count;
}

static void fill_code(struct pair *pair, bool loops, uint64_t *seed)
{
    static uint8_t code[CODE_SIZE + 4];
    unsigned at = 0, length;
    while (at < CODE_SIZE) {
        uint32_t idioms[RUN];
        unsigned count = loops && below(seed, 8) == 0 ? idiom(seed, idioms) : 0;
        if (count == 0 && below(seed, 10) == 0)
            count = run_of_accesses(seed, idioms);
        for (unsigned i = 0; i < count && at < CODE_SIZE; i++, at += 4)
            store_le32(code + at, idioms[i]);
        if (at >= CODE_SIZE)
            break;
        uint32_t bits = draw(pair->sides[0].decoder, seed, loops, &length);
        store_le16(code + at, (uint16_t)bits);
        if (length == 4)
            store_le16(code + at + 2, (uint16_t)(bits >> 16));
        at += length;
    }
    for (unsigned i = 0; i < SIDES; i++) {
        memcpy(mem_ram_pointer(pair->sides[i].mem, CODE, CODE_SIZE, MEM_WRITE), code, CODE_SIZE);
        vcpu_attention(&pair->sides[i].hart->vcpu, VCPU_ATTENTION_FENCE_I);
    }
}

static void start(struct pair *pair, uint64_t *seed)
{
    uint64_t x[32];
    const uint64_t ends[] = {DATA + 4096, RAM + RAM_SIZE, DATA + 128, DATA + 2048};
    uint64_t pointer = DATA + 2048;
    if (below(seed, 2) == 0)
        pointer = ends[below(seed, ARRAY_SIZE(ends))] - below(seed, 128);
    /* The handler is M-mode's; in S-mode its first instruction is illegal, which leads there. */
    uint64_t delegated = below(seed, 2) ? next(seed) & ~(UINT64_C(1) << RV_CAUSE_ILLEGAL) : 0;
    for (unsigned i = 1; i < 32; i++)
        x[i] = below(seed, 2) ? next(seed) >> below(seed, 64) : DATA + below(seed, 8192);
    for (unsigned i = 0; i < SIDES; i++) {
        struct rv_hart *hart = pair->sides[i].hart;
        isa_riscv64.vcpu_reset(&hart->vcpu);
        memcpy(&hart->x[1], &x[1], 31 * sizeof(x[0]));
        hart->x[8] = pointer;
        hart->pc = CODE;
        hart->mtvec = hart->stvec = HANDLER;
        hart->medeleg = delegated & RV_MEDELEG_WRITABLE;
        hart->mstatus |= RV_MSTATUS_FS;
        rv_mode_changed(hart);
        /* Up to DATA: read and execute, for M too. */
        rv_csr_write(hart, NULL, RV_CSR_PMPADDR0, (RAM | ((DATA - RAM) / 2 - 1)) >> 2);
        rv_csr_write(hart, NULL, RV_CSR_PMPCFG0, RV_PMP_L | RV_PMP_NAPOT | RV_PMP_R | RV_PMP_X);
        memset(mem_ram_pointer(pair->sides[i].mem, RAM, RAM_SIZE, MEM_WRITE), 0, RAM_SIZE);
        for (unsigned j = 0; j < ARRAY_SIZE(handler); j++)
            store_le32(mem_ram_pointer(pair->sides[i].mem, HANDLER + 4 * j, 4, MEM_WRITE),
                       handler[j]);
    }
}

static bool differs(const struct pair *pair, const char **what)
{
    const struct rv_hart *a = pair->sides[0].hart, *b = pair->sides[1].hart;
#define COMPARE(member)                                                                            \
    if (memcmp(&a->member, &b->member, sizeof(a->member)) != 0) {                                  \
        *what = #member;                                                                           \
        return true;                                                                               \
    }
    COMPARE(vcpu.retired)
    COMPARE(pc)
    for (unsigned i = 0; i < 32; i++)
        COMPARE(x[i])
    COMPARE(f)
    COMPARE(fflags)
    COMPARE(frm)
    COMPARE(privilege)
    COMPARE(reservation_gpa)
    COMPARE(reservation_size)
    COMPARE(mstatus)
    COMPARE(medeleg)
    COMPARE(mideleg)
    COMPARE(mie)
    COMPARE(mip_software)
    COMPARE(mepc)
    COMPARE(mcause)
    COMPARE(mtval)
    COMPARE(stvec)
    COMPARE(sepc)
    COMPARE(scause)
    COMPARE(stval)
    COMPARE(sscratch)
    COMPARE(satp)
    COMPARE(menvcfg)
    COMPARE(senvcfg)
    COMPARE(cycle_offset)
    COMPARE(instret_offset)
    COMPARE(pmpcfg)
    COMPARE(pmpaddr)
#undef COMPARE
    *what = "memory";
    return memcmp(mem_ram_pointer(pair->sides[0].mem, RAM, RAM_SIZE, MEM_READ),
                  mem_ram_pointer(pair->sides[1].mem, RAM, RAM_SIZE, MEM_READ), RAM_SIZE) != 0;
}

static void print_code(const struct pair *pair, uint64_t pc)
{
    for (unsigned i = 0; i < 12; i++) {
        char text[128];
        const uint8_t *code = mem_ram_pointer(pair->sides[0].mem, pc, 4, MEM_READ);
        unsigned length = code ? rv_disassemble(code, 4, pc, text, sizeof(text)) : 0;
        if (length == 0)
            return;
        printf("#   %" PRIx64 "  %s\n", pc, text);
        pc += length;
    }
}

static bool run_program(struct pair *pair, uint64_t seed)
{
    uint64_t program = seed;
    /* A cache that is full again and again, sometimes too small for some blocks. */
    const struct engine_options options = {
        .code_cache = (40 + below(&seed, 200)) * KIB,
        .host_features = test_host_features[program % ARRAY_SIZE(test_host_features)],
    };
    struct vcpu *translated = &pair->sides[1].hart->vcpu;
    test_hart_use_engine(&pair->sides[1], &engine_dbt, &options);
    dbt_set_hot(translated, 1);
    dbt_set_region_heat(translated, 2);
    bool loops = program & 2;
    start(pair, &seed);
    for (unsigned round = 0; round < ROUNDS; round++) {
        fill_code(pair, loops, &seed);
        for (unsigned step = 0; step < STEPS; step++) {
            uint64_t budget = 1 + below(&seed, loops ? 600 : 64), pc = pair->sides[0].hart->pc;
            enum vcpu_exit exits[SIDES];
            for (unsigned i = 0; i < SIDES; i++)
                exits[i] = test_hart_run(&pair->sides[i], budget);
            const char *what = "exit";
            if (exits[0] != exits[1] || differs(pair, &what)) {
                printf("# program %" PRIu64 " round %u step %u: %s differs (exits %d, %d)\n",
                       program, round, step, what, (int)exits[0], (int)exits[1]);
                printf("# %u instructions from:\n", (unsigned)budget);
                print_code(pair, pc);
                for (unsigned i = 0; i < SIDES; i++) {
                    char text[4096];
                    isa_riscv64.dump(&pair->sides[i].hart->vcpu, text, sizeof(text));
                    printf("%s:\n%s\n", engines[i]->name, text);
                }
                return false;
            }
            if (exits[0] == VCPU_EXIT_WEDGED)
                return true; /* the same on both */
        }
    }
    return true;
}

int main(int count, char **arguments)
{
    uint64_t seed = count > 1 ? strtoull(arguments[1], NULL, 0) : 1;
    unsigned long programs = count > 2 ? strtoul(arguments[2], NULL, 0) : tier_count(400, 20000);
    struct pair pair;
    for (unsigned i = 0; i < SIDES; i++)
        test_hart_init_engine(&pair.sides[i], RAM, RAM_SIZE, engines[i]);
    uint64_t evictions = 0, regions = 0;
    unsigned long failed = 0;
    printf("1..%lu\n", programs + 2);
    for (unsigned long i = 0; i < programs && failed < 3; i++) {
        bool good = run_program(&pair, seed + i);
        failed += !good;
        evictions += dbt_eviction_count(&pair.sides[1].hart->vcpu);
        regions += dbt_region_count(&pair.sides[1].hart->vcpu);
        printf("%s %lu - seed %" PRIu64 "\n", good ? "ok" : "not ok", i + 1, seed + i);
    }
    bool was_full = evictions >= 2 * programs;
    failed += !was_full;
    printf("%s %lu - the code cache was full now and then\n", was_full ? "ok" : "not ok",
           programs + 1);
    bool had_regions = regions >= programs;
    failed += !had_regions;
    printf("%s %lu - loops became regions, %" PRIu64 " times\n", had_regions ? "ok" : "not ok",
           programs + 2, regions);
    if (failed >= 3)
        printf("Bail out! too many differences\n");
    for (unsigned i = 0; i < SIDES; i++)
        test_hart_destroy(&pair.sides[i]);
    return failed != 0;
}
