/* SPDX-License-Identifier: MIT
 *
 * See fork.h. Memory that the copy must not have is left out of it where it is mapped
 * (MADV_DONTFORK: translated code, which is shared writable; what engines derive from
 * instructions), and what it need not have costs it page tables only.
 */
#include "vm/fork.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/state.h"
#include "mem/mem.h"
#include "vm/machine.h"

int vm_kvm_device(const struct vm *vm)
{
    return vm->files.kvm;
}

static void sort(int *numbers, size_t count)
{
    for (size_t i = 1; i < count; i++)
        for (size_t k = i; k > 0 && numbers[k - 1] > numbers[k]; k--) {
            int number = numbers[k];
            numbers[k] = numbers[k - 1];
            numbers[k - 1] = number;
        }
}

static bool close_others(const struct vm *vm, const struct vm_fork *how)
{
    int kept[VM_FORK_KEEP_MAX + 1];
    size_t count = how->keep_count;
    unsigned from = STDERR_FILENO + 1;
    memcpy(kept, how->keep, count * sizeof(kept[0]));
    if (vm_kvm_device(vm) >= 0)
        kept[count++] = vm_kvm_device(vm);
    sort(kept, count);
    for (size_t i = 0; i < count; i++) {
        unsigned number = (unsigned)kept[i];
        if (number > from && close_range(from, number - 1, 0) != 0)
            return false;
        if (number >= from)
            from = number + 1;
    }
    return close_range(from, ~0U, 0) == 0;
}

static _Noreturn void be_the_copy(const struct vm *vm, const struct vm_fork *how)
{
    sigset_t none;
    if (!close_others(vm, how))
        _exit(1);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    how->child(how->opaque);
    _exit(0);
}

pid_t vm_fork(struct vm *vm, const struct vm_fork *how, struct error **err)
{
    assert(atomic_load(&vm->holds) > 0 && how->keep_count <= VM_FORK_KEEP_MAX);
    for (size_t i = 0; i < mem_ram_count(vm->mem); i++)
        if (mem_ram_at(vm->mem, i)->backend == MEM_BACKEND_MEMFD) {
            error_set(err, ERROR_USAGE,
                      "a machine whose memory other processes can share "
                      "(memory backend memfd) cannot be copied while it runs");
            return -1;
        }
    /* KVM's machine is this process's: a copy of it could not ask for its state. */
    if (vm->machine != NULL)
        vm_save_state(vm, &vm->forked_state);
    pid_t pid = fork();
    if (pid == 0)
        be_the_copy(vm, how);
    state_buffer_free(&vm->forked_state);
    if (pid < 0)
        error_set_errno(err, errno, "cannot make a copy of the machine's process");
    return pid;
}
