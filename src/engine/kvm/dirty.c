/* SPDX-License-Identifier: MIT
 *
 * Which pages the guest has written. KVM notes that only from the moment on at which somebody reads the
 * log for the first time; then all pages count as written once.
 *
 * It has two ways: a ring for each vCPU, in memory that we share with it (api.rst, "8.29
 * KVM_CAP_DIRTY_LOG_RING"), or bitmaps of whole slots, which older kernels have. What is read of a ring
 * costs as many steps as pages were written, of a bitmap as many as there are. Either way a page that
 * was read is protected again before its contents are looked at.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "engine/kvm/kvm_internal.h"

/* 64 KiB for each vCPU. A vCPU that fills it, with 16 MiB of pages, empties it itself. */
#define RING_ENTRIES 4096u

/* ---- rings ---- */

bool kvm_make_rings(struct kvm_machine *machine, struct error **err)
{
    static const uint32_t ways[] = {KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING};
    const uint64_t size = RING_ENTRIES * sizeof(struct kvm_dirty_gfn);
    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        struct kvm_enable_cap cap = {.cap = ways[i], .args = {size}};
        int most = ioctl(machine->kvm, KVM_CHECK_EXTENSION, ways[i]);
        if (most <= 0 || (uint64_t)most < size)
            continue;
        if (kvm_ioctl(machine->vm, KVM_ENABLE_CAP, &cap) != 0)
            return error_set_errno(err, errno, "KVM makes no rings for written pages");
        machine->ring_entries = RING_ENTRIES;
        return true;
    }
    return true;
}

bool kvm_map_ring(struct kvm_cpu *kvm, struct error **err)
{
    struct kvm_machine *machine = kvm->machine;
    size_t size = machine->ring_entries * sizeof(struct kvm_dirty_gfn);
    if (machine->ring_entries == 0)
        return true;
    if (kvm->cpu->vcpu.index >= KVM_CPUS_MAX)
        return error_set(err, ERROR_INTERNAL, "a machine has at most %d vCPUs", KVM_CPUS_MAX);
    void *ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, kvm->fd,
                      KVM_DIRTY_LOG_PAGE_OFFSET * sysconf(_SC_PAGESIZE));
    if (ring == MAP_FAILED)
        return error_set_errno(err, errno, "KVM makes no ring for the pages that vCPU %u writes",
                               kvm->cpu->vcpu.index);
    (void)madvise(ring, size, MADV_DONTFORK); /* as what is behind struct kvm_run */
    kvm->ring = ring;
    pthread_mutex_lock(&machine->log_lock);
    machine->cpus[kvm->cpu->vcpu.index] = kvm;
    pthread_mutex_unlock(&machine->log_lock);
    return true;
}

void kvm_drop_ring(struct kvm_cpu *kvm)
{
    struct kvm_machine *machine = kvm->machine;
    if (kvm->ring == NULL)
        return;
    pthread_mutex_lock(&machine->log_lock);
    machine->cpus[kvm->cpu->vcpu.index] = NULL;
    pthread_mutex_unlock(&machine->log_lock);
    munmap(kvm->ring, machine->ring_entries * sizeof(struct kvm_dirty_gfn));
    kvm->ring = NULL;
}

static void note(struct kvm_machine *machine, const struct kvm_dirty_gfn *entry)
{
    if (entry->slot >= mem_ram_count(machine->mem))
        return;
    struct mem_ram *ram = mem_ram_at(machine->mem, entry->slot);
    if (entry->offset < ram->size >> MEM_PAGE_SHIFT)
        mem_note_write(machine->mem, ram, ram->gpa + (entry->offset << MEM_PAGE_SHIFT));
}

/* Lock held. */
static bool read_ring(struct kvm_machine *machine, struct kvm_cpu *kvm)
{
    bool read = false;
    for (;; kvm->ring_next++) {
        struct kvm_dirty_gfn *entry = &kvm->ring[kvm->ring_next % machine->ring_entries];
        if (__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
            return read;
        note(machine, entry);
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        read = true;
    }
}

/* Lock held. */
static void read_rings(struct kvm_machine *machine)
{
    bool read = false;
    for (unsigned i = 0; i < KVM_CPUS_MAX; i++)
        if (machine->cpus[i] != NULL && read_ring(machine, machine->cpus[i]))
            read = true;
    if (read && ioctl(machine->vm, KVM_RESET_DIRTY_RINGS, 0) < 0)
        log_error(machine->log, "KVM does not go on noting which memory is written: %s", strerror(errno));
}

void kvm_empty_rings(struct kvm_machine *machine)
{
    pthread_mutex_lock(&machine->log_lock);
    read_rings(machine);
    pthread_mutex_unlock(&machine->log_lock);
}

/* ---- bitmaps ---- */

static size_t slot_of(const struct kvm_machine *machine, const struct mem_ram *ram)
{
    size_t slot = 0;
    while (mem_ram_at(machine->mem, slot) != ram)
        slot++;
    return slot;
}

static uint64_t *new_bitmap(const struct kvm_machine *machine)
{
    uint64_t largest = 0;
    for (size_t i = 0; i < mem_ram_count(machine->mem); i++)
        largest = largest < mem_ram_at(machine->mem, i)->size ? mem_ram_at(machine->mem, i)->size
                                                               : largest;
    return alloc_zeroed((size_t)(largest >> MEM_PAGE_SHIFT) / 64 + 1, 8);
}

/* Lock held. */
static void read_bitmap(struct kvm_machine *machine, struct mem_ram *ram)
{
    struct kvm_dirty_log log = {.slot = (uint32_t)slot_of(machine, ram),
                                .dirty_bitmap = machine->log_bitmap};
    uint64_t pages = ram->size >> MEM_PAGE_SHIFT;
    if (kvm_ioctl(machine->vm, KVM_GET_DIRTY_LOG, &log) != 0) {
        log_error(machine->log, "KVM does not tell which memory was written: %s", strerror(errno));
        mem_note_range(machine->mem, ram->gpa, ram->size);
        return;
    }
    for (uint64_t word = 0; word < (pages + 63) / 64; word++)
        for (uint64_t bits = machine->log_bitmap[word]; bits != 0; bits &= bits - 1)
            mem_note_write(machine->mem, ram,
                           ram->gpa + ((word * 64 + (uint64_t)__builtin_ctzll(bits))
                                       << MEM_PAGE_SHIFT));
}

/* ---- either ---- */

/* Lock held. Nothing of before is known. */
static void start_log(struct kvm_machine *machine)
{
    if (machine->ring_entries == 0 && machine->log_bitmap == NULL)
        machine->log_bitmap = new_bitmap(machine);
    if (!kvm_set_slots(machine, KVM_MEM_LOG_DIRTY_PAGES))
        log_error(machine->log, "KVM does not note which memory is written: %s", strerror(errno));
    else
        machine->logging = true;
    for (size_t i = 0; i < mem_ram_count(machine->mem); i++)
        mem_note_range(machine->mem, mem_ram_at(machine->mem, i)->gpa,
                       mem_ram_at(machine->mem, i)->size);
}

void kvm_collect(void *opaque, struct mem_ram *ram)
{
    struct kvm_machine *machine = opaque;
    pthread_mutex_lock(&machine->log_lock);
    if (!machine->logging)
        start_log(machine);
    else if (machine->ring_entries != 0)
        read_rings(machine);
    else
        read_bitmap(machine, ram);
    pthread_mutex_unlock(&machine->log_lock);
}

void kvm_stop_log(void *opaque)
{
    struct kvm_machine *machine = opaque;
    pthread_mutex_lock(&machine->log_lock);
    if (machine->logging && kvm_set_slots(machine, 0)) {
        machine->logging = false;
        if (machine->ring_entries != 0) /* a ring has room for the next time */
            read_rings(machine);
    }
    pthread_mutex_unlock(&machine->log_lock);
}
