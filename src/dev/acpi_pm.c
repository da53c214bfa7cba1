/* SPDX-License-Identifier: MIT
 *
 * ACPI's fixed hardware (ACPI 6.5, 4.8): PM1 event and control registers, with the power button and
 * the way to switch off, and the power-management timer. The system is always in ACPI mode.
 *
 * params: io_port, irq (the SCI), button.
 */
#include "dev/acpi_pm.h"

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/state.h"
#include "base/vclock.h"
#include "bus/aml.h"
#include "bus/device.h"
#include "mem/mem.h"

#define TIMER_HZ 3579545

enum {
    EVENT_TIMER = 1 << 0,
    EVENT_GLOBAL = 1 << 5, /* the firmware let go of the global lock, which it never has */
    EVENT_BUTTON = 1 << 8,
    EVENT_RTC = 1 << 10,
    EVENT_WAKE = 1 << 15
};
enum { EVENTS = EVENT_TIMER | EVENT_GLOBAL | EVENT_BUTTON | EVENT_RTC | EVENT_WAKE };
enum { CONTROL_SCI = 1 << 0, CONTROL_KEPT = 0x1c06, CONTROL_SLEEP = 1 << 13 };
enum { SLEEP_TYPE_BIT = 10, SLEEP_TYPE_OFF = 5 };

struct pm {
    struct device device;
    struct mem_io io;
    struct irq_line irq;
    struct power_button *button;
    struct vtimer *timer;
    struct log_limit limit;

    uint16_t status, enable, control;
    uint64_t seen; /* the timer's count up to which status tells when its top bit changed */
};

static uint64_t count(const struct pm *pm)
{
    uint64_t now = (uint64_t)vclock_now(pm->device.env->clock);
    return (uint64_t)((unsigned __int128)now * TIMER_HZ / NS_PER_S);
}

/* The first nanosecond at which the timer has counted so far. */
static int64_t time_of(uint64_t ticks)
{
    unsigned __int128 ns = ((unsigned __int128)ticks * NS_PER_S + TIMER_HZ - 1) / TIMER_HZ;
    return ns < (unsigned __int128)VCLOCK_NEVER ? (int64_t)ns : VCLOCK_NEVER;
}

/* Brings status up to now, and the line and the timer to what follows from it. */
static void update(struct pm *pm)
{
    enum { TOP_BIT = 31 };
    uint64_t now = count(pm);
    if (now >> TOP_BIT != pm->seen >> TOP_BIT)
        pm->status |= EVENT_TIMER;
    pm->seen = now;
    irq_line_set(&pm->irq, (pm->status & pm->enable & EVENTS) != 0);
    if ((pm->enable & EVENT_TIMER) != 0 && (pm->status & EVENT_TIMER) == 0)
        vtimer_arm(pm->timer, time_of(((now >> TOP_BIT) + 1) << TOP_BIT));
    else
        vtimer_disarm(pm->timer);
}

static void timer_fired(void *opaque)
{
    struct pm *pm = opaque;
    pthread_mutex_lock(&pm->device.lock);
    update(pm);
    pthread_mutex_unlock(&pm->device.lock);
}

static uint64_t pm_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pm *pm = opaque;
    uint8_t all[ACPI_PM_PORTS + 4] = {0};
    pthread_mutex_lock(&pm->device.lock);
    update(pm);
    store_le16(all + ACPI_PM_EVENT, pm->status);
    store_le16(all + ACPI_PM_EVENT + 2, pm->enable);
    store_le16(all + ACPI_PM_CONTROL, pm->control | CONTROL_SCI);
    store_le32(all + ACPI_PM_TIMER, (uint32_t)pm->seen);
    pthread_mutex_unlock(&pm->device.lock);
    (void)size; /* whoever asked takes as many bytes as it wants */
    return load_le32(all + offset);
}

/* Switches off: the only sleep that \_S5 and nothing else describes. */
static void sleep_now(struct pm *pm)
{
    const struct device_env *env = pm->device.env;
    unsigned type = pm->control >> SLEEP_TYPE_BIT & 7;
    if (type == SLEEP_TYPE_OFF)
        env->power(env->machine, DEVICE_POWER_OFF, 0);
    else
        log_guest(env->log, &pm->limit,
                  "%s: the guest asked for sleep of type %u, which there is not", pm->device.id,
                  type);
}

static void write_byte(struct pm *pm, unsigned offset, unsigned value)
{
    unsigned shift = offset % 2 * 8, mask = 0xffu << shift;
    value <<= shift;
    switch (offset & ~1u) {
    case ACPI_PM_EVENT:
        pm->status = (uint16_t)(pm->status & ~value);
        break;
    case ACPI_PM_EVENT + 2:
        pm->enable = (uint16_t)((pm->enable & ~mask) | (value & EVENTS));
        break;
    case ACPI_PM_CONTROL:
        pm->control = (uint16_t)((pm->control & ~mask) | (value & CONTROL_KEPT));
        if ((value & CONTROL_SLEEP) != 0)
            sleep_now(pm);
        break;
    default: /* the timer is read-only */
        break;
    }
}

static void pm_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pm *pm = opaque;
    pthread_mutex_lock(&pm->device.lock);
    update(pm);
    for (unsigned i = 0; i < size; i++)
        write_byte(pm, (unsigned)offset + i, (unsigned)(value >> (8 * i)) & 0xff);
    update(pm);
    pthread_mutex_unlock(&pm->device.lock);
}

static const struct mem_io_ops io_ops = {pm_read, pm_write, 1, 4};

static bool press(void *device)
{
    struct pm *pm = CONTAINER_OF((struct device *)device, struct pm, device);
    pthread_mutex_lock(&pm->device.lock);
    bool heard = (pm->enable & EVENT_BUTTON) != 0;
    pm->status |= EVENT_BUTTON;
    update(pm);
    pthread_mutex_unlock(&pm->device.lock);
    return heard;
}

static void pm_reset(struct device *device)
{
    struct pm *pm = CONTAINER_OF(device, struct pm, device);
    pm->status = pm->enable = pm->control = 0;
    pm->seen = count(pm);
    update(pm);
}

static bool pm_realize(struct device *device, const struct device_params *params,
                       struct error **err)
{
    struct pm *pm = CONTAINER_OF(device, struct pm, device);
    pm->irq = params->irq;
    pm->io = (struct mem_io){.name = "acpi-pm",
                             .gpa = params->io_port,
                             .size = ACPI_PM_PORTS,
                             .ops = &io_ops,
                             .opaque = pm};
    if (!mem_io_add(device->env->ports, &pm->io))
        return error_set(err, ERROR_INTERNAL, "its ports overlap another device's");
    pm->timer = vtimer_new(device->env->clock, timer_fired, pm);
    pm->button = params->button;
    if (pm->button != NULL)
        *pm->button = (struct power_button){press, device};
    return true;
}

static void pm_unrealize(struct device *device)
{
    struct pm *pm = CONTAINER_OF(device, struct pm, device);
    if (pm->button != NULL)
        *pm->button = (struct power_button){NULL, NULL};
    mem_io_remove(device->env->ports, &pm->io);
    vtimer_free(pm->timer);
}

/* The button and the registers are in the board's FADT; which sleep switches off is said here. */
static void pm_acpi(struct device *device, struct aml *aml)
{
    (void)device;
    aml_name(aml, "\\_S5");
    aml_package_begin(aml, 4);
    aml_integer(aml, SLEEP_TYPE_OFF);
    aml_integer(aml, SLEEP_TYPE_OFF);
    aml_integer(aml, 0);
    aml_integer(aml, 0);
    aml_end(aml);
}

static bool pm_restored(void *object, struct error **err)
{
    struct pm *pm = object;
    (void)err;
    pm->enable &= EVENTS;
    pm->status &= EVENTS;
    pm->control &= CONTROL_KEPT;
    irq_line_set(&pm->irq, (pm->status & pm->enable) != 0);
    vtimer_arm(pm->timer, vclock_now(pm->device.env->clock)); /* what has come meanwhile */
    return true;
}

static const struct state_field pm_fields[] = {
    STATE_UINT(struct pm, status, "status"),
    STATE_UINT(struct pm, enable, "enable"),
    STATE_UINT(struct pm, control, "control"),
    STATE_UINT(struct pm, seen, "seen"),
    STATE_END,
};
static const struct state_table pm_state = {"acpi-pm", 1, pm_fields, NULL, pm_restored};

const struct device_ops device_acpi_pm = {
    .name = "acpi-pm",
    .size = sizeof(struct pm),
    .realize = pm_realize,
    .unrealize = pm_unrealize,
    .reset = pm_reset,
    .acpi = pm_acpi,
    .state = &pm_state,
};
