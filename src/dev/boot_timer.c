/* SPDX-License-Identifier: MIT
 *
 * A register by which a guest says that it has booted: it writes the byte 123 at offset 0, as to
 * Firecracker's device of this purpose. No table names it; who uses it knows where it is.
 *
 * params: gpa.
 */
#include "base/bits.h"
#include "base/error.h"
#include "bus/device.h"
#include "mem/mem.h"

#define REGION_SIZE 0x1000

enum { BOOTED = 123 };

struct boot_timer {
    struct device device;
    struct mem_io io;
};

static uint64_t timer_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque, (void)offset, (void)size;
    return 0;
}

static void timer_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    const struct boot_timer *timer = opaque;
    const struct device_env *env = timer->device.env;
    (void)size;
    if (offset == 0 && (value & 0xff) == BOOTED)
        env->booted(env->machine);
}

static const struct mem_io_ops io_ops = {timer_read, timer_write, 1, 4};

static void timer_reset(struct device *device)
{
    (void)device;
}

static void timer_unrealize(struct device *device)
{
    struct boot_timer *timer = CONTAINER_OF(device, struct boot_timer, device);
    mem_io_remove(device->env->mem, &timer->io);
}

static bool timer_realize(struct device *device, const struct device_params *params,
                          struct error **err)
{
    struct boot_timer *timer = CONTAINER_OF(device, struct boot_timer, device);
    timer->io = (struct mem_io){.name = "boot-timer",
                                .gpa = params->gpa,
                                .size = REGION_SIZE,
                                .ops = &io_ops,
                                .opaque = timer};
    return mem_io_add(device->env->mem, &timer->io) ||
           error_set(err, ERROR_INTERNAL, "its register overlaps another device's");
}

const struct device_ops device_boot_timer = {
    .name = "boot-timer",
    .size = sizeof(struct boot_timer),
    .realize = timer_realize,
    .unrealize = timer_unrealize,
    .reset = timer_reset,
};
