/* SPDX-License-Identifier: MIT
 *
 * See guest.h.
 */
#include "client/guest.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "client/api.h"

/* ANSWER_MS: for the guest's kernel to say whether it listens, before it is asked anew: it may have
 * forgotten. */
enum { AGAIN_MS = 250, COSTLY_MS = 1000, TELL_MS = 1500, ANSWER_MS = 10000, LINE_BYTES = 32 };

/* ---- connecting ---- */

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

struct attempt {
    guest_open_fn *open;
    void *opaque;
    const char *name;
    const struct guest_patience *patience;
    unsigned port;
    int64_t begin, end;  /* ms */
    bool told, answered; /* answered: somebody in the guest listens */
};

static void tell(struct attempt *attempt)
{
    if (attempt->patience->silent || attempt->told || now_ms() - attempt->begin < TELL_MS)
        return;
    attempt->told = true;
    fprintf(stderr, "trapeze: waiting for '%s' to answer on its vsock port %u ...\n", attempt->name,
            attempt->port);
}

/* Whether there is something to read, or an end, before time is up. */
static bool await_input(struct attempt *attempt, int fd, int64_t end)
{
    struct pollfd set = {.fd = fd, .events = POLLIN};
    while (now_ms() < end) {
        int ready = poll(&set, 1, AGAIN_MS);
        if (ready > 0)
            return true;
        if (ready < 0 && errno != EINTR)
            return false;
        tell(attempt);
    }
    return false;
}

/* "OK 1234\n", and not a byte of what the guest says after it. */
static bool read_answer(struct attempt *attempt, int fd)
{
    char line[LINE_BYTES];
    int64_t end = now_ms() + ANSWER_MS < attempt->end ? now_ms() + ANSWER_MS : attempt->end;
    for (size_t size = 0; size < sizeof(line); size++) {
        if (!await_input(attempt, fd, end) || recv(fd, line + size, 1, 0) != 1)
            return false;
        if (line[size] == '\n')
            return size > 3 && memcmp(line, "OK ", 3) == 0;
    }
    return false;
}

/* The guest's server has spoken, and did not just hang up. */
static bool has_spoken(struct attempt *attempt, int fd)
{
    char byte;
    return await_input(attempt, fd, attempt->end) && recv(fd, &byte, 1, MSG_PEEK) == 1;
}

int guest_open_socket(void *path, struct error **err)
{
    char *folder = alloc_string(path), *slash = strrchr(folder, '/');
    struct error *error = NULL;
    *slash = '\0';
    int fd = api_connect_in(folder, slash + 1, &error);
    free(folder);
    if (fd >= 0)
        return fd;
    error_set(err, ERROR_HOST, "%s", error_message(error));
    error_hint(err, "It ended, or its worker is from a time when it had no vsock: start it anew.");
    error_free(error);
    return -1;
}

/* 1: *fd is it; 0: not yet; -1: err. */
static int try_once(struct attempt *attempt, int *fd, struct error **err)
{
    char request[32];
    int size = snprintf(request, sizeof(request), "CONNECT %u\n", attempt->port);
    *fd = attempt->open(attempt->opaque, err);
    if (*fd < 0) {
        error_prefix(err, "'%s' cannot be reached", attempt->name);
        return -1;
    }
    if (send(*fd, request, (size_t)size, MSG_NOSIGNAL) == size && read_answer(attempt, *fd)) {
        if (!attempt->answered && attempt->patience->speak_s > 0)
            attempt->end = now_ms() + (int64_t)attempt->patience->speak_s * 1000;
        attempt->answered = true;
        if (has_spoken(attempt, *fd))
            return 1;
    }
    close(*fd);
    return 0;
}

int guest_connect(guest_open_fn *open, void *opaque, const char *name, unsigned port,
                  const struct guest_patience *patience, struct error **err)
{
    const int64_t again_ms = patience->costly ? COSTLY_MS : AGAIN_MS;
    struct attempt attempt = {.open = open,
                              .opaque = opaque,
                              .name = name,
                              .port = port,
                              .patience = patience,
                              .begin = now_ms()};
    attempt.end = attempt.begin + (int64_t)patience->listen_s * 1000;
    for (;;) {
        int fd, found = try_once(&attempt, &fd, err);
        if (found != 0)
            return found > 0 ? fd : -1;
        tell(&attempt);
        if (now_ms() + again_ms >= attempt.end)
            break;
        nanosleep(&(struct timespec){again_ms / 1000, again_ms % 1000 * 1000000}, NULL);
    }
    error_set(err, ERROR_HOST, "'%s' has not answered in %lld seconds: %s", name,
              (long long)(attempt.end - attempt.begin) / 1000,
              attempt.answered ? "something listens on that port of the guest, but says nothing"
                               : "nothing listens on that port of the guest");
    error_hint(
        err,
        "It may still be booting (--timeout waits longer, 'trapeze console %s' shows), or have "
        "no ssh server on vsock port %u: systemd 256 or later starts one by itself where "
        "openssh-server is installed, for others 'trapeze create --hostname' has a seed that "
        "sets it up.",
        name, port);
    return -1;
}

/* ---- descriptors ---- */

union control {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
};

bool guest_send_fd(int socket, int fd)
{
    union control control = {.bytes = {0}};
    struct iovec byte = {.iov_base = (char[1]){0}, .iov_len = 1};
    struct msghdr message = {.msg_iov = &byte,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof(fd));
    return sendmsg(socket, &message, MSG_NOSIGNAL) == 1;
}

int guest_receive_fd(int socket)
{
    union control control;
    char byte;
    struct iovec room = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &room,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    int fd = -1;
    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1)
        return -1;
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&fd, CMSG_DATA(header), sizeof(fd));
    return fd;
}
