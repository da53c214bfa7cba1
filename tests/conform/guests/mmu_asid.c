/*
 * Address spaces that come and go: every form of fence against every kind of page, executed while
 * any space is the current one, with more spaces than a TLB may remember and ASIDs that several of
 * them share.  Each change is followed by a fence that covers it, so that from then on every space
 * must show exactly what its tables say: values, accessed and dirty bits, and no more permissions.
 */
#include "mmu.h"

const char guest_name[] = "mmu_asid";

#define SPACES 12
#define STEPS  6000
#define VALUES 16
#define BASE   0x1040000000ul

enum kind { SUPERVISOR, USER, GLOBAL, SUPERPAGE, KINDS };
#define PAGES 3 /* of each kind */

static const u64 asids[SPACES] = {0, 1, 2, 3, 0x7fff, 0xffff, 0x100, 1, 2, 9, 10, 0xaaaa};
static struct space spaces[SPACES];
static u64 *slots[SPACES][KINDS][PAGES];
static u64 shows[SPACES][KINDS][PAGES]; /* VALUES: unmapped */
static u64 *values[VALUES];
static u64 current, window, seed = 20240411;
static u64 last_of_asid[SPACES]; /* which space used asids[i] last, under the lowest such i */

static u64 pick(u64 n)
{
    return (rnd(&seed) >> 33) % n;
}

/* Mostly one of four, so that the hart comes back to what it may remember. */
static u64 pick_space(void)
{
    return pick(16) ? pick(4) + window : pick(SPACES);
}

/* The user's pages most of all, superpages seldom: what fences them may drop a lot. */
static enum kind pick_kind(void)
{
    u64 n = pick(32);
    return n == 0 ? SUPERPAGE : n < 5 ? GLOBAL : n < 10 ? SUPERVISOR : USER;
}

static u64 va_of(enum kind kind, u64 page)
{
    return BASE + (kind << 30) + (kind == SUPERPAGE ? page << 21 : page << 12);
}

/* A superpage shows one of two stretches of memory, whose every page begins with its number. */
static u64 superpage_pa(u64 value)
{
    return RAM_BASE + 0x1000000 + ((value & 1) << 21);
}

static u64 flags_of(enum kind kind)
{
    return PTE_S_ALL | (kind == USER ? PTE_U : 0) | (kind == GLOBAL ? PTE_G : 0);
}

static void write_pte(u64 space, enum kind kind, u64 page, u64 value)
{
    u64 pa = kind == SUPERPAGE ? superpage_pa(value) : (u64)values[value % VALUES];
    *(volatile u64 *)slots[space][kind][page] =
        value == VALUES ? 0 : PTE_PPN(pa) | flags_of(kind);
    shows[space][kind][page] = value;
}

/* ---- fences ---- */

static void fence(bool by_va, bool by_asid, u64 va, u64 asid)
{
    bool svinval = pick(2);
    if (svinval) {
        __asm__ volatile("sfence.w.inval" ::: "memory");
        if (by_va && by_asid)
            __asm__ volatile("sinval.vma %0, %1" ::"r"(va), "r"(asid) : "memory");
        else if (by_va)
            __asm__ volatile("sinval.vma %0, x0" ::"r"(va) : "memory");
        else if (by_asid)
            __asm__ volatile("sinval.vma x0, %0" ::"r"(asid) : "memory");
        else
            __asm__ volatile("sinval.vma x0, x0" ::: "memory");
        __asm__ volatile("sfence.inval.ir" ::: "memory");
    } else if (by_va && by_asid) {
        sfence_va_asid(va, asid);
    } else if (by_va) {
        sfence_va(va, 0);
    } else if (by_asid) {
        sfence_asid(0, asid);
    } else {
        sfence_all();
    }
}

/* One that covers the page; full ones are rare, or nothing would ever be remembered. */
static void fence_page(u64 space, enum kind kind, u64 page)
{
    u64 va = va_of(kind, page) + pick(kind == SUPERPAGE ? 512 * PAGE : PAGE);
    bool by_va = pick(8) != 0 || kind == GLOBAL;
    bool by_asid = kind != GLOBAL && pick(3) != 0;
    fence(by_va, by_asid, va, asids[space]);
}

/* ---- spaces ---- */

static u64 first_of_asid(u64 space)
{
    u64 i = 0;
    while (asids[i] != asids[space])
        i++;
    return i;
}

static void go(u64 space)
{
    u64 shared = first_of_asid(space);
    current = space;
    csr_write(satp, space_satp(&spaces[space]));
    if (last_of_asid[shared] != space)
        fence(false, true, 0, asids[space]); /* another space had its ASID */
    last_of_asid[shared] = space;
}

/* The user's pages also as S-mode with SUM sees them. */
static struct result access_kind(enum kind kind, enum op op, u64 va, u64 value)
{
    if (kind != USER || pick(2))
        return access(kind == USER ? MODE_U : MODE_S, op, va, value);
    csr_set(mstatus, MSTATUS_SUM);
    struct result r = access(MODE_S, op, va, value);
    csr_clear(mstatus, MSTATUS_SUM);
    return r;
}

static void look_at(enum kind kind, u64 page, u64 step)
{
    u64 value = shows[current][kind][page], want = value;
    u64 va = va_of(kind, page);
    if (kind == SUPERPAGE) {
        u64 in = pick(512);
        va += in * PAGE;
        want = (value & 1) * 1000 + in;
    }
    struct result r = access_kind(kind, OP_LD, va, 0);
    if (value == VALUES) {
        CHECK_EQ(r.cause, C_LOAD_PAGE, "step %lu: space %lu kind %lu page %lu is unmapped", step,
                 current, (u64)kind, page);
        return;
    }
    CHECK_EQ(r.cause, NO_TRAP, "step %lu: space %lu kind %lu page %lu", step, current, (u64)kind,
             page);
    CHECK_EQ(r.value, want, "step %lu: space %lu kind %lu page %lu value", step, current,
             (u64)kind, page);
}

/* ---- steps ---- */

static void change(u64 step)
{
    u64 space = pick_space(), page = pick(PAGES), value = pick(VALUES + (pick(4) == 0));
    enum kind kind = pick_kind();
    go(space);
    look_at(kind, page, step);
    if (kind == GLOBAL) /* global: the same everywhere */
        for (u64 i = 0; i < SPACES; i++)
            write_pte(i, kind, page, value);
    else
        write_pte(space, kind, page, value);
    if (pick(2))
        go(pick_space());
    fence_page(space, kind, page);
    go(space);
    look_at(kind, page, step);
}

static void store_to(u64 step)
{
    u64 page = pick(PAGES);
    enum kind kind = pick(SUPERPAGE);
    u64 value = shows[current][kind][page];
    if (value == VALUES)
        return;
    struct result r = access_kind(kind, OP_SD, va_of(kind, page) + 8, step);
    CHECK_EQ(r.cause, NO_TRAP, "step %lu: store", step);
    CHECK_EQ(((volatile u64 *)values[value])[1], step, "step %lu: what was stored", step);
}

/* A cleared accessed or dirty bit is set again by the next access. */
static void age(u64 step)
{
    u64 space = pick_space(), page = pick(PAGES);
    enum kind kind = pick(2) ? USER : SUPERVISOR;
    if (shows[space][kind][page] == VALUES)
        return;
    go(space);
    look_at(kind, page, step);
    store_to(step);
    u64 *pte = slots[space][kind][page];
    bool store = pick(2);
    *(volatile u64 *)pte &= ~(store ? PTE_D : PTE_AD);
    if (pick(2))
        go(pick_space());
    fence_page(space, kind, page);
    go(space);
    u64 value = shows[space][kind][page];
    struct result r = access_kind(kind, store ? OP_SD : OP_LD, va_of(kind, page), value);
    CHECK_EQ(r.cause, NO_TRAP, "step %lu: aged page of space %lu", step, space);
    CHECK_EQ(*(volatile u64 *)pte & PTE_AD, store ? PTE_AD : PTE_A,
             "step %lu: space %lu kind %lu: A and D", step, space, (u64)kind);
    *(volatile u64 *)pte |= PTE_AD; /* more than it was: no fence needed */
}

static void make_spaces(void)
{
    for (u64 i = 0; i < VALUES; i++) {
        values[i] = page_alloc();
        values[i][0] = i;
    }
    for (u64 i = 0; i < 1024; i++)
        *(u64 *)(superpage_pa(0) + i * PAGE) = i / 512 * 1000 + i % 512;
    for (u64 i = 0; i < SPACES; i++) {
        space_init_stubs(&spaces[i], i == SPACES - 1 ? 4 : 3, asids[i]);
        for (enum kind kind = 0; kind < KINDS; kind++)
            for (u64 page = 0; page < PAGES; page++) {
                slots[i][kind][page] =
                    space_slot(&spaces[i], va_of(kind, page), kind == SUPERPAGE ? 1 : 0);
                write_pte(i, kind, page, kind == GLOBAL ? page : (i + 5 * page) % VALUES);
            }
        last_of_asid[i] = i;
    }
    sfence_all();
}

void guest_main(void)
{
    csr_write(CSR_MENVCFG, 1ul << 61); /* ADUE: the machine sets A and D */
    make_spaces();
    go(0);
    for (u64 step = 0; step < STEPS; step++) {
        window = step / 64 % (SPACES - 3);
        switch (pick(8)) {
        case 0:
            change(step);
            break;
        case 1:
            age(step);
            break;
        case 2:
            store_to(step);
            break;
        default:
            go(pick_space());
            look_at(pick_kind(), pick(PAGES), step);
        }
    }
    for (u64 i = 0; i < SPACES; i++) {
        go(i);
        for (enum kind kind = 0; kind < KINDS; kind++)
            for (u64 page = 0; page < PAGES; page++)
                look_at(kind, page, STEPS + i);
    }
    csr_write(satp, 0);
    sfence_all();
}
