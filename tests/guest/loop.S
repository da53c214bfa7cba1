/* SPDX-License-Identifier: MIT
 * Prints "ready" on the UART and runs for ever; with IDLE defined it waits instead, for interrupts
 * that never come. */
    .globl _start
_start:
    csrr t0, mhartid
    bnez t0, 2f
    li a0, 0x10000000
    la a1, text
1:  lbu t0, 0(a1)
    beqz t0, 2f
    sb t0, 0(a0)
    addi a1, a1, 1
    j 1b
2:
#ifdef IDLE
    wfi
#else
    addi s0, s0, 1
#endif
    j 2b
text:
    .string "ready\r\n"
