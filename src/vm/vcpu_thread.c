/* SPDX-License-Identifier: MIT
 *
 * Host threads that run vCPUs: one per hart, or in deterministic mode one for all.
 *
 * A thread runs guest code, sleeps (wfi, stopped hart) on its cpu's own semaphore, or is
 * parked because a hold is on the VM. Whoever wants its attention sets the vCPU's attention
 * bits or its state and then calls vm_cpu_wake(); who sleeps clears `signalled` before it looks
 * again. Both are seq_cst: a wake-up between look and sleep is not lost, and one of a thread that
 * does not sleep costs no system call.
 *
 * Harts that wake each other in turn (a pipe's two ends) wait for some microseconds each time. So a
 * thread looks for a while before it sleeps, as long as that pays off; each time in a row that it
 * does not doubles the number of waits until the next try.
 *
 * Deterministic mode: every hart in turn runs exactly VM_SLICE instructions, then virtual time
 * moves by VM_SLICE × NS_PER_INSTRUCTION, then due timers fire and console input is delivered.
 * When all harts wait, time jumps to the next timer.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/trace.h"
#include "vm/board.h"
#include "vm/gdb/gdb.h"
#include "vm/input_gate.h"
#include "vm/machine.h"

enum { NS_PER_INSTRUCTION = 10 };
enum { SPIN_NS = 30000, TAKEN_AWAY_NS = 10000, SPIN_FAILURES_MAX = 5 };

/* ---- sleeping and parking ---- */

void vm_cpu_wake(struct vcpu *vcpu)
{
    struct vm_cpu *cpu = vcpu->owner;
    /* All harts share the first one's thread and condition in deterministic mode. */
    if (cpu->vm->config.deterministic)
        cpu = &cpu->vm->cpus[0];
    if (!atomic_exchange(&cpu->signalled, true))
        sem_post(&cpu->wake);
    if (atomic_load(&vcpu->in_guest) && vcpu->engine->kick != NULL)
        vcpu->engine->kick(vcpu);
}

static int64_t host_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* The owner thread, around what it sleeps in. */
static void go_away(struct vm_cpu *cpu)
{
    atomic_store(&cpu->away_since, host_now());
}

static void come_back(struct vm_cpu *cpu)
{
    atomic_fetch_add(&cpu->away_ns, host_now() - atomic_load(&cpu->away_since));
    atomic_store(&cpu->away_since, 0);
}

bool vm_cpu_time(const struct vm_cpu *cpu, struct vm_cpu_time *time)
{
    struct timespec spent;
    clockid_t clock;
    if (!cpu->has_thread || pthread_getcpuclockid(cpu->thread, &clock) != 0 ||
        clock_gettime(clock, &spent) != 0)
        return false;
    int64_t used = spent.tv_sec * NS_PER_S + spent.tv_nsec;
    int64_t since = atomic_load(&cpu->away_since), now = host_now();
    int64_t waited = now - cpu->begun_ns - atomic_load(&cpu->away_ns) - used -
                     (since != 0 ? now - since : 0);
    /* A guest that halts inside is not told from one that waits for a CPU. */
    if (cpu->vm->engine->halts_inside)
        waited = 0;
    *time = (struct vm_cpu_time){(uint64_t)used, waited > 0 ? (uint64_t)waited : 0};
    return true;
}

static void sleep_until_woken(struct vm_cpu *cpu)
{
    go_away(cpu);
    while (sem_wait(&cpu->wake) != 0)
        assert(errno == EINTR);
    come_back(cpu);
    atomic_store(&cpu->signalled, false);
}

/* True: `signalled` was seen soon, and nobody else wanted this core meanwhile. */
static bool spin(struct vm_cpu *cpu)
{
    int64_t begun = host_now(), now = begun, before;
    do {
        if (atomic_load(&cpu->signalled))
            return true;
        for (unsigned i = 0; i < 8; i++)
            atomic_thread_fence(memory_order_seq_cst);
        before = now;
        now = host_now();
    } while (now - begun < SPIN_NS && now - before < TAKEN_AWAY_NS);
    return false;
}

/* Of a hart that waits for an interrupt. */
static void wait_until_woken(struct vm_cpu *cpu)
{
    if (cpu->spin_skip > 0) {
        cpu->spin_skip--;
    } else if (spin(cpu)) {
        cpu->spin_failures = 0;
    } else {
        cpu->spin_failures += cpu->spin_failures < SPIN_FAILURES_MAX;
        cpu->spin_skip = (1u << cpu->spin_failures) - 1;
    }
    sleep_until_woken(cpu);
}

/* Stands still while a hold is on the VM. False: the thread shall end. */
static bool park_if_held(struct vm_cpu *cpu)
{
    struct vm *vm = cpu->vm;
    if (atomic_load(&vm->holds) == 0)
        return true;
    go_away(cpu);
    pthread_mutex_lock(&vm->lock);
    vm->parked++;
    pthread_cond_broadcast(&vm->changed);
    while (atomic_load(&vm->holds) > 0 && !vm->quit_threads)
        pthread_cond_wait(&vm->changed, &vm->lock);
    vm->parked--;
    bool go_on = !vm->quit_threads;
    pthread_mutex_unlock(&vm->lock);
    come_back(cpu);
    return go_on;
}

void vm_cpu_reset(struct vm_cpu *cpu)
{
    cpu->retired_before += cpu->vcpu->retired;
    cpu->vm->isa->vcpu_reset(cpu->vcpu);
    if (cpu->vm->board->reset_cpu != NULL)
        cpu->vm->board->reset_cpu(cpu);
}

/* ---- what a vCPU leaves run() for ---- */

static void report_failed(struct vm_cpu *cpu)
{
    char text[4096], *rest = text;
    cpu->vm->isa->dump(cpu->vcpu, text, sizeof(text));
    for (char *line; (line = strsep(&rest, "\n")) != NULL;)
        if (*line != '\0')
            log_error(cpu->vm->log, "%s", line);
    vm_power(cpu->vm, VM_POWER_WEDGED, 0);
}

static void report_wedged(struct vm_cpu *cpu)
{
    log_error(cpu->vm->log, "vCPU %u traps without end at its own trap vector:", cpu->vcpu->index);
    report_failed(cpu);
}

/* HTIF (riscv-isa-sim): bits 63:56 device, 55:48 command. Device 0 is the system: an odd
 * payload ends the run, an even one is the address of a system call of which only write()
 * exists; device 1 command 1 prints a character. */
static void serve_htif(struct vm_cpu *cpu)
{
    struct vm *vm = cpu->vm;
    uint64_t value = cpu->vcpu->htif_value, answer = 1, call[4];
    unsigned device = (unsigned)(value >> 56), command = (unsigned)(value >> 48 & 0xff);
    uint64_t payload = bits_get(value, 0, 48);
    uint8_t zero[8] = {0}, bytes[8], character = (uint8_t)payload;
    struct char_backend *console = vm->env.console;
    cpu->vcpu->htif_value = 0;
    mem_write(vm->mem, vm->files.boot.tohost_gpa, zero, sizeof(zero));
    if (device == 0 && (payload & 1) != 0) {
        /* A failure stays one, however large its code. */
        uint32_t code = payload >> 1 > UINT32_MAX ? UINT32_MAX : (uint32_t)(payload >> 1);
        vm_power(vm, code == 0 ? VM_POWER_OFF : VM_POWER_FAILURE, code);
        return;
    }
    if (device == 1 && command == 1 && console != NULL) {
        console->write(console, &character, 1);
    } else if (device == 0 && mem_read(vm->mem, payload, call, sizeof(call)) &&
               call[0] == 64 /* write */ && call[3] <= 64 * KIB) {
        const void *text = mem_ram_pointer(vm->mem, call[2], call[3], MEM_READ);
        if (text != NULL && console != NULL)
            console->write(console, text, (size_t)call[3]);
        store_le64(bytes, call[3]);
        mem_write(vm->mem, payload, bytes, sizeof(bytes));
    }
    if (vm->files.boot.fromhost_gpa != 0) {
        store_le64(bytes, answer);
        mem_write(vm->mem, vm->files.boot.fromhost_gpa, bytes, sizeof(bytes));
    }
}

/* True: the vCPU waits for an interrupt. */
static bool serve_exit(struct vm_cpu *cpu, enum vcpu_exit reason)
{
    switch (reason) {
    case VCPU_EXIT_KICK:
    case VCPU_EXIT_BUDGET:
    case VCPU_EXIT_DEBUG:
        return false;
    case VCPU_EXIT_WAIT:
        return true;
    case VCPU_EXIT_ECALL:
        return cpu->vm->board->call(cpu);
    case VCPU_EXIT_HTIF:
        serve_htif(cpu);
        return false;
    case VCPU_EXIT_WEDGED:
        report_wedged(cpu);
        return false;
    case VCPU_EXIT_RESET:
        log_info(cpu->vm->log, "vCPU %u has shut down, which resets the machine", cpu->vcpu->index);
        vm_power(cpu->vm, VM_POWER_RESET, 0);
        return false;
    case VCPU_EXIT_FAILED:
        report_failed(cpu);
        return false;
    case VCPU_EXITS:
        break;
    }
    return false;
}

/* Serves what the vCPU left run() for, then lets a debugger know if it cares. */
static void handle_exit(struct vm_cpu *cpu, enum vcpu_exit reason)
{
    const struct vcpu_debug *debug = cpu->vcpu->debug;
    struct trace *trace = cpu->vcpu->trace;
    cpu->exits[reason]++;
    if (trace_on(trace, TRACE_EXITS))
        trace_line(trace, "vcpu%u exit %s pc=%llx retired=%llu", cpu->vcpu->index,
                   vm_exit_names[reason], (unsigned long long)cpu->vm->isa->pc(cpu->vcpu),
                   (unsigned long long)cpu->vcpu->retired);
    cpu->waiting = serve_exit(cpu, reason) || cpu->waiting;
    if (debug != NULL && debug->stop != VCPU_STOP_NONE)
        gdb_cpu_stopped(cpu->vm->gdb);
}

/* A hart that another one started, or that wakes from a non-retentive suspend. */
static void begin_at_start(struct vm_cpu *cpu)
{
    vm_cpu_reset(cpu);
    cpu->vm->board->begin_cpu(cpu);
    cpu->resume_at_start = false;
    atomic_store(&cpu->state, CPU_STARTED);
}

/* Brings a waiting, suspended or just started hart to where run() can go on. False: it has
 * nothing to run yet. */
static bool make_runnable(struct vm_cpu *cpu)
{
    int state = atomic_load(&cpu->state);
    if (cpu->held_back)
        return false;
    if (state == CPU_STOPPED || state == CPU_CLAIMED)
        return false;
    if (state == CPU_START_PENDING) {
        begin_at_start(cpu);
        cpu->waiting = false;
        return true;
    }
    if (cpu->waiting) {
        /* Attention may hold what ends the wait: a timer, a line. */
        cpu->vm->isa->obey(cpu->vcpu);
        if (!cpu->vm->isa->wait_is_over(cpu->vcpu))
            return false;
        cpu->waiting = false;
    }
    if (state == CPU_SUSPENDED) {
        atomic_store(&cpu->state, CPU_STARTED);
        if (cpu->resume_at_start)
            begin_at_start(cpu);
    }
    return true;
}

static enum vcpu_exit run_guest(struct vm_cpu *cpu, uint64_t budget)
{
    vm_fence_enter(cpu);
    enum vcpu_exit reason = cpu->vm->engine->run(cpu->vcpu, budget);
    vm_fence_leave(cpu);
    return reason;
}

/* ---- one thread per hart ---- */

/* Naming another thread would take a file of /proc. */
static void name_thread(const struct vm_cpu *cpu)
{
    char name[16];
    snprintf(name, sizeof(name), "vcpu%u", (unsigned)(cpu - cpu->vm->cpus));
    pthread_setname_np(pthread_self(), name);
}

static void *run_one(void *opaque)
{
    struct vm_cpu *cpu = opaque;
    name_thread(cpu);
    while (park_if_held(cpu)) {
        if (!make_runnable(cpu)) {
            if (cpu->waiting)
                wait_until_woken(cpu);
            else
                sleep_until_woken(cpu);
            continue;
        }
        handle_exit(cpu, run_guest(cpu, UINT64_MAX));
    }
    return NULL;
}

/* ---- deterministic mode: one thread for all harts ---- */

/* Goes on with a hart's turn to its end; false: a hold came first. */
static bool run_turn(struct vm *vm, struct vm_cpu *cpu)
{
    struct vm_round *round = &vm->round;
    while (round->left > 0) {
        if (atomic_load(&vm->holds) > 0)
            return false;
        if (!make_runnable(cpu))
            break;
        uint64_t before = cpu->vcpu->retired;
        enum vcpu_exit reason = run_guest(cpu, round->left);
        uint64_t done = cpu->vcpu->retired - before;
        round->left -= done < round->left ? done : round->left;
        handle_exit(cpu, reason);
        round->ran = true;
        if (done == 0 && reason != VCPU_EXIT_KICK && reason != VCPU_EXIT_DEBUG)
            break; /* traps without retiring use up the turn too */
    }
    return true;
}

/* One turn of every hart; false: a hold came first, the next call goes on from there. */
static bool run_round(struct vm *vm)
{
    struct vm_round *round = &vm->round;
    while (round->cpu < vm->cpu_count) {
        if (!run_turn(vm, &vm->cpus[round->cpu]))
            return false;
        round->cpu++;
        round->left = VM_SLICE;
    }
    return true;
}

/* Between two rounds: time moves, and the outside is heard. */
static void end_round(struct vm *vm)
{
    bool ran = vm->round.ran;
    int64_t now = vclock_now(vm->clock), deadline = vclock_next_deadline(vm->clock);
    vm->round = (struct vm_round){.left = VM_SLICE};
    if (ran)
        vclock_advance(vm->clock, VM_SLICE * NS_PER_INSTRUCTION);
    else if (deadline != VCLOCK_NEVER && deadline > now)
        vclock_advance(vm->clock, deadline - now);
    vclock_run_timers(vm->clock);
    bool heard = input_gate_deliver(vm->gates[0]);
    heard = input_gate_deliver(vm->gates[1]) || heard;
    if (!ran && !heard && deadline == VCLOCK_NEVER)
        sleep_until_woken(&vm->cpus[0]); /* all wait, and only the outside can end that */
}

static void *run_all(void *opaque)
{
    struct vm *vm = opaque;
    name_thread(&vm->cpus[0]);
    while (park_if_held(&vm->cpus[0]))
        if (run_round(vm))
            end_round(vm);
    return NULL;
}

/* ---- life of the threads ---- */

void vm_cpu_threads_stop(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->quit_threads = true;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        if (!vm->cpus[i].has_thread)
            continue;
        pthread_join(vm->cpus[i].thread, NULL);
        vm->cpus[i].has_thread = false;
    }
    vm->threads = 0;
    vm->quit_threads = false;
}

bool vm_cpu_threads_start(struct vm *vm, struct error **err)
{
    unsigned count = vm->config.deterministic ? 1 : vm->cpu_count;
    for (unsigned i = 0; i < count; i++) {
        struct vm_cpu *cpu = &vm->cpus[i];
        cpu->begun_ns = host_now();
        atomic_store(&cpu->away_ns, 0);
        atomic_store(&cpu->away_since, 0);
        int number = vm->config.deterministic ? pthread_create(&cpu->thread, NULL, run_all, vm)
                                              : pthread_create(&cpu->thread, NULL, run_one, cpu);
        if (number != 0) {
            vm_cpu_threads_stop(vm);
            return error_set_errno(err, number, "cannot start a thread for vCPU %u", i);
        }
        cpu->has_thread = true;
        vm->threads++;
    }
    return true;
}

bool vm_cpus_new(struct vm *vm, struct error **err)
{
    for (unsigned i = 0; i < machine_max_cpus(&vm->config); i++) {
        struct vm_cpu *cpu = &vm->cpus[i];
        const struct vcpu_setup setup = {
            .index = i,
            .mem = vm->mem,
            .ports = vm->ports,
            .timebase = &vm->timebase,
            .log = vm->log,
            .messages = vm->aia,
            .wake = vm_cpu_wake,
            .sampled = vm_profile_sampled,
            .owner = cpu,
            .engine_options = &vm->engine_options,
        };
        cpu->vm = vm;
        sem_init(&cpu->wake, 0, 0);
        pthread_mutex_init(&cpu->fences.lock, NULL);
        cpu->vcpu = vm->isa->vcpu_new(&setup, err);
        vm->vcpus[i] = cpu->vcpu;
        vm->cpu_count++;
        if (cpu->vcpu == NULL)
            return false;
    }
    return true;
}

void vm_cpus_free(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct vm_cpu *cpu = &vm->cpus[i];
        if (cpu->vcpu != NULL) {
            if (cpu->vcpu->engine_data != NULL)
                cpu->vcpu->engine->detach(cpu->vcpu);
            vm->isa->vcpu_free(cpu->vcpu);
        }
        sem_destroy(&cpu->wake);
        pthread_mutex_destroy(&cpu->fences.lock);
    }
    vm->cpu_count = 0;
}
