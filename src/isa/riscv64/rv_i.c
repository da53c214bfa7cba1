/* SPDX-License-Identifier: MIT
 *
 * RV64I (U §2, §4), Zifencei (U §5) and the pause hint (U §Zihintpause).
 *
 * Loads and stores write a register only after the access succeeded; jumps read rs1 before
 * they write rd (they may be the same register).
 */
#include "isa/riscv64/exec.h"
#include "isa/riscv64/mmu.h"

RV_DEFINE_SHARED_RI(rv_exec_addi, a + imm)
RV_DEFINE_RI(exec_slti, (int64_t)a < (int64_t)imm)
RV_DEFINE_RI(exec_sltiu, a < imm)
RV_DEFINE_RI(exec_xori, a ^ imm)
RV_DEFINE_RI(exec_ori, a | imm)
RV_DEFINE_SHARED_RI(rv_exec_andi, a &imm)
RV_DEFINE_SHARED_RI(rv_exec_slli, a << imm)
RV_DEFINE_SHARED_RI(rv_exec_srli, a >> imm)
RV_DEFINE_SHARED_RI(rv_exec_srai, (int64_t)a >> imm)
RV_DEFINE_SHARED_RI(rv_exec_addiw, rv_word(a + imm))
RV_DEFINE_RI(exec_slliw, rv_word(a << imm))
RV_DEFINE_RI(exec_srliw, rv_word((uint32_t)a >> imm))
RV_DEFINE_RI(exec_sraiw, (int64_t)((int32_t)a >> imm))
RV_DEFINE_SHARED_RI(rv_exec_lui, imm)
RV_DEFINE_RI(exec_auipc, rv_insn_pc(hart, insn) + imm)

RV_DEFINE_SHARED_RR(rv_exec_add, a + b)
RV_DEFINE_SHARED_RR(rv_exec_sub, a - b)
RV_DEFINE_RR(exec_sll, a << (b & 63))
RV_DEFINE_RR(exec_slt, (int64_t)a < (int64_t)b)
RV_DEFINE_RR(exec_sltu, a < b)
RV_DEFINE_SHARED_RR(rv_exec_xor, a ^ b)
RV_DEFINE_RR(exec_srl, a >> (b & 63))
RV_DEFINE_RR(exec_sra, (int64_t)a >> (b & 63))
RV_DEFINE_SHARED_RR(rv_exec_or, a | b)
RV_DEFINE_SHARED_RR(rv_exec_and, a &b)
RV_DEFINE_SHARED_RR(rv_exec_addw, rv_word(a + b))
RV_DEFINE_SHARED_RR(rv_exec_subw, rv_word(a - b))
RV_DEFINE_RR(exec_sllw, rv_word(a << (b & 31)))
RV_DEFINE_RR(exec_srlw, rv_word((uint32_t)a >> (b & 31)))
RV_DEFINE_RR(exec_sraw, (int64_t)((int32_t)a >> (b & 31)))

enum rv_result rv_exec_hint(struct rv_hart *hart, const struct rv_insn *insn)
{
    (void)hart, (void)insn;
    return RV_NEXT;
}

/* Instructions are 2-byte aligned (C is always on): no jump target can be misaligned once
 * jalr has cleared bit 0. */
enum rv_result rv_exec_jal(struct rv_hart *hart, const struct rv_insn *insn)
{
    uint64_t pc = rv_insn_pc(hart, insn);
    hart->x[insn->rd] = pc + insn->length;
    hart->pc = pc + (uint64_t)insn->imm;
    return RV_JUMP;
}

enum rv_result rv_exec_jalr(struct rv_hart *hart, const struct rv_insn *insn)
{
    uint64_t target = (hart->x[insn->rs1] + (uint64_t)insn->imm) & ~UINT64_C(1);
    hart->x[insn->rd] = rv_insn_pc(hart, insn) + insn->length;
    hart->pc = target;
    return RV_JUMP;
}

#define DEFINE_BRANCH(linkage, function, condition)                                                \
    linkage enum rv_result function(struct rv_hart *hart, const struct rv_insn *insn)              \
    {                                                                                              \
        uint64_t a = hart->x[insn->rs1], b = hart->x[insn->rs2];                                   \
        if (!(condition))                                                                          \
            return RV_NEXT;                                                                        \
        hart->pc = rv_insn_pc(hart, insn) + (uint64_t)insn->imm;                                   \
        return RV_JUMP;                                                                            \
    }
DEFINE_BRANCH(extern, rv_exec_beq, a == b)
DEFINE_BRANCH(extern, rv_exec_bne, a != b)
DEFINE_BRANCH(static, exec_blt, (int64_t)a < (int64_t)b)
DEFINE_BRANCH(static, exec_bge, (int64_t)a >= (int64_t)b)
DEFINE_BRANCH(static, exec_bltu, a < b)
DEFINE_BRANCH(static, exec_bgeu, a >= b)

/* `signedness` is the C type that extends the loaded value as the instruction does. */
#define DEFINE_LOAD(linkage, function, bits, signedness)                                           \
    linkage enum rv_result function(struct rv_hart *hart, const struct rv_insn *insn)              \
    {                                                                                              \
        uint##bits##_t value;                                                                      \
        if (UNLIKELY(!rv_load##bits(hart, hart->x[insn->rs1] + (uint64_t)insn->imm, &value)))      \
            return RV_TRAP;                                                                        \
        hart->x[insn->rd] = (uint64_t)(signedness)value;                                           \
        return RV_NEXT;                                                                            \
    }
DEFINE_LOAD(static, exec_lb, 8, int8_t)
DEFINE_LOAD(static, exec_lh, 16, int16_t)
DEFINE_LOAD(extern, rv_exec_lw, 32, int32_t)
DEFINE_LOAD(extern, rv_exec_ld, 64, uint64_t)
DEFINE_LOAD(static, exec_lbu, 8, uint8_t)
DEFINE_LOAD(static, exec_lhu, 16, uint16_t)
DEFINE_LOAD(static, exec_lwu, 32, uint32_t)

#define DEFINE_STORE(linkage, function, bits)                                                      \
    linkage enum rv_result function(struct rv_hart *hart, const struct rv_insn *insn)              \
    {                                                                                              \
        uint64_t va = hart->x[insn->rs1] + (uint64_t)insn->imm;                                    \
        if (UNLIKELY(!rv_store##bits(hart, va, (uint##bits##_t)hart->x[insn->rs2])))               \
            return RV_TRAP;                                                                        \
        return RV_NEXT;                                                                            \
    }
DEFINE_STORE(static, exec_sb, 8)
DEFINE_STORE(static, exec_sh, 16)
DEFINE_STORE(extern, rv_exec_sw, 32)
DEFINE_STORE(extern, rv_exec_sd, 64)

/* Bits of a fence's predecessor and successor sets (U §2.7). */
enum { FENCE_W = 1, FENCE_R = 2, FENCE_O = 4, FENCE_I = 8 };

/* Guest accesses are host accesses in program order. What the strongest fences add to an
 * acquire-release fence is that earlier stores are seen before later loads. */
static enum rv_result exec_fence(struct rv_hart *hart, const struct rv_insn *insn)
{
    (void)hart;
    unsigned successor = (unsigned)insn->imm & 15, predecessor = (unsigned)insn->imm >> 4 & 15;
    if ((predecessor & (FENCE_W | FENCE_O)) != 0 && (successor & (FENCE_R | FENCE_I)) != 0)
        atomic_thread_fence(memory_order_seq_cst);
    else
        atomic_thread_fence(memory_order_acq_rel);
    return RV_NEXT;
}

static enum rv_result exec_fence_tso(struct rv_hart *hart, const struct rv_insn *insn)
{
    (void)hart, (void)insn;
    atomic_thread_fence(memory_order_acq_rel);
    return RV_NEXT;
}

/* The engine compares what it holds with memory when it next enters it (fence_i_epoch). */
static enum rv_result exec_fence_i(struct rv_hart *hart, const struct rv_insn *insn)
{
    atomic_thread_fence(memory_order_seq_cst);
    hart->fence_i_epoch++;
    return rv_leave_block(hart, insn);
}

static const struct rv_row rows[] = {
    {"lui", 0x00000037, 0x0000007f, RV_FORMAT_U, rv_exec_lui, 0},
    {"auipc", 0x00000017, 0x0000007f, RV_FORMAT_U, exec_auipc, 0},
    {"jal", 0x0000006f, 0x0000007f, RV_FORMAT_J, rv_exec_jal, RV_ROW_ENDS_BLOCK},
    {"jalr", 0x00000067, 0x0000707f, RV_FORMAT_JALR, rv_exec_jalr, RV_ROW_ENDS_BLOCK},
    {"beq", 0x00000063, 0x0000707f, RV_FORMAT_B, rv_exec_beq, RV_ROW_BRANCH},
    {"bne", 0x00001063, 0x0000707f, RV_FORMAT_B, rv_exec_bne, RV_ROW_BRANCH},
    {"blt", 0x00004063, 0x0000707f, RV_FORMAT_B, exec_blt, RV_ROW_BRANCH},
    {"bge", 0x00005063, 0x0000707f, RV_FORMAT_B, exec_bge, RV_ROW_BRANCH},
    {"bltu", 0x00006063, 0x0000707f, RV_FORMAT_B, exec_bltu, RV_ROW_BRANCH},
    {"bgeu", 0x00007063, 0x0000707f, RV_FORMAT_B, exec_bgeu, RV_ROW_BRANCH},
    {"lb", 0x00000003, 0x0000707f, RV_FORMAT_LOAD, exec_lb, RV_ROW_LOAD},
    {"lh", 0x00001003, 0x0000707f, RV_FORMAT_LOAD, exec_lh, RV_ROW_LOAD},
    {"lw", 0x00002003, 0x0000707f, RV_FORMAT_LOAD, rv_exec_lw, RV_ROW_LOAD},
    {"ld", 0x00003003, 0x0000707f, RV_FORMAT_LOAD, rv_exec_ld, RV_ROW_LOAD},
    {"lbu", 0x00004003, 0x0000707f, RV_FORMAT_LOAD, exec_lbu, RV_ROW_LOAD},
    {"lhu", 0x00005003, 0x0000707f, RV_FORMAT_LOAD, exec_lhu, RV_ROW_LOAD},
    {"lwu", 0x00006003, 0x0000707f, RV_FORMAT_LOAD, exec_lwu, RV_ROW_LOAD},
    {"sb", 0x00000023, 0x0000707f, RV_FORMAT_S, exec_sb, RV_ROW_STORE},
    {"sh", 0x00001023, 0x0000707f, RV_FORMAT_S, exec_sh, RV_ROW_STORE},
    {"sw", 0x00002023, 0x0000707f, RV_FORMAT_S, rv_exec_sw, RV_ROW_STORE},
    {"sd", 0x00003023, 0x0000707f, RV_FORMAT_S, rv_exec_sd, RV_ROW_STORE},
    {"addi", 0x00000013, 0x0000707f, RV_FORMAT_I, rv_exec_addi, 0},
    {"slti", 0x00002013, 0x0000707f, RV_FORMAT_I, exec_slti, 0},
    {"sltiu", 0x00003013, 0x0000707f, RV_FORMAT_I, exec_sltiu, 0},
    {"xori", 0x00004013, 0x0000707f, RV_FORMAT_I, exec_xori, 0},
    {"ori", 0x00006013, 0x0000707f, RV_FORMAT_I, exec_ori, 0},
    {"andi", 0x00007013, 0x0000707f, RV_FORMAT_I, rv_exec_andi, 0},
    {"slli", 0x00001013, 0xfc00707f, RV_FORMAT_SHIFT6, rv_exec_slli, 0},
    {"srli", 0x00005013, 0xfc00707f, RV_FORMAT_SHIFT6, rv_exec_srli, 0},
    {"srai", 0x40005013, 0xfc00707f, RV_FORMAT_SHIFT6, rv_exec_srai, 0},
    {"addiw", 0x0000001b, 0x0000707f, RV_FORMAT_I, rv_exec_addiw, 0},
    {"slliw", 0x0000101b, 0xfe00707f, RV_FORMAT_SHIFT5, exec_slliw, 0},
    {"srliw", 0x0000501b, 0xfe00707f, RV_FORMAT_SHIFT5, exec_srliw, 0},
    {"sraiw", 0x4000501b, 0xfe00707f, RV_FORMAT_SHIFT5, exec_sraiw, 0},
    {"add", 0x00000033, 0xfe00707f, RV_FORMAT_R, rv_exec_add, 0},
    {"sub", 0x40000033, 0xfe00707f, RV_FORMAT_R, rv_exec_sub, 0},
    {"sll", 0x00001033, 0xfe00707f, RV_FORMAT_R, exec_sll, 0},
    {"slt", 0x00002033, 0xfe00707f, RV_FORMAT_R, exec_slt, 0},
    {"sltu", 0x00003033, 0xfe00707f, RV_FORMAT_R, exec_sltu, 0},
    {"xor", 0x00004033, 0xfe00707f, RV_FORMAT_R, rv_exec_xor, 0},
    {"srl", 0x00005033, 0xfe00707f, RV_FORMAT_R, exec_srl, 0},
    {"sra", 0x40005033, 0xfe00707f, RV_FORMAT_R, exec_sra, 0},
    {"or", 0x00006033, 0xfe00707f, RV_FORMAT_R, rv_exec_or, 0},
    {"and", 0x00007033, 0xfe00707f, RV_FORMAT_R, rv_exec_and, 0},
    {"addw", 0x0000003b, 0xfe00707f, RV_FORMAT_R, rv_exec_addw, 0},
    {"subw", 0x4000003b, 0xfe00707f, RV_FORMAT_R, rv_exec_subw, 0},
    {"sllw", 0x0000103b, 0xfe00707f, RV_FORMAT_R, exec_sllw, 0},
    {"srlw", 0x0000503b, 0xfe00707f, RV_FORMAT_R, exec_srlw, 0},
    {"sraw", 0x4000503b, 0xfe00707f, RV_FORMAT_R, exec_sraw, 0},
    {"fence", 0x0000000f, 0x0000707f, RV_FORMAT_FENCE, exec_fence, 0},
    {"fence.tso", 0x8330000f, 0xfff0707f, RV_FORMAT_NONE, exec_fence_tso, RV_ROW_SPECIAL},
    {"pause", 0x0100000f, 0xffffffff, RV_FORMAT_NONE, rv_exec_hint, RV_ROW_SPECIAL},
    {"fence.i", 0x0000100f, 0x0000707f, RV_FORMAT_NONE, exec_fence_i, RV_ROW_ENDS_BLOCK},
};
const struct rv_extension rv_i = {"i", rows, ARRAY_SIZE(rows)};
