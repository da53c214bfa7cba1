/* SPDX-License-Identifier: MIT
 *
 * What is in files and what is known of them; see p9.c.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/bits.h"
#include "fs/p9_internal.h"

#define GETATTR_BASIC UINT64_C(0x7ff)

enum {
    SET_MODE = 1,
    SET_UID = 2,
    SET_GID = 4,
    SET_SIZE = 8,
    SET_ATIME = 16,
    SET_MTIME = 32,
    SET_ATIME_TO = 128,
    SET_MTIME_TO = 256
};

/* ---- contents ---- */

/* How much of `wanted` a reply has room for behind its count. */
static size_t fitting(const struct call *call, uint32_t wanted)
{
    size_t room = call->out.room - call->out.used;
    return room < 4 ? 0 : wanted < room - 4 ? wanted : room - 4;
}

int p9_handle_read(struct call *call)
{
    int error = 0;
    struct fid *fid = p9_take_fid(call, &error);
    uint64_t offset = p9_get(&call->in, 8);
    uint32_t count = p9_get32(&call->in);
    if (fid == NULL)
        return error;
    if (call->in.bad || offset > INT64_MAX)
        return EINVAL;
    if (fid->io < 0 || fid->folder)
        return EBADF;
    size_t count_at = call->out.used;
    ssize_t got =
        pread(fid->io, call->out.start + count_at + 4, fitting(call, count), (off_t)offset);
    if (got < 0)
        return errno;
    p9_put(&call->out, (uint64_t)got, 4);
    call->out.used += (size_t)got;
    return 0;
}

int p9_handle_write(struct call *call)
{
    int error = 0;
    struct fid *fid = p9_take_fid(call, &error);
    uint64_t offset = p9_get(&call->in, 8);
    uint32_t count = p9_get32(&call->in);
    if (fid == NULL)
        return error;
    if (call->in.bad || count > call->in.left || offset > INT64_MAX)
        return EINVAL;
    if (fid->io < 0 || fid->folder)
        return EBADF;
    ssize_t done = pwrite(fid->io, call->in.at, count, (off_t)offset);
    if (done < 0)
        return errno;
    p9_put(&call->out, (uint64_t)done, 4);
    return 0;
}

struct linux_entry { /* what getdents64() fills in */
    uint64_t inode;
    int64_t next;
    uint16_t size;
    uint8_t type;
    char name[];
};

static bool put_entry(struct p9_out *out, const struct linux_entry *entry, uint64_t device)
{
    size_t before = out->used;
    p9_put(out, entry->type == DT_DIR ? QID_FOLDER : entry->type == DT_LNK ? QID_SYMLINK : 0, 1);
    p9_put(out, 0, 4);
    p9_put(out, p9_qid_path(entry->inode, device), 8);
    p9_put(out, (uint64_t)entry->next, 8);
    p9_put(out, entry->type, 1);
    p9_put_string(out, entry->name);
    if (!out->bad)
        return true;
    out->bad = false;
    out->used = before;
    return false;
}

int p9_handle_readdir(struct call *call)
{
    int error = 0;
    struct fid *fid = p9_take_fid(call, &error);
    uint64_t offset = p9_get(&call->in, 8);
    size_t room = fitting(call, p9_get32(&call->in)), count_at = call->out.used;
    struct stat status;
    _Alignas(struct linux_entry) char buffer[8192];
    if (fid == NULL)
        return error;
    if (call->in.bad || offset > INT64_MAX)
        return EINVAL;
    if (fid->io < 0 || !fid->folder)
        return EBADF;
    if (fstat(fid->io, &status) != 0 || lseek(fid->io, (off_t)offset, SEEK_SET) < 0)
        return errno;
    p9_put(&call->out, 0, 4);
    struct p9_out out = {call->out.start, call->out.used, call->out.used + room, false};
    for (bool full = false; !full;) {
        long got = syscall(SYS_getdents64, fid->io, buffer, sizeof(buffer));
        if (got < 0)
            return errno;
        if (got == 0)
            break;
        for (long at = 0; at < got && !full;) {
            const struct linux_entry *entry = (const void *)(buffer + at);
            full = !put_entry(&out, entry, (uint64_t)status.st_dev);
            at += entry->size;
        }
    }
    store_le32(call->out.start + count_at, (uint32_t)(out.used - count_at - 4));
    call->out.used = out.used;
    return 0;
}

int p9_handle_readlink(struct call *call)
{
    char target[PATH_MAX];
    int error = 0;
    struct fid *fid = p9_take_fid(call, &error);
    if (fid == NULL)
        return error;
    ssize_t length = readlinkat(fid->path, "", target, sizeof(target) - 1);
    if (length < 0)
        return errno == ENOENT ? EINVAL : errno; /* no link */
    target[length] = '\0';
    p9_put_string(&call->out, target);
    return 0;
}

int p9_handle_fsync(struct call *call)
{
    int error = 0;
    struct fid *fid = p9_take_fid(call, &error);
    bool data_only = p9_get32(&call->in) != 0;
    if (fid == NULL)
        return error;
    if (fid->io < 0)
        return EBADF;
    return (data_only ? fdatasync : fsync)(fid->io) == 0 ? 0 : errno;
}

/* ---- attributes ---- */

static void put_time(struct p9_out *out, struct timespec time)
{
    p9_put(out, (uint64_t)time.tv_sec, 8);
    p9_put(out, (uint64_t)time.tv_nsec, 8);
}

int p9_handle_getattr(struct call *call)
{
    int error = 0;
    struct fid *fid = p9_take_fid(call, &error);
    struct stat status;
    if (fid == NULL)
        return error;
    if (fstat(fid->path, &status) != 0)
        return errno;
    struct p9_out *out = &call->out;
    p9_put(out, GETATTR_BASIC, 8);
    p9_put_qid(out, &status);
    p9_put(out, status.st_mode, 4);
    p9_put(out, status.st_uid, 4);
    p9_put(out, status.st_gid, 4);
    p9_put(out, (uint64_t)status.st_nlink, 8);
    p9_put(out, 0, 8); /* no device nodes */
    p9_put(out, (uint64_t)status.st_size, 8);
    p9_put(out, (uint64_t)status.st_blksize, 8);
    p9_put(out, (uint64_t)status.st_blocks, 8);
    put_time(out, status.st_atim);
    put_time(out, status.st_mtim);
    put_time(out, status.st_ctim);
    for (unsigned i = 0; i < 4; i++) /* birth, generation, data version: not told */
        p9_put(out, 0, 8);
    return 0;
}

static int set_size(const struct p9 *p9, const struct fid *fid, uint64_t size)
{
    if (size > INT64_MAX)
        return EFBIG;
    /* What is open may be a file that could not be opened again. */
    if (fid->io >= 0 && ftruncate(fid->io, (off_t)size) == 0)
        return 0;
    int io = p9_open_path(p9, fid->path, O_WRONLY);
    if (io < 0)
        return errno;
    int error = ftruncate(io, (off_t)size) == 0 ? 0 : errno;
    close(io);
    return error;
}

int p9_handle_setattr(struct call *call)
{
    int error = 0;
    const struct fid *fid = p9_take_fid(call, &error);
    struct p9_in *in = &call->in;
    uint32_t valid = p9_get32(in), mode = p9_get32(in), uid = p9_get32(in), gid = p9_get32(in);
    uint64_t size = p9_get(in, 8);
    struct timespec times[2];
    for (unsigned i = 0; i < 2; i++) {
        times[i].tv_sec = (time_t)p9_get(in, 8);
        times[i].tv_nsec = (long)p9_get(in, 8);
    }
    if (fid == NULL)
        return error;
    if (in->bad)
        return EINVAL;
    if (call->p9->read_only)
        return EROFS;
    struct fd_name name = p9_name_of(fid->path);
    if ((valid & SET_MODE) != 0 && fchmodat(call->p9->self, name.text, p9_host_mode(mode), 0) != 0)
        return errno;
    if ((valid & (SET_UID | SET_GID)) != 0 &&
        fchownat(fid->path, "", (valid & SET_UID) != 0 ? uid : (uid_t)-1,
                 (valid & SET_GID) != 0 ? gid : (gid_t)-1, AT_EMPTY_PATH) != 0 &&
        errno != EPERM)
        return errno;
    if ((valid & SET_SIZE) != 0 && (error = set_size(call->p9, fid, size)) != 0)
        return error;
    if ((valid & (SET_ATIME | SET_MTIME)) == 0)
        return 0;
    const uint32_t set[] = {SET_ATIME, SET_MTIME}, set_to[] = {SET_ATIME_TO, SET_MTIME_TO};
    for (unsigned i = 0; i < 2; i++)
        if ((valid & set[i]) == 0)
            times[i].tv_nsec = UTIME_OMIT;
        else if ((valid & set_to[i]) == 0)
            times[i].tv_nsec = UTIME_NOW;
        else if (times[i].tv_nsec < 0 || times[i].tv_nsec > 999999999)
            return EINVAL;
    return utimensat(call->p9->self, name.text, times, 0) == 0 ? 0 : errno;
}

int p9_handle_statfs(struct call *call)
{
    int error = 0;
    struct fid *fid = p9_take_fid(call, &error);
    struct statfs status;
    if (fid == NULL)
        return error;
    if (fstatfs(fid->path, &status) != 0)
        return errno;
    struct p9_out *out = &call->out;
    p9_put(out, 0x01021997, 4); /* V9FS_MAGIC */
    p9_put(out, (uint64_t)status.f_bsize, 4);
    p9_put(out, status.f_blocks, 8);
    p9_put(out, status.f_bfree, 8);
    p9_put(out, status.f_bavail, 8);
    p9_put(out, status.f_files, 8);
    p9_put(out, status.f_ffree, 8);
    p9_put(out, 0, 8);
    p9_put(out, (uint64_t)status.f_namelen, 4);
    return 0;
}

/* ---- locks: among the guest's own processes its kernel sees to them ---- */

int p9_handle_lock(struct call *call)
{
    int error = 0;
    if (p9_take_fid(call, &error) == NULL)
        return error;
    p9_put(&call->out, 0, 1);
    return 0;
}

int p9_handle_getlock(struct call *call)
{
    char client[256];
    int error = 0;
    if (p9_take_fid(call, &error) == NULL)
        return error;
    struct p9_in *in = &call->in;
    (void)p9_get(in, 1);
    uint64_t start = p9_get(in, 8), length = p9_get(in, 8);
    uint32_t process = p9_get32(in);
    p9_get_string(in, client, sizeof(client));
    p9_put(&call->out, 2, 1); /* unlocked */
    p9_put(&call->out, start, 8);
    p9_put(&call->out, length, 8);
    p9_put(&call->out, process, 4);
    p9_put_string(&call->out, client);
    return 0;
}
