/* SPDX-License-Identifier: MIT
 *
 * What somebody wishes for as a guest's processor (--cpu, trapeze.cpu, CPU templates).
 *
 * Input: a byte that chooses the host, then the text. Checked: the text is refused with a sentence; or what
 * it comes to has no feature that the host lacks, the same for each vCPU, and the host takes it again.
 */
#include "fuzz.h"

#include <stdbool.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "isa/x86_64/guest_cpu.h"

static void add_leaf(struct x86_cpu_host *host, const struct x86_features *all, uint32_t function,
                     uint32_t index, bool indexed)
{
    struct x86_cpuid *leaf = &host->leaves[host->count++];
    *leaf = (struct x86_cpuid){function, index, indexed, 0, 0, 0, 0};
    x86_features_write(all, leaf);
}

static struct x86_cpu_host host_of(const struct x86_model *model)
{
    static const uint32_t functions[] = {0x1,        0x6,        0xa,        0x14,       0x40000000,
                                         0x40000001, 0x80000000, 0x80000001, 0x80000007, 0x80000008,
                                         0x8000001e, 0x80000021};
    struct x86_cpu_host host = {.tsc_khz = 1000};
    struct x86_features all = x86_model_features(model);
    const char *vendor = model->vendor != NULL ? model->vendor : "GenuineIntel";
    x86_features_add(&all, "hypervisor x2apic arch-capabilities rdctl-no ibrs-all vmx topoext");
    host.arch_capabilities = all.words[X86_ARCH_CAPABILITIES];
    add_leaf(&host, &all, 0, 0, false);
    host.leaves[0].ebx = load_le32((const uint8_t *)vendor);
    host.leaves[0].edx = load_le32((const uint8_t *)vendor + 4);
    host.leaves[0].ecx = load_le32((const uint8_t *)vendor + 8);
    for (size_t i = 0; i < ARRAY_SIZE(functions); i++)
        add_leaf(&host, &all, functions[i], 0, false);
    for (uint32_t i = 0; i < 3; i++) {
        add_leaf(&host, &all, 7, i, true);
        add_leaf(&host, &all, 0xd, i, true);
        add_leaf(&host, &all, 4, i, true);
        host.leaves[host.count - 1].eax = 0x20 * i + 0x21;
    }
    return host;
}

static void check(const struct x86_cpu_choice *choice, const struct x86_cpu_host *host)
{
    struct x86_cpuid leaves[2][X86_CPUID_MAX];
    size_t counts[2];
    struct error *error = NULL;
    for (unsigned i = 0; i < 2; i++) {
        counts[i] = x86_cpu_leaves(choice, host, i, 3, leaves[i]);
        fuzz_check(counts[i] > 0 && counts[i] <= X86_CPUID_MAX);
    }
    uint32_t safe = choice->features.words[X86_ARCH_CAPABILITIES];
    struct x86_features first = x86_features_of(leaves[0], counts[0], safe);
    struct x86_features second = x86_features_of(leaves[1], counts[1], safe);
    fuzz_check(memcmp(&first, &second, sizeof(first)) == 0);
    fuzz_check(x86_cpu_accepts(choice, host, leaves[0], counts[0], safe, &error));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    char text[FUZZ_INPUT_MAX + 1] = "";
    const struct x86_cpu_host host =
        host_of(x86_model_at((size_t)fuzz_take(&input, 1) % x86_model_count()));
    struct x86_cpu_wish wish;
    struct x86_cpu_choice choice;
    struct error *error = NULL;
    memcpy(text, input.data, input.left);
    bool good = x86_cpu_parse(text, &wish, &error) && x86_cpu_choose(&wish, &host, &choice, &error);
    fuzz_check(good == (error == NULL));
    if (good)
        check(&choice, &host);
    else
        fuzz_check(error_message(error)[0] != '\0');
    error_free(error);
    return 0;
}

/* Parts that mean something, some of them damaged. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const uint32_t functions[] = {0, 1, 4, 6, 7, 0xb, 0xd, 0x40000001, 0x80000001, 0x80000008};
    static const char *const words[] = {",pmu=on", ",smt=on", ",enforce=off", ",kvm.121=on", ",msr.10a=1/3"};
    static const char *const registers[] = {"eax", "ebx", "ecx", "edx"};
    char text[FUZZ_INPUT_MAX];
    size_t at = (size_t)snprintf(text, sizeof(text), "%s",
                                 x86_model_at(fuzz_random(seed) % 3 == 0 ? fuzz_random(seed) % x86_model_count()
                                                                         : 0)->name);
    for (uint64_t i = fuzz_random(seed) % 6; i > 0; i--) {
        uint64_t random = fuzz_random(seed);
        if (random % 4 == 0)
            at += (size_t)snprintf(text + at, sizeof(text) - at, "%s", words[random / 4 % ARRAY_SIZE(words)]);
        else if (random % 4 == 1)
            at += (size_t)snprintf(text + at, sizeof(text) - at, ",%s=%s",
                                   x86_feature_at(random / 8 % x86_feature_count())->name,
                                   random / 4 % 2 == 0 ? "on" : "off");
        else
            at += (size_t)snprintf(text + at, sizeof(text) - at, ",cpuid.%x.%x.%s=%x/%x",
                                   (unsigned)functions[random / 4 % ARRAY_SIZE(functions)],
                                   (unsigned)(random >> 8 & 1), registers[random >> 16 & 3],
                                   random >> 20 & 1 ? 0 : 1u << (random >> 21 & 31),
                                   1u << (random >> 21 & 31));
    }
    data[0] = (uint8_t)fuzz_random(seed);
    memcpy(data + 1, text, at);
    if (fuzz_random(seed) % 4 == 0)
        data[fuzz_random(seed) % (at + 1)] = (uint8_t)fuzz_random(seed);
    return at + 1;
}
