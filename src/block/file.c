/* SPDX-License-Identifier: MIT
 *
 * Files and block devices of the host. With O_DIRECT, what is not aligned goes through a
 * buffer that is, and a write that fills an aligned piece in part reads it first.
 */
#include "block/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"

#define PIECES       64          /* of one system call */
#define BOUNCE_BYTES (256 * KIB) /* of one unaligned transfer */
#define LOCK_TRIES   100         /* in a second */

/* --- aligned transfers --- */

static int read_direct(struct block_file *file, uint64_t offset, struct block_span to)
{
    uint64_t done = 0;
    while (done < to.size) {
        struct iovec iov[PIECES];
        uint64_t bytes;
        struct block_span rest = block_span_part(to, done, to.size - done);
        unsigned count = block_span_iov(rest, iov, PIECES, &bytes);
        ssize_t got = preadv(file->fd, iov, (int)count, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return errno;
        if (got == 0) {
            if (!file->pad_end)
                return EIO; /* somebody truncated the file */
            block_span_zero(rest);
            return 0;
        }
        done += (uint64_t)got;
    }
    return 0;
}

static int write_direct(struct block_file *file, uint64_t offset, struct block_span from)
{
    uint64_t done = 0;
    while (done < from.size) {
        struct iovec iov[PIECES];
        uint64_t bytes;
        unsigned count =
            block_span_iov(block_span_part(from, done, from.size - done), iov, PIECES, &bytes);
        ssize_t put = pwritev(file->fd, iov, (int)count, (off_t)(offset + done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return errno;
        if (put == 0)
            return EIO;
        done += (uint64_t)put;
    }
    return 0;
}

/* --- transfers that are not aligned --- */

static bool is_aligned(const struct block_file *file, uint64_t offset, struct block_span span)
{
    return file->align <= 1 || (((offset | span.size) & (file->align - 1)) == 0 &&
                                block_span_aligned(span, file->align));
}

static int through_buffer(struct block_file *file, uint64_t offset, struct block_span span,
                          bool write)
{
    uint8_t *buffer = aligned_alloc(file->align, BOUNCE_BYTES);
    if (buffer == NULL)
        return ENOMEM;
    int error = 0;
    bool pad_end = file->pad_end;
    for (uint64_t done = 0; error == 0 && done < span.size;) {
        uint64_t start = align_down(offset + done, file->align);
        uint64_t end = align_up(offset + span.size, file->align);
        if (end - start > BOUNCE_BYTES)
            end = start + BOUNCE_BYTES;
        uint64_t before = offset + done - start, size = end - start - before;
        if (size > span.size - done)
            size = span.size - done;
        struct iovec iov;
        struct block_span whole = block_span_of(&iov, buffer, (size_t)(end - start));
        bool partial = before != 0 || before + size != end - start;
        if (!write || partial) {
            memset(buffer, 0, (size_t)(end - start));
            error = read_direct(file, start, whole);
            if (error == EIO && write && !pad_end) /* the last piece of the file is short */
                error = 0;
        }
        struct block_span part = block_span_part(span, done, size);
        if (error == 0 && write) {
            block_span_read(part, buffer + before);
            error = write_direct(file, start, whole);
        } else if (error == 0) {
            block_span_fill(part, buffer + before);
        }
        done += size;
    }
    free(buffer);
    return error;
}

static int file_read(struct block_file *file, uint64_t offset, struct block_span to)
{
    return is_aligned(file, offset, to) ? read_direct(file, offset, to)
                                        : through_buffer(file, offset, to, false);
}

static int file_write(struct block_file *file, uint64_t offset, struct block_span from)
{
    return is_aligned(file, offset, from) ? write_direct(file, offset, from)
                                          : through_buffer(file, offset, from, true);
}

/* --- the rest --- */

static int file_flush(struct block_file *file)
{
    if (file->cache == BLOCK_CACHE_UNSAFE)
        return 0;
    int result;
    do
        result = fdatasync(file->fd);
    while (result != 0 && errno == EINTR);
    return result == 0 ? 0 : errno;
}

static int allocate(struct block_file *file, int mode, uint64_t offset, uint64_t length)
{
    int result;
    do
        result = fallocate(file->fd, mode, (off_t)offset, (off_t)length);
    while (result != 0 && errno == EINTR);
    return result == 0 ? 0 : errno;
}

static bool is_unsupported(int error)
{
    return error == EOPNOTSUPP || error == ENOSYS || error == EINVAL || error == ENODEV;
}

static int write_zeros(struct block_file *file, uint64_t offset, uint64_t length)
{
    size_t size = length < BOUNCE_BYTES ? (size_t)length : BOUNCE_BYTES;
    uint8_t *zeros = aligned_alloc(4096, align_up(size, 4096));
    if (zeros == NULL)
        return ENOMEM;
    memset(zeros, 0, size);
    int error = 0;
    while (error == 0 && length > 0) {
        size_t part = length < size ? (size_t)length : size;
        error = block_file_pwrite(file, offset, zeros, part);
        offset += part;
        length -= part;
    }
    free(zeros);
    return error;
}

static int file_zero(struct block_file *file, uint64_t offset, uint64_t length, unsigned flags)
{
    int error = EOPNOTSUPP;
    if (length == 0)
        return 0;
    if ((flags & BLOCK_ZERO_UNMAP) != 0)
        error = allocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
    if (is_unsupported(error))
        error = allocate(file, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
    return is_unsupported(error) ? write_zeros(file, offset, length) : error;
}

static int file_discard(struct block_file *file, uint64_t offset, uint64_t length)
{
    if (length == 0)
        return 0;
    int error = allocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
    return is_unsupported(error) ? 0 : error;
}

static int file_truncate(struct block_file *file, uint64_t size)
{
    int result;
    if (file->is_device)
        return EINVAL;
    do
        result = ftruncate(file->fd, (off_t)size);
    while (result != 0 && errno == EINTR);
    return result == 0 ? 0 : errno;
}

static int file_extent(struct block_file *file, uint64_t offset, uint64_t *length, bool *data)
{
    off_t next = lseek(file->fd, (off_t)offset, SEEK_DATA);
    *data = true;
    if (next < 0 && errno == ENXIO) { /* a hole up to the end */
        *data = false;
        return 0;
    }
    if (next < 0)
        return is_unsupported(errno) ? 0 : errno;
    if ((uint64_t)next > offset)
        *data = false;
    else
        next = lseek(file->fd, (off_t)offset, SEEK_HOLE);
    if (next > 0 && (uint64_t)next > offset && (uint64_t)next - offset < *length)
        *length = (uint64_t)next - offset;
    return 0;
}

static int file_size(struct block_file *file, uint64_t *size)
{
    struct stat status;
    if (file->is_device)
        return ioctl(file->fd, BLKGETSIZE64, size) == 0 ? 0 : errno;
    if (fstat(file->fd, &status) != 0)
        return errno;
    *size = (uint64_t)status.st_size;
    return 0;
}

static void file_close(struct block_file *file)
{
    if (!file->borrowed && !file->handed_over)
        close(file->fd);
    free(file);
}

static const struct block_file_ops host_ops = {
    .read = file_read,
    .write = file_write,
    .flush = file_flush,
    .zero = file_zero,
    .discard = file_discard,
    .truncate = file_truncate,
    .extent = file_extent,
    .size = file_size,
    .close = file_close,
};

/* --- life --- */

static bool check_mode(int fd, bool read_only, struct error **err)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return error_set_errno(err, errno, "cannot examine the disk");
    int mode = flags & O_ACCMODE;
    if (mode == O_WRONLY || (mode == O_RDONLY && !read_only)) {
        error_set(err, ERROR_USAGE, "it is open for %s only",
                  mode == O_WRONLY ? "writing" : "reading");
        error_hint(err, "Attach it read-only, or get the right to read and write it");
        return false;
    }
    return true;
}

static uint32_t direct_alignment(int fd)
{
    uint32_t align = 512;
#ifdef STATX_DIOALIGN
    struct statx status;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
        (status.stx_mask & STATX_DIOALIGN) != 0 && status.stx_dio_offset_align != 0) {
        align = status.stx_dio_offset_align > status.stx_dio_mem_align ? status.stx_dio_offset_align
                                                                       : status.stx_dio_mem_align;
        return is_power_of_two(align) ? align : 4096;
    }
#endif
    int sector;
    if (ioctl(fd, BLKSSZGET, &sector) == 0 && sector > 0)
        align = (uint32_t)sector;
    else
        align = 4096; /* of every file system's and disk's */
    return align;
}

static bool go_direct(struct block_file *file, struct error **err)
{
    int flags = fcntl(file->fd, F_GETFL);
    if (fcntl(file->fd, F_SETFL, flags | O_DIRECT) != 0) {
        error_set_errno(err, errno, "its file system cannot do without the host's cache");
        error_hint(err, "Leave cache=none out");
        return false;
    }
    file->align = direct_alignment(file->fd);
    return true;
}

struct block_file *block_file_new(int fd, bool read_only, enum block_cache cache,
                                  struct error **err)
{
    struct stat status;
    if (fstat(fd, &status) != 0) {
        error_set_errno(err, errno, "cannot examine the disk");
        return NULL;
    }
    if (!S_ISBLK(status.st_mode) && !S_ISREG(status.st_mode)) {
        error_set(err, ERROR_USAGE, "this is neither a file nor a block device");
        error_hint(err, "Name a disk image or a block device");
        return NULL;
    }
    if (!check_mode(fd, read_only, err))
        return NULL;
    struct block_file *file = alloc_zeroed(1, sizeof(*file));
    *file = (struct block_file){
        .ops = &host_ops,
        .fd = fd,
        .align = 1,
        .cache = cache,
        .read_only = read_only,
        .is_device = S_ISBLK(status.st_mode),
        .device = S_ISBLK(status.st_mode) ? status.st_rdev : status.st_dev,
        .inode = S_ISBLK(status.st_mode) ? 0 : status.st_ino,
        .parallel = 4,
    };
    if (cache == BLOCK_CACHE_NONE && !go_direct(file, err)) {
        free(file);
        return NULL;
    }
    return file;
}

/* A VM that was killed may keep its lock a little longer than its process: until io_uring is done
 * with what it had begun to write. */
static bool lock_soon(int fd, struct flock *lock)
{
    const struct timespec moment = {.tv_nsec = 1000000000 / LOCK_TRIES};
    for (unsigned tries = 0; fcntl(fd, F_OFD_SETLK, lock) != 0; tries++) {
        if ((errno != EAGAIN && errno != EACCES) || tries == LOCK_TRIES)
            return false;
        nanosleep(&moment, NULL);
    }
    return true;
}

/* A lock of the open file description: it goes with the last descriptor, not, as POSIX
 * locks do, when anybody in this process closes the same file. */
bool block_file_lock(struct block_file *file, struct error **err)
{
    struct flock lock = {.l_type = file->read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    if (file->fd < 0 || lock_soon(file->fd, &lock))
        return true;
    if (errno == EAGAIN || errno == EACCES) {
        error_set(err, ERROR_HOST, "another process, probably a running VM, %s",
                  file->read_only ? "is writing to it" : "is using it");
        error_hint(err, "Stop that VM, or use a copy%s",
                   file->read_only ? ""
                                   : "; several VMs may share a disk if all attach it read-only");
        return false;
    }
    error_set_errno(err, errno, "cannot lock the disk");
    error_hint(err, "Put it on a file system that supports locks");
    return false;
}

/* The descriptor may have copies, in another process too: the lock would stay with them. */
void block_file_unlock(struct block_file *file)
{
    struct flock unlock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    if (file->fd >= 0 && !file->handed_over)
        (void)fcntl(file->fd, F_OFD_SETLK, &unlock);
}

void block_file_close(struct block_file *file)
{
    if (file == NULL)
        return;
    block_file_unlock(file);
    file->ops->close(file);
}

int block_file_pread(struct block_file *file, uint64_t offset, void *data, size_t size)
{
    struct iovec iov;
    return file->ops->read(file, offset, block_span_of(&iov, data, size));
}

int block_file_pwrite(struct block_file *file, uint64_t offset, const void *data, size_t size)
{
    struct iovec iov;
    return file->ops->write(file, offset, block_span_of(&iov, data, size));
}
