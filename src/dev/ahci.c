/* SPDX-License-Identifier: MIT
 *
 * AHCI host bus adapter (Serial ATA AHCI 1.3.1) on PCI with six ports, for guests without
 * virtio drivers: 32 command slots and native queuing for each port, hot-plug, INTx.
 *
 * Commands are fetched and started on the vCPU's thread, in the store that issues them; they
 * end on the event loop's. A command that the driver gave up by stopping the port or resetting
 * something is cancelled: its I/O ends unheard. Until then PxCMD.CR, GHC.HR or the missing link
 * tell the driver to wait, as the specification has it. What the disk holds back in a pause is
 * issued again after it, or in the machine that is restored: the driver's command tables have it.
 *
 * A drive's address is its port. params: pci_slot.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/state.h"
#include "bus/pci.h"
#include "dev/ahci_internal.h"
#include "dev/drive_bus.h"

/* Generic host control. */
enum { HOST_CAP = 0x00, HOST_GHC = 0x04, HOST_IS = 0x08, HOST_PI = 0x0c, HOST_VS = 0x10 };
enum { PORT_FIRST = 0x100, PORT_STRIDE = 0x80, BAR_SIZE = 0x1000 };
/* S64A, SNCQ, SCLO, SAM; 6 Gbit/s, 32 slots. */
#define CAP (UINT32_C(0xc1040000) | 3u << 20 | (AHCI_SLOTS - 1) << 8 | (AHCI_PORTS - 1))

/* Port registers. */
enum {
    PX_CLB = 0x00,
    PX_CLBU = 0x04,
    PX_FB = 0x08,
    PX_FBU = 0x0c,
    PX_IS = 0x10,
    PX_IE = 0x14,
    PX_CMD = 0x18,
    PX_TFD = 0x20,
    PX_SIG = 0x24,
    PX_SSTS = 0x28,
    PX_SCTL = 0x2c,
    PX_SERR = 0x30,
    PX_SACT = 0x34,
    PX_CI = 0x38
};
/* --- registers --- */

static uint32_t cmd_value(const struct ahci_port *port)
{
    uint32_t value = port->cmd | AHCI_CMD_SPUN_UP | AHCI_CMD_HOT_PLUG;
    if ((port->cmd & AHCI_CMD_FIS) != 0)
        value |= AHCI_CMD_FIS_ON;
    if ((port->cmd & AHCI_CMD_START) != 0 || port->draining)
        value |= AHCI_CMD_RUNS;
    return value;
}

static uint32_t port_read(const struct ahci_port *port, unsigned offset)
{
    switch (offset) {
    case PX_CLB:
        return (uint32_t)port->clb;
    case PX_CLBU:
        return (uint32_t)(port->clb >> 32);
    case PX_FB:
        return (uint32_t)port->fb;
    case PX_FBU:
        return (uint32_t)(port->fb >> 32);
    case PX_IS:
        return port->is;
    case PX_IE:
        return port->ie;
    case PX_CMD:
        return cmd_value(port);
    case PX_TFD:
        return port->tfd;
    case PX_SIG:
        return port->sig;
    case PX_SSTS:
        return port->ssts;
    case PX_SCTL:
        return port->sctl;
    case PX_SERR:
        return port->serr;
    case PX_SACT:
        return port->sact;
    case PX_CI:
        return port->ci;
    default:
        return 0;
    }
}

static void write_cmd(struct ahci_port *port, uint32_t value)
{
    uint32_t before = port->cmd;
    port->cmd = (before & ~AHCI_CMD_WRITABLE) | (value & AHCI_CMD_WRITABLE);
    if ((value & AHCI_CMD_OVERRIDE) != 0)
        port->tfd &= ~(uint32_t)(ATA_BSY | ATA_DRQ);
    if ((before & AHCI_CMD_START) != 0 && (value & AHCI_CMD_START) == 0) {
        ahci_cancel(port);
        port->cmd &= ~UINT32_C(0x1f00);
        if ((port->tfd & ATA_BSY) != 0 && port->drive.present && port->ssts == AHCI_SSTS_UP)
            port->tfd = ATA_READY;
    }
    if ((before & AHCI_CMD_FIS) == 0 && (value & AHCI_CMD_FIS) != 0 && port->ssts == AHCI_SSTS_UP)
        ahci_post_registers(port, NULL, false); /* what came while nothing could be received */
    ahci_process(port);
}

static void port_write(struct ahci_port *port, unsigned offset, uint32_t value)
{
    switch (offset) {
    case PX_CLB:
        port->clb = bits_set(port->clb, 0, 32, value & ~UINT32_C(0x3ff));
        break;
    case PX_CLBU:
        port->clb = bits_set(port->clb, 32, 32, value);
        break;
    case PX_FB:
        port->fb = bits_set(port->fb, 0, 32, value & ~UINT32_C(0xff));
        break;
    case PX_FBU:
        port->fb = bits_set(port->fb, 32, 32, value);
        break;
    case PX_IS:
        port->is &=
            ~value | (AHCI_IS_CONNECT | AHCI_IS_PHYRDY); /* these two go with their SERR bits */
        break;
    case PX_IE:
        port->ie = value & AHCI_IS_ALL;
        break;
    case PX_CMD:
        write_cmd(port, value);
        break;
    case PX_SCTL:
        ahci_control_link(port, value);
        break;
    case PX_SERR:
        port->serr &= ~value;
        if ((port->serr & AHCI_SERR_EXCHANGE) == 0)
            port->is &= ~AHCI_IS_CONNECT;
        if ((port->serr & AHCI_SERR_PHYRDY) == 0)
            port->is &= ~AHCI_IS_PHYRDY;
        break;
    case PX_SACT:
        if ((port->cmd & AHCI_CMD_START) != 0)
            port->sact |= value;
        break;
    case PX_CI:
        if ((port->cmd & AHCI_CMD_START) != 0)
            port->ci |= value;
        ahci_process(port);
        break;
    }
}

static uint32_t host_read(const struct ahci *ahci, unsigned offset)
{
    switch (offset) {
    case HOST_CAP:
        return CAP;
    case HOST_GHC:
        return ahci->ghc | (ahci->resetting ? AHCI_GHC_RESET : 0);
    case HOST_IS:
        return ahci->is;
    case HOST_PI:
        return (UINT32_C(1) << AHCI_PORTS) - 1;
    case HOST_VS:
        return 0x00010301;
    default:
        return 0;
    }
}

static void host_write(struct ahci *ahci, unsigned offset, uint32_t value)
{
    if (offset == HOST_IS)
        ahci->is &= ~value;
    if (offset != HOST_GHC)
        return;
    ahci->ghc = AHCI_GHC_ENABLE | (value & AHCI_GHC_IRQ);
    if ((value & AHCI_GHC_RESET) != 0)
        ahci_host_reset(ahci);
}

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned size)
{
    struct ahci *ahci = opaque;
    if (size == 8)
        return bar_read(opaque, offset, 4) | bar_read(opaque, offset + 4, 4) << 32;
    unsigned at = (unsigned)offset, index = (at - PORT_FIRST) / PORT_STRIDE;
    uint32_t value = 0;
    pthread_mutex_lock(&ahci->device.lock);
    if (at < PORT_FIRST)
        value = host_read(ahci, at);
    else if (index < AHCI_PORTS)
        value = port_read(&ahci->ports[index], (at - PORT_FIRST) % PORT_STRIDE);
    pthread_mutex_unlock(&ahci->device.lock);
    return value;
}

static void bar_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct ahci *ahci = opaque;
    if (size == 8) {
        bar_write(opaque, offset, (uint32_t)value, 4);
        bar_write(opaque, offset + 4, value >> 32, 4);
        return;
    }
    unsigned at = (unsigned)offset, index = (at - PORT_FIRST) / PORT_STRIDE;
    pthread_mutex_lock(&ahci->device.lock);
    if (!ahci->resetting) {
        if (at < PORT_FIRST)
            host_write(ahci, at, (uint32_t)value);
        else if (index < AHCI_PORTS)
            port_write(&ahci->ports[index], (at - PORT_FIRST) % PORT_STRIDE, (uint32_t)value);
        ahci_update_irq(ahci);
    }
    pthread_mutex_unlock(&ahci->device.lock);
}

static const struct mem_io_ops bar_ops = {bar_read, bar_write, 4, 8};

static void config_written(struct pci_function *function, unsigned offset, unsigned size)
{
    struct ahci *ahci = function->opaque;
    if (offset > PCI_REG_COMMAND || offset + size <= PCI_REG_COMMAND)
        return;
    pthread_mutex_lock(&ahci->device.lock);
    ahci->dma = pci_may_master(function);
    for (unsigned i = 0; ahci->dma && i < AHCI_PORTS; i++)
        ahci_process(&ahci->ports[i]);
    pthread_mutex_unlock(&ahci->device.lock);
}

static const struct pci_function_ops function_ops = {NULL, config_written};

/* --- drives --- */

static struct ahci *ahci_of(struct device *device)
{
    return CONTAINER_OF(device, struct ahci, device);
}

static struct ahci_port *drive_port(struct ahci *ahci, const char *id)
{
    unsigned i = 0;
    while (!ahci->ports[i].drive.present || strcmp(ahci->ports[i].drive.unit.id, id) != 0)
        i++, assert(i < AHCI_PORTS);
    return &ahci->ports[i];
}

static struct ahci_port *choose_port(struct ahci *ahci, const char *address, struct error **err)
{
    unsigned long index = 0;
    if (address == NULL) {
        while (index < AHCI_PORTS && ahci->ports[index].drive.present)
            index++;
        if (index < AHCI_PORTS)
            return &ahci->ports[index];
        error_set(err, ERROR_USAGE, "all %u ports of the AHCI controller are taken", AHCI_PORTS);
        return NULL;
    }
    char *end;
    index = strtoul(address, &end, 10);
    if (end == address || *end != '\0' || address[0] < '0' || address[0] > '9' ||
        index >= AHCI_PORTS) {
        error_set(err, ERROR_USAGE, "'%s' is no port of the AHCI controller", address);
        error_hint(err, "They are numbered from 0 to %u", AHCI_PORTS - 1);
        return NULL;
    }
    if (!ahci->ports[index].drive.present)
        return &ahci->ports[index];
    error_set(err, ERROR_USAGE, "port %lu of the AHCI controller is taken by '%s'", index,
              ahci->ports[index].drive.unit.id);
    return NULL;
}

static bool drives_attach(struct device *device, const struct drive_params *params,
                          struct error **err)
{
    struct ahci *ahci = ahci_of(device);
    pthread_mutex_lock(&device->lock);
    struct ahci_port *port = choose_port(ahci, params->address, err);
    if (port != NULL) {
        struct ata_drive *drive = &port->drive;
        const struct scsi_unit_params unit = {.disk = params->disk,
                                              .optical = params->optical,
                                              .id = params->id,
                                              .serial = params->serial,
                                              .log = device->env->log,
                                              .lock = &device->lock};
        *drive = (struct ata_drive){.present = true, .optical = params->optical};
        scsi_unit_init(&drive->unit, &unit);
        memcpy(drive->serial, drive->unit.serial[0] != '\0' ? drive->unit.serial : drive->unit.id,
               sizeof(drive->serial) - 1);
        port->link_waits = (port->sctl & 15) == 0;
        if (port->link_waits && !port->draining && !ahci->resetting)
            ahci_link_up(port);
    }
    pthread_mutex_unlock(&device->lock);
    return port != NULL;
}

/* There is no way to ask: a Serial ATA drive is simply unplugged. */
static void drives_leave(struct device *device, const char *id)
{
    (void)device, (void)id;
}

static void drives_activity(struct device *device, const char *id, struct drive_activity *activity)
{
    struct ahci *ahci = ahci_of(device);
    pthread_mutex_lock(&device->lock);
    const struct ahci_port *port = drive_port(ahci, id);
    *activity = (struct drive_activity){
        .started = port->drive.unit.started, .busy = port->in_flight > 0, .handled = true};
    pthread_mutex_unlock(&device->lock);
}

static void drain(struct ahci_port *port)
{
    struct block *disk = port->drive.unit.params.disk;
    if (disk == NULL)
        return;
    block_cancel(disk); /* what is held for want of space, say */
    block_drain(disk);
    block_cancel(disk);
}

static void drives_detach(struct device *device, const char *id)
{
    struct ahci *ahci = ahci_of(device);
    pthread_mutex_lock(&device->lock);
    struct ahci_port *port = drive_port(ahci, id);
    ahci_cancel(port);
    port->link_waits = false;
    port->ssts = 0; /* nothing starts */
    pthread_mutex_unlock(&device->lock);
    drain(port);
    pthread_mutex_lock(&device->lock);
    assert(port->in_flight == 0);
    port->drive = (struct ata_drive){.present = false};
    port->tfd = AHCI_TFD_NONE;
    port->ssts = 0;
    ahci_raise_error(port, AHCI_SERR_PHYRDY);
    pthread_mutex_unlock(&device->lock);
}

static void drives_insert(struct device *device, const char *id, struct block *disk)
{
    struct ahci *ahci = ahci_of(device);
    pthread_mutex_lock(&device->lock);
    struct ahci_port *port = drive_port(ahci, id);
    port->drive.unit.tray_open = true; /* no more reads come */
    pthread_mutex_unlock(&device->lock);
    drain(port);
    pthread_mutex_lock(&device->lock);
    scsi_unit_insert(&port->drive.unit, disk);
    pthread_mutex_unlock(&device->lock);
}

static bool drives_eject(struct device *device, const char *id)
{
    struct ahci *ahci = ahci_of(device);
    pthread_mutex_lock(&device->lock);
    bool out = scsi_unit_press_eject(&drive_port(ahci, id)->drive.unit);
    pthread_mutex_unlock(&device->lock);
    return out;
}

static void drives_where(struct device *device, const char *id, struct drive_where *where)
{
    struct ahci *ahci = ahci_of(device);
    pthread_mutex_lock(&device->lock);
    where->number = (unsigned)(drive_port(ahci, id) - ahci->ports);
    pthread_mutex_unlock(&device->lock);
    snprintf(where->address, sizeof(where->address), "%u", where->number);
}

const struct drive_bus ahci_drives = {
    drives_attach, drives_leave, drives_activity, drives_detach,
    drives_insert, drives_eject, drives_where,
};

/* --- life --- */

static bool ahci_realize(struct device *device, const struct device_params *params,
                         struct error **err)
{
    struct ahci *ahci = ahci_of(device);
    if (device->env->pci == NULL)
        return error_set(err, ERROR_INTERNAL, "this machine has no PCI host bridge to plug into");
    for (unsigned i = 0; i < AHCI_PORTS; i++) {
        ahci->ports[i].ahci = ahci;
        ahci->ports[i].index = (uint8_t)i;
        ahci->ports[i].busy = -1;
        ahci_reset_port(&ahci->ports[i]);
    }
    ahci->ghc = AHCI_GHC_ENABLE;
    /* ICH9's, for which every system has a driver. */
    pci_function_init(&ahci->function, &(struct pci_identity){.vendor = 0x8086,
                                                              .device = 0x2922,
                                                              .subsystem_vendor = 0x1af4,
                                                              .subsystem = 0x1100,
                                                              .class_code = 0x010601,
                                                              .revision = 2,
                                                              .pin = 1});
    ahci->function.ops = &function_ops;
    ahci->function.opaque = ahci;
    pci_bar_add(&ahci->function, 5, "ahci", BAR_SIZE, 0, &bar_ops, ahci);
    return pci_plug(device->env->pci, &ahci->function, params->pci_slot, err);
}

static void ahci_unrealize(struct device *device)
{
    struct ahci *ahci = ahci_of(device);
    pci_unplug(&ahci->function);
    pthread_mutex_lock(&device->lock);
    ahci->resetting = false;
    for (unsigned i = 0; i < AHCI_PORTS; i++) {
        struct ahci_port *port = &ahci->ports[i];
        ahci_cancel(port);
        port->draining = port->link_waits = false; /* nothing comes up when they are home */
        port->ssts = 0;
    }
    pthread_mutex_unlock(&device->lock);
    for (unsigned i = 0; i < AHCI_PORTS; i++) {
        drain(&ahci->ports[i]);
        assert(ahci->ports[i].in_flight == 0);
    }
}

static void ahci_reset(struct device *device)
{
    struct ahci *ahci = ahci_of(device);
    pthread_mutex_lock(&device->lock);
    ahci_host_reset(ahci);
    assert(!ahci->resetting && "a machine is quiesced when it is reset");
    pthread_mutex_unlock(&device->lock);
    pci_function_reset(&ahci->function);
}

static void ahci_quiesce(struct device *device)
{
    struct ahci *ahci = ahci_of(device);
    pthread_mutex_lock(&device->lock);
    ahci->quiesced = true;
    pthread_mutex_unlock(&device->lock);
    for (unsigned i = 0; i < AHCI_PORTS; i++)
        drain(&ahci->ports[i]);
}

static void ahci_unquiesce(struct device *device)
{
    struct ahci *ahci = ahci_of(device);
    pthread_mutex_lock(&device->lock);
    ahci->quiesced = false;
    for (unsigned i = 0; i < AHCI_PORTS; i++)
        ahci_process(&ahci->ports[i]);
    pthread_mutex_unlock(&device->lock);
}

static uint8_t drive_kind(const struct ahci_port *port)
{
    return !port->drive.present ? 0 : port->drive.optical ? 2 : 1;
}

static void ahci_pre_save(void *object)
{
    struct ahci *ahci = object;
    for (unsigned i = 0; i < AHCI_PORTS; i++) {
        struct ahci_port *port = &ahci->ports[i];
        ahci->saved_drives[i] = drive_kind(port);
        port->saved_ci = port->ci | port->queued;
    }
}

static bool ahci_post_restore(void *object, struct error **err)
{
    struct ahci *ahci = object;
    bool good = true;
    for (unsigned i = 0; i < AHCI_PORTS; i++) {
        struct ahci_port *port = &ahci->ports[i];
        good = good && ahci->saved_drives[i] == drive_kind(port);
        port->clb &= ~UINT64_C(0x3ff);
        port->fb &= ~UINT64_C(0xff);
        port->is &= AHCI_IS_ALL;
        port->ie &= AHCI_IS_ALL;
        port->cmd &= AHCI_CMD_WRITABLE | 0x1f00;
        if (port->ssts != AHCI_SSTS_OFFLINE)
            port->ssts = port->ssts == AHCI_SSTS_UP && port->drive.present ? AHCI_SSTS_UP : 0;
        port->busy = -1;
        port->queued = 0;
        port->draining = port->link_waits = false;
        port->ci = (port->cmd & AHCI_CMD_START) != 0 ? port->saved_ci : 0;
    }
    ahci->ghc = AHCI_GHC_ENABLE | (ahci->ghc & AHCI_GHC_IRQ);
    ahci->resetting = false;
    pthread_mutex_lock(&ahci->device.lock);
    ahci_update_irq(ahci);
    pthread_mutex_unlock(&ahci->device.lock);
    return good || error_set(err, ERROR_USAGE,
                             "the saved state is of a machine with other drives on its AHCI "
                             "controller: attach those that were there when it was saved");
}

static const struct state_field port_fields[] = {
    STATE_UINT(struct ahci_port, clb, "clb"),
    STATE_UINT(struct ahci_port, fb, "fb"),
    STATE_UINT(struct ahci_port, is, "is"),
    STATE_UINT(struct ahci_port, ie, "ie"),
    STATE_UINT(struct ahci_port, cmd, "cmd"),
    STATE_UINT(struct ahci_port, tfd, "tfd"),
    STATE_UINT(struct ahci_port, sig, "sig"),
    STATE_UINT(struct ahci_port, ssts, "ssts"),
    STATE_UINT(struct ahci_port, sctl, "sctl"),
    STATE_UINT(struct ahci_port, serr, "serr"),
    STATE_UINT(struct ahci_port, sact, "sact"),
    STATE_UINT(struct ahci_port, saved_ci, "ci"),
    STATE_BOOL(struct ahci_port, halted, "halted"),
    STATE_BOOL(struct ahci_port, in_reset, "in-reset"),
    STATE_STRUCT(struct ahci_port, drive, "drive", &ata_drive_state),
    STATE_END,
};
static const struct state_table port_state = {"ahci-port", 1, port_fields, NULL, NULL};

static const struct state_field ahci_fields[] = {
    STATE_UINTS(struct ahci, saved_drives, "drives"),
    STATE_UINT(struct ahci, ghc, "ghc"),
    STATE_UINT(struct ahci, is, "is"),
    STATE_STRUCTS(struct ahci, ports, "ports", &port_state),
    STATE_STRUCT(struct ahci, function, "function", &pci_function_state),
    STATE_END,
};
static const struct state_table ahci_state = {"ahci", 1, ahci_fields, ahci_pre_save,
                                              ahci_post_restore};

const struct device_ops device_ahci = {
    .name = "ahci",
    .size = sizeof(struct ahci),
    .realize = ahci_realize,
    .unrealize = ahci_unrealize,
    .reset = ahci_reset,
    .state = &ahci_state,
    .direct_dma = true,
    .quiesce = ahci_quiesce,
    .unquiesce = ahci_unquiesce,
};
