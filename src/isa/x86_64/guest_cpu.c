/* SPDX-License-Identifier: MIT
 *
 * See guest_cpu.h. SDM 2A, CPUID; APM 3, appendix E; 0x40000010: "Hypervisor CPUID interface proposal"
 * (2008).
 */
#include "isa/x86_64/guest_cpu.h"

#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"

/* ---- what was asked for ---- */

static bool no_such(const char *what, const char *name, size_t length, struct error **err)
{
    char names[512];
    size_t at = 0;
    names[0] = '\0';
    for (size_t i = 0; i < x86_model_count() && at < sizeof(names); i++)
        at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", i > 0 ? ", " : "",
                               x86_model_at(i)->name);
    error_set(err, ERROR_USAGE, "there is no %s '%.*s' of x86-64 processors", what,
              length > 64 ? 64 : (int)length, name);
    error_hint(err, "It is MODEL[,FEATURE=on|off]...[,pmu=on][,smt=on][,enforce=off] of these models: %s", names);
    return false;
}

static bool parse_part(const char *part, size_t length, struct x86_cpu_wish *wish, struct error **err)
{
    if (x86_changes_is_one(part, length))
        return x86_changes_add(&wish->changes, part, length, err);
    const char *equals = memchr(part, '=', length);
    size_t name = equals != NULL ? (size_t)(equals - part) : length;
    size_t rest = equals != NULL ? length - name - 1 : 0;
    bool on = rest == 2 && memcmp(equals + 1, "on", 2) == 0;
    if (!on && !(rest == 3 && memcmp(equals + 1, "off", 3) == 0))
        return error_set(err, ERROR_USAGE, "a processor's feature is given as FEATURE=on or FEATURE=off, not '%.*s'",
                         length > 64 ? 64 : (int)length, part);
    const struct x86_feature *feature = x86_feature_find(part, name);
    if (feature != NULL) {
        x86_give(&wish->on, feature, on);
        x86_give(&wish->off, feature, !on);
    } else if (name == 3 && memcmp(part, "pmu", 3) == 0) {
        wish->pmu = on;
    } else if (name == 3 && memcmp(part, "smt", 3) == 0) {
        wish->smt = on;
    } else if (name == 7 && memcmp(part, "enforce", 7) == 0) {
        wish->enforce = on;
    } else {
        return no_such("feature", part, name, err);
    }
    return true;
}

bool x86_cpu_parse(const char *text, struct x86_cpu_wish *wish, struct error **err)
{
    size_t length = text != NULL ? strcspn(text, ",") : 0;
    *wish = (struct x86_cpu_wish){.model = x86_model_at(0), .enforce = true};
    if (text == NULL)
        return true;
    wish->model = x86_model_find(text, length);
    if (wish->model == NULL)
        return no_such("model", text, length, err);
    for (text += length; *text == ','; text += length) {
        length = strcspn(++text, ",");
        if (!parse_part(text, length, wish, err))
            return false;
    }
    x86_changes_as_features(&wish->changes, &wish->on, &wish->off);
    return true;
}

/* ---- what is given ---- */

static void vendor_of(const struct x86_cpuid *leaves, size_t count, char vendor[13])
{
    const struct x86_cpuid *leaf = x86_cpuid_find(leaves, count, 0, 0);
    memset(vendor, 0, 13);
    if (leaf == NULL)
        return;
    store_le32((uint8_t *)vendor, leaf->ebx);
    store_le32((uint8_t *)vendor + 4, leaf->edx);
    store_le32((uint8_t *)vendor + 8, leaf->ecx);
}

static bool is_amd(const struct x86_cpu_host *host)
{
    char vendor[13];
    vendor_of(host->leaves, host->count, vendor);
    return strcmp(vendor, "AuthenticAMD") == 0;
}

static struct x86_features of_host(const struct x86_cpu_host *host)
{
    return x86_features_of(host->leaves, host->count, host->arch_capabilities);
}

static bool is_counters(const struct x86_feature *feature)
{
    static const char *const names[] = {"pdcm", "perfctr-core", "perfctr-nb"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (strcmp(feature->name, names[i]) == 0)
            return true;
    return false;
}

/* What the model brings along of a host's features, besides its own. */
static bool comes_along(const struct x86_cpu_wish *wish, const struct x86_feature *feature)
{
    if (feature->kind == X86_ASKED)
        return wish->pmu && is_counters(feature);
    return feature->kind == X86_WHERE_IT_IS || wish->model->features == NULL;
}

static bool refuse_vendor(const struct x86_model *model, const struct x86_cpu_host *host,
                          struct error **err)
{
    char vendor[13];
    vendor_of(host->leaves, host->count, vendor);
    if (model->vendor == NULL || strcmp(model->vendor, vendor) == 0)
        return true;
    error_set(err, ERROR_USAGE, "the processor model '%s' is of %s, and this host's processors are of %.12s",
              model->name, model->vendor, vendor[0] != '\0' ? vendor : "nobody known");
    error_hint(err, "'trapeze host' lists the models that this host has");
    return false;
}

bool x86_cpu_choose(const struct x86_cpu_wish *wish, const struct x86_cpu_host *host,
                    struct x86_cpu_choice *choice, struct error **err)
{
    const struct x86_features has = of_host(host);
    const struct x86_features model = x86_model_features(wish->model);
    struct x86_features given = {{0}}, wanted = x86_features_but(&model, &wish->off);
    if (!refuse_vendor(wish->model, host, err))
        return false;
    x86_features_settle(&wanted);
    for (size_t i = 0; i < x86_feature_count(); i++)
        x86_give(&given, x86_feature_at(i), comes_along(wish, x86_feature_at(i)));
    for (unsigned i = 0; i < X86_WORDS; i++) {
        wanted.words[i] |= wish->on.words[i];
        given.words[i] = (given.words[i] | wanted.words[i]) & has.words[i] & ~wish->off.words[i];
    }
    x86_features_settle(&given);
    const struct x86_features missing = x86_features_but(&wanted, &given);
    if (wish->enforce && !x86_features_none(&missing)) {
        char names[1024];
        x86_features_print(&missing, " ", names, sizeof(names));
        error_set(err, ERROR_USAGE, "this host's processors do not have all of '%s', or KVM does not: missing are%s",
                  wish->model->name, names);
        error_hint(err, "'trapeze host' lists the models that this host has; with ',enforce=off' behind the "
                        "model's name the guest does without");
        return false;
    }
    *choice = (struct x86_cpu_choice){.wish = *wish, .features = given, .left_out = missing};
    struct x86_cpuid leaves[X86_CPUID_MAX];
    size_t count = wish->changes.count > 0 ? x86_cpu_leaves(choice, host, 0, 1, leaves) : 0;
    return x86_changes_hold(&wish->changes, leaves, count, given.words[X86_ARCH_CAPABILITIES],
                            host->leaves, host->count, err);
}

void x86_cpu_models(const struct x86_cpu_host *host, char *text, size_t size)
{
    size_t at = 0;
    text[0] = '\0';
    for (size_t i = 0; i < x86_model_count() && at < size; i++) {
        const struct x86_cpu_wish wish = {.model = x86_model_at(i), .enforce = true};
        struct x86_cpu_choice choice;
        if (x86_cpu_choose(&wish, host, &choice, NULL))
            at += (size_t)snprintf(text + at, size - at, "%s%s", at > 0 ? " " : "", wish.model->name);
    }
}

/* ---- the extended state: what XSAVE saves ---- */

enum { STATE_SSE = 1, STATE_COMPONENTS = 32, STATE_LEGACY_SIZE = 576 };

static bool gives(const struct x86_features *features, const char *name)
{
    return x86_has(features, x86_feature_find(name, strlen(name)));
}

/* Bits of XCR0 that the guest may set. */
static uint32_t state_mask(const struct x86_features *features)
{
    static const struct {
        const char *feature;
        uint32_t bits;
    } parts[] = {{"xsave", 3}, {"avx", 4}, {"mpx", 0x18}, {"avx512f", 0xe0}, {"pku", 0x200}};
    uint32_t mask = 0;
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        if (gives(features, parts[i].feature))
            mask |= parts[i].bits;
    return mask;
}

static uint32_t state_size(const struct x86_cpu_host *host, uint32_t mask)
{
    uint32_t size = STATE_LEGACY_SIZE;
    for (unsigned i = STATE_SSE + 1; i < STATE_COMPONENTS; i++) {
        const struct x86_cpuid *leaf = x86_cpuid_find(host->leaves, host->count, 0xd, i);
        if ((mask >> i & 1) != 0 && leaf != NULL && leaf->ebx + leaf->eax > size)
            size = leaf->ebx + leaf->eax;
    }
    return size;
}

/* ---- leaf by leaf ---- */

struct making {
    const struct x86_cpu_choice *choice;
    const struct x86_cpu_host *host;
    unsigned cpu, cpus;
};

/* False: the guest does not get this leaf. `leaf` is the host's. */
typedef bool make_fn(const struct making *making, struct x86_cpuid *leaf);

/* Bits of an APIC id that are below a package's. */
static unsigned package_bits(unsigned cpus)
{
    unsigned bits = 0;
    while (1u << bits < cpus)
        bits++;
    return bits;
}

static bool is_host(const struct making *making)
{
    return making->choice->wish.model->features == NULL;
}

static bool as_it_is(const struct making *making, struct x86_cpuid *leaf)
{
    (void)making, (void)leaf;
    return true;
}

/* Their features alone. */
static bool words_alone(const struct making *making, struct x86_cpuid *leaf)
{
    leaf->eax = leaf->ebx = leaf->ecx = leaf->edx = 0;
    x86_features_write(&making->choice->features, leaf);
    return true;
}

static bool make_processor(const struct making *making, struct x86_cpuid *leaf)
{
    enum { HYPER_THREADING = 28, CLFLUSH_SIZE = 8 };
    if (!is_host(making))
        leaf->eax = x86_model_signature(making->choice->wish.model);
    leaf->ebx = making->cpu << 24 | 1u << package_bits(making->cpus) << 16 | CLFLUSH_SIZE << 8;
    x86_features_write(&making->choice->features, leaf);
    if (making->cpus > 1)
        leaf->edx |= 1u << HYPER_THREADING; /* the number of processors above counts */
    return true;
}

/* Those of them that are below a core's. */
static unsigned core_bits(const struct making *making)
{
    return making->choice->wish.smt && making->cpus > 1 ? 1 : 0;
}

/* A first- or second-level cache is of a core, the third of all. */
static bool make_cache(const struct making *making, struct x86_cpuid *leaf)
{
    bool shared = (leaf->eax >> 5 & 7) >= 3;
    unsigned package = package_bits(making->cpus), core = core_bits(making);
    uint32_t sharers = (1u << (shared ? package : core)) - 1;
    if ((leaf->eax & 31) == 0)
        return false;
    leaf->eax = (uint32_t)bits_set(leaf->eax, 14, 12, sharers);
    if (leaf->function == 0x4)
        leaf->eax = (uint32_t)bits_set(leaf->eax, 26, 6, (1u << (package - core)) - 1);
    return true;
}

static bool make_structured(const struct making *making, struct x86_cpuid *leaf)
{
    uint32_t last = leaf->index == 0 ? leaf->eax : 0;
    if (leaf->index > 2)
        return false;
    words_alone(making, leaf);
    if (leaf->index == 0)
        leaf->eax = last < 2 ? last : 2;
    return true;
}

static bool make_counters(const struct making *making, struct x86_cpuid *leaf)
{
    (void)leaf;
    return making->choice->wish.pmu;
}

static bool make_state(const struct making *making, struct x86_cpuid *leaf)
{
    uint32_t mask = state_mask(&making->choice->features);
    if (mask == 0)
        return false;
    if (leaf->index == 0) {
        leaf->eax = mask;
        leaf->ebx = leaf->ecx = state_size(making->host, mask);
        leaf->edx = 0;
        return true;
    }
    if (leaf->index == 1)
        return words_alone(making, leaf);
    return leaf->index < STATE_COMPONENTS && (mask >> leaf->index & 1) != 0;
}

static bool make_extended(const struct making *making, struct x86_cpuid *leaf)
{
    enum { MANY = 1 };                    /* ECX: more than one core */
    const uint32_t doubled = 0x0183f3ffu; /* of EDX: AMD tells them here once more */
    if (!is_host(making)) {
        leaf->eax = leaf->eax != 0 ? x86_model_signature(making->choice->wish.model) : 0;
        leaf->ebx = 0;
    }
    x86_features_write(&making->choice->features, leaf);
    if (is_amd(making->host)) {
        leaf->edx |= making->choice->features.words[X86_1_EDX] & doubled;
        if (making->cpus > 1)
            leaf->ecx |= 1u << MANY;
    }
    return true;
}

static bool make_brand(const struct making *making, struct x86_cpuid *leaf)
{
    const char *brand = making->choice->wish.model->brand;
    uint8_t bytes[48] = {0};
    if (brand == NULL)
        return true;
    memcpy(bytes, brand, strnlen(brand, sizeof(bytes) - 1));
    const uint8_t *at = bytes + (size_t)16 * (leaf->function - 0x80000002);
    leaf->eax = load_le32(at);
    leaf->ebx = load_le32(at + 4);
    leaf->ecx = load_le32(at + 8);
    leaf->edx = load_le32(at + 12);
    return true;
}

/* Addresses: models have no more bits than all of their hosts do. */
static bool make_sizes(const struct making *making, struct x86_cpuid *leaf)
{
    enum { MODEL_BITS = 40 };
    uint32_t physical = leaf->eax & 0xff, linear = leaf->eax >> 8 & 0xff;
    if (!is_host(making)) {
        physical = physical < MODEL_BITS ? physical : MODEL_BITS;
        linear = gives(&making->choice->features, "la57") ? linear : 48;
    }
    leaf->eax = linear << 8 | physical;
    x86_features_write(&making->choice->features, leaf);
    leaf->ecx = (making->cpus - 1) | package_bits(making->cpus) << 12;
    leaf->edx = 0;
    return true;
}

static bool make_svm(const struct making *making, struct x86_cpuid *leaf)
{
    (void)leaf;
    return gives(&making->choice->features, "svm");
}

/* All on one node. */
static bool make_core(const struct making *making, struct x86_cpuid *leaf)
{
    unsigned bits = core_bits(making);
    leaf->eax = making->cpu;
    leaf->ebx = making->cpu >> bits | ((1u << bits) - 1) << 8; /* of so many threads, less one */
    leaf->ecx = leaf->edx = 0;
    return gives(&making->choice->features, "topoext");
}

static bool make_cache_amd(const struct making *making, struct x86_cpuid *leaf)
{
    return gives(&making->choice->features, "topoext") && make_cache(making, leaf);
}

static bool make_hypervisor(const struct making *making, struct x86_cpuid *leaf)
{
    leaf->eax = making->host->tsc_khz != 0 ? 0x40000010 : 0x40000001;
    return true;
}

/* All that a guest gets; a leaf that is not here it does not. */
static const struct row {
    uint32_t first, last;
    make_fn *make;
} rows[] = {
    {0x0, 0x0, as_it_is},
    {0x1, 0x1, make_processor},
    {0x2, 0x2, as_it_is},
    {0x4, 0x4, make_cache},
    {0x6, 0x6, words_alone},
    {0x7, 0x7, make_structured},
    {0xa, 0xa, make_counters},
    {0xd, 0xd, make_state},
    {0x40000000, 0x40000000, make_hypervisor},
    {0x40000001, 0x40000001, words_alone},
    {0x80000000, 0x80000000, as_it_is},
    {0x80000001, 0x80000001, make_extended},
    {0x80000002, 0x80000004, make_brand},
    {0x80000005, 0x80000006, as_it_is},
    {0x80000007, 0x80000007, words_alone},
    {0x80000008, 0x80000008, make_sizes},
    {0x8000000a, 0x8000000a, make_svm},
    {0x80000019, 0x8000001a, as_it_is},
    {0x8000001d, 0x8000001d, make_cache_amd},
    {0x8000001e, 0x8000001e, make_core},
    {0x80000021, 0x80000021, words_alone},
    {0x80000022, 0x80000022, make_counters},
};

static const struct row *row_of(uint32_t function)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (function >= rows[i].first && function <= rows[i].last)
            return &rows[i];
    return NULL;
}

/* Two levels of topology, threads in a core and cores in the package; the clock's frequency, and that of
 * the APIC's bus, which is KVM's 1 GHz. */
static size_t make_ours(const struct making *making, struct x86_cpuid *leaves)
{
    unsigned bits = core_bits(making);
    const struct x86_cpuid ours[] = {
        {0xb, 0, true, bits, 1u << bits, 1 << 8, making->cpu},
        {0xb, 1, true, package_bits(making->cpus), making->cpus, 2 << 8 | 1, making->cpu},
        {0x40000010, 0, false, making->host->tsc_khz, 1000000, 0, 0},
    };
    size_t count = making->host->tsc_khz != 0 ? 3 : 2;
    memcpy(leaves, ours, count * sizeof(leaves[0]));
    return count;
}

/* Each range's first leaf tells its last. */
static void set_last(struct x86_cpuid *leaves, size_t count, uint32_t range)
{
    uint32_t last = range;
    for (size_t i = 0; i < count; i++)
        if (leaves[i].function >> 16 == range >> 16 && leaves[i].function > last)
            last = leaves[i].function;
    for (size_t i = 0; i < count; i++)
        if (leaves[i].function == range)
            leaves[i].eax = last;
}

size_t x86_cpu_leaves(const struct x86_cpu_choice *choice, const struct x86_cpu_host *host, unsigned cpu,
                      unsigned cpus, struct x86_cpuid *leaves)
{
    enum { OURS = 3 };
    const struct making making = {choice, host, cpu, cpus};
    size_t count = make_ours(&making, leaves);
    for (size_t i = 0; i < host->count && count < X86_CPUID_MAX; i++) {
        const struct row *row = row_of(host->leaves[i].function);
        leaves[count] = host->leaves[i];
        if (row == NULL || !row->make(&making, &leaves[count]))
            continue;
        x86_changes_sign(&choice->wish.changes, &leaves[count++]);
    }
    set_last(leaves, count, 0);
    set_last(leaves, count, 0x80000000);
    return count;
}

/* ---- what another host has to have ---- */

static bool lacks(struct error **err, const char *what)
{
    error_set(err, ERROR_USAGE, "the guest's processor has %s, which this host does not have", what);
    error_hint(err, "A model that both hosts have (--cpu) lets guests move between them");
    return false;
}

static uint32_t physical_bits(const struct x86_cpuid *leaves, size_t count)
{
    const struct x86_cpuid *leaf = x86_cpuid_find(leaves, count, 0x80000008, 0);
    return leaf != NULL ? leaf->eax & 0xff : 36;
}

static bool accepts_leaf(const struct x86_cpu_host *host, const struct x86_cpuid *leaf, struct error **err)
{
    bool ours = leaf->function == 0xb || leaf->function == 0x40000010;
    if (!ours && row_of(leaf->function) == NULL)
        return lacks(err, "a leaf of CPUID");
    if (leaf->function != 0xd || leaf->index <= STATE_SSE)
        return true;
    const struct x86_cpuid *has = x86_cpuid_find(host->leaves, host->count, 0xd, leaf->index);
    if (has == NULL || has->eax != leaf->eax || has->ebx != leaf->ebx || has->ecx != leaf->ecx)
        return lacks(err, "another layout of the area that XSAVE writes");
    return true;
}

bool x86_cpu_accepts(const struct x86_cpu_choice *choice, const struct x86_cpu_host *host,
                     const struct x86_cpuid *leaves, size_t count, uint32_t arch_capabilities,
                     struct error **err)
{
    const struct x86_features told = x86_features_of(leaves, count, arch_capabilities);
    struct x86_features can = of_host(host);
    for (size_t i = 0; i < x86_feature_count(); i++)
        if (x86_feature_at(i)->kind == X86_ASKED)
            x86_give(&can, x86_feature_at(i), x86_has(&choice->features, x86_feature_at(i)));
    const struct x86_features missing = x86_features_but(&told, &can);
    char names[1024] = " ", vendors[2][13];
    x86_features_print(&missing, " ", names, sizeof(names));
    if (names[0] != '\0')
        return lacks(err, names + 1);
    vendor_of(leaves, count, vendors[0]);
    vendor_of(host->leaves, host->count, vendors[1]);
    if (strcmp(vendors[0], vendors[1]) != 0)
        return lacks(err, "another vendor");
    if (physical_bits(leaves, count) > physical_bits(host->leaves, host->count))
        return lacks(err, "longer physical addresses");
    for (size_t i = 0; i < count; i++)
        if (!accepts_leaf(host, &leaves[i], err))
            return false;
    return true;
}

void x86_cpu_describe(const struct x86_cpuid *leaves, size_t count, uint32_t arch_capabilities,
                      char *text, size_t size)
{
    static const unsigned sizes[] = {37, 39, 40, 42, 44, 46, 48, 52};
    const struct x86_features told = x86_features_of(leaves, count, arch_capabilities);
    char vendor[13];
    x86_features_print(&told, "_", text, size);
    vendor_of(leaves, count, vendor);
    size_t at = strlen(text);
    at += (size_t)snprintf(text + at, size - at, "_%s", vendor);
    for (size_t i = 0; i < ARRAY_SIZE(sizes) && at < size; i++)
        if (physical_bits(leaves, count) >= sizes[i])
            at += (size_t)snprintf(text + at, size - at, "_physical-addresses-%u", sizes[i]);
    for (size_t i = 0; i < count && at < size; i++)
        if (leaves[i].function == 0xd && leaves[i].index > STATE_SSE)
            at += (size_t)snprintf(text + at, size - at, "_xsave-%u-at-%u", leaves[i].index, leaves[i].ebx);
}
