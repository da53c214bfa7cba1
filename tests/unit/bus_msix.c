/* SPDX-License-Identifier: MIT
 *
 * MSI-X as a driver uses it, on a virtio device: vectors per queue, masks, pending bits, and
 * that INTx is silent meanwhile.
 */
#include "support.h"

#include "bus/virtio_transport.h"
#include "dev/devices.h"
#include "virtio_guest.h"

enum { TABLE = 0x4000, PENDING = 0x5000, CONTROL_ENABLE = 1 << 15, CONTROL_MASK = 1 << 14 };
enum { COMMON_CONFIG_VECTOR = 0x10, COMMON_QUEUE_VECTOR = 0x1a };

struct sent {
    unsigned count;
    uint64_t address;
    uint32_t data;
};

static void on_message(void *sink, uint64_t address, uint32_t data)
{
    struct sent *sent = sink;
    *sent = (struct sent){sent->count + 1, address, data};
}

struct fixture {
    struct guest guest;
    struct sent sent;
    unsigned capability;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct guest *g = &f->guest;
    guest_init(g, true);
    g->env.pci->msi = (struct msi_sink){on_message, &f->sent};
    guest_plug(g, &device_virtio_rng, &(struct device_params){.id = "rng0"});
    guest_start(g, 0);
    for (unsigned at = guest_config_get(g, PCI_REG_CAPABILITIES, 1); at != 0;
         at = guest_config_get(g, at + 1, 1))
        if (guest_config_get(g, at, 1) == 0x11)
            f->capability = at;
    assert_int_not_equal(f->capability, 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    guest_free(&f->guest);
    free(f);
    return 0;
}

static void set_control(struct fixture *f, uint32_t bits)
{
    guest_config_put(&f->guest, f->capability + 2, bits, 2);
}

static void set_vector(struct fixture *f, unsigned vector, uint64_t address, uint32_t data,
                       uint32_t control)
{
    const uint32_t words[] = {(uint32_t)address, (uint32_t)(address >> 32), data, control};
    for (unsigned i = 0; i < 4; i++)
        guest_set_reg(&f->guest, TABLE + 16 * vector + 4 * i, words[i], 4);
}

/* One request of one buffer: the device answers and wants to interrupt. */
static void cause_interrupt(struct fixture *f)
{
    struct guest *g = &f->guest;
    struct ring *ring = &g->rings[0];
    ring_desc(ring, 0, GUEST_DATA, 16, RING_WRITE, 0);
    ring_offer(ring, 0);
    guest_notify(g, 0);
}

static void use_vector_1(struct fixture *f)
{
    guest_set_reg(&f->guest, REG_QUEUE_SELECT, 0, 2);
    guest_set_reg(&f->guest, COMMON_QUEUE_VECTOR, 1, 2);
    set_vector(f, 1, UINT64_C(0x128000000), 77, 0);
}

static void the_capability(void **state)
{
    struct fixture *f = *state;
    struct guest *g = &f->guest;
    /* A vector for the queue and one for the configuration. */
    assert_int_equal(guest_config_get(g, f->capability + 2, 2), 1);
    assert_int_equal(guest_config_get(g, f->capability + 4, 4), TABLE);
    assert_int_equal(guest_config_get(g, f->capability + 8, 4), PENDING);
    set_control(f, 0xffff);
    assert_int_equal(guest_config_get(g, f->capability + 2, 2), CONTROL_ENABLE | CONTROL_MASK | 1);
    for (unsigned vector = 0; vector < 2; vector++)
        assert_int_equal(guest_reg(g, TABLE + 16 * vector + 12, 4), 1); /* masked */
    set_vector(f, 1, ~UINT64_C(0), ~0u, ~0u);
    assert_int_equal(guest_reg(g, TABLE + 16, 4), 0xfffffffc);
    assert_int_equal(guest_reg(g, TABLE + 20, 4), 0xffffffff);
    assert_int_equal(guest_reg(g, TABLE + 24, 4), 0xffffffff);
    assert_int_equal(guest_reg(g, TABLE + 28, 4), 1);
    assert_int_equal(guest_reg(g, TABLE + 24, 2), 0); /* 32 bits only */
    set_vector(f, 2, 4, 4, 4);                        /* there is none */
    assert_int_equal(guest_reg(g, TABLE + 32, 4), 0);
    assert_int_equal(guest_reg(g, TABLE + 0xffc, 4), 0);
}

static void vectors_of_queues(void **state)
{
    struct fixture *f = *state;
    struct guest *g = &f->guest;
    guest_set_reg(g, REG_QUEUE_SELECT, 0, 2);
    assert_int_equal(guest_reg(g, COMMON_QUEUE_VECTOR, 2), 0xffff);
    assert_int_equal(guest_reg(g, COMMON_CONFIG_VECTOR, 2), 0xffff);
    guest_set_reg(g, COMMON_QUEUE_VECTOR, 2, 2); /* no such vector */
    assert_int_equal(guest_reg(g, COMMON_QUEUE_VECTOR, 2), 0xffff);
    guest_set_reg(g, COMMON_QUEUE_VECTOR, 1, 2);
    guest_set_reg(g, COMMON_CONFIG_VECTOR, 0, 2);
    assert_int_equal(guest_reg(g, COMMON_QUEUE_VECTOR, 2), 1);
    assert_int_equal(guest_reg(g, COMMON_CONFIG_VECTOR, 2), 0);
    guest_set_reg(g, REG_STATUS, 0, 1);
    assert_int_equal(guest_reg(g, COMMON_QUEUE_VECTOR, 2), 0xffff);
    assert_int_equal(guest_reg(g, COMMON_CONFIG_VECTOR, 2), 0xffff);
}

static void a_message_instead_of_the_pin(void **state)
{
    struct fixture *f = *state;
    struct guest *g = &f->guest;
    cause_interrupt(f);
    assert_int_not_equal(g->irq_levels, 0);
    set_control(f, CONTROL_ENABLE);
    assert_int_equal(g->irq_levels, 0); /* what was up comes down */
    use_vector_1(f);
    cause_interrupt(f);
    assert_int_equal(f->sent.count, 1);
    assert_true(f->sent.address == UINT64_C(0x128000000) && f->sent.data == 77);
    assert_int_equal(g->irq_levels, 0);
    guest_set_reg(g, COMMON_QUEUE_VECTOR, 0xffff, 2); /* the driver polls */
    cause_interrupt(f);
    assert_int_equal(f->sent.count, 1);
    set_control(f, 0);
    cause_interrupt(f);
    assert_int_equal(f->sent.count, 1);
    assert_int_not_equal(g->irq_levels, 0);
}

static void what_is_masked_is_pending(void **state)
{
    struct fixture *f = *state;
    struct guest *g = &f->guest;
    set_control(f, CONTROL_ENABLE);
    use_vector_1(f);
    guest_set_reg(g, TABLE + 28, 1, 4);
    cause_interrupt(f);
    cause_interrupt(f);
    assert_int_equal(f->sent.count, 0);
    assert_int_equal(guest_reg(g, PENDING, 4), 2);
    guest_set_reg(g, TABLE + 28, 0, 4);
    assert_int_equal(f->sent.count, 1); /* once */
    assert_int_equal(guest_reg(g, PENDING, 4), 0);

    set_control(f, CONTROL_ENABLE | CONTROL_MASK);
    cause_interrupt(f);
    assert_int_equal(f->sent.count, 1);
    set_control(f, CONTROL_ENABLE);
    assert_int_equal(f->sent.count, 2);

    set_control(f, CONTROL_ENABLE | CONTROL_MASK);
    cause_interrupt(f);
    set_control(f, 0); /* switched off: forgotten */
    set_control(f, CONTROL_ENABLE);
    assert_int_equal(f->sent.count, 2);
}

/* A broken ring: the change of configuration has its vector, and the ISR tells as well. */
static void the_configuration_vector(void **state)
{
    struct fixture *f = *state;
    struct guest *g = &f->guest;
    set_control(f, CONTROL_ENABLE);
    guest_set_reg(g, COMMON_CONFIG_VECTOR, 0, 2);
    set_vector(f, 0, 0x2000, 5, 0);
    ring_desc(&g->rings[0], 0, 0, 16, RING_WRITE, 0);
    ring_offer(&g->rings[0], 0);
    guest_notify(g, 0);
    assert_int_equal(f->sent.count, 1);
    assert_int_equal(f->sent.data, 5);
    assert_int_equal(guest_isr(g), 2);
    assert_int_equal(g->irq_levels, 0);
}

static void state_survives(void **state)
{
    struct fixture *f = *state;
    struct guest *g = &f->guest;
    struct fixture *other;
    set_control(f, CONTROL_ENABLE | CONTROL_MASK);
    use_vector_1(f);
    cause_interrupt(f);
    setup((void **)&other);
    assert_state_round_trip(g->device->ops->state, g->device, other->guest.device);
    set_control(other, CONTROL_ENABLE);
    assert_int_equal(other->sent.count, 1);
    assert_int_equal(other->sent.data, 77);
    teardown((void **)&other);
}

static void a_reset_forgets(void **state)
{
    struct fixture *f = *state;
    struct guest *g = &f->guest;
    set_control(f, CONTROL_ENABLE | CONTROL_MASK);
    use_vector_1(f);
    cause_interrupt(f);
    g->device->ops->reset(g->device);
    assert_int_equal(guest_config_get(g, f->capability + 2, 2), 1);
    guest_start(g, 0);
    assert_int_equal(guest_reg(g, TABLE + 16, 4), 0);
    assert_int_equal(guest_reg(g, TABLE + 28, 4), 1);
    assert_int_equal(guest_reg(g, PENDING, 4), 0);
    assert_int_equal(f->sent.count, 0);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(the_capability),
        TEST(vectors_of_queues),
        TEST(a_message_instead_of_the_pin),
        TEST(what_is_masked_is_pending),
        TEST(the_configuration_vector),
        TEST(state_survives),
        TEST(a_reset_forgets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
