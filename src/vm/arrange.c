/* SPDX-License-Identifier: MIT
 *
 * A machine that is to take up the state of another one becomes like that: disks and NICs that came
 * and went have left numbers and places that a new machine gives out otherwise. Its layout says
 * which. What can come and go is taken out of the board and put in again, in that order; the rest
 * moves.
 *
 * The layout may be a stranger's: what it wants is done if it can be, and compared with it in the
 * end.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bus/pci.h"
#include "dev/drive_bus.h"
#include "vm/fits.h"
#include "vm/machine.h"

struct plan {
    struct planned_device {
        char id[32];
        unsigned slot;
    } devices[VM_MAX_DEVICES];
    size_t device_count;
    struct planned_disk {
        unsigned number;
        bool placed; /* on an adapter */
        struct drive_where where;
    } disks[MACHINE_MAX_DISKS]; /* in the order in which they came, as are NICs */
    size_t disk_count;
    unsigned nics[MACHINE_MAX_NICS];
    size_t nic_count;
};

/* ---- in which order they came ---- */

void vm_order_add(struct vm_order *order, size_t number)
{
    assert(order->count < sizeof(order->numbers));
    order->numbers[order->count++] = (uint8_t)number;
}

void vm_order_remove(struct vm_order *order, size_t number)
{
    size_t at = 0;
    while (at < order->count && order->numbers[at] != number)
        at++;
    if (at == order->count)
        return;
    order->count--;
    memmove(&order->numbers[at], &order->numbers[at + 1], order->count - at);
}

void vm_describe(const struct vm *vm, struct machine_config *config)
{
    machine_config_copy(config, &vm->config);
    for (size_t i = 0; i < config->disk_count; i++)
        machine_disk_clear(&config->disks[i]);
    for (size_t i = 0; i < config->nic_count; i++)
        machine_nic_clear(&config->nics[i]);
    config->disk_count = vm->disk_order.count;
    config->nic_count = vm->nic_order.count;
    for (size_t i = 0; i < config->disk_count; i++)
        machine_disk_copy(&config->disks[i], &vm->config.disks[vm->disk_order.numbers[i]]);
    for (size_t i = 0; i < config->nic_count; i++)
        machine_nic_copy(&config->nics[i], &vm->config.nics[vm->nic_order.numbers[i]]);
}

/* ---- from the layout ---- */

static bool impossible(struct error **err)
{
    return error_set(err, ERROR_USAGE, "the machine's parts cannot be arranged as they were");
}

static bool plan_line(struct plan *plan, const char *line, struct error **err)
{
    struct planned_device device = {.slot = 0};
    struct planned_disk disk = {.placed = false};
    unsigned number;
    if (sscanf(line, "device %31s %*s slot %u", device.id, &device.slot) >= 1) {
        if (plan->device_count == VM_MAX_DEVICES)
            return impossible(err);
        plan->devices[plan->device_count++] = device;
    } else if (sscanf(line, "disk %u ", &disk.number) == 1) {
        const char *at = strstr(line, " at ");
        disk.placed = at != NULL &&
                      sscanf(at, " at %15s unit %u", disk.where.address, &disk.where.number) == 2;
        if (plan->disk_count == MACHINE_MAX_DISKS || disk.number >= MACHINE_MAX_DISKS ||
            disk.where.number >= MACHINE_MAX_DISKS)
            return impossible(err);
        plan->disks[plan->disk_count++] = disk;
    } else if (sscanf(line, "nic %u ", &number) == 1) {
        if (plan->nic_count == MACHINE_MAX_NICS || number >= MACHINE_MAX_NICS)
            return impossible(err);
        plan->nics[plan->nic_count++] = number;
    }
    return true;
}

static bool plan_read(struct plan *plan, const char *layout, struct error **err)
{
    char *text = alloc_string(layout), *rest = text;
    bool good = true;
    unsigned disks = 0, nics = 0;
    *plan = (struct plan){.device_count = 0};
    while (good && rest != NULL)
        good = plan_line(plan, strsep(&rest, "\n"), err);
    free(text);
    for (size_t i = 0; i < plan->disk_count; i++)
        disks |= 1u << plan->disks[i].number;
    for (size_t i = 0; i < plan->nic_count; i++)
        nics |= 1u << plan->nics[i];
    return good && (((size_t)__builtin_popcount(disks) == plan->disk_count &&
                     (size_t)__builtin_popcount(nics) == plan->nic_count) ||
                    impossible(err));
}

/* ---- what can come and go ---- */

static void take_out(struct vm *vm)
{
    for (size_t i = 0; i < vm->disk_order.count; i++)
        vm_disk_unplug(vm, vm->disk_order.numbers[i]);
    for (size_t i = 0; i < vm->nic_order.count; i++)
        vm_nic_unplug(vm, vm->nic_order.numbers[i]);
    for (size_t i = vm->device_count; i-- > 0;)
        if (vm_adapter_bus(vm->devices[i]->id) != MACHINE_BUS_AUTO)
            vm_board_remove(vm, vm->devices[i]);
}

static void renumber_disks(struct vm *vm, const struct plan *plan)
{
    struct machine_disk configs[MACHINE_MAX_DISKS] = {0};
    struct block *disks[MACHINE_MAX_DISKS] = {NULL};
    for (size_t i = 0; i < plan->disk_count; i++) {
        unsigned from = vm->disk_order.numbers[i], to = plan->disks[i].number;
        configs[to] = vm->config.disks[from];
        disks[to] = vm->disks[from];
        vm->disk_order.numbers[i] = (uint8_t)to;
        if (to >= vm->config.disk_count)
            vm->config.disk_count = to + 1;
    }
    memcpy(vm->config.disks, configs, sizeof(configs));
    memcpy(vm->disks, disks, sizeof(disks));
}

static void renumber_nics(struct vm *vm, const struct plan *plan)
{
    struct machine_nic configs[MACHINE_MAX_NICS] = {0};
    struct vm_nic nics[MACHINE_MAX_NICS] = {0};
    vm->config.nic_count = 0;
    for (size_t i = 0; i < plan->nic_count; i++) {
        unsigned from = vm->nic_order.numbers[i], to = plan->nics[i];
        configs[to] = vm->config.nics[from];
        nics[to] = vm->nics[from];
        vm->nic_order.numbers[i] = (uint8_t)to;
        if (to >= vm->config.nic_count)
            vm->config.nic_count = to + 1;
    }
    memcpy(vm->config.nics, configs, sizeof(configs));
    memcpy(vm->nics, nics, sizeof(nics));
}

static const struct planned_device *planned(const struct plan *plan, const char *id)
{
    for (size_t i = 0; i < plan->device_count; i++)
        if (strcmp(plan->devices[i].id, id) == 0)
            return &plan->devices[i];
    return NULL;
}

/* ---- what is always there ---- */

static bool move_rest(struct vm *vm, const struct plan *plan, struct error **err)
{
    uint8_t to[32] = {0};
    uint32_t taken = 1; /* the host bridge */
    for (size_t i = 0; i < vm->device_count; i++) {
        const struct planned_device *at = planned(plan, vm->devices[i]->id);
        unsigned from = vm->pci_slots_of[i], slot = at != NULL ? at->slot : 0;
        if (at == NULL || (from == 0) != (slot == 0) || slot >= 32 || from >= 32 ||
            (slot != 0 && (taken >> slot & 1) != 0))
            return impossible(err);
        taken |= UINT32_C(1) << slot;
        to[from] = (uint8_t)slot;
    }
    pci_move(vm->device_env.pci, to);
    for (size_t i = 0; i < vm->device_count; i++)
        vm->pci_slots_of[i] = to[vm->pci_slots_of[i]];
    return true;
}

/* ---- all in the order of the plan ---- */

static bool put_in(struct vm *vm, const struct planned_device *device, struct error **err)
{
    enum machine_disk_bus bus = vm_adapter_bus(device->id);
    unsigned number;
    for (size_t i = 0; i < vm->device_count; i++)
        if (strcmp(vm->devices[i]->id, device->id) == 0)
            return true;
    if (bus != MACHINE_BUS_AUTO)
        return vm_adapter_new(vm, bus, device->slot, err) != NULL;
    if (sscanf(device->id, "disk%u", &number) == 1 && number < MACHINE_MAX_DISKS &&
        vm->disks[number] != NULL &&
        machine_disk_bus(&vm->config.disks[number]) == MACHINE_BUS_VIRTIO)
        return vm_disk_plug_own(vm, number, device->slot, err);
    if (sscanf(device->id, "net%u", &number) == 1 && number < MACHINE_MAX_NICS &&
        vm->nics[number].port != NULL && vm->nics[number].device == NULL)
        return vm_nic_plug(vm, number, device->slot, err);
    return impossible(err);
}

static bool put_all_in(struct vm *vm, const struct plan *plan, struct error **err)
{
    for (size_t i = 0; i < plan->device_count; i++)
        if (!put_in(vm, &plan->devices[i], err))
            return false;
    for (size_t i = 0; i < plan->disk_count; i++) {
        const struct planned_disk *disk = &plan->disks[i];
        if (!disk->placed)
            continue;
        if (machine_disk_bus(&vm->config.disks[disk->number]) == MACHINE_BUS_VIRTIO)
            return impossible(err);
        if (!vm_disk_plug(vm, disk->number, &disk->where, err))
            return false;
    }
    return true;
}

static bool sort_devices(struct vm *vm, const struct plan *plan)
{
    for (size_t i = 0; i < plan->device_count; i++) {
        size_t at = i;
        while (at < vm->device_count && strcmp(vm->devices[at]->id, plan->devices[i].id) != 0)
            at++;
        if (at == vm->device_count)
            return false;
        struct device *device = vm->devices[at];
        unsigned slot = vm->pci_slots_of[at];
        vm->devices[at] = vm->devices[i];
        vm->pci_slots_of[at] = vm->pci_slots_of[i];
        vm->devices[i] = device;
        vm->pci_slots_of[i] = slot;
    }
    return true;
}

static bool rebuild(struct vm *vm, const struct plan *plan, struct error **err)
{
    if (vm->device_env.pci == NULL || plan->disk_count != vm->disk_order.count ||
        plan->nic_count != vm->nic_order.count)
        return impossible(err);
    take_out(vm);
    renumber_disks(vm, plan);
    renumber_nics(vm, plan);
    return move_rest(vm, plan, err) && put_all_in(vm, plan, err) &&
           (sort_devices(vm, plan) || impossible(err));
}

/* Whether it is so by now. */
static bool is_arranged(const struct vm *vm, const char *saved, bool clone, struct error **err)
{
    bool folders = strstr(saved, "\nfolder ") != NULL;
    char *now = folders ? vm_layout_and_folders(vm) : vm_layout(vm);
    bool good = vm_layout_is(now, saved, clone, err);
    free(now);
    return good;
}

bool vm_arrange(struct vm *vm, const char *saved, bool clone, struct error **err)
{
    struct plan plan;
    bool folders = strstr(saved, "\nfolder ") != NULL;
    assert(vm->state == VM_CREATED);
    if (is_arranged(vm, saved, clone, NULL))
        return true;
    char *ours = folders ? vm_layout_and_folders(vm) : vm_layout(vm);
    bool good = vm_layout_fits(ours, saved, clone, err);
    free(ours);
    return good && plan_read(&plan, saved, err) && rebuild(vm, &plan, err) &&
           is_arranged(vm, saved, clone, err);
}
