/* SPDX-License-Identifier: MIT
 *
 * See size.h.
 */
#include "cli/size.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/bits.h"

bool cli_parse_size(const char *text, uint64_t unit, uint64_t *bytes)
{
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)text[0]))
        return false;
    uint64_t value = strtoull(text, &end, 10);
    if (*end != '\0') {
        const char *units = "KMGT", *found = strchr(units, toupper((unsigned char)*end));
        if (found == NULL)
            return false;
        unit = KIB << (10 * (found - units));
        end++;
        if (strcasecmp(end, "iB") == 0)
            end += 2;
    }
    return errno == 0 && *end == '\0' && !__builtin_mul_overflow(value, unit, bytes);
}

bool cli_parse_count(const char *text, uint64_t limit, uint64_t *value)
{
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)text[0]))
        return false;
    *value = strtoull(text, &end, 0);
    return errno == 0 && *end == '\0' && *value <= limit;
}

const char *cli_show_size(uint64_t bytes, char *text)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    double shown = (double)bytes;
    while (shown >= 1024 && unit + 1 < ARRAY_SIZE(units)) {
        shown /= 1024;
        unit++;
    }
    snprintf(text, 32, shown == (double)(uint64_t)shown ? "%.0f %s" : "%.1f %s", shown,
             units[unit]);
    return text;
}
