/* SPDX-License-Identifier: MIT
 *
 * An error is its kind and one string that grows at both ends: contexts in front, the hint
 * behind. Nothing here can fail for want of memory: then the error is `out_of_memory`, a
 * constant, which keeps its own message whatever is added.
 */
#include "base/error.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct error {
    enum error_kind kind;
    char *message; /* owned */
};

static const struct error out_of_memory = {ERROR_HOST, (char *)"the host is out of memory"};

static struct error *new_error(enum error_kind kind, char *message)
{
    struct error *error = message ? malloc(sizeof(*error)) : NULL;
    if (!error) {
        free(message);
        return (struct error *)&out_of_memory;
    }
    error->kind = kind;
    error->message = message;
    return error;
}

void error_plain(char *text)
{
    for (unsigned char *at = (unsigned char *)text; *at != '\0'; at++) {
        bool pair = at[0] == 0xc2 && at[1] >= 0x80 && at[1] <= 0x9f;
        if (pair)
            *at++ = '?';
        if (pair || *at < ' ' || *at == 0x7f)
            *at = '?';
    }
}

/* NULL if out of memory. */
static char *format_text(const char *format, va_list arguments)
{
    char *text;
    if (vasprintf(&text, format, arguments) < 0)
        return NULL;
    error_plain(text);
    return text;
}

/* Replaces the message by `first` `separator` `second`; without memory it stays as it is. */
static void join(struct error *error, const char *first, const char *separator, const char *second)
{
    char *joined;
    if (asprintf(&joined, "%s%s%s", first, separator, second) < 0)
        return;
    free(error->message);
    error->message = joined;
}

static bool is_extensible(struct error **err)
{
    return err && *err && *err != &out_of_memory;
}

bool error_set(struct error **err, enum error_kind kind, const char *format, ...)
{
    if (!err)
        return false;
    assert(!*err && "an error is set once; prefix it afterwards");
    va_list arguments;
    va_start(arguments, format);
    *err = new_error(kind, format_text(format, arguments));
    va_end(arguments);
    return false;
}

bool error_set_errno(struct error **err, int number, const char *format, ...)
{
    if (!err)
        return false;
    assert(!*err && "an error is set once; prefix it afterwards");
    va_list arguments;
    va_start(arguments, format);
    *err = new_error(ERROR_HOST, format_text(format, arguments));
    va_end(arguments);
    char buffer[128];
    if (is_extensible(err))
        join(*err, (*err)->message, ": ", strerror_r(number, buffer, sizeof(buffer)));
    return false;
}

void error_prefix(struct error **err, const char *format, ...)
{
    if (!is_extensible(err))
        return;
    va_list arguments;
    va_start(arguments, format);
    char *context = format_text(format, arguments);
    va_end(arguments);
    if (context)
        join(*err, context, ": ", (*err)->message);
    free(context);
}

void error_hint(struct error **err, const char *format, ...)
{
    if (!is_extensible(err))
        return;
    va_list arguments;
    va_start(arguments, format);
    char *hint = format_text(format, arguments);
    va_end(arguments);
    if (hint) {
        const char *message = (*err)->message;
        size_t length = strlen(message);
        bool ended = length > 0 && strchr(".!?", message[length - 1]) != NULL;
        join(*err, message, ended ? " " : ". ", hint);
    }
    free(hint);
}

bool error_propagate(struct error **err, struct error *from)
{
    if (!err) {
        error_free(from);
        return false;
    }
    assert(!*err && "an error is set once; prefix it afterwards");
    *err = from;
    return false;
}

const char *error_message(const struct error *error)
{
    return error->message;
}

enum error_kind error_kind(const struct error *error)
{
    return error->kind;
}

void error_free(struct error *error)
{
    if (!error || error == &out_of_memory)
        return;
    free(error->message);
    free(error);
}
