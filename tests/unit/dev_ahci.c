/* SPDX-License-Identifier: MIT
 *
 * dev/ahci*.c as a driver sees it.
 */
#include "dev/drive_bus.h"
#include "disk_fixture.h"

extern const struct device_ops device_ahci;

#define SECTORS 4096u

/* Registers, and where the driver has its structures for a port. */
enum { GHC = 0x04, HOST_IS = 0x08 };
enum {
    CLB = 0x00,
    FB = 0x08,
    IS = 0x10,
    IE = 0x14,
    CMD = 0x18,
    TFD = 0x20,
    SIG = 0x24,
    SSTS = 0x28
};
enum { SCTL = 0x2c, SERR = 0x30, SACT = 0x34, CI = 0x38 };
#define LIST(port)        (GUEST_RAM + 0x10000 * (port))
#define FIS(port)         (LIST(port) + 0x400)
#define TABLE(port, slot) (LIST(port) + 0x1000 + 0x400 * (slot))
#define DATA              (GUEST_RAM + 0x100000)

static uint32_t reg(struct fixture *f, unsigned port, unsigned at)
{
    return guest_reg(&f->g, 0x100 + 0x80 * port + at, 4);
}

static void set_reg(struct fixture *f, unsigned port, unsigned at, uint32_t value)
{
    guest_set_reg(&f->g, 0x100 + 0x80 * port + at, value, 4);
}

static void start_port(struct fixture *f, unsigned port)
{
    set_reg(f, port, CLB, (uint32_t)LIST(port));
    set_reg(f, port, FB, (uint32_t)FIS(port));
    set_reg(f, port, SERR, UINT32_MAX);
    set_reg(f, port, IS, UINT32_MAX);
    set_reg(f, port, IE, 0x7dc0007f);
    set_reg(f, port, CMD, 0x10);
    set_reg(f, port, CMD, 0x11);
}

static void start_host(struct fixture *f)
{
    guest_config_put(&f->g, PCI_REG_BAR0 + 20, (uint32_t)GUEST_BAR, 4);
    guest_config_put(&f->g, PCI_REG_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    guest_set_reg(&f->g, GHC, 0x80000002, 4);
    start_port(f, 0);
    start_port(f, 1);
}

static int setup(void **state)
{
    static const struct block_options stop = {.rerror = BLOCK_ERROR_STOP};
    struct fixture *f = fixture_begin(SECTORS, true);
    f->disk = fixture_disk(f, false, &stop);
    f->disc = fixture_disk(f, true, &stop);
    guest_plug(&f->g, &device_ahci, &(struct device_params){.id = "ahci0"});
    const struct drive_params disk = {.id = "disk0", .disk = f->disk, .serial = "SERIAL-1"},
                              disc = {.id = "disk1", .disk = f->disc, .optical = true};
    assert_true(ahci_drives.attach(f->g.device, &disk, NULL));
    assert_true(ahci_drives.attach(f->g.device, &disc, NULL));
    start_host(f);
    *state = f;
    return 0;
}

struct ata {
    uint8_t opcode, device;
    uint16_t features, count;
    uint64_t lba;
    const uint8_t *packet;
    uint32_t bytes; /* of data, at DATA + 0x10000 * slot, in pieces of `piece` */
    uint32_t piece;
};

/* Writes a command into a slot, without issuing it. */
static void prepare(struct fixture *f, unsigned port, unsigned slot, const struct ata *ata)
{
    uint8_t *header = ram(f, LIST(port) + 32 * slot), *table = ram(f, TABLE(port, slot));
    uint32_t entries = 0, piece = ata->piece != 0 ? ata->piece : 65536;
    memset(header, 0, 32);
    memset(table, 0, 0x80);
    table[0] = 0x27;
    table[1] = 0x80;
    table[2] = ata->opcode;
    table[3] = (uint8_t)ata->features;
    table[11] = (uint8_t)(ata->features >> 8);
    for (unsigned i = 0; i < 3; i++) {
        table[4 + i] = (uint8_t)(ata->lba >> (8 * i));
        table[8 + i] = (uint8_t)(ata->lba >> (8 * i + 24));
    }
    table[7] = ata->device;
    store_le16(table + 12, ata->count);
    if (ata->packet != NULL)
        memcpy(table + 0x40, ata->packet, 12);
    for (uint32_t at = 0; at < ata->bytes; at += piece, entries++) {
        uint32_t size = ata->bytes - at < piece ? ata->bytes - at : piece;
        uint8_t *entry = ram(f, TABLE(port, slot) + 0x80 + 16 * entries);
        store_le64(entry, DATA + 0x10000 * slot + at);
        store_le32(entry + 12, size - 1);
    }
    store_le32(header, 5 | entries << 16);
    store_le64(header + 8, TABLE(port, slot));
}

/* Carries one out; returns PxTFD. */
static uint32_t run(struct fixture *f, unsigned port, const struct ata *ata)
{
    prepare(f, port, 0, ata);
    set_reg(f, port, CI, 1);
    settle(f);
    if ((reg(f, port, TFD) & 1) == 0)
        assert_int_equal(reg(f, port, CI), 0);
    return reg(f, port, TFD);
}

#define RUN(f, port, ...) run(f, port, &(const struct ata){__VA_ARGS__})

static void restart(struct fixture *f, unsigned port)
{
    set_reg(f, port, CMD, 0x10);
    settle(f);
    assert_int_equal(reg(f, port, CMD) & 0x8000, 0);
    set_reg(f, port, IS, UINT32_MAX);
    set_reg(f, port, CMD, 0x11);
}

static void test_ports(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(guest_config_get(&f->g, PCI_REG_REVISION, 4) >> 8, 0x010601);
    assert_int_equal(reg(f, 0, SSTS), 0x133);
    assert_int_equal(reg(f, 0, SIG), 0x101);
    assert_int_equal(reg(f, 1, SIG), 0xeb140101);
    assert_int_equal(reg(f, 2, SSTS), 0);
    assert_int_equal(reg(f, 2, TFD), 0x7f);
    assert_int_equal(reg(f, 0, CMD) & 0xc017, 0xc017);
}

static void test_identify(void **state)
{
    struct fixture *f = *state;
    uint8_t sum = 0;
    assert_int_equal(RUN(f, 0, .opcode = 0xec, .bytes = 512), 0x50);
    const uint8_t *data = ram(f, DATA);
    assert_memory_equal(data + 20, "ESIRLA1-            ", 20); /* bytes of words swapped */
    assert_int_equal(load_le64(data + 200), SECTORS);
    assert_int_equal(load_le16(data + 150), 31);
    for (unsigned i = 0; i < 512; i++)
        sum = (uint8_t)(sum + data[i]);
    assert_int_equal(sum, 0);
    assert_int_equal(reg(f, 0, IS), 2); /* PIO set-up */
    assert_int_equal(guest_reg(&f->g, HOST_IS, 4), 1);
    assert_int_not_equal(f->g.irq_levels, 0);
    set_reg(f, 0, IS, 2);
    guest_set_reg(&f->g, HOST_IS, 1, 4);
    assert_int_equal(f->g.irq_levels, 0);
    assert_int_equal(load_le32(ram(f, LIST(0) + 4)), 512); /* bytes moved */
    assert_int_equal(RUN(f, 0, .opcode = 0xa1, .bytes = 512), 0x0451);
    restart(f, 0);
    assert_int_equal(RUN(f, 1, .opcode = 0xec, .bytes = 512), 0x0451);
    assert_memory_equal(ram(f, FIS(1) + 0x44), "\x01\x14\xeb", 3); /* it is another kind */
    restart(f, 1);
    assert_int_equal(RUN(f, 1, .opcode = 0xa1, .bytes = 512), 0x50);
    assert_int_equal(load_le16(ram(f, DATA)), 0x85c0);
}

static void test_reads_and_writes(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint8_t read, write;
        bool queued, wide;
    } kinds[] = {{0xc8, 0xca, false, false}, {0x25, 0x35, false, true},  {0x20, 0x30, false, false},
                 {0x24, 0x34, false, true},  {0xc4, 0xc5, false, false}, {0x60, 0x61, true, true},
                 {0x25, 0x3d, false, true}};
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
        for (unsigned piece = 2; piece <= 4096; piece *= 8) {
            struct ata ata = {.opcode = kinds[i].write,
                              .device = 0x40,
                              .lba = 7,
                              .bytes = 1024,
                              .piece = piece,
                              .count = 2};
            if (1024 / piece * 16 > 0x380 - 0x80)
                ata.piece = 64; /* the table is no longer than that here */
            if (kinds[i].queued)
                ata.features = 2, ata.count = 0;
            memset(ram(f, DATA), 0x80 + (int)i, 1024);
            assert_int_equal(run(f, 0, &ata), 0x50);
            assert_int_equal(reg(f, 0, SACT), 0);
            assert_int_equal(file_byte(f, 7), 0x80 + i);
            assert_int_equal(file_byte(f, 8), 0x80 + i);
            assert_int_equal(file_byte(f, 9), 9);
            memset(ram(f, DATA), 0, 1536);
            ata.opcode = kinds[i].read;
            assert_int_equal(run(f, 0, &ata), 0x50);
            assert_int_equal(*ram(f, DATA), 0x80 + i);
            assert_int_equal(*ram(f, DATA + 1023), 0x80 + i);
            assert_int_equal(*ram(f, DATA + 1024), 0);
        }
    assert_int_equal(RUN(f, 0, .opcode = 0xea), 0x50);
}

/* More segments than a request to the disk takes, of the smallest size: window by window. */
static void test_many_segments(void **state)
{
    struct fixture *f = *state;
    const uint64_t table = GUEST_RAM + 0x80000;
    prepare(f, 0, 0, &(struct ata){.opcode = 0x25, .device = 0x40, .lba = 1, .count = 4});
    memcpy(ram(f, table), ram(f, TABLE(0, 0)), 0x80);
    for (unsigned i = 0; i < 1024; i++) {
        uint8_t *entry = ram(f, table + 0x80 + 16 * i);
        store_le64(entry, DATA + 4 * i);
        store_le32(entry + 12, 1);
    }
    store_le32(ram(f, LIST(0)), 5 | 1024u << 16);
    store_le64(ram(f, LIST(0) + 8), table);
    set_reg(f, 0, CI, 1);
    settle(f);
    assert_int_equal(reg(f, 0, TFD), 0x50);
    assert_int_equal(load_le32(ram(f, LIST(0) + 4)), 2048);
    for (unsigned i = 0; i < 1024; i++) {
        assert_int_equal(*ram(f, DATA + 4 * i), 1 + i / 256);
        assert_int_equal(*ram(f, DATA + 4 * i + 2), 0);
    }
}

static void test_queued_errors(void **state)
{
    struct fixture *f = *state;
    for (unsigned slot = 0; slot < 4; slot++)
        prepare(f, 0, slot,
                &(struct ata){.opcode = 0x60,
                              .device = 0x40,
                              .features = 1,
                              .bytes = 512,
                              .count = (uint16_t)(slot << 3),
                              .lba = slot == 2 ? SECTORS : slot});
    set_reg(f, 0, SACT, 15);
    set_reg(f, 0, CI, 15);
    settle(f);
    assert_int_equal(reg(f, 0, TFD), 0x1051);
    assert_int_not_equal(reg(f, 0, IS) & 0x40000000, 0);
    assert_int_not_equal(reg(f, 0, SACT) & 4, 0);
    restart(f, 0);
    assert_int_equal(reg(f, 0, SACT), 0);
    assert_int_equal(RUN(f, 0, .opcode = 0x2f, .lba = 0x10, .count = 1, .bytes = 512), 0x50);
    const uint8_t *log = ram(f, DATA);
    assert_int_equal(log[0], 2); /* the tag */
    assert_int_equal(log[2], 0x51);
    assert_int_equal(log[3], 0x10);
    assert_int_equal(load_le16(log + 4), SECTORS);
    assert_int_equal(RUN(f, 0, .opcode = 0x60, .device = 0x40, .features = 1, .bytes = 512), 0x50);
}

static void test_what_cannot_be(void **state)
{
    struct fixture *f = *state;
    static const struct {
        struct ata ata;
        uint32_t tfd;
    } cases[] = {
        {{.opcode = 0x25, .device = 0x40, .lba = SECTORS - 1, .count = 2, .bytes = 1024}, 0x1051},
        {{.opcode = 0x25, .device = 0x40, .count = 2, .bytes = 512}, 0x0451}, /* too short */
        {{.opcode = 0xff}, 0x0451},
        {{.opcode = 0xa0}, 0x0451},
        {{.opcode = 0x06, .features = 1, .count = 9, .bytes = 9 * 512}, 0x0451},
        {{.opcode = 0xef, .features = 0x77}, 0x0451},
        {{.opcode = 0xb0, .features = 0xda, .lba = 0}, 0x0451},
        {{.opcode = 0x60, .device = 0x40, .features = 1, .count = 5 << 3, .bytes = 512}, 0x0451},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(run(f, 0, &cases[i].ata), cases[i].tfd);
        assert_int_not_equal(reg(f, 0, IS) & 0x40000000, 0);
        restart(f, 0);
    }
    /* Structures that are not in memory stop the port, nothing else. */
    set_reg(f, 0, CLB, 0x1000);
    set_reg(f, 0, CI, 1);
    assert_int_not_equal(reg(f, 0, IS) & 0x20000000, 0);
    restart(f, 0);
    set_reg(f, 0, CLB, (uint32_t)LIST(0));
    assert_int_equal(RUN(f, 0, .opcode = 0xe5), 0x50);
    assert_int_equal(*ram(f, FIS(0) + 0x40 + 12), 0xff); /* active */
}

static void test_trim_and_settings(void **state)
{
    struct fixture *f = *state;
    memset(ram(f, DATA), 0, 512);
    store_le64(ram(f, DATA), UINT64_C(3) << 48 | 100);
    store_le64(ram(f, DATA + 8), UINT64_C(1) << 48 | 110);
    assert_int_equal(RUN(f, 0, .opcode = 0x06, .features = 1, .count = 1, .bytes = 512), 0x50);
    assert_int_equal(file_byte(f, 99), 99);
    assert_int_equal(file_byte(f, 102), 0);
    assert_int_equal(file_byte(f, 103), 103);
    assert_int_equal(file_byte(f, 110), 0);
    prepare(f, 0, 0, &(struct ata){.opcode = 0xef, .features = 0x82});
    set_reg(f, 0, CI, 1);
    assert_int_equal(reg(f, 0, CI), 1); /* the cache is written out before it is off */
    settle(f);
    assert_int_equal(reg(f, 0, CI), 0);
    assert_int_equal(reg(f, 0, TFD), 0x50);
    assert_int_equal(RUN(f, 0, .opcode = 0xec, .bytes = 512), 0x50);
    assert_int_equal(load_le16(ram(f, DATA + 170)) & 0x60, 0x40);
    assert_int_equal(RUN(f, 0, .opcode = 0xb0, .features = 0xda, .lba = 0xc24f00), 0x50);
    assert_memory_equal(ram(f, FIS(0) + 0x45), "\x4f\xc2", 2);
}

static void test_resets(void **state)
{
    struct fixture *f = *state;
    /* In the middle of a command: the port and the link come back when it has ended. */
    for (unsigned how = 0; how < 3; how++) {
        prepare(f, 0, 3, &(struct ata){.opcode = 0x25, .device = 0x40, .count = 8, .bytes = 4096});
        set_reg(f, 0, CI, 8);
        assert_int_equal(reg(f, 0, TFD) & 0x80, 0x80);
        if (how == 0) {
            set_reg(f, 0, CMD, 0x10);
            assert_int_equal(reg(f, 0, CMD) & 0x8000, 0x8000);
        } else if (how == 1) {
            set_reg(f, 0, SCTL, 0x301);
            assert_int_equal(reg(f, 0, SSTS), 0);
            set_reg(f, 0, SCTL, 0x300);
            assert_int_equal(reg(f, 0, SSTS), 0);
        } else {
            guest_set_reg(&f->g, GHC, 0x80000001, 4);
            assert_int_equal(guest_reg(&f->g, GHC, 4) & 1, 1);
        }
        settle(f);
        assert_int_equal(reg(f, 0, SSTS), 0x133);
        assert_int_equal(reg(f, 0, CI), 0);
        assert_int_equal(guest_reg(&f->g, GHC, 4) & 1, 0);
        assert_int_equal(reg(f, 0, SIG), 0x101);
        start_host(f);
        assert_int_equal(RUN(f, 0, .opcode = 0xec, .bytes = 512), 0x50);
    }
}

static void test_packets(void **state)
{
    struct fixture *f = *state;
    const uint8_t ready[12] = {0}, capacity[12] = {0x25}, sense[12] = {0x03, [4] = 18};
    const uint8_t read[12] = {0x28, [5] = 3, [8] = 2}, inquiry[12] = {0x12, [4] = 36};
    assert_int_equal(RUN(f, 1, .opcode = 0xa0, .packet = ready), 0x6451); /* unit attention */
    restart(f, 1);
    assert_int_equal(RUN(f, 1, .opcode = 0xa0, .packet = sense, .bytes = 18), 0x50);
    assert_int_equal(*ram(f, DATA + 12), 0x29);
    assert_int_equal(RUN(f, 1, .opcode = 0xa0, .packet = ready), 0x50);
    assert_int_equal(RUN(f, 1, .opcode = 0xa0, .packet = inquiry, .bytes = 96), 0x50);
    assert_int_equal(load_le32(ram(f, LIST(1) + 4)), 36);
    assert_int_equal(RUN(f, 1, .opcode = 0xa0, .packet = capacity, .bytes = 8), 0x50);
    assert_memory_equal(ram(f, DATA), "\x00\x00\x03\xff\x00\x00\x08\x00", 8);
    assert_int_equal(RUN(f, 1, .opcode = 0xa0, .features = 1, .packet = read, .bytes = 4096), 0x50);
    assert_int_equal(*ram(f, DATA), 12);
    assert_int_equal(*ram(f, DATA + 4095), 19);
    assert_int_equal(RUN(f, 1, .opcode = 0xa0, .features = 1, .packet = read, .bytes = 2048),
                     0xb451); /* the data does not fit */
}

static void test_hot_plug(void **state)
{
    struct fixture *f = *state;
    const struct drive_params params = {.id = "disk0", .disk = f->disk};
    prepare(f, 0, 0, &(struct ata){.opcode = 0x25, .device = 0x40, .count = 8, .bytes = 4096});
    set_reg(f, 0, CI, 1);
    ahci_drives.detach(f->g.device, "disk0");
    assert_int_equal(reg(f, 0, SSTS), 0);
    assert_int_not_equal(reg(f, 0, IS) & 0x400000, 0); /* PhyRdy changed */
    set_reg(f, 0, SERR, UINT32_MAX);
    assert_int_equal(reg(f, 0, IS) & 0x400000, 0);
    assert_true(ahci_drives.attach(f->g.device, &params, NULL));
    assert_int_equal(reg(f, 0, SSTS), 0x133);
    assert_int_not_equal(reg(f, 0, IS) & 0x40, 0);
    restart(f, 0);
    assert_int_equal(RUN(f, 0, .opcode = 0xec, .bytes = 512), 0x50);
}

/* What the disk holds because an error stopped the machine is saved, and done in the end. */
static void test_what_stopped_the_machine(void **state)
{
    struct fixture *f = *state;
    struct device *device = f->g.device;
    struct state_buffer first = {0}, second = {0};
    size_t at = 0;
    assert_int_equal(RUN(f, 1, .opcode = 0xa0, .packet = (const uint8_t[12]){0}) & 1, 1);
    restart(f, 1); /* the unit attention condition has been told */
    fixture_damage(f);
    prepare(f, 0, 3,
            &(struct ata){.opcode = 0x60, .features = 1, .count = 3 << 3, .lba = 8, .bytes = 512});
    prepare(f, 1, 0,
            &(struct ata){.opcode = 0xa0,
                          .packet = (const uint8_t[12]){0x28, [5] = 2, [8] = 1},
                          .bytes = 2048});
    set_reg(f, 0, SACT, 1 << 3);
    set_reg(f, 0, CI, 1 << 3);
    set_reg(f, 1, CI, 1);
    settle(f);
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(reg(f, 0, SACT), 1 << 3);
        assert_int_equal(reg(f, 1, CI), 1);
        device->ops->quiesce(device);
        assert_false(block_is_stopped(f->disk) || block_is_stopped(f->disc));
        if (round == 0)
            device->ops->unquiesce(device); /* it stops again */
        settle(f);
    }
    state_save(device->ops->state, device, &first);
    assert_true(state_restore(device->ops->state, device, first.data, first.size, &at, NULL));
    state_save(device->ops->state, device, &second);
    assert_int_equal(first.size, second.size);
    assert_memory_equal(first.data, second.data, first.size);
    fixture_mend(f);
    device->ops->unquiesce(device);
    settle(f);
    assert_int_equal(reg(f, 0, SACT) | reg(f, 0, CI) | reg(f, 1, CI), 0);
    assert_int_equal((reg(f, 0, TFD) | reg(f, 1, TFD)) & 1, 0);
    assert_int_equal(*ram(f, DATA + 0x10000 * 3), 8);
    assert_int_equal(*ram(f, DATA), 8);
    state_buffer_free(&first);
    state_buffer_free(&second);
}

static void test_a_reset_of_what_stopped_the_machine(void **state)
{
    struct fixture *f = *state;
    struct device *device = f->g.device;
    fixture_damage(f);
    prepare(f, 0, 0,
            &(struct ata){.opcode = 0x25, .device = 0x40, .lba = 8, .count = 1, .bytes = 512});
    set_reg(f, 0, CI, 1);
    settle(f);
    device->ops->quiesce(device);
    device->ops->reset(device);
    device->ops->unquiesce(device);
    fixture_mend(f);
    start_host(f);
    assert_int_equal(RUN(f, 0, .opcode = 0x25, .device = 0x40, .lba = 8, .count = 1, .bytes = 512),
                     0x50);
    assert_int_equal(*ram(f, DATA), 8);
}

static void test_state(void **state)
{
    struct fixture *f = *state;
    struct device *device = f->g.device;
    struct state_buffer first = {0}, second = {0};
    size_t at = 0;
    struct error *err = NULL;
    /* What is issued and not done is carried out where the machine goes on. */
    memset(ram(f, DATA), 0, 512);
    device->ops->quiesce(device);
    prepare(f, 0, 0,
            &(struct ata){.opcode = 0x25, .device = 0x40, .lba = 5, .count = 1, .bytes = 512});
    set_reg(f, 0, CI, 1);
    state_save(device->ops->state, device, &first);
    assert_true(state_restore(device->ops->state, device, first.data, first.size, &at, &err));
    assert_no_error(err);
    state_save(device->ops->state, device, &second);
    assert_int_equal(first.size, second.size);
    assert_memory_equal(first.data, second.data, first.size);
    device->ops->unquiesce(device);
    settle(f);
    assert_int_equal(*ram(f, DATA), 5);
    device->ops->quiesce(device);
    ahci_drives.detach(device, "disk1");
    at = 0;
    assert_false(state_restore(device->ops->state, device, first.data, first.size, &at, NULL));
    device->ops->unquiesce(device);
    state_buffer_free(&first);
    state_buffer_free(&second);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, fixture_end)
    const struct CMUnitTest tests[] = {
        TEST(test_ports),
        TEST(test_identify),
        TEST(test_reads_and_writes),
        TEST(test_many_segments),
        TEST(test_queued_errors),
        TEST(test_what_cannot_be),
        TEST(test_trim_and_settings),
        TEST(test_resets),
        TEST(test_packets),
        TEST(test_hot_plug),
        TEST(test_what_stopped_the_machine),
        TEST(test_a_reset_of_what_stopped_the_machine),
        TEST(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
