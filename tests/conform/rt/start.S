/*
 * Start, trap entry and mode entry of the conformance runtime.
 *
 * Every hart owns one struct hart (rt.h); M-mode finds it in mscratch, because a test may have any
 * value in any register when it traps; S-mode (when a guest installs s_trap) in sscratch.  In
 * ordinary code tp points at it too.  Both handlers save all 31 registers, call C, and restore all
 * 31: C edits the saved frame to redirect the program.
 */
#include "layout.h"

.macro SAVE_FRAME scratch, base
    csrrw t6, \scratch, t6
    .irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    sd x\n, (\base + 8 * \n)(t6)
    .endr
    csrr t5, \scratch
    sd t5, (\base + 8 * 31)(t6)
    csrw \scratch, t6
    mv tp, t6
    mv gp, zero
.endm

.macro RESTORE_FRAME base
    mv t6, tp
    .irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    ld x\n, (\base + 8 * \n)(t6)
    .endr
    ld t6, (\base + 8 * 31)(t6)
.endm

    .section .text.start, "ax"
    .globl _start
_start:
    la t0, park             /* a trap before the runtime is up must not run away */
    csrw mtvec, t0
    csrw mie, zero
    csrr s0, mhartid
    mv s1, a1
    li t0, MAX_HARTS
    bgeu s0, t0, park
    bnez s0, 2f
    la t0, bss_start
    la t1, bss_end
1:  sd zero, 0(t0)
    addi t0, t0, 8
    bltu t0, t1, 1b
    fence rw, rw
    la t0, bss_cleared
    li t1, 1
    sw t1, 0(t0)
    j 3f
2:  la t0, bss_cleared      /* in .data, so that clearing .bss does not touch it */
    lw t1, 0(t0)
    beqz t1, 2b
    fence rw, rw
3:  la tp, harts
    li t0, HART_SIZE
    mul t0, t0, s0
    add tp, tp, t0
    csrw mscratch, tp
    la sp, stacks
    li t0, STACK_SIZE
    addi t1, s0, 1
    mul t0, t0, t1
    add sp, sp, t0
    la t0, m_trap
    csrw mtvec, t0
    mv a0, s0
    mv a1, s1
    call rt_main
park:
    wfi
    j park

    .data
    .balign 4
bss_cleared:
    .word 0

    .text
    .balign 4
    .globl m_trap
m_trap:
    SAVE_FRAME mscratch, H_FRAME
    ld sp, H_TRAP_SP(tp)
    call m_trap_c
    RESTORE_FRAME H_FRAME
    mret

    .balign 4
    .globl s_trap
s_trap:
    SAVE_FRAME sscratch, H_SFRAME
    ld sp, H_STRAP_SP(tp)
    call s_trap_c
    RESTORE_FRAME H_SFRAME
    sret

/* u64 enter_asm(const u64 regs[32]): save our own callee-saved registers, load all 31 from regs,
 * mret to the mepc and mstatus the caller set.  m_trap_c comes back here by way of H_CTX. */
    .globl enter_asm
enter_asm:
    sd ra, (H_CTX + 0)(tp)
    sd sp, (H_CTX + 8)(tp)
    sd gp, (H_CTX + 16)(tp)
    sd s0, (H_CTX + 24)(tp)
    sd s1, (H_CTX + 32)(tp)
    .irp n, 2,3,4,5,6,7,8,9,10,11
    sd s\n, (H_CTX + 40 + 8 * (\n - 2))(tp)
    .endr
    mv t6, a0
    .irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    ld x\n, (8 * \n)(t6)
    .endr
    ld t6, (8 * 31)(t6)
    mret

/* What a function started by run_mode returns to: hand a0 back to M-mode.  An ecall with this a7
 * cannot be mistaken for one under test. */
    .globl run_mode_exit
run_mode_exit:
    li a7, EXIT_MAGIC
    ecall
1:  j 1b

/* u64 mprv_asm(op fn, u64 va, u64 value): run a one-access stub with MPRV set.  The stub's own
 * fetches stay untranslated; nothing but the access may touch memory while MPRV is set. */
    .globl mprv_asm
mprv_asm:
    la t0, 2f
    sd t0, H_RECOVER(tp)
    li t1, 1 << 17
    mv t3, a0
    mv t4, ra
    csrs mstatus, t1
    jalr t2, t3             /* stubs return through t2 */
2:  li t1, 1 << 17
    csrc mstatus, t1
    sd zero, H_RECOVER(tp)
    mv ra, t4
    ret

/* Access stubs: address in a1, store value in a2, result in a0.  Each exists twice, once ending in
 * ecall (run in S or U mode) and once returning through t2 (run in M mode with MPRV). */
.macro STUB name, body:vararg
    .section .stubs, "ax"
    .balign 4
    .globl stub_\name
stub_\name:
    \body
    ecall
    .text
    .balign 4
    .globl mprv_\name
mprv_\name:
    \body
    jr t2
.endm

    STUB lb, lb a0, 0(a1)
    STUB lh, lh a0, 0(a1)
    STUB lw, lw a0, 0(a1)
    STUB ld, ld a0, 0(a1)
    STUB sb, sb a2, 0(a1)
    STUB sh, sh a2, 0(a1)
    STUB sw, sw a2, 0(a1)
    STUB sd, sd a2, 0(a1)
    STUB amoadd, amoadd.d a0, a2, (a1)
    STUB lr, lr.d a0, (a1)
    STUB sc, sc.d a0, a2, (a1)
    STUB fetch, jr a1
    STUB cbo_zero, cbo.zero 0(a1)
    STUB cbo_clean, cbo.clean 0(a1)
    STUB cbo_flush, cbo.flush 0(a1)
    STUB cbo_inval, cbo.inval 0(a1)
    STUB prefetch_w, prefetch.w 0(a1)
    STUB sfence, sfence.vma
    .section .stubs, "ax"
    .balign 4096

/* The four forms of sfence.vma, and Svinval, as calls (a0 = va, a1 = asid). */
    .text
    .globl sfence_all, sfence_va, sfence_asid, sfence_va_asid
sfence_all:
    sfence.vma
    ret
sfence_va:
    sfence.vma a0, zero
    ret
sfence_asid:
    sfence.vma zero, a1
    ret
sfence_va_asid:
    sfence.vma a0, a1
    ret
