/* SPDX-License-Identifier: MIT
 *
 * See features.h. Bits: SDM 2A, CPUID and SDM 4, IA32_ARCH_CAPABILITIES; APM 3, appendix E; KVM's own:
 * the kernel's Documentation/virt/kvm/x86/cpuid.rst.
 *
 * Not in the table, besides what nobody has missed: what KVM does not save for us by the calls that
 * state.c of engine/kvm/ makes (AMX, CET, PT, LWP, architectural LBRs), SGX, PASIDs, and what is of the
 * host alone (thermal sensors, MONITOR, speed stepping, debug store).
 */
#include "isa/x86_64/features.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"

enum reg { EAX, EBX, ECX, EDX };

static const struct place {
    uint32_t function, index;
    enum reg reg;
} places[X86_WORDS] = {
    [X86_1_ECX] = {0x1, 0, ECX},
    [X86_1_EDX] = {0x1, 0, EDX},
    [X86_6_EAX] = {0x6, 0, EAX},
    [X86_7_EBX] = {0x7, 0, EBX},
    [X86_7_ECX] = {0x7, 0, ECX},
    [X86_7_EDX] = {0x7, 0, EDX},
    [X86_7_1_EAX] = {0x7, 1, EAX},
    [X86_7_1_EDX] = {0x7, 1, EDX},
    [X86_7_2_EDX] = {0x7, 2, EDX},
    [X86_D_1_EAX] = {0xd, 1, EAX},
    [X86_KVM_EAX] = {0x40000001, 0, EAX},
    [X86_EXT1_ECX] = {0x80000001, 0, ECX},
    [X86_EXT1_EDX] = {0x80000001, 0, EDX},
    [X86_EXT7_EDX] = {0x80000007, 0, EDX},
    [X86_EXT8_EBX] = {0x80000008, 0, EBX},
    [X86_EXT21_EAX] = {0x80000021, 0, EAX},
    /* X86_ARCH_CAPABILITIES is in no leaf */
};

#define PLAIN(word, bit, name)        {X86_##word, bit, name, NULL, X86_PLAIN}
#define NEEDS(word, bit, name, needs) {X86_##word, bit, name, needs, X86_PLAIN}
#define EXTRA(word, bit, name)        {X86_##word, bit, name, NULL, X86_WHERE_IT_IS}
#define ASKED(word, bit, name)        {X86_##word, bit, name, NULL, X86_ASKED}
#define SAFE(bit, name) {X86_ARCH_CAPABILITIES, bit, name, "arch-capabilities", X86_WHERE_IT_IS}

static const struct x86_feature features[] = {
    PLAIN(1_ECX, 0, "sse3"),
    PLAIN(1_ECX, 1, "pclmulqdq"),
    ASKED(1_ECX, 5, "vmx"),
    PLAIN(1_ECX, 9, "ssse3"),
    NEEDS(1_ECX, 12, "fma", "avx"),
    PLAIN(1_ECX, 13, "cx16"),
    ASKED(1_ECX, 15, "pdcm"),
    PLAIN(1_ECX, 17, "pcid"),
    PLAIN(1_ECX, 19, "sse4.1"),
    PLAIN(1_ECX, 20, "sse4.2"),
    EXTRA(1_ECX, 21, "x2apic"),
    PLAIN(1_ECX, 22, "movbe"),
    PLAIN(1_ECX, 23, "popcnt"),
    EXTRA(1_ECX, 24, "tsc-deadline"),
    PLAIN(1_ECX, 25, "aes"),
    PLAIN(1_ECX, 26, "xsave"),
    NEEDS(1_ECX, 28, "avx", "xsave"),
    NEEDS(1_ECX, 29, "f16c", "avx"),
    PLAIN(1_ECX, 30, "rdrand"),
    EXTRA(1_ECX, 31, "hypervisor"),

    PLAIN(1_EDX, 0, "fpu"),
    PLAIN(1_EDX, 1, "vme"),
    PLAIN(1_EDX, 2, "de"),
    PLAIN(1_EDX, 3, "pse"),
    PLAIN(1_EDX, 4, "tsc"),
    PLAIN(1_EDX, 5, "msr"),
    PLAIN(1_EDX, 6, "pae"),
    PLAIN(1_EDX, 7, "mce"),
    PLAIN(1_EDX, 8, "cx8"),
    PLAIN(1_EDX, 9, "apic"),
    PLAIN(1_EDX, 11, "sep"),
    PLAIN(1_EDX, 12, "mtrr"),
    PLAIN(1_EDX, 13, "pge"),
    PLAIN(1_EDX, 14, "mca"),
    PLAIN(1_EDX, 15, "cmov"),
    PLAIN(1_EDX, 16, "pat"),
    PLAIN(1_EDX, 17, "pse36"),
    PLAIN(1_EDX, 19, "clflush"),
    PLAIN(1_EDX, 23, "mmx"),
    PLAIN(1_EDX, 24, "fxsr"),
    PLAIN(1_EDX, 25, "sse"),
    PLAIN(1_EDX, 26, "sse2"),
    PLAIN(1_EDX, 27, "ss"),

    EXTRA(6_EAX, 2, "arat"),

    PLAIN(7_EBX, 0, "fsgsbase"),
    EXTRA(7_EBX, 1, "tsc-adjust"),
    PLAIN(7_EBX, 3, "bmi1"),
    PLAIN(7_EBX, 4, "hle"),
    NEEDS(7_EBX, 5, "avx2", "avx"),
    EXTRA(7_EBX, 6, "fdp-excptn-only"),
    PLAIN(7_EBX, 7, "smep"),
    PLAIN(7_EBX, 8, "bmi2"),
    PLAIN(7_EBX, 9, "erms"),
    PLAIN(7_EBX, 10, "invpcid"),
    PLAIN(7_EBX, 11, "rtm"),
    EXTRA(7_EBX, 13, "zero-fcs-fds"),
    NEEDS(7_EBX, 14, "mpx", "xsave"),
    NEEDS(7_EBX, 16, "avx512f", "avx2"),
    NEEDS(7_EBX, 17, "avx512dq", "avx512f"),
    PLAIN(7_EBX, 18, "rdseed"),
    PLAIN(7_EBX, 19, "adx"),
    PLAIN(7_EBX, 20, "smap"),
    NEEDS(7_EBX, 21, "avx512ifma", "avx512f"),
    PLAIN(7_EBX, 23, "clflushopt"),
    PLAIN(7_EBX, 24, "clwb"),
    NEEDS(7_EBX, 26, "avx512pf", "avx512f"),
    NEEDS(7_EBX, 27, "avx512er", "avx512f"),
    NEEDS(7_EBX, 28, "avx512cd", "avx512f"),
    PLAIN(7_EBX, 29, "sha-ni"),
    NEEDS(7_EBX, 30, "avx512bw", "avx512f"),
    NEEDS(7_EBX, 31, "avx512vl", "avx512f"),

    PLAIN(7_ECX, 0, "prefetchwt1"),
    NEEDS(7_ECX, 1, "avx512-vbmi", "avx512f"),
    PLAIN(7_ECX, 2, "umip"),
    NEEDS(7_ECX, 3, "pku", "xsave"),
    PLAIN(7_ECX, 5, "waitpkg"),
    NEEDS(7_ECX, 6, "avx512-vbmi2", "avx512f"),
    PLAIN(7_ECX, 8, "gfni"),
    NEEDS(7_ECX, 9, "vaes", "avx"),
    NEEDS(7_ECX, 10, "vpclmulqdq", "avx"),
    NEEDS(7_ECX, 11, "avx512-vnni", "avx512f"),
    NEEDS(7_ECX, 12, "avx512-bitalg", "avx512f"),
    NEEDS(7_ECX, 14, "avx512-vpopcntdq", "avx512f"),
    PLAIN(7_ECX, 16, "la57"),
    PLAIN(7_ECX, 22, "rdpid"),
    PLAIN(7_ECX, 24, "bus-lock-detect"),
    PLAIN(7_ECX, 25, "cldemote"),
    PLAIN(7_ECX, 27, "movdiri"),
    PLAIN(7_ECX, 28, "movdir64b"),

    NEEDS(7_EDX, 2, "avx512-4vnniw", "avx512f"),
    NEEDS(7_EDX, 3, "avx512-4fmaps", "avx512f"),
    PLAIN(7_EDX, 4, "fsrm"),
    NEEDS(7_EDX, 8, "avx512-vp2intersect", "avx512f"),
    EXTRA(7_EDX, 10, "md-clear"),
    EXTRA(7_EDX, 11, "rtm-always-abort"),
    PLAIN(7_EDX, 14, "serialize"),
    PLAIN(7_EDX, 16, "tsxldtrk"),
    NEEDS(7_EDX, 23, "avx512-fp16", "avx512f"),
    EXTRA(7_EDX, 26, "spec-ctrl"),
    EXTRA(7_EDX, 27, "stibp"),
    EXTRA(7_EDX, 28, "flush-l1d"),
    EXTRA(7_EDX, 29, "arch-capabilities"),
    EXTRA(7_EDX, 31, "ssbd"),

    NEEDS(7_1_EAX, 0, "sha512", "avx2"),
    NEEDS(7_1_EAX, 1, "sm3", "avx"),
    NEEDS(7_1_EAX, 2, "sm4", "avx2"),
    NEEDS(7_1_EAX, 4, "avx-vnni", "avx2"),
    NEEDS(7_1_EAX, 5, "avx512-bf16", "avx512f"),
    PLAIN(7_1_EAX, 7, "cmpccxadd"),
    PLAIN(7_1_EAX, 10, "fzrm"),
    PLAIN(7_1_EAX, 11, "fsrs"),
    PLAIN(7_1_EAX, 12, "fsrc"),
    NEEDS(7_1_EAX, 23, "avx-ifma", "avx2"),
    PLAIN(7_1_EAX, 26, "lam"),
    NEEDS(7_1_EDX, 4, "avx-vnni-int8", "avx2"),
    NEEDS(7_1_EDX, 5, "avx-ne-convert", "avx2"),
    NEEDS(7_1_EDX, 10, "avx-vnni-int16", "avx2"),
    PLAIN(7_1_EDX, 14, "prefetchiti"),
    EXTRA(7_2_EDX, 0, "intel-psfd"),
    EXTRA(7_2_EDX, 1, "ipred-ctrl"),
    EXTRA(7_2_EDX, 2, "rrsba-ctrl"),
    EXTRA(7_2_EDX, 3, "ddpd-u"),
    EXTRA(7_2_EDX, 4, "bhi-ctrl"),
    EXTRA(7_2_EDX, 5, "mcdt-no"),

    NEEDS(D_1_EAX, 0, "xsaveopt", "xsave"),
    NEEDS(D_1_EAX, 1, "xsavec", "xsave"),
    NEEDS(D_1_EAX, 2, "xgetbv1", "xsave"),
    NEEDS(D_1_EAX, 3, "xsaves", "xsave"),

    EXTRA(KVM_EAX, 0, "kvm-clocksource"),
    EXTRA(KVM_EAX, 1, "kvm-nop-io-delay"),
    EXTRA(KVM_EAX, 3, "kvm-clocksource2"),
    EXTRA(KVM_EAX, 4, "kvm-asyncpf"),
    EXTRA(KVM_EAX, 5, "kvm-steal-time"),
    EXTRA(KVM_EAX, 6, "kvm-pv-eoi"),
    EXTRA(KVM_EAX, 7, "kvm-pv-unhalt"),
    EXTRA(KVM_EAX, 9, "kvm-pv-tlb-flush"),
    EXTRA(KVM_EAX, 10, "kvm-asyncpf-vmexit"),
    EXTRA(KVM_EAX, 11, "kvm-pv-ipi"),
    EXTRA(KVM_EAX, 12, "kvm-poll-control"),
    EXTRA(KVM_EAX, 13, "kvm-pv-sched-yield"),
    EXTRA(KVM_EAX, 14, "kvm-asyncpf-int"),
    EXTRA(KVM_EAX, 24, "kvm-clocksource-stable"),

    PLAIN(EXT1_ECX, 0, "lahf-lm"),
    ASKED(EXT1_ECX, 2, "svm"),
    PLAIN(EXT1_ECX, 4, "cr8legacy"),
    PLAIN(EXT1_ECX, 5, "abm"),
    PLAIN(EXT1_ECX, 6, "sse4a"),
    PLAIN(EXT1_ECX, 7, "misalignsse"),
    PLAIN(EXT1_ECX, 8, "3dnowprefetch"),
    EXTRA(EXT1_ECX, 9, "osvw"),
    NEEDS(EXT1_ECX, 11, "xop", "avx"),
    NEEDS(EXT1_ECX, 16, "fma4", "avx"),
    PLAIN(EXT1_ECX, 21, "tbm"),
    EXTRA(EXT1_ECX, 22, "topoext"),
    ASKED(EXT1_ECX, 23, "perfctr-core"),
    ASKED(EXT1_ECX, 24, "perfctr-nb"),

    PLAIN(EXT1_EDX, 11, "syscall"),
    PLAIN(EXT1_EDX, 20, "nx"),
    PLAIN(EXT1_EDX, 22, "mmxext"),
    PLAIN(EXT1_EDX, 25, "fxsr-opt"),
    PLAIN(EXT1_EDX, 26, "pdpe1gb"),
    PLAIN(EXT1_EDX, 27, "rdtscp"),
    PLAIN(EXT1_EDX, 29, "lm"),
    PLAIN(EXT1_EDX, 30, "3dnowext"),
    PLAIN(EXT1_EDX, 31, "3dnow"),

    PLAIN(EXT7_EDX, 8, "invtsc"),

    PLAIN(EXT8_EBX, 0, "clzero"),
    PLAIN(EXT8_EBX, 2, "xsaveerptr"),
    PLAIN(EXT8_EBX, 9, "wbnoinvd"),
    EXTRA(EXT8_EBX, 12, "ibpb"),
    EXTRA(EXT8_EBX, 14, "ibrs"),
    EXTRA(EXT8_EBX, 15, "amd-stibp"),
    EXTRA(EXT8_EBX, 17, "stibp-always-on"),
    EXTRA(EXT8_EBX, 24, "amd-ssbd"),
    EXTRA(EXT8_EBX, 25, "virt-ssbd"),
    EXTRA(EXT8_EBX, 26, "amd-no-ssb"),
    EXTRA(EXT8_EBX, 28, "amd-psfd"),

    EXTRA(EXT21_EAX, 0, "no-nested-data-bp"),
    EXTRA(EXT21_EAX, 2, "lfence-always-serializing"),
    EXTRA(EXT21_EAX, 6, "null-sel-clears-base"),
    EXTRA(EXT21_EAX, 8, "auto-ibrs"),
    EXTRA(EXT21_EAX, 27, "sbpb"),
    EXTRA(EXT21_EAX, 28, "ibpb-brtype"),
    EXTRA(EXT21_EAX, 29, "srso-no"),

    SAFE(0, "rdctl-no"),
    SAFE(1, "ibrs-all"),
    SAFE(2, "rsba"),
    SAFE(3, "skip-l1dfl-vmentry"),
    SAFE(4, "ssb-no"),
    SAFE(5, "mds-no"),
    SAFE(6, "pschange-mc-no"),
    SAFE(7, "tsx-ctrl"),
    SAFE(8, "taa-no"),
    SAFE(13, "sbdr-ssdp-no"),
    SAFE(14, "fbsdp-no"),
    SAFE(15, "psdp-no"),
    SAFE(17, "fb-clear"),
    SAFE(19, "rrsba"),
    SAFE(20, "bhi-no"),
    SAFE(24, "pbrsb-no"),
    SAFE(26, "gds-no"),
    SAFE(27, "rfds-no"),
    SAFE(28, "rfds-clear"),
};

size_t x86_feature_count(void)
{
    return ARRAY_SIZE(features);
}

const struct x86_feature *x86_feature_at(size_t index)
{
    return &features[index];
}

const struct x86_feature *x86_feature_find(const char *name, size_t length)
{
    for (size_t i = 0; i < ARRAY_SIZE(features); i++)
        if (strlen(features[i].name) == length && memcmp(features[i].name, name, length) == 0)
            return &features[i];
    return NULL;
}

bool x86_feature_is_in(const struct x86_feature *feature, uint32_t function, uint32_t index, unsigned reg)
{
    const struct place *place = &places[feature->word];
    return feature->word != X86_ARCH_CAPABILITIES && place->function == function &&
           place->index == index && place->reg == reg;
}

const struct x86_cpuid *x86_cpuid_find(const struct x86_cpuid *leaves, size_t count, uint32_t function,
                                       uint32_t index)
{
    for (size_t i = 0; i < count; i++)
        if (leaves[i].function == function && (leaves[i].indexed ? leaves[i].index : 0) == index)
            return &leaves[i];
    return NULL;
}

static uint32_t *register_of(struct x86_cpuid *leaf, enum reg reg)
{
    uint32_t *const registers[] = {&leaf->eax, &leaf->ebx, &leaf->ecx, &leaf->edx};
    return registers[reg];
}

static struct x86_features known(void)
{
    struct x86_features all = {{0}};
    for (size_t i = 0; i < ARRAY_SIZE(features); i++)
        x86_give(&all, &features[i], true);
    return all;
}

struct x86_features x86_features_of(const struct x86_cpuid *leaves, size_t count,
                                    uint32_t arch_capabilities)
{
    struct x86_features result = known();
    for (unsigned i = 0; i < X86_ARCH_CAPABILITIES; i++) {
        const struct x86_cpuid *leaf =
            x86_cpuid_find(leaves, count, places[i].function, places[i].index);
        struct x86_cpuid copy = leaf != NULL ? *leaf : (struct x86_cpuid){0};
        result.words[i] &= *register_of(&copy, places[i].reg);
    }
    result.words[X86_ARCH_CAPABILITIES] &= arch_capabilities;
    return result;
}

void x86_features_write(const struct x86_features *from, struct x86_cpuid *leaf)
{
    uint32_t index = leaf->indexed ? leaf->index : 0;
    for (unsigned i = 0; i < X86_ARCH_CAPABILITIES; i++)
        if (places[i].function == leaf->function && places[i].index == index)
            *register_of(leaf, places[i].reg) = from->words[i];
}

void x86_features_add(struct x86_features *to, const char *names)
{
    for (size_t length; names += strspn(names, " "), (length = strcspn(names, " ")) > 0; names += length) {
        const struct x86_feature *feature = x86_feature_find(names, length);
        assert(feature != NULL);
        x86_give(to, feature, true);
    }
}

void x86_features_settle(struct x86_features *of)
{
    bool changed;
    do {
        changed = false;
        for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
            const char *needs = features[i].needs;
            if (needs == NULL || !x86_has(of, &features[i]) ||
                x86_has(of, x86_feature_find(needs, strlen(needs))))
                continue;
            x86_give(of, &features[i], false);
            changed = true;
        }
    } while (changed);
}

struct x86_features x86_features_but(const struct x86_features *from, const struct x86_features *without)
{
    struct x86_features rest;
    for (unsigned i = 0; i < X86_WORDS; i++)
        rest.words[i] = from->words[i] & ~without->words[i];
    return rest;
}

bool x86_features_none(const struct x86_features *of)
{
    uint32_t all = 0;
    for (unsigned i = 0; i < X86_WORDS; i++)
        all |= of->words[i];
    return all == 0;
}

void x86_features_print(const struct x86_features *of, const char *before, char *text, size_t size)
{
    size_t at = 0;
    text[0] = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(features) && at < size; i++)
        if (x86_has(of, &features[i]))
            at += (size_t)snprintf(text + at, size - at, "%s%s", before, features[i].name);
}
