/* SPDX-License-Identifier: MIT
 *
 * Physical memory protection (P §3.7). The CSRs are kept as written; from them rv_pmp_update()
 * derives the list of entries that match anything, in order of priority, as inclusive ranges.
 * A check asks one question about a range: what does the first entry that touches it allow,
 * and does that entry hold for all of the range? The granularity is 4 bytes (G = 0).
 */
#include "isa/riscv64/mmu_internal.h"

#define PMP_ALL (RV_PMP_R | RV_PMP_W | RV_PMP_X)

/* The range of entry i; false if it matches nothing. */
static bool entry_range(const struct rv_hart *hart, unsigned i, struct rv_pmp_range *range)
{
    uint64_t address = hart->pmpaddr[i];
    uint64_t low, size_bits;
    switch (hart->pmpcfg[i] & RV_PMP_A) {
    case RV_PMP_TOR:
        low = i == 0 ? 0 : hart->pmpaddr[i - 1];
        if (low >= address)
            return false;
        range->first = low << 2;
        range->last = (address << 2) - 1;
        return true;
    case RV_PMP_NA4:
        range->first = address << 2;
        range->last = range->first + 3;
        return true;
    case RV_PMP_NAPOT:
        /* yyy011…1 with n ones: 2^(n+3) bytes. 54 ones are 2^57 bytes: more than there is. */
        size_bits = (unsigned)__builtin_ctzll(~address) + 3;
        low = (address << 2) & ~((UINT64_C(1) << size_bits) - 1);
        range->first = low;
        range->last = low + ((UINT64_C(1) << size_bits) - 1);
        return true;
    default:
        return false;
    }
}

void rv_pmp_update(struct rv_hart *hart)
{
    hart->pmp_count = 0;
    for (unsigned i = 0; i < RV_PMP_COUNT; i++) {
        struct rv_pmp_range *range = &hart->pmp[hart->pmp_count];
        if (!entry_range(hart, i, range))
            continue;
        range->permissions = hart->pmpcfg[i] & PMP_ALL;
        range->m_permissions = hart->pmpcfg[i] & RV_PMP_L ? range->permissions : PMP_ALL;
        hart->pmp_count++;
    }
}

unsigned rv_pmp_permissions(const struct rv_hart *hart, uint64_t first, uint64_t last,
                            unsigned privilege, bool *uniform)
{
    *uniform = true;
    for (unsigned i = 0; i < hart->pmp_count; i++) {
        const struct rv_pmp_range *range = &hart->pmp[i];
        if (last < range->first || first > range->last)
            continue;
        /* P §3.7.1.3: an entry that matches some bytes of an access but not all fails it,
         * whatever it permits. */
        *uniform = first >= range->first && last <= range->last;
        if (!*uniform)
            return 0;
        return privilege == RV_M ? range->m_permissions : range->permissions;
    }
    return privilege == RV_M ? PMP_ALL : 0;
}

uint64_t rv_pmp_uniform_last(const struct rv_hart *hart, uint64_t first, uint64_t last)
{
    for (unsigned i = 0; i < hart->pmp_count; i++) {
        const struct rv_pmp_range *range = &hart->pmp[i];
        if (range->first > first && range->first <= last)
            last = range->first - 1;
        if (range->last >= first && range->last < last)
            last = range->last;
    }
    return last;
}
