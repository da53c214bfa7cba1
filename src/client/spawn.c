/* SPDX-License-Identifier: MIT
 *
 * See spawn.h.
 */
#include "client/spawn.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/frame.h"
#include "client/cgroup.h"
#include "client/disks.h"
#include "client/network.h"
#include "client/vsock.h"
#include "client/worker.h"
#include "config/vmx.h"

enum {
    FD_COUNT = 12, /* those of one file each */
    ARGUMENTS = 20,
    CLONE_FILES = 3,
    LIST_MAX = 4096,
    SENT_MAX = 253 /* the kernel's limit */
};

/* A worker's arguments but for its name (worker/worker.h). */
struct arguments {
    char *text[ARGUMENTS];
    bool has_fds[ARGUMENTS]; /* its numbers are descriptors */
    size_t count;
    const int *files; /* of a clone: what it cannot open by name; NULL: it does */
};

static int config_memfd(const struct machine_config *config, struct error **err)
{
    size_t size;
    char *text = vmx_write(config, &size);
    int fd = memfd_create("trapeze-config", MFD_CLOEXEC);
    if (text == NULL || fd < 0 || write(fd, text, size) != (ssize_t)size) {
        error_set_errno(err, errno, "cannot hand the configuration to the worker");
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
    free(text);
    return fd;
}

static void add(struct arguments *arguments, bool has_fds, char *text)
{
    arguments->has_fds[arguments->count] = has_fds;
    arguments->text[arguments->count++] = text;
}

static char *number(int value)
{
    char *text = NULL;
    return asprintf(&text, "%d", value) > 0 ? text : NULL;
}

/* One more, behind `separator` in a list of them. */
static void append(char *list, const char *separator, int fd)
{
    size_t at = strlen(list);
    snprintf(list + at, LIST_MAX - at, "%s%d", separator, fd);
}

/* "3,-1,4" */
static char *list_of(const int *fds, size_t count)
{
    char *list = alloc_zeroed(1, LIST_MAX);
    for (size_t i = 0; i < count; i++)
        append(list, i > 0 ? "," : "", fds[i]);
    return list;
}

/* "3:4,5": disks apart by commas, the files of each by colons. */
static char *list_disks(const struct client_disks *disks)
{
    char *list = alloc_zeroed(1, LIST_MAX);
    for (size_t i = 0; i < disks->count; i++) {
        const struct block_chain *chain = &disks->chains[i];
        for (size_t k = 0; k < chain->count; k++)
            append(list, k == 0 ? "" : ":", chain->fds[k]);
        if (i + 1 < disks->count)
            strncat(list, ",", LIST_MAX - strlen(list) - 1);
    }
    return list;
}

static void end_arguments(struct arguments *arguments)
{
    for (size_t i = 0; i < arguments->count; i++)
        free(arguments->text[i]);
    arguments->count = 0;
}

/* The next descriptor in the argument's text, -1: there is none any more; *at is behind it then,
 * and *from where its number begins. */
static int next_fd(const char **at, const char **from)
{
    for (; **at != '\0'; (*at)++) {
        char *end;
        if (**at == '-') { /* there is none in its place */
            ++*at;
            continue;
        }
        if (!isdigit((unsigned char)**at))
            continue;
        *from = *at;
        int fd = (int)strtol(*at, &end, 10);
        *at = end;
        return fd;
    }
    return -1;
}

/* Where the machines of this user tell each other of their weights (vm/share.h). Without it, say
 * because there is no folder for it, a machine shares CPUs as the kernel has it. */
static int open_share(void)
{
    char *folder = client_runtime_folder(NULL), *path = NULL;
    int fd = -1;
    if (folder != NULL && asprintf(&path, "%s/cpu-share", folder) > 0)
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    free(path);
    free(folder);
    return fd;
}

/* "7", or "7:8" with memory apart */
static char *saved_files(const struct client_spawn *spawn)
{
    char *list = alloc_zeroed(1, LIST_MAX);
    append(list, "", spawn->resume);
    if (spawn->resume >= 0 && spawn->resume_memory > 0)
        append(list, ":", spawn->resume_memory);
    return list;
}

/* The same order as in worker/worker.c. */
static void make_arguments(struct arguments *arguments, const struct client_spawn *spawn,
                           int config, int share, int refused)
{
    const int kept[FD_COUNT] = {config,
                                spawn->console,
                                spawn->control,
                                spawn->listen,
                                spawn->gdb,
                                spawn->report,
                                spawn->transcript,
                                spawn->vsock->listen,
                                spawn->vsock->connector,
                                spawn->hold,
                                share,
                                spawn->nvram};
    char *sandbox = NULL;
    for (size_t i = 0; i < FD_COUNT; i++)
        add(arguments, true, number(kept[i]));
    add(arguments, true, saved_files(spawn));
    add(arguments, false, strdup(spawn->console_kind));
    add(arguments, false, number(spawn->log_level));
    if (asprintf(&sandbox, "%s:%d", sandbox_mode_names[spawn->sandbox], refused) < 0)
        sandbox = NULL;
    add(arguments, false, sandbox);
    add(arguments, false,
        strdup(spawn->incoming   ? "incoming"
               : spawn->gdb_wait ? "wait"
               : spawn->paused   ? "paused"
                                 : "run"));
    add(arguments, true, list_of(spawn->network->links, spawn->network->count));
    add(arguments, true, list_disks(spawn->disks));
    add(arguments, true,
        arguments->files != NULL ? list_of(arguments->files, CLONE_FILES) : strdup(""));
}

/* In the child: the worker gets the descriptors it is told of, standard error for its log, and
 * nothing else that is open here, be it ours or inherited from whoever started us. */
static _Noreturn void exec_worker(const struct client_spawn *spawn, int config, int refused)
{
    struct arguments arguments = {.files = NULL};
    int share = open_share(), null = open("/dev/null", O_RDWR | O_CLOEXEC);
    make_arguments(&arguments, spawn, config, share, refused);
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    char *argv[ARGUMENTS + 3] = {"trapeze", "worker"};
    for (size_t i = 0; i < arguments.count; i++) {
        const char *at = arguments.text[i], *from;
        int fd;
        while (arguments.has_fds[i] && (fd = next_fd(&at, &from)) >= 0)
            fcntl(fd, F_SETFD, 0);
        argv[2 + i] = arguments.text[i];
    }
    /* Keys for the terminal (Ctrl-C when not raw) are ours to handle, not the worker's. */
    if (spawn->detach)
        setsid();
    else
        setpgid(0, 0);
    if (spawn->unblock != NULL)
        sigprocmask(SIG_UNBLOCK, spawn->unblock, NULL);
    execv("/proc/self/exe", argv);
    _exit(127);
}

/* From here, as the worker may see nothing of the host's cgroups. */
static void enter_group(const struct machine_config *config, const struct client_spawn *spawn,
                        pid_t pid)
{
    char *group = pid > 0 && spawn->group != NULL ? cgroup_for_machine(spawn->group, config) : NULL;
    if (group != NULL)
        cgroup_enter(group, pid, NULL);
    free(group);
}

pid_t client_spawn(const struct machine_config *config, const struct client_spawn *spawn,
                   struct error **err)
{
    int fd = config_memfd(config, err);
    if (fd < 0)
        return -1;
    int refused = 0;
    pid_t pid = spawn->sandbox != SANDBOX_OFF
                    ? sandbox_fork(spawn->detach ? SANDBOX_FAMILY : SANDBOX_ALONE, &refused)
                    : fork();
    if (pid == 0)
        exec_worker(spawn, fd, refused);
    if (pid < 0)
        error_set_errno(err, errno, "cannot start the worker process");
    enter_group(config, spawn, pid);
    close(fd);
    return pid;
}

/* ---- clones ---- */

static bool send_with(int talk, const char *text, const int *fds, size_t count)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(SENT_MAX * sizeof(int))];
    } control;
    struct iovec iov = {(char *)(uintptr_t)text, strlen(text)};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    if (count > 0) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
                                   .cmsg_type = SCM_RIGHTS,
                                   .cmsg_len = CMSG_LEN(count * sizeof(int))};
        memcpy(CMSG_DATA(header), fds, count * sizeof(int));
    }
    return sendmsg(talk, &message, MSG_NOSIGNAL) == (ssize_t)iov.iov_len;
}

/* "=3:4" goes as "=0:1" with both descriptors. */
static bool send_argument(int talk, const char *argument, bool has_fds)
{
    char text[LIST_MAX + 1] = "=";
    int fds[SENT_MAX], fd;
    size_t count = 0, used = 1;
    const char *at = argument, *from = argument, *done = argument;
    while (has_fds && count < SENT_MAX && (fd = next_fd(&at, &from)) >= 0) {
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%.*s%zu", (int)(from - done),
                                 done, count);
        fds[count++] = fd;
        done = at;
    }
    snprintf(text + used, sizeof(text) - used, "%s", done);
    return send_with(talk, text, fds, count);
}

static bool send_standard_files(int talk, pid_t pid)
{
    char path[32], text[16];
    snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
    snprintf(text, sizeof(text), "%d", (int)pid);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), statm = open(path, O_RDONLY | O_CLOEXEC);
    const int fds[] = {null, null, STDERR_FILENO, statm};
    bool good = null >= 0 && statm >= 0 && send_with(talk, text, fds, ARRAY_SIZE(fds));
    if (null >= 0)
        close(null);
    if (statm >= 0)
        close(statm);
    return good;
}

static bool open_files(const struct machine_config *config, int files[CLONE_FILES],
                       struct error **err)
{
    const char *const paths[CLONE_FILES] = {config->kernel, config->initrd, config->firmware};
    for (size_t i = 0; i < CLONE_FILES; i++) {
        files[i] = paths[i] != NULL ? open(paths[i], O_RDONLY | O_CLOEXEC) : -1;
        if (paths[i] != NULL && files[i] < 0)
            return error_set_errno(err, errno, "cannot open '%s'", paths[i]);
    }
    return true;
}

static bool send_all(const struct machine_config *config, const struct client_spawn *spawn,
                     int talk, pid_t pid, struct error **err)
{
    int files[CLONE_FILES] = {-1, -1, -1}, fd = config_memfd(config, err), share = open_share();
    bool good = fd >= 0 && open_files(config, files, err);
    struct arguments arguments = {.files = files};
    bool sent = good && send_standard_files(talk, pid);
    if (good)
        make_arguments(&arguments, spawn, fd, share, 0);
    for (size_t i = 0; sent && i < arguments.count; i++)
        sent = send_argument(talk, arguments.text[i], arguments.has_fds[i]);
    if (good && !(sent && send_with(talk, "end", NULL, 0)))
        good = error_set_errno(err, errno, "cannot hand the clone its descriptors");
    end_arguments(&arguments);
    const int ours[] = {fd, share, files[0], files[1], files[2]};
    for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
        if (ours[i] >= 0)
            close(ours[i]);
    return good;
}

static bool wait_until_ready(int talk, struct error **err)
{
    char text[1024];
    ssize_t size;
    while ((size = recv(talk, text, sizeof(text) - 1, 0)) < 0 && errno == EINTR)
        ;
    text[size > 0 ? size : 0] = '\0';
    if (strcmp(text, "ready") == 0)
        return true;
    return error_set(err, ERROR_HOST, "%s",
                     strncmp(text, "error ", 6) == 0 ? text + 6 : "the clone's process has ended");
}

bool client_hatch_socket(int pair[2], struct error **err)
{
    const int on = 1;
    return (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0 &&
            setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) == 0) ||
           error_set_errno(err, errno, "cannot make a socket pair");
}

pid_t client_hatch(const struct machine_config *config, const struct client_spawn *spawn, int talk,
                   struct error **err)
{
    pid_t pid = frame_receive_pid(talk, 4); /* its first word */
    if (pid <= 0) {
        error_set(err, ERROR_HOST, "the clone's process has ended");
        return -1;
    }
    enter_group(config, spawn, pid);
    return send_all(config, spawn, talk, pid, err) && wait_until_ready(talk, err) ? pid : -1;
}

bool client_hatch_go(int talk, struct error **err)
{
    return send_with(talk, "go", NULL, 0) || error_set_errno(err, errno, "the clone has ended");
}
