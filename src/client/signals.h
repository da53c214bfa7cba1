/* SPDX-License-Identifier: MIT
 *
 * The signals that ask this program to end, but for those that whoever started it wants ignored
 * (nohup). While they are blocked they wait, and what must not be left behind can be removed
 * first.
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLIENT_SIGNALS_H
#define TRAPEZE_CLIENT_SIGNALS_H

#include <signal.h>
#include <stdbool.h>

void signals_of_the_end(sigset_t *set);
/* Whether one of them waits. */
bool signals_waiting(void);

#endif
