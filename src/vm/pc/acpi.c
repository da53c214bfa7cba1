/* SPDX-License-Identifier: MIT
 *
 * See acpi.h. Table numbers are those of ACPI 6.5; the MCFG is the PCI Firmware Specification's
 * (3.3, 4.1.2).
 */
#include "vm/pc/acpi.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "bus/aml.h"
#include "dev/acpi_pm.h"

enum {
    HEADER_SIZE = 36,
    RSDP_SIZE = PC_ACPI_RSDP_SIZE,
    FACS_SIZE = 64,
    FADT_SIZE = 276,
    ALIGNMENT = 64 /* the FACS's; others need none */
};

struct tables {
    const struct pc_acpi_setup *setup;
    uint64_t gpa;
    uint8_t *bytes;
    size_t size, room;
    bool full;
};

static void put8(uint8_t *to, uint64_t value)
{
    *to = (uint8_t)value;
}

static uint8_t checksum(const uint8_t *bytes, size_t size)
{
    unsigned sum = 0;
    for (size_t i = 0; i < size; i++)
        sum += bytes[i];
    return (uint8_t)(0u - sum);
}

/* The table at `table` has an address in it. */
static void put_pointer(struct tables *t, uint8_t *table, size_t at, uint64_t gpa, unsigned size)
{
    struct pc_acpi_links *links = t->setup->links;
    size == 4 ? store_le32(table + at, (uint32_t)gpa) : store_le64(table + at, gpa);
    if (links == NULL)
        return;
    assert(links->pointer_count < PC_ACPI_LINKS_MAX);
    links->pointers[links->pointer_count].at = (uint32_t)(table + at - t->bytes);
    links->pointers[links->pointer_count++].size = size;
}

/* Of the first `size` bytes of a table that has addresses in it. */
static void put_sum(struct tables *t, uint8_t *table, size_t at, size_t size)
{
    struct pc_acpi_links *links = t->setup->links;
    table[at] = 0;
    if (links == NULL) {
        table[at] = checksum(table, size);
        return;
    }
    assert(links->sum_count < PC_ACPI_LINKS_MAX);
    links->sums[links->sum_count].at = (uint32_t)(table + at - t->bytes);
    links->sums[links->sum_count].from = (uint32_t)(table - t->bytes);
    links->sums[links->sum_count++].size = (uint32_t)size;
}

/* Zeroed bytes; where there is no room, a place that nobody looks at. */
static uint8_t *reserve(struct tables *t, size_t size, uint64_t *gpa)
{
    size_t at = align_up(t->size, ALIGNMENT);
    t->full = t->full || at > t->room || size > t->room - at;
    if (t->full)
        at = 0;
    else
        t->size = at + size;
    *gpa = t->gpa + at;
    return t->full ? NULL : memset(t->bytes + at, 0, size);
}

/* 5.2.6 */
static void finish(uint8_t *table, const char *signature, uint8_t revision, size_t size)
{
    memcpy(table, signature, 4);
    store_le32(table + 4, (uint32_t)size);
    put8(table + 8, revision);
    memcpy(table + 10, "TRAPEZ", 6);
    memcpy(table + 16, "TRAPEZPC", 8);
    store_le32(table + 24, 1);
    memcpy(table + 28, "TRPZ", 4);
    store_le32(table + 32, 1);
    put8(table + 9, 0);
    put8(table + 9, checksum(table, size));
}

/* A generic address structure for I/O ports (5.2.3.2): how many, and how many at once. */
static void put_port(uint8_t *to, uint16_t port, unsigned bytes, unsigned access)
{
    enum { SPACE_IO = 1 };
    static const uint8_t access_sizes[9] = {[1] = 1, [2] = 2, [4] = 3};
    put8(to, SPACE_IO);
    put8(to + 1, 8 * bytes);
    put8(to + 3, access_sizes[access]);
    store_le64(to + 4, port);
}

/* ---- the tables ---- */

/* 5.2.10: nothing ever sleeps or waits for the firmware's lock. */
static uint64_t add_facs(struct tables *t)
{
    uint64_t gpa;
    uint8_t *facs = reserve(t, FACS_SIZE, &gpa);
    if (facs == NULL)
        return 0;
    memcpy(facs, "FACS", 4);
    store_le32(facs + 4, FACS_SIZE);
    put8(facs + 32, 2); /* version */
    return gpa;
}

static void add_cpus(struct tables *t, struct aml *aml)
{
    for (unsigned i = 0; i < t->setup->cpus; i++) {
        char name[8];
        snprintf(name, sizeof(name), "C%03X", i & 0xfff);
        aml_device_begin(aml, name);
        aml_name_text(aml, "_HID", "ACPI0007");
        aml_name_integer(aml, "_UID", i);
        aml_end(aml);
    }
}

static uint64_t add_dsdt(struct tables *t)
{
    struct aml aml = {0};
    uint64_t gpa;
    aml_scope_begin(&aml, "\\_SB");
    add_cpus(t, &aml);
    t->setup->devices(t->setup->opaque, &aml);
    aml_end(&aml);
    uint8_t *dsdt = reserve(t, HEADER_SIZE + aml.size, &gpa);
    if (dsdt != NULL) {
        memcpy(dsdt + HEADER_SIZE, aml.bytes, aml.size);
        finish(dsdt, "DSDT", 2, HEADER_SIZE + aml.size);
    }
    aml_free(&aml);
    return gpa;
}

/* 5.2.9 */
static uint64_t add_fadt(struct tables *t, uint64_t facs, uint64_t dsdt)
{
    enum { LEGACY_DEVICES = 1 << 0, HAS_8042 = 1 << 1, NO_VGA = 1 << 2, NO_ASPM = 1 << 4 };
    enum {
        WBINVD = 1 << 0,
        ALL_HAVE_C1 = 1 << 2,
        NO_SLEEP_BUTTON = 1 << 5,
        TIMER_32_BITS = 1 << 8,
        RESET_REGISTER = 1 << 10
    };
    const struct pc_acpi_setup *setup = t->setup;
    uint16_t event = setup->pm_port + ACPI_PM_EVENT, control = setup->pm_port + ACPI_PM_CONTROL,
             timer = setup->pm_port + ACPI_PM_TIMER;
    uint64_t gpa;
    uint8_t *fadt = reserve(t, FADT_SIZE, &gpa);
    if (fadt == NULL)
        return 0;
    put_pointer(t, fadt, 36, facs, 4);
    put_pointer(t, fadt, 40, dsdt, 4);
    store_le16(fadt + 46, (uint16_t)setup->sci);
    store_le32(fadt + 56, event);
    store_le32(fadt + 64, control);
    store_le32(fadt + 76, timer);
    put8(fadt + 88, ACPI_PM_EVENT_SIZE);
    put8(fadt + 89, ACPI_PM_CONTROL_SIZE);
    put8(fadt + 91, ACPI_PM_TIMER_SIZE);
    store_le16(fadt + 96, 0xffff); /* there is no C2, */
    store_le16(fadt + 98, 0xffff); /* and no C3 */
    put8(fadt + 108, 0x32);        /* the century, in CMOS RAM */
    store_le16(fadt + 109, (uint16_t)(LEGACY_DEVICES | (setup->keyboard ? HAS_8042 : 0) | NO_VGA |
                                      NO_ASPM));
    store_le32(fadt + 112, WBINVD | ALL_HAVE_C1 | NO_SLEEP_BUTTON | TIMER_32_BITS | RESET_REGISTER);
    put_port(fadt + 116, setup->reset_port, 1, 1);
    put8(fadt + 128, setup->reset_value);
    put8(fadt + 131, 5); /* ACPI 6.5 */
    put_pointer(t, fadt, 140, dsdt, 8);
    put_port(fadt + 148, event, ACPI_PM_EVENT_SIZE, 2);
    put_port(fadt + 172, control, ACPI_PM_CONTROL_SIZE, 2);
    put_port(fadt + 208, timer, ACPI_PM_TIMER_SIZE, 4);
    memcpy(fadt + 268, "Trapeze", 8); /* the hypervisor */
    finish(fadt, "FACP", 6, FADT_SIZE);
    put_sum(t, fadt, 9, FADT_SIZE);
    return gpa;
}

/* 5.2.12: local APICs with their vCPUs' numbers, and one I/O APIC whose inputs are the interrupts.
 */
static uint64_t add_madt(struct tables *t)
{
    enum { LAPIC_SIZE = 8, IOAPIC_SIZE = 12, OVERRIDE_SIZE = 10, NMI_SIZE = 6 };
    enum { HAS_PIC = 1, ENABLED = 1, HIGH_LEVEL = 0xd, EVERY_CPU = 0xff, LINT1 = 1 };
    const struct pc_acpi_setup *setup = t->setup;
    size_t size =
        HEADER_SIZE + 8 + (size_t)setup->cpus * LAPIC_SIZE + IOAPIC_SIZE + OVERRIDE_SIZE + NMI_SIZE;
    uint64_t gpa;
    uint8_t *madt = reserve(t, size, &gpa), *at = madt;
    if (madt == NULL)
        return 0;
    store_le32(at + 36, setup->lapic_gpa);
    store_le32(at + 40, HAS_PIC);
    at += 44;
    for (unsigned i = 0; i < setup->cpus; i++, at += LAPIC_SIZE) {
        put8(at, 0);
        put8(at + 1, LAPIC_SIZE);
        put8(at + 2, i);
        put8(at + 3, i);
        store_le32(at + 4, ENABLED);
    }
    put8(at, 1);
    put8(at + 1, IOAPIC_SIZE);
    put8(at + 2, 0); /* its ID, */
    store_le32(at + 4, setup->ioapic_gpa);
    store_le32(at + 8, 0); /* and its first interrupt */
    at += IOAPIC_SIZE;
    put8(at, 2); /* the SCI is not as ISA's interrupts are */
    put8(at + 1, OVERRIDE_SIZE);
    put8(at + 3, setup->sci);
    store_le32(at + 4, setup->sci);
    store_le16(at + 8, HIGH_LEVEL);
    at += OVERRIDE_SIZE;
    put8(at, 4);
    put8(at + 1, NMI_SIZE);
    put8(at + 2, EVERY_CPU);
    put8(at + 5, LINT1);
    finish(madt, "APIC", 5, size);
    return gpa;
}

static uint64_t add_mcfg(struct tables *t)
{
    enum { MCFG_SIZE = HEADER_SIZE + 8 + 16 };
    uint64_t gpa;
    uint8_t *mcfg = reserve(t, MCFG_SIZE, &gpa);
    if (mcfg == NULL)
        return 0;
    store_le64(mcfg + 44, t->setup->ecam_gpa);
    put8(mcfg + 55, (t->setup->ecam_size >> 20) - 1); /* the last bus */
    finish(mcfg, "MCFG", 1, MCFG_SIZE);
    return gpa;
}

size_t pc_acpi_build(const struct pc_acpi_setup *setup, uint64_t gpa, uint8_t *bytes, size_t room)
{
    struct tables t = {setup, gpa, bytes, 0, room, false};
    uint64_t rsdp_gpa, xsdt_gpa, tables[3];
    uint8_t *rsdp = reserve(&t, RSDP_SIZE, &rsdp_gpa);
    size_t xsdt_size = HEADER_SIZE + sizeof(tables);
    uint8_t *xsdt = reserve(&t, xsdt_size, &xsdt_gpa);
    uint64_t facs = add_facs(&t), dsdt = add_dsdt(&t);
    tables[0] = add_fadt(&t, facs, dsdt);
    tables[1] = add_madt(&t);
    tables[2] = add_mcfg(&t);
    if (t.full)
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
        put_pointer(&t, xsdt, HEADER_SIZE + 8 * i, tables[i], 8);
    finish(xsdt, "XSDT", 1, xsdt_size);
    put_sum(&t, xsdt, 9, xsdt_size);
    memcpy(rsdp, "RSD PTR ", 8); /* 5.2.5.3 */
    memcpy(rsdp + 9, "TRAPEZ", 6);
    put8(rsdp + 15, 2); /* revision */
    store_le32(rsdp + 20, RSDP_SIZE);
    put_pointer(&t, rsdp, 24, xsdt_gpa, 8);
    put_sum(&t, rsdp, 8, 20);
    put_sum(&t, rsdp, 32, RSDP_SIZE);
    return t.size;
}
