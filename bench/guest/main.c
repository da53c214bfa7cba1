/* SPDX-License-Identifier: MIT
 *
 * The benchmark that runs inside a guest and, from the same sources, on the host.
 *
 *     bench ROW            runs one row and prints "NAME seconds checksum"
 *     bench [ROW...]       each of them in a fresh process (none: all)
 *     bench --list         "NAME what it does", a line each
 *     bench --list-io      the same of io.c's rows, which run in a guest only and when named
 *
 * As the first process of a guest (rdinit=/bench, rows after "--" on the kernel command line) it
 * prints "bench-init SECONDS" (the guest kernel's age) at once, waits until the kernel is idle and
 * prints "bench-quiet SECONDS", runs the rows, prints "bench-done STATUS SECONDS" and powers off.
 * Time is the guest's CLOCK_MONOTONIC; with the two ages bench.py checks that a guest's second is
 * the host's.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "drivers.h"
#include "rows.h"

static const struct row {
    const char *name;
    const char *what;
    uint64_t (*run)(void);
} rows[] = {
    /* The nine of the comparison with other machines: bench.py names them too. */
    {"sieve", "sieve of Eratosthenes in 20 M bytes", row_sieve},
    {"fib", "recursive fib(35)", row_fib},
    {"matmul", "product of two 256x256 matrices of doubles", row_matmul},
    {"hash", "32-bit hash, 100 M rounds", row_hash},
    {"sort", "qsort of 2 M ints", row_sort},
    {"getppid", "100 k getppid system calls", row_getppid},
    {"fork", "200 times fork, exit, wait", row_fork},
    {"touch", "first touch of each 4 KiB page of 64 MiB", row_touch},
    {"pipe", "10 k round trips through pipes between two processes", row_pipe},
    /* Further ones. */
    {"integer", "lists, small matrices, a state machine and CRCs, as in CoreMark", row_integer},
    {"sha256", "SHA-256 of 16 MiB", row_sha256},
    {"string", "memcpy and strlen of the C library, 16 bytes to 64 KiB", row_string},
    {"nbody", "five bodies, 500 k steps, in doubles", row_nbody},
    {"bytecode", "a switch-dispatched bytecode interpreter", row_bytecode},
    {"switch", "a token passed 1,000 times round a ring of 8 processes", row_switch},
    /* In a guest with two harts: bench.py names them, too. */
    {"alone", "one busy process, two harts", row_alone},
    {"together", "two such processes at once, two harts", row_together},
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

/* Quiet is: this many quarters of a second in a row, each idle to this part. */
#define QUIET_TURNS 3
#define QUIET_PART  0.9
#define QUIET_LIMIT 1200 /* of them: five minutes */

static const char *running = "bench";
static double started, stopped; /* stopped: 0 until a row says so */

static double now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

void start_clock(void)
{
    started = now(CLOCK_MONOTONIC);
}

void stop_clock(void)
{
    stopped = now(CLOCK_MONOTONIC);
}

void fail(const char *what)
{
    printf("bench-failed %s: %s: %s\n", running, what, strerror(errno));
    fflush(stdout);
    _exit(1);
}

static const struct row *find_row(const char *name)
{
    for (size_t i = 0; i < ROWS; i++)
        if (strcmp(rows[i].name, name) == 0)
            return &rows[i];
    return NULL;
}

static bool is_row(const char *name)
{
    return find_row(name) || find_io_row(name);
}

static int run_here(const char *name)
{
    const struct row *row = find_row(name);
    running = name;
    start_clock();
    uint64_t checksum = row ? row->run() : run_io_row(find_io_row(name));
    double seconds = (stopped != 0 ? stopped : now(CLOCK_MONOTONIC)) - started;
    printf("%s %.6f %016" PRIx64 "\n", name, seconds, checksum);
    return fflush(stdout) == 0 ? 0 : 1;
}

/* A process of its own per row: none finds memory or caches of the C library as another left them.
 */
static int run_apart(const char *self, const char *name)
{
    running = name;
    pid_t child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0) {
        execl(self, self, name, (char *)NULL);
        fail("exec");
    }
    int status;
    if (waitpid(child, &status, 0) != child)
        fail("waitpid");
    if (status == 0)
        return 0;
    if (WIFSIGNALED(status))
        printf("bench-failed %s: signal %d\n", name, WTERMSIG(status));
    return 1;
}

static int run_all(const char *self, int count, char **names)
{
    int failures = 0;
    if (count == 0)
        for (size_t i = 0; i < ROWS; i++)
            failures += run_apart(self, rows[i].name);
    for (int i = 0; i < count; i++)
        failures += run_apart(self, names[i]);
    return failures > 0;
}

/* Time since boot and the part of it in which the harts had nothing to do, added up. */
static void read_uptime(double *uptime, double *idle)
{
    FILE *file = fopen("/proc/uptime", "r");
    if (!file || fscanf(file, "%lf %lf", uptime, idle) != 2)
        fail("/proc/uptime");
    fclose(file);
}

/* Debian's kernel tests its ciphers after it has started the first process, with almost as many
 * instructions again as it took to get here; the first rows would pay for that. Idle times of
 * several harts add up, so all of them together must be idle. */
static void wait_for_quiet(void)
{
    double before, idle_before, after, idle;
    mkdir("/proc", 0555);
    if (mount("proc", "/proc", "proc", 0, NULL) != 0)
        fail("mount /proc");
    double harts = (double)sysconf(_SC_NPROCESSORS_ONLN);
    read_uptime(&before, &idle_before);
    for (int quiet = 0, turn = 0; quiet < QUIET_TURNS; turn++) {
        if (turn == QUIET_LIMIT) {
            errno = ETIMEDOUT;
            fail("the kernel does not come to rest");
        }
        nanosleep(&(struct timespec){.tv_nsec = 250000000}, NULL);
        read_uptime(&after, &idle);
        quiet = idle - idle_before >= QUIET_PART * harts * (after - before) ? quiet + 1 : 0;
        before = after;
        idle_before = idle;
    }
    printf("bench-quiet %.6f\n", now(CLOCK_BOOTTIME));
    fflush(stdout);
}

static void be_init(const char *self, int count, char **names)
{
    /* No kernel message may cut our lines in two. */
    klogctl(8, NULL, 1);
    printf("bench-init %.6f\n", now(CLOCK_BOOTTIME));
    fflush(stdout);
    bool devices = false;
    for (int i = 0; i < count; i++)
        devices = devices || find_io_row(names[i]);
    if (devices)
        load_io_drivers();
    wait_for_quiet();
    int status = run_all(self, count, names);
    printf("bench-done %d %.6f\n", status, now(CLOCK_BOOTTIME));
    fflush(stdout);
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

int main(int argc, char **argv)
{
    if (getpid() == 1)
        be_init(argv[0], argc - 1, argv + 1);
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < ROWS; i++)
            printf("%s %s\n", rows[i].name, rows[i].what);
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--list-io") == 0) {
        list_io_rows();
        return 0;
    }
    for (int i = 1; i < argc; i++) {
        if (!is_row(argv[i])) {
            printf("bench-failed %s: no such row; bench --list names them\n", argv[i]);
            return 2;
        }
    }
    if (argc == 2)
        return run_here(argv[1]);
    return run_all(argv[0], argc - 1, argv + 1);
}
