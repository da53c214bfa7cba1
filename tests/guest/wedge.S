/* SPDX-License-Identifier: MIT
 * A guest whose trap vector points to nothing: it traps there for ever. */
    .globl _start
_start:
    csrw mtvec, zero
    unimp
