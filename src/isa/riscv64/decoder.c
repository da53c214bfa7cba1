/* SPDX-License-Identifier: MIT
 *
 * From an encoding to its row. The rows of all extensions are gathered into one list; two
 * levels of tables then leave a few candidates (most often one) whose masks are compared:
 *
 *     32 bits   opcode and funct3 choose a leaf, funct7 a slot in it
 *     16 bits   quadrant, bits 15:13 and 12:10 choose a leaf, bits 6:5 a slot in it
 *
 * A slot is a position in `candidates`, where row numbers follow up to NO_ROW, rows with more
 * mask bits first: that is how RV_ROW_SPECIAL rows win over the rows they specialise.
 */
#include <assert.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "isa/riscv64/formats.h"

#define NO_ROW      UINT16_MAX
#define WIDE_SLOTS  128u
#define WIDE_KEYS   256u
#define SHORT_SLOTS 4u
#define SHORT_KEYS  256u

#define X(name) extern const struct rv_extension name;
#include "isa/riscv64/extensions.inc"
#undef X

static const struct rv_extension *const extensions[] = {
#define X(name) &name,
#include "isa/riscv64/extensions.inc"
#undef X
};

struct rv_decoder {
    const struct rv_row **rows; /* all rows of all extensions, as listed */
    size_t row_count;
    uint16_t *candidates;
    size_t candidate_count, candidate_capacity;
    uint16_t wide[WIDE_KEYS][WIDE_SLOTS];
    uint16_t narrow[SHORT_KEYS][SHORT_SLOTS];
};

static inline bool is_wide(uint32_t bits)
{
    return (bits & 3) == 3;
}

/* The same functions applied to match and mask say which keys and slots a row occupies. */
static inline uint32_t wide_key(uint32_t bits)
{
    return (bits >> 2 & 31) | (bits >> 12 & 7) << 5;
}

static inline uint32_t wide_slot(uint32_t bits)
{
    return bits >> 25;
}

static inline uint32_t narrow_key(uint32_t bits)
{
    return (bits & 3) | (bits >> 10 & 63) << 2;
}

static inline uint32_t narrow_slot(uint32_t bits)
{
    return bits >> 5 & 3;
}

static enum rv_result exec_illegal(struct rv_hart *hart, const struct rv_insn *insn)
{
    return rv_raise_illegal(hart, insn);
}

static int more_mask_bits_first(const void *a, const void *b)
{
    const struct rv_row *left = *(const struct rv_row *const *)a;
    const struct rv_row *right = *(const struct rv_row *const *)b;
    int difference = __builtin_popcount(right->mask) - __builtin_popcount(left->mask);
    if (difference != 0)
        return difference;
    return left->match < right->match ? -1 : left->match > right->match;
}

static void gather_rows(struct rv_decoder *decoder)
{
    for (size_t i = 0; i < ARRAY_SIZE(extensions); i++)
        decoder->row_count += extensions[i]->count;
    assert(decoder->row_count < NO_ROW);
    decoder->rows = alloc_zeroed(decoder->row_count, sizeof(*decoder->rows));
    size_t at = 0;
    for (size_t i = 0; i < ARRAY_SIZE(extensions); i++)
        for (size_t j = 0; j < extensions[i]->count; j++)
            decoder->rows[at++] = &extensions[i]->rows[j];
    qsort(decoder->rows, decoder->row_count, sizeof(*decoder->rows), more_mask_bits_first);
}

static void add_candidate(struct rv_decoder *decoder, uint16_t row)
{
    if (decoder->candidate_count == decoder->candidate_capacity) {
        decoder->candidate_capacity = decoder->candidate_capacity * 2 + 256;
        decoder->candidates = alloc_resize(decoder->candidates, decoder->candidate_capacity,
                                           sizeof(*decoder->candidates));
    }
    decoder->candidates[decoder->candidate_count++] = row;
    assert(decoder->candidate_count < UINT16_MAX);
}

/* One of the two shapes of encoding. */
struct shape {
    uint32_t (*key)(uint32_t bits);
    uint32_t (*slot)(uint32_t bits);
    uint32_t keys, slots;
    bool wide;
};

/* Equal neighbours share their list: most leaves are one list many times over. */
static void fill_leaf(struct rv_decoder *decoder, const struct shape *shape, uint32_t key,
                      uint16_t *leaf)
{
    uint16_t here[256];
    size_t here_count = 0;
    for (size_t i = 0; i < decoder->row_count; i++) {
        const struct rv_row *row = decoder->rows[i];
        if (is_wide(row->match) == shape->wide &&
            (key & shape->key(row->mask)) == shape->key(row->match)) {
            assert(here_count < ARRAY_SIZE(here));
            here[here_count++] = (uint16_t)i;
        }
    }
    size_t previous_start = decoder->candidate_count, previous_count = SIZE_MAX;
    for (uint32_t slot = 0; slot < shape->slots; slot++) {
        size_t start = decoder->candidate_count;
        for (size_t i = 0; i < here_count; i++) {
            const struct rv_row *row = decoder->rows[here[i]];
            if ((slot & shape->slot(row->mask)) == shape->slot(row->match))
                add_candidate(decoder, here[i]);
        }
        add_candidate(decoder, NO_ROW);
        size_t count = decoder->candidate_count - start;
        if (count == previous_count &&
            memcmp(decoder->candidates + previous_start, decoder->candidates + start,
                   count * sizeof(*decoder->candidates)) == 0) {
            decoder->candidate_count = start;
        } else {
            previous_start = start;
            previous_count = count;
        }
        leaf[slot] = (uint16_t)previous_start;
    }
}

struct rv_decoder *rv_decoder_new(void)
{
    static const struct shape wide = {wide_key, wide_slot, WIDE_KEYS, WIDE_SLOTS, true};
    static const struct shape narrow = {narrow_key, narrow_slot, SHORT_KEYS, SHORT_SLOTS, false};
    struct rv_decoder *decoder = alloc_zeroed(1, sizeof(*decoder));
    gather_rows(decoder);
    for (uint32_t key = 0; key < WIDE_KEYS; key++)
        fill_leaf(decoder, &wide, key, decoder->wide[key]);
    for (uint32_t key = 0; key < SHORT_KEYS; key++)
        fill_leaf(decoder, &narrow, key, decoder->narrow[key]);
    return decoder;
}

void rv_decoder_free(struct rv_decoder *decoder)
{
    if (!decoder)
        return;
    free(decoder->rows);
    free(decoder->candidates);
    free(decoder);
}

size_t rv_decoder_row_count(const struct rv_decoder *decoder)
{
    return decoder->row_count;
}

const struct rv_row *rv_decoder_row(const struct rv_decoder *decoder, size_t index)
{
    return decoder->rows[index];
}

/* Everything but the row; the instruction starts as an illegal one. */
static uint32_t start_insn(uint32_t bits, struct rv_insn *insn)
{
    bool wide = is_wide(bits);
    bits = wide ? bits : bits & 0xffff;
    *insn = (struct rv_insn){
        .exec = exec_illegal,
        .raw = bits,
        .length = wide ? 4 : 2,
        .rd = RV_RD_NONE,
        .flags = RV_ROW_ENDS_BLOCK,
        .row = NO_ROW,
    };
    return bits;
}

/* False: reserved operands. */
static bool fill_insn(const struct rv_row *row, struct rv_insn *insn)
{
    struct rv_insn with_operands = *insn;
    if (!rv_format_row(row->format)->extract(insn->raw, &with_operands))
        return false;
    *insn = with_operands;
    insn->exec = row->exec;
    insn->flags = (uint8_t)row->flags;
    return true;
}

void rv_decode(const struct rv_decoder *decoder, uint32_t bits, struct rv_insn *insn)
{
    bits = start_insn(bits, insn);
    unsigned at = insn->length == 4 ? decoder->wide[wide_key(bits)][wide_slot(bits)]
                                    : decoder->narrow[narrow_key(bits)][narrow_slot(bits)];
    for (;; at++) {
        uint16_t index = decoder->candidates[at];
        if (index == NO_ROW)
            return;
        const struct rv_row *row = decoder->rows[index];
        if ((bits & row->mask) == row->match) {
            if (fill_insn(row, insn))
                insn->row = index;
            return;
        }
    }
}

const struct rv_row *rv_decode_slowly(uint32_t bits, struct rv_insn *insn)
{
    bits = start_insn(bits, insn);
    const struct rv_row *best = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(extensions); i++)
        for (size_t j = 0; j < extensions[i]->count; j++) {
            const struct rv_row *row = &extensions[i]->rows[j];
            if (is_wide(row->match) == (insn->length == 4) && (bits & row->mask) == row->match &&
                (!best || more_mask_bits_first(&row, &best) < 0))
                best = row;
        }
    return best && fill_insn(best, insn) ? best : NULL;
}
