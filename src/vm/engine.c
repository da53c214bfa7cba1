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
#include "engine/kvm/kvm.h"
#include "engine/kvm/probe.h"
#include "vm/machine.h"

/* The fastest first; the last one works everywhere. */
static const struct engine *const engines[] = {&engine_kvm, &engine_dbt, &engine_interp};

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
    const struct engine_setup setup = {.mem = vm->mem,
                                       .log = vm->log,
                                       .vcpu_count = vm->cpu_count,
                                       .cpu = vm->config.cpu,
                                       .kvm_fd = vm->files.kvm,
                                       .kvm_may_emulate = vm->files.kvm_hardware,
                                       .no_kvm = vm->files.no_kvm};
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

/* Of the engines that run this guest's instructions; NULL: there is none behind `at`. */
static const struct engine *next_engine(const struct vm *vm, size_t *at)
{
    while (*at < ARRAY_SIZE(engines))
        if (engines[(*at)++]->supports(vm->isa))
            return engines[*at - 1];
    return NULL;
}

static bool attach_best(struct vm *vm, struct error **err)
{
    size_t at = 0;
    const struct engine *engine = next_engine(vm, &at);
    for (;;) {
        struct error *why = NULL;
        if (attach_all(vm, engine, &why))
            return true;
        const struct engine *next = next_engine(vm, &at);
        /* What the user got wrong is not made good by another engine. */
        if (next == NULL || error_kind(why) == ERROR_USAGE)
            return error_propagate(err, why);
        log_warning(vm->log, "The engine '%s' does not work here, the guest will be slower: %s",
                    engine->name, error_message(why));
        error_free(why);
        engine = next;
    }
}

static bool attach_named(struct vm *vm, const char *name, struct error **err)
{
    size_t at = 0;
    for (const struct engine *engine; (engine = next_engine(vm, &at)) != NULL;)
        if (strcmp(engine->name, name) == 0)
            return attach_all(vm, engine, err);
    error_set(err, ERROR_USAGE, "there is no engine '%s' for %s guests on this host", name,
              vm->isa->name);
    error_hint(err, "For riscv64 guests there are 'interp', which works on every host, 'dbt', which "
                    "is for x86-64 hosts, and 'auto', the best of them; for x86_64 guests 'kvm'.");
    return false;
}

bool vm_engine_attach(struct vm *vm, struct error **err)
{
    const char *name = vm->config.engine;
    bool good = strcmp(name, "auto") == 0 ? attach_best(vm, err) : attach_named(vm, name, err);
    if (good && vm->engine->direct_memory && vm->config.deterministic) {
        detach_all(vm);
        error_set(err, ERROR_USAGE, "a guest on KVM is not deterministic");
        error_hint(err, "Leave --deterministic out.");
        return false;
    }
    if (!good && vm->engine == &engine_kvm && err != NULL && error_kind(*err) == ERROR_HOST)
        kvm_is_needed(vm->isa->name, err);
    return good;
}

void vm_warm(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++)
        if (vm->engine->warm != NULL)
            vm->engine->warm(vm->vcpus[i]);
}
