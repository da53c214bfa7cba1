/* SPDX-License-Identifier: MIT */
#include "net/vsock_connector.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/backends.h"

/* -1: nobody listens there. A program that lets its callers wait is one that does not. */
static int connect_to(const char *path, uint32_t port)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof(address.sun_path), "%s_%u", path, port);
    int fd = length < (int)sizeof(address.sun_path)
                 ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)
                 : -1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    close(fd);
    return -1;
}

bool net_vsock_answer(int socket, const char *path, int flags)
{
    struct vsock_question question;
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec iov = {&question, sizeof(question)};
    struct msghdr answer = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t size;
    do
        size = recv(socket, &question, sizeof(question), flags);
    while (size < 0 && errno == EINTR);
    if (size != sizeof(question))
        return false;
    int fd = connect_to(path, question.port);
    if (fd >= 0) {
        answer.msg_control = &control;
        answer.msg_controllen = sizeof(control);
        control.header = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    }
    size = sendmsg(socket, &answer, MSG_NOSIGNAL);
    if (fd >= 0)
        close(fd);
    return size == sizeof(question);
}

int net_vsock_main(int argc, char **argv)
{
    const struct rlimit no_core = {0, 0};
    struct stat before, now;
    if (argc != 4)
        return 2;
    const char *path = argv[3];
    int socket = atoi(argv[2]);
    setrlimit(RLIMIT_CORE, &no_core);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    bool known = lstat(path, &before) == 0;
    int status = net_backend_ready(atoi(argv[1]), NULL);
    while (net_vsock_answer(socket, path, 0))
        ;
    if (known && lstat(path, &now) == 0 && now.st_dev == before.st_dev &&
        now.st_ino == before.st_ino)
        (void)unlink(path);
    return status;
}
