/* SPDX-License-Identifier: MIT
 *
 * Remote sfence.vma through the SBI: what it drops on the target and what it leaves there, and that
 * no hart reads an old page after a fence of it has returned.
 */
#include "vm_world.h"

#include "isa/riscv64/mmu.h"
#include "rv_code.h"
#include "vm/sbi/sbi.h"

/* Two tables map VA on, a page of its own each; the code's and the devices' gigabytes are the same
 * superpages in both. */
#define VA     UINT64_C(0x40010000) /* not DATA's entries in the TLB */
#define DATA   (RAM + 16 * MIB)
#define TABLES (DATA + MIB)
#define FRAMES (DATA + 2 * MIB)
enum { PAGES = 200, ASID = 7, OTHER_ASID = 8 };
enum { PTE_LEAF = 0xcf, PTE_LEAF_GLOBAL = 0xef }; /* V R W X A D, not U */
#define RFENCE UINT64_C(0x52464e43)
#define HSM    UINT64_C(0x48534d)
#define SRST   UINT64_C(0x53525354)
#define ALL    UINT64_MAX

static void put_word(struct world *w, uint64_t gpa, uint64_t value)
{
    uint8_t bytes[8];
    store_le64(bytes, value);
    assert_true(mem_write(w->vm->mem, gpa, bytes, sizeof(bytes)));
}

static uint64_t pte(uint64_t gpa, uint64_t flags)
{
    return gpa >> 12 << 10 | flags;
}

static uint64_t frame(unsigned page)
{
    return FRAMES + page * MEM_PAGE_SIZE;
}

static uint64_t space(unsigned asid)
{
    return UINT64_C(8) << 60 | (uint64_t)asid << 44 | TABLES >> 12; /* Sv39 */
}

static uint64_t last_level(unsigned page)
{
    return TABLES + 2 * MEM_PAGE_SIZE + (VA >> MEM_PAGE_SHIFT & 511) * 8 + 8 * page;
}

static void make_tables(struct world *w)
{
    put_word(w, TABLES, pte(0, PTE_LEAF_GLOBAL));
    put_word(w, TABLES + 8, pte(TABLES + MEM_PAGE_SIZE, 1));
    put_word(w, TABLES + 16, pte(RAM, PTE_LEAF_GLOBAL));
    put_word(w, TABLES + MEM_PAGE_SIZE, pte(TABLES + 2 * MEM_PAGE_SIZE, 1));
    for (unsigned page = 0; page < PAGES; page++)
        put_word(w, last_level(page), pte(frame(page), PTE_LEAF));
}

/* ---- one fence at a time: hart 0 asks, hart 1 is about to go on ---- */

static struct rv_hart *hart_of(struct world *w, unsigned index)
{
    return rv_hart_of(w->vm->vcpus[index]);
}

static void open_two(struct world *w)
{
    world_open(w);
    w->config.cpus = 2;
    const uint32_t program[] = {WFI};
    world_give(w, &w->config.firmware, program, sizeof(program));
    world_make(w);
    make_tables(w);
    struct rv_hart *target = hart_of(w, 1);
    rv_enter_supervisor(target, RAM, 1, 0);
    target->satp = space(ASID);
    rv_mode_changed(target);
}

static void touch(struct rv_hart *hart)
{
    uint64_t value;
    for (unsigned page = 0; page < PAGES; page++)
        assert_true(rv_load64(hart, VA + page * MEM_PAGE_SIZE, &value));
}

static bool is_cached(struct rv_hart *hart, unsigned page)
{
    uint64_t va = VA + page * MEM_PAGE_SIZE;
    return rv_tlb_slot(hart->tlb_load, va)->tag == va;
}

static int64_t call(struct world *w, uint64_t extension, uint64_t function, const uint64_t *args)
{
    struct rv_hart *hart = hart_of(w, 0);
    hart->x[17] = extension;
    hart->x[16] = function;
    memcpy(&hart->x[10], args, 5 * sizeof(*args));
    assert_false(sbi_call(&w->vm->cpus[0]));
    return (int64_t)hart->x[10];
}

static void go_on(struct world *w)
{
    vm_fence_enter(&w->vm->cpus[1]);
    vm_fence_leave(&w->vm->cpus[1]);
}

static void assert_dropped(struct rv_hart *hart, unsigned first, unsigned count, const char *what)
{
    for (unsigned page = 0; page < PAGES; page++)
        if (is_cached(hart, page) == (page >= first && page < first + count))
            fail_msg("%s: page %u is %s the TLB", what, page,
                     is_cached(hart, page) ? "in" : "not in");
}

#define PAGE(n) (VA + (n)*MEM_PAGE_SIZE)

static void ranges(void **state)
{
    enum { VMA = 1, VMA_ASID = 2 };
    static const struct {
        const char *what;
        uint64_t function, start, size, asid;
        unsigned first, count; /* of the pages that go */
    } cases[] = {
        {"a page", VMA, PAGE(3), 0x1000, 0, 3, 1},
        {"a byte", VMA, PAGE(3) + 0xfff, 1, 0, 3, 1},
        {"two bytes of two pages", VMA, PAGE(3) + 0xfff, 2, 0, 3, 2},
        {"a page and a byte", VMA, PAGE(3), 0x1001, 0, 3, 2},
        {"as many as go one by one", VMA, PAGE(9), 64 * MEM_PAGE_SIZE, 0, 9, 64},
        {"one more", VMA, PAGE(9), 64 * MEM_PAGE_SIZE + 1, 0, 0, PAGES},
        {"nothing", VMA, PAGE(3), 0, 0, 0, 0},
        {"0, 0", VMA, 0, 0, 0, 0, PAGES},
        {"all", VMA, PAGE(3), ALL, 0, 0, PAGES},
        {"round the end", VMA, ALL - 0xfff, 0x2000, 0, 0, PAGES},
        {"the last page there is", VMA, ALL - 0xfff, 0x1000, 0, 0, 0},
        {"of the space", VMA_ASID, PAGE(5), 0x3000, ASID, 5, 3},
        {"of another space", VMA_ASID, PAGE(5), 0x3000, OTHER_ASID, 0, 0},
        {"all of the space", VMA_ASID, 0, ALL, ASID, 0, PAGES},
        {"too many of the space", VMA_ASID, PAGE(0), 65 * MEM_PAGE_SIZE, ASID, 0, PAGES},
        {"all of another space", VMA_ASID, 0, ALL, OTHER_ASID, 0, 0},
        {"0, 0 of another space", VMA_ASID, 0, 0, OTHER_ASID, 0, 0},
    };
    struct world w;
    (void)state;
    open_two(&w);
    struct rv_hart *target = hart_of(&w, 1);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const uint64_t args[5] = {2, 0, cases[i].start, cases[i].size, cases[i].asid};
        touch(target);
        assert_int_equal(call(&w, RFENCE, cases[i].function, args), SBI_SUCCESS);
        go_on(&w);
        assert_dropped(target, cases[i].first, cases[i].count, cases[i].what);
    }
    /* The legacy calls' ranges: mask at an address (0: all), start, size, ASID. */
    const uint64_t legacy[5] = {0, PAGE(3), 0x2000, OTHER_ASID};
    touch(target);
    assert_int_equal(call(&w, 7, 0, legacy), SBI_SUCCESS);
    go_on(&w);
    assert_dropped(target, 0, 0, "legacy, another space");
    assert_int_equal(call(&w, 6, 0, legacy), SBI_SUCCESS);
    go_on(&w);
    assert_dropped(target, 3, 2, "legacy");
    world_close(&w);
}

/* A global translation is in every space, but belongs to none. */
static void of_a_space_is_not_global(void **state)
{
    struct world w;
    (void)state;
    open_two(&w);
    struct rv_hart *target = hart_of(&w, 1);
    for (unsigned page = 0; page < PAGES; page++)
        put_word(&w, last_level(page), pte(frame(page), PTE_LEAF_GLOBAL));
    touch(target);
    const uint64_t of_space[5] = {2, 0, 0, ALL, ASID};
    assert_int_equal(call(&w, RFENCE, 2, of_space), SBI_SUCCESS);
    go_on(&w);
    assert_dropped(target, 0, 0, "all of the space");
    const uint64_t of_all[5] = {2, 0, PAGE(3), 0x1000};
    assert_int_equal(call(&w, RFENCE, 1, of_all), SBI_SUCCESS);
    go_on(&w);
    assert_dropped(target, 3, 1, "a page of all spaces");
    world_close(&w);
}

/* Requests wait in a list for who does not run, and become one for everything when it is full. */
static void many_wait(void **state)
{
    struct world w;
    (void)state;
    open_two(&w);
    struct rv_hart *target = hart_of(&w, 1);
    struct vm_fences *fences = &w.vm->cpus[1].fences;
    for (unsigned by_pages = 0; by_pages < 2; by_pages++) {
        uint64_t pages = by_pages ? VM_FENCE_PAGES / 2 : 1;
        unsigned room = by_pages ? 2 : VM_FENCES;
        for (unsigned more = 0; more < 2; more++) {
            touch(target);
            for (unsigned i = 0; i < room + more; i++) {
                uint64_t size = (i < room ? pages : 1) * MEM_PAGE_SIZE; /* one page is too many */
                const uint64_t args[5] = {2, 0, PAGE(i * pages), size};
                assert_int_equal(call(&w, RFENCE, 1, args), SBI_SUCCESS);
                assert_dropped(target, 0, 0, "not yet");
            }
            go_on(&w);
            assert_dropped(target, 0, more ? PAGES : room * (unsigned)pages,
                           more ? "too many" : "all in time");
            assert_true(atomic_load(&fences->done) == atomic_load(&fences->posted));
            assert_int_equal(fences->count, 0);
        }
    }
    /* And then it begins anew. */
    const uint64_t args[5] = {3, 0, PAGE(1), MEM_PAGE_SIZE};
    touch(target);
    assert_int_equal(call(&w, RFENCE, 1, args), SBI_SUCCESS);
    go_on(&w);
    assert_dropped(target, 1, 1, "one again");
    world_close(&w);
}

static void fence_i_keeps_the_tlb(void **state)
{
    struct world w;
    (void)state;
    open_two(&w);
    struct rv_hart *target = hart_of(&w, 1);
    uint64_t epoch = target->fence_i_epoch;
    const uint64_t args[5] = {2, 0, 0, 0};
    touch(target);
    assert_int_equal(call(&w, RFENCE, 0, args), SBI_SUCCESS);
    go_on(&w);
    rv_obey_attention(target);
    assert_true(target->fence_i_epoch == epoch + 1);
    assert_dropped(target, 0, 0, "fence.i");
    world_close(&w);
}

/* ---- a thread asks while another is inside ---- */

struct asking {
    struct world *world;
    pthread_t thread;
    _Atomic bool returned;
};

static void *ask(void *opaque)
{
    struct asking *asking = opaque;
    const uint64_t args[5] = {2, 0, PAGE(3), MEM_PAGE_SIZE};
    assert_int_equal(call(asking->world, RFENCE, 1, args), SBI_SUCCESS);
    atomic_store(&asking->returned, true);
    return NULL;
}

static void who_is_inside_is_waited_for(void **state)
{
    const struct timespec while_ = {.tv_nsec = 20000000};
    struct world w;
    (void)state;
    open_two(&w);
    struct vm_cpu *cpu = &w.vm->cpus[1];
    struct rv_hart *target = hart_of(&w, 1);
    for (unsigned again = 0; again < 2; again++) { /* leaves; leaves and comes back */
        struct asking asking = {.world = &w};
        touch(target);
        vm_fence_enter(cpu);
        atomic_store(&cpu->vcpu->in_guest, true);
        assert_int_equal(pthread_create(&asking.thread, NULL, ask, &asking), 0);
        while ((atomic_load(&cpu->vcpu->attention) & VCPU_ATTENTION_KICK) == 0)
            sched_yield();
        nanosleep(&while_, NULL);
        assert_false(atomic_load(&asking.returned));
        atomic_store(&cpu->vcpu->in_guest, false); /* a device's callback */
        nanosleep(&while_, NULL);
        assert_false(atomic_load(&asking.returned));
        assert_dropped(target, 0, 0, "inside");
        atomic_fetch_and(&cpu->vcpu->attention, ~(uint32_t)VCPU_ATTENTION_KICK);
        vm_fence_leave(cpu);
        if (again)
            vm_fence_enter(cpu);
        pthread_join(asking.thread, NULL);
        if (!again)
            vm_fence_enter(cpu);
        assert_dropped(target, 3, 1, "inside again");
        vm_fence_leave(cpu);
    }
    world_close(&w);
}

/* ---- harts that run ---- */

/* What the program finds at DATA. */
enum {
    PUBLISHED = 0,
    STOP = 8,
    SATP = 16,
    HARTS = 32,
    HSM_AT = 40,
    TICKS = 48, /* how long */
    RFENCE_AT = 56,
    PTES = 64,       /* 8 */
    FRAMES_AT = 128, /* 8 */
    START = 200,
    SLOT = 208, /* where the PTE is */
    ENDED = 216,
    SRST_AT = 224,
    BEFORE = 232, /* an address to load from, in the block of the two loads that are compared */
    BEGUN = 240,
    OWN = 256, /* 64 bytes a hart: how often it read something old, how often it read; not 0: asks
                * for nothing, and so never leaves run() by itself */
};
enum { A6 = 16, A7 = 17 };
#define LUI(rd, imm) (0x37u | (uint32_t)(rd) << 7 | (uint32_t)(imm) << 12)
#define READ_TIME(a) (0xc0102073u | (uint32_t)(a) << 7)
#define ECALL        0x00000073u
#define FENCE_RW     0x0330000fu
#define CSRW_SATP(a) (0x18001073u | (uint32_t)(a) << 15)

/* Hart 0 maps VA to another page, has everybody fence it and says so, over and over. The others
 * read what it has said so far and then at VA, which must not be older; now and then each asks all
 * for a fence of other pages. */
static void make_kernel(struct boot_bytes *image)
{
    const uint32_t program[] = {
        LUI(S2, 0x810), /* 0: everybody */
        SLLI(S2, S2, 8),
        LD(T0, S2, SATP),
        SFENCE,
        CSRW_SATP(T0),
        SLLI(S3, A0, 6),
        ADD(S3, S3, S2),
        LUI(S4, VA >> 12),
        BNE(A0, 0, 61 * 4), /* 8: to the readers */
        ADDI(S5, 0, 1),     /* 9: starts the others */
        LD(T0, S2, HARTS),  /* 10 */
        BEQ(S5, T0, 8 * 4),
        LD(A7, S2, HSM_AT),
        ADDI(A6, 0, 0),
        ADDI(A0, S5, 0),
        LD(A1, S2, START),
        ECALL,
        ADDI(S5, S5, 1),
        JAL(0, -8 * 4),
        JAL(0, 43 * 4),    /* 19 */
        LD(T0, S2, TICKS), /* 20 */
        ADD(S6, S6, T0),
        ADDI(S5, S5, 1), /* 22: a round */
        ANDI(T0, S5, 7),
        SLLI(T0, T0, 3),
        ADD(T0, T0, S2),
        LD(T1, T0, FRAMES_AT),
        SD(S5, T1, 0),
        LD(T1, T0, PTES),
        LD(T2, S2, SLOT),
        FENCE_RW,
        SD(T1, T2, 0),
        FENCE_RW,
        LD(A7, S2, RFENCE_AT),
        ANDI(A6, S5, 1),
        ADDI(A6, A6, 1), /* of all spaces, of one */
        ADDI(A0, 0, 0),
        ADDI(A1, 0, -1),
        ADDI(A2, S4, 0),
        ADDI(A3, 0, 1),
        ANDI(T0, S5, 15),
        BNE(T0, 0, 2 * 4),
        ADDI(A3, 0, -1), /* 42: everything */
        ADDI(A4, 0, ASID),
        ECALL,
        SD(S5, S2, PUBLISHED),
        ANDI(T1, S5, 255), /* 46: lets the others fill their TLBs again */
        ADDI(T1, T1, -1),
        BLT(0, T1, -1 * 4),
        READ_TIME(T0),
        BLT(T0, S6, -28 * 4), /* 50 */
        SD(S5, S2, STOP),
        LD(T0, S2, HARTS),
        ADDI(T0, T0, -1),
        LD(T1, S2, ENDED),
        BNE(T0, T1, -1 * 4),
        LD(A7, S2, SRST_AT),
        ADDI(A6, 0, 0),
        ADDI(A0, 0, 0),
        ADDI(A1, 0, 0),
        ECALL,
        JAL(0, 0),
        LD(T0, S2, HARTS), /* 62: until all others are at it */
        ADDI(T0, T0, -1),
        LD(T1, S2, BEGUN),
        BNE(T0, T1, -1 * 4),
        ADDI(S5, 0, 0),
        READ_TIME(S6),
        JAL(0, -48 * 4),
        ADDI(T0, S2, BEGUN), /* 69: a reader */
        ADDI(T1, 0, 1),
        AMOADD_D(0, T1, T0),
        LD(S7, S2, BEFORE),
        LW(T2, S7, 0), /* 73 */
        LW(T2, S7, 0),
        LW(T2, S7, 0),
        LW(T2, S7, 0),
        LD(T0, S2, PUBLISHED),
        FENCE_RW,
        LD(T1, S4, 0),
        BLT(T1, T0, 22 * 4),
        LD(T2, S3, OWN + 8),
        ADDI(T2, T2, 1),
        SD(T2, S3, OWN + 8),
        LD(T1, S3, OWN + 16),
        ANDI(T2, T2, 63),
        OR(T2, T2, T1),
        BNE(T2, 0, 9 * 4),
        LD(A7, S2, RFENCE_AT),
        ADDI(A6, 0, 1),
        ADDI(A0, 0, 0),
        ADDI(A1, 0, -1),
        LUI(A2, PAGE(1) >> 12),
        ADDI(A3, 0, 2),
        SLLI(A3, A3, 12),
        ECALL,
        LD(T2, S2, STOP), /* 96 */
        BEQ(T2, 0, -24 * 4),
        ADDI(T0, S2, ENDED),
        ADDI(T1, 0, 1),
        AMOADD_D(0, T1, T0),
        JAL(0, 0),
        LD(T2, S3, OWN), /* 102: something old */
        ADDI(T2, T2, 1),
        SD(T2, S3, OWN),
        JAL(0, -24 * 4),
    };
    make_image(image, program, sizeof(program));
}

struct contest {
    const char *engine;
    bool deterministic;
    bool io; /* in the readers' blocks: they count as outside of the guest meanwhile (vcpu.in_guest)
              */
};

static void run_contest(const struct contest *contest, unsigned harts)
{
    struct world w;
    struct boot_bytes image;
    make_kernel(&image);
    world_open(&w);
    world_give(&w, &w.config.kernel, image.data, image.size);
    free(w.config.engine);
    w.config.engine = strdup(contest->engine);
    w.config.deterministic = contest->deterministic;
    w.config.cpus = harts;
    world_make(&w);
    make_tables(&w);
    const struct {
        uint64_t at, value;
    } words[] = {
        {SATP, space(ASID)},
        {HARTS, harts},
        {HSM_AT, HSM},
        {TICKS,
         tier_count(VIRT_TIMEBASE_HZ / 10, 5 * VIRT_TIMEBASE_HZ) / (contest->deterministic ? 10 : 1)},
        {RFENCE_AT, RFENCE},
        {START, RAM + 2 * MIB + IMAGE_CODE},
        {SLOT, last_level(0)},
        {SRST_AT, SRST},
        {BEFORE, contest->io ? UINT64_C(0xc000004) : DATA}, /* a priority in the PLIC */
    };
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        put_word(&w, DATA + words[i].at, words[i].value);
    put_word(&w, DATA + OWN + 64 + 16, 1);
    for (unsigned i = 0; i < 8; i++) {
        put_word(&w, DATA + PTES + 8 * i, pte(frame(i), PTE_LEAF));
        put_word(&w, DATA + FRAMES_AT + 8 * i, frame(i));
    }
    world_run(&w);
    assert_int_equal(w.end, VM_END_POWEROFF);
    assert_true(guest_word(&w, DATA + PUBLISHED) > 0);
    for (unsigned hart = 1; hart < harts; hart++) {
        uint64_t own = DATA + OWN + 64 * hart;
        if (guest_word(&w, own) != 0)
            fail_msg("hart %u of %u read something old %llu times of %llu", hart, harts,
                     (unsigned long long)guest_word(&w, own),
                     (unsigned long long)guest_word(&w, own + 8));
        assert_true(guest_word(&w, own + 8) > 0);
        assert_true(w.vm->cpus[hart].fences.posted > 0);
    }
    world_close(&w);
}

static void nobody_reads_an_old_page(void **state)
{
    static const struct contest contests[] = {
        {"interp", false, false}, {"interp", false, true}, {"dbt", false, false},
        {"dbt", false, true},     {"dbt", true, false},    {"interp", true, true},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(contests); i++)
        run_contest(&contests[i], contests[i].deterministic ? 2 : 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges),
        cmocka_unit_test(of_a_space_is_not_global),
        cmocka_unit_test(many_wait),
        cmocka_unit_test(fence_i_keeps_the_tlb),
        cmocka_unit_test(who_is_inside_is_waited_for),
        cmocka_unit_test(nobody_reads_an_old_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
