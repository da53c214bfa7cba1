/* SPDX-License-Identifier: MIT
 *
 * Private to isa/x86_64/.
 */
#ifndef TRAPEZE_ISA_X86_64_ISA_INTERNAL_H
#define TRAPEZE_ISA_X86_64_ISA_INTERNAL_H

#include "isa/x86_64/cpu.h"

extern const struct state_table x86_cpu_state;
extern const struct isa_debug x86_isa_debug;

#endif
