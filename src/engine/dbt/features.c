/* SPDX-License-Identifier: MIT
 *
 * Host instructions beyond the x86-64 baseline that translations may use. A feature is a row
 * here and a flag of struct dbt; who emits it looks at the flag and has something else for
 * hosts without.
 */
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "engine/dbt/internal.h"

#if defined(__x86_64__)
#include <cpuid.h>

static bool has_lzcnt(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & 1u << 5);
}

#define HAS(name) ((bool)__builtin_cpu_supports(name))
#else
static bool has_lzcnt(void)
{
    return false;
}
#define HAS(name) false
#endif

static const struct {
    const char *name;
    size_t flag;
} features[] = {
    {"popcnt", offsetof(struct dbt, popcnt)}, {"lzcnt", offsetof(struct dbt, lzcnt)},
    {"bmi1", offsetof(struct dbt, bmi1)},     {"bmi2", offsetof(struct dbt, bmi2)},
    {"avx", offsetof(struct dbt, avx)},       {"fma", offsetof(struct dbt, fma)},
};

static bool *flag_of(struct dbt *dbt, size_t feature)
{
    return (bool *)((char *)dbt + features[feature].flag);
}

static void ask_host(struct dbt *dbt)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    dbt->popcnt = HAS("popcnt");
    dbt->lzcnt = has_lzcnt();
    dbt->bmi1 = HAS("bmi");
    dbt->bmi2 = HAS("bmi2");
    dbt->avx = HAS("avx"); /* implies that the host's kernel saves ymm */
    dbt->fma = HAS("fma");
}

static bool refuse(const char *word, struct error **err)
{
    char names[128] = "";
    for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
        strcat(names, i ? ", " : "");
        strcat(names, features[i].name);
    }
    error_set(err, ERROR_USAGE, "host CPU features: '%s' makes no sense", word);
    error_hint(err, "It is a list of -NAME (do not use), +NAME (use) and 'none'; names are %s.",
               names);
    return false;
}

static bool apply(struct dbt *dbt, const struct dbt *host, const char *word, struct error **err)
{
    if (strcmp(word, "none") == 0) {
        for (size_t i = 0; i < ARRAY_SIZE(features); i++)
            *flag_of(dbt, i) = false;
        return true;
    }
    size_t i = 0;
    while (i < ARRAY_SIZE(features) && strcmp(features[i].name, word + 1) != 0)
        i++;
    if ((word[0] != '-' && word[0] != '+') || i == ARRAY_SIZE(features))
        return refuse(word, err);
    bool on = word[0] == '+';
    if (on && !*(const bool *)((const char *)host + features[i].flag))
        return error_set(err, ERROR_USAGE, "host CPU features: this host has no %s", word + 1);
    *flag_of(dbt, i) = on;
    return true;
}

bool dbt_find_features(struct dbt *dbt, const char *list, struct error **err)
{
    ask_host(dbt);
    if (!list || list[0] == '\0')
        return true;
    struct dbt *host = alloc_zeroed(1, sizeof(*host));
    char *copy = alloc_string(list), *rest = copy;
    bool good = true;
    ask_host(host);
    for (char *word; good && (word = strsep(&rest, ",")) != NULL;)
        good = apply(dbt, host, word, err);
    free(copy);
    free(host);
    return good;
}
