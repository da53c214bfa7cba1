/* SPDX-License-Identifier: MIT
 *
 * What a machine opens by name, opened all at once: a process that then locks itself in hands it
 * to vm_new() and needs no name any more. Nothing of what the files hold is looked at here.
 *
 *     vm_files_open(&files, &config, pid, &err)   // then the sandbox closes
 *     env.files = &files;
 *     vm = vm_new(&config, &env, &err);
 *
 * Threads: one at a time.
 */
#ifndef TRAPEZE_VM_FILES_H
#define TRAPEZE_VM_FILES_H

#include <stdbool.h>
#include <sys/types.h>

#include "config/machine.h"
#include "vm/boot.h"

struct block_rings;
struct error;
struct perf;
struct trace;

/* Descriptors are -1 where there is nothing. */
struct vm_files {
    struct boot boot;         /* opened, not yet planned */
    int dump_fdt, dump_error; /* why it is not open */
    int captures[MACHINE_MAX_NICS];
    int shares[MACHINE_MAX_SHARES];
    int kvm;           /* /dev/kvm, for guests that it can run */
    bool kvm_hardware; /* it is known to be the processor's, and need not be tried */
    char *no_kvm;      /* why it is not open; or NULL */
    int own_fds; /* a folder of this process's descriptors, as /proc/self/fd; for shares */
    struct trace *trace;
    struct perf *perf;
    struct block_rings
        *rings; /* for all disks, also those that come later; NULL: made when needed */
};

void vm_files_init(struct vm_files *files);
/* `pid`: this process's id for Linux perf. False: err; what is open is the caller's to close. */
bool vm_files_open(struct vm_files *files, const struct machine_config *config, pid_t pid,
                   struct error **err);
/* The same for a process that opens nothing: "5,6,-1", the descriptors of kernel, initrd and firmware.
 * There are no captures, traces and shared folders then. */
bool vm_files_take(struct vm_files *files, const struct machine_config *config, const char *list,
                   struct error **err);
/* How many rings the machine's disks will need: some may come later. */
unsigned vm_files_rings(const struct machine_config *config);
void vm_files_close(struct vm_files *files);

#endif
