/*
 * F and D: results and flags of every instruction in every rounding mode, static and dynamic
 * (tables from gen/fp_vectors.py); NaN boxing; loads, stores and moves; reserved rounding modes;
 * the FS field's states.  Unprivileged ISA chapters F and D, privileged ISA "Extension Context
 * Status".
 */
#include "rt.h"

const char guest_name[] = "isa_fd";

struct fp_row {
    u64 a, b, c, want;
    u8 rm, flags;
};

struct fp_op {
    const char *name;
    u64 (*fn[6])(u64, u64, u64); /* dynamic, then static rne rtz rdn rup rmm */
    const struct fp_row *rows;
    size_t n;
};

#include "fp_vectors.h"

static void run_row(const struct fp_op *op, const struct fp_row *r, int form)
{
    /* With a static mode frm must not matter: give it another one. */
    csr_write(fcsr, (form ? (r->rm + 1u) % 5 : r->rm) << 5);
    u64 got = op->fn[form](r->a, r->b, r->c), flags = csr_read(fflags);
    CHECK_EQ(got, r->want, "%s%s rm %d 0x%lx 0x%lx 0x%lx", op->name, form ? " static" : "", r->rm,
             r->a, r->b, r->c);
    CHECK_EQ(flags, r->flags, "%s%s flags rm %d 0x%lx 0x%lx 0x%lx", op->name, form ? " static" : "",
             r->rm, r->a, r->b, r->c);
}

static void vectors(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(fp_ops); i++) {
        for (size_t k = 0; k < fp_ops[i].n; k++) {
            const struct fp_row *r = &fp_ops[i].rows[k];
            run_row(&fp_ops[i], r, 0);
            if (fp_ops[i].fn[1 + r->rm]) {
                run_row(&fp_ops[i], r, 1 + r->rm);
            }
        }
    }
}

/* Flags accumulate, and are cleared only by writing them. */
static void accrual(void)
{
    csr_write(fcsr, 0);
    __asm__ volatile("fmv.d.x ft1, %0\n fmv.d.x ft2, x0\n fdiv.d ft0, ft1, ft2\n"
                     "fsqrt.d ft3, ft1\n fdiv.d ft0, ft2, ft2" ::"r"(0x4000000000000000ul));
    CHECK_EQ(csr_read(fflags), 8 | 1 | 16, "DZ, NX and NV accumulate");
    csr_write(frm, 3);
    CHECK_EQ(csr_read(fcsr), 3 << 5 | 25, "fcsr shows frm and fflags");
    csr_write(fflags, 0);
    CHECK_EQ(csr_read(fcsr), 3 << 5, "fflags cleared, frm kept");
    csr_write(fcsr, ~0ul);
    CHECK_EQ(csr_read(fcsr), 0xff, "fcsr has 8 bits");
    csr_write(fflags, ~0ul);
    CHECK_EQ(csr_read(fflags), 0x1f, "fflags has 5 bits");
    CHECK_EQ(csr_read(frm), 7, "frm holds a reserved mode");
    csr_write(fcsr, 0);
}

/* Rounding modes 5 and 6 are reserved, 7 in frm too: "any subsequent attempt to execute a
 * floating-point operation with a dynamic rounding mode will raise an illegal-instruction
 * exception". */
static void reserved_modes(void)
{
    csr_write(fcsr, 0);
    TRY(".4byte 0x0220d053", OUT(), IN()); /* fadd.d ft0, ft1, ft2 with rm = 5 */
    check_trap(C_ILLEGAL, 0x0220d053, "static rm 5");
    TRY(".4byte 0x0220e053", OUT(), IN());
    check_trap(C_ILLEGAL, 0x0220e053, "static rm 6");
    for (u64 rm = 5; rm < 8; rm++) {
        csr_write(frm, rm);
        TRY("fadd.d ft0, ft1, ft2, dyn", OUT(), IN());
        CHECK_EQ(self()->t.cause, C_ILLEGAL, "dynamic with frm %lu", rm);
        TRY("fadd.d ft0, ft1, ft2, rtz", OUT(), IN());
        check_no_trap("static with frm %lu", rm);
        TRY("fmin.d ft0, ft1, ft2\n fsgnj.d ft0, ft1, ft2\n fclass.d a7, ft0", OUT(), IN());
        check_no_trap("without a rounding mode, frm %lu", rm);
    }
    csr_write(fcsr, 0);
    static const u32 bad[] = {
        0x04208053,           /* fmt 2 (half) */ 0x06208053,         /* fmt 3 (quad) */
        0x5a108053,                                                  /* fsqrt.d with rs2 != 0 */
        0x22209053 | 2 << 12,                                        /* fsgnj.d with funct3 3 */
        0x2a20b053,           /* fmin.d with funct3 3 */ 0xa220b053, /* feq.d with funct3 3 */
        0xe220b053, /* fclass.d with rs2 != 0 and funct3 3 */
    };
    static u32 slot[2];
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        slot[0] = bad[i];
        slot[1] = 0x00008067;
        fence_i();
        TRY("jalr %0", OUT(), IN("r"(slot)));
        CHECK_EQ(self()->t.cause, C_ILLEGAL, "reserved encoding 0x%x", bad[i]);
    }
}

#define CANON_S 0xffffffff7fc00000ul

/* A single whose upper half is not all ones counts as the canonical NaN; raw moves do not look. */
static void boxing(void)
{
    static const u64 unboxed[] = {0x3f800000, 0xfffffffe3f800000, 0x7fffffff3f800000,
                                  0x000000007fc00000, 0};
    u64 v, w;
    for (size_t i = 0; i < ARRAY_SIZE(unboxed); i++) {
        u64 u = unboxed[i];
        csr_write(fcsr, 0);
        __asm__ volatile(
            "fmv.d.x ft1, %1\n fmv.w.x ft2, %2\n fadd.s ft0, ft1, ft2\n fmv.x.d %0, ft0"
            : "=r"(v)
            : "r"(u), "r"(0x3f800000));
        CHECK_EQ(v, CANON_S, "fadd.s of 0x%lx", u);
        CHECK_EQ(csr_read(fflags), 0, "fadd.s of 0x%lx flags", u);
        __asm__ volatile(
            "fmv.d.x ft1, %1\n fmv.w.x ft2, x0\n fsgnj.s ft0, ft1, ft2\n fmv.x.d %0, ft0"
            : "=r"(v)
            : "r"(u));
        CHECK_EQ(v, CANON_S, "fsgnj.s of 0x%lx", u);
        __asm__ volatile("fmv.d.x ft1, %1\n fclass.s %0, ft1" : "=r"(v) : "r"(u));
        CHECK_EQ(v, 1 << 9, "fclass.s of 0x%lx", u);
        __asm__ volatile("fmv.d.x ft1, %1\n feq.s %0, ft1, ft1" : "=r"(v) : "r"(u));
        CHECK_EQ(v, 0, "feq.s of 0x%lx", u);
        __asm__ volatile("fmv.d.x ft1, %1\n fcvt.d.s ft0, ft1\n fmv.x.d %0, ft0"
                         : "=r"(v)
                         : "r"(u));
        CHECK_EQ(v, 0x7ff8000000000000ul, "fcvt.d.s of 0x%lx", u);
        __asm__ volatile("fmv.d.x ft1, %1\n fcvt.w.s %0, ft1, rtz" : "=r"(v) : "r"(u));
        CHECK_EQ(v, 0x7fffffff, "fcvt.w.s of 0x%lx", u);
        __asm__ volatile("fmv.d.x ft1, %1\n fmv.x.w %0, ft1" : "=r"(v) : "r"(u));
        CHECK_EQ(v, (u64)(i64)(int)u, "fmv.x.w of 0x%lx", u);
        u32 mem = 0;
        __asm__ volatile("fmv.d.x ft1, %1\n fsw ft1, 0(%0)" ::"r"(&mem), "r"(u) : "memory");
        CHECK_EQ(mem, (u32)u, "fsw of 0x%lx", u);
        u64 wide = 0;
        __asm__ volatile("fmv.d.x ft1, %1\n fsd ft1, 0(%0)" ::"r"(&wide), "r"(u) : "memory");
        CHECK_EQ(wide, u, "fsd of 0x%lx", u);
    }
    u32 one = 0xbf800000;
    __asm__ volatile("flw ft0, 0(%1)\n fmv.x.d %0, ft0" : "=r"(v) : "r"(&one), "m"(one));
    CHECK_EQ(v, 0xffffffffbf800000ul, "flw boxes");
    __asm__ volatile("fmv.w.x ft0, %1\n fmv.x.d %0, ft0" : "=r"(v) : "r"(0x123456789abcdef0ul));
    CHECK_EQ(v, 0xffffffff9abcdef0ul, "fmv.w.x boxes");
    __asm__ volatile("fmv.x.w %0, ft0" : "=r"(w));
    CHECK_EQ(w, 0xffffffff9abcdef0ul, "fmv.x.w sign-extends");
    /* moves keep a signalling NaN's payload */
    __asm__ volatile("fmv.d.x ft0, %1\n fsgnjn.d ft1, ft0, ft0\n fmv.x.d %0, ft1"
                     : "=r"(v)
                     : "r"(0x7ff0000000000123ul));
    CHECK_EQ(v, 0xfff0000000000123ul, "fsgnjn.d of a signalling NaN");
}

/* Misaligned and page-crossing FP accesses; faults leave the register. */
static void memory(void)
{
    static u8 bytes[8192] __attribute__((aligned(4096)));
    for (u64 o = 4085; o < 4100; o++) {
        u64 v;
        __asm__ volatile("fmv.d.x ft0, %1\n fsd ft0, 0(%2)\n fld ft1, 0(%2)\n fmv.x.d %0, ft1"
                         : "=r"(v)
                         : "r"(0x0102030405060708ul + o), "r"(bytes + o)
                         : "memory");
        CHECK_EQ(v, 0x0102030405060708ul + o, "fsd fld at %lu", o);
        __asm__ volatile("flw ft1, 1(%1)\n fmv.x.w %0, ft1" : "=r"(v) : "r"(bytes + o) : "memory");
        CHECK_EQ(v, (0x0102030405060708ul + o) >> 8 & 0xffffffff, "flw at %lu", o + 1);
    }
    u64 v;
    __asm__ volatile("fmv.d.x ft0, %0" ::"r"(0x55ul));
    TRY("fld ft0, 0(%0)", OUT(), IN("r"(0x40000000000ul)));
    check_trap(C_LOAD_ACCESS, 0x40000000000ul, "fld of no memory");
    TRY("fsw ft0, 0(%0)", OUT(), IN("r"(0x40000000000ul)));
    check_trap(C_STORE_ACCESS, 0x40000000000ul, "fsw to no memory");
    __asm__ volatile("fmv.x.d %0, ft0" : "=r"(v));
    CHECK_EQ(v, 0x55, "fld that faulted leaves its register");
}

static void set_fs(u64 fs)
{
    csr_clear(mstatus, MSTATUS_FS);
    csr_set(mstatus, fs << 13);
}

static u64 fs_now(void)
{
    return csr_read(mstatus) >> 13 & 3;
}

static u64 fp_in_mode(u64 a, u64 b)
{
    (void)a, (void)b;
    TRY("fadd.d ft0, ft1, ft2", OUT(), IN());
    return 0;
}

/* FS: Off makes everything illegal; a write to FP state makes it Dirty.  (Reporting Dirty without a
 * write would be allowed too.) */
static void fs_states(void)
{
#define OFF(text)                                                                                  \
    set_fs(0);                                                                                     \
    TRY(text, OUT(), IN("r"(&mem)));                                                               \
    CHECK_EQ(self()->t.cause, C_ILLEGAL, "FS Off: %s", text);                                      \
    CHECK_EQ(fs_now(), 0, "FS stays Off: %s", text);
#define DIRTY(text)                                                                                \
    for (u64 fs = 1; fs < 3; fs++) {                                                               \
        set_fs(fs);                                                                                \
        TRY(text, OUT(), IN("r"(&mem)));                                                           \
        check_no_trap("FS %lu: %s", fs, text);                                                     \
        CHECK_EQ(fs_now(), 3, "FS %lu becomes Dirty: %s", fs, text);                               \
    }
    static u64 mem[2];
    OFF("fld ft0, 0(%0)")
    OFF("fsd ft0, 0(%0)") OFF("flw ft0, 0(%0)") OFF("fsw ft0, 0(%0)") OFF("fadd.d ft0, ft1, ft2")
        OFF("fmadd.s ft0, ft1, ft2, ft3") OFF("fmv.x.d a7, ft0") OFF("fmv.d.x ft0, x0")
            OFF("feq.d a7, ft0, ft1") OFF("fclass.s a7, ft0") OFF("fcvt.d.l ft0, x0")
                OFF("csrr a7, fcsr") OFF("csrr a7, fflags") OFF("csrr a7, frm") OFF("csrw fcsr, x0")
                    OFF(".2byte 0x2108") OFF(".2byte 0xa108") OFF(".2byte 0x2002")
                        DIRTY("fmv.d.x ft0, x0") DIRTY("fadd.d ft0, ft0, ft0, rne")
                            DIRTY("csrw fflags, x0") DIRTY("csrw fcsr, x0") DIRTY("csrw frm, x0")
                                DIRTY("fmv.w.x ft0, x0") DIRTY("fcvt.d.w ft0, x0")
                                    DIRTY("fsgnj.d ft0, ft0, ft0") DIRTY("csrsi fflags, 1")
        /* an instruction that only raises a flag changes fcsr */
        for (u64 fs = 1; fs < 3; fs++)
    {
        set_fs(3);
        csr_write(fcsr, 0);
        __asm__ volatile("fmv.d.x ft0, %0" ::"r"(0x7ff8000000000000ul));
        set_fs(fs);
        __asm__ volatile("flt.d a7, ft0, ft0" ::: "a7");
        CHECK_EQ(fs_now(), 3, "FS %lu becomes Dirty by a flag", fs);
        set_fs(fs);
        u64 v;
        __asm__ volatile("fld ft1, 0(%1)\n csrr %0, sstatus" : "=r"(v) : "r"(mem));
        CHECK_EQ(v >> 13 & 3, 3, "FS %lu becomes Dirty by fld, seen in sstatus", fs);
        CHECK_EQ(v >> 63, 1, "SD with FS Dirty");
    }
    static const enum mode modes[] = {MODE_U, MODE_S};
    for (size_t i = 0; i < 2; i++) {
        set_fs(0);
        run_mode(modes[i], fp_in_mode, 0, 0);
        CHECK_EQ(self()->t.cause, C_ILLEGAL, "FS Off in mode %d", modes[i]);
        set_fs(1);
        run_mode(modes[i], fp_in_mode, 0, 0);
        CHECK_EQ(self()->t.cause, NO_TRAP, "FS Initial in mode %d", modes[i]);
        CHECK_EQ(fs_now(), 3, "FS Dirty from mode %d", modes[i]);
    }
}

void guest_main(void)
{
    csr_set(mstatus, MSTATUS_FS);
    vectors();
    accrual();
    reserved_modes();
    boxing();
    memory();
    fs_states();
}
