/* SPDX-License-Identifier: MIT
 *
 * See logfile.h.
 */
#include "daemon/logfile.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/daemon.h"
#include "daemon/machine.h"

enum { LOG_LIMIT = 1 << 20 };

/* A worker that was taken over may have put anything in the log's place: it is looked at without
 * following or waiting, and no more than the limit is copied. */
static void bound(int folder, const char *name)
{
    struct stat status;
    char old[32];
    snprintf(old, sizeof(old), "%s.1", name);
    int fd = openat(folder, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > LOG_LIMIT) {
        off_t from = status.st_size - LOG_LIMIT;
        unlinkat(folder, old, 0);
        int copy = openat(folder, old, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        while (copy >= 0 && from < status.st_size &&
               sendfile(copy, fd, &from, (size_t)(status.st_size - from)) > 0)
            ;
        if (copy >= 0)
            close(copy);
        if (ftruncate(fd, 0) != 0)
            from = 0; /* then it is longer than we like */
    }
    close(fd);
}

static void bound_worker(void *opaque, const char *name)
{
    const struct daemon *daemon = opaque;
    int folder =
        openat(daemon->store.instances, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0)
        return;
    bound(folder, "worker.log");
    close(folder);
}

static bool is_our_log(const struct daemon *daemon)
{
    struct stat ours, there;
    return fstat(STDERR_FILENO, &ours) == 0 &&
           fstatat(daemon->store.folder, "daemon.log", &there, AT_SYMLINK_NOFOLLOW) == 0 &&
           ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
}

void logfiles_bound(struct daemon *daemon)
{
    if (is_our_log(daemon))
        bound(daemon->store.folder, "daemon.log");
    machine_each_linked(daemon, bound_worker, daemon);
}
