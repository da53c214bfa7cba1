/* SPDX-License-Identifier: MIT
 *
 * Translating one block: the checks at its start, its instructions one by one, the jumps at
 * its end, and behind all that what is rarely run.
 *
 * An instruction without emission of its own is a call of its C function, with the guest's
 * registers where C expects them. So every instruction works, and emission is only about speed.
 */
#include "engine/dbt/internal.h"

#include "isa/riscv64/csr_bits.h"

/* ---- registers ---- */

void gen_load_x(struct gen *gen, int reg, unsigned from)
{
    int host = gen->host_of[from];
    if (from == 0)
        x86_rr(gen->code, X86_XOR, reg, reg);
    else if (host == X86_NONE)
        x86_rm(gen->code, X86_MOV_LOAD | X86_W, reg, dbt_x(from));
    else if (host != reg)
        x86_rr(gen->code, X86_MOV_LOAD | X86_W, reg, host);
}

int gen_source(struct gen *gen, unsigned reg, int scratch)
{
    int host = gen->host_of[reg];
    if (host != X86_NONE)
        return host;
    gen_load_x(gen, scratch, reg);
    return scratch;
}

int gen_target(const struct gen *gen, unsigned rd, int scratch)
{
    int host = gen->host_of[rd];
    return host == X86_NONE ? scratch : host;
}

void gen_commit(struct gen *gen, unsigned rd, int reg)
{
    if (rd == RV_RD_NONE)
        return;
    int host = gen->host_of[rd];
    if (host == X86_NONE)
        x86_rm(gen->code, X86_MOV_STORE | X86_W, reg, dbt_x(rd));
    else if (host != reg)
        x86_rr(gen->code, X86_MOV_LOAD | X86_W, host, reg);
}

void gen_op_x(struct gen *gen, uint32_t op, int reg, unsigned operand)
{
    int host = gen->host_of[operand]; /* x[0] is 0 in memory too */
    if (host == X86_NONE)
        x86_rm(gen->code, op, reg, dbt_x(operand));
    else
        x86_rr(gen->code, op, reg, host);
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

void gen_call(struct gen *gen, const struct rv_insn *insn)
{
    struct x86_code *code = gen->code;
    struct rv_insn *copy = dbt_data(gen->dbt, sizeof(*copy));
    if (!copy) {
        gen->no_memory = true;
        return;
    }
    *copy = *insn;
    if (!(insn->flags & (RV_ROW_LOAD | RV_ROW_STORE)))
        x86_call(code, gen->dbt->thunks.sync_flags);
    /* As the interpreter leaves them while a block runs. */
    x86_mov_imm(code, X86_RAX, gen->pc);
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RAX, x86_at(X86_RBP, DBT_HART(pc)));
    if (!(insn->flags & (RV_ROW_FP | RV_ROW_LOAD | RV_ROW_STORE))) {
        x86_rm(code, X86_MOV_LOAD | X86_W, X86_RAX, x86_address(&gen->dbt->state->limit));
        x86_rr(code, X86_SUB | X86_W, X86_RAX, X86_R15);
        x86_ri(code, X86_G1_SUB, X86_W, X86_RAX, gen->from->count);
        x86_rm(code, X86_MOV_STORE | X86_W, X86_RAX, x86_at(X86_RBP, DBT_HART(vcpu.retired)));
    }
    x86_rm(code, X86_LEA, X86_RAX, x86_address(copy));
    x86_call(code, gen->dbt->thunks.call);
    struct gen_cold *cold = gen_add_cold(gen, x86_jcc(code, X86_NE, NULL));
    cold->emit = cold_called;
    cold->insn = insn;
    /* What C computed on the way is not the guest's. */
    if (insn->flags & RV_ROW_FP)
        x86_rm(code, X86_LDMXCSR, 2, x86_address(&gen->dbt->state->mxcsr_clean));
    else if (!(insn->flags & (RV_ROW_LOAD | RV_ROW_STORE)))
        gen->frm_unknown = true;
}

void gen_call_last(struct gen *gen, const struct rv_insn *insn)
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
        .count = gen->from->count,
    };
    x86_rm(gen->code, X86_LEA, X86_RAX, x86_address(site));
    x86_jmp(gen->code, gen->dbt->thunks.call_last);
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

static const struct gen_op *op_of(const struct gen *gen, const struct rv_insn *insn)
{
    if (insn->row == UINT16_MAX)
        return NULL;
    unsigned number = gen->dbt->op_of_row[insn->row];
    if (number == 0)
        return NULL;
    return &op_tables[(number >> TABLE_SHIFT) - 1][number & ((1u << TABLE_SHIFT) - 1)];
}

/* ---- a block ---- */

static void cold_not_entered(struct gen *gen, const struct gen_cold *cold)
{
    x86_land(gen->code, cold->from);
    gen_leave(gen, gen_exit(gen, (enum dbt_exit_kind)cold->arg, NULL,
                            cold->arg == DBT_EXIT_CHECK ? 0 : gen->from->count));
}

static void leave_if(struct gen *gen, enum x86_condition condition, enum dbt_exit_kind kind)
{
    struct gen_cold *cold = gen_add_cold(gen, x86_jcc(gen->code, condition, NULL));
    cold->emit = cold_not_entered;
    cold->arg = kind;
}

/* The fetch TLB must map the page as it did when the block was made. */
static void gen_page_check(struct gen *gen)
{
    struct x86_code *code = gen->code;
    uint64_t page = align_down(gen->pc, MEM_PAGE_SIZE);
    size_t slot = (gen->pc >> MEM_PAGE_SHIFT) & (RV_TLB_ENTRIES - 1);
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
    leave_if(gen, X86_NE, DBT_EXIT_CHECK);
    x86_mov_imm(code, X86_RAX, (uint64_t)(uintptr_t)gen->from->host - gen->pc);
    x86_rm(code, X86_CMP | X86_W, X86_RAX,
           x86_at(X86_RBP, entry + (int32_t)offsetof(struct rv_tlb_entry, addend)));
    leave_if(gen, X86_NE, DBT_EXIT_CHECK);
}

/* See gen_fp.c. FS is two bits, and dirty is both. */
static void gen_fp_check(struct gen *gen)
{
    struct x86_code *code = gen->code;
    bool any = false, dynamic = false;
    for (unsigned i = 0; i < gen->from->count; i++) {
        const struct rv_insn *insn = &gen->from->insns[i];
        bool native = (insn->flags & RV_ROW_FP) && op_of(gen, insn);
        any = any || native;
        dynamic = dynamic || (native && insn->rm == 7);
    }
    if (!any)
        return;
    x86_rm(code, X86_MOV_LOAD, X86_RAX, x86_at(X86_RBP, DBT_HART(mstatus)));
    x86_rr(code, X86_GROUP3, X86_G3_NOT, X86_RAX);
    x86_test_ri(code, 0, X86_RAX, (int32_t)RV_MSTATUS_FS);
    leave_if(gen, X86_NE, DBT_EXIT_INTERP);
    if (dynamic) {
        x86_rm(code, X86_MOVZX8, X86_RAX, x86_at(X86_RBP, DBT_HART(frm)));
        x86_rr(code, X86_TEST, X86_RAX, X86_RAX);
        leave_if(gen, X86_NE, DBT_EXIT_INTERP);
    }
}

static void gen_start(struct gen *gen)
{
    struct x86_code *code = gen->code;
    gen->block->checked = x86_here(code);
    gen_page_check(gen);
    gen->block->entry = x86_here(code);
    x86_ri(code, X86_G1_SUB, X86_W, X86_R15, gen->from->count);
    leave_if(gen, X86_S, DBT_EXIT_ENTRY);
    x86_mi(code, X86_G1_CMP, 0, x86_at(X86_RBP, DBT_HART(vcpu.attention)), 0);
    leave_if(gen, X86_NE, DBT_EXIT_ENTRY);
    gen_fp_check(gen);
}

static void gen_block(struct gen *gen)
{
    gen_start(gen);
    for (unsigned i = 0; i < gen->from->count && !gen->ended; i++) {
        const struct rv_insn *insn = &gen->from->insns[i];
        const struct gen_op *op = op_of(gen, insn);
        if (op)
            op->emit(gen, insn, op->arg);
        else if (insn->flags & RV_ROW_ENDS_BLOCK)
            gen_call_last(gen, insn);
        else
            gen_call(gen, insn);
    }
    if (!gen->ended)
        gen_jump_to(gen, gen->pc + gen->from->size);
    /* Stubs may add stubs. */
    for (unsigned i = 0; i < gen->cold_count; i++)
        gen->cold[i].emit(gen, &gen->cold[i]);
}

struct dbt_block *dbt_translate(struct dbt *dbt, const struct block *from, uint64_t pc,
                                unsigned mode, uint64_t gpa)
{
    if (!dbt_watch_page(dbt, from->host, gpa)) {
        dbt_flush(dbt);
        return NULL;
    }
    /* What the interpreter holds may be stale until the next fence.i, which would not know of
     * a write that came before the page was watched. */
    if (memcmp((const uint8_t *)from + from->code_at, from->host, from->size) != 0)
        return NULL;
    struct dbt_block *block = dbt_data(dbt, sizeof(*block));
    if (block) {
        *block = (struct dbt_block){
            .pc = pc,
            .host = from->host,
            .mode = (uint8_t)mode,
            .count = from->count,
            .size = from->size,
        };
        struct gen gen;
        memset(&gen, 0, offsetof(struct gen, cold));
        gen.dbt = dbt;
        gen.code = &dbt->code;
        gen.from = from;
        gen.block = block;
        gen.pc = pc;
        gen.host_of = dbt_host_of;
        gen.mode = mode;
        gen.fetch_bank = mode / RV_BANKS;
        gen.data_bank = mode % RV_BANKS;
        gen_block(&gen);
        if (!gen.no_memory && !dbt->code.full && dbt_insert(dbt, block)) {
            dbt->stats.translated++;
            dbt->stats.instructions += from->count;
            return block;
        }
    }
    dbt_flush(dbt);
    return NULL;
}
