/* SPDX-License-Identifier: MIT
 *
 * C: 16-bit forms of base instructions (U §C). Only encodings live here: extraction yields
 * the operands of the expansion, and the base instruction's function is the meaning. Reserved
 * operands (c.lwsp to x0 ...) are refused by the formats. Forms of F and D are in their files.
 */
#include "isa/riscv64/exec.h"

static const struct rv_row rows[] = {
    {"c.addi4spn", 0x0000, 0xe003, RV_FORMAT_CADDI4SPN, rv_exec_addi, 0},
    {"c.lw", 0x4000, 0xe003, RV_FORMAT_CLW, rv_exec_lw, RV_ROW_LOAD},
    {"c.ld", 0x6000, 0xe003, RV_FORMAT_CLD, rv_exec_ld, RV_ROW_LOAD},
    {"c.sw", 0xc000, 0xe003, RV_FORMAT_CSW, rv_exec_sw, RV_ROW_STORE},
    {"c.sd", 0xe000, 0xe003, RV_FORMAT_CSD, rv_exec_sd, RV_ROW_STORE},

    {"c.nop", 0x0001, 0xffff, RV_FORMAT_NONE, rv_exec_hint, RV_ROW_SPECIAL},
    {"c.addi", 0x0001, 0xe003, RV_FORMAT_CI, rv_exec_addi, 0},
    {"c.addiw", 0x2001, 0xe003, RV_FORMAT_CADDIW, rv_exec_addiw, 0},
    {"c.li", 0x4001, 0xe003, RV_FORMAT_CLI, rv_exec_addi, 0},
    {"c.addi16sp", 0x6101, 0xef83, RV_FORMAT_CADDI16SP, rv_exec_addi, RV_ROW_SPECIAL},
    {"c.lui", 0x6001, 0xe003, RV_FORMAT_CLUI, rv_exec_lui, 0},
    {"c.srli", 0x8001, 0xec03, RV_FORMAT_CBSHIFT, rv_exec_srli, 0},
    {"c.srai", 0x8401, 0xec03, RV_FORMAT_CBSHIFT, rv_exec_srai, 0},
    {"c.andi", 0x8801, 0xec03, RV_FORMAT_CBANDI, rv_exec_andi, 0},
    {"c.sub", 0x8c01, 0xfc63, RV_FORMAT_CA, rv_exec_sub, 0},
    {"c.xor", 0x8c21, 0xfc63, RV_FORMAT_CA, rv_exec_xor, 0},
    {"c.or", 0x8c41, 0xfc63, RV_FORMAT_CA, rv_exec_or, 0},
    {"c.and", 0x8c61, 0xfc63, RV_FORMAT_CA, rv_exec_and, 0},
    {"c.subw", 0x9c01, 0xfc63, RV_FORMAT_CA, rv_exec_subw, 0},
    {"c.addw", 0x9c21, 0xfc63, RV_FORMAT_CA, rv_exec_addw, 0},
    {"c.j", 0xa001, 0xe003, RV_FORMAT_CJ, rv_exec_jal, RV_ROW_ENDS_BLOCK},
    {"c.beqz", 0xc001, 0xe003, RV_FORMAT_CB, rv_exec_beq, RV_ROW_BRANCH},
    {"c.bnez", 0xe001, 0xe003, RV_FORMAT_CB, rv_exec_bne, RV_ROW_BRANCH},

    {"c.slli", 0x0002, 0xe003, RV_FORMAT_CSHIFT, rv_exec_slli, 0},
    {"c.lwsp", 0x4002, 0xe003, RV_FORMAT_CLWSP, rv_exec_lw, RV_ROW_LOAD},
    {"c.ldsp", 0x6002, 0xe003, RV_FORMAT_CLDSP, rv_exec_ld, RV_ROW_LOAD},
    {"c.jr", 0x8002, 0xf07f, RV_FORMAT_CJR, rv_exec_jalr, RV_ROW_ENDS_BLOCK | RV_ROW_SPECIAL},
    {"c.mv", 0x8002, 0xf003, RV_FORMAT_CMV, rv_exec_add, 0},
    {"c.ebreak", 0x9002, 0xffff, RV_FORMAT_NONE, rv_exec_ebreak,
     RV_ROW_ENDS_BLOCK | RV_ROW_SPECIAL},
    {"c.jalr", 0x9002, 0xf07f, RV_FORMAT_CJALR, rv_exec_jalr, RV_ROW_ENDS_BLOCK | RV_ROW_SPECIAL},
    {"c.add", 0x9002, 0xf003, RV_FORMAT_CADD, rv_exec_add, 0},
    {"c.swsp", 0xc002, 0xe003, RV_FORMAT_CSWSP, rv_exec_sw, RV_ROW_STORE},
    {"c.sdsp", 0xe002, 0xe003, RV_FORMAT_CSDSP, rv_exec_sd, RV_ROW_STORE},
};
const struct rv_extension rv_c = {"c", rows, ARRAY_SIZE(rows)};
