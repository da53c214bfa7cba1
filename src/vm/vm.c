/* SPDX-License-Identifier: MIT
 *
 * See vm.h. vm_new() reads like a table of contents: what a machine is made of, in the order
 * in which one part needs the other.
 */
#include "vm/vm.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/state.h"
#include "dev/devices.h"
#include "vm/board.h"
#include "vm/gdb/gdb.h"
#include "vm/input_gate.h"
#include "vm/machine.h"

/* 2026-01-01: what a deterministic machine believes at its start. */
#define DETERMINISTIC_EPOCH_NS (INT64_C(1767225600) * NS_PER_S)

static int64_t time_of(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

static int64_t host_time(void)
{
    return time_of(CLOCK_REALTIME);
}

/* A guest sets its clock in two halves, and may do so all the time: what it is told in the end. */
static void tell_clock(void *opaque)
{
    struct vm *vm = opaque;
    int64_t offset;
    atomic_store(&vm->clock_posted, false);
    if (!__builtin_sub_overflow(vclock_wall_now(vm->clock), host_time(), &offset))
        vm->env.on_clock(vm->env.opaque, offset);
}

/* In the vCPU that writes to its RTC, with the device's lock. */
static void on_clock_set(void *opaque)
{
    struct vm *vm = opaque;
    if (!atomic_exchange(&vm->clock_posted, true))
        loop_post(vm->env.loop, tell_clock, vm);
}

static void make_clock(struct vm *vm)
{
    bool counted = vm->config.deterministic;
    vm->clock = vclock_new(counted ? VCLOCK_COUNTED : VCLOCK_REAL,
                           counted ? DETERMINISTIC_EPOCH_NS : host_time() + vm->env.clock_offset);
    vm->timebase.clock = vm->clock;
    vm->timebase.ns_per_tick = NS_PER_S / vm->board->timebase_hz;
    if (counted)
        return;
    loop_attach_clock(vm->env.loop, vm->clock);
    if (vm->env.on_clock != NULL)
        vclock_on_set_wall(vm->clock, on_clock_set, vm);
}

/* The dirty log was read: vCPUs must ask again before they write. */
static void on_dirty_reset(void *opaque, struct mem_ram *ram, uint64_t gpa, uint64_t size)
{
    struct vm *vm = opaque;
    (void)ram, (void)gpa, (void)size;
    if (!vm->engine->direct_memory)
        vcpu_attention_sync(NULL, vm->vcpus, vm->cpu_count, VCPU_ATTENTION_WRITES);
}

/* Its regions are sorted by address, as the board's ranges are. */
static bool take_memory(struct vm *vm, const struct board_ram *ranges, size_t count, struct error **err)
{
    struct mem_space *from = vm->env.memory;
    uint64_t size = 0;
    bool same = mem_ram_count(from) == count;
    for (size_t i = 0; i < mem_ram_count(from); i++) {
        const struct mem_ram *ram = mem_ram_at(from, i);
        size += ram->size;
        same = same && ram->gpa == ranges[i].gpa && ram->size == ranges[i].size;
    }
    if (!same)
        return error_set(err, ERROR_USAGE,
                         "the clone is to have %llu MiB of memory, and the original has %llu",
                         (unsigned long long)(vm->config.memory / MIB),
                         (unsigned long long)(size / MIB));
    while (mem_ram_count(from) > 0)
        mem_take_ram(vm->mem, from, 0);
    return true;
}

static bool make_rom(struct vm *vm, struct error **err)
{
    const struct boot_rom *planned = &vm->files.boot.rom;
    if (planned->file == NULL)
        return true;
    struct mem_rom *rom = mem_add_rom(vm->mem, planned->gpa, planned->file->size, err);
    return rom != NULL && boot_read(planned->file, 0, rom->host, (size_t)rom->size, err);
}

static bool make_memory(struct vm *vm, struct error **err)
{
    struct board_ram ranges[BOARD_MAX_RAM];
    size_t count = vm->board->ram(vm->config.memory, ranges);
    enum mem_backend backend = vm->config.ram_backend == MACHINE_RAM_MEMFD ? MEM_BACKEND_MEMFD
                                                                           : MEM_BACKEND_ANONYMOUS;
    vm->mem = mem_space_new();
    if (vm->env.pagemap > 0)
        mem_set_pagemap(vm->mem, vm->env.pagemap);
    if (vm->board->isa->has_ports)
        vm->ports = mem_space_new();
    if (vm->env.memory != NULL && !take_memory(vm, ranges, count, err))
        return false;
    for (size_t i = 0; vm->env.memory == NULL && i < count; i++)
        if (mem_add_ram(vm->mem, i == 0 ? "ram" : "ram-high", ranges[i].gpa, ranges[i].size, backend,
                        -1, err) == NULL)
            return false;
    if (!make_rom(vm, err))
        return false;
    vm->ram = mem_ram_at(vm->mem, 0);
    vm->listener = (struct mem_listener){.dirty_reset = on_dirty_reset, .opaque = vm};
    mem_listen(vm->mem, &vm->listener);
    return true;
}

/* ---- deterministic mode's consoles ---- */

static void wake_first_cpu(void *opaque)
{
    struct vm *vm = opaque;
    vm_cpu_wake(vm->vcpus[0]);
}

static void put_gates(struct vm *vm)
{
    struct char_backend **const consoles[] = {&vm->env.console, &vm->env.virtio_console};
    for (size_t i = 0; i < ARRAY_SIZE(consoles); i++)
        if (vm->config.deterministic && *consoles[i] != NULL) {
            vm->gates[i] = input_gate_new(*consoles[i], wake_first_cpu, vm);
            *consoles[i] = input_gate_inside(vm->gates[i]);
        }
}

/* A device's power request, on whatever thread. */
static void on_device_power(void *machine, enum device_power request, uint32_t code)
{
    static const enum vm_power meaning[] = {
        [DEVICE_POWER_OFF] = VM_POWER_OFF,
        [DEVICE_POWER_RESET] = VM_POWER_RESET,
        [DEVICE_POWER_FAILURE] = VM_POWER_FAILURE,
    };
    vm_power(machine, meaning[request], code);
}

static void tell_boot(void *opaque)
{
    struct vm *vm = opaque;
    atomic_store(&vm->boot_posted, false);
    vm->env.on_booted(vm->env.opaque, atomic_load(&vm->booted_ns), atomic_load(&vm->booted_cpu_ns));
}

/* On whatever thread; of a guest that says it all the time only some are told. */
static void on_device_booted(void *machine)
{
    struct vm *vm = machine;
    if (vm->env.on_booted == NULL || atomic_exchange(&vm->boot_posted, true))
        return;
    atomic_store(&vm->booted_ns, time_of(CLOCK_MONOTONIC));
    atomic_store(&vm->booted_cpu_ns, time_of(CLOCK_PROCESS_CPUTIME_ID));
    loop_post(vm->env.loop, tell_boot, vm);
}

static void describe_env(struct vm *vm)
{
    vm->device_env = (struct device_env){
        .mem = vm->mem,
        .ports = vm->ports,
        .clock = vm->clock,
        .timebase = &vm->timebase,
        .loop = vm->env.loop,
        .log = vm->log,
        .entropy = vm->entropy,
        .vcpus = vm->vcpus,
        .vcpu_count = vm->cpu_count,
        .deterministic = vm->config.deterministic,
        .power = on_device_power,
        .booted = on_device_booted,
        .machine = vm,
    };
}

static bool take_files(struct vm *vm, struct error **err)
{
    const struct machine_config *config = &vm->config;
    vm_files_init(&vm->files);
    if (vm->env.files == NULL && !vm_files_open(&vm->files, config, getpid(), err))
        return false;
    if (vm->env.files != NULL) {
        vm->files = *vm->env.files;
        vm_files_init(vm->env.files);
    }
    vm->engine_options = (struct engine_options){.code_cache = config->code_cache,
                                                 .host_features = config->host_features,
                                                 .count_blocks = config->count_blocks,
                                                 .trace = vm->files.trace,
                                                 .perf = vm->files.perf};
    return true;
}

struct vm *vm_new(const struct machine_config *config, const struct vm_env *env, struct error **err)
{
    if (!(env->restored ? machine_config_check_parts : machine_config_check)(config, err))
        return NULL;
    struct vm *vm = alloc_zeroed(1, sizeof(*vm));
    vm->env = *env;
    vm->log = env->log;
    vm->board = board_find(config->arch); /* machine_config_check() has looked */
    vm->isa = vm->board->isa;
    vm->holds = vm->clock_stops = 1; /* until vm_start() */
    pthread_mutex_init(&vm->lock, NULL);
    pthread_cond_init(&vm->changed, NULL);
    machine_config_copy(&vm->config, config);
    vm->config.max_cpus = machine_max_cpus(config); /* it stays so, whatever becomes of cpus */
    vm->disks_given = config->disk_count;
    make_clock(vm);
    vm->entropy = entropy_new(config->deterministic, config->seed);
    bool good = take_files(vm, err) &&
                vm->board->plan(vm, err) && make_memory(vm, err) &&
                vm_cpus_new(vm, err) && vm_engine_attach(vm, err);
    if (good) {
        put_gates(vm);
        describe_env(vm);
        good = vm_board_new(vm, err) && vm_cpu_threads_start(vm, err) &&
               vm_set_cpu_limits(
                   vm, &(struct vm_cpu_limits){config->cpu_weight, config->cpu_cap}, err);
    }
    if (good)
        return vm;
    vm_free(vm);
    return NULL;
}

void vm_free(struct vm *vm)
{
    if (vm == NULL)
        return;
    if (vm->state == VM_RUNNING)
        vm_hold(vm);
    vm_cpu_threads_stop(vm);
    vm_cpu_limit_free(vm);
    vm_throttle_free(vm);
    vm_power_cancel(vm);
    gdb_free(vm->gdb);
    vm_hotplug_free(vm);
    vm_slots_free(vm);
    vm_board_free(vm);
    for (size_t i = 0; i < ARRAY_SIZE(vm->gates); i++)
        input_gate_free(vm->gates[i]);
    vm_profile_stop(vm);
    vm_cpus_free(vm);
    if (vm->machine != NULL)
        vm->machine->free(vm->machine);
    vm_files_close(&vm->files);
    mem_space_free(vm->mem);
    mem_space_free(vm->ports);
    entropy_free(vm->entropy);
    loop_detach_clock(vm->env.loop);
    loop_cancel(vm->env.loop, tell_clock, vm);
    loop_cancel(vm->env.loop, tell_boot, vm);
    vclock_free(vm->clock);
    machine_config_clear(&vm->config);
    pthread_cond_destroy(&vm->changed);
    pthread_mutex_destroy(&vm->lock);
    free(vm);
}

/* ---- state ---- */

/* What belongs to the machine itself, gathered for the state table. */
struct machine_state {
    int64_t now_ns;
    int64_t wall_ns;
    uint64_t time_offset;
    uint32_t cpu_states[MACHINE_MAX_CPUS];
    uint64_t start_pc[MACHINE_MAX_CPUS], start_opaque[MACHINE_MAX_CPUS];
    uint8_t resume_at_start[MACHINE_MAX_CPUS], waiting[MACHINE_MAX_CPUS];
    uint64_t retired_before[MACHINE_MAX_CPUS];
    struct vm_round round;
    uint64_t entropy[ENTROPY_STATE_WORDS];
    uint32_t power_request, power_code; /* asked for, and not yet carried out */
};

static const struct state_field machine_fields[] = {
    STATE_UINT(struct machine_state, now_ns, "now-ns"),
    STATE_UINT(struct machine_state, wall_ns, "wall-ns"),
    STATE_UINT(struct machine_state, time_offset, "time-offset"),
    STATE_UINTS(struct machine_state, cpu_states, "cpu-states"),
    STATE_UINTS(struct machine_state, start_pc, "start-pc"),
    STATE_UINTS(struct machine_state, start_opaque, "start-opaque"),
    STATE_UINTS(struct machine_state, resume_at_start, "resume-at-start"),
    STATE_UINTS(struct machine_state, waiting, "waiting"),
    STATE_UINTS(struct machine_state, retired_before, "retired-before"),
    STATE_UINT(struct machine_state, round.cpu, "round-cpu"),
    STATE_UINT(struct machine_state, round.left, "round-left"),
    STATE_BOOL(struct machine_state, round.ran, "round-ran"),
    STATE_UINTS(struct machine_state, entropy, "entropy"),
    STATE_UINT(struct machine_state, power_request, "power-request"),
    STATE_UINT(struct machine_state, power_code, "power-code"),
    STATE_END,
};
static const struct state_table machine_state_table = {"machine", 1, machine_fields, NULL, NULL};

void vm_save_state(struct vm *vm, struct state_buffer *out)
{
    if (vm->forked_state.size > 0) {
        state_buffer_add(out, vm->forked_state.data, vm->forked_state.size);
        return;
    }
    struct machine_state machine = {
        .now_ns = vclock_now(vm->clock),
        .wall_ns = vclock_wall_now(vm->clock),
        .time_offset = atomic_load(&vm->timebase.offset_ticks),
        .round = vm->round,
        .power_request = (uint32_t)atomic_load(&vm->power_request),
        .power_code = atomic_load(&vm->power_code),
    };
    entropy_save(vm->entropy, machine.entropy);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        const struct vm_cpu *cpu = &vm->cpus[i];
        machine.cpu_states[i] = (uint32_t)atomic_load(&cpu->state);
        machine.start_pc[i] = cpu->start_pc;
        machine.start_opaque[i] = cpu->start_opaque;
        machine.resume_at_start[i] = cpu->resume_at_start;
        machine.waiting[i] = cpu->waiting;
        machine.retired_before[i] = cpu->retired_before;
    }
    state_save(&machine_state_table, &machine, out);
    for (unsigned i = 0; i < vm->cpu_count; i++)
        state_save(vm->isa->state, vm->vcpus[i], out);
    if (vm->machine != NULL)
        state_save(vm->machine->state, vm->machine, out);
    for (size_t i = 0; i < vm->device_count; i++)
        if (vm->devices[i]->ops->state != NULL)
            state_save(vm->devices[i]->ops->state, vm->devices[i], out);
}

static bool apply_machine_state(struct vm *vm, const struct machine_state *machine,
                                struct error **err)
{
    /* wall_ns may be anything: the guest sets its RTC to what it likes. */
    if (machine->now_ns < 0)
        return error_set(err, ERROR_USAGE, "the saved state has an impossible time");
    if (machine->round.left > VM_SLICE || machine->round.cpu > vm->cpu_count)
        return error_set(err, ERROR_USAGE, "the saved state has an impossible turn");
    if (!vm_power_restore(vm, machine->power_request, machine->power_code))
        return error_set(err, ERROR_USAGE, "the saved state has an impossible power request");
    vclock_set_now(vm->clock, machine->now_ns);
    /* The guest may have set its clock to anything: then it wraps as that does. */
    vclock_set_wall(vm->clock, (int64_t)((uint64_t)machine->wall_ns + (uint64_t)vm->elapsed_ns));
    atomic_store(&vm->timebase.offset_ticks, machine->time_offset);
    entropy_restore(vm->entropy, machine->entropy);
    vm->round = machine->round;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct vm_cpu *cpu = &vm->cpus[i];
        uint32_t state = machine->cpu_states[i];
        if (state != CPU_STARTED && state != CPU_STOPPED && state != CPU_START_PENDING &&
            state != CPU_SUSPENDED)
            return error_set(err, ERROR_USAGE, "the saved state has an impossible hart state");
        atomic_store(&cpu->state, (int)state);
        cpu->start_pc = machine->start_pc[i];
        cpu->start_opaque = machine->start_opaque[i];
        cpu->resume_at_start = machine->resume_at_start[i] != 0;
        cpu->waiting = machine->waiting[i] != 0;
        cpu->retired_before = machine->retired_before[i];
    }
    return true;
}

void vm_let_time_pass(struct vm *vm, int64_t elapsed_ns)
{
    vm->elapsed_ns = elapsed_ns;
}

void vm_forward_wall(struct vm *vm, int64_t elapsed_ns)
{
    uint64_t wall = (uint64_t)vclock_wall_now(vm->clock) + (uint64_t)elapsed_ns;
    vclock_set_wall(vm->clock, (int64_t)wall);
}

/* What boot_load() gives the vCPUs beside their state. */
static void connect_vcpus(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++)
        vm->vcpus[i]->htif_tohost = vm->files.boot.tohost_gpa;
    if (vm->board->restored != NULL)
        vm->board->restored(vm);
}

/* A device that machines did not have when the state was saved, and which its guest does not miss. */
static bool is_younger(const struct device *device, const uint8_t *data, size_t size, size_t at)
{
    return device->ops == &device_vmgenid &&
           !state_is_next(device->ops->state, data, size, at);
}

void vm_renew_generation(struct vm *vm)
{
    vm->generation.renew(vm->generation.device);
}

bool vm_restore_state(struct vm *vm, const uint8_t *data, size_t size, struct error **err)
{
    struct machine_state machine;
    size_t at = 0;
    if (!state_restore(&machine_state_table, &machine, data, size, &at, err) ||
        !apply_machine_state(vm, &machine, err))
        return false;
    for (unsigned i = 0; i < vm->cpu_count; i++)
        if (!state_restore(vm->isa->state, vm->vcpus[i], data, size, &at, err))
            return false;
    if (vm->machine != NULL &&
        !state_restore(vm->machine->state, vm->machine, data, size, &at, err))
        return false;
    for (size_t i = 0; i < vm->device_count; i++)
        if (vm->devices[i]->ops->state != NULL && !is_younger(vm->devices[i], data, size, at) &&
            !state_restore(vm->devices[i]->ops->state, vm->devices[i], data, size, &at, err)) {
            error_prefix(err, "device %s", vm->devices[i]->id);
            return false;
        }
    if (at != size)
        return error_set(err, ERROR_USAGE, "the saved state has %zu bytes too many", size - at);
    vm->loaded = vm->moved = true;
    connect_vcpus(vm);
    /* Whatever is pending makes itself known again. */
    for (unsigned i = 0; i < vm->cpu_count; i++)
        vcpu_attention(vm->vcpus[i], VCPU_ATTENTION_IRQ | VCPU_ATTENTION_TIMER |
                                         VCPU_ATTENTION_TLB | VCPU_ATTENTION_FENCE_I);
    return true;
}
