/* SPDX-License-Identifier: MIT
 *
 * See worker.h. One poll loop relays keys and console output, listens to the worker's
 * control link, to signals (signalfd) and to the worker's death (end of the link). Nothing in
 * it blocks, a full pipe on standard output neither: signals must be heard.
 *
 * The console travels over a socket pair, so that the terminal is touched by this process
 * only: a worker that is killed cannot leave it raw.
 */
#include "client/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/frame.h"
#include "base/log.h"
#include "client/cgroup.h"
#include "client/disks.h"
#include "client/network.h"
#include "client/signals.h"
#include "client/spawn.h"
#include "client/terminal.h"
#include "client/vsock.h"
#include "config/machine.h"
#include "migrate/image.h"

enum { ESCAPE_KEY = 0x1d /* Ctrl-] */, CHUNK = 4096, LAST_WORDS_MS = 1000 };

struct session {
    pid_t pid;
    int console;  /* our end of the console, -1 if it does not come to us */
    int control;  /* our end of the control link */
    int signals;  /* signalfd */
    int out;      /* where the console's output goes */
    bool input_open;
    bool ended;   /* the worker said how the machine ended */
    bool quitting;
    bool made_console_socket;
    char group[24]; /* the cgroup's name, if it gets one */
    struct terminal terminal;
    struct frame_reader reader;
    struct frame_writer writer;
    uint8_t pending[CHUNK]; /* keys the worker has not taken yet */
    size_t pending_size;
    uint8_t output[CHUNK]; /* the guest's output that standard output has not taken yet */
    size_t output_size;
    struct client_result *result;
    const struct client_options *options;
};

/* ---- starting ---- */

/* A FIFO or a terminal never makes the guest wait. Emptied only once it is open. */
static int open_console_file(const char *path, struct error **err)
{
    struct stat status;
    int fd = open(path, O_WRONLY | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
    if (fd < 0 && errno == ENXIO) {
        error_set(err, ERROR_HOST, "nobody reads from '%s', where the console is to go", path);
        error_hint(err, "Start its reader first.");
        return -1;
    }
    bool good = fd >= 0 && fstat(fd, &status) == 0 &&
                (!S_ISREG(status.st_mode) || ftruncate(fd, 0) == 0);
    if (good)
        return fd;
    error_set_errno(err, errno, "cannot write the console to '%s'", path);
    if (fd >= 0)
        close(fd);
    return -1;
}

static int open_console(const struct client_options *options, struct session *session,
                        const char **kind, struct error **err)
{
    int pair[2], fd = -1;
    switch (options->console) {
    case CLIENT_CONSOLE_STDIO:
        *kind = "stream";
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
            error_set_errno(err, errno, "cannot make a socket pair for the console");
            return -1;
        }
        session->console = pair[0];
        return pair[1];
    case CLIENT_CONSOLE_NONE:
        *kind = "none";
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    case CLIENT_CONSOLE_FILE:
        *kind = "file";
        return open_console_file(options->console_path, err);
    case CLIENT_CONSOLE_SOCKET:
        *kind = "listen";
        fd = client_listen(options->console_path, err);
        session->made_console_socket = fd >= 0;
        return fd;
    }
    return -1;
}

static void close_if_open(int fd)
{
    if (fd >= 0)
        close(fd);
}

/* A machine of a moment gets a cgroup if it is to have limits. */
static bool is_limited(const struct machine_config *config)
{
    return config->cpu_weight != 0 || config->cpu_cap != 0;
}

static int memory_apart(const struct client_options *options)
{
    const struct saved_image *image = options->resume;
    return image != NULL && image->apart && image->memory >= 0 ? image->memory : 0;
}

static bool start(struct session *session, const struct machine_config *config,
                  const struct client_options *options, int listen_fd, int gdb_fd,
                  const struct client_network *network, const struct client_disks *disks,
                  const struct client_vsock *vsock, const sigset_t *ours, struct error **err)
{
    struct client_spawn spawn = {.console_kind = "none",
                                 .control = -1,
                                 .listen = listen_fd,
                                 .gdb = gdb_fd,
                                 .report = -1,
                                 .transcript = -1,
                                 .nvram = -1,
                                 .hold = -1,
                                 .resume = options->resume != NULL ? options->resume->fd : -1,
                                 .resume_memory = memory_apart(options),
                                 .paused = options->paused,
                                 .gdb_wait = options->gdb_wait,
                                 .incoming = options->incoming,
                                 .group = is_limited(config) ? session->group : NULL,
                                 .sandbox = options->sandbox,
                                 .log_level = options->log_level,
                                 .network = network,
                                 .disks = disks,
                                 .vsock = vsock,
                                 .unblock = ours};
    int pair[2];
    spawn.console = open_console(options, session, &spawn.console_kind, err);
    if (spawn.console < 0)
        return false;
    bool good = true;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
        good = error_set_errno(err, errno, "cannot make a socket pair");
    if (good) {
        session->control = pair[0];
        spawn.control = pair[1];
        session->pid = client_spawn(config, &spawn, err);
        good = session->pid > 0;
    }
    close(spawn.console);
    close_if_open(spawn.control);
    return good;
}

/* ---- the control link ---- */

static void send_request(struct session *session, const char *verb, json_t *arguments)
{
    json_t *request = json_pack("{s:i, s:s, s:o}", "id", 0, "verb", verb, "arguments", arguments);
    char *text = json_dumps(request, JSON_COMPACT);
    frame_writer_add(&session->writer, text, strlen(text));
    frame_writer_flush(&session->writer, session->control);
    free(text);
    json_decref(request);
}

static void send_window_size(struct session *session)
{
    uint16_t columns, rows;
    if (session->terminal.raw && terminal_size(&columns, &rows))
        send_request(session, "window-size",
                     json_pack("{s:i, s:i}", "columns", columns, "rows", rows));
}

static void ask_to_quit(struct session *session)
{
    if (session->quitting) /* asked before and still there: it does not listen */
        kill(session->pid, SIGKILL);
    session->quitting = true;
    send_request(session, "quit", json_object());
}

static void take_end(struct session *session, const json_t *event)
{
    static const struct {
        const char *name;
        enum client_end end;
    } ends[] = {{"poweroff", CLIENT_END_POWEROFF}, {"reset", CLIENT_END_POWEROFF},
                {"exit-code", CLIENT_END_EXIT_CODE}, {"crash", CLIENT_END_CRASH},
                {"quit", CLIENT_END_QUIT},         {"refused", CLIENT_END_REFUSED},
                {"suspended", CLIENT_END_SUSPENDED}, {"migrated", CLIENT_END_MIGRATED},
                {"lost", CLIENT_END_REFUSED}};
    const char *name = json_string_value(json_object_get(event, "end"));
    const char *message = json_string_value(json_object_get(event, "message"));
    for (size_t i = 0; name != NULL && i < ARRAY_SIZE(ends); i++)
        if (strcmp(ends[i].name, name) == 0) {
            session->ended = true;
            session->result->end = ends[i].end;
        }
    session->result->code = (uint32_t)json_integer_value(json_object_get(event, "code"));
    session->result->usage = json_is_true(json_object_get(event, "usage"));
    snprintf(session->result->message, sizeof(session->result->message), "%s",
             message != NULL ? message : "");
}

/* False at the end of the link: the worker is gone. */
static bool on_control(struct session *session)
{
    enum frame_status status = frame_reader_fill(&session->reader, session->control);
    const uint8_t *data;
    size_t size;
    while (frame_reader_next(&session->reader, FRAME_MAX, &data, &size) == FRAME_MESSAGE) {
        json_t *message = json_loadb((const char *)data, size, 0, NULL);
        const char *event = json_string_value(json_object_get(message, "event"));
        if (event != NULL && strcmp(event, "end") == 0)
            take_end(session, message);
        else if (event != NULL && strcmp(event, "booted") == 0 && session->options->booted != NULL)
            session->options->booted(session->options->opaque,
                                     json_integer_value(json_object_get(message, "at-ns")),
                                     json_integer_value(json_object_get(message, "cpu-ns")));
        json_decref(message);
    }
    return status == FRAME_MORE;
}

/* ---- the console ---- */

/* Standard output as a descriptor that does not block. O_NONBLOCK belongs to the open file,
 * which we share with the shell and others: so pipes and terminals are opened once more.
 * Files do not block. */
static int open_output(void)
{
    struct stat status;
    int fd = -1;
    if (fstat(STDOUT_FILENO, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISCHR(status.st_mode)))
        fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    return fd >= 0 ? fd : fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
}

static void write_output(struct session *session)
{
    ssize_t count = write(session->out, session->output, session->output_size);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count < 0) { /* nobody reads any more, as in `trapeze run | head` */
        count = (ssize_t)session->output_size;
        if (!session->quitting)
            ask_to_quit(session);
    }
    session->output_size -= (size_t)count;
    memmove(session->output, session->output + count, session->output_size);
}

/* Only while `output` is empty. */
static void on_output(struct session *session)
{
    ssize_t count = read(session->console, session->output, sizeof(session->output));
    if (count > 0) {
        session->output_size = (size_t)count;
        write_output(session);
    } else if (count == 0 || errno != EAGAIN) {
        close(session->console);
        session->console = -1;
    }
}

static void send_keys(struct session *session)
{
    ssize_t count = send(session->console, session->pending, session->pending_size, MSG_NOSIGNAL);
    if (count < 0 && errno != EAGAIN)
        count = (ssize_t)session->pending_size; /* nobody reads any more */
    if (count <= 0)
        return;
    session->pending_size -= (size_t)count;
    memmove(session->pending, session->pending + count, session->pending_size);
}

static void on_input(struct session *session)
{
    ssize_t count = read(STDIN_FILENO, session->pending, sizeof(session->pending));
    if (count <= 0) {
        session->input_open = count < 0 && (errno == EAGAIN || errno == EINTR);
        return;
    }
    session->pending_size = (size_t)count;
    uint8_t *escape = session->terminal.raw
                          ? memchr(session->pending, ESCAPE_KEY, session->pending_size)
                          : NULL;
    if (escape != NULL) {
        session->pending_size = (size_t)(escape - session->pending);
        ask_to_quit(session);
    }
    if (session->pending_size > 0)
        send_keys(session);
}

/* True: somebody wants this to end. */
static bool on_signal(struct session *session)
{
    struct signalfd_siginfo info;
    if (read(session->signals, &info, sizeof(info)) != sizeof(info))
        return false;
    if (info.ssi_signo == SIGWINCH)
        send_window_size(session);
    else
        ask_to_quit(session);
    return info.ssi_signo != SIGWINCH;
}

static void relay(struct session *session)
{
    bool alive = true, given_up = false;
    /* What the guest printed last is handed out even when the worker is gone. */
    while (alive || ((session->console >= 0 || session->output_size > 0) && !given_up)) {
        bool blocked = session->pending_size > 0, full = session->output_size > 0;
        short console_events = (short)((full ? 0 : POLLIN) | (blocked ? POLLOUT : 0));
        bool reading = session->input_open && !blocked && session->console >= 0;
        struct pollfd set[] = {
            {.fd = alive ? session->control : -1,
             .events = (short)(POLLIN | (session->writer.size > 0 ? POLLOUT : 0))},
            {.fd = session->signals, .events = POLLIN},
            {.fd = console_events != 0 ? session->console : -1, .events = console_events},
            {.fd = reading ? STDIN_FILENO : -1, .events = POLLIN},
            {.fd = full ? session->out : -1, .events = POLLOUT},
        };
        /* Who asked for the end does not wait long for a reader that has stopped reading. */
        int ready = poll(set, ARRAY_SIZE(set), alive || !session->quitting ? -1 : LAST_WORDS_MS);
        if (ready < 0)
            continue;
        given_up = ready == 0;
        if (set[1].revents != 0 && on_signal(session))
            given_up = !alive;
        if (set[4].revents != 0)
            write_output(session);
        if ((set[2].revents & POLLOUT) != 0)
            send_keys(session);
        if ((set[2].revents & (POLLIN | POLLHUP | POLLERR)) != 0 && session->output_size == 0)
            on_output(session);
        if (set[3].revents != 0)
            on_input(session);
        if ((set[0].revents & POLLOUT) != 0)
            frame_writer_flush(&session->writer, session->control);
        if ((set[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0)
            alive = on_control(session);
    }
}

static bool worker_died(int status, struct error **err)
{
    if (WIFSIGNALED(status)) {
        error_set(err, ERROR_HOST, "the machine's worker process was killed by signal %d (%s)",
                  WTERMSIG(status), strsignal(WTERMSIG(status)));
        if (WTERMSIG(status) == SIGKILL)
            error_hint(err, "If nobody did that, the host ran out of memory: give the guest less "
                            "with --memory.");
        if (WTERMSIG(status) == SIGSYS)
            error_hint(err, "The log says which system call the sandbox refused.");
        return false;
    }
    return error_set(err, ERROR_HOST,
                     "the machine's worker process ended without a word (status %d)",
                     WEXITSTATUS(status));
}

static bool live_with(struct session *session, const struct client_options *options,
                      struct error **err)
{
    bool console = options->console == CLIENT_CONSOLE_STDIO;
    session->input_open = console;
    bool terminal = console && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    bool good = true;
    if (terminal) {
        fputs("trapeze: Ctrl-] ends the virtual machine.\n", stderr);
        good = terminal_enter(&session->terminal, err);
    }
    if (good) {
        send_window_size(session);
        relay(session);
    } else {
        kill(session->pid, SIGKILL);
    }
    terminal_leave(&session->terminal);
    int status = 0;
    while (waitpid(session->pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!good)
        return false;
    if (!session->ended && session->quitting) {
        session->result->end = CLIENT_END_QUIT;
        return true;
    }
    return session->ended || worker_died(status, err);
}

static char *default_control_path(struct error **err)
{
    char *folder = client_runtime_folder(err), *path = NULL;
    if (folder != NULL && asprintf(&path, "%s/%d.sock", folder, (int)getpid()) < 0)
        path = NULL;
    free(folder);
    return path;
}

/* -1 and no error: nobody asked for one. */
static bool listen_for_debugger(const struct client_options *options, int *fd, struct error **err)
{
    char shown[128];
    *fd = -1;
    if (options->gdb == NULL)
        return true;
    *fd = client_listen_at(options->gdb, shown, sizeof(shown), err);
    if (*fd < 0) {
        error_prefix(err, "--gdb");
        return false;
    }
    if (options->log_level >= LOG_LEVEL_WARNING)
        fprintf(stderr, "trapeze: %s: gdb-multiarch -ex 'target remote %s'\n",
                options->gdb_wait ? "waiting for a debugger" : "a debugger may come", shown);
    return true;
}

bool client_run(const struct machine_config *config, const struct client_options *options,
                struct client_result *result, struct error **err)
{
    struct session session = {
        .console = -1, .control = -1, .signals = -1, .out = -1, .result = result,
        .options = options};
    sigset_t blocked, before;
    *result = (struct client_result){0};
    snprintf(session.group, sizeof(session.group), "run-%d", (int)getpid());
    char *path = options->control_path != NULL ? strdup(options->control_path)
                                               : default_control_path(err);
    struct client_network network = {.metadata = options->metadata};
    struct client_disks disks = {.count = 0};
    struct client_vsock vsock = {.listen = -1, .connector = -1};
    int listen_fd = path != NULL ? client_listen(path, err) : -1, gdb_fd = -1;
    if (listen_fd < 0 || !listen_for_debugger(options, &gdb_fd, err) ||
        !(options->incoming ? client_disks_open_unlocked(config, &disks, err)
                            : client_disks_open(config, &disks, err)) ||
        (options->resume != NULL && !options->resume_anyway &&
         !saved_check_disks(options->resume, disks.chains, disks.count, err)) ||
        !client_network_start(config, &network, err) ||
        !client_vsock_start(config, &vsock, err)) {
        client_network_stop(&network);
        client_disks_close(&disks);
        close_if_open(gdb_fd);
        if (listen_fd >= 0) {
            close(listen_fd);
            unlink(path);
        }
        free(path);
        return false;
    }
    signals_of_the_end(&blocked);
    sigaddset(&blocked, SIGWINCH);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    session.signals = signalfd(-1, &blocked, SFD_CLOEXEC | SFD_NONBLOCK);
    void (*on_pipe)(int) = signal(SIGPIPE, SIG_IGN);
    session.out = open_output();
    bool good =
        start(&session, config, options, listen_fd, gdb_fd, &network, &disks, &vsock, &blocked,
              err) &&
        (!options->incoming || client_disks_lock_later(&disks, session.pid, err));
    close(listen_fd);
    close_if_open(gdb_fd);
    client_network_close_links(&network);
    client_disks_close(&disks);
    client_vsock_close(&vsock);
    if (good)
        good = live_with(&session, options, err);
    if (is_limited(config))
        cgroup_forget_machine(session.group);
    client_network_stop(&network);
    client_vsock_stop(&vsock);
    unlink(path);
    free(path);
    if (session.made_console_socket)
        unlink(options->console_path);
    if (options->gdb != NULL && strncmp(options->gdb, "unix:", 5) == 0)
        unlink(options->gdb + 5);
    close_if_open(session.console);
    close_if_open(session.control);
    close_if_open(session.signals);
    close_if_open(session.out);
    frame_reader_clear(&session.reader);
    frame_writer_clear(&session.writer);
    signal(SIGPIPE, on_pipe);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return good;
}
