/* SPDX-License-Identifier: MIT
 *
 * The worker's control protocol: length-prefixed JSON (base/frame.h) over unix stream
 * sockets. Any number of clients; each is greeted with
 *     {"trapeze": "worker", "protocol": 1, "pid": N}
 * sends {"id": N, "verb": "status", "arguments": {…}} and gets {"id": N, "result": …} or
 * {"id": N, "error": "sentence"}. Events ({"event": …}) go to every client. A client that
 * breaks the protocol, sends more than 64 KiB at once or reads too slowly is disconnected.
 * Descriptors come with the first bytes of their request (SCM_RIGHTS), while the client has no
 * other request under way; those that the verb does not take are closed.
 *
 * Verbs are rows of one table in verbs.c; a later capability adds a row.
 *
 * Threads: the loop's only.
 */
#ifndef TRAPEZE_WORKER_CONTROL_H
#define TRAPEZE_WORKER_CONTROL_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#define CONTROL_PROTOCOL 1

struct console;
struct control;
struct error;
struct frame_fds;
struct loop;
struct migration;
struct suspension;
struct vm;

/* What the verbs act on; filled in by worker.c, lives as long as the control. */
struct control_target {
    pid_t pid;           /* this process, as clients know it */
    const char *sandbox; /* the parts in force, for people */
    struct vm *vm;       /* NULL until it exists */
    struct console *console;
    int statm; /* /proc/self/statm, opened while that was possible; 0: not */
    struct frame_fds *fds; /* came with the request; a verb that takes one leaves -1 */
    const char *folder;    /* that names of the configuration are relative to */
    struct suspension *suspension; /* verbs_suspend.c; NULL: the machine is not being suspended */
    struct migration *migration;   /* verbs_migrate.c; NULL: nor migrated */
    bool incoming; /* the machine is one that is still to arrive */
    /* It will not arrive; the worker ends. */
    void (*failed)(struct control_target *target, const struct error *error);
};

struct control_verb {
    const char *name;
    bool needs_vm;
    /* Returns a new reference, or NULL with err. */
    json_t *(*run)(struct control_target *target, const json_t *arguments, struct error **err);
    bool only_looks; /* fine while the machine's state is being written */
    bool while_copied; /* fine while it runs, and its memory is on its way to another host */
};
extern const struct control_verb control_verbs[];
extern const size_t control_verb_count;

/* Takes both descriptors over: link_fd is a connected client whose hang-up means that our
 * starter is gone (on_link_lost), -1 if nobody's end is ours; listen_fd accepts further ones. */
struct control *control_new(struct loop *loop, int link_fd, int listen_fd,
                            struct control_target *target, void (*on_link_lost)(void *opaque),
                            void *opaque, struct error **err);
void control_free(struct control *control); /* sends what is queued if the sockets take it */

void control_event(struct control *control, json_t *event); /* steals the reference */

/* A JSON string of text that may not be UTF-8 (then '?' stands for what is not ASCII). */
json_t *control_text(const char *text);

#endif
