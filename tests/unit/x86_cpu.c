/* SPDX-License-Identifier: MIT
 *
 * Processor models: the tables of features and models, and what of them hosts give their guests. Hosts are
 * made up here, from models.
 */
#include "support.h"

#include <stdio.h>

#include "base/bits.h"
#include "base/error.h"
#include "isa/x86_64/guest_cpu.h"

#define EVERYWHERE "hypervisor x2apic tsc-deadline arat tsc-adjust kvm-clocksource kvm-steal-time"


static bool has(const struct x86_features *of, const char *name)
{
    return x86_has(of, x86_feature_find(name, strlen(name)));
}

static struct x86_cpuid *add_leaf(struct x86_cpu_host *host, uint32_t function, uint32_t index)
{
    struct x86_cpuid *leaf = &host->leaves[host->count++];
    *leaf = (struct x86_cpuid){function, index, function == 7 || function == 0xd || function == 4, 0, 0, 0, 0};
    return leaf;
}

/* A host whose processors are of that model, with what `more` names; XSAVE's area as Intel has it. */
static struct x86_cpu_host host_of(const char *name, const char *more)
{
    static const uint32_t words[][2] = {{1, 0},          {6, 0},          {7, 0},          {7, 1},
                                        {7, 2},          {0x40000001, 0}, {0x80000001, 0}, {0x80000007, 0},
                                        {0x80000021, 0}, {0xd, 1}};
    static const uint32_t areas[][3] = {{2, 256, 576},   {3, 64, 960},    {4, 64, 1024}, {5, 64, 1088},
                                        {6, 512, 1152},  {7, 1024, 1664}, {9, 8, 2688}};
    const struct x86_model *model = x86_model_find(name, strlen(name));
    struct x86_cpu_host host = {.tsc_khz = 2000000};
    struct x86_features all = x86_model_features(model);
    assert_non_null(model);
    x86_features_add(&all, EVERYWHERE);
    x86_features_add(&all, more);
    host.arch_capabilities = all.words[X86_ARCH_CAPABILITIES];
    struct x86_cpuid *leaf = add_leaf(&host, 0, 0);
    const char *vendor = model->vendor != NULL ? model->vendor : "GenuineIntel";
    leaf->eax = 0x20;
    leaf->ebx = load_le32((const uint8_t *)vendor);
    leaf->edx = load_le32((const uint8_t *)vendor + 4);
    leaf->ecx = load_le32((const uint8_t *)vendor + 8);
    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        leaf = add_leaf(&host, words[i][0], words[i][1]);
        x86_features_write(&all, leaf);
        if (words[i][0] == 7 && words[i][1] == 0)
            leaf->eax = 2;
        if (words[i][0] == 1 || words[i][0] == 0x80000001)
            leaf->eax = x86_model_signature(model);
    }
    add_leaf(&host, 0xd, 0)->eax = 0x2ff;
    for (size_t i = 0; i < ARRAY_SIZE(areas); i++) {
        leaf = add_leaf(&host, 0xd, areas[i][0]);
        leaf->eax = areas[i][1];
        leaf->ebx = areas[i][2];
    }
    static const uint32_t caches[] = {0x121, 0x122, 0x143, 0x163, 0};
    for (uint32_t i = 0; i < ARRAY_SIZE(caches); i++)
        add_leaf(&host, 4, i)->eax = caches[i];
    add_leaf(&host, 0x40000000, 0)->eax = 0x40000001;
    leaf = add_leaf(&host, 0x80000000, 0);
    leaf->eax = 0x80000021;
    for (uint32_t i = 2; i <= 4; i++)
        add_leaf(&host, 0x80000000 + i, 0)->eax = 0x20202020;
    leaf = add_leaf(&host, 0x80000008, 0);
    x86_features_write(&all, leaf);
    leaf->eax = 0x302e; /* 46 and 48 bits */
    add_leaf(&host, 0x80000009, 0)->eax = 1; /* what nobody knows */
    add_leaf(&host, 0x14, 0)->eax = 1;       /* what is not for guests */
    add_leaf(&host, 0xa, 0)->eax = 0x08300805;
    return host;
}

struct guest {
    struct x86_cpu_choice choice;
    struct x86_cpuid leaves[X86_CPUID_MAX];
    size_t count;
    struct x86_features features;
};

static bool choose(const struct x86_cpu_host *host, const char *text, struct guest *guest, struct error **err)
{
    struct x86_cpu_wish wish;
    *guest = (struct guest){0};
    if (!x86_cpu_parse(text, &wish, err) || !x86_cpu_choose(&wish, host, &guest->choice, err))
        return false;
    guest->count = x86_cpu_leaves(&guest->choice, host, 0, 1, guest->leaves);
    guest->features = x86_features_of(guest->leaves, guest->count,
                                      guest->choice.features.words[X86_ARCH_CAPABILITIES]);
    return true;
}

static struct guest guest_of(const struct x86_cpu_host *host, const char *text)
{
    struct guest guest;
    struct error *error = NULL;
    bool chosen = choose(host, text, &guest, &error);
    assert_no_error(error);
    assert_true(chosen);
    return guest;
}

static void refuses(const struct x86_cpu_host *host, const char *text, const char *const *words)
{
    struct guest guest;
    struct error *error = NULL;
    assert_false(choose(host, text, &guest, &error));
    for (; *words != NULL; words++)
        if (strstr(error_message(error), *words) == NULL)
            fail_msg("no '%s' in '%s'", *words, error_message(error));
    error_free(error);
}

static const struct x86_cpuid *leaf_of(const struct guest *guest, uint32_t function, uint32_t index)
{
    return x86_cpuid_find(guest->leaves, guest->count, function, index);
}

/* ---- tables ---- */

static void every_feature_has_a_bit_and_a_name_of_its_own(void **state)
{
    (void)state;
    struct x86_features seen = {{0}};
    for (size_t i = 0; i < x86_feature_count(); i++) {
        const struct x86_feature *feature = x86_feature_at(i);
        assert_true(feature->word < X86_WORDS && feature->bit < 32);
        assert_false(x86_has(&seen, feature));
        x86_give(&seen, feature, true);
        assert_ptr_equal(x86_feature_find(feature->name, strlen(feature->name)), feature);
        assert_null(strpbrk(feature->name, "_ ,=")); /* a description's and an option's separators */
        if (feature->needs != NULL)
            assert_non_null(x86_feature_find(feature->needs, strlen(feature->needs)));
    }
}

/* Each has all of its parent, what its features need, and its numbers. */
static void models_hold_together(void **state)
{
    (void)state;
    for (size_t i = 0; i < x86_model_count(); i++) {
        const struct x86_model *model = x86_model_at(i);
        struct x86_features all = x86_model_features(model), settled = all;
        x86_features_settle(&settled);
        assert_memory_equal(&all, &settled, sizeof(all));
        assert_ptr_equal(x86_model_find(model->name, strlen(model->name)), model);
        assert_null(strchr(model->name, ','));
        for (size_t k = 0; k < x86_feature_count(); k++)
            if (x86_has(&all, x86_feature_at(k)))
                assert_int_equal(x86_feature_at(k)->kind, X86_PLAIN);
    }
    /* EAX of CPUID 1 as the vendors publish it, steppings aside */
    static const struct {
        const char *name;
        uint32_t signature;
    } known[] = {{"Skylake-Server", 0x50650},     {"Cascadelake-Server", 0x50650}, {"Icelake-Server", 0x606a0},
                 {"Haswell", 0x306c0},            {"EPYC", 0x800f10},              {"EPYC-Rome", 0x830f10},
                 {"EPYC-Milan", 0xa00f10},        {"EPYC-Genoa", 0xa10f10}};
    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        assert_int_equal(x86_model_signature(x86_model_find(known[i].name, strlen(known[i].name))) & ~15u,
                         known[i].signature);
}

/* Which processor has which level is published; the levels are the psABI's. */
static void processors_are_of_their_levels(void **state)
{
    static const struct {
        const char *name;
        unsigned level;
    } known[] = {{"SandyBridge", 2}, {"IvyBridge", 2},      {"Haswell", 3},        {"Broadwell", 3},
                 {"Skylake-Server", 4}, {"Icelake-Server", 4}, {"EPYC", 3},        {"EPYC-Rome", 3},
                 {"EPYC-Milan", 3},  {"EPYC-Genoa", 4}};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        struct x86_features all = x86_model_features(x86_model_find(known[i].name, strlen(known[i].name)));
        for (unsigned level = 1; level <= 4; level++) {
            char name[] = "x86-64-v0";
            name[8] = (char)('0' + level);
            struct x86_features of_level = x86_model_features(x86_model_find(name, 9));
            struct x86_features missing = x86_features_but(&of_level, &all);
            assert_int_equal(x86_features_none(&missing), level <= known[i].level);
        }
    }
}

/* ---- what is given ---- */

static void the_host_model_has_all_that_has_a_name(void **state)
{
    struct x86_cpu_host host = host_of("Icelake-Server", "vmx hle rtm invtsc spec-ctrl");
    (void)state;
    /* Bits that have no name here: CET, PT, MONITOR. */
    for (size_t i = 0; i < host.count; i++) {
        if (host.leaves[i].function == 7 && host.leaves[i].index == 0) {
            host.leaves[i].ecx |= 1u << 7;
            host.leaves[i].ebx |= 1u << 25;
        }
        if (host.leaves[i].function == 1)
            host.leaves[i].ecx |= 1u << 3;
    }
    struct guest guest = guest_of(&host, NULL);
    assert_true(has(&guest.features, "rtm") && has(&guest.features, "invtsc") &&
                has(&guest.features, "spec-ctrl") && has(&guest.features, "avx512f"));
    assert_false(has(&guest.features, "vmx"));
    assert_int_equal(leaf_of(&guest, 7, 0)->ecx & 1u << 7, 0);
    assert_int_equal(leaf_of(&guest, 7, 0)->ebx & 1u << 25, 0);
    assert_int_equal(leaf_of(&guest, 1, 0)->ecx & 1u << 3, 0);
    assert_null(leaf_of(&guest, 0x80000009, 0));
    assert_null(leaf_of(&guest, 0x14, 0));
    assert_null(leaf_of(&guest, 0xa, 0));
    assert_int_equal(leaf_of(&guest, 1, 0)->eax, 0x606a6);
    guest = guest_of(&host, "host,vmx=on,pmu=on,avx512f=off");
    assert_true(has(&guest.features, "vmx"));
    assert_non_null(leaf_of(&guest, 0xa, 0));
    assert_false(has(&guest.features, "avx512f") || has(&guest.features, "avx512-vnni"));
    assert_true(has(&guest.features, "avx2"));
}

/* The same on each host that has it. */
static void a_model_is_the_same_everywhere(void **state)
{
    static const char *const hosts[] = {"Skylake-Server", "Cascadelake-Server", "Icelake-Server"};
    struct guest first = {0};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(hosts); i++) {
        struct x86_cpu_host host = host_of(hosts[i], "hle rtm vmx");
        struct guest guest = guest_of(&host, "Skylake-Server");
        assert_int_equal(leaf_of(&guest, 1, 0)->eax, 0x50654);
        assert_int_equal(leaf_of(&guest, 0x80000008, 0)->eax, 0x3028);
        assert_memory_equal(&leaf_of(&guest, 0x80000002, 0)->eax, "Intel Xeon", 4);
        if (i == 0)
            first = guest;
        assert_int_equal(guest.count, first.count);
        assert_memory_equal(guest.leaves, first.leaves, sizeof(guest.leaves[0]) * guest.count);
        assert_true(x86_cpu_accepts(&guest.choice, &host, first.leaves, first.count, 0, NULL));
    }
}

static void what_the_host_does_not_have_is_refused_by_name(void **state)
{
    struct x86_cpu_host haswell = host_of("Haswell", ""), rome = host_of("EPYC-Rome", "svm");
    (void)state;
    refuses(&haswell, "Skylake-Server", (const char *const[]){"Skylake-Server", " avx512f", " clwb", NULL});
    refuses(&haswell, "x86-64-v4", (const char *const[]){"avx512vl", NULL});
    refuses(&haswell, "x86-64-v3,sha-ni=on", (const char *const[]){" sha-ni", NULL});
    refuses(&haswell, "host,avx512-vnni=on", (const char *const[]){" avx512-vnni", NULL});
    refuses(&haswell, "EPYC", (const char *const[]){"AuthenticAMD", NULL});
    refuses(&rome, "EPYC-Milan", (const char *const[]){" pku", " vaes", NULL});
    struct guest guest = guest_of(&haswell, "Skylake-Server,enforce=off");
    assert_true(has(&guest.choice.left_out, "avx512f"));
    assert_false(has(&guest.features, "avx512f"));
    assert_true(has(&guest.features, "avx2"));
    guest = guest_of(&rome, "EPYC-Rome,svm=on,kvm-steal-time=off");
    assert_true(has(&guest.features, "svm"));
    assert_false(has(&guest.features, "kvm-steal-time"));
    assert_true(has(&guest.features, "kvm-clocksource"));
    guest = guest_of(&rome, "EPYC");
    assert_false(has(&guest.features, "svm") || has(&guest.features, "clwb"));
}

static void text_that_means_nothing_is_refused(void **state)
{
    struct x86_cpu_host host = host_of("Haswell", "");
    (void)state;
    refuses(&host, "Epic", (const char *const[]){"model 'Epic'", "EPYC-Rome", NULL});
    refuses(&host, "", (const char *const[]){"model ''", NULL});
    refuses(&host, "host,avx9=on", (const char *const[]){"feature 'avx9'", NULL});
    refuses(&host, "host,avx", (const char *const[]){"FEATURE=on", NULL});
    refuses(&host, "host,avx=maybe", (const char *const[]){"avx=maybe", NULL});
    refuses(&host, "host,", (const char *const[]){"FEATURE=on", NULL});
}

static void models_that_a_host_has_are_listed(void **state)
{
    struct x86_cpu_host haswell = host_of("Haswell", ""), rome = host_of("EPYC-Rome", "");
    char text[512];
    (void)state;
    x86_cpu_models(&haswell, text, sizeof(text));
    assert_string_equal(text, "host x86-64-v1 x86-64-v2 x86-64-v3 SandyBridge IvyBridge Haswell");
    x86_cpu_models(&rome, text, sizeof(text));
    assert_string_equal(text, "host x86-64-v1 x86-64-v2 x86-64-v3 EPYC EPYC-Rome");
}

/* Bits with names are features; the signature is taken; what is made for each vCPU is not changed. */
static void templates_change_bits(void **state)
{
    struct x86_cpu_host host = host_of("Icelake-Server", "arch-capabilities rdctl-no ibrs-all");
    (void)state;
    struct guest guest = guest_of(&host, "host,cpuid.7.0.ebx=0/10000,cpuid.1.0.eax=306f2/fff3fff,"
                                         "cpuid.1.0.ebx=0/ffffffff,msr.10a=2/ffffffffffffffff");
    assert_false(has(&guest.features, "avx512f") || has(&guest.features, "avx512-vnni"));
    assert_true(has(&guest.features, "avx2") && has(&guest.features, "ibrs-all"));
    assert_false(has(&guest.features, "rdctl-no"));
    assert_int_equal(leaf_of(&guest, 1, 0)->eax, 0x306f2);
    assert_int_equal(leaf_of(&guest, 0xd, 0)->eax & 0xe0, 0);
    assert_int_equal(leaf_of(&guest, 1, 0)->ebx >> 16, 1);
    assert_true(x86_cpu_accepts(&guest.choice, &host, guest.leaves, guest.count, 2, NULL));
    guest = guest_of(&host, "host,cpuid.14.0.eax=0/ffffffff"); /* the host's, and nobody's here */
    guest = guest_of(&host, "host,kvm.121=on,cpuid.7.0.ebx=20/20");
    assert_int_equal(guest.choice.wish.changes.capability_count, 1);
    assert_int_equal(guest.choice.wish.changes.capabilities[0], 121);
    refuses(&host, "host,cpuid.7.0.ecx=80/80", (const char *const[]){"bits 0x80 of ecx in CPUID leaf 0x7", NULL});
    refuses(&host, "host,cpuid.0.0.ebx=0/1", (const char *const[]){"CPUID leaf 0x0", NULL});
    refuses(&host, "host,cpuid.99.0.eax=0/1", (const char *const[]){"not supported by KVM: Leaf: 0x99, Subleaf: 0x0", NULL});
    refuses(&host, "host,cpuid.80000008.0.ebx=1/1", (const char *const[]){"missing are clzero", NULL});
    refuses(&host, "host,msr.48=0/1", (const char *const[]){"Register Address: 0x48", NULL});
    refuses(&host, "host,msr.10a=100000000/100000000", (const char *const[]){"0x10a", NULL});
    static const char *const nonsense[] = {"cpuid.1.0.eax=1", "cpuid.1.0.rax=1/1", "cpuid.1.eax=1/1",
                                           "cpuid.1.0.eax=100000000/1", "msr.10a=1", "kvm.=on", "kvm.1=off",
                                           "cpuid.-1.0.eax=1/1", "cpuid.1.0.eax=1/1 ", "cpuid."};
    for (size_t i = 0; i < ARRAY_SIZE(nonsense); i++) {
        char text[64];
        snprintf(text, sizeof(text), "host,%s", nonsense[i]);
        refuses(&host, text, (const char *const[]){nonsense[i], NULL});
    }
}

/* ---- leaves ---- */

static void each_vcpu_has_its_place(void **state)
{
    struct x86_cpu_host intel = host_of("Icelake-Server", ""), amd = host_of("EPYC-Milan", "topoext");
    (void)state;
    for (unsigned cpus = 1; cpus <= 8; cpus++) {
        unsigned bits = cpus > 4 ? 3 : cpus > 2 ? 2 : cpus - 1;
        for (unsigned cpu = 0; cpu < cpus; cpu++) {
            struct guest guest = guest_of(&intel, NULL);
            guest.count = x86_cpu_leaves(&guest.choice, &intel, cpu, cpus, guest.leaves);
            assert_int_equal(leaf_of(&guest, 1, 0)->ebx >> 24, cpu);
            assert_int_equal(leaf_of(&guest, 1, 0)->ebx >> 16 & 0xff, 1u << bits);
            assert_int_equal(leaf_of(&guest, 1, 0)->edx >> 28 & 1, cpus > 1);
            assert_int_equal(leaf_of(&guest, 0xb, 0)->edx, cpu);
            assert_int_equal(leaf_of(&guest, 0xb, 1)->edx, cpu);
            assert_int_equal(leaf_of(&guest, 0xb, 1)->eax, bits);
            assert_int_equal(leaf_of(&guest, 0xb, 1)->ebx, cpus);
            assert_int_equal(leaf_of(&guest, 4, 2)->eax >> 14 & 0xfff, 0);
            assert_int_equal(leaf_of(&guest, 4, 3)->eax >> 14 & 0xfff, (1u << bits) - 1);
            assert_null(leaf_of(&guest, 4, 4));
            assert_int_equal(leaf_of(&guest, 0, 0)->eax, 0xd);
            assert_int_equal(leaf_of(&guest, 0x40000000, 0)->eax, 0x40000010);
            assert_int_equal(leaf_of(&guest, 0x40000010, 0)->eax, 2000000);
            guest = guest_of(&amd, NULL);
            guest.count = x86_cpu_leaves(&guest.choice, &amd, cpu, cpus, guest.leaves);
            assert_int_equal(leaf_of(&guest, 0x80000008, 0)->ecx, (cpus - 1) | bits << 12);
            assert_int_equal(leaf_of(&guest, 0x80000001, 0)->ecx >> 1 & 1, cpus > 1);
            assert_int_equal(leaf_of(&guest, 0x80000001, 0)->edx & 0x0183f3ff,
                             leaf_of(&guest, 1, 0)->edx & 0x0183f3ff);
        }
    }
}

/* With smt=on two are a core's threads; one alone is a core. */
static void two_vcpus_are_threads_of_a_core(void **state)
{
    struct x86_cpu_host intel = host_of("Icelake-Server", ""), amd = host_of("EPYC-Milan", "topoext");
    (void)state;
    add_leaf(&amd, 0x8000001e, 0);
    for (unsigned cpus = 1; cpus <= 8; cpus++) {
        unsigned bits = cpus > 4 ? 3 : cpus > 2 ? 2 : cpus - 1, core = cpus > 1;
        for (unsigned cpu = 0; cpu < cpus; cpu++) {
            struct guest guest = guest_of(&intel, "host,smt=on");
            guest.count = x86_cpu_leaves(&guest.choice, &intel, cpu, cpus, guest.leaves);
            assert_int_equal(leaf_of(&guest, 0xb, 0)->eax, core);
            assert_int_equal(leaf_of(&guest, 0xb, 0)->ebx, 1u << core);
            assert_int_equal(leaf_of(&guest, 0xb, 1)->eax, bits);
            assert_int_equal(leaf_of(&guest, 4, 2)->eax >> 14 & 0xfff, (1u << core) - 1);
            assert_int_equal(leaf_of(&guest, 4, 3)->eax >> 14 & 0xfff, (1u << bits) - 1);
            assert_int_equal(leaf_of(&guest, 4, 3)->eax >> 26, (1u << (bits - core)) - 1);
            guest = guest_of(&amd, "host,smt=on");
            guest.count = x86_cpu_leaves(&guest.choice, &amd, cpu, cpus, guest.leaves);
            assert_int_equal(leaf_of(&guest, 0x8000001e, 0)->eax, cpu);
            assert_int_equal(leaf_of(&guest, 0x8000001e, 0)->ebx, cpu >> core | core << 8);
        }
    }
}

/* SDM 1, 13.5.2: what the enabled components take, and those that lie in front. */
static void the_extended_state_is_of_the_features(void **state)
{
    static const struct {
        const char *text;
        uint32_t mask, size;
    } rows[] = {{"host", 0x2e7, 2696},
                {"host,pku=off", 0xe7, 2688},
                {"host,avx512f=off", 0x207, 2696},
                {"host,avx512f=off,pku=off", 7, 832},
                {"host,avx=off,pku=off", 3, 576},
                {"x86-64-v3", 7, 832}};
    struct x86_cpu_host host = host_of("Icelake-Server", "");
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct guest guest = guest_of(&host, rows[i].text);
        assert_int_equal(leaf_of(&guest, 0xd, 0)->eax, rows[i].mask);
        assert_int_equal(leaf_of(&guest, 0xd, 0)->ecx, rows[i].size);
        for (uint32_t part = 2; part < 32; part++)
            assert_int_equal(leaf_of(&guest, 0xd, part) != NULL, rows[i].mask >> part & 1);
    }
    struct guest guest = guest_of(&host, "host,xsave=off");
    assert_null(leaf_of(&guest, 0xd, 0));
    assert_false(has(&guest.features, "avx512-vnni") || has(&guest.features, "xsaves"));
}

/* ---- another host ---- */

static void accepted(const struct x86_cpu_host *host, const struct guest *there, const char *word)
{
    struct guest here = guest_of(host, NULL);
    struct error *error = NULL;
    bool good = x86_cpu_accepts(&here.choice, host, there->leaves, there->count,
                                there->features.words[X86_ARCH_CAPABILITIES], &error);
    assert_int_equal(good, word == NULL);
    if (word != NULL && strstr(error_message(error), word) == NULL)
        fail_msg("no '%s' in '%s'", word, error_message(error));
    error_free(error);
}

static void a_guest_goes_where_there_is_as_much(void **state)
{
    struct x86_cpu_host haswell = host_of("Haswell", ""), skylake = host_of("Skylake-Server", "");
    struct x86_cpu_host cascade = host_of("Cascadelake-Server", "arch-capabilities rdctl-no mds-no vmx");
    struct x86_cpu_host rome = host_of("EPYC-Rome", "");
    struct guest guest = guest_of(&haswell, NULL);
    (void)state;
    accepted(&haswell, &guest, NULL);
    accepted(&skylake, &guest, NULL);
    accepted(&rome, &guest, "pcid");
    guest = guest_of(&rome, "x86-64-v3");
    accepted(&skylake, &guest, "vendor");
    guest = guest_of(&cascade, NULL);
    accepted(&skylake, &guest, "avx512-vnni");
    accepted(&skylake, &guest, "mds-no");
    guest = guest_of(&cascade, "host,arch-capabilities=off,avx512-vnni=off");
    accepted(&skylake, &guest, NULL);
    guest = guest_of(&cascade, "host,vmx=on"); /* where nobody has asked for it */
    accepted(&cascade, &guest, "vmx");
    guest = guest_of(&skylake, NULL);
    for (size_t i = 0; i < skylake.count; i++)
        if (skylake.leaves[i].function == 0xd && skylake.leaves[i].index == 9)
            skylake.leaves[i].ebx = 2432;
    accepted(&skylake, &guest, "XSAVE");
    guest = guest_of(&haswell, NULL);
    for (size_t i = 0; i < haswell.count; i++)
        if (haswell.leaves[i].function == 0x80000008)
            haswell.leaves[i].eax = 0x3027;
    accepted(&haswell, &guest, "physical");
    guest.leaves[0] = (struct x86_cpuid){0x12, 0, 1, 1, 0, 0, 0};
    accepted(&skylake, &guest, "leaf");
}

/* The words of vm_layout(): those of a lesser host are among those of a greater one. */
static void descriptions_are_words(void **state)
{
    struct x86_cpu_host haswell = host_of("Haswell", "");
    struct x86_cpu_host icelake = host_of("Icelake-Server", "arch-capabilities rdctl-no");
    struct guest less = guest_of(&haswell, NULL), more = guest_of(&icelake, NULL);
    char texts[2][X86_CPU_DESCRIPTION_MAX], *rest = texts[0];
    (void)state;
    x86_cpu_describe(less.leaves, less.count, 0, texts[0], sizeof(texts[0]));
    x86_cpu_describe(more.leaves, more.count, icelake.arch_capabilities, texts[1], sizeof(texts[1]));
    assert_non_null(strstr(texts[0], "_GenuineIntel"));
    assert_non_null(strstr(texts[0], "_physical-addresses-46"));
    assert_null(strstr(texts[0], "_physical-addresses-48"));
    assert_non_null(strstr(texts[1], "_xsave-6-at-1152"));
    assert_non_null(strstr(texts[1], "_rdctl-no"));
    strcat(texts[1], "_");
    assert_int_equal(*rest++, '_');
    for (char *word; (word = strsep(&rest, "_")) != NULL;) {
        char with[64];
        snprintf(with, sizeof(with), "_%s_", word);
        assert_non_null(strstr(texts[1], with));
    }
    x86_cpu_describe(more.leaves, more.count, 0, texts[0], 40); /* cut off, and no further */
    assert_int_equal(strlen(texts[0]), 39);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_feature_has_a_bit_and_a_name_of_its_own),
        cmocka_unit_test(models_hold_together),
        cmocka_unit_test(processors_are_of_their_levels),
        cmocka_unit_test(the_host_model_has_all_that_has_a_name),
        cmocka_unit_test(a_model_is_the_same_everywhere),
        cmocka_unit_test(what_the_host_does_not_have_is_refused_by_name),
        cmocka_unit_test(text_that_means_nothing_is_refused),
        cmocka_unit_test(models_that_a_host_has_are_listed),
        cmocka_unit_test(templates_change_bits),
        cmocka_unit_test(each_vcpu_has_its_place),
        cmocka_unit_test(two_vcpus_are_threads_of_a_core),
        cmocka_unit_test(the_extended_state_is_of_the_features),
        cmocka_unit_test(a_guest_goes_where_there_is_as_much),
        cmocka_unit_test(descriptions_are_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
