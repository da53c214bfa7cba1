/*
 * A extension: every AMO in both widths with corner operands and all aq/rl bits, LR/SC success and
 * failure rules of one hart (several harts: smp_atomics), misaligned operands, reserved encodings.
 */
#include "rt.h"

const char guest_name[] = "isa_a";

static const u64 corners[] = {
    0,          1,           ~0ul,       0x7fffffff,         0x80000000,         0xffffffff,
    1ul << 32,  1ul << 63,   ~0ul >> 1,  0xffffffff80000000, 0x123456789abcdef0, 0x8000000080000000,
    0x00ff00ff, 0xa5a5a5a5a, ~0ul << 31,
};

static u64 cell[2] __attribute__((aligned(64)));
static u64 elsewhere[1024];

enum amo { SWAP, ADD, XOR, AND, OR, MIN, MAX, MINU, MAXU };

/* "rd = mem; mem = mem op rs2", W forms on the low words, rd sign-extended. */
static u64 model(enum amo op, u64 mem, u64 b, bool word)
{
    i64 sm = word ? (int)mem : (i64)mem, sb = word ? (int)b : (i64)b;
    u64 um = word ? (u32)mem : mem, ub = word ? (u32)b : b;
    switch (op) {
    case SWAP:
        return b;
    case ADD:
        return mem + b;
    case XOR:
        return mem ^ b;
    case AND:
        return mem & b;
    case OR:
        return mem | b;
    case MIN:
        return sm < sb ? mem : b;
    case MAX:
        return sm > sb ? mem : b;
    case MINU:
        return um < ub ? mem : b;
    case MAXU:
        return um > ub ? mem : b;
    }
    return 0;
}

typedef u64 amo_fn(u64 *p, u64 b);

#define AMO_FN(sym, text)                                                                          \
    static u64 sym(u64 *p, u64 b)                                                                  \
    {                                                                                              \
        u64 v;                                                                                     \
        __asm__ volatile(text " %0, %2, (%1)" : "=&r"(v) : "r"(p), "r"(b) : "memory");             \
        return v;                                                                                  \
    }
#define AMO_FNS(sym, text)                                                                         \
    AMO_FN(sym##_w, text ".w")                                                                     \
    AMO_FN(sym##_w_aq, text ".w.aq")                                                               \
    AMO_FN(sym##_w_rl, text ".w.rl")                                                               \
    AMO_FN(sym##_w_aqrl, text ".w.aqrl")                                                           \
    AMO_FN(sym##_d, text ".d")                                                                     \
    AMO_FN(sym##_d_aq, text ".d.aq")                                                               \
    AMO_FN(sym##_d_rl, text ".d.rl")                                                               \
    AMO_FN(sym##_d_aqrl, text ".d.aqrl")
AMO_FNS(amoswap, "amoswap")
AMO_FNS(amoadd, "amoadd")
AMO_FNS(amoxor, "amoxor")
AMO_FNS(amoand, "amoand")
AMO_FNS(amoor, "amoor")
AMO_FNS(amomin, "amomin")
AMO_FNS(amomax, "amomax")
AMO_FNS(amominu, "amominu")
AMO_FNS(amomaxu, "amomaxu")

#define ROW(sym, op)                                                                               \
    {                                                                                              \
#sym, op,                                                                                  \
            {sym##_w, sym##_w_aq, sym##_w_rl, sym##_w_aqrl },                                      \
             {sym##_d, sym##_d_aq, sym##_d_rl, sym##_d_aqrl },                                     \
    }
static const struct {
    const char *name;
    enum amo op;
    amo_fn *w[4], *d[4];
} amos[] = {
    ROW(amoswap, SWAP), ROW(amoadd, ADD), ROW(amoxor, XOR),   ROW(amoand, AND),   ROW(amoor, OR),
    ROW(amomin, MIN),   ROW(amomax, MAX), ROW(amominu, MINU), ROW(amomaxu, MAXU),
};

static void amo_values(void)
{
    for (size_t k = 0; k < ARRAY_SIZE(amos); k++) {
        for (size_t i = 0; i < ARRAY_SIZE(corners); i++) {
            for (size_t j = 0; j < ARRAY_SIZE(corners); j++) {
                u64 m = corners[i], b = corners[j];
                for (int f = 0; f < 4; f++) {
                    cell[0] = m;
                    u64 old = amos[k].d[f](cell, b);
                    CHECK_EQ(old, m, "%s.d 0x%lx 0x%lx old", amos[k].name, m, b);
                    CHECK_EQ(cell[0], model(amos[k].op, m, b, false), "%s.d 0x%lx 0x%lx",
                             amos[k].name, m, b);
                    /* both words of the doubleword; the other one stays */
                    for (int hi = 0; hi < 2; hi++) {
                        u32 *p = (u32 *)cell + hi;
                        cell[0] = 0x1111111122222222ul;
                        *p = (u32)m;
                        u32 other = p[hi ? -1 : 1];
                        old = amos[k].w[f]((u64 *)p, b);
                        CHECK_EQ(old, (u64)(i64)(int)m, "%s.w 0x%lx 0x%lx old", amos[k].name, m, b);
                        CHECK_EQ(*p, (u32)model(amos[k].op, m, b, true), "%s.w 0x%lx 0x%lx",
                                 amos[k].name, m, b);
                        CHECK_EQ(p[hi ? -1 : 1], other, "%s.w touched its neighbour", amos[k].name);
                    }
                }
            }
        }
    }
}

static void register_aliases(void)
{
    u64 v;
    cell[0] = 5;
    __asm__ volatile("amoadd.d x0, %0, (%1)" ::"r"(7ul), "r"(cell) : "memory");
    CHECK_EQ(cell[0], 12, "amoadd.d to x0 still stores");
    __asm__ volatile("mv %0, %1\n amoadd.d %0, %2, (%0)"
                     : "=&r"(v)
                     : "r"(cell), "r"(1ul)
                     : "memory");
    CHECK_EQ(v, 12, "amoadd.d rd=rs1");
    CHECK_EQ(cell[0], 13, "amoadd.d rd=rs1 memory");
    v = 100;
    __asm__ volatile("amoadd.d %0, %0, (%1)" : "+&r"(v) : "r"(cell) : "memory");
    CHECK_EQ(v, 13, "amoadd.d rd=rs2");
    CHECK_EQ(cell[0], 113, "amoadd.d rd=rs2 memory");
    __asm__ volatile("mv %0, %1\n amoswap.d %0, %0, (%0)" : "=&r"(v) : "r"(cell) : "memory");
    CHECK_EQ(v, 113, "amoswap.d rd=rs1=rs2");
    CHECK_EQ(cell[0], (u64)cell, "amoswap.d rd=rs1=rs2 memory");
}

/* Each hart may lose a reservation at any time (an interrupt of the simulator, say): a sequence of
 * ours that should succeed is tried a bounded number of times, as in "Eventual Success". */
#define SUCCEEDS(text, outs, ins, result)                                                          \
    do {                                                                                           \
        int tries = 0;                                                                             \
        do {                                                                                       \
            __asm__ volatile(text:outs:ins : "memory");                                            \
        } while ((result) != 0 && ++tries < 1000);                                                 \
    } while (0)

static void reservations(void)
{
    u64 fail, old;
    u64 *p = cell;
    *p = 0xfedcba9876543210ul;
    SUCCEEDS("lr.d %0, (%2)\n sc.d %1, %3, (%2)", OUT("=&r"(old), "=&r"(fail)),
             IN("r"(p), "r"(42ul)), fail);
    CHECK_EQ(fail, 0, "lr.d sc.d");
    CHECK_EQ(old, 0xfedcba9876543210ul, "lr.d value");
    CHECK_EQ(*p, 42, "sc.d stored");
    *p = 0x1122334480000001ul;
    SUCCEEDS("lr.w.aqrl %0, (%2)\n sc.w.aqrl %1, %3, (%2)", OUT("=&r"(old), "=&r"(fail)),
             IN("r"(p), "r"(~0ul)), fail);
    CHECK_EQ(fail, 0, "lr.w sc.w");
    CHECK_EQ(old, 0xffffffff80000001ul, "lr.w sign-extends");
    CHECK_EQ(*p, 0x11223344fffffffful, "sc.w stored one word");

    /* Any SC ends the reservation, whether it succeeded or not. */
    *p = 1;
    __asm__ volatile("lr.d %0, (%2)\n sc.d %1, %3, (%2)\n sc.d %1, %4, (%2)"
                     : "=&r"(old), "=&r"(fail)
                     : "r"(p), "r"(2ul), "r"(3ul)
                     : "memory");
    CHECK(fail != 0, "second sc.d fails");
    CHECK(*p != 3, "second sc.d stores nothing");
    *p = 1;
    __asm__ volatile("lr.d %0, (%2)\n sc.d %1, %3, (%4)\n sc.d %1, %3, (%2)"
                     : "=&r"(old), "=&r"(fail)
                     : "r"(p), "r"(9ul), "r"(&elsewhere[512])
                     : "memory");
    CHECK(fail != 0, "sc.d after a failed sc.d elsewhere");
    CHECK_EQ(*p, 1, "sc.d after a failed sc.d elsewhere stores nothing");
    __asm__ volatile("sc.d %0, %1, (%2)" : "=&r"(fail) : "r"(7ul), "r"(p) : "memory");
    CHECK(fail != 0, "sc.d without lr.d");
    CHECK_EQ(*p, 1, "sc.d without lr.d stores nothing");
    __asm__ volatile("sc.w %0, %1, (%2)" : "=&r"(fail) : "r"(7ul), "r"(p) : "memory");
    CHECK(fail != 0, "sc.w without lr.w");
}

/* Za64rs: a reservation covers at most an aligned 64-byte block. */
static void reservation_reach(void)
{
    static u64 area[1024] __attribute__((aligned(4096)));
    static const size_t away[] = {8, 16, 64, 504, 512, 1000};
    for (size_t i = 0; i < ARRAY_SIZE(away); i++) {
        u64 fail, old;
        area[away[i]] = 5;
        area[0] = 5;
        __asm__ volatile("lr.d %0, (%2)\n sc.d %1, %3, (%4)"
                         : "=&r"(old), "=&r"(fail)
                         : "r"(area), "r"(6ul), "r"(&area[away[i]])
                         : "memory");
        CHECK(fail != 0, "sc.d %lu bytes away from lr.d", away[i] * 8);
        CHECK_EQ(area[away[i]], 5, "sc.d %lu bytes away stores nothing", away[i] * 8);
    }
    /* A later LR replaces the earlier one. */
    u64 fail, old;
    area[0] = area[512] = 5;
    __asm__ volatile("lr.d %0, (%2)\n lr.d %0, (%3)\n sc.d %1, %4, (%2)"
                     : "=&r"(old), "=&r"(fail)
                     : "r"(area), "r"(&area[512]), "r"(6ul)
                     : "memory");
    CHECK(fail != 0, "sc.d to the earlier of two lr.d");
}

/* The unconstrained part: failing SC must still raise the faults of a store. */
static void misaligned(void)
{
    u64 v = 0x77;
#define MISALIGNED(text, n, is_load)                                                               \
    for (u64 o = 1; o < (n); o++) {                                                                \
        v = 0x77;                                                                                  \
        cell[0] = cell[1] = 0x3333333333333333ul;                                                  \
        TRY(text, OUT("+r"(v)), IN("r"((u64)cell + o), "r"(1ul)));                                 \
        u64 cause = self()->t.cause;                                                               \
        if (is_load) {                                                                             \
            CHECK(cause == C_LOAD_MISALIGNED || cause == C_LOAD_ACCESS, "%s +%lu cause", text, o); \
        } else {                                                                                   \
            CHECK(cause == C_STORE_MISALIGNED || cause == C_STORE_ACCESS, "%s +%lu cause", text,   \
                  o);                                                                              \
        }                                                                                          \
        CHECK_EQ(self()->t.tval, (u64)cell + o, "%s +%lu tval", text, o);                          \
        CHECK_EQ(self()->t.epc, self()->at, "%s +%lu epc", text, o);                               \
        CHECK_EQ(v, 0x77, "%s +%lu rd", text, o);                                                  \
        CHECK_EQ(cell[0], 0x3333333333333333ul, "%s +%lu memory", text, o);                        \
    }
    MISALIGNED("lr.w %0, (%1)", 4, true)
    MISALIGNED("lr.d %0, (%1)", 8, true)
    MISALIGNED("sc.w %0, %2, (%1)", 4, false)
    MISALIGNED("sc.d %0, %2, (%1)", 8, false)
    MISALIGNED("amoadd.w %0, %2, (%1)", 4, false)
    MISALIGNED("amoadd.d %0, %2, (%1)", 8, false)
    MISALIGNED("amoswap.w %0, %2, (%1)", 4, false)
    MISALIGNED("amomaxu.d %0, %2, (%1)", 8, false)
}

static void reserved(void)
{
    u64 v = 0x77;
    register u64 *p __asm__("a1") = cell;
    cell[0] = 1;
    TRY(".4byte 0x1025b52f", OUT("+r"(v)), IN("r"(p))); /* lr.d with rs2 = x2 */
    check_trap(C_ILLEGAL, 0x1025b52f, "lr.d with rs2 != 0");
    TRY(".4byte 0xf805b52f", OUT("+r"(v)), IN("r"(p))); /* funct5 11111 */
    check_trap(C_ILLEGAL, 0xf805b52f, "reserved funct5");
    TRY(".4byte 0x0005f52f", OUT("+r"(v)), IN("r"(p))); /* width 7 */
    check_trap(C_ILLEGAL, 0x0005f52f, "reserved width");
    CHECK_EQ(cell[0], 1, "reserved encodings store nothing");
}

void guest_main(void)
{
    amo_values();
    register_aliases();
    reservations();
    reservation_reach();
    misaligned();
    reserved();
}
