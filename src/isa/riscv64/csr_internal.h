/* SPDX-License-Identifier: MIT
 *
 * Between csr.c (what an access does) and csr_table.c (which CSRs there are).
 */
#ifndef TRAPEZE_ISA_RISCV64_CSR_INTERNAL_H
#define TRAPEZE_ISA_RISCV64_CSR_INTERNAL_H

#include <stddef.h>

#include "isa/riscv64/insn.h"

/* One access. `insn` is NULL if it is not an instruction's (tests). */
struct rv_csr_access {
    struct rv_hart *hart;
    const struct rv_insn *insn;
    unsigned number;
};

typedef uint64_t rv_csr_read_fn(const struct rv_csr_access *access);
/* `value` is what the register as a whole shall become, before WARL. */
typedef void rv_csr_write_fn(const struct rv_csr_access *access, uint64_t value);
/* What the number alone does not say; false: illegal instruction. */
typedef bool rv_csr_check_fn(const struct rv_hart *hart, unsigned number);

/* A register is either functions, or a uint64_t of the hart (offset), or a constant (`value`,
 * no offset). Bits outside `mask` do not change. The least privilege and read-only-ness are
 * in the number (P §2.1). */
struct rv_csr_row {
    const char *name;
    rv_csr_read_fn *read;   /* NULL: the field, or the constant */
    rv_csr_write_fn *write; /* NULL: the field through `mask`; nothing if there is none */
    rv_csr_check_fn *check; /* NULL: none */
    uint64_t mask;
    uint64_t value;
    uint32_t offset; /* 0: no field (the generic vCPU is there) */
};

#define RV_CSR_NUMBERS 4096
extern const struct rv_csr_row rv_csr_rows[RV_CSR_NUMBERS]; /* by number; no name: no CSR */

/* Which bits an access that shall leave `value` sets and which it clears. */
void rv_csr_changed_bits(const struct rv_csr_access *access, uint64_t value, uint64_t *set,
                         uint64_t *clear);

rv_csr_check_fn rv_csr_check_fp, rv_csr_check_counter, rv_csr_check_satp, rv_csr_check_stimecmp;
rv_csr_read_fn rv_csr_read_fflags, rv_csr_read_frm, rv_csr_read_fcsr, rv_csr_read_cycle,
    rv_csr_read_instret, rv_csr_read_time, rv_csr_read_sstatus, rv_csr_read_mstatus,
    rv_csr_read_sie, rv_csr_read_sip, rv_csr_read_mip, rv_csr_read_stimecmp, rv_csr_read_mhartid,
    rv_csr_read_pmpcfg, rv_csr_read_pmpaddr;
rv_csr_write_fn rv_csr_write_fflags, rv_csr_write_frm, rv_csr_write_fcsr, rv_csr_write_cycle,
    rv_csr_write_instret, rv_csr_write_sstatus, rv_csr_write_mstatus, rv_csr_write_sie,
    rv_csr_write_mie, rv_csr_write_sip, rv_csr_write_mip, rv_csr_write_mideleg,
    rv_csr_write_stimecmp, rv_csr_write_satp, rv_csr_write_menvcfg, rv_csr_write_senvcfg,
    rv_csr_write_mcountinhibit, rv_csr_write_pmpcfg, rv_csr_write_pmpaddr;

/* csr_aia.c */
rv_csr_check_fn rv_csr_check_aia, rv_csr_check_ireg;
rv_csr_read_fn rv_csr_read_ireg, rv_csr_read_topei, rv_csr_read_topi, rv_csr_read_mvip;
rv_csr_write_fn rv_csr_write_ireg, rv_csr_write_topei;

#endif
