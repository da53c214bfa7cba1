/* SPDX-License-Identifier: MIT
 *
 * See backend.h.
 */
#include "client/backend.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"

void backend_add(struct backend *backend, const char *text)
{
    if (backend->count < BACKEND_ARGUMENTS_MAX - 1)
        backend->arguments[backend->count++] = text;
}

void backend_add_fd(struct backend *backend, int fd)
{
    size_t at = backend->fd_count++;
    backend->fds[at] = fd;
    snprintf(backend->numbers[at], sizeof(backend->numbers[at]), "%d", fd);
    backend_add(backend, backend->numbers[at]);
}

/* An orphan must not keep our standard error open: who reads it waits for its end. */
static _Noreturn void exec_backend(const struct backend *backend, bool orphan)
{
    sigset_t none;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    if (orphan)
        dup2(null, STDERR_FILENO);
    close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    for (size_t i = 0; i < backend->fd_count; i++)
        fcntl(backend->fds[i], F_SETFD, 0);
    setpgid(0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv("/proc/self/exe", (char *const *)(uintptr_t)backend->arguments);
    _exit(127);
}

/* Reads what the backend has to say before it serves: nothing, or why it cannot. */
static bool await_ready(int status_fd, struct error **err)
{
    char text[512];
    size_t size = 0;
    ssize_t count;
    while (size < sizeof(text) - 1 &&
           ((count = read(status_fd, text + size, sizeof(text) - 1 - size)) > 0 ||
            (count < 0 && errno == EINTR)))
        size += count > 0 ? (size_t)count : 0;
    text[size] = '\0';
    return size == 0 || error_set(err, ERROR_HOST, "%s", text);
}

void backend_begin(struct backend *backend, const char *name, int status_fd)
{
    *backend = (struct backend){0};
    backend_add(backend, "trapeze");
    backend_add(backend, name);
    backend_add_fd(backend, status_fd);
}

pid_t backend_spawn(const struct backend *backend, const int status[2], bool orphan,
                    struct error **err)
{
    pid_t pid = fork();
    if (pid == 0) {
        if (orphan && fork() != 0)
            _exit(0);
        exec_backend(backend, orphan);
    }
    close(status[1]);
    bool good = pid > 0 || error_set_errno(err, errno, "cannot start a process");
    if (pid > 0 && orphan)
        waitpid(pid, NULL, 0);
    good = good && await_ready(status[0], err);
    close(status[0]);
    if (!good && pid > 0 && !orphan)
        waitpid(pid, NULL, 0);
    return !good ? -1 : orphan ? 0 : pid;
}

bool backend_pipe(int status[2], struct error **err)
{
    return pipe2(status, O_CLOEXEC) == 0 || error_set_errno(err, errno, "cannot make a pipe");
}
