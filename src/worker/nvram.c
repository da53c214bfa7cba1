/* SPDX-License-Identifier: MIT
 *
 * See nvram.h.
 */
#include "worker/nvram.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
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
    char *bytes = nvram_print(nvram, &size);
    if (bytes == NULL || pwrite(fd, bytes, size, 0) != (ssize_t)size ||
        ftruncate(fd, (off_t)size) != 0)
        log_warning(log,
                    "cannot write the machine's .nvram file, and what its clock was set to "
                    "is lost when it ends: %s",
                    strerror(errno));
    free(bytes);
}
