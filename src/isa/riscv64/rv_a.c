/* SPDX-License-Identifier: MIT
 *
 * A: atomic memory operations and load-reserved/store-conditional (U §A), on host atomics.
 * All of them are sequentially consistent, which satisfies every combination of aq and rl.
 *
 * SC compares by value: it succeeds if memory still holds what LR saw. A store of the same
 * value in between goes unnoticed, which no program can tell from its not having happened
 * (except for ABA on other locations, the classic caveat of compare-and-swap emulation).
 */
#include "isa/riscv64/exec.h"
#include "isa/riscv64/mmu.h"

/* `extend` is the type that extends the old value to 64 bits. */
#define DEFINE_LR(function, bits, extend)                                                          \
    static enum rv_result function(struct rv_hart *hart, const struct rv_insn *insn)               \
    {                                                                                              \
        void *host;                                                                                \
        uint64_t gpa;                                                                              \
        if (!rv_atomic_pointer(hart, hart->x[insn->rs1], (bits) / 8, false, &host, &gpa))          \
            return RV_TRAP;                                                                        \
        uint##bits##_t value = __atomic_load_n((uint##bits##_t *)host, __ATOMIC_SEQ_CST);          \
        hart->reservation_gpa = gpa;                                                               \
        hart->reservation_value = value;                                                           \
        hart->reservation_size = (bits) / 8;                                                       \
        hart->x[insn->rd] = (uint64_t)(extend)value;                                               \
        return RV_NEXT;                                                                            \
    }
DEFINE_LR(exec_lr_w, 32, int32_t)
DEFINE_LR(exec_lr_d, 64, uint64_t)

/* Any SC ends the reservation, one that faults excepted (it had no effect). */
#define DEFINE_SC(function, bits)                                                                  \
    static enum rv_result function(struct rv_hart *hart, const struct rv_insn *insn)               \
    {                                                                                              \
        void *host;                                                                                \
        uint64_t gpa;                                                                              \
        if (!rv_atomic_pointer(hart, hart->x[insn->rs1], (bits) / 8, true, &host, &gpa))           \
            return RV_TRAP;                                                                        \
        uint##bits##_t expected = (uint##bits##_t)hart->reservation_value;                         \
        bool stored = hart->reservation_size == (bits) / 8 && hart->reservation_gpa == gpa &&      \
                      __atomic_compare_exchange_n((uint##bits##_t *)host, &expected,               \
                                                  (uint##bits##_t)hart->x[insn->rs2], false,       \
                                                  __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);             \
        hart->reservation_size = 0;                                                                \
        hart->x[insn->rd] = stored ? 0 : 1;                                                        \
        return RV_NEXT;                                                                            \
    }
DEFINE_SC(exec_sc_w, 32)
DEFINE_SC(exec_sc_d, 64)

/* `operation` yields the old value from `host` (pointer to memory) and b (the operand), both
 * of type uint<bits>_t. */
#define DEFINE_AMO(function, bits, extend, operation)                                              \
    static enum rv_result function(struct rv_hart *hart, const struct rv_insn *insn)               \
    {                                                                                              \
        void *pointer;                                                                             \
        uint64_t gpa;                                                                              \
        if (!rv_atomic_pointer(hart, hart->x[insn->rs1], (bits) / 8, true, &pointer, &gpa))        \
            return RV_TRAP;                                                                        \
        uint##bits##_t *host = pointer;                                                            \
        uint##bits##_t b = (uint##bits##_t)hart->x[insn->rs2];                                     \
        hart->x[insn->rd] = (uint64_t)(extend)(operation);                                         \
        return RV_NEXT;                                                                            \
    }
#define DEFINE_AMO_PAIR(name, builtin)                                                             \
    DEFINE_AMO(exec_##name##_w, 32, int32_t, builtin(host, b, __ATOMIC_SEQ_CST))                   \
    DEFINE_AMO(exec_##name##_d, 64, uint64_t, builtin(host, b, __ATOMIC_SEQ_CST))
DEFINE_AMO_PAIR(amoswap, __atomic_exchange_n)
DEFINE_AMO_PAIR(amoadd, __atomic_fetch_add)
DEFINE_AMO_PAIR(amoxor, __atomic_fetch_xor)
DEFINE_AMO_PAIR(amoand, __atomic_fetch_and)
DEFINE_AMO_PAIR(amoor, __atomic_fetch_or)

/* Minimum and maximum have no builtin. Written even if nothing changes: an AMO is a store. */
#define DEFINE_CHOOSE(name, bits, extend, type, relation)                                          \
    static inline uint##bits##_t choose_##name##bits(uint##bits##_t *host, uint##bits##_t b)       \
    {                                                                                              \
        uint##bits##_t old = __atomic_load_n(host, __ATOMIC_RELAXED);                              \
        while (!__atomic_compare_exchange_n(host, &old, (type)old relation(type) b ? old : b,      \
                                            true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {           \
        }                                                                                          \
        return old;                                                                                \
    }                                                                                              \
    DEFINE_AMO(exec_##name##bits, bits, extend, choose_##name##bits(host, b))
DEFINE_CHOOSE(amomin, 32, int32_t, int32_t, <)
DEFINE_CHOOSE(amomax, 32, int32_t, int32_t, >)
DEFINE_CHOOSE(amominu, 32, int32_t, uint32_t, <)
DEFINE_CHOOSE(amomaxu, 32, int32_t, uint32_t, >)
DEFINE_CHOOSE(amomin, 64, uint64_t, int64_t, <)
DEFINE_CHOOSE(amomax, 64, uint64_t, int64_t, >)
DEFINE_CHOOSE(amominu, 64, uint64_t, uint64_t, <)
DEFINE_CHOOSE(amomaxu, 64, uint64_t, uint64_t, >)

#define ATOMIC (RV_ROW_LOAD | RV_ROW_STORE)
static const struct rv_row rows[] = {
    {"lr.w", 0x1000202f, 0xf9f0707f, RV_FORMAT_LR, exec_lr_w, RV_ROW_LOAD},
    {"lr.d", 0x1000302f, 0xf9f0707f, RV_FORMAT_LR, exec_lr_d, RV_ROW_LOAD},
    {"sc.w", 0x1800202f, 0xf800707f, RV_FORMAT_AMO, exec_sc_w, RV_ROW_STORE},
    {"sc.d", 0x1800302f, 0xf800707f, RV_FORMAT_AMO, exec_sc_d, RV_ROW_STORE},
    {"amoswap.w", 0x0800202f, 0xf800707f, RV_FORMAT_AMO, exec_amoswap_w, ATOMIC},
    {"amoadd.w", 0x0000202f, 0xf800707f, RV_FORMAT_AMO, exec_amoadd_w, ATOMIC},
    {"amoxor.w", 0x2000202f, 0xf800707f, RV_FORMAT_AMO, exec_amoxor_w, ATOMIC},
    {"amoand.w", 0x6000202f, 0xf800707f, RV_FORMAT_AMO, exec_amoand_w, ATOMIC},
    {"amoor.w", 0x4000202f, 0xf800707f, RV_FORMAT_AMO, exec_amoor_w, ATOMIC},
    {"amomin.w", 0x8000202f, 0xf800707f, RV_FORMAT_AMO, exec_amomin32, ATOMIC},
    {"amomax.w", 0xa000202f, 0xf800707f, RV_FORMAT_AMO, exec_amomax32, ATOMIC},
    {"amominu.w", 0xc000202f, 0xf800707f, RV_FORMAT_AMO, exec_amominu32, ATOMIC},
    {"amomaxu.w", 0xe000202f, 0xf800707f, RV_FORMAT_AMO, exec_amomaxu32, ATOMIC},
    {"amoswap.d", 0x0800302f, 0xf800707f, RV_FORMAT_AMO, exec_amoswap_d, ATOMIC},
    {"amoadd.d", 0x0000302f, 0xf800707f, RV_FORMAT_AMO, exec_amoadd_d, ATOMIC},
    {"amoxor.d", 0x2000302f, 0xf800707f, RV_FORMAT_AMO, exec_amoxor_d, ATOMIC},
    {"amoand.d", 0x6000302f, 0xf800707f, RV_FORMAT_AMO, exec_amoand_d, ATOMIC},
    {"amoor.d", 0x4000302f, 0xf800707f, RV_FORMAT_AMO, exec_amoor_d, ATOMIC},
    {"amomin.d", 0x8000302f, 0xf800707f, RV_FORMAT_AMO, exec_amomin64, ATOMIC},
    {"amomax.d", 0xa000302f, 0xf800707f, RV_FORMAT_AMO, exec_amomax64, ATOMIC},
    {"amominu.d", 0xc000302f, 0xf800707f, RV_FORMAT_AMO, exec_amominu64, ATOMIC},
    {"amomaxu.d", 0xe000302f, 0xf800707f, RV_FORMAT_AMO, exec_amomaxu64, ATOMIC},
};
const struct rv_extension rv_a = {"a", rows, ARRAY_SIZE(rows)};
