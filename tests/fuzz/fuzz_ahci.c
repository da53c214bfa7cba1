/* SPDX-License-Identifier: MIT
 *
 * The AHCI controller and the drives behind it against a driver that does anything.
 *
 * Input: 1 byte (bit 0: the drive's kind of port 0 and 1 are exchanged), then records of 12
 * bytes (enum record). Checked beside asserts and sanitizers: the machine's state survives save,
 * restore, save unchanged at any point; a disc never changes.
 */
#include "fuzz_device.h"

#include <sys/mman.h>
#include <unistd.h>

#include "block/block.h"
#include "dev/drive_bus.h"
#include "virtio_guest.h"

extern const struct device_ops device_ahci;

#define SECTORS    64u
#define LIST(port) (GUEST_RAM + 0x10000 * (port))
#define TABLE      0x1000 /* behind the list; 0x100 for each slot */
#define PORTS      3u     /* a disk, a disc, nothing */

enum record {
    START,    /* port a: the driver's structures, FIS receive and start */
    REGISTER, /* b: where, c: what */
    REGISTER_READ,
    COMMAND, /* a: port and slot, b: operation and feature, c: lba, d: count, data */
    PACKET,  /* the same with a packet: b: operation, c, d: its bytes */
    ENTRY,   /* a: port and slot, b: which, c: address, d: length */
    ISSUE,   /* a: port, c: slots, d: of them queued */
    MEMORY,  /* RAM + 4 * b: c, d */
    RUN,
    DRIVE, /* comes, goes, changes its disc */
    PAUSE,
    MACHINE_RESET,
    SAVE_RESTORE,
    CONFIG_SPACE,
    RECORD_COUNT
};

struct target {
    struct guest g;
    struct block *disks[2];
    int fds[2];
    bool attached[2];
};

static void attach(struct target *t, unsigned index)
{
    const struct drive_params params = {
        .id = index == 0 ? "disk" : "disc", .disk = t->disks[index], .optical = index == 1};
    fuzz_check(ahci_drives.attach(t->g.device, &params, NULL));
    t->attached[index] = true;
}

static void target_make(struct target *t, uint8_t choice)
{
    uint8_t pattern[512];
    memset(t, 0, sizeof(*t));
    memset(pattern, 0x5a, sizeof(pattern));
    guest_init(&t->g, true);
    const struct block_env env = {
        .loop = t->g.loop, .clock = t->g.env.clock, .deterministic = true};
    for (unsigned i = 0; i < 2; i++) {
        t->fds[i] = memfd_create("fuzz", MFD_CLOEXEC);
        for (unsigned k = 0; k < SECTORS; k++)
            fuzz_check(write(t->fds[i], pattern, sizeof(pattern)) == sizeof(pattern));
        t->disks[i] = block_new_raw(dup(t->fds[i]), i == 1, &env, NULL);
        fuzz_check(t->disks[i] != NULL);
    }
    guest_plug(&t->g, &device_ahci, &(struct device_params){.id = "fuzz", .pci_slot = 3});
    attach(t, choice & 1);
    attach(t, ~choice & 1);
    guest_config_put(&t->g, PCI_REG_BAR0 + 20, (uint32_t)GUEST_BAR, 4);
    guest_config_put(&t->g, PCI_REG_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    guest_set_reg(&t->g, 4, 0x80000002, 4);
}

static void target_free(struct target *t)
{
    uint8_t sector[512];
    for (unsigned i = 0; i < SECTORS; i++) {
        fuzz_check(pread(t->fds[1], sector, 512, i * 512) == 512);
        for (unsigned b = 0; b < 512; b++)
            fuzz_check(sector[b] == 0x5a);
    }
    device_free(t->g.device);
    t->g.device = NULL;
    for (unsigned i = 0; i < 2; i++) {
        block_free(t->disks[i]);
        close(t->fds[i]);
    }
    guest_free(&t->g);
}

static void run(struct target *t)
{
    vclock_advance(t->g.env.clock, 60000);
    vclock_run_timers(t->g.env.clock);
}

static void put(struct target *t, uint64_t gpa, const void *data, size_t size)
{
    (void)mem_write(t->g.mem, gpa, data, size);
}

static void access_io(struct target *t, uint64_t gpa, uint8_t a, uint64_t value, bool write)
{
    unsigned size = 1u << (a & 3);
    uint64_t read;
    gpa = align_down(gpa, size);
    if (write)
        (void)mem_io_write(t->g.mem, gpa, size, value);
    else
        (void)mem_io_read(t->g.mem, gpa, size, &read);
}

static void set_reg(struct target *t, unsigned port, unsigned at, uint32_t value)
{
    access_io(t, GUEST_BAR + 0x100 + 0x80 * port + at, 2, value, true);
}

static void start(struct target *t, unsigned port)
{
    set_reg(t, port, 0x00, (uint32_t)LIST(port));
    set_reg(t, port, 0x08, (uint32_t)LIST(port) + 0x400);
    set_reg(t, port, 0x30, UINT32_MAX);
    set_reg(t, port, 0x10, UINT32_MAX);
    set_reg(t, port, 0x14, UINT32_MAX);
    set_reg(t, port, 0x18, 0x11);
}

/* A command in its slot, with one to three segments of data. */
static void command(struct target *t, uint8_t a, uint16_t b, uint32_t c, uint32_t d, bool packet)
{
    unsigned port = (a & 3) % PORTS, slot = a >> 2 & 7;
    uint64_t table = LIST(port) + TABLE + 0x100 * slot;
    uint8_t header[32] = {5, 0, (uint8_t)(1 + (d >> 28 & 3))}, fis[20] = {0x27, 0x80};
    store_le64(header + 8, table);
    fis[2] = packet ? 0xa0 : (uint8_t)b;
    fis[3] = packet ? 1 : (uint8_t)(b >> 8);
    store_le32(fis + 4, c & 0xffffff);
    fis[7] = (uint8_t)(0x40 | c >> 24);
    store_le16(fis + 12, (uint16_t)d);
    if ((fis[2] & 0xfe) == 0x60)
        fis[12] = (uint8_t)(slot << 3);
    if ((d >> 30) == 3)
        fis[1] = (uint8_t)(d >> 16); /* a control, perhaps */
    put(t, LIST(port) + 32 * slot, header, sizeof(header));
    put(t, table, fis, sizeof(fis));
    if (packet) {
        uint8_t cdb[16] = {(uint8_t)b, (uint8_t)(b >> 8)};
        store_le32(cdb + 2, c & 0x07000007);
        store_le32(cdb + 6, d & 0x00ffffff);
        put(t, table + 0x40, cdb, sizeof(cdb));
    }
    for (unsigned i = 0; i < 4; i++) {
        uint8_t entry[16] = {0};
        store_le64(entry, GUEST_DATA + 0x20000 + (d >> 20 & 0xf) * 64 + 0x2000 * i);
        store_le32(entry + 12, ((d >> 16 & 0xf) * 512 + 511) & 0x3fffff);
        put(t, table + 0x80 + 16 * i, entry, sizeof(entry));
    }
}

static void entry(struct target *t, uint8_t a, uint16_t b, uint32_t c, uint32_t d)
{
    uint8_t bytes[16] = {0};
    uint64_t gpa = GUEST_DATA + (c & 0x3ffff);
    if ((c & 0x80000000) != 0)
        gpa = (uint64_t)c << (b >> 8 & 31);
    store_le64(bytes, gpa);
    store_le32(bytes + 12, d);
    put(t, LIST((a & 3) % PORTS) + TABLE + 0x100 * (a >> 2 & 7) + 0x80 + 16 * (b & 7), bytes,
        sizeof(bytes));
}

static void drive(struct target *t, uint8_t a)
{
    unsigned index = a & 1;
    const char *id = index == 0 ? "disk" : "disc";
    struct drive_activity activity;
    if (!t->attached[index]) {
        attach(t, index);
        return;
    }
    ahci_drives.activity(t->g.device, id, &activity);
    if ((a & 2) != 0) {
        ahci_drives.detach(t->g.device, id);
        t->attached[index] = false;
    } else if (index == 1 && (a & 4) != 0) {
        ahci_drives.insert(t->g.device, id, (a & 8) != 0 ? t->disks[1] : NULL);
    } else if (index == 1) {
        (void)ahci_drives.eject(t->g.device, id);
    }
}

static void step(struct target *t, struct fuzz_input *input)
{
    struct device *device = t->g.device;
    uint8_t kind = (uint8_t)fuzz_take(input, 1), a = (uint8_t)fuzz_take(input, 1);
    uint16_t b = (uint16_t)fuzz_take(input, 2);
    uint32_t c = (uint32_t)fuzz_take(input, 4), d = (uint32_t)fuzz_take(input, 4);
    uint64_t wide = (uint64_t)d << 32 | c;
    unsigned port = (a & 3) % PORTS;
    switch (kind % RECORD_COUNT) {
    case START:
        start(t, port);
        break;
    case REGISTER:
    case REGISTER_READ:
        access_io(t, GUEST_BAR + (b & 0xfff), a, wide, kind % RECORD_COUNT == REGISTER);
        break;
    case COMMAND:
    case PACKET:
        command(t, a, b, c, d, kind % RECORD_COUNT == PACKET);
        break;
    case ENTRY:
        entry(t, a, b, c, d);
        break;
    case ISSUE:
        set_reg(t, port, 0x34, d);
        set_reg(t, port, 0x38, c);
        break;
    case MEMORY:
        put(t, GUEST_RAM + 4 * (uint64_t)b, &wide, sizeof(wide));
        break;
    case RUN:
        run(t);
        break;
    case DRIVE:
        drive(t, a);
        break;
    case PAUSE:
        device->ops->quiesce(device);
        run(t);
        device->ops->unquiesce(device);
        break;
    case MACHINE_RESET:
        fuzz_machine_reset(device);
        break;
    case SAVE_RESTORE:
        fuzz_save_restore(device, c, a);
        break;
    case CONFIG_SPACE:
        access_io(t, guest_config_gpa(t->g.slot, b & 255), a, wide, true);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    struct target *t = malloc(sizeof(*t));
    target_make(t, (uint8_t)fuzz_take(&input, 1));
    while (input.left > 0)
        step(t, &input);
    run(t);
    target_free(t);
    free(t);
    return 0;
}

/* A driver that mostly works: commands in slots, issued; errors, after which it starts anew. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const uint8_t ata[] = {0x60, 0x61, 0x25, 0x35, 0xc8, 0xca, 0x24, 0x34, 0xc4, 0xc5, 0x06,
                                  0xea, 0xec, 0xa1, 0xef, 0x2f, 0x47, 0xb0, 0xe5, 0x42, 0xf8, 0xc6};
    static const uint8_t packets[] = {0x00, 0x03, 0x12, 0x28, 0x25, 0x43, 0x46,
                                      0x4a, 0x51, 0x5a, 0x1b, 0x1e, 0xbe, 0xa8};
    uint8_t *at = data;
    *at++ = (uint8_t)fuzz_random(seed);
    unsigned noise = (unsigned)(fuzz_random(seed) % 25);
    fuzz_add(&at, START, 0, 0, 0, 0);
    fuzz_add(&at, START, 1, 0, 0, 0);
    for (unsigned i = (unsigned)(fuzz_random(seed) % 60); i > 0; i--) {
        uint64_t r = fuzz_random(seed), s = fuzz_random(seed);
        uint8_t slot = r & 7, port = r >> 3 & 1;
        bool packet = (r >> 4 & 1) != 0;
        uint8_t operation =
            packet ? packets[(r >> 8) % sizeof(packets)] : ata[(r >> 8) % sizeof(ata)];
        uint16_t feature = (r >> 20 & 3) != 0 ? 1 : (uint16_t)(r >> 24 & 0xff);
        uint32_t where = (r >> 40 & 7) != 0 ? (uint32_t)(s & 63) : (uint32_t)s;
        uint32_t how = (uint32_t)(s >> 32 & ((r >> 43 & 7) != 0 ? 0x3fff0007 : 0xffffffff));
        fuzz_add(&at, packet ? PACKET : COMMAND, (uint8_t)(port | slot << 2),
                 (uint16_t)(feature << 8 | operation), where, how);
        if ((r >> 46 & 3) != 0)
            fuzz_add(&at, ISSUE, port, 0, 1u << slot, (operation & 0xfe) == 0x60 ? 1u << slot : 0);
        if ((r >> 48 & 3) == 0)
            fuzz_add(&at, RUN, 0, 0, 0, 0);
        if ((r >> 50 & 7) == 0)
            fuzz_add(&at, START, port, 0, 0, 0);
        if ((r >> 53 & 15) == 0)
            fuzz_add(&at, DRIVE, (uint8_t)(r >> 57), 0, 0, 0);
        if (fuzz_random(seed) % 100 < noise) {
            uint64_t x = fuzz_random(seed), y = fuzz_random(seed);
            uint16_t b = (uint16_t)(x >> 16);
            if (x >> 9 & 1)
                b &= 0x1bf; /* where the registers are */
            fuzz_add(&at, (uint8_t)x, (uint8_t)(x >> 8), b, (uint32_t)y, (uint32_t)(y >> 32));
        }
    }
    return (size_t)(at - data);
}
