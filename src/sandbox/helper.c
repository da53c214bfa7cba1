/* SPDX-License-Identifier: MIT
 *
 * See helper.h.
 */
#include "sandbox/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "sandbox/sandbox.h"

enum { SENTENCE = 500, STEP = 's', ASKS = 'a', GOOD = 'g', FAILED = 'f', MISUSED = 'u' };

/* A message of a SOCK_SEQPACKET socket; an answer is an errno value, and a descriptor if that is 0.
 */
struct report {
    uint64_t number;
    char kind;
    char sentence[SENTENCE + 1];
};

struct sandbox_teller {
    int fd;
};

union control {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
};

/* ---- the child ---- */

static void tell(const struct sandbox_teller *teller, const struct report *report)
{
    ssize_t count;
    do
        count = send(teller->fd, report, sizeof(*report), MSG_NOSIGNAL);
    while (count < 0 && errno == EINTR);
    if (count != (ssize_t)sizeof(*report))
        _exit(1);
}

void sandbox_tell(struct sandbox_teller *teller, uint64_t number)
{
    tell(teller, &(struct report){.kind = STEP, .number = number});
}

int sandbox_ask(struct sandbox_teller *teller, const char *name)
{
    union control control = {.bytes = {0}};
    int number = EPROTO, fd = -1;
    struct iovec room = {&number, sizeof(number)};
    struct msghdr message = {.msg_iov = &room,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    struct report report = {.kind = ASKS};
    snprintf(report.sentence, sizeof(report.sentence), "%s", name);
    tell(teller, &report);
    while (recvmsg(teller->fd, &message, MSG_CMSG_CLOEXEC) < 0)
        if (errno != EINTR)
            return -1;
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (number == 0 && header != NULL && header->cmsg_len == CMSG_LEN(sizeof(fd)))
        memcpy(&fd, CMSG_DATA(header), sizeof(fd));
    if (fd < 0)
        errno = number != 0 ? number : EPROTO;
    return fd;
}

static int ascending(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static void close_all_but(const struct sandbox_helper *helper, int own)
{
    int kept[SANDBOX_HELPER_FDS + 1];
    unsigned next = STDERR_FILENO + 1;
    memcpy(kept, helper->fds, helper->fd_count * sizeof(kept[0]));
    kept[helper->fd_count] = own;
    qsort(kept, helper->fd_count + 1, sizeof(kept[0]), ascending);
    for (size_t i = 0; i <= helper->fd_count; i++) {
        if (kept[i] > (int)next)
            close_range(next, (unsigned)kept[i] - 1, 0);
        if (kept[i] >= (int)next)
            next = (unsigned)kept[i] + 1;
    }
    close_range(next, ~0U, 0);
    int null = open("/dev/null", O_RDWR);
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    if (null > STDERR_FILENO)
        close(null);
}

static _Noreturn void be_helper(const struct sandbox_helper *helper, int fd, int namespaces)
{
    const struct sandbox_wish wish = {.features = 0};
    struct sandbox_teller teller = {fd};
    struct sandbox_report walls;
    struct report end = {.kind = GOOD};
    struct error *error = NULL;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* who was root loses this when he is not any more */
    signal(SIGPIPE, SIG_IGN);
    close_all_but(helper, fd);
    sandbox_enter(&wish, namespaces, &walls);
    if (!helper->work(helper->opaque, &teller, &error)) {
        end.kind = error_kind(error) == ERROR_USAGE ? MISUSED : FAILED;
        snprintf(end.sentence, sizeof(end.sentence), "%s", error_message(error));
    }
    tell(&teller, &end);
    _exit(0);
}

/* ---- the parent ---- */

static void take_sentence(struct report *report, struct error **err)
{
    report->sentence[SENTENCE] = '\0'; /* a stranger's words */
    error_set(err, report->kind == MISUSED ? ERROR_USAGE : ERROR_HOST, "%s", report->sentence);
}

static void answer(const struct sandbox_helper *helper, int fd, struct report *report)
{
    union control control = {.bytes = {0}};
    report->sentence[SENTENCE] = '\0';
    int given = helper->open != NULL ? helper->open(helper->opaque, report->sentence) : -1;
    int number = given >= 0 ? 0 : helper->open != NULL ? errno : EPERM;
    struct iovec bytes = {&number, sizeof(number)};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (given >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(given));
        memcpy(CMSG_DATA(header), &given, sizeof(given));
    }
    (void)sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT); /* who asks twice at once gets less */
    if (given >= 0)
        close(given);
}

static bool listen_to(const struct sandbox_helper *helper, int fd, bool *ended, struct error **err)
{
    struct report report;
    for (;;) {
        ssize_t count = recv(fd, &report, sizeof(report), 0);
        if (count < 0 && errno == EINTR)
            continue;
        if (count != (ssize_t)sizeof(report)) /* its end, or nothing of ours */
            return false;
        if (report.kind == ASKS) {
            answer(helper, fd, &report);
            continue;
        }
        *ended = report.kind != STEP;
        if (report.kind == GOOD)
            return true;
        if (*ended) {
            take_sentence(&report, err);
            return false;
        }
        if (helper->step != NULL)
            helper->step(helper->opaque, report.number);
    }
}

static bool why_not(int status, struct error **err)
{
    if (!WIFSIGNALED(status))
        return error_set(err, ERROR_INTERNAL, "the process that was at it ended without a word");
    error_set(err, ERROR_HOST, "the process that was at it was killed by signal %d (%s)",
              WTERMSIG(status), strsignal(WTERMSIG(status)));
    if (WTERMSIG(status) == SIGSYS)
        error_hint(err, "The log says which system call the sandbox refused: what it read may have "
                        "been made to harm.");
    return false;
}

bool sandbox_help(const struct sandbox_helper *helper, struct error **err)
{
    int pair[2], refused, status = 0;
    bool ended = false;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return error_set_errno(err, errno, "cannot make a socket");
    pid_t pid = sandbox_fork(SANDBOX_ALONE, &refused);
    if (pid == 0)
        be_helper(helper, pair[1], refused);
    int number = errno;
    close(pair[1]);
    bool good = pid > 0 && listen_to(helper, pair[0], &ended, err);
    close(pair[0]);
    if (pid < 0)
        return error_set_errno(err, number, "cannot start a process");
    if (!good)
        kill(pid, SIGKILL); /* what it has not said by now nobody hears */
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return good || ended ? good : why_not(status, err);
}
