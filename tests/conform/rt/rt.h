/*
 * Runtime of the conformance guests.
 *
 * A guest is one C file that defines `guest_main` (hart 0, M-mode, PMP open, everything else as
 * reset left it apart from mtvec and mscratch).  It checks with CHECK*, and returns; the runtime
 * prints one summary line on the UART and ends the run through the test device: 0x5555 when every
 * check passed, status 1 otherwise, status 2 after an unexpected trap.
 *
 * Traps: M-mode traps are recorded in self()->t.  Unless a test armed a recovery address (TRY),
 * entered a mode with `leave_on_trap` or set an interrupt handler, a trap is unexpected and fatal.
 */
#ifndef RT_H
#define RT_H

#include <stdint.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdarg.h>
#include "layout.h"
#include "csr.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;

enum mode { MODE_U = 0, MODE_S = 1, MODE_M = 3 };

#define NO_TRAP ((u64)0xdead)

struct trap {
    u64 cause; /* NO_TRAP when nothing trapped since trap_clear */
    u64 tval;
    u64 epc;
    u64 status; /* xstatus as the handler found it */
    u64 from;   /* xPP */
    u64 by;     /* MODE_M or MODE_S: who handled it */
    u64 count;  /* traps since trap_clear */
};

struct hart {
    u64 recover; /* where to continue after a recorded trap; 0: not armed */
    u64 at;      /* address of the instruction TRY expects to trap */
    u64 frame[32];
    u64 sframe[32];
    u64 ctx[15]; /* ra sp gp s0..s11 of the M-mode caller of enter() */
    u64 trap_sp;
    u64 strap_sp;
    struct trap t;
    u64 id;
    u64 entered;       /* enter() is active */
    u64 entered_mie;   /* mstatus.MIE to restore when it ends */
    u64 leave_on_trap; /* any trap ends enter() */
    u64 in_trap;
    void (*on_irq)(u64 code); /* M-mode interrupt handler; must quiet its source */
    void (*on_sirq)(u64 code);
    void (*start)(void); /* other harts: function to run, set by start_hart */
    u64 done;            /* and cleared here when it returned */
    u64 exit_regs[32];   /* all registers at the trap that leave_on_trap made the last one */
    u64 scratch[4];      /* for guests */
} __attribute__((aligned(HART_SIZE)));

static inline struct hart *self(void)
{
    struct hart *h;
    __asm__ volatile("mv %0, tp" : "=r"(h));
    return h;
}

extern struct hart harts[MAX_HARTS];
extern u64 fdt_address;

void guest_main(void);
extern const char guest_name[];

/* ---- reporting ---------------------------------------------------------------------------- */
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void check_eq(u64 got, u64 want, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Ends the run as failed at once. */
void fatal(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
void finish(void) __attribute__((noreturn));

#define CHECK_EQ(got, want, ...) check_eq((u64)(got), (u64)(want), __VA_ARGS__)
#define CHECK(cond, ...)         check_eq((u64) !!(cond), 1, __VA_ARGS__)
#define ARRAY_SIZE(a)            (sizeof(a) / sizeof((a)[0]))

/* ---- traps -------------------------------------------------------------------------------- */
static inline void trap_clear(void)
{
    struct trap *t = &self()->t;
    t->cause = NO_TRAP;
    t->tval = t->epc = t->status = t->from = t->by = t->count = 0;
    __asm__ volatile("" ::: "memory");
}

/* Run one instruction (or a few; the one expected to trap first) that may trap, in whatever mode we
 * are.  After it self()->t tells what happened and self()->at is the instruction's address. */
#define OUT(...) __VA_ARGS__
#define IN(...)  __VA_ARGS__
#define TRY(insn, outs, ins)                                                                       \
    do {                                                                                           \
        trap_clear();                                                                              \
        __asm__ volatile("la t5, 98f\n sd t5, 8(tp)\n la t5, 99f\n sd t5, 0(tp)\n"                 \
                         "98: " insn "\n99: sd zero, 0(tp)\n"                                      \
                         : outs:ins                                                                \
                         : "t5", "ra", "a7", "memory");                                            \
    } while (0)

/* The last TRY trapped once with this cause and tval, at its own instruction. */
void check_trap(u64 cause, u64 tval, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void check_no_trap(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- modes -------------------------------------------------------------------------------- */
/* Start `pc` in `mode` with these registers; returns a0 of the EXIT ecall (or, with leave_on_trap,
 * of the trapping moment).  M-mode only. */
u64 enter(enum mode mode, u64 pc, const u64 regs[32]);
/* Call a C function in `mode` on a stack of its own.  Memory must be reachable there. */
u64 run_mode(enum mode mode, u64 (*fn)(u64, u64), u64 a0, u64 a1);
/* Install s_trap as S-mode's handler (M-mode caller). */
void s_trap_install(void);
void s_trap(void);
void m_trap(void);

/* ---- machine ------------------------------------------------------------------------------ */
#define UART_BASE  0x10000000ul
#define TEST_BASE  0x00100000ul
#define CLINT_BASE 0x02000000ul
#define PLIC_BASE  0x0c000000ul
#define RTC_BASE   0x00101000ul
#define ECAM_BASE  0x30000000ul
#define RAM_BASE   0x80000000ul
#define RAM_SIZE   0x02000000ul
#define TIMEBASE   10000000ul /* Hz, of mtime */

#define MSIP(h)     ((volatile u32 *)(CLINT_BASE + 4ul * (h)))
#define MTIMECMP(h) ((volatile u64 *)(CLINT_BASE + 0x4000 + 8ul * (h)))
#define MTIME       ((volatile u64 *)(CLINT_BASE + 0xbff8))

static inline u32 read32(u64 a)
{
    return *(volatile u32 *)a;
}
static inline void write32(u64 a, u32 v)
{
    *(volatile u32 *)a = v;
}
static inline u8 read8(u64 a)
{
    return *(volatile u8 *)a;
}
static inline void write8(u64 a, u8 v)
{
    *(volatile u8 *)a = v;
}

/* Start fn on another hart (woken by msip); wait_hart until it returned. */
void start_hart(u64 id, void (*fn)(void));
void wait_hart(u64 id);

/* Write instructions to memory and make this hart see them. */
static inline void fence_i(void)
{
    __asm__ volatile("fence.i" ::: "memory");
}

void *memset(void *d, int c, size_t n);
void *memcpy(void *d, const void *s, size_t n);

/* xorshift64*: same sequence in every run. */
static inline u64 rnd(u64 *state)
{
    u64 x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1dull;
}

#endif
