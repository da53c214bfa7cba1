/* SPDX-License-Identifier: MIT
 *
 * Disks and discs that come and go while the machine runs.
 *
 * A disk that is detached leaves in two steps: the guest's driver is told that it goes, and may
 * still write what it holds back and flush it; when the driver has let go (it has dealt with what
 * it was told, flushed and is quiet, or has been quiet for long), the disk is gone and its file
 * closed. A guest that does not listen loses it at once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/vclock.h"
#include "block/block.h"
#include "dev/drive_bus.h"
#include "vm/machine.h"

#define LOOK_NS     (NS_PER_S / 10)
#define FLUSHED_NS  (3 * NS_PER_S / 10) /* of silence after a flush: the driver is done */
#define QUIET_NS    (3 * NS_PER_S)      /* ... and if there was none */
#define PATIENCE_NS (60 * NS_PER_S)     /* for a guest that goes on using it */

static void drive_id(char id[32], size_t index)
{
    snprintf(id, 32, "disk%zu", index);
}

static bool exists(const struct vm *vm, size_t index, struct error **err)
{
    if (index < vm->config.disk_count && vm->config.disks[index].path != NULL)
        return true;
    error_set(err, ERROR_USAGE, "there is no disk %zu", index);
    error_hint(err, "The verb 'disks' tells which there are");
    return false;
}

/* --- attaching --- */

static size_t free_index(const struct vm *vm)
{
    size_t index = 0;
    while (index < vm->config.disk_count && vm->config.disks[index].path != NULL)
        index++;
    return index;
}

bool vm_disk_attach(struct vm *vm, const struct machine_disk *disk, struct block_chain *files,
                    size_t *index, bool *rescan, struct error **err)
{
    *index = free_index(vm);
    if (*index == MACHINE_MAX_DISKS)
        return error_set(err, ERROR_USAGE, "a machine has at most %d disks", MACHINE_MAX_DISKS);
    struct machine_disk *config = &vm->config.disks[*index];
    machine_disk_copy(config, disk);
    if (config->bus == MACHINE_BUS_AUTO)
        config->bus = MACHINE_BUS_SCSI; /* which can tell the guest */
    enum machine_disk_bus bus = machine_disk_bus(config);
    size_t devices = vm->device_count;
    bool good = machine_disk_check(config, err) && vm_disk_make(vm, *index, files, err);
    vm_hold(vm); /* opening it may take longer */
    good = good && vm_disk_plug(vm, *index, NULL, err);
    *rescan = vm->device_count > devices; /* PCI functions, which nothing tells the guest of */
    vm_release(vm);
    if (!good) {
        block_free(vm->disks[*index]);
        vm->disks[*index] = NULL;
        machine_disk_clear(config);
    } else {
        vm->config.disk_count += *index == vm->config.disk_count;
        vm_order_add(&vm->disk_order, *index);
        vm->plugged = true;
    }
    if (good && *rescan && bus != MACHINE_BUS_VIRTIO)
        log_info(vm->log, "the machine has a new adapter, which the guest finds when it looks "
                          "through its PCI bus again");
    return good;
}

/* --- detaching --- */

static void detach(struct vm *vm, size_t index)
{
    vm->leaving[index].active = false;
    vm_hold(vm);
    vm_disk_unplug(vm, index);
    vm_release(vm);
    vm_order_remove(&vm->disk_order, index);
    vm->plugged = true;
    block_free(vm->disks[index]);
    vm->disks[index] = NULL;
    machine_disk_clear(&vm->config.disks[index]);
}

static struct drive_activity activity_of(struct vm *vm, size_t index)
{
    struct drive_activity activity;
    char id[32];
    drive_id(id, index);
    vm->drives[index].bus->activity(vm->drives[index].adapter, id, &activity);
    return activity;
}

static bool has_left(struct vm *vm, size_t index)
{
    struct vm_leaving *leaving = &vm->leaving[index];
    const struct drive_activity activity = activity_of(vm, index);
    int64_t now = vclock_now(vm->clock);
    if (activity.busy || activity.started != leaving->last) {
        leaving->last = activity.started;
        leaving->since = now;
    }
    bool flushed = activity.flushed && activity.started != leaving->first;
    bool quiet = now - leaving->since >= (flushed ? FLUSHED_NS : QUIET_NS);
    return !activity.watched || (activity.handled && quiet) || now - leaving->begun >= PATIENCE_NS;
}

static void look(void *opaque)
{
    struct vm *vm = opaque;
    bool more = false;
    for (size_t i = 0; i < vm->config.disk_count; i++) {
        if (vm->leaving[i].active && has_left(vm, i))
            detach(vm, i);
        more = more || vm->leaving[i].active;
    }
    if (more)
        vtimer_arm(vm->leaving_timer, vclock_now(vm->clock) + LOOK_NS);
}

/* In deterministic mode on a vCPU's thread. */
static void on_timer(void *opaque)
{
    struct vm *vm = opaque;
    loop_post(vm->env.loop, look, vm);
}

bool vm_disk_detach(struct vm *vm, size_t index, bool force, struct error **err)
{
    char id[32];
    if (!exists(vm, index, err))
        return false;
    const struct vm_drive *drive = &vm->drives[index];
    if (drive->bus == NULL) {
        error_set(err, ERROR_USAGE, "disk %zu is on bus=virtio and cannot be detached", index);
        error_hint(err, "Disks on bus=scsi and bus=ahci can");
        return false;
    }
    if (force || vm->state == VM_CREATED || !activity_of(vm, index).watched) {
        detach(vm, index);
        return true;
    }
    if (vm->state != VM_RUNNING) {
        error_set(err, ERROR_USAGE, "the guest cannot let go of disk %zu while it is %s", index,
                  vm_state_name(vm->state));
        error_hint(err, "Let it run, or add force=true: the disk is gone at once");
        return false;
    }
    if (vm->leaving[index].active)
        return true;
    drive_id(id, index);
    uint64_t started = activity_of(vm, index).started;
    int64_t now = vclock_now(vm->clock);
    vm->leaving[index] = (struct vm_leaving){true, started, started, now, now};
    drive->bus->leave(drive->adapter, id);
    if (vm->leaving_timer == NULL)
        vm->leaving_timer = vtimer_new(vm->clock, on_timer, vm);
    vtimer_arm(vm->leaving_timer, now + LOOK_NS);
    return true;
}

void vm_hotplug_free(struct vm *vm)
{
    vtimer_free(vm->leaving_timer);
    vm->leaving_timer = NULL;
    loop_cancel(vm->env.loop, look, vm);
}

/* --- discs --- */

static bool is_optical(const struct vm *vm, size_t index, struct error **err)
{
    return exists(vm, index, err) &&
           (vm->config.disks[index].media != 0 ||
            error_set(err, ERROR_USAGE, "disk %zu is no optical drive", index));
}

/* Opens the tray, if the guest allows it. */
static bool open_tray(struct vm *vm, size_t index, bool force, struct error **err)
{
    char id[32];
    drive_id(id, index);
    if (vm->drives[index].bus->eject(vm->drives[index].adapter, id) || force)
        return true;
    error_set(err, ERROR_USAGE, "the guest has locked the tray of disk %zu", index);
    error_hint(err, "It was asked to open it; try again, or add force=true: a file system that "
                    "is mounted from the disc then fails");
    return false;
}

static void change(struct vm *vm, size_t index, struct block *disk, const char *path)
{
    struct machine_disk *config = &vm->config.disks[index];
    struct block *old = vm->disks[index];
    char id[32];
    drive_id(id, index);
    vm_hold(vm);
    vm->drives[index].bus->insert(vm->drives[index].adapter, id, disk);
    vm->disks[index] = disk;
    vm_release(vm);
    block_free(old);
    free(config->path);
    config->path = alloc_string(path);
}

bool vm_disk_eject(struct vm *vm, size_t index, bool force, struct error **err)
{
    if (!is_optical(vm, index, err) || !open_tray(vm, index, force, err))
        return false;
    change(vm, index, NULL, "");
    return true;
}

bool vm_disk_insert(struct vm *vm, size_t index, const char *path, struct block_chain *files,
                    bool force, struct error **err)
{
    if (!is_optical(vm, index, err))
        return false;
    struct machine_disk config = vm->config.disks[index];
    config.path = alloc_string(path);
    struct block *disk = vm_disk_open(vm, &config, files, err);
    bool good = disk != NULL && open_tray(vm, index, force, err);
    if (good)
        change(vm, index, disk, path);
    else
        block_free(disk);
    free(config.path);
    return good;
}

/* --- what there is --- */

size_t vm_disk_count(const struct vm *vm)
{
    return vm->config.disk_count;
}

bool vm_get_disk(const struct vm *vm, size_t index, struct vm_disk_status *status)
{
    static const char *const buses[] = {
        [MACHINE_BUS_AUTO] = "auto",
        [MACHINE_BUS_VIRTIO] = "virtio",
        [MACHINE_BUS_SCSI] = "scsi",
        [MACHINE_BUS_AHCI] = "ahci",
    };
    const struct machine_disk *config = &vm->config.disks[index];
    if (index >= vm->config.disk_count || config->path == NULL)
        return false;
    *status = (struct vm_disk_status){
        .path = config->path,
        .bus = buses[machine_disk_bus(config)],
        .optical = config->media != 0,
        .read_only = config->read_only || config->media != 0,
        .leaving = vm->leaving[index].active,
        .size = vm->disks[index] != NULL ? block_size(vm->disks[index]) : 0,
    };
    if (vm->disks[index] != NULL) {
        struct block_counters counters;
        block_get_counters(vm->disks[index], &counters);
        status->reads = counters.reads;
        status->writes = counters.writes;
        status->read_bytes = counters.read_bytes;
        status->written_bytes = counters.written_bytes;
    }
    return true;
}
