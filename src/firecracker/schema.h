/* SPDX-License-Identifier: MIT
 *
 * Bodies of requests, described as data: a table of fields for each definition of Firecracker's
 * published API description. A body that passed has those fields and no others, each of its kind,
 * and every field that has a preset.
 *
 * Threads: any.
 */
#ifndef TRAPEZE_FIRECRACKER_SCHEMA_H
#define TRAPEZE_FIRECRACKER_SCHEMA_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum fc_kind {
    FC_END,
    FC_BOOL,
    FC_UINT,
    FC_TEXT,
    FC_OBJECT,
    FC_LIST,       /* of objects, or (fields NULL) of texts */
    FC_TEXTS,      /* an object whose members are texts, of any names */
    FC_ANY,        /* the first row of a table: any value at all is such a body */
    FC_UNSUPPORTED /* it exists there, and not here: refused when it is given and not null */
};

struct fc_field {
    const char *name;
    enum fc_kind kind;
    bool required;
    uint64_t min, max;             /* UINT; max 0: none */
    const char *const *choices;    /* TEXT: the only ones, ends with NULL; or NULL */
    const struct fc_field *fields; /* OBJECT, LIST */
    const char *preset;            /* JSON, if the field is absent or null; NULL: it stays absent */
};

#define FC_FAULT_MAX 512

/* A new object; NULL: `fault` says why not, in the words that clients of Firecracker know. */
json_t *fc_check(const struct fc_field *fields, const char *body, size_t size,
                 char fault[FC_FAULT_MAX]);
/* The same without presets, and nothing is required: what is to change of what there is. */
json_t *fc_check_part(const struct fc_field *fields, const char *body, size_t size,
                      char fault[FC_FAULT_MAX]);

/* As fc_check(), of an object that is there already. */
bool fc_check_object(const struct fc_field *fields, json_t *object, char fault[FC_FAULT_MAX]);

#endif
