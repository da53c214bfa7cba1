/* SPDX-License-Identifier: MIT
 *
 * The worker's end of an instance's NAME.nvram (config/nvram.h): read at the start, written
 * whenever the hardware has something new to remember.
 *
 * Threads: the loop's; nvram_save_flash(): any, one at a time.
 */
#ifndef TRAPEZE_WORKER_NVRAM_H
#define TRAPEZE_WORKER_NVRAM_H

#include "base/log.h"
#include "config/nvram.h"

/* fd -1: there is no such file, and a new machine's content. False: err. */
bool nvram_read_file(int fd, struct nvram *nvram, struct error **err);
/* A flash's contents (bus/backend.h): false if the file has none for a flash of that size; it then has room
 * for one that is erased. */
bool nvram_load_flash(int fd, uint8_t *to, uint64_t size, struct log *log);
void nvram_save_flash(int fd, uint64_t offset, const uint8_t *from, uint64_t length,
                      struct log *log);
/* Over the old content, in one write of less than a sector: a kill leaves the old or the new one.
 * What cannot be written is said in the log. */
void nvram_write_file(int fd, const struct nvram *nvram, struct log *log);

#endif
