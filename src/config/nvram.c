/* SPDX-License-Identifier: MIT
 *
 * See nvram.h.
 */
#include "config/nvram.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "config/text.h"

static bool parse_offset(const char *text, int64_t *offset)
{
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    *offset = number;
    return errno == 0 && end != text && *end == '\0' && number > -NVRAM_MAX_OFFSET &&
           number < NVRAM_MAX_OFFSET;
}

static bool take(const struct text *text, struct nvram *nvram, struct error **err)
{
    const char *version = text_get(text, "trapeze.nvram");
    if (version == NULL || strcmp(version, "1") != 0)
        return error_set(err, ERROR_USAGE, "%s %s%.20s", text_name(text),
                         version == NULL ? "does not begin as an .nvram file does"
                                         : "is of a version that is unknown here: ",
                         version == NULL ? "" : version);
    for (size_t i = 0; i < text_count(text); i++) {
        struct text_entry entry = text_at(text, i);
        bool offset = strcasecmp(entry.key, "rtc.offset") == 0;
        if (!offset && strcasecmp(entry.key, "trapeze.nvram") != 0)
            return error_set(err, ERROR_USAGE, "%s:%u: nothing here is called '%.40s'",
                             text_name(text), entry.line, entry.key);
        if (offset && !parse_offset(entry.value, &nvram->rtc_offset))
            return error_set(err, ERROR_USAGE, "%s:%u: '%.40s' is no number of nanoseconds",
                             text_name(text), entry.line, entry.value);
    }
    return true;
}

bool nvram_parse(const char *bytes, size_t size, const char *name, struct nvram *nvram,
                 struct error **err)
{
    *nvram = (struct nvram){.rtc_offset = 0};
    size = strnlen(bytes, size);
    if (size == 0)
        return true;
    bool good = size <= NVRAM_MAX_SIZE || error_set(err, ERROR_USAGE, "%s is larger than %zu KiB",
                                                    name, NVRAM_MAX_SIZE >> 10);
    struct text *text = good ? text_parse(bytes, size, name, err) : NULL;
    good = text != NULL && take(text, nvram, err);
    text_free(text);
    if (!good) {
        *nvram = (struct nvram){.rtc_offset = 0};
        error_hint(err, "Without that file the machine starts with this host's time.");
    }
    return good;
}

char *nvram_print(const struct nvram *nvram, size_t *size)
{
    char *text = NULL;
    int length = asprintf(&text, "trapeze.nvram = \"1\"\nrtc.offset = \"%lld\"\n",
                          (long long)nvram->rtc_offset);
    *size = length > 0 ? (size_t)length : 0;
    return length > 0 ? text : NULL;
}
