/* SPDX-License-Identifier: MIT
 *
 * Encoding of x86-64 instructions (Intel SDM volume 2, chapter 2): prefixes, REX or VEX,
 * opcode, ModRM, SIB, displacement.
 *
 * An instruction is put together in a small buffer and appended as a whole, so that a full
 * code area never holds half of one.
 */
#include "engine/emit/x86.h"

#include <assert.h>
#include <string.h>

struct piece {
    uint8_t bytes[20];
    unsigned count;
};

static inline void put(struct piece *piece, unsigned byte)
{
    piece->bytes[piece->count++] = (uint8_t)byte;
}

static inline void put32(struct piece *piece, uint32_t value)
{
    memcpy(piece->bytes + piece->count, &value, 4);
    piece->count += 4;
}

void x86_bytes(struct x86_code *code, const void *bytes, size_t count)
{
    if ((size_t)(code->end - code->at) < count) {
        code->full = true;
        return;
    }
    memcpy(code->at, bytes, count);
    code->at += count;
}

static void append(struct x86_code *code, const struct piece *piece)
{
    x86_bytes(code, piece->bytes, piece->count);
}

static inline bool fits8(int32_t value)
{
    return value == (int8_t)value;
}

/* ---- prefixes and opcode ---- */

static void put_opcode(struct piece *piece, uint32_t op, int reg, int index, int base, bool byte_rm)
{
    static const uint8_t mandatory[] = {0, 0x66, 0xf3, 0xf2};
    static const uint8_t maps[][2] = {{0, 0}, {0x0f, 0}, {0x0f, 0x38}, {0x0f, 0x3a}};
    if (op & X86_LOCK)
        put(piece, 0xf0);
    unsigned prefix = mandatory[op >> 12 & 3];
    if (prefix)
        put(piece, prefix);
    unsigned rex = 0;
    if (op & X86_W)
        rex |= 8;
    if (reg >= 8)
        rex |= 4;
    if (index >= 8)
        rex |= 2;
    if (base >= 8)
        rex |= 1;
    bool byte = ((op & X86_BYTE) && reg >= 4) || (byte_rm && base >= 4);
    if (rex || byte)
        put(piece, 0x40 | rex);
    const uint8_t *map = maps[op >> 8 & 3];
    for (unsigned i = 0; i < 2 && map[i]; i++)
        put(piece, map[i]);
    put(piece, op & 0xff);
}

static void put_modrm_rr(struct piece *piece, int reg, int rm)
{
    put(piece, 0xc0u | ((unsigned)reg & 7) << 3 | ((unsigned)rm & 7));
}

/* `trailing`: bytes of the instruction behind the displacement. */
static void put_modrm_mem(const struct x86_code *code, struct piece *piece, int reg,
                          struct x86_mem mem, unsigned trailing)
{
    unsigned middle = ((unsigned)reg & 7) << 3;
    if (mem.target) {
        put(piece, middle | 5);
        const uint8_t *behind = x86_here(code) + piece->count + 4 + trailing;
        ptrdiff_t distance = (const uint8_t *)mem.target - behind;
        assert(distance == (int32_t)distance);
        put32(piece, (uint32_t)distance);
        return;
    }
    unsigned base = (unsigned)mem.base & 7;
    bool sib = mem.index != X86_NONE || base == 4;
    unsigned mod = 2;
    if (mem.disp == 0 && base != 5)
        mod = 0;
    else if (fits8(mem.disp))
        mod = 1;
    put(piece, mod << 6 | middle | (sib ? 4 : base));
    if (sib) {
        assert(mem.index != X86_RSP);
        unsigned index = mem.index == X86_NONE ? 4 : (unsigned)mem.index & 7;
        put(piece, (unsigned)mem.scale << 6 | index << 3 | base);
    }
    if (mod == 1)
        put(piece, (unsigned)mem.disp & 0xff);
    else if (mod == 2)
        put32(piece, (uint32_t)mem.disp);
}

static void put_rr(struct piece *piece, uint32_t op, int reg, int rm)
{
    put_opcode(piece, op, reg, 0, rm, op & X86_BYTE_RM);
    put_modrm_rr(piece, reg, rm);
}

static void put_rm(const struct x86_code *code, struct piece *piece, uint32_t op, int reg,
                   struct x86_mem mem, unsigned trailing)
{
    put_opcode(piece, op, reg, mem.index, mem.base, false);
    put_modrm_mem(code, piece, reg, mem, trailing);
}

void x86_rr(struct x86_code *code, uint32_t op, int reg, int rm)
{
    struct piece piece = {.count = 0};
    put_rr(&piece, op, reg, rm);
    append(code, &piece);
}

void x86_rm(struct x86_code *code, uint32_t op, int reg, struct x86_mem mem)
{
    struct piece piece = {.count = 0};
    put_rm(code, &piece, op, reg, mem, 0);
    append(code, &piece);
}

static void put_vrr(struct piece *piece, uint32_t op, int reg, int vvvv, int rm)
{
    static const uint8_t pp[] = {0, 1, 2, 3};
    put(piece, 0xc4);
    put(piece, (reg < 8 ? 0x80u : 0) | 0x40u | (rm < 8 ? 0x20u : 0) | (op >> 8 & 3));
    put(piece, (op & X86_W ? 0x80u : 0) | (~(unsigned)vvvv & 15) << 3 | pp[op >> 12 & 3]);
    put(piece, op & 0xff);
    put_modrm_rr(piece, reg, rm);
}

void x86_vrr(struct x86_code *code, uint32_t op, int reg, int vvvv, int rm)
{
    struct piece piece = {.count = 0};
    put_vrr(&piece, op, reg, vvvv, rm);
    append(code, &piece);
}

void x86_rorx(struct x86_code *code, uint32_t width, int reg, int rm, unsigned count)
{
    struct piece piece = {.count = 0};
    put_vrr(&piece, 0xf0u | X86_0F3A | X86_F2 | width, reg, 0, rm);
    put(&piece, count);
    append(code, &piece);
}

/* ---- immediates ---- */

void x86_ri(struct x86_code *code, unsigned g1, uint32_t width, int rm, int32_t imm)
{
    struct piece piece = {.count = 0};
    put_rr(&piece, (fits8(imm) ? 0x83u : X86_GROUP1) | width, (int)g1, rm);
    if (fits8(imm))
        put(&piece, (unsigned)imm & 0xff);
    else
        put32(&piece, (uint32_t)imm);
    append(code, &piece);
}

void x86_mi(struct x86_code *code, unsigned g1, uint32_t width, struct x86_mem mem, int32_t imm)
{
    struct piece piece = {.count = 0};
    bool small = fits8(imm);
    put_rm(code, &piece, (small ? 0x83u : X86_GROUP1) | width, (int)g1, mem, small ? 1 : 4);
    if (small)
        put(&piece, (unsigned)imm & 0xff);
    else
        put32(&piece, (uint32_t)imm);
    append(code, &piece);
}

void x86_shift(struct x86_code *code, unsigned kind, uint32_t width, int rm, unsigned count)
{
    struct piece piece = {.count = 0};
    put_rr(&piece, X86_SHIFT_IMM | width, (int)kind, rm);
    put(&piece, count);
    append(code, &piece);
}

void x86_test_ri(struct x86_code *code, uint32_t width, int rm, int32_t imm)
{
    struct piece piece = {.count = 0};
    put_rr(&piece, X86_GROUP3 | width, X86_G3_TEST, rm);
    put32(&piece, (uint32_t)imm);
    append(code, &piece);
}

void x86_mov_imm(struct x86_code *code, int reg, uint64_t imm)
{
    struct piece piece = {.count = 0};
    if (imm == (uint32_t)imm) {
        if (reg >= 8)
            put(&piece, 0x41);
        put(&piece, 0xb8u | ((unsigned)reg & 7));
        put32(&piece, (uint32_t)imm);
    } else if ((int64_t)imm == (int32_t)imm) {
        put_rr(&piece, 0xc7u | X86_W, 0, reg);
        put32(&piece, (uint32_t)imm);
    } else {
        put(&piece, reg >= 8 ? 0x49 : 0x48);
        put(&piece, 0xb8u | ((unsigned)reg & 7));
        put32(&piece, (uint32_t)imm);
        put32(&piece, (uint32_t)(imm >> 32));
    }
    append(code, &piece);
}

void x86_mov_mi(struct x86_code *code, uint32_t width, struct x86_mem mem, int32_t imm)
{
    struct piece piece = {.count = 0};
    put_rm(code, &piece, 0xc7u | width, 0, mem, 4);
    put32(&piece, (uint32_t)imm);
    append(code, &piece);
}

void x86_bswap(struct x86_code *code, int reg)
{
    struct piece piece = {.count = 0};
    put(&piece, reg >= 8 ? 0x49 : 0x48);
    put(&piece, 0x0f);
    put(&piece, 0xc8u | ((unsigned)reg & 7));
    append(code, &piece);
}

static void push_or_pop(struct x86_code *code, unsigned opcode, int reg)
{
    struct piece piece = {.count = 0};
    if (reg >= 8)
        put(&piece, 0x41);
    put(&piece, opcode | ((unsigned)reg & 7));
    append(code, &piece);
}

void x86_push(struct x86_code *code, int reg)
{
    push_or_pop(code, 0x50, reg);
}

void x86_pop(struct x86_code *code, int reg)
{
    push_or_pop(code, 0x58, reg);
}

/* ---- jumps ---- */

/* Appends a jump; where its displacement is. */
static uint8_t *jump(struct x86_code *code, struct piece *piece, const void *target)
{
    put32(piece, 0);
    uint8_t *start = code->at;
    append(code, piece);
    if (code->full)
        return NULL;
    uint8_t *displacement = start + piece->count - 4;
    if (target)
        x86_patch(code->to_run, displacement, target);
    return displacement;
}

uint8_t *x86_jmp(struct x86_code *code, const void *target)
{
    struct piece piece = {.bytes = {0xe9}, .count = 1};
    return jump(code, &piece, target);
}

uint8_t *x86_call(struct x86_code *code, const void *target)
{
    struct piece piece = {.bytes = {0xe8}, .count = 1};
    return jump(code, &piece, target);
}

uint8_t *x86_jcc(struct x86_code *code, enum x86_condition condition, const void *target)
{
    struct piece piece = {.bytes = {0x0f, (uint8_t)(0x80u | condition)}, .count = 2};
    return jump(code, &piece, target);
}

void x86_patch(ptrdiff_t to_run, uint8_t *displacement, const void *target)
{
    ptrdiff_t distance = (const uint8_t *)target - (displacement + to_run + 4);
    assert(distance == (int32_t)distance);
    int32_t value = (int32_t)distance;
    memcpy(displacement, &value, 4);
}

void x86_land(struct x86_code *code, uint8_t *displacement)
{
    if (displacement && !code->full)
        x86_patch(code->to_run, displacement, x86_here(code));
}
