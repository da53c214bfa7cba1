/* SPDX-License-Identifier: MIT
 *
 * The end of a worker that does not hear. It is known by what it holds, the instance's lock, which
 * needs no process id kept anywhere: such a number may be another process's by now.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "daemon/machine.h"

/* Whether the descriptor has a lock: "lock:  1: OFDLCK  ADVISORY  WRITE ..." in its fdinfo. Who
 * only looks at the file, or waits for it, has none. */
static bool has_lock(int process, const char *number)
{
    char name[48], line[256];
    bool found = false;
    snprintf(name, sizeof(name), "fdinfo/%.20s", number);
    int fd = openat(process, name, O_RDONLY | O_CLOEXEC);
    FILE *file = fd >= 0 ? fdopen(fd, "r") : NULL;
    while (file != NULL && !found && fgets(line, sizeof(line), file) != NULL)
        found = strncmp(line, "lock:", 5) == 0 && strstr(line, "OFDLCK") != NULL;
    if (file != NULL)
        fclose(file);
    else if (fd >= 0)
        close(fd);
    return found;
}

static bool holds(int process, const struct stat *lock)
{
    int fd = openat(process, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    bool found = false;
    while (listing != NULL && !found && (entry = readdir(listing)) != NULL) {
        struct stat status;
        found = isdigit((unsigned char)entry->d_name[0]) &&
                fstatat(fd, entry->d_name, &status, 0) == 0 && status.st_dev == lock->st_dev &&
                status.st_ino == lock->st_ino && has_lock(process, entry->d_name);
    }
    if (listing != NULL)
        closedir(listing);
    else if (fd >= 0)
        close(fd);
    return found;
}

/* The process is held on to before it is looked at: then it is this one that is killed, or none. */
static void kill_if_it_holds(int proc, const char *number, const struct stat *lock)
{
    int pid_fd = (int)syscall(SYS_pidfd_open, (pid_t)atoi(number), 0);
    int process = pid_fd >= 0 ? openat(proc, number, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (process >= 0 && holds(process, lock))
        syscall(SYS_pidfd_send_signal, pid_fd, SIGKILL, NULL, 0);
    if (process >= 0)
        close(process);
    if (pid_fd >= 0)
        close(pid_fd);
}

json_t *machine_kill(struct daemon *daemon, const char *name, const json_t *arguments,
                     struct error **err)
{
    struct instance instance;
    struct stat lock;
    (void)arguments;
    if (!instance_open(&instance, &daemon->store, name, err))
        return NULL;
    bool good = fstatat(instance.fd, "lock", &lock, AT_SYMLINK_NOFOLLOW) == 0;
    DIR *listing = good ? opendir("/proc") : NULL;
    if (listing == NULL)
        error_set_errno(err, errno, "cannot find the process of '%s'", name);
    const struct dirent *entry;
    while (listing != NULL && (entry = readdir(listing)) != NULL)
        if (isdigit((unsigned char)entry->d_name[0]))
            kill_if_it_holds(dirfd(listing), entry->d_name, &lock);
    instance_close(&instance);
    if (listing == NULL)
        return NULL;
    closedir(listing);
    return json_object();
}
