#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
#
# Our disassembly of every instruction row with random operands, compared with the cross
# binutils': what both sides call an encoding and its operands must be the same.
#
#     rv_disassembly.py RV_LISTING AS OBJDUMP
#
# Prints TAP, one case per instruction.
import os
import re
import subprocess
import sys
import tempfile

# What binutils 2.40 does not know, as the specification spells it: (match, mask, name).
UNKNOWN_TO_OBJDUMP = [
    (0x0E005033, 0xFE00707F, 'czero.eqz'),
    (0x0E007033, 0xFE00707F, 'czero.nez'),
]
REGISTERS = ('zero ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 '
             's2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6').split()
MARCH = 'rv64gc_zba_zbb_zbs_zicbom_zicbop_zicboz_zawrs_zihintpause_svinval'


def objdump_of(bits, assembler, objdump):
    """Texts of a list of encodings laid out one behind the other from address 0."""
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, 'a.s')
        target = os.path.join(folder, 'a.o')
        with open(source, 'w') as out:
            for word in bits:
                out.write('.%dbyte 0x%s\n' % (len(word) // 2, word))
        subprocess.run([assembler, '-march=' + MARCH, '-o', target, source], check=True)
        # -D with an address per line: data directives get mapping symbols, which -d obeys.
        listing = subprocess.run([objdump, '-D', '-j', '.text', '-M', 'no-aliases', '-z', target],
                                 check=True, capture_output=True, text=True).stdout
    texts = {}
    for line in listing.splitlines():
        match = re.match(r'\s*([0-9a-f]+):\s+([0-9a-f]+)\s+(.*)$', line)
        if match:
            texts[int(match.group(1), 16)] = match.group(3)
    return texts


def normalise(text):
    # Since 2.41 objdump writes data that it does not know as .insn LENGTH,VALUE.
    text = re.sub(r'^\.insn\s+(\d+),\s*0x0*(?=.)', r'.\1byte 0x', text)
    text = re.sub(r'\s*[#<].*$', '', text)  # comments, symbols
    text = re.sub(r'\s+', ' ', text).strip()
    name, _, operands = text.partition(' ')
    return name + ' ' + operands.replace(' ', '')


def expected_unknown(bits):
    value = int(bits, 16)
    for match, mask, name in UNKNOWN_TO_OBJDUMP:
        if value & mask == match:
            numbers = (value >> 7 & 31, value >> 15 & 31, value >> 20 & 31)
            return name + ' ' + ','.join(REGISTERS[n] for n in numbers)
    return None


def known_difference(ours, theirs, bits):
    """True where both are right and spell differently, or where objdump gives up."""
    name = ours.split(' ')[0]
    value = int(bits, 16)
    if ours == 'c.nop ' and theirs == 'c.addi zero,0':
        return True
    # All zeroes is defined to be illegal (U §C "Compressed Instruction Formats"); no row of ours.
    if ours == '.2byte 0x0' and theirs == 'c.unimp ':
        return True
    # Adding 0 is reserved (U §C "Integer Register-Immediate Operations").
    if ours == '.2byte 0x6101' and theirs == 'c.addi16sp sp,0':
        return True
    # A shift by 0 has a name of its own in the draft that binutils keeps alive.
    if re.match(r'c\.(slli|srli|srai)64 ', theirs):
        return ours == theirs.replace('64', '', 1) + ',0x0'
    # CSRs that this hart does not have, by number.
    if name.startswith('csrr') and ',0x%x,' % (value >> 20) in ours:
        return ours.split(',')[::2] == theirs.split(',')[::2]
    # Fields that are reserved and to be ignored (U §2.7), which objdump insists to be 0.
    if name in ('fence', 'fence.tso', 'fence.i') and theirs.startswith('.4byte'):
        reserved = 0xF00F8F80 if name == 'fence' else 0xFFFF8F80
        return value & reserved != 0
    # Conversions that are always exact: objdump neither shows a rounding mode nor accepts one
    # other than 0, the specification does.
    if name in ('fcvt.d.s', 'fcvt.d.w', 'fcvt.d.wu'):
        if value >> 12 & 7 == 0:
            return ours == theirs + ',rne'
        return theirs.startswith('.4byte')
    return False


def main():
    program, assembler, objdump = sys.argv[1:4]
    full = os.environ.get('TRAPEZE_TIER') == 'full'
    cases = '2000' if full else '100'
    seed = os.environ.get('TRAPEZE_SEED', '1')
    listing = subprocess.run([program, cases, seed], check=True, capture_output=True, text=True)
    rows = [line.split(' ', 2) for line in listing.stdout.splitlines()]
    theirs = objdump_of([row[0] for row in rows], assembler, objdump)

    results = {}
    for bits, pc, text in rows:
        ours = normalise(text)
        other = expected_unknown(bits) or normalise(theirs.get(int(pc, 16), 'nothing'))
        name = ours.split(' ')[0]
        results.setdefault(name, [])
        if ours != other and not known_difference(ours, other, bits):
            results[name].append('%s: ours "%s", objdump "%s"' % (bits, ours, other))
    print('1..%d' % len(results))
    for number, (name, problems) in enumerate(sorted(results.items()), 1):
        print('%s %d - %s' % ('not ok' if problems else 'ok', number, name))
        for problem in problems[:5]:
            print('# ' + problem)
    return 1 if any(results.values()) else 0


sys.exit(main())
