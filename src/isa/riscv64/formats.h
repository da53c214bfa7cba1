/* SPDX-License-Identifier: MIT
 *
 * Between the decoder and formats.c: what an enum rv_format stands for.
 */
#ifndef TRAPEZE_ISA_RISCV64_FORMATS_H
#define TRAPEZE_ISA_RISCV64_FORMATS_H

#include "isa/riscv64/insn.h"

/* Fills rd, rs1, rs2, rs3, rm and imm, which are zero before. False: the operands are
 * reserved, the encoding is illegal. */
typedef bool rv_extract_fn(uint32_t raw, struct rv_insn *insn);

struct rv_format_row {
    rv_extract_fn *extract;
    /* Text of the operands. Letters stand for operands, the rest for itself:
     *   d s t      x registers rd, rs1, rs2        D S T R  f registers rd, rs1, rs2, rs3
     *   i x        imm in decimal, in hexadecimal  p        address pc + imm
     *   u          imm >> 12 as 20 bits, in hexadecimal
     *   c z        CSR name, rs1 as an immediate   f        sets of a fence
     *   m          ", rm" unless dynamic
     * A leading '.' asks for the .aq/.rl suffix of the name. */
    const char *operands;
};

/* Decodes without look-up tables; NULL (and an illegal insn) if no row matches. */
const struct rv_row *rv_decode_slowly(uint32_t bits, struct rv_insn *insn);

const struct rv_format_row *rv_format_row(enum rv_format format);

#endif
