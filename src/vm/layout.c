/* SPDX-License-Identifier: MIT
 *
 * What of a machine its guest can see, as text (vm.h), and what else is asked of a machine that is to be
 * saved.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "block/block.h"
#include "block/image.h"
#include "dev/drive_bus.h"
#include "vm/board.h"
#include "vm/machine.h"

static const char *const bus_names[] = {
    [MACHINE_BUS_AUTO] = "auto",
    [MACHINE_BUS_VIRTIO] = "virtio",
    [MACHINE_BUS_SCSI] = "scsi",
    [MACHINE_BUS_AHCI] = "ahci",
};

static void write_drives(const struct vm *vm, FILE *out)
{
    for (size_t i = 0; i < vm->disk_order.count; i++) {
        size_t number = vm->disk_order.numbers[i];
        const struct machine_disk *disk = &vm->config.disks[number];
        const struct vm_drive *drive = &vm->drives[number];
        fprintf(out, "disk %zu %s %s%s", number, bus_names[machine_disk_bus(disk)],
                disk->media != 0 ? "cdrom" : "disk", disk->read_only ? " read-only" : "");
        if (disk->media == 0 && vm->disks[number] != NULL)
            fprintf(out, " %" PRIu64, block_size(vm->disks[number]));
        if (drive->bus != NULL) {
            struct drive_where where;
            char id[32];
            snprintf(id, sizeof(id), "disk%zu", number);
            drive->bus->where(drive->adapter, id, &where);
            fprintf(out, " at %s unit %u", where.address, where.number);
        }
        fputc('\n', out);
    }
}

static void write_device(const struct vm *vm, size_t index, FILE *out)
{
    fprintf(out, "device %s %s", vm->devices[index]->id, vm->devices[index]->ops->name);
    if (vm->pci_slots_of[index] != 0)
        fprintf(out, " slot %u", vm->pci_slots_of[index]);
    fputc('\n', out);
}

char *vm_layout(const struct vm *vm)
{
    char isa[BOARD_ISA_MAX], *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    assert(out != NULL); /* as base/alloc.h */
    vm->board->describe_isa(vm, isa, sizeof(isa));
    fprintf(out, "isa %s\nharts %u\n", isa, vm->cpu_count);
    for (size_t i = 0; i < mem_ram_count(vm->mem); i++) {
        const struct mem_ram *ram = mem_ram_at(vm->mem, i);
        fprintf(out, "ram %#" PRIx64 " %" PRIu64 "\n", ram->gpa, ram->size);
    }
    fprintf(out, "firmware %s\ntime %s\n", vm->files.boot.sbi ? "built-in" : "its own",
            vm->config.deterministic ? "deterministic" : "real");
    for (size_t i = 0; i < vm->device_count; i++)
        write_device(vm, i, out);
    write_drives(vm, out);
    for (size_t i = 0; i < vm->nic_order.count; i++)
        fprintf(out, "nic %u %s\n", vm->nic_order.numbers[i],
                vm->config.nics[vm->nic_order.numbers[i]].mac);
    for (size_t i = 0; i < vm->config.share_count; i++)
        fprintf(out, "share %s\n", vm->config.shares[i].tag);
    fclose(out);
    return text;
}

char *vm_layout_and_folders(const struct vm *vm)
{
    char *layout = vm_layout(vm), *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    assert(out != NULL);
    fputs(layout, out);
    for (size_t i = 0; i < vm->config.share_count; i++)
        fprintf(out, "folder %s %#" PRIx64 " %" PRIu64 "\n", vm->config.shares[i].tag,
                vm->folders[i].file_system, vm->folders[i].inode);
    fclose(out);
    free(layout);
    return text;
}

bool vm_can_be_saved(const struct vm *vm, struct error **err)
{
    if (mem_is_late(vm->mem))
        return vm_refuse_late(err);
    for (size_t i = 0; i < vm->config.disk_count; i++)
        if (vm->leaving[i].active) {
            error_set(err, ERROR_USAGE, "disk %zu is being detached", i);
            error_hint(err, "Try again when it is gone ('trapeze disk list' tells).");
            return false;
        }
    if (vm->machine != NULL && vm->machine->not_saved != NULL)
        return error_set(err, ERROR_USAGE, "%s is not suspended, copied or moved while it runs",
                         vm->machine->not_saved);
    if (vm->device_env.virtio_slots == NULL || !vm->plugged)
        return true;
    error_set(err, ERROR_USAGE, "a disk or NIC has come or gone since the machine was started, and with "
                                "virtio devices that are not on PCI it would not be found again");
    error_hint(err, "Without --virtio mmio it is.");
    return false;
}

size_t vm_disk_order(const struct vm *vm, size_t *numbers)
{
    for (size_t i = 0; i < vm->disk_order.count; i++)
        numbers[i] = vm->disk_order.numbers[i];
    return vm->disk_order.count;
}

bool vm_refuse_late(struct error **err)
{
    error_set(err, ERROR_USAGE, "the machine's memory is still on its way from where it ran before");
    error_hint(err, "Try again when its migration has ended.");
    return false;
}

bool vm_can_run_without_memory(const struct vm *vm, struct error **err)
{
    const char *what = vm->config.deterministic         ? "a deterministic machine"
                       : vm->engine->direct_memory      ? vm->engine->name
                       : vm->files.boot.tohost_gpa != 0 ? "a program that talks to the host by tohost"
                                                        : NULL;
    const char *hint = "Migrate without post-copy.";
    for (size_t i = 0; what == NULL && i < vm->device_count; i++)
        if (vm->devices[i]->ops->direct_dma) {
            what = vm->devices[i]->ops->name;
            hint = "Use virtio devices, or migrate without post-copy.";
        }
    if (what == NULL)
        return true;
    error_set(err, ERROR_USAGE, "%s cannot wait for memory, so there is no post-copy with it", what);
    error_hint(err, "%s", hint);
    return false;
}

const struct machine_config *vm_config(const struct vm *vm)
{
    return &vm->config;
}

const char *vm_interrupts(const struct vm *vm)
{
    bool fixed = vm->machine != NULL && vm->machine->irqchip != NULL; /* the engine's own */
    return fixed ? "auto" : vm->aia ? "aia" : "plic";
}

struct mem_space *vm_memory(struct vm *vm)
{
    return vm->mem;
}

struct loop *vm_loop(struct vm *vm)
{
    return vm->env.loop;
}

struct block *vm_disk(struct vm *vm, size_t index)
{
    return vm->disks[index];
}

struct block_image *vm_disk_image(struct vm *vm, size_t index)
{
    return vm->disks[index] != NULL ? block_image(vm->disks[index]) : NULL;
}

bool vm_disks_flush(struct vm *vm, struct error **err)
{
    for (size_t i = 0; i < vm->config.disk_count; i++) {
        struct block_image *image = vm_disk_image(vm, i);
        bool writes = image != NULL && !image->read_only;
        /* Twice: what the first gives up, the second counts as free. */
        int error = writes ? image->format->flush(image) : 0;
        error = error == 0 && writes ? image->format->flush(image) : error;
        if (error != 0)
            return error_set_errno(err, error, "cannot write disk '%s' out", vm->config.disks[i].path);
    }
    return true;
}
