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
#include "client/copy.h"
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

/* memory -1: it is in the file as well. */
static bool begin_to_suspend(const char *control_path, const char *arguments, int file, int memory,
                             int *talk, struct error **err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return error_set_errno(err, errno, "cannot make a socket pair");
    const int fds[] = {file, pair[1], memory};
    char *answer =
        client_control_fds(control_path, "suspend", arguments, fds, memory >= 0 ? 3 : 2, err);
    close(pair[1]);
    *talk = pair[0];
    free(answer);
    return answer != NULL;
}

static bool talk_with(const char *control_path, int file, const struct client_suspend *how,
                      int *talk, struct error **err)
{
    return begin_to_suspend(control_path, how->compress ? "{\"compress\": true}" : "{}", file, -1,
                            talk, err) &&
           client_saved_wait(*talk, how->progress, how->opaque, err);
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

/* Beside the file, so that a rename does; the caller frees it. */
static char *temporary_name(const char *name)
{
    char *temporary = NULL;
    const char *slash = strrchr(name, '/');
    int front = slash != NULL ? (int)(slash - name) + 1 : 0;
    if (asprintf(&temporary, "%.*s.%s.new", front, name, name + front) < 0)
        return NULL;
    return temporary;
}

/* A name lasts when its folder is written. */
static void keep_name(int folder, const char *name)
{
    char *where = NULL;
    const char *slash = strrchr(name, '/');
    int front = slash != NULL ? (int)(slash - name) + 1 : 0;
    int inside = asprintf(&where, "%.*s.", front, name) > 0
                     ? openat(folder, where, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                     : -1;
    if (inside >= 0) {
        (void)fsync(inside);
        close(inside);
    }
    free(where);
}

bool client_suspend(const char *control_path, int folder, const char *name,
                    const struct client_suspend *how, struct error **err)
{
    char *temporary = temporary_name(name);
    int talk = -1, file = -1;
    if (temporary == NULL)
        return error_set(err, ERROR_HOST, "the host is out of memory");
    bool good = make_file(folder, temporary, &file, err);
    good = good && talk_with(control_path, file, how, &talk, err);
    if (good && renameat(folder, temporary, folder, name) != 0)
        good = error_set_errno(err, errno, "cannot make '%s'", name);
    if (!good && file >= 0) /* only if it is ours */
        unlinkat(folder, temporary, 0);
    if (good) {
        keep_name(folder, name);
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

/* ---- memory apart ---- */

/* One of the two files: where it is to be, and what it is until then. */
struct part {
    char *name, *temporary;
    int file; /* -1: not begun */
};

static bool begin_part(struct part *part, const char *name, struct error **err)
{
    struct stat status;
    bool there = lstat(name, &status) == 0;
    part->name = there && S_ISLNK(status.st_mode) ? realpath(name, NULL) : strdup(name);
    if (part->name == NULL)
        return error_set_errno(err, errno, "cannot make '%s'", name);
    if (there && (stat(part->name, &status) != 0 || !S_ISREG(status.st_mode)))
        return error_set(err, ERROR_USAGE, "'%s' is no regular file", name);
    part->temporary = temporary_name(part->name);
    return part->temporary != NULL && make_file(AT_FDCWD, part->temporary, &part->file, err);
}

/* What changes go into. */
static bool copy_old(const struct part *memory, uint64_t size, struct error **err)
{
    struct stat status;
    int old = open(memory->name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    bool good = old < 0 || fstat(old, &status) != 0 || (uint64_t)status.st_size != size ||
                copy_file(old, memory->file, NULL, NULL, err);
    if (old >= 0)
        close(old);
    return good;
}

static bool rename_part(struct part *part, struct error **err)
{
    if (rename(part->temporary, part->name) != 0)
        return error_set_errno(err, errno, "cannot make '%s'", part->name);
    free(part->temporary);
    part->temporary = NULL;
    keep_name(AT_FDCWD, part->name);
    return true;
}

/* While the names change one by one, the old state would lie beside the new memory, and who loads it
 * would find out only when the guest touches it. So for that long there is none. */
static bool forget_old(const struct part *state, struct error **err)
{
    if (unlink(state->name) != 0)
        return errno == ENOENT || error_set_errno(err, errno, "cannot replace '%s'", state->name);
    keep_name(AT_FDCWD, state->name);
    return true;
}

static void end_part(struct part *part)
{
    if (part->file >= 0 && part->temporary != NULL)
        unlink(part->temporary);
    if (part->file >= 0)
        close(part->file);
    free(part->temporary);
    free(part->name);
}

/* The worker hangs up when it is through with it. */
static void await_end(int talk)
{
    char text[16];
    ssize_t size;
    shutdown(talk, SHUT_WR);
    while ((size = recv(talk, text, sizeof(text), 0)) > 0 || (size < 0 && errno == EINTR))
        ;
}

static bool save_parts(const char *control_path, const struct client_save_apart *how,
                       struct part *state, struct part *memory, struct error **err)
{
    char arguments[96];
    int talk = -1;
    snprintf(arguments, sizeof(arguments), "{\"apart\": true, \"changes\": %s, \"track\": %s}",
             how->changes ? "true" : "false", how->track ? "true" : "false");
    bool good =
        begin_to_suspend(control_path, arguments, state->file, memory->file, &talk, err) &&
        client_saved_wait(talk, NULL, NULL, err) &&
        saved_replace(state->file, SAVED_NOTES, how->notes, strlen(how->notes), err) &&
        forget_old(state, err) && rename_part(memory, err) && rename_part(state, err);
    if (good && send(talk, "keep", 4, MSG_NOSIGNAL) != 4)
        good = error_set(err, ERROR_HOST, "the machine's worker ended while it was saved");
    if (talk >= 0) {
        await_end(talk);
        close(talk);
    }
    return good;
}

bool client_save_apart(const char *control_path, const struct client_save_apart *how,
                       struct error **err)
{
    struct part state = {.file = -1}, memory = {.file = -1};
    bool good = begin_part(&state, how->state, err);
    if (good && strcmp(how->state, how->memory) == 0)
        good = error_set(err, ERROR_USAGE, "state and memory have to be two files");
    good = good && begin_part(&memory, how->memory, err) && (!how->changes || copy_old(&memory, how->memory_size, err)) &&
           save_parts(control_path, how, &state, &memory, err);
    end_part(&state);
    end_part(&memory);
    return good;
}

/* ---- going on ---- */

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

bool client_saved_open_memory(struct saved_image *image, const char *path, struct error **err)
{
    if (!image->apart)
        return error_set(err, ERROR_USAGE, "the machine's memory is in the file of its state");
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot open the machine's memory '%s'", path);
    if (saved_set_memory(image, fd, err))
        return true;
    error_prefix(err, "'%s'", path);
    close(fd);
    return false;
}

void client_saved_close(struct saved_image *image)
{
    int fd = image->fd, memory = image->apart ? image->memory : -1;
    saved_clear(image);
    if (memory >= 0)
        close(memory);
    if (fd >= 0)
        close(fd);
}
