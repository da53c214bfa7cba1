/* SPDX-License-Identifier: MIT
 *
 * Which guest registers a region keeps in host registers: those its instructions name most
 * often, each loop counting eight times as much as what is around it.
 *
 * A register that blocks keep in a host register either stays there or goes to memory; so
 * nothing has to be exchanged on the way in or out.
 */
#include "engine/dbt/region.h"

enum { FIRST_XMM = 3, LAST_XMM = 15 };

/* Operands of an instruction: registers as sets. */
struct operands {
    uint32_t x, f, x_to, f_to;
};

static uint32_t bit(unsigned reg)
{
    return UINT32_C(1) << (reg & 31);
}

static struct operands operands_of(const struct rv_insn *insn, enum rv_format format)
{
    uint32_t d = insn->rd == RV_RD_NONE ? 0 : bit(insn->rd);
    uint32_t a = bit(insn->rs1), b = bit(insn->rs2), c = bit(insn->rs3);
    switch (format) {
    case RV_FORMAT_F_FFF:
    case RV_FORMAT_F_FFF_NORM:
        return (struct operands){.f = d | a | b, .f_to = d};
    case RV_FORMAT_F_FFFF:
        return (struct operands){.f = d | a | b | c, .f_to = d};
    case RV_FORMAT_F_FF:
        return (struct operands){.f = d | a, .f_to = d};
    case RV_FORMAT_F_XF:
    case RV_FORMAT_F_XF_NORM:
        return (struct operands){.x = d, .x_to = d, .f = a};
    case RV_FORMAT_F_XFF:
        return (struct operands){.x = d, .x_to = d, .f = a | b};
    case RV_FORMAT_F_FX:
    case RV_FORMAT_F_FX_NORM:
    case RV_FORMAT_F_LOAD:
    case RV_FORMAT_CFLD:
    case RV_FORMAT_CFLDSP:
        return (struct operands){.x = a, .f = d, .f_to = d};
    case RV_FORMAT_F_STORE:
    case RV_FORMAT_CFSD:
    case RV_FORMAT_CFSDSP:
        return (struct operands){.x = a, .f = b};
    case RV_FORMAT_CSR:
        return (struct operands){.x = a | d, .x_to = d};
    case RV_FORMAT_S:
    case RV_FORMAT_B:
    case RV_FORMAT_CB:
    case RV_FORMAT_CSW:
    case RV_FORMAT_CSD:
    case RV_FORMAT_CSWSP:
    case RV_FORMAT_CSDSP:
        return (struct operands){.x = a | b};
    default:
        return (struct operands){.x = a | b | d, .x_to = d};
    }
}

/* Singles stay in memory, where their boxes are looked at; so do registers that are both. */
static bool is_single(const char *name)
{
    return strstr(name, ".s") || strcmp(name, "flw") == 0 || strcmp(name, "fsw") == 0 ||
           strcmp(name, "fmv.x.w") == 0 || strcmp(name, "fmv.w.x") == 0;
}

struct weights {
    uint64_t x[32], f[32];
    uint32_t singles;
};

static void weigh(struct region *region, const struct region_node *node, struct weights *weights)
{
    uint64_t weight = UINT64_C(1) << 3 * (node->depth < 8 ? node->depth : 8);
    for (unsigned i = 0; i < node->count; i++) {
        const struct rv_insn *insn = &region->insns[node->first + i];
        if (insn->row == UINT16_MAX)
            continue;
        const struct rv_row *row = rv_decoder_row(region->dbt->interp.decoder, insn->row);
        struct operands operands = operands_of(insn, row->format);
        region->x_written |= operands.x_to;
        region->f_written |= operands.f_to;
        if ((insn->flags & RV_ROW_FP) && is_single(row->name))
            weights->singles |= operands.f;
        if ((insn->flags & RV_ROW_FP) && gen_op_of(region->dbt, insn)) {
            region->fp_native = true;
            region->fp_dynamic = region->fp_dynamic || insn->rm == 7;
        }
        if (gen_touches_fflags(region->dbt, insn))
            region->fp_native = true;
        for (unsigned reg = 0; reg < 32; reg++) {
            weights->x[reg] += operands.x >> reg & 1 ? weight : 0;
            weights->f[reg] += operands.f >> reg & 1 ? weight : 0;
        }
    }
}

static unsigned heaviest(uint64_t weights[32])
{
    unsigned best = 0;
    for (unsigned reg = 1; reg < 32; reg++)
        if (weights[reg] > weights[best])
            best = reg;
    return best;
}

static void map_x(struct region *region, uint64_t weights[32])
{
    uint32_t chosen = 0;
    int8_t free_hosts[32];
    unsigned count = 0, free_count = 0;
    for (unsigned reg = 1; reg < 32; reg++)
        count += dbt_host_of[reg] != X86_NONE;
    weights[0] = 0;
    for (; count > 0; count--) {
        unsigned reg = heaviest(weights);
        if (weights[reg] == 0)
            break;
        chosen |= bit(reg);
        weights[reg] = 0;
    }
    for (unsigned reg = 0; reg < 33; reg++) {
        int8_t host = dbt_host_of[reg];
        bool stays = reg < 32 && (chosen & bit(reg));
        region->host_of[reg] = stays ? host : X86_NONE;
        if (host != X86_NONE && !stays)
            free_hosts[free_count++] = host;
    }
    /* Who is not chosen but not displaced either keeps its register. */
    for (unsigned reg = 1; reg < 32; reg++)
        if ((chosen & bit(reg)) && region->host_of[reg] == X86_NONE)
            region->host_of[reg] = free_hosts[--free_count];
    for (unsigned reg = 1; reg < 32; reg++)
        for (unsigned i = 0; i < free_count; i++)
            if (dbt_host_of[reg] == free_hosts[i])
                region->host_of[reg] = free_hosts[i];
}

static void map_f(struct region *region, uint64_t weights[32], uint32_t singles)
{
    memcpy(region->xmm_of, dbt_xmm_of, sizeof(region->xmm_of));
    for (unsigned reg = 0; reg < 32; reg++)
        if (singles & bit(reg))
            weights[reg] = 0;
    for (int xmm = FIRST_XMM; xmm <= LAST_XMM; xmm++) {
        unsigned reg = heaviest(weights);
        if (weights[reg] == 0)
            break;
        region->xmm_of[reg] = (int8_t)xmm;
        weights[reg] = 0;
    }
}

void region_map(struct region *region)
{
    struct weights weights = {.singles = 0};
    for (unsigned i = 0; i < region->order_count; i++)
        weigh(region, &region->nodes[region->order[i]], &weights);
    map_x(region, weights.x);
    map_f(region, weights.f, weights.singles);
}
