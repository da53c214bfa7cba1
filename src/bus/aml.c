/* SPDX-License-Identifier: MIT
 *
 * See aml.h.
 */
#include "bus/aml.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"

enum {
    ZERO_OP = 0x00,
    ONE_OP = 0x01,
    NAME_OP = 0x08,
    BYTE_PREFIX = 0x0a,
    WORD_PREFIX = 0x0b,
    DWORD_PREFIX = 0x0c,
    STRING_PREFIX = 0x0d,
    QWORD_PREFIX = 0x0e,
    SCOPE_OP = 0x10,
    BUFFER_OP = 0x11,
    PACKAGE_OP = 0x12,
    METHOD_OP = 0x14,
    DUAL_NAME_PREFIX = 0x2e,
    MULTI_NAME_PREFIX = 0x2f,
    EXTENDED_PREFIX = 0x5b,
    DEVICE_OP = 0x82, /* behind EXTENDED_PREFIX */
    IF_OP = 0xa0,
    ELSE_OP = 0xa1
};

void aml_free(struct aml *aml)
{
    free(aml->bytes);
    *aml = (struct aml){0};
}

/* Room for `size` bytes at `at`; what was there moves behind them. */
static uint8_t *insert(struct aml *aml, size_t at, size_t size)
{
    if (aml->capacity - aml->size < size) {
        aml->capacity = 2 * (aml->capacity + size);
        aml->bytes = alloc_resize(aml->bytes, aml->capacity, 1);
    }
    memmove(aml->bytes + at + size, aml->bytes + at, aml->size - at);
    aml->size += size;
    return aml->bytes + at;
}

static void add(struct aml *aml, const void *data, size_t size)
{
    memcpy(insert(aml, aml->size, size), data, size);
}

static void add_byte(struct aml *aml, unsigned value)
{
    *insert(aml, aml->size, 1) = (uint8_t)value;
}

/* Little-endian. */
static void add_number(struct aml *aml, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        add_byte(aml, (value >> (8 * i)) & 0xff);
}

/* NameString (20.2.2). */
static void add_name(struct aml *aml, const char *name)
{
    unsigned segments = 1;
    for (; *name == '\\' || *name == '^'; name++)
        add_byte(aml, (uint8_t)*name);
    for (const char *at = name; *at != '\0'; at++)
        segments += *at == '.';
    if (segments == 2) {
        add_byte(aml, DUAL_NAME_PREFIX);
    } else if (segments > 2) {
        add_byte(aml, MULTI_NAME_PREFIX);
        add_byte(aml, segments);
    }
    for (unsigned i = 0; i < segments; i++) {
        size_t length = strcspn(name, ".");
        assert(length > 0 && length <= 4);
        add(aml, name, length);
        add(aml, "____", 4 - length);
        name += length + 1;
    }
}

/* ---- nesting ---- */

static void open_package(struct aml *aml)
{
    assert(aml->depth < AML_DEPTH);
    aml->open[aml->depth++] = aml->size;
}

/* PkgLength (20.2.4): it counts itself. */
void aml_end(struct aml *aml)
{
    assert(aml->depth > 0);
    size_t at = aml->open[--aml->depth], length = aml->size - at;
    unsigned bytes = length + 1 < 1u << 6 ? 1 : (length + 2 < 1u << 12 ? 2 : 3);
    assert(length + bytes < 1u << 20);
    uint8_t *to = insert(aml, at, bytes);
    length += bytes;
    if (bytes == 1) {
        to[0] = (uint8_t)length;
        return;
    }
    to[0] = (uint8_t)((bytes - 1) << 6 | (length & 0xf));
    for (unsigned i = 1; i < bytes; i++)
        to[i] = (uint8_t)(length >> (8 * i - 4));
}

void aml_scope_begin(struct aml *aml, const char *name)
{
    add_byte(aml, SCOPE_OP);
    open_package(aml);
    add_name(aml, name);
}

void aml_device_begin(struct aml *aml, const char *name)
{
    add_byte(aml, EXTENDED_PREFIX);
    add_byte(aml, DEVICE_OP);
    open_package(aml);
    add_name(aml, name);
}

void aml_method_begin(struct aml *aml, const char *name, unsigned arguments)
{
    enum { SERIALIZED = 8 };
    add_byte(aml, METHOD_OP);
    open_package(aml);
    add_name(aml, name);
    add_byte(aml, arguments | SERIALIZED);
}

void aml_package_begin(struct aml *aml, uint8_t elements)
{
    add_byte(aml, PACKAGE_OP);
    open_package(aml);
    add_byte(aml, elements);
}

void aml_if_begin(struct aml *aml)
{
    add_byte(aml, IF_OP);
    open_package(aml);
}

void aml_else_begin(struct aml *aml)
{
    add_byte(aml, ELSE_OP);
    open_package(aml);
}

/* ---- terms ---- */

void aml_name(struct aml *aml, const char *name)
{
    add_byte(aml, NAME_OP);
    add_name(aml, name);
}

void aml_integer(struct aml *aml, uint64_t value)
{
    if (value <= 1) {
        add_byte(aml, value == 0 ? ZERO_OP : ONE_OP);
        return;
    }
    unsigned bytes =
        value <= UINT8_MAX ? 1 : (value <= UINT16_MAX ? 2 : (value <= UINT32_MAX ? 4 : 8));
    static const uint8_t prefixes[9] = {
        [1] = BYTE_PREFIX, [2] = WORD_PREFIX, [4] = DWORD_PREFIX, [8] = QWORD_PREFIX};
    add_byte(aml, prefixes[bytes]);
    add_number(aml, value, bytes);
}

void aml_text(struct aml *aml, const char *text)
{
    add_byte(aml, STRING_PREFIX);
    add(aml, text, strlen(text) + 1);
}

static unsigned hex_digit(char digit)
{
    static const char digits[] = "0123456789abcdef";
    const char *found = digit == '\0' ? NULL : strchr(digits, digit);
    assert(found != NULL);
    return (unsigned)(found - digits);
}

/* 19.6.142: the first three parts are little-endian. */
void aml_uuid(struct aml *aml, const char *text)
{
    static const uint8_t order[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
    uint8_t bytes[16];
    for (unsigned i = 0; i < 16; i++, text += 2) {
        text += *text == '-';
        bytes[i] = (uint8_t)(hex_digit(text[0]) << 4 | hex_digit(text[1]));
    }
    add_byte(aml, BUFFER_OP);
    open_package(aml);
    aml_integer(aml, sizeof(bytes));
    for (unsigned i = 0; i < 16; i++)
        add_byte(aml, bytes[order[i]]);
    aml_end(aml);
}

void aml_name_integer(struct aml *aml, const char *name, uint64_t value)
{
    aml_name(aml, name);
    aml_integer(aml, value);
}

void aml_name_text(struct aml *aml, const char *name, const char *text)
{
    aml_name(aml, name);
    aml_text(aml, text);
}

/* 19.6.36: three letters of five bits and four digits, big-endian. */
void aml_name_eisa(struct aml *aml, const char *name, const char *id)
{
    assert(strlen(id) == 7);
    uint32_t value = 0;
    for (unsigned i = 0; i < 3; i++)
        value = value << 5 | (uint32_t)(id[i] - '@');
    for (unsigned i = 3; i < 7; i++)
        value = value << 4 | hex_digit(id[i] >= 'A' ? (char)(id[i] - 'A' + 'a') : id[i]);
    aml_name(aml, name);
    aml_integer(aml, __builtin_bswap32(value));
}

/* ---- methods ---- */

void aml_op(struct aml *aml, enum aml_op op)
{
    add_byte(aml, op);
}

void aml_local(struct aml *aml, unsigned number)
{
    assert(number < 8);
    add_byte(aml, AML_LOCAL0 + number);
}

void aml_arg(struct aml *aml, unsigned number)
{
    assert(number < 7);
    add_byte(aml, AML_ARG0 + number);
}

void aml_reference(struct aml *aml, const char *name)
{
    add_name(aml, name);
}

void aml_nowhere(struct aml *aml)
{
    add_byte(aml, AML_NOWHERE);
}

/* ---- resources ---- */

void aml_resources_begin(struct aml *aml, const char *name)
{
    aml_name(aml, name);
    add_byte(aml, BUFFER_OP);
    open_package(aml);
    add_byte(aml, WORD_PREFIX);
    aml->resources = aml->size;
    add_number(aml, 0, 2);
}

void aml_resources_end(struct aml *aml)
{
    enum { END_TAG = 0x79 };
    add_byte(aml, END_TAG);
    add_byte(aml, 0); /* no checksum */
    size_t size = aml->size - aml->resources - 2;
    assert(size <= UINT16_MAX);
    store_le16(aml->bytes + aml->resources, (uint16_t)size);
    aml_end(aml);
}

void aml_io(struct aml *aml, uint16_t port, uint8_t count)
{
    enum { IO_TAG = 0x47, DECODES_16_BITS = 1 };
    add_byte(aml, IO_TAG);
    add_byte(aml, DECODES_16_BITS);
    add_number(aml, port, 2);
    add_number(aml, port, 2);
    add_byte(aml, 1); /* alignment */
    add_byte(aml, count);
}

void aml_interrupt(struct aml *aml, uint32_t gsi, enum aml_trigger trigger)
{
    enum { INTERRUPT_TAG = 0x89, CONSUMER = 1, EDGE = 2, LOW = 4, SHARED = 8 };
    static const uint8_t flags[] = {[AML_EDGE] = EDGE,
                                    [AML_LEVEL] = 0,
                                    [AML_LEVEL_SHARED] = SHARED,
                                    [AML_LEVEL_LOW_SHARED] = LOW | SHARED};
    add_byte(aml, INTERRUPT_TAG);
    add_number(aml, 6, 2);
    add_byte(aml, CONSUMER | flags[trigger]);
    add_byte(aml, 1); /* one of them */
    add_number(aml, gsi, 4);
}

void aml_memory(struct aml *aml, uint32_t gpa, uint32_t size)
{
    enum { MEMORY32_FIXED_TAG = 0x86, WRITABLE = 1 };
    add_byte(aml, MEMORY32_FIXED_TAG);
    add_number(aml, 9, 2);
    add_byte(aml, WRITABLE);
    add_number(aml, gpa, 4);
    add_number(aml, size, 4);
}

/* Address space descriptors (6.4.3.5): the shortest that the numbers fit in. */
void aml_window(struct aml *aml, enum aml_window kind, uint64_t first, uint64_t size)
{
    enum { MINIMUM_FIXED = 4, MAXIMUM_FIXED = 8, WRITABLE = 1, WHOLE_RANGE = 3 };
    static const uint8_t flags[] = {[AML_MEMORY] = WRITABLE, [AML_IO] = WHOLE_RANGE, [AML_BUS] = 0};
    uint64_t last = first + (size - 1);
    unsigned bytes = kind != AML_MEMORY ? 2 : (last <= UINT32_MAX ? 4 : 8);
    static const uint8_t tags[9] = {[2] = 0x88, [4] = 0x87, [8] = 0x8a};
    add_byte(aml, tags[bytes]);
    add_number(aml, 3 + 5 * bytes, 2);
    add_byte(aml, kind);
    add_byte(aml, MINIMUM_FIXED | MAXIMUM_FIXED);
    add_byte(aml, flags[kind]);
    add_number(aml, 0, bytes); /* granularity */
    add_number(aml, first, bytes);
    add_number(aml, last, bytes);
    add_number(aml, 0, bytes); /* translation */
    add_number(aml, size, bytes);
}
