/* SPDX-License-Identifier: MIT
 *
 * The declared state of a hart: everything architectural, and of the machine's side the
 * interrupt lines as they stand. A restored stream is hostile, so every field is checked
 * against what the hart could ever hold: the CSR code relies on WARL having been applied.
 */
#include "base/bits.h"
#include "base/error.h"
#include "isa/riscv64/isa_internal.h"

static const struct state_field fields[] = {
    STATE_UINT(struct rv_hart, pc, "pc"),
    /* x[32] is no register */
    {"x", STATE_KIND_UINT, (uint32_t)offsetof(struct rv_hart, x), 8, 32, 0, NULL},
    STATE_UINTS(struct rv_hart, f, "f"),
    STATE_UINT(struct rv_hart, fflags, "fflags"),
    STATE_UINT(struct rv_hart, frm, "frm"),
    STATE_UINT(struct rv_hart, privilege, "privilege"),
    STATE_UINT(struct rv_hart, reservation_gpa, "reservation_gpa"),
    STATE_UINT(struct rv_hart, reservation_value, "reservation_value"),
    STATE_UINT(struct rv_hart, reservation_size, "reservation_size"),
    STATE_UINT(struct rv_hart, vcpu.retired, "retired"),
    STATE_UINT(struct rv_hart, vcpu.interrupts, "interrupts"),
    STATE_UINT(struct rv_hart, mstatus, "mstatus"),
    STATE_UINT(struct rv_hart, medeleg, "medeleg"),
    STATE_UINT(struct rv_hart, mideleg, "mideleg"),
    STATE_UINT(struct rv_hart, mie, "mie"),
    STATE_UINT(struct rv_hart, mip_software, "mip_software"),
    STATE_UINT(struct rv_hart, mtvec, "mtvec"),
    STATE_UINT(struct rv_hart, mscratch, "mscratch"),
    STATE_UINT(struct rv_hart, mepc, "mepc"),
    STATE_UINT(struct rv_hart, mcause, "mcause"),
    STATE_UINT(struct rv_hart, mtval, "mtval"),
    STATE_UINT(struct rv_hart, stvec, "stvec"),
    STATE_UINT(struct rv_hart, sscratch, "sscratch"),
    STATE_UINT(struct rv_hart, sepc, "sepc"),
    STATE_UINT(struct rv_hart, scause, "scause"),
    STATE_UINT(struct rv_hart, stval, "stval"),
    STATE_UINT(struct rv_hart, satp, "satp"),
    STATE_UINT(struct rv_hart, mcounteren, "mcounteren"),
    STATE_UINT(struct rv_hart, scounteren, "scounteren"),
    STATE_UINT(struct rv_hart, mcountinhibit, "mcountinhibit"),
    STATE_UINT(struct rv_hart, menvcfg, "menvcfg"),
    STATE_UINT(struct rv_hart, senvcfg, "senvcfg"),
    STATE_UINT(struct rv_hart, cycle_offset, "cycle_offset"),
    STATE_UINT(struct rv_hart, instret_offset, "instret_offset"),
    STATE_UINT(struct rv_hart, cycle_frozen, "cycle_frozen"),
    STATE_UINT(struct rv_hart, instret_frozen, "instret_frozen"),
    STATE_UINT(struct rv_hart, stimecmp, "stimecmp"),
    STATE_UINTS(struct rv_hart, pmpcfg, "pmpcfg"),
    STATE_UINTS(struct rv_hart, pmpaddr, "pmpaddr"),
    STATE_UINT(struct rv_hart, miselect, "miselect"),
    STATE_UINT(struct rv_hart, siselect, "siselect"),
    STATE_STRUCTS(struct rv_hart, imsic.file, "imsic", &rv_imsic_file_state),
    STATE_END,
};

/* Bits that a field may have, and those that it always has. */
static const struct limit {
    const char *name;
    uint32_t offset;
    uint64_t allowed, fixed;
} limits[] = {
#define LIMIT(member, allowed, fixed)                                                              \
    {                                                                                              \
#member, (uint32_t)offsetof(struct rv_hart, member), (allowed), (fixed)                    \
    }
    LIMIT(pc, ~UINT64_C(1), 0),
    LIMIT(x[0], 0, 0),
    LIMIT(vcpu.interrupts, RV_MIP_ALL, 0),
    LIMIT(mstatus, RV_MSTATUS_WRITABLE | RV_MSTATUS_FIXED, RV_MSTATUS_FIXED),
    LIMIT(medeleg, RV_MEDELEG_WRITABLE, 0),
    LIMIT(mideleg, RV_MIP_S, 0),
    LIMIT(mie, RV_MIP_ALL, 0),
    LIMIT(mip_software, RV_MIP_S, 0),
    LIMIT(mtvec, ~UINT64_C(2), 0),
    LIMIT(mepc, ~UINT64_C(1), 0),
    LIMIT(stvec, ~UINT64_C(2), 0),
    LIMIT(sepc, ~UINT64_C(1), 0),
    LIMIT(mcounteren, RV_COUNTEREN_WRITABLE, 0),
    LIMIT(scounteren, RV_COUNTEREN_WRITABLE, 0),
    LIMIT(mcountinhibit, RV_COUNTINHIBIT_WRITABLE, 0),
    LIMIT(menvcfg, RV_MENVCFG_WRITABLE, 0),
    LIMIT(senvcfg, RV_SENVCFG_WRITABLE, 0),
    LIMIT(miselect, RV_ISELECT_WRITABLE, 0),
    LIMIT(siselect, RV_ISELECT_WRITABLE, 0),
#undef LIMIT
};

static bool impossible(struct error **err, const char *name, uint64_t value)
{
    error_set(err, ERROR_HOST, "a hart's '%s' cannot be %#llx", name, (unsigned long long)value);
    error_hint(err, "The saved state is damaged or was made by another version of Trapeze");
    return false;
}

static bool check_masks(const struct rv_hart *hart, struct error **err)
{
    for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
        const struct limit *limit = &limits[i];
        uint64_t value;
        memcpy(&value, (const char *)hart + limit->offset, sizeof(value));
        if ((value & ~limit->allowed) || (value & limit->fixed) != limit->fixed)
            return impossible(err, limit->name, value);
    }
    return true;
}

static bool check_values(const struct rv_hart *hart, struct error **err)
{
    if (hart->privilege > RV_M || hart->privilege == 2)
        return impossible(err, "privilege", hart->privilege);
    if (bits_get(hart->mstatus, RV_MSTATUS_MPP_SHIFT, 2) == 2 ||
        (hart->mstatus & (RV_MSTATUS_UXL | RV_MSTATUS_SXL)) != RV_MSTATUS_FIXED)
        return impossible(err, "mstatus", hart->mstatus);
    if (hart->fflags > 0x1f)
        return impossible(err, "fflags", hart->fflags);
    if (hart->frm > 7)
        return impossible(err, "frm", hart->frm);
    if (hart->reservation_size != 0 && hart->reservation_size != 4 && hart->reservation_size != 8)
        return impossible(err, "reservation_size", hart->reservation_size);
    uint64_t mode = hart->satp >> RV_SATP_MODE_SHIFT;
    if (mode != RV_SATP_BARE && (mode < RV_SATP_SV39 || mode > RV_SATP_SV57))
        return impossible(err, "satp", hart->satp);
    if (bits_get(hart->menvcfg, RV_ENVCFG_CBIE_SHIFT, 2) == 2)
        return impossible(err, "menvcfg", hart->menvcfg);
    if (bits_get(hart->senvcfg, RV_ENVCFG_CBIE_SHIFT, 2) == 2)
        return impossible(err, "senvcfg", hart->senvcfg);
    return true;
}

static bool check_pmp(const struct rv_hart *hart, struct error **err)
{
    for (size_t i = 0; i < RV_PMP_COUNT; i++) {
        uint8_t config = hart->pmpcfg[i];
        if ((config & ~RV_PMP_WRITABLE) || (config & (RV_PMP_R | RV_PMP_W)) == RV_PMP_W)
            return impossible(err, "pmpcfg", config);
        if (hart->pmpaddr[i] & ~RV_PMPADDR_WRITABLE)
            return impossible(err, "pmpaddr", hart->pmpaddr[i]);
    }
    return true;
}

static bool post_restore(void *object, struct error **err)
{
    struct rv_hart *hart = object;
    if (!check_masks(hart, err) || !check_values(hart, err) || !check_pmp(hart, err))
        return false;
    rv_imsic_restored(hart);
    rv_rebuild_derived(hart);
    return true;
}

const struct state_table rv_hart_state = {"riscv64-hart", 1, fields, NULL, post_restore};
