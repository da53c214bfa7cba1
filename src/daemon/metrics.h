/* SPDX-License-Identifier: MIT
 *
 * Prometheus' text format, version 0.0.4, out of what workers answered and what the daemon knows.
 * A metric is one row of a table in metrics.c. Workers are strangers: of what one says numbers are
 * taken, under names that are well-formed and stand once.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_METRICS_H
#define TRAPEZE_DAEMON_METRICS_H

#include <jansson.h>

struct daemon;

#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* `machines`: {NAME: the answer to the worker's verb "metrics", null if it did not answer}. From
 * malloc(). */
char *metrics_write(struct daemon *daemon, const json_t *machines);

#endif
