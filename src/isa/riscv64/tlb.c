/* SPDX-License-Identifier: MIT
 *
 * The TLB: filling it, fences, and address spaces that the hart comes back to.
 *
 * Where an entry lies depends on bank and address alone, so that translated code finds it with
 * one comparison. What belongs to one address space (banks U and S_SUM) is therefore taken out
 * at a write of satp, as a list of the entries that were filled, and put back when the same
 * satp returns, which saves four refills of five where processes alternate (`--deterministic
 * --trace mmu`, rows pipe and switch: 245,000 beyond boot became 54,000, 126,000 became 14,000).
 * Lists are kept by all of satp; fences find them by its ASID. A fence of one address is noted
 * in a list and acted on when it comes back.
 *
 * Invariants
 *   - RAM only; a page is filled only if PMP has one answer for all of it.
 *   - A store entry: D is set in the PTE, the write was noted in this generation, the page
 *     was not MEM_PAGE_CODE, and vcpu.htif_tohost is not in it.
 *   - No watchpoint lies in the page (whoever changes watchpoints flushes).
 *   - Bank M is never translated; U, S and S_SUM hold what satp, MXR and menvcfg said when they
 *     were filled and are flushed when those change. Bank S survives a change of address space
 *     as long as it holds global translations only, as kernels have them.
 *   - All of this holds for the entries of lists, too: whatever drops entries drops them there.
 */
#include "isa/riscv64/mmu_internal.h"

#include "base/trace.h"

/* The banks of which spaces keep lists. */
static const uint8_t kept_banks[RV_SPACE_BANKS] = {RV_BANK_U, RV_BANK_S_SUM};

static void note_flush(struct rv_hart *hart, uint64_t *count, const char *what)
{
    ++*count;
    if (trace_on(hart->vcpu.trace, TRACE_MMU))
        trace_line(hart->vcpu.trace, "vcpu%u mmu flush %s", hart->vcpu.index, what);
}

/* ---- one table ---- */

static size_t slot_of(uint64_t va)
{
    return va >> MEM_PAGE_SHIFT & (RV_TLB_ENTRIES - 1);
}

static uint32_t logged(const struct rv_tlb *tlb)
{
    return tlb->fills < RV_TLB_LOG ? tlb->fills : RV_TLB_LOG;
}

static void empty(struct rv_tlb *tlb, size_t slot)
{
    tlb->entry[slot].tag = rv_tlb_empty(slot);
}

/* Of zeroed memory. */
static void begin_table(struct rv_tlb *tlb)
{
    empty(tlb, 0);
    empty(tlb, RV_TLB_ENTRIES - 1);
}

static void flush_table(struct rv_tlb *tlb)
{
    if (tlb->fills <= RV_TLB_LOG) {
        for (uint32_t i = 0; i < tlb->fills; i++)
            empty(tlb, tlb->log[i]);
    } else {
        for (size_t i = 0; i < RV_TLB_ENTRIES; i++)
            empty(tlb, i);
    }
    tlb->fills = 0;
}

static bool leads_to(const struct rv_tlb_entry *entry, uint64_t page)
{
    return entry->tag + entry->addend == page;
}

/* Empties the table; how many of its entries are in the list. */
static unsigned take_out(struct rv_tlb *tlb, struct rv_tlb_entry *list)
{
    unsigned count = 0;
    for (uint32_t i = 0, end = logged(tlb); i < end; i++) {
        size_t slot = tlb->log[i];
        if (tlb->entry[slot].tag == rv_tlb_empty(slot)) /* fenced, or logged twice because of that */
            continue;
        list[count++] = tlb->entry[slot];
        empty(tlb, slot);
    }
    if (tlb->fills > RV_TLB_LOG)
        flush_table(tlb);
    tlb->fills = 0;
    return count;
}

/* The table is empty. */
static void put_back(struct rv_tlb *tlb, const struct rv_tlb_entry *list, unsigned count)
{
    uint32_t fills = 0;
    for (unsigned i = 0; i < count; i++) {
        if (list[i].tag == RV_TLB_INVALID)
            continue;
        size_t slot = slot_of(list[i].tag);
        tlb->entry[slot] = list[i];
        tlb->log[fills++] = (uint16_t)slot;
    }
    tlb->fills = fills;
}

/* ---- the spaces that are not current ---- */

static void forget_spaces(struct rv_hart *hart)
{
    for (unsigned i = 0; i < RV_SPACES; i++)
        hart->spaces[i].satp = 0;
}

static bool has_spaces(const struct rv_hart *hart)
{
    for (unsigned i = 0; i < RV_SPACES; i++)
        if (hart->spaces[i].satp != 0)
            return true;
    return false;
}

static uint64_t asid_of(uint64_t satp)
{
    return bits_get(satp, RV_SATP_ASID_SHIFT, 16);
}

static bool in_superpages(const struct rv_hart *hart, uint64_t va)
{
    size_t half = va >> 63;
    return va >= hart->super_first[half] && va <= hart->super_last[half];
}

/* An sfence.vma with an address, in a space that is not current. */
static void fence_space(const struct rv_hart *hart, struct rv_space *space, uint64_t va)
{
    if (space->fence_count == RV_SPACE_FENCES || in_superpages(hart, va))
        space->satp = 0;
    else
        space->fences[space->fence_count++] = align_down(va, MEM_PAGE_SIZE);
}

static struct rv_space *find_space(struct rv_hart *hart, uint64_t satp)
{
    for (unsigned i = 0; i < RV_SPACES; i++)
        if (hart->spaces[i].satp == satp)
            return &hart->spaces[i];
    return NULL;
}

static struct rv_space *oldest_space(struct rv_hart *hart)
{
    struct rv_space *oldest = &hart->spaces[0];
    for (unsigned i = 0; i < RV_SPACES && oldest->satp != 0; i++)
        if (hart->spaces[i].satp == 0 || hart->spaces[i].used < oldest->used)
            oldest = &hart->spaces[i];
    return oldest;
}

/* ---- fences ---- */

void rv_tlb_init(struct rv_hart *hart)
{
    for (unsigned bank = 0; bank < RV_BANKS; bank++)
        for (unsigned kind = 0; kind < RV_ACCESS_KINDS; kind++)
            begin_table(&hart->tlb[bank][kind]);
    rv_tlb_flush_all(hart);
}

/* Drops what is translated and in the tables. */
static void flush_current(struct rv_hart *hart)
{
    for (unsigned bank = 0; bank < RV_BANKS; bank++) {
        if (bank == RV_BANK_M)
            continue;
        for (unsigned kind = 0; kind < RV_ACCESS_KINDS; kind++)
            flush_table(&hart->tlb[bank][kind]);
    }
    if (!has_spaces(hart))
        for (unsigned half = 0; half < 2; half++) {
            hart->super_first[half] = UINT64_MAX;
            hart->super_last[half] = 0;
        }
    hart->local_in_s = false;
    hart->tlb_generation++;
}

void rv_tlb_flush_translated(struct rv_hart *hart)
{
    note_flush(hart, &hart->counts.flushes_all, "all");
    forget_spaces(hart);
    flush_current(hart);
}

void rv_tlb_flush_all(struct rv_hart *hart)
{
    for (unsigned kind = 0; kind < RV_ACCESS_KINDS; kind++)
        flush_table(&hart->tlb[RV_BANK_M][kind]);
    rv_tlb_flush_translated(hart);
}

void rv_tlb_flush_asid(struct rv_hart *hart, uint64_t asid)
{
    note_flush(hart, &hart->counts.flushes_space, "space");
    asid = bits_get(asid, 0, 16);
    for (unsigned i = 0; i < RV_SPACES; i++)
        if (asid_of(hart->spaces[i].satp) == asid)
            hart->spaces[i].satp = 0;
    if (asid_of(hart->satp) != asid)
        return;
    if (hart->local_in_s) {
        flush_current(hart);
        return;
    }
    for (unsigned i = 0; i < RV_SPACE_BANKS; i++)
        for (unsigned kind = 0; kind < RV_ACCESS_KINDS; kind++)
            flush_table(&hart->tlb[kept_banks[i]][kind]);
    hart->tlb_generation++;
}

void rv_tlb_flush_loads(struct rv_hart *hart)
{
    forget_spaces(hart);
    for (unsigned bank = 0; bank < RV_BANKS; bank++)
        if (bank != RV_BANK_M)
            flush_table(&hart->tlb[bank][RV_LOAD]);
    hart->tlb_generation++;
}

static void flush_current_page(struct rv_hart *hart, uint64_t va)
{
    /* P §10.2.1: any address in a leaf orders the whole leaf, whose entries we cannot tell
     * from others; with none left, what superpages cover begins anew. */
    if (in_superpages(hart, va)) {
        forget_spaces(hart);
        flush_current(hart);
        return;
    }
    for (unsigned bank = 0; bank < RV_BANKS; bank++) {
        for (unsigned kind = 0; kind < RV_ACCESS_KINDS; kind++) {
            struct rv_tlb *tlb = &hart->tlb[bank][kind];
            if (rv_tlb_slot(tlb, va)->tag == align_down(va, MEM_PAGE_SIZE))
                empty(tlb, slot_of(va));
        }
    }
    hart->tlb_generation++;
}

void rv_tlb_flush_page(struct rv_hart *hart, uint64_t va)
{
    note_flush(hart, &hart->counts.flushes_page, "page");
    for (unsigned i = 0; i < RV_SPACES; i++)
        if (hart->spaces[i].satp != 0)
            fence_space(hart, &hart->spaces[i], va);
    flush_current_page(hart, va);
}

void rv_tlb_flush_page_of(struct rv_hart *hart, uint64_t va, uint64_t asid)
{
    note_flush(hart, &hart->counts.flushes_page, "page");
    asid = bits_get(asid, 0, 16);
    for (unsigned i = 0; i < RV_SPACES; i++)
        if (hart->spaces[i].satp != 0 && asid_of(hart->spaces[i].satp) == asid)
            fence_space(hart, &hart->spaces[i], va);
    if (asid_of(hart->satp) == asid)
        flush_current_page(hart, va);
}

void rv_tlb_drop_stores(struct rv_hart *hart, const uint8_t *host)
{
    uint64_t page = align_down((uintptr_t)host, MEM_PAGE_SIZE);
    for (unsigned bank = 0; bank < RV_BANKS; bank++) {
        struct rv_tlb *tlb = &hart->tlb[bank][RV_STORE];
        bool all = tlb->fills > RV_TLB_LOG;
        size_t count = all ? RV_TLB_ENTRIES : tlb->fills;
        for (size_t i = 0; i < count; i++) {
            size_t slot = all ? i : tlb->log[i];
            if (leads_to(&tlb->entry[slot], page))
                empty(tlb, slot);
        }
    }
    for (unsigned i = 0; i < RV_SPACES; i++) {
        struct rv_space *space = &hart->spaces[i];
        for (unsigned bank = 0; space->satp != 0 && bank < RV_SPACE_BANKS; bank++)
            for (unsigned e = 0; e < space->count[bank][RV_STORE]; e++)
                if (leads_to(&space->entry[bank][RV_STORE][e], page))
                    space->entry[bank][RV_STORE][e].tag = RV_TLB_INVALID;
    }
    hart->tlb_generation++;
}

void rv_tlb_drop_all_stores(struct rv_hart *hart)
{
    note_flush(hart, &hart->counts.flushes_stores, "stores");
    for (unsigned bank = 0; bank < RV_BANKS; bank++)
        flush_table(&hart->tlb[bank][RV_STORE]);
    for (unsigned i = 0; i < RV_SPACES; i++)
        for (unsigned bank = 0; bank < RV_SPACE_BANKS; bank++)
            hart->spaces[i].count[bank][RV_STORE] = 0;
    hart->tlb_generation++;
}

/* ---- another address space ---- */

static void leave_space(struct rv_hart *hart)
{
    struct rv_space *space = oldest_space(hart);
    space->satp = hart->satp;
    space->used = ++hart->space_clock;
    space->fence_count = 0;
    for (unsigned bank = 0; bank < RV_SPACE_BANKS; bank++)
        for (unsigned kind = 0; kind < RV_ACCESS_KINDS; kind++)
            space->count[bank][kind] =
                (uint16_t)take_out(&hart->tlb[kept_banks[bank]][kind], space->entry[bank][kind]);
}

/* The banks of spaces are empty. */
static void enter_space(struct rv_hart *hart)
{
    struct rv_space *space = find_space(hart, hart->satp);
    if (!space)
        return;
    hart->counts.spaces_kept++;
    for (unsigned bank = 0; bank < RV_SPACE_BANKS; bank++)
        for (unsigned kind = 0; kind < RV_ACCESS_KINDS; kind++)
            put_back(&hart->tlb[kept_banks[bank]][kind], space->entry[bank][kind],
                     space->count[bank][kind]);
    space->satp = 0; /* what the tables hold is newer from now on */
    for (unsigned i = 0; i < space->fence_count; i++)
        flush_current_page(hart, space->fences[i]);
}

void rv_tlb_change_space(struct rv_hart *hart, uint64_t satp)
{
    uint64_t old = hart->satp;
    if ((old ^ satp) >> RV_SATP_MODE_SHIFT) { /* takes effect at once (P §10.1.11) */
        hart->satp = satp;
        rv_tlb_flush_translated(hart);
        return;
    }
    if (satp >> RV_SATP_MODE_SHIFT == RV_SATP_BARE) {
        hart->satp = satp;
        return;
    }
    note_flush(hart, &hart->counts.spaces_changed, "change of space");
    leave_space(hart);
    if (hart->local_in_s)
        flush_current(hart);
    hart->satp = satp;
    enter_space(hart);
    hart->tlb_generation++;
}

/* ---- filling ---- */

void rv_tlb_fill(struct rv_hart *hart, struct rv_tlb *tlb, uint64_t va, const uint8_t *host,
                 const struct rv_translation *to)
{
    uint64_t page_size = to->page_size;
    if (!to->global && tlb >= hart->tlb[RV_BANK_S] && tlb < hart->tlb[RV_BANK_S + 1])
        hart->local_in_s = true;
    struct rv_tlb_entry *entry = rv_tlb_slot(tlb, va);
    uint64_t page = align_down(va, MEM_PAGE_SIZE);
    /* An entry that is replaced is in the log already. */
    if (entry->tag == rv_tlb_empty(slot_of(va))) {
        if (tlb->fills < RV_TLB_LOG)
            tlb->log[tlb->fills] = (uint16_t)slot_of(va);
        if (tlb->fills <= RV_TLB_LOG)
            tlb->fills++;
    }
    entry->tag = page;
    entry->addend = (uint64_t)(uintptr_t)host - va;

    if (page_size > MEM_PAGE_SIZE) {
        size_t half = va >> 63;
        uint64_t first = align_down(va, page_size), last = first + (page_size - 1);
        if (first < hart->super_first[half])
            hart->super_first[half] = first;
        if (last > hart->super_last[half])
            hart->super_last[half] = last;
    }
}
