/* SPDX-License-Identifier: MIT
 *
 * dev/virtio_9p.c: messages come and answers go through its queue; resets and pauses wait for
 * what the server is at. What messages mean is tests/unit/fs_p9.c's business.
 */
#include "support.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "virtio_guest.h"

extern const struct device_ops device_virtio_9p;

static struct guest *make(bool deterministic)
{
    struct guest *g = calloc(1, sizeof(*g));
    static int own_fds = -1;
    if (own_fds < 0)
        own_fds = open("/proc/self/fd", O_PATH | O_DIRECTORY);
    const struct device_share share = {open("/usr", O_PATH | O_DIRECTORY), own_fds, "stuff", true};
    guest_init(g, deterministic);
    guest_plug(g, &device_virtio_9p, &(struct device_params){.id = "share0", .share = &share});
    guest_start(g, 1);
    return g;
}

static int setup(void **state)
{
    *state = make(false);
    return 0;
}

static int setup_deterministic(void **state)
{
    *state = make(true);
    return 0;
}

static int teardown(void **state)
{
    guest_free(*state);
    free(*state);
    return 0;
}

static uint16_t used(const struct guest *g)
{
    return ring_used_index(&g->rings[0]);
}

static void offer(struct guest *g, const uint8_t *message, uint32_t size, uint32_t room)
{
    struct ring *ring = &g->rings[0];
    assert_true(mem_write(g->mem, GUEST_DATA, message, size));
    ring_desc(ring, 0, GUEST_DATA, size, RING_NEXT, 1);
    ring_desc(ring, 1, GUEST_DATA + 0x1000, room, RING_WRITE, 0);
    ring_offer(ring, 0);
    guest_notify(g, 0);
    if (!g->env.deterministic)
        guest_pump(g);
}

static const uint8_t attach[] = {23,  0,   0,   0, 104, 1, 0, 0, 0, 0, 0, 255,
                                 255, 255, 255, 0, 0,   0, 0, 0, 0, 0, 0};
static const uint8_t getattr[] = {19, 0, 0, 0, 24, 2, 0, 0, 0, 0, 0, 255, 7, 0, 0, 0, 0, 0, 0};

/* The answer is there, sooner or later. */
static void await(struct guest *g, uint16_t count)
{
    while (used(g) != count)
        sched_yield();
}

static void requests_are_answered(void **state)
{
    struct guest *g = *state;
    assert_int_equal(guest_reg(g, REG_CONFIG, 2), 5);
    assert_int_equal(guest_reg(g, REG_CONFIG + 2, 2), 0x7473); /* "st" */
    offer(g, attach, sizeof(attach), 4096);
    await(g, 1);
    assert_int_equal(ring_used_length(&g->rings[0], 0), 20);
    assert_int_equal(ring_get(g->mem, GUEST_DATA + 0x1004, 1), 105);
    offer(g, getattr, sizeof(getattr), 4096);
    await(g, 2);
    assert_int_equal(ring_get(g->mem, GUEST_DATA + 0x1004, 1), 25);
}

static void what_is_no_message_breaks_the_device(void **state)
{
    struct guest *g = *state;
    offer(g, attach, 5, 4096);
    while ((guest_reg(g, REG_STATUS, 1) & VIRTIO_STATUS_NEEDS_RESET) == 0)
        sched_yield();
    guest_start(g, 1);
    offer(g, attach, sizeof(attach), 4096);
    await(g, 1);
}

/* Resets and pauses at any moment: files are forgotten, nothing is answered twice. */
static void resets_and_pauses(void **state)
{
    struct guest *g = *state;
    for (unsigned i = 0; i < tier_count(200, 5000); i++) {
        guest_set_reg(g, REG_STATUS, 0, 1);
        while (guest_reg(g, REG_STATUS, 1) != 0)
            sched_yield();
        guest_start(g, 1);
        g->rings[0].avail_index = 0;
        offer(g, attach, sizeof(attach), 4096); /* fid 0 is free again */
        if (i % 2 == 0)
            continue;
        g->device->ops->quiesce(g->device);
        uint16_t before = used(g);
        sched_yield();
        assert_int_equal(used(g), before);
        g->device->ops->unquiesce(g->device);
        if (!g->env.deterministic)
            guest_pump(g);
        await(g, 1);
        assert_int_equal(ring_get(g->mem, GUEST_DATA + 0x1004, 1), 105);
    }
}

static void state_survives(void **state)
{
    struct guest *g = *state, *other = make(g->env.deterministic);
    offer(g, attach, sizeof(attach), 4096);
    await(g, 1);
    g->device->ops->quiesce(g->device);
    other->device->ops->quiesce(other->device);
    assert_state_round_trip(g->device->ops->state, g->device, other->device);
    guest_free(other);
    free(other);
}

int main(void)
{
#define TEST(function, how) cmocka_unit_test_setup_teardown(function, how, teardown)
    const struct CMUnitTest tests[] = {
        TEST(requests_are_answered, setup),
        TEST(requests_are_answered, setup_deterministic),
        TEST(what_is_no_message_breaks_the_device, setup),
        TEST(resets_and_pauses, setup),
        TEST(resets_and_pauses, setup_deterministic),
        TEST(state_survives, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
