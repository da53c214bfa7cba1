/* SPDX-License-Identifier: MIT
 *
 * The interpreter's loop: find the block at pc, call the functions of its instructions until
 * one of them says something else than RV_NEXT, account for what retired, look up.
 *
 * Invariants
 *   - Between blocks the architectural state is exact; inside one, pc is that of the block's
 *     first instruction and vcpu.retired lags by the instruction's index.
 *   - Requests (vcpu.attention) are obeyed between any two blocks.
 *   - No more instructions retire than the budget says: the last block may be run in part.
 */
#include "engine/interp/interp.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "engine/interp/step.h"

struct interp {
    struct blocks blocks;
};

static bool interp_supports(const struct isa *isa)
{
    return isa == &isa_riscv64;
}

static bool interp_attach(struct vcpu *vcpu, struct error **err)
{
    struct interp *interp = alloc_zeroed(1, sizeof(*interp));
    if (!blocks_init(&interp->blocks, err)) {
        free(interp);
        return false;
    }
    vcpu->engine = &engine_interp;
    vcpu->engine_data = interp;
    return true;
}

static void interp_detach(struct vcpu *vcpu)
{
    struct interp *interp = vcpu->engine_data;
    if (!interp)
        return;
    blocks_destroy(&interp->blocks);
    free(interp);
    vcpu->engine = NULL;
    vcpu->engine_data = NULL;
}

bool interp_deliver_trap(struct rv_hart *hart, uint64_t epc)
{
    rv_take_trap(hart, epc);
    return hart->wedge_count < RV_WEDGE_LIMIT;
}

bool interp_look_up(struct rv_hart *hart, enum vcpu_exit *exit)
{
    struct vcpu *vcpu = &hart->vcpu;
    rv_obey_attention(hart);
    rv_take_interrupt(hart);
    if ((atomic_load(&vcpu->attention) & VCPU_ATTENTION_KICK) == 0)
        return true;
    atomic_fetch_and(&vcpu->attention, ~(uint32_t)VCPU_ATTENTION_KICK);
    *exit = vcpu->htif_value != 0 ? VCPU_EXIT_HTIF : VCPU_EXIT_KICK;
    return false;
}

/* Runs a block; *last is the instruction that ended it. Four calls a turn instead of one: a
 * quarter faster, for each call has its own place in the host's branch predictors. */
static inline enum rv_result run_block(struct rv_hart *hart, const struct block *block,
                                       const struct rv_insn **last)
{
    const struct rv_insn *insn = block->insns;
    enum rv_result result;
    for (;; insn += 4) {
        if ((result = insn[0].exec(hart, &insn[0])) != RV_NEXT)
            break;
        if ((result = insn[1].exec(hart, &insn[1])) != RV_NEXT) {
            insn += 1;
            break;
        }
        if ((result = insn[2].exec(hart, &insn[2])) != RV_NEXT) {
            insn += 2;
            break;
        }
        if ((result = insn[3].exec(hart, &insn[3])) != RV_NEXT) {
            insn += 3;
            break;
        }
    }
    *last = insn;
    return result;
}

/* Runs the first `count` instructions of a longer block. */
static enum rv_result run_part(struct rv_hart *hart, const struct block *block, unsigned count,
                               const struct rv_insn **last)
{
    for (unsigned i = 0; i < count; i++) {
        *last = &block->insns[i];
        enum rv_result result = (*last)->exec(hart, *last);
        if (result != RV_NEXT)
            return result;
    }
    hart->pc += block->insns[count].offset;
    return RV_JUMP;
}

/* What is rarer than a jump. False: leave with *exit. */
static bool conclude(struct rv_hart *hart, const struct rv_insn *insn, enum rv_result result,
                     enum vcpu_exit *exit)
{
    hart->vcpu.retired += insn->index;
    switch (result) {
    case RV_TRAP:
        *exit = VCPU_EXIT_WEDGED;
        return interp_deliver_trap(hart, rv_insn_pc(hart, insn));
    case RV_EXIT:
        *exit = hart->exit;
        if (hart->exit != VCPU_EXIT_ECALL) /* an ecall does not retire (P §3.3.1) */
            hart->vcpu.retired++;
        return false;
    case RV_JUMP:
    case RV_NEXT:
        break;
    }
    hart->vcpu.retired++;
    return true;
}

bool interp_step(struct rv_hart *hart, const struct block *block, uint64_t left,
                 enum vcpu_exit *exit)
{
    const struct rv_insn *last = block->insns;
    enum rv_result result = LIKELY(block->count <= left)
                                ? run_block(hart, block, &last)
                                : run_part(hart, block, (unsigned)left, &last);
    return conclude(hart, last, result, exit);
}

static enum vcpu_exit run_loop(struct interp *interp, struct rv_hart *hart, uint64_t budget)
{
    struct vcpu *vcpu = &hart->vcpu;
    enum vcpu_exit exit = VCPU_EXIT_BUDGET;
    uint64_t limit = vcpu->retired + budget;
    if (limit < budget)
        limit = UINT64_MAX;
    /* What was pending when the hart last left, or was made so by the machine. */
    rv_take_interrupt(hart);
    for (;;) {
        if (UNLIKELY(atomic_load(&vcpu->attention) != 0) && !interp_look_up(hart, &exit))
            return exit;
        uint64_t left = limit - vcpu->retired;
        if (UNLIKELY(left == 0))
            return VCPU_EXIT_BUDGET;
        const struct block *block = blocks_find(&interp->blocks, hart);
        if (UNLIKELY(!block)) {
            if (!interp_deliver_trap(hart, hart->pc))
                return VCPU_EXIT_WEDGED;
            continue;
        }
        const struct rv_insn *last;
        enum rv_result result = LIKELY(block->count <= left)
                                    ? run_block(hart, block, &last)
                                    : run_part(hart, block, (unsigned)left, &last);
        if (LIKELY(result == RV_JUMP))
            vcpu->retired += last->index + 1u;
        else if (!conclude(hart, last, result, &exit))
            return exit;
    }
}

static enum vcpu_exit interp_run(struct vcpu *vcpu, uint64_t budget)
{
    if (UNLIKELY(vcpu->debug != NULL))
        return vcpu->isa->debug->run(vcpu, budget);
    /* seq_cst, and attention is read behind it: see isa/vcpu.c. */
    atomic_store(&vcpu->in_guest, true);
    enum vcpu_exit exit = run_loop(vcpu->engine_data, rv_hart_of(vcpu), budget);
    atomic_store(&vcpu->in_guest, false);
    return exit;
}

static void interp_warm(struct vcpu *vcpu)
{
    struct interp *interp = vcpu->engine_data;
    blocks_warm(&interp->blocks);
}

const struct engine engine_interp = {
    .name = "interp",
    .supports = interp_supports,
    .attach = interp_attach,
    .detach = interp_detach,
    .run = interp_run,
    .warm = interp_warm,
};
