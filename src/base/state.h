/* SPDX-License-Identifier: MIT
 *
 * Declared state: a const table of fields per object, from which save, restore and dump
 * all work. A field's name is its name on the wire (snapshot, migration): reviewed like an
 * API, never renamed. Unknown fields in a stream are an error unless the table says
 * otherwise by version; missing ones too, unless `since` is newer than the stream.
 *
 *     static const struct state_field uart_fields[] = {
 *         STATE_U8(struct uart, ier, "ier"),
 *         STATE_BYTES(struct uart, fifo, "fifo"),
 *         STATE_END,
 *     };
 *     const struct state_table uart_state = {"uart16550", 1, uart_fields, NULL, NULL};
 *
 * Wire format, little-endian: table = name, version u32, field count u32, fields; field =
 * name, kind u8, payload length u32, payload; a name is a u8 length and that many bytes.
 * save(restore(save(x))) == save(x), byte for byte (tested for every table).
 *
 * Threads: none of its own; the object must be quiescent.
 */
#ifndef TRAPEZE_BASE_STATE_H
#define TRAPEZE_BASE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

enum state_kind {
    STATE_KIND_END,
    STATE_KIND_BOOL,
    STATE_KIND_UINT,  /* `size` bytes each, `count` of them; 1, 2, 4 or 8 */
    STATE_KIND_BYTES, /* an opaque byte array of `size` bytes */
    STATE_KIND_TABLE, /* `count` embedded structs of `size` bytes, described by `table` */
    STATE_KIND_BUFFER /* a struct state_buffer: as many bytes as there are */
};

struct state_table;

struct state_field {
    const char *name;
    enum state_kind kind;
    uint32_t offset;
    uint32_t size;
    uint32_t count;
    uint32_t since; /* first table version that has it; 0 = always */
    const struct state_table *table;
};

struct state_table {
    const char *name;
    uint32_t version;
    const struct state_field *fields;
    /* Optional: before saving, make derived fields exact; after restoring, check every
     * value (the stream is hostile) and rebuild what is derived. */
    void (*pre_save)(void *object);
    bool (*post_restore)(void *object, struct error **err);
};

#define STATE_FIELD_SIZE(type, member) ((uint32_t)sizeof(((type *)0)->member))
#define STATE_BOOL(type, member, name) \
    {name, STATE_KIND_BOOL, (uint32_t)offsetof(type, member), sizeof(bool), 1, 0, NULL}
/* Any unsigned or signed integer, enum or _Atomic integer member. */
#define STATE_UINT(type, member, name) \
    {name, STATE_KIND_UINT, (uint32_t)offsetof(type, member), STATE_FIELD_SIZE(type, member), \
     1, 0, NULL}
/* An array of integers. */
#define STATE_UINTS(type, member, name) \
    {name, STATE_KIND_UINT, (uint32_t)offsetof(type, member), \
     STATE_FIELD_SIZE(type, member[0]), \
     STATE_FIELD_SIZE(type, member) / STATE_FIELD_SIZE(type, member[0]), 0, NULL}
#define STATE_BYTES(type, member, name) \
    {name, STATE_KIND_BYTES, (uint32_t)offsetof(type, member), STATE_FIELD_SIZE(type, member), \
     1, 0, NULL}
/* What has no fixed size; the owner's pre_save fills the buffer, restoring replaces it, and
 * post_restore believes nothing that is in it. */
#define STATE_BUFFER(type, member, name) \
    {name, STATE_KIND_BUFFER, (uint32_t)offsetof(type, member), STATE_FIELD_SIZE(type, member), \
     1, 0, NULL}
#define STATE_STRUCT(type, member, name, inner) \
    {name, STATE_KIND_TABLE, (uint32_t)offsetof(type, member), STATE_FIELD_SIZE(type, member), \
     1, 0, (inner)}
#define STATE_STRUCTS(type, member, name, inner) \
    {name, STATE_KIND_TABLE, (uint32_t)offsetof(type, member), \
     STATE_FIELD_SIZE(type, member[0]), \
     STATE_FIELD_SIZE(type, member) / STATE_FIELD_SIZE(type, member[0]), 0, (inner)}
/* A field that came with a version of the table: one value, or bytes. */
#define STATE_SINCE(version, kind, type, member, name) \
    {name, kind, (uint32_t)offsetof(type, member), STATE_FIELD_SIZE(type, member), \
     1, version, NULL}
#define STATE_END {NULL, STATE_KIND_END, 0, 0, 0, 0, NULL}

/* A growing byte buffer; zero-initialise, state_buffer_free() at the end. */
struct state_buffer {
    uint8_t *data;
    size_t size;
    size_t capacity;
};
void state_buffer_free(struct state_buffer *buffer);
void state_buffer_add(struct state_buffer *buffer, const void *data, size_t size);

/* Appends the object to the buffer. */
void state_save(const struct state_table *table, void *object, struct state_buffer *out);

/* Reads one table from data[*at..size) and moves *at behind it. On failure the object may be
 * half restored and must not run. */
/* Whether the table that comes next has that name. */
bool state_is_next(const struct state_table *table, const uint8_t *data, size_t size, size_t at);
bool state_restore(const struct state_table *table, void *object, const uint8_t *data,
                   size_t size, size_t *at, struct error **err);

#endif
