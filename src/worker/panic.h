/* SPDX-License-Identifier: MIT
 *
 * Finds "Kernel panic - not syncing: …" at the start of a console line (behind the optional
 * timestamp), whatever pieces the line arrives in. Only a line start counts, so a guest that
 * shows a log file with `grep panic` is not taken for a dead one.
 *
 * Threads: none of its own; the caller serialises.
 */
#ifndef TRAPEZE_WORKER_PANIC_H
#define TRAPEZE_WORKER_PANIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct panic_watcher {
    char line[160]; /* the current line's beginning */
    size_t length;
    char found[160]; /* the panic line without timestamp, once seen */
};

/* True exactly once, when the panic line is complete; its text is then in `found`. */
bool panic_watch(struct panic_watcher *watcher, const uint8_t *data, size_t size);

#endif
