/* SPDX-License-Identifier: MIT
 *
 * Custom CPU templates: their texts of numbers and bits, and the same as a processor of ours
 * (isa/x86_64/changes.h has what becomes of them).
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "firecracker/internal.h"

static bool refuse(struct fc_answer *answer, const char *text, const char *why)
{
    fc_fault(
        answer,
        "An error occurred when deserializing the json body of a request: Failed to parse string "
        "[%.80s] %s.",
        text, why);
    return false;
}

/* With a prefix, as there. */
static bool parse_number(const char *text, uint32_t *number)
{
    char *end;
    int base = text[0] != '0' ? 0 : text[1] == 'x' ? 16 : text[1] == 'b' ? 2 : 0;
    if (base == 0 || !isxdigit((unsigned char)text[2]))
        return false;
    errno = 0;
    unsigned long long value = strtoull(text + 2, &end, base);
    *number = (uint32_t)value;
    return errno == 0 && *end == '\0' && value <= UINT32_MAX && !(base == 2 && text[2] > '1');
}

/* "0b01x_...": the last is bit 0; what is not said stays as it is. */
static const char *parse_bits(const char *text, unsigned most, uint64_t *value, uint64_t *mask)
{
    unsigned bit = 0;
    size_t first = strncmp(text, "0b", 2) == 0 ? 2 : 0;
    *value = *mask = 0;
    for (size_t at = strlen(text); at > first; at--) {
        char c = text[at - 1];
        if (c == '_')
            continue;
        if (c != 'x' && c != '0' && c != '1')
            return "as a bitmap - unknown character";
        if (bit == most)
            return "as a bitmap - string is too long";
        *mask |= (uint64_t)(c != 'x') << bit;
        *value |= (uint64_t)(c == '1') << bit++;
    }
    return NULL;
}

/* "!N" takes a capability from what is looked for; we look for none that can be spared. */
static bool add_capability(FILE *out, const char *text, struct fc_answer *answer)
{
    const char *digits = text + (text[0] == '!');
    if (digits[0] == '\0' || strlen(digits) > 9 || strspn(digits, "0123456789") != strlen(digits))
        return refuse(answer, text, "as a kvm capability - can not convert to numeric");
    if (text[0] != '!')
        fprintf(out, ",kvm.%lu=on", strtoul(digits, NULL, 10));
    return true;
}

static const char *text_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

static bool add_leaf(FILE *out, const json_t *modifier, struct fc_answer *answer)
{
    uint32_t leaf, subleaf;
    uint64_t value, mask;
    size_t index;
    const json_t *entry;
    static const char number[] = "as a number for CPU template";
    if (!parse_number(text_of(modifier, "leaf"), &leaf))
        return refuse(answer, text_of(modifier, "leaf"), number);
    if (!parse_number(text_of(modifier, "subleaf"), &subleaf))
        return refuse(answer, text_of(modifier, "subleaf"), number);
    json_array_foreach(json_object_get(modifier, "modifiers"), index, entry)
    {
        const char *why = parse_bits(text_of(entry, "bitmap"), 32, &value, &mask);
        if (why != NULL)
            return refuse(answer, text_of(entry, "bitmap"), why);
        fprintf(out, ",cpuid.%" PRIx32 ".%" PRIx32 ".%s=%" PRIx64 "/%" PRIx64, leaf, subleaf,
                text_of(entry, "register"), value, mask);
    }
    return true;
}

static bool add_msr(FILE *out, const json_t *modifier, struct fc_answer *answer)
{
    uint32_t address;
    uint64_t value, mask;
    const char *bits = text_of(modifier, "bitmap"), *why = parse_bits(bits, 64, &value, &mask);
    if (!parse_number(text_of(modifier, "addr"), &address))
        return refuse(answer, text_of(modifier, "addr"), "as a number for CPU template");
    if (why != NULL)
        return refuse(answer, bits, why);
    fprintf(out, ",msr.%" PRIx32 "=%" PRIx64 "/%" PRIx64, address, value, mask);
    return true;
}

char *fc_cpu_changes(const json_t *template, struct fc_answer *answer)
{
    char *text = NULL;
    size_t size, index;
    const json_t *entry;
    bool good = true;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        abort(); /* as base/alloc.h */
    json_array_foreach(json_object_get(template, "kvm_capabilities"), index, entry)
    {
        good = good && add_capability(out, json_string_value(entry), answer);
    }
    json_array_foreach(json_object_get(template, "cpuid_modifiers"), index, entry)
    {
        good = good && add_leaf(out, entry, answer);
    }
    json_array_foreach(json_object_get(template, "msr_modifiers"), index, entry)
    {
        good = good && add_msr(out, entry, answer);
    }
    fclose(out);
    if (good)
        return text;
    free(text);
    return NULL;
}

void fc_put_cpu_config(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    (void)id;
    char *text = fc_cpu_changes(body, answer);
    if (text != NULL)
        fc_keep(fc, "cpu-config", body, answer);
    free(text);
}
