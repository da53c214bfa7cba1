/* SPDX-License-Identifier: MIT
 *
 * What gdb.py debugs: two harts without an operating system. Hart 0 works, hart 1 counts beside
 * it; when hart 0 has done its turns the run ends with exit code `verdict`.
 */
typedef unsigned long u64;

#define FINISHER ((volatile unsigned *)0x100000)

u64 watched, seen, turns = 40, beside, verdict = 9;
double half = 0.5;
volatile u64 tail[2];

__asm__(".section .text.start, \"ax\"\n"
        ".globl _start\n"
        "_start:\n"
        "    csrr a0, mhartid\n"
        "    la sp, stacks + 4096\n"
        "    slli t0, a0, 12\n"
        "    add sp, sp, t0\n"
        "    li t0, 0x2000\n" /* mstatus.FS: initial */
        "    csrs mstatus, t0\n"
        "    bnez a0, 1f\n"
        "    call hart0\n"
        "1:  call hart1\n"
        "    .text\n");

char stacks[2][4096] __attribute__((aligned(16)));

__attribute__((noinline)) u64 twice(u64 value)
{
    __asm__ volatile("" : "+r"(value));
    return 2 * value;
}

__attribute__((noinline)) void work(u64 turn)
{
    if (turn == 20)
        watched = twice(turn);
    if (turn == 30)
        seen = watched + 1;
    tail[0] += turn;
}

__attribute__((noreturn)) void hart0(void)
{
    double sum = 0;
    for (u64 turn = 0; turn < turns; turn++) {
        work(turn);
        sum += half;
    }
    verdict += sum == 20.0;
    __asm__ volatile("fence" ::: "memory");
    *FINISHER = (unsigned)(verdict << 16 | 0x3333);
    for (;;)
        __asm__ volatile("wfi");
}

__attribute__((noreturn)) void hart1(void)
{
    for (;;)
        __atomic_fetch_add(&beside, 1, __ATOMIC_RELAXED);
}
