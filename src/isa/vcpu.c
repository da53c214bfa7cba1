/* SPDX-License-Identifier: MIT
 *
 * Requests from other threads to a vCPU.
 *
 * A request is a bit in `attention`. Raising one is a release: what the requester wrote
 * before it (an interrupt line, an emptied ring) is seen by the vCPU that takes the bit.
 *
 * vcpu_attention_sync() and the entry into run() are Dekker's pattern:
 *
 *     requester                      vCPU
 *     attention |= bits  (R1)        in_guest = true      (V1)
 *     read in_guest      (R2)        read attention       (V2)
 *
 * All four are seq_cst, so they have one total order. If R2 reads false, V1 comes after it,
 * hence V2 after R1: the vCPU sees the bits and obeys before its first instruction. If R2
 * reads true, the requester waits until the vCPU has cleared the bits (or has left).
 * The vCPU clears bits by a read-modify-write that is a release, before it drops anything:
 * every guest access made with the old translations comes before that in program order and
 * thus happens before the requester's acquiring load that sees the bits cleared; every later
 * access comes after the drop, which the vCPU's own program order puts behind the clearing.
 * in_guest = false is a release for the same reason.
 */
#include "isa/vcpu.h"

#include <assert.h>

#include "base/backoff.h"

#define SYNC_BITS                                                                                  \
    ((uint32_t)(VCPU_ATTENTION_TLB | VCPU_ATTENTION_STORES | VCPU_ATTENTION_WRITES |               \
                VCPU_ATTENTION_FENCE_I))

int64_t vcpu_time_to_deadline(struct vcpu_timebase *timebase, uint64_t ticks)
{
    uint64_t offset = atomic_load_explicit(&timebase->offset_ticks, memory_order_relaxed);
    int64_t now = vclock_now(timebase->clock);
    uint64_t per_tick = (uint64_t)timebase->ns_per_tick;
    assert(now >= 0 && timebase->ns_per_tick > 0);

    /* The clock's own count fits an int64; the guest's count is that plus any offset modulo
     * 2^64, so the distance is computed in the guest's count and added in the clock's. */
    uint64_t clock_ticks = (uint64_t)now / per_tick;
    uint64_t guest_ticks = clock_ticks + offset;
    if (guest_ticks >= ticks)
        return now;
    uint64_t distance = ticks - guest_ticks;
    uint64_t limit = (uint64_t)INT64_MAX / per_tick;
    if (distance > limit - clock_ticks)
        return VCLOCK_NEVER;
    return (int64_t)((clock_ticks + distance) * per_tick);
}

void vcpu_set_interrupt(struct vcpu *vcpu, unsigned line, bool level)
{
    assert(line < 64);
    uint64_t bit = UINT64_C(1) << line;
    if (!level) {
        /* Nobody has to look up for a line that went away: interrupts are read afresh
         * whenever one is to be taken. */
        atomic_fetch_and(&vcpu->interrupts, ~bit);
    } else if (!(atomic_fetch_or(&vcpu->interrupts, bit) & bit)) {
        vcpu_attention(vcpu, VCPU_ATTENTION_IRQ);
    }
}

void vcpu_attention(struct vcpu *vcpu, uint32_t bits)
{
    atomic_fetch_or(&vcpu->attention, bits);
    if (vcpu->wake)
        vcpu->wake(vcpu);
}

static void obey_own(struct vcpu *self)
{
    uint32_t bits = atomic_load(&self->attention) & SYNC_BITS;
    if (bits == 0)
        return;
    atomic_fetch_and(&self->attention, ~bits);
    self->isa->drop(self, bits);
    vcpu_look_up_again(self);
}

void vcpu_attention_sync(struct vcpu *self, struct vcpu *const *vcpus, size_t count, uint32_t bits)
{
    assert((bits & ~SYNC_BITS) == 0);
    /* All first, then wait: they obey at the same time. */
    for (size_t i = 0; i < count; i++)
        vcpu_ask(vcpus[i], bits);
    for (size_t i = 0; i < count; i++) {
        struct vcpu *vcpu = vcpus[i];
        for (unsigned round = 0; !vcpu_has_obeyed(vcpu, bits); round++) {
            if (self)
                obey_own(self);
            if (vcpu != self)
                backoff(round); /* a block takes microseconds */
        }
    }
}
