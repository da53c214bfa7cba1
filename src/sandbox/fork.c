/* SPDX-License-Identifier: MIT
 *
 * sandbox_fork(). A child that begins in a new PID namespace needs clone(2) with its flags; the
 * user namespace, which gives an ordinary user the right to the others, needs its map of ids
 * written by us, outside, before the child goes on.
 *
 * With its first process a PID namespace ends. For processes whose copies are to outlive them that
 * is therefore a process that has nothing, looks at nothing and only waits: a worker cannot be it,
 * as its guest may take it over or crash it, and the host may have to kill it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/frame.h"
#include "sandbox/sandbox.h"

#define OTHERS (CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)

/* ---- ids ---- */

static bool write_file(pid_t pid, const char *name, const char *text)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    int number = errno;
    if (fd >= 0)
        close(fd);
    errno = number;
    return good;
}

/* Every id that exists here is the same one there: what root may do, so that files in shared
 * folders keep their owners. */
static bool map_all(pid_t pid, const char *name)
{
    char line[128], path[64], text[4096] = "";
    size_t used = 0;
    snprintf(path, sizeof(path), "/proc/self/%s", name);
    FILE *file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        unsigned long first, outside, count;
        if (sscanf(line, "%lu %lu %lu", &first, &outside, &count) == 3 && used < sizeof(text))
            used += (size_t)snprintf(text + used, sizeof(text) - used, "%lu %lu %lu\n", first,
                                     first, count);
    }
    if (file != NULL)
        fclose(file);
    return used > 0 && used < sizeof(text) && write_file(pid, name, text);
}

/* What everybody may: oneself. */
static bool map_one(pid_t pid, const char *name, unsigned id)
{
    char text[64];
    snprintf(text, sizeof(text), "%u %u 1\n", id, id);
    return write_file(pid, name, text);
}

static bool map_ids(pid_t pid)
{
    if (geteuid() == 0 && map_all(pid, "gid_map") && map_all(pid, "uid_map"))
        return true;
    return write_file(pid, "setgroups", "deny") && map_one(pid, "gid_map", getegid()) &&
           map_one(pid, "uid_map", geteuid());
}

/* ---- the child ---- */

/* What pivot_root(2) takes outlives exec. Root keeps everything without this. */
static void keep_mount_right(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct have[_LINUX_CAPABILITY_U32S_3];
    if (syscall(SYS_capget, &header, have) != 0)
        return;
    have[0].inheritable |= 1u << CAP_SYS_ADMIN;
    syscall(SYS_capset, &header, have);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0);
}

static void begin_child(const int sync[2], unsigned flags)
{
    char go = 'n';
    close(sync[1]);
    while (read(sync[0], &go, 1) < 0 && errno == EINTR)
        ;
    if (go != 'y')
        _exit(126);
    if ((flags & CLONE_NEWUSER) != 0)
        keep_mount_right();
}

/* The first process: until there is no other any more. */
static _Noreturn void wait_for_all(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    signal(SIGCHLD, SIG_DFL);
    setsid();
    close_range(0, ~0U, 0);
    (void)sandbox_drop_privileges(false);
    while (wait(NULL) > 0 || errno == EINTR)
        ;
    _exit(0);
}

/* Who we are is said by the kernel, in the numbers of whoever reads it. */
static void begin_family(int sync)
{
    pid_t pid = fork();
    if (pid != 0)
        wait_for_all();
    if (send(sync, "w", 1, MSG_NOSIGNAL) != 1)
        _exit(126);
}

static void end_child(pid_t pid)
{
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

/* In the parent: the process's id as soon as it goes on; -1: errno. */
static pid_t let_go(pid_t pid, int sync, unsigned flags, enum sandbox_life life)
{
    bool good =
        ((flags & CLONE_NEWUSER) == 0 || map_ids(pid)) && send(sync, "y", 1, MSG_NOSIGNAL) == 1;
    pid_t found = good && life == SANDBOX_FAMILY ? frame_receive_pid(sync, 1) : pid;
    int number = errno;
    if (good && found > 0)
        return found;
    end_child(pid);
    errno = number != 0 ? number : EIO;
    return -1;
}

/* -1: errno. */
static pid_t fork_into(unsigned flags, enum sandbox_life life)
{
    int sync[2]; /* the child's, ours */
    const int on = 1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sync) != 0)
        return -1;
    setsockopt(sync[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
    pid_t pid = (pid_t)syscall(SYS_clone, (unsigned long)flags | SIGCHLD, NULL, NULL, NULL, 0UL);
    if (pid == 0) {
        begin_child(sync, flags);
        if (life == SANDBOX_FAMILY)
            begin_family(sync[0]);
        close(sync[0]);
        return 0;
    }
    int number = errno;
    close(sync[0]);
    if (pid > 0) {
        pid = let_go(pid, sync[1], flags, life);
        number = errno;
    }
    close(sync[1]);
    errno = number;
    return pid;
}

pid_t sandbox_fork(enum sandbox_life life, int *refused)
{
    *refused = 0;
    pid_t pid = fork_into(CLONE_NEWUSER | OTHERS, life);
    if (pid >= 0)
        return pid;
    *refused = errno;
    if (geteuid() == 0 && (pid = fork_into(OTHERS, life)) >= 0) {
        *refused = 0;
        return pid;
    }
    return fork();
}
