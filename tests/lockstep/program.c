/* SPDX-License-Identifier: MIT
 *
 * See program.h. Operand bits of a row are drawn at random and then bent or rejected until the
 * instruction keeps the rules: no write to a pointer register, memory accesses inside the
 * scratch buffer, no reserved rounding mode.
 */
#include "program.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"

enum { POINTER_SP = 2, POINTER = 8, SCRATCH_POINTER = 9 };

/* Families of rows; each is drawn from with its own weight. */
enum family {
    FAMILY_INTEGER,
    FAMILY_FLOAT,
    FAMILY_LOAD,
    FAMILY_STORE,
    FAMILY_ATOMIC,
    FAMILY_BRANCH,
    FAMILY_JUMP,
    FAMILY_FCSR,
    FAMILY_STACK,
    FAMILIES,
    FAMILY_NONE = FAMILIES
};

struct generator {
    const struct rv_decoder *decoder;
    const struct rv_row *rows[FAMILIES][256];
    size_t counts[FAMILIES];
};

static uint64_t next(uint64_t *seed) /* splitmix64 */
{
    uint64_t z = (*seed += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static unsigned below(uint64_t *seed, unsigned limit)
{
    return (unsigned)((next(seed) >> 32) * limit >> 32);
}

/* ---- which rows ---- */

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* Not user-level, not in the oracle, or wrong there; README.md says where they are tested instead.
 */
static bool is_excluded(const struct rv_row *row)
{
    static const char *const names[] = {"ecall", "ebreak", "c.ebreak", "sret",
                                        "mret",  "wfi",    "ctzw"};
    static const char *const families[] = {"sfence.", "sinval.", "cbo.", "wrs.", "czero."};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (strcmp(row->name, names[i]) == 0)
            return true;
    for (size_t i = 0; i < ARRAY_SIZE(families); i++)
        if (starts_with(row->name, families[i]))
            return true;
    return false;
}

static enum family family_of(const struct rv_row *row)
{
    if (is_excluded(row))
        return FAMILY_NONE;
    switch (row->format) {
    case RV_FORMAT_B:
    case RV_FORMAT_CB:
        return FAMILY_BRANCH;
    case RV_FORMAT_J:
    case RV_FORMAT_JALR:
    case RV_FORMAT_CJ:
    case RV_FORMAT_CJR:
    case RV_FORMAT_CJALR:
        return FAMILY_JUMP;
    case RV_FORMAT_CSR:
    case RV_FORMAT_CSRI:
        return FAMILY_FCSR;
    case RV_FORMAT_CADDI16SP:
        return FAMILY_STACK;
    case RV_FORMAT_AMO:
        return starts_with(row->name, "sc.") ? FAMILY_NONE : FAMILY_ATOMIC;
    case RV_FORMAT_LR: /* with the SC that belongs to it */
        return FAMILY_ATOMIC;
    default:
        break;
    }
    if ((row->flags & RV_ROW_LOAD) != 0)
        return FAMILY_LOAD;
    if ((row->flags & RV_ROW_STORE) != 0)
        return FAMILY_STORE;
    return (row->flags & RV_ROW_FP) != 0 ? FAMILY_FLOAT : FAMILY_INTEGER;
}

struct generator *generator_new(const struct rv_decoder *decoder)
{
    struct generator *generator = alloc_zeroed(1, sizeof(*generator));
    generator->decoder = decoder;
    for (size_t i = 0; i < rv_decoder_row_count(decoder); i++) {
        const struct rv_row *row = rv_decoder_row(decoder, i);
        enum family family = family_of(row);
        if (family == FAMILY_NONE)
            continue;
        size_t *count = &generator->counts[family];
        assert(*count < ARRAY_SIZE(generator->rows[family]));
        generator->rows[family][(*count)++] = row;
    }
    return generator;
}

void generator_free(struct generator *generator)
{
    free(generator);
}

size_t generator_row_count(const struct generator *generator)
{
    size_t count = 0;
    for (size_t i = 0; i < FAMILIES; i++)
        count += generator->counts[i];
    return count;
}

static const struct rv_row *draw_row(const struct generator *generator, uint64_t *seed,
                                     enum family family)
{
    return generator->rows[family][below(seed, (unsigned)generator->counts[family])];
}

/* ---- values ---- */

static uint64_t draw_integer(uint64_t *seed)
{
    static const uint64_t special[] = {
        0,
        1,
        2,
        UINT64_MAX,
        INT64_MAX,
        (uint64_t)1 << 63,
        0x7fffffff,
        0x80000000,
        0xffffffff,
        UINT64_C(0xffffffff80000000),
        UINT64_C(0xffffffff7fffffff),
        0x100000000,
        63,
        64,
        31,
        32,
        0x8000,
        0xff80,
        0x80,
        UINT64_C(0x8080808080808080),
        UINT64_C(0x0100ff0001000080),
    };
    switch (below(seed, 4)) {
    case 0:
        return special[below(seed, ARRAY_SIZE(special))];
    case 1: /* of any length, either sign */
        return (uint64_t)((int64_t)next(seed) >> below(seed, 64));
    case 2:
        return next(seed) >> below(seed, 64);
    default:
        return next(seed);
    }
}

/* A float of `exponent_bits` and `fraction_bits` with exponents where things happen. */
static uint64_t draw_format(uint64_t *seed, unsigned exponent_bits, unsigned fraction_bits)
{
    uint64_t all_ones = (UINT64_C(1) << exponent_bits) - 1, bias = all_ones >> 1;
    uint64_t fraction = next(seed) & ((UINT64_C(1) << fraction_bits) - 1);
    uint64_t sign = next(seed) & 1, exponent;
    switch (below(seed, 8)) {
    case 0: /* NaNs with payloads, quiet and signalling; infinities */
        exponent = all_ones;
        break;
    case 1: /* zeros and subnormals */
        exponent = 0;
        break;
    case 2: /* where conversions to integers saturate or lose bits */
        exponent = bias + below(seed, 70);
        break;
    case 3:
        exponent = all_ones - 1 - below(seed, 3);
        break;
    case 4:
        exponent = 1 + below(seed, 3);
        break;
    case 5: /* about half of the smallest: products underflow, squares too */
        exponent = bias - bias / 2 + below(seed, 8) - 4;
        break;
    default:
        exponent = bias + below(seed, 16) - 8;
    }
    switch (below(seed, 6)) { /* fractions that round, carry or are exact */
    case 0:
        fraction = 0;
        break;
    case 1:
        fraction = (UINT64_C(1) << fraction_bits) - 1;
        break;
    case 2:
        fraction &= UINT64_MAX << below(seed, fraction_bits);
        break;
    case 3:
        fraction = UINT64_C(1) << below(seed, fraction_bits);
        break;
    default:
        break;
    }
    return sign << (exponent_bits + fraction_bits) | exponent << fraction_bits | fraction;
}

static uint64_t draw_float(uint64_t *seed)
{
    switch (below(seed, 8)) {
    case 0: /* a single that is not boxed, or not quite */
        return draw_format(seed, 8, 23) | next(seed) << 32;
    case 1:
    case 2:
    case 3:
        return draw_format(seed, 8, 23) | UINT64_C(0xffffffff00000000);
    default:
        return draw_format(seed, 11, 52);
    }
}

/* ---- instructions ---- */

static bool writes_float(enum rv_format format)
{
    switch (format) {
    case RV_FORMAT_F_FFF:
    case RV_FORMAT_F_FFFF:
    case RV_FORMAT_F_FF:
    case RV_FORMAT_F_FX:
    case RV_FORMAT_F_FFF_NORM:
    case RV_FORMAT_F_FX_NORM:
    case RV_FORMAT_F_LOAD:
    case RV_FORMAT_CFLD:
    case RV_FORMAT_CFLDSP:
        return true;
    default:
        return false;
    }
}

static bool has_rounding_mode(enum rv_format format)
{
    return format == RV_FORMAT_F_FFF || format == RV_FORMAT_F_FFFF || format == RV_FORMAT_F_FF ||
           format == RV_FORMAT_F_XF || format == RV_FORMAT_F_FX;
}

static bool is_wide(const struct rv_row *row)
{
    return (row->match & 3) == 3;
}

static uint32_t set_field(uint32_t bits, unsigned low, unsigned length, uint32_t value)
{
    return (uint32_t)bits_set(bits, low, length, value);
}

static bool keeps_the_rules(const struct rv_row *row, const struct rv_insn *insn)
{
    if (insn->row == UINT16_MAX) /* reserved operands */
        return false;
    if (!writes_float(row->format) &&
        (insn->rd == POINTER || insn->rd == POINTER_SP || insn->rd == SCRATCH_POINTER))
        return false;
    if (has_rounding_mode(row->format) && (insn->rm == 5 || insn->rm == 6))
        return false;
    if ((row->flags & (RV_ROW_LOAD | RV_ROW_STORE)) != 0)
        return (insn->rs1 == POINTER || insn->rs1 == POINTER_SP) && insn->imm >= 0 &&
               insn->imm <= SCRATCH_SIZE - 8;
    return true;
}

/* An encoding of the row that keeps the rules. */
static struct part draw_part(const struct generator *generator, uint64_t *seed,
                             const struct rv_row *row)
{
    bool memory = (row->flags & (RV_ROW_LOAD | RV_ROW_STORE)) != 0;
    for (;;) {
        uint32_t bits = row->match | ((uint32_t)next(seed) & ~row->mask);
        if (!is_wide(row))
            bits &= 0xffff;
        else if (memory)
            bits = set_field(bits, 15, 5, POINTER);
        struct rv_insn insn;
        rv_decode(generator->decoder, bits, &insn);
        if (insn.row == UINT16_MAX || rv_decoder_row(generator->decoder, insn.row) != row)
            continue; /* a special case of the row */
        if (keeps_the_rules(row, &insn))
            return (struct part){bits, insn.length, LINK_NONE};
    }
}

static void add(struct item *item, struct part part)
{
    assert(item->count < ITEM_MAX_PARTS);
    item->parts[item->count++] = part;
}

static void add_wide(struct item *item, uint32_t bits, enum link_kind link)
{
    add(item, (struct part){bits, 4, (uint8_t)link});
}

/* addi x9, x8, offset */
static void point_at(struct item *item, uint32_t offset)
{
    add_wide(item, 0x00000013 | SCRATCH_POINTER << 7 | POINTER << 15 | offset << 20, LINK_NONE);
}

static struct part draw_atomic_part(const struct generator *generator, uint64_t *seed,
                                    const struct rv_row *row)
{
    for (;;) {
        uint32_t bits = row->match | ((uint32_t)next(seed) & ~row->mask);
        bits = set_field(bits, 15, 5, SCRATCH_POINTER);
        struct rv_insn insn;
        rv_decode(generator->decoder, bits, &insn);
        if (insn.rd != POINTER && insn.rd != POINTER_SP && insn.rd != SCRATCH_POINTER)
            return (struct part){bits, 4, LINK_NONE};
    }
}

/* An AMO, or LR, something harmless, and SC. SC after LR of the same size and address: what
 * others do is for each implementation to say. */
static void draw_atomic(const struct generator *generator, uint64_t *seed, struct item *item)
{
    const struct rv_row *row = draw_row(generator, seed, FAMILY_ATOMIC);
    uint32_t size = 1u << (row->match >> 12 & 7);
    point_at(item, below(seed, SCRATCH_SIZE / size) * size);
    add(item, draw_atomic_part(generator, seed, row));
    if (row->format != RV_FORMAT_LR)
        return;
    add(item, draw_part(generator, seed, draw_row(generator, seed, FAMILY_INTEGER)));
    struct rv_row store = *row;
    store.match |= 0x08000000;  /* lr → sc */
    store.mask &= ~0x01f00000u; /* rs2 */
    add(item, draw_atomic_part(generator, seed, &store));
}

static void draw_branch(const struct generator *generator, uint64_t *seed, struct item *item)
{
    const struct rv_row *row = draw_row(generator, seed, FAMILY_BRANCH);
    uint32_t bits = row->match | ((uint32_t)next(seed) & ~row->mask);
    if (row->format == RV_FORMAT_CB)
        add(item, (struct part){bits & 0xffff, 2, LINK_COMPRESSED_B});
    else
        add_wide(item, bits, LINK_BRANCH);
}

/* Registers that a link may go to. */
static uint32_t draw_link_register(uint64_t *seed)
{
    for (;;) {
        uint32_t rd = below(seed, 32);
        if (rd != POINTER && rd != POINTER_SP && rd != SCRATCH_POINTER)
            return rd;
    }
}

static void draw_jump(const struct generator *generator, uint64_t *seed, struct item *item)
{
    const struct rv_row *row = draw_row(generator, seed, FAMILY_JUMP);
    uint32_t here = 0x00000017 | SCRATCH_POINTER << 7;                          /* auipc x9, 0 */
    uint32_t there = 0x00000013 | SCRATCH_POINTER << 7 | SCRATCH_POINTER << 15; /* addi x9, x9 */
    switch (row->format) {
    case RV_FORMAT_J:
        add_wide(item, row->match | draw_link_register(seed) << 7, LINK_JAL);
        break;
    case RV_FORMAT_CJ:
        add(item, (struct part){row->match, 2, LINK_COMPRESSED_J});
        break;
    case RV_FORMAT_JALR:
        add_wide(item, here, LINK_NONE);
        add_wide(item, row->match | draw_link_register(seed) << 7 | SCRATCH_POINTER << 15,
                 LINK_FROM_FIRST);
        break;
    default: /* c.jr, c.jalr */
        add_wide(item, here, LINK_NONE);
        add_wide(item, there, LINK_FROM_FIRST);
        add(item, (struct part){row->match | SCRATCH_POINTER << 7, 2, LINK_NONE});
    }
}

/* fcsr and its parts, without ever selecting a reserved rounding mode. */
static void draw_fcsr(const struct generator *generator, uint64_t *seed, struct item *item)
{
    enum { FFLAGS = 1, FRM = 2, FCSR = 3 };
    const struct rv_row *row = draw_row(generator, seed, FAMILY_FCSR);
    uint32_t csr = FFLAGS + below(seed, 3), rs1 = below(seed, 32);
    if (row->format == RV_FORMAT_CSR && csr != FFLAGS) {
        rs1 = 0; /* a register may hold anything: x0 */
    } else if (csr == FRM) {
        if (strcmp(row->name, "csrrwi") == 0)
            rs1 = below(seed, 5);
        else if (strcmp(row->name, "csrrsi") == 0)
            rs1 = 0;
    }
    add_wide(item, row->match | draw_link_register(seed) << 7 | rs1 << 15 | csr << 20, LINK_NONE);
}

/* c.addi16sp, whose only register is one that must not change: copied and put back. */
static void draw_stack(const struct generator *generator, uint64_t *seed, struct item *item)
{
    const struct rv_row *row = draw_row(generator, seed, FAMILY_STACK);
    uint32_t immediate = ((uint32_t)next(seed) & ~row->mask & 0xffff) | 0x40; /* not 0 */
    add(item, (struct part){row->match | immediate, 2, LINK_NONE});
    add_wide(item, 0x00000013 | draw_link_register(seed) << 7 | POINTER_SP << 15, LINK_NONE);
    add_wide(item, 0x00000013 | POINTER_SP << 7 | POINTER << 15, LINK_NONE);
}

/* Percentages; a program keeps to one mix. */
static const uint8_t mixes[][FAMILIES] = {
    {[FAMILY_INTEGER] = 36,
     [FAMILY_FLOAT] = 26,
     [FAMILY_LOAD] = 14,
     [FAMILY_STORE] = 8,
     [FAMILY_ATOMIC] = 4,
     [FAMILY_BRANCH] = 6,
     [FAMILY_JUMP] = 2,
     [FAMILY_FCSR] = 3,
     [FAMILY_STACK] = 1},
    /* The loads keep registers from all becoming NaN. */
    {[FAMILY_INTEGER] = 6, [FAMILY_FLOAT] = 55, [FAMILY_LOAD] = 30, [FAMILY_FCSR] = 9},
    {[FAMILY_INTEGER] = 70,
     [FAMILY_LOAD] = 12,
     [FAMILY_STORE] = 6,
     [FAMILY_ATOMIC] = 4,
     [FAMILY_BRANCH] = 6,
     [FAMILY_JUMP] = 2},
};

static enum family draw_family(uint64_t *seed, const uint8_t *mix)
{
    unsigned ticket = below(seed, 100);
    enum family family = 0;
    while (ticket >= mix[family]) {
        ticket -= mix[family++];
        assert(family < FAMILIES); /* a mix makes 100 */
    }
    return family;
}

static void draw_item(const struct generator *generator, uint64_t *seed, const uint8_t *mix,
                      struct item *item)
{
    enum family family = draw_family(seed, mix);
    switch (family) {
    case FAMILY_ATOMIC:
        draw_atomic(generator, seed, item);
        break;
    case FAMILY_BRANCH:
        draw_branch(generator, seed, item);
        break;
    case FAMILY_JUMP:
        draw_jump(generator, seed, item);
        break;
    case FAMILY_FCSR:
        draw_fcsr(generator, seed, item);
        break;
    case FAMILY_STACK:
        draw_stack(generator, seed, item);
        break;
    default:
        add(item, draw_part(generator, seed, draw_row(generator, seed, family)));
    }
}

void generate(const struct generator *generator, uint64_t seed, struct program *program)
{
    *program = (struct program){.seed = seed};
    for (unsigned i = 0; i < 32; i++) {
        program->x[i] = draw_integer(&seed);
        program->f[i] = draw_float(&seed);
    }
    program->x[0] = 0;
    program->fcsr = below(&seed, 32) | below(&seed, 5) << 5;
    for (unsigned at = 0; at < SCRATCH_SIZE; at += 8)
        store_le64(program->scratch + at,
                   below(&seed, 3) == 0 ? draw_integer(&seed) : draw_float(&seed));
    const uint8_t *mix = mixes[below(&seed, ARRAY_SIZE(mixes))];
    program->count = 32 + below(&seed, PROGRAM_MAX_ITEMS - 32 + 1);
    for (unsigned i = 0; i < program->count; i++) {
        draw_item(generator, &seed, mix, &program->items[i]);
        program->items[i].target = i + 1 + below(&seed, 8);
    }
}

/* ---- encoding ---- */

unsigned item_size(const struct item *item)
{
    unsigned size = 0;
    for (unsigned i = 0; i < item->count; i++)
        size += item->parts[i].length;
    return size;
}

/* Copies `length` bits of value from `from` to `to`. */
static uint32_t scatter(uint32_t value, unsigned from, unsigned to, unsigned length)
{
    return (value >> from & ((1u << length) - 1)) << to;
}

static uint32_t linked(const struct part *part, int64_t displacement)
{
    uint32_t to = (uint32_t)displacement;
    switch ((enum link_kind)part->link) {
    case LINK_NONE:
        return part->bits;
    case LINK_BRANCH:
        return (part->bits & ~0xfe000f80u) | scatter(to, 12, 31, 1) | scatter(to, 5, 25, 6) |
               scatter(to, 1, 8, 4) | scatter(to, 11, 7, 1);
    case LINK_JAL:
        return (part->bits & 0xfff) | scatter(to, 20, 31, 1) | scatter(to, 1, 21, 10) |
               scatter(to, 11, 20, 1) | scatter(to, 12, 12, 8);
    case LINK_COMPRESSED_J:
        return (part->bits & 0xe003) | scatter(to, 11, 12, 1) | scatter(to, 4, 11, 1) |
               scatter(to, 8, 9, 2) | scatter(to, 10, 8, 1) | scatter(to, 6, 7, 1) |
               scatter(to, 7, 6, 1) | scatter(to, 1, 3, 3) | scatter(to, 5, 2, 1);
    case LINK_COMPRESSED_B:
        return (part->bits & 0xe383) | scatter(to, 8, 12, 1) | scatter(to, 3, 10, 2) |
               scatter(to, 6, 5, 2) | scatter(to, 1, 3, 2) | scatter(to, 5, 2, 1);
    case LINK_FROM_FIRST:
        return (part->bits & 0xfffff) | to << 20;
    }
    return part->bits;
}

void item_encode(const struct item *item, int64_t displacement, uint8_t *out)
{
    unsigned at = 0;
    for (unsigned i = 0; i < item->count; i++) {
        const struct part *part = &item->parts[i];
        int64_t from_here = part->link == LINK_FROM_FIRST ? displacement : displacement - at;
        uint32_t bits = linked(part, from_here);
        store_le16(out + at, (uint16_t)bits);
        if (part->length == 4)
            store_le16(out + at + 2, (uint16_t)(bits >> 16));
        at += part->length;
    }
}
