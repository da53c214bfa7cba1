/* SPDX-License-Identifier: MIT
 *
 * See guest.h. Paths go to ssh through the environment: its options would take them apart at
 * spaces.
 */
#include "cli/guest.h"

#include <errno.h>
#include <poll.h>
#include <spawn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "cli/instance.h"
#include "cli/size.h"
#include "client/api.h"
#include "client/guest.h"
#include "client/signals.h"

#define TIMEOUT_S 120
#define LATER_S   30 /* for one that has answered already */

static const char *const options[] = {
    "-F", "none",
    "-o", "ProxyCommand=\"$TRAPEZE_PROGRAM\" vsock-pass",
    "-o", "ProxyUseFdpass=yes",
    "-o", "HostKeyAlias=" CLI_GUEST_HOST,
    "-o", "UserKnownHostsFile=${TRAPEZE_KNOWN_HOSTS}",
    "-o", "GlobalKnownHostsFile=/dev/null",
    "-o", "StrictHostKeyChecking=accept-new",
    "-o", "UpdateHostKeys=no",
    "-o", "CheckHostIP=no",
    "-o", "IdentityFile=${TRAPEZE_SSH_KEY}",
    "-o", "IdentitiesOnly=yes",
    "-o", "LogLevel=ERROR",
};

/* Of CLI_GUEST_OPTIONS. */
static bool parse_timeout(const struct cli_args *args, unsigned *seconds, struct error **err)
{
    const char *text = cli_last(args, "timeout");
    uint64_t number = TIMEOUT_S;
    if (text != NULL && (!cli_parse_count(text, 86400, &number) || number == 0))
        return error_set(err, ERROR_USAGE,
                         "--timeout: '%s' is no number of seconds from 1 to 86400", text);
    *seconds = (unsigned)number;
    return true;
}

const char *cli_guest_name(const struct cli_args *args, struct error **err)
{
    struct cli_args first = *args;
    first.operand_count = args->operand_count > 0 ? 1 : 0;
    return cli_instance(&first, 0, 1, err);
}

/* ---- reaching it ---- */

/* The way to a guest's ssh server. */
struct way {
    const char *name;
    char *socket; /* freed by who has the struct */
    unsigned seconds;
    int connection; /* that nobody has been given yet; -1: none */
};

/* Connects; the environment gets what the options refer to. False: err. */
static bool reach(struct way *way, struct error **err)
{
    const char *name = way->name;
    json_t *info = cli_api("GET", NULL, err, "/v1/instances/%s", name);
    const char *state = json_string_value(json_object_get(info, "state"));
    const char *folder = json_string_value(json_object_get(info, "path"));
    const char *socket = json_string_value(json_object_get(info, "vsock"));
    char *store = info != NULL ? api_store_path(err) : NULL, *hosts = NULL;
    if (store == NULL) {
        json_decref(info);
        return false;
    }
    if (strcmp(state, "stopped") == 0 || strcmp(state, "restarting") == 0) {
        error_set(err, ERROR_USAGE, "the instance '%s' is not running", name);
        error_hint(err, "'trapeze start %s' starts it.", name);
    } else if (strcmp(state, "paused") == 0) {
        error_set(err, ERROR_USAGE, "the instance '%s' is paused", name);
        error_hint(err, "'trapeze resume %s' lets it go on.", name);
    } else if (socket == NULL) {
        error_set(err, ERROR_USAGE, "the instance '%s' has no vsock", name);
        error_hint(err, "Write trapeze.vsockCid = \"3\" into '%s/%s.vmx', and start it anew.",
                   folder, name);
    } else if (guest_key_make(store, err)) {
        way->socket = alloc_string(socket);
        way->connection = guest_connect(socket, name, GUEST_SSH_PORT, way->seconds, err);
        char *key = guest_key_path(store);
        if (asprintf(&hosts, "%s/known_hosts", folder) < 0)
            abort();
        setenv("TRAPEZE_SSH_KEY", key, 1);
        setenv("TRAPEZE_KNOWN_HOSTS", hosts, 1);
        free(hosts);
        free(key);
    }
    free(store);
    json_decref(info);
    return way->connection >= 0;
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
static void hand_over(int listener, struct way *way)
{
    struct ucred who;
    socklen_t size = sizeof(who);
    struct error *error = NULL;
    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    bool known = client >= 0 && getsockopt(client, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 &&
                 who.uid == geteuid();
    if (known && way->connection < 0)
        way->connection = guest_connect(way->socket, way->name, GUEST_SSH_PORT, LATER_S, &error);
    if (error != NULL)
        fprintf(stderr, "trapeze: %s\n", error_message(error));
    error_free(error);
    if (known && way->connection >= 0 && guest_send_fd(client, way->connection)) {
        close(way->connection); /* the end of it is the program's to see */
        way->connection = -1;
    }
    if (client >= 0)
        close(client);
}

/* ---- the program ---- */

static pid_t spawn(char *const *argv, struct error **err)
{
    posix_spawnattr_t attributes;
    sigset_t none;
    pid_t pid = -1;
    sigemptyset(&none);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&attributes, &none);
    int number = posix_spawnp(&pid, argv[0], NULL, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    if (number == 0)
        return pid;
    error_set_errno(err, number, "cannot start '%s'", argv[0]);
    error_hint(err, "Debian has it in openssh-client: apt-get install openssh-client.");
    return -1;
}

/* The terminal tells a program itself of Ctrl-C; other signals are ours to pass on. */
static void pass_signal(int signals, pid_t pid)
{
    struct signalfd_siginfo info;
    if (read(signals, &info, sizeof(info)) == (ssize_t)sizeof(info) && (info.ssi_code != SI_KERNEL))
        kill(pid, (int)info.ssi_signo);
}

/* Its exit status, as a shell tells it. */
static int await(pid_t pid, int signals, int listener, struct way *way)
{
    int handle = (int)syscall(SYS_pidfd_open, pid, 0), status = 0;
    struct pollfd set[] = {{.fd = handle, .events = POLLIN},
                           {.fd = listener, .events = POLLIN},
                           {.fd = signals, .events = POLLIN}};
    while (handle >= 0 && set[0].revents == 0) {
        if (poll(set, ARRAY_SIZE(set), -1) < 0)
            continue;
        if (set[1].revents != 0)
            hand_over(listener, way);
        if (set[2].revents != 0)
            pass_signal(signals, pid);
    }
    if (handle >= 0)
        close(handle);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int cli_guest_run(const struct cli_args *args, const char *name, const char *program,
                  char *const *words, size_t count, struct error **err)
{
    struct way way = {.name = name, .connection = -1};
    sigset_t ends;
    if (!parse_timeout(args, &way.seconds, err))
        return -1;
    if (api_is_remote()) {
        error_set(err, ERROR_USAGE, "guests are reached from the host that they run on");
        error_hint(err, "Log in there, or give the guest a network: --forward tcp:2222:22.");
        return -1;
    }
    const char *user = cli_last(args, "user");
    char *as = NULL;
    if (asprintf(&as, "User=%s", user != NULL ? user : "root") < 0)
        abort();
    int listener = reach(&way, err) ? offer(err) : -1, status = -1;
    if (listener >= 0) {
        const char **argv = alloc_zeroed(ARRAY_SIZE(options) + count + 4, sizeof(*argv));
        size_t at = 0;
        argv[at++] = program;
        for (size_t i = 0; i < ARRAY_SIZE(options); i++)
            argv[at++] = options[i];
        argv[at++] = "-o";
        argv[at++] = as;
        memcpy(argv + at, words, count * sizeof(*argv));
        signals_of_the_end(&ends);
        sigprocmask(SIG_BLOCK, &ends, NULL);
        int signals = signalfd(-1, &ends, SFD_CLOEXEC);
        pid_t pid = spawn((char *const *)(uintptr_t)argv, err);
        if (pid > 0)
            status = await(pid, signals, listener, &way);
        close(signals);
        free(argv);
        close(listener);
    }
    if (way.connection >= 0)
        close(way.connection);
    free(way.socket);
    free(as);
    return status;
}
