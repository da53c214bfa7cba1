/* SPDX-License-Identifier: MIT
 *
 * NICs in PCIe slots of a whole machine: how they come, leave and are pulled out, with the test as
 * the guest's driver for hot-plug (hotplug_driver.h).
 */
#include "vm_world.h"

#include <sys/socket.h>
#include <unistd.h>

#include "base/state.h"
#include "base/vclock.h"
#include "hotplug_driver.h"
#include "vm/virt/virt.h"

#define NIC    UINT32_C(0x10411af4)
#define WINDOW UINT32_C(0x40000000)
#define BUS    1u

static const uint32_t idle[] = {0x0000006f}; /* j . */

struct machine {
    struct world w;
    struct hotplug_driver hp;
    struct machine_nic nic;
    int peers[4];
};

static void make(struct machine *m, unsigned slots, bool started)
{
    *m = (struct machine){.nic = {.mac = (char *)(uintptr_t) "02:00:00:00:00:01"}};
    world_open(&m->w);
    world_give(&m->w, &m->w.config.firmware, idle, sizeof(idle));
    m->w.config.pci_slots = slots;
    world_make(&m->w);
    m->hp = (struct hotplug_driver){m->w.vm->mem, 2, BUS, 0}; /* behind the random numbers */
    if (!started)
        return;
    assert_true(vm_start(m->w.vm, &m->w.err));
    assert_true(vm_pause(m->w.vm, &m->w.err)); /* nobody but the test makes accesses */
    hp_start(&m->hp, WINDOW);
}

static size_t attach(struct machine *m)
{
    int pair[2];
    size_t number;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_true(vm_nic_attach(m->w.vm, &m->nic, pair[0], -1, &number, &m->w.err));
    m->peers[number] = pair[1];
    return number;
}

static void assert_closed(int peer)
{
    char byte;
    assert_int_equal(recv(peer, &byte, 1, MSG_DONTWAIT), 0);
    close(peer);
}

static struct vm_nic_status status_of(struct machine *m, size_t nic)
{
    struct vm_nic_status status;
    assert_true(vm_get_nic(m->w.vm, nic, &status));
    return status;
}

static bool exists(struct machine *m, size_t nic)
{
    struct vm_nic_status status;
    return vm_get_nic(m->w.vm, nic, &status);
}

static void quit(void *loop)
{
    loop_quit(loop, 0);
}

static void pump(struct machine *m)
{
    loop_post(m->w.env.loop, quit, m->w.env.loop);
    loop_run(m->w.env.loop);
}

static void the_first_free_slot_is_taken(void **state)
{
    struct machine m;
    (void)state;
    make(&m, 2, false);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(attach(&m), i);
        assert_int_equal(status_of(&m, i).hotplug_slot, i < 2 ? i + 1 : 0);
        assert_int_equal(status_of(&m, i).slot != 0, i == 2);
    }
    assert_true(vm_nic_detach(m.w.vm, 0, false, &m.w.err)); /* nobody uses it yet */
    assert_closed(m.peers[0]);
    assert_int_equal(attach(&m), 0);
    assert_int_equal(status_of(&m, 0).hotplug_slot, 1);
    /* What is there before the start is there when the guest first looks, and no event. */
    assert_true(vm_start(m.w.vm, &m.w.err));
    assert_true(vm_pause(m.w.vm, &m.w.err));
    hp_set_port(&m.hp, PCI_REG_PRIMARY_BUS, BUS << 16 | BUS << 8, 4);
    assert_int_equal(hp_device(&m.hp, 0, 4), NIC);
    assert_int_equal(status_of(&m, 0).bus, BUS);
    hp_start(&m.hp, WINDOW);
    assert_int_equal(hp_events(&m.hp), 0);
    world_close(&m.w);
    for (unsigned i = 0; i < 3; i++)
        assert_closed(m.peers[i]);
}

static void the_guest_lets_go(void **state)
{
    struct machine m;
    (void)state;
    make(&m, 1, true);
    for (unsigned turn = 0; turn < 3; turn++) {
        assert_int_equal(attach(&m), 0);
        assert_true(status_of(&m, 0).heeded);
        assert_int_equal(hp_events(&m.hp), HP_BUTTON | HP_PRESENCE);
        assert_int_equal(hp_add(&m.hp), NIC);
        hp_put(&m.hp, BUS, 0, PCI_REG_COMMAND, PCI_COMMAND_MASTER, 2);

        assert_true(vm_nic_detach(m.w.vm, 0, false, &m.w.err));
        assert_true(status_of(&m, 0).leaving);
        assert_int_equal(hp_events(&m.hp), HP_BUTTON);
        assert_false(vm_nic_detach(m.w.vm, 0, false, &m.w.err));
        assert_error(&m.w.err, ERROR_USAGE, "is leaving");
        pump(&m);
        assert_true(exists(&m, 0)); /* it waits for the guest */
        if (turn == 1) {            /* which may take the link away first, and then the power */
            hp_set_port(&m.hp, m.hp.express + PCI_EXPRESS_LINK_CONTROL, 1 << 4, 2);
            pump(&m);
            assert_true(exists(&m, 0));
        }
        hp_remove(&m.hp);
        pump(&m);
        assert_false(exists(&m, 0));
        assert_closed(m.peers[0]);
        assert_int_equal(m.w.vm->config.nic_count, 0);
        assert_int_equal(hp_events(&m.hp), HP_PRESENCE | HP_LINK);
    }
    assert_int_equal(m.w.vm->holds, 1); /* the pause's */
    world_close(&m.w);
}

static void by_force_it_is_gone_at_once(void **state)
{
    struct machine m;
    (void)state;
    make(&m, 1, true);
    assert_int_equal(attach(&m), 0);
    hp_events(&m.hp);
    assert_int_equal(hp_add(&m.hp), NIC);
    hp_put(&m.hp, BUS, 0, PCI_REG_BAR0, WINDOW, 4);
    hp_put(&m.hp, BUS, 0, PCI_REG_COMMAND, PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY, 2);
    assert_true(vm_nic_detach(m.w.vm, 0, true, &m.w.err));
    assert_closed(m.peers[0]);
    assert_false(exists(&m, 0));
    assert_int_equal(hp_events(&m.hp), HP_PRESENCE | HP_LINK);
    uint64_t value = 0;
    assert_true(mem_io_read(m.w.vm->mem, WINDOW + 0x14, 1, &value));
    assert_int_equal(value, 0xff);
    assert_true(mem_io_write(m.w.vm->mem, WINDOW + 0x14, 1, 0));
    world_close(&m.w);
}

/* A guest without the driver keeps what it uses, as on the root bus. */
static void nobody_listens(void **state)
{
    struct machine m;
    (void)state;
    make(&m, 1, true);
    hp_command(&m.hp, 0, HP_ABPE | HP_HPIE | HP_OFF);
    assert_int_equal(attach(&m), 0);
    assert_false(status_of(&m, 0).heeded);
    assert_int_equal(hp_device(&m.hp, 0, 4), NIC); /* who looks, finds it */
    hp_put(&m.hp, BUS, 0, PCI_REG_COMMAND, PCI_COMMAND_MASTER, 2);
    assert_false(vm_nic_detach(m.w.vm, 0, false, &m.w.err));
    assert_error(&m.w.err, ERROR_USAGE, "0000:01:00.0/remove");
    hp_put(&m.hp, BUS, 0, PCI_REG_COMMAND, 0, 2);
    assert_true(vm_nic_detach(m.w.vm, 0, false, &m.w.err));
    assert_closed(m.peers[0]);
    world_close(&m.w);
}

static void a_slot_is_switched_off_and_on(void **state)
{
    struct machine m;
    (void)state;
    make(&m, 1, true);
    attach(&m);
    assert_int_equal(hp_add(&m.hp), NIC);
    hp_put(&m.hp, BUS, 0, PCI_REG_COMMAND, PCI_COMMAND_MASTER, 2);
    hp_remove(&m.hp);
    hp_command(&m.hp, 0, HP_OFF);
    assert_int_equal(hp_device(&m.hp, 0, 4), UINT32_MAX); /* the machine has yet to stand still */
    hp_command(&m.hp, HP_OFF, HP_OFF);
    pump(&m);
    assert_true(exists(&m, 0)); /* nobody asked for it to leave */
    assert_int_equal(hp_add(&m.hp), NIC);
    assert_int_equal(hp_device(&m.hp, PCI_REG_COMMAND, 2), 0);
    /* A reset ends a leave that the guest did not get to. */
    assert_true(vm_nic_detach(m.w.vm, 0, false, &m.w.err));
    assert_true(vm_reset(m.w.vm, &m.w.err));
    assert_false(exists(&m, 0));
    assert_closed(m.peers[0]);
    assert_int_equal(hp_reg(&m.hp, PCI_EXPRESS_SLOT_STATUS), 0);
    world_close(&m.w);
}

static void a_slot_is_saved_with_its_machine(void **state)
{
    struct machine m, other;
    struct state_buffer buffer = {0}, again = {0};
    (void)state;
    make(&m, 2, true);
    make(&other, 2, true);
    attach(&m);
    attach(&other);
    assert_int_equal(hp_add(&m.hp), NIC);
    assert_true(vm_nic_detach(m.w.vm, 0, false, &m.w.err));
    vm_save_state(m.w.vm, &buffer);
    assert_true(vm_restore_state(other.w.vm, buffer.data, buffer.size, &other.w.err));
    vm_save_state(other.w.vm, &again);
    assert_int_equal(buffer.size, again.size);
    assert_memory_equal(buffer.data, again.data, buffer.size);
    assert_true(status_of(&other, 0).leaving);
    hp_remove(&other.hp); /* it goes on there */
    pump(&other);
    assert_false(exists(&other, 0));
    assert_closed(other.peers[0]);
    state_buffer_free(&buffer);
    state_buffer_free(&again);
    world_close(&m.w);
    world_close(&other.w);
    assert_closed(m.peers[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_free_slot_is_taken),
        cmocka_unit_test(the_guest_lets_go),
        cmocka_unit_test(by_force_it_is_gone_at_once),
        cmocka_unit_test(nobody_listens),
        cmocka_unit_test(a_slot_is_switched_off_and_on),
        cmocka_unit_test(a_slot_is_saved_with_its_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
