/*
 * RV64I: computation (tables from gen/int_vectors.py), loads and stores of every width at every
 * alignment, jumps, upper immediates, fences and hints.
 */
#define VEC_I
#include "vectors.h"

const char guest_name[] = "isa_i";

static u8 buffer[64] __attribute__((aligned(64)));

static void fill(void)
{
    for (size_t i = 0; i < sizeof buffer; i++) {
        buffer[i] = (u8)(0x81 + i * 0x37);
    }
}

static u64 bytes_at(size_t off, int n, bool sign)
{
    u64 v = 0;
    for (int i = 0; i < n; i++) {
        v |= (u64)buffer[off + (size_t)i] << (8 * i);
    }
    if (sign && n < 8 && (v >> (8 * n - 1))) {
        v |= ~0ul << (8 * n);
    }
    return v;
}

#define LOAD(insn, n, sign)                                                                        \
    for (size_t o = 0; o < 24; o++) {                                                              \
        u64 v = 0x77;                                                                              \
        TRY(insn " %0, 0(%1)", OUT("+&r"(v)), IN("r"(buffer + o)));                                \
        check_no_trap(insn " at offset %lu", o);                                                   \
        CHECK_EQ(v, bytes_at(o, n, sign), insn " at offset %lu", o);                               \
        __asm__ volatile(insn " %0, -2048(%1)" : "=r"(v) : "r"(buffer + o + 2048));                \
        CHECK_EQ(v, bytes_at(o, n, sign), insn " offset -2048 at %lu", o);                         \
        __asm__ volatile(insn " %0, 2047(%1)" : "=r"(v) : "r"(buffer + o - 2047));                 \
        CHECK_EQ(v, bytes_at(o, n, sign), insn " offset 2047 at %lu", o);                          \
        v = (u64)buffer + o;                                                                       \
        __asm__ volatile(insn " %0, 0(%0)" : "+r"(v)::"memory");                                   \
        CHECK_EQ(v, bytes_at(o, n, sign), insn " rd=rs1 at %lu", o);                               \
        TRY(insn " x0, 0(%0)", OUT(), IN("r"(buffer + o)));                                        \
        check_no_trap(insn " to x0");                                                              \
    }

#define STORE(insn, n)                                                                             \
    for (size_t o = 0; o < 24; o++) {                                                              \
        u64 v = 0x8899aabbccddeeful * 0x11 + o;                                                    \
        fill();                                                                                    \
        u64 before = bytes_at(o + (n), 8, false), pre = o ? buffer[o - 1] : 0;                     \
        TRY(insn " %0, 0(%1)", OUT(), IN("r"(v), "r"(buffer + o)));                                \
        check_no_trap(insn " at offset %lu", o);                                                   \
        CHECK_EQ(bytes_at(o, n, false), v &(~0ul >> (64 - 8 * (n))), insn " at offset %lu", o);    \
        CHECK_EQ(bytes_at(o + (n), 8, false), before, insn " wrote past its end at %lu", o);       \
        CHECK_EQ(o ? buffer[o - 1] : 0, pre, insn " wrote before its start at %lu", o);            \
    }

static void loads_stores(void)
{
    fill();
    LOAD("lb", 1, true)
    LOAD("lbu", 1, false)
    LOAD("lh", 2, true)
    LOAD("lhu", 2, false)
    LOAD("lw", 4, true)
    LOAD("lwu", 4, false)
    LOAD("ld", 8, false)
    STORE("sb", 1)
    STORE("sh", 2)
    STORE("sw", 4)
    STORE("sd", 8)
}

static void upper(void)
{
    u64 v, pc;
    static const char why[] = "lui and auipc sign-extend bit 31";
#define LUI(imm)                                                                                   \
    __asm__ volatile("lui %0, " #imm : "=r"(v));                                                   \
    CHECK_EQ(v, (u64)(i64)(int)((unsigned)(imm) << 12), "lui " #imm " (%s)", why);                 \
    __asm__ volatile("la %1, 1f\n1: auipc %0, " #imm : "=&r"(v), "=&r"(pc));                       \
    CHECK_EQ(v, pc + (u64)(i64)(int)((unsigned)(imm) << 12), "auipc " #imm " (%s)", why);
    LUI(0)
    LUI(1)
    LUI(0x7ffff)
    LUI(0x80000)
    LUI(0xfffff)
    LUI(0x12345)
    /* 0x7fffffff needs addi across the sign boundary; lui+addiw must give it exactly. */
    __asm__ volatile("lui %0, 0x80000\n addiw %0, %0, -1" : "=r"(v));
    CHECK_EQ(v, 0x7fffffff, "lui+addiw");
    __asm__ volatile("lui x0, 0x12345\n auipc x0, 0x1\n mv %0, x0" : "=r"(v));
    CHECK_EQ(v, 0, "x0 after lui and auipc");
}

/* Outside any C function: the compiler does not know how large it is. */
u64 far_jal(void);
__asm__(".text\n.option push\n.option norvc\n.balign 4\n1: li a0, 1\n ret\n.space 1048560\n"
        "far_jal: li a0, 2\n jal x0, 1b\n.option pop\n");

static void jumps(void)
{
    u64 link, want, v;
    __asm__ volatile(".option push\n.option norvc\n la %1, 2f\n li %2, 1\n jal %0, 1f\n"
                     "2: li %2, 2\n1:\n.option pop"
                     : "=&r"(link), "=&r"(want), "=&r"(v));
    CHECK_EQ(link, want, "jal link");
    CHECK_EQ(v, 1, "jal jumps");
    __asm__ volatile(".option push\n.option norvc\n la t5, 1f\n la %1, 2f\n li %2, 1\n"
                     "jalr %0, 0(t5)\n2: li %2, 2\n1:\n.option pop"
                     : "=&r"(link), "=&r"(want), "=&r"(v)::"t5");
    CHECK_EQ(link, want, "jalr link");
    CHECK_EQ(v, 1, "jalr jumps");
    /* rd = rs1: the target is read before the link is written. */
    __asm__ volatile(".option push\n.option norvc\n la %0, 1f\n la %1, 2f\n li %2, 1\n"
                     "jalr %0, 0(%0)\n2: li %2, 2\n1:\n.option pop"
                     : "=&r"(link), "=&r"(want), "=&r"(v));
    CHECK_EQ(link, want, "jalr rd=rs1 link");
    CHECK_EQ(v, 1, "jalr rd=rs1 jumps");
    /* Bit 0 of the sum is cleared. */
    __asm__ volatile(".option push\n.option norvc\n la t5, 1f\n li %2, 1\n"
                     "jalr %0, 1(t5)\n2: li %2, 2\n j 3f\n1: li %2, 3\n3: mv %1, %0\n"
                     ".option pop"
                     : "=&r"(link), "=&r"(want), "=&r"(v)::"t5");
    CHECK_EQ(v, 3, "jalr clears bit 0");
    /* Negative and far offsets. */
    __asm__ volatile(
        ".option push\n.option norvc\n la t5, 1f+2047\n li %0, 1\n jalr x0, -2047(t5)\n"
        "li %0, 2\n1:\n.option pop"
        : "=&r"(v)::"t5");
    CHECK_EQ(v, 1, "jalr -2047");
    __asm__ volatile(".option push\n.option norvc\n li %0, 0\n j 2f\n1: addi %0, %0, 1\n j 3f\n"
                     ".space 4084\n2: beqz x0, 1b - 0\n3:\n.option pop"
                     : "=&r"(v));
    CHECK_EQ(v, 1, "farthest backward branch");
    __asm__ volatile(".option push\n.option norvc\n li %0, 0\n beq x0, x0, 1f\n .space 4086\n"
                     "li %0, 5\n1: addi %0, %0, 1\n.option pop"
                     : "=&r"(v));
    CHECK_EQ(v, 1, "far forward branch");
    v = far_jal();
    CHECK_EQ(v, 1, "far backward jal");
}

/* Everything the base ISA calls a HINT or reserves inside FENCE must execute as a no-op. */
static void fences_and_hints(void)
{
    u64 v = 0x1234;
#define NOOP(text)                                                                                 \
    TRY(text, OUT("+r"(v)), IN());                                                                 \
    check_no_trap("%s", text);                                                                     \
    CHECK_EQ(v, 0x1234, "%s", text);
    NOOP("fence")
    NOOP("fence rw, w")
    NOOP("fence.tso")
    NOOP(".4byte 0x0100000f") /* pause */
    NOOP(".4byte 0x0000000f") /* fence with empty sets */
    NOOP(".4byte 0x1ff5078f") /* fence with rs1, rd, reserved fm: treated as a normal fence */
    NOOP(".4byte 0x0ff50f8f")
    NOOP("fence.i")
    NOOP(".4byte 0xfff5178f") /* fence.i: imm, rs1 and rd are reserved and ignored */
    NOOP("addi x0, x0, 5")
    NOOP("lui x0, 1")
    NOOP("add x0, x0, x1")
    NOOP("slli x0, x0, 0x1f")
    NOOP("srai x0, x0, 7")
    NOOP("ori x0, x0, 0") /* also prefetch.i */
    NOOP("slti x0, x0, -1")
    NOOP("sllw x0, x1, x2")
}

/* Major opcodes and function codes RV64GC + our extensions leave reserved: illegal, xtval = bits.
 */
static void illegal(void)
{
    static const u32 codes[] = {
        0x00000000, 0xffffffff, 0x0000700b, /* custom-0 */
        0x0000702b,                         /* custom-1 */
        0x0000705b,                         /* custom-2 */
        0x0000707b,                         /* custom-3 */
        0x00007057,                         /* OP-V without V */
        0x00000077,                         /* OP-VE without V */
        0x0020006b,                         /* reserved major opcode */
        0x00007003,                         /* LOAD funct3 7 */
        0x00004023,                         /* STORE funct3 4 */
        0x00002063,                         /* BRANCH funct3 2 */
        0x00003063,                         /* BRANCH funct3 3 */
        0x00001067,                         /* JALR funct3 1 */
        0x00004073,                         /* SYSTEM funct3 4 */
        0x0000300f,                         /* MISC-MEM funct3 3 */
        0x40001013,                         /* slli with a reserved upper part */
        0x0200101b,                         /* slliw with shamt[5] */
        0x0400101b,                         /* slliw with a reserved upper part */
        0x4000201b,                         /* OP-IMM-32 funct3 2 */
        0x42007033,                         /* OP funct7 0x21 */
        0x04000033,                         /* OP funct7 2 */
        0x40002033,                         /* slt with funct7 0x20 */
        0x0400003b,                         /* OP-32 funct7 2 */
        0x0000203b,                         /* OP-32 funct3 2 */
        0x0200103b,                         /* MULHW does not exist */
        0x80000073,                         /* SYSTEM, unknown funct12 */
        0x001000f3,                         /* ebreak with rd != 0 */
        0x00008073,                         /* ecall with rs1 != 0 */
        0x302000f3,                         /* mret with rd != 0 */
        0x10508073,                         /* wfi with rs1 != 0 */
        0x120000f3,                         /* sfence.vma with rd != 0 */
        0x00200073,                         /* uret: N was removed */
        0x7b200073,                         /* dret outside debug mode */
    };
    static u32 slot[2] __attribute__((aligned(8)));
    for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
        u32 code = codes[i];
        slot[0] = code;
        slot[1] = 0x00008067; /* ret */
        fence_i();
        TRY("jalr %0", OUT(), IN("r"(slot)));
        CHECK_EQ(self()->t.cause, C_ILLEGAL, "code 0x%x cause", code);
        CHECK_EQ(self()->t.epc, (u64)slot, "code 0x%x epc", code);
        CHECK_EQ(self()->t.tval, (code & 3) == 3 ? code : code & 0xffff, "code 0x%x tval", code);
    }
}

void guest_main(void)
{
    run_vectors();
    loads_stores();
    upper();
    jumps();
    fences_and_hints();
    illegal();
}
