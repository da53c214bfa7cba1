/* SPDX-License-Identifier: MIT
 *
 * A profile of guest code by sampling. The loop's timer raises an attention bit in every vCPU
 * that is in the guest; the vCPU's own thread then notes its pc and mode. Nothing is in the
 * guest's way while no profile is taken, and nothing but the bit while one is.
 *
 * Threads: start, stop and report on the loop's thread; samples on the vCPUs'. The lock is a
 * leaf.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "vm/machine.h"

enum { PLACES = 16384, PLACES_USED_MAX = PLACES / 4 * 3 };

struct place {
    uint64_t pc;
    const char *mode; /* of the ISA's constants; NULL: free */
    uint64_t count;
};

struct profile {
    int timer;
    struct loop_watch *watch;
    uint64_t idle;        /* loop's thread */
    pthread_mutex_t lock; /* guards: */
    uint64_t samples, lost;
    unsigned used;
    struct place places[PLACES];
};

/* The place's slot, or the free one where it belongs. */
static struct place *find(struct profile *profile, uint64_t pc, const char *mode)
{
    size_t slot = (size_t)((pc >> 1 ^ pc >> 15 ^ pc >> 29) * UINT64_C(0x9e3779b97f4a7c15) >> 32);
    for (;; slot++) {
        struct place *place = &profile->places[slot % PLACES];
        if (place->mode == NULL || (place->pc == pc && place->mode == mode))
            return place;
    }
}

void vm_profile_sampled(struct vcpu *vcpu)
{
    const struct vm_cpu *cpu = vcpu->owner;
    struct profile *profile = cpu->vm->profile;
    if (profile == NULL)
        return;
    uint64_t pc = vcpu->isa->pc(vcpu);
    const char *mode = vcpu->isa->mode(vcpu);
    pthread_mutex_lock(&profile->lock);
    profile->samples++;
    struct place *place = find(profile, pc, mode);
    if (place->mode == NULL && profile->used == PLACES_USED_MAX) {
        profile->lost++;
    } else {
        profile->used += place->mode == NULL;
        place->pc = pc;
        place->mode = mode;
        place->count++;
    }
    pthread_mutex_unlock(&profile->lock);
}

static void sample(struct vcpu *vcpu)
{
    atomic_fetch_or(&vcpu->attention, (uint32_t)VCPU_ATTENTION_SAMPLE);
    if (vcpu->engine->kick != NULL)
        vcpu->engine->kick(vcpu);
}

static void on_timer(void *opaque, int fd, unsigned events)
{
    struct vm *vm = opaque;
    uint64_t ticks;
    (void)events;
    if (read(fd, &ticks, sizeof(ticks)) != (ssize_t)sizeof(ticks))
        return;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        if (atomic_load(&vm->vcpus[i]->in_guest))
            sample(vm->vcpus[i]);
        else
            vm->profile->idle++;
    }
}

bool vm_profile_start(struct vm *vm, unsigned hz, struct error **err)
{
    if (hz < 1 || hz > VM_PROFILE_HZ_MAX)
        return error_set(err, ERROR_USAGE, "a profile takes 1 to %d samples a second",
                         VM_PROFILE_HZ_MAX);
    vm_profile_stop(vm);
    struct profile *profile = alloc_zeroed(1, sizeof(*profile));
    pthread_mutex_init(&profile->lock, NULL);
    profile->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    long period = (long)(NS_PER_S / hz);
    struct itimerspec times = {
        .it_interval = {.tv_sec = period / NS_PER_S, .tv_nsec = period % NS_PER_S},
        .it_value = {.tv_sec = period / NS_PER_S, .tv_nsec = period % NS_PER_S},
    };
    if (profile->timer < 0 || timerfd_settime(profile->timer, 0, &times, NULL) != 0)
        error_set_errno(err, errno, "cannot make a timer");
    else
        profile->watch =
            loop_watch_add(vm->env.loop, profile->timer, LOOP_READABLE, on_timer, vm, err);
    vm_hold(vm);
    vm->profile = profile;
    vm_release(vm);
    if (profile->watch != NULL)
        return true;
    vm_profile_stop(vm);
    return false;
}

void vm_profile_stop(struct vm *vm)
{
    struct profile *profile = vm->profile;
    if (profile == NULL)
        return;
    vm_hold(vm);
    vm->profile = NULL;
    vm_release(vm);
    loop_watch_remove(profile->watch);
    if (profile->timer >= 0)
        close(profile->timer);
    pthread_mutex_destroy(&profile->lock);
    free(profile);
}

bool vm_profile_report(struct vm *vm, struct vm_profile *report, vm_profile_fn *each, void *opaque,
                       struct error **err)
{
    struct profile *profile = vm->profile;
    if (profile == NULL) {
        error_set(err, ERROR_USAGE, "no profile is being taken");
        error_hint(err, "Start one first.");
        return false;
    }
    pthread_mutex_lock(&profile->lock);
    *report = (struct vm_profile){profile->samples, profile->idle, profile->lost};
    for (size_t i = 0; i < PLACES; i++) {
        const struct place *place = &profile->places[i];
        if (place->mode != NULL)
            each(opaque, place->pc, place->mode, place->count);
    }
    pthread_mutex_unlock(&profile->lock);
    return true;
}
