/* SPDX-License-Identifier: MIT
 *
 * Between ahci.c (the host bus adapter: registers, command slots, data transfer) and
 * ahci_ata.c (the drives behind it: ATA disks, and ATAPI ones, which are dev/scsi.h's).
 *
 *     adapter: fetches a command            ata_run(command)
 *     drive:   ahci_window(), block_submit() ... as long as there is data
 *              ahci_complete(command, status, error)
 *
 * Lock: the adapter's, everywhere.
 */
#ifndef TRAPEZE_DEV_AHCI_INTERNAL_H
#define TRAPEZE_DEV_AHCI_INTERNAL_H

#include "base/log.h"
#include "block/block.h"
#include "bus/device.h"
#include "bus/pci.h"
#include "dev/scsi.h"

struct ahci;
struct ahci_port;

#define AHCI_PORTS 6u
#define AHCI_SLOTS 32u
/* Segments of one request to the disk: more than Linux's 168, and enough for 512 bytes of the
 * smallest segments that a driver may make. A packet command has one window for its data. */
#define AHCI_WINDOW 256u

/* ATA status and error registers. */
enum { ATA_ERR = 0x01, ATA_DRQ = 0x08, ATA_DF = 0x20, ATA_DRDY = 0x40, ATA_BSY = 0x80 };
#define ATA_READY 0x50u /* and seek complete, as was */
enum { ATA_ABRT = 0x04, ATA_IDNF = 0x10, ATA_UNC = 0x40 };

/* How a command that goes well ends (Serial ATA 3, 9.). */
enum ahci_end { AHCI_END_REGISTERS, AHCI_END_PIO_IN, AHCI_END_QUEUED };

struct ahci_command {
    struct ahci_port *port;
    uint8_t slot;
    bool active;    /* accepted and not finished */
    bool cancelled; /* nobody waits for it any more */
    enum ahci_end end;

    /* What the driver wrote. */
    uint8_t opcode, device;
    uint16_t features, count;
    uint64_t lba; /* 48 bits */
    uint8_t packet[16];

    /* Its data. */
    uint64_t header, table;     /* gpa */
    uint32_t entries;           /* of the table's segments */
    uint32_t entry, entry_done; /* how far windows have come: entry, and bytes of it */
    uint64_t moved;             /* bytes, ever */
    struct iovec iov[AHCI_WINDOW];
    uint64_t gpa[AHCI_WINDOW]; /* of each */
    unsigned iov_count;
    bool to_guest; /* the window is written to by the drive */

    /* What the drive does with it. */
    struct block_request io;
    uint64_t offset, left; /* on the disk; bytes of data to come */
    uint8_t *ranges;       /* of DATA SET MANAGEMENT; malloc()ed */
    bool flush;
    uint64_t lba_out; /* what registers say at the end */
    uint16_t count_out;
};

struct ata_drive {
    bool present, optical;
    char serial[21];
    struct scsi_unit unit; /* disks: only its disk, names and counts */
    struct scsi_task task; /* optical: the one at a time */

    /* What commands change. */
    bool write_cache, read_ahead, smart;
    uint8_t multiple; /* sectors of a READ MULTIPLE */
    bool failed;      /* a queued command has: what READ LOG tells */
    uint8_t failed_tag, failed_status, failed_error;
    uint64_t failed_lba;
};

struct ahci_port {
    struct ahci *ahci;
    uint8_t index;
    struct ata_drive drive;
    struct ahci_command commands[AHCI_SLOTS];
    unsigned in_flight; /* active ones, cancelled ones too */
    int busy;           /* slot of the command that is not queued, or -1 */
    bool halted;        /* after an error, until the driver restarts the port */
    bool draining;      /* cancelled commands have to come home before anything starts */
    bool link_waits;    /* ... and then the link comes up */
    bool in_reset;      /* the driver holds SRST */
    uint32_t queued;    /* accepted queued commands that are not finished */

    uint64_t clb, fb; /* gpa */
    uint32_t is, ie, cmd, tfd, sig, ssts, sctl, serr, sact, ci;
    bool processing;   /* ahci_process() is at work */
    uint32_t saved_ci; /* with what a restored machine has to carry out again */
};

/* Bits of port registers, and of GHC. */
#define AHCI_IS_D2H        UINT32_C(0x00000001)
#define AHCI_IS_PIO        UINT32_C(0x00000002)
#define AHCI_IS_SDB        UINT32_C(0x00000008)
#define AHCI_IS_CONNECT    UINT32_C(0x00000040) /* follow SERR, as the next does */
#define AHCI_IS_PHYRDY     UINT32_C(0x00400000)
#define AHCI_IS_OVERFLOW   UINT32_C(0x01000000)
#define AHCI_IS_INTERFACE  UINT32_C(0x08000000)
#define AHCI_IS_HOST_FATAL UINT32_C(0x20000000)
#define AHCI_IS_TASK_FILE  UINT32_C(0x40000000)
#define AHCI_IS_ALL        UINT32_C(0xfdc000ff)
#define AHCI_CMD_START     UINT32_C(0x00000001)
#define AHCI_CMD_SPUN_UP   UINT32_C(0x00000006) /* and powered: always */
#define AHCI_CMD_OVERRIDE  UINT32_C(0x00000008)
#define AHCI_CMD_FIS       UINT32_C(0x00000010)
#define AHCI_CMD_FIS_ON    UINT32_C(0x00004000)
#define AHCI_CMD_RUNS      UINT32_C(0x00008000)
#define AHCI_CMD_HOT_PLUG  UINT32_C(0x00040000)
#define AHCI_CMD_WRITABLE  UINT32_C(0x03000011) /* DLAE, ATAPI, FRE, ST */
#define AHCI_SSTS_UP       UINT32_C(0x133)      /* device present, 6 Gbit/s, active */
#define AHCI_SSTS_OFFLINE  UINT32_C(0x004)
#define AHCI_SERR_PHYRDY   UINT32_C(0x00010000)
#define AHCI_SERR_EXCHANGE UINT32_C(0x04000000)
#define AHCI_TFD_NONE      UINT32_C(0x7f)

#define AHCI_GHC_RESET  UINT32_C(1)
#define AHCI_GHC_IRQ    UINT32_C(2)
#define AHCI_GHC_ENABLE UINT32_C(0x80000000)

struct ahci {
    struct device device; /* first */
    struct pci_function function;
    struct ahci_port ports[AHCI_PORTS];
    uint32_t ghc, is;
    bool resetting, quiesced, dma;
    uint8_t saved_drives[AHCI_PORTS]; /* for the state table: 0 none, 1 disk, 2 optical */
    struct log_limit log_limit;
};

/* The drive's. */
void ata_power_on(struct ata_drive *drive);
/* The registers with which a drive says what it is, after any reset. */
void ata_signature(const struct ata_drive *drive, uint64_t *lba, uint16_t *count);
void ata_run(struct ahci_command *command);
bool ata_is_queued(const struct ahci_port *port, uint8_t opcode);

/* The port's: ahci_port.c. */
void ahci_update_irq(struct ahci *ahci);
void ahci_raise_error(struct ahci_port *port, uint32_t serr); /* SERR bits */
/* The drive, if there is one, comes out of a reset and tells what it is. */
void ahci_link_up(struct ahci_port *port);
void ahci_control_link(struct ahci_port *port, uint32_t value); /* a write of PxSCTL */
/* What was under way is of no interest any more. */
void ahci_cancel(struct ahci_port *port);
void ahci_reset_port(struct ahci_port *port);
void ahci_host_reset(struct ahci *ahci);
/* Starts what the driver has issued and can be started. */
void ahci_process(struct ahci_port *port);
/* A register FIS: the end of a command; NULL: the drive's signature. */
void ahci_post_registers(struct ahci_port *port, const struct ahci_command *command, bool irq);

/* For drives. */
/* The next part of the driver's buffer, of at most `limit` bytes: all of that, or as many whole
 * sectors as fit into command->iov. 0: there is no more, or it is not memory. */
uint64_t ahci_window(struct ahci_command *command, uint64_t limit, bool to_guest);
/* A few bytes to or from the driver; how many there were. */
size_t ahci_copy(struct ahci_command *command, void *data, size_t size, bool to_guest);
/* The drive has written into the window. */
void ahci_note_window(struct ahci_command *command);
/* Ends the command: `error` is the ATA error register, with ATA_ERR in the status. */
void ahci_complete(struct ahci_command *command, uint8_t status, uint8_t error);
/* A pause has taken the command from the disk, undone: it is issued again, as the driver did it. */
bool ahci_is_pausing(const struct ahci_command *command, bool cancelled_by_disk);
void ahci_park(struct ahci_command *command);
/* A transfer of PIO data from the driver begins. */
void ahci_pio_out(struct ahci_command *command);
pthread_mutex_t *ahci_lock(struct ahci_port *port);

extern const struct state_table ata_drive_state;

#endif
