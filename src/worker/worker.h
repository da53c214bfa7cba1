/* SPDX-License-Identifier: MIT
 *
 * The per-VM process. It gets everything it needs as inherited descriptors, runs one machine
 * on one event loop, and says over its control link how the machine ended.
 */
#ifndef TRAPEZE_WORKER_WORKER_H
#define TRAPEZE_WORKER_WORKER_H

#include <stddef.h>
#include <stdint.h>

struct vm;
struct vm_files;
struct worker;

/* argv: "worker" CONFIG_FD CONSOLE_FD LINK_FD LISTEN_FD GDB_FD REPORT_FD TRANSCRIPT_FD
 * VSOCK_LISTEN_FD VSOCK_CONNECTOR_FD HOLD_FD SHARE_FD NVRAM_FD RESUME_FD[:MEMORY_FD] CONSOLE_KIND
 * LOG_LEVEL SANDBOX run|wait|paused|incoming NICS DISKS FILES;
 * started by client/spawn.c only, which says what they are. Descriptors are -1 if there is none.
 * NICS: a frame socket for each NIC, with commas; DISKS: the files of each disk. "wait": the machine
 * waits for a debugger; "paused": for the verb resume. Returns the process's exit status (0 once it could report). */
int worker_main(int argc, char **argv);

/* How worker_main() begins: everything that has a name is opened, and the sandbox closed, before
 * anything is looked at that others have made. NULL: it has said why not. */
struct worker *worker_begin(int argc, char **argv);
/* For tests, which then try what nobody may. */
const struct vm_files *worker_files(const struct worker *worker);

/* The machine that this process is a copy of (vm/fork.h), as it stood still: what a clone of it begins
 * with. */
struct worker_origin {
    struct vm *vm; /* nothing of it is used but its memory, and its configuration is read */
    const uint8_t *state;
    size_t state_size;
    const char *layout;
    const char *sandbox; /* the parts in force */
};
/* In the copy, which has no descriptors but `talk` (worker/hatch.h): becomes the worker that the client
 * there asks for, and lives until its machine ends. */
void worker_hatch(const struct worker_origin *origin, int talk);

#endif
