/* SPDX-License-Identifier: MIT
 *
 * Rows whose time goes into the kernel: system calls, page faults, new processes, switches between
 * them. On the host they measure the host's kernel, so their ratios to native say less than those
 * to another machine with the same guest.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rows.h"

#define CALLS       100000
#define FORKS       200
#define PAGE        4096
#define TOUCHED     ((size_t)64 << 20)
#define ROUND_TRIPS 10000
#define RING        8
#define LAPS        1000
#define ALONE_TIMES 6    /* of row_integer, in each process of the rows about two harts */
#define OWN_WORDS   2048 /* 16 KiB that each process of the ring reads at its turn */

uint64_t row_getppid(void)
{
    uint64_t same = 0;
    long parent = syscall(SYS_getppid);
    for (int i = 0; i < CALLS; i++)
        same += syscall(SYS_getppid) == parent;
    return same;
}

uint64_t row_fork(void)
{
    uint64_t checksum = 0;
    for (int i = 0; i < FORKS; i++) {
        pid_t child = fork();
        if (child < 0)
            fail("fork");
        if (child == 0)
            _exit(i & 127);
        int status;
        if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
            fail("waitpid");
        checksum = mix(checksum, (uint64_t)WEXITSTATUS(status));
    }
    return checksum;
}

uint64_t row_touch(void)
{
    uint8_t *memory =
        mmap(NULL, TOUCHED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    /* Page faults are what is measured: one for each page, whatever a kernel thinks of huge ones.
     */
    madvise(memory, TOUCHED, MADV_NOHUGEPAGE);
    uint64_t checksum = 0;
    for (size_t i = 0; i < TOUCHED; i += PAGE) {
        checksum += memory[i] == 0;
        memory[i] = 1;
    }
    munmap(memory, TOUCHED);
    return checksum;
}

static void make_pipe(int ends[2])
{
    if (pipe(ends) != 0)
        fail("pipe");
}

static void put(int fd, uint64_t value)
{
    if (write(fd, &value, sizeof(value)) != sizeof(value))
        fail("write");
}

static uint64_t get(int fd)
{
    uint64_t value;
    if (read(fd, &value, sizeof(value)) != sizeof(value))
        fail("read");
    return value;
}

static pid_t fork_or_fail(void)
{
    pid_t child = fork();
    if (child < 0)
        fail("fork");
    return child;
}

uint64_t row_pipe(void)
{
    int there[2], back[2];
    make_pipe(there);
    make_pipe(back);
    pid_t child = fork_or_fail();
    if (child == 0) {
        for (int i = 0; i < ROUND_TRIPS; i++)
            put(back[1], get(there[0]) * 3 + 1);
        _exit(0);
    }
    uint64_t value = 1;
    start_clock();
    for (int i = 0; i < ROUND_TRIPS; i++) {
        put(there[1], value);
        value = get(back[0]);
    }
    if (waitpid(child, NULL, 0) != child)
        fail("waitpid");
    return value;
}

/* One process of the ring: its own data is summed up between receiving the token and passing it. */
static uint64_t at_my_turn(const uint64_t *own, uint64_t token)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < OWN_WORDS; i++)
        sum += own[i];
    return mix(token, sum);
}

uint64_t row_switch(void)
{
    int pipes[RING][2];
    pid_t children[RING];
    uint64_t *own = malloc(OWN_WORDS * sizeof(*own));
    if (!own)
        fail("malloc");
    for (int i = 0; i < RING; i++)
        make_pipe(pipes[i]);
    for (int me = RING - 1; me >= 0; me--) {
        /* The last one through the loop is this process itself, the ring's first. */
        children[me] = me > 0 ? fork_or_fail() : 0;
        if (children[me] != 0)
            continue;
        for (size_t i = 0; i < OWN_WORDS; i++)
            own[i] = i * (uint64_t)(me + 1);
        if (me > 0) {
            for (int lap = 0; lap < LAPS; lap++)
                put(pipes[(me + 1) % RING][1], at_my_turn(own, get(pipes[me][0])));
            _exit(0);
        }
    }
    uint64_t token = 1;
    start_clock();
    for (int lap = 0; lap < LAPS; lap++) {
        put(pipes[1][1], at_my_turn(own, token));
        token = get(pipes[0][0]);
    }
    for (int i = 1; i < RING; i++)
        if (waitpid(children[i], NULL, 0) != children[i])
            fail("waitpid");
    free(own);
    return token;
}

/* Processes that share nothing but the machine; the same checksum whoever ends first. */
static uint64_t busy(int processes)
{
    int results[2];
    uint64_t sum = 0;
    make_pipe(results);
    for (int i = 0; i < processes; i++) {
        if (fork_or_fail() != 0)
            continue;
        uint64_t own = 0;
        for (int j = 0; j < ALONE_TIMES; j++)
            own = mix(own, row_integer());
        put(results[1], own);
        _exit(0);
    }
    for (int i = 0; i < processes; i++)
        sum += get(results[0]);
    while (processes-- > 0)
        if (wait(NULL) < 0)
            fail("wait");
    return sum;
}

uint64_t row_alone(void)
{
    return busy(1);
}

uint64_t row_together(void)
{
    return busy(2);
}
