/* SPDX-License-Identifier: MIT
 *
 * How a copy of a worker's process (vm/fork.h) becomes the worker of another machine. It has a
 * SOCK_SEQPACKET socket to the client that wants it (client/spawn.h), and nothing else; all it is
 * to have comes through there, in place of what an executed worker inherits:
 *
 *     copy     "born", from which the client learns its process id
 *     client   "PID", as clients count, with the descriptors for 0, 1 and 2 and /proc/PID/statm
 *              "=ARGUMENT" for each of a worker's arguments (worker.h) in turn; descriptors come
 * with the argument, where they are numbered from 0; then "end" copy     "ready": built, and it
 * does not run; or "error SENTENCE" client   "go"
 *
 * When the client hangs up before that the copy ends, and nothing has been.
 *
 * Threads: the one that there is.
 */
#ifndef TRAPEZE_WORKER_HATCH_H
#define TRAPEZE_WORKER_HATCH_H

#include <stdbool.h>
#include <sys/types.h>

enum { HATCH_ARGUMENTS = 24 };

struct hatch {
    pid_t pid; /* ours, as clients count */
    int statm;
    int argc;
    char *argv[HATCH_ARGUMENTS + 1]; /* never freed */
};

/* False: nobody is there, or somebody else. */
bool hatch_receive(struct hatch *hatch, int talk);
/* Tells that we are ready, or why not, and waits for the client. True: go. Closes the socket. */
bool hatch_answer(int talk, const char *error);

#endif
