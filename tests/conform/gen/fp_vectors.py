#!/usr/bin/env python3
"""Writes fp_vectors.h: F and D instructions with their results and accrued flags.

Everything is computed here from IEEE 754-2008 and the F and D chapters in exact rational arithmetic
(fractions.Fraction) and one rounding function; no floating-point unit is asked.  Tininess is detected
after rounding and NaN results are canonical, as RISC-V has it.
"""
import math
import random
import sys
from fractions import Fraction

NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16
RNE, RTZ, RDN, RUP, RMM = range(5)


class Fmt:
    def __init__(self, name, bits, p, emax):
        self.name, self.bits, self.p, self.emax, self.emin = name, bits, p, emax, 1 - emax
        self.frac_bits = p - 1
        self.sign = 1 << (bits - 1)
        self.inf = ((1 << (bits - p)) - 1) << self.frac_bits
        self.nan = self.inf | 1 << (self.frac_bits - 1)
        self.max = self.inf - 1

    def is_nan(self, b):
        return (b & ~self.sign) > self.inf

    def is_snan(self, b):
        return self.is_nan(b) and not b >> (self.frac_bits - 1) & 1

    def is_inf(self, b):
        return (b & ~self.sign) == self.inf

    def neg(self, b):
        return bool(b & self.sign)

    def value(self, b):
        """Exact value of a finite number."""
        e, f = (b & ~self.sign) >> self.frac_bits, b & ((1 << self.frac_bits) - 1)
        m, q = (f, self.emin) if e == 0 else (f | 1 << self.frac_bits, e - self.emax)
        v = Fraction(m) * Fraction(2) ** (q - self.frac_bits)
        return -v if self.neg(b) else v


S, D = Fmt("s", 32, 24, 127), Fmt("d", 64, 53, 1023)


def floor_log2(x):
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e if Fraction(2) ** e <= x else e - 1


def round_int(x, rm, neg):
    """|x| >= 0 to an integer; (integer, inexact)."""
    n = x.numerator // x.denominator
    rem = x - n
    if rem == 0:
        return n, False
    half = Fraction(1, 2)
    up = {RNE: rem > half or (rem == half and n & 1), RTZ: False, RDN: neg, RUP: not neg,
          RMM: rem >= half}[rm]
    return n + (1 if up else 0), True


def encode(x, rm, fmt, zero_neg=False):
    """Round the exact value x into fmt: (bits, flags)."""
    if x == 0:
        return (fmt.sign if zero_neg else 0), 0
    neg, x = x < 0, abs(x)
    s = fmt.sign if neg else 0
    e = floor_log2(x)
    q = max(e, fmt.emin) - fmt.frac_bits
    n, inexact = round_int(x / Fraction(2) ** q, rm, neg)
    v = n * Fraction(2) ** q
    flags = NX if inexact else 0
    if v >= Fraction(2) ** (fmt.emax + 1):
        to_inf = {RNE: True, RMM: True, RTZ: False, RDN: neg, RUP: not neg}[rm]
        return s | (fmt.inf if to_inf else fmt.max), OF | NX
    if inexact:
        u, _ = round_int(x / Fraction(2) ** (e - fmt.frac_bits), rm, neg)
        if u * Fraction(2) ** (e - fmt.frac_bits) < Fraction(2) ** fmt.emin:
            flags |= UF
    if n == 0:
        return s, flags
    if v < Fraction(2) ** fmt.emin:
        return s | n, flags
    e = floor_log2(v)
    m = v / Fraction(2) ** (e - fmt.frac_bits)
    return s | (e + fmt.emax) << fmt.frac_bits | (m.numerator & ((1 << fmt.frac_bits) - 1)), flags


def nan_in(fmt, *ops):
    """Common NaN rule: (result or None, flags)."""
    nv = NV if any(fmt.is_snan(o) for o in ops) else 0
    return (fmt.nan, nv) if any(fmt.is_nan(o) for o in ops) else (None, 0)


def add(fmt, rm, a, b):
    r, fl = nan_in(fmt, a, b)
    if r is not None:
        return r, fl
    if fmt.is_inf(a) or fmt.is_inf(b):
        if fmt.is_inf(a) and fmt.is_inf(b) and a != b:
            return fmt.nan, NV
        return (a if fmt.is_inf(a) else b), 0
    x = fmt.value(a) + fmt.value(b)
    both = fmt.neg(a) and fmt.neg(b)
    zero_neg = both or (rm == RDN and fmt.neg(a) != fmt.neg(b)) or \
        (rm == RDN and fmt.value(a) != 0)
    return encode(x, rm, fmt, zero_neg)


def sub(fmt, rm, a, b):
    return add(fmt, rm, a, b if fmt.is_nan(b) else b ^ fmt.sign)


def mul(fmt, rm, a, b):
    r, fl = nan_in(fmt, a, b)
    if r is not None:
        return r, fl
    neg = fmt.neg(a) != fmt.neg(b)
    if fmt.is_inf(a) or fmt.is_inf(b):
        if (a & ~fmt.sign) == 0 or (b & ~fmt.sign) == 0:
            return fmt.nan, NV
        return fmt.inf | (fmt.sign if neg else 0), 0
    return encode(fmt.value(a) * fmt.value(b), rm, fmt, neg)


def div(fmt, rm, a, b):
    r, fl = nan_in(fmt, a, b)
    if r is not None:
        return r, fl
    neg = fmt.sign if fmt.neg(a) != fmt.neg(b) else 0
    if fmt.is_inf(a):
        return (fmt.nan, NV) if fmt.is_inf(b) else (fmt.inf | neg, 0)
    if fmt.is_inf(b):
        return neg, 0
    if (b & ~fmt.sign) == 0:
        return (fmt.nan, NV) if (a & ~fmt.sign) == 0 else (fmt.inf | neg, DZ)
    return encode(fmt.value(a) / fmt.value(b), rm, fmt, bool(neg))


def sqrt(fmt, rm, a):
    r, fl = nan_in(fmt, a)
    if r is not None:
        return r, fl
    if (a & ~fmt.sign) == 0:
        return a, 0
    if fmt.neg(a):
        return fmt.nan, NV
    if fmt.is_inf(a):
        return a, 0
    k = 1200  # far beyond any rounding boundary
    n = fmt.value(a) * 4 ** k
    assert n.denominator == 1
    s = math.isqrt(n.numerator)
    x = Fraction(s) if s * s == n else Fraction(2 * s + 1, 2)
    return encode(x / 2 ** k, rm, fmt)


def fma(fmt, rm, a, b, c, neg_product=False, neg_c=False):
    nv = NV if any(fmt.is_snan(o) for o in (a, b, c)) else 0
    inf0 = (fmt.is_inf(a) and (b & ~fmt.sign) == 0) or (fmt.is_inf(b) and (a & ~fmt.sign) == 0)
    if inf0:
        return fmt.nan, NV  # also when c is a quiet NaN
    if any(fmt.is_nan(o) for o in (a, b, c)):
        return fmt.nan, nv
    pneg = (fmt.neg(a) != fmt.neg(b)) != neg_product
    cneg = fmt.neg(c) != neg_c
    if fmt.is_inf(a) or fmt.is_inf(b):
        if fmt.is_inf(c) and cneg != pneg:
            return fmt.nan, NV
        return fmt.inf | (fmt.sign if pneg else 0), 0
    if fmt.is_inf(c):
        return fmt.inf | (fmt.sign if cneg else 0), 0
    p = abs(fmt.value(a) * fmt.value(b)) * (-1 if pneg else 1)
    z = abs(fmt.value(c)) * (-1 if cneg else 1)
    zero_neg = (pneg and cneg) or (rm == RDN and (pneg != cneg))
    return encode(p + z, rm, fmt, zero_neg)


def minmax(fmt, a, b, want_max):
    nv = NV if fmt.is_snan(a) or fmt.is_snan(b) else 0
    if fmt.is_nan(a) and fmt.is_nan(b):
        return fmt.nan, nv
    if fmt.is_nan(a):
        return b, nv
    if fmt.is_nan(b):
        return a, nv
    def key(x):
        v = math.inf if fmt.is_inf(x) else fmt.value(x)
        v = -math.inf if fmt.is_inf(x) and fmt.neg(x) else v
        return (v, 0 if fmt.neg(x) else 1)
    return (max if want_max else min)((a, b), key=key), 0


def compare(fmt, kind, a, b):
    if fmt.is_nan(a) or fmt.is_nan(b):
        signal = kind != "feq" or fmt.is_snan(a) or fmt.is_snan(b)
        return 0, NV if signal else 0
    def v(x):
        return (-math.inf if fmt.neg(x) else math.inf) if fmt.is_inf(x) else fmt.value(x)
    x, y = v(a), v(b)
    return int({"feq": x == y, "flt": x < y, "fle": x <= y}[kind]), 0


def classify(fmt, a):
    if fmt.is_nan(a):
        return (1 << 8) if fmt.is_snan(a) else (1 << 9)
    m = a & ~fmt.sign
    kind = 0 if m == fmt.inf else 1 if m >> fmt.frac_bits else 2 if m else 3
    return 1 << (kind if fmt.neg(a) else 7 - kind)


def to_int(fmt, rm, a, bits, signed):
    lo, hi = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    def out(v):
        v &= (1 << bits) - 1
        if bits == 32 and v >> 31:  # W and WU results are sign-extended
            v |= 0xffffffff00000000
        return v
    if fmt.is_nan(a) or (fmt.is_inf(a) and not fmt.neg(a)):
        return out(hi), NV
    if fmt.is_inf(a):
        return out(lo), NV
    x = fmt.value(a)
    n, inexact = round_int(abs(x), rm, x < 0)
    n = -n if x < 0 else n
    if n < lo or n > hi:
        return out(lo if n < lo else hi), NV
    return out(n), NX if inexact else 0


def from_int(fmt, rm, a, bits, signed):
    a &= (1 << bits) - 1
    if signed and a >> (bits - 1):
        a -= 1 << bits
    return encode(Fraction(a), rm, fmt)


def convert(src, dst, rm, a):
    if src.is_nan(a):
        return dst.nan, NV if src.is_snan(a) else 0
    neg = dst.sign if src.neg(a) else 0
    if src.is_inf(a):
        return dst.inf | neg, 0
    return encode(src.value(a), rm, dst, bool(neg))


def corners(fmt):
    one = fmt.emax << fmt.frac_bits
    pos = [0, 1, (1 << fmt.frac_bits) - 1, 1 << fmt.frac_bits, one, one + 1, one - 1,
           one + (1 << (fmt.frac_bits - 1)), one + (3 << fmt.frac_bits) + 12345, fmt.max, fmt.inf,
           (fmt.emax + 31 << fmt.frac_bits), one // 2 + 777]
    return pos + [p | fmt.sign for p in pos] + [fmt.nan, fmt.inf | 1, fmt.nan | fmt.sign | 5]


BOX = 0xffffffff00000000


class Writer:
    def __init__(self):
        self.out, self.ops = [], []

    def op(self, name, text, fmt_in, int_in, fmt_out, rm, rows):
        """rows: (rm, a, b, c, want, flags); text uses {r} for the rounding-mode operand."""
        sym = "f_" + name.replace(".", "_")
        load = []
        for reg, arg in (("ft1", "a0"), ("ft2", "a1"), ("ft3", "a2")):
            if not int_in:
                load.append(("fmv.w.x %s, %s" if fmt_in is S else "fmv.d.x %s, %s") % (reg, arg))
        # Results leave as 64 raw bits, so that NaN boxing shows.
        store = ["fmv.x.d a0, ft0"] if fmt_out else []
        syms = []
        for r, suffix in [("dyn", "")] + ([(m, "_" + m) for m in
                                            ("rne", "rtz", "rdn", "rup", "rmm")] if rm else []):
            body = load + [text.format(r=", " + r if rm else "")] + store + ["ret"]
            self.out.append('__asm__(".text\\n.balign 4\\n%s%s:\\n%s\\n");' %
                            (sym, suffix, "\\n".join(body)))
            self.out.append("u64 %s%s(u64, u64, u64);" % (sym, suffix))
            syms.append(sym + suffix)
        syms += ["0"] * (6 - len(syms))
        self.out.append("static const struct fp_row w_%s[] = {%s};" % (sym, ",".join(
            "{0x%xul,0x%xul,0x%xul,0x%xul,%d,%d}" %
            (a, b, c, (want | BOX if fmt_out is S else want), m, fl)
            for m, a, b, c, want, fl in rows)))
        self.ops.append('{"%s", {%s}, w_%s, %d}' % (name, ", ".join(syms), sym, len(rows)))


def main():
    rng = random.Random(20240411)
    wr = Writer()
    modes = (RNE, RTZ, RDN, RUP, RMM)
    for fmt in (S, D):
        n, cs = fmt.name, corners(fmt)
        rand = [rng.getrandbits(fmt.bits) for _ in range(12)]
        near = [((fmt.emax + rng.randrange(-40, 40)) << fmt.frac_bits) |
                rng.getrandbits(fmt.frac_bits) for _ in range(12)]
        values = cs + rand + near
        pairs = [(a, b) for a in cs for b in cs] + \
                [(rng.choice(values), rng.choice(values)) for _ in range(300)]
        triples = [(rng.choice(values), rng.choice(values), rng.choice(values))
                   for _ in range(500)] + \
                  [(cs[10], 0, q) for q in (cs[-3], cs[-2], cs[4])] + \
                  [(a, b, mul(fmt, RNE, a, b)[0] ^ fmt.sign) for a in near for b in near[:4]]
        for name, f in (("fadd", add), ("fsub", sub), ("fmul", mul), ("fdiv", div)):
            wr.op(name + "." + n, name + "." + n + " ft0, ft1, ft2{r}", fmt, False, fmt, True,
                  [(m, a, b, 0) + f(fmt, m, a, b) for m in modes for a, b in pairs])
        wr.op("fsqrt." + n, "fsqrt." + n + " ft0, ft1{r}", fmt, False, fmt, True,
              [(m, a, 0, 0) + sqrt(fmt, m, a) for m in modes for a in values])
        for name, np, nc in (("fmadd", False, False), ("fmsub", False, True),
                             ("fnmsub", True, False), ("fnmadd", True, True)):
            wr.op(name + "." + n, name + "." + n + " ft0, ft1, ft2, ft3{r}", fmt, False, fmt, True,
                  [(m, a, b, c) + fma(fmt, m, a, b, c, np, nc) for m in modes
                   for a, b, c in triples])
        for name, mx in (("fmin", False), ("fmax", True)):
            wr.op(name + "." + n, name + "." + n + " ft0, ft1, ft2", fmt, False, fmt, False,
                  [(0, a, b, 0) + minmax(fmt, a, b, mx) for a, b in pairs])
        for name in ("feq", "flt", "fle"):
            wr.op(name + "." + n, name + "." + n + " a0, ft1, ft2", fmt, False, None, False,
                  [(0, a, b, 0) + compare(fmt, name, a, b) for a, b in pairs])
        wr.op("fclass." + n, "fclass." + n + " a0, ft1", fmt, False, None, False,
              [(0, a, 0, 0, classify(fmt, a), 0) for a in values])
        for name, f in (("fsgnj", lambda a, b: b & fmt.sign),
                        ("fsgnjn", lambda a, b: ~b & fmt.sign),
                        ("fsgnjx", lambda a, b: (a ^ b) & fmt.sign)):
            wr.op(name + "." + n, name + "." + n + " ft0, ft1, ft2", fmt, False, fmt, False,
                  [(0, a, b, 0, (a & ~fmt.sign) | f(a, b), 0) for a, b in pairs])
        ints = [0, 1, 2, 3, (1 << 24) + 1, (1 << 53) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
                1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 2, 0xffffffff80000000,
                (1 << 24) + 3, (1 << 54) + 2, (1 << 54) + 6] + [rng.getrandbits(64) for _ in range(20)]
        around = [encode(Fraction(v, 4), RNE, fmt)[0] for w in (0, 31, 32, 63, 64)
                  for v in range((4 << w) - 6, (4 << w) + 7) if v >= 0]
        around += [x | fmt.sign for x in around]
        for t, bits, signed in (("w", 32, True), ("wu", 32, False), ("l", 64, True),
                                ("lu", 64, False)):
            wr.op("fcvt.%s.%s" % (t, n), "fcvt.%s.%s a0, ft1{r}" % (t, n), fmt, False, None, True,
                  [(m, a, 0, 0) + to_int(fmt, m, a, bits, signed) for m in modes
                   for a in values + around])
            # An int to double conversion of 32 bits is exact and has no rounding mode to write.
            rm = not (fmt is D and bits == 32)
            wr.op("fcvt.%s.%s" % (n, t), "fcvt.%s.%s ft0, a0{r}" % (n, t), None, True, fmt, rm,
                  [(m, a, 0, 0) + from_int(fmt, m, a, bits, signed) for m in modes for a in ints])
    dv = corners(D) + [rng.getrandbits(64) for _ in range(20)] + \
        [((1023 + rng.randrange(-160, 135)) << 52) | rng.getrandbits(52) for _ in range(200)] + \
        [((1023 - 127) << 52) | 0xfffffff << 24, ((1023 - 127) << 52) | 0xffffffe << 24]
    wr.op("fcvt.s.d", "fcvt.s.d ft0, ft1{r}", D, False, S, True,
          [(m, a, 0, 0) + convert(D, S, m, a) for m in modes for a in dv])
    sv = corners(S) + [rng.getrandbits(32) for _ in range(50)]
    wr.op("fcvt.d.s", "fcvt.d.s ft0, ft1", S, False, D, False,
          [(0, a, 0, 0) + convert(S, D, 0, a) for a in sv])
    wr.out.append("static const struct fp_op fp_ops[] = {\n%s};" % ",\n".join(wr.ops))
    open(sys.argv[1], "w").write("/* Written by gen/fp_vectors.py. */\n" + "\n".join(wr.out) + "\n")


main()
