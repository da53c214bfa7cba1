/*
 * Page tables and single accesses through them.
 *
 * M-mode code of a guest always runs untranslated.  What goes through translation is one access at
 * a time, made by a stub (start.S) that really runs in S or U mode, or in M-mode with MPRV set.  So
 * a space needs to map nothing but the stubs (STUB_S_VA, STUB_U_VA) and what a test looks at.
 */
#ifndef RT_MMU_H
#define RT_MMU_H

#include "rt.h"

#define PTE_V       (1ul << 0)
#define PTE_R       (1ul << 1)
#define PTE_W       (1ul << 2)
#define PTE_X       (1ul << 3)
#define PTE_U       (1ul << 4)
#define PTE_G       (1ul << 5)
#define PTE_A       (1ul << 6)
#define PTE_D       (1ul << 7)
#define PTE_PBMT(n) ((u64)(n) << 61)
#define PTE_N       (1ul << 63)
#define PTE_AD      (PTE_A | PTE_D)
#define PTE_RWX     (PTE_R | PTE_W | PTE_X)
#define PTE_S_ALL   (PTE_V | PTE_RWX | PTE_AD)
#define PTE_U_ALL   (PTE_S_ALL | PTE_U)
#define PTE_PPN(pa) (((u64)(pa) >> 12) << 10)

#define PAGE          4096ul
#define LEVEL_SIZE(l) (1ul << (12 + 9 * (l)))

#define STUB_S_VA 0x2000000000ul
#define STUB_U_VA 0x2000001000ul

/* An address whose superpages, at every level below the top one, do not contain the stubs. */
static inline u64 test_va(int levels)
{
    return levels == 3 ? 0x1040000000ul : levels == 4 ? 0x108040000000ul : 0x01108040000000ul;
}

struct space {
    u64 *root;
    int levels; /* 3: Sv39, 4: Sv48, 5: Sv57 */
    u64 asid;
};

enum op {
    OP_LB,
    OP_LH,
    OP_LW,
    OP_LD,
    OP_SB,
    OP_SH,
    OP_SW,
    OP_SD,
    OP_AMO,
    OP_LR,
    OP_SC,
    OP_FETCH, /* jumps to va: an ecall must be there */
    OP_CBO_ZERO,
    OP_CBO_CLEAN,
    OP_CBO_FLUSH,
    OP_CBO_INVAL,
    OP_PREFETCH_W,
    OP_SFENCE,
    OP_COUNT
};

extern const char *const op_name[OP_COUNT];

struct result {
    u64 cause; /* NO_TRAP when the access succeeded */
    u64 tval;
    u64 epc;
    u64 value; /* of a0 */
};

/* Zeroed page from the end of the image; never freed. */
void *page_alloc(void);
void space_init(struct space *s, int levels, u64 asid);
/* Same, with the stubs mapped. */
void space_init_stubs(struct space *s, int levels, u64 asid);
/* Returns the PTE slot of va at `level` (0: 4 KiB), making tables on the way. */
u64 *space_slot(struct space *s, u64 va, int level);
/* Writes a leaf there. */
u64 *space_map(struct space *s, u64 va, u64 pa, int level, u64 flags);
u64 space_satp(const struct space *s);
/* satp := s, and a full sfence.vma. */
void space_use(const struct space *s);

struct result access(enum mode mode, enum op op, u64 va, u64 value);
/* The same access by M-mode with MPRV=1, MPP=mode (not OP_FETCH: MPRV does not affect fetches). */
struct result access_mprv(enum mode mode, enum op op, u64 va, u64 value);
/* The same access with the stub at its physical address: for satp = Bare. */
struct result access_bare(enum mode mode, enum op op, u64 pa, u64 value);
u64 stub_pa(enum op op);
/* Address of op's stub in `mode`'s mapping: the epc of a faulting data access. */
u64 stub_va(enum mode mode, enum op op);

void sfence_all(void);
void sfence_va(u64 va, u64 asid_ignored);
void sfence_asid(u64 va_ignored, u64 asid);
void sfence_va_asid(u64 va, u64 asid);

static inline u64 fault_of(enum op op)
{
    return op == OP_FETCH ? C_FETCH_PAGE : op < OP_SB || op == OP_LR ? C_LOAD_PAGE : C_STORE_PAGE;
}

static inline u64 access_fault_of(enum op op)
{
    return op == OP_FETCH              ? C_FETCH_ACCESS
           : op < OP_SB || op == OP_LR ? C_LOAD_ACCESS
                                       : C_STORE_ACCESS;
}

#define INSN_ECALL 0x00000073u
#define INSN_NOP   0x00000013u

#endif
