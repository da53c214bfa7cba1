/* SPDX-License-Identifier: MIT
 *
 * vCPUs that stand still for a part of the time: a migration's means against a guest that writes to
 * its memory faster than it can be sent. Each turn of running is measured and paid for by a hold,
 * so that the part is kept however late the timer comes. To the guest it is as if the host were
 * busy.
 */
#include <stdlib.h>

#include "base/alloc.h"
#include "base/vclock.h"
#include "vm/machine.h"

#define PERIOD_NS INT64_C(10000000)

struct throttle {
    struct vm *vm;
    struct vtimer *timer;
    unsigned percent; /* 0: off */
    bool held;
    int64_t since; /* it runs; the VM's clock */
};

static void turn(void *opaque)
{
    struct throttle *throttle = opaque;
    int64_t now = vclock_now(throttle->vm->clock), runs = 100 - throttle->percent;
    if (throttle->held) {
        throttle->held = false;
        throttle->since = now;
        vm_release(throttle->vm);
        vtimer_arm(throttle->timer, now + PERIOD_NS * runs / 100);
        return;
    }
    int64_t ran = now - throttle->since;
    throttle->held = true;
    vm_hold_begin(throttle->vm);
    vtimer_arm(throttle->timer, now + ran * throttle->percent / runs);
}

void vm_throttle(struct vm *vm, unsigned percent)
{
    struct throttle *throttle = vm->throttle;
    if (vm->config.deterministic || (throttle == NULL && percent == 0))
        return;
    if (throttle == NULL) {
        throttle = vm->throttle = alloc_zeroed(1, sizeof(*throttle));
        throttle->vm = vm;
        throttle->timer = vtimer_new(vm->clock, turn, throttle);
    }
    bool was_off = throttle->percent == 0;
    throttle->percent = percent < VM_THROTTLE_MAX ? percent : VM_THROTTLE_MAX;
    if (percent > 0 && was_off) {
        throttle->since = vclock_now(vm->clock);
        vtimer_arm(throttle->timer, throttle->since + PERIOD_NS * (100 - throttle->percent) / 100);
    } else if (percent == 0) {
        vtimer_disarm(throttle->timer);
        if (throttle->held)
            vm_release(vm);
        throttle->held = false;
    }
}

void vm_throttle_free(struct vm *vm)
{
    if (vm->throttle == NULL)
        return;
    vm_throttle(vm, 0);
    vtimer_free(vm->throttle->timer);
    free(vm->throttle);
    vm->throttle = NULL;
}
