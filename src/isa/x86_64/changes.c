/* SPDX-License-Identifier: MIT
 *
 * See changes.h.
 */
#include "isa/x86_64/changes.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"

enum { IA32_ARCH_CAPABILITIES = 0x10a, PART_MAX = 96 };

static const char *const registers[] = {"eax", "ebx", "ecx", "edx"};

/* ---- as text ---- */

static bool begins(const char *part, size_t length, const char *with)
{
    return length > strlen(with) && memcmp(part, with, strlen(with)) == 0;
}

bool x86_changes_is_one(const char *part, size_t length)
{
    return begins(part, length, "cpuid.") || begins(part, length, "msr.") ||
           begins(part, length, "kvm.");
}

/* A number and what ends it; `at` moves behind both. */
static bool take_number(const char **at, int base, uint64_t most, char end, uint64_t *number)
{
    char *behind;
    if (!isxdigit((unsigned char)**at))
        return false;
    unsigned long long value = strtoull(*at, &behind, base);
    if (behind - *at > 20 || value > most || *behind != end)
        return false;
    *number = value;
    *at = end != '\0' ? behind + 1 : behind;
    return true;
}

static bool take_register(const char **at, unsigned *reg)
{
    for (*reg = 0; *reg < ARRAY_SIZE(registers); ++*reg)
        if (strncmp(*at, registers[*reg], 3) == 0 && (*at)[3] == '=') {
            *at += 4;
            return true;
        }
    return false;
}

static bool add_leaf(struct x86_changes *changes, const char *at)
{
    uint64_t function, index, value, mask;
    unsigned reg;
    if (!take_number(&at, 16, UINT32_MAX, '.', &function) ||
        !take_number(&at, 16, UINT32_MAX, '.', &index) || !take_register(&at, &reg) ||
        !take_number(&at, 16, UINT32_MAX, '/', &value) ||
        !take_number(&at, 16, UINT32_MAX, '\0', &mask) || changes->count == X86_CHANGES_MAX)
        return false;
    changes->list[changes->count++] =
        (struct x86_change){(uint32_t)function, (uint32_t)index, reg, (uint32_t)mask,
                            (uint32_t)(value & mask)};
    return true;
}

static bool add_msr(struct x86_changes *changes, const char *at, bool *known)
{
    uint64_t address, value, mask;
    if (!take_number(&at, 16, UINT32_MAX, '=', &address) ||
        !take_number(&at, 16, UINT64_MAX, '/', &value) ||
        !take_number(&at, 16, UINT64_MAX, '\0', &mask) || changes->count == X86_CHANGES_MAX)
        return false;
    *known = address == IA32_ARCH_CAPABILITIES && (value & mask) >> 32 == 0;
    changes->list[changes->count++] =
        (struct x86_change){(uint32_t)address, 0, X86_CHANGE_MSR, (uint32_t)mask,
                            (uint32_t)(value & mask)};
    return true;
}

static bool add_capability(struct x86_changes *changes, const char *at)
{
    uint64_t number;
    if (!take_number(&at, 10, INT32_MAX, '=', &number) || strcmp(at, "on") != 0 ||
        changes->capability_count == X86_CAPABILITIES_MAX)
        return false;
    changes->capabilities[changes->capability_count++] = (uint32_t)number;
    return true;
}

bool x86_changes_add(struct x86_changes *changes, const char *part, size_t length, struct error **err)
{
    char text[PART_MAX] = "";
    bool known = true;
    if (length < sizeof(text))
        memcpy(text, part, length);
    bool good = text[0] == 'c'   ? add_leaf(changes, text + strlen("cpuid."))
                : text[0] == 'm' ? add_msr(changes, text + strlen("msr."), &known)
                                 : text[0] == 'k' && add_capability(changes, text + strlen("kvm."));
    if (!good)
        return error_set(err, ERROR_USAGE,
                         "'%.*s' is no change of what a guest is told of its processor, or one too many",
                         length > 64 ? 64 : (int)length, part);
    if (known)
        return true;
    error_set(err, ERROR_USAGE, "Template changes an MSR entry not supported by KVM: Register Address: 0x%" PRIx32,
              changes->list[changes->count - 1].function);
    error_hint(err, "Of MSRs only bits 31:0 of IA32_ARCH_CAPABILITIES, 0x10a, are for templates here.");
    return false;
}

/* ---- as features ---- */

void x86_changes_as_features(const struct x86_changes *changes, struct x86_features *on,
                             struct x86_features *off)
{
    for (size_t i = 0; i < changes->count; i++) {
        const struct x86_change *change = &changes->list[i];
        for (size_t j = 0; j < x86_feature_count(); j++) {
            const struct x86_feature *feature = x86_feature_at(j);
            uint32_t bit = UINT32_C(1) << feature->bit;
            if ((change->mask & bit) == 0 ||
                !(change->reg == X86_CHANGE_MSR
                      ? feature->word == X86_ARCH_CAPABILITIES
                      : x86_feature_is_in(feature, change->function, change->index, change->reg)))
                continue;
            x86_give(on, feature, (change->value & bit) != 0);
            x86_give(off, feature, (change->value & bit) == 0);
        }
    }
}

/* ---- as registers ---- */

static bool is_signature(const struct x86_change *change)
{
    return change->reg == 0 && (change->function == 0x1 || change->function == 0x80000001);
}

void x86_changes_sign(const struct x86_changes *changes, struct x86_cpuid *leaf)
{
    for (size_t i = 0; i < changes->count; i++)
        if (is_signature(&changes->list[i]) && changes->list[i].function == leaf->function)
            leaf->eax = (leaf->eax & ~changes->list[i].mask) | changes->list[i].value;
}

/* What the vCPU's place, the number of vCPUs or the guest itself decides. */
static uint32_t always_ours(const struct x86_change *change)
{
    static const struct {
        uint32_t first, last;
        unsigned reg; /* 4: any */
        uint32_t mask;
    } rows[] = {
        {0x1, 0x1, 1, UINT32_MAX},         {0x1, 0x1, 2, 1u << 27}, /* OSXSAVE */
        {0x1, 0x1, 3, 1u << 28}, /* HTT */ {0x4, 0x4, 4, UINT32_MAX},
        {0xb, 0xb, 4, UINT32_MAX},         {0xd, 0xd, 1, UINT32_MAX},
        {0x80000001, 0x80000001, 2, 2}, /* CMP_LEGACY */
        {0x80000008, 0x80000008, 2, UINT32_MAX},
        {0x8000001d, 0x8000001e, 4, UINT32_MAX},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (change->function >= rows[i].first && change->function <= rows[i].last &&
            (rows[i].reg == 4 || rows[i].reg == change->reg))
            return rows[i].mask;
    return 0;
}

static uint32_t register_of(const struct x86_cpuid *leaf, unsigned reg)
{
    const uint32_t all[] = {leaf->eax, leaf->ebx, leaf->ecx, leaf->edx};
    return all[reg];
}

bool x86_changes_hold(const struct x86_changes *changes, const struct x86_cpuid *leaves, size_t count,
                      uint32_t arch_capabilities, const struct x86_cpuid *host, size_t host_count,
                      struct error **err)
{
    static const struct x86_cpuid none = {0};
    for (size_t i = 0; i < changes->count; i++) {
        const struct x86_change *change = &changes->list[i];
        bool msr = change->reg == X86_CHANGE_MSR;
        const struct x86_cpuid *leaf = x86_cpuid_find(leaves, count, change->function, change->index);
        if (leaf == NULL && !msr &&
            x86_cpuid_find(host, host_count, change->function, change->index) == NULL)
            return error_set(err, ERROR_USAGE,
                             "Template changes a CPUID entry not supported by KVM: Leaf: 0x%" PRIx32
                             ", Subleaf: 0x%" PRIx32,
                             change->function, change->index);
        uint32_t is = msr ? arch_capabilities : register_of(leaf != NULL ? leaf : &none, change->reg);
        uint32_t other = (is ^ change->value) & change->mask & (msr ? UINT32_MAX : ~always_ours(change));
        if (other == 0)
            continue;
        error_set(err, ERROR_USAGE,
                  "the CPU template changes bits 0x%" PRIx32 " of %s in %s 0x%" PRIx32
                  ", which guests here are not given otherwise",
                  other, msr ? "the register" : registers[change->reg],
                  msr ? "MSR" : "CPUID leaf", change->function);
        error_hint(err, "Features that have names and the signature can be changed; 'x' leaves a bit as it is.");
        return false;
    }
    return true;
}
