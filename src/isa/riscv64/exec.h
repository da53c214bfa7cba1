/* SPDX-License-Identifier: MIT
 *
 * Meanings that more than one table row has: a compressed instruction is the base instruction
 * with other operands (U §C), sinval.vma is sfence.vma. Also the shape most integer
 * instructions share.
 */
#ifndef TRAPEZE_ISA_RISCV64_EXEC_H
#define TRAPEZE_ISA_RISCV64_EXEC_H

#include "isa/riscv64/insn.h"

/* rv_i.c */
rv_exec_fn rv_exec_addi, rv_exec_addiw, rv_exec_andi, rv_exec_slli, rv_exec_srli, rv_exec_srai;
rv_exec_fn rv_exec_add, rv_exec_sub, rv_exec_xor, rv_exec_or, rv_exec_and, rv_exec_addw,
    rv_exec_subw;
rv_exec_fn rv_exec_lui, rv_exec_jal, rv_exec_jalr, rv_exec_beq, rv_exec_bne;
rv_exec_fn rv_exec_lw, rv_exec_ld, rv_exec_sw, rv_exec_sd;
rv_exec_fn rv_exec_hint; /* does nothing */

/* rv_system.c */
rv_exec_fn rv_exec_ebreak;

/* Returned by an instruction that may have made an interrupt takeable (its VCPU_ATTENTION_IRQ
 * is looked at between blocks), or that changed what the instructions behind it mean. */
static inline enum rv_result rv_leave_block(struct rv_hart *hart, const struct rv_insn *insn)
{
    hart->pc = rv_insn_pc(hart, insn) + insn->length;
    return RV_JUMP;
}

/* An instruction that computes `expression` of a = x[rs1] and b = x[rs2] (or of a and imm,
 * as uint64_t) and writes it to x[rd]. */
#define RV_DEFINE_RR_AS(linkage, function, expression)                                             \
    linkage enum rv_result function(struct rv_hart *hart, const struct rv_insn *insn)              \
    {                                                                                              \
        uint64_t a = hart->x[insn->rs1], b = hart->x[insn->rs2];                                   \
        hart->x[insn->rd] = (uint64_t)(expression);                                                \
        return RV_NEXT;                                                                            \
    }
#define RV_DEFINE_RI_AS(linkage, function, expression)                                             \
    linkage enum rv_result function(struct rv_hart *hart, const struct rv_insn *insn)              \
    {                                                                                              \
        uint64_t a = hart->x[insn->rs1], imm = (uint64_t)insn->imm;                                \
        (void)a, (void)imm;                                                                        \
        hart->x[insn->rd] = (uint64_t)(expression);                                                \
        return RV_NEXT;                                                                            \
    }
#define RV_DEFINE_RR(function, expression) RV_DEFINE_RR_AS(static, function, expression)
#define RV_DEFINE_RI(function, expression) RV_DEFINE_RI_AS(static, function, expression)
/* The same for the functions named above. */
#define RV_DEFINE_SHARED_RR(function, expression) RV_DEFINE_RR_AS(extern, function, expression)
#define RV_DEFINE_SHARED_RI(function, expression) RV_DEFINE_RI_AS(extern, function, expression)

/* The *w instructions: the low 32 bits of a result, sign-extended. */
static inline uint64_t rv_word(uint64_t value)
{
    return (uint64_t)(int64_t)(int32_t)(uint32_t)value;
}

#endif
