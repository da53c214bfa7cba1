/* SPDX-License-Identifier: MIT
 *
 * What an engine does, as lines of text for those who want to know. Topics are asked for by
 * name; nothing is traced unless somebody asked, and then only from places that are off the
 * hot paths: each looks with trace_on() first.
 *
 *     if (trace_on(trace, TRACE_MMU))
 *         trace_line(trace, "vcpu%u mmu ...", ...);
 *
 * Threads: lines may come from any; they do not mix.
 */
#ifndef TRAPEZE_BASE_TRACE_H
#define TRAPEZE_BASE_TRACE_H

#include <stdbool.h>
#include <stddef.h>

struct error;
struct trace;

enum trace_topic {
    TRACE_BLOCKS = 1, /* translations as they are made, with the instructions */
    TRACE_EXITS = 2,  /* what translated code and run() are left for */
    TRACE_MMU = 4     /* TLB refills and flushes */
};

/* `spec`: topics separated by commas, then perhaps ":FILE", which is written over; without
 * one lines go to standard error. NULL: err. */
struct trace *trace_open(const char *spec, struct error **err);
void trace_close(struct trace *trace); /* NULL is fine */

unsigned trace_topics(const struct trace *trace);

/* trace: NULL if nothing is traced. */
static inline bool trace_on(const struct trace *trace, enum trace_topic topic)
{
    return __builtin_expect(trace != NULL, 0) && (trace_topics(trace) & topic) != 0;
}

/* Adds the end of the line. */
void trace_line(struct trace *trace, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
