/* SPDX-License-Identifier: MIT
 *
 * Each virtio device, its transports and the PCI bus against a driver that does anything.
 *
 * Input: 1 byte that chooses the device, then records of 12 bytes, each one thing that the
 * driver, the backend or the machine does (enum record). Everything arrives as it would from
 * a vCPU. The checks are those of asserts and sanitizers, and: the machine's state survives
 * save, restore, save unchanged at any point; a disk never changes where it is read-only.
 */
#include "fuzz_device.h"

#include <sys/mman.h>
#include <unistd.h>

#include "block/block.h"
#include "dev/drive_bus.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_rng.h"
#include "disk.h"
#include "doorbells.h"
#include "virtio_guest.h"

#define DISK_SECTORS 64u

enum kind { BLK, BLK_READ_ONLY, CONSOLE, RNG, INPUT, BALLOON, SCSI, SCSI_CD, KIND_COUNT };

enum record {
    START,    /* negotiates and sets up every queue; c, d: features */
    REGISTER, /* writes BAR + b, c, in size a */
    REGISTER_READ,
    CONFIG_SPACE, /* writes configuration register b & 255 */
    CONFIG_READ,
    PUT_DESC,   /* a: queue and index, b: flags/next, c: address, d: length */
    PUT_MEMORY, /* RAM + (b * 4): c, d */
    BLK_HEADER, /* a: slot, b: type, c: sector; SCSI: b: how, c, d: of the CDB */
    OFFER,      /* a: queue, b: head */
    NOTIFY,
    RUN,     /* the event loop, or virtual time goes on */
    BACKEND, /* input, new terminal size, the power button */
    PAUSE,
    MACHINE_RESET,
    SAVE_RESTORE,
    QUEUE_RESET, /* of one queue, a; it is set up again unless that is under way */
    RECORD_COUNT
};

struct target {
    struct guest g;
    struct doorbells bells;
    enum kind kind;
    struct block *disk;
    int disk_fd;
    unsigned sectors;
    bool stops; /* the disk has several queues, and its errors stop the machine */
    struct char_backend chr;
    struct power_button button;
    struct balloon balloon;
    bool attached; /* the SCSI drive */
};

static void swallow(struct char_backend *backend, const uint8_t *data, size_t size)
{
    (void)backend;
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + data[i]); /* so that a sanitizer sees it read */
    *(volatile uint8_t *)&sum;
}

static void swallow_message(void *sink, uint64_t address, uint32_t data)
{
    (void)sink, (void)data;
    fuzz_check(address % 4 == 0);
}

static void resume_input(struct char_backend *backend)
{
    static const uint8_t text[] = "more";
    if (backend->on_input != NULL)
        (void)backend->on_input(backend->device, text, sizeof(text));
}

/* The machine stands still soon; until then, and if it never does, requests are held. */
static void on_stopped(void *opaque, struct block *block, enum block_kind kind, int error)
{
    (void)opaque, (void)block, (void)kind, (void)error;
}

static const struct block_image_options raw = {.format = "raw"};

static void make_file(struct target *t, unsigned sectors)
{
    uint8_t pattern[512];
    memset(pattern, 0x5a, sizeof(pattern));
    if (t->disk_fd >= 0)
        close(t->disk_fd);
    t->disk_fd = memfd_create("fuzz", MFD_CLOEXEC);
    t->sectors = sectors;
    for (unsigned i = 0; i < sectors; i++)
        fuzz_check(write(t->disk_fd, pattern, sizeof(pattern)) == sizeof(pattern));
}

static void make_disk(struct target *t, struct device_params *params)
{
    bool read_only = t->kind == BLK_READ_ONLY || t->kind == SCSI_CD;
    make_file(t, DISK_SECTORS);
    const struct block_env env = {.loop = t->g.loop,
                                  .clock = t->g.env.clock,
                                  .deterministic = t->g.env.deterministic,
                                  .stopped = t->stops ? on_stopped : NULL};
    static const struct block_options stop = {.rerror = BLOCK_ERROR_STOP,
                                              .werror = BLOCK_ERROR_STOP};
    if (t->stops && !read_only)
        t->disk =
            block_new(disk_open(t->disk_fd, &raw, BLOCK_CACHE_WRITEBACK, NULL), &stop, &env, NULL);
    else
        t->disk = block_new_raw(dup(t->disk_fd), read_only, &env, NULL);
    fuzz_check(t->disk != NULL);
    params->disk = t->disk;
    params->serial = "0123456789012345678901234567890";
    params->queues = t->stops ? 4 : 1;
}

static void attach(struct target *t)
{
    const struct drive_params params = {.id = "drive",
                                        .disk = t->disk,
                                        .optical = t->kind == SCSI_CD,
                                        .serial = "0123456789012345678901234567890"};
    fuzz_check(virtio_scsi_drives.attach(t->g.device, &params, NULL));
    t->attached = true;
}

static void target_make(struct target *t, uint8_t choice)
{
    static const struct device_ops *const devices[KIND_COUNT] = {
        &device_virtio_blk,   &device_virtio_blk,     &device_virtio_console, &device_virtio_rng,
        &device_virtio_input, &device_virtio_balloon, &device_virtio_scsi,    &device_virtio_scsi};
    memset(t, 0, sizeof(*t));
    t->kind = choice % KIND_COUNT;
    t->disk_fd = -1;
    t->chr.write = swallow;
    t->chr.resume_input = resume_input;
    bool scsi = t->kind == SCSI || t->kind == SCSI_CD;
    bool disk = t->kind == BLK || t->kind == BLK_READ_ONLY || scsi;
    t->stops = (choice & 0x20) != 0;
    guest_init(&t->g, disk || (choice & 0x80) != 0); /* disks: without threads */
    doorbells_listen(&t->bells, t->g.mem, (choice & 0x10) != 0 ? 1 : DOORBELLS_MAX);
    if ((choice & 0x08) != 0)
        guest_without_pci(&t->g);
    if ((choice & 0x40) != 0)
        t->g.env.pci->msi = (struct msi_sink){.send = swallow_message};
    struct device_params params = {
        .id = "fuzz", .chr = &t->chr, .button = &t->button, .balloon = &t->balloon};
    if (t->g.env.virtio_slots == NULL)
        params.pci_slot = 3;
    if (disk)
        make_disk(t, &params);
    guest_plug(&t->g, devices[t->kind], &params);
    if (scsi)
        attach(t);
}

static void target_free(struct target *t)
{
    if (t->kind == BLK_READ_ONLY || t->kind == SCSI_CD) {
        uint8_t sector[512];
        for (unsigned i = 0; i < t->sectors; i++) {
            fuzz_check(pread(t->disk_fd, sector, 512, i * 512) == 512);
            for (unsigned b = 0; b < 512; b++)
                fuzz_check(sector[b] == 0x5a);
        }
    }
    device_free(t->g.device);
    t->g.device = NULL;
    fuzz_check(t->bells.count == 0);
    block_free(t->disk);
    if (t->disk_fd >= 0)
        close(t->disk_fd);
    guest_free(&t->g);
}

static void run(struct target *t)
{
    if (!t->g.env.deterministic)
        guest_pump(&t->g);
    vclock_run_timers(t->g.env.clock);
    if (t->g.env.deterministic)
        vclock_advance(t->g.env.clock, 60000);
}

/* Drives come and go, and so do discs. */
static void drive_event(struct target *t, uint8_t a)
{
    struct drive_activity activity;
    if (!t->attached) {
        attach(t);
        return;
    }
    virtio_scsi_drives.activity(t->g.device, "drive", &activity);
    switch (a & 3) {
    case 0:
        virtio_scsi_drives.leave(t->g.device, "drive");
        break;
    case 1:
        virtio_scsi_drives.detach(t->g.device, "drive");
        t->attached = false;
        break;
    case 2:
        if (t->kind == SCSI_CD)
            (void)virtio_scsi_drives.eject(t->g.device, "drive");
        break;
    case 3:
        if (t->kind == SCSI_CD)
            virtio_scsi_drives.insert(t->g.device, "drive", (a & 4) != 0 ? t->disk : NULL);
        break;
    }
}

/* Another file of another size behind the disk. */
static void replace_disk(struct target *t, unsigned sectors)
{
    t->g.device->ops->quiesce(t->g.device);
    make_file(t, sectors);
    struct block_image *image = disk_open(t->disk_fd, &raw, BLOCK_CACHE_WRITEBACK, NULL);
    block_image_close(block_swap(t->disk, image));
    virtio_blk_changed(t->g.device);
    t->g.device->ops->unquiesce(t->g.device);
}

static void backend(struct target *t, uint8_t a, uint16_t b, uint32_t c)
{
    uint8_t text[256];
    memset(text, a, sizeof(text));
    if (t->kind == INPUT)
        (void)t->button.press(t->button.device);
    if (t->kind == BALLOON) {
        struct balloon_status status;
        if ((a & 1) != 0)
            t->balloon.set(t->balloon.device, c);
        t->balloon.get(t->balloon.device, &status);
        return;
    }
    if (t->kind == RNG)
        virtio_rng_limit(t->g.device, (a & 1) != 0 ? b : 0, (a & 2) != 0 ? c : 0);
    if (t->kind == BLK && (a & 7) == 7)
        replace_disk(t, 1 + b % (2 * DISK_SECTORS));
    else if (t->kind == BLK) /* reads behind its end fail */
        fuzz_check(ftruncate(t->disk_fd, b % (t->sectors + 1) * 512) == 0);
    if (t->kind == SCSI || t->kind == SCSI_CD)
        drive_event(t, a);
    if (t->kind != CONSOLE)
        return;
    if ((a & 1) != 0)
        t->chr.on_resize(t->chr.device, b, (uint16_t)c);
    else
        (void)t->chr.on_input(t->chr.device, text, b % sizeof(text));
}

static void pause_resume(struct target *t)
{
    t->g.device->ops->quiesce(t->g.device);
    run(t);
    t->g.device->ops->unquiesce(t->g.device);
}

/* As somebody does whose machine stopped for an error: mends the disk and lets it go on. */
static void mend_disk(struct target *t)
{
    fuzz_check(ftruncate(t->disk_fd, t->sectors * 512) == 0);
    pause_resume(t);
}

static void start(struct target *t, uint64_t features)
{
    guest_map_bar(&t->g);
    guest_set_reg(&t->g, REG_STATUS, 0, 1); /* takes until nothing is in flight */
    for (unsigned i = 0; guest_reg(&t->g, REG_STATUS, 1) != 0; i++) {
        guest_wait(&t->g);
        if (t->kind == BLK && t->stops && i == 8)
            mend_disk(t);
    }
    guest_start(&t->g, guest_offered(&t->g) & features & ~VIRTIO_F_RING_PACKED);
}

/* Into the same device: what it was restored from is in memory and behind it. */
static void put_desc(struct target *t, uint8_t a, uint16_t b, uint32_t c, uint32_t d)
{
    uint64_t gpa = GUEST_DATA + (c & 0xffff);
    if ((c & 0x80000000) != 0)
        gpa = (uint64_t)c << (a & 31);
    ring_put_desc(t->g.mem, GUEST_RING(a >> 7 | (a >> 4 & 6)), a & 0x1f, gpa, d, b & 7, b >> 3);
}

/* A block request in three descriptors from 3 * slot on. */
static void blk_request(struct target *t, uint8_t a, uint16_t b, uint32_t c, uint32_t d)
{
    unsigned slot = a & 7, first = 3 * slot;
    uint8_t header[16] = {(uint8_t)(b & 15)};
    store_le64(header + 8, c);
    (void)mem_write(t->g.mem, GUEST_DATA + 16 * slot, header, sizeof(header));
    unsigned writes = (b & 15) != 1 ? RING_WRITE : 0;
    uint32_t bytes = (b & 16) != 0 ? d : (d % 8) * 512;
    uint64_t table = GUEST_RING(a >> 3 & 3);
    ring_put_desc(t->g.mem, table, first, GUEST_DATA + 16 * slot, 16, RING_NEXT, first + 1);
    ring_put_desc(t->g.mem, table, first + 1, GUEST_DATA + 0x1000, bytes, RING_NEXT | writes,
                  first + 2);
    ring_put_desc(t->g.mem, table, first + 2, GUEST_DATA + 0x800 + slot, 1, RING_WRITE, 0);
}

/* A command or (b bit 15) a control request in three descriptors: header, response, data. */
static void scsi_request(struct target *t, uint8_t a, uint16_t b, uint32_t c, uint32_t d)
{
    unsigned slot = a & 7, first = 3 * slot;
    bool control = (b & 0x8000) != 0, out = (b & 0x4000) != 0;
    uint8_t header[51] = {0};
    if (control) {
        store_le32(header, b & 3);
        store_le32(header + 4, c & 15);
        header[8] = 1;
        store_le64(header + 16, d & 7);
    } else {
        header[0] = 1;
        header[1] = b >> 8 & 1; /* mostly the target that is there */
        header[8] = (uint8_t)slot;
        header[19] = (uint8_t)b;
        for (unsigned i = 0; i < 15; i++)
            header[20 + i] = (uint8_t)((i < 8 ? (uint64_t)d << 32 | c : c) >> (8 * (i & 7)));
        if ((b & 0x2000) != 0)
            memset(header + 20, 0, 8);
    }
    uint64_t at = GUEST_DATA + 64 * slot, data = GUEST_DATA + 0x2000;
    uint64_t table = GUEST_RING(control ? 0 : 2);
    (void)mem_write(t->g.mem, at, header, sizeof(header));
    uint32_t bytes = (a >> 3) * 512u;
    if (control) {
        ring_put_desc(t->g.mem, table, first, at, 24, RING_NEXT, first + 1);
        ring_put_desc(t->g.mem, table, first + 1, data, 5, RING_WRITE, 0);
    } else if (out) {
        ring_put_desc(t->g.mem, table, first, at, 51, RING_NEXT, first + 2);
        ring_put_desc(t->g.mem, table, first + 2, data, bytes, RING_NEXT, first + 1);
        ring_put_desc(t->g.mem, table, first + 1, GUEST_DATA + 0x1000 + 128 * slot, 108, RING_WRITE,
                      0);
    } else {
        ring_put_desc(t->g.mem, table, first, at, 51, RING_NEXT, first + 1);
        ring_put_desc(t->g.mem, table, first + 1, GUEST_DATA + 0x1000 + 128 * slot, 108,
                      RING_WRITE | (bytes > 0 ? RING_NEXT : 0), first + 2);
        ring_put_desc(t->g.mem, table, first + 2, data, bytes, RING_WRITE, 0);
    }
}

static void access_io(struct target *t, uint64_t gpa, uint8_t a, uint64_t value, bool write)
{
    unsigned size = 1u << (a & 3);
    gpa = align_down(gpa, size);
    uint64_t read;
    if (!write)
        (void)mem_io_read(t->g.mem, gpa, size, &read);
    else if (!doorbells_ring(&t->bells, gpa, value, size))
        (void)mem_io_write(t->g.mem, gpa, size, value);
}

/* A register of 16 bits, by its place in the BAR, which may not be mapped. */
static bool write_reg(struct target *t, unsigned reg, uint64_t value)
{
    struct guest *g = &t->g;
    unsigned size = 2;
    if (g->env.virtio_slots != NULL)
        reg = guest_mmio_reg(reg, true, &size);
    return doorbells_ring(&t->bells, GUEST_BAR + reg, value, size) ||
           mem_io_write(g->mem, GUEST_BAR + reg, size, value);
}

static bool read_reg(struct guest *g, unsigned reg, uint64_t *value)
{
    unsigned size = 2;
    if (g->env.virtio_slots != NULL)
        reg = guest_mmio_reg(reg, false, &size);
    return mem_io_read(g->mem, GUEST_BAR + reg, size, value);
}

static void reset_queue(struct target *t, unsigned queue)
{
    struct guest *g = &t->g;
    struct ring *ring = &g->rings[queue];
    uint64_t value;
    if (ring->size == 0 || !write_reg(t, REG_QUEUE_SELECT, queue) ||
        !write_reg(t, REG_QUEUE_RESET, 1) || !read_reg(g, REG_QUEUE_RESET, &value) || value != 0)
        return;
    *ring = ring_at(g->mem, GUEST_RING(queue), ring->size);
    ring_put16(g->mem, ring->avail + 2, 0);
    ring_put16(g->mem, ring->used + 2, 0);
    guest_set_queue(g, queue, ring);
}

static void step(struct target *t, struct fuzz_input *input)
{
    struct guest *g = &t->g;
    uint8_t kind = (uint8_t)fuzz_take(input, 1), a = (uint8_t)fuzz_take(input, 1);
    uint16_t b = (uint16_t)fuzz_take(input, 2);
    uint32_t c = (uint32_t)fuzz_take(input, 4), d = (uint32_t)fuzz_take(input, 4);
    uint64_t wide = (uint64_t)d << 32 | c;
    unsigned queue =
        t->kind == SCSI || t->kind == SCSI_CD ? (a & 3u) % 3 : a & (t->stops ? 3u : 1u);
    switch (kind % RECORD_COUNT) {
    case START:
        start(t, wide);
        break;
    case REGISTER:
    case REGISTER_READ:
        access_io(t, GUEST_BAR + (b & 0x7fff), a, wide, kind % RECORD_COUNT == REGISTER);
        break;
    case CONFIG_SPACE:
    case CONFIG_READ:
        access_io(t, guest_config_gpa(g->slot, b & 255), a, wide,
                  kind % RECORD_COUNT == CONFIG_SPACE);
        break;
    case PUT_DESC:
        put_desc(t, a, b, c, d);
        break;
    case PUT_MEMORY:
        (void)mem_write(g->mem, GUEST_RAM + 4 * b, &wide, sizeof(wide));
        break;
    case BLK_HEADER:
        if (t->kind == SCSI || t->kind == SCSI_CD)
            scsi_request(t, a, b, c, d);
        else
            blk_request(t, a, b, c, d);
        break;
    case OFFER:
        if (g->rings[queue].size != 0)
            ring_offer(&g->rings[queue], b);
        break;
    case NOTIFY:
        (void)write_reg(t, REG_NOTIFY + 4 * queue, queue);
        break;
    case RUN:
        run(t);
        break;
    case BACKEND:
        backend(t, a, b, c);
        break;
    case PAUSE:
        pause_resume(t);
        break;
    case MACHINE_RESET:
        fuzz_machine_reset(g->device);
        break;
    case QUEUE_RESET:
        reset_queue(t, queue);
        break;
    case SAVE_RESTORE:
        fuzz_save_restore(t->g.device, c, a);
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

/* Commands that mostly exist, and some task management. */
static void generate_scsi(uint64_t *seed, uint8_t **at)
{
    static const uint8_t operations[] = {
        0x00, 0x03, 0x12, 0x1a, 0x15, 0x1b, 0x1e, 0x25, 0x28, 0x2a, 0x35, 0x41, 0x42, 0x43, 0x46,
        0x4a, 0x51, 0x55, 0x5a, 0x88, 0x8a, 0x91, 0x93, 0x9e, 0xa0, 0xa3, 0xbe, 0xad, 0x2e, 0x2f};
    uint64_t r = fuzz_random(seed), s = fuzz_random(seed);
    uint8_t slot = r & 7;
    uint16_t how = (uint16_t)(r >> 16 & 0x7100);
    bool control = (r >> 36) % 8 == 0;
    if ((r >> 40) % 8 != 0)
        s &= 0x0f07000103000009;
    how |= control ? 0x8000 : operations[(r >> 8) % sizeof(operations)];
    fuzz_add(at, BLK_HEADER, (uint8_t)(slot | (s >> 20 & 0x78)), how, (uint32_t)s,
             (uint32_t)(s >> 32));
    fuzz_add(at, OFFER, control ? 0 : 2, (uint16_t)(3 * slot), 0, 0);
    fuzz_add(at, NOTIFY, control ? 0 : 2, 0, 0, 0);
    if ((r >> 44) % 8 == 0)
        fuzz_add(at, BACKEND, (uint8_t)(r >> 52), 0, 0, 0);
}

/* A driver that mostly works: starts the device, offers requests, serves; with noise. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    uint8_t *at = data;
    uint8_t kind = *at++ = (uint8_t)fuzz_random(seed);
    bool scsi = kind % KIND_COUNT == SCSI || kind % KIND_COUNT == SCSI_CD;
    unsigned noise = (unsigned)(fuzz_random(seed) % 25);
    if (fuzz_random(seed) % 8 != 0)
        fuzz_add(&at, START, 0, 0, (uint32_t)fuzz_random(seed), VIRTIO_F_RING_RESET >> 32);
    for (unsigned i = (unsigned)(fuzz_random(seed) % 50); i > 0; i--) {
        uint64_t r = fuzz_random(seed), s = fuzz_random(seed);
        uint8_t slot = r & 7, queue = r >> 3 & 1;
        if (scsi && (r >> 34 & 7) != 0) {
            generate_scsi(seed, &at);
        } else if (r >> 32 & 1) {
            queue = r >> 3 & 3;
            fuzz_add(&at, BLK_HEADER, (uint8_t)(queue << 3 | slot), (uint16_t)((r >> 8) & 15),
                     (uint32_t)(s % 70), (uint32_t)(s >> 32));
            fuzz_add(&at, OFFER, queue, (uint16_t)(3 * slot), 0, 0);
        } else {
            unsigned flags = (r >> 33 & 1) != 0 ? RING_WRITE : 0;
            fuzz_add(&at, PUT_DESC, (uint8_t)(queue << 7 | slot), (uint16_t)flags, s & 0xfff,
                     (uint32_t)(s >> 32 & 0x1fff));
            fuzz_add(&at, OFFER, queue, slot, 0, 0);
        }
        fuzz_add(&at, NOTIFY, queue, 0, 0, 0);
        if (r >> 40 & 1)
            fuzz_add(&at, RUN, 0, 0, 0, 0);
        if ((r >> 41 & 15) == 0) /* a disk gets shorter, or longer again */
            fuzz_add(&at, BACKEND, (uint8_t)s, (uint16_t)(s >> 8), 0, 0);
        if ((r >> 50 & 15) == 0)
            fuzz_add(&at, QUEUE_RESET, queue, 0, 0, 0);
        if ((r >> 45 & 15) == 0)
            fuzz_add(&at, (r >> 49 & 1) != 0 ? PAUSE : SAVE_RESTORE, 0, 0, 0, 0);
        if (fuzz_random(seed) % 100 < noise) {
            uint64_t x = fuzz_random(seed), y = fuzz_random(seed);
            uint16_t b = (uint16_t)(x >> 16);
            if (x >> 9 & 1)
                b &= (kind & 0x08) != 0 ? 0x1ff : 0x703f; /* where the registers are */
            fuzz_add(&at, (uint8_t)x, (uint8_t)(x >> 8), b, (uint32_t)y, (uint32_t)(y >> 32));
        }
    }
    return (size_t)(at - data);
}
