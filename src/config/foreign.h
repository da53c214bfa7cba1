/* SPDX-License-Identifier: MIT
 *
 * Keys and values that VMware writes and that mean nothing, or something else, to us.
 *
 * Threads: any.
 */
#ifndef TRAPEZE_CONFIG_FOREIGN_H
#define TRAPEZE_CONFIG_FOREIGN_H

#include <stdbool.h>

enum foreign {
    FOREIGN_NOT,      /* not a key of VMware's that we know of */
    FOREIGN_HARMLESS, /* it makes no difference that nobody looks at it */
    FOREIGN_MATTERS   /* it asks for something that the machine does not have */
};

enum foreign foreign_key(const char *key, const char *value);

/* The value in our words: `value` itself, another, or NULL for none. *matters: they differ in a
 * way that a user should know. */
const char *foreign_value(const char *key, const char *value, bool *matters);

#endif
