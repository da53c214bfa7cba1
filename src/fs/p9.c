/* SPDX-License-Identifier: MIT
 *
 * See p9.h. A fid holds an O_PATH descriptor, which pins the file whatever becomes of its name;
 * once opened it holds a second one for I/O, made from the first through /proc/self/fd, so that
 * what was looked at (a regular file or folder) is what is opened.
 *
 * Attributes are the host's. Changes of owner that the host refuses are passed over in silence,
 * or an ordinary user could not unpack an archive as the guest's root.
 */
#include "fs/p9.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "fs/p9_wire.h"

enum { HEADER_SIZE = 7, WALK_MAX = 16, BUCKETS = 1024, QID_SIZE = 13 };

/* Requests; the answer's type is one more. */
enum message {
    RLERROR = 7,
    TSTATFS = 8,
    TLOPEN = 12,
    TLCREATE = 14,
    TSYMLINK = 16,
    TMKNOD = 18,
    TREADLINK = 22,
    TGETATTR = 24,
    TSETATTR = 26,
    TREADDIR = 40,
    TFSYNC = 50,
    TLOCK = 52,
    TGETLOCK = 54,
    TLINK = 70,
    TMKDIR = 72,
    TRENAMEAT = 74,
    TUNLINKAT = 76,
    TVERSION = 100,
    TATTACH = 104,
    TFLUSH = 108,
    TWALK = 110,
    TREAD = 116,
    TWRITE = 118,
    TCLUNK = 120,
    TREMOVE = 122,
    MESSAGES = 128
};

enum { QID_FILE = 0x00, QID_SYMLINK = 0x02, QID_FOLDER = 0x80 };
#define GETATTR_BASIC UINT64_C(0x7ff)

/* Open flags of 9P2000.L are those of Linux on most machines (and of riscv64). */
enum {
    P9_O_ACCESS = 3,
    P9_O_EXCL = 0200,
    P9_O_TRUNC = 01000,
    P9_O_APPEND = 02000,
};

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

struct fid {
    struct fid *next; /* in its bucket */
    uint32_t number;
    int path; /* O_PATH */
    int io;   /* -1: not open */
    bool folder;
};

struct p9 {
    int root, self; /* the folder; /proc/self/fd */
    bool read_only;
    uint32_t message_max;
    struct fid *buckets[BUCKETS];
    unsigned fids;
};

struct call {
    struct p9 *p9;
    struct p9_in in;
    struct p9_out out;
};

/* ---- fids ---- */

static struct fid **find_link(struct p9 *p9, uint32_t number)
{
    struct fid **link = &p9->buckets[number % BUCKETS];
    while (*link != NULL && (*link)->number != number)
        link = &(*link)->next;
    return link;
}

static struct fid *find_fid(struct p9 *p9, uint32_t number)
{
    return *find_link(p9, number);
}

/* Takes the descriptor over. */
static int add_fid(struct p9 *p9, uint32_t number, int path)
{
    struct fid **link = find_link(p9, number);
    if (*link != NULL || p9->fids == P9_FIDS_MAX) {
        int result = *link != NULL ? EEXIST : ENFILE;
        close(path);
        return result;
    }
    *link = alloc_zeroed(1, sizeof(**link));
    **link = (struct fid){.number = number, .path = path, .io = -1};
    p9->fids++;
    return 0;
}

static void drop_fid(struct p9 *p9, struct fid **link)
{
    struct fid *fid = *link;
    *link = fid->next;
    close(fid->path);
    if (fid->io >= 0)
        close(fid->io);
    free(fid);
    p9->fids--;
}

void p9_reset(struct p9 *p9)
{
    for (unsigned i = 0; i < BUCKETS; i++)
        while (p9->buckets[i] != NULL)
            drop_fid(p9, &p9->buckets[i]);
    p9->message_max = P9_MESSAGE_MAX;
}

struct p9 *p9_new(int folder, bool read_only, struct error **err)
{
    struct rlimit limit;
    struct p9 *p9 = alloc_zeroed(1, sizeof(*p9));
    *p9 = (struct p9){.root = folder, .read_only = read_only, .message_max = P9_MESSAGE_MAX};
    p9->self = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (p9->self < 0) {
        error_set_errno(err, errno, "cannot share a folder without /proc");
        p9_free(p9);
        return NULL;
    }
    /* A descriptor or two per file that the guest holds. */
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    return p9;
}

void p9_free(struct p9 *p9)
{
    if (p9 == NULL)
        return;
    p9_reset(p9);
    close(p9->root);
    if (p9->self >= 0)
        close(p9->self);
    free(p9);
}

/* ---- files ---- */

/* One component of a path, and no way up or elsewhere. */
static bool name_is_plain(const char *name)
{
    return name[0] != '\0' && strchr(name, '/') == NULL && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

/* The name of a descriptor in /proc/self/fd. */
struct fd_name {
    char text[16];
};

static struct fd_name name_of(int fd)
{
    struct fd_name name;
    snprintf(name.text, sizeof(name.text), "%d", fd);
    return name;
}

static void put_qid(struct p9_out *out, const struct stat *status)
{
    uint8_t type = S_ISDIR(status->st_mode)   ? QID_FOLDER
                   : S_ISLNK(status->st_mode) ? QID_SYMLINK
                                              : QID_FILE;
    uint64_t version = (uint64_t)status->st_mtim.tv_sec ^ (uint64_t)status->st_mtim.tv_nsec;
    p9_put(out, type, 1);
    p9_put(out, version, 4);
    p9_put(out, status->st_ino ^ (uint64_t)status->st_dev << 40, 8);
}

static int put_qid_of(struct p9_out *out, int fd)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return errno;
    put_qid(out, &status);
    return 0;
}

static int put_qid_at(struct p9_out *out, int folder, const char *name)
{
    struct stat status;
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return errno;
    put_qid(out, &status);
    return 0;
}

/* Opens what a path descriptor stands for. Nothing but files and folders: a FIFO would block
 * us, and a device is the host's. */
static int open_path(const struct p9 *p9, int path, int flags)
{
    struct stat status;
    if (fstat(path, &status) != 0)
        return -1;
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) {
        errno = S_ISLNK(status.st_mode) ? ELOOP : ENXIO;
        return -1;
    }
    struct fd_name name = name_of(path);
    return openat(p9->self, name.text, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
}

static int host_flags(uint32_t flags)
{
    int result = (int)(flags & P9_O_ACCESS);
    if ((flags & P9_O_APPEND) != 0)
        result |= O_APPEND;
    if ((flags & P9_O_TRUNC) != 0)
        result |= O_TRUNC;
    return result;
}

static mode_t host_mode(uint32_t mode)
{
    return mode & 0777; /* no set-user-ID, set-group-ID, sticky */
}

/* The fid that the message names next, or NULL with *error set. */
static struct fid *take_fid(struct call *call, int *error)
{
    struct fid *fid = find_fid(call->p9, p9_get32(&call->in));
    if (fid == NULL)
        *error = EBADF;
    return fid;
}

static int take_name(struct call *call, char name[NAME_MAX + 1])
{
    p9_get_string(&call->in, name, NAME_MAX + 1);
    if (call->in.bad)
        return EINVAL;
    return name_is_plain(name) ? 0 : EINVAL;
}

/* ---- the session ---- */

static int handle_version(struct call *call)
{
    char version[32];
    uint32_t wanted = p9_get32(&call->in);
    p9_get_string(&call->in, version, sizeof(version));
    if (call->in.bad || wanted < P9_MESSAGE_MIN)
        return EINVAL;
    p9_reset(call->p9);
    call->p9->message_max = wanted < P9_MESSAGE_MAX ? wanted : P9_MESSAGE_MAX;
    p9_put(&call->out, call->p9->message_max, 4);
    p9_put_string(&call->out, strcmp(version, "9P2000.L") == 0 ? version : "unknown");
    return 0;
}

static int handle_attach(struct call *call)
{
    uint32_t number = p9_get32(&call->in);
    int path = fcntl(call->p9->root, F_DUPFD_CLOEXEC, 0);
    if (path < 0)
        return errno;
    int error = add_fid(call->p9, number, path);
    return error != 0 ? error : put_qid_of(&call->out, call->p9->root);
}

static int handle_flush(struct call *call)
{
    (void)call; /* whatever it is about has been answered */
    return 0;
}

static int handle_clunk(struct call *call)
{
    struct fid **link = find_link(call->p9, p9_get32(&call->in));
    if (*link == NULL)
        return EBADF;
    drop_fid(call->p9, link);
    return 0;
}

/* By fid alone the name is not known; clients then say TUNLINKAT. The fid goes all the same. */
static int handle_remove(struct call *call)
{
    int error = handle_clunk(call);
    return error != 0 ? error : EOPNOTSUPP;
}

/* As far as it goes; the new fid is made only if all of it went. */
static int handle_walk(struct call *call)
{
    int error = 0;
    struct fid *fid = take_fid(call, &error);
    uint32_t number = p9_get32(&call->in);
    unsigned count = (unsigned)p9_get(&call->in, 2), done = 0;
    if (fid == NULL)
        return error;
    if (count > WALK_MAX || fid->io >= 0)
        return EINVAL;
    size_t count_at = call->out.used;
    p9_put(&call->out, 0, 2);
    int path = fcntl(fid->path, F_DUPFD_CLOEXEC, 0);
    if (path < 0)
        return errno;
    for (; done < count && error == 0; done += error == 0) {
        char name[NAME_MAX + 1];
        error = take_name(call, name);
        int next = error == 0 ? openat(path, name, O_PATH | O_NOFOLLOW | O_CLOEXEC) : -1;
        if (next < 0) {
            error = error == 0 ? errno : error == EINVAL && !call->in.bad ? ENOENT : error;
            break;
        }
        close(path);
        path = next;
        error = put_qid_of(&call->out, path);
    }
    if (done < count) {
        close(path);
        if (done == 0 || call->in.bad)
            return error;
        store_le16(call->out.start + count_at, (uint16_t)done);
        return 0;
    }
    if (call->out.bad) {
        close(path);
        return EINVAL;
    }
    store_le16(call->out.start + count_at, (uint16_t)done);
    if (fid->number == number)
        drop_fid(call->p9, find_link(call->p9, number));
    return add_fid(call->p9, number, path);
}

/* ---- opening and making ---- */

static int opened(struct call *call, struct fid *fid, int io)
{
    struct stat status;
    if (io < 0)
        return errno;
    fid->io = io;
    if (fstat(io, &status) != 0)
        return errno;
    fid->folder = S_ISDIR(status.st_mode);
    put_qid(&call->out, &status);
    p9_put(&call->out, 0, 4); /* iounit: as much as a message holds */
    return 0;
}

static int handle_lopen(struct call *call)
{
    int error = 0;
    struct fid *fid = take_fid(call, &error);
    uint32_t flags = p9_get32(&call->in);
    if (fid == NULL)
        return error;
    if (call->in.bad || fid->io >= 0 || (flags & P9_O_ACCESS) == P9_O_ACCESS)
        return EINVAL;
    if (call->p9->read_only && (flags & (P9_O_ACCESS | P9_O_TRUNC)) != 0)
        return EROFS;
    return opened(call, fid, open_path(call->p9, fid->path, host_flags(flags)));
}

/* The fid of the folder becomes that of the new file. An existing one is opened unless the
 * client wants it to be new; what is neither file nor folder is not. */
static int handle_lcreate(struct call *call)
{
    char name[NAME_MAX + 1];
    int error = 0;
    struct fid *fid = take_fid(call, &error);
    int name_error = take_name(call, name);
    uint32_t flags = p9_get32(&call->in), mode = p9_get32(&call->in);
    if (fid == NULL || name_error != 0 || call->in.bad)
        return fid == NULL ? error : EINVAL;
    if (call->p9->read_only)
        return EROFS;
    if (fid->io >= 0 || (flags & P9_O_ACCESS) == P9_O_ACCESS)
        return EINVAL;
    /* With the flags at once: the mode may be one that would not let us open it again. */
    int path,
        io = openat(fid->path, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | host_flags(flags),
                    host_mode(mode));
    if (io >= 0) {
        struct fd_name made = name_of(io);
        (void)fchmod(io, host_mode(mode)); /* the client has a umask of its own */
        path = openat(call->p9->self, made.text, O_PATH | O_CLOEXEC);
    } else if (errno == EEXIST && (flags & P9_O_EXCL) == 0) {
        path = openat(fid->path, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        io = path >= 0 ? open_path(call->p9, path, host_flags(flags)) : -1;
    } else {
        return errno;
    }
    if (path < 0 || io < 0) {
        error = errno;
        if (path >= 0)
            close(path);
        if (io >= 0)
            close(io);
        return error;
    }
    close(fid->path);
    fid->path = path;
    return opened(call, fid, io);
}

/* Of the requests that make or change a name in a folder: the folder and the name. */
static struct fid *take_place(struct call *call, char name[NAME_MAX + 1], int *error)
{
    struct fid *folder = take_fid(call, error);
    int name_error = take_name(call, name);
    if (folder != NULL && name_error != 0)
        *error = name_error;
    if (*error == 0 && call->p9->read_only)
        *error = EROFS;
    return *error == 0 ? folder : NULL;
}

static int handle_mkdir(struct call *call)
{
    char name[NAME_MAX + 1];
    int error = 0;
    struct fid *folder = take_place(call, name, &error);
    uint32_t mode = p9_get32(&call->in);
    if (folder == NULL || call->in.bad)
        return error != 0 ? error : EINVAL;
    if (mkdirat(folder->path, name, host_mode(mode)) != 0)
        return errno;
    return put_qid_at(&call->out, folder->path, name);
}

static int handle_symlink(struct call *call)
{
    char name[NAME_MAX + 1], target[PATH_MAX];
    int error = 0;
    struct fid *folder = take_place(call, name, &error);
    p9_get_string(&call->in, target, sizeof(target));
    if (folder == NULL || call->in.bad)
        return error != 0 ? error : EINVAL;
    if (symlinkat(target, folder->path, name) != 0)
        return errno;
    return put_qid_at(&call->out, folder->path, name);
}

static int handle_mknod(struct call *call)
{
    char name[NAME_MAX + 1];
    int error = 0;
    struct fid *folder = take_place(call, name, &error);
    uint32_t mode = p9_get32(&call->in);
    if (folder == NULL || call->in.bad)
        return error != 0 ? error : EINVAL;
    if (!S_ISREG(mode) && !S_ISFIFO(mode))
        return EPERM;
    if (mknodat(folder->path, name, (mode & S_IFMT) | host_mode(mode), 0) != 0)
        return errno;
    return put_qid_at(&call->out, folder->path, name);
}

static int handle_link(struct call *call)
{
    char name[NAME_MAX + 1];
    int error = 0;
    struct fid *folder = take_fid(call, &error), *fid = take_fid(call, &error);
    int name_error = take_name(call, name);
    if (folder == NULL || fid == NULL)
        return error;
    if (name_error != 0)
        return name_error;
    if (call->p9->read_only)
        return EROFS;
    struct fd_name source = name_of(fid->path);
    return linkat(call->p9->self, source.text, folder->path, name, AT_SYMLINK_FOLLOW) == 0 ? 0
                                                                                           : errno;
}

static int handle_renameat(struct call *call)
{
    char from[NAME_MAX + 1], to[NAME_MAX + 1];
    int error = 0;
    struct fid *source = take_place(call, from, &error);
    struct fid *target = source != NULL ? take_place(call, to, &error) : NULL;
    if (target == NULL)
        return error;
    return renameat(source->path, from, target->path, to) == 0 ? 0 : errno;
}

static int handle_unlinkat(struct call *call)
{
    char name[NAME_MAX + 1];
    int error = 0;
    struct fid *folder = take_place(call, name, &error);
    uint32_t flags = p9_get32(&call->in);
    if (folder == NULL || call->in.bad)
        return error != 0 ? error : EINVAL;
    return unlinkat(folder->path, name, (flags & 0x200) != 0 ? AT_REMOVEDIR : 0) == 0 ? 0 : errno;
}

/* ---- contents ---- */

/* How much of `wanted` a reply has room for behind its count. */
static size_t fitting(const struct call *call, uint32_t wanted)
{
    size_t room = call->out.room - call->out.used;
    return room < 4 ? 0 : wanted < room - 4 ? wanted : room - 4;
}

static int handle_read(struct call *call)
{
    int error = 0;
    struct fid *fid = take_fid(call, &error);
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

static int handle_write(struct call *call)
{
    int error = 0;
    struct fid *fid = take_fid(call, &error);
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
    p9_put(out, entry->inode ^ device << 40, 8);
    p9_put(out, (uint64_t)entry->next, 8);
    p9_put(out, entry->type, 1);
    p9_put_string(out, entry->name);
    if (!out->bad)
        return true;
    out->bad = false;
    out->used = before;
    return false;
}

static int handle_readdir(struct call *call)
{
    int error = 0;
    struct fid *fid = take_fid(call, &error);
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

static int handle_readlink(struct call *call)
{
    char target[PATH_MAX];
    int error = 0;
    struct fid *fid = take_fid(call, &error);
    if (fid == NULL)
        return error;
    ssize_t length = readlinkat(fid->path, "", target, sizeof(target) - 1);
    if (length < 0)
        return errno == ENOENT ? EINVAL : errno; /* no link */
    target[length] = '\0';
    p9_put_string(&call->out, target);
    return 0;
}

static int handle_fsync(struct call *call)
{
    int error = 0;
    struct fid *fid = take_fid(call, &error);
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

static int handle_getattr(struct call *call)
{
    int error = 0;
    struct fid *fid = take_fid(call, &error);
    struct stat status;
    if (fid == NULL)
        return error;
    if (fstat(fid->path, &status) != 0)
        return errno;
    struct p9_out *out = &call->out;
    p9_put(out, GETATTR_BASIC, 8);
    put_qid(out, &status);
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
    int io = open_path(p9, fid->path, O_WRONLY);
    if (io < 0)
        return errno;
    int error = ftruncate(io, (off_t)size) == 0 ? 0 : errno;
    close(io);
    return error;
}

static int handle_setattr(struct call *call)
{
    int error = 0;
    const struct fid *fid = take_fid(call, &error);
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
    struct fd_name name = name_of(fid->path);
    if ((valid & SET_MODE) != 0 && fchmodat(call->p9->self, name.text, host_mode(mode), 0) != 0)
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

static int handle_statfs(struct call *call)
{
    int error = 0;
    struct fid *fid = take_fid(call, &error);
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

static int handle_lock(struct call *call)
{
    int error = 0;
    if (take_fid(call, &error) == NULL)
        return error;
    p9_put(&call->out, 0, 1);
    return 0;
}

static int handle_getlock(struct call *call)
{
    char client[256];
    int error = 0;
    if (take_fid(call, &error) == NULL)
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

/* ---- messages ---- */

/* Each returns 0 with the answer written, or an errno value. What is not here is answered with
 * EOPNOTSUPP: extended attributes, renaming by fid, authentication. */
static int (*const handlers[MESSAGES])(struct call *) = {
    [TSTATFS] = handle_statfs,     [TLOPEN] = handle_lopen,     [TLCREATE] = handle_lcreate,
    [TSYMLINK] = handle_symlink,   [TMKNOD] = handle_mknod,     [TREADLINK] = handle_readlink,
    [TGETATTR] = handle_getattr,   [TSETATTR] = handle_setattr, [TREADDIR] = handle_readdir,
    [TFSYNC] = handle_fsync,       [TLOCK] = handle_lock,       [TGETLOCK] = handle_getlock,
    [TLINK] = handle_link,         [TMKDIR] = handle_mkdir,     [TRENAMEAT] = handle_renameat,
    [TUNLINKAT] = handle_unlinkat, [TVERSION] = handle_version, [TATTACH] = handle_attach,
    [TFLUSH] = handle_flush,       [TWALK] = handle_walk,       [TREAD] = handle_read,
    [TWRITE] = handle_write,       [TCLUNK] = handle_clunk,     [TREMOVE] = handle_remove,
};

size_t p9_handle(struct p9 *p9, const uint8_t *request, size_t size, uint8_t *reply, size_t room)
{
    if (size < HEADER_SIZE || load_le32(request) < HEADER_SIZE || load_le32(request) > size ||
        load_le32(request) > p9->message_max || room < HEADER_SIZE + 4)
        return 0;
    uint8_t type = request[4];
    struct call call = {
        .p9 = p9,
        .in = {request + HEADER_SIZE, load_le32(request) - HEADER_SIZE, false},
        .out = {reply, HEADER_SIZE, room < p9->message_max ? room : p9->message_max, false}};
    int error = type < MESSAGES && handlers[type] != NULL ? handlers[type](&call) : EOPNOTSUPP;
    if (error == 0 && call.out.bad)
        error = EMSGSIZE;
    if (error != 0) {
        type = RLERROR - 1;
        call.out.used = HEADER_SIZE;
        call.out.bad = false;
        p9_put(&call.out, (uint64_t)error, 4);
    }
    store_le32(reply, (uint32_t)call.out.used);
    reply[4] = (uint8_t)(type + 1);
    memcpy(reply + 5, request + 5, 2);
    return call.out.used;
}
