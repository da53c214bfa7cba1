/* SPDX-License-Identifier: MIT
 *
 * See saved.h. What is said on the socket beside the control connection: worker/verbs_suspend.c.
 */
#include "client/saved.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "client/worker.h"
#include "config/vmx.h"

bool client_saved_wait(int talk, bool (*progress)(void *opaque, uint64_t done, uint64_t total),
                       void *opaque, struct error **err)
{
    char text[2048];
    for (;;) {
        uint64_t done, total;
        ssize_t size = recv(talk, text, sizeof(text) - 1, 0);
        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0)
            return error_set(err, ERROR_HOST, "the machine's worker ended while it was saved");
        text[size] = '\0';
        if (strcmp(text, "saved") == 0)
            return true;
        if (strncmp(text, "error ", 6) == 0)
            return error_set(err, ERROR_HOST, "%s", text + 6);
        if (sscanf(text, "progress %" SCNu64 " %" SCNu64, &done, &total) == 2 &&
            progress != NULL && !progress(opaque, done, total))
            return error_set(err, ERROR_HOST, "saving was called off; the machine goes on");
    }
}

static bool talk_with(const char *control_path, int file, const struct client_suspend *how,
                      int *talk, struct error **err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return error_set_errno(err, errno, "cannot make a socket pair");
    const int fds[] = {file, pair[1]};
    char *answer = client_control_fds(control_path, "suspend",
                                      how->compress ? "{\"compress\": true}" : "{}", fds, 2, err);
    close(pair[1]);
    *talk = pair[0];
    free(answer);
    return answer != NULL && client_saved_wait(pair[0], how->progress, how->opaque, err);
}

/* An empty file that nobody else writes; what a killed client left there is used again. */
static bool make_file(int folder, const char *name, int *file, struct error **err)
{
    struct stat mine, there;
    int fd = openat(folder, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot make '%s'", name);
    bool free = flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &mine) == 0 &&
                fstatat(folder, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
                mine.st_dev == there.st_dev && mine.st_ino == there.st_ino;
    bool good = free && S_ISREG(mine.st_mode) && ftruncate(fd, 0) == 0;
    if (!free)
        error_set(err, ERROR_USAGE, "somebody else is writing '%s'", name);
    else if (!good)
        error_set(err, ERROR_HOST, "cannot write '%s'", name);
    if (good)
        *file = fd;
    else
        close(fd);
    return good;
}

bool client_suspend(const char *control_path, int folder, const char *name,
                    const struct client_suspend *how, struct error **err)
{
    char *temporary = NULL;
    int talk = -1, file = -1;
    /* Beside it, so that a rename does. */
    const char *slash = strrchr(name, '/');
    int front = slash != NULL ? (int)(slash - name) + 1 : 0;
    if (asprintf(&temporary, "%.*s.%s.new", front, name, name + front) < 0)
        return error_set(err, ERROR_HOST, "the host is out of memory");
    bool good = make_file(folder, temporary, &file, err);
    good = good && talk_with(control_path, file, how, &talk, err);
    if (good && renameat(folder, temporary, folder, name) != 0)
        good = error_set_errno(err, errno, "cannot make '%s'", name);
    if (!good && file >= 0) /* only if it is ours */
        unlinkat(folder, temporary, 0);
    if (good) { /* the name has to last, too */
        char *where = NULL;
        int inside = asprintf(&where, "%.*s.", front, name) > 0
                         ? openat(folder, where, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                         : -1;
        if (inside >= 0) {
            (void)fsync(inside);
            close(inside);
        }
        free(where);
        good = send(talk, "commit", 6, MSG_NOSIGNAL) == 6 ||
               error_set(err, ERROR_HOST, "the machine's worker ended while it was suspended");
    }
    if (file >= 0)
        close(file);
    if (talk >= 0)
        close(talk);
    free(temporary);
    return good;
}

bool client_saved_open(int folder, const char *path, struct saved_image *image,
                       struct machine_config *config, struct error **err)
{
    *image = (struct saved_image){.fd = -1};
    int fd = openat(folder, path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot open the suspended machine '%s'", path);
    bool good = saved_open(image, fd, SAVED_DESCRIPTION, err);
    image->fd = fd;
    if (good && config != NULL)
        good = vmx_parse((const char *)image->sections[SAVED_MACHINE].data,
                         (size_t)image->sections[SAVED_MACHINE].size, path, config, err);
    if (good)
        return true;
    error_prefix(err, "'%s'", path);
    client_saved_close(image);
    return false;
}

void client_saved_close(struct saved_image *image)
{
    int fd = image->fd;
    saved_clear(image);
    if (fd >= 0)
        close(fd);
}
