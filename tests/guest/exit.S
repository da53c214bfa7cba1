/* SPDX-License-Identifier: MIT
 * Ends the run with exit code 7 through the test device. */
    .globl _start
_start:
    li a0, 0x100000
    li a1, 7 << 16 | 0x3333
    sw a1, 0(a0)
1:  j 1b
