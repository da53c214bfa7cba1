/* SPDX-License-Identifier: MIT
 *
 * What the CPUID instruction answers, as a list of leaves.
 */
#ifndef TRAPEZE_ISA_X86_64_CPUID_H
#define TRAPEZE_ISA_X86_64_CPUID_H

#include <stdint.h>

#define X86_CPUID_MAX 128

struct x86_cpuid {
    uint32_t function, index;
    uint32_t indexed; /* 1: the answer depends on ECX, else 0 */
    uint32_t eax, ebx, ecx, edx;
};

#endif
