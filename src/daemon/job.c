/* SPDX-License-Identifier: MIT
 *
 * See job.h. The report is {"result": …} or {"error": "sentence", "usage": …}, until the pipe's
 * end.
 */
#include "daemon/job.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "daemon/daemon.h"

struct job {
    struct daemon *daemon;
    pid_t pid;
    int fd;
    struct loop_watch *watch;
    char *text;
    size_t size;
    job_done_fn *done;
    void *opaque;
};

static void finish(struct job *job)
{
    struct error *error = NULL;
    loop_watch_remove(job->watch);
    close(job->fd);
    while (waitpid(job->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    json_t *report = json_loadb(job->text, job->size, JSON_DECODE_ANY, NULL);
    const json_t *result = json_object_get(report, "result");
    const char *sentence = json_string_value(json_object_get(report, "error"));
    if (sentence != NULL)
        error_set(&error, json_is_true(json_object_get(report, "usage")) ? ERROR_USAGE : ERROR_HOST,
                  "%s", sentence);
    else if (result == NULL)
        error_set(&error, ERROR_INTERNAL, "the process that was at it ended without a word");
    job->done(job->opaque, result, error);
    error_free(error);
    json_decref(report);
    free(job->text);
    free(job);
}

static void on_report(void *opaque, int fd, unsigned events)
{
    enum { CHUNK = 4096 };
    struct job *job = opaque;
    (void)events;
    job->text = alloc_resize(job->text, job->size + CHUNK, 1);
    ssize_t count = read(fd, job->text + job->size, CHUNK);
    if (count > 0)
        job->size += (size_t)count;
    else if (count == 0 || (errno != EAGAIN && errno != EINTR))
        finish(job);
}

static _Noreturn void work(struct daemon *daemon, const char *instance, const json_t *arguments,
                           job_fn *fn, int fd, pid_t parent)
{
    struct error *error = NULL;
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    json_t *result = fn(daemon, instance, arguments, &error);
    json_t *report = result != NULL ? json_pack("{s:o}", "result", result)
                                    : json_pack("{s:s%, s:b}", "error", error_message(error),
                                                strlen(error_message(error)), "usage",
                                                error_kind(error) == ERROR_USAGE);
    if (report == NULL) /* bytes of a file name that are no UTF-8 */
        report = json_pack("{s:s}", "error", "it failed on a file whose name is not UTF-8");
    json_dumpfd(report, fd, JSON_COMPACT);
    _exit(0);
}

void job_start(struct daemon *daemon, const char *instance, const json_t *arguments, job_fn *fn,
               job_done_fn *done, void *opaque)
{
    struct error *error = NULL;
    struct job *job = alloc_zeroed(1, sizeof(*job));
    *job = (struct job){.daemon = daemon, .done = done, .opaque = opaque};
    int pair[2];
    pid_t parent = getpid();
    bool good = pipe2(pair, O_CLOEXEC) == 0;
    if (!good)
        error_set_errno(&error, errno, "cannot make a pipe");
    if (good) {
        job->pid = fork();
        if (job->pid == 0)
            work(daemon, instance, arguments, fn, pair[1], parent);
        close(pair[1]);
        job->fd = pair[0];
        good = job->pid > 0;
        if (!good) {
            error_set_errno(&error, errno, "cannot start a process");
            close(pair[0]);
        }
    }
    if (good) {
        fcntl(job->fd, F_SETFL, O_NONBLOCK);
        job->watch = loop_watch_add(daemon->loop, job->fd, LOOP_READABLE, on_report, job, &error);
        good = job->watch != NULL;
        if (!good) {
            kill(job->pid, SIGKILL);
            waitpid(job->pid, NULL, 0);
            close(job->fd);
        }
    }
    if (good)
        return;
    done(opaque, NULL, error);
    error_free(error);
    free(job);
}
