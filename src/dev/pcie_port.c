/* SPDX-License-Identifier: MIT
 *
 * PCIe root port with a slot for hot-plug: a bridge from the root bus to one device, with the
 * registers of PCIe 5.0, 7.5.3 and the events of 6.7. The slot has an attention button,
 * indicators and a power controller, takes commands without delay (so no "command completed") and
 * stands surprise removal.
 *
 * Linux' pciehp takes over what an empty slot's power is; without a driver for hot-plug the power
 * stays on, and a device that comes is found by whoever looks.
 *
 * The link is up when a device is there, has power, and is neither disabled nor held in reset.
 * Who loses the link is reset before it comes up again; as that takes a machine that stands
 * still, the link stays down until the board has done it (pcie_port.h).
 *
 * params: port, pci_slot. Lock: the PCI bus's; the board's functions take it.
 */
#include "dev/pcie_port.h"

#include <assert.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "bus/device.h"
#include "bus/msix.h"
#include "bus/pci.h"

enum { BAR_BYTES = 0x1000, TABLE = 0, PENDING = 0x800 };

enum { FLAGS_SLOT = 1 << 8 };                            /* 7.5.3.2 */
enum { LINK_REPORTS_ACTIVE = 1 << 20 };                  /* 7.5.3.6 */
enum { LINK_DISABLE = 1 << 4 };                          /* 7.5.3.7 */
enum { LINK_SPEED_WIDTH = 0x11, LINK_ACTIVE = 1 << 13 }; /* 7.5.3.8 */
enum {
    SLOT_BUTTON = 1 << 0,
    SLOT_POWER = 1 << 1,
    SLOT_LEDS = 3 << 3,
    SLOT_SURPRISE = 1 << 5,
    SLOT_HOTPLUG = 1 << 6,
    SLOT_NO_COMPLETED = 1 << 18,
    SLOT_NUMBER = 1 << 19
}; /* 7.5.3.9 */
enum {
    CONTROL_BUTTON = 1 << 0,
    CONTROL_INTERRUPT = 1 << 5,
    CONTROL_OFF = 1 << 10,
    CONTROL_LINK = 1 << 12,
    CONTROL_WRITABLE = 0x17eb,
    CONTROL_LEDS_OFF = 0x3c0
}; /* 7.5.3.10 */
enum {
    STATUS_BUTTON = 1 << 0,
    STATUS_FAULT = 1 << 1,
    STATUS_PRESENCE = 1 << 3,
    STATUS_PRESENT = 1 << 6,
    STATUS_LINK = 1 << 8
}; /* 7.5.3.11 */
enum { STATUS_EVENTS = STATUS_BUTTON | STATUS_FAULT | STATUS_PRESENCE | STATUS_LINK };

struct pcie_port {
    struct device device;
    struct pci_function function;
    struct msix msix;
    struct device_port board;
    bool ejecting; /* what is in the slot is to leave */
    bool stale;    /* it lost its link, and is not yet reset */
    bool told;     /* an event is shown to the guest; derived */
    bool off;      /* no power; derived */
};

static struct pcie_port *port_of(struct device *device)
{
    return CONTAINER_OF(device, struct pcie_port, device);
}

static uint8_t *reg(struct pcie_port *port, unsigned offset)
{
    return port->function.config + port->function.express + offset;
}

static uint16_t get(struct pcie_port *port, unsigned offset)
{
    return load_le16(reg(port, offset));
}

static void set_bits(struct pcie_port *port, unsigned offset, unsigned mask, bool on)
{
    uint16_t value = get(port, offset);
    store_le16(reg(port, offset), (uint16_t)(on ? value | mask : value & ~mask));
}

static void lock(struct pcie_port *port)
{
    pthread_mutex_lock(&port->function.host->lock);
}

static void unlock(struct pcie_port *port)
{
    pthread_mutex_unlock(&port->function.host->lock);
}

/* ---- under the bus's lock ---- */

/* 6.7.3.4: events that are enabled, each by the bit of its own number but for the link's. */
static bool has_event(struct pcie_port *port)
{
    unsigned control = get(port, PCI_EXPRESS_SLOT_CONTROL);
    unsigned status = get(port, PCI_EXPRESS_SLOT_STATUS) & STATUS_EVENTS;
    if ((control & CONTROL_INTERRUPT) == 0)
        return false;
    return (status & control & ~(unsigned)STATUS_LINK) != 0 ||
           ((status & STATUS_LINK) != 0 && (control & CONTROL_LINK) != 0);
}

/* The pin says that there are events, a message that there is one where there was none. */
static void tell(struct pcie_port *port)
{
    bool event = has_event(port);
    if (event && !port->told)
        msix_fire(&port->msix, 0);
    port->told = event;
    pci_set_intx(&port->function, event);
}

static bool is_down(struct pcie_port *port)
{
    return (get(port, PCI_EXPRESS_SLOT_CONTROL) & CONTROL_OFF) != 0 ||
           (get(port, PCI_EXPRESS_LINK_CONTROL) & LINK_DISABLE) != 0 ||
           (port->function.config[PCI_REG_BRIDGE_CONTROL] & PCI_BRIDGE_RESET) != 0;
}

static void show_link(struct pcie_port *port, bool up)
{
    pci_set_link(&port->function, up);
    set_bits(port, PCI_EXPRESS_LINK_STATUS, LINK_SPEED_WIDTH | LINK_ACTIVE, up);
}

/* Derives the link and the presence of a device; what changes is an event. */
static void update(struct pcie_port *port)
{
    struct pci_function *function = &port->function;
    bool present = function->below != NULL, wanted = present && !is_down(port);
    bool off = (get(port, PCI_EXPRESS_SLOT_CONTROL) & CONTROL_OFF) != 0;
    bool settle = present && off && !port->off;
    port->off = off;
    if (function->link && !wanted)
        settle = port->stale = present;
    if (!present)
        port->stale = port->ejecting = false;
    bool up = wanted && !port->stale;
    if (up != function->link)
        set_bits(port, PCI_EXPRESS_SLOT_STATUS, STATUS_LINK, true);
    show_link(port, up);
    if (present != ((get(port, PCI_EXPRESS_SLOT_STATUS) & STATUS_PRESENT) != 0))
        set_bits(port, PCI_EXPRESS_SLOT_STATUS, STATUS_PRESENCE, true);
    set_bits(port, PCI_EXPRESS_SLOT_STATUS, STATUS_PRESENT, present);
    tell(port);
    if (settle)
        port->board.settle(port->board.opaque);
}

/* Reset and restoring write the whole space at once, and see to the rest themselves. */
static void config_written(struct pci_function *function, unsigned offset, unsigned size)
{
    struct pcie_port *port = function->opaque;
    (void)offset;
    msix_config_written(&port->msix);
    if (size < PCI_CONFIG_SIZE)
        update(port);
}

static const struct pci_function_ops function_ops = {NULL, config_written};

/* ---- the board's side ---- */

void pcie_port_changed(struct device *device)
{
    struct pcie_port *port = port_of(device);
    lock(port);
    update(port);
    unlock(port);
}

void pcie_port_attention(struct device *device)
{
    struct pcie_port *port = port_of(device);
    lock(port);
    set_bits(port, PCI_EXPRESS_SLOT_STATUS, STATUS_BUTTON, true);
    tell(port);
    unlock(port);
}

void pcie_port_eject(struct device *device)
{
    struct pcie_port *port = port_of(device);
    lock(port);
    port->ejecting = port->function.below != NULL;
    unlock(port);
    pcie_port_attention(device);
}

bool pcie_port_ejecting(struct device *device)
{
    struct pcie_port *port = port_of(device);
    lock(port);
    bool ejecting = port->ejecting;
    unlock(port);
    return ejecting;
}

bool pcie_port_heeded(struct device *device)
{
    struct pcie_port *port = port_of(device);
    lock(port);
    unsigned control = get(port, PCI_EXPRESS_SLOT_CONTROL);
    unlock(port);
    return (control & CONTROL_BUTTON) != 0;
}

bool pcie_port_powered(struct device *device)
{
    return (get(port_of(device), PCI_EXPRESS_SLOT_CONTROL) & CONTROL_OFF) == 0;
}

bool pcie_port_stale(struct device *device)
{
    return port_of(device)->stale;
}

void pcie_port_renewed(struct device *device)
{
    struct pcie_port *port = port_of(device);
    lock(port);
    port->stale = false;
    update(port);
    unlock(port);
}

unsigned pcie_port_secondary(struct device *device)
{
    struct pcie_port *port = port_of(device);
    lock(port);
    unsigned bus = port->function.config[PCI_REG_SECONDARY_BUS];
    unlock(port);
    return bus;
}

unsigned pcie_port_slot(struct device *device)
{
    return port_of(device)->function.devfn >> 3;
}

/* ---- BAR 0: the message's table ---- */

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pcie_port *port = opaque;
    if (size == 8)
        return bar_read(opaque, offset, 4) | bar_read(opaque, offset + 4, 4) << 32;
    if (size != 4)
        return 0;
    return offset < PENDING ? msix_table_read(&port->msix, offset)
                            : msix_pending_read(&port->msix, offset - PENDING);
}

static void bar_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pcie_port *port = opaque;
    if (size == 8) {
        bar_write(opaque, offset, (uint32_t)value, 4);
        bar_write(opaque, offset + 4, value >> 32, 4);
    } else if (size == 4 && offset < PENDING) {
        msix_table_write(&port->msix, offset, (uint32_t)value);
    }
}

static const struct mem_io_ops bar_ops = {bar_read, bar_write, 1, 8};

/* ---- life ---- */

/* What a root port has beyond any other port. */
static void add_slot(struct pcie_port *port)
{
    struct pci_function *function = &port->function;
    pci_express_add(function, PCI_EXPRESS_ROOT_PORT);
    uint8_t *initial = function->power_on + function->express;
    uint8_t *writable = function->writable + function->express;
    uint8_t *driven = function->driven + function->express;
    initial[PCI_EXPRESS_FLAGS + 1] |= FLAGS_SLOT >> 8;
    store_le32(initial + PCI_EXPRESS_LINK, load_le32(initial + PCI_EXPRESS_LINK) |
                                               LINK_REPORTS_ACTIVE | port->board.number << 24);
    writable[PCI_EXPRESS_LINK_CONTROL] |= LINK_DISABLE;
    store_le16(initial + PCI_EXPRESS_LINK_STATUS, 0);
    store_le16(driven + PCI_EXPRESS_LINK_STATUS, LINK_SPEED_WIDTH | LINK_ACTIVE);
    store_le32(initial + PCI_EXPRESS_SLOT, SLOT_BUTTON | SLOT_POWER | SLOT_LEDS | SLOT_SURPRISE |
                                               SLOT_HOTPLUG | SLOT_NO_COMPLETED |
                                               port->board.number * SLOT_NUMBER);
    store_le16(initial + PCI_EXPRESS_SLOT_CONTROL, CONTROL_LEDS_OFF);
    store_le16(writable + PCI_EXPRESS_SLOT_CONTROL, CONTROL_WRITABLE);
    store_le16(driven + PCI_EXPRESS_SLOT_STATUS, STATUS_EVENTS | STATUS_PRESENT);
    store_le16(function->clears + function->express + PCI_EXPRESS_SLOT_STATUS, STATUS_EVENTS);
    writable[PCI_EXPRESS_ROOT_CONTROL] = 0x0f;
}

static bool pcie_port_realize(struct device *device, const struct device_params *params,
                              struct error **err)
{
    struct pcie_port *port = port_of(device);
    struct pci_host *host = device->env->pci;
    assert(host != NULL && params->port != NULL);
    port->board = *params->port;
    pci_bridge_init(&port->function, &(struct pci_identity){
                                         .vendor = 0x1b36, /* as QEMU's generic root port */
                                         .device = 0x000c,
                                         .class_code = 0x060400,
                                         .pin = 1,
                                     });
    port->function.ops = &function_ops;
    port->function.opaque = port;
    pci_bar_add(&port->function, 0, "pcie-port", BAR_BYTES, 0, &bar_ops, port);
    add_slot(port);
    msix_init(&port->msix, &port->function, host->msi.send != NULL ? 1 : 0, 0, TABLE, PENDING);
    if (!pci_plug(host, &port->function, params->pci_slot, err)) {
        msix_destroy(&port->msix);
        return false;
    }
    pci_answer_all(host);
    return true;
}

static void pcie_port_unrealize(struct device *device)
{
    struct pcie_port *port = port_of(device);
    pci_unplug(&port->function);
    msix_destroy(&port->msix);
}

/* The device below was reset before. Its presence is news to nobody. */
static void pcie_port_reset(struct device *device)
{
    struct pcie_port *port = port_of(device);
    msix_reset(&port->msix);
    pci_function_reset(&port->function);
    lock(port);
    port->stale = port->off = false;
    update(port);
    set_bits(port, PCI_EXPRESS_SLOT_STATUS, STATUS_EVENTS, false);
    tell(port);
    unlock(port);
}

/* ---- state ---- */

static bool restored(void *object, struct error **err)
{
    struct pcie_port *port = object;
    bool present = port->function.below != NULL;
    if (present != ((get(port, PCI_EXPRESS_SLOT_STATUS) & STATUS_PRESENT) != 0))
        return error_set(err, ERROR_USAGE, "the saved machine had %s in PCIe slot %u",
                         present ? "nothing" : "a device", port->board.number);
    port->stale = port->stale && present;
    port->ejecting = port->ejecting && present;
    lock(port);
    port->off = (get(port, PCI_EXPRESS_SLOT_CONTROL) & CONTROL_OFF) != 0;
    show_link(port, present && !is_down(port) && !port->stale);
    port->told = has_event(port);
    bool settle = port->stale || (port->ejecting && port->off);
    unlock(port);
    if (settle)
        port->board.settle(port->board.opaque);
    return true;
}

static const struct state_field pcie_port_fields[] = {
    STATE_STRUCT(struct pcie_port, msix, "msix", &msix_state),
    STATE_STRUCT(struct pcie_port, function, "function", &pci_function_state),
    STATE_BOOL(struct pcie_port, ejecting, "ejecting"),
    STATE_BOOL(struct pcie_port, stale, "stale"),
    STATE_END,
};

static const struct state_table pcie_port_state = {"pcie-port", 1, pcie_port_fields, NULL,
                                                   restored};

const struct device_ops device_pcie_port = {
    .name = "pcie-port",
    .size = sizeof(struct pcie_port),
    .realize = pcie_port_realize,
    .unrealize = pcie_port_unrealize,
    .reset = pcie_port_reset,
    .state = &pcie_port_state,
};
