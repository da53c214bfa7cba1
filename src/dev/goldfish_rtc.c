/* SPDX-License-Identifier: MIT
 *
 * Goldfish real-time clock: nanoseconds since 1970 as two 32-bit halves, and one alarm.
 *
 * Reading the low half latches the high half, so that the pair is one moment. A write
 * replaces one half of the current time; Linux writes the high half first. The time is the
 * virtual clock's wall time: setting it changes what this guest sees, never the host.
 *
 * params: gpa, irq, irq_number, irq_phandle.
 */
#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "base/vclock.h"
#include "bus/device.h"
#include "bus/fdt_node.h"
#include "mem/mem.h"

#define REGION_SIZE 0x1000

enum {
    REG_TIME_LOW = 0x00,
    REG_TIME_HIGH = 0x04,
    REG_ALARM_LOW = 0x08, /* writing it arms the alarm */
    REG_ALARM_HIGH = 0x0c,
    REG_IRQ_ENABLED = 0x10,
    REG_CLEAR_ALARM = 0x14,
    REG_ALARM_STATUS = 0x18,
    REG_CLEAR_INTERRUPT = 0x1c
};

struct rtc {
    struct device device;
    struct mem_io io;
    struct irq_line irq;
    unsigned irq_number;
    uint32_t irq_phandle;
    struct vtimer *timer;

    uint32_t time_high; /* latched by a read of the low half */
    uint64_t alarm;     /* ns since 1970 */
    bool alarm_running;
    bool irq_pending;
    bool irq_enabled;
};

static void update_irq(struct rtc *rtc)
{
    irq_line_set(&rtc->irq, rtc->irq_pending && rtc->irq_enabled);
}

/* Fires a due alarm, else sets the timer to it. */
static void update_alarm(struct rtc *rtc)
{
    struct vclock *clock = rtc->device.env->clock;
    if (!rtc->alarm_running) {
        vtimer_disarm(rtc->timer);
        return;
    }
    uint64_t wall = (uint64_t)vclock_wall_now(clock);
    if (rtc->alarm <= wall) {
        rtc->alarm_running = false;
        rtc->irq_pending = true;
        vtimer_disarm(rtc->timer);
        update_irq(rtc);
        return;
    }
    uint64_t deadline;
    bool beyond = __builtin_add_overflow((uint64_t)vclock_now(clock), rtc->alarm - wall, &deadline);
    vtimer_arm(rtc->timer,
               beyond || deadline > (uint64_t)VCLOCK_NEVER ? VCLOCK_NEVER : (int64_t)deadline);
}

static void timer_fired(void *opaque)
{
    struct rtc *rtc = opaque;
    pthread_mutex_lock(&rtc->device.lock);
    update_alarm(rtc);
    pthread_mutex_unlock(&rtc->device.lock);
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned size)
{
    struct rtc *rtc = opaque;
    uint64_t value = 0;
    (void)size;
    pthread_mutex_lock(&rtc->device.lock);
    switch (offset) {
    case REG_TIME_LOW:
        value = (uint64_t)vclock_wall_now(rtc->device.env->clock);
        rtc->time_high = (uint32_t)(value >> 32);
        break;
    case REG_TIME_HIGH:
        value = rtc->time_high;
        break;
    case REG_ALARM_LOW:
        value = rtc->alarm;
        break;
    case REG_ALARM_HIGH:
        value = rtc->alarm >> 32;
        break;
    case REG_IRQ_ENABLED:
        value = rtc->irq_enabled;
        break;
    case REG_ALARM_STATUS:
        value = rtc->alarm_running;
        break;
    default: /* write-only or absent */
        break;
    }
    pthread_mutex_unlock(&rtc->device.lock);
    return (uint32_t)value;
}

static void set_time_half(struct rtc *rtc, unsigned low_bit, uint32_t half)
{
    struct vclock *clock = rtc->device.env->clock;
    uint64_t wall = bits_set((uint64_t)vclock_wall_now(clock), low_bit, 32, half);
    vclock_set_wall(clock, (int64_t)wall);
    update_alarm(rtc);
}

static void rtc_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct rtc *rtc = opaque;
    (void)size;
    pthread_mutex_lock(&rtc->device.lock);
    switch (offset) {
    case REG_TIME_LOW:
        set_time_half(rtc, 0, (uint32_t)value);
        break;
    case REG_TIME_HIGH:
        set_time_half(rtc, 32, (uint32_t)value);
        break;
    case REG_ALARM_LOW:
        rtc->alarm = bits_set(rtc->alarm, 0, 32, value);
        rtc->alarm_running = true;
        update_alarm(rtc);
        break;
    case REG_ALARM_HIGH:
        rtc->alarm = bits_set(rtc->alarm, 32, 32, value);
        break;
    case REG_IRQ_ENABLED:
        rtc->irq_enabled = value & 1;
        update_irq(rtc);
        break;
    case REG_CLEAR_ALARM:
        rtc->alarm_running = false;
        update_alarm(rtc);
        break;
    case REG_CLEAR_INTERRUPT:
        rtc->irq_pending = false;
        update_irq(rtc);
        break;
    default: /* read-only or absent */
        break;
    }
    pthread_mutex_unlock(&rtc->device.lock);
}

static const struct mem_io_ops io_ops = {rtc_read, rtc_write, 4, 4};

static void rtc_reset(struct device *device)
{
    struct rtc *rtc = CONTAINER_OF(device, struct rtc, device);
    rtc->time_high = 0;
    rtc->alarm = 0;
    rtc->alarm_running = rtc->irq_pending = rtc->irq_enabled = false;
    update_alarm(rtc);
    update_irq(rtc);
}

static bool rtc_realize(struct device *device, const struct device_params *params,
                        struct error **err)
{
    struct rtc *rtc = CONTAINER_OF(device, struct rtc, device);
    rtc->irq = params->irq;
    rtc->irq_number = params->irq_number;
    rtc->irq_phandle = params->irq_phandle;
    rtc->io = (struct mem_io){
        .name = "rtc", .gpa = params->gpa, .size = REGION_SIZE, .ops = &io_ops, .opaque = rtc};
    if (!mem_io_add(device->env->mem, &rtc->io))
        return error_set(err, ERROR_INTERNAL, "its registers overlap another device's");
    rtc->timer = vtimer_new(device->env->clock, timer_fired, rtc);
    return true;
}

static void rtc_unrealize(struct device *device)
{
    struct rtc *rtc = CONTAINER_OF(device, struct rtc, device);
    mem_io_remove(device->env->mem, &rtc->io);
    vtimer_free(rtc->timer);
}

static bool rtc_fdt(struct device *device, void *fdt)
{
    struct rtc *rtc = CONTAINER_OF(device, struct rtc, device);
    int error = fdt_begin_unit(fdt, "rtc", rtc->io.gpa);
    error |= fdt_put_string(fdt, "compatible", "google,goldfish-rtc");
    error |= fdt_put_reg(fdt, rtc->io.gpa, rtc->io.size);
    error |= fdt_put_interrupt(fdt, rtc->irq_phandle, rtc->irq_number);
    error |= fdt_end_node(fdt);
    return error == 0;
}

static bool rtc_restored(void *object, struct error **err)
{
    struct rtc *rtc = object;
    (void)err;
    update_alarm(rtc);
    update_irq(rtc);
    return true;
}

static const struct state_field rtc_fields[] = {
    STATE_UINT(struct rtc, time_high, "time_high"),
    STATE_UINT(struct rtc, alarm, "alarm"),
    STATE_BOOL(struct rtc, alarm_running, "alarm_running"),
    STATE_BOOL(struct rtc, irq_pending, "irq_pending"),
    STATE_BOOL(struct rtc, irq_enabled, "irq_enabled"),
    STATE_END,
};
static const struct state_table rtc_state = {"goldfish-rtc", 1, rtc_fields, NULL, rtc_restored};

const struct device_ops device_goldfish_rtc = {
    .name = "goldfish-rtc",
    .size = sizeof(struct rtc),
    .realize = rtc_realize,
    .unrealize = rtc_unrealize,
    .reset = rtc_reset,
    .fdt = rtc_fdt,
    .state = &rtc_state,
};
