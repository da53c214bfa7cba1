/* SPDX-License-Identifier: MIT
 *
 * The per-VM process. It gets everything it needs as inherited descriptors, runs one machine
 * on one event loop, and says over its control link how the machine ended.
 */
#ifndef TRAPEZE_WORKER_WORKER_H
#define TRAPEZE_WORKER_WORKER_H

/* argv: "worker" CONFIG_FD CONSOLE_FD LINK_FD LISTEN_FD GDB_FD CONSOLE_KIND LOG_LEVEL run|wait NICS;
 * started by client/worker.c only. NICS: a frame socket for each NIC, with
 * commas. GDB_FD is -1 or a listening socket for a debugger; "wait":
 * the machine waits for one. Returns the process's exit status (0 once it could report). */
int worker_main(int argc, char **argv);

#endif
