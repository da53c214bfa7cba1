/* SPDX-License-Identifier: MIT
 *
 * SBI §4, base extension: who we are and what there is. Also TIME (§6) and sPI (§7), one
 * function each.
 */
#include "vm/sbi/sbi.h"

enum {
    SPEC_VERSION = 2 << 24,       /* 2.0: major in bits 30:24, minor in 23:0 */
    IMPLEMENTATION_ID = 0x54727a, /* "Trz"; not one of the assigned small numbers */
    IMPLEMENTATION_VERSION = 0x00010000
};

int64_t sbi_base(struct sbi_call *call)
{
    enum { SPEC, IMPL_ID, IMPL_VERSION, PROBE, MVENDORID, MARCHID, MIMPID };
    switch (call->function) {
    case SPEC:
        call->value = SPEC_VERSION;
        return SBI_SUCCESS;
    case IMPL_ID:
        call->value = IMPLEMENTATION_ID;
        return SBI_SUCCESS;
    case IMPL_VERSION:
        call->value = IMPLEMENTATION_VERSION;
        return SBI_SUCCESS;
    case PROBE:
        call->value = sbi_has_extension(call->args[0]);
        return SBI_SUCCESS;
    case MVENDORID: /* 0: a non-commercial implementation; 0: no assigned number (P §3.1.2-4) */
    case MARCHID:
    case MIMPID:
        call->value = 0;
        return SBI_SUCCESS;
    default:
        return SBI_ERR_NOT_SUPPORTED;
    }
}

int64_t sbi_time(struct sbi_call *call)
{
    if (call->function != 0)
        return SBI_ERR_NOT_SUPPORTED;
    sbi_set_timer(call->cpu, call->args[0]);
    return SBI_SUCCESS;
}

int64_t sbi_ipi(struct sbi_call *call)
{
    if (call->function != 0)
        return SBI_ERR_NOT_SUPPORTED;
    return sbi_for_harts(call, call->args[0], call->args[1], sbi_send_ipi);
}
