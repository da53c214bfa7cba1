/* SPDX-License-Identifier: MIT
 *
 * See p9.h. A fid holds an O_PATH descriptor, which pins the file whatever becomes of its name;
 * once opened it holds a second one for I/O, made from the first through /proc/self/fd, so that
 * what was looked at (a regular file or folder) is what is opened.
 *
 * Attributes are the host's. Changes of owner that the host refuses are passed over in silence,
 * or an ordinary user could not unpack an archive as the guest's root.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "fs/p9_internal.h"

enum { HEADER_SIZE = 7, WALK_MAX = 16 };

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

/* Open flags of 9P2000.L are those of Linux on most machines (and of riscv64). */
enum {
    P9_O_ACCESS = 3,
    P9_O_EXCL = 0200,
    P9_O_TRUNC = 01000,
    P9_O_APPEND = 02000,
};

/* ---- fids ---- */

static struct fid **find_link(struct p9 *p9, uint32_t number)
{
    struct fid **link = &p9->buckets[number % P9_BUCKETS];
    while (*link != NULL && (*link)->number != number)
        link = &(*link)->next;
    return link;
}

static struct fid *find_fid(struct p9 *p9, uint32_t number)
{
    return *find_link(p9, number);
}

static void close_if_open(int fd)
{
    if (fd >= 0)
        close(fd);
}

struct fid *p9_add_fid(struct p9 *p9, uint32_t number, int path, int *error)
{
    struct fid **link = find_link(p9, number);
    if (*link != NULL || p9->fids == P9_FIDS_MAX) {
        *error = *link != NULL ? EEXIST : ENFILE;
        close_if_open(path);
        return NULL;
    }
    *link = alloc_zeroed(1, sizeof(**link));
    **link = (struct fid){.number = number, .path = path, .io = -1};
    p9->fids++;
    return *link;
}

static void drop_fid(struct p9 *p9, struct fid **link)
{
    struct fid *fid = *link;
    *link = fid->next;
    close_if_open(fid->path);
    close_if_open(fid->io);
    free(fid);
    p9->fids--;
}

void p9_reset(struct p9 *p9)
{
    for (unsigned i = 0; i < P9_BUCKETS; i++)
        while (p9->buckets[i] != NULL)
            drop_fid(p9, &p9->buckets[i]);
    p9->message_max = P9_MESSAGE_MAX;
}

struct p9 *p9_new(int folder, int own_fds, bool read_only)
{
    struct p9 *p9 = alloc_zeroed(1, sizeof(*p9));
    *p9 = (struct p9){
        .root = folder, .self = own_fds, .read_only = read_only, .message_max = P9_MESSAGE_MAX};
    return p9;
}

void p9_free(struct p9 *p9)
{
    if (p9 == NULL)
        return;
    p9_reset(p9);
    close(p9->root);
    free(p9);
}

/* ---- files ---- */

bool p9_name_is_plain(const char *name)
{
    return name[0] != '\0' && strchr(name, '/') == NULL && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

struct fd_name p9_name_of(int fd)
{
    struct fd_name name;
    snprintf(name.text, sizeof(name.text), "%d", fd);
    return name;
}

uint64_t p9_qid_path(uint64_t inode, uint64_t device)
{
    return inode ^ device << 40;
}

void p9_put_qid(struct p9_out *out, const struct stat *status)
{
    uint8_t type = S_ISDIR(status->st_mode)   ? QID_FOLDER
                   : S_ISLNK(status->st_mode) ? QID_SYMLINK
                                              : QID_FILE;
    uint64_t version = (uint64_t)status->st_mtim.tv_sec ^ (uint64_t)status->st_mtim.tv_nsec;
    p9_put(out, type, 1);
    p9_put(out, version, 4);
    p9_put(out, p9_qid_path(status->st_ino, status->st_dev), 8);
}

static int put_qid_of(struct p9_out *out, int fd)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return errno;
    p9_put_qid(out, &status);
    return 0;
}

static int put_qid_at(struct p9_out *out, int folder, const char *name)
{
    struct stat status;
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return errno;
    p9_put_qid(out, &status);
    return 0;
}

int p9_open_path(const struct p9 *p9, int path, int flags)
{
    struct stat status;
    if (fstat(path, &status) != 0)
        return -1;
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) {
        errno = S_ISLNK(status.st_mode) ? ELOOP : ENXIO;
        return -1;
    }
    struct fd_name name = p9_name_of(path);
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

mode_t p9_host_mode(uint32_t mode)
{
    return mode & 0777; /* no set-user-ID, set-group-ID, sticky */
}

struct fid *p9_take_fid(struct call *call, int *error)
{
    struct fid *fid = find_fid(call->p9, p9_get32(&call->in));
    if (fid == NULL || fid->stale) {
        *error = fid == NULL ? EBADF : ESTALE;
        return NULL;
    }
    return fid;
}

static int take_name(struct call *call, char name[NAME_MAX + 1])
{
    p9_get_string(&call->in, name, NAME_MAX + 1);
    if (call->in.bad)
        return EINVAL;
    return p9_name_is_plain(name) ? 0 : EINVAL;
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
    int error = 0;
    (void)p9_add_fid(call->p9, number, path, &error);
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
    struct fid *fid = p9_take_fid(call, &error);
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
    (void)p9_add_fid(call->p9, number, path, &error);
    return error;
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
    p9_put_qid(&call->out, &status);
    p9_put(&call->out, 0, 4); /* iounit: as much as a message holds */
    return 0;
}

static int handle_lopen(struct call *call)
{
    int error = 0;
    struct fid *fid = p9_take_fid(call, &error);
    uint32_t flags = p9_get32(&call->in);
    if (fid == NULL)
        return error;
    if (call->in.bad || fid->io >= 0 || (flags & P9_O_ACCESS) == P9_O_ACCESS)
        return EINVAL;
    if (call->p9->read_only && (flags & (P9_O_ACCESS | P9_O_TRUNC)) != 0)
        return EROFS;
    return opened(call, fid, p9_open_path(call->p9, fid->path, host_flags(flags)));
}

/* The fid of the folder becomes that of the new file. An existing one is opened unless the
 * client wants it to be new; what is neither file nor folder is not. */
static int handle_lcreate(struct call *call)
{
    char name[NAME_MAX + 1];
    int error = 0;
    struct fid *fid = p9_take_fid(call, &error);
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
                    p9_host_mode(mode));
    if (io >= 0) {
        struct fd_name made = p9_name_of(io);
        (void)fchmod(io, p9_host_mode(mode)); /* the client has a umask of its own */
        path = openat(call->p9->self, made.text, O_PATH | O_CLOEXEC);
    } else if (errno == EEXIST && (flags & P9_O_EXCL) == 0) {
        path = openat(fid->path, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        io = path >= 0 ? p9_open_path(call->p9, path, host_flags(flags)) : -1;
    } else {
        return errno;
    }
    if (path < 0 || io < 0) {
        error = errno;
        close_if_open(path);
        close_if_open(io);
        return error;
    }
    close(fid->path);
    fid->path = path;
    return opened(call, fid, io);
}

/* Of the requests that make or change a name in a folder: the folder and the name. */
static struct fid *take_place(struct call *call, char name[NAME_MAX + 1], int *error)
{
    struct fid *folder = p9_take_fid(call, error);
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
    if (mkdirat(folder->path, name, p9_host_mode(mode)) != 0)
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
    if (mknodat(folder->path, name, (mode & S_IFMT) | p9_host_mode(mode), 0) != 0)
        return errno;
    return put_qid_at(&call->out, folder->path, name);
}

static int handle_link(struct call *call)
{
    char name[NAME_MAX + 1];
    int error = 0;
    struct fid *folder = p9_take_fid(call, &error), *fid = p9_take_fid(call, &error);
    int name_error = take_name(call, name);
    if (folder == NULL || fid == NULL)
        return error;
    if (name_error != 0)
        return name_error;
    if (call->p9->read_only)
        return EROFS;
    struct fd_name source = p9_name_of(fid->path);
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

/* ---- messages ---- */

/* Each returns 0 with the answer written, or an errno value. What is not here is answered with
 * EOPNOTSUPP: extended attributes, renaming by fid, authentication. */
static p9_handler *const handlers[MESSAGES] = {
    [TSTATFS] = p9_handle_statfs,   [TLOPEN] = handle_lopen,
    [TLCREATE] = handle_lcreate,    [TSYMLINK] = handle_symlink,
    [TMKNOD] = handle_mknod,        [TREADLINK] = p9_handle_readlink,
    [TGETATTR] = p9_handle_getattr, [TSETATTR] = p9_handle_setattr,
    [TREADDIR] = p9_handle_readdir, [TFSYNC] = p9_handle_fsync,
    [TLOCK] = p9_handle_lock,       [TGETLOCK] = p9_handle_getlock,
    [TLINK] = handle_link,          [TMKDIR] = handle_mkdir,
    [TRENAMEAT] = handle_renameat,  [TUNLINKAT] = handle_unlinkat,
    [TVERSION] = handle_version,    [TATTACH] = handle_attach,
    [TFLUSH] = handle_flush,        [TWALK] = handle_walk,
    [TREAD] = p9_handle_read,       [TWRITE] = p9_handle_write,
    [TCLUNK] = handle_clunk,        [TREMOVE] = handle_remove,
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
