/* SPDX-License-Identifier: MIT
 *
 * Between debug.c and mmu.c, isa.c. Owner thread of the hart only.
 */
#ifndef TRAPEZE_ISA_RISCV64_DEBUG_H
#define TRAPEZE_ISA_RISCV64_DEBUG_H

#include "isa/vcpu.h"

extern const struct isa_debug rv_isa_debug;

/* True if a watchpoint lies in the page of va: then no TLB entry may be made for it. */
bool rv_debug_watches_page(const struct vcpu_debug *debug, uint64_t va);

/* An access is made, or about to be and cannot fail any more. */
void rv_debug_accessed(struct vcpu_debug *debug, uint64_t va, unsigned size, bool read, bool write);

#endif
