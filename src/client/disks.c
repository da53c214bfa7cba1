/* SPDX-License-Identifier: MIT
 *
 * See disks.h.
 */
#include "client/disks.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "block/nbd_library.h"
#include "block/open/open.h"
#include "client/backend.h"

/* The worker's end of a socket to a new process that connects there; -1: err. */
static int start_connector(const char *uri, struct error **err)
{
    struct backend backend;
    int status[2], pair[2];
    if (!backend_pipe(status, err))
        return -1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        close(status[0]);
        close(status[1]);
        error_set_errno(err, errno, "cannot make a socket pair");
        return -1;
    }
    backend_begin(&backend, "nbd-connect", status[1]);
    backend_add_fd(&backend, pair[1]);
    backend_add(&backend, uri);
    /* It may outlive us: a disk can be attached by a command that then ends. */
    bool good = backend_spawn(&backend, status, true, err) >= 0;
    close(pair[1]);
    if (good)
        return pair[0];
    close(pair[0]);
    return -1;
}

bool client_disk_files(const struct machine_disk *disk, client_disk_file_fn *tell, void *opaque,
                       struct error **err)
{
    const struct block_open_options how = {
        .format = disk->format, .read_only = true, .no_lock = true};
    if (disk->path[0] == '\0' || block_name_is_uri(disk->path))
        return true;
    struct block_image *top = block_open_names(disk->path, &how, err);
    bool good = top != NULL;
    for (const struct block_image *image = top; image != NULL; image = image->backing) {
        struct stat status;
        good = good && (fstat(image->file->fd, &status) == 0 ||
                        error_set_errno(err, errno, "cannot look at '%s'", image->name));
        if (good)
            tell(opaque, image->name, &status);
    }
    block_image_close(top);
    return good;
}

bool client_disk_create(int folder, const char *name, const char *format, uint64_t size,
                        struct error **err)
{
    const struct block_format *as = block_format_find(format);
    const struct block_create create = {.size = size};
    if (as == NULL || as->create == NULL || size == 0 || size % BLOCK_SECTOR != 0)
        return error_set(err, ERROR_USAGE, "a disk of %llu bytes cannot be made as %s",
                         (unsigned long long)size, format);
    int fd = openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot make '%s'", name);
    struct block_file *file = block_file_new(fd, false, BLOCK_CACHE_WRITEBACK, err);
    bool good = file != NULL && as->create(file, &create, err) &&
                (fsync(fd) == 0 || error_set_errno(err, errno, "cannot keep '%s'", name));
    if (file == NULL)
        close(fd);
    block_file_close(file);
    if (!good)
        unlinkat(folder, name, 0);
    return good;
}

static bool open_disk(const struct machine_disk *disk, bool no_lock, struct block_chain *chain,
                      struct error **err)
{
    const struct block_open_options how = {.format = disk->format,
                                           .no_lock = no_lock,
                                           .read_only = disk->read_only || disk->media != 0};
    *chain = (struct block_chain){.count = 0};
    if (disk->path[0] == '\0') /* an empty drive */
        return true;
    if (!block_open_chain(disk->path, &how, chain, err))
        return false;
    if (!block_name_is_uri(disk->path))
        return true;
    /* Here, or in a process that was made of this one and can open nothing any more. */
    struct nbd_library library;
    chain->fds[0] = nbd_library_load(&library, err) ? start_connector(disk->path, err) : -1;
    if (chain->fds[0] >= 0)
        return true;
    error_prefix(err, "disk '%s'", disk->path);
    block_chain_close(chain);
    return false;
}

bool client_disk_open(const struct machine_disk *disk, struct block_chain *chain,
                      struct error **err)
{
    return open_disk(disk, false, chain, err);
}

static bool open_disks(const struct machine_config *config, bool no_lock,
                       struct client_disks *disks, struct error **err)
{
    disks->count = 0;
    for (size_t i = 0; i < config->disk_count; i++) {
        if (!open_disk(&config->disks[i], no_lock, &disks->chains[i], err)) {
            client_disks_close(disks);
            return false;
        }
        disks->count++;
    }
    return true;
}

bool client_disks_open(const struct machine_config *config, struct client_disks *disks,
                       struct error **err)
{
    return open_disks(config, false, disks, err);
}

bool client_disks_open_unlocked(const struct machine_config *config, struct client_disks *disks,
                                struct error **err)
{
    return open_disks(config, true, disks, err);
}

/* The locks belong to open files, which the worker has, too. */
static void *lock_all(void *opaque)
{
    const struct client_disks *disks = opaque;
    for (size_t i = 0; i < disks->count; i++)
        for (size_t k = 0; k < disks->chains[i].count; k++) {
            int fd = disks->chains[i].fds[k];
            bool writes = (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
            struct flock lock = {.l_type = writes ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
            while (fcntl(fd, F_OFD_SETLKW, &lock) != 0 && errno == EINTR)
                ;
        }
    _exit(0);
}

/* Of what is open here it keeps the disks. */
static _Noreturn void lock_for(const struct client_disks *disks, pid_t worker)
{
    struct client_disks own = *disks;
    struct pollfd end = {.fd = (int)syscall(SYS_pidfd_open, worker, 0), .events = POLLIN};
    pthread_t thread;
    if (end.fd < 0)
        _exit(1);
    setsid();
    for (int fd = 0, last = (int)sysconf(_SC_OPEN_MAX); fd < last && fd < 4096; fd++) {
        bool keep = fd == end.fd;
        for (size_t i = 0; i < own.count && !keep; i++)
            for (size_t k = 0; k < own.chains[i].count && !keep; k++)
                keep = own.chains[i].fds[k] == fd;
        if (!keep)
            close(fd);
    }
    if (pthread_create(&thread, NULL, lock_all, &own) != 0)
        _exit(1);
    while (poll(&end, 1, -1) < 0 && errno == EINTR)
        ;
    _exit(0);
}

bool client_disks_lock_later(const struct client_disks *disks, pid_t worker, struct error **err)
{
    size_t count = 0;
    for (size_t i = 0; i < disks->count; i++)
        count += disks->chains[i].count;
    if (count == 0)
        return true;
    pid_t pid = fork();
    if (pid == 0)
        lock_for(disks, worker);
    return pid > 0 || error_set_errno(err, errno, "cannot start a process");
}

void client_disks_close(struct client_disks *disks)
{
    for (size_t i = 0; i < disks->count; i++)
        block_chain_close(&disks->chains[i]);
    disks->count = 0;
}
