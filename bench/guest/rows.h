/* SPDX-License-Identifier: MIT
 *
 * The benchmark's rows. Each does a fixed amount of work, whatever it runs on, and returns a
 * checksum of what it computed: equal on every system, or the run is worth nothing.
 */
#ifndef BENCH_ROWS_H
#define BENCH_ROWS_H

#include <stdint.h>

/* The measured time begins again: called by a row once what it works on is laid out. */
void start_clock(void);

/* The measured time is over: called by a row that has more to check. */
void stop_clock(void);

/* Ends the program, with the sentence "NAME: what: errno's text". */
_Noreturn void fail(const char *what);

/* Equal everywhere, unlike rand(); never returns zero for a state that is not. */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* FNV-1a over whole words: order matters. */
static inline uint64_t mix(uint64_t sum, uint64_t value)
{
    return (sum ^ value) * UINT64_C(0x100000001b3);
}

uint64_t row_sieve(void);
uint64_t row_fib(void);
uint64_t row_matmul(void);
uint64_t row_hash(void);
uint64_t row_sort(void);
uint64_t row_getppid(void);
uint64_t row_fork(void);
uint64_t row_touch(void);
uint64_t row_pipe(void);
uint64_t row_integer(void);
uint64_t row_sha256(void);
uint64_t row_string(void);
uint64_t row_nbody(void);
uint64_t row_bytecode(void);
uint64_t row_switch(void);
uint64_t row_alone(void);
uint64_t row_together(void);

/* The rows of io.c: a rate, and what the machine's devices have to do with it. */
struct io_row;
const struct io_row *find_io_row(const char *name); /* NULL: none is called so */
uint64_t run_io_row(const struct io_row *row);
void list_io_rows(void); /* "NAME amount unit what it does", a line each */

#endif
