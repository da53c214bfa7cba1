/* SPDX-License-Identifier: MIT
 *
 * The few pieces of code that all translations share: the way in and out, and calls of C.
 *
 * Registers in translated code
 *   rbp                rv_hart.x + 128
 *   r15                budget left, in instructions
 *   rax, rcx, rdx      scratch
 *   the others         ten guest registers: the ones that four fifths of all operands name
 * The stack is aligned as at a function's call instruction. Of the guest's registers those in
 * rbx, r12, r13, r14 survive calls of C.
 *
 * The host's stack also holds the pairs of calls that have not returned (gen_flow.c). They fill
 * the upper part of a 64 KiB aligned piece of it, so that bits of rsp say how many there are:
 * none is rsp | DBT_PAIRS_NONE, and no more fit when all bits of DBT_PAIRS_NONE are clear; then
 * all are forgotten. They are also forgotten when translated code is left, at a change of mode
 * and at a flush of the TLB: what a pair leads to is code of this mode, on a page that is
 * mapped as it was.
 */
#include "engine/dbt/internal.h"
#include "isa/riscv64/mmu.h"
#include "isa/riscv64/softfloat.h"

const int8_t dbt_host_of[33] = {
    X86_NONE, X86_R14,  X86_RBX,  X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_R12,
    X86_R13,  X86_RDI,  X86_RSI,  X86_R8,   X86_R9,   X86_R10,  X86_R11,  X86_NONE, X86_NONE,
    X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE,
    X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE,
};

const int8_t dbt_xmm_of[32] = {
    X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE,
    X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE,
    X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE,
    X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE, X86_NONE,
};

static bool survives_calls(int reg)
{
    return reg == X86_RBX || reg >= X86_R12;
}

static void move_guest_registers(struct x86_code *code, uint32_t op, bool all)
{
    for (unsigned i = 1; i < 32; i++)
        if (dbt_host_of[i] != X86_NONE && (all || !survives_calls(dbt_host_of[i])))
            x86_rm(code, op | X86_W, dbt_host_of[i], dbt_x(i));
}

static void hart_to_rdi(struct x86_code *code)
{
    x86_rm(code, X86_LEA, X86_RDI, x86_at(X86_RBP, DBT_HART(vcpu)));
}

static const int callee_saved[] = {X86_RBX, X86_RBP, X86_R12, X86_R13, X86_R14, X86_R15};

/* Below the pairs' place: [0] and [8] look like a pair, of an odd address; what returns there
 * goes to that address as a jump would. [16] is the stack as enter() was called with. */
static void make_pairs(struct dbt *dbt)
{
    struct x86_code *code = &dbt->code;
    x86_rr(code, X86_MOV_LOAD | X86_W, X86_RCX, X86_RSP);
    x86_ri(code, X86_G1_SUB, X86_W, X86_RSP, 16);
    x86_ri(code, X86_G1_AND, X86_W, X86_RSP, -DBT_PAIRS_SIZE);
    x86_ri(code, X86_G1_SUB, X86_W, X86_RSP, 16);
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RCX, x86_at(X86_RSP, 16));
    x86_mov_mi(code, X86_W, x86_at(X86_RSP, 8), -1);
    x86_rm(code, X86_LEA, X86_RCX, x86_address(dbt->thunks.return_odd));
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RCX, x86_at(X86_RSP, 0));
}

/* const struct dbt_exit *enter(code, hart->x + 128, left) */
static void make_enter(struct dbt *dbt)
{
    struct x86_code *code = &dbt->code;
    dbt->thunks.enter = x86_here(code);
    for (unsigned i = 0; i < ARRAY_SIZE(callee_saved); i++)
        x86_push(code, callee_saved[i]);
    make_pairs(dbt);
    x86_rr(code, X86_MOV_LOAD | X86_W, X86_RBP, X86_RSI);
    x86_rr(code, X86_MOV_LOAD | X86_W, X86_R15, X86_RDX);
    x86_rr(code, X86_MOV_LOAD | X86_W, X86_RAX, X86_RDI);
    move_guest_registers(code, X86_MOV_LOAD, true);
    x86_rm(code, X86_LDMXCSR, 2, x86_address(&dbt->state->mxcsr_clean));
    x86_rr(code, X86_GROUP5, X86_G5_JMP, X86_RAX);
}

/* fflags |= what mxcsr has gathered, which is cleared. FS is dirty already, or nothing native
 * ran. Uses rax and rcx. */
static void make_sync_flags(struct dbt *dbt)
{
    struct x86_code *code = &dbt->code;
    dbt->thunks.sync_flags = x86_here(code);
    x86_rm(code, X86_STMXCSR, 3, x86_address(&dbt->state->mxcsr));
    x86_rm(code, X86_MOV_LOAD, X86_RAX, x86_address(&dbt->state->mxcsr));
    x86_ri(code, X86_G1_AND, 0, X86_RAX, 0x3f);
    uint8_t *nothing = x86_jcc(code, X86_E, NULL);
    x86_rm(code, X86_LEA, X86_RCX, x86_address(dbt->state->flags_of));
    x86_rm(code, X86_MOVZX8, X86_RAX, x86_indexed(X86_RCX, X86_RAX, 0, 0));
    x86_rm(code, X86_MOVZX8, X86_RCX, x86_at(X86_RBP, DBT_HART(fflags)));
    x86_rr(code, X86_OR, X86_RAX, X86_RCX);
    x86_rm(code, X86_MOV_STORE8, X86_RAX, x86_at(X86_RBP, DBT_HART(fflags)));
    x86_rm(code, X86_LDMXCSR, 2, x86_address(&dbt->state->mxcsr_clean));
    x86_land(code, nothing);
    x86_bytes(code, X86_RET, 1);
}

/* rax: the exit. */
static void make_leave(struct dbt *dbt)
{
    struct x86_code *code = &dbt->code;
    dbt->thunks.leave = x86_here(code);
    move_guest_registers(code, X86_MOV_STORE, true);
    x86_rm(code, X86_MOV_STORE | X86_W, X86_R15, x86_address(&dbt->state->left));
    x86_rr(code, X86_MOV_LOAD | X86_W, X86_RDX, X86_RAX);
    x86_call(code, dbt->thunks.sync_flags);
    x86_rr(code, X86_MOV_LOAD | X86_W, X86_RAX, X86_RDX);
    x86_ri(code, X86_G1_OR, X86_W, X86_RSP, DBT_PAIRS_NONE);
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_RSP, x86_at(X86_RSP, 16));
    for (unsigned i = ARRAY_SIZE(callee_saved); i-- > 0;)
        x86_pop(code, callee_saved[i]);
    x86_bytes(code, X86_RET, 1);
}

/* memcpy: a function pointer is no object pointer in C. */
static void call_function(struct x86_code *code, uint64_t address)
{
    x86_mov_imm(code, X86_RAX, address);
    x86_rr(code, X86_GROUP5, X86_G5_CALL, X86_RAX);
}

#define FUNCTION_ADDRESS(function) ((uint64_t)(uintptr_t)(function))

/* rax: va. Returns the zero-extended value in rax; ZF: a trap. */
static void make_load(struct dbt *dbt, unsigned shift)
{
    struct x86_code *code = &dbt->code;
    dbt->thunks.load[shift] = x86_here(code);
    move_guest_registers(code, X86_MOV_STORE, false);
    x86_ri(code, X86_G1_SUB, X86_W, X86_RSP, 24);
    hart_to_rdi(code);
    x86_rr(code, X86_MOV_LOAD | X86_W, X86_RSI, X86_RAX);
    x86_mov_imm(code, X86_RDX, UINT64_C(1) << shift);
    x86_rm(code, X86_LEA, X86_RCX, x86_at(X86_RSP, 8));
    call_function(code, FUNCTION_ADDRESS(dbt_load_slow));
    x86_rr(code, X86_MOVZX8 | X86_BYTE_RM, X86_RCX, X86_RAX);
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_RAX, x86_at(X86_RSP, 8));
    x86_ri(code, X86_G1_ADD, X86_W, X86_RSP, 24);
    move_guest_registers(code, X86_MOV_LOAD, false);
    x86_rr(code, X86_TEST, X86_RCX, X86_RCX);
    x86_bytes(code, X86_RET, 1);
}

/* rax: va, rdx: value. ZF: a trap. */
static void make_store(struct dbt *dbt, unsigned shift)
{
    struct x86_code *code = &dbt->code;
    dbt->thunks.store[shift] = x86_here(code);
    move_guest_registers(code, X86_MOV_STORE, false);
    x86_ri(code, X86_G1_SUB, X86_W, X86_RSP, 8);
    hart_to_rdi(code);
    x86_rr(code, X86_MOV_LOAD | X86_W, X86_RSI, X86_RAX);
    x86_rr(code, X86_MOV_LOAD | X86_W, X86_RCX, X86_RDX);
    x86_mov_imm(code, X86_RDX, UINT64_C(1) << shift);
    call_function(code, FUNCTION_ADDRESS(dbt_store_slow));
    x86_rr(code, X86_MOVZX8 | X86_BYTE_RM, X86_RCX, X86_RAX);
    x86_ri(code, X86_G1_ADD, X86_W, X86_RSP, 8);
    move_guest_registers(code, X86_MOV_LOAD, false);
    x86_rr(code, X86_TEST, X86_RCX, X86_RCX);
    x86_bytes(code, X86_RET, 1);
}

/* rax: a struct rv_insn. Runs its function; eax: the result, ZF: RV_NEXT. */
static void make_call(struct dbt *dbt)
{
    struct x86_code *code = &dbt->code;
    dbt->thunks.call = x86_here(code);
    move_guest_registers(code, X86_MOV_STORE, true);
    x86_ri(code, X86_G1_SUB, X86_W, X86_RSP, 8);
    hart_to_rdi(code);
    x86_rr(code, X86_MOV_LOAD | X86_W, X86_RSI, X86_RAX);
    x86_rm(code, X86_GROUP5, X86_G5_CALL, x86_at(X86_RSI, (int32_t)offsetof(struct rv_insn, exec)));
    x86_ri(code, X86_G1_ADD, X86_W, X86_RSP, 8);
    move_guest_registers(code, X86_MOV_LOAD, true);
    x86_rr(code, X86_TEST, X86_RAX, X86_RAX);
    x86_bytes(code, X86_RET, 1);
}

static void describe_flags(struct dbt_state *state)
{
    /* by bit of mxcsr; denormal operands are nothing to RISC-V */
    static const uint8_t flag[] = {SF_NV, 0, SF_DZ, SF_OF, SF_UF, SF_NX};
    for (unsigned i = 0; i < ARRAY_SIZE(state->flags_of); i++)
        for (unsigned bit = 0; bit < ARRAY_SIZE(flag); bit++)
            if (i >> bit & 1)
                state->flags_of[i] |= flag[bit];
    state->mxcsr_clean = 0x1f80;
    state->signs[0] = UINT64_C(1) << 63;
    state->signs[1] = UINT64_C(1) << 31;
}

/* rax: a struct dbt_site. Goes on where its instruction led. */
static void make_call_last(struct dbt *dbt)
{
    struct x86_code *code = &dbt->code;
    dbt->thunks.call_last = x86_here(code);
    move_guest_registers(code, X86_MOV_STORE, true);
    x86_rm(code, X86_MOV_STORE | X86_W, X86_R15, x86_address(&dbt->state->left));
    x86_rr(code, X86_MOV_LOAD | X86_W, X86_RSI, X86_RAX);
    x86_mov_imm(code, X86_RDI, (uint64_t)(uintptr_t)dbt);
    call_function(code, FUNCTION_ADDRESS(dbt_call_last));
    x86_rr(code, X86_OR | X86_W, X86_RSP, X86_RDX);
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_R15, x86_address(&dbt->state->left));
    move_guest_registers(code, X86_MOV_LOAD, true);
    x86_rr(code, X86_GROUP5, X86_G5_JMP, X86_RAX);
}

/* rax: a struct dbt_exit. Goes on in the trap handler. */
static void make_trap(struct dbt *dbt)
{
    struct x86_code *code = &dbt->code;
    dbt->thunks.trap = x86_here(code);
    x86_ri(code, X86_G1_OR, X86_W, X86_RSP, DBT_PAIRS_NONE);
    move_guest_registers(code, X86_MOV_STORE, false);
    x86_rm(code, X86_MOV_STORE | X86_W, X86_R15, x86_address(&dbt->state->left));
    x86_rr(code, X86_MOV_LOAD | X86_W, X86_RSI, X86_RAX);
    x86_mov_imm(code, X86_RDI, (uint64_t)(uintptr_t)dbt);
    call_function(code, FUNCTION_ADDRESS(dbt_trap));
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_R15, x86_address(&dbt->state->left));
    move_guest_registers(code, X86_MOV_LOAD, false);
    x86_rr(code, X86_GROUP5, X86_G5_JMP, X86_RAX);
}

static void make_look_up(struct dbt *dbt)
{
    struct x86_code *code = &dbt->code;
    /* See make_pairs(): the return has popped the first word, which is still there. */
    dbt->thunks.return_odd = x86_here(code);
    x86_ri(code, X86_G1_SUB, X86_W, X86_RSP, 8);
    x86_mov_imm(code, X86_RAX, ~UINT64_C(1));

    /* rax: the guest address to go on at */
    dbt->thunks.look_up = x86_here(code);
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RAX, x86_at(X86_RBP, DBT_HART(pc)));
    move_guest_registers(code, X86_MOV_STORE, false);
    x86_mov_imm(code, X86_RDI, (uint64_t)(uintptr_t)dbt);
    call_function(code, FUNCTION_ADDRESS(dbt_look_up));
    move_guest_registers(code, X86_MOV_LOAD, false);
    x86_rr(code, X86_GROUP5, X86_G5_JMP, X86_RAX);

    dbt->thunks.leave_why = x86_here(code);
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_RAX, x86_address(&dbt->state->why));
    x86_jmp(code, dbt->thunks.leave);
}

void dbt_make_thunks(struct dbt *dbt)
{
    describe_flags(dbt->state);
    make_sync_flags(dbt);
    make_leave(dbt);
    make_look_up(dbt);
    make_enter(dbt);
    for (unsigned shift = 0; shift < 4; shift++) {
        make_load(dbt, shift);
        make_store(dbt, shift);
    }
    for (unsigned bank = 0; bank < RV_BANKS; bank++) {
        dbt_make_memorize(dbt, bank, RV_LOAD);
        dbt_make_memorize(dbt, bank, RV_STORE);
    }
    make_call(dbt);
    make_call_last(dbt);
    make_trap(dbt);
    dbt_make_trap_thunks(dbt);
}
