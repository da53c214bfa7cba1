/* SPDX-License-Identifier: MIT
 *
 * Run by every build: fails it when the instruction tables contradict themselves. An encoding
 * must mean one thing, whatever order the extensions are listed in.
 */
#include <stdio.h>
#include <string.h>

#include "isa/riscv64/insn.h"

static bool is_wide(const struct rv_row *row)
{
    return (row->match & 3) == 3;
}

static bool check_row(const struct rv_row *row)
{
    const char *problem = NULL;
    if ((row->match & ~row->mask) != 0)
        problem = "match has bits outside mask";
    else if ((row->mask & 3) != 3)
        problem = "the mask leaves the width open (bits 1:0)";
    else if (!is_wide(row) && row->mask >> 16 != 0)
        problem = "a 16-bit encoding has mask bits above 15";
    else if (row->format >= RV_FORMATS || !row->exec)
        problem = "no format or no function";
    if (problem)
        fprintf(stderr, "instruction table: %s: %s\n", row->name, problem);
    return !problem;
}

/* `special` is declared to be a special case of `general`. */
static bool specialises(const struct rv_row *special, const struct rv_row *general)
{
    return (special->flags & RV_ROW_SPECIAL) != 0 && special->mask != general->mask &&
           (special->mask & general->mask) == general->mask;
}

static bool check_pair(const struct rv_row *a, const struct rv_row *b)
{
    if (is_wide(a) != is_wide(b))
        return true;
    if (strcmp(a->name, b->name) == 0) {
        fprintf(stderr, "instruction table: two rows are named %s\n", a->name);
        return false;
    }
    if (((a->match ^ b->match) & a->mask & b->mask) == 0 && !specialises(a, b) &&
        !specialises(b, a)) {
        fprintf(stderr,
                "instruction table: %s and %s both match encoding 0x%x; if one is a special case "
                "of the other, mark it RV_ROW_SPECIAL\n",
                a->name, b->name, (unsigned)(a->match | b->match));
        return false;
    }
    return true;
}

int main(void)
{
    struct rv_decoder *decoder = rv_decoder_new();
    size_t count = rv_decoder_row_count(decoder);
    bool good = count > 0;
    for (size_t i = 0; i < count; i++) {
        good &= check_row(rv_decoder_row(decoder, i));
        for (size_t j = 0; j < i; j++)
            good &= check_pair(rv_decoder_row(decoder, i), rv_decoder_row(decoder, j));
    }
    rv_decoder_free(decoder);
    return good ? 0 : 1;
}
