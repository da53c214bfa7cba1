/* SPDX-License-Identifier: MIT
 *
 * Errors of the user's or the host's making: a value with a chain of context,
 * printed once, at the top, as a sentence that names the cause and the remedy.
 * Guest faults never become a struct error; our own bugs are assert()ed.
 *
 *     if (!blk_open(path, &disk, err)) {
 *         error_prefix(err, "disk '%s'", path);
 *         return false;
 *     }
 *
 * Convention: the last parameter is `struct error **err`. It is NULL (caller does
 * not care) or points to a NULL pointer, which the callee sets exactly when it fails.
 * The caller owns the error. No global state: usable from any thread.
 */
#ifndef TRAPEZE_BASE_ERROR_H
#define TRAPEZE_BASE_ERROR_H

#include <stdbool.h>

enum error_kind {
    ERROR_USAGE,   /* the user asked for something that makes no sense */
    ERROR_HOST,    /* the host refused: file, memory, system call */
    ERROR_INTERNAL /* a limit of ours; still a sentence, never a crash */
};

struct error;

/* Sets *err and returns false, so that `return error_set(...)` reads well. */
bool error_set(struct error **err, enum error_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* As error_set(ERROR_HOST), with ": " and the text of errno value `number` appended. */
bool error_set_errno(struct error **err, int number, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "context: " in front of the message. Nothing happens if err or *err is NULL. */
void error_prefix(struct error **err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Adds a second sentence that says what to do about it. */
void error_hint(struct error **err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Hands `from` (owned) to the caller's err, or frees it if err is NULL. Returns false. */
bool error_propagate(struct error **err, struct error *from);

/* Puts '?' for control characters (C0, DEL, and C1 in UTF-8), which a terminal would obey. Every part
 * of an error is made plain: names and words of strangers get into sentences. */
void error_plain(char *text);

const char *error_message(const struct error *error); /* valid until error_free or a prefix */
enum error_kind error_kind(const struct error *error);
void error_free(struct error *error); /* NULL is fine */

#endif
