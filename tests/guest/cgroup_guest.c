/* SPDX-License-Identifier: MIT
 *
 * Runs in a Debian guest, whose systemd has a cgroup v2: what client/cgroup.c asks of a real
 * kernel. Prints a line for each thing that was tried; cgroup.py judges. Argument: seconds of CPU
 * for a ratio.
 */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "client/cgroup.h"

static void die(struct error *err)
{
    printf("failed: %s\n", err != NULL ? error_message(err) : "?");
    exit(1);
}

static double now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* A child in the group that keeps the first CPU busy. */
static pid_t burn(const char *group)
{
    struct error *err = NULL;
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    if (!cgroup_enter(group, getpid(), &err))
        die(err);
    sched_setaffinity(0, sizeof(first), &first);
    for (;;)
        ;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static double used(const char *group)
{
    struct cgroup_usage usage;
    if (!cgroup_usage(group, &usage))
        die(NULL);
    return (double)usage.used_ns / 1e9;
}

static char *group_with(const char *place, const char *name, const struct cgroup_limits *limits)
{
    struct error *err = NULL;
    char *group = cgroup_make(place, name, &err);
    if (group == NULL || !cgroup_limit(group, limits, &err))
        die(err);
    return group;
}

static void weights(const char *place, double seconds)
{
    char *small = group_with(place, "small", &(struct cgroup_limits){.cpu_weight = 100});
    char *large = group_with(place, "large", &(struct cgroup_limits){.cpu_weight = 300});
    pid_t pids[] = {burn(small), burn(large)};
    double begun = now(CLOCK_MONOTONIC);
    while (used(small) + used(large) < seconds && now(CLOCK_MONOTONIC) - begun < 300)
        usleep(100000);
    char *found = cgroup_of("", pids[0]); /* it has entered it by now */
    printf("same %d\nratio %.3f\n", found != NULL && strcmp(found, small) == 0,
           used(large) / used(small));
    /* The other way round, while they run. */
    double before[] = {used(small), used(large)};
    struct error *err = NULL;
    if (!cgroup_limit(small, &(struct cgroup_limits){.cpu_weight = 300}, &err) ||
        !cgroup_limit(large, &(struct cgroup_limits){.cpu_weight = 100}, &err))
        die(err);
    while (used(small) + used(large) - before[0] - before[1] < seconds &&
           now(CLOCK_MONOTONIC) - begun < 600)
        usleep(100000);
    printf("reverse %.3f\n", (used(small) - before[0]) / (used(large) - before[1]));
    end(pids[0]);
    end(pids[1]);
    cgroup_remove(small);
    cgroup_remove(large);
    printf("gone %d\n", access(small, F_OK) != 0 && access(large, F_OK) != 0);
}

static void cap(const char *place)
{
    char *group = group_with(place, "capped", &(struct cgroup_limits){.cpu_cap = 25});
    struct cgroup_usage usage;
    pid_t pid = burn(group);
    double begun = now(CLOCK_MONOTONIC), before = used(group);
    sleep(4);
    printf("cap %.3f\n", (used(group) - before) / (now(CLOCK_MONOTONIC) - begun));
    cgroup_usage(group, &usage);
    printf("throttled %d\n", usage.throttled_ns > 0);
    end(pid);
    cgroup_remove(group);
}

static void memory(const char *place)
{
    char *group = group_with(place, "full", &(struct cgroup_limits){.memory = 16 << 20});
    struct error *err = NULL;
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        if (!cgroup_enter(group, getpid(), &err))
            die(err);
        char *much =
            mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(much, 1, 64 << 20);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    printf("killed %d\n", WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    cgroup_remove(group);
}

int main(int argc, char **argv)
{
    struct error *err = NULL;
    setvbuf(stdout, NULL, _IOLBF, 0);
    char *place = cgroup_find("", &err);
    if (place == NULL)
        die(err);
    printf("place %s\n", place);
    weights(place, argc > 1 ? atof(argv[1]) : 1);
    cap(place);
    memory(place);
    puts("done");
    return 0;
}
