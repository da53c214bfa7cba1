/* SPDX-License-Identifier: MIT
 *
 * What a clone's process is handed by a client that sends anything (worker/hatch.h). Whatever
 * comes: it is a worker's arguments, or nothing; and every number in an argument that came with
 * descriptors is one of them.
 *
 * Input: messages. A byte says what it is (0: the first one as it should be, 1: an argument, 2:
 * "end", 3: anything), one how many descriptors come along, and one how many bytes of text follow.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "worker/hatch.h"

enum { STANDARD = 3, AWAY = 200, FDS = 253, TEXT = 255 };
enum kind { FIRST, ARGUMENT, END, ANYTHING, KINDS };

static void send_message(int to, const char *text, size_t size, size_t count)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(FDS * sizeof(int))];
    } control = {0};
    struct iovec iov = {(char *)(uintptr_t)text, size};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    if (count > 0) {
        int fds[FDS];
        for (size_t i = 0; i < count; i++)
            fds[i] = AWAY; /* what ours lead to does not matter */
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
                                   .cmsg_type = SCM_RIGHTS,
                                   .cmsg_len = CMSG_LEN(count * sizeof(int))};
        memcpy(CMSG_DATA(header), fds, count * sizeof(int));
    }
    (void)sendmsg(to, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void send_one(int to, struct fuzz_input *in)
{
    char text[TEXT + 1];
    enum kind kind = (enum kind)(fuzz_take(in, 1) % KINDS);
    size_t count = fuzz_take(in, 1), size = fuzz_take(in, 1), start = kind == ARGUMENT;
    if (count > FDS)
        count = FDS;
    text[0] = '=';
    for (size_t i = 0; i < size; i++)
        text[start + i] = (char)fuzz_take(in, 1);
    if (kind == FIRST)
        send_message(to, "4711", 4, 4);
    else if (kind == END)
        send_message(to, "end", 3, 0);
    else
        send_message(to, text, start + size, count);
}

static void check(const struct hatch *hatch)
{
    fuzz_check(hatch->pid > 0 && hatch->argc >= 1 && hatch->argc <= HATCH_ARGUMENTS);
    fuzz_check(fcntl(hatch->statm, F_GETFD) >= 0);
    for (int i = 0; i < STANDARD; i++)
        fuzz_check(fcntl(i, F_GETFD) >= 0);
    for (int i = 0; i < hatch->argc; i++)
        fuzz_check(hatch->argv[i] != NULL);
}

/* The target's own files 0 to 2 are changed, and are put back. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct hatch hatch;
    int pair[2], first = fcntl(STDIN_FILENO, F_DUPFD, STANDARD); /* from there on all is ours */
    for (int i = 0; i < STANDARD; i++)
        fuzz_check(dup2(i, AWAY + i) >= 0);
    fuzz_check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    while (in.left > 0)
        send_one(pair[0], &in);
    shutdown(pair[0], SHUT_WR);
    bool good = hatch_receive(&hatch, pair[1]);
    if (good)
        check(&hatch);
    for (int i = 1; i < hatch.argc; i++)
        free(hatch.argv[i]);
    for (int i = 0; i < STANDARD; i++)
        fuzz_check(dup2(AWAY + i, i) >= 0);
    close_range((unsigned)first, ~0U, 0);
    return 0;
}

size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const char *const words[] = {
        "0", "1,2", "-1", "0:1,2:3,", "", "auto", "9999", "-1,0", "99999999999999999999"};
    size_t size = 0, messages = fuzz_random(seed) % 30;
    for (size_t i = 0; i < messages && size + 300 < FUZZ_INPUT_MAX; i++) {
        uint64_t dice = fuzz_random(seed);
        const char *word = words[dice % (sizeof(words) / sizeof(words[0]))];
        size_t length = strlen(word);
        bool odd = (dice >> 8) % 16 == 0;
        data[size++] = odd ? (uint8_t)(dice >> 16) : i == 0 ? FIRST : i == 25 ? END : ARGUMENT;
        data[size++] = (uint8_t)((dice >> 24) % ((dice >> 32) % 8 == 0 ? 256 : 5));
        data[size++] = (uint8_t)length;
        memcpy(&data[size], word, length);
        size += length;
    }
    return size;
}
