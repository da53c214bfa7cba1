/* SPDX-License-Identifier: MIT
 *
 * Groups of loads and stores: what a few instructions in a row access relative to the same
 * registers is looked up once, at the start of the group, and remembered for the next time.
 *
 *     sd ra, 24(sp)          lea rcx, [sp+8]; sub rcx, [memo.page]; cmp rcx, 4096-24; ja 1f
 *     sd s0, 16(sp)          mov rcx, [memo.addend]; test rcx, rcx; je 1f
 *     mv s0, a0              mov [sp+rcx+24], ra; mov [sp+rcx+16], s0; ...
 *     sd s1, 8(sp)        1: call memorize; je back; the same one by one, each with its look-up
 *
 * What is remembered is an entry of the TLB and as good as it: no flush can come between two
 * instructions of a group, because nothing in it calls C but floating point, and after what else
 * C does memos are compared with the TLB's generation. Checking before an access would be due
 * is not seen by the guest: a check that fails has done nothing.
 *
 * A group is worth it if each of its registers has two accesses, or is one that mostly stays on one
 * page: the stack pointer, what is computed from it, what a region's loop hardly moves.
 */
#include "engine/dbt/internal.h"

#include <assert.h>

enum { PAGE = MEM_PAGE_SIZE };
enum { MAX_INSNS = 48, MAX_BETWEEN = 8, MAX_SPAN = 1024, STACK = 2 };

/* ---- which instructions ---- */

static uint32_t bit(unsigned reg)
{
    return UINT32_C(1) << (reg & 31);
}

static bool is_named(const struct gen_op *op, const char *name)
{
    return op && strcmp(op->name, name) == 0;
}

/* May stand between accesses: it has emission of its own and computes. */
static bool only_computes(const struct gen_op *op, const struct rv_insn *insn)
{
    const unsigned system = 0x73, fence = 0x0f;
    unsigned major = insn->raw & 0x7f;
    return op &&
           !(insn->flags & (RV_ROW_LOAD | RV_ROW_STORE | RV_ROW_ENDS_BLOCK | RV_ROW_BRANCH)) &&
           major != system && major != fence;
}

struct plan {
    struct gen_group *group;
    uint32_t written;  /* in a way that is not known; bits may stand for f registers, too */
    int32_t moved[32]; /* by how much, else */
};

static struct gen_class *class_of(struct gen_group *group, unsigned base, int access)
{
    for (unsigned i = 0; i < group->class_count; i++)
        if (group->classes[i].base == base && group->classes[i].access == access)
            return &group->classes[i];
    return NULL;
}

/* False: it cannot be part of the group. */
static bool add_access(struct plan *plan, const struct rv_insn *insn, int access, unsigned size)
{
    struct gen_group *group = plan->group;
    if (plan->written & bit(insn->rs1))
        return false;
    int32_t first = plan->moved[insn->rs1] + (int32_t)insn->imm, end = first + (int32_t)size;
    struct gen_class *class = class_of(group, insn->rs1, access);
    if (!class) {
        if (group->class_count == GEN_CLASSES)
            return false;
        class = &group->classes[group->class_count++];
        *class = (struct gen_class){
            .base = insn->rs1, .access = (uint8_t)access, .first = first, .end = end};
    }
    first = first < class->first ? first : class->first;
    end = end > class->end ? end : class->end;
    if (end - first > MAX_SPAN)
        return false;
    class->first = first;
    class->end = end;
    class->count++;
    return true;
}

static void note_write(struct plan *plan, const struct gen_op *op, const struct rv_insn *insn)
{
    if (insn->rd == RV_RD_NONE)
        return;
    int32_t moved = plan->moved[insn->rd & 31] + (int32_t)insn->imm;
    if (is_named(op, "addi") && insn->rs1 == insn->rd && moved > -MAX_SPAN && moved < MAX_SPAN)
        plan->moved[insn->rd] = moved;
    else
        plan->written |= bit(insn->rd);
}

/* Fills a group with what can follow the access at insns[0], of `left` at most. */
static void plan(const struct gen *gen, struct gen_group *group, const struct rv_insn *insns,
                 unsigned left)
{
    struct plan plan = {.group = group};
    *group = (struct gen_group){.insns = insns};
    for (unsigned i = 0; i < left && i < MAX_INSNS && i - group->count <= MAX_BETWEEN; i++) {
        const struct rv_insn *insn = &insns[i];
        const struct gen_op *op = gen_op_of(gen->dbt, insn);
        unsigned size;
        int access = gen_plain_access(op, &size);
        if (access >= 0) {
            if (!add_access(&plan, insn, access, size))
                return;
            group->count = i + 1;
        } else if (!only_computes(op, insn)) {
            return;
        }
        if (access != RV_STORE)
            note_write(&plan, op, insn);
    }
}

/* ---- whether it pays ---- */

/* Computed in this block from the stack pointer: an array on the stack. */
static bool is_from_stack(const struct gen *gen, const struct rv_insn *insn, unsigned reg,
                          unsigned depth)
{
    for (unsigned far = 0; far < MAX_BETWEEN && insn->index != 0; far++) {
        insn--;
        if (insn->rd != reg || (insn->flags & RV_ROW_STORE))
            continue;
        const struct gen_op *op = gen_op_of(gen->dbt, insn);
        if (!is_named(op, "add") && !is_named(op, "addi"))
            return false;
        if (insn->rs1 == STACK || (op->name[3] == 0 && insn->rs2 == STACK))
            return true;
        return depth > 0 && (is_from_stack(gen, insn, insn->rs1, depth - 1) ||
                             (op->name[3] == 0 && is_from_stack(gen, insn, insn->rs2, depth - 1)));
    }
    return false;
}

static bool is_worth(const struct gen *gen, const struct gen_class *class,
                     const struct rv_insn *insn)
{
    return class->count >= 2 || class->base == STACK || (gen->steady & bit(class->base)) ||
           is_from_stack(gen, insn, class->base, 1);
}

/* Ends the group before the first access that is not worth it; 0: there is nothing before. */
static unsigned worthy(const struct gen *gen, struct gen_group *group)
{
    for (unsigned i = 0; i < group->count; i++) {
        unsigned size;
        const struct rv_insn *insn = &group->insns[i];
        int access = gen_plain_access(gen_op_of(gen->dbt, insn), &size);
        if (access >= 0 && !is_worth(gen, class_of(group, insn->rs1, access), insn))
            return i;
    }
    return group->count;
}

static bool find_group(const struct gen *gen, struct gen_group *group, const struct rv_insn *insns,
                       unsigned left)
{
    unsigned size;
    if (gen_plain_access(gen_op_of(gen->dbt, insns), &size) < 0)
        return false;
    for (;;) {
        plan(gen, group, insns, left);
        left = worthy(gen, group);
        if (left == group->count)
            return left != 0;
        if (left == 0)
            return false;
    }
}

/* ---- emission ---- */

static struct dbt_memo *choose_memo(struct gen *gen, const struct gen_class *class)
{
    struct dbt_memo *memos = gen->dbt->state->memos[gen->data_bank][class->access];
    if (class->base == STACK)
        return &memos[0];
    gen->dbt->next_memo = gen->dbt->next_memo % (DBT_MEMOS - 1) + 1;
    return &memos[gen->dbt->next_memo];
}

static void address_of_class(struct gen *gen, const struct gen_class *class, int reg)
{
    int host = gen->host_of[class->base];
    if (host != X86_NONE) {
        x86_rm(gen->code, X86_LEA, reg, x86_at(host, class->first));
        return;
    }
    gen_load_x(gen, reg, class->base);
    if (class->first != 0)
        x86_ri(gen->code, X86_G1_ADD, X86_W, reg, class->first);
}

static void cold_class(struct gen *gen, const struct gen_cold *cold)
{
    struct x86_code *code = gen->code;
    const struct gen_class *class = &cold->group->classes[cold->arg];
    x86_land(code, cold->from);
    x86_land(code, cold->also);
    address_of_class(gen, class, X86_RAX);
    x86_rm(code, X86_LEA, X86_RDX, x86_address(class->memo));
    x86_mov_imm(code, X86_RCX, (uint64_t)(class->end - class->first - 1));
    x86_call(code, gen->dbt->thunks.memorize[gen->data_bank][class->access]);
    x86_jcc(code, X86_E, cold->back);
    x86_jmp(code, cold->group->one_by_one);
}

static void cold_group(struct gen *gen, const struct gen_cold *cold)
{
    struct gen_group *group = cold->group;
    group->one_by_one = x86_here(gen->code);
    gen->narrow = group->narrow;
    gen->low = group->low;
    gen->frm_unknown = group->frm_unknown;
    gen->later = group->later;
    gen->puts_off = group->puts_off;
    gen->ungrouped = true;
    for (unsigned i = 0; i < group->count;)
        i += gen_insns(gen, &group->insns[i], group->count - i);
    gen->ungrouped = gen->puts_off = false;
    assert(gen->no_memory || (gen->narrow == group->end_narrow && gen->low == group->end_low &&
                              memcmp(&gen->later, &group->end_later, sizeof(gen->later)) == 0));
    x86_jmp(gen->code, group->end);
}

static void check_class(struct gen *gen, struct gen_group *group, unsigned number)
{
    struct x86_code *code = gen->code;
    const struct gen_class *class = &group->classes[number];
    address_of_class(gen, class, X86_RCX);
    x86_rm(code, X86_SUB | X86_W, X86_RCX, x86_address(&class->memo->page));
    x86_ri(code, X86_G1_CMP, X86_W, X86_RCX, PAGE - (class->end - class->first));
    struct gen_cold *cold = gen_add_cold(gen, x86_jcc(code, X86_A, NULL));
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_RCX, x86_address(&class->memo->addend));
    x86_rr(code, X86_TEST | X86_W, X86_RCX, X86_RCX);
    cold->also = x86_jcc(code, X86_E, NULL);
    cold->emit = cold_class;
    cold->arg = number;
    cold->group = group;
    cold->back = x86_here(code);
    gen->class_in_rcx = (int)number;
}

struct x86_mem gen_group_place(struct gen *gen, const struct rv_insn *insn, enum rv_access access)
{
    const struct gen_class *class = class_of(gen->group, insn->rs1, (int)access);
    int number = (int)(class - gen->group->classes);
    if (gen->class_in_rcx != number)
        x86_rm(gen->code, X86_MOV_LOAD | X86_W, X86_RCX, x86_address(&class->memo->addend));
    gen->class_in_rcx = number;
    return x86_indexed(gen_source(gen, insn->rs1, X86_RAX), X86_RCX, 0, (int32_t)insn->imm);
}

unsigned gen_group_at(struct gen *gen, const struct rv_insn *insns, unsigned left)
{
    struct gen_group *group = &gen->groups[gen->group_count];
    if (gen->group || gen->ungrouped || gen->group_count == gen->group_max ||
        !find_group(gen, group, insns, left))
        return 0;
    gen->group_count++;
    uint32_t bases = 0;
    for (unsigned i = 0; i < group->class_count; i++) {
        group->classes[i].memo = choose_memo(gen, &group->classes[i]);
        bases |= bit(group->classes[i].base);
    }
    gen_settle(gen, bases);
    gen_make_full(gen, bases);
    group->later = gen->later;
    group->puts_off = gen->puts_off;
    group->narrow = gen->narrow;
    group->low = gen->low;
    group->frm_unknown = gen->frm_unknown;
    struct gen_cold *cold = gen_add_cold(gen, NULL);
    cold->emit = cold_group;
    cold->group = group;
    for (unsigned i = 0; i < group->class_count; i++)
        check_class(gen, group, i);
    gen->group = group;
    for (unsigned i = 0; i < group->count;) {
        unsigned size, done;
        bool computes = gen_plain_access(gen_op_of(gen->dbt, &insns[i]), &size) < 0;
        done = gen_insns(gen, &insns[i], group->count - i);
        if (computes)
            gen->class_in_rcx = -1;
        i += done;
    }
    gen->group = NULL;
    group->end = x86_here(gen->code);
    group->end_narrow = gen->narrow;
    group->end_low = gen->low;
    group->end_later = gen->later;
    return group->count;
}

/* ---- memos ---- */

void dbt_make_memorize(struct dbt *dbt, unsigned bank, enum rv_access access)
{
    struct x86_code *code = &dbt->code;
    int32_t tlb = dbt_tlb_offset(bank, access);
    dbt->thunks.memorize[bank][access] = x86_here(code);
    x86_rr(code, X86_ADD | X86_W, X86_RCX, X86_RAX);
    x86_rr(code, X86_XOR | X86_W, X86_RCX, X86_RAX);
    x86_test_ri(code, X86_W, X86_RCX, -PAGE);
    uint8_t *crosses = x86_jcc(code, X86_NE, NULL);
    x86_rr(code, X86_MOV_LOAD, X86_RCX, X86_RAX);
    x86_shift(code, X86_SHR, 0, X86_RCX, MEM_PAGE_SHIFT - 4);
    x86_ri(code, X86_G1_AND, 0, X86_RCX, (RV_TLB_ENTRIES - 1) << 4);
    x86_ri(code, X86_G1_AND, X86_W, X86_RAX, -PAGE);
    x86_rm(code, X86_CMP | X86_W, X86_RAX, x86_indexed(X86_RBP, X86_RCX, 0, tlb));
    uint8_t *miss = x86_jcc(code, X86_NE, NULL);
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_RCX, x86_indexed(X86_RBP, X86_RCX, 0, tlb + 8));
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RAX,
           x86_at(X86_RDX, (int32_t)offsetof(struct dbt_memo, page)));
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RCX,
           x86_at(X86_RDX, (int32_t)offsetof(struct dbt_memo, addend)));
    x86_mov_mi(code, 0, x86_address(&dbt->state->memos_used[bank][access]), 1);
    x86_land(code, crosses);
    x86_land(code, miss);
    x86_bytes(code, X86_RET, 1);
}

void dbt_check_memos(struct dbt *dbt)
{
    struct dbt_state *state = dbt->state;
    if (dbt->hart->tlb_generation == dbt->memo_generation)
        return;
    dbt->memo_generation = dbt->hart->tlb_generation;
    for (unsigned bank = 0; bank < RV_BANKS; bank++)
        for (unsigned access = 0; access < 2; access++)
            if (state->memos_used[bank][access]) {
                memset(state->memos[bank][access], 0, sizeof(state->memos[bank][access]));
                state->memos_used[bank][access] = 0;
            }
}
