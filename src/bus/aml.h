/* SPDX-License-Identifier: MIT
 *
 * A writer of AML, the byte code by which ACPI describes devices (ACPI 6.5, chapter 20). Objects
 * nest between a _begin and aml_end(); what a device says of itself:
 *
 *     aml_device_begin(aml, "COM1");
 *     aml_name_eisa(aml, "_HID", "PNP0501");
 *     aml_resources_begin(aml, "_CRS");
 *     aml_io(aml, 0x3f8, 8);
 *     aml_interrupt(aml, 4, AML_EDGE);
 *     aml_resources_end(aml);
 *     aml_end(aml);
 *
 * Names have up to four characters for each segment: "\\_SB.PCI0", "_CRS". The writer only grows;
 * the input is our own, so what is wrong with it is an assert.
 *
 * Threads: none of its own.
 */
#ifndef TRAPEZE_BUS_AML_H
#define TRAPEZE_BUS_AML_H

#include <stddef.h>
#include <stdint.h>

#define AML_DEPTH 8

struct aml {
    uint8_t *bytes; /* aml_free() */
    size_t size, capacity;
    size_t open[AML_DEPTH]; /* where the lengths of what is open belong */
    unsigned depth;
    size_t resources; /* where the length of a list of resources is */
};

void aml_free(struct aml *aml);
void aml_end(struct aml *aml);

void aml_scope_begin(struct aml *aml, const char *name);
void aml_device_begin(struct aml *aml, const char *name);
void aml_method_begin(struct aml *aml, const char *name, unsigned arguments);

/* An object's name; one term has to follow: */
void aml_name(struct aml *aml, const char *name);
void aml_integer(struct aml *aml, uint64_t value);
void aml_text(struct aml *aml, const char *text);
void aml_package_begin(struct aml *aml, uint8_t elements);
void aml_uuid(struct aml *aml, const char *text); /* "33db4d5b-1ff7-…" as ToUUID() has it */

/* Names with their terms. */
void aml_name_integer(struct aml *aml, const char *name, uint64_t value);
void aml_name_text(struct aml *aml, const char *name, const char *text);
void aml_name_eisa(struct aml *aml, const char *name, const char *id); /* "PNP0501" */

/* ---- methods: an operator, then its operands, then where the result goes ---- */

enum aml_op {
    AML_STORE = 0x70, /* source, target */
    AML_AND = 0x7b,
    AML_OR = 0x7d,
    AML_NOTIFY = 0x86,      /* object, value */
    AML_DWORD_FIELD = 0x8a, /* buffer, byte offset, name */
    AML_EQUAL = 0x93,
    AML_RETURN = 0xa4
};
enum { AML_NOWHERE = 0x00, AML_LOCAL0 = 0x60, AML_ARG0 = 0x68 };
void aml_op(struct aml *aml, enum aml_op op);
void aml_local(struct aml *aml, unsigned number); /* Local0.. */
void aml_arg(struct aml *aml, unsigned number);   /* Arg0.. */
void aml_reference(struct aml *aml, const char *name);
void aml_nowhere(struct aml *aml);  /* a result that nobody wants */
void aml_if_begin(struct aml *aml); /* the condition, then what is done */
void aml_else_begin(struct aml *aml);

/* ---- resources (chapter 6.4) ---- */

enum aml_trigger { AML_EDGE, AML_LEVEL, AML_LEVEL_SHARED, AML_LEVEL_LOW_SHARED };
enum aml_window { AML_MEMORY, AML_IO, AML_BUS };

void aml_resources_begin(struct aml *aml, const char *name);
void aml_resources_end(struct aml *aml);
void aml_io(struct aml *aml, uint16_t port, uint8_t count);
void aml_interrupt(struct aml *aml, uint32_t gsi, enum aml_trigger trigger);
void aml_memory(struct aml *aml, uint32_t gpa, uint32_t size);
/* What a bridge passes on. */
void aml_window(struct aml *aml, enum aml_window kind, uint64_t first, uint64_t size);

#endif
