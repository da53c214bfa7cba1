/* SPDX-License-Identifier: MIT
 *
 * What a client holds, as state that can be saved: a record for each fid with its number, how it is
 * open, the inode's number and its file system's, and its path below the folder. Restoring walks the
 * path as the client did, name by name and through no symbolic link, and believes it only if it ends
 * at the same inode: on another host the same path and number may be another file. A file system is
 * known by what statfs() calls it, which most keep over restarts and some (NFS) on all hosts; a device
 * number means nothing elsewhere. A fid whose file is not there any more is stale: it is known, and whatever is asked of it
 * but to clunk it is answered with ESTALE.
 *
 * The stream is hostile: it reaches what a client of the folder could reach, and no more.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "fs/p9_internal.h"

enum { FID_BYTES = 24, NOT_OPEN = 0xffff };
/* In the stream's first number, beside the size of messages: its records name file systems. */
#define NAMES_FILE_SYSTEMS (UINT32_C(1) << 31)
/* Of the flags of an open file those that still mean something. */
enum { KEPT_FLAGS = O_ACCMODE | O_APPEND };

/* Where a descriptor's file is below the folder: "." for the folder itself, "" if nowhere. */
static void path_below(const struct p9 *p9, int fd, char path[PATH_MAX])
{
    char root[PATH_MAX], full[PATH_MAX];
    ssize_t root_length = readlinkat(p9->self, p9_name_of(p9->root).text, root, sizeof(root)),
            length = readlinkat(p9->self, p9_name_of(fd).text, full, sizeof(full) - 1);
    path[0] = '\0';
    if (root_length <= 0 || root_length == sizeof(root) || length <= 0 ||
        length == sizeof(full) - 1)
        return;
    if (root_length == 1) /* all of the host's files */
        root_length = 0;
    full[length] = '\0';
    if (length < root_length || memcmp(full, root, (size_t)root_length) != 0)
        return;
    if (length == root_length || length == 1)
        memcpy(path, ".", 2);
    else if (full[root_length] == '/')
        memcpy(path, full + root_length + 1, (size_t)(length - root_length));
}

/* A file, wherever one looks from. */
struct identity {
    uint64_t inode, file_system;
    bool any_file_system; /* it was not recorded */
};

static uint64_t file_system_of(int fd)
{
    struct statfs status;
    if (fd < 0 || fstatfs(fd, &status) != 0)
        return 0;
    return (uint64_t)(uint32_t)status.f_fsid.__val[0] << 32 | (uint32_t)status.f_fsid.__val[1];
}

/* An O_PATH descriptor of what is there, -1 if it is not that file. */
static int find(const struct p9 *p9, char *path, const struct identity *file)
{
    struct stat status;
    if (path[0] == '\0')
        return -1;
    int fd = fcntl(p9->root, F_DUPFD_CLOEXEC, 0);
    bool itself = strcmp(path, ".") == 0;
    for (char *name = path, *next; fd >= 0 && !itself && name != NULL; name = next) {
        next = strchr(name, '/');
        if (next != NULL)
            *next++ = '\0';
        int inner = p9_name_is_plain(name) ? openat(fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC) : -1;
        close(fd);
        fd = inner;
    }
    if (fd >= 0 && fstat(fd, &status) == 0 && status.st_ino == file->inode &&
        (file->any_file_system || file_system_of(fd) == file->file_system))
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static void save_fid(const struct p9 *p9, const struct fid *fid, struct state_buffer *out)
{
    uint8_t head[FID_BYTES];
    char path[PATH_MAX] = "", again[PATH_MAX];
    struct stat status = {0};
    uint16_t flags = fid->stale ? fid->stale_flags : NOT_OPEN;
    if (fid->io >= 0)
        flags = (uint16_t)(fcntl(fid->io, F_GETFL) & KEPT_FLAGS);
    if (!fid->stale && fstat(fid->path, &status) == 0)
        path_below(p9, fid->path, path);
    /* What was removed has a name that leads nowhere, or to another file. */
    memcpy(again, path, sizeof(again));
    const struct identity file = {status.st_ino, file_system_of(fid->path), false};
    int fd = find(p9, again, &file);
    if (fd < 0)
        path[0] = '\0';
    else
        close(fd);
    store_le32(head, fid->number);
    store_le16(head + 4, flags);
    store_le64(head + 6, path[0] != '\0' ? file.inode : 0);
    store_le64(head + 14, path[0] != '\0' ? file.file_system : 0);
    store_le16(head + 22, (uint16_t)strlen(path));
    state_buffer_add(out, head, sizeof(head));
    state_buffer_add(out, path, strlen(path));
}

void p9_save(struct p9 *p9, struct state_buffer *out)
{
    uint8_t head[4];
    store_le32(head, p9->message_max | NAMES_FILE_SYSTEMS);
    state_buffer_add(out, head, sizeof(head));
    for (unsigned i = 0; i < P9_BUCKETS; i++)
        for (const struct fid *fid = p9->buckets[i]; fid != NULL; fid = fid->next)
            save_fid(p9, fid, out);
}

static bool refused(struct error **err)
{
    return error_set(err, ERROR_USAGE, "the saved state of a shared folder is damaged");
}

/* Opens it as it was open. False: that cannot be done any more. */
static bool reopen(const struct p9 *p9, struct fid *fid, uint16_t flags)
{
    struct stat status;
    if (flags == NOT_OPEN)
        return true;
    if (p9->read_only && (flags & O_ACCMODE) != O_RDONLY)
        return false;
    fid->io = p9_open_path(p9, fid->path, flags);
    if (fid->io < 0 || fstat(fid->io, &status) != 0)
        return false;
    fid->folder = S_ISDIR(status.st_mode);
    return true;
}

static bool restore_fid(struct p9 *p9, struct p9_in *in, bool names, unsigned *lost,
                        struct error **err)
{
    char path[PATH_MAX];
    uint32_t number = p9_get32(in);
    uint16_t flags = (uint16_t)p9_get(in, 2);
    struct identity file = {.inode = p9_get(in, 8), .any_file_system = !names};
    if (names)
        file.file_system = p9_get(in, 8);
    p9_get_string(in, path, sizeof(path));
    if (in->bad || (flags != NOT_OPEN && ((flags & ~KEPT_FLAGS) != 0 || (flags & O_ACCMODE) == 3)))
        return refused(err);
    int fd = find(p9, path, &file), error = 0;
    struct fid *fid = p9_add_fid(p9, number, fd, &error);
    if (fid == NULL)
        return refused(err);
    fid->stale = fd < 0 || !reopen(p9, fid, flags);
    fid->stale_flags = flags;
    *lost += fid->stale;
    return true;
}

bool p9_restore(struct p9 *p9, const uint8_t *data, size_t size, unsigned *lost, struct error **err)
{
    struct p9_in in = {data, size, false};
    *lost = 0;
    p9_reset(p9);
    if (size == 0)
        return true;
    uint32_t first = p9_get32(&in);
    p9->message_max = first & ~NAMES_FILE_SYSTEMS;
    if (in.bad || p9->message_max < P9_MESSAGE_MIN || p9->message_max > P9_MESSAGE_MAX) {
        p9->message_max = P9_MESSAGE_MAX;
        return refused(err);
    }
    while (in.left > 0)
        if (!restore_fid(p9, &in, (first & NAMES_FILE_SYSTEMS) != 0, lost, err)) {
            p9_reset(p9);
            return false;
        }
    return true;
}
