/* SPDX-License-Identifier: MIT
 *
 * What others can see of the translator: counters, traces, names for Linux perf. All of it is
 * off the paths that are hot; the only thing that translated code itself does for it is to
 * count blocks, if that was asked for.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/trace.h"
#include "engine/dbt/internal.h"
#include "engine/emit/perf.h"

static char mode_letter(unsigned mode)
{
    unsigned bank = mode / RV_BANKS;
    return bank == RV_BANK_U ? 'U' : bank == RV_BANK_M ? 'M' : 'S';
}

static void trace_block(const struct dbt *dbt, const struct dbt_block *block, const uint8_t *code,
                        size_t size)
{
    const struct vcpu *vcpu = &dbt->hart->vcpu;
    trace_line(vcpu->trace,
               "vcpu%u %s pc=%" PRIx64 " mode=%c instructions=%u bytes=%u code=%p code-bytes=%zu",
               vcpu->index, block->fallback ? "region" : "block", block->pc,
               mode_letter(block->mode), block->count, block->size, (const void *)code, size);
    for (unsigned at = 0, length; at < block->size; at += length) {
        char text[96];
        length = vcpu->isa->disassemble(block->host + at, block->size - at, block->pc + at, text,
                                        sizeof(text));
        if (length == 0)
            return;
        trace_line(vcpu->trace, "vcpu%u   %" PRIx64 "  %s", vcpu->index, block->pc + at, text);
    }
}

void dbt_gen_count(struct gen *gen)
{
    if (gen->dbt->count_blocks)
        x86_mi(gen->code, X86_G1_ADD, X86_W, x86_address(&gen->dbt->state->executed), 1);
}

void dbt_block_made(struct dbt *dbt, const struct dbt_block *block, struct dbt_mark since)
{
    const struct vcpu *vcpu = &dbt->hart->vcpu;
    const struct engine_options *options = vcpu->engine_options;
    const uint8_t *code = since.code + dbt->code.to_run;
    size_t size = (size_t)(x86_here(&dbt->code) - code);
    dbt->stats.code_bytes += size;
    if (trace_on(vcpu->trace, TRACE_BLOCKS))
        trace_block(dbt, block, code, size);
    if (options && options->perf) {
        char name[48];
        snprintf(name, sizeof(name), "guest-%c%s 0x%" PRIx64, mode_letter(block->mode),
                 block->fallback ? " loop" : "", block->pc);
        perf_add(options->perf, code, size, name);
    }
}

static const char *const exit_names[] = {
    [DBT_EXIT_ENTRY] = "attention", [DBT_EXIT_INTERP] = "interpret", [DBT_EXIT_CHECK] = "mapping",
    [DBT_EXIT_LINK] = "jump",       [DBT_EXIT_LOOKUP] = "look-up",   [DBT_EXIT_TRAP] = "trap",
    [DBT_EXIT_CALLED] = "function", [DBT_EXIT_HOT] = "hot",
};

void dbt_trace_exit(const struct dbt *dbt, const struct dbt_exit *exit)
{
    const struct vcpu *vcpu = &dbt->hart->vcpu;
    trace_line(vcpu->trace, "vcpu%u left-code %s pc=%" PRIx64 " retired=%" PRIu64, vcpu->index,
               exit_names[exit->kind],
               exit->kind == DBT_EXIT_LOOKUP ? dbt->hart->pc : exit->pc + exit->offset,
               vcpu->retired);
}

void dbt_count(const struct vcpu *vcpu, vcpu_count_fn *each, void *opaque)
{
#define COUNTER(name, member)                                                                      \
    {                                                                                              \
        name, offsetof(struct dbt, member)                                                         \
    }
    static const struct vcpu_counter counters[] = {
        COUNTER("blocks-translated", stats.translated),
        COUNTER("instructions-translated", stats.instructions),
        COUNTER("regions-translated", stats.regions),
        COUNTER("branches-without-jump", stats.selects),
        COUNTER("rotations", stats.rotations),
        COUNTER("code-bytes", stats.code_bytes),
        COUNTER("jumps-linked", stats.linked),
        COUNTER("inline-caches", stats.inline_caches),
        COUNTER("blocks-interpreted", stats.interpreted),
        COUNTER("instructions-interpreted", stats.interpreted_instructions),
        COUNTER("cache-generations-evicted", stats.evictions),
        COUNTER("cache-blocks-evicted", stats.evicted),
        COUNTER("cache-flushes", stats.flushes),
        COUNTER("code-pages-dropped", stats.pages_dropped),
        COUNTER("code-pages-unsettled", stats.unsettled),
        COUNTER("code-fences", stats.fences),
        COUNTER("entered-code", stats.entered),
        COUNTER("left-code-attention", stats.exits[DBT_EXIT_ENTRY]),
        COUNTER("left-code-interpret", stats.exits[DBT_EXIT_INTERP]),
        COUNTER("left-code-mapping", stats.exits[DBT_EXIT_CHECK]),
        COUNTER("left-code-jump", stats.exits[DBT_EXIT_LINK]),
        COUNTER("left-code-look-up", stats.exits[DBT_EXIT_LOOKUP]),
        COUNTER("left-code-function", stats.exits[DBT_EXIT_CALLED]),
        COUNTER("left-code-hot", stats.exits[DBT_EXIT_HOT]),
        COUNTER("traps-by-code", stats.exits[DBT_EXIT_TRAP]),
    };
#undef COUNTER
    const struct dbt *dbt = vcpu->engine_data;
    uint64_t size = 0, used = 0;
    vcpu_count(counters, ARRAY_SIZE(counters), dbt, each, opaque);
    for (unsigned i = 0; i < DBT_GENERATIONS; i++) {
        const struct dbt_generation *part = &dbt->generations[i];
        uint64_t whole =
            (uint64_t)(part->code_end - part->code) + (uint64_t)(part->data_end - part->data);
        size += whole;
        /* The current one is as full as it is, the others are full or empty. */
        if (i == dbt->generation)
            used += (uint64_t)(dbt->code.at - part->code) + (uint64_t)(dbt->data - part->data);
        else if (part->blocks)
            used += whole;
    }
    each(opaque, "cache-bytes", size);
    each(opaque, "cache-bytes-used", used);
    if (dbt->count_blocks) {
        each(opaque, "blocks-run", dbt->state->executed);
        /* What C entered and the first check turned away did not run. */
        uint64_t entered = dbt->stats.entered, run = dbt->state->executed;
        each(opaque, "chain-hits", run > entered ? run - entered : 0);
    }
}
