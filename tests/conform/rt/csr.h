/* CSR access and the fields the guests use; numbers and names from the privileged ISA 20240411. */
#ifndef RT_CSR_H
#define RT_CSR_H

#define CSR_STR_(x) #x
#define CSR_STR(x)  CSR_STR_(x)

#define csr_read(csr)                                                                              \
    ({                                                                                             \
        unsigned long v_;                                                                          \
        __asm__ volatile("csrr %0, " CSR_STR(csr) : "=r"(v_)::"memory");                           \
        v_;                                                                                        \
    })
#define csr_write(csr, val)                                                                        \
    __asm__ volatile("csrw " CSR_STR(csr) ", %0" ::"rK"((unsigned long)(val)) : "memory")
#define csr_set(csr, val)                                                                          \
    __asm__ volatile("csrs " CSR_STR(csr) ", %0" ::"rK"((unsigned long)(val)) : "memory")
#define csr_clear(csr, val)                                                                        \
    __asm__ volatile("csrc " CSR_STR(csr) ", %0" ::"rK"((unsigned long)(val)) : "memory")

/* Not known by name to every assembler the suite is built with. */
#define CSR_MENVCFG  0x30a
#define CSR_SENVCFG  0x10a
#define CSR_STIMECMP 0x14d

#define MENVCFG_FIOM  (1ul << 0)
#define ENVCFG_CBIE   (3ul << 4)
#define ENVCFG_CBCFE  (1ul << 6)
#define ENVCFG_CBZE   (1ul << 7)
#define MENVCFG_ADUE  (1ul << 61)
#define MENVCFG_PBMTE (1ul << 62)
#define MENVCFG_STCE  (1ul << 63)

#define MSTATUS_SIE  (1ul << 1)
#define MSTATUS_MIE  (1ul << 3)
#define MSTATUS_SPIE (1ul << 5)
#define MSTATUS_UBE  (1ul << 6)
#define MSTATUS_MPIE (1ul << 7)
#define MSTATUS_SPP  (1ul << 8)
#define MSTATUS_VS   (3ul << 9)
#define MSTATUS_MPP  (3ul << 11)
#define MSTATUS_FS   (3ul << 13)
#define MSTATUS_XS   (3ul << 15)
#define MSTATUS_MPRV (1ul << 17)
#define MSTATUS_SUM  (1ul << 18)
#define MSTATUS_MXR  (1ul << 19)
#define MSTATUS_TVM  (1ul << 20)
#define MSTATUS_TW   (1ul << 21)
#define MSTATUS_TSR  (1ul << 22)
#define MSTATUS_UXL  (3ul << 32)
#define MSTATUS_SXL  (3ul << 34)
#define MSTATUS_SD   (1ul << 63)
#define MPP(m)       ((unsigned long)(m) << 11)

#define IRQ_SSI 1
#define IRQ_MSI 3
#define IRQ_STI 5
#define IRQ_MTI 7
#define IRQ_SEI 9
#define IRQ_MEI 11
#define BIT(n)  (1ul << (n))
#define IRQ(n)  (BIT(63) | (n))

enum cause {
    C_FETCH_MISALIGNED = 0,
    C_FETCH_ACCESS = 1,
    C_ILLEGAL = 2,
    C_BREAKPOINT = 3,
    C_LOAD_MISALIGNED = 4,
    C_LOAD_ACCESS = 5,
    C_STORE_MISALIGNED = 6,
    C_STORE_ACCESS = 7,
    C_ECALL_U = 8,
    C_ECALL_S = 9,
    C_ECALL_M = 11,
    C_FETCH_PAGE = 12,
    C_LOAD_PAGE = 13,
    C_STORE_PAGE = 15,
};

#endif
