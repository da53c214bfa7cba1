/* SPDX-License-Identifier: MIT */
#include "base/trace.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"

struct trace {
    FILE *out;
    unsigned topics;
};

static const struct {
    const char *name;
    enum trace_topic topic;
} topics[] = {{"blocks", TRACE_BLOCKS}, {"exits", TRACE_EXITS}, {"mmu", TRACE_MMU}};

static bool add_topic(struct trace *trace, const char *word, struct error **err)
{
    for (size_t i = 0; i < ARRAY_SIZE(topics); i++)
        if (strcmp(topics[i].name, word) == 0) {
            trace->topics |= (unsigned)topics[i].topic;
            return true;
        }
    error_set(err, ERROR_USAGE, "trace: there is no topic '%s'", word);
    error_hint(err, "Write blocks, exits or mmu, several separated by commas, then perhaps :FILE.");
    return false;
}

struct trace *trace_open(const char *spec, struct error **err)
{
    struct trace *trace = alloc_zeroed(1, sizeof(*trace));
    char *copy = alloc_string(spec), *file = strchr(copy, ':'), *rest = copy;
    bool good = true;
    if (file != NULL)
        *file++ = '\0';
    for (char *word; good && (word = strsep(&rest, ",")) != NULL;)
        good = add_topic(trace, word, err);
    if (good) {
        trace->out = file != NULL ? fopen(file, "we") : stderr;
        if (trace->out == NULL)
            good = error_set_errno(err, errno, "trace: cannot write '%s'", file);
    }
    free(copy);
    if (good)
        return trace;
    free(trace);
    return NULL;
}

void trace_close(struct trace *trace)
{
    if (trace == NULL)
        return;
    if (trace->out != stderr)
        fclose(trace->out);
    free(trace);
}

unsigned trace_topics(const struct trace *trace)
{
    return trace->topics;
}

void trace_line(struct trace *trace, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    flockfile(trace->out);
    vfprintf(trace->out, format, arguments);
    fputc_unlocked('\n', trace->out);
    funlockfile(trace->out);
    va_end(arguments);
}
