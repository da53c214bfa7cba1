/* SPDX-License-Identifier: MIT
 *
 * Registers of the 82540EM that do something here, and their bits (317453, chapter 13; descriptors:
 * chapter 3). Private to dev/e1000.c.
 */
#ifndef TRAPEZE_DEV_E1000_REGS_H
#define TRAPEZE_DEV_E1000_REGS_H

#include <stdint.h>

enum reg {
    CTRL = 0x0000,
    STATUS = 0x0008,
    EECD = 0x0010,
    EERD = 0x0014,
    MDIC = 0x0020,
    ICR = 0x00c0,
    ITR = 0x00c4,
    ICS = 0x00c8,
    IMS = 0x00d0,
    IMC = 0x00d8,
    RCTL = 0x0100,
    TCTL = 0x0400,
    RDBAL = 0x2800,
    RDBAH = 0x2804,
    RDLEN = 0x2808,
    RDH = 0x2810,
    RDT = 0x2818,
    TDBAL = 0x3800,
    TDBAH = 0x3804,
    TDLEN = 0x3808,
    TDH = 0x3810,
    TDT = 0x3818,
    STATISTICS = 0x4000,
    GPRC = 0x4074,
    GPTC = 0x4080,
    TOTAL_RECEIVED = 0x40d0,
    TOTAL_SENT = 0x40d4,
    STATISTICS_END = 0x4100,
    RXCSUM = 0x5000,
    MTA = 0x5200,
    RAL = 0x5400,
    RAL_END = 0x5480,
    VFTA = 0x5600
};

enum { CTRL_RST = 1 << 26, CTRL_PHY_RST = INT32_MIN, CTRL_VME = 1 << 30 };
/* Full duplex, 1000 Mb/s, 66 MHz bus (13.4.2); the link bit is added. */
enum { STATUS_FIXED = 0x0781, STATUS_LINK = 2 };
enum {
    CAUSE_TXDW = 1,
    CAUSE_LSC = 4,
    CAUSE_RXDMT0 = 0x10,
    CAUSE_RXO = 0x40,
    CAUSE_RXT0 = 0x80,
    CAUSES = 0x1ffff
};
enum {
    RCTL_EN = 2,
    RCTL_UPE = 8,
    RCTL_MPE = 0x10,
    RCTL_LPE = 0x20,
    RCTL_BAM = 0x8000,
    RCTL_VFE = 1 << 18,
    RCTL_BSEX = 1 << 25,
    RCTL_SECRC = 1 << 26
};
enum { TCTL_EN = 2, RXCSUM_TUOFL = 0x200 };
enum { RX_DD = 1, RX_EOP = 2, RX_IXSM = 4, RX_VP = 8, RX_TCPCS = 0x20, RX_IPCS = 0x40 };
enum { TX_EOP = 1, TX_IC = 4, TX_TSE = 4, TX_RS = 8, TX_DEXT = 0x20, TX_VLE = 0x40, TX_DD = 1 };
enum { OPTION_IP = 1, OPTION_TCP = 2, CONTEXT_IP4 = 2 };
enum { ETHERTYPE_VLAN = 0x8100, FRAME_SHORT_MAX = 1522, CRC_BYTES = 4 };

#endif
