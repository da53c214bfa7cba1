/* SPDX-License-Identifier: MIT
 *
 * What belongs to a region: all code that can be reached from its entry by branches and jumps
 * to known addresses, nearest first, and from which the entry can be reached again.
 *
 * Only pages in the fetch TLB are looked at, and they are watched before they are decoded.
 */
#include "engine/dbt/region.h"

#include <assert.h>

#include "isa/riscv64/mmu.h"

/* ---- memory ---- */

/* The page of pc, NULL if it cannot be had. */
static const struct region_page *page_at(struct region *region, uint64_t pc)
{
    uint64_t va = align_down(pc, MEM_PAGE_SIZE), gpa;
    for (unsigned i = 0; i < region->page_count; i++)
        if (region->pages[i].va == va)
            return &region->pages[i];
    struct rv_hart *hart = region->dbt->hart;
    const uint8_t *host;
    unsigned in_page;
    if (region->page_count == REGION_PAGES || rv_tlb_slot(hart->tlb_fetch, va)->tag != va ||
        !rv_fetch_pointer(hart, va, &host, &in_page, &gpa) ||
        !dbt_watch_page(region->dbt, host, gpa))
        return NULL;
    struct region_page *page = &region->pages[region->page_count++];
    *page = (struct region_page){.va = va, .host = host};
    return page;
}

static uint16_t read_parcel(const uint8_t *host)
{
    return __atomic_load_n((const uint16_t *)(const void *)host, __ATOMIC_RELAXED);
}

/* False: it continues on a page that cannot be had. */
static bool decode(struct region *region, const struct region_page *page, uint64_t pc,
                   struct rv_insn *insn)
{
    const uint8_t *host = page->host + (pc - page->va);
    uint32_t bits = read_parcel(host);
    if ((bits & 3) == 3) {
        if (pc + 2 - page->va < MEM_PAGE_SIZE) {
            host += 2;
        } else {
            const struct region_page *second = page_at(region, pc + 2);
            if (!second)
                return false;
            host = second->host;
        }
        bits |= (uint32_t)read_parcel(host) << 16;
    }
    rv_decode(region->dbt->interp.decoder, bits, insn);
    return true;
}

/* ---- nodes ---- */

static int node_starting_at(const struct region *region, uint64_t pc)
{
    for (unsigned i = 0; i < region->node_count; i++)
        if (region->nodes[i].pc == pc)
            return (int)i;
    return -1;
}

static bool is_jump(const struct region *region, const struct rv_insn *insn)
{
    const struct gen_op *op = gen_op_of(region->dbt, insn);
    return op && strcmp(op->name, "jal") == 0;
}

/* Such an instruction is left to a block: it may change what a region relies on. */
static bool is_foreign(const struct region *region, const struct rv_insn *insn)
{
    if (gen_touches_fflags(region->dbt, insn))
        return false;
    if (insn->row == UINT16_MAX || (insn->flags & RV_ROW_ENDS_BLOCK))
        return true;
    const struct rv_row *row = rv_decoder_row(region->dbt->interp.decoder, insn->row);
    return row->format == RV_FORMAT_CSR || row->format == RV_FORMAT_CSRI;
}

static void number(struct region *region, struct region_node *node)
{
    uint16_t offset = 0;
    for (unsigned i = 0; i < node->count; i++) {
        struct rv_insn *insn = &region->insns[node->first + i];
        insn->index = (uint8_t)i;
        insn->offset = offset;
        offset = (uint16_t)(offset + insn->length);
    }
}

/* Fills a node; false: not a single instruction of it belongs into a region. */
static bool fill(struct region *region, struct region_node *node)
{
    const struct region_page *page = page_at(region, node->pc);
    uint64_t pc = node->pc;
    if (!page)
        return false;
    node->first = region->insn_count;
    for (;;) {
        struct rv_insn *insn = &region->insns[region->insn_count];
        if (pc - page->va >= MEM_PAGE_SIZE || (pc != node->pc && node_starting_at(region, pc) >= 0))
            break;
        if (region->insn_count == REGION_INSNS || node->count == UINT8_MAX ||
            !decode(region, page, pc, insn)) {
            node->stops = true;
            break;
        }
        bool jumps = is_jump(region, insn) && insn->rd == RV_RD_NONE;
        if (is_foreign(region, insn) && !jumps) {
            node->stops = true;
            break;
        }
        region->insn_count++;
        node->count++;
        if (jumps || (insn->flags & RV_ROW_BRANCH)) {
            node->branches = !jumps;
            node->taken_pc = pc + (uint64_t)insn->imm;
            pc = jumps ? node->taken_pc : pc + insn->length;
            break;
        }
        pc += insn->length;
    }
    node->next_pc = pc;
    number(region, node);
    return node->count > 0;
}

/* Cuts the node that has an instruction, not its first, at pc. */
static bool split(struct region *region, uint64_t pc)
{
    for (unsigned i = 0; i < region->node_count; i++) {
        struct region_node *node = &region->nodes[i];
        for (unsigned j = 1; j < node->count; j++) {
            if (node->pc + region->insns[node->first + j].offset != pc)
                continue;
            struct region_node *tail = &region->nodes[region->node_count++];
            *tail = *node;
            tail->pc = pc;
            tail->first = node->first + j;
            tail->count = node->count - j;
            node->count = j;
            node->next_pc = pc;
            node->branches = node->stops = false;
            number(region, tail);
            return true;
        }
    }
    return false;
}

static void want(struct region *region, uint64_t pc)
{
    if (region->node_count == REGION_NODES || node_starting_at(region, pc) >= 0 ||
        split(region, pc))
        return;
    struct region_node *node = &region->nodes[region->node_count];
    *node = (struct region_node){.pc = pc};
    if (fill(region, node))
        region->node_count++;
}

static void explore(struct region *region)
{
    want(region, region->fallback->pc);
    for (unsigned i = 0; i < region->node_count; i++) {
        struct region_node node = region->nodes[i];
        if (!node.stops)
            want(region, node.next_pc);
        if (node.branches)
            want(region, node.taken_pc);
    }
    for (unsigned i = 0; i < region->node_count; i++) {
        struct region_node *node = &region->nodes[i];
        node->next = node->stops ? -1 : node_starting_at(region, node->next_pc);
        node->taken = node->branches ? node_starting_at(region, node->taken_pc) : -1;
    }
}

/* ---- the loop ---- */

static bool leads_to_kept(const struct region *region, int node)
{
    return node >= 0 && region->nodes[node].kept;
}

static bool keep_loop(struct region *region)
{
    region->nodes[0].kept = true;
    bool again, loop = false;
    do {
        again = false;
        for (unsigned i = 0; i < region->node_count; i++) {
            struct region_node *node = &region->nodes[i];
            if (!leads_to_kept(region, node->next) && !leads_to_kept(region, node->taken))
                continue;
            again = again || !node->kept;
            node->kept = true;
        }
    } while (again);
    for (unsigned i = 0; i < region->node_count; i++) {
        struct region_node *node = &region->nodes[i];
        node->next = leads_to_kept(region, node->next) ? node->next : -1;
        node->taken = leads_to_kept(region, node->taken) ? node->taken : -1;
        loop = loop || (node->kept && (node->next == 0 || node->taken == 0));
    }
    return loop;
}

static void note_loop(struct region_node *node, uint64_t first, uint64_t last)
{
    node->depth++;
    if (node->depth == 1 || last - first < node->loop_last - node->loop_first) {
        node->loop_first = first;
        node->loop_last = last;
    }
}

/* Compilers put loops where their addresses nest. */
static void find_depths(struct region *region)
{
    for (unsigned i = 0; i < region->node_count; i++) {
        const struct region_node *from = &region->nodes[i];
        const int targets[] = {from->next, from->taken};
        for (unsigned k = 0; from->kept && k < ARRAY_SIZE(targets); k++) {
            if (targets[k] < 0 || region->nodes[targets[k]].pc > from->pc)
                continue;
            for (unsigned j = 0; j < region->node_count; j++) {
                struct region_node *node = &region->nodes[j];
                if (node->pc >= region->nodes[targets[k]].pc && node->pc <= from->pc)
                    note_loop(node, region->nodes[targets[k]].pc, from->pc);
            }
        }
    }
}

static bool is_step(const struct region *region, const struct rv_insn *insn)
{
    const struct gen_op *op = gen_op_of(region->dbt, insn);
    return op && strcmp(op->name, "addi") == 0 && insn->rs1 == insn->rd && insn->imm >= -64 &&
           insn->imm <= 64;
}

/* By instructions other than small steps; f registers count as x registers, too. */
static uint32_t written_by(const struct region *region, const struct region_node *node)
{
    uint32_t written = 0;
    for (unsigned i = 0; i < node->count; i++) {
        const struct rv_insn *insn = &region->insns[node->first + i];
        if (insn->rd != RV_RD_NONE && !(insn->flags & RV_ROW_STORE) && !is_step(region, insn))
            written |= UINT32_C(1) << (insn->rd & 31);
    }
    return written;
}

static void find_steady(struct region *region)
{
    for (unsigned i = 0; i < region->node_count; i++) {
        struct region_node *node = &region->nodes[i];
        uint32_t written = node->depth == 0 ? UINT32_MAX : 0;
        for (unsigned j = 0; j < region->node_count; j++) {
            const struct region_node *other = &region->nodes[j];
            if (other->kept && other->pc >= node->loop_first && other->pc <= node->loop_last)
                written |= written_by(region, other);
        }
        node->steady = ~written;
    }
}

/* ---- order ---- */

static void place(struct region *region, int number_of_node)
{
    /* What falls through comes next; else the first one that somebody before leads to. */
    while (number_of_node >= 0) {
        struct region_node *node = &region->nodes[number_of_node];
        node->placed = true;
        node->position = region->order_count;
        region->order[region->order_count++] = (uint8_t)number_of_node;
        number_of_node = -1;
        for (unsigned i = region->order_count; i-- > 0 && number_of_node < 0;) {
            const struct region_node *before = &region->nodes[region->order[i]];
            if (before->next >= 0 && !region->nodes[before->next].placed)
                number_of_node = before->next;
            else if (before->taken >= 0 && !region->nodes[before->taken].placed)
                number_of_node = before->taken;
        }
    }
}

static void note_edge(struct region *region, const struct region_node *from, int to)
{
    if (to < 0)
        return;
    struct region_node *node = &region->nodes[to];
    node->predecessors++;
    if (node->position <= from->position)
        node->head = true;
}

static unsigned longest_behind(const struct region *region, int node)
{
    return node < 0 || region->nodes[node].head ? 0 : region->nodes[node].longest;
}

static void find_heads(struct region *region)
{
    for (unsigned i = 0; i < region->order_count; i++) {
        const struct region_node *node = &region->nodes[region->order[i]];
        note_edge(region, node, node->next);
        note_edge(region, node, node->taken);
    }
    for (unsigned i = region->order_count; i-- > 0;) {
        struct region_node *node = &region->nodes[region->order[i]];
        unsigned a = longest_behind(region, node->next), b = longest_behind(region, node->taken);
        node->longest = node->count + (a > b ? a : b);
    }
}

/* Whether a node's accesses use as an address what another has computed: that is better predicted
 * than waited for. */
static bool is_address(const struct region *region, const struct region_node *from,
                       const struct region_node *user)
{
    uint32_t computed = 0;
    for (unsigned i = 0; i < from->count; i++)
        computed |= UINT32_C(1) << (region->insns[from->first + i].rd & 31);
    for (unsigned i = 0; i < user->count; i++) {
        const struct rv_insn *insn = &region->insns[user->first + i];
        if ((insn->flags & (RV_ROW_LOAD | RV_ROW_STORE)) && (computed >> insn->rs1 & 1))
            return true;
        if (!(insn->flags & RV_ROW_STORE))
            computed &= ~(UINT32_C(1) << (insn->rd & 31));
    }
    return false;
}

/* What is behind such a branch is emitted with it (gen_select.c). */
static void find_selections(struct region *region)
{
    for (unsigned i = 0; i + 1 < region->order_count; i++) {
        struct region_node *node = &region->nodes[region->order[i]];
        if (!node->branches || node->next <= 0 || node->taken < 0 || node->selected)
            continue;
        struct region_node *behind = &region->nodes[node->next];
        if (behind->predecessors != 1 || behind->branches || behind->next != node->taken ||
            !gen_can_select(region->dbt, &region->insns[node->first + node->count - 1],
                            &region->insns[behind->first], behind->count) ||
            is_address(region, behind, &region->nodes[node->taken]))
            continue;
        assert(region->order[i + 1] == node->next);
        node->selects = behind->selected = true;
    }
}

bool region_find(struct region *region)
{
    region->pages[0] = (struct region_page){
        .va = align_down(region->fallback->pc, MEM_PAGE_SIZE),
        .host = region->fallback->host - (region->fallback->pc & (MEM_PAGE_SIZE - 1)),
    };
    region->page_count = 1;
    explore(region);
    if (region->node_count == 0 || !keep_loop(region))
        return false;
    find_depths(region);
    find_steady(region);
    place(region, 0);
    find_heads(region);
    find_selections(region);
    return true;
}
