/* SPDX-License-Identifier: MIT
 *
 * See guest.h.
 */
#include "client/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "client/api.h"

enum { AGAIN_MS = 250, TELL_MS = 1500, LINE_BYTES = 32, KEY_MAX = 4096 };

/* ---- connecting ---- */

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

struct attempt {
    const char *socket, *name;
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
static bool await_input(struct attempt *attempt, int fd)
{
    struct pollfd set = {.fd = fd, .events = POLLIN};
    while (now_ms() < attempt->end) {
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
    for (size_t size = 0; size < sizeof(line); size++) {
        if (!await_input(attempt, fd) || recv(fd, line + size, 1, 0) != 1)
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
    return await_input(attempt, fd) && recv(fd, &byte, 1, MSG_PEEK) == 1;
}

/* 1: *fd is it; 0: not yet; -1: err. */
static int try_once(struct attempt *attempt, int *fd, struct error **err)
{
    char request[32], *folder = alloc_string(attempt->socket), *slash = strrchr(folder, '/');
    int size = snprintf(request, sizeof(request), "CONNECT %u\n", attempt->port);
    struct error *error = NULL;
    *slash = '\0';
    *fd = api_connect_in(folder, slash + 1, &error);
    free(folder);
    if (*fd < 0) {
        error_set(err, ERROR_HOST, "'%s' cannot be reached: %s", attempt->name,
                  error_message(error));
        error_hint(err,
                   "It ended, or its worker is from a time when it had no vsock: start it anew.");
        error_free(error);
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

int guest_connect(const char *socket, const char *name, unsigned port,
                  const struct guest_patience *patience, struct error **err)
{
    struct attempt attempt = {
        .socket = socket, .name = name, .port = port, .patience = patience, .begin = now_ms()};
    attempt.end = attempt.begin + (int64_t)patience->listen_s * 1000;
    for (;;) {
        int fd, found = try_once(&attempt, &fd, err);
        if (found != 0)
            return found > 0 ? fd : -1;
        tell(&attempt);
        if (now_ms() + AGAIN_MS >= attempt.end)
            break;
        nanosleep(&(struct timespec){0, AGAIN_MS * 1000000L}, NULL);
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

/* ---- the key pair ---- */

static char *join(const char *folder, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        abort();
    return path;
}

char *guest_key_path(const char *store)
{
    return join(store, "ssh/id_ed25519");
}

/* ssh-keygen is a part of Debian's openssh-client. */
static bool run_keygen(const char *path, struct error **err)
{
    char *const argv[] = {"ssh-keygen", "-q", "-t",      "ed25519", "-N",
                          "",           "-C", "trapeze", "-f",      (char *)(uintptr_t)path,
                          NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;
    int status = 0;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    int number = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    while (number == 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (number == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    if (number != 0)
        error_set_errno(err, number, "cannot make a key pair with ssh-keygen");
    else
        error_set(err, ERROR_HOST, "ssh-keygen could not make the key pair '%s'", path);
    error_hint(err, "Debian has it in openssh-client.");
    return false;
}

/* Both files appear at once, with their folder; whoever comes second finds the first one's. */
bool guest_key_make(const char *store, struct error **err)
{
    char *secret = guest_key_path(store), *folder = join(store, "ssh");
    char *staged = join(store, ".ssh-XXXXXX");
    bool good = access(secret, R_OK) == 0;
    if (!good && api_make_folders(store, err)) {
        if (mkdtemp(staged) == NULL) {
            error_set_errno(err, errno, "cannot make a folder for the key pair in '%s'", store);
        } else {
            char *key = join(staged, "id_ed25519"), *open_key = join(staged, "id_ed25519.pub");
            good = run_keygen(key, err);
            if (!good || rename(staged, folder) != 0) {
                (void)unlink(key);
                (void)unlink(open_key);
                (void)rmdir(staged);
                good =
                    good && (access(secret, R_OK) == 0 ||
                             error_set_errno(err, errno, "cannot keep the key pair '%s'", folder));
            }
            free(key);
            free(open_key);
        }
    }
    free(secret);
    free(folder);
    free(staged);
    return good;
}

/* ---- what the kernel is told ---- */

static void put_base64(FILE *out, const char *text)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t size = strlen(text);
    for (size_t i = 0; i < size; i += 3) {
        uint32_t group = 0;
        for (size_t k = 0; k < 3; k++)
            group = group << 8 | (i + k < size ? (uint8_t)text[i + k] : 0u);
        for (size_t k = 0; k < 4; k++)
            putc(i + k > size ? '=' : digits[group >> (18 - 6 * k) & 63], out);
    }
}

/* Debian's unit for a connection, sshd@.service, also of systemd-ssh-generator's sockets, knows
 * nothing of the credential that systemd's own unit takes keys from. */
static const char drop_in[] =
    "[Service]\n"
    "ImportCredential=ssh.ephemeral-authorized_keys-all\n"
    "ExecStart=\n"
    "ExecStart=-/usr/sbin/sshd -i $SSHD_OPTS -oAuthorizedKeysCommandUser=root -o "
    "\"AuthorizedKeysCommand=/bin/cat "
    "${CREDENTIALS_DIRECTORY}/ssh.ephemeral-authorized_keys-all\"\n";

char *guest_boot_words(const char *store, struct error **err)
{
    char *secret = guest_key_path(store), *path = NULL, *words = NULL, key[KEY_MAX] = "";
    size_t size;
    FILE *out = NULL;
    if (!guest_key_make(store, err)) {
        free(secret);
        return NULL;
    }
    if (asprintf(&path, "%s.pub", secret) < 0)
        abort();
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, key, sizeof(key) - 1) <= 0)
        error_set_errno(err, errno, "cannot read the public key '%s'", path);
    else
        out = open_memstream(&words, &size);
    if (out != NULL) {
        fprintf(out,
                "systemd.ssh_listen=vsock::%u "
                "systemd.set_credential_binary=systemd.unit-dropin.sshd@.service:",
                GUEST_SSH_PORT);
        put_base64(out, drop_in);
        fputs(" systemd.set_credential_binary=ssh.ephemeral-authorized_keys-all:", out);
        put_base64(out, key);
        fclose(out);
    }
    if (fd >= 0)
        close(fd);
    free(path);
    free(secret);
    return words;
}
