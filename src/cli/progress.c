/* SPDX-License-Identifier: MIT
 *
 * See progress.h.
 */
#include "cli/progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { WIDTH = 40 };
#define PATIENCE_NS INT64_C(2000000000)
#define EVERY_NS    INT64_C(200000000)

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

void progress_start(struct progress *progress, const char *what, uint64_t total)
{
    *progress = (struct progress){
        .what = what, .total = total, .started_ns = now_ns(), .quiet = !isatty(STDERR_FILENO)};
}

void progress_step(struct progress *progress, uint64_t done)
{
    if (progress->quiet || progress->total == 0)
        return;
    int64_t now = now_ns();
    if (now - progress->started_ns < PATIENCE_NS || now - progress->shown_ns < EVERY_NS)
        return;
    progress->shown_ns = now;
    progress->visible = true;
    double part = (double)done / (double)progress->total;
    int filled = (int)(part * WIDTH);
    char bar[WIDTH + 1];
    for (int i = 0; i < WIDTH; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[WIDTH] = '\0';
    fprintf(stderr, "\r%s [%s] %3.0f %%", progress->what, bar, part * 100);
    fflush(stderr);
}

void progress_end(struct progress *progress)
{
    if (progress->visible)
        fputs("\r\033[K", stderr);
    progress->visible = false;
}
