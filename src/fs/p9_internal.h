/* SPDX-License-Identifier: MIT
 *
 * Between p9.c (session, names, what there is), p9_io.c (contents and attributes) and p9_state.c.
 */
#ifndef TRAPEZE_FS_P9_INTERNAL_H
#define TRAPEZE_FS_P9_INTERNAL_H

#include <sys/stat.h>

#include "fs/p9.h"
#include "fs/p9_wire.h"

enum { P9_BUCKETS = 1024 };
enum { QID_FILE = 0x00, QID_SYMLINK = 0x02, QID_FOLDER = 0x80 };

struct fid {
    struct fid *next; /* in its bucket */
    uint32_t number;
    int path; /* O_PATH; -1: stale */
    int io;   /* -1: not open */
    bool folder;
    bool stale; /* restored, and its file is not there: it can only be clunked */
    uint16_t stale_flags;
};

struct p9 {
    int root, self; /* the folder; /proc/self/fd */
    bool read_only;
    uint32_t message_max;
    struct fid *buckets[P9_BUCKETS];
    unsigned fids;
};

struct call {
    struct p9 *p9;
    struct p9_in in;
    struct p9_out out;
};

/* The fid that the message names next, or NULL with *error set. */
struct fid *p9_take_fid(struct call *call, int *error);
/* Takes the path descriptor over, also on failure: NULL with *error set. */
struct fid *p9_add_fid(struct p9 *p9, uint32_t number, int path, int *error);
/* One component of a path, and no way up or elsewhere. */
bool p9_name_is_plain(const char *name);
void p9_put_qid(struct p9_out *out, const struct stat *status);
/* What a qid says of an inode's number. */
uint64_t p9_qid_path(uint64_t inode, uint64_t device);

/* Opens what a path descriptor stands for. Nothing but files and folders: a FIFO would block
 * us, and a device is the host's. -1: errno. */
int p9_open_path(const struct p9 *p9, int path, int flags);
/* Permission bits that a client may set: no set-user-ID, set-group-ID, sticky. */
mode_t p9_host_mode(uint32_t mode);

/* The name of a descriptor in /proc/self/fd. */
struct fd_name {
    char text[16];
};
struct fd_name p9_name_of(int fd);

/* p9_io.c: each answers one kind of request; 0, or an errno value. */
typedef int p9_handler(struct call *call);
p9_handler p9_handle_read, p9_handle_write, p9_handle_readdir, p9_handle_readlink, p9_handle_fsync,
    p9_handle_getattr, p9_handle_setattr, p9_handle_statfs, p9_handle_lock, p9_handle_getlock;

#endif
