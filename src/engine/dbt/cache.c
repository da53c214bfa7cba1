/* SPDX-License-Identifier: MIT
 *
 * The code cache of one hart: its memory, how translations are found, linked and dropped.
 *
 * Memory. One reserved range holds code, then data that code reaches relative to rip. Code is
 * a memfd mapped twice, readable and executable here, writable elsewhere: no address is ever
 * both. Both areas are filled from the front; when one is full everything is dropped, which
 * costs less than knowing what is still used and happens rarely.
 *
 * Self-modifying code. RISC-V lets a hart run stale instructions until its fence.i (U §5), so
 * a write to a page with translations only puts the page on a list (any thread); the owner's
 * next fence.i drops what was made from the pages on it. A fence.i with nothing written costs
 * nothing.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "engine/dbt/internal.h"

static uint64_t page_of(const uint8_t *host)
{
    return align_down((uintptr_t)host, MEM_PAGE_SIZE);
}

/* ---- memory ---- */

static void clear_jumps(struct dbt *dbt)
{
    for (unsigned mode = 0; mode < DBT_MODES; mode++)
        for (unsigned i = 0; i < DBT_JUMP_CACHE; i++)
            dbt->state->jumps[mode][i].pc = 1;
}

static bool map_area(struct dbt *dbt)
{
    int fd = memfd_create("trapeze-code", MFD_CLOEXEC);
    if (fd < 0)
        return false;
    bool good = false;
    void *area = MAP_FAILED, *writable = MAP_FAILED;
    if (ftruncate(fd, (off_t)DBT_CODE_SIZE) == 0) {
        area = mmap(NULL, DBT_CODE_SIZE + DBT_DATA_SIZE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        writable = mmap(NULL, DBT_CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        good =
            area != MAP_FAILED && writable != MAP_FAILED &&
            mmap(area, DBT_CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0) == area;
    }
    int number = errno;
    if (area != MAP_FAILED)
        dbt->area = area;
    if (writable != MAP_FAILED)
        dbt->code_writable = writable;
    close(fd);
    errno = number;
    return good;
}

static void code_written(void *opaque, struct mem_ram *ram, uint64_t gpa)
{
    struct dbt *dbt = opaque;
    pthread_mutex_lock(&dbt->lock);
    if (dbt->written_count < DBT_WRITTEN_MAX)
        dbt->written[dbt->written_count] = ram->host + (align_down(gpa, MEM_PAGE_SIZE) - ram->gpa);
    if (dbt->written_count <= DBT_WRITTEN_MAX)
        dbt->written_count++;
    pthread_mutex_unlock(&dbt->lock);
}

/* Another hart translates from the page. */
static void code_watched(void *opaque, struct mem_ram *ram, uint64_t gpa)
{
    struct dbt *dbt = opaque;
    struct vcpu *vcpu = &dbt->hart->vcpu;
    (void)ram, (void)gpa;
    vcpu_attention_sync(NULL, &vcpu, 1, VCPU_ATTENTION_TLB);
}

bool dbt_cache_init(struct dbt *dbt, struct error **err)
{
    pthread_mutex_init(&dbt->lock, NULL);
    if (!map_area(dbt)) {
        error_set_errno(err, errno, "cannot map %u MiB for translated code",
                        (unsigned)((DBT_CODE_SIZE + DBT_DATA_SIZE) / MIB));
        error_hint(err, "Use the interpreter (--engine interp), or allow the process to map "
                        "executable memory");
        return false;
    }
    dbt->code = (struct x86_code){
        .at = dbt->code_writable,
        .end = dbt->code_writable + DBT_CODE_SIZE,
        .to_run = dbt->area - dbt->code_writable,
    };
    dbt->data = dbt->area + DBT_CODE_SIZE;
    dbt->data_end = dbt->data + DBT_DATA_SIZE;
    dbt->state = dbt_data(dbt, sizeof(*dbt->state));
    dbt->state->lookup.kind = DBT_EXIT_LOOKUP;
    clear_jumps(dbt);
    dbt->hash = alloc_zeroed(DBT_HASH, sizeof(struct dbt_block *));
    dbt->pages = alloc_zeroed(DBT_PAGES, sizeof(struct dbt_page *));
    dbt_make_thunks(dbt);
    dbt->code_start = dbt->code.at;
    dbt->data_start = dbt->data;
    dbt->listener = (struct mem_listener){
        .code_written = code_written,
        .code_watched = code_watched,
        .opaque = dbt,
    };
    mem_listen(dbt->hart->vcpu.mem, &dbt->listener);
    return true;
}

void dbt_cache_destroy(struct dbt *dbt)
{
    if (dbt->listener.opaque)
        mem_unlisten(dbt->hart->vcpu.mem, &dbt->listener);
    if (dbt->area)
        munmap(dbt->area, DBT_CODE_SIZE + DBT_DATA_SIZE);
    if (dbt->code_writable)
        munmap(dbt->code_writable, DBT_CODE_SIZE);
    free(dbt->hash);
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
    while (block && !(block->pc == pc && block->host == host && block->mode == mode))
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

bool dbt_insert(struct dbt *dbt, struct dbt_block *block)
{
    struct dbt_page *page = *page_slot(dbt, block->host);
    if (!page)
        return false;
    block->page_next = page->blocks;
    page->blocks = block;
    struct dbt_block **slot = &dbt->hash[hash_slot(block->pc, block->mode)];
    block->hash_next = *slot;
    *slot = block;
    return true;
}

static struct dbt_jump *jump_slot(struct dbt *dbt, uint64_t pc, unsigned mode)
{
    return &dbt->state->jumps[mode][pc >> 1 & (DBT_JUMP_CACHE - 1)];
}

void dbt_note_jump(struct dbt *dbt, const struct dbt_block *block)
{
    *jump_slot(dbt, block->pc, block->mode) = (struct dbt_jump){block->pc, block->checked};
}

void dbt_link(struct dbt *dbt, struct dbt_link *link, struct dbt_block *to)
{
    bool same_page = !((link->from->pc ^ to->pc) & ~(MEM_PAGE_SIZE - 1)) &&
                     page_of(link->from->host) == page_of(to->host);
    link->to = to;
    link->next = to->incoming;
    to->incoming = link;
    x86_patch(dbt->code.to_run, link->displacement, same_page ? to->entry : to->checked);
}

/* ---- code pages ---- */

bool dbt_watch_page(struct dbt *dbt, const uint8_t *host, uint64_t gpa)
{
    struct dbt_page **link = page_slot(dbt, host);
    if (*link)
        return true;
    struct dbt_page *page = dbt_data(dbt, sizeof(*page));
    if (!page)
        return false;
    struct vcpu *vcpu = &dbt->hart->vcpu;
    struct mem_ram *ram = mem_ram_find(vcpu->mem, gpa);
    /* Other harts are waited for, and may wait for this one. */
    atomic_store(&vcpu->in_guest, false);
    mem_watch_code(vcpu->mem, ram, gpa, dbt);
    rv_tlb_drop_stores(dbt->hart, host);
    atomic_store(&vcpu->in_guest, true);
    *page = (struct dbt_page){.host = host};
    *link = page;
    return true;
}

/* ---- dropping ---- */

static void drop_block(struct dbt *dbt, struct dbt_block *block)
{
    block->dead = true;
    for (struct dbt_link *link = block->incoming; link; link = link->next) {
        link->to = NULL;
        x86_patch(dbt->code.to_run, link->displacement, link->stub);
    }
    block->incoming = NULL;
    struct dbt_block **at = &dbt->hash[hash_slot(block->pc, block->mode)];
    while (*at != block)
        at = &(*at)->hash_next;
    *at = block->hash_next;
    struct dbt_jump *jump = jump_slot(dbt, block->pc, block->mode);
    if (jump->code == block->checked)
        jump->pc = 1;
}

static void drop_page(struct dbt *dbt, const uint8_t *host)
{
    struct dbt_page **link = page_slot(dbt, host);
    struct dbt_page *page = *link;
    if (!page)
        return;
    for (struct dbt_block *block = page->blocks; block; block = block->page_next)
        drop_block(dbt, block);
    *link = page->next;
    dbt->stats.pages_dropped++;
}

void dbt_flush(struct dbt *dbt)
{
    memset(dbt->hash, 0, DBT_HASH * sizeof(struct dbt_block *));
    memset(dbt->pages, 0, DBT_PAGES * sizeof(struct dbt_page *));
    clear_jumps(dbt);
    dbt->code.at = dbt->code_start;
    dbt->code.full = false;
    dbt->data = dbt->data_start;
    dbt->pending = NULL;
    dbt->stats.flushes++;
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
