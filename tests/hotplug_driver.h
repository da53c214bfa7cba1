/* SPDX-License-Identifier: MIT
 *
 * What Linux' driver for PCIe hot-plug does to a root port's registers, in its order
 * (drivers/pci/hotplug/pciehp_hpc.c, pciehp_ctrl.c, 6.12), for tests that play the guest. Accesses
 * go through ECAM.
 */
#ifndef TRAPEZE_TESTS_HOTPLUG_DRIVER_H
#define TRAPEZE_TESTS_HOTPLUG_DRIVER_H

#include <assert.h>

#include "bus/pci.h"
#include "dev/pcie_host.h"
#include "mem/mem.h"

enum {
    HP_BUTTON = 0x001,
    HP_PRESENCE = 0x008,
    HP_PRESENT = 0x040,
    HP_LINK = 0x100,
    HP_EVENTS = 0x11f
}; /* Slot Status */
enum {
    HP_ABPE = 0x001,
    HP_PDCE = 0x008,
    HP_HPIE = 0x020,
    HP_CCIE = 0x010,
    HP_DLLSCE = 0x1000,
    HP_PFDE = 0x002,
    HP_OFF = 0x400,
    HP_POWER_LED = 0x300,
    HP_LED_ON = 0x100,
    HP_LED_OFF = 0x300
};                                                                  /* Slot Control */
enum { HP_ACTIVE = 0x2000, HP_WIDTH = 0x3f0, HP_TRAINING = 0x800 }; /* Link Status */

struct hotplug_driver {
    struct mem_space *mem;
    unsigned slot;    /* the port's, on the root bus */
    unsigned bus;     /* that it gives to what is behind it */
    unsigned express; /* the port's capability */
};

static inline uint32_t hp_get(struct hotplug_driver *hp, unsigned bus, unsigned slot,
                              unsigned offset, unsigned size)
{
    uint64_t value = 0;
    bool found = mem_io_read(hp->mem, PCIE_HOST_ECAM_GPA + (bus << 20) + (slot << 15) + offset,
                             size, &value);
    assert(found);
    (void)found;
    return (uint32_t)value;
}

static inline void hp_put(struct hotplug_driver *hp, unsigned bus, unsigned slot, unsigned offset,
                          uint32_t value, unsigned size)
{
    bool found = mem_io_write(hp->mem, PCIE_HOST_ECAM_GPA + (bus << 20) + (slot << 15) + offset,
                              size, value);
    assert(found);
    (void)found;
}

static inline uint32_t hp_port(struct hotplug_driver *hp, unsigned offset, unsigned size)
{
    return hp_get(hp, 0, hp->slot, offset, size);
}

static inline void hp_set_port(struct hotplug_driver *hp, unsigned offset, uint32_t value,
                               unsigned size)
{
    hp_put(hp, 0, hp->slot, offset, value, size);
}

static inline uint32_t hp_reg(struct hotplug_driver *hp, unsigned offset)
{
    return hp_port(hp, hp->express + offset, 2);
}

/* The device's own registers. */
static inline uint32_t hp_device(struct hotplug_driver *hp, unsigned offset, unsigned size)
{
    return hp_get(hp, hp->bus, 0, offset, size);
}

/* pcie_write_cmd(): the bits of `mask` become those of `command`. */
static inline void hp_command(struct hotplug_driver *hp, unsigned command, unsigned mask)
{
    uint32_t control = hp_reg(hp, PCI_EXPRESS_SLOT_CONTROL);
    hp_set_port(hp, hp->express + PCI_EXPRESS_SLOT_CONTROL, (control & ~mask) | (command & mask),
                2);
}

/* pciehp_isr(): what happened, which is thereby acknowledged. */
static inline unsigned hp_events(struct hotplug_driver *hp)
{
    unsigned events = hp_reg(hp, PCI_EXPRESS_SLOT_STATUS) & HP_EVENTS;
    hp_set_port(hp, hp->express + PCI_EXPRESS_SLOT_STATUS, events, 2);
    return events;
}

/* The buses are numbered, 1 MiB of memory is given to the port, and the driver starts: an empty
 * slot that has power loses it (pcie_init(), pcie_enable_notification()). */
static inline void hp_start(struct hotplug_driver *hp, uint32_t window)
{
    hp->express = hp_port(hp, PCI_REG_CAPABILITIES, 1);
    while (hp_port(hp, hp->express, 1) != 0x10)
        hp->express = hp_port(hp, hp->express + 1, 1);
    hp_set_port(hp, PCI_REG_PRIMARY_BUS, hp->bus << 16 | hp->bus << 8, 4);
    hp_set_port(hp, PCI_REG_WINDOW, window >> 16 | window, 4);
    hp_set_port(hp, PCI_REG_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    hp_set_port(hp, hp->express + PCI_EXPRESS_SLOT_STATUS, HP_EVENTS, 2);
    hp_command(hp, HP_ABPE | HP_HPIE | HP_DLLSCE,
               HP_ABPE | HP_PDCE | HP_PFDE | HP_HPIE | HP_CCIE | HP_DLLSCE);
    if ((hp_reg(hp, PCI_EXPRESS_SLOT_STATUS) & HP_PRESENT) == 0)
        hp_command(hp, HP_OFF, HP_OFF);
}

/* board_added(): power, the link, then who is there; its vendor and device, all ones: nobody. */
static inline uint32_t hp_add(struct hotplug_driver *hp)
{
    hp_command(hp, 0, HP_OFF);
    uint32_t link = hp_reg(hp, PCI_EXPRESS_LINK_CONTROL);
    hp_set_port(hp, hp->express + PCI_EXPRESS_LINK_CONTROL, link & ~(1u << 4), 2);
    link = hp_reg(hp, PCI_EXPRESS_LINK_STATUS);
    hp_command(hp, HP_LED_ON, HP_POWER_LED);
    hp_events(hp);
    bool up = (link & HP_ACTIVE) != 0 && (link & HP_WIDTH) != 0 && (link & HP_TRAINING) == 0;
    return up ? hp_device(hp, 0, 4) : UINT32_MAX;
}

/* remove_board(): the driver of the device has let go of it. */
static inline void hp_remove(struct hotplug_driver *hp)
{
    hp_put(hp, hp->bus, 0, PCI_REG_COMMAND, 0, 2);
    hp_command(hp, HP_OFF, HP_OFF);
    hp_command(hp, HP_LED_OFF, HP_POWER_LED);
}

#endif
