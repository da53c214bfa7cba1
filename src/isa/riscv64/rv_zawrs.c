/* SPDX-License-Identifier: MIT
 *
 * Zawrs (U §Zawrs): wait on the reservation set. A waiting hart may resume for any reason,
 * and nothing tells us of stores to the set; so the wait is over at once, but the host
 * core goes to whoever else wants it (which may be the hart that will store).
 */
#include <sched.h>

#include "isa/riscv64/csr_bits.h"
#include "isa/riscv64/exec.h"

/* With TW set the wait must end in bounded time or trap (P §3.1.6.5): with a reservation
 * and no interrupt pending, a real hart would wait on, so a guest that asks to be told is. */
static enum rv_result exec_wrs_nto(struct rv_hart *hart, const struct rv_insn *insn)
{
    if (hart->reservation_size == 0 || (rv_mip(hart) & hart->mie) != 0)
        return RV_NEXT;
    if (hart->privilege != RV_M && (hart->mstatus & RV_MSTATUS_TW) != 0)
        return rv_raise_illegal(hart, insn);
    sched_yield();
    return RV_NEXT;
}

static const struct rv_row rows[] = {
    {"wrs.nto", 0x00d00073, 0xffffffff, RV_FORMAT_NONE, exec_wrs_nto, 0},
    {"wrs.sto", 0x01d00073, 0xffffffff, RV_FORMAT_NONE, rv_exec_hint, 0},
};
const struct rv_extension rv_zawrs = {"zawrs", rows, ARRAY_SIZE(rows)};
