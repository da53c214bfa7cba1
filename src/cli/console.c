/* SPDX-License-Identifier: MIT
 *
 * trapeze console.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "client/api.h"
#include "client/signals.h"
#include "client/terminal.h"

static const struct cli_example examples[] = {
    {"trapeze console web", "Ctrl-] leaves; the machine runs on."},
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
static void relay(int fd, int signals, bool raw)
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
        if (!write_all(fd, bytes, size) || escape != NULL)
            return;
    }
}

/* Through the API: the instance's folder is on another host. */
static int connect_remotely(const char *name, struct error **err)
{
    char *path = NULL, *refusal = NULL;
    if (asprintf(&path, "/v1/instances/%s/console", name) < 0)
        return -1;
    int fd = api_upgrade(path, "trapeze-console", &refusal, err);
    json_t *answer = refusal != NULL ? json_loads(refusal, 0, NULL) : NULL;
    const char *sentence = json_string_value(json_object_get(answer, "error"));
    if (fd < 0 && refusal != NULL)
        error_set(err, ERROR_USAGE, "%s",
                  sentence != NULL ? sentence : "the daemon refuses without a word");
    json_decref(answer);
    free(refusal);
    free(path);
    return fd;
}

static int run(const struct cli_args *args, struct error **err)
{
    const char *name = cli_instance(args, 0, 1, err);
    bool is_remote = name != NULL && api_is_remote();
    json_t *answer =
        name != NULL && !is_remote ? cli_api("GET", NULL, err, "/v1/instances/%s", name) : NULL;
    const char *path = json_string_value(json_object_get(answer, "path"));
    const char *state = json_string_value(json_object_get(answer, "state"));
    struct terminal terminal = {.raw = false};
    int fd = is_remote ? connect_remotely(name, err) : -1, signals = -1;
    sigset_t ends;
    if (path != NULL && (strcmp(state, "stopped") == 0 || strcmp(state, "restarting") == 0)) {
        error_set(err, ERROR_USAGE, "the instance is not running");
        error_hint(err, "'trapeze logs %s' shows what it printed last.", name);
    } else if (path != NULL) {
        fd = api_connect_in(path, "console.sock", err);
    }
    bool good = fd >= 0;
    signals_of_the_end(&ends);
    if (good) { /* the terminal is to be put in order first */
        sigprocmask(SIG_BLOCK, &ends, NULL);
        signal(SIGPIPE, SIG_IGN);
        signals = signalfd(-1, &ends, SFD_CLOEXEC);
    }
    if (good && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) {
        fputs("trapeze: Ctrl-] leaves the console; the machine runs on.\n", stderr);
        good = terminal_enter(&terminal, err);
    }
    if (good)
        relay(fd, signals, terminal.raw);
    terminal_leave(&terminal);
    if (fd >= 0)
        close(fd);
    json_decref(answer);
    return good ? CLI_OK : CLI_HOST_FAILURE;
}

const struct cli_command cli_command_console = {
    .name = "console",
    .operands = "NAME",
    .summary = "Connect this terminal to an instance's console",
    .description =
        "Connects this terminal to the console of a running instance; one at a time. What "
        "the guest printed before is in 'trapeze logs'.",
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
