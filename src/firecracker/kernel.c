/* SPDX-License-Identifier: MIT
 *
 * What a microVM's processor is: that of its kernel. A file that is no kernel at all is left to who
 * loads it, which knows more to say of it.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "firecracker/api.h"

enum { HEAD = 0x290, BZIMAGE_MAGIC = 0x202, ELF_MACHINE = 18 };

bool fc_kernel_arch(const char *path, const char **arch, struct error **err)
{
    uint8_t head[HEAD];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    ssize_t size = fd >= 0 ? pread(fd, head, sizeof(head), 0) : -1;
    int number = errno;
    if (fd >= 0)
        close(fd);
    if (fd < 0)
        return error_set_errno(err, number, "The kernel file cannot be opened: '%s'", path);
    bool bzimage = size == HEAD && memcmp(head + BZIMAGE_MAGIC, "HdrS", 4) == 0;
    bool elf = size >= ELF_MACHINE + 2 && memcmp(head, ELFMAG, SELFMAG) == 0 &&
               load_le16(head + ELF_MACHINE) == EM_X86_64;
    *arch = bzimage || elf ? "x86_64" : "riscv64";
    return true;
}
