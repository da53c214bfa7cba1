/* SPDX-License-Identifier: MIT
 *
 * The harts' interrupt files in the address space ("The RISC-V Advanced Interrupt
 * Architecture" 1.0, 3.5 and 3.6): a page per hart and level, in which a 32-bit store of an
 * identity makes that interrupt pending. The files themselves are hart state
 * (isa/riscv64/imsic.h); this device only finds the file that an address belongs to, for
 * stores of harts and for messages of devices (device_imsic.send).
 *
 *     gpa + 0x1000 hart           supervisor level
 *     gpa_machine + 0x1000 hart   machine level
 *
 * Big-endian writes are ignored, as on a machine that is never big-endian.
 *
 * params: gpa, gpa_machine (0: no machine-level software is there to see it), irq_phandle.
 */
#include "dev/imsic.h"

#include <assert.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/state.h"
#include "bus/device.h"
#include "bus/fdt_node.h"
#include "isa/vcpu.h"
#include "mem/mem.h"

#define IDENTITIES 255
#define MAX_HARTS  8

enum { LEVEL_M, LEVEL_S, LEVELS }; /* as vcpu.messages->send() counts files */
enum { IRQ_S_EXTERNAL = 9, IRQ_M_EXTERNAL = 11 };

struct imsic;

struct imsic_level {
    struct imsic *imsic;
    unsigned level;
    struct mem_io io; /* size 0: not there */
};

struct imsic {
    struct device device;
    uint32_t cpu_phandle;
    struct imsic_level levels[LEVELS];
    struct log_limit log_limit;
};

static uint64_t files_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque, (void)offset, (void)size;
    return 0;
}

static void files_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    const struct imsic_level *files = opaque;
    const struct device_env *env = files->imsic->device.env;
    (void)size;
    if (offset % IMSIC_FILE_SIZE != 0)
        return;
    struct vcpu *vcpu = env->vcpus[offset / IMSIC_FILE_SIZE];
    vcpu->messages->send(vcpu, files->level, (uint32_t)value);
}

static const struct mem_io_ops files_ops = {files_read, files_write, 4, 4};

void imsic_send(void *device, uint64_t address, uint32_t data)
{
    struct imsic *imsic = CONTAINER_OF((struct device *)device, struct imsic, device);
    for (unsigned level = 0; level < LEVELS; level++) {
        struct imsic_level *files = &imsic->levels[level];
        if (files->io.size != 0 && address - files->io.gpa < files->io.size) {
            files_write(files, address - files->io.gpa, data, 4);
            return;
        }
    }
    log_guest(imsic->device.env->log, &imsic->log_limit,
              "an interrupt message goes to 0x%llx, where no interrupt file is; it is lost",
              (unsigned long long)address);
}

/* ---- life ---- */

static void imsic_reset(struct device *device)
{
    for (unsigned hart = 0; hart < device->env->vcpu_count; hart++) {
        struct vcpu *vcpu = device->env->vcpus[hart];
        vcpu->messages->reset(vcpu);
    }
}

static void imsic_unrealize(struct device *device)
{
    struct imsic *imsic = CONTAINER_OF(device, struct imsic, device);
    for (unsigned level = 0; level < LEVELS; level++)
        mem_io_remove(device->env->mem, &imsic->levels[level].io);
}

static bool imsic_realize(struct device *device, const struct device_params *params,
                          struct error **err)
{
    static const char *const names[] = {[LEVEL_M] = "imsic-m", [LEVEL_S] = "imsic-s"};
    struct imsic *imsic = CONTAINER_OF(device, struct imsic, device);
    const uint64_t gpa[] = {[LEVEL_M] = params->gpa_machine, [LEVEL_S] = params->gpa};
    assert(device->env->vcpu_count <= MAX_HARTS);
    imsic->cpu_phandle = params->irq_phandle;
    for (unsigned level = 0; level < LEVELS; level++) {
        struct imsic_level *files = &imsic->levels[level];
        *files = (struct imsic_level){.imsic = imsic, .level = level};
        if (gpa[level] == 0)
            continue;
        files->io = (struct mem_io){.name = names[level],
                                    .gpa = gpa[level],
                                    .size = IMSIC_FILE_SIZE * device->env->vcpu_count,
                                    .ops = &files_ops,
                                    .opaque = files};
        if (!mem_io_add(device->env->mem, &files->io)) {
            imsic_unrealize(device);
            return error_set(err, ERROR_INTERNAL, "its pages overlap another device's");
        }
    }
    return true;
}

/* Devicetree binding riscv,imsics. */
static int put_level(const struct imsic *imsic, unsigned level, void *fdt)
{
    static const uint32_t phandles[] = {FDT_PHANDLE_IMSIC_M, FDT_PHANDLE_IMSIC_S};
    const struct mem_io *io = &imsic->levels[level].io;
    unsigned harts = imsic->device.env->vcpu_count;
    uint32_t targets[2 * MAX_HARTS];
    if (io->size == 0)
        return 0;
    for (unsigned hart = 0; hart < harts; hart++) {
        targets[2 * hart] = imsic->cpu_phandle + hart;
        targets[2 * hart + 1] = level == LEVEL_M ? IRQ_M_EXTERNAL : IRQ_S_EXTERNAL;
    }
    int error = fdt_begin_unit(fdt, "interrupt-controller", io->gpa);
    error |= FDT_PUT_STRINGS(fdt, "compatible", "qemu,imsics\0riscv,imsics");
    error |= fdt_put_reg(fdt, io->gpa, io->size);
    error |= fdt_put_empty(fdt, "interrupt-controller");
    error |= fdt_property_u32(fdt, "#interrupt-cells", 0);
    error |= fdt_put_empty(fdt, "msi-controller");
    error |= fdt_property_u32(fdt, "#msi-cells", 0);
    error |= fdt_put_cells(fdt, "interrupts-extended", targets, 2 * harts);
    error |= fdt_property_u32(fdt, "riscv,num-ids", IDENTITIES);
    error |= fdt_property_u32(fdt, "phandle", phandles[level]);
    return error | fdt_end_node(fdt);
}

static bool imsic_fdt(struct device *device, void *fdt)
{
    const struct imsic *imsic = CONTAINER_OF(device, struct imsic, device);
    return put_level(imsic, LEVEL_M, fdt) == 0 && put_level(imsic, LEVEL_S, fdt) == 0;
}

const struct device_ops device_imsic = {
    .name = "imsic",
    .size = sizeof(struct imsic),
    .realize = imsic_realize,
    .unrealize = imsic_unrealize,
    .reset = imsic_reset,
    .fdt = imsic_fdt,
};
