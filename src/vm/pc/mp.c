/* SPDX-License-Identifier: MIT
 *
 * See mp.h; numbers of tables and sections are the specification's.
 */
#include "vm/pc/mp.h"

#include <stdbool.h>
#include <string.h>

#include "base/bits.h"

enum { POINTER_SIZE = 16, HEADER_SIZE = 44, CPU_SIZE = 20, OTHER_SIZE = 8, INPUTS = 24 };
enum { ENTRY_CPU, ENTRY_BUS, ENTRY_IOAPIC, ENTRY_INPUT, ENTRY_LOCAL_INPUT };
enum { ISA = 0, APIC_VERSION = 0x14, IOAPIC_VERSION = 0x11 };

static uint8_t checksum(const uint8_t *bytes, size_t size)
{
    unsigned sum = 0;
    for (size_t i = 0; i < size; i++)
        sum += bytes[i];
    return (uint8_t)(0u - sum);
}

static uint8_t *add_cpu(uint8_t *at, unsigned number) /* table 4-4 */
{
    enum { ENABLED = 1, FIRST = 2, FEATURES_FPU_APIC = 0x201, FAMILY_6 = 0x600 };
    at[0] = ENTRY_CPU;
    at[1] = (uint8_t)number;
    at[2] = APIC_VERSION;
    at[3] = number == 0 ? ENABLED | FIRST : ENABLED;
    store_le32(at + 4, FAMILY_6);
    store_le32(at + 8, FEATURES_FPU_APIC);
    return at + CPU_SIZE;
}

static uint8_t *add_bus(uint8_t *at)
{
    at[0] = ENTRY_BUS;
    at[1] = ISA;
    memcpy(at + 2, "ISA   ", 6);
    return at + OTHER_SIZE;
}

static uint8_t *add_ioapic(uint8_t *at, uint8_t id, uint32_t gpa)
{
    at[0] = ENTRY_IOAPIC;
    at[1] = id;
    at[2] = IOAPIC_VERSION;
    at[3] = 1; /* it is enabled */
    store_le32(at + 4, gpa);
    return at + OTHER_SIZE;
}

/* Tables 4-10 and 4-11. */
static uint8_t *add_input(uint8_t *at, uint8_t entry, uint8_t type, uint16_t flags, uint8_t irq,
                          uint8_t to, uint8_t pin)
{
    at[0] = entry;
    at[1] = type;
    store_le16(at + 2, flags);
    at[4] = ISA;
    at[5] = irq;
    at[6] = to;
    at[7] = pin;
    return at + OTHER_SIZE;
}

static uint8_t *add_inputs(uint8_t *at, const struct pc_mp_setup *setup, uint8_t ioapic)
{
    enum { INTERRUPT = 0, NMI = 1, EXTERNAL = 3, AS_THE_BUS = 0, HIGH_LEVEL = 0xd };
    enum { EVERY_CPU = 0xff, LINT0 = 0, LINT1 = 1 };
    for (uint8_t i = 0; i < INPUTS; i++)
        at = add_input(at, ENTRY_INPUT, INTERRUPT,
                       (setup->level & UINT32_C(1) << i) != 0 ? HIGH_LEVEL : AS_THE_BUS, i, ioapic,
                       i);
    at = add_input(at, ENTRY_LOCAL_INPUT, EXTERNAL, AS_THE_BUS, 0, 0, LINT0);
    return add_input(at, ENTRY_LOCAL_INPUT, NMI, AS_THE_BUS, 0, EVERY_CPU, LINT1);
}

size_t pc_mp_build(const struct pc_mp_setup *setup, uint32_t gpa, uint8_t *bytes, size_t room)
{
    enum { BUSES = 1, IOAPICS = 1, LOCAL_INPUTS = 2 };
    unsigned others = BUSES + IOAPICS + INPUTS + LOCAL_INPUTS;
    size_t size = HEADER_SIZE + (size_t)setup->cpus * CPU_SIZE + (size_t)others * OTHER_SIZE;
    uint8_t ioapic = (uint8_t)setup->cpus; /* behind the local APICs' IDs */
    if (POINTER_SIZE + size > room)
        return 0;
    memset(bytes, 0, POINTER_SIZE + size);
    memcpy(bytes, "_MP_", 4); /* 4.1 */
    store_le32(bytes + 4, gpa + POINTER_SIZE);
    bytes[8] = 1; /* paragraphs */
    bytes[9] = 4; /* version 1.4 */
    bytes[10] = checksum(bytes, POINTER_SIZE);
    uint8_t *table = bytes + POINTER_SIZE, *at = table + HEADER_SIZE;
    memcpy(table, "PCMP", 4); /* 4.2 */
    store_le16(table + 4, (uint16_t)size);
    table[6] = 4;
    memcpy(table + 8, "TRAPEZE ", 8);
    memcpy(table + 16, "PC          ", 12);
    store_le16(table + 34, (uint16_t)(setup->cpus + others));
    store_le32(table + 36, setup->lapic_gpa);
    for (unsigned i = 0; i < setup->cpus; i++)
        at = add_cpu(at, i);
    at = add_ioapic(add_bus(at), ioapic, setup->ioapic_gpa);
    add_inputs(at, setup, ioapic);
    table[7] = checksum(table, size);
    return POINTER_SIZE + size;
}
