/* SPDX-License-Identifier: MIT
 *
 * Whether this host's KVM runs guests. The device alone says little: in some sandboxes there is a
 * /dev/kvm without the processor's help, which interprets a part of the instructions, a thousand
 * times as slowly, and fails at the others. So a small guest is run.
 *
 * Threads: any.
 */
#ifndef TRAPEZE_ENGINE_KVM_PROBE_H
#define TRAPEZE_ENGINE_KVM_PROBE_H

#include <stdbool.h>
#include <stddef.h>

struct error;

#define KVM_DEVICE "/dev/kvm"

/* The device, open and asked for its version; -1: the error says what is wrong with it, and how to
 * make it right. */
int kvm_open(const char *path, struct error **err);

/* Runs a dozen instructions in 64-bit mode, with paging, in a machine of its own (1 ms): among them
 * floating-point and vector ones, which no emulator of KVM's knows. Also false on other hosts than
 * x86-64. The descriptor is borrowed. */
bool kvm_runs_guests(int kvm, struct error **err);

/* To an error of these: that guests for `isa` run on KVM alone, and what runs without it. */
void kvm_is_needed(const char *isa, struct error **err);

/* The names of the processor models that a guest can have here, with spaces between. */
bool kvm_models(int kvm, char *text, size_t size, struct error **err);
/* Whether that names a model, and features, at all (--cpu). */
bool kvm_knows_cpu(const char *text, struct error **err);

/* Whether nothing has to be run to know: the kernel has its module for the virtualization that this
 * processor has. The small guest costs a start 14 ms, mostly of waiting for the kernel to drop it again
 * (bench/microvm.py in an emulated host: 47 ms to the first instruction with it, 33 ms without). */
bool kvm_is_hardware(void);

#endif
