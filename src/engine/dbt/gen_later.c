/* SPDX-License-Identifier: MIT
 *
 * Rotations: without Zbb a guest rotates by two shifts and an or, with other instructions in
 * between. A region puts off a shift by a constant whose block goes on so; what makes one value of
 * both is a host rotation, and the shifts are mostly overwritten before anybody asks for them.
 *
 *     slliw s4, a4, 21        rorx esi, r10d, 11
 *     srliw a1, a4, 11        xor  esi, r9d
 *     or    a1, a1, s4
 *     xor   a1, a1, a3
 *
 * A shift that waits is done where its register is read, where what it shifts is about to change,
 * off the main path where that may leave for C (a trap shows all registers), and at the end of a
 * block. Until then its own register holds what it held before, which nobody asks for.
 */
#include "engine/dbt/internal.h"

enum { FAR = 24 }; /* instructions to look ahead */

static uint32_t bit(unsigned reg)
{
    return UINT32_C(1) << (reg & 31);
}

static const struct rv_insn *waiting(const struct gen *gen, unsigned i)
{
    return &gen->insns[gen->later.index[i]];
}

static void remove_at(struct gen *gen, unsigned i)
{
    struct gen_later *later = &gen->later;
    later->count--;
    for (; i < later->count; i++)
        later->index[i] = later->index[i + 1];
    later->index[i] = 0;
}

/* ---- what instructions read and write ---- */

static uint32_t writes(const struct rv_insn *insn, bool *known)
{
    *known = !(insn->flags & (RV_ROW_BRANCH | RV_ROW_ENDS_BLOCK));
    bool f = insn->flags & RV_ROW_FP;
    if (insn->rd == RV_RD_NONE || f || (insn->flags & RV_ROW_STORE))
        return 0;
    return bit(insn->rd);
}

static uint32_t reads(const struct rv_insn *insn)
{
    return bit(insn->rs1) | bit(insn->rs2);
}

/* Who may come while shifts wait: what computes, and accesses, whose cold code knows. */
static bool is_patient(const struct gen *gen, const struct rv_insn *insn)
{
    unsigned size;
    const struct gen_op *op = gen_op_of(gen->dbt, insn);
    return gen_only_computes(gen->dbt, insn) ||
           (gen_plain_access(op, &size) >= 0 && !(insn->flags & RV_ROW_FP));
}

/* ---- doing it after all ---- */

static void settle_at(struct gen *gen, unsigned i)
{
    const struct rv_insn *insn = waiting(gen, i);
    remove_at(gen, i);
    /* Who came before and shifts what was there. */
    for (unsigned k = 0; k < gen->later.count;) {
        if (waiting(gen, k)->rs1 != insn->rd) {
            k++;
            continue;
        }
        settle_at(gen, k);
        k = 0;
    }
    const struct gen_op *op = gen_op_of(gen->dbt, insn);
    op->emit(gen, insn, op->arg);
}

void gen_settle(struct gen *gen, uint32_t set)
{
    for (unsigned i = 0; i < gen->later.count;) {
        if (!(set & bit(waiting(gen, i)->rd))) {
            i++;
            continue;
        }
        settle_at(gen, i);
        i = 0;
    }
}

/* What waits for a register of the set to be shifted, but for what is overwritten itself. */
static void settle_users(struct gen *gen, uint32_t set)
{
    for (unsigned i = 0; i < gen->later.count;) {
        const struct rv_insn *insn = waiting(gen, i);
        if (!(set & bit(insn->rs1)) || (set & bit(insn->rd))) {
            i++;
            continue;
        }
        settle_at(gen, i);
        i = 0;
    }
}

static void forget(struct gen *gen, uint32_t set)
{
    for (unsigned i = gen->later.count; i-- > 0;)
        if (set & bit(waiting(gen, i)->rd))
            remove_at(gen, i);
}

/* sext.w to itself: what words are shifted from does not change. */
static bool keeps_words(const struct gen *gen, const struct rv_insn *insn)
{
    const struct gen_op *op = gen_op_of(gen->dbt, insn);
    if (insn->rd != insn->rs1 || insn->imm != 0 || !op || strcmp(op->name, "addiw") != 0)
        return false;
    struct gen_shift shift;
    for (unsigned i = 0; i < gen->later.count; i++)
        if (waiting(gen, i)->rs1 == insn->rd &&
            !(gen_shifts(gen->dbt, waiting(gen, i), &shift) && shift.word))
            return false;
    return true;
}

void gen_before(struct gen *gen, const struct rv_insn *insn)
{
    bool known;
    if (gen->later.count == 0)
        return;
    if (!is_patient(gen, insn)) {
        gen_settle(gen, UINT32_MAX);
        return;
    }
    gen_settle(gen, reads(insn));
    if (!keeps_words(gen, insn))
        settle_users(gen, writes(insn, &known));
}

void gen_behind_insn(struct gen *gen, const struct rv_insn *insn)
{
    bool known;
    if (gen->later.count != 0)
        forget(gen, writes(insn, &known));
}

/* ---- putting off ---- */

static bool complements(const struct gen_shift *a, const struct gen_shift *b)
{
    return a->word == b->word && a->left != b->left && a->from == b->from &&
           a->by + b->by == (a->word ? 32u : 64u);
}

/* Registers that hold or will hold the other half of a rotation. */
static uint32_t halves_waiting(const struct gen *gen, const struct gen_shift *shift)
{
    uint32_t set = 0;
    struct gen_shift other;
    for (unsigned i = 0; i < gen->later.count; i++)
        if (gen_shifts(gen->dbt, waiting(gen, i), &other) && complements(shift, &other))
            set |= bit(other.to);
    return set;
}

static bool joins_halves(const struct gen *gen, const struct rv_insn *insn, unsigned a,
                         uint32_t others)
{
    if (!gen_joins(gen->dbt, insn) || insn->rs1 == insn->rs2)
        return false;
    return (insn->rs1 == a && (others & bit(insn->rs2))) ||
           (insn->rs2 == a && (others & bit(insn->rs1)));
}

static bool becomes_rotation(const struct gen *gen, const struct rv_insn *insn,
                             const struct gen_shift *shift)
{
    uint32_t others = halves_waiting(gen, shift);
    unsigned left = gen_behind(gen, insn);
    bool intact = shift->from != shift->to; /* what is shifted */
    for (unsigned i = 1; i <= left && i < FAR; i++) {
        const struct rv_insn *next = insn + i;
        struct gen_shift other;
        bool known;
        uint32_t written = writes(next, &known);
        if (joins_halves(gen, next, shift->to, others))
            return true;
        if (!known || !is_patient(gen, next) || ((reads(next) | written) & bit(shift->to)))
            return false;
        others &= ~written;
        bool half = intact && gen_shifts(gen->dbt, next, &other) && complements(shift, &other);
        if (half)
            others |= written;
        if (written & bit(shift->from)) {
            if (!half)
                return false;
            intact = false;
        }
    }
    return false;
}

bool gen_put_off(struct gen *gen, const struct rv_insn *insn)
{
    struct gen_shift shift;
    if (gen->later.count == GEN_LATER || !gen_shifts(gen->dbt, insn, &shift) ||
        !becomes_rotation(gen, insn, &shift))
        return false;
    gen_settle(gen, bit(shift.from));
    forget(gen, bit(shift.to));
    gen->later.index[gen->later.count++] = insn->index;
    return true;
}

/* ---- rotating ---- */

static const struct rv_insn *waiting_for(const struct gen *gen, unsigned reg)
{
    for (unsigned i = 0; i < gen->later.count; i++)
        if (waiting(gen, i)->rd == reg)
            return waiting(gen, i);
    return NULL;
}

bool gen_rotation(struct gen *gen, const struct rv_insn *insn)
{
    struct gen_shift a, b;
    const struct rv_insn *first = waiting_for(gen, insn->rs1);
    const struct rv_insn *second = waiting_for(gen, insn->rs2);
    if (!first || !second || !gen_joins(gen->dbt, insn) || !gen_shifts(gen->dbt, first, &a) ||
        !gen_shifts(gen->dbt, second, &b) || !complements(&a, &b) || insn->rd == RV_RD_NONE)
        return false;
    settle_users(gen, bit(insn->rd));
    gen_rotate(gen, insn->rd, a.from, a.left ? b.by : a.by, a.word);
    forget(gen, bit(insn->rd));
    gen->rotations++;
    return true;
}
