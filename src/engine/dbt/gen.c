/* SPDX-License-Identifier: MIT
 *
 * Translating one block: the checks at its start, its instructions one by one, the jumps at
 * its end, and behind all that what is rarely run.
 *
 * An instruction without emission of its own is a call of its C function, with the guest's
 * registers where C expects them. So every instruction works, and emission is only about speed.
 */
#include "engine/dbt/internal.h"

#include <assert.h>

#include "isa/riscv64/csr_bits.h"

/* ---- registers ---- */

static uint32_t bit(unsigned reg)
{
    return UINT32_C(1) << (reg & 31);
}

static bool is_low(const struct gen *gen, unsigned reg)
{
    return gen->low >> reg & 1;
}

void gen_make_full(struct gen *gen, uint32_t set)
{
    set &= gen->low;
    gen->low &= ~set;
    for (unsigned reg = 1; reg < 32; reg++)
        if (set >> reg & 1)
            x86_rr(gen->code, X86_MOVSXD, gen->host_of[reg], gen->host_of[reg]);
}

void gen_load_x(struct gen *gen, int reg, unsigned from)
{
    int host = gen->host_of[from];
    gen_make_full(gen, bit(from));
    if (from == 0)
        x86_rr(gen->code, X86_XOR, reg, reg);
    else if (host == X86_NONE)
        x86_rm(gen->code, X86_MOV_LOAD | X86_W, reg, dbt_x(from));
    else if (host != reg)
        x86_rr(gen->code, X86_MOV_LOAD | X86_W, reg, host);
}

void gen_load_low(struct gen *gen, int reg, unsigned from)
{
    int host = gen->host_of[from];
    if (from == 0)
        x86_rr(gen->code, X86_XOR, reg, reg);
    else if (host == X86_NONE)
        x86_rm(gen->code, X86_MOV_LOAD, reg, dbt_x(from));
    else if (host != reg)
        x86_rr(gen->code, X86_MOV_LOAD, reg, host);
}

int gen_source(struct gen *gen, unsigned reg, int scratch)
{
    int host = gen->host_of[reg];
    gen_make_full(gen, bit(reg));
    if (host != X86_NONE)
        return host;
    gen_load_x(gen, scratch, reg);
    return scratch;
}

int gen_source_low(struct gen *gen, unsigned reg, int scratch)
{
    int host = gen->host_of[reg];
    if (host != X86_NONE)
        return host;
    gen_load_low(gen, scratch, reg);
    return scratch;
}

int gen_target(const struct gen *gen, unsigned rd, int scratch)
{
    int host = gen->host_of[rd];
    return host == X86_NONE ? scratch : host;
}

static void commit(struct gen *gen, unsigned rd, int reg)
{
    int host = gen->host_of[rd];
    if (host == X86_NONE)
        x86_rm(gen->code, X86_MOV_STORE | X86_W, reg, dbt_x(rd));
    else if (host != reg)
        x86_rr(gen->code, X86_MOV_LOAD | X86_W, host, reg);
    gen->low &= ~bit(rd);
}

void gen_commit(struct gen *gen, unsigned rd, int reg)
{
    if (rd == RV_RD_NONE)
        return;
    commit(gen, rd, reg);
    gen->narrow &= ~bit(rd);
}

void gen_commit_narrow(struct gen *gen, unsigned rd, int reg)
{
    if (rd == RV_RD_NONE)
        return;
    commit(gen, rd, reg);
    gen->narrow |= bit(rd);
}

void gen_commit_low(struct gen *gen, unsigned rd, int reg)
{
    if (rd == RV_RD_NONE)
        return;
    int host = gen->host_of[rd];
    if (!gen->to_static || host == X86_NONE) {
        x86_rr(gen->code, X86_MOVSXD, reg, reg);
        commit(gen, rd, reg);
    } else {
        if (host != reg)
            x86_rr(gen->code, X86_MOV_LOAD, host, reg);
        gen->low |= bit(rd);
    }
    gen->narrow |= bit(rd);
}

bool gen_words_do(const struct gen *gen, unsigned a, unsigned b)
{
    return gen_is_narrow(gen, a) && gen_is_narrow(gen, b) && (is_low(gen, a) || is_low(gen, b));
}

void gen_op_x(struct gen *gen, uint32_t op, int reg, unsigned operand)
{
    int host = gen->host_of[operand]; /* x[0] is 0 in memory too */
    if (op & X86_W)
        gen_make_full(gen, bit(operand));
    if (host == X86_NONE)
        x86_rm(gen->code, op, reg, dbt_x(operand));
    else
        x86_rr(gen->code, op, reg, host);
}

void gen_to_static(struct gen *gen)
{
    gen_make_full(gen, UINT32_MAX);
    if (gen->to_static)
        x86_call(gen->code, gen->to_static);
}

void gen_from_static(struct gen *gen)
{
    if (gen->from_static)
        x86_call(gen->code, gen->from_static);
}

/* ---- code off the main path ---- */

struct gen_cold *gen_add_cold(struct gen *gen, uint8_t *from)
{
    assert(gen->cold_count < gen->cold_max);
    struct gen_cold *cold = &gen->cold[gen->cold_count++];
    *cold = (struct gen_cold){
        .from = from,
        .unit_pc = gen->pc,
        .unit_count = gen->count,
        .unit_insns = gen->insns,
        .low = gen->low,
        .later = gen->later,
    };
    return cold;
}

/* Stubs may add stubs. */
void gen_cold_code(struct gen *gen)
{
    for (unsigned i = 0; i < gen->cold_count; i++) {
        const struct gen_cold *cold = &gen->cold[i];
        gen->pc = cold->unit_pc;
        gen->count = cold->unit_count;
        gen->insns = cold->unit_insns;
        gen->later = cold->later;
        gen->low = gen->narrow = cold->low;
        cold->emit(gen, cold);
    }
}

/* ---- exits ---- */

void gen_leave(struct gen *gen, const void *exit)
{
    if (exit)
        x86_rm(gen->code, X86_LEA, X86_RAX, x86_address(exit));
    x86_jmp(gen->code, gen->dbt->thunks.leave);
}

struct dbt_exit *gen_exit(struct gen *gen, enum dbt_exit_kind kind, const struct rv_insn *insn,
                          unsigned uncount)
{
    struct dbt_exit *exit = dbt_data(gen->dbt, sizeof(*exit));
    if (!exit) {
        gen->no_memory = true;
        return NULL;
    }
    *exit = (struct dbt_exit){
        .pc = gen->pc,
        .kind = (uint8_t)kind,
        .uncount = (uint16_t)uncount,
        .offset = insn ? insn->offset : 0,
    };
    return exit;
}

/* ---- calls ---- */

/* The function did not say RV_NEXT. */
static void cold_called(struct gen *gen, const struct gen_cold *cold)
{
    x86_land(gen->code, cold->from);
    x86_rm(gen->code, X86_MOV_STORE | X86_W, X86_RAX, x86_address(&gen->dbt->state->result));
    gen_leave(gen, gen_exit(gen, DBT_EXIT_CALLED, cold->insn, gen_behind(gen, cold->insn)));
}

void gen_trap(struct gen *gen, const struct rv_insn *insn)
{
    const void *exit = gen_exit(gen, DBT_EXIT_TRAP, insn, gen_behind(gen, insn) + 1);
    if (exit)
        x86_rm(gen->code, X86_LEA, X86_RAX, x86_address(exit));
    x86_jmp(gen->code, gen->dbt->thunks.trap);
}

/* Exceptions of the host's FPU are only gathered into fflags where somebody asks for them. */
static bool sees_flags(const struct rv_insn *insn)
{
    if (insn->flags & (RV_ROW_LOAD | RV_ROW_STORE))
        return false;
    const unsigned system = 0x73;
    bool csr = (insn->raw & 0x7f) == system && (insn->raw >> 12 & 7) != 0;
    return (insn->flags & RV_ROW_FP) ||
           (csr && insn->imm >= RV_CSR_FFLAGS && insn->imm <= RV_CSR_FCSR);
}

void gen_call(struct gen *gen, const struct rv_insn *insn)
{
    struct x86_code *code = gen->code;
    struct rv_insn *copy = dbt_data(gen->dbt, sizeof(*copy));
    if (!copy) {
        gen->no_memory = true;
        return;
    }
    *copy = *insn;
    gen_to_static(gen);
    if (sees_flags(insn))
        x86_call(code, gen->dbt->thunks.sync_flags);
    /* As the interpreter leaves them while a block runs. */
    x86_mov_imm(code, X86_RAX, gen->pc);
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RAX, x86_at(X86_RBP, DBT_HART(pc)));
    if (!(insn->flags & (RV_ROW_FP | RV_ROW_LOAD | RV_ROW_STORE))) {
        x86_rm(code, X86_MOV_LOAD | X86_W, X86_RAX, x86_address(&gen->dbt->state->limit));
        x86_rr(code, X86_SUB | X86_W, X86_RAX, X86_R15);
        x86_ri(code, X86_G1_SUB, X86_W, X86_RAX, (int32_t)gen->count);
        x86_rm(code, X86_MOV_STORE | X86_W, X86_RAX, x86_at(X86_RBP, DBT_HART(vcpu.retired)));
    }
    x86_rm(code, X86_LEA, X86_RAX, x86_address(copy));
    x86_call(code, gen->dbt->thunks.call);
    struct gen_cold *cold = gen_add_cold(gen, x86_jcc(code, X86_NE, NULL));
    cold->emit = cold_called;
    cold->insn = insn;
    gen_from_static(gen);
    if (insn->rd != RV_RD_NONE)
        gen->narrow &= ~bit(insn->rd);
    /* What C computed on the way is not the guest's. */
    if (insn->flags & RV_ROW_FP)
        x86_rm(code, X86_LDMXCSR, 2, x86_address(&gen->dbt->state->mxcsr_clean));
    else if (!(insn->flags & (RV_ROW_LOAD | RV_ROW_STORE)))
        gen->frm_unknown = true;
}

void gen_call_last(struct gen *gen, const struct rv_insn *insn)
{
    gen_last_by(gen, insn, gen->dbt->thunks.call_last);
}

void gen_last_by(struct gen *gen, const struct rv_insn *insn, const uint8_t *thunk)
{
    gen->ended = true;
    struct dbt_site *site = dbt_data(gen->dbt, sizeof(*site));
    if (!site) {
        gen->no_memory = true;
        return;
    }
    *site = (struct dbt_site){
        .exit = {.pc = gen->pc,
                 .kind = DBT_EXIT_CALLED,
                 .uncount = (uint16_t)gen_behind(gen, insn),
                 .offset = insn->offset},
        .insn = *insn,
        .count = (uint16_t)gen->count,
    };
    x86_rm(gen->code, X86_LEA, X86_RAX, x86_address(site));
    x86_jmp(gen->code, thunk);
}

/* ---- which emission a row has ---- */

static const struct gen_op *const op_tables[] = {
    gen_flow_ops, gen_int_ops, gen_mem_ops, gen_atomic_ops, gen_bit_ops, gen_fp_ops, gen_csr_ops};
enum { TABLE_SHIFT = 8 }; /* op_of_row: table + 1, and the line */

static const struct gen_op *op_named(const char *name, unsigned *number)
{
    for (unsigned table = 0; table < ARRAY_SIZE(op_tables); table++)
        for (unsigned i = 0; op_tables[table][i].name; i++)
            if (strcmp(op_tables[table][i].name, name) == 0) {
                *number = (table + 1) << TABLE_SHIFT | i;
                return &op_tables[table][i];
            }
    return NULL;
}

/* A compressed instruction has the function of its expansion, and so its emission. */
void dbt_map_rows(struct dbt *dbt)
{
    const struct rv_decoder *decoder = dbt->interp.decoder;
    size_t count = rv_decoder_row_count(decoder);
    for (size_t i = 0; i < count; i++) {
        const struct rv_row *row = rv_decoder_row(decoder, i);
        unsigned number;
        if (!op_named(row->name, &number))
            continue;
        for (size_t j = 0; j < count; j++)
            if (rv_decoder_row(decoder, j)->exec == row->exec)
                dbt->op_of_row[j] = (uint16_t)number;
    }
}

const struct gen_op *gen_op_of(const struct dbt *dbt, const struct rv_insn *insn)
{
    if (insn->row == UINT16_MAX)
        return NULL;
    unsigned number = dbt->op_of_row[insn->row];
    if (number == 0)
        return NULL;
    return &op_tables[(number >> TABLE_SHIFT) - 1][number & ((1u << TABLE_SHIFT) - 1)];
}

/* ---- a block ---- */

static void cold_not_entered(struct gen *gen, const struct gen_cold *cold)
{
    x86_land(gen->code, cold->from);
    gen_leave(gen, gen_exit(gen, (enum dbt_exit_kind)cold->arg, NULL,
                            cold->arg == DBT_EXIT_CHECK ? 0 : gen->count));
}

static void leave_if(struct gen *gen, enum x86_condition condition, enum dbt_exit_kind kind)
{
    struct gen_cold *cold = gen_add_cold(gen, x86_jcc(gen->code, condition, NULL));
    cold->emit = cold_not_entered;
    cold->arg = kind;
}

static void jump_or_leave(struct gen *gen, enum x86_condition condition, const uint8_t *other,
                          enum dbt_exit_kind kind)
{
    if (other)
        x86_jcc(gen->code, condition, other);
    else
        leave_if(gen, condition, kind);
}

void gen_page_check(struct gen *gen, uint64_t va, const uint8_t *host, const uint8_t *other)
{
    struct x86_code *code = gen->code;
    uint64_t page = align_down(va, MEM_PAGE_SIZE);
    size_t slot = (va >> MEM_PAGE_SHIFT) & (RV_TLB_ENTRIES - 1);
    int32_t entry =
        DBT_HART(tlb) +
        (int32_t)((gen->fetch_bank * RV_ACCESS_KINDS + RV_FETCH) * sizeof(struct rv_tlb) +
                  offsetof(struct rv_tlb, entry) + slot * sizeof(struct rv_tlb_entry));
    struct x86_mem tag = x86_at(X86_RBP, entry);
    if ((int64_t)page == (int32_t)page) {
        x86_mi(code, X86_G1_CMP, X86_W, tag, (int32_t)page);
    } else {
        x86_mov_imm(code, X86_RAX, page);
        x86_rm(code, X86_CMP | X86_W, X86_RAX, tag);
    }
    jump_or_leave(gen, X86_NE, other, DBT_EXIT_CHECK);
    x86_mov_imm(code, X86_RAX, (uint64_t)(uintptr_t)host - va);
    x86_rm(code, X86_CMP | X86_W, X86_RAX,
           x86_at(X86_RBP, entry + (int32_t)offsetof(struct rv_tlb_entry, addend)));
    jump_or_leave(gen, X86_NE, other, DBT_EXIT_CHECK);
}

/* See gen_fp.c. FS is two bits, and dirty is both. */
void gen_fp_check(struct gen *gen, bool native, bool dynamic, const uint8_t *other)
{
    struct x86_code *code = gen->code;
    if (!native)
        return;
    x86_rm(code, X86_MOV_LOAD, X86_RAX, x86_at(X86_RBP, DBT_HART(mstatus)));
    x86_rr(code, X86_GROUP3, X86_G3_NOT, X86_RAX);
    x86_test_ri(code, 0, X86_RAX, (int32_t)RV_MSTATUS_FS);
    jump_or_leave(gen, X86_NE, other, DBT_EXIT_INTERP);
    if (dynamic) {
        x86_rm(code, X86_MOVZX8, X86_RAX, x86_at(X86_RBP, DBT_HART(frm)));
        x86_rr(code, X86_TEST, X86_RAX, X86_RAX);
        jump_or_leave(gen, X86_NE, other, DBT_EXIT_INTERP);
    }
}

static void check_fp_of_block(struct gen *gen)
{
    bool any = false, dynamic = false;
    for (unsigned i = 0; i < gen->count; i++) {
        const struct rv_insn *insn = &gen->insns[i];
        bool native = ((insn->flags & RV_ROW_FP) && gen_op_of(gen->dbt, insn)) ||
                      gen_touches_fflags(gen->dbt, insn);
        any = any || native;
        dynamic = dynamic || (native && (insn->flags & RV_ROW_FP) && insn->rm == 7);
    }
    gen_fp_check(gen, any, dynamic, NULL);
}

static const uint8_t *gen_count(struct gen *gen, const uint8_t *entry)
{
    struct x86_code *code = gen->code;
    const uint8_t *start = x86_here(code);
    x86_mi(code, X86_G1_SUB, 0, x86_address(&gen->block->heat), 1);
    x86_jcc(code, X86_NS, entry);
    gen_leave(gen, &gen->block->hot);
    return start;
}

/* Where jumps back come in while turns are counted. */
static void cold_counted(struct gen *gen, const struct gen_cold *cold)
{
    (void)cold;
    gen->block->counted = gen_count(gen, gen->block->entry);
    gen->block->counted_checked = gen_count(gen, gen->block->checked);
}

static void count_turns(struct gen *gen)
{
    struct dbt_block *block = gen->block;
    block->counted = block->entry;
    block->counted_checked = block->checked;
    block->heat = gen->dbt->region_heat;
    block->hot = (struct dbt_exit){.pc = block->pc, .kind = DBT_EXIT_HOT};
    if (block->heat != 0)
        gen_add_cold(gen, NULL)->emit = cold_counted;
}

static void gen_start(struct gen *gen)
{
    struct x86_code *code = gen->code;
    gen->block->checked = x86_here(code);
    gen_page_check(gen, gen->pc, gen->block->host, NULL);
    gen->block->entry = x86_here(code);
    if (gen->block->second) { /* never a loop's; jumps from the first page know nothing of it */
        gen_page_check(gen, gen->pc + 2, gen->block->second, NULL);
        gen->block->counted = gen->block->entry;
        gen->block->counted_checked = gen->block->checked;
    } else {
        count_turns(gen);
    }
    dbt_gen_count(gen);
    x86_ri(code, X86_G1_SUB, X86_W, X86_R15, (int32_t)gen->count);
    leave_if(gen, X86_S, DBT_EXIT_ENTRY);
    x86_mi(code, X86_G1_CMP, 0, x86_at(X86_RBP, DBT_HART(vcpu.attention)), 0);
    leave_if(gen, X86_NE, DBT_EXIT_ENTRY);
    check_fp_of_block(gen);
}

static unsigned emit_insns(struct gen *gen, const struct rv_insn *insns, unsigned left)
{
    const struct gen_op *op = gen_op_of(gen->dbt, insns);
    if (left >= 3 && gen_quiet_compare(gen, insns))
        return 3;
    if (left >= 2 && gen_pair(gen, insns))
        return 2;
    if (op)
        op->emit(gen, insns, op->arg);
    else if (insns->flags & RV_ROW_ENDS_BLOCK)
        gen_call_last(gen, insns);
    else
        gen_call(gen, insns);
    return 1;
}

unsigned gen_insns(struct gen *gen, const struct rv_insn *insns, unsigned left)
{
    unsigned grouped = gen_group_at(gen, insns, left);
    if (grouped)
        return grouped;
    if (gen->puts_off) {
        if (gen_put_off(gen, insns) || gen_rotation(gen, insns))
            return 1;
        gen_before(gen, insns);
    }
    unsigned done = emit_insns(gen, insns, left);
    if (gen->puts_off)
        gen_behind_insn(gen, insns);
    return done;
}

static void gen_block(struct gen *gen, unsigned size)
{
    gen_start(gen);
    for (unsigned i = 0; i < gen->count && !gen->ended;)
        i += gen_insns(gen, &gen->insns[i], gen->count - i);
    if (!gen->ended)
        gen_jump_to(gen, gen->pc + size);
    gen_cold_code(gen);
}

struct gen gen_of(struct dbt *dbt, struct dbt_block *block)
{
    return (struct gen){
        .dbt = dbt,
        .code = &dbt->code,
        .block = block,
        .pc = block->pc,
        .host_of = dbt_host_of,
        .xmm_of = dbt_xmm_of,
        .class_in_rcx = -1,
        .narrow = 1, /* x0 */
        .likely = GEN_UNKNOWN,
        .mode = block->mode,
        .fetch_bank = block->mode / RV_BANKS,
        .data_bank = block->mode % RV_BANKS,
    };
}

/* To one place nearly each time that it was interpreted (a fault or two do not count), the last
 * times included. */
static bool led_steadily(const struct dbt *dbt, const struct block *from)
{
    return from->agreed != 0 && from->agreed + 1 + dbt->hot / 8 >= dbt->hot;
}

/* NULL: it does not fit. */
static struct dbt_block *make_block(struct dbt *dbt, const struct block *from, uint64_t pc,
                                    unsigned mode, const struct dbt_place *place)
{
    struct dbt_mark mark = dbt_mark(dbt);
    struct dbt_block *block = dbt_data(dbt, sizeof(*block));
    if (!block)
        return NULL;
    *block = (struct dbt_block){
        .pc = pc,
        .host = place->host,
        .second = place->second,
        .mode = (uint8_t)mode,
        .count = from->count,
        .size = from->size,
    };
    struct gen_cold cold[BLOCK_MAX_INSNS * 14 + 8]; /* not initialised */
    struct gen_group groups[BLOCK_MAX_INSNS];
    struct gen gen = gen_of(dbt, block);
    gen.insns = from->insns;
    gen.count = from->count;
    gen.likely = led_steadily(dbt, from) ? from->led_to : GEN_UNKNOWN;
    gen.cold = cold;
    gen.cold_max = ARRAY_SIZE(cold);
    gen.groups = groups;
    gen.group_max = ARRAY_SIZE(groups);
    gen_block(&gen, from->size);
    if (!gen.no_memory && !dbt->code.full) {
        dbt_block_made(dbt, block, mark);
        return block;
    }
    dbt_rewind(dbt, mark);
    return NULL;
}

/* Whether the block is what memory holds. What the interpreter has may be stale until the next
 * fence.i, which would not know of a write that came before the pages were watched. */
static bool is_current(const struct block *from, const struct dbt_place *place)
{
    if (!place->second)
        return memcmp((const uint8_t *)from + from->code_at, place->host, from->size) == 0;
    uint32_t bits = load_le16(place->host) | (uint32_t)load_le16(place->second) << 16;
    return bits == from->insns[0].raw;
}

/* The page of the first instruction; NULL: see is_current(). */
static struct dbt_page *watch(struct dbt *dbt, const struct block *from,
                              const struct dbt_place *place)
{
    struct dbt_page *page = dbt_watch_page(dbt, place->host, place->gpa);
    if (place->second)
        dbt_watch_page(dbt, place->second, place->second_gpa);
    return is_current(from, place) ? page : NULL;
}

struct dbt_block *dbt_translate(struct dbt *dbt, const struct block *from, uint64_t pc,
                                unsigned mode, const struct dbt_place *place)
{
    struct dbt_page *page = watch(dbt, from, place);
    if (!page)
        return NULL;
    struct dbt_block *block = make_block(dbt, from, pc, mode, place);
    if (!block && dbt_make_room(dbt)) {
        page = watch(dbt, from, place);
        block = page ? make_block(dbt, from, pc, mode, place) : NULL;
    }
    struct dbt_use *use = block && place->second ? dbt_data(dbt, sizeof(*use)) : NULL;
    if (!block || (place->second && !use))
        return NULL;
    dbt_insert(dbt, block, page);
    if (use)
        dbt_insert_use(dbt, block, use, place->second);
    dbt->stats.translated++;
    dbt->stats.instructions += from->count;
    return block;
}
