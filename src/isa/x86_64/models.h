/* SPDX-License-Identifier: MIT
 *
 * Named processors: what a guest may be told that it runs on, so that it can move between hosts that all
 * have as much. A row of models.c is one.
 */
#ifndef TRAPEZE_ISA_X86_64_MODELS_H
#define TRAPEZE_ISA_X86_64_MODELS_H

#include <stddef.h>
#include <stdint.h>

#include "isa/x86_64/features.h"

struct x86_model {
    const char *name;
    const char *parent;   /* has everything of that one; or NULL */
    const char *features; /* names, with spaces between; what every model has where it is, is not named */
    const char *vendor;   /* as CPUID tells it; NULL: the host's */
    uint8_t family, model, stepping; /* as they are counted, not as they are encoded */
    const char *brand;    /* what it calls itself; NULL: the host's */
};

size_t x86_model_count(void);
const struct x86_model *x86_model_at(size_t index); /* the first is "host": all that the host has */
const struct x86_model *x86_model_find(const char *name, size_t length); /* or NULL */
/* What the model has, with its parents'. */
struct x86_features x86_model_features(const struct x86_model *model);
/* CPUID 1's EAX. */
uint32_t x86_model_signature(const struct x86_model *model);

#endif
