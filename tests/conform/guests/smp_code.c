/*
 * Code that one hart writes and others run (U, "Zifencei": the writer orders its stores before it
 * tells, the others execute fence.i before they run it), while all of them store to other parts of
 * the same pages.
 */
#include "rt.h"

const char guest_name[] = "smp_code";

#define HARTS     4
#define FUNCTIONS 48
#define ROUNDS    25
#define CALLS     20

/* Eight functions of two instructions to a page; the rest of the page is data of each hart. */
static u32 code[FUNCTIONS / 8][1024] __attribute__((aligned(4096)));
static volatile u64 round_number;
static volatile u64 finished[HARTS];

static u32 *function(u64 n)
{
    return &code[n / 8][16 * (n % 8)];
}

static void write_all(u64 round)
{
    for (u64 n = 0; n < FUNCTIONS; n++) {
        volatile u32 *at = function(n);
        at[0] = 0x00000513u | (u32)(((round + n) & 0x7ff) << 20); /* addi a0, x0, imm */
        at[1] = 0x00008067u;                                      /* ret */
    }
}

static void call_all(u64 round)
{
    u64 id = self()->id;
    for (u64 i = 0; i < CALLS; i++)
        for (u64 n = 0; n < FUNCTIONS; n++) {
            u64 got = ((u64(*)(void))function(n))();
            if (got != ((round + n) & 0x7ff))
                CHECK_EQ(got, (round + n) & 0x7ff, "hart %lu: function %lu of round %lu", id, n,
                         round);
            ((volatile u32 *)code[n / 8])[512 + 64 * id + i] = (u32)(round + i);
        }
    for (u64 n = 0; n < FUNCTIONS; n += 8)
        for (u64 i = 0; i < CALLS; i++)
            if (code[n / 8][512 + 64 * id + i] != (u32)(round + i))
                CHECK_EQ(code[n / 8][512 + 64 * id + i], round + i, "hart %lu: data", id);
}

static void follow(void)
{
    u64 id = self()->id;
    for (u64 round = 1; round <= ROUNDS; round++) {
        while (round_number != round) {
        }
        __asm__ volatile("fence rw, rw\n fence.i" ::: "memory");
        call_all(round);
        __asm__ volatile("fence rw, rw" ::: "memory");
        finished[id] = round;
    }
}

void guest_main(void)
{
    for (u64 id = 1; id < HARTS; id++)
        start_hart(id, follow);
    for (u64 round = 1; round <= ROUNDS; round++) {
        write_all(round);
        __asm__ volatile("fence rw, rw\n fence.i" ::: "memory");
        round_number = round;
        call_all(round);
        for (u64 id = 1; id < HARTS; id++)
            while (finished[id] != round) {
            }
    }
    for (u64 id = 1; id < HARTS; id++)
        wait_hart(id);
    CHECK_EQ(round_number, ROUNDS, "rounds");
}
