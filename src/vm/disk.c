/* SPDX-License-Identifier: MIT
 *
 * The machine's disks: from their description to a struct block, and what happens when one of
 * them stops the machine (werror=, rerror=).
 */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "block/block.h"
#include "block/chain.h"
#include "vm/machine.h"

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

bool vm_disk_new(struct vm *vm, size_t index, struct error **err)
{
    const struct machine_disk *config = &vm->config.disks[index];
    const struct block_chain_options how = {
        .format = config->format,
        .read_only = config->read_only,
        .cache = cache_of(config->cache),
        .reconnect_s = (unsigned)config->reconnect,
        .warn = warn,
        .opaque = vm,
    };
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
        .stopped = on_stopped,
        .opaque = vm,
    };
    struct block_chain none = {.count = 0};
    struct block_image *image = block_chain_open(
        vm->env.disks != NULL ? &vm->env.disks[index] : &none, config->path, &how, err);
    if (image == NULL)
        return false;
    vm->disks[index] = block_new(image, &options, &env, err);
    if (vm->disks[index] == NULL) {
        block_image_close(image);
        error_prefix(err, "disk '%s'", config->path);
    }
    return vm->disks[index] != NULL;
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
    for (size_t i = 0; vm->env.disks != NULL && i < vm->config.disk_count; i++)
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

bool vm_set_disk_limits(struct vm *vm, size_t disk, const struct vm_disk_limits *limits,
                        struct error **err)
{
    if (!exists(vm, disk, err))
        return false;
    vm->config.disks[disk].iops = limits->iops;
    vm->config.disks[disk].bps = limits->bps;
    block_set_limits(vm->disks[disk], &(struct block_limits){limits->iops, limits->bps});
    return true;
}
