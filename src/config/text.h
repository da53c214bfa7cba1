/* SPDX-License-Identifier: MIT
 *
 * A .vmx file as text, without regard to what its keys mean: lines of `key = "value"`, comments
 * and empty lines. What is not changed is written back byte for byte: order, spelling, comments,
 * line ends, keys that nobody here knows.
 *
 *     # a comment
 *     memsize = "512"                      # MiB
 *     scsi0:0.fileName = "disk.img"
 *
 * Keys are compared without case and stand there once. In a value, |XX stands for the byte with
 * hexadecimal code XX (VMware's escape; not 00); the writer escapes '"', '|', control characters
 * and what is not UTF-8 that way. The text itself is UTF-8.
 *
 * The text comes from a stranger: its size, its lines and its keys are bounded.
 *
 * Threads: one at a time.
 */
#ifndef TRAPEZE_CONFIG_TEXT_H
#define TRAPEZE_CONFIG_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct error;

#define TEXT_MAX_SIZE  ((size_t)1 << 20) /* bytes */
#define TEXT_MAX_LINES 20000
#define TEXT_MAX_KEY   255 /* bytes */

struct text;

/* Valid until the text is changed or freed. */
struct text_entry {
    const char *key;
    const char *value; /* unescaped; any bytes but 0 */
    unsigned line;     /* from 1; 0: added since the text was read */
};

/* `name` is the file's for messages: "NAME:LINE: …". Bytes may hold anything. NULL: err. */
struct text *text_parse(const char *bytes, size_t size, const char *name, struct error **err);
struct text *text_load(const char *path, struct error **err);
struct text *text_new(const char *name); /* an empty one */
void text_free(struct text *text);       /* NULL is fine */

const char *text_name(const struct text *text);

/* Entries by key (without case). */
size_t text_count(const struct text *text);
struct text_entry text_at(const struct text *text, size_t index);
/* False: there is none. */
bool text_find(const struct text *text, const char *key, struct text_entry *entry);
/* The value, or NULL. */
const char *text_get(const struct text *text, const char *key);

/* Changes the value where the key stands, or adds a line behind its relatives (keys that are the
 * same up to the last '.'), else at the end. `key` is one of ours: it is well-formed. */
void text_set(struct text *text, const char *key, const char *value);
void text_remove(struct text *text, const char *key); /* its line; fine if there is none */

/* malloc()ed, the caller frees it; its length in *size. Always read back by text_parse(), unless
 * it grew beyond TEXT_MAX_SIZE. */
char *text_write(const struct text *text, size_t *size);

/* One line `key = "value"` as text_set() would add it. */
void text_write_line(FILE *out, const char *key, const char *value);

#endif
