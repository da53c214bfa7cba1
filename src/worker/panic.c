/* SPDX-License-Identifier: MIT
 *
 * See panic.h.
 */
#include "worker/panic.h"

#include <ctype.h>
#include <string.h>

static const char marker[] = "Kernel panic - not syncing";

/* "[    0.123456] " or "[    0.123456][  T1] ", or nothing. */
static const char *skip_timestamp(const char *line)
{
    while (*line == '[') {
        const char *at = line + 1;
        while (*at == ' ' || *at == '.' || isalnum((unsigned char)*at))
            at++;
        if (*at != ']')
            return line;
        line = at + 1;
    }
    return *line == ' ' ? line + 1 : line;
}

static bool line_ends(struct panic_watcher *watcher)
{
    watcher->line[watcher->length] = '\0';
    watcher->length = 0;
    const char *text = skip_timestamp(watcher->line);
    if (watcher->found[0] != '\0' || strncmp(text, marker, sizeof(marker) - 1) != 0)
        return false;
    memcpy(watcher->found, text, strlen(text) + 1);
    /* It ends up in messages on the user's terminal, which must not obey it. */
    for (char *at = watcher->found; *at != '\0'; at++)
        if (iscntrl((unsigned char)*at))
            *at = '?';
    return true;
}

bool panic_watch(struct panic_watcher *watcher, const uint8_t *data, size_t size)
{
    bool found = false;
    for (size_t i = 0; i < size; i++) {
        if (data[i] == '\n')
            found = line_ends(watcher) || found;
        else if (data[i] != '\r' && watcher->length < sizeof(watcher->line) - 1)
            watcher->line[watcher->length++] = (char)data[i];
    }
    return found;
}
