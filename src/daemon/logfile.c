/* SPDX-License-Identifier: MIT
 *
 * See logfile.h.
 */
#include "daemon/logfile.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/daemon.h"
#include "daemon/machine.h"

enum { LOG_LIMIT = 1 << 20, LINES_AT_ONCE = 20, FOLLOWED_BYTES = 16 << 10 };

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

/* ---- following ---- */

/* The size of what is there, if it is a file; -1: it is none. */
static int open_log(int folder, const char *name, off_t *size)
{
    struct stat status;
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
        *size = status.st_size;
        return fd;
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

void logfile_skip(int folder, const char *name, struct log_place *place)
{
    *place = (struct log_place){0};
    int fd = open_log(folder, name, &place->at);
    if (fd >= 0)
        close(fd);
}

/* From behind, the last lines that are taken at once; what is in front of them is left out. */
static size_t skip_lines(const char *text, size_t size)
{
    unsigned lines = 0;
    while (size > 0 && (text[size - 1] != '\n' || lines++ < LINES_AT_ONCE))
        size--;
    return size;
}

void logfile_follow(int folder, const char *name, struct log_place *place, logfile_line_fn *each,
                    void *opaque)
{
    off_t size;
    long long left_out = 0;
    int fd = open_log(folder, name, &size);
    if (fd < 0)
        return;
    if (size < place->at) /* it was emptied */
        place->at = 0;
    if (size - place->at > FOLLOWED_BYTES) {
        left_out = size - FOLLOWED_BYTES - place->at;
        place->at = size - FOLLOWED_BYTES;
    }
    char text[FOLLOWED_BYTES + 1];
    ssize_t count = pread(fd, text, (size_t)(size - place->at), place->at);
    close(fd);
    const char *last = count > 0 ? memrchr(text, '\n', (size_t)count) : NULL;
    if (last == NULL && count < FOLLOWED_BYTES)
        return; /* the rest of the line comes */
    size_t end = last != NULL ? (size_t)(last + 1 - text) : (size_t)count;
    size_t at = skip_lines(text, end);
    left_out += (long long)at;
    place->at += (off_t)end;
    while (at < end) {
        char *stop = memchr(text + at, '\n', end - at);
        if (stop == NULL)
            stop = text + end;
        for (char *c = text + at; c < stop; c++)
            if ((unsigned char)*c < 0x20 || *c == 0x7f)
                *c = '?';
        *stop = '\0';
        each(opaque, text + at, left_out);
        left_out = 0;
        at = (size_t)(stop + 1 - text);
    }
}

struct journal_line {
    const struct service *service;
    const char *instance;
};

static void to_journal(void *opaque, const char *line, long long left_out)
{
    const struct journal_line *to = opaque;
    char sentence[80];
    snprintf(sentence, sizeof(sentence), "%lld bytes more are in the instance's worker.log",
             left_out);
    if (left_out > 0)
        service_journal_line(to->service, to->instance, sentence);
    service_journal_line(to->service, to->instance, line);
}

void logfile_journal(struct daemon *daemon, const char *instance, struct log_place *place)
{
    struct journal_line to = {&daemon->service, instance};
    int folder = daemon->service.journal < 0
                     ? -1
                     : openat(daemon->store.instances, instance,
                              O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0)
        return;
    logfile_follow(folder, "worker.log", place, to_journal, &to);
    close(folder);
}

/* ---- keeping them small ---- */

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
