/* SPDX-License-Identifier: MIT
 *
 * What a VM tells about itself while it runs. Counters are plain variables of the vCPUs'
 * threads: a hold of some microseconds costs the guest less than atomic ones would.
 */
#include <string.h>

#include "base/error.h"
#include "vm/board.h"
#include "vm/machine.h"

const char *const vm_exit_names[VCPU_EXITS] = {
    [VCPU_EXIT_KICK] = "kick",   [VCPU_EXIT_BUDGET] = "budget", [VCPU_EXIT_WAIT] = "wait",
    [VCPU_EXIT_ECALL] = "ecall", [VCPU_EXIT_HTIF] = "htif",     [VCPU_EXIT_WEDGED] = "wedged",
    [VCPU_EXIT_RESET] = "reset", [VCPU_EXIT_FAILED] = "failed",
    [VCPU_EXIT_DEBUG] = "debug",
};

static uint64_t retired(const struct vm *vm, unsigned cpu)
{
    return vm->vcpus[cpu]->retired + vm->cpus[cpu].retired_before;
}

void vm_get_status(struct vm *vm, struct vm_status *status)
{
    vm_hold(vm);
    *status = (struct vm_status){
        .state = vm->state,
        .cpus = vm->cpu_count,
        .memory = vm->config.memory,
        .virtual_time_ns = vclock_now(vm->clock),
        .engine = vm->engine->name,
    };
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        status->retired += retired(vm, i);
        status->started += vm->board->cpu_is_on(&vm->cpus[i]) ? 1 : 0;
    }
    vm_release(vm);
}

bool vm_set_cpus(struct vm *vm, unsigned cpus, struct error **err)
{
    if (cpus < 1 || cpus > vm->cpu_count) {
        error_set(err, ERROR_USAGE, "the machine was started with room for %u CPU%s", vm->cpu_count,
                  vm->cpu_count == 1 ? "" : "s");
        error_hint(err, "max-cpus says how many there is room for from the next start on.");
        return false;
    }
    vm->config.cpus = cpus;
    return true;
}

struct counting {
    vm_count_fn *each;
    void *opaque;
    unsigned vcpu;
};

static void count(void *opaque, const char *name, uint64_t value)
{
    const struct counting *counting = opaque;
    counting->each(counting->opaque, counting->vcpu, name, value);
}

void vm_get_counters(struct vm *vm, vm_count_fn *each, void *opaque)
{
    vm_hold(vm);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct counting counting = {each, opaque, i};
        count(&counting, "instructions", retired(vm, i));
        for (unsigned reason = 0; reason < VCPU_EXITS; reason++) {
            char name[32] = "exits-";
            strcat(name, vm_exit_names[reason]);
            count(&counting, name, vm->cpus[i].exits[reason]);
        }
        vm->isa->count(vm->vcpus[i], count, &counting);
        if (vm->engine->count != NULL)
            vm->engine->count(vm->vcpus[i], count, &counting);
    }
    vm_release(vm);
}
