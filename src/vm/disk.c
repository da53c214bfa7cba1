/* SPDX-License-Identifier: MIT
 *
 * The machine's disks: from their description to a struct block, and what happens when one of
 * them stops the machine (werror=, rerror=).
 */
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "block/block.h"
#include "block/chain.h"
#include "dev/devices.h"
#include "dev/drive_bus.h"
#include "vm/machine.h"
#include "vm/replace.h"

static enum block_error_policy policy_of(unsigned machine_error)
{
    static const enum block_error_policy policies[] = {
        [MACHINE_ERROR_ENOSPC] = BLOCK_ERROR_ENOSPC,
        [MACHINE_ERROR_REPORT] = BLOCK_ERROR_REPORT,
        [MACHINE_ERROR_STOP] = BLOCK_ERROR_STOP,
    };
    return policies[machine_error];
}

static enum block_cache cache_of(unsigned machine_cache)
{
    static const enum block_cache caches[] = {
        [MACHINE_CACHE_WRITEBACK] = BLOCK_CACHE_WRITEBACK,
        [MACHINE_CACHE_NONE] = BLOCK_CACHE_NONE,
        [MACHINE_CACHE_UNSAFE] = BLOCK_CACHE_UNSAFE,
    };
    return caches[machine_cache];
}

static void warn(void *opaque, const char *image, const char *text)
{
    struct vm *vm = opaque;
    log_warning(vm->log, "disk '%s': %s", image, text);
}

static void pause_for_disk(void *opaque)
{
    struct vm *vm = opaque;
    if (vm->state == VM_RUNNING)
        (void)vm_pause(vm, NULL);
}

/* In deterministic mode on the vCPU's thread: the pause is the loop's to make. */
static void on_stopped(void *opaque, struct block *block, enum block_kind kind, int error)
{
    static const char *const verbs[] = {
        [BLOCK_READ] = "a read",
        [BLOCK_WRITE] = "a write",
        [BLOCK_FLUSH] = "a flush",
        [BLOCK_DISCARD] = "a discard",
        [BLOCK_WRITE_ZEROES] = "a write of zeros",
    };
    struct vm *vm = opaque;
    size_t i = 0;
    while (vm->disks[i] != block)
        i++;
    log_error(vm->log,
              "disk '%s': %s failed: %s. The machine is paused, and nothing is lost: mend it, then "
              "'resume' (trapeze control)",
              vm->config.disks[i].path, verbs[kind], strerror(error));
    loop_post(vm->env.loop, pause_for_disk, vm);
}

struct block_chain_options vm_disk_chain_options(struct vm *vm, const struct machine_disk *config,
                                                 const char *format)
{
    return (struct block_chain_options){
        .format = format,
        .read_only = config->read_only || config->media != 0,
        .cache = cache_of(config->cache),
        .reconnect_s = (unsigned)config->reconnect,
        .warn = warn,
        .opaque = vm,
    };
}

struct block *vm_disk_open(struct vm *vm, const struct machine_disk *config,
                           struct block_chain *chain, struct error **err)
{
    const struct block_chain_options how = vm_disk_chain_options(vm, config, config->format);
    const struct block_options options = {
        .werror = policy_of(config->werror),
        .rerror = policy_of(config->rerror),
        .limits = {config->iops, config->bps},
        .ignore_discards = config->discard != 0,
    };
    const struct block_env env = {
        .loop = vm->env.loop,
        .clock = vm->clock,
        .deterministic = vm->config.deterministic,
        .rings = vm->files.rings,
        .stopped = on_stopped,
        .opaque = vm,
    };
    struct block_image *image = block_chain_open(chain, config->path, &how, err);
    if (image == NULL)
        return NULL;
    struct block *disk = block_new(image, &options, &env, err);
    if (disk == NULL) {
        block_image_close(image);
        error_prefix(err, "disk '%s'", config->path);
    }
    return disk;
}

bool vm_disk_reopen(struct vm *vm, size_t index, struct error **err)
{
    const struct machine_disk *config = &vm->config.disks[index];
    struct block_image *image = vm_disk_image(vm, index);
    if (image == NULL || image->read_only || strcmp(image->format->name, "raw") == 0)
        return true;
    const struct block_chain_options how = vm_disk_chain_options(vm, config, config->format);
    struct block_image *again = block_chain_again(image, &how, err);
    if (again == NULL)
        return false;
    if (again->size != image->size) {
        block_image_close(again);
        return error_set(err, ERROR_HOST, "disk '%s' has another size by now", config->path);
    }
    image = block_swap(vm->disks[index], again);
    image->file->read_only = true; /* what it knows is old */
    block_image_close(image);
    return true;
}

void vm_disks_give_away(struct vm *vm)
{
    for (size_t i = 0; i < vm->config.disk_count; i++) {
        struct block_image *image = vm_disk_image(vm, i);
        if (image == NULL)
            continue;
        image->file->read_only = true;
        for (struct block_image *layer = image; layer != NULL; layer = layer->backing)
            block_file_unlock(layer->file);
    }
}

/* Adapters for several drives; a machine has one of each kind that it has drives for. */
static const struct adapter {
    const char *id;
    const struct device_ops *ops;
    const struct drive_bus *drives;
} adapters[] = {
    [MACHINE_BUS_SCSI] = {"scsi0", &device_virtio_scsi, &virtio_scsi_drives},
    [MACHINE_BUS_AHCI] = {"ahci0", &device_ahci, &ahci_drives},
};

struct device *vm_adapter(struct vm *vm, enum machine_disk_bus bus)
{
    for (size_t i = 0; i < vm->device_count; i++)
        if (vm->devices[i]->ops == adapters[bus].ops)
            return vm->devices[i];
    return NULL;
}

struct device *vm_adapter_new(struct vm *vm, enum machine_disk_bus bus, unsigned pci_slot,
                              struct error **err)
{
    const struct device_params params = {
        .id = adapters[bus].id, .queues = vm_board_queues(vm, 0), .pci_slot = pci_slot};
    return vm_board_add(vm, adapters[bus].ops, &params, err);
}

enum machine_disk_bus vm_adapter_bus(const char *id)
{
    for (size_t i = 0; i < ARRAY_SIZE(adapters); i++)
        if (adapters[i].id != NULL && strcmp(adapters[i].id, id) == 0)
            return (enum machine_disk_bus)i;
    return MACHINE_BUS_AUTO;
}

bool vm_disk_plug_own(struct vm *vm, size_t index, unsigned pci_slot, struct error **err)
{
    const struct machine_disk *config = &vm->config.disks[index];
    char id[32];
    snprintf(id, sizeof(id), "disk%zu", index);
    const struct device_params params = {.id = id,
                                         .disk = vm->disks[index],
                                         .serial = config->serial,
                                         .queues = vm_board_queues(vm, (unsigned)config->queues),
                                         .pci_slot = pci_slot};
    return vm_board_add(vm, &device_virtio_blk, &params, err) != NULL;
}

bool vm_disk_plug(struct vm *vm, size_t index, const struct drive_where *where, struct error **err)
{
    const struct machine_disk *config = &vm->config.disks[index];
    enum machine_disk_bus bus = machine_disk_bus(config);
    char id[32];
    snprintf(id, sizeof(id), "disk%zu", index);
    if (bus == MACHINE_BUS_VIRTIO)
        return vm_disk_plug_own(vm, index, 0, err);
    struct device *adapter = vm_adapter(vm, bus);
    if (adapter == NULL && (adapter = vm_adapter_new(vm, bus, 0, err)) == NULL)
        return false;
    const struct drive_params params = {.id = id,
                                        .disk = vm->disks[index],
                                        .optical = config->media != 0,
                                        .serial = config->serial,
                                        .address = where != NULL ? where->address : config->address,
                                        .number = where != NULL ? where->number + 1 : 0};
    if (!adapters[bus].drives->attach(adapter, &params, err))
        return false;
    vm->drives[index] = (struct vm_drive){adapter, adapters[bus].drives};
    return true;
}

void vm_disk_unplug(struct vm *vm, size_t index)
{
    const struct vm_drive *drive = &vm->drives[index];
    struct device *own = vm_disk_device(vm, index);
    char id[32];
    snprintf(id, sizeof(id), "disk%zu", index);
    if (drive->bus != NULL)
        drive->bus->detach(drive->adapter, id);
    else if (own != NULL)
        vm_board_remove(vm, own);
    vm->drives[index] = (struct vm_drive){.bus = NULL};
}

bool vm_disk_make(struct vm *vm, size_t index, struct block_chain *chain, struct error **err)
{
    const struct machine_disk *config = &vm->config.disks[index];
    if (config->path[0] == '\0') /* an empty drive */
        return true;
    vm->disks[index] = vm_disk_open(vm, config, chain, err);
    return vm->disks[index] != NULL;
}

bool vm_disk_new(struct vm *vm, size_t index, struct error **err)
{
    struct block_chain none = {.count = 0};
    struct block_chain *chain = vm->env.disks != NULL ? &vm->env.disks[index] : &none;
    return vm_disk_make(vm, index, chain, err) && vm_disk_plug(vm, index, NULL, err);
}

void vm_disks_retry(struct vm *vm)
{
    for (size_t i = 0; i < MACHINE_MAX_DISKS; i++)
        if (vm->disks[i] != NULL)
            block_retry(vm->disks[i]);
}

void vm_disks_cancel(struct vm *vm)
{
    for (size_t i = 0; i < MACHINE_MAX_DISKS; i++)
        if (vm->disks[i] != NULL)
            block_cancel(vm->disks[i]);
}

void vm_disks_free(struct vm *vm)
{
    for (size_t i = 0; i < MACHINE_MAX_DISKS; i++)
        block_free(vm->disks[i]);
    for (size_t i = 0; vm->env.disks != NULL && i < vm->disks_given; i++)
        block_chain_close(&vm->env.disks[i]); /* of those that never came to be */
    loop_cancel(vm->env.loop, pause_for_disk, vm);
}

static bool exists(const struct vm *vm, size_t disk, struct error **err)
{
    if (disk < vm->config.disk_count && vm->disks[disk] != NULL)
        return true;
    return error_set(err, ERROR_USAGE, "there is no disk %zu", disk);
}

bool vm_get_disk_limits(const struct vm *vm, size_t disk, struct vm_disk_limits *limits,
                        struct error **err)
{
    if (!exists(vm, disk, err))
        return false;
    *limits = (struct vm_disk_limits){vm->config.disks[disk].iops, vm->config.disks[disk].bps};
    return true;
}

static void apply_limits(struct vm *vm, size_t disk)
{
    uint64_t own = vm->config.disks[disk].bps, throttle = vm->disk_throttle;
    block_set_limits(vm->disks[disk],
                     &(struct block_limits){
                         .iops = vm->config.disks[disk].iops,
                         .bytes = own == 0 || (throttle != 0 && throttle < own) ? throttle : own,
                     });
}

void vm_throttle_disks(struct vm *vm, uint64_t bytes)
{
    if (vm->disk_throttle == bytes)
        return;
    vm->disk_throttle = bytes;
    for (size_t i = 0; i < vm->config.disk_count; i++)
        if (vm->disks[i] != NULL)
            apply_limits(vm, i);
}

bool vm_set_disk_limits(struct vm *vm, size_t disk, const struct vm_disk_limits *limits,
                        struct error **err)
{
    if (!exists(vm, disk, err))
        return false;
    vm->config.disks[disk].iops = limits->iops;
    vm->config.disks[disk].bps = limits->bps;
    apply_limits(vm, disk);
    return true;
}
