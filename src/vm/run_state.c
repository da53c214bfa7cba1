/* SPDX-License-Identifier: MIT
 *
 * The run-state machine of vm.h. A VM runs when no hold is on it: a pause is a hold, so is
 * the moment of a reset, so is the time between a guest's power request and its execution.
 * Holds nest; the last release lets the vCPU threads go.
 */
#include <stdlib.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "block/block.h"
#include "vm/fork.h"
#include "vm/gdb/gdb.h"
#include "vm/machine.h"

static void set_state(struct vm *vm, enum vm_state state)
{
    vm->state = state;
    if (vm->env.on_state != NULL)
        vm->env.on_state(vm->env.opaque, state);
}

enum vm_state vm_state(const struct vm *vm)
{
    return vm->state;
}

const char *vm_state_name(enum vm_state state)
{
    static const char *const names[] = {"created", "running", "paused", "stopped", "failed"};
    return names[state];
}

/* ---- holds ---- */

void vm_hold_begin(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    atomic_fetch_add(&vm->holds, 1);
    pthread_mutex_unlock(&vm->lock);
    for (unsigned i = 0; i < vm->cpu_count; i++)
        vcpu_kick(vm->vcpus[i]);
}

void vm_hold_wait(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    while (vm->parked < vm->threads)
        pthread_cond_wait(&vm->changed, &vm->lock);
    pthread_mutex_unlock(&vm->lock);
}

void vm_hold(struct vm *vm)
{
    vm_hold_begin(vm);
    vm_hold_wait(vm);
}

void vm_release(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    atomic_fetch_sub(&vm->holds, 1);
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

/* ---- host threads ---- */

void vm_threads_stop(struct vm *vm)
{
    vm_cpu_threads_stop(vm);
    for (size_t i = 0; i < MACHINE_MAX_DISKS; i++)
        if (vm->disks[i] != NULL) {
            block_drain(vm->disks[i]);
            block_threads_stop(vm->disks[i]);
        }
}

bool vm_threads_start(struct vm *vm, struct error **err)
{
    for (size_t i = 0; i < MACHINE_MAX_DISKS; i++)
        if (vm->disks[i] != NULL && !block_threads_start(vm->disks[i], err))
            return false;
    return vm_cpu_threads_start(vm, err);
}

/* A pause and a debugger may both want the clock to stand still. It does when it is made. */
static void stop_clock(struct vm *vm)
{
    if (vm->clock_stops++ > 0)
        return;
    vclock_pause(vm->clock);
    if (vm->machine != NULL)
        vm->machine->stop_time(vm->machine, true);
}

static void go_on_clock(struct vm *vm)
{
    if (--vm->clock_stops > 0)
        return;
    vclock_resume(vm->clock);
    if (vm->machine != NULL)
        vm->machine->stop_time(vm->machine, false);
}

void vm_freeze(struct vm *vm)
{
    vm_hold(vm);
    stop_clock(vm);
}

void vm_thaw(struct vm *vm)
{
    go_on_clock(vm);
    vm_release(vm);
}

/* ---- the user's side ---- */

static bool refuse(const struct vm *vm, const char *verb, struct error **err)
{
    return error_set(err, ERROR_USAGE, "a machine that is %s cannot be %s",
                     vm_state_name(vm->state), verb);
}

static void carry_out_power(void *opaque);

static void begin_power(struct vm *vm)
{
    vm_hold_begin(vm);
    loop_post(vm->env.loop, carry_out_power, vm);
}

/* The machine runs from now on; what it asked for before it was saved comes first. */
static void go(struct vm *vm)
{
    set_state(vm, VM_RUNNING);
    if (vm->moved)
        vm_nics_announce(vm);
    vm->moved = false;
    if (vm->power_restored)
        begin_power(vm);
    vm->power_restored = false;
    vm_release(vm);
}

/* Memory that is still to come comes before anybody waits. */
static bool fetch_memory(struct vm *vm, struct error **err)
{
    if (mem_is_late(vm->mem))
        return vm_refuse_late(err);
    for (size_t i = 0; i < mem_ram_count(vm->mem); i++) {
        struct mem_ram *ram = mem_ram_at(vm->mem, i);
        if (!mem_want(vm->mem, ram, ram->gpa, ram->size))
            return error_set(err, ERROR_HOST, "the guest's memory is lost");
    }
    return true;
}

bool vm_start(struct vm *vm, struct error **err)
{
    if (vm->state != VM_CREATED)
        return refuse(vm, "started", err);
    bool restored = vm->loaded;
    if (!restored && !boot_load(vm, err))
        return false;
    if (vm->engine->direct_memory && !fetch_memory(vm, err))
        return false;
    go_on_clock(vm);
    if (restored) /* what devices had not got round to when it was saved */
        vm_board_unquiesce(vm);
    go(vm); /* vm_new() made it with one hold */
    return true;
}

bool vm_start_paused(struct vm *vm, struct error **err)
{
    if (vm->state != VM_CREATED)
        return refuse(vm, "started", err);
    vm_board_quiesce(vm); /* the hold and the stopped clock of vm_new() are those of a pause */
    set_state(vm, VM_PAUSED);
    return true;
}

/* Of a machine that runs: no vCPU does, no I/O is in flight, its time stands still. */
static bool stop_running(struct vm *vm, struct error **err)
{
    vm_hold(vm);
    /* What the guest asked for before it stood still comes first: who pauses a machine that has
     * switched itself off shall hear that. */
    if (atomic_load(&vm->power_request) != VM_POWER_NONE) {
        vm_power_cancel(vm);
        carry_out_power(vm);
        if (vm->state != VM_RUNNING) {
            vm_release(vm);
            return refuse(vm, "paused", err);
        }
    }
    vm_board_quiesce(vm);
    stop_clock(vm);
    return true;
}

static void begin_running(struct vm *vm)
{
    go_on_clock(vm);
    vm_board_unquiesce(vm);
    vm_disks_retry(vm);
}

bool vm_pause(struct vm *vm, struct error **err)
{
    if (vm->state != VM_RUNNING)
        return refuse(vm, "paused", err);
    if (!stop_running(vm, err))
        return false;
    set_state(vm, VM_PAUSED);
    return true;
}

bool vm_resume(struct vm *vm, struct error **err)
{
    if (vm->state != VM_PAUSED)
        return refuse(vm, "resumed", err);
    if (!vm->loaded && !boot_load(vm, err))
        return false;
    if (vm->engine->direct_memory && !fetch_memory(vm, err))
        return false;
    begin_running(vm);
    go(vm);
    return true;
}

bool vm_stand_still(struct vm *vm, struct error **err)
{
    if (vm->state != VM_RUNNING && vm->state != VM_PAUSED)
        return refuse(vm, "copied", err);
    if (!fetch_memory(vm, err))
        return false;
    if (vm->state == VM_RUNNING)
        return stop_running(vm, err);
    vm_hold(vm);
    return true;
}

void vm_go_on(struct vm *vm)
{
    if (vm->state == VM_RUNNING)
        begin_running(vm);
    vm_release(vm);
}

static void end(struct vm *vm, enum vm_end how, uint32_t code)
{
    if (vm->state == VM_STOPPED || vm->state == VM_FAILED)
        return;
    vm_hold(vm); /* for good */
    if (vm->state == VM_RUNNING) {
        vm_board_quiesce(vm);
        stop_clock(vm);
    }
    set_state(vm, how == VM_END_GUEST_CRASH ? VM_FAILED : VM_STOPPED);
    gdb_machine_ended(vm->gdb, how, code);
    vm->env.on_end(vm->env.opaque, how, code);
}

/* The guest starts again in place: devices as at power-on, memory loaded afresh. */
static bool reset_in_place(struct vm *vm, struct error **err)
{
    bool paused = vm->state == VM_PAUSED;
    if (!boot_can_load(vm, err)) /* before anything of it is undone */
        return false;
    vm_hold(vm);
    if (!paused)
        vm_board_quiesce(vm);
    vm_disks_cancel(vm); /* the guest that asked for it is gone */
    vm_board_reset(vm);
    bool good = boot_load(vm, err);
    if (!paused)
        vm_board_unquiesce(vm);
    vm_release(vm);
    return good;
}

bool vm_reset(struct vm *vm, struct error **err)
{
    if (vm->state != VM_RUNNING && vm->state != VM_PAUSED)
        return refuse(vm, "reset", err);
    if (mem_is_late(vm->mem))
        return vm_refuse_late(err);
    return reset_in_place(vm, err);
}

bool vm_powerdown(struct vm *vm, struct error **err)
{
    if (vm->state != VM_RUNNING)
        return refuse(vm, "asked to power down", err);
    vm_hold(vm);
    bool heard = vm->button.press != NULL && vm->button.press(vm->button.device);
    vm_release(vm);
    if (heard)
        return true;
    error_set(err, ERROR_USAGE,
              "nothing in the guest listens to its power button: it has not "
              "booted that far, or has no driver (virtio_input)");
    error_hint(err, "Switch it off from inside, or end it with 'quit'.");
    return false;
}

bool vm_ctrl_alt_del(struct vm *vm, struct error **err)
{
    if (vm->keyboard.press == NULL)
        return vm_powerdown(vm, err);
    if (vm->state != VM_RUNNING && vm->state != VM_PAUSED)
        return refuse(vm, "asked to restart", err);
    return vm->keyboard.press(vm->keyboard.device) ||
           error_set(err, ERROR_USAGE, "nothing in the guest listens to its keyboard");
}

void vm_quit(struct vm *vm)
{
    end(vm, VM_END_QUIT, 0);
}

void vm_quit_suspended(struct vm *vm)
{
    end(vm, VM_END_SUSPENDED, 0);
}

void vm_quit_migrated(struct vm *vm)
{
    end(vm, VM_END_MIGRATED, 0);
}

void vm_halt(struct vm *vm)
{
    vm_hold_begin(vm);
}

void vm_halt_now(struct vm *vm)
{
    vm_hold(vm);
}

bool vm_balloon(struct vm *vm, const uint64_t *size, struct balloon_status *status,
                struct error **err)
{
    if (vm->balloon.get == NULL) {
        error_set(err, ERROR_USAGE, "this machine has no balloon");
        error_hint(err, "Start it with --balloon.");
        return false;
    }
    if (size != NULL && (*size == 0 || *size > vm->config.memory))
        return error_set(err, ERROR_USAGE, "a guest with %llu MiB keeps 1 byte to all of them",
                         (unsigned long long)(vm->config.memory / MIB));
    if (size != NULL)
        vm->balloon.set(vm->balloon.device, vm->config.memory - *size);
    vm->balloon.get(vm->balloon.device, status);
    return true;
}

/* ---- the guest's side ---- */

static void carry_out_power(void *opaque)
{
    struct vm *vm = opaque;
    struct error *error = NULL;
    int request = atomic_load(&vm->power_request);
    uint32_t code = atomic_load(&vm->power_code);
    bool bare_metal = vm->config.kernel == NULL;
    vm_hold_wait(vm);
    /* Memory that is still to come would fall into the new life. It comes while the machine stands
     * still (the hold remains), and vm_memory_came() goes on here. */
    if (request == VM_POWER_RESET && mem_is_late(vm->mem))
        return;
    switch (request) {
    case VM_POWER_OFF:
        end(vm, VM_END_POWEROFF, 0);
        break;
    case VM_POWER_FAILURE:
        end(vm, bare_metal ? VM_END_EXIT_CODE : VM_END_GUEST_CRASH, code);
        break;
    case VM_POWER_WEDGED:
        end(vm, VM_END_GUEST_CRASH, 0);
        break;
    case VM_POWER_RESET:
        if (vm->config.no_reboot) {
            end(vm, VM_END_RESET, 0);
        } else if (!reset_in_place(vm, &error)) {
            log_error(vm->log, "the guest cannot be restarted: %s", error_message(error));
            error_free(error);
            end(vm, VM_END_GUEST_CRASH, 1);
        }
        break;
    default:
        break;
    }
    atomic_store(&vm->power_request, VM_POWER_NONE);
    vm_release(vm);
}

void vm_power(struct vm *vm, enum vm_power request, uint32_t code)
{
    int none = VM_POWER_NONE;
    if (!atomic_compare_exchange_strong(&vm->power_request, &none, request))
        return;
    atomic_store(&vm->power_code, code);
    begin_power(vm);
}

bool vm_power_restore(struct vm *vm, uint32_t request, uint32_t code)
{
    if (request > VM_POWER_WEDGED)
        return false;
    if (atomic_load(&vm->power_request) != VM_POWER_NONE && !vm->power_restored) {
        vm_power_cancel(vm);
        vm_release(vm);
    }
    atomic_store(&vm->power_request, (int)request);
    atomic_store(&vm->power_code, code);
    vm->power_restored = request != VM_POWER_NONE;
    return true;
}

void vm_memory_came(struct vm *vm)
{
    vm_hold(vm); /* who has asked for memory has left */
    vm_release(vm);
    if (atomic_load(&vm->power_request) != VM_POWER_RESET || vm->power_restored)
        return;
    vm_power_cancel(vm);
    loop_post(vm->env.loop, carry_out_power, vm);
}

void vm_power_cancel(struct vm *vm)
{
    loop_cancel(vm->env.loop, carry_out_power, vm);
}
