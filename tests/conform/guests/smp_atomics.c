/*
 * Atomicity between harts: AMO and LR/SC counters of both widths, mixed with each other and with
 * plain stores beside them, a lock, and an SC that must fail because another hart wrote.
 */
#include "rt.h"

const char guest_name[] = "smp_atomics";

enum { HARTS = 4, ROUNDS = 20000 };

static u64 add_d __attribute__((aligned(64))), lrsc_d, mixed, lock_word, locked, xored;
static u32 add_w[2] __attribute__((aligned(8))), lrsc_w[2] __attribute__((aligned(8)));
static u64 max_seen, min_seen, or_bits, minu_seen = ~0ul, swapped_sum, swap_cell;
static u8 bytes[HARTS] __attribute__((aligned(8)));

static void amo(void)
{
    u64 id = self()->id;
    for (u64 i = 0; i < ROUNDS; i++) {
        __asm__ volatile("amoadd.d x0, %0, (%1)" ::"r"(1ul), "r"(&add_d) : "memory");
        /* two harts on each half of one doubleword */
        __asm__ volatile("amoadd.w x0, %0, (%1)" ::"r"(1ul), "r"(&add_w[id & 1]) : "memory");
        __asm__ volatile("amoxor.d x0, %0, (%1)" ::"r"(1ul << (8 * id)), "r"(&xored) : "memory");
        __asm__ volatile("amomax.d x0, %0, (%1)" ::"r"(i * HARTS + id), "r"(&max_seen) : "memory");
        __asm__ volatile("amomin.d x0, %0, (%1)" ::"r"(-(i * HARTS + id)), "r"(&min_seen)
                         : "memory");
        __asm__ volatile("amominu.d x0, %0, (%1)" ::"r"(~(i * HARTS + id)), "r"(&minu_seen)
                         : "memory");
        __asm__ volatile("amoor.d x0, %0, (%1)" ::"r"(1ul << (i % 16 + 16 * id)), "r"(&or_bits)
                         : "memory");
        ((volatile u8 *)bytes)[id]++; /* neighbours in one doubleword must not be lost */
    }
}

static void lrsc(void)
{
    u64 id = self()->id, t, fail;
    for (u64 i = 0; i < ROUNDS; i++) {
        __asm__ volatile("1: lr.d %0, (%2)\n addi %0, %0, 1\n sc.d %1, %0, (%2)\n bnez %1, 1b"
                         : "=&r"(t), "=&r"(fail)
                         : "r"(&lrsc_d)
                         : "memory");
        __asm__ volatile("1: lr.w.aq %0, (%2)\n addi %0, %0, 1\n sc.w.rl %1, %0, (%2)\n bnez %1, 1b"
                         : "=&r"(t), "=&r"(fail)
                         : "r"(&lrsc_w[id & 1])
                         : "memory");
    }
}

/* Half the harts use LR/SC and half AMOs on the same word. */
static void mix(void)
{
    u64 t, fail;
    for (u64 i = 0; i < ROUNDS; i++) {
        if (self()->id & 1) {
            __asm__ volatile("amoadd.d x0, %0, (%1)" ::"r"(1ul), "r"(&mixed) : "memory");
        } else {
            __asm__ volatile("1: lr.d %0, (%2)\n addi %0, %0, 1\n sc.d %1, %0, (%2)\n bnez %1, 1b"
                             : "=&r"(t), "=&r"(fail)
                             : "r"(&mixed)
                             : "memory");
        }
    }
}

/* A ticket passed by amoswap: each value that goes in comes out exactly once. */
static void swap(void)
{
    u64 id = self()->id, sum = 0, old;
    for (u64 i = 0; i < ROUNDS; i++) {
        __asm__ volatile("amoswap.d %0, %1, (%2)"
                         : "=&r"(old)
                         : "r"(1 + id + i * HARTS), "r"(&swap_cell)
                         : "memory");
        sum += old;
    }
    __asm__ volatile("amoadd.d x0, %0, (%1)" ::"r"(sum), "r"(&swapped_sum) : "memory");
}

/* Plain counter under a test-and-set lock with acquire and release. */
static void with_lock(void)
{
    for (u64 i = 0; i < ROUNDS / 4; i++) {
        u64 busy;
        do {
            __asm__ volatile("amoswap.d.aq %0, %1, (%2)"
                             : "=&r"(busy)
                             : "r"(1ul), "r"(&lock_word)
                             : "memory");
        } while (busy);
        *(volatile u64 *)&locked = *(volatile u64 *)&locked + 1;
        __asm__ volatile("amoswap.d.rl x0, x0, (%0)" ::"r"(&lock_word) : "memory");
    }
}

static volatile u64 stage;
static u64 contested __attribute__((aligned(64)));

static void wait_stage(u64 n)
{
    while (stage != n) {
        __asm__ volatile(".4byte 0x0100000f"); /* pause */
    }
    __asm__ volatile("fence rw, rw" ::: "memory");
}

static void set_stage(u64 n)
{
    __asm__ volatile("fence rw, rw" ::: "memory");
    stage = n;
}

/* Hart 1 writes between hart 0's LR and SC. */
static void intruder(void)
{
    for (u64 i = 0; i < 200; i++) {
        wait_stage(2 * i + 1);
        switch (i % 4) {
        case 0:
            *(volatile u64 *)&contested = 1000 + i;
            break;
        case 1:
            *((volatile u8 *)&contested + 7) = (u8)(i + 1);
            break;
        case 2:
            __asm__ volatile("amoadd.d x0, %0, (%1)" ::"r"(3ul), "r"(&contested) : "memory");
            break;
        default:
            *((volatile u32 *)&contested + 1) = (u32)i + 7;
            break;
        }
        set_stage(2 * i + 2);
    }
}

static void interrupted_reservation(void)
{
    stage = 0;
    start_hart(1, intruder);
    for (u64 i = 0; i < 200; i++) {
        u64 old, fail;
        contested = i;
        __asm__ volatile("lr.d %0, (%1)" : "=r"(old) : "r"(&contested) : "memory");
        set_stage(2 * i + 1);
        wait_stage(2 * i + 2);
        u64 theirs = *(volatile u64 *)&contested;
        __asm__ volatile("sc.d %0, %1, (%2)" : "=&r"(fail) : "r"(77ul), "r"(&contested) : "memory");
        CHECK(fail != 0, "sc.d after another hart's store, kind %lu", i % 4);
        CHECK_EQ(contested, theirs, "memory after a failed sc.d, kind %lu", i % 4);
    }
    wait_hart(1);
}

static void on_all(void (*fn)(void))
{
    for (u64 h = 1; h < HARTS; h++) {
        start_hart(h, fn);
    }
    fn();
    for (u64 h = 1; h < HARTS; h++) {
        wait_hart(h);
    }
}

void guest_main(void)
{
    on_all(amo);
    CHECK_EQ(add_d, HARTS * ROUNDS, "amoadd.d");
    CHECK_EQ(add_w[0], HARTS / 2 * ROUNDS, "amoadd.w low");
    CHECK_EQ(add_w[1], HARTS / 2 * ROUNDS, "amoadd.w high");
    CHECK_EQ(xored, 0, "amoxor.d an even number of times");
    CHECK_EQ(max_seen, ROUNDS * HARTS - 1, "amomax.d");
    CHECK_EQ(min_seen, -(ROUNDS * HARTS - 1ul), "amomin.d");
    CHECK_EQ(minu_seen, ~(ROUNDS * HARTS - 1ul), "amominu.d");
    CHECK_EQ(or_bits, ~0ul, "amoor.d");
    for (int i = 0; i < HARTS; i++) {
        CHECK_EQ(bytes[i], ROUNDS & 0xff, "byte of hart %d", i);
    }
    on_all(lrsc);
    CHECK_EQ(lrsc_d, HARTS * ROUNDS, "lr.d sc.d");
    CHECK_EQ(lrsc_w[0], HARTS / 2 * ROUNDS, "lr.w sc.w low");
    CHECK_EQ(lrsc_w[1], HARTS / 2 * ROUNDS, "lr.w sc.w high");
    on_all(mix);
    CHECK_EQ(mixed, HARTS * ROUNDS, "lr/sc against amoadd");
    on_all(swap);
    u64 n = (u64)HARTS * ROUNDS;
    CHECK_EQ(swapped_sum + swap_cell, n * (n + 1) / 2, "amoswap loses nothing");
    on_all(with_lock);
    CHECK_EQ(locked, HARTS * (ROUNDS / 4), "lock");
    interrupted_reservation();
}
