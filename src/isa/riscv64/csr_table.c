/* SPDX-License-Identifier: MIT
 *
 * Every CSR of a hart as data, indexed by number. What is not here does not exist: an access
 * raises illegal-instruction, which is how software finds out what a hart has. Absent on
 * purpose: hypervisor, debug and trigger CSRs, Smstateen, Smepmp's mseccfg, Zkr's seed,
 * the odd pmpcfg and the *h halves of RV32.
 */
#include "isa/riscv64/csr_internal.h"

#define FIELD(member, writable) .offset = offsetof(struct rv_hart, member), .mask = (writable)
#define EVERY_BIT               (~UINT64_C(0))
/* xepc: IALIGN is 16 (P §3.1.14). xtvec: modes 2 and 3 are reserved (P §3.1.7). */
#define EPC_MASK  (~UINT64_C(1))
#define TVEC_MASK (~UINT64_C(2))

/* misa: MXL = 64 bits; A, C, D, F, I, M, S, U. Its extensions cannot be switched off. */
#define LETTER(c) (UINT64_C(1) << ((c) - 'A'))
#define MISA                                                                                       \
    ((UINT64_C(2) << 62) | LETTER('A') | LETTER('C') | LETTER('D') | LETTER('F') | LETTER('I') |   \
     LETTER('M') | LETTER('S') | LETTER('U'))
/* Ours to choose (P §3.1.4): 0.1 as major << 16 | minor << 8 | patch. */
#define MIMPID UINT64_C(0x000100)

/* A row is a line where it can be. */
/* clang-format off */

/* The 29 programmable counters of Zihpm count nothing (P §3.1.10: read-only zero). */
#define HPM(n)                                                                                     \
    [0xc00 + (n)] = {.name = "hpmcounter" #n, .check = rv_csr_check_counter},                      \
    [0xb00 + (n)] = {.name = "mhpmcounter" #n}, [0x320 + (n)] = {.name = "mhpmevent" #n}

#define PMPADDR(n)                                                                                 \
    [0x3b0 + (n)] = {                                                                              \
        .name = "pmpaddr" #n, .read = rv_csr_read_pmpaddr, .write = rv_csr_write_pmpaddr}
#define PMPCFG(n)                                                                                  \
    [0x3a0 + (n)] = {                                                                              \
        .name = "pmpcfg" #n, .read = rv_csr_read_pmpcfg, .write = rv_csr_write_pmpcfg}

const struct rv_csr_row rv_csr_rows[RV_CSR_NUMBERS] = {
    /* ---- unprivileged ---- */
    [0x001] = {.name = "fflags", .read = rv_csr_read_fflags, .write = rv_csr_write_fflags,
               .check = rv_csr_check_fp},
    [0x002] = {.name = "frm", .read = rv_csr_read_frm, .write = rv_csr_write_frm,
               .check = rv_csr_check_fp},
    [0x003] = {.name = "fcsr", .read = rv_csr_read_fcsr, .write = rv_csr_write_fcsr,
               .check = rv_csr_check_fp},
    [0xc00] = {.name = "cycle", .read = rv_csr_read_cycle, .check = rv_csr_check_counter},
    [0xc01] = {.name = "time", .read = rv_csr_read_time, .check = rv_csr_check_counter},
    [0xc02] = {.name = "instret", .read = rv_csr_read_instret, .check = rv_csr_check_counter},

    /* ---- supervisor ---- */
    [0x100] = {.name = "sstatus", .read = rv_csr_read_sstatus, .write = rv_csr_write_sstatus},
    [0x104] = {.name = "sie", .read = rv_csr_read_sie, .write = rv_csr_write_sie},
    [0x105] = {.name = "stvec", FIELD(stvec, TVEC_MASK)},
    [0x106] = {.name = "scounteren", FIELD(scounteren, RV_COUNTEREN_WRITABLE)},
    [0x10a] = {.name = "senvcfg", FIELD(senvcfg, 0), .write = rv_csr_write_senvcfg},
    [0x140] = {.name = "sscratch", FIELD(sscratch, EVERY_BIT)},
    [0x141] = {.name = "sepc", FIELD(sepc, EPC_MASK)},
    [0x142] = {.name = "scause", FIELD(scause, EVERY_BIT)},
    [0x143] = {.name = "stval", FIELD(stval, EVERY_BIT)},
    [0x144] = {.name = "sip", .read = rv_csr_read_sip, .write = rv_csr_write_sip},
    [0x14d] = {.name = "stimecmp", .read = rv_csr_read_stimecmp, .write = rv_csr_write_stimecmp,
               .check = rv_csr_check_stimecmp},
    [0x180] = {.name = "satp", FIELD(satp, 0), .write = rv_csr_write_satp,
               .check = rv_csr_check_satp},

    /* ---- machine ---- */
    [0xf11] = {.name = "mvendorid", .value = 0},
    [0xf12] = {.name = "marchid", .value = 0},
    [0xf13] = {.name = "mimpid", .value = MIMPID},
    [0xf14] = {.name = "mhartid", .read = rv_csr_read_mhartid},
    [0xf15] = {.name = "mconfigptr", .value = 0},
    [0x300] = {.name = "mstatus", .read = rv_csr_read_mstatus, .write = rv_csr_write_mstatus},
    [0x301] = {.name = "misa", .value = MISA},
    [0x302] = {.name = "medeleg", FIELD(medeleg, RV_MEDELEG_WRITABLE)},
    [0x303] = {.name = "mideleg", FIELD(mideleg, 0), .write = rv_csr_write_mideleg},
    [0x304] = {.name = "mie", FIELD(mie, 0), .write = rv_csr_write_mie},
    [0x305] = {.name = "mtvec", FIELD(mtvec, TVEC_MASK)},
    [0x306] = {.name = "mcounteren", FIELD(mcounteren, RV_COUNTEREN_WRITABLE)},
    [0x30a] = {.name = "menvcfg", FIELD(menvcfg, 0), .write = rv_csr_write_menvcfg},
    [0x320] = {.name = "mcountinhibit", FIELD(mcountinhibit, 0),
               .write = rv_csr_write_mcountinhibit},
    [0x340] = {.name = "mscratch", FIELD(mscratch, EVERY_BIT)},
    [0x341] = {.name = "mepc", FIELD(mepc, EPC_MASK)},
    [0x342] = {.name = "mcause", FIELD(mcause, EVERY_BIT)},
    [0x343] = {.name = "mtval", FIELD(mtval, EVERY_BIT)},
    [0x344] = {.name = "mip", .read = rv_csr_read_mip, .write = rv_csr_write_mip},
    [0xb00] = {.name = "mcycle", .read = rv_csr_read_cycle, .write = rv_csr_write_cycle},
    [0xb02] = {.name = "minstret", .read = rv_csr_read_instret, .write = rv_csr_write_instret},

    /* ---- physical memory protection: 16 entries, the other 48 read as zero ---- */
    PMPCFG(0), PMPCFG(2), PMPCFG(4), PMPCFG(6), PMPCFG(8), PMPCFG(10), PMPCFG(12), PMPCFG(14),
    PMPADDR(0), PMPADDR(1), PMPADDR(2), PMPADDR(3), PMPADDR(4), PMPADDR(5), PMPADDR(6),
    PMPADDR(7), PMPADDR(8), PMPADDR(9), PMPADDR(10), PMPADDR(11), PMPADDR(12), PMPADDR(13),
    PMPADDR(14), PMPADDR(15), PMPADDR(16), PMPADDR(17), PMPADDR(18), PMPADDR(19), PMPADDR(20),
    PMPADDR(21), PMPADDR(22), PMPADDR(23), PMPADDR(24), PMPADDR(25), PMPADDR(26), PMPADDR(27),
    PMPADDR(28), PMPADDR(29), PMPADDR(30), PMPADDR(31), PMPADDR(32), PMPADDR(33), PMPADDR(34),
    PMPADDR(35), PMPADDR(36), PMPADDR(37), PMPADDR(38), PMPADDR(39), PMPADDR(40), PMPADDR(41),
    PMPADDR(42), PMPADDR(43), PMPADDR(44), PMPADDR(45), PMPADDR(46), PMPADDR(47), PMPADDR(48),
    PMPADDR(49), PMPADDR(50), PMPADDR(51), PMPADDR(52), PMPADDR(53), PMPADDR(54), PMPADDR(55),
    PMPADDR(56), PMPADDR(57), PMPADDR(58), PMPADDR(59), PMPADDR(60), PMPADDR(61), PMPADDR(62),
    PMPADDR(63),

    /* ---- Smaia and Ssaia; mvip is written as mip is, to which its bits belong ---- */
    [0x150] = {.name = "siselect", FIELD(siselect, RV_ISELECT_WRITABLE), .check = rv_csr_check_aia},
    [0x151] = {.name = "sireg", .read = rv_csr_read_ireg, .write = rv_csr_write_ireg,
               .check = rv_csr_check_ireg},
    [0x15c] = {.name = "stopei", .read = rv_csr_read_topei, .write = rv_csr_write_topei,
               .check = rv_csr_check_aia},
    [0xdb0] = {.name = "stopi", .read = rv_csr_read_topi, .check = rv_csr_check_aia},
    [0x308] = {.name = "mvien", .check = rv_csr_check_aia},
    [0x309] = {.name = "mvip", .read = rv_csr_read_mvip, .write = rv_csr_write_mip,
               .check = rv_csr_check_aia},
    [0x350] = {.name = "miselect", FIELD(miselect, RV_ISELECT_WRITABLE), .check = rv_csr_check_aia},
    [0x351] = {.name = "mireg", .read = rv_csr_read_ireg, .write = rv_csr_write_ireg,
               .check = rv_csr_check_ireg},
    [0x35c] = {.name = "mtopei", .read = rv_csr_read_topei, .write = rv_csr_write_topei,
               .check = rv_csr_check_aia},
    [0xfb0] = {.name = "mtopi", .read = rv_csr_read_topi, .check = rv_csr_check_aia},

    /* ---- counters that count nothing ---- */
    HPM(3), HPM(4), HPM(5), HPM(6), HPM(7), HPM(8), HPM(9), HPM(10), HPM(11), HPM(12), HPM(13),
    HPM(14), HPM(15), HPM(16), HPM(17), HPM(18), HPM(19), HPM(20), HPM(21), HPM(22), HPM(23),
    HPM(24), HPM(25), HPM(26), HPM(27), HPM(28), HPM(29), HPM(30), HPM(31),
};
/* clang-format on */
