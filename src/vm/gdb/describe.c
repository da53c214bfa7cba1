/* SPDX-License-Identifier: MIT
 *
 * What the client reads in pieces (qXfer): the target description, made from the ISA's table of
 * registers (E.12 "Target Descriptions"), and the list of threads (E.14).
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "vm/gdb/internal.h"

enum { FEATURES_MAX = 16 };

static void write_feature(FILE *out, const struct isa_debug *isa, const char *feature)
{
    struct vcpu_register reg;
    fprintf(out, "  <feature name=\"%s\">\n", feature);
    for (unsigned i = 0; i < isa->register_limit; i++)
        if (isa->describe(i, &reg) && strcmp(reg.feature, feature) == 0)
            fprintf(out, "    <reg name=\"%s\" bitsize=\"%u\" regnum=\"%u\" type=\"%s\"/>\n",
                    reg.name, 8 * reg.size, i, reg.type);
    fprintf(out, "  </feature>\n");
}

char *gdb_describe_target(const struct isa_debug *isa, size_t *size)
{
    const char *features[FEATURES_MAX];
    size_t count = 0;
    struct vcpu_register reg;
    char *text = NULL;
    FILE *out = open_memstream(&text, size);
    if (out == NULL)
        return NULL;
    fprintf(out,
            "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n"
            "<target version=\"1.0\">\n  <architecture>%s</architecture>\n",
            isa->architecture);
    for (unsigned i = 0; i < isa->register_limit; i++) {
        if (!isa->describe(i, &reg))
            continue;
        size_t known = 0;
        while (known < count && strcmp(features[known], reg.feature) != 0)
            known++;
        if (known < count)
            continue;
        assert(count < FEATURES_MAX);
        features[count++] = reg.feature;
        write_feature(out, isa, reg.feature);
    }
    fprintf(out, "</target>\n");
    fclose(out);
    return text;
}

void gdb_describe_thread(const struct gdb *gdb, unsigned cpu, char *text, size_t size)
{
    const struct vm_cpu *it = &gdb->vm->cpus[cpu];
    const char *what = "running";
    switch ((enum cpu_state)atomic_load(&it->state)) {
    case CPU_STARTED:
        if (it->waiting)
            what = "waiting for an interrupt";
        break;
    case CPU_SUSPENDED:
        what = "suspended";
        break;
    case CPU_STOPPED:
    case CPU_START_PENDING:
    case CPU_CLAIMED:
        what = "not started";
        break;
    }
    snprintf(text, size, "hart %u, %s", cpu, what);
}

char *gdb_describe_threads(const struct gdb *gdb, size_t *size)
{
    char *text = NULL, what[64];
    FILE *out = open_memstream(&text, size);
    if (out == NULL)
        return NULL;
    fputs("<?xml version=\"1.0\"?>\n<threads>\n", out);
    for (unsigned i = 0; i < gdb->vm->cpu_count; i++) {
        gdb_describe_thread(gdb, i, what, sizeof(what));
        fprintf(out, "  <thread id=\"%x\" core=\"%u\" name=\"hart %u\">%s</thread>\n", i + 1, i, i,
                what);
    }
    fputs("</threads>\n", out);
    fclose(out);
    return text;
}
