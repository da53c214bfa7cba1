/* SPDX-License-Identifier: MIT
 *
 * A copy of this process that shares the guest's memory copy-on-write: it sees the memory as it was
 * at one moment, while the machine goes on. For instant clones and live snapshots.
 *
 *     vm_stand_still(vm, &err);          // guest and I/O; nobody is told
 *     vm_save_state(vm, &state); …       // what belongs to the same moment
 *     vm_fork(vm, &how, &err);           // how.child() runs in the copy
 *     vm_go_on(vm);
 *
 * Threads: the loop's; all of it within one turn of the loop.
 */
#ifndef TRAPEZE_VM_FORK_H
#define TRAPEZE_VM_FORK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct error;
struct vm;

#define VM_FORK_KEEP_MAX 16

/* No vCPU runs, no I/O is in flight, the guest's time stands still, all of its memory is there, and
 * the state stays "running" (or "paused", where most of this holds already). What the guest asked
 * for before comes first, as with vm_pause(). */
bool vm_stand_still(struct vm *vm, struct error **err);
void vm_go_on(struct vm *vm);

struct vm_fork {
    const int *keep; /* descriptors that stay open in the copy, besides 0, 1, 2 and vm_kvm_device() */
    size_t keep_count;
    /* In the copy, which has this one thread; when it returns the copy ends. It may read guest
     * memory (vm_memory()), make threads and allocate memory. Everything else of the machine
     * belongs to threads and descriptors that the copy does not have: hands off. */
    void (*child)(void *opaque);
    void *opaque;
};

/* The descriptor of /dev/kvm, with which a copy may make a machine of its own: KVM's machines belong to the
 * process that has made them. -1: it does without. */
int vm_kvm_device(const struct vm *vm);

/* The copy's process id; -1: err. It ends whenever it likes, and who wants to know when keeps a
 * socket to it. While the machine stands still. */
pid_t vm_fork(struct vm *vm, const struct vm_fork *how, struct error **err);

#endif
