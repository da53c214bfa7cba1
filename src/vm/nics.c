/* SPDX-License-Identifier: MIT
 *
 * The machine's NICs: a frame socket each, and the device that the guest sees in front of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "dev/devices.h"
#include "net/capture.h"
#include "net/port.h"
#include "vm/machine.h"

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

static bool start_capture(struct vm *vm, size_t index, const char *name, struct error **err)
{
    const char *path = vm->config.nics[index].capture;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot write the capture file '%s'", path);
    struct net_capture *capture = net_capture_new(fd, name, NET_CAPTURE_LIMIT, vm->log, err);
    if (capture == NULL)
        return false;
    net_port_set_capture(vm->ports[index], capture);
    return true;
}

static bool add_nic(struct vm *vm, size_t index, struct error **err)
{
    const struct machine_nic *config = &vm->config.nics[index];
    uint8_t mac[6];
    char id[32];
    snprintf(id, sizeof(id), "net%zu", index);
    if (vm->env.nics == NULL || vm->env.nics[index] < 0 || config->mac == NULL ||
        !machine_parse_mac(config->mac, mac))
        return error_set(err, ERROR_INTERNAL, "%s: no frame socket or no address", id);
    vm->ports[index] = net_port_new(vm->env.nics[index], id, vm->env.loop, vm->clock, vm->log, err);
    if (vm->ports[index] == NULL)
        return false;
    net_port_set_rate(vm->ports[index], config->rate * 125);
    if (config->capture != NULL && !start_capture(vm, index, id, err))
        return false;
    const struct device_params params = {
        .id = id,
        .net = vm->ports[index],
        .mac = mac,
        .mtu = config->mtu,
        .queues = vm_board_queues(vm, config->queues)};
    return vm_board_add(vm, find_model(config)->ops, &params, err) != NULL;
}

bool vm_nics_new(struct vm *vm, struct error **err)
{
    for (size_t i = 0; i < vm->config.nic_count; i++)
        if (!add_nic(vm, i, err))
            return false;
    return true;
}

void vm_nics_free(struct vm *vm)
{
    for (size_t i = 0; i < MACHINE_MAX_NICS; i++)
        net_port_free(vm->ports[i]);
}

static bool exists(const struct vm *vm, size_t nic, struct error **err)
{
    if (nic < vm->config.nic_count)
        return true;
    return error_set(err, ERROR_USAGE, "there is no NIC %zu; the machine has %zu", nic,
                     vm->config.nic_count);
}

bool vm_set_link(struct vm *vm, size_t nic, bool up, struct error **err)
{
    if (!exists(vm, nic, err))
        return false;
    net_port_set_link(vm->ports[nic], up);
    return true;
}

bool vm_set_rate(struct vm *vm, size_t nic, uint64_t rate, struct error **err)
{
    if (!exists(vm, nic, err))
        return false;
    net_port_set_rate(vm->ports[nic], rate * 125);
    return true;
}

size_t vm_nic_count(const struct vm *vm)
{
    return vm->config.nic_count;
}

void vm_get_nic(const struct vm *vm, size_t nic, struct vm_nic_status *status)
{
    const struct net_port_stats stats = net_port_stats(vm->ports[nic]);
    *status = (struct vm_nic_status){
        .model = find_model(&vm->config.nics[nic])->name,
        .up = net_port_link(vm->ports[nic]),
        .sent_frames = stats.sent_frames,
        .sent_bytes = stats.sent_bytes,
        .received_frames = stats.received_frames,
        .received_bytes = stats.received_bytes,
    };
}
