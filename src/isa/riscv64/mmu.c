/* SPDX-License-Identifier: MIT
 *
 * Loads, stores, fetches and atomics that the inline TLB look-up does not serve. A slow
 * access is cut at the page boundary into one or two parts; every part is placed (translated,
 * checked) before anything is read or written.
 *
 * Flushes in the middle. Noting a write may call listeners that wait for other vCPUs, and
 * while they wait this hart obeys requests to drop translations. So an access that finds
 * tlb_generation changed since it began starts again: neither an old translation nor the note
 * of a write whose dirty flag has been taken meanwhile is ever acted on.
 *
 * The TLB itself, and its invariants: tlb.c.
 */
#include "isa/riscv64/mmu_internal.h"

#include <assert.h>
#include <inttypes.h>

#include "base/trace.h"
#include "isa/riscv64/debug.h"

#define PAGE_MASK (MEM_PAGE_SIZE - 1)

/* ---- writes ---- */

static bool holds_tohost(const struct rv_hart *hart, uint64_t gpa)
{
    uint64_t tohost = hart->vcpu.htif_tohost;
    return tohost != 0 && (gpa ^ tohost) < MEM_PAGE_SIZE;
}

void rv_note_write(struct rv_hart *hart, struct mem_ram *ram, uint64_t gpa)
{
    uint64_t generation;
    do {
        generation = hart->tlb_generation;
        mem_note_write(hart->vcpu.mem, ram, gpa);
    } while (generation != hart->tlb_generation);
}

/* ---- placing one part of an access ---- */

struct place {
    uint8_t *host; /* NULL: not RAM */
    uint64_t gpa;
};

static const struct {
    uint8_t page, access;
} fault_causes[RV_ACCESS_KINDS] = {
    [RV_LOAD] = {RV_CAUSE_LOAD_PAGE, RV_CAUSE_LOAD_ACCESS},
    [RV_STORE] = {RV_CAUSE_STORE_PAGE, RV_CAUSE_STORE_ACCESS},
    [RV_FETCH] = {RV_CAUSE_FETCH_PAGE, RV_CAUSE_FETCH_ACCESS},
};

static bool fault(struct rv_hart *hart, enum rv_access access, enum rv_fault what, uint64_t va)
{
    const bool page = what == RV_FAULT_PAGE;
    if (what == RV_FAULT_AGAIN)
        rv_raise(hart, RV_CAUSE_AGAIN, 0);
    else
        rv_raise(hart, page ? fault_causes[access].page : fault_causes[access].access, va);
    return false;
}

static unsigned effective_privilege(const struct rv_hart *hart, enum rv_access access)
{
    return access == RV_FETCH ? hart->privilege : hart->data_privilege;
}

static struct rv_tlb *current_tlb(const struct rv_hart *hart, enum rv_access access)
{
    return access == RV_LOAD    ? hart->tlb_load
           : access == RV_STORE ? hart->tlb_store
                                : hart->tlb_fetch;
}

/* gpa of a host address that came from a TLB entry. There are one or two RAM regions. */
static uint64_t host_to_gpa(const struct rv_hart *hart, const uint8_t *host)
{
    size_t count = mem_ram_count(hart->vcpu.mem);
    for (size_t i = 0; i < count; i++) {
        const struct mem_ram *ram = mem_ram_at(hart->vcpu.mem, i);
        uint64_t offset = (uint64_t)((uintptr_t)host - (uintptr_t)ram->host);
        if (offset < ram->size)
            return ram->gpa + offset;
    }
    assert(false && "a TLB entry points outside of RAM");
    return 0;
}

/* The host address of va if the TLB knows it, else NULL. */
static uint8_t *tlb_find(const struct rv_hart *hart, uint64_t va, enum rv_access access)
{
    const struct rv_tlb_entry *entry = rv_tlb_slot(current_tlb(hart, access), va);
    if (entry->tag != align_down(va, MEM_PAGE_SIZE))
        return NULL;
    return (uint8_t *)(uintptr_t)(va + entry->addend);
}

static void trace_refill(const struct rv_hart *hart, uint64_t va, enum rv_access access,
                         uint64_t gpa)
{
    static const char *const names[] = {
        [RV_LOAD] = "load", [RV_STORE] = "store", [RV_FETCH] = "fetch"};
    trace_line(hart->vcpu.trace, "vcpu%u mmu refill %s va=%" PRIx64 " gpa=%" PRIx64 " satp=%" PRIx64,
               hart->vcpu.index, names[access], va, gpa, hart->satp);
}

/* Where [va, va+size), which lies in one page, is. A store's page is noted as written. The
 * caller checks tlb_generation before it acts on the place. */
static bool place_part(struct rv_hart *hart, uint64_t va, unsigned size, enum rv_access access,
                       struct place *place)
{
    unsigned privilege = effective_privilege(hart, access);
    uint64_t generation = hart->tlb_generation;
    struct rv_translation to;
    enum rv_fault what = rv_walk(hart, va, access, privilege, &to);
    if (what != RV_FAULT_NONE)
        return fault(hart, access, what, va);
    if (!rv_pmp_allows(hart, to.gpa, size, access, privilege))
        return fault(hart, access, RV_FAULT_ACCESS, va);

    *place = (struct place){.gpa = to.gpa};
    struct mem_ram *ram = mem_ram_find(hart->vcpu.mem, to.gpa);
    if (!ram)
        return true;
    what = rv_want(hart, ram, to.gpa, 1);
    if (what != RV_FAULT_NONE)
        return fault(hart, access, what, va);
    uint64_t offset = to.gpa - ram->gpa;
    place->host = ram->host + offset;
    if (access == RV_STORE) {
        rv_note_write(hart, ram, to.gpa);
        unsigned flags = atomic_load(&ram->flags[offset >> MEM_PAGE_SHIFT]);
        if ((flags & MEM_PAGE_CODE) || holds_tohost(hart, to.gpa))
            return true;
    }
    if (hart->vcpu.debug && access != RV_FETCH && rv_debug_watches_page(hart->vcpu.debug, va))
        return true;
    bool uniform;
    uint64_t page = align_down(to.gpa, MEM_PAGE_SIZE);
    (void)rv_pmp_permissions(hart, page, page + PAGE_MASK, privilege, &uniform);
    if (uniform && generation == hart->tlb_generation) {
        rv_tlb_fill(hart, current_tlb(hart, access), va, place->host, &to);
        hart->counts.refills[access]++;
        if (trace_on(hart->vcpu.trace, TRACE_MMU))
            trace_refill(hart, va, access, to.gpa);
    }
    return true;
}

static void note_access(struct rv_hart *hart, uint64_t va, unsigned size, bool read, bool write)
{
    if (hart->vcpu.debug)
        rv_debug_accessed(hart->vcpu.debug, va, size, read, write);
}

/* ---- I/O ---- */

/* During a callback this vCPU uses nothing that it has cached, and the callback may wait for
 * a lock whose holder waits for this vCPU (vcpu.h). */
static void leave_guest(struct vcpu *vcpu)
{
    atomic_store(&vcpu->in_guest, false);
}

static void enter_guest(struct vcpu *vcpu)
{
    atomic_store(&vcpu->in_guest, true);
    /* FENCE_I waits for the end of the block: what is left of it is decoded already, and this
     * access and what follows count as having come before the fence. */
    const uint32_t at_once =
        VCPU_ATTENTION_TLB | VCPU_ATTENTION_STORES | VCPU_ATTENTION_WRITES;
    if (atomic_load(&vcpu->attention) & at_once) {
        uint32_t bits = atomic_fetch_and(&vcpu->attention, ~at_once) & at_once;
        vcpu->isa->drop(vcpu, bits);
        vcpu_look_up_again(vcpu);
    }
}

static bool io_access(struct rv_hart *hart, uint64_t va, const struct place *place, unsigned size,
                      enum rv_access access, uint64_t *value)
{
    struct vcpu *vcpu = &hart->vcpu;
    bool ok = false;
    if ((place->gpa & (size - 1)) == 0) {
        bool inside = atomic_load_explicit(&vcpu->in_guest, memory_order_relaxed);
        if (inside)
            leave_guest(vcpu);
        ok = access == RV_LOAD ? mem_io_read(vcpu->mem, place->gpa, size, value)
                               : mem_io_write(vcpu->mem, place->gpa, size, *value);
        if (inside)
            enter_guest(vcpu);
    }
    if (ok)
        note_access(hart, va, size, access == RV_LOAD, access == RV_STORE);
    return ok || fault(hart, access, RV_FAULT_ACCESS, va);
}

/* ---- loads and stores ---- */

/* An access in one or two parts. parts[1] is unused if it lies within one page. */
struct split {
    unsigned first; /* bytes in the first page */
    struct place parts[2];
};

static bool place_one(struct rv_hart *hart, uint64_t va, unsigned size, bool crossing,
                      enum rv_access access, struct place *place)
{
    place->host = tlb_find(hart, va, access);
    if (place->host)
        return true;
    if (!place_part(hart, va, size, access, place))
        return false;
    /* Misaligned I/O (mmu.h): the address is that of the part which is at fault. */
    if (crossing && !place->host)
        return fault(hart, access, RV_FAULT_ACCESS, va);
    return true;
}

static bool place_split(struct rv_hart *hart, uint64_t va, unsigned size, enum rv_access access,
                        struct split *split)
{
    unsigned in_page = (unsigned)(MEM_PAGE_SIZE - (va & PAGE_MASK));
    bool crossing = in_page < size;
    split->first = crossing ? in_page : size;
    uint64_t generation;
    do {
        generation = hart->tlb_generation;
        if (!place_one(hart, va, split->first, crossing, access, &split->parts[0]))
            return false;
        if (crossing && !place_one(hart, va + split->first, size - split->first, true, access,
                                   &split->parts[1]))
            return false;
    } while (generation != hart->tlb_generation);
    return true;
}

bool rv_load_slow(struct rv_hart *hart, uint64_t va, unsigned size, uint64_t *value)
{
    struct split split;
    *value = 0;
    if (!place_split(hart, va, size, RV_LOAD, &split))
        return false;
    const uint8_t *host = split.parts[0].host;
    if (!host)
        return io_access(hart, va, &split.parts[0], size, RV_LOAD, value);
    note_access(hart, va, size, true, false);

    uint8_t bytes[8] = {0};
    if (split.first == size && ((uintptr_t)host & (size - 1)) == 0) {
        switch (size) { /* single-copy atomic */
        case 1:
            *value = __atomic_load_n(host, __ATOMIC_RELAXED);
            return true;
        case 2:
            *value = __atomic_load_n((const uint16_t *)(const void *)host, __ATOMIC_RELAXED);
            return true;
        case 4:
            *value = __atomic_load_n((const uint32_t *)(const void *)host, __ATOMIC_RELAXED);
            return true;
        default:
            *value = __atomic_load_n((const uint64_t *)(const void *)host, __ATOMIC_RELAXED);
            return true;
        }
    }
    memcpy(bytes, host, split.first);
    if (split.first < size)
        memcpy(bytes + split.first, split.parts[1].host, size - split.first);
    *value = load_le64(bytes);
    return true;
}

static void store_aligned(uint8_t *host, unsigned size, uint64_t value)
{
    switch (size) {
    case 1:
        __atomic_store_n(host, (uint8_t)value, __ATOMIC_RELAXED);
        break;
    case 2:
        __atomic_store_n((uint16_t *)(void *)host, (uint16_t)value, __ATOMIC_RELAXED);
        break;
    case 4:
        __atomic_store_n((uint32_t *)(void *)host, (uint32_t)value, __ATOMIC_RELAXED);
        break;
    default:
        __atomic_store_n((uint64_t *)(void *)host, value, __ATOMIC_RELAXED);
        break;
    }
}

/* The host/target interface: a test tells its verdict by storing to tohost. 32-bit programs
 * and headers store the low word alone. */
static void check_tohost(struct rv_hart *hart, uint64_t gpa, unsigned size, uint64_t value)
{
    if (size < 8)
        value = bits_get(value, 0, 8 * size);
    if (hart->vcpu.htif_tohost == 0 || gpa != hart->vcpu.htif_tohost || value == 0)
        return;
    hart->vcpu.htif_value = value;
    atomic_fetch_or(&hart->vcpu.attention, (uint32_t)VCPU_ATTENTION_KICK);
}

bool rv_store_slow(struct rv_hart *hart, uint64_t va, unsigned size, uint64_t value)
{
    struct split split;
    if (!place_split(hart, va, size, RV_STORE, &split))
        return false;
    struct place *place = &split.parts[0];
    if (!place->host)
        return io_access(hart, va, place, size, RV_STORE, &value);
    note_access(hart, va, size, false, true);

    if (split.first == size && ((uintptr_t)place->host & (size - 1)) == 0) {
        store_aligned(place->host, size, value);
        if (hart->vcpu.htif_tohost != 0)
            check_tohost(hart, host_to_gpa(hart, place->host), size, value);
        return true;
    }
    uint8_t bytes[8];
    store_le64(bytes, value);
    memcpy(place->host, bytes, split.first);
    if (split.first < size)
        memcpy(split.parts[1].host, bytes + split.first, size - split.first);
    return true;
}

/* ---- pointers for atomics, fetches and cache-block operations ---- */

/* As place_split() for an access that lies in one page and must be RAM. */
static bool place_ram(struct rv_hart *hart, uint64_t va, unsigned size, enum rv_access access,
                      struct place *place)
{
    uint64_t generation;
    place->host = tlb_find(hart, va, access);
    if (place->host) {
        place->gpa = host_to_gpa(hart, place->host);
        return true;
    }
    do {
        generation = hart->tlb_generation;
        if (!place_part(hart, va, size, access, place))
            return false;
    } while (generation != hart->tlb_generation);
    return place->host || fault(hart, access, RV_FAULT_ACCESS, va);
}

bool rv_atomic_pointer(struct rv_hart *hart, uint64_t va, unsigned size, bool store, void **host,
                       uint64_t *gpa)
{
    if (va & (size - 1)) {
        rv_raise(hart, store ? RV_CAUSE_STORE_MISALIGNED : RV_CAUSE_LOAD_MISALIGNED, va);
        return false;
    }
    /* Write permission of a page or of PMP includes the permission to read. */
    struct place place;
    if (!place_ram(hart, va, size, store ? RV_STORE : RV_LOAD, &place))
        return false;
    *host = place.host;
    *gpa = place.gpa;
    note_access(hart, va, size, true, store);
    return true;
}

bool rv_fetch_pointer(struct rv_hart *hart, uint64_t va, const uint8_t **host, unsigned *in_page,
                      uint64_t *gpa)
{
    struct place place;
    if (!place_ram(hart, va, 2, RV_FETCH, &place))
        return false;
    *host = place.host;
    *gpa = place.gpa;
    *in_page = (unsigned)(MEM_PAGE_SIZE - (va & PAGE_MASK));
    if (!tlb_find(hart, va, RV_FETCH)) { /* not all of the page may be executed alike */
        uint64_t last = rv_pmp_uniform_last(hart, place.gpa, place.gpa | PAGE_MASK);
        *in_page = (unsigned)(last - place.gpa + 1);
    }
    return true;
}

bool rv_cbo_pointer(struct rv_hart *hart, uint64_t va, bool store, void **host)
{
    const unsigned block = 64;
    uint64_t start = align_down(va, block);
    struct place place;
    bool ok;
    if (store) {
        ok = place_ram(hart, start, block, RV_STORE, &place);
    } else {
        /* cbo.clean and friends need what a load or a store needs (U §19.3); every page and
         * PMP entry that may be stored to may be loaded from. I/O may be loaded from, but has
         * no cache: there is nothing to do and no pointer. */
        place.host = tlb_find(hart, start, RV_LOAD);
        ok = place.host || place_part(hart, start, block, RV_LOAD, &place);
        if (ok && !place.host && !mem_io_at(hart->vcpu.mem, place.gpa))
            ok = fault(hart, RV_LOAD, RV_FAULT_ACCESS, va);
    }
    if (!ok) {
        /* They fault as stores do, and with the address that the instruction named. */
        if (hart->trap.cause == RV_CAUSE_LOAD_PAGE)
            hart->trap.cause = RV_CAUSE_STORE_PAGE;
        else if (hart->trap.cause == RV_CAUSE_LOAD_ACCESS)
            hart->trap.cause = RV_CAUSE_STORE_ACCESS;
        hart->trap.tval = va;
        return false;
    }
    if (store)
        note_access(hart, start, block, false, true);
    *host = place.host;
    return true;
}
