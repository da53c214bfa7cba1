/* SPDX-License-Identifier: MIT
 *
 * See nvram.h.
 */
#include "worker/nvram.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"

bool nvram_read_file(int fd, struct nvram *nvram, struct error **err)
{
    *nvram = (struct nvram){.rtc_offset = 0};
    if (fd < 0)
        return true;
    char *bytes = alloc_zeroed(1, NVRAM_MAX_SIZE + 1);
    ssize_t size = pread(fd, bytes, NVRAM_MAX_SIZE + 1, 0);
    bool good = size >= 0 || error_set_errno(err, errno, "cannot read the machine's .nvram file");
    good = good && nvram_parse(bytes, (size_t)size, "the machine's .nvram file", nvram, err);
    free(bytes);
    return good;
}

void nvram_write_file(int fd, const struct nvram *nvram, struct log *log)
{
    size_t size;
    struct stat status;
    char *bytes = nvram_print(nvram, &size); /* and a zero byte */
    if (bytes == NULL || pwrite(fd, bytes, size + 1, 0) != (ssize_t)size + 1 ||
        fstat(fd, &status) != 0 ||
        (status.st_size <= (off_t)NVRAM_FLASH_AT && ftruncate(fd, (off_t)size) != 0))
        log_warning(log,
                    "cannot write the machine's .nvram file, and what its clock was set to "
                    "is lost when it ends: %s",
                    strerror(errno));
    free(bytes);
}

bool nvram_load_flash(int fd, uint8_t *to, uint64_t size, struct log *log)
{
    struct stat status;
    bool known = fstat(fd, &status) == 0 && status.st_size >= 0;
    uint64_t have = known && (uint64_t)status.st_size > NVRAM_FLASH_AT
                        ? (uint64_t)status.st_size - NVRAM_FLASH_AT
                        : 0;
    if (have == size && pread(fd, to, (size_t)size, (off_t)NVRAM_FLASH_AT) == (ssize_t)size)
        return true;
    if (have != 0)
        log_warning(log, "what another firmware keeps in the machine's .nvram file is dropped");
    memset(to, 0xff, (size_t)size);
    nvram_save_flash(fd, 0, to, size, log);
    if (have > size && ftruncate(fd, (off_t)(NVRAM_FLASH_AT + size)) != 0)
        log_warning(log, "cannot shorten the machine's .nvram file: %s", strerror(errno));
    return false;
}

void nvram_save_flash(int fd, uint64_t offset, const uint8_t *from, uint64_t length,
                      struct log *log)
{
    if (pwrite(fd, from, (size_t)length, (off_t)(NVRAM_FLASH_AT + offset)) != (ssize_t)length)
        log_warning(log,
                    "cannot write the machine's .nvram file, and what its firmware has set is lost "
                    "when it ends: %s",
                    strerror(errno));
}
