/* SPDX-License-Identifier: MIT
 *
 * dev/virtio_blk.c as a driver sees it.
 */
#include "disk_fixture.h"

#include "dev/virtio_blk.h"

#define SECTORS 128u
#define F_RO    (UINT64_C(1) << 5)
#define F_FLUSH (UINT64_C(1) << 9)
#define F_MQ    (UINT64_C(1) << 12)
#define F_DISCARD (UINT64_C(1) << 13)
#define F_ZEROES (UINT64_C(1) << 14)
enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, ZEROES = 13 };
enum { OK = 0, IOERR = 1, UNSUPP = 2, UNTOUCHED = 0xee };

#define HEADER GUEST_DATA
#define STATUS (GUEST_DATA + 0x800)
#define BUFFER (GUEST_DATA + 0x1000)

static struct fixture *fixture_new_with(bool read_only, bool deterministic,
                                        const struct block_options *options, unsigned queues)
{
    struct fixture *f = fixture_begin(SECTORS, deterministic);
    f->disk = fixture_disk(f, read_only, options);
    guest_plug(&f->g, &device_virtio_blk,
               &(struct device_params){
                   .id = "disk0", .disk = f->disk, .serial = "serial-1", .queues = queues});
    return f;
}

static struct fixture *fixture_new(bool read_only, bool deterministic)
{
    return fixture_new_with(read_only, deterministic, NULL, 0);
}

static int setup(void **state)
{
    *state = fixture_new(false, false);
    return 0;
}

static int setup_read_only(void **state)
{
    *state = fixture_new(true, false);
    return 0;
}

static int setup_deterministic(void **state)
{
    *state = fixture_new(false, true);
    return 0;
}

/* Puts header and status of request `slot` (its own memory) into the ring, with `bytes` of
 * data at `data` in between; three descriptors from 3 * slot on. */
static void offer_to(struct fixture *f, unsigned queue, unsigned slot, uint32_t type,
                     uint64_t sector, uint64_t data, uint32_t bytes)
{
    struct ring *ring = &f->g.rings[queue];
    uint8_t header[16] = {0};
    store_le32(header, type);
    store_le64(header + 8, sector);
    assert_true(mem_write(f->g.mem, HEADER + 16 * slot, header, sizeof(header)));
    *ram(f, STATUS + slot) = UNTOUCHED;
    unsigned d = 3 * slot;
    unsigned writes = type == OUT || type == DISCARD || type == ZEROES ? 0 : RING_WRITE;
    ring_desc(ring, d, HEADER + 16 * slot, 16, RING_NEXT, bytes > 0 ? d + 1 : d + 2);
    ring_desc(ring, d + 1, data, bytes, RING_NEXT | writes, d + 2);
    ring_desc(ring, d + 2, STATUS + slot, 1, RING_WRITE, 0);
    ring_offer(ring, (uint16_t)d);
}

static void offer(struct fixture *f, unsigned slot, uint32_t type, uint64_t sector, uint64_t data,
                  uint32_t bytes)
{
    offer_to(f, 0, slot, type, sector, data, bytes);
}

/* The device's part until everything in the ring is done. */
static void serve(struct fixture *f)
{
    guest_notify(&f->g, 0);
    while (ring_used_index(&f->g.rings[0]) != f->g.rings[0].avail_index) {
        if (f->g.env.deterministic) {
            vclock_advance(f->g.env.clock, 1000000);
            vclock_run_timers(f->g.env.clock);
        } else {
            guest_pump(&f->g);
            block_wait_idle(f->disk);
            guest_pump(&f->g);
        }
    }
}

static uint8_t request(struct fixture *f, uint32_t type, uint64_t sector, uint32_t bytes)
{
    offer(f, 0, type, sector, BUFFER, bytes);
    serve(f);
    return *ram(f, STATUS);
}

static uint32_t last_length(struct fixture *f)
{
    const struct ring *ring = &f->g.rings[0];
    return ring_used_length(ring, (uint16_t)(ring->avail_index - 1));
}

static void the_configuration_names_size_and_limits(void **state)
{
    struct fixture *f = *state;
    guest_map_bar(&f->g);
    assert_int_equal(guest_config_get(&f->g, PCI_REG_VENDOR, 4), 0x10421af4);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG, 4), SECTORS);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 4, 4), 0);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 12, 4), 254);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 20, 4), 512);
    assert_int_equal(guest_offered(&f->g) & (F_RO | F_FLUSH), F_FLUSH);
}

static void sectors_are_read_and_written(void **state)
{
    struct fixture *f = *state;
    guest_start(&f->g, F_FLUSH);
    assert_int_equal(request(f, IN, 5, 1024), OK);
    assert_int_equal(last_length(f), 1025);
    assert_int_equal(*ram(f, BUFFER), 5);
    assert_int_equal(*ram(f, BUFFER + 1023), 6);
    assert_int_equal(guest_isr(&f->g), 1);

    memset(ram(f, BUFFER), 0xab, 512);
    assert_int_equal(request(f, OUT, 7, 512), OK);
    assert_int_equal(last_length(f), 1);
    assert_int_equal(file_byte(f, 6), 6);
    assert_int_equal(file_byte(f, 7), 0xab);
    assert_int_equal(file_byte(f, 8), 8);
    assert_int_equal(request(f, FLUSH, 0, 0), OK);
    assert_int_equal(last_length(f), 1);
    assert_int_equal(request(f, IN, SECTORS - 1, 512), OK);
    assert_int_equal(*ram(f, BUFFER), SECTORS - 1);
    assert_int_equal(request(f, IN, 0, 0), OK); /* no data at all */
}

/* 2.7.4: how a request is cut into descriptors must not matter. */
static void framing_does_not_matter(void **state)
{
    struct fixture *f = *state;
    struct ring *ring = &f->g.rings[0];
    guest_start(&f->g, 0);
    uint8_t header[16] = {IN};
    header[8] = 9;
    assert_true(mem_write(f->g.mem, HEADER, header, 16));
    ring_desc(ring, 0, HEADER, 3, RING_NEXT, 1);
    ring_desc(ring, 1, HEADER + 3, 13, RING_NEXT, 2);
    ring_desc(ring, 2, BUFFER, 500, RING_NEXT | RING_WRITE, 3);
    ring_desc(ring, 3, BUFFER + 500, 13, RING_WRITE, 0); /* 12 bytes and the status */
    *ram(f, BUFFER + 512) = UNTOUCHED;
    ring_offer(ring, 0);
    serve(f);
    assert_int_equal(*ram(f, BUFFER + 512), OK);
    assert_int_equal(*ram(f, BUFFER), 9);
    assert_int_equal(*ram(f, BUFFER + 511), 9);
    assert_int_equal(last_length(f), 513);

    /* Header and data in one. */
    header[0] = OUT;
    assert_true(mem_write(f->g.mem, BUFFER, header, 16));
    memset(ram(f, BUFFER + 16), 0x77, 512);
    ring_desc(ring, 0, BUFFER, 16 + 512, RING_NEXT, 1);
    ring_desc(ring, 1, STATUS, 1, RING_WRITE, 0);
    ring_offer(ring, 0);
    serve(f);
    assert_int_equal(*ram(f, STATUS), OK);
    assert_int_equal(file_byte(f, 9), 0x77);
}

static void the_serial_identifies_the_disk(void **state)
{
    struct fixture *f = *state;
    guest_start(&f->g, 0);
    memset(ram(f, BUFFER), 0xff, 32);
    assert_int_equal(request(f, GET_ID, 0, 20), OK);
    assert_memory_equal(ram(f, BUFFER), "serial-1\0\0\0\0\0\0\0\0\0\0\0\0\xff", 21);
    assert_int_equal(request(f, GET_ID, 0, 4), OK);
    assert_int_equal(request(f, GET_ID, 0, 32), OK);
}

/* Requests that fail: what status, and that neither disk nor buffer changes. */
static void bad_requests_fail(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint32_t type, bytes;
        uint64_t sector;
        uint8_t status;
    } rows[] = {
        {IN, 512, SECTORS, IOERR},
        {IN, 1024, SECTORS - 1, IOERR},
        {IN, 512, UINT64_MAX, IOERR},
        {IN, 512, UINT64_MAX / 512, IOERR},
        {IN, 512, UINT64_C(1) << 55, IOERR}, /* 0 after multiplying by 512 */
        {OUT, 512, SECTORS, IOERR},
        {OUT, 1024, SECTORS - 1, IOERR},
        {OUT, 512, UINT64_C(1) << 55, IOERR},
        {IN, 511, 0, IOERR},
        {OUT, 513, 0, IOERR},
        {2, 512, 0, UNSUPP},
        {11, 16, 0, UNSUPP}, /* not negotiated */
        {13, 16, 0, UNSUPP},
        {0x80000000, 512, 0, UNSUPP},
        {UINT32_MAX, 0, 0, UNSUPP},
    };
    guest_start(&f->g, F_FLUSH);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        memset(ram(f, BUFFER), 0x5a, 1024);
        uint8_t status = request(f, rows[i].type, rows[i].sector, rows[i].bytes);
        if (status != rows[i].status)
            fail_msg("row %zu: status %u", i, status);
        for (unsigned b = 0; b < 1024; b++)
            assert_int_equal(*ram(f, BUFFER + b), 0x5a);
        if (rows[i].type == IN)
            assert_int_equal(last_length(f), 0);
    }
    for (unsigned i = 0; i < SECTORS; i++)
        assert_int_equal(file_byte(f, i), i);
}

/* 5.2.6: one stretch in each request. */
static uint8_t range_request(struct fixture *f, uint32_t type, uint64_t sector, uint32_t sectors,
                             uint32_t flags)
{
    uint8_t range[16] = {0};
    store_le64(range, sector);
    store_le32(range + 8, sectors);
    store_le32(range + 12, flags);
    memcpy(ram(f, BUFFER), range, sizeof(range));
    return request(f, type, 0, sizeof(range));
}

static void stretches_are_zeroed_and_discarded(void **state)
{
    struct fixture *f = *state;
    guest_map_bar(&f->g);
    assert_int_equal(guest_offered(&f->g) & (F_DISCARD | F_ZEROES), F_DISCARD | F_ZEROES);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 36, 4), 1 << 22); /* sectors at most */
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 40, 4), 1);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 44, 4), 1);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 48, 4), 1 << 22);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 52, 4), 1);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 56, 1), 1);
    guest_start(&f->g, F_FLUSH | F_DISCARD | F_ZEROES);
    assert_int_equal(range_request(f, ZEROES, 7, 3, 0), OK);
    assert_int_equal(last_length(f), 1);
    assert_int_equal(range_request(f, ZEROES, 20, 8, 1), OK);
    assert_int_equal(range_request(f, DISCARD, 40, 16, 0), OK); /* a hole, in this file */
    for (unsigned i = 0; i < SECTORS; i++) {
        bool gone = (i >= 7 && i < 10) || (i >= 20 && i < 28) || (i >= 40 && i < 56);
        assert_int_equal(file_byte(f, i), gone ? 0 : i);
    }
    assert_int_equal(range_request(f, ZEROES, SECTORS - 1, 2, 0), IOERR);
    assert_int_equal(range_request(f, DISCARD, UINT64_MAX, 2, 0), IOERR);
    assert_int_equal(range_request(f, ZEROES, 0, UINT32_MAX, 0), IOERR);
    assert_int_equal(range_request(f, ZEROES, 0, 1, 2), UNSUPP);
    assert_int_equal(range_request(f, DISCARD, 0, 1, 1), UNSUPP);
    assert_int_equal(request(f, DISCARD, 0, 32), IOERR); /* two stretches */
    assert_int_equal(request(f, ZEROES, 0, 15), IOERR);
    assert_int_equal(range_request(f, ZEROES, 5, 0, 0), OK); /* of nothing */
    assert_int_equal(file_byte(f, 5), 5);
    assert_int_equal(file_byte(f, SECTORS - 1), SECTORS - 1);
}

static void a_request_without_header_or_status_is_a_violation(void **state)
{
    struct fixture *f = *state;
    struct ring *ring = &f->g.rings[0];
    for (unsigned i = 0; i < 3; i++) {
        guest_start(&f->g, 0);
        ring_desc(ring, 0, HEADER, i == 0 ? 15 : 16, RING_NEXT, 1);
        ring_desc(ring, 1, STATUS, i == 1 ? 0 : 1, i == 2 ? 0 : RING_WRITE, 0);
        ring_offer(ring, 0);
        guest_notify(&f->g, 0);
        guest_pump(&f->g);
        assert_int_equal(guest_reg(&f->g, REG_STATUS, 1) & VIRTIO_STATUS_NEEDS_RESET,
                         VIRTIO_STATUS_NEEDS_RESET);
        assert_int_equal(ring_used_index(ring), 0);
    }
    guest_start(&f->g, 0);
    assert_int_equal(request(f, IN, 1, 512), OK);
}

static void a_read_only_disk_stays_as_it_is(void **state)
{
    struct fixture *f = *state;
    guest_map_bar(&f->g);
    assert_int_equal(guest_offered(&f->g) & F_RO, F_RO);
    guest_start(&f->g, F_RO | F_FLUSH);
    assert_int_equal(guest_offered(&f->g) & (F_DISCARD | F_ZEROES), 0);
    assert_int_equal(request(f, OUT, 3, 512), IOERR);
    assert_int_equal(range_request(f, ZEROES, 3, 1, 0), UNSUPP);
    assert_int_equal(range_request(f, DISCARD, 3, 1, 0), UNSUPP);
    assert_int_equal(file_byte(f, 3), 3);
    assert_int_equal(request(f, FLUSH, 0, 0), OK);
    assert_int_equal(request(f, IN, 3, 512), OK);
    assert_int_equal(*ram(f, BUFFER), 3);
}

static void an_io_error_is_reported(void **state)
{
    struct fixture *f = *state;
    guest_start(&f->g, 0);
    fixture_damage(f);
    assert_int_equal(request(f, IN, 10, 512), IOERR);
    assert_int_equal(last_length(f), 0);
    assert_int_equal(request(f, IN, 0, 512), OK);
}

static void many_requests_are_in_flight(void **state)
{
    struct fixture *f = *state;
    guest_start(&f->g, F_FLUSH);
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 80; i++) {
            memset(ram(f, BUFFER + 512 * i), (int)(round + i), 512);
            offer(f, i, OUT, i, BUFFER + 512 * i, 512);
        }
        serve(f);
        for (unsigned i = 0; i < 80; i++) {
            assert_int_equal(*ram(f, STATUS + i), OK);
            assert_int_equal(file_byte(f, i), round + i);
        }
    }
}

/* The same descriptors offered again before they are used: more requests than the ring has
 * entries. In deterministic mode nothing completes until time passes. */
static void a_driver_cannot_exceed_the_ring(void **state)
{
    struct fixture *f = *state;
    struct ring *ring = &f->g.rings[0];
    const struct virtqueue *queue = &guest_virtio(&f->g)->virtio.queues[0];
    guest_start(&f->g, 0);
    offer(f, 0, FLUSH, 0, 0, 0);
    for (unsigned i = 0; i < 255; i++)
        ring_offer(ring, 0);
    guest_notify(&f->g, 0);
    assert_int_equal(queue->avail_next, 256);
    for (unsigned i = 0; i < 256; i++)
        ring_offer(ring, 0);
    guest_notify(&f->g, 0);
    assert_int_equal(queue->avail_next, 256); /* left in the ring */
    serve(f);
    assert_int_equal(ring_used_index(ring), 512);
    assert_int_equal(guest_reg(&f->g, REG_STATUS, 1) & VIRTIO_STATUS_NEEDS_RESET, 0);
}

/* Virtual time of a write, in disk operations. */
static int64_t write_time(struct fixture *f, uint64_t features)
{
    struct vclock *clock = f->g.env.clock;
    guest_start(&f->g, features);
    offer(f, 0, OUT, 0, BUFFER, 512);
    guest_notify(&f->g, 0);
    int64_t begin = vclock_now(clock), one = vclock_next_deadline(clock) - begin;
    while (ring_used_index(&f->g.rings[0]) == 0) {
        vclock_advance(clock, vclock_next_deadline(clock) - vclock_now(clock));
        vclock_run_timers(clock);
    }
    assert_int_equal(*ram(f, STATUS), OK);
    return (vclock_now(clock) - begin) / one;
}

/* 5.2.6.2: a driver that cannot flush gets a write-through cache. */
static void without_flush_writes_are_stable_when_complete(void **state)
{
    assert_int_equal(write_time(*state, F_FLUSH), 1);
    assert_int_equal(write_time(*state, 0), 2);
}

static void a_reset_forgets_what_is_in_flight(void **state)
{
    struct fixture *f = *state;
    for (unsigned round = 0; round < 50; round++) {
        guest_start(&f->g, F_FLUSH);
        for (unsigned i = 0; i < 16; i++)
            offer(f, i, IN, i, BUFFER + 512 * i, 512);
        guest_notify(&f->g, 0);
        guest_pump(&f->g);
        uint16_t before = ring_used_index(&f->g.rings[0]);
        guest_reset(&f->g);
        /* From here on the memory is the guest's. */
        memset(ram(f, BUFFER), 0xcc, 16 * 512);
        memset(ram(f, STATUS), UNTOUCHED, 16);
        block_drain(f->disk);
        guest_pump(&f->g);
        assert_true(before <= 16);
        assert_int_equal(ring_used_index(&f->g.rings[0]), before);
        for (unsigned i = 0; i < 16 * 512; i++)
            assert_int_equal(*ram(f, BUFFER + i), 0xcc);
        for (unsigned i = 0; i < 16; i++)
            assert_int_equal(*ram(f, STATUS + i), UNTOUCHED);
    }
    guest_start(&f->g, 0);
    assert_int_equal(request(f, IN, 1, 512), OK);
}

/* Not for the disk: a slow one would hold up the vCPU, and whoever wants the device's lock. */
static void a_reset_waits_for_nobody(void **state)
{
    struct fixture *f = *state;
    guest_start(&f->g, F_FLUSH);
    for (unsigned i = 0; i < 16; i++)
        offer(f, i, IN, i, BUFFER + 512 * i, 512);
    guest_notify(&f->g, 0);
    guest_set_reg(&f->g, REG_STATUS, 0, 1); /* no time passes, so nothing completes */
    assert_int_not_equal(guest_reg(&f->g, REG_STATUS, 1), 0);
    vclock_advance(f->g.env.clock, 1000000);
    vclock_run_timers(f->g.env.clock);
    assert_int_equal(guest_reg(&f->g, REG_STATUS, 1), 0);
    assert_int_equal(ring_used_index(&f->g.rings[0]), 0);

    /* A pause ends one that is under way. */
    guest_start(&f->g, F_FLUSH);
    offer(f, 0, IN, 0, BUFFER, 512);
    guest_notify(&f->g, 0);
    guest_set_reg(&f->g, REG_STATUS, 0, 1);
    f->g.device->ops->quiesce(f->g.device);
    assert_int_equal(guest_reg(&f->g, REG_STATUS, 1), 0);
    f->g.device->ops->unquiesce(f->g.device);

    /* So does the end of the device; teardown does that. */
    guest_start(&f->g, F_FLUSH);
    offer(f, 0, IN, 0, BUFFER, 512);
    guest_notify(&f->g, 0);
    guest_set_reg(&f->g, REG_STATUS, 0, 1);
}

static void a_pause_completes_what_is_in_flight(void **state)
{
    struct fixture *f = *state;
    struct ring *ring = &f->g.rings[0];
    guest_start(&f->g, F_FLUSH);
    for (unsigned i = 0; i < 16; i++)
        offer(f, i, IN, i, BUFFER + 512 * i, 512);
    guest_notify(&f->g, 0);
    guest_pump(&f->g);
    f->g.device->ops->quiesce(f->g.device);
    assert_int_equal(ring_used_index(ring), 16);
    offer(f, 0, IN, 0, BUFFER, 512);
    guest_notify(&f->g, 0);
    guest_pump(&f->g);
    block_drain(f->disk);
    assert_int_equal(ring_used_index(ring), 16);
    f->g.device->ops->unquiesce(f->g.device);
    serve(f);
    assert_int_equal(ring_used_index(ring), 17);
}

/* --- several queues --- */

static void every_queue_answers_for_itself(void **state)
{
    (void)state;
    for (unsigned deterministic = 0; deterministic < 2; deterministic++) {
        struct fixture *f = fixture_new_with(false, deterministic != 0, NULL, 8);
        guest_map_bar(&f->g);
        assert_int_equal(guest_offered(&f->g) & F_MQ, F_MQ);
        assert_int_equal(guest_reg(&f->g, REG_CONFIG + 34, 2), 8);
        assert_int_equal(guest_reg(&f->g, REG_QUEUE_COUNT, 2), 8);
        guest_start(&f->g, F_FLUSH | F_MQ);
        for (unsigned i = 0; i < 64; i++) {
            memset(ram(f, BUFFER + 512 * i), (int)(100 + i), 512);
            offer_to(f, i % 8, i, i < 32 ? OUT : IN, i, BUFFER + 512 * i, 512);
        }
        for (unsigned queue = 8; queue-- > 0;)
            guest_notify(&f->g, queue);
        for (unsigned queue = 0; queue < 8; queue++)
            while (ring_used_index(&f->g.rings[queue]) != 8)
                guest_wait(&f->g);
        for (unsigned i = 0; i < 64; i++) {
            assert_int_equal(*ram(f, STATUS + i), OK);
            if (i < 32)
                assert_int_equal(file_byte(f, i), 100 + i);
            else
                assert_int_equal(*ram(f, BUFFER + 512 * i), i);
        }
        void *own = f;
        fixture_end(&own);
    }
}

/* One queue is reset with requests in flight; another one's come back all the same. */
static void a_queue_reset_forgets_its_requests(void **state)
{
    (void)state;
    struct fixture *f = fixture_new_with(false, true, NULL, 2);
    guest_start(&f->g, F_FLUSH | F_MQ | VIRTIO_F_RING_RESET);
    offer_to(f, 0, 0, IN, 5, BUFFER, 512);
    offer_to(f, 1, 1, IN, 6, BUFFER + 512, 512);
    guest_notify(&f->g, 0);
    guest_notify(&f->g, 1);
    guest_set_reg(&f->g, REG_QUEUE_SELECT, 0, 2);
    guest_set_reg(&f->g, REG_QUEUE_RESET, 1, 2);
    assert_int_equal(guest_reg(&f->g, REG_QUEUE_RESET, 2), 1); /* no time has passed */
    guest_wait(&f->g);
    assert_int_equal(guest_reg(&f->g, REG_QUEUE_RESET, 2), 0);
    assert_int_equal(guest_reg(&f->g, REG_QUEUE_ENABLE, 2), 0);
    assert_int_equal(ring_used_index(&f->g.rings[0]), 0);
    assert_int_equal(*ram(f, STATUS), UNTOUCHED);
    assert_int_equal(ring_used_index(&f->g.rings[1]), 1);
    assert_int_equal(*ram(f, STATUS + 1), OK);

    f->g.rings[0].avail_index = 0;
    ring_put16(f->g.mem, f->g.rings[0].avail + 2, 0);
    guest_set_queue(&f->g, 0, &f->g.rings[0]);
    assert_int_equal(request(f, IN, 7, 512), OK);
    assert_int_equal(*ram(f, BUFFER), 7);
    void *own = f;
    fixture_end(&own);
}

/* --- what the disk holds back when the machine stands still --- */

static void copy_memory(struct fixture *to, const struct fixture *from)
{
    memcpy(mem_ram_pointer(to->g.mem, GUEST_RAM, GUEST_RAM_SIZE, MEM_WRITE),
           mem_ram_pointer(from->g.mem, GUEST_RAM, GUEST_RAM_SIZE, MEM_READ), GUEST_RAM_SIZE);
    memcpy(to->g.rings, from->g.rings, sizeof(to->g.rings));
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++)
        to->g.rings[i].mem = to->g.mem;
}

static void assert_served(struct fixture *f, uint16_t count)
{
    for (unsigned tries = 0; ring_used_index(&f->g.rings[0]) != count && tries < 1000; tries++) {
        guest_wait(&f->g);
        if (!f->g.env.deterministic)
            block_wait_idle(f->disk);
    }
    assert_int_equal(ring_used_index(&f->g.rings[0]), count);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(*ram(f, STATUS + i), OK);
        assert_int_equal(*ram(f, BUFFER + 512 * i), 20 * i);
    }
}

/* Requests 0, 1 and 2 read sectors 0, 20 and 40; only the first one can. */
static struct fixture *stopped_machine(bool deterministic)
{
    static const struct block_options stop = {.rerror = BLOCK_ERROR_STOP};
    struct fixture *f = fixture_new_with(false, deterministic, &stop, 2);
    guest_start(&f->g, F_FLUSH | F_MQ);
    fixture_damage(f);
    for (unsigned i = 0; i < 3; i++)
        offer(f, i, IN, 20 * i, BUFFER + 512 * i, 512);
    guest_notify(&f->g, 0);
    guest_wait(&f->g);
    f->g.device->ops->quiesce(f->g.device);
    assert_int_equal(ring_used_index(&f->g.rings[0]), 1);
    assert_false(block_is_stopped(f->disk)); /* the device has them */
    return f;
}

static void what_stopped_the_machine_survives_it(void **state)
{
    (void)state;
    for (unsigned deterministic = 0; deterministic < 2; deterministic++) {
        struct fixture *f = stopped_machine(deterministic != 0);
        struct fixture *other = fixture_new_with(false, deterministic != 0, NULL, 2);
        other->g.device->ops->quiesce(other->g.device);
        assert_state_round_trip(device_virtio_blk.state, f->g.device, other->g.device);
        copy_memory(other, f);
        struct fixture *again = fixture_new_with(false, deterministic != 0, NULL, 2);
        assert_state_round_trip(device_virtio_blk.state, other->g.device, again->g.device);

        other->g.device->ops->unquiesce(other->g.device);
        assert_served(other, 3);
        fixture_mend(f);
        f->g.device->ops->unquiesce(f->g.device);
        assert_served(f, 3);
        struct fixture *all[] = {f, other, again};
        for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
            void *own = all[i];
            fixture_end(&own);
        }
    }
}

/* The error is still there; then a reset of the machine, or of the device, forgets them. */
static void what_is_parked_can_stop_again_and_be_forgotten(void **state)
{
    (void)state;
    for (unsigned deterministic = 0; deterministic < 2; deterministic++) {
        struct fixture *f = stopped_machine(deterministic != 0);
        f->g.device->ops->unquiesce(f->g.device);
        guest_wait(&f->g);
        if (deterministic == 0)
            block_wait_idle(f->disk);
        guest_pump(&f->g);
        assert_int_equal(ring_used_index(&f->g.rings[0]), 1);
        f->g.device->ops->quiesce(f->g.device);
        f->g.device->ops->reset(f->g.device);
        f->g.device->ops->unquiesce(f->g.device);
        fixture_mend(f);
        guest_start(&f->g, F_FLUSH);
        assert_int_equal(request(f, IN, 3, 512), OK);
        assert_int_equal(ring_used_index(&f->g.rings[0]), 1);
        void *own = f;
        fixture_end(&own);

        f = stopped_machine(deterministic != 0); /* and the end of the machine */
        own = f;
        fixture_end(&own);
    }
}

/* Descriptors need not end where a request's parts do (2.7.4.1), in its second life neither. */
static void what_is_parked_may_share_descriptors(void **state)
{
    (void)state;
    static const struct block_options stop = {.rerror = BLOCK_ERROR_STOP};
    struct fixture *f = fixture_new_with(false, true, &stop, 0);
    struct ring *ring = &f->g.rings[0];
    uint8_t header[16] = {IN, [8] = 40};
    guest_start(&f->g, F_FLUSH);
    fixture_damage(f);
    assert_true(mem_write(f->g.mem, HEADER, header, sizeof(header)));
    *ram(f, BUFFER + 512) = 0xee;
    ring_desc(ring, 0, HEADER, 16, RING_NEXT, 1);
    ring_desc(ring, 1, BUFFER, 513, RING_WRITE, 0); /* data and status */
    ring_offer(ring, 0);
    guest_notify(&f->g, 0);
    guest_wait(&f->g);
    f->g.device->ops->quiesce(f->g.device);
    fixture_mend(f);
    f->g.device->ops->unquiesce(f->g.device);
    for (unsigned tries = 0; ring_used_index(ring) != 1 && tries < 1000; tries++)
        guest_wait(&f->g);
    assert_int_equal(*ram(f, BUFFER + 512), OK);
    assert_int_equal(*ram(f, BUFFER + 511), 40);
    void *own = f;
    fixture_end(&own);
}

/* A pause does not wait for a limit, nor spend what it allows. */
static void a_pause_leaves_what_waits_for_a_limit(void **state)
{
    (void)state;
    static const struct block_options slow = {.limits = {.iops = 1}};
    struct fixture *f = fixture_new_with(false, false, &slow, 0);
    struct fixture *other = fixture_new(false, false);
    guest_start(&f->g, F_FLUSH);
    for (unsigned i = 0; i < 6; i++)
        offer(f, i, IN, 20 * i, BUFFER + 512 * i, 512);
    guest_notify(&f->g, 0);
    guest_pump(&f->g);
    f->g.device->ops->quiesce(f->g.device);
    assert_true(ring_used_index(&f->g.rings[0]) < 6);
    other->g.device->ops->quiesce(other->g.device);
    assert_state_round_trip(device_virtio_blk.state, f->g.device, other->g.device);
    copy_memory(other, f);
    other->g.device->ops->unquiesce(other->g.device);
    assert_served(other, 6);
    block_set_limits(f->disk, &(struct block_limits){0});
    f->g.device->ops->unquiesce(f->g.device);
    assert_served(f, 6);
    void *own = f;
    fixture_end(&own);
    own = other;
    fixture_end(&own);
}

/* Sector i of the file is full of bytes of `first` + i. */
static void put_image(struct fixture *f, unsigned sectors, unsigned first)
{
    static const struct block_image_options raw = {.format = "raw"};
    int fd = disk_memory_file();
    uint8_t sector[BLOCK_SECTOR];
    for (unsigned i = 0; i < sectors; i++) {
        memset(sector, (int)(first + i), sizeof(sector));
        assert_int_equal(write(fd, sector, sizeof(sector)), sizeof(sector));
    }
    struct error *err = NULL;
    struct block_image *image = disk_open(fd, &raw, BLOCK_CACHE_WRITEBACK, &err);
    assert_no_error(err);
    close(fd);
    block_image_close(block_swap(f->disk, image));
    virtio_blk_changed(f->g.device);
}

/* The driver is told; what the host had not begun with is asked of the new one, whose end is that. */
static void another_image_takes_its_place(void **state)
{
    (void)state;
    static const struct block_options slow = {.limits = {.iops = 1}};
    struct fixture *f = fixture_new_with(false, false, &slow, 0);
    guest_start(&f->g, F_FLUSH);
    uint32_t generation = guest_reg(&f->g, REG_GENERATION, 1);
    for (unsigned i = 0; i < 4; i++)
        offer(f, i, IN, 20 * i, BUFFER + 512 * i, 512);
    guest_notify(&f->g, 0);
    while (ring_used_index(&f->g.rings[0]) == 0)
        guest_wait(&f->g);
    (void)guest_isr(&f->g);
    f->g.device->ops->quiesce(f->g.device);
    put_image(f, 50, 100);
    block_set_limits(f->disk, &(struct block_limits){0});
    f->g.device->ops->unquiesce(f->g.device);
    assert_int_equal(guest_isr(&f->g) & 2, 2);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG, 4), 50);
    assert_int_not_equal(guest_reg(&f->g, REG_GENERATION, 1), generation);
    serve(f);
    static const uint8_t statuses[] = {OK, OK, OK, IOERR}, bytes[] = {0, 120, 140};
    assert_memory_equal(ram(f, STATUS), statuses, sizeof(statuses));
    for (unsigned i = 0; i < sizeof(bytes); i++)
        assert_int_equal(*ram(f, BUFFER + 512 * i), bytes[i]);
    f->g.device->ops->quiesce(f->g.device);
    put_image(f, 2 * SECTORS, 0);
    f->g.device->ops->unquiesce(f->g.device);
    assert_int_equal(request(f, IN, 2 * SECTORS - 1, 512), OK);
    assert_int_equal(*ram(f, BUFFER), 2 * SECTORS - 1);
    assert_int_equal(request(f, IN, 2 * SECTORS, 512), IOERR);
    void *own = f;
    fixture_end(&own);
}

static void state_survives_a_round_trip(void **state)
{
    struct fixture *f = *state;
    guest_start(&f->g, F_FLUSH);
    assert_int_equal(request(f, IN, 1, 512), OK);
    struct fixture *other = fixture_new(false, false);
    assert_state_round_trip(device_virtio_blk.state, f->g.device, other->g.device);
    other->g.rings[0] = f->g.rings[0];
    other->g.rings[0].mem = other->g.mem;
    ring_put16(other->g.mem, other->g.rings[0].used + 2, 1);
    assert_int_equal(request(other, IN, 4, 512), OK);
    assert_int_equal(*ram(other, BUFFER), 4);

    /* Another disk behind the same state. */
    struct state_buffer buffer = {0};
    struct error *err = NULL;
    size_t at = 0;
    state_save(device_virtio_blk.state, f->g.device, &buffer);
    for (size_t i = 0; i + 9 < buffer.size; i++) {
        if (memcmp(buffer.data + i, "capacity", 8) == 0) {
            buffer.data[i + 8 + 5]++; /* behind name, kind and length */
            break;
        }
    }
    assert_false(state_restore(device_virtio_blk.state, other->g.device, buffer.data, buffer.size,
                               &at, &err));
    assert_error(&err, ERROR_USAGE, "the saved state is of a disk of 129 sectors");
    state_buffer_free(&buffer);
    void *other_state = other;
    fixture_end(&other_state);
}

#define TEST(name)          cmocka_unit_test_setup_teardown(name, setup, fixture_end)
#define READ_ONLY(name)     cmocka_unit_test_setup_teardown(name, setup_read_only, fixture_end)
#define DETERMINISTIC(name) cmocka_unit_test_setup_teardown(name, setup_deterministic, fixture_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_configuration_names_size_and_limits),
        TEST(sectors_are_read_and_written),
        TEST(framing_does_not_matter),
        TEST(the_serial_identifies_the_disk),
        TEST(bad_requests_fail),
        TEST(stretches_are_zeroed_and_discarded),
        TEST(a_request_without_header_or_status_is_a_violation),
        READ_ONLY(a_read_only_disk_stays_as_it_is),
        TEST(an_io_error_is_reported),
        TEST(many_requests_are_in_flight),
        DETERMINISTIC(a_driver_cannot_exceed_the_ring),
        DETERMINISTIC(without_flush_writes_are_stable_when_complete),
        TEST(a_reset_forgets_what_is_in_flight),
        TEST(a_pause_completes_what_is_in_flight),
        TEST(state_survives_a_round_trip),
        DETERMINISTIC(sectors_are_read_and_written),
        DETERMINISTIC(stretches_are_zeroed_and_discarded),
        DETERMINISTIC(many_requests_are_in_flight),
        DETERMINISTIC(a_reset_forgets_what_is_in_flight),
        DETERMINISTIC(a_reset_waits_for_nobody),
        cmocka_unit_test(every_queue_answers_for_itself),
        cmocka_unit_test(a_queue_reset_forgets_its_requests),
        cmocka_unit_test(what_stopped_the_machine_survives_it),
        cmocka_unit_test(what_is_parked_can_stop_again_and_be_forgotten),
        cmocka_unit_test(what_is_parked_may_share_descriptors),
        cmocka_unit_test(a_pause_leaves_what_waits_for_a_limit),
        cmocka_unit_test(another_image_takes_its_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
