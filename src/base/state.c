/* SPDX-License-Identifier: MIT
 *
 * One walk over a table of fields writes, another reads. The writer knows only tables that
 * we wrote, so whatever is wrong with them is asserted. The reader believes nothing: every
 * name, kind and length must be the one that the table says, and every read is checked
 * against the end of its enclosing payload.
 *
 * Order is part of the format: fields stand in table order. There is thus exactly one
 * encoding of a value, which is what makes save(restore(save(x))) == save(x).
 */
#include "base/state.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"

/* ---- writing ---- */

void state_buffer_free(struct state_buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct state_buffer){0};
}

/* Room for `size` more bytes, which the caller fills. */
static uint8_t *append(struct state_buffer *out, size_t size)
{
    size_t needed;
    bool overflows = __builtin_add_overflow(out->size, size, &needed);
    assert(!overflows);
    (void)overflows;
    if (needed > out->capacity) {
        size_t capacity = out->capacity > 0 ? out->capacity : 256;
        while (capacity < needed)
            capacity *= 2;
        out->data = alloc_resize(out->data, capacity, 1);
        out->capacity = capacity;
    }
    uint8_t *place = out->data + out->size;
    out->size = needed;
    return place;
}

void state_buffer_add(struct state_buffer *buffer, const void *data, size_t size)
{
    if (size > 0)
        memcpy(append(buffer, size), data, size);
}

static void put_u32(struct state_buffer *out, uint32_t value)
{
    store_le32(append(out, 4), value);
}

static void put_name(struct state_buffer *out, const char *name)
{
    size_t length = strlen(name);
    assert(length > 0 && length <= UINT8_MAX);
    *append(out, 1) = (uint8_t)length;
    memcpy(append(out, length), name, length);
}

static uint64_t load_native(const uint8_t *from, uint32_t size)
{
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    switch (size) {
    case 1:
        return *from;
    case 2:
        memcpy(&u16, from, sizeof(u16));
        return u16;
    case 4:
        memcpy(&u32, from, sizeof(u32));
        return u32;
    default:
        assert(size == 8);
        memcpy(&u64, from, sizeof(u64));
        return u64;
    }
}

static void store_native(uint8_t *to, uint32_t size, uint64_t value)
{
    uint16_t u16 = (uint16_t)value;
    uint32_t u32 = (uint32_t)value;
    switch (size) {
    case 1:
        *to = (uint8_t)value;
        break;
    case 2:
        memcpy(to, &u16, sizeof(u16));
        break;
    case 4:
        memcpy(to, &u32, sizeof(u32));
        break;
    default:
        assert(size == 8);
        memcpy(to, &value, sizeof(value));
        break;
    }
}

static void put_payload(struct state_buffer *out, const struct state_field *field, uint8_t *object)
{
    uint8_t *from = object + field->offset;
    for (uint32_t i = 0; i < field->count; i++, from += field->size) {
        switch (field->kind) {
        case STATE_KIND_BOOL:
            *append(out, 1) = *from != 0;
            break;
        case STATE_KIND_UINT: {
            uint64_t value = load_native(from, field->size);
            uint8_t *to = append(out, field->size);
            for (uint32_t byte = 0; byte < field->size; byte++)
                to[byte] = (uint8_t)(value >> (8 * byte));
            break;
        }
        case STATE_KIND_BYTES:
            memcpy(append(out, field->size), from, field->size);
            break;
        case STATE_KIND_TABLE:
            state_save(field->table, from, out);
            break;
        case STATE_KIND_BUFFER: {
            const struct state_buffer *buffer = (const void *)from;
            state_buffer_add(out, buffer->data, buffer->size);
            break;
        }
        case STATE_KIND_END:
            assert(false && "the end of a table is no field");
        }
    }
}

static uint32_t count_fields(const struct state_table *table, uint32_t version)
{
    uint32_t count = 0;
    for (const struct state_field *field = table->fields; field->name; field++)
        count += field->since <= version;
    return count;
}

void state_save(const struct state_table *table, void *object, struct state_buffer *out)
{
    assert(table->version > 0);
    if (table->pre_save)
        table->pre_save(object);
    put_name(out, table->name);
    put_u32(out, table->version);
    put_u32(out, count_fields(table, table->version));
    for (const struct state_field *field = table->fields; field->name; field++) {
        if (field->since > table->version)
            continue;
        put_name(out, field->name);
        *append(out, 1) = (uint8_t)field->kind;
        size_t length_at = out->size;
        append(out, 4);
        put_payload(out, field, object);
        size_t length = out->size - length_at - 4;
        assert(length <= UINT32_MAX);
        store_le32(out->data + length_at, (uint32_t)length);
    }
}

/* ---- reading ---- */

struct reader {
    const uint8_t *data;
    size_t at, end;
};

static bool damaged(struct error **err, const char *what, const char *name)
{
    error_set(err, ERROR_HOST, "%s '%s'", what, name);
    error_hint(err, "The saved state is damaged or was made by another version of Trapeze");
    return false;
}

/* The next `size` bytes, or NULL if there are fewer. */
static const uint8_t *take(struct reader *in, size_t size)
{
    if (size > in->end - in->at)
        return NULL;
    const uint8_t *bytes = in->data + in->at;
    in->at += size;
    return bytes;
}

static bool take_u32(struct reader *in, uint32_t *value)
{
    const uint8_t *bytes = take(in, 4);
    if (bytes)
        *value = load_le32(bytes);
    return bytes != NULL;
}

static bool take_name(struct reader *in, const char *expected)
{
    const uint8_t *length = take(in, 1);
    if (!length || *length != strlen(expected))
        return false;
    const uint8_t *name = take(in, *length);
    return name && memcmp(name, expected, *length) == 0;
}

static bool restore_table(const struct state_table *table, void *object, struct reader *in,
                          struct error **err);

static bool take_element(const struct state_field *field, uint8_t *to, struct reader *in,
                         struct error **err)
{
    if (field->kind == STATE_KIND_TABLE) {
        if (restore_table(field->table, to, in, err))
            return true;
        error_prefix(err, "field '%s'", field->name);
        return false;
    }
    if (field->kind == STATE_KIND_BUFFER) {
        struct state_buffer *buffer = (void *)to;
        size_t size = in->end - in->at;
        buffer->size = 0;
        state_buffer_add(buffer, take(in, size), size);
        return true;
    }
    const uint8_t *from = take(in, field->size);
    if (!from)
        return damaged(err, "too few bytes for field", field->name);
    uint64_t value = 0;
    switch (field->kind) {
    case STATE_KIND_BOOL:
        if (*from > 1)
            return damaged(err, "a value that is neither true nor false in field", field->name);
        *to = *from;
        break;
    case STATE_KIND_UINT:
        for (uint32_t byte = 0; byte < field->size; byte++)
            value |= (uint64_t)from[byte] << (8 * byte);
        store_native(to, field->size, value);
        break;
    case STATE_KIND_BYTES:
        memcpy(to, from, field->size);
        break;
    case STATE_KIND_TABLE:
    case STATE_KIND_BUFFER:
    case STATE_KIND_END:
        assert(false && "handled above, or no field");
    }
    return true;
}

static bool take_field(const struct state_field *field, uint8_t *object, struct reader *in,
                       struct error **err)
{
    if (!take_name(in, field->name))
        return damaged(err, "missing field", field->name);
    const uint8_t *kind = take(in, 1);
    if (!kind || *kind != field->kind)
        return damaged(err, "wrong kind of field", field->name);
    uint32_t length;
    if (!take_u32(in, &length) || length > in->end - in->at)
        return damaged(err, "too few bytes for field", field->name);

    struct reader payload = {in->data, in->at, in->at + length};
    uint8_t *to = object + field->offset;
    for (uint32_t i = 0; i < field->count; i++, to += field->size)
        if (!take_element(field, to, &payload, err))
            return false;
    if (payload.at != payload.end)
        return damaged(err, "too many bytes for field", field->name);
    in->at = payload.end;
    return true;
}

static bool restore_table(const struct state_table *table, void *object, struct reader *in,
                          struct error **err)
{
    if (!take_name(in, table->name))
        return damaged(err, "no state of", table->name);
    uint32_t version, count;
    if (!take_u32(in, &version) || version == 0)
        return damaged(err, "no version in the state of", table->name);
    if (version > table->version) {
        error_set(err, ERROR_HOST, "the state of '%s' has version %u, and this Trapeze knows %u",
                  table->name, version, table->version);
        error_hint(err, "Use the version of Trapeze that saved it, or a later one");
        return false;
    }
    if (!take_u32(in, &count) || count != count_fields(table, version))
        return damaged(err, "wrong number of fields in the state of", table->name);
    for (const struct state_field *field = table->fields; field->name; field++) {
        if (field->since <= version && !take_field(field, object, in, err)) {
            error_prefix(err, "state of '%s'", table->name);
            return false;
        }
    }
    return !table->post_restore || table->post_restore(object, err);
}

bool state_is_next(const struct state_table *table, const uint8_t *data, size_t size, size_t at)
{
    size_t length = strlen(table->name);
    return at < size && size - at > length && data[at] == length &&
           memcmp(data + at + 1, table->name, length) == 0;
}

bool state_restore(const struct state_table *table, void *object, const uint8_t *data, size_t size,
                   size_t *at, struct error **err)
{
    assert(*at <= size);
    struct reader in = {data, *at, size};
    if (!restore_table(table, object, &in, err))
        return false;
    *at = in.at;
    return true;
}
