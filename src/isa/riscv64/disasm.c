/* SPDX-License-Identifier: MIT
 *
 * Decoded instructions as text, from the operand templates of formats.c, spelled as
 * "objdump -M no-aliases" spells them (a test compares).
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "isa/riscv64/formats.h"

static const char x_names[32][5] = {"zero", "ra", "sp",  "gp",  "tp", "t0", "t1", "t2",
                                    "s0",   "s1", "a0",  "a1",  "a2", "a3", "a4", "a5",
                                    "a6",   "a7", "s2",  "s3",  "s4", "s5", "s6", "s7",
                                    "s8",   "s9", "s10", "s11", "t3", "t4", "t5", "t6"};
static const char f_names[32][5] = {"ft0", "ft1", "ft2",  "ft3",  "ft4", "ft5", "ft6",  "ft7",
                                    "fs0", "fs1", "fa0",  "fa1",  "fa2", "fa3", "fa4",  "fa5",
                                    "fa6", "fa7", "fs2",  "fs3",  "fs4", "fs5", "fs6",  "fs7",
                                    "fs8", "fs9", "fs10", "fs11", "ft8", "ft9", "ft10", "ft11"};
static const char rounding_names[8][8] = {"rne", "rtz",     "rdn",     "rup",
                                          "rmm", "unknown", "unknown", "dyn"};

struct writer {
    char *text;
    size_t size, length;
};

static void put(struct writer *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(struct writer *out, const char *format, ...)
{
    if (out->length >= out->size)
        return;
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(out->text + out->length, out->size - out->length, format, arguments);
    va_end(arguments);
    if (written > 0)
        out->length += (size_t)written;
}

static void put_fence_set(struct writer *out, unsigned set)
{
    put(out, "%s%s%s%s%s", set & 8 ? "i" : "", set & 4 ? "o" : "", set & 2 ? "r" : "",
        set & 1 ? "w" : "", set == 0 ? "unknown" : "");
}

static void put_operand(struct writer *out, char letter, const struct rv_insn *insn, uint64_t pc)
{
    const char *name;
    switch (letter) {
    case 'd':
        put(out, "%s", x_names[insn->rd & 31]);
        break;
    case 's':
        put(out, "%s", x_names[insn->rs1]);
        break;
    case 't':
        put(out, "%s", x_names[insn->rs2]);
        break;
    case 'D':
        put(out, "%s", f_names[insn->rd]);
        break;
    case 'S':
        put(out, "%s", f_names[insn->rs1]);
        break;
    case 'T':
        put(out, "%s", f_names[insn->rs2]);
        break;
    case 'R':
        put(out, "%s", f_names[insn->rs3]);
        break;
    case 'i':
        put(out, "%" PRId64, insn->imm);
        break;
    case 'x':
        put(out, "0x%" PRIx64, (uint64_t)insn->imm);
        break;
    case 'u':
        put(out, "0x%" PRIx64, (uint64_t)insn->imm >> 12 & 0xfffff);
        break;
    case 'p':
        put(out, "%" PRIx64, pc + (uint64_t)insn->imm);
        break;
    case 'z':
        put(out, "%u", insn->rs1);
        break;
    case 'c':
        name = rv_csr_name((unsigned)insn->imm);
        if (name)
            put(out, "%s", name);
        else
            put(out, "0x%" PRIx64, (uint64_t)insn->imm);
        break;
    case 'f':
        put_fence_set(out, (unsigned)insn->imm >> 4 & 15);
        put(out, ", ");
        put_fence_set(out, (unsigned)insn->imm & 15);
        break;
    case 'm':
        if (insn->rm != 7)
            put(out, ", %s", rounding_names[insn->rm]);
        break;
    default:
        put(out, "%c", letter);
    }
}

static void format_row(const struct rv_row *row, const struct rv_insn *insn, uint64_t pc,
                       char *text, size_t text_size)
{
    struct writer out = {text, text_size, 0};
    const char *operands = rv_format_row(row->format)->operands;
    put(&out, "%s", row->name);
    if (*operands == '.') {
        static const char suffixes[4][6] = {"", ".rl", ".aq", ".aqrl"};
        put(&out, "%s", suffixes[insn->imm & 3]);
        operands++;
    }
    if (*operands != '\0')
        put(&out, " ");
    for (; *operands != '\0'; operands++)
        put_operand(&out, *operands, insn, pc);
}

static void format_illegal(const struct rv_insn *insn, char *text, size_t text_size)
{
    struct writer out = {text, text_size, 0};
    put(&out, ".%ubyte 0x%" PRIx32, insn->length, insn->raw);
}

void rv_format_insn(const struct rv_decoder *decoder, const struct rv_insn *insn, uint64_t pc,
                    char *text, size_t text_size)
{
    if (insn->row < rv_decoder_row_count(decoder))
        format_row(rv_decoder_row(decoder, insn->row), insn, pc, text, text_size);
    else
        format_illegal(insn, text, text_size);
}

unsigned rv_disassemble(const uint8_t *code, size_t available, uint64_t pc, char *text,
                        size_t text_size)
{
    if (available < 2)
        return 0;
    uint32_t bits = load_le16(code);
    if ((bits & 3) == 3) {
        if (available < 4)
            return 0;
        bits = load_le32(code);
    }
    struct rv_insn insn;
    const struct rv_row *row = rv_decode_slowly(bits, &insn);
    if (row)
        format_row(row, &insn, pc, text, text_size);
    else
        format_illegal(&insn, text, text_size);
    return insn.length;
}
