/* SPDX-License-Identifier: MIT
 *
 * See spawn.h.
 */
#include "client/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "client/cgroup.h"
#include "client/disks.h"
#include "client/network.h"
#include "client/vsock.h"
#include "client/worker.h"
#include "config/vmx.h"

enum { FD_COUNT = 13 };

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

/* One more descriptor that the worker keeps, behind `separator` in a list of them. */
static void keep(char *list, size_t room, const char *separator, int fd)
{
    size_t at = strlen(list);
    snprintf(list + at, room - at, "%s%d", separator, fd);
    fcntl(fd, F_SETFD, 0);
}

/* "3:4,5": disks apart by commas, the files of each by colons. */
static void keep_disks(char *list, size_t room, const struct client_disks *disks)
{
    for (size_t i = 0; i < disks->count; i++) {
        const struct block_chain *chain = &disks->chains[i];
        for (size_t k = 0; k < chain->count; k++)
            keep(list, room, k == 0 ? "" : ":", chain->fds[k]);
        if (i + 1 < disks->count)
            strcat(list, ",");
    }
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

/* In the child: the worker gets the descriptors it is told of, standard error for its log, and
 * nothing else that is open here, be it ours or inherited from whoever started us. */
static _Noreturn void exec_worker(const struct client_spawn *spawn, int config, int refused)
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
                                open_share(),
                                spawn->nvram,
                                spawn->resume};
    char numbers[FD_COUNT][16], level[16], sandbox[32], nics[MACHINE_MAX_NICS * 12] = "";
    char disks[MACHINE_MAX_DISKS * BLOCK_DEPTH_MAX * 12] = "";
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    for (size_t i = 0; i < FD_COUNT; i++) {
        snprintf(numbers[i], sizeof(numbers[i]), "%d", kept[i]);
        if (kept[i] >= 0)
            fcntl(kept[i], F_SETFD, 0);
    }
    for (size_t i = 0; i < spawn->network->count; i++)
        keep(nics, sizeof(nics), i > 0 ? "," : "", spawn->network->links[i]);
    keep_disks(disks, sizeof(disks), spawn->disks);
    snprintf(level, sizeof(level), "%d", spawn->log_level);
    snprintf(sandbox, sizeof(sandbox), "%s:%d", sandbox_mode_names[spawn->sandbox], refused);
    /* Keys for the terminal (Ctrl-C when not raw) are ours to handle, not the worker's. */
    if (spawn->detach)
        setsid();
    else
        setpgid(0, 0);
    if (spawn->unblock != NULL)
        sigprocmask(SIG_UNBLOCK, spawn->unblock, NULL);
    char *const argv[] = {"trapeze",
                          "worker",
                          numbers[0],
                          numbers[1],
                          numbers[2],
                          numbers[3],
                          numbers[4],
                          numbers[5],
                          numbers[6],
                          numbers[7],
                          numbers[8],
                          numbers[9],
                          numbers[10],
                          numbers[11],
                          numbers[12],
                          (char *)(uintptr_t)spawn->console_kind,
                          level,
                          sandbox,
                          spawn->incoming ? "incoming" : spawn->gdb_wait ? "wait" : "run",
                          nics,
                          disks,
                          NULL};
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
    pid_t pid = spawn->sandbox != SANDBOX_OFF ? sandbox_fork(&refused) : fork();
    if (pid == 0)
        exec_worker(spawn, fd, refused);
    if (pid < 0)
        error_set_errno(err, errno, "cannot start the worker process");
    enter_group(config, spawn, pid);
    close(fd);
    return pid;
}
