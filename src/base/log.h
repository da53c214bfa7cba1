/* SPDX-License-Identifier: MIT
 *
 * Log lines. A `struct log` belongs to one VM or process and is handed down to whatever
 * may have something to say; there is no global logger. Thread-safe: one line, one write.
 * Lines that go to a file begin with the time; whoever reads another stream knows it, or keeps it.
 */
#ifndef TRAPEZE_BASE_LOG_H
#define TRAPEZE_BASE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

struct log {
    enum log_level level; /* set before threads start */
    int fd;               /* where lines go; not owned */
    bool raw_terminal;    /* fd is a terminal in raw mode: end lines with CR LF */
    bool times;           /* fd is a file */
    char name[32];        /* in front of every line; empty for none */
};

/* Rate limit of one message about guest behaviour: at most `burst` lines every 10 s of
 * host time, then one line that counts what was left out. Zero-initialise. */
struct log_limit {
    _Atomic uint64_t window_start_ns;
    _Atomic uint32_t count;
};

/* "2026-11-22T02:55:01.042Z " (UTC) if the descriptor is a regular file, otherwise "". For those
 * who write a line without a log. A signal handler may call it. */
#define LOG_TIME_BYTES 40
const char *log_time(int fd, char text[LOG_TIME_BYTES]);
/* Of this moment since 1970, up to the year 9999. */
void log_format_time(struct timespec moment, char text[LOG_TIME_BYTES]);

void log_init(struct log *log, enum log_level level, int fd, const char *name);
void log_line(struct log *log, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(log, ...)   log_line((log), LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(log, ...) log_line((log), LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(log, ...)    log_line((log), LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(log, ...)   log_line((log), LOG_LEVEL_DEBUG, __VA_ARGS__)

/* The guest did something wrong or odd: a warning, rate-limited (8 lines per 10 s). */
void log_guest(struct log *log, struct log_limit *limit, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
