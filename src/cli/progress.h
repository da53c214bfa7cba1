/* SPDX-License-Identifier: MIT
 *
 * A bar on standard error for what takes longer than two seconds, if that is a terminal.
 */
#ifndef TRAPEZE_CLI_PROGRESS_H
#define TRAPEZE_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *what;
    uint64_t total;
    int64_t started_ns, shown_ns;
    bool visible, quiet;
};

void progress_start(struct progress *progress, const char *what, uint64_t total);
void progress_step(struct progress *progress, uint64_t done);
void progress_end(struct progress *progress); /* takes the bar away */

#endif
