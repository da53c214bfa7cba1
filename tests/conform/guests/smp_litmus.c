/*
 * Memory model: outcomes RVWMO forbids (unprivileged ISA chapter "RVWMO") must never appear.  Each
 * test runs its threads over arrays of independent cells without meeting in between, as litmus7
 * does, so that every cell is one experiment with its own timing.  Allowed outcomes are not
 * required.
 */
#include "rt.h"

const char guest_name[] = "smp_litmus";

enum { HARTS = 4, CELLS = 4096, RUNS = 12 };

struct cell {
    volatile u64 v;
    u64 pad[7];
};

static struct cell x[CELLS], y[CELLS];
static u64 r[HARTS][2][CELLS];
static volatile u64 gate, arrived;
static void (*volatile body)(u64 id);

#define FENCE(p, s) __asm__ volatile("fence " #p ", " #s ::: "memory")

static void thread(void)
{
    __atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL);
    while (!gate) {
    }
    body(self()->id);
}

static void run(void (*fn)(u64), u64 n_harts)
{
    for (u64 i = 0; i < CELLS; i++) {
        x[i].v = y[i].v = 0;
    }
    body = fn;
    gate = arrived = 0;
    FENCE(rw, rw);
    for (u64 h = 1; h < n_harts; h++) {
        start_hart(h, thread);
    }
    while (arrived != n_harts - 1) {
    }
    gate = 1;
    fn(0);
    for (u64 h = 1; h < n_harts; h++) {
        wait_hart(h);
    }
    FENCE(rw, rw);
}

/* SB: both loads 0 is forbidden with full fences. */
static void sb(u64 id)
{
    struct cell *a = id ? y : x, *b = id ? x : y;
    for (u64 i = 0; i < CELLS; i++) {
        a[i].v = 1;
        FENCE(rw, rw);
        r[id][0][i] = b[i].v;
    }
}

/* The same by AMOs with aq and rl: sequentially consistent among themselves. */
static void sb_amo(u64 id)
{
    struct cell *a = id ? y : x, *b = id ? x : y;
    for (u64 i = 0; i < CELLS; i++) {
        u64 v;
        __asm__ volatile("amoswap.d.aqrl x0, %0, (%1)" ::"r"(1ul), "r"(&a[i].v) : "memory");
        __asm__ volatile("amoor.d.aqrl %0, x0, (%1)" : "=r"(v) : "r"(&b[i].v) : "memory");
        r[id][0][i] = v;
    }
}

/* MP: data written before the flag is seen by who saw the flag. */
static void mp(u64 id)
{
    for (u64 i = 0; i < CELLS; i++) {
        if (id == 0) {
            x[i].v = i + 1;
            FENCE(w, w);
            y[i].v = 1;
        } else {
            r[id][0][i] = y[i].v;
            FENCE(r, r);
            r[id][1][i] = x[i].v;
        }
    }
}

/* LB with data dependencies: both loads seeing the other's store is forbidden. */
static void lb(u64 id)
{
    struct cell *a = id ? y : x, *b = id ? x : y;
    for (u64 i = 0; i < CELLS; i++) {
        u64 v = a[i].v;
        r[id][0][i] = v;
        u64 one;
        __asm__ volatile("xor %0, %1, %1\n ori %0, %0, 1" : "=r"(one) : "r"(v));
        b[i].v = one;
    }
}

/* CoRR: reads of one location never go back. */
static void corr(u64 id)
{
    for (u64 i = 0; i < CELLS; i++) {
        if (id == 0) {
            x[i].v = 1;
            x[i].v = 2;
        } else {
            r[id][0][i] = x[i].v;
            r[id][1][i] = x[i].v;
        }
    }
}

/* IRIW with fences: two readers agree on the order of two writers. */
static void iriw(u64 id)
{
    for (u64 i = 0; i < CELLS; i++) {
        if (id == 0) {
            x[i].v = 1;
        } else if (id == 1) {
            y[i].v = 1;
        } else {
            struct cell *a = id == 2 ? x : y, *b = id == 2 ? y : x;
            r[id][0][i] = a[i].v;
            FENCE(rw, rw);
            r[id][1][i] = b[i].v;
        }
    }
}

/* 2+2W with fences: x = y = 1 would order the four stores in a circle. */
static void two_two_w(u64 id)
{
    struct cell *a = id ? y : x, *b = id ? x : y;
    for (u64 i = 0; i < CELLS; i++) {
        a[i].v = 1;
        FENCE(w, w);
        b[i].v = 2;
    }
}

/* Doublewords are written whole: a reader sees 0 or all ones, in any mix of loads and AMOs. */
static void tearing(u64 id)
{
    for (u64 i = 0; i < CELLS; i++) {
        if (id == 0) {
            x[i].v = ~0ul;
        } else {
            r[id][0][i] = x[i].v;
        }
    }
}

void guest_main(void)
{
    u64 bad[8] = {0};
    for (int n = 0; n < RUNS; n++) {
        run(sb, 2);
        for (u64 i = 0; i < CELLS; i++) {
            bad[0] += r[0][0][i] == 0 && r[1][0][i] == 0;
        }
        run(sb_amo, 2);
        for (u64 i = 0; i < CELLS; i++) {
            bad[1] += r[0][0][i] == 0 && r[1][0][i] == 0;
        }
        run(mp, 2);
        for (u64 i = 0; i < CELLS; i++) {
            bad[2] += r[1][0][i] == 1 && r[1][1][i] != i + 1;
        }
        run(lb, 2);
        for (u64 i = 0; i < CELLS; i++) {
            bad[3] += r[0][0][i] == 1 && r[1][0][i] == 1;
        }
        run(corr, 2);
        for (u64 i = 0; i < CELLS; i++) {
            bad[4] += r[1][1][i] < r[1][0][i];
        }
        run(iriw, 4);
        for (u64 i = 0; i < CELLS; i++) {
            bad[5] += r[2][0][i] == 1 && r[2][1][i] == 0 && r[3][0][i] == 1 && r[3][1][i] == 0;
        }
        run(two_two_w, 2);
        for (u64 i = 0; i < CELLS; i++) {
            bad[6] += x[i].v == 1 && y[i].v == 1;
        }
        run(tearing, 4);
        for (u64 i = 0; i < CELLS; i++) {
            for (u64 h = 1; h < HARTS; h++) {
                bad[7] += r[h][0][i] != 0 && r[h][0][i] != ~0ul;
            }
        }
    }
    static const char *const names[] = {
        "SB with fences", "SB with AMOs",     "MP with fences",   "LB with data dependencies",
        "CoRR",           "IRIW with fences", "2+2W with fences", "torn doublewords"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        CHECK_EQ(bad[i], 0, "%s: forbidden outcomes", names[i]);
    }
}
