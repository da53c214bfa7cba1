/* SPDX-License-Identifier: MIT
 *
 * Numbers and fields of control and status registers (P §2.2, §3.1, §10.1): names as in the
 * manual, RV_ in front.
 */
#ifndef TRAPEZE_ISA_RISCV64_CSR_BITS_H
#define TRAPEZE_ISA_RISCV64_CSR_BITS_H

#include <stdint.h>

/* CSR numbers that somebody besides the table in csr_table.c needs. */
enum rv_csr_number {
    RV_CSR_FFLAGS = 0x001,
    RV_CSR_FRM = 0x002,
    RV_CSR_FCSR = 0x003,
    RV_CSR_SSTATUS = 0x100,
    RV_CSR_SIP = 0x144,
    RV_CSR_STIMECMP = 0x14d,
    RV_CSR_SATP = 0x180,
    RV_CSR_MSTATUS = 0x300,
    RV_CSR_MIP = 0x344,
    RV_CSR_PMPCFG0 = 0x3a0,
    RV_CSR_PMPADDR0 = 0x3b0,
    RV_CSR_CYCLE = 0xc00,
    RV_CSR_TIME = 0xc01,
    RV_CSR_INSTRET = 0xc02
};

/* mstatus and sstatus (P §3.1.6) */
#define RV_MSTATUS_SIE  (UINT64_C(1) << 1)
#define RV_MSTATUS_MIE  (UINT64_C(1) << 3)
#define RV_MSTATUS_SPIE (UINT64_C(1) << 5)
#define RV_MSTATUS_MPIE (UINT64_C(1) << 7)
#define RV_MSTATUS_SPP  (UINT64_C(1) << 8)
#define RV_MSTATUS_MPP  (UINT64_C(3) << 11)
#define RV_MSTATUS_FS   (UINT64_C(3) << 13) /* 0 off, 1 initial, 2 clean, 3 dirty */
#define RV_MSTATUS_MPRV (UINT64_C(1) << 17)
#define RV_MSTATUS_SUM  (UINT64_C(1) << 18)
#define RV_MSTATUS_MXR  (UINT64_C(1) << 19)
#define RV_MSTATUS_TVM  (UINT64_C(1) << 20)
#define RV_MSTATUS_TW   (UINT64_C(1) << 21)
#define RV_MSTATUS_TSR  (UINT64_C(1) << 22)
#define RV_MSTATUS_UXL  (UINT64_C(3) << 32)
#define RV_MSTATUS_SXL  (UINT64_C(3) << 34)
#define RV_MSTATUS_SD   (UINT64_C(1) << 63)

#define RV_MSTATUS_MPP_SHIFT 11
/* UXL = SXL = 64 bits, for ever. */
#define RV_MSTATUS_FIXED ((UINT64_C(2) << 32) | (UINT64_C(2) << 34))
#define RV_MSTATUS_WRITABLE                                                                        \
    (RV_MSTATUS_SIE | RV_MSTATUS_MIE | RV_MSTATUS_SPIE | RV_MSTATUS_MPIE | RV_MSTATUS_SPP |        \
     RV_MSTATUS_MPP | RV_MSTATUS_FS | RV_MSTATUS_MPRV | RV_MSTATUS_SUM | RV_MSTATUS_MXR |          \
     RV_MSTATUS_TVM | RV_MSTATUS_TW | RV_MSTATUS_TSR)
#define RV_SSTATUS_WRITABLE                                                                        \
    (RV_MSTATUS_SIE | RV_MSTATUS_SPIE | RV_MSTATUS_SPP | RV_MSTATUS_FS | RV_MSTATUS_SUM |          \
     RV_MSTATUS_MXR)
#define RV_SSTATUS_VISIBLE (RV_SSTATUS_WRITABLE | RV_MSTATUS_UXL | RV_MSTATUS_SD)

/* mip, mie, mideleg: 1 << enum rv_interrupt */
#define RV_MIP_SSIP (UINT64_C(1) << 1)
#define RV_MIP_MSIP (UINT64_C(1) << 3)
#define RV_MIP_STIP (UINT64_C(1) << 5)
#define RV_MIP_MTIP (UINT64_C(1) << 7)
#define RV_MIP_SEIP (UINT64_C(1) << 9)
#define RV_MIP_MEIP (UINT64_C(1) << 11)
#define RV_MIP_S    (RV_MIP_SSIP | RV_MIP_STIP | RV_MIP_SEIP)
#define RV_MIP_ALL  (RV_MIP_S | RV_MIP_MSIP | RV_MIP_MTIP | RV_MIP_MEIP)

#define RV_CAUSE_INTERRUPT (UINT64_C(1) << 63)
/* Every synchronous cause but ecall from M (P §3.1.8: its bit is read-only zero). */
#define RV_MEDELEG_WRITABLE UINT64_C(0xb3ff)

/* menvcfg and senvcfg (P §3.1.18, §10.1.10) */
#define RV_ENVCFG_FIOM       (UINT64_C(1) << 0)
#define RV_ENVCFG_CBIE       (UINT64_C(3) << 4) /* 0 illegal, 1 as flush, 2 reserved, 3 inval */
#define RV_ENVCFG_CBIE_SHIFT 4
#define RV_ENVCFG_CBCFE      (UINT64_C(1) << 6)
#define RV_ENVCFG_CBZE       (UINT64_C(1) << 7)
#define RV_MENVCFG_ADUE      (UINT64_C(1) << 61)
#define RV_MENVCFG_PBMTE     (UINT64_C(1) << 62)
#define RV_MENVCFG_STCE      (UINT64_C(1) << 63)
#define RV_SENVCFG_WRITABLE  (RV_ENVCFG_FIOM | RV_ENVCFG_CBIE | RV_ENVCFG_CBCFE | RV_ENVCFG_CBZE)
#define RV_MENVCFG_WRITABLE                                                                        \
    (RV_SENVCFG_WRITABLE | RV_MENVCFG_ADUE | RV_MENVCFG_PBMTE | RV_MENVCFG_STCE)

/* mcounteren, scounteren, mcountinhibit */
#define RV_COUNTER_CY            (UINT64_C(1) << 0)
#define RV_COUNTER_TM            (UINT64_C(1) << 1)
#define RV_COUNTER_IR            (UINT64_C(1) << 2)
#define RV_COUNTEREN_WRITABLE    UINT64_C(0xffffffff)
#define RV_COUNTINHIBIT_WRITABLE (RV_COUNTER_CY | RV_COUNTER_IR)

/* satp (P §10.1.11) */
#define RV_SATP_MODE_SHIFT 60
#define RV_SATP_ASID_SHIFT 44 /* 16 bits of it */
#define RV_SATP_PPN        ((UINT64_C(1) << 44) - 1)
enum rv_satp_mode { RV_SATP_BARE = 0, RV_SATP_SV39 = 8, RV_SATP_SV48 = 9, RV_SATP_SV57 = 10 };

/* siselect, miselect */
#define RV_ISELECT_WRITABLE UINT64_C(0xfff)

/* pmpcfg (P §3.7.1) */
#define RV_PMP_R            0x01
#define RV_PMP_W            0x02
#define RV_PMP_X            0x04
#define RV_PMP_A            0x18
#define RV_PMP_OFF          0x00
#define RV_PMP_TOR          0x08
#define RV_PMP_NA4          0x10
#define RV_PMP_NAPOT        0x18
#define RV_PMP_L            0x80
#define RV_PMP_WRITABLE     (RV_PMP_R | RV_PMP_W | RV_PMP_X | RV_PMP_A | RV_PMP_L)
#define RV_PMPADDR_WRITABLE ((UINT64_C(1) << 54) - 1) /* address bits 55:2 */

#endif
