/* SPDX-License-Identifier: MIT
 *
 * Registers as text, for struct isa's dump(): what does not fit is cut off.
 */
#ifndef TRAPEZE_ISA_DUMP_H
#define TRAPEZE_ISA_DUMP_H

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

struct dump {
    char *at;
    size_t left; /* bytes */
};

static inline void __attribute__((format(printf, 2, 3)))
dump_put(struct dump *dump, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(dump->at, dump->left, format, arguments);
    va_end(arguments);
    size_t used = length < 0 ? 0 : (size_t)length;
    if (used >= dump->left)
        used = dump->left > 0 ? dump->left - 1 : 0; /* cut; what follows is lost as well */
    dump->at += used;
    dump->left -= used;
}

#endif
