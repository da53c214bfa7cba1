/* SPDX-License-Identifier: MIT
 *
 * A server of GDB's remote protocol ("GDB Remote Serial Protocol", appendix E of GDB's manual)
 * for one VM. Harts are threads 1, 2, ...; all of them stop together (all-stop mode) and time
 * stands still for the guest meanwhile. vm_debug() (vm/vm.h) starts it.
 *
 * One client at a time. While none is connected, or no break- or watchpoint is set, guests run
 * as fast as without a server.
 */
#ifndef TRAPEZE_VM_GDB_GDB_H
#define TRAPEZE_VM_GDB_GDB_H

#include <stdbool.h>
#include <stdint.h>

#include "vm/vm.h"

struct gdb;

/* Loop's thread. `listen_fd` is taken over, also on failure. NULL: err. */
struct gdb *gdb_new(struct vm *vm, int listen_fd, bool wait, struct error **err);
/* Loop's thread; no vCPU thread exists any more. NULL is fine. */
void gdb_free(struct gdb *gdb);

/* A vCPU's own thread: its debug->stop is set. It is going to be held. */
void gdb_cpu_stopped(struct gdb *gdb);

/* Loop's thread: the machine has ended; a client that waits is told. NULL is fine. */
void gdb_machine_ended(struct gdb *gdb, enum vm_end how, uint32_t code);

#endif
