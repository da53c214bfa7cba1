/*
 * Page permissions: every combination of R, W, X, U, mode, SUM, MXR and kind of access, really made
 * from that mode and again by M-mode with MPRV.  Privileged ISA "Virtual Address Translation
 * Process" steps 5-7 and "Memory Privilege in mstatus".
 */
#include "mmu.h"

const char guest_name[] = "mmu_perm";

static const enum op ops[] = {OP_LB, OP_LH, OP_LW,    OP_LD, OP_SB, OP_SH,
                              OP_SW, OP_SD, OP_FETCH, OP_LR, OP_AMO};

#define VA 0x1040000000ul

static bool is_load(enum op op)
{
    return op < OP_SB || op == OP_LR;
}

static bool permitted(enum op op, enum mode mode, u64 pte, bool sum, bool mxr)
{
    bool r = pte & PTE_R, w = pte & PTE_W, x = pte & PTE_X, u = pte & PTE_U;
    if ((w && !r) || (!r && !x)) {
        return false; /* reserved, or a pointer where there is no further level */
    }
    if (mode == MODE_U ? !u : u && (!sum || op == OP_FETCH)) {
        return false;
    }
    return op == OP_FETCH ? x : is_load(op) ? r || (mxr && x) : w;
}

static void one(u64 pte, enum mode mode, bool sum, bool mxr, bool mprv)
{
    csr_clear(mstatus, MSTATUS_SUM | MSTATUS_MXR);
    csr_set(mstatus, (sum ? MSTATUS_SUM : 0) | (mxr ? MSTATUS_MXR : 0));
    for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
        enum op op = ops[i];
        if (mprv && op == OP_FETCH) {
            continue;
        }
        bool ok = permitted(op, mode, pte, sum, mxr);
        struct result r = mprv ? access_mprv(mode, op, VA + 16, INSN_ECALL)
                               : access(mode, op, VA + 16, INSN_ECALL);
        CHECK_EQ(r.cause, ok ? NO_TRAP : fault_of(op), "%s pte 0x%lx mode %d SUM %d MXR %d MPRV %d",
                 op_name[op], pte, mode, sum, mxr, mprv);
        if (!ok) {
            CHECK_EQ(r.tval, VA + 16, "tval %s pte 0x%lx mode %d SUM %d MXR %d MPRV %d",
                     op_name[op], pte, mode, sum, mxr, mprv);
        }
    }
}

/* SUM and MXR act at once, without sfence.vma, on translations already used. */
static void toggles(u64 *pte)
{
    *pte = (*pte & ~0x3fful) | PTE_U_ALL;
    sfence_all();
    for (int i = 0; i < 8; i++) {
        csr_set(mstatus, MSTATUS_SUM);
        CHECK_EQ(access(MODE_S, OP_LD, VA, 0).cause, NO_TRAP, "SUM set, round %d", i);
        CHECK_EQ(access(MODE_S, OP_SD, VA, 0).cause, NO_TRAP, "SUM set, store, round %d", i);
        csr_clear(mstatus, MSTATUS_SUM);
        CHECK_EQ(access(MODE_S, OP_LD, VA, 0).cause, C_LOAD_PAGE, "SUM clear, round %d", i);
        CHECK_EQ(access(MODE_S, OP_SD, VA, 0).cause, C_STORE_PAGE, "SUM clear, store, round %d", i);
        CHECK_EQ(access(MODE_U, OP_LD, VA, 0).cause, NO_TRAP, "U-mode, round %d", i);
    }
    *pte = (*pte & ~0x3fful) | PTE_V | PTE_X | PTE_AD;
    sfence_all();
    for (int i = 0; i < 8; i++) {
        csr_set(mstatus, MSTATUS_MXR);
        CHECK_EQ(access(MODE_S, OP_LD, VA, 0).cause, NO_TRAP, "MXR set, round %d", i);
        csr_clear(mstatus, MSTATUS_MXR);
        CHECK_EQ(access(MODE_S, OP_LD, VA, 0).cause, C_LOAD_PAGE, "MXR clear, round %d", i);
    }
}

/* MPRV with MPP = M translates nothing; the value comes from the physical address. */
static void mprv_machine(void)
{
    static u64 word = 0x600d600d600d600dul;
    struct result r = access_mprv(MODE_M, OP_LD, (u64)&word, 0);
    CHECK_EQ(r.value, word, "MPRV with MPP=M");
    r = access_mprv(MODE_M, OP_LD, VA, 0);
    CHECK_EQ(r.cause, C_LOAD_ACCESS, "MPRV with MPP=M does not translate");
}

void guest_main(void)
{
    struct space s;
    u32 *page = page_alloc();
    space_init_stubs(&s, 3, 0);
    u64 *pte = space_map(&s, VA, (u64)page, 0, 0);
    space_use(&s);
    for (u64 rwx = 0; rwx < 16; rwx++) {
        u64 flags = PTE_V | PTE_AD | (rwx & 7) << 1 | (rwx & 8 ? PTE_U : 0);
        *pte = PTE_PPN(page) | flags;
        sfence_all();
        page[4] = INSN_ECALL;
        fence_i();
        for (int k = 0; k < 16; k++) {
            page[4] = INSN_ECALL; /* amoadd changed it */
            fence_i();
            one(flags, k & 1 ? MODE_S : MODE_U, k & 2, k & 4, k & 8);
        }
    }
    csr_clear(mstatus, MSTATUS_SUM | MSTATUS_MXR);
    toggles(pte);
    mprv_machine();
    csr_write(satp, 0);
    sfence_all();
}
