/*
 * A typical integer loop of about 2 G instructions (adds, xors, shifts, multiplies, loads, stores
 * and branches, some of them unpredictable), to measure an engine with.  Prints the retired
 * instructions and the time in ticks of the time base; bench/ divides them.
 */
#include "rt.h"

const char guest_name[] = "loop_mips";

static u64 table[4096];

static __attribute__((noinline)) u64 loop(u64 rounds)
{
    u64 a = 0x9e3779b97f4a7c15ul, sum = 0;
    for (u64 n = 0; n < rounds; n++) {
        for (u64 i = 0; i < ARRAY_SIZE(table); i++) {
            a ^= a << 13;
            a ^= a >> 7;
            a ^= a << 17;
            u64 v = table[i] + (a & 0xffff);
            if (a & 0x100) {
                v = v * 31 + i;
            } else {
                v ^= sum >> 3;
            }
            table[i] = v;
            sum += v;
        }
    }
    return sum;
}

void guest_main(void)
{
    /* The same sequence by another route would cost as long again, so only its effect on a small
     * run is checked: the loop is a function of nothing but its argument. */
    u64 first = loop(1);
    memset(table, 0, sizeof table);
    CHECK_EQ(loop(1), first, "the loop is deterministic");
    u64 t0 = *MTIME, i0 = csr_read(minstret);
    u64 sum = loop(25000);
    u64 i1 = csr_read(minstret), t1 = *MTIME;
    CHECK(sum != 0, "the loop computes something");
    print("instructions %lu ticks %lu timebase %lu mips %lu\n", i1 - i0, t1 - t0, TIMEBASE,
          (i1 - i0) / ((t1 - t0) / (TIMEBASE / 1000) + 1) / 1000);
}
