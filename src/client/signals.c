/* SPDX-License-Identifier: MIT
 *
 * See signals.h. A blocked signal waits even if it is ignored, so ignored ones must not be
 * blocked.
 */
#include "client/signals.h"

#include <stddef.h>

#include "base/bits.h"

static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

void signals_of_the_end(sigset_t *set)
{
    sigemptyset(set);
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        struct sigaction action;
        if (sigaction(numbers[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN)
            sigaddset(set, numbers[i]);
    }
}

bool signals_waiting(void)
{
    sigset_t pending;
    sigpending(&pending);
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        if (sigismember(&pending, numbers[i]) == 1)
            return true;
    return false;
}
