/* SPDX-License-Identifier: MIT
 *
 * Core-local interrupts and time ("RISC-V Advanced Core Local Interruptor Specification"
 * 1.0): MSWI and MTIMER at the offsets of SiFive's CLINT, which software knows best.
 *
 *     0x0000 + 4 hart   msip       bit 0 drives the hart's machine software interrupt
 *     0x4000 + 8 hart   mtimecmp   machine timer interrupt while mtime >= mtimecmp
 *     0xbff8            mtime      the machine's time base; shared with the time CSR
 *
 * A write to mtime moves the time base for everybody: comparators here are armed again, and
 * every hart is told to look at its own one (Sstc).
 *
 * params: gpa, irq_phandle.
 */
#include <assert.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "bus/device.h"
#include "bus/fdt_node.h"
#include "isa/vcpu.h"
#include "mem/mem.h"

#define MAX_HARTS   8
#define REGION_SIZE 0x10000

enum { MTIMECMP_BASE = 0x4000, MTIME = 0xbff8 };
enum { IRQ_M_SOFTWARE = 3, IRQ_M_TIMER = 7 };

struct aclint_hart {
    struct aclint *aclint;
    unsigned index;
    struct vtimer *timer;
    bool timer_level; /* what the hart was last told */
};

struct aclint {
    struct device device;
    struct mem_io io;
    uint32_t cpu_phandle;
    struct aclint_hart harts[MAX_HARTS];
    bool msip[MAX_HARTS];
    uint64_t mtimecmp[MAX_HARTS];
};

static void update_timer(struct aclint *aclint, unsigned hart)
{
    struct aclint_hart *state = &aclint->harts[hart];
    struct vcpu_timebase *timebase = aclint->device.env->timebase;
    uint64_t compare = aclint->mtimecmp[hart];
    bool level = vcpu_time(timebase) >= compare;
    if (level != state->timer_level) {
        state->timer_level = level;
        vcpu_set_interrupt(aclint->device.env->vcpus[hart], IRQ_M_TIMER, level);
    }
    if (level)
        vtimer_disarm(state->timer);
    else
        vtimer_arm(state->timer, vcpu_time_to_deadline(timebase, compare));
}

static void timer_fired(void *opaque)
{
    struct aclint_hart *state = opaque;
    struct aclint *aclint = state->aclint;
    pthread_mutex_lock(&aclint->device.lock);
    update_timer(aclint, state->index);
    pthread_mutex_unlock(&aclint->device.lock);
}

static void set_msip(struct aclint *aclint, unsigned hart, bool level)
{
    if (aclint->msip[hart] == level)
        return;
    aclint->msip[hart] = level;
    vcpu_set_interrupt(aclint->device.env->vcpus[hart], IRQ_M_SOFTWARE, level);
}

static void set_time(struct aclint *aclint, uint64_t ticks)
{
    const struct device_env *env = aclint->device.env;
    uint64_t clock_ticks = vcpu_time(env->timebase) - atomic_load(&env->timebase->offset_ticks);
    atomic_store(&env->timebase->offset_ticks, ticks - clock_ticks);
    for (unsigned hart = 0; hart < env->vcpu_count; hart++) {
        update_timer(aclint, hart);
        vcpu_attention(env->vcpus[hart], VCPU_ATTENTION_TIMER);
    }
}

/* ---- registers ---- */

/* Which 64-bit register (or 32-bit msip) an offset lies in; values of registers that do not
 * exist read as zero. */
static uint64_t register_read(struct aclint *aclint, uint64_t offset)
{
    unsigned count = aclint->device.env->vcpu_count;
    if (offset < MTIMECMP_BASE)
        return offset / 4 < count && aclint->msip[offset / 4];
    if (offset == MTIME)
        return vcpu_time(aclint->device.env->timebase);
    uint64_t hart = (offset - MTIMECMP_BASE) / 8;
    return hart < count ? aclint->mtimecmp[hart] : 0;
}

static void register_write(struct aclint *aclint, uint64_t offset, uint64_t value)
{
    unsigned count = aclint->device.env->vcpu_count;
    if (offset < MTIMECMP_BASE) {
        if (offset / 4 < count)
            set_msip(aclint, (unsigned)(offset / 4), value & 1);
        return;
    }
    if (offset == MTIME) {
        set_time(aclint, value);
        return;
    }
    uint64_t hart = (offset - MTIMECMP_BASE) / 8;
    if (hart < count) {
        aclint->mtimecmp[hart] = value;
        update_timer(aclint, (unsigned)hart);
    }
}

static uint64_t aclint_read(void *opaque, uint64_t offset, unsigned size)
{
    struct aclint *aclint = opaque;
    pthread_mutex_lock(&aclint->device.lock);
    uint64_t value;
    if (offset < MTIMECMP_BASE)
        value = register_read(aclint, offset) |
                (size == 8 ? register_read(aclint, offset + 4) << 32 : 0);
    else
        value = register_read(aclint, align_down(offset, 8)) >> (8 * (offset % 8));
    pthread_mutex_unlock(&aclint->device.lock);
    return value;
}

static void aclint_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct aclint *aclint = opaque;
    pthread_mutex_lock(&aclint->device.lock);
    if (offset < MTIMECMP_BASE) {
        register_write(aclint, offset, value);
        if (size == 8)
            register_write(aclint, offset + 4, value >> 32);
    } else {
        /* A half of a 64-bit register leaves the other half as it is. */
        uint64_t start = align_down(offset, 8);
        uint64_t whole = register_read(aclint, start);
        register_write(aclint, start,
                       bits_set(whole, (unsigned)(8 * (offset % 8)), 8 * size, value));
    }
    pthread_mutex_unlock(&aclint->device.lock);
}

static const struct mem_io_ops io_ops = {aclint_read, aclint_write, 4, 8};

/* ---- life ---- */

static void aclint_reset(struct device *device)
{
    struct aclint *aclint = CONTAINER_OF(device, struct aclint, device);
    atomic_store(&device->env->timebase->offset_ticks, 0);
    for (unsigned hart = 0; hart < device->env->vcpu_count; hart++) {
        set_msip(aclint, hart, false);
        aclint->mtimecmp[hart] = UINT64_MAX;
        update_timer(aclint, hart);
    }
}

static void aclint_unrealize(struct device *device)
{
    struct aclint *aclint = CONTAINER_OF(device, struct aclint, device);
    mem_io_remove(device->env->mem, &aclint->io);
    for (unsigned hart = 0; hart < device->env->vcpu_count; hart++)
        vtimer_free(aclint->harts[hart].timer);
}

static bool aclint_realize(struct device *device, const struct device_params *params,
                           struct error **err)
{
    struct aclint *aclint = CONTAINER_OF(device, struct aclint, device);
    assert(device->env->vcpu_count <= MAX_HARTS);
    aclint->cpu_phandle = params->irq_phandle;
    aclint->io = (struct mem_io){.name = "aclint",
                                 .gpa = params->gpa,
                                 .size = REGION_SIZE,
                                 .ops = &io_ops,
                                 .opaque = aclint};
    if (!mem_io_add(device->env->mem, &aclint->io))
        return error_set(err, ERROR_INTERNAL, "its registers overlap another device's");
    for (unsigned hart = 0; hart < device->env->vcpu_count; hart++) {
        struct aclint_hart *state = &aclint->harts[hart];
        *state = (struct aclint_hart){.aclint = aclint, .index = hart};
        state->timer = vtimer_new(device->env->clock, timer_fired, state);
    }
    return true;
}

static bool aclint_fdt(struct device *device, void *fdt)
{
    struct aclint *aclint = CONTAINER_OF(device, struct aclint, device);
    unsigned count = device->env->vcpu_count;
    uint32_t targets[4 * MAX_HARTS];
    for (unsigned hart = 0; hart < count; hart++) {
        targets[4 * hart] = targets[4 * hart + 2] = aclint->cpu_phandle + hart;
        targets[4 * hart + 1] = IRQ_M_SOFTWARE;
        targets[4 * hart + 3] = IRQ_M_TIMER;
    }
    int error = fdt_begin_unit(fdt, "clint", aclint->io.gpa);
    error |= FDT_PUT_STRINGS(fdt, "compatible", "sifive,clint0\0riscv,clint0");
    error |= fdt_put_reg(fdt, aclint->io.gpa, aclint->io.size);
    error |= fdt_put_cells(fdt, "interrupts-extended", targets, 4 * count);
    error |= fdt_end_node(fdt);
    return error == 0;
}

static bool aclint_restored(void *object, struct error **err)
{
    struct aclint *aclint = object;
    (void)err;
    const struct device_env *env = aclint->device.env;
    for (unsigned hart = 0; hart < env->vcpu_count; hart++) {
        vcpu_set_interrupt(env->vcpus[hart], IRQ_M_SOFTWARE, aclint->msip[hart]);
        vcpu_set_interrupt(env->vcpus[hart], IRQ_M_TIMER, false);
        aclint->harts[hart].timer_level = false;
        update_timer(aclint, hart);
    }
    return true;
}

static const struct state_field aclint_fields[] = {
    {"msip", STATE_KIND_BOOL, offsetof(struct aclint, msip), sizeof(bool), MAX_HARTS, 0, NULL},
    STATE_UINTS(struct aclint, mtimecmp, "mtimecmp"),
    STATE_END,
};
static const struct state_table aclint_state = {"aclint", 1, aclint_fields, NULL, aclint_restored};

const struct device_ops device_aclint = {
    .name = "aclint",
    .size = sizeof(struct aclint),
    .realize = aclint_realize,
    .unrealize = aclint_unrealize,
    .reset = aclint_reset,
    .fdt = aclint_fdt,
    .state = &aclint_state,
};
