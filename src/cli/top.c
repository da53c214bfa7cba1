/* SPDX-License-Identifier: MIT
 *
 * trapeze top: what each machine uses, from two looks at all of them.
 */
#include <jansson.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "cli/size.h"
#include "client/signals.h"
#include "client/terminal.h"

enum { CTRL_C = 3, INTERVAL_S = 2, ONCE_S = 1 };

static const struct cli_option options[] = {
    {"delay", 'd', "SECONDS", "Between two looks. Default: 2, with --once 1.", NULL},
    {"count", 'n', "N", "End after showing them N times.", NULL},
    {"once", 0, NULL, "The same as --count 1.", NULL},
    {"json", 0, NULL, "One JSON object for each time, a line.", NULL},
};

static const struct cli_example examples[] = {
    {"trapeze top", "Like top: 'q' or Ctrl-C ends it."},
    {"trapeze top --once --json | jq '.instances[] | select(.\"cpu-percent\" > 90).name'",
     "For programs."},
};

/* Counters that become rates, and what they are called then; per second, `scale` times. */
static const struct {
    const char *counter, *rate;
    double scale;
} rates[] = {
    {"cpu-ns", "cpu-percent", 100e-9},
    {"disk-read-bytes", "disk-read-rate", 1},
    {"disk-written-bytes", "disk-write-rate", 1},
    {"net-sent-bytes", "net-send-rate", 1},
    {"net-received-bytes", "net-receive-rate", 1},
};

static const json_t *row_of(const json_t *sample, const char *name)
{
    size_t index;
    const json_t *row;
    json_array_foreach(json_object_get(sample, "instances"), index,
                       row) if (strcmp(json_string_value(json_object_get(row, "name")), name) ==
                                0) return row;
    return NULL;
}

/* Into each row of `now` how fast its counters grew since `before`: 0 for one that is new, or that
 * was started anew meanwhile. */
static void add_rates(json_t *now, const json_t *before)
{
    double seconds = (double)(json_integer_value(json_object_get(now, "time-ns")) -
                              json_integer_value(json_object_get(before, "time-ns"))) /
                     1e9;
    size_t index;
    json_t *row;
    json_array_foreach(json_object_get(now, "instances"), index, row)
    {
        const json_t *old = row_of(before, json_string_value(json_object_get(row, "name")));
        for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
            const json_t *count = json_object_get(row, rates[i].counter);
            const json_t *then = json_object_get(old, rates[i].counter);
            double grown = json_is_integer(count) && json_is_integer(then)
                               ? (double)(json_integer_value(count) - json_integer_value(then))
                               : 0;
            json_object_set_new(
                row, rates[i].rate,
                json_real(grown > 0 && seconds > 0 ? grown / seconds * rates[i].scale : 0));
        }
    }
}

/* ---- a table ---- */

static int by_cpu(const void *a, const void *b)
{
    double x = json_real_value(json_object_get(*(json_t *const *)a, "cpu-percent"));
    double y = json_real_value(json_object_get(*(json_t *const *)b, "cpu-percent"));
    return x < y ? 1 : x > y ? -1 : 0;
}

/* "3d04h", "02:07:31". */
static void show_uptime(json_int_t started, char text[32])
{
    long long age;
    if (started == 0 || __builtin_sub_overflow((long long)time(NULL), started, &age) || age < 0)
        snprintf(text, 32, "-");
    else if (age >= 86400)
        snprintf(text, 32, "%lldd%02lldh", age / 86400, age / 3600 % 24);
    else
        snprintf(text, 32, "%02lld:%02lld:%02lld", age / 3600, age / 60 % 60, age % 60);
}

/* "1.5M": of bytes, in 6 columns. */
static void show_short(double bytes, char text[16])
{
    static const char units[] = "BKMGT";
    size_t unit = 0;
    for (; bytes >= 999.5 && unit + 2 < sizeof(units); unit++)
        bytes /= 1024;
    snprintf(text, 16, bytes < 9.95 && unit > 0 ? "%.1f%c" : "%.0f%c", bytes, units[unit]);
}

static void print_row(const json_t *row)
{
    char values[6][16], uptime[32];
    const char *const sizes[] = {"resident",        "memory",        "disk-read-rate",
                                 "disk-write-rate", "net-send-rate", "net-receive-rate"};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        const json_t *value = json_object_get(row, sizes[i]);
        if (json_is_number(value))
            show_short(json_number_value(value), values[i]);
        else
            strcpy(values[i], "-");
    }
    show_uptime(json_integer_value(json_object_get(row, "started")), uptime);
    printf("%-20.20s %-9.9s %6.1f %5lld %6s/%-6s %7s %7s %7s %7s %9s\n",
           json_string_value(json_object_get(row, "name")),
           json_string_value(json_object_get(row, "state")),
           json_real_value(json_object_get(row, "cpu-percent")),
           (long long)json_integer_value(json_object_get(row, "cpus")), values[0], values[1],
           values[2], values[3], values[4], values[5], uptime);
}

/* The busiest first; `rows`: of the terminal, 0: no end. */
static void print_table(const json_t *now, unsigned rows)
{
    const json_t *list = json_object_get(now, "instances");
    size_t count = json_array_size(list);
    const json_t **order = calloc(count + 1, sizeof(*order));
    for (size_t i = 0; i < count; i++)
        order[i] = json_array_get(list, i);
    qsort(order, count, sizeof(*order), by_cpu);
    printf("%-20s %-9s %6s %5s %13s %7s %7s %7s %7s %9s\n", "NAME", "STATE", "CPU%", "VCPUS",
           "MEMORY", "READ/s", "WRITE/s", "SENT/s", "RECV/s", "UP");
    for (size_t i = 0; i < count && (rows == 0 || i + 2 < rows); i++)
        print_row(order[i]);
    free(order);
}

static void show(const json_t *now, bool json, bool full_screen)
{
    uint16_t columns, rows = 0;
    if (json) {
        json_dumpf(now, stdout, JSON_COMPACT);
        putchar('\n');
    } else {
        if (full_screen && terminal_size(&columns, &rows))
            fputs("\033[H\033[2J", stdout);
        print_table(now, rows);
    }
    fflush(stdout);
}

/* ---- the loop ---- */

/* False: the user, or a signal, has had enough. */
static bool wait_for(unsigned seconds, int signals, bool keys)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t end = ((int64_t)now.tv_sec + seconds) * 1000 + now.tv_nsec / 1000000;
    for (;;) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        int64_t left = end - ((int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000);
        struct pollfd set[] = {{.fd = signals, .events = POLLIN},
                               {.fd = keys ? STDIN_FILENO : -1, .events = POLLIN}};
        char key = 0;
        if (left <= 0 || poll(set, ARRAY_SIZE(set), (int)left) == 0)
            return true;
        if (set[0].revents != 0)
            return false;
        if (set[1].revents != 0 &&
            (read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == CTRL_C))
            return false;
    }
}

static json_t *look(struct error **err)
{
    return cli_api("GET", NULL, err, "/v1/usage");
}

static bool watch(unsigned delay, uint64_t count, bool json, bool full_screen, int signals,
                  struct error **err)
{
    json_t *before = look(err);
    for (uint64_t i = 0; before != NULL && (count == 0 || i < count); i++) {
        /* Something to see at once, while there is nothing to compare it with. */
        if (full_screen && i == 0 && count == 0)
            show(before, json, true);
        if (!wait_for(delay, signals, full_screen))
            break;
        json_t *now = look(err);
        if (now != NULL) {
            add_rates(now, before);
            show(now, json, full_screen);
        }
        json_decref(before);
        before = now;
    }
    bool good = before != NULL;
    json_decref(before);
    return good;
}

static bool parse(const struct cli_args *args, uint64_t *delay, uint64_t *count, struct error **err)
{
    const char *text = cli_last(args, "delay");
    *count = cli_given(args, "once") ? 1 : 0;
    *delay = cli_given(args, "once") ? ONCE_S : INTERVAL_S;
    if (text != NULL && (!cli_parse_count(text, 3600, delay) || *delay == 0))
        return error_set(err, ERROR_USAGE, "--delay: '%s' is no number of seconds from 1 to 3600",
                         text);
    text = cli_last(args, "count");
    if (text != NULL && (!cli_parse_count(text, UINT32_MAX, count) || *count == 0))
        return error_set(err, ERROR_USAGE, "--count: '%s' is no number from 1 on", text);
    return true;
}

static int run(const struct cli_args *args, struct error **err)
{
    uint64_t delay, count;
    struct terminal terminal = {.raw = false};
    sigset_t ends;
    if (!parse(args, &delay, &count, err))
        return CLI_USAGE;
    bool json = cli_given(args, "json");
    bool full_screen = !json && count == 0 && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    signals_of_the_end(&ends);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    int signals = signalfd(-1, &ends, SFD_CLOEXEC);
    bool good = true;
    if (full_screen) {
        good = terminal_enter(&terminal, err);
        fputs("\033[?1049h\033[?25l", stdout); /* the other screen, no cursor */
    }
    good = good && watch((unsigned)delay, count, json, full_screen, signals, err);
    if (full_screen) {
        fputs("\033[?25h\033[?1049l", stdout);
        fflush(stdout);
        terminal_leave(&terminal);
    }
    close(signals);
    return good ? CLI_OK : CLI_HOST_FAILURE;
}

const struct cli_command cli_command_top = {
    .name = "top",
    .summary = "What running instances use, again and again",
    .description =
        "Shows the instances that run, the busiest first: processor time of the whole machine (100 "
        "is one processor of this host), vCPUs, host memory in use and the guest's memory, bytes a "
        "second read and written on disks, sent and received by NICs, and how long it runs. On a "
        "terminal the screen is drawn anew each time; elsewhere, and with --count, lines follow "
        "each "
        "other.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
