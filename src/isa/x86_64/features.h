/* SPDX-License-Identifier: MIT
 *
 * What a processor can do, bit by bit: the words of CPUID that say so, and MSR_IA32_ARCH_CAPABILITIES,
 * which is one more. A bit that is not in the table has no name here and is never given to a guest: what
 * a new one needs (state that has to be saved, above all) is looked at first.
 *
 * Names are those of Linux and QEMU, with '-' for '_'.
 */
#ifndef TRAPEZE_ISA_X86_64_FEATURES_H
#define TRAPEZE_ISA_X86_64_FEATURES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "isa/x86_64/cpuid.h"

enum x86_word {
    X86_1_ECX,
    X86_1_EDX,
    X86_6_EAX,
    X86_7_EBX,
    X86_7_ECX,
    X86_7_EDX,
    X86_7_1_EAX,
    X86_7_1_EDX,
    X86_7_2_EDX,
    X86_D_1_EAX,
    X86_KVM_EAX, /* 0x40000001: what KVM has for its guests */
    X86_EXT1_ECX,
    X86_EXT1_EDX,
    X86_EXT7_EDX,
    X86_EXT8_EBX,
    X86_EXT21_EAX,
    X86_ARCH_CAPABILITIES, /* bits 31:0 of the MSR */
    X86_WORDS
};

struct x86_features {
    uint32_t words[X86_WORDS];
};

enum x86_feature_kind {
    X86_PLAIN,
    X86_WHERE_IT_IS, /* every model has it where the host does: it mends or speeds up, programs need it not */
    X86_ASKED        /* only where somebody asks for it by name */
};

struct x86_feature {
    enum x86_word word;
    unsigned bit;
    const char *name;
    const char *needs; /* it goes when this one does; or NULL */
    enum x86_feature_kind kind;
};

size_t x86_feature_count(void);
const struct x86_feature *x86_feature_at(size_t index);
/* NULL: nothing has that name. */
const struct x86_feature *x86_feature_find(const char *name, size_t length);

static inline bool x86_has(const struct x86_features *features, const struct x86_feature *feature)
{
    return (features->words[feature->word] >> feature->bit & 1) != 0;
}
static inline void x86_give(struct x86_features *features, const struct x86_feature *feature, bool give)
{
    uint32_t bit = UINT32_C(1) << feature->bit;
    features->words[feature->word] =
        give ? features->words[feature->word] | bit : features->words[feature->word] & ~bit;
}

/* Whether it is a bit of that register (0 to 3: EAX to EDX). */
bool x86_feature_is_in(const struct x86_feature *feature, uint32_t function, uint32_t index, unsigned reg);

/* The leaf, or NULL. */
const struct x86_cpuid *x86_cpuid_find(const struct x86_cpuid *leaves, size_t count, uint32_t function,
                                       uint32_t index);

/* What the leaves say, of features that have names. */
struct x86_features x86_features_of(const struct x86_cpuid *leaves, size_t count,
                                    uint32_t arch_capabilities);
/* Writes the words that a leaf has; other bits of those registers become 0. */
void x86_features_write(const struct x86_features *features, struct x86_cpuid *leaf);

/* Adds the features with these names, separated by spaces. */
void x86_features_add(struct x86_features *features, const char *names);
/* Those of `features` whose `needs` is not there go. */
void x86_features_settle(struct x86_features *features);
struct x86_features x86_features_but(const struct x86_features *features,
                                     const struct x86_features *without);
bool x86_features_none(const struct x86_features *features);
/* Their names, each with `before` in front; cut off at `size`. */
void x86_features_print(const struct x86_features *features, const char *before, char *text, size_t size);

#endif
