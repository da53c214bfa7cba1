/* SPDX-License-Identifier: MIT
 *
 * See folder.h.
 */
#include "daemon/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "config/text.h"
#include "daemon/migration.h"

static const char *const private_files[] = {"lock",         "end",         "control.sock",
                                            "console.sock", "console.log", "worker.log",
                                            "vsock.sock",   "restart",     "known_hosts",
                                            INSTANCE_SAVED, MIGRATION_RECORD, MIGRATION_TAKEN};

/* Under another name first: whoever reads sees the old content or the new one, all of it. */
bool folder_write_bytes(int folder, const char *name, const char *bytes, size_t size,
                        struct error **err)
{
    char temporary[NAME_MAX + 1];
    snprintf(temporary, sizeof(temporary), ".%s.new", name);
    int fd = openat(folder, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool good = fd >= 0;
    for (size_t done = 0; good && done < size;) {
        ssize_t count = write(fd, bytes + done, size - done);
        good = count >= 0 || errno == EINTR;
        done += count > 0 ? (size_t)count : 0;
    }
    good = good && fsync(fd) == 0 && renameat(folder, temporary, folder, name) == 0 &&
           fsync(folder) == 0;
    if (!good) {
        error_set_errno(err, errno, "cannot write '%s'", name);
        if (fd >= 0)
            unlinkat(folder, temporary, 0);
    }
    if (fd >= 0)
        close(fd);
    return good;
}

bool folder_write(int folder, const char *name, const struct text *text, struct error **err)
{
    size_t size;
    char *bytes = text_write(text, &size);
    bool good = folder_write_bytes(folder, name, bytes, size, err);
    free(bytes);
    return good;
}

bool folder_copy(int parent, const char *source, int folder, const char *name, copy_go_on_fn *go_on,
                 void *opaque, struct error **err)
{
    struct stat status;
    int from = openat(parent, source, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (from < 0 || fstat(from, &status) != 0 || !S_ISREG(status.st_mode)) {
        error_set_errno(err, from < 0 ? errno : EINVAL, "cannot copy '%s'", source);
        if (from >= 0)
            close(from);
        return false;
    }
    int to = openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool good = to >= 0 || error_set_errno(err, errno, "cannot make '%s'", name);
    good = good && copy_file(from, to, go_on, opaque, err);
    good = good && (fsync(to) == 0 || error_set_errno(err, errno, "cannot keep '%s'", name));
    if (to >= 0)
        close(to);
    close(from);
    return good;
}

bool folder_is_description(const char *name, const char *ending)
{
    size_t length = strlen(name), end = strlen(ending);
    return name[0] != '.' && length > end && strcmp(name + length - end, ending) == 0;
}

bool folder_is_private(const char *name)
{
    for (size_t i = 0; i < sizeof(private_files) / sizeof(private_files[0]); i++)
        if (strcmp(private_files[i], name) == 0)
            return true;
    return name[0] == '.';
}
