/* SPDX-License-Identifier: MIT
 *
 * Starting a worker process and living with it: its console, its control link, its end.
 *
 * The worker is this same executable, started again with inherited descriptors; if it dies,
 * whatever it was doing, the client restores the terminal and says what happened.
 *
 * Threads: single-threaded; client_run() installs signal handlers while it runs.
 */
#ifndef TRAPEZE_CLIENT_WORKER_H
#define TRAPEZE_CLIENT_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "sandbox/sandbox.h"

struct error;
struct machine_config;
struct saved_image;

/* Where the guest's console goes. */
enum client_console {
    CLIENT_CONSOLE_STDIO,
    CLIENT_CONSOLE_NONE,
    CLIENT_CONSOLE_FILE,  /* output only */
    CLIENT_CONSOLE_SOCKET /* a listening unix socket; one client at a time */
};

struct client_options {
    enum client_console console;
    const char *console_path; /* FILE and SOCKET */
    const char *control_path; /* control socket; NULL: one is made under the runtime folder */
    int log_level;            /* enum log_level */
    enum sandbox_mode sandbox;
    const char *gdb;          /* where a debugger finds the machine (client_listen_at); or NULL */
    const struct saved_image *resume; /* of a machine that was suspended; NULL: it begins anew */
    bool resume_anyway;       /* though its disks may have changed since */
    bool paused;              /* it does not run before it is resumed */
    const struct client_metadata *metadata; /* client/network.h; or NULL */
    bool gdb_wait;            /* the machine does not start before one says so */
    bool incoming;            /* ... before it has been migrated here */
    /* The guest says that it has booted (machine_config.boot_timer): when, by CLOCK_MONOTONIC, and the
     * worker's CPU time by then. NULL: nobody wants to know. */
    void (*booted)(void *opaque, int64_t at_ns, int64_t cpu_ns);
    void *opaque;
};

enum client_end {
    CLIENT_END_POWEROFF,
    CLIENT_END_EXIT_CODE, /* bare-metal program: `code` */
    CLIENT_END_CRASH,     /* the guest's fault; sentence in `message` */
    CLIENT_END_SUSPENDED, /* its state is in a file */
    CLIENT_END_MIGRATED,  /* it goes on elsewhere */
    CLIENT_END_QUIT,      /* escape key, signal, control verb */
    CLIENT_END_REFUSED    /* the worker could not start the machine: sentence in `message` */
};

struct client_result {
    enum client_end end;
    uint32_t code;
    bool usage;         /* CLIENT_END_REFUSED: the user's fault rather than the host's */
    char message[1024]; /* may be empty */
};

/* Runs a machine in a worker with its console attached, until it ends. False: the host
 * failed, or the worker died without a word. */
bool client_run(const struct machine_config *config, const struct client_options *options,
                struct client_result *result, struct error **err);

/* Directory for sockets, made with mode 0700 if missing: $XDG_RUNTIME_DIR/trapeze or
 * /tmp/trapeze-UID (refused if it belongs to somebody else). Caller frees. NULL: err. */
char *client_runtime_folder(struct error **err);

/* A listening unix stream socket at path, mode 0600. A dead socket there is replaced; a live
 * one is an error. -1: err. */
int client_listen(const char *path, struct error **err);

/* A listening stream socket at "unix:PATH" (as client_listen) or "tcp:PORT", which is only
 * reachable from this host. What a client types to get there is written to `shown`. -1: err. */
int client_listen_at(const char *where, char *shown, size_t shown_size, struct error **err);

/* Whether somebody listens there. */
bool client_is_live(const char *path);

/* Words NAME=VALUE as the arguments of a verb, a JSON object (caller frees); a number may have K,
 * M, G or T behind it. NULL: err. */
char *client_arguments(char *const *words, size_t count, struct error **err);

/* Connects to a worker's control socket, sends one verb with its arguments (a JSON object, or
 * NULL) and returns its reply as JSON text (caller frees). NULL: err, also when the worker
 * answered with an error. */
char *client_control(const char *path, const char *verb, const char *arguments,
                     struct error **err);
/* The same with descriptors for the worker (borrowed; at most FRAME_FD_MAX). */
char *client_control_fds(const char *path, const char *verb, const char *arguments, const int *fds,
                         size_t fd_count, struct error **err);

#endif
