/* SPDX-License-Identifier: MIT
 *
 * NAME.nvram: what a machine's hardware remembers while it has no power. Text like a .vmx
 * (config/text.h), written anew as a whole by the machine's worker:
 *
 *     trapeze.nvram = "1"                  # version of the format
 *     rtc.offset = "-3600000000000"        # ns that the guest's clock is ahead of the host's
 *
 * Behind a zero byte that ends the text lies, from NVRAM_FLASH_AT on, what is in the flash memory of a
 * machine whose firmware keeps its variables there. Each change goes to its place: what is in the file
 * when the worker is killed is what a flash has when the power goes.
 *
 * The file comes from a stranger: a worker that its guest has taken over, or somebody's editor.
 */
#ifndef TRAPEZE_CONFIG_NVRAM_H
#define TRAPEZE_CONFIG_NVRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

#define NVRAM_MAX_SIZE ((size_t)64 << 10) /* of the text, bytes */
#define NVRAM_FLASH_AT NVRAM_MAX_SIZE     /* in the file, of a flash's contents: all that follows */
#define NVRAM_MAX_FILE (NVRAM_FLASH_AT + ((size_t)16 << 20)) /* bytes, with the largest flash */

#define NVRAM_MAX_OFFSET (INT64_C(1) << 62)

struct nvram {
    int64_t rtc_offset; /* ns, less than NVRAM_MAX_OFFSET to either side */
};

/* The text ends at the first zero byte. No bytes at all are a new machine's. `name` is the file's for messages. False: err. */
bool nvram_parse(const char *bytes, size_t size, const char *name, struct nvram *nvram,
                 struct error **err);
/* malloc()ed; its length in *size. */
char *nvram_print(const struct nvram *nvram, size_t *size);

#endif
