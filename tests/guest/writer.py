# SPDX-License-Identifier: MIT
"""What writer.c, a guest without an operating system, does to its disk.

It prints "?" and reads a number; from there on it carries out operation after operation, each of
which follows from its number, and prints how many of them it has flushed.
"""
import struct

SECTOR, SECTORS, FLUSH_EVERY = 512, 8 << 11, 32
ZERO = -1
MASK = (1 << 64) - 1


def mix(number):
    z = number * 0x9e3779b97f4a7c15 & MASK
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9 & MASK
    z = (z ^ z >> 27) * 0x94d049bb133111eb & MASK
    return z ^ z >> 31


def operation(number):
    """What operation `number` does: the first sector, how many, whether it makes them zero."""
    bits = mix(number)
    most = 64 if bits >> 12 & 3 == 0 else 8
    count = 1 + (bits >> 4 & 63) % most
    return (bits >> 20) % (SECTORS - count), count, bits & 15 == 0


def sectors(name, content):
    """The operation that each sector holds, or ZERO; none is torn."""
    found = []
    for sector in range(SECTORS):
        data = content[sector * SECTOR:(sector + 1) * SECTOR]
        number, version = struct.unpack_from("<QQ", data)
        if data == bytes(SECTOR):
            found.append(ZERO)
            continue
        assert number == sector and data == data[:16] * (SECTOR // 16), (name, sector)
        found.append(version)
    return found


def verify(name, content, holds, start, flushed):
    """Every sector holds what the last of the operations from `start` on that was flushed left
    there, or a later one, or else what it held before. What each holds, and a number that no
    operation has reached."""
    found = sectors(name, content)
    # What was printed last may have died with the worker.
    end = max(max(found) + 1, flushed) + 2 * FLUSH_EVERY
    may = [[held] for held in holds] # what each sector may hold, oldest first
    for number in range(start, end):
        first, count, zero = operation(number)
        for sector in range(first, first + count):
            if number < flushed:
                may[sector] = []
            may[sector].append(ZERO if zero else number)
    wrong = [(sector, found[sector], may[sector]) for sector in range(SECTORS)
             if found[sector] not in may[sector]]
    assert not wrong, (f"{name}, operations {start} to {flushed}: {len(wrong)} sectors "
                       f"wrong: {wrong[:4]}")
    return found, end
