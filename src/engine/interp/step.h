/* SPDX-License-Identifier: MIT
 *
 * Single steps of the interpreter's loop, for an engine that interprets what it has not
 * translated. Owner thread; the hart's state is exact before and after each.
 */
#ifndef TRAPEZE_ENGINE_INTERP_STEP_H
#define TRAPEZE_ENGINE_INTERP_STEP_H

#include "engine/interp/blocks.h"

/* Runs a block found at hart->pc, or its first `left` (> 0) instructions if it is longer, and
 * accounts for it. False: leave run() with *exit. */
bool interp_step(struct rv_hart *hart, const struct block *block, uint64_t left,
                 enum vcpu_exit *exit);

/* Obeys what other threads asked for. False: leave run() with *exit. */
bool interp_look_up(struct rv_hart *hart, enum vcpu_exit *exit);

/* Delivers hart->trap. False: the guest does nothing but trap at its own trap vector. */
bool interp_deliver_trap(struct rv_hart *hart, uint64_t epc);

#endif
