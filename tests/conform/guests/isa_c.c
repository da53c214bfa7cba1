/*
 * C extension, exhaustively: each of the 49,152 16-bit encodings is either reserved, and then traps
 * as illegal with itself as mtval, or "expands into one 32-bit instruction" (C chapter).  expand()
 * transcribes the chapter's tables; both forms then run from the same registers and memory, and
 * must leave the same registers, memory and next pc.  HINTs expand too: they must change nothing.
 */
#include "rt.h"

const char guest_name[] = "isa_c";

/* ---- the expansion ------------------------------------------------------------------------- */
static u32 r_type(u32 op, u32 f3, u32 f7, u32 rd, u32 rs1, u32 rs2)
{
    return op | rd << 7 | f3 << 12 | rs1 << 15 | rs2 << 20 | f7 << 25;
}
static u32 i_type(u32 op, u32 f3, u32 rd, u32 rs1, int imm)
{
    return op | rd << 7 | f3 << 12 | rs1 << 15 | (u32)imm << 20;
}
static u32 s_type(u32 op, u32 f3, u32 rs1, u32 rs2, u32 imm)
{
    return op | (imm & 31) << 7 | f3 << 12 | rs1 << 15 | rs2 << 20 | (imm >> 5) << 25;
}
static u32 b_type(u32 f3, u32 rs1, int imm)
{
    u32 i = (u32)imm;
    return 0x63 | (i >> 11 & 1) << 7 | (i >> 1 & 15) << 8 | f3 << 12 | rs1 << 15 |
           (i >> 5 & 63) << 25 | (i >> 12 & 1) << 31;
}
static u32 j_type(u32 rd, int imm)
{
    u32 i = (u32)imm;
    return 0x6f | rd << 7 | (i & 0xff000) | (i >> 11 & 1) << 20 | (i >> 1 & 0x3ff) << 21 |
           (i >> 20 & 1) << 31;
}

static int sign(u32 v, int bits)
{
    return (int)(v << (32 - bits)) >> (32 - bits);
}

/* Bits `from` of c, `n` of them, to position `to`. */
static u32 mv(u32 c, int from, int n, int to)
{
    return (c >> from & ((1u << n) - 1)) << to;
}

static u32 quadrant0(u32 c)
{
    u32 rd = 8 + mv(c, 2, 3, 0), rs1 = 8 + mv(c, 7, 3, 0);
    u32 w = mv(c, 10, 3, 3) | mv(c, 6, 1, 2) | mv(c, 5, 1, 6);
    u32 d = mv(c, 10, 3, 3) | mv(c, 5, 2, 6);
    switch (c >> 13) {
    case 0: {
        u32 imm = mv(c, 11, 2, 4) | mv(c, 7, 4, 6) | mv(c, 6, 1, 2) | mv(c, 5, 1, 3);
        return imm ? i_type(0x13, 0, rd, 2, (int)imm) : 0;
    }
    case 1:
        return i_type(0x07, 3, rd, rs1, (int)d);
    case 2:
        return i_type(0x03, 2, rd, rs1, (int)w);
    case 3:
        return i_type(0x03, 3, rd, rs1, (int)d);
    case 5:
        return s_type(0x27, 3, rs1, rd, d);
    case 6:
        return s_type(0x23, 2, rs1, rd, w);
    case 7:
        return s_type(0x23, 3, rs1, rd, d);
    default:
        return 0; /* funct3 4: reserved without Zcb */
    }
}

static u32 misc_alu(u32 c)
{
    u32 rd = 8 + mv(c, 7, 3, 0), rs2 = 8 + mv(c, 2, 3, 0), f2 = mv(c, 5, 2, 0);
    u32 sh = mv(c, 2, 5, 0) | mv(c, 12, 1, 5);
    static const u32 f3[] = {0, 4, 6, 7}; /* sub xor or and */
    switch (c >> 10 & 3) {
    case 0:
        return i_type(0x13, 5, rd, rd, (int)sh);
    case 1:
        return i_type(0x13, 5, rd, rd, (int)(sh | 0x400));
    case 2:
        return i_type(0x13, 7, rd, rd, sign(sh, 6));
    default:
        if (!(c >> 12 & 1)) {
            return r_type(0x33, f3[f2], f2 ? 0 : 0x20, rd, rd, rs2);
        }
        return f2 == 0   ? r_type(0x3b, 0, 0x20, rd, rd, rs2)
               : f2 == 1 ? r_type(0x3b, 0, 0, rd, rd, rs2)
                         : 0;
    }
}

static u32 quadrant1(u32 c)
{
    u32 rd = mv(c, 7, 5, 0);
    int imm = sign(mv(c, 2, 5, 0) | mv(c, 12, 1, 5), 6);
    switch (c >> 13) {
    case 0:
        return i_type(0x13, 0, rd, rd, imm);
    case 1:
        return rd ? i_type(0x1b, 0, rd, rd, imm) : 0;
    case 2:
        return i_type(0x13, 0, rd, 0, imm);
    case 3:
        if (!imm) {
            return 0;
        }
        if (rd == 2) {
            return i_type(0x13, 0, 2, 2,
                          sign(mv(c, 12, 1, 9) | mv(c, 6, 1, 4) | mv(c, 5, 1, 6) | mv(c, 3, 2, 7) |
                                   mv(c, 2, 1, 5),
                               10));
        }
        return 0x37 | rd << 7 | (u32)imm << 12;
    case 4:
        return misc_alu(c);
    case 5:
        return j_type(0,
                      sign(mv(c, 12, 1, 11) | mv(c, 11, 1, 4) | mv(c, 9, 2, 8) | mv(c, 8, 1, 10) |
                               mv(c, 7, 1, 6) | mv(c, 6, 1, 7) | mv(c, 3, 3, 1) | mv(c, 2, 1, 5),
                           12));
    default:
        return b_type(c >> 13 == 6 ? 0 : 1, 8 + mv(c, 7, 3, 0),
                      sign(mv(c, 12, 1, 8) | mv(c, 10, 2, 3) | mv(c, 5, 2, 6) | mv(c, 3, 2, 1) |
                               mv(c, 2, 1, 5),
                           9));
    }
}

static u32 quadrant2(u32 c)
{
    u32 rd = mv(c, 7, 5, 0), rs2 = mv(c, 2, 5, 0);
    u32 lw = mv(c, 12, 1, 5) | mv(c, 4, 3, 2) | mv(c, 2, 2, 6);
    u32 ld = mv(c, 12, 1, 5) | mv(c, 5, 2, 3) | mv(c, 2, 3, 6);
    u32 sw = mv(c, 9, 4, 2) | mv(c, 7, 2, 6), sd = mv(c, 10, 3, 3) | mv(c, 7, 3, 6);
    bool bit12 = c >> 12 & 1;
    switch (c >> 13) {
    case 0:
        return i_type(0x13, 1, rd, rd, (int)(rs2 | mv(c, 12, 1, 5)));
    case 1:
        return i_type(0x07, 3, rd, 2, (int)ld);
    case 2:
        return rd ? i_type(0x03, 2, rd, 2, (int)lw) : 0;
    case 3:
        return rd ? i_type(0x03, 3, rd, 2, (int)ld) : 0;
    case 4:
        if (rs2) {
            return r_type(0x33, 0, 0, rd, bit12 ? rd : 0, rs2);
        }
        if (!rd) {
            return bit12 ? 0x00100073 : 0; /* ebreak; c.jr x0 is reserved */
        }
        return i_type(0x67, 0, bit12 ? 1 : 0, rd, 0);
    case 5:
        return s_type(0x27, 3, 2, rs2, sd);
    case 6:
        return s_type(0x23, 2, 2, rs2, sw);
    default:
        return s_type(0x23, 3, 2, rs2, sd);
    }
}

static u32 expand(u32 c)
{
    return (c & 3) == 0 ? quadrant0(c) : (c & 3) == 1 ? quadrant1(c) : quadrant2(c);
}

/* ---- running both forms --------------------------------------------------------------------- */
enum { REGION = 8192, C_EBREAK = 0x9002 };
static u16 region[REGION / 2] __attribute__((aligned(4096)));
static u16 *const slot = region + REGION / 4;
/* Offsets are non-negative and at most 504. */
enum { DATA = 80, BASE = 8 };
static u64 data[DATA];

struct state {
    u64 x[32], f[32], data[DATA];
    u64 pc, cause, tval;
};

#define ALL_F(X)                                                                                   \
    X(0)                                                                                           \
    X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16) X(17)   \
        X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31)

static void load_f(const u64 *f)
{
#define X(n) __asm__ volatile("fld f" #n ", %0" ::"m"(f[n]));
    ALL_F(X)
#undef X
}

static void save_f(u64 *f)
{
#define X(n) __asm__ volatile("fsd f" #n ", %0" : "=m"(f[n]));
    ALL_F(X)
#undef X
}

static void run(const u64 *x, const u64 *f, bool fp, struct state *out)
{
    memcpy(data, f + 32, sizeof data);
    fence_i();
    if (fp) {
        load_f(f);
    }
    trap_clear();
    self()->leave_on_trap = 1;
    enter(MODE_U, (u64)slot, x);
    if (fp) {
        save_f(out->f);
    }
    memcpy(out->x, self()->exit_regs, sizeof out->x);
    memcpy(out->data, data, sizeof data);
    out->pc = self()->t.epc;
    out->cause = self()->t.cause;
    out->tval = self()->t.tval;
}

static void place(u32 insn, bool compressed)
{
    slot[0] = (u16)insn;
    slot[1] = compressed ? C_EBREAK : (u16)(insn >> 16);
}

/* Register that is a base address or a jump target, or -1. */
static int pointer_register(u32 insn)
{
    switch (insn & 0x7f) {
    case 0x03:
    case 0x07:
    case 0x23:
    case 0x27:
    case 0x67:
        return (int)(insn >> 15 & 31);
    default:
        return -1;
    }
}

static void compare(u32 c, u32 insn, const u64 *x, const u64 *f)
{
    static struct state a, b;
    bool fp = (insn & 0x5f) == 0x07, jalr = (insn & 0x7f) == 0x67;
    place(c, true);
    run(x, f, fp, &a);
    place(insn, false);
    run(x, f, fp, &b);
    CHECK_EQ(a.cause, C_BREAKPOINT, "0x%x cause", c);
    if (b.pc == (u64)slot + 4) {
        b.pc -= 2; /* fell through */
    }
    if (jalr && (insn >> 7 & 31) == 1) {
        b.x[1] -= 2;
    }
    CHECK_EQ(a.pc, b.pc, "0x%x next pc", c);
    for (int i = 1; i < 32; i++) {
        if (a.x[i] != b.x[i]) {
            CHECK_EQ(a.x[i], b.x[i], "0x%x x%d", c, i);
        }
        if (fp && a.f[i] != b.f[i]) {
            CHECK_EQ(a.f[i], b.f[i], "0x%x f%d", c, i);
        }
    }
    for (size_t i = 0; i < ARRAY_SIZE(data); i++) {
        if (a.data[i] != b.data[i]) {
            CHECK_EQ(a.data[i], b.data[i], "0x%x data %lu", c, i);
        }
    }
}

/* Jumps by 0 never end, by 2 end inside the 32-bit form, by 4 look like falling through it: those
 * are judged by where they go. */
static bool jumps_into_itself(u32 c, u32 insn, const u64 *f)
{
    static struct state a;
    u32 op = insn & 0x7f;
    int offset = op == 0x6f ? sign(mv(insn, 31, 1, 20) | mv(insn, 21, 10, 1) | mv(insn, 20, 1, 11) |
                                       mv(insn, 12, 8, 12),
                                   21)
                 : op == 0x63 ? sign(mv(insn, 31, 1, 12) | mv(insn, 25, 6, 5) | mv(insn, 8, 4, 1) |
                                         mv(insn, 7, 1, 11),
                                     13)
                              : 8;
    if (offset == 2 || offset == 4) {
        for (u64 v = 0; v < 2; v++) {
            u64 x[32];
            for (int i = 0; i < 32; i++) {
                x[i] = v;
            }
            bool taken = op == 0x6f || (insn >> 12 & 7) == v; /* beq is funct3 0, bne 1 */
            place(c, true);
            run(x, f, false, &a);
            CHECK_EQ(a.pc, (u64)slot + (taken ? (u64)offset : 2), "0x%x next pc", c);
        }
    }
    return offset == 0 || offset == 2 || offset == 4;
}

static void one(u32 c, u64 *seed, const u64 *f)
{
    u64 x[32];
    u32 insn = expand(c);
    for (int i = 0; i < 32; i++) {
        x[i] = rnd(seed);
    }
    if (!insn) {
        static struct state a;
        place(c, true);
        run(x, f, false, &a);
        CHECK_EQ(a.cause, C_ILLEGAL, "reserved 0x%x cause", c);
        CHECK_EQ(a.tval, c, "reserved 0x%x tval", c);
        CHECK_EQ(a.pc, (u64)slot, "reserved 0x%x epc", c);
        return;
    }
    if (jumps_into_itself(c, insn, f)) {
        return;
    }
    int p = pointer_register(insn);
    if (p >= 0) {
        x[p] = (insn & 0x7f) == 0x67 ? (u64)(region + REGION / 8) : (u64)(data + BASE);
    }
    compare(c, insn, x, f);
    if ((insn & 0x7f) == 0x63) {
        x[insn >> 15 & 31] = 0;
        compare(c, insn, x, f);
    }
}

void guest_main(void)
{
    static u64 f[32 + DATA];
    u64 seed = 0x9e3779b97f4a7c15ul;
    csr_set(mstatus, MSTATUS_FS);
    for (size_t i = 0; i < ARRAY_SIZE(f); i++) {
        f[i] = rnd(&seed);
    }
    for (size_t i = 0; i < ARRAY_SIZE(region); i++) {
        region[i] = C_EBREAK;
    }
    for (u32 c = 0; c < 0x10000; c++) {
        if ((c & 3) != 3) {
            one(c, &seed, f);
        }
    }
}
