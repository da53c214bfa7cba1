/* SPDX-License-Identifier: MIT
 *
 * The user's terminal in raw mode, and back, whatever happens in between.
 *
 * Threads: single-threaded. The saved settings live in the caller's struct.
 */
#ifndef TRAPEZE_CLIENT_TERMINAL_H
#define TRAPEZE_CLIENT_TERMINAL_H

#include <stdbool.h>
#include <stdint.h>
#include <termios.h>

struct error;

struct terminal {
    bool raw;
    struct termios saved;
};

/* Raw input (every key reaches the guest, Ctrl-C too); output processing stays on, so that
 * our own messages keep their line ends. */
bool terminal_enter(struct terminal *terminal, struct error **err);
void terminal_leave(struct terminal *terminal); /* idempotent */
bool terminal_size(uint16_t *columns, uint16_t *rows);

#endif
