/* SPDX-License-Identifier: MIT
 *
 * See copy.h.
 */
#include "client/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"

/* Between file systems, which copy_file_range() does not always do. */
static bool copy_bytes(int from, int to, off_t start, off_t end, struct error **err)
{
    enum { CHUNK = 1 << 20 };
    char *bytes = alloc_zeroed(1, CHUNK);
    bool good = true;
    while (good && start < end) {
        ssize_t count =
            pread(from, bytes, end - start < CHUNK ? (size_t)(end - start) : CHUNK, start);
        if (count < 0 && errno == EINTR)
            continue;
        good = count > 0 ||
               error_set_errno(err, count < 0 ? errno : EIO, "cannot read the file to copy");
        for (ssize_t done = 0; good && done < count;) {
            ssize_t written = pwrite(to, bytes + done, (size_t)(count - done), start + done);
            good = written >= 0 || errno == EINTR ||
                   error_set_errno(err, errno, "cannot write the copy of the file");
            done += written > 0 ? written : 0;
        }
        start += count;
    }
    free(bytes);
    return good;
}

static bool copy_extent(int from, int to, off_t start, off_t end, struct error **err)
{
    while (start < end) {
        off_t out = start;
        ssize_t count = copy_file_range(from, &start, to, &out, (size_t)(end - start), 0);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0 &&
            (errno == EXDEV || errno == EINVAL || errno == EOPNOTSUPP || errno == ENOSYS))
            return copy_bytes(from, to, start, end, err);
        if (count <= 0)
            return error_set_errno(err, count < 0 ? errno : EIO, "cannot copy the file");
    }
    return true;
}

bool copy_file(int from, int to, copy_go_on_fn *go_on, void *opaque, struct error **err)
{
    enum { STEP = 64 << 20 };
    struct stat status;
    if (ioctl(to, FICLONE, from) == 0)
        return true;
    if (fstat(from, &status) != 0 || ftruncate(to, status.st_size) != 0)
        return error_set_errno(err, errno, "cannot copy the file");
    off_t size = status.st_size;
    for (off_t at = 0; at < size;) {
        off_t data = lseek(from, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break; /* nothing but a hole is left */
        off_t end = data < 0 ? -1 : lseek(from, data, SEEK_HOLE);
        if (end < 0)
            return error_set_errno(err, errno, "cannot copy the file");
        end = end < size ? end : size; /* it grows meanwhile */
        for (at = data; at < end;) {
            off_t stop = end - at > STEP ? at + STEP : end;
            if ((go_on != NULL && !go_on(opaque, at, size)) ||
                !copy_extent(from, to, at, stop, err))
                return false;
            at = stop;
        }
    }
    return true;
}
