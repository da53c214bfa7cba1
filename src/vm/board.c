/* SPDX-License-Identifier: MIT
 *
 * The parts list of the riscv64 board and how the parts are wired. Order matters: interrupt
 * controllers before what they serve, the PCIe host before its functions.
 */
#include "vm/board.h"

#include <errno.h>
#include <fcntl.h>
#include <libfdt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/bits.h"
#include "base/error.h"
#include "bus/pci.h"
#include "dev/devices.h"
#include "dev/imsic.h"
#include "dev/pcie_host.h"
#include "vm/machine.h"

/* DRIVES_HARTS: an interrupt controller in front of the harts' local ones. ONLY_*: a part of
 * a board with that kind of interrupts. */
enum part_flag { USES_CONSOLE = 1, DRIVES_HARTS = 2, ONLY_PLIC = 4, ONLY_AIA = 8 };

struct part {
    const struct device_ops *ops;
    const char *id;
    uint64_t gpa, gpa_machine;
    unsigned irq;     /* interrupt controller's input, 0: none */
    uint32_t phandle; /* 0: nobody refers to it */
    unsigned flags;   /* enum part_flag */
};

static const struct part parts[] = {
    {&device_aclint, "aclint", BOARD_ACLINT_GPA, 0, 0, 0, DRIVES_HARTS},
    {&device_plic, "plic", BOARD_PLIC_GPA, 0, 0, FDT_PHANDLE_PLIC, DRIVES_HARTS | ONLY_PLIC},
    {&device_imsic, "imsic", IMSIC_S_GPA, IMSIC_M_GPA, 0, 0, DRIVES_HARTS | ONLY_AIA},
    {&device_aplic, "aplic", BOARD_APLIC_S_GPA, BOARD_APLIC_M_GPA, 0, 0, ONLY_AIA},
    {&device_sifive_test, "test", BOARD_TEST_GPA, 0, 0, BOARD_PHANDLE_TEST, 0},
    {&device_goldfish_rtc, "rtc", BOARD_RTC_GPA, 0, BOARD_RTC_IRQ, 0, 0},
    {&device_uart16550, "uart0", BOARD_UART_GPA, 0, BOARD_UART_IRQ, 0, USES_CONSOLE},
    {&device_pcie_host, "pcie", BOARD_PCIE_GPA, 0, BOARD_PCIE_IRQ, 0, 0},
    {&device_vmgenid, "vmgenid", BOARD_VMGENID_GPA, 0, BOARD_VMGENID_IRQ, 0, 0},
};

static struct device *find_device(struct vm *vm, const struct device_ops *ops)
{
    for (size_t i = 0; i < vm->device_count; i++)
        if (vm->devices[i]->ops == ops)
            return vm->devices[i];
    return NULL;
}

struct device *vm_board_add(struct vm *vm, const struct device_ops *ops,
                            const struct device_params *params, struct error **err)
{
    if (vm->device_count == VM_MAX_DEVICES) {
        error_set(err, ERROR_USAGE, "a machine has at most %d devices", VM_MAX_DEVICES);
        return NULL;
    }
    struct device *device = device_new(ops, &vm->device_env, params, err);
    if (device != NULL)
        vm->devices[vm->device_count++] = device;
    return device;
}

/* A queue for each vCPU serves it best if each has an interrupt of its own; on one wire every
 * interrupt would have the driver look at all of them. */
unsigned vm_board_queues(const struct vm *vm, unsigned wish)
{
    if (wish != 0)
        return wish;
    return vm->aia ? vm->cpu_count : 1;
}

static bool add_parts(struct vm *vm, struct error **err)
{
    const struct device_ops *wired = vm->aia ? &device_aplic : &device_plic;
    uint32_t wired_phandle = vm->aia ? FDT_PHANDLE_APLIC_S : FDT_PHANDLE_PLIC;
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        const struct part *part = &parts[i];
        if ((part->flags & (vm->aia ? ONLY_PLIC : ONLY_AIA)) != 0)
            continue;
        struct device_params params = {
            .id = part->id,
            .gpa = part->gpa,
            .gpa_machine = vm->files.boot.sbi ? 0 : part->gpa_machine,
            .irq_number = part->irq,
            .irq_phandle = (part->flags & DRIVES_HARTS) != 0 ? FDT_PHANDLE_CPU_INTC : wired_phandle,
            .phandle = part->phandle,
            .inputs = BOARD_SOURCES,
            .generation = &vm->generation,
            .chr = (part->flags & USES_CONSOLE) != 0 ? vm->env.console : NULL,
        };
        if (part->irq != 0)
            irq_line_bind(&params.irq, wired->set_input, find_device(vm, wired), part->irq);
        if (vm->aia)
            params.msi = (struct msi_sink){imsic_send, find_device(vm, &device_imsic)};
        struct device *device = vm_board_add(vm, part->ops, &params, err);
        if (device == NULL)
            return false;
        if (part->ops == &device_pcie_host)
            vm->device_env.pci = pcie_host_bus(device);
    }
    return true;
}

void vm_board_remove(struct vm *vm, struct device *device)
{
    size_t i = 0;
    while (vm->devices[i] != device)
        i++;
    vm->device_count--;
    memmove(&vm->devices[i], &vm->devices[i + 1], (vm->device_count - i) * sizeof(vm->devices[0]));
    device_free(device);
}

static bool add_balloon(struct vm *vm, struct error **err)
{
    const struct device_params params = {.id = "balloon0", .balloon = &vm->balloon};
    if (vm_board_add(vm, &device_virtio_balloon, &params, err) == NULL)
        return false;
    uint64_t kept = vm->config.balloon_size;
    if (kept != 0 && kept < vm->config.memory)
        vm->balloon.set(vm->balloon.device, vm->config.memory - kept);
    return true;
}

/* As fs/p9_state.c knows files. */
static struct vm_folder folder_of(int fd)
{
    struct statfs system = {0};
    struct stat status = {0};
    (void)fstatfs(fd, &system);
    (void)fstat(fd, &status);
    return (struct vm_folder){(uint64_t)(uint32_t)system.f_fsid.__val[0] << 32 |
                                  (uint32_t)system.f_fsid.__val[1],
                              status.st_ino};
}

static bool add_share(struct vm *vm, size_t index, struct error **err)
{
    const struct machine_share *config = &vm->config.shares[index];
    char id[32];
    snprintf(id, sizeof(id), "share%zu", index);
    const struct device_share share = {vm->files.shares[index], vm->files.own_fds, config->tag,
                                       !config->writable};
    vm->files.shares[index] = -1;
    vm->folders[index] = folder_of(share.folder);
    const struct device_params params = {.id = id, .share = &share};
    return vm_board_add(vm, &device_virtio_9p, &params, err) != NULL;
}

static bool add_vsock(struct vm *vm, struct error **err)
{
    const struct device_vsock vsock = {vm->config.vsock_cid, vm->env.vsock_listen,
                                       vm->env.vsock_connector};
    const struct device_params params = {.id = "vsock0", .vsock = &vsock};
    return vm_board_add(vm, &device_virtio_vsock, &params, err) != NULL;
}

bool vm_board_new(struct vm *vm, struct error **err)
{
    const struct device_params rng = {.id = "rng0"};
    const struct device_params button = {.id = "button0", .button = &vm->button};
    const struct device_params console = {.id = "console0", .chr = vm->env.virtio_console};
    if (!add_parts(vm, err) || vm_board_add(vm, &device_virtio_rng, &rng, err) == NULL ||
        !vm_slots_new(vm, err))
        return false;
    if (console.chr != NULL && vm_board_add(vm, &device_virtio_console, &console, err) == NULL)
        return false;
    for (size_t i = 0; i < vm->config.disk_count; i++)
        if (!vm_disk_new(vm, i, err))
            return false;
    if (vm->config.balloon && !add_balloon(vm, err))
        return false;
    if (!vm_nics_new(vm, err))
        return false;
    for (size_t i = 0; i < vm->config.share_count; i++)
        if (!add_share(vm, i, err))
            return false;
    if (vm->config.vsock_cid != 0 && !add_vsock(vm, err))
        return false;
    return vm_board_add(vm, &device_virtio_input, &button, err) != NULL;
}

void vm_board_free(struct vm *vm)
{
    while (vm->device_count > 0)
        device_free(vm->devices[--vm->device_count]);
    vm_disks_free(vm);
    vm_nics_free(vm);
}

void vm_board_reset(struct vm *vm)
{
    /* Interrupt controllers last: a request of a device's former life would else stay pending
     * in a controller that was reset before the device let go of its line. */
    for (size_t i = vm->device_count; i-- > 0;)
        vm->devices[i]->ops->reset(vm->devices[i]);
    vm_slots_reset(vm);
}

bool vm_board_fdt(struct vm *vm, void *fdt, bool root)
{
    for (size_t i = 0; i < vm->device_count; i++) {
        const struct device_ops *ops = vm->devices[i]->ops;
        bool (*write)(struct device * device, void *to) = root ? ops->fdt_root : ops->fdt;
        if (write != NULL && !write(vm->devices[i], fdt))
            return false;
    }
    return true;
}

void vm_board_quiesce(struct vm *vm)
{
    for (size_t i = 0; i < vm->device_count; i++)
        if (vm->devices[i]->ops->quiesce != NULL)
            vm->devices[i]->ops->quiesce(vm->devices[i]);
}

void vm_board_unquiesce(struct vm *vm)
{
    for (size_t i = 0; i < vm->device_count; i++)
        if (vm->devices[i]->ops->unquiesce != NULL)
            vm->devices[i]->ops->unquiesce(vm->devices[i]);
}
