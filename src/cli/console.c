/* SPDX-License-Identifier: MIT
 *
 * trapeze console.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "client/api.h"
#include "client/console.h"
#include "client/signals.h"
#include "client/terminal.h"

static const struct cli_option options[] = {
    {"steal", 0, NULL, "Take the console from who has it, who is told.", NULL},
    {"watch", 'w', NULL,
     "Only show what the guest prints, beside who has the console; nothing is sent to it.", NULL},
};

static const struct cli_example examples[] = {
    {"trapeze console web", "Ctrl-] leaves; the machine runs on."},
    {"trapeze console --watch web", "To look on."},
};

enum { ESCAPE_KEY = 0x1d, CHUNK = 4096 };

static bool write_all(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t count = write(fd, bytes, size);
        if (count < 0 && errno != EINTR)
            return false;
        bytes += count > 0 ? count : 0;
        size -= count > 0 ? (size_t)count : 0;
    }
    return true;
}

/* Until the machine's end, our output's, Ctrl-] or a signal. The end of our input is not the end.
 */
static void relay(int fd, int signals, bool raw, bool watch)
{
    char bytes[CHUNK];
    bool reading = true;
    for (;;) {
        struct pollfd set[] = {{.fd = fd, .events = POLLIN},
                               {.fd = reading ? STDIN_FILENO : -1, .events = POLLIN},
                               {.fd = signals, .events = POLLIN}};
        if ((poll(set, ARRAY_SIZE(set), -1) < 0 && errno != EINTR) || set[2].revents != 0)
            return;
        if (set[0].revents != 0) {
            ssize_t count = read(fd, bytes, sizeof(bytes));
            if (count <= 0 || !write_all(STDOUT_FILENO, bytes, (size_t)count))
                return;
        }
        if (set[1].revents == 0)
            continue;
        ssize_t count = read(STDIN_FILENO, bytes, sizeof(bytes));
        reading = count > 0;
        const char *escape = raw && count > 0 ? memchr(bytes, ESCAPE_KEY, (size_t)count) : NULL;
        size_t size = escape != NULL ? (size_t)(escape - bytes) : count > 0 ? (size_t)count : 0;
        if ((!watch && !write_all(fd, bytes, size)) || escape != NULL)
            return;
    }
}

/* What others on the console hear of us. */
static void name_us(char who[64])
{
    const struct passwd *user = getpwuid(geteuid());
    const char *tty = isatty(STDIN_FILENO) ? ttyname(STDIN_FILENO) : NULL;
    if (tty != NULL && strncmp(tty, "/dev/", 5) == 0)
        tty += 5;
    snprintf(who, 64, "%.30s%s%.20s", user != NULL ? user->pw_name : "somebody",
             tty != NULL ? " on " : "", tty != NULL ? tty : "");
}

/* Through the API: the instance's folder is on another host. */
static int connect_remotely(const char *name, enum client_role role, struct error **err)
{
    char *path = NULL;
    if (asprintf(&path, "/v1/instances/%s/console?role=%s", name, client_role_words[role]) < 0)
        return -1;
    int fd = cli_stream(path, "trapeze-console", err);
    free(path);
    return fd;
}

/* To the worker itself: such a console outlives the daemon. */
static int connect_here(const char *name, enum client_role role, struct error **err)
{
    char who[64];
    int pair[2] = {-1, -1}, folder = -1;
    json_t *answer = cli_api("GET", NULL, err, "/v1/instances/%s", name);
    const char *path = json_string_value(json_object_get(answer, "path"));
    const char *state = json_string_value(json_object_get(answer, "state"));
    bool good = false;
    if (path == NULL) {
        /* err */
    } else if (strcmp(state, "stopped") == 0 || strcmp(state, "restarting") == 0 ||
               strcmp(state, "suspended") == 0) {
        error_set(err, ERROR_USAGE, "the instance is not running");
        error_hint(err, "'trapeze logs %s' shows what it printed last.", name);
    } else if ((folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0 ||
               socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        error_set_errno(err, errno, "cannot get to the console");
    } else {
        name_us(who);
        good = client_console_attach(folder, role, who, pair[1], err);
        close(pair[1]);
    }
    if (folder >= 0)
        close(folder);
    if (!good && pair[0] >= 0)
        close(pair[0]);
    json_decref(answer);
    return good ? pair[0] : -1;
}

static int run(const struct cli_args *args, struct error **err)
{
    const char *name = cli_instance(args, 0, 1, err);
    const bool watch = cli_given(args, "watch"), steal = cli_given(args, "steal");
    const enum client_role role = watch ? CLIENT_WATCHES : steal ? CLIENT_STEALS : CLIENT_OWNS;
    struct terminal terminal = {.raw = false};
    int fd = -1, signals = -1;
    sigset_t ends;
    if (name != NULL && watch && steal)
        error_set(err, ERROR_USAGE, "--watch and --steal exclude each other");
    else if (name != NULL)
        fd = api_is_remote() ? connect_remotely(name, role, err) : connect_here(name, role, err);
    bool good = fd >= 0;
    signals_of_the_end(&ends);
    if (good) { /* the terminal is to be put in order first */
        sigprocmask(SIG_BLOCK, &ends, NULL);
        signal(SIGPIPE, SIG_IGN);
        signals = signalfd(-1, &ends, SFD_CLOEXEC);
    }
    if (good && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) {
        fprintf(stderr, "trapeze: Ctrl-] leaves the console; the machine runs on.%s\n",
                watch ? " Nothing that you type gets there." : "");
        good = terminal_enter(&terminal, err);
    }
    if (good)
        relay(fd, signals, terminal.raw, watch);
    terminal_leave(&terminal);
    if (fd >= 0)
        close(fd);
    return good ? CLI_OK : CLI_HOST_FAILURE;
}

const struct cli_command cli_command_console = {
    .name = "console",
    .operands = "NAME",
    .summary = "Connect this terminal to an instance's console",
    .description = "Connects this terminal to the console of a running instance. One has it at a "
                   "time; who comes "
                   "second hears who that is and since when, and can take it (--steal) or look on "
                   "(--watch). What "
                   "the guest printed before is in 'trapeze logs'.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
