/* SPDX-License-Identifier: MIT
 *
 * dev/virtio_scsi*.c as a driver sees it. What commands do is dev_scsi's.
 */
#include "dev/drive_bus.h"
#include "disk_fixture.h"

#define SECTORS   128u
#define F_HOTPLUG (UINT64_C(1) << 1)
#define F_CHANGE  (UINT64_C(1) << 2)
enum { CONTROL, EVENT, REQUEST };
enum { OK = 0, OVERRUN = 1, ABORTED = 2, BAD_TARGET = 3, RESET = 4, FAILURE = 9, SUCCEEDED = 10 };
enum { REJECTED = 11, INCORRECT_LUN = 12, UNTOUCHED = 0xee };

#define HEADER(slot)   (GUEST_DATA + 64 * (slot))
#define RESPONSE(slot) (GUEST_DATA + 0x1000 + 128 * (slot))
#define BUFFER         (GUEST_DATA + 0x4000)

static void attach(struct fixture *f, const char *id, const char *address)
{
    const struct drive_params params = {.id = id, .disk = f->disk, .address = address};
    assert_true(virtio_scsi_drives.attach(f->g.device, &params, NULL));
}

static int setup(void **state)
{
    static const struct block_options stop = {.rerror = BLOCK_ERROR_STOP};
    struct fixture *f = fixture_begin(SECTORS, true);
    f->disk = fixture_disk(f, false, &stop);
    guest_plug(&f->g, &device_virtio_scsi, &(struct device_params){.id = "scsi0", .queues = 2});
    attach(f, "disk0", NULL);
    guest_start(&f->g, F_HOTPLUG | F_CHANGE);
    *state = f;
    return 0;
}

struct command {
    uint8_t target, lun;
    uint8_t cdb[16];
    uint32_t out, in; /* bytes of data, at BUFFER */
};

/* Offers a command in a queue; three or four descriptors from 4 * slot on. */
static void offer(struct fixture *f, unsigned queue, unsigned slot, const struct command *command)
{
    struct ring *ring = &f->g.rings[queue];
    uint8_t header[51] = {1, command->target, 0x40, command->lun, [8] = (uint8_t)slot};
    unsigned d = 4 * slot;
    memcpy(header + 19, command->cdb, sizeof(command->cdb));
    assert_true(mem_write(f->g.mem, HEADER(slot), header, sizeof(header)));
    memset(ram(f, RESPONSE(slot)), UNTOUCHED, 108);
    ring_desc(ring, d, HEADER(slot), 51, RING_NEXT, command->out > 0 ? d + 1 : d + 2);
    ring_desc(ring, d + 1, BUFFER, command->out, RING_NEXT, d + 2);
    ring_desc(ring, d + 2, RESPONSE(slot), 108, RING_WRITE | (command->in > 0 ? RING_NEXT : 0),
              d + 3);
    ring_desc(ring, d + 3, BUFFER, command->in, RING_WRITE, 0);
    ring_offer(ring, (uint16_t)d);
}

/* Carries one out; returns the response, and the status in its second byte. */
static unsigned run(struct fixture *f, unsigned queue, const struct command *command)
{
    offer(f, queue, 0, command);
    guest_notify(&f->g, queue);
    settle(f);
    assert_int_equal(ring_used_index(&f->g.rings[queue]), f->g.rings[queue].avail_index);
    const uint8_t *response = ram(f, RESPONSE(0));
    return response[11] | (unsigned)response[10] << 8;
}

#define RUN(f, queue, ...) run(f, queue, &(const struct command){__VA_ARGS__})

static void ready(struct fixture *f)
{
    assert_int_equal(RUN(f, REQUEST, .cdb = {0}), 0x200);
    assert_int_equal(*ram(f, RESPONSE(0)), 18); /* bytes of sense data */
    assert_memory_equal(ram(f, RESPONSE(0) + 12), "\x70\x00\x06", 3);
    assert_int_equal(*ram(f, RESPONSE(0) + 24), 0x29);
    assert_int_equal(RUN(f, REQUEST, .cdb = {0}), OK);
}

static uint8_t manage(struct fixture *f, uint32_t kind, uint8_t target, uint8_t lun, uint8_t id)
{
    struct ring *ring = &f->g.rings[CONTROL];
    uint8_t data[24] = {[4] = (uint8_t)kind, [8] = 1, [9] = target, [11] = lun, [16] = id};
    assert_true(mem_write(f->g.mem, HEADER(20), data, sizeof(data)));
    *ram(f, RESPONSE(20)) = UNTOUCHED;
    ring_desc(ring, 0, HEADER(20), 24, RING_NEXT, 1);
    ring_desc(ring, 1, RESPONSE(20), 1, RING_WRITE, 0);
    ring_offer(ring, 0);
    guest_notify(&f->g, CONTROL);
    return *ram(f, RESPONSE(20));
}

static void test_configuration(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(guest_reg(&f->g, REG_QUEUE_COUNT, 2), 4); /* a request queue for each vCPU */
    assert_int_equal(guest_reg(&f->g, REG_CONFIG, 4), 2);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 20, 4), 96);
    guest_set_reg(&f->g, REG_CONFIG + 20, 10, 4);
    guest_set_reg(&f->g, REG_CONFIG + 0, 77, 4);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 20, 4), 10);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG, 4), 2);
    assert_int_equal(RUN(f, REQUEST, .cdb = {0}), 0x200);
    assert_int_equal(*ram(f, RESPONSE(0)), 10); /* sense data, cut off */
    assert_int_equal(*ram(f, RESPONSE(0) + 22), UNTOUCHED);
    guest_reset(&f->g);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 20, 4), 96);
}

static void test_reads_and_writes(void **state)
{
    struct fixture *f = *state;
    ready(f);
    for (unsigned queue = REQUEST; queue < REQUEST + 2; queue++) {
        memset(ram(f, BUFFER), 0x90 + (int)queue, 1024);
        assert_int_equal(RUN(f, queue, .cdb = {0x2a, [5] = 9, [8] = 2}, .out = 1024), OK);
        assert_int_equal(file_byte(f, 10), 0x90 + queue);
        memset(ram(f, BUFFER), 0, 1024);
        assert_int_equal(RUN(f, queue, .cdb = {0x28, [5] = 10, [8] = 2}, .in = 1536), OK);
        assert_int_equal(*ram(f, BUFFER), 0x90 + queue);
        assert_int_equal(*ram(f, BUFFER + 512), 11);
        assert_int_equal(load_le32(ram(f, RESPONSE(0) + 4)), 512); /* residual */
    }
    assert_int_equal(RUN(f, REQUEST, .cdb = {0x28, [8] = 2}, .in = 512), OVERRUN);
    assert_int_equal(RUN(f, REQUEST, .cdb = {0x28, [8] = 1}, .in = 512, .out = 512), FAILURE);
}

static void test_addresses(void **state)
{
    struct fixture *f = *state;
    struct error *err = NULL;
    ready(f);
    assert_int_equal(RUN(f, REQUEST, .target = 1, .cdb = {0}), BAD_TARGET);
    assert_int_equal(RUN(f, REQUEST, .lun = 1, .cdb = {0}), 0x200);
    assert_int_equal(*ram(f, RESPONSE(0) + 24), 0x25); /* no such unit */
    attach(f, "disk1", "0:5");
    assert_int_equal(RUN(f, REQUEST, .cdb = {0}), 0x200);
    assert_int_equal(*ram(f, RESPONSE(0) + 24), 0x3f); /* this target has other units now */
    assert_int_equal(RUN(f, REQUEST, .cdb = {0xa0, [9] = 64}, .in = 64), OK);
    assert_memory_equal(ram(f, BUFFER),
                        "\x00\x00\x00\x10\x00\x00\x00\x00"
                        "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05",
                        18);
    static const char *const wrong[] = {"0:5", "16", "1:64", "x", "1:", "-1", ""};
    for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
        const struct drive_params params = {.id = "disk2", .disk = f->disk, .address = wrong[i]};
        assert_false(virtio_scsi_drives.attach(f->g.device, &params, &err));
        assert_non_null(err);
        error_free(err);
        err = NULL;
    }
    virtio_scsi_drives.detach(f->g.device, "disk1");
}

static void test_task_management(void **state)
{
    struct fixture *f = *state;
    const struct command read = {.cdb = {0x28, [8] = 1}, .in = 512};
    ready(f);
    assert_int_equal(manage(f, 6, 0, 0, 3), OK); /* query: no such task */
    offer(f, REQUEST, 3, &read);
    offer(f, REQUEST, 4, &read);
    guest_notify(&f->g, REQUEST);
    assert_int_equal(manage(f, 6, 0, 0, 3), SUCCEEDED);
    assert_int_equal(manage(f, 0, 0, 0, 3), UNTOUCHED); /* abort: when it has ended */
    settle(f);
    assert_int_equal(*ram(f, RESPONSE(20)), OK);
    assert_int_equal(*ram(f, RESPONSE(3) + 11), ABORTED);
    assert_int_equal(*ram(f, RESPONSE(4) + 11), OK);
    offer(f, REQUEST, 3, &read);
    guest_notify(&f->g, REQUEST);
    assert_int_equal(manage(f, 5, 0, 0, 0), UNTOUCHED); /* logical unit reset */
    settle(f);
    assert_int_equal(*ram(f, RESPONSE(20)), OK);
    assert_int_equal(*ram(f, RESPONSE(3) + 11), RESET);
    ready(f); /* with its unit attention condition */
    assert_int_equal(manage(f, 4, 0, 0, 0), OK);
    ready(f);
    assert_int_equal(manage(f, 1, 1, 0, 0), BAD_TARGET);
    assert_int_equal(manage(f, 1, 0, 9, 0), INCORRECT_LUN);
    assert_int_equal(manage(f, 2, 0, 0, 0), REJECTED);
    assert_int_equal(manage(f, 99, 0, 0, 0), REJECTED);
}

/* The next event, in the only buffer that was offered. */
static const uint8_t *event(struct fixture *f)
{
    assert_int_equal(ring_used_index(&f->g.rings[EVENT]), f->g.rings[EVENT].avail_index);
    return ram(f, HEADER(30));
}

static void offer_event(struct fixture *f)
{
    struct ring *ring = &f->g.rings[EVENT];
    memset(ram(f, HEADER(30)), UNTOUCHED, 16);
    ring_desc(ring, 0, HEADER(30), 16, RING_WRITE, 0);
    ring_offer(ring, 0);
    guest_notify(&f->g, EVENT);
}

static void test_events(void **state)
{
    struct fixture *f = *state;
    struct drive_activity activity;
    offer_event(f);
    attach(f, "disk1", "7:2");
    assert_memory_equal(event(f),
                        "\x01\x00\x00\x00\x01\x07\x00\x02\x00\x00\x00\x00\x01\x00\x00\x00", 16);
    virtio_scsi_drives.leave(f->g.device, "disk1"); /* no buffer: said later */
    virtio_scsi_drives.activity(f->g.device, "disk1", &activity);
    assert_true(activity.watched && !activity.busy && !activity.flushed && !activity.handled);
    offer_event(f);
    assert_memory_equal(event(f),
                        "\x01\x00\x00\x00\x01\x07\x00\x02\x00\x00\x00\x00\x02\x00\x00\x00", 16);
    attach(f, "disk2", "8"); /* no buffer: missed */
    offer_event(f);
    assert_memory_equal(event(f), "\x00\x00\x00\x80", 4);
    /* It still answers, so that a driver can flush; it is not listed any more. */
    assert_int_equal(RUN(f, REQUEST, .target = 7, .lun = 2, .cdb = {0x35}), 0x200);
    assert_int_equal(RUN(f, REQUEST, .target = 7, .lun = 2, .cdb = {0x35}), OK);
    virtio_scsi_drives.activity(f->g.device, "disk1", &activity);
    assert_true(activity.flushed);
    assert_int_equal(activity.started, 2);
    virtio_scsi_drives.detach(f->g.device, "disk1");
    assert_int_equal(RUN(f, REQUEST, .target = 7, .lun = 2, .cdb = {0}), BAD_TARGET);
    virtio_scsi_drives.detach(f->g.device, "disk2");
}

/* A driver that gives an event's buffer back when it has carried out what it says. */
static void test_an_event_that_is_handled(void **state)
{
    struct fixture *f = *state;
    struct ring *ring = &f->g.rings[EVENT];
    struct drive_activity activity;
    attach(f, "disk1", "7:2");
    offer_event(f); /* for what it missed */
    for (unsigned i = 1; i < 4; i++) {
        ring_desc(ring, i, HEADER(30 + i), 16, RING_WRITE, 0);
        ring_offer(ring, (uint16_t)i);
    }
    virtio_scsi_drives.leave(f->g.device, "disk1"); /* the first of the three */
    assert_memory_equal(ram(f, HEADER(31)) + 4, "\x01\x07", 2);
    for (unsigned i = 0; i < 3; i++) { /* looking takes no buffer away */
        virtio_scsi_drives.activity(f->g.device, "disk1", &activity);
        assert_true(activity.watched && !activity.handled);
    }
    virtio_scsi_drives.activity(f->g.device, "disk0", &activity);
    assert_true(activity.handled);
    ring_offer(ring, 1);
    virtio_scsi_drives.activity(f->g.device, "disk1", &activity);
    assert_true(activity.handled);
    virtio_scsi_drives.detach(f->g.device, "disk1");
    attach(f, "disk1", "9"); /* takes the next in order */
    assert_memory_equal(ram(f, HEADER(32)) + 4, "\x01\x09", 2);
}

static void test_detached_in_flight(void **state)
{
    struct fixture *f = *state;
    ready(f);
    offer(f, REQUEST, 1, &(struct command){.cdb = {0x28, [8] = 1}, .in = 512});
    guest_notify(&f->g, REQUEST);
    virtio_scsi_drives.detach(f->g.device, "disk0");
    settle(f);
    assert_int_equal(ring_used_index(&f->g.rings[REQUEST]), f->g.rings[REQUEST].avail_index);
    assert_int_equal(RUN(f, REQUEST, .cdb = {0}), BAD_TARGET);
}

static void test_a_reset_in_flight(void **state)
{
    struct fixture *f = *state;
    ready(f);
    offer(f, REQUEST, 1, &(struct command){.cdb = {0x28, [8] = 1}, .in = 512});
    guest_notify(&f->g, REQUEST);
    assert_int_equal(manage(f, 1, 0, 0, 0), UNTOUCHED);
    guest_set_reg(&f->g, REG_STATUS, 0, 1);
    assert_int_not_equal(guest_reg(&f->g, REG_STATUS, 1), 0);
    settle(f);
    assert_int_equal(guest_reg(&f->g, REG_STATUS, 1), 0);
    assert_int_equal(*ram(f, RESPONSE(1) + 11), UNTOUCHED);
    guest_start(&f->g, 0);
    ready(f);
}

static void break_rules(struct fixture *f)
{
    struct ring *ring = &f->g.rings[REQUEST];
    ring_desc(ring, 0, HEADER(0), 50, RING_NEXT, 1); /* a byte is missing */
    ring_desc(ring, 1, RESPONSE(0), 108, RING_WRITE, 0);
    ring_offer(ring, 0);
    guest_notify(&f->g, REQUEST);
    assert_int_not_equal(guest_reg(&f->g, REG_STATUS, 1) & VIRTIO_STATUS_NEEDS_RESET, 0);
}

static void test_violations(void **state)
{
    break_rules(*state);
}

static void offer_reads(struct fixture *f)
{
    for (unsigned slot = 1; slot < 3; slot++)
        offer(f, REQUEST + (slot & 1), slot,
              &(const struct command){.cdb = {0x28, [5] = 8, [8] = 1}, .in = 512});
    guest_notify(&f->g, REQUEST);
    guest_notify(&f->g, REQUEST + 1);
    settle(f);
    assert_int_equal(*ram(f, RESPONSE(1) + 11), UNTOUCHED);
}

/* What the disk holds because an error stopped the machine is saved, and done in the end. */
static void test_what_stopped_the_machine(void **state)
{
    struct fixture *f = *state;
    struct device *device = f->g.device;
    struct state_buffer first = {0}, second = {0};
    struct error *err = NULL;
    size_t at = 0;
    ready(f);
    fixture_damage(f);
    offer_reads(f);
    device->ops->quiesce(device);
    assert_false(block_is_stopped(f->disk));
    device->ops->unquiesce(device); /* it stops again */
    settle(f);
    device->ops->quiesce(device);
    state_save(device->ops->state, device, &first);
    assert_true(state_restore(device->ops->state, device, first.data, first.size, &at, &err));
    assert_no_error(err);
    state_save(device->ops->state, device, &second);
    assert_int_equal(first.size, second.size);
    assert_memory_equal(first.data, second.data, first.size);
    fixture_mend(f);
    device->ops->unquiesce(device);
    settle(f);
    for (unsigned slot = 1; slot < 3; slot++)
        assert_int_equal(*ram(f, RESPONSE(slot) + 11), OK);
    assert_int_equal(*ram(f, BUFFER), 8);
    state_buffer_free(&first);
    state_buffer_free(&second);
}

/* ... or forgotten, by a reset, or with the machine; a unit that has gone has nothing to read. */
static void test_forgets_what_stopped_the_machine(void **state)
{
    struct fixture *f = *state;
    struct device *device = f->g.device;
    ready(f);
    fixture_damage(f);
    offer_reads(f);
    device->ops->quiesce(device);
    device->ops->reset(device);
    device->ops->unquiesce(device);
    guest_start(&f->g, F_HOTPLUG);
    ready(f);
    offer_reads(f);
    device->ops->quiesce(device);
    virtio_scsi_drives.detach(device, "disk0");
    device->ops->unquiesce(device);
    settle(f);
    assert_int_equal(*ram(f, RESPONSE(1) + 11), BAD_TARGET);
    attach(f, "disk0", NULL);
    ready(f);
    offer_reads(f);
    device->ops->quiesce(device); /* the end */
}

static void test_a_broken_device_is_saved(void **state)
{
    struct fixture *f = *state;
    struct device *device = f->g.device;
    struct state_buffer saved = {0};
    struct error *err = NULL;
    size_t at = 0;
    ready(f);
    fixture_damage(f);
    offer_reads(f);
    break_rules(f);
    device->ops->quiesce(device);
    state_save(device->ops->state, device, &saved);
    assert_true(state_restore(device->ops->state, device, saved.data, saved.size, &at, &err));
    assert_no_error(err);
    fixture_mend(f);
    device->ops->unquiesce(device);
    guest_start(&f->g, F_HOTPLUG);
    ready(f);
    state_buffer_free(&saved);
}

static void test_state(void **state)
{
    struct fixture *f = *state;
    struct device *device = f->g.device;
    struct state_buffer first = {0}, second = {0};
    struct error *err = NULL;
    size_t at = 0;
    ready(f);
    assert_int_equal(RUN(f, REQUEST, .cdb = {0x1b, [4] = 0}), OK); /* stopped */
    device->ops->quiesce(device);
    state_save(device->ops->state, device, &first);
    assert_true(state_restore(device->ops->state, device, first.data, first.size, &at, &err));
    assert_no_error(err);
    state_save(device->ops->state, device, &second);
    assert_int_equal(first.size, second.size);
    assert_memory_equal(first.data, second.data, first.size);
    device->ops->unquiesce(device);
    assert_int_equal(RUN(f, REQUEST, .cdb = {0}), 0x200);
    assert_int_equal(*ram(f, RESPONSE(0) + 24), 0x04);
    device->ops->quiesce(device);
    attach(f, "disk1", NULL);
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
        TEST(test_configuration),
        TEST(test_reads_and_writes),
        TEST(test_addresses),
        TEST(test_task_management),
        TEST(test_events),
        TEST(test_an_event_that_is_handled),
        TEST(test_detached_in_flight),
        TEST(test_a_reset_in_flight),
        TEST(test_violations),
        TEST(test_a_broken_device_is_saved),
        TEST(test_state),
        TEST(test_what_stopped_the_machine),
        TEST(test_forgets_what_stopped_the_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
