/* SPDX-License-Identifier: MIT
 *
 * A program for x86-64 Linux that gets itself trapped, by int3 and by its trap flag, and steps through a
 * child as its debugger. It says how many signals came with the right cause; the codes are those of
 * sigaction(2): 128 is int3's, 2 a step's.
 */
#include <signal.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STEPS = 100, CODES = 200 };

static volatile sig_atomic_t counts[CODES];
static volatile long variable;

static void count(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    if (info->si_code >= 0 && info->si_code < CODES)
        counts[info->si_code]++;
}

static void trap_itself(void)
{
    struct sigaction action = {.sa_sigaction = count, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, NULL);
    for (int i = 0; i < 3; i++)
        __asm__ volatile("int3");
    /* The flag is in effect from the second instruction on: nop, nop, pushf, andl, popf. */
    __asm__ volatile("sub $128, %%rsp\n pushf\n orl $0x100, (%%rsp)\n popf\n nop\n nop\n"
                     "pushf\n andl $0xfffffeff, (%%rsp)\n popf\n nop\n add $128, %%rsp"
                     ::: "memory", "cc");
    printf("int3 %d, steps %d\n", (int)counts[128], (int)counts[2]);
}

static pid_t begin_child(void)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        for (long i = 0;; i++)
            variable = i & 1;
    }
    waitpid(child, &status, 0);
    return child;
}

/* The code of the child's next SIGTRAP; -1: it is something else. */
static int wait_for_trap(pid_t child)
{
    int status;
    siginfo_t info;
    if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP ||
        ptrace(PTRACE_GETSIGINFO, child, NULL, &info) != 0)
        return -1;
    return info.si_code;
}

static unsigned long long place_of(pid_t child)
{
    struct user_regs_struct regs = {0};
    ptrace(PTRACE_GETREGS, child, NULL, &regs);
    return regs.rip;
}

static void step_child(void)
{
    int good = 0;
    pid_t child = begin_child();
    for (int i = 0; i < STEPS; i++) {
        unsigned long long before = place_of(child);
        ptrace(PTRACE_SINGLESTEP, child, NULL, NULL);
        good += wait_for_trap(child) == 2 && place_of(child) != before;
    }
    printf("steps of a child %d\n", good);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

int main(void)
{
    trap_itself();
    step_child();
    return 0;
}
