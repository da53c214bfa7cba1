/* SPDX-License-Identifier: MIT
 *
 * Between isa.c and state.c.
 */
#ifndef TRAPEZE_ISA_RISCV64_ISA_INTERNAL_H
#define TRAPEZE_ISA_RISCV64_ISA_INTERNAL_H

#include "base/state.h"
#include "isa/riscv64/hart.h"

extern const struct state_table rv_hart_state;

/* Makes everything derived agree with the architectural state. Owner thread. */
void rv_rebuild_derived(struct rv_hart *hart);

#endif
