/* SPDX-License-Identifier: MIT
 *
 * PCI as software sees it: functions with a type-0 configuration header on one root bus, or one
 * behind each bridge (a PCIe root port, dev/pcie_port.c) that sits there; memory BARs that move
 * while the guest runs, and INTx pins.
 *
 *     pci_function_init(&f, &(struct pci_identity){.vendor = 0x1af4, ...});
 *     pci_bar_add(&f, 0, "virtio", 0x4000, PCI_BAR_64BIT, &bar_ops, self);
 *     offset = pci_capability_add(&f, 9, body, writable, sizeof(body));
 *     pci_plug(env->pci, &f, params->pci_slot, err);
 *     pci_set_intx(&f, true);
 *
 * Nothing here trusts the guest: a register holds the bits its mask allows, and a BAR is
 * mapped only where a window of the host bridge forwards memory accesses. A BAR that
 * overlaps another one stays unmapped until that one is gone.
 *
 * Addresses on the bus equal guest-physical addresses (the windows are identity-mapped).
 *
 * Threads: configuration accesses come from any vCPU thread and serialise on host->lock.
 * Lock order: host->lock → device lock → host->irq_lock → irq sink. So a device must not call
 * pci_config_*() with its own lock held; pci_set_intx() it may.
 * init, add, plug, unplug, reset and restore: while the machine is quiesced.
 */
#ifndef TRAPEZE_BUS_PCI_H
#define TRAPEZE_BUS_PCI_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"
#include "bus/line.h"
#include "mem/mem.h"

struct error;
struct state_table;

#define PCI_CONFIG_SIZE       256 /* conventional functions: no extended configuration space */
#define PCI_BAR_COUNT         6
#define PCI_PIN_COUNT         4
#define PCI_FUNCTIONS_PER_BUS 256
#define PCI_SLOT_ANY          0  /* slot 0 is the host bridge */
#define PCI_SLOT_BEHIND       32 /* + n: behind the bridge in slot n of the root bus */

/* Configuration registers (PCI Local Bus 3.0, 6.1). */
enum {
    PCI_REG_VENDOR = 0x00,
    PCI_REG_DEVICE = 0x02,
    PCI_REG_COMMAND = 0x04,
    PCI_REG_STATUS = 0x06,
    PCI_REG_REVISION = 0x08,
    PCI_REG_CLASS = 0x09,
    PCI_REG_CACHE_LINE = 0x0c,
    PCI_REG_LATENCY = 0x0d,
    PCI_REG_HEADER_TYPE = 0x0e,
    PCI_REG_BAR0 = 0x10,
    PCI_REG_SUBSYSTEM_VENDOR = 0x2c,
    PCI_REG_SUBSYSTEM = 0x2e,
    PCI_REG_CAPABILITIES = 0x34,
    PCI_REG_INTERRUPT_LINE = 0x3c,
    PCI_REG_INTERRUPT_PIN = 0x3d,
    PCI_FIRST_CAPABILITY = 0x40
};

/* Those that only bridges have (PCI-to-PCI Bridge 1.2, 3.2). */
enum {
    PCI_REG_PRIMARY_BUS = 0x18,
    PCI_REG_SECONDARY_BUS = 0x19,
    PCI_REG_SUBORDINATE_BUS = 0x1a,
    PCI_REG_WINDOW = 0x20,       /* base and limit of memory, */
    PCI_REG_PREFETCHABLE = 0x24, /* and of prefetchable memory, 64-bit: */
    PCI_REG_PREFETCHABLE_HIGH = 0x28,
    PCI_REG_PREFETCHABLE_LIMIT_HIGH = 0x2c,
    PCI_REG_BRIDGE_END = 0x30,
    PCI_REG_BRIDGE_CONTROL = 0x3e
};
enum { PCI_BRIDGE_RESET = 1 << 6 }; /* of what is behind it */

/* The PCI Express capability (PCIe 5.0, 7.5.3). */
enum {
    PCI_EXPRESS_FLAGS = 0x02,
    PCI_EXPRESS_DEVICE = 0x04, /* capabilities; control, status */
    PCI_EXPRESS_DEVICE_CONTROL = 0x08,
    PCI_EXPRESS_LINK = 0x0c,
    PCI_EXPRESS_LINK_CONTROL = 0x10,
    PCI_EXPRESS_LINK_STATUS = 0x12,
    PCI_EXPRESS_SLOT = 0x14,
    PCI_EXPRESS_SLOT_CONTROL = 0x18,
    PCI_EXPRESS_SLOT_STATUS = 0x1a,
    PCI_EXPRESS_ROOT_CONTROL = 0x1c,
    PCI_EXPRESS_LINK2 = 0x2c,
    PCI_EXPRESS_LINK2_CONTROL = 0x30,
    PCI_EXPRESS_BYTES = 0x3c
};
enum { PCI_EXPRESS_ENDPOINT = 0, PCI_EXPRESS_ROOT_PORT = 4 };

enum { PCI_HEADER_MULTIFUNCTION = 1 << 7 };
enum { PCI_COMMAND_MEMORY = 1 << 1, PCI_COMMAND_MASTER = 1 << 2, PCI_COMMAND_NO_INTX = 1 << 10 };
enum { PCI_STATUS_INTX = 1 << 3, PCI_STATUS_CAPABILITIES = 1 << 4 };
enum { PCI_BAR_64BIT = 1, PCI_BAR_PREFETCHABLE = 2 };

struct pci_identity {
    uint16_t vendor, device;
    uint16_t subsystem_vendor, subsystem;
    uint32_t class_code; /* 24 bits: class, subclass, interface */
    uint8_t revision;
    uint8_t pin; /* 1..4 = INTA..INTD, 0: no interrupt */
    bool multifunction; /* the first of several functions (pci_plug_further()) */
};

struct pci_bar {
    uint64_t size; /* bytes, a power of two; 0: no BAR or the upper half of one */
    bool wide;     /* 64-bit: takes the next BAR register too */
    struct mem_io io;
};

struct pci_function;

/* Registers with side effects; may be NULL. Called with host->lock held. */
struct pci_function_ops {
    /* About to read config[offset, offset+size): bring those bytes up to date. */
    void (*config_read)(struct pci_function *function, unsigned offset, unsigned size);
    /* Writable bits of config[offset, offset+size) were just written (also after reset and
     * restore, for the whole space). */
    void (*config_written)(struct pci_function *function, unsigned offset, unsigned size);
};

struct pci_function {
    const struct pci_function_ops *ops;
    void *opaque;                      /* the device's */
    uint8_t config[PCI_CONFIG_SIZE];   /* host->lock */
    uint8_t power_on[PCI_CONFIG_SIZE]; /* what reset restores; constant once plugged */
    uint8_t writable[PCI_CONFIG_SIZE]; /* bits the guest may change; constant once plugged */
    uint8_t driven[PCI_CONFIG_SIZE];   /* ... that the function itself changes, */
    uint8_t clears[PCI_CONFIG_SIZE];   /* and those of them that writing a one clears */
    struct pci_bar bars[PCI_BAR_COUNT];
    unsigned capability_end;  /* where the next capability goes */
    unsigned capability_link; /* the byte that will point to it */
    unsigned express;         /* the PCI Express capability; 0: a conventional function */
    struct pci_host *host;    /* NULL: not plugged */
    uint8_t devfn;
    bool bridge;
    bool link;                  /* of a bridge: what is behind it can be reached; host->lock */
    struct pci_function *below; /* of a bridge: what is behind it, or NULL */
    struct pci_function *above; /* the bridge it is behind; NULL: it is on the root bus */
    bool intx;                  /* level the device drives; irq_lock */
    bool no_intx;               /* it uses messages instead; irq_lock */
    bool intx_shown;            /* the same after the command register's mask; irq_lock */
};

struct pci_window {
    uint64_t gpa, size;
};

/* The root bus. Embedded in the host bridge device, which fills mem, log, windows, pins. */
struct pci_host {
    struct mem_space *mem;
    struct log *log;
    struct log_limit log_limit;
    struct pci_window windows[2];
    struct irq_line pins[PCI_PIN_COUNT];
    struct msi_sink msi;               /* unbound: functions offer no MSI-X */
    pthread_mutex_t lock;              /* configuration space and BAR mappings */
    pthread_mutex_t irq_lock;          /* INTx levels */
    unsigned pin_users[PCI_PIN_COUNT]; /* functions that assert it; irq_lock */
    struct pci_function *functions[PCI_FUNCTIONS_PER_BUS];
    struct mem_io aborts[2]; /* of the windows, if there are bridges: see pci_answer_all() */
};

void pci_host_init(struct pci_host *host, struct mem_space *mem, struct log *log);
void pci_host_destroy(struct pci_host *host); /* all functions must be unplugged */

void pci_function_init(struct pci_function *function, const struct pci_identity *identity);
/* `size`: a power of two from 4 KiB; `flags`: PCI_BAR_*. A 64-bit BAR needs an even index. */
void pci_bar_add(struct pci_function *function, unsigned index, const char *name, uint64_t size,
                 unsigned flags, const struct mem_io_ops *ops, void *opaque);
/* `body` and `writable` (NULL: nothing is) include the two header bytes, which are filled
 * in here. Returns the capability's offset. */
unsigned pci_capability_add(struct pci_function *function, uint8_t id, const void *body,
                            const void *writable, unsigned size);
/* Four bytes of a function's own, at a multiple of four outside of capabilities; what the guest may
 * change is `writable`. */
void pci_register_add(struct pci_function *function, unsigned offset, uint32_t value,
                      uint32_t writable);
/* A function with a type-1 header and no I/O window, instead of pci_function_init(); BAR 0 is its
 * own. */
void pci_bridge_init(struct pci_function *function, const struct pci_identity *identity);
/* The PCI Express capability of a port (PCI_EXPRESS_*) with a link of 2.5 GT/s and one lane;
 * what only some kinds have is the caller's to add. Functions behind a bridge get it when they
 * are plugged. */
void pci_express_add(struct pci_function *function, unsigned kind);

/* The lowest slot that is free, 0: none is. While nothing is plugged or unplugged. */
unsigned pci_free_slot(const struct pci_host *host);
bool pci_slot_taken(const struct pci_host *host, unsigned slot); /* also PCI_SLOT_BEHIND + n */
/* All at once, what is in slot n of the root bus goes to slot to[n] (0: it stays), before the guest
 * has seen it and while nothing is behind a bridge. No two come to be in one slot. */
void pci_move(struct pci_host *host, const uint8_t to[32]);
/* Fails with a sentence if the slot (0..31, or PCI_SLOT_BEHIND + n) is taken or none is free. What
 * is behind a bridge is reached when the bridge's link is up. */
bool pci_plug(struct pci_host *host, struct pci_function *function, unsigned slot,
              struct error **err);
void pci_plug_bridge(struct pci_host *host, struct pci_function *function); /* slot 0 */
/* A further function (1..7) of the device in a slot of the root bus, whose first one is plugged. */
void pci_plug_further(struct pci_host *host, struct pci_function *function,
                      const struct pci_function *first, unsigned number);
void pci_unplug(struct pci_function *function); /* fine if it is not plugged */
void pci_function_reset(struct pci_function *function);
/* Nothing in the host bridge's windows is an access fault from now on: what no BAR answers reads
 * as all ones, as after a device was pulled out. For machines where that may happen. */
void pci_answer_all(struct pci_host *host);

/* Guest accesses; `place` is the bus (15:8), device and function; size 1, 2 or 4, naturally
 * aligned, offset < 4096. Absent functions read as all ones. */
uint32_t pci_config_read(struct pci_host *host, uint16_t place, unsigned offset, unsigned size);
void pci_config_write(struct pci_host *host, uint16_t place, unsigned offset, uint32_t value,
                      unsigned size);

/* A bridge's link comes up or goes; host->lock held. */
void pci_set_link(struct pci_function *bridge, bool up);
/* Whether the function may send requests and messages: it and all above it master the bus. From
 * config_written, which is called with the command register when that changes. */
bool pci_may_master(const struct pci_function *function);

/* Whether a driver in the guest has the function in the slot at work: it may master the bus. */
bool pci_slot_in_use(struct pci_host *host, unsigned slot);

/* Drives the function's interrupt pin; any thread. */
void pci_set_intx(struct pci_function *function, bool level);
/* Keeps the pin down whatever the level: the function uses messages (3.0, 6.8.2). From
 * config_written. */
void pci_forbid_intx(struct pci_function *function, bool forbidden);

/* Which of the host's four pins a slot's pin (1..4) is wired to (PCI-to-PCI Bridge 1.2,
 * table 9-1); the device tree says the same. */
static inline unsigned pci_swizzle(unsigned slot, unsigned pin)
{
    return (slot + pin - 1) % PCI_PIN_COUNT;
}

extern const struct state_table pci_function_state;

#endif
