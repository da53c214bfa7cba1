/* SPDX-License-Identifier: MIT
 *
 * A port of the AHCI adapter: command slots, the driver's scatter lists, the FISes with which a
 * drive answers, errors and resets (AHCI 1.3.1, 5 and 6).
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "dev/ahci_internal.h"

/* Received FIS area and FIS types. */
enum { RFIS_PIO = 0x20, RFIS_D2H = 0x40, RFIS_SDB = 0x58 };
enum { FIS_H2D = 0x27, FIS_D2H = 0x34, FIS_PIO = 0x5f, FIS_SDB = 0xa1 };
enum { FIS_IRQ = 0x40, FIS_TO_HOST = 0x20, FIS_COMMAND = 0x80, CONTROL_SRST = 0x04 };

pthread_mutex_t *ahci_lock(struct ahci_port *port)
{
    return &port->ahci->device.lock;
}

/* --- interrupts --- */

void ahci_update_irq(struct ahci *ahci)
{
    for (unsigned i = 0; i < AHCI_PORTS; i++)
        if ((ahci->ports[i].is & ahci->ports[i].ie) != 0)
            ahci->is |= UINT32_C(1) << i;
    pci_set_intx(&ahci->function, (ahci->ghc & AHCI_GHC_IRQ) != 0 && ahci->is != 0);
}

static void raise_irq(struct ahci_port *port, uint32_t bits)
{
    port->is |= bits;
    ahci_update_irq(port->ahci);
}

void ahci_raise_error(struct ahci_port *port, uint32_t serr)
{
    port->serr |= serr;
    raise_irq(port, ((serr & AHCI_SERR_EXCHANGE) != 0 ? AHCI_IS_CONNECT : 0) |
                        ((serr & AHCI_SERR_PHYRDY) != 0 ? AHCI_IS_PHYRDY : 0));
}

/* Something that only a reset of the port mends. */
static void fail_port(struct ahci_port *port, uint32_t bit, const char *what)
{
    log_guest(port->ahci->device.env->log, &port->ahci->log_limit, "%s: port %u stops: %s",
              port->ahci->device.id, port->index, what);
    port->halted = true;
    raise_irq(port, bit);
}

/* --- FISes to the driver --- */

static void post_fis(struct ahci_port *port, unsigned where, const uint8_t *fis, unsigned size)
{
    if ((port->cmd & AHCI_CMD_FIS) != 0)
        (void)mem_write(port->ahci->device.env->mem, port->fb + where, fis, size);
}

static void put_registers(uint8_t *fis, uint64_t lba, uint16_t count)
{
    for (unsigned i = 0; i < 3; i++) {
        fis[4 + i] = (uint8_t)(lba >> (8 * i));
        fis[8 + i] = (uint8_t)(lba >> (8 * i + 24));
    }
    store_le16(fis + 12, count);
}

void ahci_post_registers(struct ahci_port *port, const struct ahci_command *command, bool irq)
{
    uint8_t fis[20] = {FIS_D2H, irq ? FIS_IRQ : 0, (uint8_t)port->tfd, (uint8_t)(port->tfd >> 8)};
    if (command != NULL) {
        put_registers(fis, command->lba_out, command->count_out);
        fis[7] = command->device;
    } else {
        uint64_t lba;
        uint16_t count;
        ata_signature(&port->drive, &lba, &count);
        put_registers(fis, lba, count);
    }
    post_fis(port, RFIS_D2H, fis, sizeof(fis));
    if (irq)
        raise_irq(port, AHCI_IS_D2H);
}

static void post_pio(struct ahci_command *command, bool to_host, uint8_t before, uint8_t after)
{
    uint8_t fis[20] = {FIS_PIO, (uint8_t)(to_host ? FIS_TO_HOST | FIS_IRQ : 0), before};
    put_registers(fis, command->lba_out, command->count_out);
    fis[7] = command->device;
    fis[15] = after;
    store_le16(fis + 16, 512);
    post_fis(command->port, RFIS_PIO, fis, sizeof(fis));
    if (to_host)
        raise_irq(command->port, AHCI_IS_PIO);
}

void ahci_pio_out(struct ahci_command *command)
{
    post_pio(command, false, ATA_READY | ATA_DRQ, ATA_BSY);
}

static void post_device_bits(struct ahci_port *port, uint32_t done)
{
    uint8_t fis[8] = {FIS_SDB, FIS_IRQ, (uint8_t)(port->tfd & 0x77), (uint8_t)(port->tfd >> 8)};
    store_le32(fis + 4, done);
    post_fis(port, RFIS_SDB, fis, sizeof(fis));
    raise_irq(port, AHCI_IS_SDB);
}

/* --- the driver's buffers --- */

enum { ENTRY_BYTES = 16, TABLE_ENTRIES = 0x80, ENTRIES_AT_ONCE = 64 };

struct entry {
    uint64_t gpa;
    uint32_t size;
};

static bool read_entry(const struct ahci_command *command, uint32_t index, uint8_t *cache,
                       uint32_t *cached, struct entry *entry)
{
    uint32_t first = index - index % ENTRIES_AT_ONCE;
    if (*cached != first) {
        uint32_t count = command->entries - first;
        count = count < ENTRIES_AT_ONCE ? count : ENTRIES_AT_ONCE;
        if (!mem_read(command->port->ahci->device.env->mem,
                      command->table + TABLE_ENTRIES + (uint64_t)first * ENTRY_BYTES, cache,
                      (uint64_t)count * ENTRY_BYTES))
            return false;
        *cached = first;
    }
    const uint8_t *at = cache + (size_t)(index - first) * ENTRY_BYTES;
    entry->gpa = load_le64(at) & ~UINT64_C(1);
    entry->size = (load_le32(at + 12) & 0x3fffff) + 1;
    return true;
}

/* Narrows the window by `bytes` at its end. */
static void trim(struct ahci_command *command, uint64_t bytes)
{
    while (bytes > 0) {
        struct iovec *last = &command->iov[command->iov_count - 1];
        if (last->iov_len > bytes) {
            last->iov_len -= (size_t)bytes;
            return;
        }
        bytes -= last->iov_len;
        command->iov_count--;
    }
}

uint64_t ahci_window(struct ahci_command *command, uint64_t limit, bool to_guest)
{
    struct mem_space *mem = command->port->ahci->device.env->mem;
    uint8_t cache[ENTRIES_AT_ONCE * ENTRY_BYTES];
    uint32_t cached = UINT32_MAX;
    uint32_t entries[AHCI_WINDOW], starts[AHCI_WINDOW];
    uint32_t entry = command->entry, done = command->entry_done;
    uint64_t total = 0;
    command->iov_count = 0;
    command->to_guest = to_guest;
    while (total < limit && entry < command->entries && command->iov_count < AHCI_WINDOW) {
        struct entry segment;
        if (!read_entry(command, entry, cache, &cached, &segment))
            return 0;
        if (done >= segment.size) {
            entry++;
            done = 0;
            continue;
        }
        uint64_t gpa = segment.gpa + done, size = segment.size - done;
        const struct mem_ram *ram = mem_ram_find(mem, gpa);
        if (ram == NULL)
            return 0;
        if (size > limit - total)
            size = limit - total;
        if (size > ram->gpa + ram->size - gpa)
            size = ram->gpa + ram->size - gpa;
        unsigned i = command->iov_count++;
        command->iov[i].iov_base = mem_ram_pointer(mem, gpa, size, to_guest ? MEM_WRITE : MEM_READ);
        command->iov[i].iov_len = (size_t)size;
        if (command->iov[i].iov_base == NULL) /* its contents were lost */
            return 0;
        command->gpa[i] = gpa;
        entries[i] = entry;
        starts[i] = done;
        done += (uint32_t)size;
        total += size;
    }
    if (total < limit && limit % BLOCK_SECTOR == 0) {
        trim(command, total % BLOCK_SECTOR);
        total -= total % BLOCK_SECTOR;
    }
    if (total > 0) {
        unsigned last = command->iov_count - 1;
        command->entry = entries[last];
        command->entry_done = starts[last] + (uint32_t)command->iov[last].iov_len;
        command->moved += total;
    }
    return total;
}

void ahci_note_window(struct ahci_command *command)
{
    for (unsigned i = 0; command->to_guest && i < command->iov_count; i++)
        mem_note_range(command->port->ahci->device.env->mem, command->gpa[i],
                       command->iov[i].iov_len);
}

size_t ahci_copy(struct ahci_command *command, void *data, size_t size, bool to_guest)
{
    size_t at = 0;
    uint64_t part;
    while (at < size && (part = ahci_window(command, size - at, to_guest)) > 0)
        for (unsigned i = 0; i < command->iov_count; i++) {
            uint8_t *here = (uint8_t *)data + at;
            if (to_guest)
                memcpy(command->iov[i].iov_base, here, command->iov[i].iov_len);
            else
                memcpy(here, command->iov[i].iov_base, command->iov[i].iov_len);
            at += command->iov[i].iov_len;
        }
    return at;
}

/* --- links and resets --- */

void ahci_link_up(struct ahci_port *port)
{
    bool down = port->ssts != AHCI_SSTS_UP;
    uint64_t lba;
    uint16_t count;
    port->link_waits = false;
    if (!port->drive.present) {
        port->ssts = 0;
        return;
    }
    ata_power_on(&port->drive);
    ata_signature(&port->drive, &lba, &count);
    port->ssts = AHCI_SSTS_UP;
    port->tfd = 0x0100 | ATA_READY; /* diagnostics passed */
    port->sig = (uint32_t)(lba << 8) | (count & 0xff);
    ahci_post_registers(port, NULL, true);
    if (down)
        ahci_raise_error(port, AHCI_SERR_EXCHANGE | AHCI_SERR_PHYRDY);
}

void ahci_cancel(struct ahci_port *port)
{
    for (unsigned i = 0; i < AHCI_SLOTS; i++)
        if (port->commands[i].active) {
            port->commands[i].cancelled = true;
            if (port->drive.optical)
                port->drive.task.cancelled = true;
        }
    port->draining = port->in_flight > 0;
    port->ci = port->sact = port->queued = 0;
    port->busy = -1;
    port->halted = port->in_reset = false;
}

static void finish_host_reset(struct ahci *ahci)
{
    for (unsigned i = 0; i < AHCI_PORTS; i++)
        if (ahci->ports[i].draining)
            return;
    ahci->resetting = false;
    for (unsigned i = 0; i < AHCI_PORTS; i++)
        ahci_link_up(&ahci->ports[i]);
}

/* Everything of the port that was cancelled has come home. */
static void drained(struct ahci_port *port)
{
    port->draining = false;
    if (port->ahci->resetting)
        finish_host_reset(port->ahci);
    else if (port->link_waits)
        ahci_link_up(port);
    ahci_process(port);
}

void ahci_reset_port(struct ahci_port *port)
{
    ahci_cancel(port);
    port->clb = port->fb = 0;
    port->is = port->ie = port->cmd = port->sctl = port->serr = port->ssts = 0;
    port->link_waits = false;
    port->tfd = AHCI_TFD_NONE;
    port->sig = UINT32_MAX;
}

void ahci_host_reset(struct ahci *ahci)
{
    ahci->ghc = AHCI_GHC_ENABLE;
    ahci->is = 0;
    for (unsigned i = 0; i < AHCI_PORTS; i++)
        ahci_reset_port(&ahci->ports[i]);
    ahci->resetting = true;
    finish_host_reset(ahci);
    ahci_update_irq(ahci);
}

void ahci_control_link(struct ahci_port *port, uint32_t value)
{
    uint32_t before = port->sctl & 15, now = value & 15;
    port->sctl = value & 0xfff;
    if (now == before)
        return;
    if (now == 1 || now == 4) {
        ahci_cancel(port);
        port->link_waits = false;
        port->ssts = now == 4 ? AHCI_SSTS_OFFLINE : 0;
        port->tfd = AHCI_TFD_NONE;
    } else if (now == 0) {
        port->link_waits = true;
        if (!port->draining)
            ahci_link_up(port);
    }
}

/* --- the end of commands --- */

static void finish_queued(struct ahci_command *command)
{
    struct ahci_port *port = command->port;
    uint32_t bit = UINT32_C(1) << command->slot;
    port->queued &= ~bit;
    if ((port->tfd & ATA_ERR) == 0) {
        port->sact &= ~bit;
        post_device_bits(port, bit);
        return;
    }
    post_device_bits(port, 0);
    port->halted = true;
    raise_irq(port, AHCI_IS_TASK_FILE);
}

static void finish_single(struct ahci_command *command)
{
    struct ahci_port *port = command->port;
    uint8_t bytes[4];
    port->busy = -1;
    store_le32(bytes, (uint32_t)command->moved);
    (void)mem_write(port->ahci->device.env->mem, command->header + 4, bytes, sizeof(bytes));
    if ((port->tfd & ATA_ERR) == 0) {
        port->ci &= ~(UINT32_C(1) << command->slot);
        if (command->end == AHCI_END_PIO_IN)
            post_pio(command, true, ATA_READY | ATA_DRQ, ATA_READY);
        else
            ahci_post_registers(port, command, true);
        return;
    }
    port->halted = true;
    ahci_post_registers(port, command, true);
    raise_irq(port, AHCI_IS_TASK_FILE);
}

bool ahci_is_pausing(const struct ahci_command *command, bool cancelled_by_disk)
{
    return cancelled_by_disk && command->port->ahci->quiesced && !command->cancelled;
}

void ahci_park(struct ahci_command *command)
{
    struct ahci_port *port = command->port;
    uint32_t bit = UINT32_C(1) << command->slot;
    free(command->ranges);
    command->ranges = NULL;
    command->active = false;
    port->in_flight--;
    port->queued &= ~bit;
    if (port->busy == (int)command->slot)
        port->busy = -1;
    port->ci |= bit;
}

void ahci_complete(struct ahci_command *command, uint8_t status, uint8_t error)
{
    struct ahci_port *port = command->port;
    free(command->ranges);
    command->ranges = NULL;
    command->active = false;
    port->in_flight--;
    if (command->cancelled) {
        if (port->in_flight == 0 && port->draining)
            drained(port);
        return;
    }
    port->tfd = (uint32_t)error << 8 | status;
    if (command->end == AHCI_END_QUEUED)
        finish_queued(command);
    else
        finish_single(command);
    /* A drive that reports an error has given up the other queued commands. */
    if (port->halted && port->queued != 0) {
        for (unsigned i = 0; i < AHCI_SLOTS; i++)
            if (port->commands[i].active)
                port->commands[i].cancelled = true;
        port->queued = 0;
        port->draining = true;
    }
    ahci_process(port);
}

/* --- their beginning --- */

static void run_control(struct ahci_port *port, unsigned slot, uint8_t control)
{
    bool reset = (control & CONTROL_SRST) != 0, was = port->in_reset;
    port->ci &= ~(UINT32_C(1) << slot);
    port->in_reset = reset;
    if (!was || reset)
        return;
    ata_power_on(&port->drive); /* the second of the two that are a software reset */
    port->tfd = 0x0100 | ATA_READY;
    ahci_post_registers(port, NULL, true);
}

static bool fetch(struct ahci_port *port, unsigned slot, uint8_t *fis)
{
    struct mem_space *mem = port->ahci->device.env->mem;
    struct ahci_command *command = &port->commands[slot];
    uint8_t header[32];
    uint64_t at = port->clb + 32u * slot;
    if (!mem_read(mem, at, header, sizeof(header)))
        return false;
    *command = (struct ahci_command){.port = port, .slot = (uint8_t)slot};
    command->header = at;
    command->entries = load_le16(header + 2);
    command->table = load_le64(header + 8) & ~UINT64_C(0x7f);
    return mem_read(mem, command->table, fis, 20) &&
           mem_read(mem, command->table + 0x40, command->packet, sizeof(command->packet));
}

/* False: nothing more can be started now. */
static bool issue(struct ahci_port *port, unsigned slot)
{
    struct ahci_command *command = &port->commands[slot];
    uint32_t bit = UINT32_C(1) << slot;
    uint8_t fis[20];
    if (!fetch(port, slot, fis)) {
        fail_port(port, AHCI_IS_HOST_FATAL, "a command list or table is not in memory");
        return false;
    }
    if (fis[0] != FIS_H2D) {
        fail_port(port, AHCI_IS_INTERFACE, "a command that is no register FIS");
        return false;
    }
    if ((fis[1] & FIS_COMMAND) == 0) {
        run_control(port, slot, fis[15]);
        return true;
    }
    command->opcode = fis[2];
    bool queued = ata_is_queued(port, command->opcode);
    if (!queued && port->queued != 0)
        return false; /* when those are done */
    command->features = (uint16_t)(fis[3] | fis[11] << 8);
    command->lba = (uint64_t)load_le16(fis + 4) | (uint64_t)fis[6] << 16 | (uint64_t)fis[8] << 24 |
                   (uint64_t)fis[9] << 32 | (uint64_t)fis[10] << 40;
    command->device = fis[7];
    command->count = load_le16(fis + 12);
    command->lba_out = command->lba;
    command->count_out = command->count;
    command->active = true;
    port->in_flight++;
    port->cmd = (port->cmd & ~UINT32_C(0x1f00)) | slot << 8;
    if (queued) {
        command->end = AHCI_END_QUEUED;
        port->queued |= bit;
        port->sact |= bit;
        port->ci &= ~bit;
        port->tfd = ATA_READY;
        ahci_post_registers(port, command, false);
    } else {
        port->busy = (int)slot;
        port->tfd = (port->tfd & 0xff00) | ATA_READY | ATA_BSY;
    }
    port->drive.unit.started++;
    port->drive.unit.last_command = command->opcode;
    ata_run(command);
    return true;
}

void ahci_process(struct ahci_port *port)
{
    struct ahci *ahci = port->ahci;
    if (port->processing) /* a command that ended at once: the loop below goes on */
        return;
    port->processing = true;
    while ((port->cmd & AHCI_CMD_START) != 0 && !port->halted && !port->draining &&
           port->busy < 0 && !ahci->quiesced && !ahci->resetting && ahci->dma &&
           port->ssts == AHCI_SSTS_UP) {
        unsigned slot = 0;
        while (slot < AHCI_SLOTS && ((port->ci >> slot & 1) == 0 || port->commands[slot].active))
            slot++;
        if (slot == AHCI_SLOTS || !issue(port, slot))
            break;
    }
    port->processing = false;
}
