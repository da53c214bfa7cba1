/* SPDX-License-Identifier: MIT
 *
 * The machine's PCIe root ports: what sits in their slots, and what has to be done to it while
 * nothing runs. A port that wants that holds the machine from within the guest's own access
 * (dev/pcie_port.h), so that the next instruction already finds it done.
 */
#include <stdio.h>

#include "base/loop.h"
#include "base/vclock.h"
#include "bus/pci.h"
#include "dev/devices.h"
#include "dev/pcie_port.h"
#include "vm/machine.h"

/* The device starts anew as it does with the whole machine. */
static void renew(struct vm *vm, struct vm_slot *slot)
{
    const struct device_ops *ops = slot->device->ops;
    bool runs = vm->state != VM_PAUSED;
    if (runs && ops->quiesce != NULL)
        ops->quiesce(slot->device);
    ops->reset(slot->device);
    if (runs && ops->unquiesce != NULL)
        ops->unquiesce(slot->device);
    pcie_port_renewed(slot->port);
}

static void settle(void *opaque)
{
    struct vm *vm = opaque;
    vm_hold_wait(vm);
    vm->slots_settling = false;
    bool ended = vm->state == VM_STOPPED || vm->state == VM_FAILED;
    for (size_t i = 0; !ended && i < vm->config.pci_slots; i++) {
        struct vm_slot *slot = &vm->slots[i];
        if (slot->device == NULL)
            continue;
        if (pcie_port_ejecting(slot->port) && !pcie_port_powered(slot->port))
            vm_nic_remove(vm, slot->device);
        else if (pcie_port_stale(slot->port))
            renew(vm, slot);
    }
    vm_release(vm);
}

static void begin_settle(void *opaque)
{
    struct vm *vm = opaque;
    if (atomic_exchange(&vm->slots_settling, true))
        return;
    vm_hold_begin(vm);
    loop_post(vm->env.loop, settle, vm);
}

bool vm_slots_new(struct vm *vm, struct error **err)
{
    for (unsigned i = 0; i < vm->config.pci_slots; i++) {
        char id[32];
        snprintf(id, sizeof(id), "port%u", i + 1);
        const struct device_port port = {i + 1, begin_settle, vm};
        const struct device_params params = {.id = id, .port = &port};
        vm->slots[i].port = vm_board_add(vm, &device_pcie_port, &params, err);
        if (vm->slots[i].port == NULL)
            return false;
    }
    return true;
}

void vm_slots_free(struct vm *vm)
{
    loop_cancel(vm->env.loop, settle, vm);
}

void vm_slots_reset(struct vm *vm)
{
    for (size_t i = 0; i < vm->config.pci_slots; i++) {
        struct vm_slot *slot = &vm->slots[i];
        if (slot->device != NULL && pcie_port_ejecting(slot->port)) {
            vm_nic_remove(vm, slot->device);
            slot->port->ops->reset(slot->port); /* it was not there when the guest began */
        }
    }
}

unsigned vm_slots_place(const struct vm *vm)
{
    for (size_t i = 0; i < vm->config.pci_slots; i++)
        if (vm->slots[i].device == NULL)
            return PCI_SLOT_BEHIND + pcie_port_slot(vm->slots[i].port);
    return pci_free_slot(vm->device_env.pci);
}

void vm_slots_filled(struct vm *vm, unsigned place, struct device *device)
{
    for (size_t i = 0; i < vm->config.pci_slots; i++) {
        struct vm_slot *slot = &vm->slots[i];
        if (PCI_SLOT_BEHIND + pcie_port_slot(slot->port) != place)
            continue;
        slot->device = device;
        pcie_port_changed(slot->port);
        if (vm->state == VM_CREATED)
            slot->port->ops->reset(slot->port); /* it has always been so */
        else if (device != NULL && pcie_port_heeded(slot->port))
            pcie_port_attention(slot->port); /* who has a button awaits no other sign */
    }
}

struct vm_slot *vm_slot_of(struct vm *vm, const struct device *device)
{
    for (size_t i = 0; i < vm->config.pci_slots; i++)
        if (device != NULL && vm->slots[i].device == device)
            return &vm->slots[i];
    return NULL;
}
