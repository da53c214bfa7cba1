/*
 * Which CSRs exist, who may touch them, and what happens to writes: privileged ISA chapter "CSRs"
 * (address bits 11:10 = 11 read-only, 9:8 = lowest privilege) and each CSR's own section.
 */
#include "rt.h"

const char guest_name[] = "csr_access";

/* One executable slot: a CSR instruction is written into it, so that the number can be data. */
static u32 slot[2] __attribute__((aligned(8)));

enum { CSRRW = 1, CSRRS = 2, CSRRC = 3, CSRRWI = 5, CSRRSI = 6, CSRRCI = 7 };

static u32 csr_insn(unsigned csr, unsigned f3, unsigned rd, unsigned rs1)
{
    return 0x73u | rd << 7 | f3 << 12 | rs1 << 15 | csr << 20;
}

static u64 run_slot(u64 value, u64 unused)
{
    (void)unused;
    register u64 a0 __asm__("a0") = value;
    TRY("jalr %1", OUT("+r"(a0)), IN("r"(slot)));
    return a0;
}

/* Executes a CSR instruction (rd = rs1 = a0 unless rs1 says otherwise) in a mode. */
static u64 csr_op(enum mode mode, unsigned csr, unsigned f3, unsigned rs1, u64 value)
{
    slot[0] = csr_insn(csr, f3, 10, rs1);
    slot[1] = 0x00008067;
    fence_i();
    return mode == MODE_M ? run_slot(value, 0) : run_mode(mode, run_slot, value, 0);
}

static bool trapped(void)
{
    return self()->t.cause != NO_TRAP;
}

static void expect_illegal(enum mode mode, unsigned csr, unsigned f3, unsigned rs1, const char *why)
{
    u64 v = csr_op(mode, csr, f3, rs1, 0x5a5a);
    CHECK_EQ(self()->t.cause, C_ILLEGAL, "csr 0x%x mode %d funct3 %d %s cause", csr, mode, f3, why);
    CHECK_EQ(self()->t.tval, slot[0], "csr 0x%x mode %d funct3 %d %s tval", csr, mode, f3, why);
    CHECK_EQ(self()->t.epc, (u64)slot, "csr 0x%x mode %d funct3 %d %s epc", csr, mode, f3, why);
    CHECK_EQ(v, 0x5a5a, "csr 0x%x mode %d funct3 %d %s rd", csr, mode, f3, why);
}

/* CSRs this machine must have: RVA22S64 with M-mode, plus Sstc. */
static const struct {
    u16 first, last;
} present[] = {
    {0x001, 0x003}, /* fflags frm fcsr */
    {0xc00, 0xc02}, /* cycle time instret */
    {0xc03, 0xc1f}, /* hpmcounters may be hardwired to zero but exist (Zihpm) */
    {0x100, 0x100}, {0x104, 0x106}, {0x10a, 0x10a}, {0x140, 0x144}, {0x14d, 0x14d},
    {0x180, 0x180}, {0xf11, 0xf15}, /* mvendorid marchid mimpid mhartid mconfigptr */
    {0x300, 0x306}, {0x30a, 0x30a}, {0x320, 0x320}, {0x323, 0x33f}, {0x340, 0x344},
    {0x3a0, 0x3a0}, {0x3a2, 0x3a2}, {0x3b0, 0x3bf}, {0xb00, 0xb00}, {0xb02, 0xb1f},
};

/* And these must not exist: H, V, N, RV32-only halves, debug mode, unassigned, Smstateen. */
static const struct {
    u16 first, last;
} absent[] = {
    {0x000, 0x000}, {0x004, 0x005}, {0x008, 0x00a}, {0x00f, 0x00f}, {0x040, 0x044}, {0xc20, 0xc22},
    {0xc80, 0xc9f}, {0x102, 0x103}, {0x107, 0x107}, {0x15d, 0x15d}, {0x200, 0x200}, {0x204, 0x205},
    {0x240, 0x244}, {0x280, 0x280}, {0x600, 0x607}, {0x30c, 0x30f}, {0x10c, 0x10f}, {0x310, 0x310},
    {0x31a, 0x31a}, {0x345, 0x349}, {0x34c, 0x34f}, {0x3a1, 0x3a1}, {0x3a3, 0x3a3}, {0x7b0, 0x7b3},
    {0x7c0, 0x7ff}, {0xb01, 0xb01}, {0xb80, 0xb9f}, {0xbc0, 0xbff}, {0xcc0, 0xcff}, {0xfc0, 0xfff},
    {0x5c0, 0x5ff}, {0x9c0, 0x9ff}, {0xdc0, 0xdff}, {0x800, 0x8ff}, {0xe00, 0xeff}, {0xf10, 0xf10},
    {0xf16, 0xf1f},
};

static void presence(void)
{
    csr_set(mstatus, MSTATUS_FS);
    for (size_t i = 0; i < ARRAY_SIZE(present); i++) {
        for (unsigned c = present[i].first; c <= present[i].last; c++) {
            csr_op(MODE_M, c, CSRRS, 0, 0);
            CHECK(!trapped(), "csr 0x%x exists", c);
        }
    }
    for (size_t i = 0; i < ARRAY_SIZE(absent); i++) {
        for (unsigned c = absent[i].first; c <= absent[i].last; c++) {
            expect_illegal(MODE_M, c, CSRRS, 0, "absent");
            expect_illegal(MODE_M, c, CSRRW, 10, "absent");
        }
    }
}

/* Every CSR of the table from every mode below its own: illegal.  From its own: works. */
static void privilege(void)
{
    csr_set(mstatus, MSTATUS_FS);
    csr_write(mcounteren, -1);
    csr_write(scounteren, -1);
    csr_set(CSR_MENVCFG, MENVCFG_STCE);
    for (size_t i = 0; i < ARRAY_SIZE(present); i++) {
        for (unsigned c = present[i].first; c <= present[i].last; c++) {
            unsigned lowest = c >> 8 & 3;
            bool read_only = c >> 10 == 3;
            if (lowest > MODE_U) {
                expect_illegal(MODE_U, c, CSRRS, 0, "from U");
            } else {
                csr_op(MODE_U, c, CSRRS, 0, 0);
                CHECK(!trapped(), "csr 0x%x from U", c);
            }
            if (lowest > MODE_S) {
                expect_illegal(MODE_S, c, CSRRS, 0, "from S");
            } else {
                csr_op(MODE_S, c, CSRRS, 0, 0);
                CHECK(!trapped(), "csr 0x%x from S", c);
            }
            if (read_only) {
                /* Writes trap; "csrrs/csrrc with rs1 = x0 shall not write". */
                expect_illegal(MODE_M, c, CSRRW, 10, "read-only");
                expect_illegal(MODE_M, c, CSRRW, 0, "read-only, rs1 = x0");
                expect_illegal(MODE_M, c, CSRRS, 10, "read-only");
                expect_illegal(MODE_M, c, CSRRC, 10, "read-only");
                expect_illegal(MODE_M, c, CSRRWI, 0, "read-only");
                expect_illegal(MODE_M, c, CSRRSI, 1, "read-only");
                expect_illegal(MODE_M, c, CSRRCI, 31, "read-only");
                csr_op(MODE_M, c, CSRRC, 0, 0);
                CHECK(!trapped(), "csrrc x0 0x%x", c);
                csr_op(MODE_M, c, CSRRSI, 0, 0);
                CHECK(!trapped(), "csrrsi 0 0x%x", c);
                csr_op(MODE_M, c, CSRRCI, 0, 0);
                CHECK(!trapped(), "csrrci 0 0x%x", c);
            }
        }
    }
}

/* The six instructions on a register that keeps all bits, mscratch. */
static void instructions(void)
{
    u64 keep = csr_read(mscratch); /* tp: the trap handler needs it back */
    u64 v, r;
#define OP(text, start, operand, want)                                                             \
    __asm__ volatile("csrw mscratch, %2\n" text "\ncsrr %1, mscratch\ncsrw mscratch, %4"           \
                     : "=&r"(v), "=&r"(r)                                                          \
                     : "r"((u64)(start)), "r"((u64)(operand)), "r"(keep)                           \
                     : "memory");                                                                  \
    CHECK_EQ(v, start, "%s old", text);                                                            \
    CHECK_EQ(r, want, "%s new", text);
    OP("csrrw %0, mscratch, %3", 0xf0f0, ~0ul, ~0ul)
    OP("csrrs %0, mscratch, %3", 0xf0f0, 0xff00, 0xfff0)
    OP("csrrc %0, mscratch, %3", 0xf0f0, 0xff00, 0x00f0)
    OP("csrrwi %0, mscratch, 31", 0xf0f0, 0, 31)
    OP("csrrsi %0, mscratch, 15", 0xf0f0, 0, 0xf0ff)
    OP("csrrci %0, mscratch, 16", 0xf0f0, 0, 0xf0e0)
    OP("csrrs %0, mscratch, x0", 0xf0f0, 0, 0xf0f0)
    OP("csrrw %0, mscratch, x0", 0xf0f0, 0, 0)
    OP("csrrwi %0, mscratch, 0", 0xf0f0, 0, 0)
    OP("mv %0, %3\n csrrw %0, mscratch, %0", 0x77, 0x99, 0x99)
    OP("mv %0, %3\n csrrs %0, mscratch, %0", 0x70, 0x09, 0x79)
    OP("mv %0, %3\n csrrc %0, mscratch, %0", 0x79, 0x09, 0x70)
}

static void u_mode_csr_writes(void)
{
    /* A CSR above one's privilege is illegal even where it would not be written. */
    expect_illegal(MODE_U, 0x100, CSRRSI, 0, "sstatus from U");
    expect_illegal(MODE_S, 0x300, CSRRCI, 0, "mstatus from S");
    expect_illegal(MODE_S, 0x3b0, CSRRW, 10, "pmpaddr0 from S");
    expect_illegal(MODE_S, 0x7a0 + 0x10, CSRRS, 0, "dcsr from S");
}

void guest_main(void)
{
    presence();
    privilege();
    instructions();
    u_mode_csr_writes();
}
