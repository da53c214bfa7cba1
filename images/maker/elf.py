# SPDX-License-Identifier: MIT
"""Takes the assembler's local labels out of a kernel module's symbol table.

Because of linker relaxation RISC-V objects carry a symbol for every label (ext4: 215 000, 5.5 of
its 7 MB); the kernel would keep them all in memory and walk them several times. Only what no
relocation uses goes; functions and objects stay, so that traces name them. Layout: ELF-64 specification.
"""
import struct

SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS, SHT_GROUP = 2, 3, 4, 8, 17
SYMBOL = struct.Struct("<IBBHQQ")   # name, info, other, section index, value, size
RELA = struct.Struct("<QQq")        # offset, info (symbol << 32 | type), addend
SECTION = struct.Struct("<IIQQQQIIQQ")
NAME, TYPE, FLAGS, ADDRESS, OFFSET, SIZE, LINK, INFO, ALIGN, ENTRY = range(10)
HEADER_SIZE, SHOFF_AT, SHNUM_AT = 64, 40, 60
LOCAL_NOTYPE = 0  # st_info of a label: binding STB_LOCAL, type STT_NOTYPE


def drop_labels(data):
    """The module without unused labels; returned as it is if it is not what this knows."""
    if data[:6] != b"\x7fELF\x02\x01" or len(data) < HEADER_SIZE:
        return data
    offset, = struct.unpack_from("<Q", data, SHOFF_AT)
    count, = struct.unpack_from("<H", data, SHNUM_AT)
    sections = [list(SECTION.unpack_from(data, offset + i * SECTION.size)) for i in range(count)]
    bodies = [bytearray() if s[TYPE] == SHT_NOBITS else
              bytearray(data[s[OFFSET]:s[OFFSET] + s[SIZE]]) for s in sections]
    tables = [i for i, s in enumerate(sections) if s[TYPE] == SHT_SYMTAB]
    if len(tables) != 1 or any(s[TYPE] == SHT_STRTAB and s[FLAGS] for s in sections):
        return data
    table = tables[0]
    mapping = shrink_symbols(sections, bodies, table)
    for section, body in zip(sections, bodies):
        if section[LINK] != table:
            continue
        if section[TYPE] == SHT_RELA:
            remap(body, mapping)
        elif section[TYPE] == SHT_GROUP:
            section[INFO] = mapping[section[INFO]]
    return layout(data[:HEADER_SIZE], sections, bodies)


def used_symbols(sections, bodies, table):
    used = set()
    for section, body in zip(sections, bodies):
        if section[LINK] == table and section[TYPE] == SHT_RELA:
            used.update(info >> 32 for _, info, _ in RELA.iter_unpack(body))
        elif section[LINK] == table and section[TYPE] == SHT_GROUP:
            used.add(section[INFO])
    return used


def shrink_symbols(sections, bodies, table):
    """Rewrites the symbol and string tables; returns {old index: new index}."""
    used = used_symbols(sections, bodies, table)
    strings = bodies[sections[table][LINK]]
    symbols, names, mapping, known = bytearray(), bytearray(b"\0"), {}, {b"": 0}
    first_global = sections[table][INFO]
    for index, (name, info, other, where, value, size) in enumerate(
            SYMBOL.iter_unpack(bodies[table])):
        if index == first_global:
            sections[table][INFO] = len(symbols) // SYMBOL.size
        text = bytes(strings[name:strings.index(0, name)])
        if info == LOCAL_NOTYPE and index and index not in used and text[:1] in (b".", b"$", b""):
            continue
        if text not in known:
            known[text] = len(names)
            names += text + b"\0"
        mapping[index] = len(symbols) // SYMBOL.size
        symbols += SYMBOL.pack(known[text], info, other, where, value, size)
    if first_global * SYMBOL.size >= len(bodies[table]):
        sections[table][INFO] = len(symbols) // SYMBOL.size
    bodies[table], bodies[sections[table][LINK]] = symbols, names
    return mapping


def remap(body, mapping):
    for at in range(0, len(body), RELA.size):
        offset, info, addend = RELA.unpack_from(body, at)
        RELA.pack_into(body, at, offset, mapping[info >> 32] << 32 | info & 0xffffffff, addend)


def layout(header, sections, bodies):
    out = bytearray(header)
    for section, body in zip(sections, bodies):
        if section[TYPE] == 0:
            continue
        out += b"\0" * (-len(out) % max(section[ALIGN], 1))
        section[OFFSET] = len(out)
        if section[TYPE] != SHT_NOBITS:
            section[SIZE] = len(body)
        out += body
    out += b"\0" * (-len(out) % 8)
    struct.pack_into("<Q", out, SHOFF_AT, len(out))
    for section in sections:
        out += SECTION.pack(*section)
    return bytes(out)
