/* SPDX-License-Identifier: MIT
 *
 * Writes x86-64 machine code. One function per operand shape; what the instruction is comes
 * as an opcode constant that also says which prefixes and which opcode map it has.
 *
 *     x86_rr(code, X86_ADD | X86_W, X86_RAX, X86_RCX);              add rax, rcx
 *     x86_rm(code, X86_MOV_LOAD, X86_RDX, x86_at(X86_RBP, 16));     mov edx, [rbp+16]
 *
 * Code is written through one mapping and runs in another, `to_run` bytes further, so that no
 * address is ever both writable and executable. Nothing fails: when the space is used up,
 * `full` is set and nothing more is written; the caller looks once, at the end.
 *
 * Threads: the owner of the struct.
 */
#ifndef TRAPEZE_ENGINE_EMIT_X86_H
#define TRAPEZE_ENGINE_EMIT_X86_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum x86_reg {
    X86_RAX,
    X86_RCX,
    X86_RDX,
    X86_RBX,
    X86_RSP,
    X86_RBP,
    X86_RSI,
    X86_RDI,
    X86_R8,
    X86_R9,
    X86_R10,
    X86_R11,
    X86_R12,
    X86_R13,
    X86_R14,
    X86_R15,
    X86_NONE = -1
};

/* An opcode: the byte, the map it is in, the mandatory prefix and the width. */
#define X86_0F      0x100u
#define X86_0F38    0x200u
#define X86_0F3A    0x300u
#define X86_66      0x1000u
#define X86_F3      0x2000u
#define X86_F2      0x3000u
#define X86_W       0x10000u /* 64-bit operands */
#define X86_BYTE    0x20000u /* `reg` is a byte register: sil and dil need a REX prefix */
#define X86_BYTE_RM 0x40000u /* the same of a register in `rm` */
#define X86_LOCK    0x80000u

#define X86_ADD        0x03u /* reg op= rm */
#define X86_OR         0x0bu
#define X86_AND        0x23u
#define X86_SUB        0x2bu
#define X86_XOR        0x33u
#define X86_CMP        0x3bu
#define X86_OR_TO      0x09u /* rm op= reg */
#define X86_AND_TO     0x21u
#define X86_XOR_TO     0x31u
#define X86_TEST       0x85u
#define X86_MOV_LOAD   0x8bu /* reg = rm */
#define X86_MOV_STORE  0x89u /* rm = reg */
#define X86_MOV_STORE8 (0x88u | X86_BYTE)
#define X86_LEA        (0x8du | X86_W)
#define X86_MOVSXD     (0x63u | X86_W)
#define X86_XCHG       0x87u /* with memory: always locked */
#define X86_XADD       (0xc1u | X86_0F)
#define X86_CMPXCHG    (0xb1u | X86_0F)
#define X86_IMUL       (0xafu | X86_0F)
#define X86_MOVZX8     (0xb6u | X86_0F)
#define X86_MOVZX16    (0xb7u | X86_0F)
#define X86_MOVSX8     (0xbeu | X86_0F | X86_W)
#define X86_MOVSX16    (0xbfu | X86_0F | X86_W)
#define X86_POPCNT     (0xb8u | X86_0F | X86_F3)
#define X86_TZCNT      (0xbcu | X86_0F | X86_F3)
#define X86_LZCNT      (0xbdu | X86_0F | X86_F3)
#define X86_BT         (0xa3u | X86_0F) /* rm, reg */
#define X86_BTS        (0xabu | X86_0F)
#define X86_BTR        (0xb3u | X86_0F)
#define X86_BTC        (0xbbu | X86_0F)
#define X86_CMOV       (0x40u | X86_0F) /* + condition */
#define X86_SET        (0x90u | X86_0F) /* + condition; rm, reg = 0 */

/* VEX-encoded: reg = rm shifted by vvvv, or reg = ~vvvv & rm */
#define X86_SHLX (0xf7u | X86_0F38 | X86_66)
#define X86_SARX (0xf7u | X86_0F38 | X86_F3)
#define X86_SHRX (0xf7u | X86_0F38 | X86_F2)
#define X86_ANDN (0xf2u | X86_0F38)

/* Groups: `reg` chooses the operation. */
#define X86_GROUP1    0x81u /* with a 32-bit immediate; 0x83 if it fits 8 bits */
#define X86_GROUP3    0xf7u
#define X86_GROUP5    0xffu
#define X86_SHIFT_IMM 0xc1u
#define X86_SHIFT_CL  0xd3u
enum { X86_G1_ADD, X86_G1_OR, X86_G1_AND = 4, X86_G1_SUB, X86_G1_XOR, X86_G1_CMP };
enum { X86_G3_TEST, X86_G3_NOT = 2, X86_G3_NEG, X86_G3_MUL, X86_G3_IMUL, X86_G3_DIV, X86_G3_IDIV };
enum { X86_G5_CALL = 2, X86_G5_JMP = 4, X86_G5_PUSH = 6 };
enum { X86_ROL, X86_ROR, X86_SHL = 4, X86_SHR, X86_SAR = 7 };

/* Scalar floating point: `reg` and `rm` are xmm registers unless said otherwise. */
#define X86_MOVQ_LOAD  (0x7eu | X86_0F | X86_F3)         /* xmm = 64 bits of rm */
#define X86_MOVQ_STORE (0xd6u | X86_0F | X86_66)         /* 64 bits of rm = xmm */
#define X86_MOVQ_TO    (0x6eu | X86_0F | X86_66 | X86_W) /* xmm = general rm */
#define X86_MOVQ_FROM  (0x7eu | X86_0F | X86_66 | X86_W) /* general rm = xmm */
#define X86_MOVD_LOAD  (0x6eu | X86_0F | X86_66)         /* xmm = 32 bits of general rm */
#define X86_MOVD_STORE (0x7eu | X86_0F | X86_66)         /* 32 bits of general rm = xmm */
#define X86_SQRT       (0x51u | X86_0F)                  /* with F3 single, F2 double */
#define X86_ADDF       (0x58u | X86_0F)
#define X86_MULF       (0x59u | X86_0F)
#define X86_SUBF       (0x5cu | X86_0F)
#define X86_DIVF       (0x5eu | X86_0F)
#define X86_CVTF       (0x5au | X86_0F) /* between single and double */
#define X86_CVTSI      (0x2au | X86_0F) /* xmm = integer rm */
#define X86_CVTTF      (0x2cu | X86_0F) /* general reg = xmm rm, truncated */
#define X86_CVTF_INT   (0x2du | X86_0F) /* general reg = xmm rm, rounded as mxcsr says */
#define X86_UCOMIS     (0x2eu | X86_0F) /* no prefix single, 66 double */
#define X86_COMIS      (0x2fu | X86_0F)
#define X86_ANDNPS     (0x55u | X86_0F)
#define X86_XORPS      (0x57u | X86_0F)
#define X86_MOVAPS     (0x28u | X86_0F)
#define X86_LDMXCSR    (0xaeu | X86_0F) /* reg = 2 */
#define X86_STMXCSR    (0xaeu | X86_0F) /* reg = 3 */
/* vvvv * rm3 ... : VEX 231 forms: reg = vvvv * rm + reg */
#define X86_FMADD231  (0xb9u | X86_0F38 | X86_66) /* W: double */
#define X86_FMSUB231  (0xbbu | X86_0F38 | X86_66)
#define X86_FNMADD231 (0xbdu | X86_0F38 | X86_66)
#define X86_FNMSUB231 (0xbfu | X86_0F38 | X86_66)

enum x86_condition {
    X86_O,
    X86_NO,
    X86_B,
    X86_AE,
    X86_E,
    X86_NE,
    X86_BE,
    X86_A,
    X86_S,
    X86_NS,
    X86_P,
    X86_NP,
    X86_L,
    X86_GE,
    X86_LE,
    X86_G
};

struct x86_code {
    uint8_t *at; /* where the next byte is written */
    uint8_t *end;
    ptrdiff_t to_run; /* add to a written address for the one where it runs */
    bool full;
};

/* A memory operand: [base + index * scale + disp], or, if `target` is set, that very address
 * (in the running view), relative to the instruction. */
struct x86_mem {
    int8_t base, index; /* enum x86_reg */
    uint8_t scale;      /* 0..3: 1, 2, 4, 8 */
    int32_t disp;
    const void *target;
};

static inline struct x86_mem x86_at(int base, int32_t disp)
{
    return (struct x86_mem){(int8_t)base, X86_NONE, 0, disp, NULL};
}

static inline struct x86_mem x86_indexed(int base, int index, unsigned scale, int32_t disp)
{
    return (struct x86_mem){(int8_t)base, (int8_t)index, (uint8_t)scale, disp, NULL};
}

static inline struct x86_mem x86_address(const void *target)
{
    return (struct x86_mem){X86_NONE, X86_NONE, 0, 0, target};
}

static inline const uint8_t *x86_here(const struct x86_code *code)
{
    return code->at + code->to_run;
}

void x86_rr(struct x86_code *code, uint32_t op, int reg, int rm);
void x86_rm(struct x86_code *code, uint32_t op, int reg, struct x86_mem mem);
/* VEX forms */
void x86_vrr(struct x86_code *code, uint32_t op, int reg, int vvvv, int rm);

/* Group 1 with an immediate, in its shortest form. */
void x86_ri(struct x86_code *code, unsigned g1, uint32_t width, int rm, int32_t imm);
void x86_mi(struct x86_code *code, unsigned g1, uint32_t width, struct x86_mem mem, int32_t imm);
void x86_shift(struct x86_code *code, unsigned kind, uint32_t width, int rm, unsigned count);
/* rorx reg, rm, count */
void x86_rorx(struct x86_code *code, uint32_t width, int reg, int rm, unsigned count);
void x86_test_ri(struct x86_code *code, uint32_t width, int rm, int32_t imm);

/* reg = imm, all 64 bits, in the shortest form that leaves the flags alone. */
void x86_mov_imm(struct x86_code *code, int reg, uint64_t imm);
/* memory = sign-extended imm */
void x86_mov_mi(struct x86_code *code, uint32_t width, struct x86_mem mem, int32_t imm);
void x86_bswap(struct x86_code *code, int reg); /* 64 bits */
void x86_push(struct x86_code *code, int reg);
void x86_pop(struct x86_code *code, int reg);
void x86_bytes(struct x86_code *code, const void *bytes, size_t count);

/* Jumps with 32-bit displacements. `target` is a running address; NULL: to be filled in with
 * x86_patch(). They return where the displacement is written. */
uint8_t *x86_jmp(struct x86_code *code, const void *target);
uint8_t *x86_jcc(struct x86_code *code, enum x86_condition condition, const void *target);
uint8_t *x86_call(struct x86_code *code, const void *target);
void x86_patch(ptrdiff_t to_run, uint8_t *displacement, const void *target);
/* Lands here. NULL is ignored. */
void x86_land(struct x86_code *code, uint8_t *displacement);

#define X86_RET "\xc3"
#define X86_CQO "\x48\x99"
#define X86_CDQ "\x99"

#endif
