/* SPDX-License-Identifier: MIT
 *
 * Stands between a character backend and its device in deterministic mode: what comes from
 * outside waits here until the vCPU thread stands between two slices, so that a byte never
 * interrupts the guest in the middle of one.
 *
 * Threads: the outside offers input on the event-loop thread; input_gate_deliver() is called
 * on the vCPU thread; output passes straight through. Its own lock is a leaf.
 */
#ifndef TRAPEZE_VM_INPUT_GATE_H
#define TRAPEZE_VM_INPUT_GATE_H

#include "bus/backend.h"

struct input_gate;

/* `outside` is borrowed. `wake(opaque)`, from the event-loop thread: there is something to
 * deliver. */
struct input_gate *input_gate_new(struct char_backend *outside, void (*wake)(void *opaque),
                                  void *opaque);
void input_gate_free(struct input_gate *gate); /* NULL is fine */

/* What the device gets instead of the outside. */
struct char_backend *input_gate_inside(struct input_gate *gate);

/* Offers the device what waits; true if it took something. NULL is fine. */
bool input_gate_deliver(struct input_gate *gate);

#endif
