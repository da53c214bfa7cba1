/* Page tables and single translated accesses; see mmu.h. */
#include "mmu.h"

extern u8 image_end[], stub_page[];

#define STUBS(X)                                                                                   \
    X(LB, lb)                                                                                      \
    X(LH, lh) X(LW, lw) X(LD, ld) X(SB, sb) X(SH, sh) X(SW, sw) X(SD, sd) X(AMO, amoadd) X(LR, lr) \
        X(SC, sc) X(FETCH, fetch) X(CBO_ZERO, cbo_zero) X(CBO_CLEAN, cbo_clean)                    \
            X(CBO_FLUSH, cbo_flush) X(CBO_INVAL, cbo_inval) X(PREFETCH_W, prefetch_w)              \
                X(SFENCE, sfence)

#define DECLARE(op, name) extern u8 stub_##name[], mprv_##name[];
STUBS(DECLARE)

static const struct {
    const u8 *stub, *mprv;
} stubs[OP_COUNT] = {
#define ROW(op, name) [OP_##op] = {stub_##name, mprv_##name},
    STUBS(ROW)
#undef ROW
};

const char *const op_name[OP_COUNT] = {
#define ROW(op, name) [OP_##op] = #name,
    STUBS(ROW)
#undef ROW
};

u64 mprv_asm(u64 stub, u64 va, u64 value);

void *page_alloc(void)
{
    static u8 *next;
    if (!next) {
        next = image_end;
    }
    u8 *p = next;
    next += PAGE;
    if ((u64)next > RAM_BASE + RAM_SIZE) {
        fatal("the guest used up its memory");
    }
    return memset(p, 0, PAGE);
}

void space_init(struct space *s, int levels, u64 asid)
{
    s->root = page_alloc();
    s->levels = levels;
    s->asid = asid;
}

void space_init_stubs(struct space *s, int levels, u64 asid)
{
    space_init(s, levels, asid);
    space_map(s, STUB_S_VA, (u64)stub_page, 0, PTE_V | PTE_R | PTE_X | PTE_A);
    space_map(s, STUB_U_VA, (u64)stub_page, 0, PTE_V | PTE_R | PTE_X | PTE_A | PTE_U);
}

u64 *space_slot(struct space *s, u64 va, int level)
{
    u64 *table = s->root;
    for (int l = s->levels - 1;; l--) {
        u64 *pte = &table[(va >> (12 + 9 * l)) & 511];
        if (l == level) {
            return pte;
        }
        if (!(*pte & PTE_V)) {
            *pte = PTE_PPN(page_alloc()) | PTE_V;
        }
        table = (u64 *)((*pte >> 10 & ((1ul << 44) - 1)) << 12);
    }
}

u64 *space_map(struct space *s, u64 va, u64 pa, int level, u64 flags)
{
    u64 *pte = space_slot(s, va, level);
    *pte = PTE_PPN(pa) | flags;
    return pte;
}

u64 space_satp(const struct space *s)
{
    return ((u64)(s->levels + 5) << 60) | (s->asid << 44) | ((u64)s->root >> 12);
}

void space_use(const struct space *s)
{
    csr_write(satp, space_satp(s));
    sfence_all();
}

u64 stub_va(enum mode mode, enum op op)
{
    return (mode == MODE_U ? STUB_U_VA : STUB_S_VA) + (u64)(stubs[op].stub - stub_page);
}

static struct result result_of(u64 value)
{
    const struct trap *t = &self()->t;
    bool ok = t->cause == C_ECALL_U || t->cause == C_ECALL_S;
    return (struct result){ok ? NO_TRAP : t->cause, ok ? 0 : t->tval, t->epc, value};
}

static struct result access_from(u64 pc, enum mode mode, u64 va, u64 value)
{
    u64 regs[32];
    memset(regs, 0, sizeof regs);
    regs[11] = va;
    regs[12] = value;
    trap_clear();
    self()->leave_on_trap = 1;
    return result_of(enter(mode, pc, regs));
}

struct result access(enum mode mode, enum op op, u64 va, u64 value)
{
    return access_from(stub_va(mode, op), mode, va, value);
}

struct result access_bare(enum mode mode, enum op op, u64 pa, u64 value)
{
    return access_from(stub_pa(op), mode, pa, value);
}

u64 stub_pa(enum op op)
{
    return (u64)stubs[op].stub;
}

struct result access_mprv(enum mode mode, enum op op, u64 va, u64 value)
{
    trap_clear();
    csr_clear(mstatus, MSTATUS_MPP);
    csr_set(mstatus, MPP(mode));
    return result_of(mprv_asm((u64)stubs[op].mprv, va, value));
}
