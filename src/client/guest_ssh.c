/* SPDX-License-Identifier: MIT
 *
 * See guest_ssh.h. Paths go to ssh through the environment: its options would take them apart at
 * spaces.
 */
#include "client/guest_ssh.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "client/guest.h"
#include "client/signals.h"

static const char *const options[] = {
    "-F", "none",
    "-o", "ProxyCommand=\"$TRAPEZE_PROGRAM\" vsock-pass",
    "-o", "ProxyUseFdpass=yes",
    "-o", "UserKnownHostsFile=${TRAPEZE_KNOWN_HOSTS}",
    "-o", "GlobalKnownHostsFile=/dev/null",
    "-o", "StrictHostKeyChecking=accept-new",
    "-o", "UpdateHostKeys=no",
    "-o", "CheckHostIP=no",
    "-o", "IdentityFile=${TRAPEZE_SSH_KEY}",
    "-o", "IdentitiesOnly=yes",
    "-o", "LogLevel=ERROR",
};

/* One run of a program. */
struct session {
    const struct guest_ssh *ssh;
    int connection; /* that nobody has been given yet; -1: none */
    int listener, signals, handle;
    int said;         /* a pipe with what the program says; -1: it is not heard */
    unsigned seconds; /* that it may take once it is connected; 0: as long as it likes */
    int64_t until;    /* ms; 0: as long as it likes */
    bool late;        /* it took longer, and was killed */
    char *text;       /* 256 bytes, a string */
};

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Where 'trapeze vsock-pass' finds us: a socket without a file. -1: err. */
static int offer(struct error **err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t size = sizeof(address);
    char place[sizeof(address.sun_path) + 1] = "", program[40];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)) != 0 ||
        listen(fd, 4) != 0 || getsockname(fd, (struct sockaddr *)&address, &size) != 0) {
        error_set_errno(err, errno, "cannot make a socket");
        if (fd >= 0)
            close(fd);
        return -1;
    }
    memcpy(place, address.sun_path + 1, size - sizeof(sa_family_t) - 1);
    snprintf(program, sizeof(program), "/proc/%d/exe", (int)getpid());
    setenv("TRAPEZE_PASS", place, 1);
    setenv("TRAPEZE_PROGRAM", program, 1);
    return fd;
}

/* Anybody here may find the socket; only who we are gets a connection. The first is there already;
 * scp wants one for each of its sources. */
static void hand_over(struct session *session)
{
    struct ucred who;
    socklen_t size = sizeof(who);
    struct error *error = NULL;
    int client = accept4(session->listener, NULL, NULL, SOCK_CLOEXEC);
    bool known = client >= 0 && getsockopt(client, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 &&
                 who.uid == geteuid();
    if (known && session->connection < 0)
        session->connection = session->ssh->connect(session->ssh->opaque, true, &error);
    if (error != NULL)
        fprintf(stderr, "trapeze: %s\n", error_message(error));
    error_free(error);
    if (known && session->connection >= 0 && guest_send_fd(client, session->connection)) {
        close(session->connection); /* the end of it is the program's to see */
        session->connection = -1;
    }
    if (client >= 0)
        close(client);
}

/* The terminal tells a program itself of Ctrl-C; other signals are ours to pass on. */
static void pass_signal(int signals, pid_t pid)
{
    struct signalfd_siginfo info;
    if (read(signals, &info, sizeof(info)) == (ssize_t)sizeof(info) && (info.ssi_code != SI_KERNEL))
        kill(pid, (int)info.ssi_signo);
}

/* The beginning is kept, on one line and without what a terminal would obey. */
static void hear(struct session *session)
{
    char bytes[512];
    size_t have = strlen(session->text);
    ssize_t count = read(session->said, bytes, sizeof(bytes));
    if (count == 0 || (count < 0 && errno != EINTR)) {
        close(session->said);
        session->said = -1;
    }
    for (ssize_t i = 0; i < count && have < 255; i++)
        session->text[have++] = isprint((unsigned char)bytes[i]) ? bytes[i] : ' ';
    session->text[have] = '\0';
    while (session->said < 0 && have > 0 && session->text[have - 1] == ' ')
        session->text[--have] = '\0';
}

static int time_left(const struct session *session)
{
    int64_t left = session->until - now_ms();
    return session->until == 0 ? -1 : left > 0 ? (int)left : 0;
}

/* Its exit status, as a shell tells it. */
static int await(struct session *session, pid_t pid)
{
    int status = 0, count = 1;
    session->handle = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd set[] = {{.fd = session->handle, .events = POLLIN},
                           {.fd = session->listener, .events = POLLIN},
                           {.fd = session->signals, .events = POLLIN},
                           {.fd = session->said, .events = POLLIN}};
    while (session->handle >= 0 && (set[0].revents == 0 || session->said >= 0) && count != 0) {
        set[3].fd = session->said;
        count = poll(set, ARRAY_SIZE(set), time_left(session));
        if (count == 0)
            session->late = kill(pid, SIGKILL) == 0;
        if (count <= 0)
            continue;
        if (set[1].revents != 0)
            hand_over(session);
        if (set[2].revents != 0)
            pass_signal(session->signals, pid);
        if (set[3].revents != 0)
            hear(session);
    }
    if (session->handle >= 0)
        close(session->handle);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* `in` and `out` are -1 for our own. */
static pid_t spawn(char *const *argv, int in, int out, struct error **err)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    pid_t pid = -1;
    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    if (in >= 0) {
        posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
        posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
        posix_spawn_file_actions_adddup2(&actions, out, STDERR_FILENO);
    }
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&attributes, &none);
    int number = posix_spawnp(&pid, argv[0], &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    if (number == 0)
        return pid;
    error_set_errno(err, number, "cannot start '%s'", argv[0]);
    error_hint(err, "Debian has it in openssh-client: apt-get install openssh-client.");
    return -1;
}

static const char **words_of(const struct guest_ssh *ssh, const char *program, const char *user,
                             const char *alias, char *const *words, size_t count)
{
    const char **argv = alloc_zeroed(ARRAY_SIZE(options) + count + 8, sizeof(*argv));
    size_t at = 0;
    argv[at++] = program;
    for (size_t i = 0; i < ARRAY_SIZE(options); i++)
        argv[at++] = options[i];
    argv[at++] = "-o";
    argv[at++] = user;
    argv[at++] = "-o";
    argv[at++] = alias;
    if (ssh->certificate != NULL) {
        argv[at++] = "-o";
        argv[at++] = "CertificateFile=${TRAPEZE_SSH_CERTIFICATE}";
    }
    memcpy(argv + at, words, count * sizeof(*argv));
    return argv;
}

static int run(struct session *session, const char *program, char *const *words, size_t count,
               int in, int out, struct error **err)
{
    const struct guest_ssh *ssh = session->ssh;
    char *user = NULL, *alias = NULL;
    sigset_t ends;
    int status = -1;
    session->connection = ssh->connect(ssh->opaque, false, err);
    if (session->seconds > 0)
        session->until = now_ms() + (int64_t)session->seconds * 1000;
    session->listener = session->connection >= 0 ? offer(err) : -1;
    if (session->listener >= 0) {
        setenv("TRAPEZE_SSH_KEY", ssh->key, 1);
        setenv("TRAPEZE_KNOWN_HOSTS", ssh->hosts, 1);
        if (ssh->certificate != NULL)
            setenv("TRAPEZE_SSH_CERTIFICATE", ssh->certificate, 1);
        if (asprintf(&user, "User=%s", ssh->user) < 0 ||
            asprintf(&alias, "HostKeyAlias=%s", ssh->alias) < 0)
            abort();
        const char **argv = words_of(ssh, program, user, alias, words, count);
        signals_of_the_end(&ends);
        sigprocmask(SIG_BLOCK, &ends, NULL);
        session->signals = signalfd(-1, &ends, SFD_CLOEXEC);
        pid_t pid = spawn((char *const *)(uintptr_t)argv, in, out, err);
        if (out >= 0)
            close(out); /* the end of what it says is to be seen */
        if (pid > 0)
            status = await(session, pid);
        close(session->signals);
        free(argv);
        free(user);
        free(alias);
        close(session->listener);
    } else if (out >= 0) {
        close(out);
    }
    if (session->connection >= 0)
        close(session->connection);
    return status;
}

int guest_ssh_run(const struct guest_ssh *ssh, const char *program, char *const *words,
                  size_t count, struct error **err)
{
    struct session session = {.ssh = ssh, .said = -1};
    return run(&session, program, words, count, -1, -1, err);
}

bool guest_ssh_user_check(const char *user)
{
    size_t length = strlen(user);
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)user[i]) && (i == 0 || strchr("._-", user[i]) == NULL) &&
            user[i] != '_')
            return false;
    return length > 0 && length <= 32;
}

/* The script as a file to read. */
static int hold_script(const char *script)
{
    size_t size = strlen(script);
    int pair[2];
    if (pipe2(pair, O_CLOEXEC) != 0)
        return -1;
    bool good = size < PIPE_BUF && write(pair[1], script, size) == (ssize_t)size; /* never waits */
    close(pair[1]);
    if (good)
        return pair[0];
    close(pair[0]);
    return -1;
}

int guest_ssh_tell(const struct guest_ssh *ssh, const char *script, const char *word,
                   unsigned seconds, char said[256], struct error **err)
{
    struct session session = {.ssh = ssh, .said = -1, .text = said, .seconds = seconds};
    const bool sudo = strcmp(ssh->user, "root") != 0;
    int pair[2], status = -1, in = hold_script(script);
    char *command = NULL, timeout[40];
    said[0] = '\0';
    if (in < 0 || pipe2(pair, O_CLOEXEC) != 0) {
        error_set_errno(err, errno, "cannot make a pipe");
    } else {
        if (asprintf(&command, "%ssh -s -- '%s'", sudo ? "sudo -n " : "", word) < 0)
            abort();
        snprintf(timeout, sizeof(timeout), "ConnectTimeout=%u",
                 seconds); /* of its handshake, too */
        char *words[] = {"-o", "BatchMode=yes", "-o", timeout, "-T", "-a",
                         "-x", GUEST_SSH_HOST,  "--", command};
        session.said = pair[0];
        status = run(&session, "ssh", words, ARRAY_SIZE(words), in, pair[1], err);
        if (session.said >= 0)
            close(session.said);
        if (session.late) {
            error_set(err, ERROR_HOST, "the guest had not done it after %u seconds", seconds);
            status = -1;
        }
        free(command);
    }
    if (in >= 0)
        close(in);
    return status;
}
