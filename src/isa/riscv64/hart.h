/* SPDX-License-Identifier: MIT
 *
 * A RISC-V hart: the architectural state that snapshots, migration, the debugger and
 * lockstep tests read, and what is derived from it for speed (TLB, cached mode).
 *
 * References: "The RISC-V Instruction Set Manual", volume I (unprivileged) and II
 * (privileged), 20240411; cited below as U §x and P §x.
 *
 * Threads: the vCPU's owner only, except for members that are _Atomic.
 */
#ifndef TRAPEZE_ISA_RISCV64_HART_H
#define TRAPEZE_ISA_RISCV64_HART_H

#include "isa/riscv64/csr_bits.h"
#include "isa/riscv64/imsic.h"
#include "isa/vcpu.h"

enum rv_privilege { RV_U = 0, RV_S = 1, RV_M = 3 };

/* Interrupt numbers: bits of mip/mie (P §3.1.9) and of vcpu.interrupts. */
enum rv_interrupt {
    RV_IRQ_SSI = 1,
    RV_IRQ_MSI = 3,
    RV_IRQ_STI = 5,
    RV_IRQ_MTI = 7,
    RV_IRQ_SEI = 9,
    RV_IRQ_MEI = 11
};

/* Exception causes (P table 14). */
enum rv_cause {
    RV_CAUSE_FETCH_MISALIGNED = 0,
    RV_CAUSE_FETCH_ACCESS = 1,
    RV_CAUSE_ILLEGAL = 2,
    RV_CAUSE_BREAKPOINT = 3,
    RV_CAUSE_LOAD_MISALIGNED = 4,
    RV_CAUSE_LOAD_ACCESS = 5,
    RV_CAUSE_STORE_MISALIGNED = 6,
    RV_CAUSE_STORE_ACCESS = 7,
    RV_CAUSE_ECALL_U = 8,
    RV_CAUSE_ECALL_S = 9,
    RV_CAUSE_ECALL_M = 11,
    RV_CAUSE_FETCH_PAGE = 12,
    RV_CAUSE_LOAD_PAGE = 13,
    RV_CAUSE_STORE_PAGE = 15,
    RV_CAUSE_AGAIN = 255 /* ours: no trap; the instruction has done nothing and comes once more */
};

#define RV_PMP_COUNT 16
#define RV_TLB_ENTRIES 4096 /* per bank and access kind; power of two */

enum rv_access { RV_LOAD, RV_STORE, RV_FETCH, RV_ACCESS_KINDS };

/* Hit when (va & ~0xfff) == tag; then host = va + addend. An invalid entry's tag is rv_tlb_empty()
 * of its slot. */
struct rv_tlb_entry {
    uint64_t tag;
    uint64_t addend;
};

/* Separate banks for what an access may see, so that a change of privilege costs nothing. */
enum rv_tlb_bank { RV_BANK_U, RV_BANK_S, RV_BANK_S_SUM, RV_BANK_M, RV_BANKS };

/* What an empty slot has for a tag: never equal to a masked address that leads there, not even that
 * of a misaligned access. Page 0 leads to slot 0, and an access across its lower end (whose last
 * byte's page the translator compares) to the last one; elsewhere zeros do, so that a new table takes
 * no memory. */
#define RV_TLB_INVALID UINT64_C(0xfff)
static inline uint64_t rv_tlb_empty(size_t slot)
{
    return slot == 0 || slot == RV_TLB_ENTRIES - 1 ? RV_TLB_INVALID : 0;
}
#define RV_TLB_LOG 512 /* up to this many fills, a flush visits only the filled entries */

struct rv_tlb {
    struct rv_tlb_entry entry[RV_TLB_ENTRIES];
    uint32_t fills; /* since the last flush; the first RV_TLB_LOG are logged */
    uint16_t log[RV_TLB_LOG];
};

/* What the banks U and S_SUM held of an address space that is not current (tlb.c). */
#define RV_SPACES       8
#define RV_SPACE_BANKS  2
#define RV_SPACE_FENCES 16
struct rv_space {
    uint64_t satp; /* 0: none */
    uint64_t used; /* value of space_clock */
    unsigned fence_count;
    uint64_t fences[RV_SPACE_FENCES]; /* pages that an sfence.vma named since */
    uint16_t count[RV_SPACE_BANKS][RV_ACCESS_KINDS];
    struct rv_tlb_entry entry[RV_SPACE_BANKS][RV_ACCESS_KINDS][RV_TLB_LOG];
};

/* A PMP entry as the checks want it; permissions are RV_PMP_R, W, X. */
struct rv_pmp_range {
    uint64_t first, last; /* gpa, inclusive */
    uint8_t permissions;  /* of S and U */
    uint8_t m_permissions;
};

/* A trap that an instruction raised; the engine delivers it with rv_take_trap(). */
struct rv_trap {
    uint64_t cause; /* enum rv_cause */
    uint64_t tval;
};

struct rv_hart {
    struct vcpu vcpu; /* first */

    /* x[0] is always 0; x[32] swallows writes to x0 (RV_RD_NONE). */
    uint64_t x[33];
    /* While a block runs: address of the block's first instruction (see rv_insn_pc()). */
    uint64_t pc;
    uint64_t f[32]; /* singles are NaN-boxed */
    uint8_t fflags; /* fcsr[4:0] */
    uint8_t frm;    /* fcsr[7:5] */

    uint8_t privilege; /* enum rv_privilege */

    /* Load reservation (U §A "Zalrsc"): gpa of the reserved naturally aligned word, its size
     * in bytes (0 = none) and the value LR saw; SC compares by value. */
    uint64_t reservation_gpa;
    uint64_t reservation_value;
    uint8_t reservation_size;

    struct rv_trap trap; /* valid when an rv_exec_fn returned RV_TRAP */
    enum vcpu_exit exit; /* valid when one returned RV_EXIT */

    /* ---- CSR state, named as in the manual. mip: see rv_mip(). ---- */
    uint64_t mstatus; /* SD is computed on reads */
    uint64_t medeleg, mideleg, mie;
    uint64_t mip_software; /* bits software set: SEIP, STIP, SSIP via mip writes */
    uint64_t mtvec, mscratch, mepc, mcause, mtval;
    uint64_t stvec, sscratch, sepc, scause, stval;
    uint64_t satp;
    uint64_t mcounteren, scounteren, mcountinhibit;
    uint64_t menvcfg, senvcfg;
    uint64_t cycle_offset, instret_offset; /* counter = retired + offset, unless inhibited */
    uint64_t cycle_frozen, instret_frozen; /* values while mcountinhibit stops them */
    _Atomic uint64_t stimecmp;             /* read by the timer's thread */
    uint8_t pmpcfg[RV_PMP_COUNT];
    uint64_t pmpaddr[RV_PMP_COUNT]; /* bits 55:2 of the address */
    uint64_t miselect, siselect;    /* Smaia, Ssaia */

    /* ---- Machine-supplied behaviour, set before the hart runs ---- */
    bool sbi_calls; /* ecall from S-mode leaves run() as VCPU_EXIT_ECALL: the VMM is the SBI */

    /* ---- Derived; rebuilt by rv_mode_changed() / rv_tlb_flush_all() ---- */
    bool stip_timer;                    /* Sstc: time >= stimecmp, as last evaluated */
    uint8_t data_privilege;             /* effective privilege of loads and stores (MPRV) */
    struct rv_tlb *tlb_load, *tlb_store, *tlb_fetch; /* current bank of each kind */
    struct rv_tlb tlb[RV_BANKS][RV_ACCESS_KINDS];
    bool local_in_s;                    /* bank S holds translations that are not global */
    struct vtimer *stimer;              /* fires at stimecmp */
    uint64_t fence_i_epoch;             /* counts fence.i; engines revalidate by it */
    uint64_t rebuild_count;             /* resets, restored states: all that is derived is void */
    unsigned wedge_count;               /* consecutive traps at the trap vector itself */
    uint64_t tlb_generation;            /* counts flushes: a slow path that spans one restarts */
    /* Addresses [0] of the lower and [1] of the upper half that cached superpages (or 64 KiB
     * pages) cover: an sfence.vma of one such address is for all of the page's entries. */
    uint64_t super_first[2], super_last[2];
    struct rv_space spaces[RV_SPACES]; /* not the current one */
    uint64_t space_clock;
    struct rv_pmp_range pmp[RV_PMP_COUNT]; /* the entries that match anything, by priority */
    unsigned pmp_count;

    struct rv_imsic imsic; /* its lock; kept by a reset, as interrupt lines are */
    struct rv_counts {
        uint64_t refills[RV_ACCESS_KINDS];
        uint64_t flushes_all, flushes_space, flushes_page, flushes_stores;
        uint64_t spaces_changed, spaces_kept; /* writes of satp; to a space that was known */
    } counts; /* of the TLB */
};

static inline struct rv_hart *rv_hart_of(struct vcpu *vcpu)
{
    return (struct rv_hart *)(void *)vcpu;
}

extern const struct isa isa_riscv64;

/* ---- priv.c: privileged architecture ---- */

/* All pending interrupt bits: outside lines, software-set bits, Sstc. */
uint64_t rv_mip(struct rv_hart *hart);

/* Call after any change of privilege, mstatus (MPRV, MPP, SUM, MXR), satp mode. */
void rv_mode_changed(struct rv_hart *hart);

/* Enters the trap handler for hart->trap raised by the instruction at `epc`. */
void rv_take_trap(struct rv_hart *hart, uint64_t epc);

/* At this value of wedge_count the guest counts as crashed: VCPU_EXIT_WEDGED. */
#define RV_WEDGE_LIMIT 64

/* Takes the highest-priority enabled pending interrupt, if any; pc must be exact (not inside
 * a block). True if one was taken. */
bool rv_take_interrupt(struct rv_hart *hart);

/* Of pending bits (at least one), the one that is taken first. */
unsigned rv_highest_interrupt(uint64_t bits);

/* Obeys vcpu.attention except KICK (which stays set); between blocks. rv_take_interrupt() is
 * due after it, and only after it: whatever may make an interrupt takeable (a line, a CSR
 * write, a change of privilege) raises VCPU_ATTENTION_IRQ. */
void rv_obey_attention(struct rv_hart *hart);

/* Sstc: evaluates stip_timer and sets the timer to the moment it changes. After a change of
 * stimecmp, menvcfg.STCE or the time base (VCPU_ATTENTION_TIMER leads here). */
void rv_stimer_update(struct rv_hart *hart);

/* Raises VCPU_ATTENTION_IRQ if an interrupt is pending and enabled in mie. */
void rv_recheck_interrupts(struct rv_hart *hart);

/* Starts in S-mode as an SBI would hand over: delegation, counters, envcfg open. a0 = hartid,
 * a1 = opaque (FDT address). For M-mode firmware set pc and x[10], x[11] after reset. */
void rv_enter_supervisor(struct rv_hart *hart, uint64_t pc, uint64_t a0, uint64_t a1);

/* ---- csr.c ---- */

/* The CSR access of csrrw and friends: permission, side effects. False: hart->trap is set
 * (illegal instruction; `raw` is the encoding for tval). */
struct rv_insn;
bool rv_csr_read(struct rv_hart *hart, const struct rv_insn *insn, unsigned csr, bool will_write,
                 uint64_t *value);
bool rv_csr_write(struct rv_hart *hart, const struct rv_insn *insn, unsigned csr, uint64_t value);
const char *rv_csr_name(unsigned csr); /* NULL if unknown */

/* A CSR whose reads are those of a uint64_t of struct rv_hart, with no condition but the
 * privilege in its number. */
struct rv_csr_field {
    uint32_t offset;
    uint64_t mask;     /* what a write may change */
    bool plain_writes; /* a write has no other effect */
};
/* False: it is not one of these. */
bool rv_csr_field(unsigned csr, struct rv_csr_field *field);

/* The extensions of a hart with or without AIA, for the device tree: each name, NULL behind
 * the last one; and "rv64imafdc_zicsr_...", for which RV_ISA_STRING_MAX bytes are enough. */
#define RV_ISA_STRING_MAX 512
const char *rv_isa_extension(bool aia, size_t index);
void rv_isa_string(bool aia, char *text, size_t size);

#endif
