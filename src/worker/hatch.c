/* SPDX-License-Identifier: MIT
 *
 * See hatch.h. Whoever controls the original's worker may ask for clones, and is as much a stranger
 * as at the control socket.
 */
#include "worker/hatch.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"

enum { MESSAGE_MAX = 8192, FDS_MAX = 253 /* the kernel's limit */ };

struct message {
    char text[MESSAGE_MAX];
    int fds[FDS_MAX];
    size_t count;
};

static bool say(int talk, const char *text)
{
    return send(talk, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text);
}

static void take_fds(struct message *message, struct msghdr *header)
{
    message->count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c != NULL; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        message->count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(message->fds, CMSG_DATA(c), message->count * sizeof(int));
    }
}

static bool receive(int talk, struct message *message)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control;
    struct iovec iov = {message->text, sizeof(message->text) - 1};
    struct msghdr header = {.msg_iov = &iov,
                            .msg_iovlen = 1,
                            .msg_control = &control,
                            .msg_controllen = sizeof(control)};
    ssize_t size;
    while ((size = recvmsg(talk, &header, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
        ;
    if (size < 0)
        return false;
    take_fds(message, &header);
    message->text[size] = '\0';
    /* An empty message without descriptors is the end of the socket. */
    return (size > 0 || message->count > 0) && (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
}

/* The argument with our numbers for its descriptors; NULL: it means one that did not come. */
static char *with_descriptors(const struct message *message)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    bool good = out != NULL;
    for (const char *at = message->text + 1; good && *at != '\0';) {
        if (!isdigit((unsigned char)*at) || at[-1] == '-') {
            fputc(*at++, out);
            continue;
        }
        char *end;
        unsigned long index = strtoul(at, &end, 10);
        good = index < message->count;
        if (good)
            fprintf(out, "%d", message->fds[index]);
        at = end;
    }
    if (out != NULL)
        fclose(out);
    if (!good) {
        free(text);
        return NULL;
    }
    return text;
}

/* The lowest number that is free is the one that was just closed. */
static bool take_standard_files(const int fds[3])
{
    for (int i = 0; i < 3; i++) {
        close(i);
        if (fcntl(fds[i], F_DUPFD_CLOEXEC, 0) != i)
            return false;
        close(fds[i]);
    }
    return true;
}

bool hatch_receive(struct hatch *hatch, int talk)
{
    struct message *message = alloc_zeroed(1, sizeof(*message));
    *hatch = (struct hatch){.argv = {"worker"}, .argc = 1};
    bool good = say(talk, "born") && receive(talk, message) && message->count == 4 &&
                (hatch->pid = atoi(message->text)) > 0 && take_standard_files(message->fds);
    if (good)
        hatch->statm = message->fds[3];
    while (good && hatch->argc < HATCH_ARGUMENTS) {
        good = receive(talk, message);
        if (good && strcmp(message->text, "end") == 0 && message->count == 0)
            break;
        char *text = NULL;
        if (good && message->text[0] == '=')
            text = message->count > 0 ? with_descriptors(message) : alloc_string(message->text + 1);
        good = text != NULL;
        hatch->argv[hatch->argc] = text;
        hatch->argc += good;
    }
    free(message);
    return good;
}

bool hatch_answer(int talk, const char *error)
{
    char text[1024];
    snprintf(text, sizeof(text), "error %s", error != NULL ? error : "");
    bool go = say(talk, error != NULL ? text : "ready") && error == NULL &&
              recv(talk, text, sizeof(text), 0) == 2 && memcmp(text, "go", 2) == 0;
    close(talk);
    return go;
}
