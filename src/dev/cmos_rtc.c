/* SPDX-License-Identifier: MIT
 *
 * Motorola MC146818, the PC's real-time clock (data sheet of 1984; ports and century byte as in
 * IBM's AT), and the battery-backed RAM behind its registers.
 *
 * The time is the virtual clock's wall time: setting it changes what this guest sees, never the
 * host. While the guest has SET on, it reads and writes a copy, which becomes the time when it lets
 * go. Flags are brought up to date when somebody looks; a timer runs only for interrupts that are
 * enabled.
 *
 * params: io_port (index, then data), irq, irq_number.
 */
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "base/vclock.h"
#include "bus/aml.h"
#include "bus/device.h"
#include "mem/mem.h"

enum {
    SECONDS = 0x00, /* each alarm stands behind its register */
    MINUTES = 0x02,
    HOURS = 0x04,
    WEEKDAY = 0x06, /* 1 is Sunday */
    DAY = 0x07,
    MONTH = 0x08,
    YEAR = 0x09,
    REG_A = 0x0a,
    REG_B = 0x0b,
    REG_C = 0x0c,
    REG_D = 0x0d,
    CENTURY = 0x32,
    RAM_SIZE = 0x80
};
enum {
    A_UPDATING = 1 << 7,
    A_DIVIDER = 7 << 4,
    A_RATE = 0xf,
    A_DIVIDER_RUNS = 2 << 4,
    A_RATE_1024 = 6
};
enum {
    B_SET = 1 << 7,
    B_PERIODIC = 1 << 6,
    B_ALARM = 1 << 5,
    B_UPDATE = 1 << 4,
    B_BINARY = 1 << 2,
    B_24_HOURS = 1 << 1
};
enum { C_IRQ = 1 << 7, C_PERIODIC = B_PERIODIC, C_ALARM = B_ALARM, C_UPDATE = B_UPDATE };
enum { C_FLAGS = C_PERIODIC | C_ALARM | C_UPDATE };
enum { D_VALID = 1 << 7 };
enum { HOUR_PM = 0x80, ALARM_ANY = 0xc0 };
enum { DAY_S = 86400, CRYSTAL_HZ = 32768 };
#define UPDATE_NS  244000         /* before a second is over, registers are about to change */
#define DIVIDER_NS (NS_PER_S / 2) /* from when the divider starts to the first second */
#define SECONDS_MAX                                                                                \
    (INT64_C(1) << 32) /* from 1970, to either side; with a machine's life it fits */
#define NO_ALARM INT64_MIN

struct rtc {
    struct device device;
    struct mem_io io;
    struct irq_line irq;
    unsigned irq_number;
    struct vtimer *timer;

    uint8_t index;
    uint8_t ram[RAM_SIZE]; /* the time's registers count only while it stands still */
    int64_t seen;          /* wall time up to which REG_C's flags tell what came */
};

static bool stands_still(const struct rtc *rtc)
{
    return (rtc->ram[REG_B] & B_SET) != 0 || (rtc->ram[REG_A] & A_DIVIDER) != A_DIVIDER_RUNS;
}

/* Rounded down: it may be set to before 1970. */
static int64_t seconds_of(int64_t wall)
{
    return (wall - ((wall % NS_PER_S) + NS_PER_S) % NS_PER_S) / NS_PER_S;
}

static int64_t fraction_of(int64_t wall)
{
    return wall - seconds_of(wall) * NS_PER_S;
}

/* ---- the time in registers ---- */

static uint8_t encode(const struct rtc *rtc, int value)
{
    return (uint8_t)(rtc->ram[REG_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static int decode(const struct rtc *rtc, uint8_t value)
{
    return rtc->ram[REG_B] & B_BINARY ? value : (value >> 4) * 10 + (value & 0xf);
}

static uint8_t encode_hour(const struct rtc *rtc, int hour)
{
    if (rtc->ram[REG_B] & B_24_HOURS)
        return encode(rtc, hour);
    return encode(rtc, (hour + 11) % 12 + 1) | (hour >= 12 ? HOUR_PM : 0);
}

static int decode_hour(const struct rtc *rtc, uint8_t value)
{
    if (rtc->ram[REG_B] & B_24_HOURS)
        return decode(rtc, value);
    return decode(rtc, (uint8_t)(value & ~HOUR_PM)) % 12 + (value & HOUR_PM ? 12 : 0);
}

static void fill_registers(struct rtc *rtc, int64_t wall)
{
    time_t seconds = (time_t)seconds_of(wall);
    struct tm now;
    if (gmtime_r(&seconds, &now) == NULL)
        return;
    rtc->ram[SECONDS] = encode(rtc, now.tm_sec);
    rtc->ram[MINUTES] = encode(rtc, now.tm_min);
    rtc->ram[HOURS] = encode_hour(rtc, now.tm_hour);
    rtc->ram[WEEKDAY] = encode(rtc, now.tm_wday + 1);
    rtc->ram[DAY] = encode(rtc, now.tm_mday);
    rtc->ram[MONTH] = encode(rtc, now.tm_mon + 1);
    rtc->ram[YEAR] = encode(rtc, (now.tm_year + 1900) % 100);
    rtc->ram[CENTURY] = encode(rtc, (now.tm_year + 1900) / 100);
}

/* What is no date becomes one as timegm() has it; what virtual time has no room for, its edge. */
static int64_t read_registers(const struct rtc *rtc)
{
    struct tm then = {
        .tm_sec = decode(rtc, rtc->ram[SECONDS]),
        .tm_min = decode(rtc, rtc->ram[MINUTES]),
        .tm_hour = decode_hour(rtc, rtc->ram[HOURS]),
        .tm_mday = decode(rtc, rtc->ram[DAY]),
        .tm_mon = decode(rtc, rtc->ram[MONTH]) - 1,
        .tm_year = decode(rtc, rtc->ram[CENTURY]) * 100 + decode(rtc, rtc->ram[YEAR]) - 1900,
    };
    int64_t seconds = (int64_t)timegm(&then);
    return seconds < -SECONDS_MAX ? -SECONDS_MAX : (seconds > SECONDS_MAX ? SECONDS_MAX : seconds);
}

/* ---- flags and the interrupt ---- */

static bool alarm_matches(const struct rtc *rtc, int64_t second)
{
    const uint8_t *ram = rtc->ram;
    int day = (int)(((second % DAY_S) + DAY_S) % DAY_S);
    const uint8_t s = ram[SECONDS + 1], m = ram[MINUTES + 1], h = ram[HOURS + 1];
    return (s >= ALARM_ANY || decode(rtc, s) == day % 60) &&
           (m >= ALARM_ANY || decode(rtc, m) == day / 60 % 60) &&
           (h >= ALARM_ANY || decode_hour(rtc, h) == day / 3600);
}

/* The first second in (after, after + limit] at which the alarm goes off, or NO_ALARM. */
static int64_t next_alarm(const struct rtc *rtc, int64_t after, int64_t limit)
{
    if (limit > DAY_S)
        limit = DAY_S; /* it knows no days */
    for (int64_t second = after + 1; second <= after + limit; second++)
        if (alarm_matches(rtc, second))
            return second;
    return NO_ALARM;
}

/* Between two periodic interrupts; 0: there are none. The two longest rates are two of the shortest
 * once more. */
static int64_t period_ns(const struct rtc *rtc)
{
    unsigned rate = rtc->ram[REG_A] & A_RATE;
    if (rate == 0)
        return 0;
    if (rate < 3)
        rate += 7;
    return ((int64_t)NS_PER_S << (rate - 1)) / CRYSTAL_HZ;
}

static void collect_flags(struct rtc *rtc, int64_t wall)
{
    int64_t period = period_ns(rtc), before = rtc->seen;
    rtc->seen = wall;
    if (wall <= before || stands_still(rtc))
        return;
    int64_t seconds = seconds_of(wall) - seconds_of(before);
    if (period != 0 && wall / period != before / period)
        rtc->ram[REG_C] |= C_PERIODIC;
    if (seconds > 0)
        rtc->ram[REG_C] |= C_UPDATE;
    if (seconds > 0 && (rtc->ram[REG_C] & C_ALARM) == 0 &&
        next_alarm(rtc, seconds_of(before), seconds) != NO_ALARM)
        rtc->ram[REG_C] |= C_ALARM;
}

/* When the next flag comes whose interrupt is enabled; wall time. */
static int64_t next_event(const struct rtc *rtc, int64_t wall)
{
    unsigned enabled = rtc->ram[REG_B];
    int64_t next = VCLOCK_NEVER, period = period_ns(rtc), second = seconds_of(wall);
    if ((enabled & B_PERIODIC) != 0 && period != 0)
        next = (wall / period + 1) * period;
    if ((enabled & B_UPDATE) != 0 && (second + 1) * NS_PER_S < next)
        next = (second + 1) * NS_PER_S;
    int64_t alarm = (enabled & B_ALARM) != 0 ? next_alarm(rtc, second, DAY_S) : NO_ALARM;
    if (alarm != NO_ALARM && alarm * NS_PER_S < next)
        next = alarm * NS_PER_S;
    return next;
}

/* The line and the top flag follow the others. */
static bool drive_line(struct rtc *rtc)
{
    bool raised = (rtc->ram[REG_C] & rtc->ram[REG_B] & C_FLAGS) != 0;
    rtc->ram[REG_C] = (uint8_t)((rtc->ram[REG_C] & C_FLAGS) | (raised ? C_IRQ : 0));
    irq_line_set(&rtc->irq, raised);
    return raised;
}

static void update(struct rtc *rtc)
{
    struct vclock *clock = rtc->device.env->clock;
    int64_t wall = vclock_wall_now(clock), next;
    collect_flags(rtc, wall);
    bool raised = drive_line(rtc);
    next = raised || stands_still(rtc) ? VCLOCK_NEVER : next_event(rtc, wall);
    if (next == VCLOCK_NEVER)
        vtimer_disarm(rtc->timer);
    else
        vtimer_arm(rtc->timer, vclock_now(clock) + (next - wall));
}

static void timer_fired(void *opaque)
{
    struct rtc *rtc = opaque;
    pthread_mutex_lock(&rtc->device.lock);
    update(rtc);
    pthread_mutex_unlock(&rtc->device.lock);
}

/* ---- registers ---- */

static bool is_time(unsigned index)
{
    return index == CENTURY ||
           (index <= YEAR && index != SECONDS + 1 && index != MINUTES + 1 && index != HOURS + 1);
}

static uint8_t read_register(struct rtc *rtc, unsigned index)
{
    int64_t wall = vclock_wall_now(rtc->device.env->clock);
    update(rtc);
    if (is_time(index) && !stands_still(rtc))
        fill_registers(rtc, wall);
    uint8_t value = rtc->ram[index];
    if (index == REG_A && !stands_still(rtc) && NS_PER_S - fraction_of(wall) <= UPDATE_NS)
        value |= A_UPDATING;
    if (index == REG_C) {
        rtc->ram[REG_C] = 0;
        update(rtc);
    }
    return value;
}

/* The registers' time is the clock's from now on. */
static void take_time(struct rtc *rtc, int64_t ns)
{
    vclock_set_wall(rtc->device.env->clock, read_registers(rtc) * NS_PER_S + ns);
    rtc->seen = vclock_wall_now(rtc->device.env->clock);
}

static void write_control(struct rtc *rtc, unsigned index, uint8_t value)
{
    bool stood = stands_still(rtc);
    bool divided = (rtc->ram[REG_A] & A_DIVIDER) == A_DIVIDER_RUNS;
    int64_t wall = vclock_wall_now(rtc->device.env->clock);
    if (!stood)
        fill_registers(rtc, wall); /* in the old format, in case it stops here */
    if (index == REG_A)
        value &= (uint8_t)~A_UPDATING;
    else if (value & B_SET)
        value &= (uint8_t)~B_UPDATE; /* as the data sheet has it */
    rtc->ram[index] = value;
    if (stood && !stands_still(rtc))
        take_time(rtc, divided ? fraction_of(wall) : NS_PER_S - DIVIDER_NS);
}

static void write_register(struct rtc *rtc, unsigned index, uint8_t value)
{
    int64_t wall = vclock_wall_now(rtc->device.env->clock);
    update(rtc);
    if (index == REG_A || index == REG_B) {
        write_control(rtc, index, value);
    } else if (is_time(index) && !stands_still(rtc)) {
        fill_registers(rtc, wall);
        rtc->ram[index] = value;
        take_time(rtc, fraction_of(wall));
    } else if (index != REG_C && index != REG_D) {
        rtc->ram[index] = value;
    }
    update(rtc);
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned size)
{
    struct rtc *rtc = opaque;
    uint64_t value = UINT8_MAX; /* the index cannot be read */
    (void)size;
    pthread_mutex_lock(&rtc->device.lock);
    if (offset == 1)
        value = read_register(rtc, rtc->index);
    pthread_mutex_unlock(&rtc->device.lock);
    return value;
}

static void rtc_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct rtc *rtc = opaque;
    (void)size;
    pthread_mutex_lock(&rtc->device.lock);
    if (offset == 0)
        rtc->index = value & (RAM_SIZE - 1); /* the top bit masks NMIs, of which there are none */
    else
        write_register(rtc, rtc->index, (uint8_t)value);
    pthread_mutex_unlock(&rtc->device.lock);
}

static const struct mem_io_ops io_ops = {rtc_read, rtc_write, 1, 1};

/* ---- life ---- */

/* The battery keeps RAM, alarm and format; interrupts are off. */
static void rtc_reset(struct device *device)
{
    struct rtc *rtc = CONTAINER_OF(device, struct rtc, device);
    rtc->ram[REG_A] = A_DIVIDER_RUNS | A_RATE_1024;
    rtc->ram[REG_B] &= (uint8_t) ~(B_SET | B_PERIODIC | B_ALARM | B_UPDATE);
    rtc->ram[REG_C] = 0;
    rtc->ram[REG_D] = D_VALID;
    rtc->index = 0;
    rtc->seen = vclock_wall_now(device->env->clock);
    update(rtc);
}

static bool rtc_realize(struct device *device, const struct device_params *params,
                        struct error **err)
{
    struct rtc *rtc = CONTAINER_OF(device, struct rtc, device);
    rtc->irq = params->irq;
    rtc->irq_number = params->irq_number;
    rtc->ram[REG_B] = B_24_HOURS;
    rtc->io = (struct mem_io){
        .name = "cmos-rtc", .gpa = params->io_port, .size = 2, .ops = &io_ops, .opaque = rtc};
    if (!mem_io_add(device->env->ports, &rtc->io))
        return error_set(err, ERROR_INTERNAL, "its ports overlap another device's");
    rtc->timer = vtimer_new(device->env->clock, timer_fired, rtc);
    return true;
}

static void rtc_unrealize(struct device *device)
{
    struct rtc *rtc = CONTAINER_OF(device, struct rtc, device);
    mem_io_remove(device->env->ports, &rtc->io);
    vtimer_free(rtc->timer);
}

static void rtc_acpi(struct device *device, struct aml *aml)
{
    struct rtc *rtc = CONTAINER_OF(device, struct rtc, device);
    aml_device_begin(aml, "RTC");
    aml_name_eisa(aml, "_HID", "PNP0B00");
    aml_resources_begin(aml, "_CRS");
    aml_io(aml, (uint16_t)rtc->io.gpa, (uint8_t)rtc->io.size);
    aml_interrupt(aml, rtc->irq_number, AML_EDGE);
    aml_resources_end(aml);
    aml_end(aml);
}

static bool rtc_restored(void *object, struct error **err)
{
    struct rtc *rtc = object;
    if (rtc->index >= RAM_SIZE || rtc->seen > 2 * SECONDS_MAX * NS_PER_S ||
        rtc->seen < -2 * SECONDS_MAX * NS_PER_S)
        return error_set(err, ERROR_USAGE, "the state of %s is damaged", rtc->device.id);
    drive_line(rtc);
    vtimer_arm(rtc->timer, vclock_now(rtc->device.env->clock)); /* what has come meanwhile */
    return true;
}

static const struct state_field rtc_fields[] = {
    STATE_UINT(struct rtc, index, "index"),
    STATE_BYTES(struct rtc, ram, "ram"),
    STATE_UINT(struct rtc, seen, "seen"),
    STATE_END,
};
static const struct state_table rtc_state = {"cmos-rtc", 1, rtc_fields, NULL, rtc_restored};

const struct device_ops device_cmos_rtc = {
    .name = "cmos-rtc",
    .size = sizeof(struct rtc),
    .realize = rtc_realize,
    .unrealize = rtc_unrealize,
    .reset = rtc_reset,
    .acpi = rtc_acpi,
    .state = &rtc_state,
};
