/* SPDX-License-Identifier: MIT
 *
 * SiFive's test finisher, the machine's power switch: one 32-bit register whose low half says
 * what is to happen and whose high half is a failure code.
 *
 * Firmware looks for it under three names (sifive,test1, sifive,test0, syscon with
 * syscon-poweroff and syscon-reboot at the root): all of them are given.
 *
 * params: gpa, phandle.
 */
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/state.h"
#include "bus/device.h"
#include "bus/fdt_node.h"
#include "mem/mem.h"

#define REGION_SIZE 0x1000

enum { FINISHER_FAIL = 0x3333, FINISHER_PASS = 0x5555, FINISHER_RESET = 0x7777 };

struct test {
    struct device device;
    struct mem_io io;
    uint32_t phandle;
    struct log_limit limit;
};

static uint64_t test_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque, (void)offset, (void)size;
    return 0;
}

static void test_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct test *test = opaque;
    const struct device_env *env = test->device.env;
    (void)size;
    if (offset != 0)
        return;
    uint32_t code = (uint32_t)(value >> 16) & 0xffff;
    switch (value & 0xffff) {
    case FINISHER_PASS:
        env->power(env->machine, DEVICE_POWER_OFF, 0);
        break;
    case FINISHER_RESET:
        env->power(env->machine, DEVICE_POWER_RESET, 0);
        break;
    case FINISHER_FAIL:
        /* A failure must not look like success, whatever its code says. */
        env->power(env->machine, DEVICE_POWER_FAILURE, code != 0 ? code : 1);
        break;
    default:
        log_guest(env->log, &test->limit, "%s: the guest wrote %#llx, which means nothing",
                  test->device.id, (unsigned long long)value);
    }
}

static const struct mem_io_ops io_ops = {test_read, test_write, 2, 4};

static void test_reset(struct device *device)
{
    (void)device; /* it has no state */
}

static bool test_realize(struct device *device, const struct device_params *params,
                         struct error **err)
{
    struct test *test = CONTAINER_OF(device, struct test, device);
    test->phandle = params->phandle;
    test->io = (struct mem_io){
        .name = "test", .gpa = params->gpa, .size = REGION_SIZE, .ops = &io_ops, .opaque = test};
    if (!mem_io_add(device->env->mem, &test->io))
        return error_set(err, ERROR_INTERNAL, "its registers overlap another device's");
    return true;
}

static void test_unrealize(struct device *device)
{
    struct test *test = CONTAINER_OF(device, struct test, device);
    mem_io_remove(device->env->mem, &test->io);
}

static bool test_fdt(struct device *device, void *fdt)
{
    struct test *test = CONTAINER_OF(device, struct test, device);
    int error = fdt_begin_unit(fdt, "test", test->io.gpa);
    error |= FDT_PUT_STRINGS(fdt, "compatible", "sifive,test1\0sifive,test0\0syscon");
    error |= fdt_put_reg(fdt, test->io.gpa, test->io.size);
    error |= fdt_property_u32(fdt, "phandle", test->phandle);
    error |= fdt_end_node(fdt);
    return error == 0;
}

static int syscon_node(void *fdt, const char *name, const char *compatible, uint32_t phandle,
                       uint32_t value)
{
    int error = fdt_begin_node(fdt, name);
    error |= fdt_put_string(fdt, "compatible", compatible);
    error |= fdt_property_u32(fdt, "regmap", phandle);
    error |= fdt_property_u32(fdt, "offset", 0);
    error |= fdt_property_u32(fdt, "value", value);
    error |= fdt_end_node(fdt);
    return error;
}

static bool test_fdt_root(struct device *device, void *fdt)
{
    struct test *test = CONTAINER_OF(device, struct test, device);
    int error = syscon_node(fdt, "poweroff", "syscon-poweroff", test->phandle, FINISHER_PASS);
    error |= syscon_node(fdt, "reboot", "syscon-reboot", test->phandle, FINISHER_RESET);
    return error == 0;
}

static const struct state_field test_fields[] = {STATE_END};
static const struct state_table test_state = {"sifive-test", 1, test_fields, NULL, NULL};

const struct device_ops device_sifive_test = {
    .name = "sifive-test",
    .size = sizeof(struct test),
    .realize = test_realize,
    .unrealize = test_unrealize,
    .reset = test_reset,
    .fdt = test_fdt,
    .fdt_root = test_fdt_root,
    .state = &test_state,
};
