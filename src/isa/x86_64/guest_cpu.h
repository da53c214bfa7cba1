/* SPDX-License-Identifier: MIT
 *
 * What a guest is told of its processor: a model, what the host has, and what somebody wished for, make a
 * list of CPUID leaves. Pure functions; who asks the host is the engine.
 *
 * What a guest is told goes with it wherever it goes: a saved state holds the leaves, and another host
 * takes them if it can give as much (x86_cpu_accepts()). vm_layout() names the same in words, so that a
 * migration is refused before it has begun.
 */
#ifndef TRAPEZE_ISA_X86_64_GUEST_CPU_H
#define TRAPEZE_ISA_X86_64_GUEST_CPU_H

#include "isa/x86_64/changes.h"
#include "isa/x86_64/features.h"
#include "isa/x86_64/models.h"

struct error;

/* What the host can give. */
struct x86_cpu_host {
    struct x86_cpuid leaves[X86_CPUID_MAX];
    size_t count;
    uint32_t arch_capabilities;
    uint32_t tsc_khz; /* 0: not known */
};

/* What was asked for, as text: a model's name, then ",FEATURE=on", ",FEATURE=off", ",pmu=on" (the
 * performance counters), ",smt=on" (two vCPUs are the threads of a core), ",enforce=off" (what the host
 * does not have is left out) or a change (changes.h) as often as one likes. NULL: "host". */
struct x86_cpu_wish {
    const struct x86_model *model;
    struct x86_features on, off;
    bool pmu, smt, enforce;
    struct x86_changes changes; /* their features are in `on` and `off`, too */
};
bool x86_cpu_parse(const char *text, struct x86_cpu_wish *wish, struct error **err);

/* What is given; of the wish it is a part, of the host too. */
struct x86_cpu_choice {
    struct x86_cpu_wish wish;
    struct x86_features features;
    struct x86_features left_out; /* of what was wished for, as `enforce` is off */
};
/* False: the host does not have it all, or is of another vendor; the error names what is missing. */
bool x86_cpu_choose(const struct x86_cpu_wish *wish, const struct x86_cpu_host *host,
                    struct x86_cpu_choice *choice, struct error **err);

/* The leaves of vCPU `cpu` of `cpus`; returns how many. `leaves` has room for X86_CPUID_MAX. */
size_t x86_cpu_leaves(const struct x86_cpu_choice *choice, const struct x86_cpu_host *host, unsigned cpu,
                      unsigned cpus, struct x86_cpuid *leaves);

/* Whether a guest that was told this can run where `choice` was made; of the leaves, which may be
 * anybody's, nothing else is believed. */
bool x86_cpu_accepts(const struct x86_cpu_choice *choice, const struct x86_cpu_host *host,
                     const struct x86_cpuid *leaves, size_t count, uint32_t arch_capabilities,
                     struct error **err);

/* What a guest that was told this relies on, as words with '_' in front: a host that has all of them
 * will do. */
void x86_cpu_describe(const struct x86_cpuid *leaves, size_t count, uint32_t arch_capabilities,
                      char *text, size_t size);
#define X86_CPU_DESCRIPTION_MAX 4096

/* The names of models that the host has, with spaces between. */
void x86_cpu_models(const struct x86_cpu_host *host, char *text, size_t size);

#endif
