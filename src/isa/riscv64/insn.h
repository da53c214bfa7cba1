/* SPDX-License-Identifier: MIT
 *
 * Instructions as data. Every extension file (extensions.list) holds one C function per
 * instruction, what it *means*, and one table row that says how it is encoded. Decoder,
 * disassembler, interpreter and translator all work from the rows.
 *
 *     static enum rv_result exec_add(struct rv_hart *hart, const struct rv_insn *insn)
 *     {
 *         hart->x[insn->rd] = hart->x[insn->rs1] + hart->x[insn->rs2];
 *         return RV_NEXT;
 *     }
 *     static const struct rv_row rows[] = {
 *         {"add", 0x00000033, 0xfe00707f, RV_FORMAT_R, exec_add, 0},
 *     };
 *     const struct rv_extension rv_i = {"i", rows, ARRAY_SIZE(rows)};
 *
 * The variable is named as its file (rv_i.c) and as its line in extensions.list.
 *
 * No two rows may match the same encoding, unless one is marked RV_ROW_SPECIAL and its mask
 * is a strict superset (a hint or a special case of the other): a build-time check.
 */
#ifndef TRAPEZE_ISA_RISCV64_INSN_H
#define TRAPEZE_ISA_RISCV64_INSN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bits.h"
#include "isa/riscv64/hart.h"

#define RV_RD_NONE 32 /* rd when the encoding says x0 and rd is an integer register */

enum rv_result {
    RV_NEXT, /* go on with the instruction behind this one; pc untouched */
    RV_JUMP, /* hart->pc is the address of the next instruction */
    RV_TRAP, /* hart->trap is set, nothing architectural changed; pc untouched */
    RV_EXIT  /* hart->pc is the next instruction's address and hart->exit says why to leave */
};

struct rv_insn;
typedef enum rv_result rv_exec_fn(struct rv_hart *hart, const struct rv_insn *insn);

/* How operands are laid out; each has one row in formats.c: extraction and text. */
enum rv_format {
    RV_FORMAT_NONE,     /* ecall, fence.i, c.nop */
    RV_FORMAT_R,        /* rd, rs1, rs2 */
    RV_FORMAT_R2,       /* rd, rs1 (rs2 is part of the opcode) */
    RV_FORMAT_I,        /* rd, rs1, imm[11:0] */
    RV_FORMAT_SHIFT6,   /* rd, rs1, shamt[5:0] */
    RV_FORMAT_SHIFT5,   /* rd, rs1, shamt[4:0] */
    RV_FORMAT_LOAD,     /* rd, imm(rs1) */
    RV_FORMAT_S,        /* rs2, imm(rs1) */
    RV_FORMAT_B,        /* rs1, rs2, pc+imm */
    RV_FORMAT_U,        /* rd, imm << 12 (imm holds the shifted, sign-extended value) */
    RV_FORMAT_J,        /* rd, pc+imm */
    RV_FORMAT_JALR,     /* rd, imm(rs1) */
    RV_FORMAT_CSR,      /* rd, csr (imm), rs1 */
    RV_FORMAT_CSRI,     /* rd, csr (imm), zimm (rs1) */
    RV_FORMAT_FENCE,    /* imm = pred/succ/fm bits */
    RV_FORMAT_AMO,      /* rd, rs2, (rs1); aq/rl in imm bits 1:0 */
    RV_FORMAT_LR,       /* rd, (rs1); aq/rl in imm bits 1:0 */
    RV_FORMAT_SFENCE,   /* rs1, rs2 */
    RV_FORMAT_CBO,      /* (rs1) */
    RV_FORMAT_PREFETCH, /* imm(rs1), imm[4:0] = 0 */
    /* floating point: rd/rs1/rs2/rs3 are f registers where F stands, x where X stands;
       rm in insn->rm */
    RV_FORMAT_F_FFF,  /* rd f, rs1 f, rs2 f, rm */
    RV_FORMAT_F_FFFF, /* rd f, rs1 f, rs2 f, rs3 f, rm */
    RV_FORMAT_F_FF,   /* rd f, rs1 f, rm (sqrt, fcvt.s.d) */
    RV_FORMAT_F_XF,   /* rd x, rs1 f, rm (fcvt.w.s) */
    RV_FORMAT_F_FX,   /* rd f, rs1 x, rm (fcvt.s.w) */
    RV_FORMAT_F_FFF_NORM, /* sgnj, min, max: no rm field */
    RV_FORMAT_F_XFF,  /* compares: rd x, no rm field */
    RV_FORMAT_F_XF_NORM,  /* fmv.x.w, fclass: rd x, rs1 f */
    RV_FORMAT_F_FX_NORM,  /* fmv.w.x */
    RV_FORMAT_F_LOAD, /* rd f, imm(rs1) */
    RV_FORMAT_F_STORE,/* rs2 f, imm(rs1) */
    /* compressed (U §C); registers and immediates come out as in the expansion */
    RV_FORMAT_CI,       /* rd = rs1, imm6 signed (c.addi) */
    RV_FORMAT_CADDIW,   /* the same, rd not x0 */
    RV_FORMAT_CLI,      /* rd, rs1 = x0, imm6 */
    RV_FORMAT_CLUI,     /* rd, imm[17:12] << 12 */
    RV_FORMAT_CADDI16SP,/* rd = rs1 = sp, imm */
    RV_FORMAT_CADDI4SPN,/* rd', rs1 = sp, uimm */
    RV_FORMAT_CSHIFT,   /* rd = rs1, shamt6 (c.slli) */
    RV_FORMAT_CBSHIFT,  /* rd' = rs1', shamt6 (c.srli, c.srai) */
    RV_FORMAT_CBANDI,   /* rd' = rs1', imm6 */
    RV_FORMAT_CA,       /* rd' = rs1', rs2' */
    RV_FORMAT_CMV,      /* rd, rs1 = x0, rs2 */
    RV_FORMAT_CADD,     /* rd = rs1, rs2 */
    RV_FORMAT_CJ,       /* rd = x0, pc+imm */
    RV_FORMAT_CB,       /* rs1', rs2 = x0, pc+imm */
    RV_FORMAT_CJR,      /* rd = x0, rs1, imm 0 */
    RV_FORMAT_CJALR,    /* rd = ra, rs1, imm 0 */
    RV_FORMAT_CLW, RV_FORMAT_CLD,     /* rd', uimm(rs1') scaled 4, 8 */
    RV_FORMAT_CSW, RV_FORMAT_CSD,     /* rs2', uimm(rs1') */
    RV_FORMAT_CLWSP, RV_FORMAT_CLDSP, /* rd, uimm(sp) */
    RV_FORMAT_CSWSP, RV_FORMAT_CSDSP, /* rs2, uimm(sp) */
    RV_FORMAT_CFLD, RV_FORMAT_CFSD, RV_FORMAT_CFLDSP, RV_FORMAT_CFSDSP, /* f register */
    RV_FORMATS
};

enum rv_row_flag {
    RV_ROW_ENDS_BLOCK = 1, /* may change control flow, privilege, translation or CSRs: nothing
                              behind it belongs to the same block */
    RV_ROW_SPECIAL = 2,    /* a special case of a more general row, tried first */
    RV_ROW_BRANCH = 4,     /* conditional: RV_NEXT if not taken (the block may go on) */
    RV_ROW_LOAD = 8,
    RV_ROW_STORE = 16,
    RV_ROW_FP = 32         /* illegal while mstatus.FS is Off (the function checks) */
};

struct rv_row {
    const char *name; /* as an assembler spells it */
    uint32_t match, mask; /* 16-bit encodings: upper halves 0 and mask bits 31:16 clear */
    enum rv_format format;
    rv_exec_fn *exec;
    unsigned flags; /* enum rv_row_flag */
};

struct rv_extension {
    const char *name; /* for messages; the ISA string is kept in isa.c */
    const struct rv_row *rows;
    size_t count;
};

/* A decoded instruction: 32 bytes. */
struct rv_insn {
    rv_exec_fn *exec;
    int64_t imm;
    uint32_t raw;    /* encoding, zero-extended from 16 bits if compressed: xtval of illegal */
    uint16_t offset; /* bytes from the start of the block */
    uint8_t index;   /* instructions before it in the block */
    uint8_t length;  /* 2 or 4 */
    uint8_t rd, rs1, rs2, rs3;
    uint8_t rm;
    uint8_t flags;   /* enum rv_row_flag */
    uint16_t row;    /* index in the decoder's row list, for disassembly; UINT16_MAX: illegal */
};

static inline uint64_t rv_insn_pc(const struct rv_hart *hart, const struct rv_insn *insn)
{
    return hart->pc + insn->offset;
}

static inline enum rv_result rv_raise(struct rv_hart *hart, enum rv_cause cause, uint64_t tval)
{
    hart->trap.cause = (uint64_t)cause;
    hart->trap.tval = tval;
    return RV_TRAP;
}

static inline enum rv_result rv_raise_illegal(struct rv_hart *hart, const struct rv_insn *insn)
{
    return rv_raise(hart, RV_CAUSE_ILLEGAL, insn->raw);
}

/* Look-up structure over all rows; const after rv_decoder_new(). Shared by all harts. */
struct rv_decoder;
struct rv_decoder *rv_decoder_new(void);
void rv_decoder_free(struct rv_decoder *decoder);
/* `bits`: at least the instruction's own 16 or 32 bits. Never fails: what no row matches
 * becomes an insn whose exec raises illegal-instruction. offset and index are left 0. */
void rv_decode(const struct rv_decoder *decoder, uint32_t bits, struct rv_insn *insn);
size_t rv_decoder_row_count(const struct rv_decoder *decoder);
const struct rv_row *rv_decoder_row(const struct rv_decoder *decoder, size_t index);
/* Text of a decoded instruction without a decoder at hand (debugger, logs): struct isa's
 * disassemble(). Slower. */
unsigned rv_disassemble(const uint8_t *code, size_t available, uint64_t pc, char *text,
                        size_t text_size);
/* Text of a decoded instruction, e.g. "addi a0, a0, -1"; objdump -M no-aliases spelling. */
void rv_format_insn(const struct rv_decoder *decoder, const struct rv_insn *insn, uint64_t pc,
                    char *text, size_t text_size);

#endif
