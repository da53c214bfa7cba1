/* SPDX-License-Identifier: MIT
 *
 * Which engine runs the vCPUs. All of a machine have the same.
 */
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "engine/dbt/dbt.h"
#include "engine/interp/interp.h"
#include "vm/machine.h"

/* The fastest first; the last one works everywhere. */
static const struct engine *const engines[] = {&engine_dbt, &engine_interp};

static void detach_all(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++)
        if (vm->vcpus[i]->engine_data != NULL)
            vm->vcpus[i]->engine->detach(vm->vcpus[i]);
    if (vm->machine != NULL)
        vm->machine->free(vm->machine);
    vm->machine = NULL;
}

static bool make_machine(struct vm *vm, struct error **err)
{
    const struct engine_setup setup = {
        .mem = vm->mem, .log = vm->log, .vcpu_count = vm->cpu_count, .kvm_fd = -1};
    if (vm->engine->machine_new == NULL)
        return true;
    vm->machine = vm->engine->machine_new(&setup, err);
    return vm->machine != NULL;
}

static bool attach_all(struct vm *vm, const struct engine *engine, struct error **err)
{
    vm->engine = engine;
    if (!make_machine(vm, err))
        return false;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        vm->vcpus[i]->engine = engine;
        vm->vcpus[i]->machine = vm->machine;
        if (!engine->attach(vm->vcpus[i], err)) {
            detach_all(vm);
            return false;
        }
    }
    return true;
}

static bool attach_best(struct vm *vm, struct error **err)
{
    for (size_t i = 0;; i++) {
        struct error *why = NULL;
        if (!engines[i]->supports(vm->isa))
            continue;
        if (attach_all(vm, engines[i], &why))
            return true;
        /* What the user got wrong is not made good by another engine. */
        if (i + 1 == ARRAY_SIZE(engines) || error_kind(why) == ERROR_USAGE)
            return error_propagate(err, why);
        log_warning(vm->log, "The engine '%s' does not work here, the guest will be slower: %s",
                    engines[i]->name, error_message(why));
        error_free(why);
    }
}

bool vm_engine_attach(struct vm *vm, struct error **err)
{
    const char *name = vm->config.engine;
    if (strcmp(name, "auto") == 0)
        return attach_best(vm, err);
    for (size_t i = 0; i < ARRAY_SIZE(engines); i++)
        if (strcmp(engines[i]->name, name) == 0 && engines[i]->supports(vm->isa))
            return attach_all(vm, engines[i], err);
    error_set(err, ERROR_USAGE, "there is no engine '%s' for %s guests on this host", name,
              vm->isa->name);
    error_hint(err, "There are 'interp', which works on every host, 'dbt', which is for x86-64 "
                    "hosts, and 'auto', the best of them.");
    return false;
}

void vm_warm(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++)
        if (vm->engine->warm != NULL)
            vm->engine->warm(vm->vcpus[i]);
}
