/* SPDX-License-Identifier: MIT
 *
 * Doorbells of virtio devices (bus/virtio.h), on both transports, with an engine that takes them.
 */
#include "virtio_probe.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/state.h"
#include "doorbells.h"

#define MOVED (GUEST_BAR + 0x100000)

struct engine_side {
    struct guest g;
    struct doorbells bells;
    unsigned exits; /* writes that vCPUs' threads brought */
};

/* Without a device. */
static struct engine_side *new_side(bool deterministic, unsigned limit)
{
    struct engine_side *e = calloc(1, sizeof(*e));
    guest_init(&e->g, deterministic);
    doorbells_listen(&e->bells, e->g.mem, limit);
    return e;
}

static struct engine_side *new_limited(bool deterministic, unsigned limit)
{
    struct engine_side *e = new_side(deterministic, limit);
    guest_plug(&e->g, &probe_device, &probe_params);
    return e;
}

static struct engine_side *new_pci(void)
{
    return new_limited(false, DOORBELLS_MAX);
}

static struct engine_side *new_mmio(void)
{
    struct engine_side *e = new_side(false, DOORBELLS_MAX);
    guest_without_pci(&e->g);
    guest_plug(&e->g, &probe_device, &(struct device_params){.id = "probe0"});
    return e;
}

static void free_side(struct engine_side *e)
{
    guest_free(&e->g);
    assert_int_equal(e->bells.count, 0);
    free(e);
}

/* A vCPU's write. False: nothing is there. */
static bool vcpu_write(struct engine_side *e, uint64_t gpa, uint64_t value, unsigned size)
{
    if (doorbells_ring(&e->bells, gpa, value, size))
        return true;
    e->exits++;
    return mem_io_write(e->g.mem, gpa, size, value);
}

static void ring_queue(struct engine_side *e, unsigned queue)
{
    if (e->g.env.virtio_slots != NULL)
        assert_true(vcpu_write(e, GUEST_BAR + 0x50, queue, 4));
    else
        assert_true(vcpu_write(e, GUEST_BAR + REG_NOTIFY + 4 * queue, queue, 2));
}

static void offer(struct engine_side *e, unsigned queue)
{
    ring_desc(&e->g.rings[queue], 0, GUEST_DATA, 4, 0, 0);
    ring_offer(&e->g.rings[queue], 0);
}

static unsigned used(struct engine_side *e, unsigned queue)
{
    uint16_t index = 0;
    assert_true(mem_read(e->g.mem, e->g.rings[queue].used + 2, &index, 2));
    return index;
}

static void with_both(void (*test)(struct engine_side *e))
{
    struct engine_side *(*const make[])(void) = {new_pci, new_mmio};
    for (size_t i = 0; i < ARRAY_SIZE(make); i++) {
        struct engine_side *e = make[i]();
        test(e);
        free_side(e);
    }
}

/* ---- ringing ---- */

static void check_ringing(struct engine_side *e)
{
    guest_start(&e->g, 0);
    assert_int_equal(e->bells.count, 2);
    for (unsigned queue = 0; queue < 2; queue++) {
        offer(e, queue);
        for (unsigned i = 0; i < 3; i++)
            ring_queue(e, queue);
        assert_int_equal(probe(&e->g)->notifications, queue);
        guest_pump(&e->g);
        assert_int_equal(probe(&e->g)->notifications, queue + 1); /* several coalesced into one */
        assert_int_equal(used(e, queue), 1);
    }
    guest_pump(&e->g);
    assert_int_equal(probe(&e->g)->notifications, 2);
    assert_int_equal(e->exits, 0);
}

static void what_is_rung_needs_no_vcpus_thread(void **state)
{
    (void)state;
    with_both(check_ringing);
}

static void check_busy(struct engine_side *e)
{
    guest_start(&e->g, 0);
    probe(&e->g)->busy = 3;
    ring_queue(e, 1);
    for (unsigned i = 0; i < 5; i++)
        guest_pump(&e->g);
    assert_int_equal(probe(&e->g)->notifications, 4);
}

static void who_has_more_to_do_comes_again(void **state)
{
    (void)state;
    with_both(check_busy);
}

/* A vCPU's thread may bring a notification at the same time. */
static void check_mixed(struct engine_side *e)
{
    guest_start(&e->g, 0);
    ring_queue(e, 0);
    guest_notify(&e->g, 1);
    ring_queue(e, 1);
    guest_pump(&e->g);
    guest_pump(&e->g);
    assert_in_range(probe(&e->g)->notifications, 2, 3);
    ring_queue(e, 0);
    guest_pump(&e->g);
    assert_in_range(probe(&e->g)->notifications, 3, 4);
}

static void both_ways_at_once(void **state)
{
    (void)state;
    with_both(check_mixed);
}

/* With PCI any write that begins at a queue's place rings, also where it comes by the vCPU's
 * thread; with MMIO it is the register's width and a queue's number. */
static void other_writes(void **state)
{
    (void)state;
    struct engine_side *e = new_pci();
    guest_start(&e->g, 0);
    assert_true(vcpu_write(e, GUEST_BAR + REG_NOTIFY, 0x1234567, 8));
    guest_pump(&e->g);
    assert_int_equal(probe(&e->g)->notifications, 1);
    assert_true(mem_io_write(e->g.mem, GUEST_BAR + REG_NOTIFY, 8, 0));
    guest_pump(&e->g);
    assert_int_equal(probe(&e->g)->notifications, 2);
    assert_true(vcpu_write(e, GUEST_BAR + REG_NOTIFY + 2, 0, 2));
    assert_true(vcpu_write(e, GUEST_BAR + REG_NOTIFY + 8, 2, 2)); /* there is no such queue */
    guest_pump(&e->g);
    assert_int_equal(probe(&e->g)->notifications, 2);
    assert_int_equal(e->exits, 2);
    free_side(e);

    e = new_mmio();
    guest_start(&e->g, 0);
    assert_true(vcpu_write(e, GUEST_BAR + 0x50, 0, 2));
    assert_true(vcpu_write(e, GUEST_BAR + 0x50, 2, 4));
    assert_true(vcpu_write(e, GUEST_BAR + 0x50, 0x10000, 4));
    guest_pump(&e->g);
    assert_int_equal(probe(&e->g)->notifications, 0);
    assert_int_equal(e->exits, 3);
    free_side(e);
}

/* ---- where they are ---- */

static void they_go_where_the_bar_goes(void **state)
{
    (void)state;
    struct engine_side *e = new_pci();
    struct guest *g = &e->g;
    assert_int_equal(e->bells.count, 0);
    guest_start(g, 0);
    assert_int_equal(e->bells.count, 2);
    offer(e, 1);
    ring_queue(e, 1); /* and heard of when the BAR is elsewhere */
    guest_config_put(g, PCI_REG_BAR0, (uint32_t)MOVED, 4);
    assert_int_equal(e->bells.count, 2);
    assert_false(vcpu_write(e, GUEST_BAR + REG_NOTIFY, 0, 2));
    guest_pump(g);
    assert_int_equal(used(e, 1), 1);
    assert_int_equal(probe(g)->notifications, 1);
    assert_true(vcpu_write(e, MOVED + REG_NOTIFY, 0, 2));
    guest_pump(g);
    assert_int_equal(probe(g)->notifications, 2);
    guest_config_put(g, PCI_REG_COMMAND, PCI_COMMAND_MASTER, 2);
    assert_int_equal(e->bells.count, 0);
    guest_config_put(g, PCI_REG_BAR0, (uint32_t)GUEST_BAR, 4);
    assert_int_equal(e->bells.count, 0);
    guest_config_put(g, PCI_REG_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    assert_int_equal(e->bells.count, 2);
    e->exits = 0;
    ring_queue(e, 0);
    guest_pump(g);
    assert_int_equal(probe(g)->notifications, 3);
    assert_int_equal(e->exits, 0);
    free_side(e);
}

/* A device that is not allowed to use memory hears of it when it is. */
static void a_device_that_may_not_use_memory(void **state)
{
    (void)state;
    struct engine_side *e = new_pci();
    guest_start(&e->g, 0);
    guest_config_put(&e->g, PCI_REG_COMMAND, PCI_COMMAND_MEMORY, 2);
    offer(e, 0);
    ring_queue(e, 0);
    guest_pump(&e->g);
    assert_int_equal(probe(&e->g)->notifications, 0);
    guest_config_put(&e->g, PCI_REG_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    guest_pump(&e->g);
    assert_int_equal(used(e, 0), 1);
    free_side(e);
}

/* ---- resets ---- */

static void check_reset(struct engine_side *e)
{
    guest_start(&e->g, 0);
    ring_queue(e, 0);
    guest_reset(&e->g);
    guest_pump(&e->g); /* it was for a driver that is gone */
    assert_int_equal(probe(&e->g)->notifications, 0);
    ring_queue(e, 1);
    guest_pump(&e->g);
    assert_int_equal(probe(&e->g)->notifications, 0);
    guest_start(&e->g, 0);
    offer(e, 1);
    ring_queue(e, 1);
    guest_pump(&e->g);
    assert_int_equal(probe(&e->g)->notifications, 1);
    assert_int_equal(used(e, 1), 1);
    assert_int_equal(e->exits, 0);
}

static void a_reset_of_the_device(void **state)
{
    (void)state;
    with_both(check_reset);
}

static void check_queue_reset(struct engine_side *e)
{
    struct guest *g = &e->g;
    guest_start(g, VIRTIO_F_RING_RESET);
    guest_set_reg(g, REG_QUEUE_SELECT, 1, 2);
    guest_set_reg(g, REG_QUEUE_RESET, 1, 2);
    ring_queue(e, 1);
    guest_pump(g);
    assert_int_equal(probe(g)->notifications, 0);
    memset(mem_ram_pointer(g->mem, GUEST_RING(1), RING_BYTES, MEM_WRITE), 0, RING_BYTES);
    g->rings[1] = ring_at(g->mem, GUEST_RING(1), 16);
    guest_set_queue(g, 1, &g->rings[1]);
    offer(e, 1);
    ring_queue(e, 1);
    guest_pump(g);
    assert_int_equal(probe(g)->notifications, 1);
    assert_int_equal(used(e, 1), 1);
}

static void a_reset_of_a_queue(void **state)
{
    (void)state;
    with_both(check_queue_reset);
}

/* ---- pauses ---- */

static void check_pause(struct engine_side *e)
{
    guest_start(&e->g, 0);
    offer(e, 0);
    ring_queue(e, 0);
    probe_device.quiesce(e->g.device);
    guest_pump(&e->g);
    offer(e, 1);
    ring_queue(e, 1); /* the loop has not looked at it when the machine goes on */
    assert_int_equal(probe(&e->g)->notifications, 0);
    probe_device.unquiesce(e->g.device);
    guest_pump(&e->g);
    assert_int_equal(used(e, 0), 1);
    assert_int_equal(used(e, 1), 1);
}

static void a_pause_loses_none(void **state)
{
    (void)state;
    with_both(check_pause);
}

/* Whether the loop has got round to the doorbell before the state is saved or not. */
static void check_restore(struct engine_side *e, struct engine_side *other, bool heard)
{
    struct state_buffer buffer = {0};
    struct error *err = NULL;
    size_t at = 0;
    guest_start(&e->g, 0);
    offer(e, 1);
    ring_queue(e, 1);
    probe_device.quiesce(e->g.device);
    if (heard)
        guest_pump(&e->g);
    state_save(&virtio_transport_state, e->g.device, &buffer);
    memcpy(mem_ram_at(other->g.mem, 0)->host, mem_ram_at(e->g.mem, 0)->host, GUEST_RAM_SIZE);
    memcpy(other->g.rings, e->g.rings, sizeof(e->g.rings));
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++)
        other->g.rings[i].mem = other->g.mem;
    probe_device.quiesce(other->g.device);
    assert_true(state_restore(&virtio_transport_state, other->g.device, buffer.data, buffer.size,
                              &at, &err));
    state_buffer_free(&buffer);
    assert_int_equal(other->bells.count, 2);
    probe_device.unquiesce(other->g.device);
    guest_pump(&other->g);
    assert_int_equal(used(other, 1), 1);
    offer(other, 1);
    ring_queue(other, 1);
    guest_pump(&other->g);
    assert_int_equal(used(other, 1), 2);
    assert_int_equal(other->exits, 0);
    free_side(e);
    free_side(other);
}

static void a_saved_state_loses_none(void **state)
{
    (void)state;
    for (unsigned heard = 0; heard < 2; heard++) {
        check_restore(new_pci(), new_pci(), heard != 0);
        check_restore(new_mmio(), new_mmio(), heard != 0);
    }
}

/* ---- limits ---- */

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    DIR *folder = opendir("/proc/self/fd");
    assert_non_null(folder);
    while (readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count;
}

static void nothing_is_left_of_them(void **state)
{
    (void)state;
    unsigned before = open_descriptors();
    struct engine_side *e = new_mmio();
    struct guest *g = &e->g;
    struct device *more[VIRTIO_SLOT_COUNT - 1];
    const struct device_params params = {.id = "p"};
    struct error *err = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(more); i++)
        more[i] = device_new(&probe_device, &g->env, &params, NULL);
    unsigned full = open_descriptors();
    assert_null(device_new(&probe_device, &g->env, &params, &err)); /* there is no slot left */
    assert_error(&err, ERROR_USAGE, "room for 32 virtio devices");
    assert_int_equal(open_descriptors(), full);
    ring_queue(e, 0); /* and nobody hears of it any more */
    for (size_t i = 0; i < ARRAY_SIZE(more); i++)
        device_free(more[i]);
    free_side(e);
    assert_int_equal(open_descriptors(), before);
}

static void check_exits(struct engine_side *e, unsigned taken)
{
    guest_start(&e->g, 0);
    assert_int_equal(e->bells.count, taken);
    for (unsigned queue = 0; queue < 2; queue++) {
        offer(e, queue);
        ring_queue(e, queue);
        guest_pump(&e->g);
        assert_int_equal(used(e, queue), 1);
    }
    assert_int_equal(e->exits, 2 - taken);
    free_side(e);
}

/* What the engine does not take, or the host has no descriptors for, comes by vCPUs' threads. */
static void where_there_are_not_enough(void **state)
{
    (void)state;
    struct rlimit limit, low;
    for (unsigned taken = 0; taken < 3; taken++)
        check_exits(new_limited(false, taken), taken);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    for (unsigned taken = 0; taken < 3; taken++) {
        struct engine_side *e = new_side(false, 2);
        int next = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
        assert_true(next >= 0);
        close(next);
        low = (struct rlimit){(rlim_t)next + taken, limit.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
        guest_plug(&e->g, &probe_device, &probe_params);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
        check_exits(e, taken);
    }
}

static void a_deterministic_machine_has_none(void **state)
{
    (void)state;
    struct engine_side *e = new_limited(true, 2);
    guest_start(&e->g, 0);
    assert_int_equal(e->bells.count, 0);
    free_side(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_rung_needs_no_vcpus_thread),
        cmocka_unit_test(who_has_more_to_do_comes_again),
        cmocka_unit_test(both_ways_at_once),
        cmocka_unit_test(other_writes),
        cmocka_unit_test(they_go_where_the_bar_goes),
        cmocka_unit_test(a_device_that_may_not_use_memory),
        cmocka_unit_test(a_reset_of_the_device),
        cmocka_unit_test(a_reset_of_a_queue),
        cmocka_unit_test(a_pause_loses_none),
        cmocka_unit_test(a_saved_state_loses_none),
        cmocka_unit_test(nothing_is_left_of_them),
        cmocka_unit_test(where_there_are_not_enough),
        cmocka_unit_test(a_deterministic_machine_has_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
