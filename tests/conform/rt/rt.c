/*
 * Conformance runtime: console, checks, trap handling, mode entry, other harts.
 *
 * Invariants: a hart's M-mode handler runs on a stack of its own with translation off; a trap
 * inside it is fatal.  Failed checks are counted by every hart and do not stop the guest, so one
 * run lists all of them.
 */
#include "rt.h"

_Static_assert(offsetof(struct hart, recover) == H_RECOVER, "layout.h");
_Static_assert(offsetof(struct hart, at) == H_AT, "layout.h");
_Static_assert(offsetof(struct hart, frame) == H_FRAME, "layout.h");
_Static_assert(offsetof(struct hart, sframe) == H_SFRAME, "layout.h");
_Static_assert(offsetof(struct hart, ctx) == H_CTX, "layout.h");
_Static_assert(offsetof(struct hart, trap_sp) == H_TRAP_SP, "layout.h");
_Static_assert(offsetof(struct hart, strap_sp) == H_STRAP_SP, "layout.h");
_Static_assert(sizeof(struct hart) == HART_SIZE, "layout.h");

struct hart harts[MAX_HARTS];
u8 stacks[MAX_HARTS][STACK_SIZE] __attribute__((aligned(16)));
static u8 trap_stacks[MAX_HARTS][4096] __attribute__((aligned(16)));
static u8 strap_stacks[MAX_HARTS][4096] __attribute__((aligned(16)));
static u8 low_stacks[MAX_HARTS][8192] __attribute__((aligned(16)));

u64 fdt_address;
static u64 checks, failures;

/* Enough for the runner to tell every failure from the known ones of an oracle. */
enum { MAX_REPORTED = 20000 };

/* ---- console ------------------------------------------------------------------------------ */
static void put(char c)
{
    while (!(read8(UART_BASE + 5) & 0x20)) {
    }
    write8(UART_BASE, (u8)c);
}

static void put_number(u64 v, unsigned base, bool neg)
{
    char buf[24];
    int n = 0;
    do {
        buf[n++] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    if (neg) {
        put('-');
    }
    while (n) {
        put(buf[--n]);
    }
}

static void vprint(const char *fmt, va_list ap)
{
    for (; *fmt; fmt++) {
        if (*fmt != '%') {
            put(*fmt);
            continue;
        }
        bool wide = false;
        while (*++fmt == 'l') {
            wide = true;
        }
        if (*fmt == 's') {
            for (const char *s = va_arg(ap, const char *); *s; s++) {
                put(*s);
            }
        } else if (*fmt == 'c') {
            put((char)va_arg(ap, int));
        } else if (*fmt == 'd') {
            i64 v = wide ? va_arg(ap, i64) : va_arg(ap, int);
            put_number(v < 0 ? 0 - (u64)v : (u64)v, 10, v < 0);
        } else if (*fmt == 'u' || *fmt == 'x') {
            u64 v = wide ? va_arg(ap, u64) : va_arg(ap, unsigned);
            put_number(v, *fmt == 'x' ? 16 : 10, false);
        } else {
            put(*fmt);
        }
    }
}

void print(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
}

/* ---- checks and the end ------------------------------------------------------------------- */
static u64 print_lock;

static void lock(void)
{
    while (__atomic_exchange_n(&print_lock, 1, __ATOMIC_ACQUIRE)) {
    }
}

static void unlock(void)
{
    __atomic_store_n(&print_lock, 0, __ATOMIC_RELEASE);
}

/* The runner reads this line; the name ends at the colon. */
static void report(u64 got, u64 want, const char *what, const char *fmt, va_list ap)
{
    u64 n = __atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);
    if (n > MAX_REPORTED) {
        return;
    }
    lock();
    print("not ok %s ", guest_name);
    vprint(fmt, ap);
    print(": %s got 0x%lx want 0x%lx\n", what, got, want);
    unlock();
}

static bool tally(bool ok)
{
    __atomic_add_fetch(&checks, 1, __ATOMIC_RELAXED);
    return ok;
}

void check_eq(u64 got, u64 want, const char *fmt, ...)
{
    if (tally(got == want)) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    report(got, want, "value", fmt, ap);
    va_end(ap);
}

static void end_run(u32 word)
{
    write32(TEST_BASE, word);
    for (;;) {
        __asm__ volatile("wfi");
    }
}

void finish(void)
{
    lock();
    print("%s %s checks=%lu failures=%lu\n", failures ? "FAIL" : "PASS", guest_name, checks,
          failures);
    end_run(failures ? (1u << 16) | 0x3333 : 0x5555);
    __builtin_unreachable();
}

void fatal(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    print("not ok %s fatal: ", guest_name);
    vprint(fmt, ap);
    print("\nFAIL %s checks=%lu failures=%lu\n", guest_name, checks, failures + 1);
    va_end(ap);
    end_run((2u << 16) | 0x3333);
    __builtin_unreachable();
}

static const char *trap_mismatch(u64 cause, u64 tval, u64 *got, u64 *want)
{
    const struct hart *h = self();
    const struct {
        const char *what;
        u64 got, want;
    } f[] = {
        {"cause", h->t.cause, cause},
        {"tval", h->t.tval, tval},
        {"epc", h->t.epc, h->at},
        {"trap count", h->t.count, 1},
    };
    for (size_t i = 0; i < ARRAY_SIZE(f); i++) {
        if (f[i].got != f[i].want) {
            *got = f[i].got;
            *want = f[i].want;
            return f[i].what;
        }
    }
    return NULL;
}

void check_trap(u64 cause, u64 tval, const char *fmt, ...)
{
    u64 got, want;
    const char *what = trap_mismatch(cause, tval, &got, &want);
    if (tally(!what)) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    report(got, want, what, fmt, ap);
    va_end(ap);
}

void check_no_trap(const char *fmt, ...)
{
    if (tally(self()->t.cause == NO_TRAP)) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    report(self()->t.cause, NO_TRAP, "cause", fmt, ap);
    va_end(ap);
}

/* ---- traps -------------------------------------------------------------------------------- */
static void leave(struct hart *h, u64 value)
{
    static const u8 ctx_regs[15] = {1, 2, 3, 8, 9, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27};
    for (size_t i = 0; i < ARRAY_SIZE(ctx_regs); i++) {
        h->frame[ctx_regs[i]] = h->ctx[i];
    }
    h->frame[4] = (u64)h;
    h->frame[10] = value;
    csr_write(mepc, h->ctx[0]);
    csr_clear(mstatus, MSTATUS_MPIE | MSTATUS_MPRV);
    csr_set(mstatus, MSTATUS_MPP | (h->entered_mie ? MSTATUS_MPIE : 0));
    h->entered = 0;
    h->leave_on_trap = 0;
}

static void record(struct hart *h, u64 cause, u64 tval, u64 epc, u64 status, u64 by)
{
    h->t.cause = cause;
    h->t.tval = tval;
    h->t.epc = epc;
    h->t.status = status;
    h->t.from = by == MODE_M ? (status >> 11) & 3 : (status >> 8) & 1;
    h->t.by = by;
    h->t.count++;
}

void m_trap_c(void);
void m_trap_c(void)
{
    struct hart *h = self();
    u64 cause = csr_read(mcause), tval = csr_read(mtval), epc = csr_read(mepc);
    u64 status = csr_read(mstatus);
    if (h->in_trap) {
        fatal("trap inside the M-mode handler: cause 0x%lx tval 0x%lx epc 0x%lx", cause, tval, epc);
    }
    h->in_trap = 1;
    if (h->entered && (cause == C_ECALL_U || cause == C_ECALL_S || cause == C_ECALL_M) &&
        h->frame[17] == EXIT_MAGIC) {
        leave(h, h->frame[10]);
        h->in_trap = 0;
        return;
    }
    record(h, cause, tval, epc, status, MODE_M);
    if ((cause >> 63) && h->on_irq) {
        h->on_irq(cause & 0xff);
    } else if (h->entered && h->leave_on_trap) {
        memcpy(h->exit_regs, h->frame, sizeof h->exit_regs);
        leave(h, h->frame[10]);
    } else if (h->recover) {
        csr_write(mepc, h->recover);
        csr_clear(mstatus, MSTATUS_MPRV);
    } else {
        fatal("unexpected trap: cause 0x%lx tval 0x%lx epc 0x%lx mstatus 0x%lx hart %lu", cause,
              tval, epc, status, h->id);
    }
    h->in_trap = 0;
}

void s_trap_c(void);
void s_trap_c(void)
{
    struct hart *h = self();
    u64 cause = csr_read(scause), tval = csr_read(stval), epc = csr_read(sepc);
    record(h, cause, tval, epc, csr_read(sstatus), MODE_S);
    if ((cause >> 63) && h->on_sirq) {
        h->on_sirq(cause & 0xff);
    } else if (h->recover) {
        csr_write(sepc, h->recover);
    } else {
        fatal("unexpected S-mode trap: cause 0x%lx tval 0x%lx epc 0x%lx", cause, tval, epc);
    }
}

void s_trap_install(void)
{
    csr_write(stvec, (u64)s_trap);
    csr_write(sscratch, (u64)self());
}

/* ---- modes -------------------------------------------------------------------------------- */
u64 enter_asm(const u64 regs[32]);
void run_mode_exit(void);

u64 enter(enum mode mode, u64 pc, const u64 regs[32])
{
    struct hart *h = self();
    u64 mie = csr_read(mstatus) & MSTATUS_MIE;
    csr_clear(mstatus, MSTATUS_MIE | MSTATUS_MPP | MSTATUS_MPIE);
    csr_set(mstatus, MPP(mode) | (mie ? MSTATUS_MPIE : 0));
    csr_write(mepc, pc);
    h->entered_mie = mie;
    h->entered = 1;
    return enter_asm(regs);
}

u64 run_mode(enum mode mode, u64 (*fn)(u64, u64), u64 a0, u64 a1)
{
    struct hart *h = self();
    u64 regs[32];
    memset(regs, 0, sizeof regs);
    regs[1] = (u64)run_mode_exit;
    regs[2] = (u64)low_stacks[h->id] + sizeof low_stacks[0];
    regs[4] = (u64)h;
    regs[10] = a0;
    regs[11] = a1;
    return enter(mode, (u64)fn, regs);
}

/* ---- harts -------------------------------------------------------------------------------- */
static void open_pmp(void)
{
    csr_write(pmpaddr0, -1);
    csr_write(pmpcfg0, 0x1f);
}

void rt_main(u64 id, u64 fdt);
void rt_main(u64 id, u64 fdt)
{
    struct hart *h = self();
    h->id = id;
    h->trap_sp = (u64)trap_stacks[id] + sizeof trap_stacks[0];
    h->strap_sp = (u64)strap_stacks[id] + sizeof strap_stacks[0];
    trap_clear();
    open_pmp();
    if (id == 0) {
        fdt_address = fdt;
        guest_main();
        finish();
    }
    csr_set(mie, BIT(IRQ_MSI));
    for (;;) {
        void (*fn)(void) = __atomic_load_n(&h->start, __ATOMIC_ACQUIRE);
        if (!fn) {
            __asm__ volatile("wfi");
            continue;
        }
        /* The signal may still be on its way; left alone it would interrupt fn. */
        while (!*MSIP(id)) {
        }
        *MSIP(id) = 0;
        h->on_irq = NULL;
        fn();
        __atomic_store_n(&h->start, NULL, __ATOMIC_RELAXED);
        __atomic_store_n(&h->done, 1, __ATOMIC_RELEASE);
    }
}

void start_hart(u64 id, void (*fn)(void))
{
    __atomic_store_n(&harts[id].done, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&harts[id].start, fn, __ATOMIC_RELEASE);
    __asm__ volatile("fence w, o" ::: "memory");
    *MSIP(id) = 1;
}

void wait_hart(u64 id)
{
    while (!__atomic_load_n(&harts[id].done, __ATOMIC_ACQUIRE)) {
    }
}

/* ---- what the compiler may call ----------------------------------------------------------- */
void *memset(void *d, int c, size_t n)
{
    u8 *p = d;
    u64 word = (u8)c * 0x0101010101010101ul;
    for (; !((u64)p & 7) && n >= 8; n -= 8, p += 8) {
        *(u64 *)p = word;
    }
    while (n--) {
        *p++ = (u8)c;
    }
    return d;
}

void *memcpy(void *d, const void *s, size_t n)
{
    u8 *p = d;
    const u8 *q = s;
    for (; !(((u64)p | (u64)q) & 7) && n >= 8; n -= 8, p += 8, q += 8) {
        *(u64 *)p = *(const u64 *)q;
    }
    while (n--) {
        *p++ = *q++;
    }
    return d;
}
