/* SPDX-License-Identifier: MIT
 *
 * See nvram.h.
 */
#include "daemon/nvram.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "config/nvram.h"
#include "daemon/folder.h"

static int open_file(int folder, const char *name)
{
    return openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
}

/* *flash: whether something lies behind the text. */
static bool read_file(int fd, const char *name, struct nvram *nvram, bool *flash,
                      struct error **err)
{
    struct stat status;
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) ||
        (uint64_t)status.st_size > NVRAM_MAX_FILE)
        return error_set(err, ERROR_USAGE, "%s is no .nvram file", name);
    char *bytes = alloc_zeroed(1, NVRAM_MAX_SIZE + 1);
    ssize_t size = pread(fd, bytes, NVRAM_MAX_SIZE, 0);
    bool good = size >= 0 ? nvram_parse(bytes, (size_t)size, name, nvram, err)
                          : error_set_errno(err, errno, "cannot read '%s'", name);
    *flash = (uint64_t)status.st_size > NVRAM_FLASH_AT;
    free(bytes);
    return good;
}

/* A file that makes no sense is as none. */
bool nvram_pack(const struct instance *instance, struct pack *pack, int format, struct error **err)
{
    char name[INSTANCE_MAX_FILE];
    struct nvram nvram;
    bool flash = false;
    snprintf(name, sizeof(name), "%s.nvram", instance->name);
    int fd = open_file(instance->fd, name);
    if (fd < 0 || !read_file(fd, name, &nvram, &flash, NULL)) {
        if (fd >= 0)
            close(fd);
        return true;
    }
    pack_set_clock(pack, nvram.rtc_offset);
    if (flash && format >= PACK_HAS_NVRAM)
        return pack_add_nvram(pack, fd, err);
    if (flash)
        pack_note(pack, "what its firmware keeps (boot entries, keys) stays behind, as the trapeze "
                        "there is too old: it begins with none, and starts the disk's default "
                        "boot loader");
    close(fd);
    return true;
}

static bool write_clock(int folder, const char *file, int64_t rtc_offset, struct error **err)
{
    const struct nvram nvram = {rtc_offset};
    size_t size;
    if (rtc_offset == 0)
        return true;
    char *bytes = nvram_print(&nvram, &size);
    bool good = bytes != NULL && folder_write_bytes(folder, file, bytes, size, err);
    free(bytes);
    return good;
}

bool nvram_place(int folder, const char *name, const struct unpacked *unpacked, struct error **err)
{
    char file[INSTANCE_MAX_FILE];
    struct nvram nvram;
    bool flash;
    snprintf(file, sizeof(file), "%s.nvram", name);
    if (!unpacked->has_nvram)
        return write_clock(folder, file, unpacked->rtc_offset, err);
    int fd = open_file(folder, PACK_NVRAM);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot open '%s'", PACK_NVRAM);
    bool good = read_file(fd, "the archive's " PACK_NVRAM, &nvram, &flash, err);
    close(fd);
    return good && (renameat(folder, PACK_NVRAM, folder, file) == 0 ||
                    error_set_errno(err, errno, "cannot make '%s'", file));
}
