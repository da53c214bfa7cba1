/* SPDX-License-Identifier: MIT
 *
 * See models.h. Levels: the x86-64 psABI, "Micro-Architecture Levels". Processors: their vendors' public
 * documentation (SDM 4, table 2-1 and the processors' datasheets; AMD's processor programming references).
 *
 * Intel's are without what microcode took away again: TSX (hle, rtm) and MPX. None has vme: 64-bit kernels
 * have no use for it, some AMD ones have lost it to an erratum, and emulators do without.
 */
#include "isa/x86_64/models.h"

#include <string.h>

#include "base/bits.h"

#define INTEL "GenuineIntel"
#define AMD   "AuthenticAMD"

/* The family, model and stepping of the levels say nothing of real processors: what goes by them finds
 * nothing to mend. */
#define LEVEL .vendor = NULL, .family = 15, .model = 6, .stepping = 1

static const struct x86_model models[] = {
    {.name = "host"},
    {.name = "x86-64-v1",
     .features = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
                 "fxsr sse sse2 syscall nx lm",
     LEVEL,
     .brand = "x86-64-v1"},
    {.name = "x86-64-v2",
     .parent = "x86-64-v1",
     .features = "cx16 lahf-lm popcnt sse3 ssse3 sse4.1 sse4.2",
     LEVEL,
     .brand = "x86-64-v2"},
    {.name = "x86-64-v3",
     .parent = "x86-64-v2",
     .features = "xsave avx avx2 bmi1 bmi2 f16c fma abm movbe",
     LEVEL,
     .brand = "x86-64-v3"},
    {.name = "x86-64-v4",
     .parent = "x86-64-v3",
     .features = "avx512f avx512bw avx512cd avx512dq avx512vl",
     LEVEL,
     .brand = "x86-64-v4"},
    {.name = "SandyBridge",
     .parent = "x86-64-v2",
     .features = "rdtscp pclmulqdq aes xsave xsaveopt avx",
     .vendor = INTEL,
     .family = 6,
     .model = 42,
     .stepping = 1,
     .brand = "Intel Xeon E312xx (Sandy Bridge)"},
    {.name = "IvyBridge",
     .parent = "SandyBridge",
     .features = "f16c rdrand fsgsbase smep erms",
     .vendor = INTEL,
     .family = 6,
     .model = 58,
     .stepping = 9,
     .brand = "Intel Xeon E3-12xx v2 (Ivy Bridge)"},
    {.name = "Haswell",
     .parent = "IvyBridge",
     .features = "pcid invpcid fma movbe abm bmi1 bmi2 avx2",
     .vendor = INTEL,
     .family = 6,
     .model = 60,
     .stepping = 1,
     .brand = "Intel Core Processor (Haswell, no TSX)"},
    {.name = "Broadwell",
     .parent = "Haswell",
     .features = "rdseed adx smap 3dnowprefetch",
     .vendor = INTEL,
     .family = 6,
     .model = 61,
     .stepping = 2,
     .brand = "Intel Core Processor (Broadwell, no TSX)"},
    {.name = "Skylake-Server",
     .parent = "Broadwell",
     .features = "pdpe1gb clflushopt clwb pku xsavec xgetbv1 xsaves avx512f avx512dq avx512cd avx512bw "
                 "avx512vl",
     .vendor = INTEL,
     .family = 6,
     .model = 85,
     .stepping = 4,
     .brand = "Intel Xeon Processor (Skylake, no TSX)"},
    {.name = "Cascadelake-Server",
     .parent = "Skylake-Server",
     .features = "avx512-vnni",
     .vendor = INTEL,
     .family = 6,
     .model = 85,
     .stepping = 7,
     .brand = "Intel Xeon Processor (Cascadelake, no TSX)"},
    {.name = "Icelake-Server",
     .parent = "Cascadelake-Server",
     .features = "avx512-vbmi avx512-vbmi2 avx512ifma avx512-bitalg avx512-vpopcntdq gfni vaes "
                 "vpclmulqdq sha-ni umip la57 rdpid fsrm wbnoinvd",
     .vendor = INTEL,
     .family = 6,
     .model = 106,
     .stepping = 6,
     .brand = "Intel Xeon Processor (Icelake, no TSX)"},
    {.name = "EPYC",
     .parent = "x86-64-v3",
     .features = "aes pclmulqdq rdrand rdseed adx sha-ni fsgsbase smep smap clflushopt xsaveopt xsavec "
                 "xgetbv1 mmxext fxsr-opt pdpe1gb rdtscp cr8legacy sse4a misalignsse 3dnowprefetch clzero "
                 "xsaveerptr",
     .vendor = AMD,
     .family = 23,
     .model = 1,
     .stepping = 2,
     .brand = "AMD EPYC Processor"},
    {.name = "EPYC-Rome",
     .parent = "EPYC",
     .features = "clwb rdpid umip wbnoinvd",
     .vendor = AMD,
     .family = 23,
     .model = 49,
     .stepping = 0,
     .brand = "AMD EPYC-Rome Processor"},
    {.name = "EPYC-Milan",
     .parent = "EPYC-Rome",
     .features = "pcid invpcid pku erms fsrm vaes vpclmulqdq xsaves",
     .vendor = AMD,
     .family = 25,
     .model = 1,
     .stepping = 1,
     .brand = "AMD EPYC-Milan Processor"},
    {.name = "EPYC-Genoa",
     .parent = "EPYC-Milan",
     .features = "avx512f avx512dq avx512cd avx512bw avx512vl avx512ifma avx512-vbmi avx512-vbmi2 "
                 "avx512-vnni avx512-bitalg avx512-vpopcntdq avx512-bf16 gfni la57",
     .vendor = AMD,
     .family = 25,
     .model = 17,
     .stepping = 1,
     .brand = "AMD EPYC-Genoa Processor"},
};

size_t x86_model_count(void)
{
    return ARRAY_SIZE(models);
}

const struct x86_model *x86_model_at(size_t index)
{
    return &models[index];
}

const struct x86_model *x86_model_find(const char *name, size_t length)
{
    for (size_t i = 0; i < ARRAY_SIZE(models); i++)
        if (strlen(models[i].name) == length && memcmp(models[i].name, name, length) == 0)
            return &models[i];
    return NULL;
}

struct x86_features x86_model_features(const struct x86_model *model)
{
    struct x86_features features = {{0}};
    while (model != NULL) {
        if (model->features != NULL)
            x86_features_add(&features, model->features);
        model = model->parent != NULL ? x86_model_find(model->parent, strlen(model->parent)) : NULL;
    }
    return features;
}

/* SDM 2A, CPUID, "Version information". */
uint32_t x86_model_signature(const struct x86_model *model)
{
    uint32_t low = model->family < 15 ? model->family : 15;
    return (uint32_t)(model->family - low) << 20 | (uint32_t)(model->model >> 4) << 16 | low << 8 |
           (uint32_t)(model->model & 15) << 4 | model->stepping;
}
