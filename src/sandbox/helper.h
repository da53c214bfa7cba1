/* SPDX-License-Identifier: MIT
 *
 * A piece of work on what strangers have made, as a child process behind the walls of sandbox.h: of
 * what we have it has the descriptors that it is given, standard error and a copy of our memory. A
 * host that refuses some of the walls has the others.
 *
 *     sandbox_help() ─ fork ─► closes all else, sandbox_enter(), work() ─► reports: steps, the end
 *
 * What it opens, loads or starts it does before, or asks for by a name, and gets if the parent
 * thinks so. Nobody believes it more than what it reports: a number now and then, names, and in the
 * end success or a sentence.
 *
 * Threads: call it while there is one only.
 */
#ifndef TRAPEZE_SANDBOX_HELPER_H
#define TRAPEZE_SANDBOX_HELPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SANDBOX_HELPER_FDS 300

struct error;
struct sandbox_teller;

struct sandbox_helper {
    /* In the child; it does not return to whoever called sandbox_help(). False: err. */
    bool (*work)(void *opaque, struct sandbox_teller *teller, struct error **err);
    void (*step)(void *opaque, uint64_t number); /* here; may be NULL */
    /* Here, for sandbox_ask(): a descriptor, which is closed here then; -1: errno. May be NULL. */
    int (*open)(void *opaque, const char *name);
    void *opaque;
    int fds[SANDBOX_HELPER_FDS]; /* what it keeps */
    size_t fd_count;
};

/* Waits for the end. False: err, also when it was killed. */
bool sandbox_help(const struct sandbox_helper *helper, struct error **err);
/* In the child. If nobody is there any more this is its end. */
void sandbox_tell(struct sandbox_teller *teller, uint64_t number);
/* In the child: what open() gives for the name; -1: errno. */
int sandbox_ask(struct sandbox_teller *teller, const char *name);

#endif
