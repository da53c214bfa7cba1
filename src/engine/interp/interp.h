/* SPDX-License-Identifier: MIT
 *
 * The interpreter: runs RISC-V harts by calling each instruction's function in turn, from
 * blocks of predecoded instructions. The contract is struct engine's (isa/vcpu.h).
 */
#ifndef TRAPEZE_ENGINE_INTERP_INTERP_H
#define TRAPEZE_ENGINE_INTERP_INTERP_H

#include "isa/vcpu.h"

extern const struct engine engine_interp;

#endif
