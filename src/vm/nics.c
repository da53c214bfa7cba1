/* SPDX-License-Identifier: MIT
 *
 * The machine's NICs: a frame socket each, and the device that the guest sees in front of it. They
 * may come and go while the machine runs: a number that a detached NIC had is free again.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "bus/pci.h"
#include "base/vclock.h"
#include "dev/devices.h"
#include "dev/pcie_port.h"
#include "net/capture.h"
#include "net/port.h"
#include "vm/limits.h"
#include "vm/machine.h"

#define BUTTON_NS                                                                                  \
    (10 * NS_PER_S) /* a second press within 5 s takes the first back (PCIe 6.7.1.5) */

static const struct model {
    const char *name;
    const struct device_ops *ops;
} models[] = {
    {"virtio", &device_virtio_net},
    {"e1000", &device_e1000},
};

static const struct model *find_model(const struct machine_nic *nic)
{
    for (size_t i = 0; i < ARRAY_SIZE(models); i++)
        if (nic->model != NULL && strcmp(models[i].name, nic->model) == 0)
            return &models[i];
    return &models[0];
}

/* On the PCI bus, or PCI_SLOT_ANY: in a slot for virtio devices. What comes while the guest runs it
 * finds only on the bus. */
static unsigned place_of(const struct vm *vm, const struct model *model)
{
    unsigned place = vm_slots_place(vm);
    bool virtio_slot = vm->device_env.virtio_slots != NULL && vm->state == VM_CREATED &&
                       place < PCI_SLOT_BEHIND && model->ops == &device_virtio_net;
    return virtio_slot ? PCI_SLOT_ANY : place;
}

bool vm_nic_plug(struct vm *vm, size_t nic, unsigned pci_slot, struct error **err)
{
    const struct machine_nic *config = &vm->config.nics[nic];
    struct vm_nic *at = &vm->nics[nic];
    uint8_t mac[6] = {0};
    char id[32];
    snprintf(id, sizeof(id), "net%zu", nic);
    if (config->mac == NULL || !machine_parse_mac(config->mac, mac))
        return error_set(err, ERROR_INTERNAL, "%s: no address", id);
    const struct device_params params = {.id = id,
                                         .net = at->port,
                                         .mac = mac,
                                         .mtu = config->mtu,
                                         .queues = vm_board_queues(vm, config->queues),
                                         .pci_slot = pci_slot};
    at->slot = pci_slot;
    at->device = vm_board_add(vm, find_model(config)->ops, &params, err);
    if (at->device != NULL)
        vm_slots_filled(vm, pci_slot, at->device);
    return at->device != NULL;
}

void vm_nic_unplug(struct vm *vm, size_t nic)
{
    struct vm_nic *at = &vm->nics[nic];
    if (at->device == NULL)
        return;
    vm_board_remove(vm, at->device);
    at->device = NULL;
    vm_slots_filled(vm, at->slot, NULL);
}

/* Port and device of NIC `index`, as its configuration says; takes the descriptors over. */
static bool add_nic(struct vm *vm, size_t index, int link_fd, int capture_fd, struct error **err)
{
    const struct machine_nic *config = &vm->config.nics[index];
    struct vm_nic *nic = &vm->nics[index];
    struct net_capture *capture = NULL;
    char id[32];
    snprintf(id, sizeof(id), "net%zu", index);
    nic->port = net_port_new(link_fd, id, vm->env.loop, vm->clock, vm->log, err);
    if (nic->port != NULL && capture_fd >= 0)
        capture = net_capture_new(capture_fd, id, NET_CAPTURE_LIMIT, vm->log, err);
    else if (capture_fd >= 0)
        close(capture_fd);
    if (nic->port == NULL || (capture_fd >= 0 && capture == NULL))
        return false;
    net_port_set_rate(nic->port, config->rate * 125);
    if (capture != NULL)
        net_port_set_capture(nic->port, capture);
    if (!vm_nic_plug(vm, index, place_of(vm, find_model(config)), err))
        return false;
    vm_order_add(&vm->nic_order, index);
    return true;
}

static bool add_first_nic(struct vm *vm, size_t index, struct error **err)
{
    if (vm->env.nics == NULL || vm->env.nics[index] < 0)
        return error_set(err, ERROR_INTERNAL, "net%zu: no frame socket", index);
    int capture = vm->files.captures[index];
    vm->files.captures[index] = -1;
    return add_nic(vm, index, vm->env.nics[index], capture, err);
}

bool vm_nics_new(struct vm *vm, struct error **err)
{
    for (size_t i = 0; i < vm->config.nic_count; i++)
        if (!add_first_nic(vm, i, err))
            return false;
    return true;
}

void vm_nics_free(struct vm *vm)
{
    for (size_t i = 0; i < MACHINE_MAX_NICS; i++)
        net_port_free(vm->nics[i].port);
}

static bool exists(const struct vm *vm, size_t nic, struct error **err)
{
    if (nic < vm->config.nic_count && vm->nics[nic].port != NULL)
        return true;
    error_set(err, ERROR_USAGE, "there is no NIC %zu", nic);
    error_hint(err, "The verb 'status' tells which there are.");
    return false;
}

/* ---- NICs that come and go ---- */

static bool is_frame_socket(int fd)
{
    int domain = 0, type = 0;
    socklen_t size = sizeof(domain);
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX &&
           getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET;
}

static bool may_attach(const struct vm *vm, const struct machine_nic *nic, size_t number,
                       int link_fd, struct error **err)
{
    if (number == MACHINE_MAX_NICS)
        return error_set(err, ERROR_USAGE, "a machine has at most %d NICs", MACHINE_MAX_NICS);
    if (vm->config.deterministic)
        return error_set(err, ERROR_USAGE, "a deterministic machine has no network");
    if (vm->state == VM_STOPPED || vm->state == VM_FAILED)
        return error_set(err, ERROR_USAGE, "the machine has ended");
    if (nic->mac == NULL)
        return error_set(err, ERROR_USAGE, "a NIC has an address, 'mac'");
    return machine_nic_check(nic, number, err) &&
           (is_frame_socket(link_fd) ||
            error_set(err, ERROR_USAGE, "a NIC needs a frame socket, sent along with the request"));
}

static void remove_nic(struct vm *vm, size_t number)
{
    struct vm_nic *nic = &vm->nics[number];
    vm_nic_unplug(vm, number);
    vm_order_remove(&vm->nic_order, number);
    vm->plugged = true;
    net_port_free(nic->port);
    *nic = (struct vm_nic){.port = NULL};
    machine_nic_clear(&vm->config.nics[number]);
    while (vm->config.nic_count > 0 && vm->nics[vm->config.nic_count - 1].port == NULL)
        vm->config.nic_count--;
}

void vm_nic_remove(struct vm *vm, const struct device *device)
{
    for (size_t i = 0; i < vm->config.nic_count; i++)
        if (vm->nics[i].device == device) {
            remove_nic(vm, i);
            return;
        }
}

bool vm_nic_attach(struct vm *vm, const struct machine_nic *nic, int link_fd, int capture_fd,
                   size_t *number, struct error **err)
{
    *number = 0;
    while (*number < vm->config.nic_count && vm->nics[*number].port != NULL)
        ++*number;
    if (!may_attach(vm, nic, *number, link_fd, err)) {
        close(link_fd);
        if (capture_fd >= 0)
            close(capture_fd);
        return false;
    }
    if (*number == vm->config.nic_count)
        vm->config.nic_count++;
    machine_nic_copy(&vm->config.nics[*number], nic);
    vm_hold(vm);
    bool good = add_nic(vm, *number, link_fd, capture_fd, err);
    vm->plugged = true;
    const struct device *device = vm->nics[*number].device;
    if (!good)
        remove_nic(vm, *number);
    else if (vm->state == VM_PAUSED && device->ops->quiesce != NULL)
        device->ops->quiesce(vm->nics[*number].device); /* as all the others are */
    vm_release(vm);
    return good;
}

void vm_nics_announce(struct vm *vm)
{
    for (size_t i = 0; i < vm->config.nic_count; i++)
        if (vm->nics[i].port != NULL)
            net_port_announce(vm->nics[i].port);
}

static unsigned bus_of(const struct vm_slot *slot)
{
    return slot != NULL ? pcie_port_secondary(slot->port) : 0;
}

static unsigned device_of(const struct vm *vm, size_t nic)
{
    return vm->nics[nic].slot < PCI_SLOT_BEHIND ? vm->nics[nic].slot : 0;
}

/* Presses the button of the NIC's slot. */
static bool ask_guest(struct vm *vm, struct vm_slot *slot, size_t nic, struct error **err)
{
    int64_t now = vclock_now(vm->clock);
    if (pcie_port_ejecting(slot->port) && now - slot->asked < BUTTON_NS) {
        error_set(err, ERROR_USAGE, "NIC %zu is leaving, the guest was asked a moment ago", nic);
        error_hint(err, "Wait for it, or take it away by force.");
        return false;
    }
    slot->asked = now;
    pcie_port_eject(slot->port);
    return true;
}

/* No vCPU runs. */
static bool detach(struct vm *vm, size_t nic, bool force, struct error **err)
{
    struct vm_slot *slot = vm_slot_of(vm, vm->nics[nic].device);
    if (vm->nics[nic].slot == PCI_SLOT_ANY && vm->state != VM_CREATED)
        return error_set(
            err, ERROR_USAGE,
            "NIC %zu cannot leave: it is not on a bus (--virtio mmio), and stays until the "
            "machine ends",
            nic);
    bool used = vm->state != VM_CREATED && pci_slot_in_use(vm->device_env.pci, vm->nics[nic].slot);
    if (slot != NULL && !force && vm->state != VM_CREATED && pcie_port_powered(slot->port) &&
        pcie_port_heeded(slot->port))
        return ask_guest(vm, slot, nic, err);
    if (!used || (slot != NULL && (force || !pcie_port_powered(slot->port)))) {
        remove_nic(vm, nic);
        return true;
    }
    error_set(err, ERROR_USAGE, "the guest uses NIC %zu", nic);
    error_hint(err,
               "Have its driver let go first; in Linux: echo 1 > "
               "/sys/bus/pci/devices/0000:%02x:%02x.0/remove",
               bus_of(slot), device_of(vm, nic));
    return false;
}

bool vm_nic_detach(struct vm *vm, size_t nic, bool force, struct error **err)
{
    if (!exists(vm, nic, err))
        return false;
    vm_hold(vm);
    bool good = detach(vm, nic, force, err);
    vm_release(vm);
    return good;
}

/* ---- what is set and told ---- */

bool vm_set_link(struct vm *vm, size_t nic, bool up, struct error **err)
{
    if (!exists(vm, nic, err))
        return false;
    net_port_set_link(vm->nics[nic].port, up);
    return true;
}

bool vm_set_rate(struct vm *vm, size_t nic, uint64_t rate, struct error **err)
{
    if (!exists(vm, nic, err))
        return false;
    net_port_set_rate(vm->nics[nic].port, rate * 125);
    return true;
}

bool vm_get_nic_limits(const struct vm *vm, size_t nic, struct vm_nic_limits *limits,
                       struct error **err)
{
    if (!exists(vm, nic, err))
        return false;
    net_port_get_limits(vm->nics[nic].port, &limits->sends, &limits->receives);
    return true;
}

bool vm_set_nic_limits(struct vm *vm, size_t nic, const struct vm_nic_limits *limits,
                       struct error **err)
{
    if (!exists(vm, nic, err))
        return false;
    net_port_set_limits(vm->nics[nic].port, &limits->sends, &limits->receives);
    return true;
}

size_t vm_nic_count(const struct vm *vm)
{
    return vm->config.nic_count;
}

bool vm_get_nic(struct vm *vm, size_t nic, struct vm_nic_status *status)
{
    if (!exists(vm, nic, NULL))
        return false;
    const struct vm_slot *slot = vm_slot_of(vm, vm->nics[nic].device);
    const struct net_port *port = vm->nics[nic].port;
    const struct net_port_stats stats = net_port_stats(port);
    *status = (struct vm_nic_status){
        .model = find_model(&vm->config.nics[nic])->name,
        .mac = vm->config.nics[nic].mac,
        .bus = bus_of(slot),
        .slot = device_of(vm, nic),
        .hotplug_slot = slot != NULL ? (unsigned)(slot - vm->slots) + 1 : 0,
        .heeded = slot != NULL && pcie_port_heeded(slot->port),
        .leaving = slot != NULL && pcie_port_ejecting(slot->port),
        .up = net_port_link(port),
        .sent_frames = stats.sent_frames,
        .sent_bytes = stats.sent_bytes,
        .received_frames = stats.received_frames,
        .received_bytes = stats.received_bytes,
    };
    return true;
}
