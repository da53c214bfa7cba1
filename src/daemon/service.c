/* SPDX-License-Identifier: MIT
 *
 * See service.h.
 */
#include "daemon/service.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"

enum { FIRST_FD = 3, FDS_MAX = 8, PRIORITY_INFO = 6 };

/* ---- sockets ---- */

static bool take(struct service *service, int fd, struct error **err)
{
    int domain = 0, type = 0, listening = 0;
    socklen_t size = sizeof(int);
    bool good = getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 &&
                getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 &&
                getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 &&
                type == SOCK_STREAM && listening != 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 &&
                fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0;
    int *place = domain == AF_UNIX ? &service->local : &service->remote;
    if (good && (domain == AF_UNIX || domain == AF_INET || domain == AF_INET6) && *place < 0) {
        *place = fd;
        return true;
    }
    error_set(err, ERROR_USAGE, "the service manager passed a socket that is of no use here");
    error_hint(err, "The daemon takes one unix stream socket and one TCP socket that listen.");
    return false;
}

static bool take_sockets(struct service *service, struct error **err)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    bool ours = pid != NULL && count != NULL && strtol(pid, NULL, 10) == getpid();
    long fds = ours ? strtol(count, NULL, 10) : 0;
    bool good = true;
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    for (int i = 0; i < fds && i < FDS_MAX && good; i++)
        good = take(service, FIRST_FD + i, err);
    return good;
}

/* ---- telling ---- */

/* A path, or '@' and an abstract name. */
static int connect_datagram(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if ((path[0] != '/' && path[0] != '@') || length >= sizeof(address.sun_path))
        return -1;
    memcpy(address.sun_path, path, length);
    if (path[0] == '@')
        address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, size) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

void service_notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    int fd = path != NULL ? connect_datagram(path) : -1;
    if (fd < 0)
        return;
    (void)send(fd, state, strlen(state), MSG_NOSIGNAL);
    close(fd);
}

/* ---- the journal ---- */

int service_journal_open(const char *path)
{
    return connect_datagram(path);
}

/* systemd says which stream it has connected to the journal. */
static bool writes_to_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat status;
    unsigned long long device, inode;
    return stream != NULL && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
           fstat(STDERR_FILENO, &status) == 0 && status.st_dev == device && status.st_ino == inode;
}

/* A value with line ends goes with its length in front (little-endian). */
static void write_field(FILE *out, const char *name, const char *value)
{
    uint64_t length = strlen(value);
    if (strchr(value, '\n') == NULL) {
        fprintf(out, "%s=%s\n", name, value);
        return;
    }
    fprintf(out, "%s\n", name);
    for (int shift = 0; shift < 64; shift += 8)
        fputc((int)(length >> shift & 0xff), out);
    fprintf(out, "%s\n", value);
}

void service_journal(const struct service *service, const char *instance, const char *type,
                     const char *detail)
{
    char *text = NULL, *message = NULL;
    size_t size;
    if (service->journal < 0)
        return;
    FILE *out = open_memstream(&text, &size);
    if (asprintf(&message, "%s: %s%s%s", instance, type, detail != NULL ? " " : "",
                 detail != NULL ? detail : "") > 0)
        write_field(out, "MESSAGE", message);
    free(message);
    fprintf(out, "PRIORITY=%d\nSYSLOG_IDENTIFIER=trapeze\n", (int)PRIORITY_INFO);
    write_field(out, "TRAPEZE_INSTANCE", instance);
    write_field(out, "TRAPEZE_EVENT", type);
    if (detail != NULL)
        write_field(out, "TRAPEZE_DETAIL", detail);
    fclose(out);
    /* A journal that is behind loses an entry; the catalogue has the event. */
    (void)send(service->journal, text, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    free(text);
}

/* As log.h writes them. */
static int priority_of(const char *line)
{
    enum { ERROR = 3, WARNING = 4 };
    const char *words = strstr(line, ": ");
    words = words != NULL ? words + 2 : line;
    return strncmp(words, "error: ", 7) == 0     ? ERROR
           : strncmp(words, "warning: ", 9) == 0 ? WARNING
                                                 : PRIORITY_INFO;
}

void service_journal_line(const struct service *service, const char *instance, const char *line)
{
    char *text = NULL;
    size_t size;
    if (service->journal < 0)
        return;
    FILE *out = open_memstream(&text, &size);
    write_field(out, "MESSAGE", line);
    fprintf(out, "PRIORITY=%d\nSYSLOG_IDENTIFIER=trapeze\n", priority_of(line));
    write_field(out, "TRAPEZE_INSTANCE", instance);
    write_field(out, "TRAPEZE_SOURCE", "worker");
    fclose(out);
    (void)send(service->journal, text, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    free(text);
}

/* ---- life ---- */

bool service_init(struct service *service, struct error **err)
{
    *service = (struct service){.local = -1, .remote = -1, .journal = -1};
    if (writes_to_journal())
        service->journal = service_journal_open("/run/systemd/journal/socket");
    return take_sockets(service, err);
}

void service_close(struct service *service)
{
    const int fds[] = {service->local, service->remote, service->journal};
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    *service = (struct service){.local = -1, .remote = -1, .journal = -1};
}
