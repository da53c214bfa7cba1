/* SPDX-License-Identifier: MIT
 *
 * What somebody wants otherwise in what a guest is told of its processor, bit by bit of CPUID's registers:
 * Firecracker's custom CPU templates.
 *
 * A bit that has a name (features.h) becomes a feature that is wished for or not, with all that this
 * means for others. The signatures (EAX of leaves 1 and 0x80000001) are taken as they are. What depends on
 * the vCPU or its machine is made here whatever is said of it, as it is there. Of all other bits what is
 * wanted has to be what there is anyway, or the machine does not start.
 */
#ifndef TRAPEZE_ISA_X86_64_CHANGES_H
#define TRAPEZE_ISA_X86_64_CHANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "isa/x86_64/features.h"

struct error;

#define X86_CHANGES_MAX     128
#define X86_CAPABILITIES_MAX 16

struct x86_changes {
    struct x86_change {
        uint32_t function, index;
        unsigned reg; /* 0 to 3: EAX to EDX; X86_CHANGE_MSR: of IA32_ARCH_CAPABILITIES */
        uint32_t mask, value;
    } list[X86_CHANGES_MAX];
    size_t count;
    uint32_t capabilities[X86_CAPABILITIES_MAX]; /* that KVM has to have, by their numbers */
    size_t capability_count;
};
#define X86_CHANGE_MSR 4

/* A part of a wish's text: "cpuid.LEAF.INDEX.REG=VALUE/MASK", "msr.ADDRESS=VALUE/MASK" (hexadecimal, of
 * 32 and 64 bits) or "kvm.NUMBER=on" (decimal). */
bool x86_changes_is_one(const char *part, size_t length);
bool x86_changes_add(struct x86_changes *changes, const char *part, size_t length, struct error **err);

/* The bits that have names, as features. */
void x86_changes_as_features(const struct x86_changes *changes, struct x86_features *on,
                             struct x86_features *off);
void x86_changes_sign(const struct x86_changes *changes, struct x86_cpuid *leaf);
/* Whether leaves that were made with all this are what is wanted; `host` are those that the host has. */
bool x86_changes_hold(const struct x86_changes *changes, const struct x86_cpuid *leaves, size_t count,
                      uint32_t arch_capabilities, const struct x86_cpuid *host, size_t host_count,
                      struct error **err);

#endif
