/* SPDX-License-Identifier: MIT
 *
 * See board.h: the devices that every board has, behind its own parts.
 */
#include "vm/board.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/bits.h"
#include "base/error.h"
#include "bus/pci.h"
#include "dev/devices.h"
#include "isa/vcpu.h"
#include "vm/machine.h"

struct device *vm_board_add(struct vm *vm, const struct device_ops *ops,
                            const struct device_params *params, struct error **err)
{
    if (vm->device_count == VM_MAX_DEVICES) {
        error_set(err, ERROR_USAGE, "a machine has at most %d devices", VM_MAX_DEVICES);
        return NULL;
    }
    const struct pci_host *pci = vm->device_env.pci;
    unsigned slot = params->pci_slot;
    if (pci != NULL && slot == PCI_SLOT_ANY)
        slot = pci_free_slot(pci);
    bool is_free = pci != NULL && !pci_slot_taken(pci, slot);
    struct device *device = device_new(ops, &vm->device_env, params, err);
    if (device == NULL)
        return NULL;
    vm->pci_slots_of[vm->device_count] = is_free && pci_slot_taken(pci, slot) ? slot : 0;
    vm->devices[vm->device_count++] = device;
    return device;
}

unsigned vm_board_queues(const struct vm *vm, unsigned wish)
{
    return wish != 0 ? wish : vm->board->queues(vm);
}

void vm_board_remove(struct vm *vm, struct device *device)
{
    size_t i = 0;
    while (vm->devices[i] != device)
        i++;
    vm->device_count--;
    memmove(&vm->devices[i], &vm->devices[i + 1], (vm->device_count - i) * sizeof(vm->devices[0]));
    memmove(&vm->pci_slots_of[i], &vm->pci_slots_of[i + 1],
            (vm->device_count - i) * sizeof(vm->pci_slots_of[0]));
    device_free(device);
}

static bool add_balloon(struct vm *vm, struct error **err)
{
    const struct device_params params = {.id = "balloon0", .balloon = &vm->balloon};
    vm->balloon.keeps = vm->config.balloon_keeps;
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

static const struct board *const boards[] = {&board_virt, &board_pc};

const struct board *board_find(const char *arch)
{
    for (size_t i = 0; i < ARRAY_SIZE(boards); i++)
        if (strcmp(boards[i]->isa->name, arch) == 0)
            return boards[i];
    return NULL;
}

bool vm_board_new(struct vm *vm, struct error **err)
{
    const struct device_params rng = {.id = "rng0"};
    const struct device_params button = {.id = "button0", .button = &vm->button};
    const struct device_params timer = {.id = "boot-timer", .gpa = vm->board->boot_timer_gpa};
    const struct device_params console = {.id = "console0", .chr = vm->env.virtio_console};
    if (!vm->board->parts(vm, err) || vm_board_add(vm, &device_virtio_rng, &rng, err) == NULL ||
        !vm_slots_new(vm, err))
        return false;
    if (vm->config.boot_timer && vm_board_add(vm, &device_boot_timer, &timer, err) == NULL)
        return false;
    if (console.chr != NULL && vm_board_add(vm, &device_virtio_console, &console, err) == NULL)
        return false;
    for (size_t i = 0; i < vm->config.disk_count; i++) {
        if (!vm_disk_new(vm, i, err))
            return false;
        vm_order_add(&vm->disk_order, i);
    }
    if (vm->config.balloon && !add_balloon(vm, err))
        return false;
    if (!vm_nics_new(vm, err))
        return false;
    for (size_t i = 0; i < vm->config.share_count; i++)
        if (!add_share(vm, i, err))
            return false;
    if (vm->config.vsock_cid != 0 && !add_vsock(vm, err))
        return false;
    return vm->button.press != NULL || /* the board has one of its own */
           vm_board_add(vm, &device_virtio_input, &button, err) != NULL;
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
    if (vm->machine != NULL)
        vm->machine->reset(vm->machine);
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
