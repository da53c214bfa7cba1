/* SPDX-License-Identifier: MIT
 *
 * A small assembler for tests that put a few instructions into guest memory.
 */
#ifndef TRAPEZE_TESTS_RV_CODE_H
#define TRAPEZE_TESTS_RV_CODE_H

#include <stdint.h>

enum { RA = 1, SP, T0 = 5, T1, T2, A0 = 10, A1, A2, A3, A4, A5, S2 = 18, S3, S4, S5, S6, S7 };

#define WFI     0x10500073u
#define FENCE_I 0x0000100fu
#define SFENCE  0x12000073u

static inline uint32_t r_type(uint32_t base, unsigned rd, unsigned rs1, unsigned rs2)
{
    return base | rd << 7 | rs1 << 15 | rs2 << 20;
}
#define ADD(rd, a, b)       r_type(0x00000033, rd, a, b)
#define XOR(rd, a, b)       r_type(0x00004033, rd, a, b)
#define ADDW(rd, a, b)      r_type(0x0000003b, rd, a, b)
#define OR(rd, a, b)        r_type(0x00006033, rd, a, b)
#define MULW(rd, a, b)      r_type(0x0200003b, rd, a, b)
#define AMOADD_D(rd, rs, a) r_type(0x0000302f, rd, a, rs)
#define FADD_D(rd, a, b)    r_type(0x02007053, rd, a, b)
#define FDIV_D(rd, a, b)    r_type(0x1a007053, rd, a, b)
#define FLT_D(rd, a, b)     r_type(0xa2001053, rd, a, b)
#define FCVT_D_L(rd, a)     r_type(0xd2207053, rd, a, 0)
#define READ_FFLAGS(rd)     r_type(0x00102073, rd, 0, 0)
#define WRITE_FFLAGS(rs)    r_type(0x00101073, 0, rs, 0)

static inline uint32_t i_type(uint32_t base, unsigned rd, unsigned rs1, int imm)
{
    return base | rd << 7 | rs1 << 15 | (uint32_t)imm << 20;
}
#define ADDI(rd, a, imm)  i_type(0x00000013, rd, a, imm)
#define ADDIW(rd, a, imm) i_type(0x0000001b, rd, a, imm)
#define SLLIW(rd, a, imm) i_type(0x0000101b, rd, a, imm)
#define SRLIW(rd, a, imm) i_type(0x0000501b, rd, a, imm)
#define ANDI(rd, a, imm)  i_type(0x00007013, rd, a, imm)
#define SLLI(rd, a, imm)  i_type(0x00001013, rd, a, imm)
#define SRLI(rd, a, imm)  i_type(0x00005013, rd, a, imm)
#define LD(rd, a, imm)    i_type(0x00003003, rd, a, imm)
#define LW(rd, a, imm)    i_type(0x00002003, rd, a, imm)
#define JALR(rd, a, imm)  i_type(0x00000067, rd, a, imm)

static inline uint32_t s_type(uint32_t base, unsigned rs2, unsigned rs1, int imm)
{
    uint32_t bits = (uint32_t)imm;
    return base | rs1 << 15 | rs2 << 20 | (bits >> 5 & 0x7f) << 25 | (bits & 31) << 7;
}
#define SD(rs2, a, imm) s_type(0x00003023, rs2, a, imm)
#define SW(rs2, a, imm) s_type(0x00002023, rs2, a, imm)

static inline uint32_t b_type(uint32_t base, unsigned rs1, unsigned rs2, int to)
{
    uint32_t bits = (uint32_t)to;
    return base | rs1 << 15 | rs2 << 20 | (bits >> 12 & 1) << 31 | (bits >> 5 & 63) << 25 |
           (bits >> 1 & 15) << 8 | (bits >> 11 & 1) << 7;
}
#define BEQ(a, b, to) b_type(0x00000063, a, b, to)
#define BNE(a, b, to) b_type(0x00001063, a, b, to)
#define BLT(a, b, to) b_type(0x00004063, a, b, to)

static inline uint32_t j_type(unsigned rd, int to)
{
    uint32_t bits = (uint32_t)to;
    return 0x6f | rd << 7 | (bits >> 20 & 1) << 31 | (bits >> 1 & 0x3ff) << 21 |
           (bits >> 11 & 1) << 20 | (bits >> 12 & 0xff) << 12;
}
#define JAL(rd, to)    j_type(rd, to)
#define AUIPC(rd, imm) (0x17u | (rd) << 7 | (uint32_t)(imm) << 12)

#endif
