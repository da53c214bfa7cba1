/* SPDX-License-Identifier: MIT
 *
 * See job.h. A job writes lines of JSON: {"done": …, "total": …} any number of times, and in the
 * end {"result": …} or {"error": "sentence", "usage": …}.
 */
#include "daemon/job.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "daemon/daemon.h"
#include "daemon/http.h"

enum { STEP_NS = 100 * 1000 * 1000 };

struct job {
    struct job *next;
    struct daemon *daemon;
    json_t *who;              /* {"instance": …, "to": …} */
    json_int_t copied, total; /* bytes; total 0: not known */
    json_t *tells;            /* what else it says of itself; NULL: nothing */
    int64_t told_ns;          /* in the job's process */
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
    for (struct job **at = &job->daemon->jobs; *at != NULL; at = &(*at)->next)
        if (*at == job) {
            *at = job->next;
            break;
        }
    json_t *report = json_loadb(job->text, job->size, JSON_DECODE_ANY, NULL);
    const json_t *result = json_object_get(report, "result");
    const char *sentence = json_string_value(json_object_get(report, "error"));
    if (sentence != NULL)
        error_set(&error, json_is_true(json_object_get(report, "usage")) ? ERROR_USAGE : ERROR_HOST,
                  "%s", sentence);
    else if (result == NULL) {
        error_set(&error, ERROR_INTERNAL, "the process that was at it ended without a word");
        store_clean(&job->daemon->store, job->pid);
    }
    job->done(job->opaque, result, error);
    error_free(error);
    json_decref(report);
    json_decref(job->who);
    json_decref(job->tells);
    free(job->text);
    free(job);
}

/* All lines but the last are steps; what is left is the report, or the beginning of a line. */
static void take_steps(struct job *job)
{
    char *end;
    while (job->size > 0 && (end = memchr(job->text, '\n', job->size)) != NULL) {
        size_t length = (size_t)(end + 1 - job->text);
        json_t *step = json_loadb(job->text, length, 0, NULL);
        const json_t *total = json_object_get(step, "total"),
                     *tells = json_object_get(step, "tells");
        if (json_is_object(tells)) {
            json_decref(job->tells);
            job->tells = json_incref((json_t *)(uintptr_t)tells);
        } else if (!json_is_integer(total)) { /* the report itself */
            json_decref(step);
            return;
        }
        if (tells == NULL) {
            job->copied = json_integer_value(json_object_get(step, "done"));
            job->total = json_integer_value(total);
        }
        json_decref(step);
        job->size -= length;
        memmove(job->text, job->text + length, job->size);
    }
}

static void on_report(void *opaque, int fd, unsigned events)
{
    enum { CHUNK = 4096 };
    struct job *job = opaque;
    (void)events;
    job->text = alloc_resize(job->text, job->size + CHUNK, 1);
    ssize_t count = read(fd, job->text + job->size, CHUNK);
    if (count > 0) {
        job->size += (size_t)count;
        take_steps(job);
    } else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
        finish(job);
    }
}

bool job_step(void *daemon, off_t done, off_t size)
{
    struct job *job = ((struct daemon *)daemon)->jobs;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t ns = now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
    if (size != job->total || ns - job->told_ns >= STEP_NS) {
        job->total = size;
        job->told_ns = ns;
        dprintf(job->fd, "{\"done\":%lld,\"total\":%lld}\n", (long long)done, (long long)size);
    }
    return true;
}

void job_signal(const struct daemon *daemon, const void *opaque, int number)
{
    for (const struct job *job = daemon->jobs; job != NULL; job = job->next)
        if (job->opaque == opaque)
            kill(job->pid, number); /* it is not waited for yet, so it is still this one */
}

void job_tell(struct daemon *daemon, json_t *members)
{
    json_t *line = json_pack("{s:o}", "tells", members);
    char *text = json_dumps(line, JSON_COMPACT);
    if (text != NULL)
        dprintf(daemon->jobs->fd, "%s\n", text);
    free(text);
    json_decref(line);
}

const json_t *job_told(const struct daemon *daemon, const void *opaque)
{
    for (const struct job *job = daemon->jobs; job != NULL; job = job->next)
        if (job->opaque == opaque)
            return job->tells;
    return NULL;
}

unsigned job_count(const struct daemon *daemon)
{
    unsigned count = 0;
    for (const struct job *job = daemon->jobs; job != NULL; job = job->next)
        count++;
    return count;
}

json_t *job_list(const struct daemon *daemon)
{
    json_t *list = json_array();
    for (const struct job *job = daemon->jobs; job != NULL; job = job->next) {
        if (job->total == 0)
            continue;
        json_t *row = json_copy(job->who);
        json_object_set_new(row, "done", json_integer(job->copied));
        json_object_set_new(row, "total", json_integer(job->total));
        if (job->tells != NULL)
            json_object_update(row, job->tells);
        json_array_append_new(list, row);
    }
    return list;
}

static _Noreturn void work(struct job *job, const char *instance, const json_t *arguments,
                           job_fn *fn, pid_t parent)
{
    struct error *error = NULL;
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    const json_t *keep = json_object_get(arguments, "fds");
    http_leave(job->daemon->http, keep);
    http_leave(job->daemon->remote_http, keep);
    job->daemon->jobs = job;
    json_t *result = fn(job->daemon, instance, arguments, &error);
    json_t *report = result != NULL ? json_pack("{s:o}", "result", result)
                                    : json_pack("{s:s%, s:b}", "error", error_message(error),
                                                strlen(error_message(error)), "usage",
                                                error_kind(error) == ERROR_USAGE);
    if (report == NULL) /* bytes of a file name that are no UTF-8 */
        report = json_pack("{s:s}", "error", "it failed on a file whose name is not UTF-8");
    json_dumpfd(report, job->fd, JSON_COMPACT);
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
        job->fd = pair[1];
        job->pid = fork();
        if (job->pid == 0)
            work(job, instance, arguments, fn, parent);
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
    if (good) {
        const json_t *to = json_object_get(arguments, "to");
        job->who = json_pack("{s:s, s:o*}", "instance", instance, "to",
                             json_is_string(to) ? json_copy((json_t *)(uintptr_t)to) : NULL);
        job->next = daemon->jobs;
        daemon->jobs = job;
        daemon->all_jobs++;
        return;
    }
    done(opaque, NULL, error);
    error_free(error);
    free(job);
}
