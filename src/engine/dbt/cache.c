/* SPDX-License-Identifier: MIT
 *
 * The code cache of one hart: its memory, how translations are found, linked and dropped.
 *
 * Memory. One reserved range holds code, then data that code reaches relative to rip. Code is
 * a memfd mapped twice, readable and executable here, writable elsewhere: no address is ever
 * both. Both areas begin with what stays (thunks, struct dbt_state); the rest is divided into
 * generations, filled one after the other. When the last is full the oldest is emptied, block
 * by block, and filled again: first in, first out, so that the bound costs the translations
 * that were made longest ago, and knowing which are still used costs nothing.
 *
 * Self-modifying code. RISC-V lets a hart run stale instructions until its fence.i (U §5), so
 * a write to a page with translations only puts the page on a list (any thread); the owner's
 * next fence.i drops what was made from the pages on it. A fence.i with nothing written does not
 * leave translated code. A page that keeps being rewritten, or that holds data beside its code, is
 * interpreted for a while. (tests/conform smp_code, 4 harts on 2 cores: 3.2 s of CPU time without
 * that, 0.7 s with it.)
 *
 * Who watches a page asks the other harts for their permissions to store to it, and waits for
 * nobody longer than they need if they run: until all have obeyed, a store may go unnoticed, so
 * such a page counts as written to, and what was made from it goes at the next fence.i.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "engine/dbt/internal.h"

#define DBT_REST 256 /* fence.i without a write that a page rests for */

static uint64_t page_of(const uint8_t *host)
{
    return align_down((uintptr_t)host, MEM_PAGE_SIZE);
}

/* ---- memory ---- */

/* Zeroed memory, which takes none before it is used, is of no use in the slot of pc 0 alone. */
static void begin_jumps(struct dbt *dbt)
{
    for (unsigned mode = 0; mode < DBT_MODES; mode++)
        dbt->state->jumps[mode][0].pc = 1;
}

static void clear_jumps(struct dbt *dbt)
{
    for (unsigned mode = 0; mode < DBT_MODES; mode++)
        if (dbt->jump_modes & 1u << mode)
            memset(dbt->state->jumps[mode], 0, sizeof(dbt->state->jumps[mode]));
    dbt->jump_modes = 0;
    begin_jumps(dbt);
}

static bool map_area(struct dbt *dbt)
{
    int fd = memfd_create("trapeze-code", MFD_CLOEXEC);
    if (fd < 0)
        return false;
    bool good = false;
    void *area = MAP_FAILED, *writable = MAP_FAILED;
    if (ftruncate(fd, (off_t)dbt->code_size) == 0) {
        area = mmap(NULL, dbt->code_size + dbt->data_size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        writable = mmap(NULL, dbt->code_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        good = area != MAP_FAILED && writable != MAP_FAILED &&
               mmap(area, dbt->code_size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0) ==
                   area;
        /* A copy of this process (vm/fork.h) would write into our code: no mere wish, this one. */
        good = good && madvise(writable, dbt->code_size, MADV_DONTFORK) == 0;
    }
    int number = errno;
    if (area != MAP_FAILED) {
        dbt->area = area;
        /* As in blocks.c. */
        (void)madvise(dbt->area + dbt->code_size, dbt->data_size, MADV_DONTDUMP);
        (void)madvise(dbt->area, dbt->code_size + dbt->data_size, MADV_DONTFORK);
    }
    if (writable != MAP_FAILED)
        dbt->code_writable = writable;
    close(fd);
    errno = number;
    return good;
}

static void note_written(struct dbt *dbt, const uint8_t *page)
{
    pthread_mutex_lock(&dbt->lock);
    if (dbt->written_count < DBT_WRITTEN_MAX)
        dbt->written[dbt->written_count] = page;
    if (dbt->written_count <= DBT_WRITTEN_MAX)
        dbt->written_count++;
    pthread_mutex_unlock(&dbt->lock);
}

static void code_written(void *opaque, struct mem_ram *ram, uint64_t gpa)
{
    note_written(opaque, ram->host + (align_down(gpa, MEM_PAGE_SIZE) - ram->gpa));
}

/* Another hart translates from the page. */
static void code_watched(void *opaque, struct mem_ram *ram, uint64_t gpa)
{
    struct dbt *dbt = opaque;
    struct vcpu *vcpu = &dbt->hart->vcpu;
    uintptr_t page = (uintptr_t)ram->host + (uintptr_t)(gpa - ram->gpa);
    for (unsigned i = 0; i < VCPU_WATCHED_PAGES; i++) {
        uintptr_t nothing = 0;
        if (atomic_compare_exchange_strong(&vcpu->watched_pages[i], &nothing, page)) {
            vcpu_ask(vcpu, VCPU_ATTENTION_STORES);
            return;
        }
    }
    vcpu_ask(vcpu, VCPU_ATTENTION_TLB);
}

static bool watch_settled(void *opaque)
{
    struct dbt *dbt = opaque;
    return vcpu_has_obeyed(&dbt->hart->vcpu, VCPU_ATTENTION_STORES | VCPU_ATTENTION_TLB);
}

static void use_generation(struct dbt *dbt, unsigned number)
{
    const struct dbt_generation *generation = &dbt->generations[number];
    dbt->generation = number;
    dbt->code.at = generation->code;
    dbt->code.end = generation->code_end;
    dbt->code.full = false;
    dbt->data = generation->data;
    dbt->data_end = generation->data_end;
}

/* Thunks and state are made: what is left becomes generations. */
static void divide(struct dbt *dbt, size_t code_bytes, size_t data_bytes)
{
    size_t code_part = align_down(code_bytes / DBT_GENERATIONS, 64);
    size_t data_part = align_down(data_bytes / DBT_GENERATIONS, 64);
    for (unsigned i = 0; i < DBT_GENERATIONS; i++) {
        uint8_t *code = dbt->code.at + i * code_part, *data = dbt->data + i * data_part;
        dbt->generations[i] = (struct dbt_generation){
            .code = code,
            .code_end = code + code_part,
            .data = data,
            .data_end = data + data_part,
        };
    }
    use_generation(dbt, 0);
}

bool dbt_cache_init(struct dbt *dbt, uint64_t size, struct error **err)
{
    enum { THUNKS = 64 * KIB };
    /* Code and the data beside it fill up at about the same time (Debian boot: 0.61 : 0.39). */
    size_t code_bytes = (size_t)size / 8 * 5, data_bytes = (size_t)size - code_bytes;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    dbt->code_size = align_up(THUNKS + code_bytes, page);
    dbt->data_size = align_up(sizeof(*dbt->state) + 8 + data_bytes, page);
    pthread_mutex_init(&dbt->lock, NULL);
    if (!map_area(dbt)) {
        error_set_errno(err, errno, "cannot map %u KiB for translated code",
                        (unsigned)((dbt->code_size + dbt->data_size) / KIB));
        error_hint(err, "Use the interpreter (--engine interp), a smaller --code-cache, or allow "
                        "the process to map executable memory.");
        return false;
    }
    dbt->code = (struct x86_code){
        .at = dbt->code_writable,
        .end = dbt->code_writable + THUNKS,
        .to_run = dbt->area - dbt->code_writable,
    };
    dbt->data = dbt->area + dbt->code_size;
    dbt->data_end = dbt->data + dbt->data_size;
    dbt->state = dbt_data(dbt, sizeof(*dbt->state));
    dbt->state->lookup.kind = DBT_EXIT_LOOKUP;
    begin_jumps(dbt);
    dbt->hash = alloc_pages(DBT_HASH * sizeof(struct dbt_block *));
    dbt->pages = alloc_zeroed(DBT_PAGES, sizeof(struct dbt_page *));
    dbt_make_thunks(dbt);
    assert(!dbt->code.full);
    divide(dbt, code_bytes, data_bytes);
    dbt->listener = (struct mem_listener){
        .code_written = code_written,
        .code_watched = code_watched,
        .watch_settled = watch_settled,
        .opaque = dbt,
    };
    mem_listen(dbt->hart->vcpu.mem, &dbt->listener);
    return true;
}

static void free_pages(struct dbt *dbt)
{
    for (unsigned i = 0; i < DBT_PAGES; i++)
        while (dbt->pages[i]) {
            struct dbt_page *page = dbt->pages[i];
            dbt->pages[i] = page->next;
            free(page);
        }
}

void dbt_cache_destroy(struct dbt *dbt)
{
    if (dbt->listener.opaque)
        mem_unlisten(dbt->hart->vcpu.mem, &dbt->listener);
    if (dbt->area)
        munmap(dbt->area, dbt->code_size + dbt->data_size);
    if (dbt->code_writable)
        munmap(dbt->code_writable, dbt->code_size);
    alloc_pages_free(dbt->hash, DBT_HASH * sizeof(struct dbt_block *));
    if (dbt->pages)
        free_pages(dbt);
    free(dbt->pages);
    pthread_mutex_destroy(&dbt->lock);
}

void *dbt_data(struct dbt *dbt, size_t size)
{
    size = (size_t)align_up(size, 8);
    if ((size_t)(dbt->data_end - dbt->data) < size)
        return NULL;
    void *memory = dbt->data;
    dbt->data += size;
    return memory;
}

/* ---- finding ---- */

static size_t hash_slot(uint64_t pc, unsigned mode)
{
    uint64_t key = pc >> 1 ^ pc >> 17 ^ (uint64_t)mode << 11;
    return key & (DBT_HASH - 1);
}

struct dbt_block *dbt_find(struct dbt *dbt, uint64_t pc, const uint8_t *host, unsigned mode)
{
    struct dbt_block *block = dbt->hash[hash_slot(pc, mode)];
    while (block && !(block->pc == pc && block->host == host && block->mode == mode &&
                      (!block->second || block->second == dbt_fetch_host(dbt->hart, pc + 2))))
        block = block->hash_next;
    return block;
}

static struct dbt_page **page_slot(struct dbt *dbt, const uint8_t *host)
{
    uint64_t number = page_of(host) >> MEM_PAGE_SHIFT;
    struct dbt_page **link = &dbt->pages[(number ^ number >> 12) & (DBT_PAGES - 1)];
    while (*link && page_of((*link)->host) != page_of(host))
        link = &(*link)->next;
    return link;
}

void dbt_insert(struct dbt *dbt, struct dbt_block *block, struct dbt_page *page)
{
    struct dbt_generation *generation = &dbt->generations[dbt->generation];
    block->generation_next = generation->blocks;
    generation->blocks = block;
    block->page = page;
    block->page_at = &page->blocks;
    block->page_next = page->blocks;
    if (block->page_next)
        block->page_next->page_at = &block->page_next;
    page->blocks = block;
    struct dbt_block **slot = &dbt->hash[hash_slot(block->pc, block->mode)];
    block->hash_next = *slot;
    *slot = block;
}

void dbt_insert_use(struct dbt *dbt, struct dbt_block *region, struct dbt_use *use,
                    const uint8_t *host)
{
    struct dbt_page *page = *page_slot(dbt, host);
    *use = (struct dbt_use){
        .region = region,
        .page = page,
        .next = page->uses,
        .at = &page->uses,
        .sibling = region->uses,
    };
    if (use->next)
        use->next->at = &use->next;
    page->uses = use;
    region->uses = use;
}

static struct dbt_jump *jump_slot(struct dbt *dbt, uint64_t pc, unsigned mode)
{
    return &dbt->state->jumps[mode][pc >> 1 & (DBT_JUMP_CACHE - 1)];
}

void dbt_note_jump(struct dbt *dbt, const struct dbt_block *block)
{
    *jump_slot(dbt, block->pc, block->mode) = (struct dbt_jump){block->pc, block->checked};
    dbt->jump_modes |= 1u << block->mode;
}

static void lead(struct dbt *dbt, struct dbt_link *link, struct dbt_block *to)
{
    bool same_page = !((link->from->pc ^ to->pc) & ~(MEM_PAGE_SIZE - 1)) &&
                     page_of(link->from->host) == page_of(to->host);
    bool back = to->pc <= link->from->pc;
    const uint8_t *code =
        same_page ? (back ? to->counted : to->entry) : (back ? to->counted_checked : to->checked);
    link->to = to;
    link->at = &to->incoming;
    link->next = to->incoming;
    if (link->next)
        link->next->at = &link->next;
    to->incoming = link;
    dbt->stats.linked++;
    x86_patch(dbt->code.to_run, link->displacement, code);
}

void dbt_link(struct dbt *dbt, struct dbt_link *link, struct dbt_block *to)
{
    lead(dbt, link, to);
}

void dbt_relink(struct dbt *dbt, struct dbt_block *from, struct dbt_block *to)
{
    struct dbt_link *link = from->incoming;
    from->incoming = NULL;
    while (link) {
        struct dbt_link *next = link->next;
        lead(dbt, link, to);
        link = next;
    }
    dbt_note_jump(dbt, to);
}

/* ---- code pages ---- */

/* Other harts obey between two blocks, unless the host has taken their threads off its cores. */
static bool settled_soon(struct dbt *dbt)
{
    for (unsigned round = 0; round < 64; round++) {
        if (mem_watch_settled(dbt->hart->vcpu.mem, dbt))
            return true;
        atomic_thread_fence(memory_order_seq_cst);
    }
    return false;
}

struct dbt_page *dbt_watch_page(struct dbt *dbt, const uint8_t *host, uint64_t gpa)
{
    struct dbt_page **link = page_slot(dbt, host);
    if (*link)
        return *link;
    struct dbt_page *page = alloc_zeroed(1, sizeof(*page));
    struct mem_space *mem = dbt->hart->vcpu.mem;
    if (mem_watch_code(mem, mem_ram_find(mem, gpa), gpa, dbt))
        rv_tlb_drop_stores(dbt->hart, host);
    if (!settled_soon(dbt)) {
        note_written(dbt, (const uint8_t *)(uintptr_t)page_of(host));
        dbt->stats.unsettled++;
    }
    page->host = host;
    *link = page;
    return page;
}

/* ---- pages that keep being written to ---- */

static size_t restless_slot(uint64_t page)
{
    return page >> MEM_PAGE_SHIFT & (DBT_RESTLESS - 1);
}

static void note_restless(struct dbt *dbt, const uint8_t *host)
{
    struct dbt_restless *page = &dbt->restless[restless_slot(page_of(host))];
    uint64_t now = dbt->hart->fence_i_epoch;
    if (page->host != host || now - page->when > DBT_REST)
        *page = (struct dbt_restless){.host = host};
    page->when = now;
    page->drops++;
}

unsigned dbt_hot_enough(const struct dbt *dbt, const uint8_t *host)
{
    enum { FREE = 2, MOST = 6 };
    uint64_t at = page_of(host);
    const struct dbt_restless *page = &dbt->restless[restless_slot(at)];
    if (LIKELY((uintptr_t)page->host != at || page->drops <= FREE) ||
        dbt->hart->fence_i_epoch - page->when > DBT_REST)
        return dbt->hot;
    unsigned more = page->drops - FREE;
    return dbt->hot << (more < MOST ? more : MOST);
}

/* ---- dropping ---- */

static void unlink_jump(struct dbt *dbt, struct dbt_link *link)
{
    *link->at = link->next;
    if (link->next)
        link->next->at = link->at;
    link->to = NULL;
    x86_patch(dbt->code.to_run, link->displacement, link->stub);
}

/* A page exists while anything was made from it. */
static void forget_unused_page(struct dbt *dbt, struct dbt_page *page)
{
    if (page->blocks || page->uses)
        return;
    struct dbt_page **link = page_slot(dbt, page->host);
    *link = page->next;
    free(page);
}

static void leave_pages(struct dbt *dbt, struct dbt_block *block)
{
    *block->page_at = block->page_next;
    if (block->page_next)
        block->page_next->page_at = block->page_at;
    forget_unused_page(dbt, block->page);
    for (struct dbt_use *use = block->uses; use; use = use->sibling) {
        *use->at = use->next;
        if (use->next)
            use->next->at = use->at;
        forget_unused_page(dbt, use->page);
    }
}

/* Nothing leads into the block or knows of it any more; its memory stays as it is. */
static void drop_block(struct dbt *dbt, struct dbt_block *block)
{
    block->dead = true;
    if (block->region)
        drop_block(dbt, block->region);
    if (block->fallback)
        block->fallback->region = NULL;
    while (block->incoming)
        unlink_jump(dbt, block->incoming);
    for (struct dbt_link *link = block->outgoing; link; link = link->sibling)
        if (link->to)
            unlink_jump(dbt, link);
    struct dbt_block **at = &dbt->hash[hash_slot(block->pc, block->mode)];
    while (*at != block)
        at = &(*at)->hash_next;
    *at = block->hash_next;
    leave_pages(dbt, block);
    struct dbt_jump *jump = jump_slot(dbt, block->pc, block->mode);
    if (jump->code == block->checked)
        jump->pc = 1;
}

static void drop_page(struct dbt *dbt, const uint8_t *host)
{
    struct dbt_page *page = *page_slot(dbt, host);
    if (!page)
        return;
    if (page->blocks || page->uses)
        note_restless(dbt, host);
    forget_unused_page(dbt, page); /* watched for what was not translated after all */
    for (page = *page_slot(dbt, host); page; page = *page_slot(dbt, host))
        drop_block(dbt, page->blocks ? page->blocks : page->uses->region);
    dbt->stats.pages_dropped++;
}

struct dbt_mark dbt_mark(const struct dbt *dbt)
{
    return (struct dbt_mark){dbt->code.at, dbt->data};
}

void dbt_rewind(struct dbt *dbt, struct dbt_mark mark)
{
    dbt->code.at = mark.code;
    dbt->code.full = false;
    dbt->data = mark.data;
}

bool dbt_make_room(struct dbt *dbt)
{
    if (!dbt->generations[dbt->generation].blocks)
        return false;
    unsigned next = (dbt->generation + 1) % DBT_GENERATIONS;
    struct dbt_generation *oldest = &dbt->generations[next];
    dbt->stats.evictions += oldest->blocks != NULL;
    for (struct dbt_block *block = oldest->blocks; block; block = block->generation_next) {
        if (block->dead)
            continue;
        drop_block(dbt, block);
        dbt->stats.evicted++;
    }
    oldest->blocks = NULL;
    dbt->pending = NULL; /* may lie in it */
    use_generation(dbt, next);
    return true;
}

static bool is_empty(const struct dbt *dbt)
{
    for (unsigned i = 0; i < DBT_GENERATIONS; i++)
        if (dbt->generations[i].blocks)
            return false;
    return true;
}

void dbt_flush(struct dbt *dbt)
{
    if (is_empty(dbt)) /* as at the first start: tables that were never used take no memory */
        return;
    memset(dbt->hash, 0, DBT_HASH * sizeof(struct dbt_block *));
    free_pages(dbt);
    clear_jumps(dbt);
    for (unsigned i = 0; i < DBT_GENERATIONS; i++)
        dbt->generations[i].blocks = NULL;
    use_generation(dbt, 0);
    dbt->pending = NULL;
    dbt->stats.flushes++;
}

bool dbt_fence_idle(struct dbt *dbt)
{
    struct rv_hart *hart = dbt->hart;
    /* Who writes says so before it does: what this hart can see was said. */
    if (atomic_load(&dbt->written_count) != 0 || dbt->rebuilt != hart->rebuild_count)
        return false;
    dbt->epoch = hart->fence_i_epoch;
    dbt->stats.fences++;
    return true;
}

void dbt_fence(struct dbt *dbt)
{
    struct rv_hart *hart = dbt->hart;
    dbt->epoch = hart->fence_i_epoch;
    dbt->pending = NULL;
    dbt->stats.fences++;
    pthread_mutex_lock(&dbt->lock);
    unsigned count = dbt->written_count;
    const uint8_t *written[DBT_WRITTEN_MAX];
    memcpy(written, dbt->written,
           (count < DBT_WRITTEN_MAX ? count : DBT_WRITTEN_MAX) * sizeof(written[0]));
    dbt->written_count = 0;
    pthread_mutex_unlock(&dbt->lock);
    if (count > DBT_WRITTEN_MAX || dbt->rebuilt != hart->rebuild_count) {
        dbt->rebuilt = hart->rebuild_count;
        dbt_flush(dbt);
        return;
    }
    for (unsigned i = 0; i < count; i++)
        drop_page(dbt, written[i]);
}
