/* SPDX-License-Identifier: MIT
 *
 * Libraries that are loaded when they are needed, because linked they would cost every start of
 * the program. Who uses one lists what it calls:
 *
 *     #define CALLS(X) X(one_function) X(another)
 *     struct library {
 *         CALLS(LIBRARY_MEMBER)
 *     };
 *     static const char *const calls[] = {CALLS(LIBRARY_NAME_OF) NULL};
 *     library_load(names, calls, &library, &why)
 *
 * A library stays loaded. Threads: any.
 */
#ifndef TRAPEZE_BASE_LIBRARY_H
#define TRAPEZE_BASE_LIBRARY_H

#include <stdbool.h>

#define LIBRARY_MEMBER(name)  __typeof__(&name) name;
#define LIBRARY_NAME_OF(name) #name,

/* Loads the first of `names` that is there and stores the addresses of `calls` one after the other
 * in the struct of function pointers at `to`; both lists end with NULL. False: NULL, or what
 * dlerror() says, in *why. */
bool library_load(const char *const *names, const char *const *calls, void *to, const char **why);
/* Whether this process has it, without touching a file: where nothing can be opened any more,
 * library_load() is fine if so. */
bool library_is_loaded(const char *name);

#endif
