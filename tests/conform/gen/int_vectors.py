#!/usr/bin/env python3
"""Writes int_vectors.h: for every integer computational instruction its result for corner operands.

The results are computed here, from the words of the unprivileged ISA, in unbounded Python integers;
no processor or simulator is asked.  A group (VEC_I, VEC_M, ...) is compiled in by defining its name.
"""
import sys

M64, M32 = (1 << 64) - 1, (1 << 32) - 1

CORNERS = [
    0, 1, 2, 3, 31, 32, 63, 64, 0xff, 0x80, 0x8000, 0xffff, M64, M64 - 1, M64 - 63,
    0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0xffffffff80000000, 0xffffffff7fffffff,
    0x7fffffffffffffff, 0x8000000000000000, 0x8000000000000001, 0x8000000080000000,
    0x0123456789abcdef, 0xfedcba9876543210, 0x00ff00ff00ff00ff, 0xaaaaaaaaaaaaaaaa,
    0x5555555555555555, 0x00010000000000f0,
]
IMMS = [0, 1, -1, 2, 15, 0x555, -0x556, 2047, -2048]


def sx(v, bits=64):
    v &= (1 << bits) - 1
    return v - (1 << bits) if v >> (bits - 1) else v


def w(v):
    """Result of a W instruction: low 32 bits, sign-extended."""
    return sx(v, 32)


def div(a, b, bits):
    """Signed division rounding towards zero; (quotient, remainder) of the M extension's table."""
    a, b = sx(a, bits), sx(b, bits)
    if b == 0:
        return -1, a
    if a == -(1 << (bits - 1)) and b == -1:
        return a, 0
    q = abs(a) // abs(b)
    q = -q if (a < 0) != (b < 0) else q
    return q, a - b * q


def divu(a, b, bits):
    a, b = a & ((1 << bits) - 1), b & ((1 << bits) - 1)
    return ((1 << bits) - 1, a) if b == 0 else (a // b, a % b)


def rot(a, n, bits):
    """Rotate right."""
    a &= (1 << bits) - 1
    n %= bits
    return (a >> n) | (a << (bits - n))


def clz(a, bits):
    return bits - (a & ((1 << bits) - 1)).bit_length()


def ctz(a, bits):
    a &= (1 << bits) - 1
    return (a & -a).bit_length() - 1 if a else bits


def each_byte(a, f):
    return sum(f((a >> (8 * i)) & 255) << (8 * i) for i in range(8))


REG = {  # group: {instruction: f(rs1, rs2)}, operands unsigned 64 bits
    "VEC_I": {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "sll": lambda a, b: a << (b & 63),
        "slt": lambda a, b: sx(a) < sx(b),
        "sltu": lambda a, b: a < b,
        "xor": lambda a, b: a ^ b,
        "srl": lambda a, b: a >> (b & 63),
        "sra": lambda a, b: sx(a) >> (b & 63),
        "or": lambda a, b: a | b,
        "and": lambda a, b: a & b,
        "addw": lambda a, b: w(a + b),
        "subw": lambda a, b: w(a - b),
        "sllw": lambda a, b: w(a << (b & 31)),
        "srlw": lambda a, b: w((a & M32) >> (b & 31)),
        "sraw": lambda a, b: sx(a, 32) >> (b & 31),
    },
    "VEC_M": {
        "mul": lambda a, b: a * b,
        "mulh": lambda a, b: (sx(a) * sx(b)) >> 64,
        "mulhsu": lambda a, b: (sx(a) * b) >> 64,
        "mulhu": lambda a, b: (a * b) >> 64,
        "mulw": lambda a, b: w(a * b),
        "div": lambda a, b: div(a, b, 64)[0],
        "rem": lambda a, b: div(a, b, 64)[1],
        "divu": lambda a, b: divu(a, b, 64)[0],
        "remu": lambda a, b: divu(a, b, 64)[1],
        "divw": lambda a, b: w(div(a, b, 32)[0]),
        "remw": lambda a, b: w(div(a, b, 32)[1]),
        "divuw": lambda a, b: w(divu(a, b, 32)[0]),
        "remuw": lambda a, b: w(divu(a, b, 32)[1]),
    },
    "VEC_B": {
        "add.uw": lambda a, b: b + (a & M32),
        "sh1add": lambda a, b: b + (a << 1),
        "sh2add": lambda a, b: b + (a << 2),
        "sh3add": lambda a, b: b + (a << 3),
        "sh1add.uw": lambda a, b: b + ((a & M32) << 1),
        "sh2add.uw": lambda a, b: b + ((a & M32) << 2),
        "sh3add.uw": lambda a, b: b + ((a & M32) << 3),
        "andn": lambda a, b: a & ~b,
        "orn": lambda a, b: a | ~b,
        "xnor": lambda a, b: ~(a ^ b),
        "max": lambda a, b: max(sx(a), sx(b)),
        "maxu": lambda a, b: max(a, b),
        "min": lambda a, b: min(sx(a), sx(b)),
        "minu": lambda a, b: min(a, b),
        "ror": lambda a, b: rot(a, b & 63, 64),
        "rol": lambda a, b: rot(a, 64 - (b & 63), 64),
        "rorw": lambda a, b: w(rot(a, b & 31, 32)),
        "rolw": lambda a, b: w(rot(a, 32 - (b & 31), 32)),
        "bclr": lambda a, b: a & ~(1 << (b & 63)),
        "bext": lambda a, b: (a >> (b & 63)) & 1,
        "binv": lambda a, b: a ^ (1 << (b & 63)),
        "bset": lambda a, b: a | (1 << (b & 63)),
    },
    "VEC_ZICOND": {
        "czero.eqz": lambda a, b: 0 if b == 0 else a,
        "czero.nez": lambda a, b: 0 if b != 0 else a,
    },
}

# Not every binutils knows these.
ENCODED = {
    "czero.eqz": ".insn r 0x33, 5, 7, {d}, {a}, {b}",
    "czero.nez": ".insn r 0x33, 7, 7, {d}, {a}, {b}",
}

UNARY = {
    "VEC_B": {
        "clz": lambda a: clz(a, 64),
        "clzw": lambda a: clz(a, 32),
        "ctz": lambda a: ctz(a, 64),
        "ctzw": lambda a: ctz(a, 32),
        "cpop": lambda a: bin(a).count("1"),
        "cpopw": lambda a: bin(a & M32).count("1"),
        "sext.b": lambda a: sx(a, 8),
        "sext.h": lambda a: sx(a, 16),
        "zext.h": lambda a: a & 0xffff,
        "orc.b": lambda a: each_byte(a, lambda x: 255 if x else 0),
        "rev8": lambda a: int.from_bytes(a.to_bytes(8, "little"), "big"),
    },
}

BRANCH = {
    "VEC_I": {
        "beq": lambda a, b: a == b,
        "bne": lambda a, b: a != b,
        "blt": lambda a, b: sx(a) < sx(b),
        "bge": lambda a, b: sx(a) >= sx(b),
        "bltu": lambda a, b: a < b,
        "bgeu": lambda a, b: a >= b,
    },
}

S64, S32 = range(64), range(32)
IMM = {  # instruction: (immediates, the register form's function)
    "VEC_I": {
        "addi": (IMMS, lambda a, i: a + i),
        "slti": (IMMS, lambda a, i: sx(a) < i),
        "sltiu": (IMMS, lambda a, i: a < (i & M64)),
        "xori": (IMMS, lambda a, i: a ^ i),
        "ori": (IMMS, lambda a, i: a | i),
        "andi": (IMMS, lambda a, i: a & i),
        "addiw": (IMMS, lambda a, i: w(a + i)),
        "slli": (S64, lambda a, i: a << i),
        "srli": (S64, lambda a, i: a >> i),
        "srai": (S64, lambda a, i: sx(a) >> i),
        "slliw": (S32, lambda a, i: w(a << i)),
        "srliw": (S32, lambda a, i: w((a & M32) >> i)),
        "sraiw": (S32, lambda a, i: sx(a, 32) >> i),
    },
    "VEC_B": {
        "slli.uw": (S64, lambda a, i: (a & M32) << i),
        "rori": (S64, lambda a, i: rot(a, i, 64)),
        "roriw": (S32, lambda a, i: w(rot(a, i, 32))),
        "bclri": (S64, lambda a, i: a & ~(1 << i)),
        "bexti": (S64, lambda a, i: (a >> i) & 1),
        "binvi": (S64, lambda a, i: a ^ (1 << i)),
        "bseti": (S64, lambda a, i: a | (1 << i)),
    },
}


class Writer:
    def __init__(self):
        self.rows, self.out = [], []

    def function(self, symbol, *lines):
        self.out.append('__asm__(".text\\n.balign 4\\n%s:\\n%s\\nret\\n");' %
                        (symbol, "\\n".join(lines)))
        self.out.append("u64 %s(u64, u64);" % symbol)

    def table(self, symbol, values):
        self.out.append("static const u64 w_%s[] = {%s};" %
                        (symbol, ",".join("0x%xul" % (int(v) & M64) for v in values)))

    def row(self, name, symbols, want, arity):
        self.rows.append('{"%s", {%s}, w_%s, %d}' % (name, ", ".join(symbols), want, arity))


def group(name, out):
    wr = Writer()
    for insn, f in REG.get(name, {}).items():
        sym = "v_" + insn.replace(".", "_")
        text = ENCODED.get(insn, insn + " {d}, {a}, {b}")
        # rd elsewhere, rd=rs1, rd=rs2, rs1=rs2 is the diagonal; rd=x0 must leave x0 zero.
        wr.function(sym + "_n", text.format(d="t0", a="a0", b="a1"), "mv a0, t0")
        wr.function(sym + "_1", text.format(d="a0", a="a0", b="a1"))
        wr.function(sym + "_2", text.format(d="a1", a="a0", b="a1"), "mv a0, a1")
        wr.function(sym + "_s", text.format(d="a0", a="a0", b="a0"))
        wr.function(sym + "_0", text.format(d="x0", a="a0", b="a1"), "mv a0, x0")
        wr.table(sym, [f(a, b) for a in CORNERS for b in CORNERS])
        wr.row(insn, [sym + s for s in ("_n", "_1", "_2", "_s", "_0")], sym, 2)
    for insn, f in UNARY.get(name, {}).items():
        sym = "v_" + insn.replace(".", "_")
        wr.function(sym + "_n", insn + " t0, a0", "mv a0, t0")
        wr.function(sym + "_1", insn + " a0, a0")
        wr.function(sym + "_0", insn + " x0, a0", "mv a0, x0")
        wr.table(sym, [f(a) for a in CORNERS])
        wr.row(insn, [sym + "_n", sym + "_1", "0", "0", sym + "_0"], sym, 1)
    for insn, f in BRANCH.get(name, {}).items():
        sym = "v_" + insn
        wr.function(sym + "_n", insn + " a0, a1, 1f", "li a0, 0", "ret", "1: li a0, 1")
        wr.function(sym + "_1", "j 2f", "1: li a0, 1", "ret", "2: " + insn + " a0, a1, 1b",
                    "li a0, 0")
        wr.function(sym + "_s", insn + " a0, a0, 1f", "li a0, 0", "ret", "1: li a0, 1")
        wr.table(sym, [f(a, b) for a in CORNERS for b in CORNERS])
        wr.row(insn, [sym + "_n", sym + "_1", "0", sym + "_s", "0"], sym, 2)
    for insn, (imms, f) in IMM.get(name, {}).items():
        for i in imms:
            sym = "v_%s_%s" % (insn.replace(".", "_"), str(i).replace("-", "m"))
            wr.function(sym + "_n", "%s t0, a0, %d" % (insn, i), "mv a0, t0")
            wr.function(sym + "_1", "%s a0, a0, %d" % (insn, i))
            wr.table(sym, [f(a, i) for a in CORNERS])
            wr.row("%s %d" % (insn, i), [sym + "_n", sym + "_1", "0", "0", "0"], sym, 1)
    out.append("#ifdef " + name)
    out += wr.out
    out.append("static const struct vector vectors[] = {\n%s};" % ",\n".join(wr.rows))
    out.append("#endif")


def main():
    out = ["/* Written by gen/int_vectors.py. */",
           "static const u64 corners[] = {%s};" % ",".join("0x%xul" % c for c in CORNERS)]
    for g in ("VEC_I", "VEC_M", "VEC_B", "VEC_ZICOND"):
        group(g, out)
    open(sys.argv[1], "w").write("\n".join(out) + "\n")


main()
