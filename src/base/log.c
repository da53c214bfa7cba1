/* SPDX-License-Identifier: MIT
 *
 * A line is put together on the stack and leaves in one write(2), so that lines of several
 * threads never mix. Text may come from a guest: bytes that could steer a terminal are
 * replaced, and what is too long is cut.
 */
#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"

#define LINE_BYTES      1024
#define GUEST_BURST     8U
#define GUEST_WINDOW_NS UINT64_C(10000000000)

static const char *const level_words[] = {
    [LOG_LEVEL_ERROR] = "error: ",
    [LOG_LEVEL_WARNING] = "warning: ",
    [LOG_LEVEL_INFO] = "",
    [LOG_LEVEL_DEBUG] = "debug: ",
};

/* ---- the time ---- */

static bool is_file(int fd)
{
    struct stat status;
    int saved_errno = errno;
    bool is = fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
    errno = saved_errno;
    return is;
}

static char *put_number(char *at, uint64_t number, unsigned digits, char behind)
{
    for (unsigned i = digits; i-- > 0; number /= 10)
        at[i] = (char)('0' + number % 10);
    at[digits] = behind;
    return at + digits + 1;
}

/* The calendar by hand (years of 400 begin in March, so that leap days end them), as neither
 * gmtime_r() nor snprintf() may be called by a signal handler. */
void log_format_time(struct timespec moment, char text[LOG_TIME_BYTES])
{
    enum { DAY_S = 86400, TO_1970 = 719468, ERA_DAYS = 146097 };
    uint64_t seconds = moment.tv_sec > 0 ? (uint64_t)moment.tv_sec : 0, in_day = seconds % DAY_S;
    uint64_t days = seconds / DAY_S + TO_1970, era = days / ERA_DAYS, day = days % ERA_DAYS;
    uint64_t year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
    day -= 365 * year + year / 4 - year / 100;
    uint64_t month = (5 * day + 2) / 153; /* March is 0 */
    day -= (153 * month + 2) / 5;
    year += 400 * era + (month >= 10);
    char *at = put_number(text, year, 4, '-');
    at = put_number(at, month >= 10 ? month - 9 : month + 3, 2, '-');
    at = put_number(at, day + 1, 2, 'T');
    at = put_number(at, in_day / 3600, 2, ':');
    at = put_number(at, in_day / 60 % 60, 2, ':');
    at = put_number(at, in_day % 60, 2, '.');
    at = put_number(at, (uint64_t)moment.tv_nsec / 1000000, 3, 'Z');
    at[0] = ' ';
    at[1] = '\0';
}

static void put_now(char text[LOG_TIME_BYTES])
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    log_format_time(now, text);
}

const char *log_time(int fd, char text[LOG_TIME_BYTES])
{
    text[0] = '\0';
    if (is_file(fd))
        put_now(text);
    return text;
}

/* ---- lines ---- */

void log_init(struct log *log, enum log_level level, int fd, const char *name)
{
    *log = (struct log){.level = level, .fd = fd, .times = is_file(fd)};
    snprintf(log->name, sizeof(log->name), "%s", name ? name : "");
}

/* What vsnprintf() put behind `used`, given that it had `room` bytes with the NUL. */
static size_t printed(size_t used, size_t room, int result)
{
    if (result < 0)
        return used;
    return used + ((size_t)result < room ? (size_t)result : room - 1);
}

static void write_fully(int fd, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t done = write(fd, bytes, length);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return; /* there is nobody left to tell */
        bytes += done;
        length -= (size_t)done;
    }
}

__attribute__((format(printf, 3, 0))) static void
write_line(const struct log *log, enum log_level level, const char *format, va_list arguments)
{
    char line[LINE_BYTES + 3]; /* and the end of line */
    char when[LOG_TIME_BYTES] = "";
    if (log->times)
        put_now(when);
    size_t used = printed(0, LINE_BYTES,
                          snprintf(line, LINE_BYTES, "%s%s%s%s", when, log->name,
                                   log->name[0] ? ": " : "", level_words[level]));
    size_t room = LINE_BYTES - used;
    int result = vsnprintf(line + used, room, format, arguments);
    size_t end = printed(used, room, result);
    if (result > 0 && (size_t)result >= room)
        memcpy(line + end - 3, "...", 3);
    for (size_t i = 0; i < end; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    if (log->raw_terminal)
        line[end++] = '\r';
    line[end++] = '\n';
    write_fully(log->fd, line, end);
}

void log_line(struct log *log, enum log_level level, const char *format, ...)
{
    assert((size_t)level < ARRAY_SIZE(level_words));
    if (level > log->level)
        return;
    int saved_errno = errno;
    va_list arguments;
    va_start(arguments, format);
    write_line(log, level, format, arguments);
    va_end(arguments);
    errno = saved_errno;
}

static uint64_t host_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

/* True if one more line is allowed; *left_out: lines of the last window that were not. */
static bool limit_admits(struct log_limit *limit, uint32_t *left_out)
{
    *left_out = 0;
    uint64_t now = host_now_ns();
    uint64_t start = atomic_load(&limit->window_start_ns);
    bool window_over = start == 0 || now - start >= GUEST_WINDOW_NS;
    if (window_over && atomic_compare_exchange_strong(&limit->window_start_ns, &start, now)) {
        uint32_t count = atomic_exchange(&limit->count, 1);
        if (count > GUEST_BURST)
            *left_out = count - GUEST_BURST;
        return true;
    }
    return atomic_fetch_add(&limit->count, 1) < GUEST_BURST;
}

void log_guest(struct log *log, struct log_limit *limit, const char *format, ...)
{
    uint32_t left_out;
    if (log->level < LOG_LEVEL_WARNING || !limit_admits(limit, &left_out))
        return;
    int saved_errno = errno;
    if (left_out > 0)
        log_warning(log, "%u more lines like the next one were left out", left_out);
    va_list arguments;
    va_start(arguments, format);
    write_line(log, LOG_LEVEL_WARNING, format, arguments);
    va_end(arguments);
    errno = saved_errno;
}
