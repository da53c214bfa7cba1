/* SPDX-License-Identifier: MIT
 *
 * See terminal.h.
 */
#include "client/terminal.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/error.h"

bool terminal_enter(struct terminal *terminal, struct error **err)
{
    if (tcgetattr(STDIN_FILENO, &terminal->saved) != 0)
        return error_set_errno(err, errno, "cannot read the terminal's settings");
    struct termios raw = terminal->saved;
    cfmakeraw(&raw);
    raw.c_oflag |= OPOST;
    if (tcsetattr(STDIN_FILENO, TCSANOW, &raw) != 0)
        return error_set_errno(err, errno, "cannot switch the terminal to raw mode");
    terminal->raw = true;
    return true;
}

void terminal_leave(struct terminal *terminal)
{
    if (!terminal->raw)
        return;
    terminal->raw = false;
    /* TCSADRAIN could hang on a stopped terminal; what is unread was meant for the guest. */
    tcsetattr(STDIN_FILENO, TCSANOW, &terminal->saved);
}

bool terminal_size(uint16_t *columns, uint16_t *rows)
{
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return false;
    *columns = size.ws_col;
    *rows = size.ws_row;
    return true;
}
