/* SPDX-License-Identifier: MIT
 *
 * A debugger's points and steps (api.rst, "4.87 KVM_SET_GUEST_DEBUG"): while there is one, the processor's
 * debug registers and trap flag are its, and not the guest's. Bits: SDM 3B, 18.2.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/bits.h"
#include "base/log.h"
#include "engine/kvm/kvm_internal.h"

enum { DR6_POINTS = 0xf, DR6_ACCESS = 1 << 13, DR6_STEP = 1 << 14, DR6_TASK = 1 << 15 };
enum { DR7_LENGTHS = 18, DR7_KINDS = 16 };

/* DR7's part of one point: enabled, what for, and how long. */
static uint64_t control_of(const struct vcpu_point *point, unsigned place)
{
    enum { EXECUTE = 0, WRITE = 1, ACCESS = 3 };
    static const uint8_t lengths[9] = {[1] = 0, [2] = 1, [4] = 3, [8] = 2};
    uint64_t kind = point->kind <= VCPU_POINT_BREAK_HARD ? EXECUTE
                    : point->kind == VCPU_POINT_WRITE    ? WRITE
                                                         : ACCESS;
    uint64_t length = kind == EXECUTE ? 0 : lengths[(point->last - point->first + 1) & 15];
    return UINT64_C(2) << (2 * place) | kind << (DR7_KINDS + 4 * place) |
           length << (DR7_LENGTHS + 4 * place);
}

static bool arm(struct kvm_cpu *kvm, const struct vcpu_debug *debug, uint32_t more)
{
    struct kvm_guest_debug wish = {0};
    if (debug != NULL) {
        wish.control = KVM_GUESTDBG_ENABLE | more;
        if (debug->step)
            wish.control |= KVM_GUESTDBG_SINGLESTEP | kvm->machine->debug_flags;
        if (debug->points->count > 0)
            wish.control |= KVM_GUESTDBG_USE_HW_BP;
        wish.arch.debugreg[7] = 0x400; /* always one */
        for (unsigned i = 0; i < debug->points->count && i < X86_DEBUG_POINTS; i++) {
            wish.arch.debugreg[i] = debug->points->point[i].first;
            wish.arch.debugreg[7] |= control_of(&debug->points->point[i], i);
        }
    }
    if (kvm_ioctl(kvm->fd, KVM_SET_GUEST_DEBUG, &wish) == 0)
        return true;
    log_error(kvm->machine->log, "KVM does not let vCPU %u be debugged: %s", kvm->cpu->vcpu.index,
              strerror(errno));
    return false;
}

bool kvm_debug_begin(struct kvm_cpu *kvm, enum vcpu_exit *exit)
{
    const struct vcpu_debug *debug = kvm->cpu->vcpu.debug;
    if (debug == NULL && !kvm->debugged)
        return true;
    *exit = VCPU_EXIT_DEBUG;
    if (debug != NULL && debug->stop != VCPU_STOP_NONE)
        return false;
    kvm->debugged = debug != NULL;
    *exit = VCPU_EXIT_FAILED;
    return arm(kvm, debug, 0);
}

static bool in_range(const struct vcpu_debug *debug, uint64_t pc)
{
    return pc >= debug->step_first && pc < debug->step_last;
}

/* The first of the points that were met. */
static void find_point(struct vcpu_debug *debug, uint64_t dr6)
{
    for (unsigned i = 0; i < debug->points->count && i < X86_DEBUG_POINTS; i++) {
        const struct vcpu_point *point = &debug->points->point[i];
        if ((dr6 >> i & 1) == 0)
            continue;
        debug->stop = point->kind <= VCPU_POINT_BREAK_HARD ? VCPU_STOP_BREAK : VCPU_STOP_WATCH;
        debug->stop_kind = point->kind;
        debug->stop_address = point->first;
        break;
    }
}

/* The guest gets its own debug exception. DR6, where it looks for the reason, KVM leaves as it was. */
static bool give_back(struct kvm_cpu *kvm, const struct vcpu_debug *debug, uint64_t dr6)
{
    struct kvm_debugregs regs;
    if (kvm_ioctl(kvm->fd, KVM_GET_DEBUGREGS, &regs) == 0) {
        regs.dr6 &= ~(uint64_t)DR6_POINTS;
        regs.dr6 |= dr6 & (DR6_ACCESS | DR6_STEP | DR6_TASK);
        (void)kvm_ioctl(kvm->fd, KVM_SET_DEBUGREGS, &regs);
    }
    return arm(kvm, debug, KVM_GUESTDBG_INJECT_DB);
}

bool kvm_debug_stop(struct kvm_cpu *kvm, enum vcpu_exit *exit)
{
    const struct kvm_debug_exit_arch *why = &kvm->run->debug.arch;
    struct vcpu_debug *debug = kvm->cpu->vcpu.debug;
    bool step = (why->dr6 & DR6_STEP) != 0, good = true;
    if (debug == NULL)
        return true;
    find_point(debug, why->dr6);
    if (step && !debug->step && debug->stop == VCPU_STOP_BREAK)
        debug->stop = VCPU_STOP_NONE; /* it is met again behind the guest's own handler */
    if (step && debug->step) {
        if (debug->stop == VCPU_STOP_NONE && !in_range(debug, why->pc))
            debug->stop = VCPU_STOP_STEP;
    } else if (step || debug->stop == VCPU_STOP_NONE) {
        good = give_back(kvm, debug, why->dr6);
    }
    *exit = good ? VCPU_EXIT_DEBUG : VCPU_EXIT_FAILED;
    return good && debug->stop == VCPU_STOP_NONE;
}
