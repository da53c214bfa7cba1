/* SPDX-License-Identifier: MIT
 *
 * A vCPU on KVM: its life, entering the guest, and getting it out again.
 *
 * Who wants it out sets its attention and kicks it; it sets in_guest before it looks at attention. So a
 * kick that is not seen there finds in_guest set, and ends KVM_RUN: by immediate_exit, if that has not
 * begun, by a signal if it has.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "engine/kvm/kvm_internal.h"

/* The C library's own are below. */
#define KICK_SIGNAL (SIGRTMIN + 1)

/* ---- kicks ---- */

static void ignore(int signal)
{
    (void)signal;
}

static bool make_timer(struct kvm_cpu *kvm)
{
    struct sigaction action = {.sa_handler = ignore};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL};
    sigset_t signals;
    event._sigev_un._tid = gettid();
    sigemptyset(&signals);
    sigaddset(&signals, KICK_SIGNAL);
    kvm->has_timer = sigaction(KICK_SIGNAL, &action, NULL) == 0 &&
                     timer_create(CLOCK_MONOTONIC, &event, &kvm->timer) == 0;
    kvm->thread = pthread_self();
    return kvm->has_timer && pthread_sigmask(SIG_UNBLOCK, &signals, NULL) == 0;
}

static void drop_timer(struct kvm_cpu *kvm)
{
    if (kvm->has_timer)
        timer_delete(kvm->timer);
    kvm->has_timer = false;
}

void kvm_kick(struct vcpu *vcpu)
{
    struct kvm_cpu *kvm = vcpu->engine_data;
    const struct itimerspec soon = {.it_value = {.tv_nsec = 1}};
    __atomic_store_n(&kvm->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    (void)timer_settime(kvm->timer, 0, &soon, NULL);
}

/* ---- running ---- */

static bool prepare(struct kvm_cpu *kvm)
{
    struct error *error = NULL;
    if (kvm->has_timer && !pthread_equal(kvm->thread, pthread_self()))
        drop_timer(kvm);
    if (!kvm->has_timer && !make_timer(kvm)) {
        log_error(kvm->machine->log, "cannot make a timer for vCPU %u: %s", kvm->cpu->vcpu.index,
                  strerror(errno));
        return false;
    }
    if (!kvm->cpu->changed || kvm->cpu->keeper->store(kvm->cpu, &error))
        return true;
    log_error(kvm->machine->log, "%s", error_message(error));
    error_free(error);
    return false;
}

/* True: run() is to return. What else is asked for does not exist here. */
static bool look_up(struct vcpu *vcpu)
{
    uint32_t bits = atomic_exchange(&vcpu->attention, 0);
    if ((bits & VCPU_ATTENTION_SAMPLE) != 0 && vcpu->sampled != NULL)
        vcpu->sampled(vcpu);
    return (bits & VCPU_ATTENTION_KICK) != 0;
}

/* Lets an instruction that was left in the middle come to its end, and nothing more. */
static bool complete(struct kvm_cpu *kvm, enum vcpu_exit *exit)
{
    while (kvm->incomplete) {
        kvm->incomplete = false;
        __atomic_store_n(&kvm->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        if (ioctl(kvm->fd, KVM_RUN, 0) == 0 && !kvm_serve(kvm, exit))
            return false;
    }
    return true;
}

/* Enters the guest once. False: run() returns *exit. */
static bool enter(struct kvm_cpu *kvm, enum vcpu_exit *exit)
{
    struct vcpu *vcpu = &kvm->cpu->vcpu;
    atomic_store(&vcpu->in_guest, true);
    __atomic_store_n(&kvm->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    if (atomic_load(&vcpu->attention) != 0) {
        atomic_store(&vcpu->in_guest, false);
        if (!complete(kvm, exit))
            return false;
        *exit = VCPU_EXIT_KICK;
        return !look_up(vcpu);
    }
    int result = ioctl(kvm->fd, KVM_RUN, 0), number = errno;
    atomic_store(&vcpu->in_guest, false);
    kvm->incomplete = false;
    kvm->exits++;
    if (result == 0)
        return kvm_serve(kvm, exit);
    if (number == EINTR || number == EAGAIN)
        return true;
    kvm_tell_error(kvm, number);
    *exit = VCPU_EXIT_FAILED;
    return false;
}

enum vcpu_exit kvm_run(struct vcpu *vcpu, uint64_t budget)
{
    struct kvm_cpu *kvm = vcpu->engine_data;
    enum vcpu_exit exit = VCPU_EXIT_FAILED;
    (void)budget; /* nobody counts a guest's instructions */
    if (!prepare(kvm) || !kvm_debug_begin(kvm, &exit))
        return exit;
    while (enter(kvm, &exit))
        ;
    return exit;
}

/* ---- life ---- */

static bool make(struct kvm_cpu *kvm, struct error **err)
{
    unsigned index = kvm->cpu->vcpu.index;
    kvm->fd = ioctl(kvm->machine->vm, KVM_CREATE_VCPU, (unsigned long)index);
    if (kvm->fd < 0)
        return error_set_errno(err, errno, "KVM makes no vCPU %u", index);
    void *run = mmap(NULL, kvm->machine->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, kvm->fd, 0);
    if (run == MAP_FAILED)
        return error_set_errno(err, errno, "KVM makes no vCPU %u", index);
    kvm->run = run;
    /* A copy of this process (vm/fork.h) makes vCPUs of its own, and shall not keep ours alive. */
    (void)madvise(run, kvm->machine->run_size, MADV_DONTFORK);
    return kvm_map_ring(kvm, err) && kvm_set_cpuid(kvm, err) && kvm_find_msrs(kvm, err);
}

bool kvm_attach(struct vcpu *vcpu, struct error **err)
{
    struct kvm_cpu *kvm = alloc_zeroed(1, sizeof(*kvm));
    *kvm = (struct kvm_cpu){
        .cpu = x86_cpu_of(vcpu), .machine = kvm_machine_of(vcpu->machine), .fd = -1};
    vcpu->engine_data = kvm;
    kvm->machine->attached[vcpu->index] = kvm;
    if (!make(kvm, err)) {
        kvm_detach(vcpu);
        return false;
    }
    /* What KVM has made is a processor as at power-on. */
    kvm->cpu->keeper = &kvm_keeper;
    x86_fetch(kvm->cpu);
    kvm->cpu->power_on = kvm->cpu->state;
    return true;
}

void kvm_detach(struct vcpu *vcpu)
{
    struct kvm_cpu *kvm = vcpu->engine_data;
    x86_cpu_of(vcpu)->keeper = NULL;
    kvm->machine->attached[vcpu->index] = NULL;
    drop_timer(kvm);
    kvm_drop_ring(kvm);
    if (kvm->run != NULL)
        munmap(kvm->run, kvm->machine->run_size);
    if (kvm->fd >= 0)
        close(kvm->fd);
    free(kvm);
    vcpu->engine_data = NULL;
}

void kvm_count(const struct vcpu *vcpu, vcpu_count_fn *each, void *opaque)
{
    static const struct vcpu_counter counters[] = {
        {"kvm-exits", offsetof(struct kvm_cpu, exits)},
        {"kvm-exits-io", offsetof(struct kvm_cpu, io_exits)},
        {"kvm-exits-mmio", offsetof(struct kvm_cpu, mmio_exits)},
        {"kvm-exits-ring", offsetof(struct kvm_cpu, ring_exits)},
    };
    vcpu_count(counters, ARRAY_SIZE(counters), vcpu->engine_data, each, opaque);
}

static bool supports(const struct isa *isa)
{
    return isa == &isa_x86_64;
}

const struct engine engine_kvm = {
    .name = "kvm",
    .supports = supports,
    .machine_new = kvm_machine_new,
    .direct_memory = true,
    .halts_inside = true,
    .kick = kvm_kick,
    .attach = kvm_attach,
    .detach = kvm_detach,
    .run = kvm_run,
    .count = kvm_count,
};
