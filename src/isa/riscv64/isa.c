/* SPDX-License-Identifier: MIT
 *
 * The riscv64 ISA as the machine sees it: making, resetting and describing harts. Their
 * declared state is in state.c.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "isa/dump.h"
#include "isa/riscv64/debug.h"
#include "isa/riscv64/isa_internal.h"
#include "isa/riscv64/mmu_internal.h"

/* In canonical order (U §36.4, table 36.1): the single letters, then Z* by the category that
 * their second letter names, then S*. */
static const struct {
    const char *name;
    bool aia; /* only harts with an IMSIC have it */
} extensions[] = {
    {"i", false},        {"m", false},           {"a", false},      {"f", false},
    {"d", false},        {"c", false},           {"zicbom", false}, {"zicbop", false},
    {"zicboz", false},   {"zicntr", false},      {"zicond", false}, {"zicsr", false},
    {"zifencei", false}, {"zihintpause", false}, {"zihpm", false},  {"zawrs", false},
    {"zba", false},      {"zbb", false},         {"zbs", false},    {"smaia", true},
    {"ssaia", true},     {"sstc", false},        {"svadu", false},  {"svinval", false},
    {"svnapot", false},  {"svpbmt", false},      {"svvptc", false},
};

const char *rv_isa_extension(bool aia, size_t index)
{
    for (size_t i = 0; i < ARRAY_SIZE(extensions); i++)
        if ((aia || !extensions[i].aia) && index-- == 0)
            return extensions[i].name;
    return NULL;
}

void rv_isa_string(bool aia, char *text, size_t size)
{
    const char *name;
    size_t length = (size_t)snprintf(text, size, "rv64");
    for (size_t i = 0; (name = rv_isa_extension(aia, i)) != NULL && length < size; i++)
        length += (size_t)snprintf(text + length, size - length, "%s%s", name[1] != '\0' ? "_" : "",
                                   name);
    assert(length < size);
}

/* On the thread that runs the clock's timers: see priv.c. */
static void stimer_fired(void *opaque)
{
    vcpu_attention(opaque, VCPU_ATTENTION_TIMER);
}

static void hart_reset(struct vcpu *vcpu)
{
    struct rv_hart *hart = rv_hart_of(vcpu);
    vcpu->retired = 0;
    vcpu->htif_value = 0;
    memset(hart->x, 0, sizeof(hart->x));
    memset(hart->f, 0, sizeof(hart->f));
    hart->pc = 0;
    hart->fflags = 0;
    hart->frm = 0;
    hart->privilege = RV_M;
    hart->reservation_gpa = 0;
    hart->reservation_value = 0;
    hart->reservation_size = 0;
    hart->trap = (struct rv_trap){0};

    hart->mstatus = RV_MSTATUS_FIXED;
    hart->medeleg = hart->mideleg = hart->mie = hart->mip_software = 0;
    hart->mtvec = hart->mscratch = hart->mepc = hart->mcause = hart->mtval = 0;
    hart->stvec = hart->sscratch = hart->sepc = hart->scause = hart->stval = 0;
    hart->satp = 0;
    hart->miselect = hart->siselect = 0;
    hart->mcounteren = hart->scounteren = hart->mcountinhibit = 0;
    /* The device tree promises Svpbmt and Svadu, and firmware that is older than these bits
     * (OpenSBI 1.1) leaves them as it finds them. */
    hart->menvcfg = RV_MENVCFG_PBMTE | RV_MENVCFG_ADUE;
    hart->senvcfg = 0;
    hart->cycle_offset = hart->instret_offset = 0;
    hart->cycle_frozen = hart->instret_frozen = 0;
    atomic_store(&hart->stimecmp, UINT64_MAX);
    memset(hart->pmpcfg, 0, sizeof(hart->pmpcfg));
    memset(hart->pmpaddr, 0, sizeof(hart->pmpaddr));
    rv_rebuild_derived(hart);
}

void rv_rebuild_derived(struct rv_hart *hart)
{
    hart->wedge_count = 0;
    hart->fence_i_epoch++;
    hart->rebuild_count++;
    rv_pmp_update(hart);
    rv_tlb_flush_all(hart);
    rv_stimer_update(hart);
    rv_mode_changed(hart);
}

static struct vcpu *hart_new(const struct vcpu_setup *setup, struct error **err)
{
    struct rv_hart *hart = alloc_pages(sizeof(*hart));
    (void)err;
    struct vcpu *vcpu = &hart->vcpu;
    vcpu->isa = &isa_riscv64;
    vcpu->index = setup->index;
    vcpu->mem = setup->mem;
    vcpu->ports = setup->ports;
    vcpu->timebase = setup->timebase;
    vcpu->log = setup->log;
    vcpu->wake = setup->wake;
    vcpu->sampled = setup->sampled;
    vcpu->trace = setup->engine_options ? setup->engine_options->trace : NULL;
    vcpu->engine_options = setup->engine_options;
    vcpu->owner = setup->owner;
    rv_imsic_init(hart, setup->messages);
    hart->stimer = vtimer_new(setup->timebase->clock, stimer_fired, vcpu);
    rv_tlb_init(hart);
    hart_reset(vcpu);
    return vcpu;
}

static void hart_free(struct vcpu *vcpu)
{
    if (!vcpu)
        return;
    struct rv_hart *hart = rv_hart_of(vcpu);
    vtimer_free(hart->stimer);
    rv_imsic_destroy(hart);
    alloc_pages_free(hart, sizeof(*hart));
}

static void hart_obey(struct vcpu *vcpu)
{
    rv_obey_attention(rv_hart_of(vcpu));
}

static uint64_t hart_pc(const struct vcpu *vcpu)
{
    return ((const struct rv_hart *)(const void *)vcpu)->pc;
}

/* P §3.3.3: neither the global enables nor delegation matter to wfi. */
static bool hart_wait_is_over(struct vcpu *vcpu)
{
    struct rv_hart *hart = rv_hart_of(vcpu);
    return rv_mip(hart) & hart->mie;
}

static void hart_drop(struct vcpu *vcpu, uint32_t bits)
{
    struct rv_hart *hart = rv_hart_of(vcpu);
    if (bits & VCPU_ATTENTION_TLB)
        rv_tlb_flush_all(hart);
    else if (bits & VCPU_ATTENTION_WRITES)
        rv_tlb_drop_all_stores(hart);
    for (unsigned i = 0; (bits & VCPU_ATTENTION_STORES) && i < VCPU_WATCHED_PAGES; i++) {
        uintptr_t page = atomic_exchange(&vcpu->watched_pages[i], 0);
        if (page != 0)
            rv_tlb_drop_stores(hart, (const uint8_t *)page);
    }
    if (bits & VCPU_ATTENTION_FENCE_I)
        hart->fence_i_epoch++;
}

static bool hart_translate(struct vcpu *vcpu, uint64_t va, uint64_t *gpa)
{
    /* Machine mode is never translated; MPRV is about single accesses. */
    *gpa = va;
    return rv_hart_of(vcpu)->privilege == RV_M || rv_translate_debug(rv_hart_of(vcpu), va, gpa);
}

/* ---- as text and numbers ---- */

static const char *hart_mode(const struct vcpu *vcpu)
{
    static const char *const names[] = {[RV_U] = "U", [RV_S] = "S", [RV_M] = "M"};
    return names[((const struct rv_hart *)(const void *)vcpu)->privilege];
}

static void hart_count(const struct vcpu *vcpu, vcpu_count_fn *each, void *opaque)
{
    static const struct vcpu_counter counters[] = {
        {"tlb-refills-load", offsetof(struct rv_counts, refills[RV_LOAD])},
        {"tlb-refills-store", offsetof(struct rv_counts, refills[RV_STORE])},
        {"tlb-refills-fetch", offsetof(struct rv_counts, refills[RV_FETCH])},
        {"tlb-flushes-all", offsetof(struct rv_counts, flushes_all)},
        {"tlb-flushes-space", offsetof(struct rv_counts, flushes_space)},
        {"tlb-spaces-changed", offsetof(struct rv_counts, spaces_changed)},
        {"tlb-spaces-kept", offsetof(struct rv_counts, spaces_kept)},
        {"tlb-flushes-page", offsetof(struct rv_counts, flushes_page)},
        {"tlb-flushes-stores", offsetof(struct rv_counts, flushes_stores)},
    };
    const struct rv_hart *hart = (const struct rv_hart *)(const void *)vcpu;
    vcpu_count(counters, ARRAY_SIZE(counters), &hart->counts, each, opaque);
}

static const char *const x_names[32] = {
    "zero", "ra", "sp", "gp", "tp",  "t0",  "t1", "t2", "s0", "s1", "a0",
    "a1",   "a2", "a3", "a4", "a5",  "a6",  "a7", "s2", "s3", "s4", "s5",
    "s6",   "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
};

static const struct {
    const char *name;
    uint32_t offset;
} dumped[] = {
#define DUMP(member)                                                                               \
    {                                                                                              \
#member, (uint32_t)offsetof(struct rv_hart, member)                                        \
    }
    DUMP(mstatus), DUMP(mie),    DUMP(medeleg), DUMP(mideleg),  DUMP(mtvec),
    DUMP(mepc),    DUMP(mcause), DUMP(mtval),   DUMP(stvec),    DUMP(sepc),
    DUMP(scause),  DUMP(stval),  DUMP(satp),    DUMP(sscratch),
#undef DUMP
};

static void hart_dump(const struct vcpu *vcpu, char *to, size_t size)
{
    const struct rv_hart *hart = (const struct rv_hart *)(const void *)vcpu;
    struct dump dump = {to, size};
    dump_put(&dump, "hart %u: pc %016llx, mode %c, %llu instructions retired\n", vcpu->index,
        (unsigned long long)hart->pc, "US?M"[hart->privilege & 3],
        (unsigned long long)vcpu->retired);
    for (unsigned i = 1; i < 32; i++)
        dump_put(&dump, "%8s %016llx%s", x_names[i], (unsigned long long)hart->x[i],
            i % 4 == 0 || i == 31 ? "\n" : "");
    for (size_t i = 0; i < ARRAY_SIZE(dumped); i++) {
        uint64_t value;
        memcpy(&value, (const char *)hart + dumped[i].offset, sizeof(value));
        dump_put(&dump, "%8s %016llx%s", dumped[i].name, (unsigned long long)value,
            i % 4 == 3 || i + 1 == ARRAY_SIZE(dumped) ? "\n" : "");
    }
}

const struct isa isa_riscv64 = {
    .name = "riscv64",
    .state = &rv_hart_state,
    .vcpu_new = hart_new,
    .vcpu_free = hart_free,
    .vcpu_reset = hart_reset,
    .pc = hart_pc,
    .wait_is_over = hart_wait_is_over,
    .obey = hart_obey,
    .drop = hart_drop,
    .translate = hart_translate,
    .disassemble = rv_disassemble,
    .dump = hart_dump,
    .count = hart_count,
    .mode = hart_mode,
    .debug = &rv_isa_debug,
};
