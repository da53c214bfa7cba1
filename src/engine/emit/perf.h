/* SPDX-License-Identifier: MIT
 *
 * Tells Linux perf what translated code is, in one of its two ways:
 *
 *   map      /tmp/perf-PID.map, a line per piece of code (tools/perf/Documentation/
 *            jit-interface.txt); 'perf report' reads it by itself. Addresses that are used again
 *            by later code keep both names.
 *   jitdump  DIR/jit-PID.dump, with times and the code itself (jitdump-specification.txt), for
 *            'perf record -k mono' and 'perf inject --jit'.
 *
 * Threads: code may be added from any.
 */
#ifndef TRAPEZE_ENGINE_EMIT_PERF_H
#define TRAPEZE_ENGINE_EMIT_PERF_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct error;
struct perf;

/* `spec`: "map", "jitdump" (in the current folder) or "jitdump:DIR". `pid`: this process, as perf
 * sees it. NULL: err. */
struct perf *perf_open(const char *spec, pid_t pid, struct error **err);
void perf_close(struct perf *perf); /* NULL is fine */

/* `name` has no line breaks. */
void perf_add(struct perf *perf, const void *code, size_t size, const char *name);

#endif
