/* SPDX-License-Identifier: MIT
 *
 * Whole machines in this process, run by small programs: how runs end, guest resets, pauses,
 * deterministic mode and saved state.
 */
#include "vm_busy.h"

#include <sys/socket.h>
#include <unistd.h>

#include "bus/pci.h"
#include "vm/virt/virt.h"

/* ---- how a run ends ---- */

static const uint32_t finish[] = {
    0x00100eb7, /* lui t4,0x100: the test finisher */
    0x00000297, /* auipc t0,0 */
    0x01c2af03, /* lw t5,28(t0): word 8 */
    0x01eea023, /* sw t5,0(t4) */
    0x0000006f, /* j . */
};

static void finisher_ends_the_run(void **state)
{
    static const struct {
        uint32_t value;
        enum vm_end end;
        uint32_t code;
        enum vm_state state;
    } cases[] = {
        {0x5555, VM_END_POWEROFF, 0, VM_STOPPED},
        {0x00073333, VM_END_EXIT_CODE, 7, VM_STOPPED},
        {0x7777, VM_END_RESET, 0, VM_STOPPED},
    };
    (void)state;
    for (size_t i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
        struct world w;
        uint32_t program[9] = {0};
        memcpy(program, finish, sizeof(finish));
        program[8] = cases[i / 2].value;
        world_open(&w);
        world_give(&w, &w.config.firmware, program, sizeof(program));
        w.config.no_reboot = true;
        w.config.deterministic = i % 2 != 0;
        w.config.cpus = 3;
        world_make(&w);
        world_run(&w);
        assert_int_equal(w.end, cases[i / 2].end);
        assert_int_equal(w.code, cases[i / 2].code);
        assert_int_equal(vm_state(w.vm), cases[i / 2].state);
        assert_false(vm_resume(w.vm, &w.err)); /* it has ended */
        assert_error(&w.err, ERROR_USAGE, "stopped");
        vm_quit(w.vm); /* nothing left to end */
        assert_int_equal(w.ends, 1);
        world_close(&w);
    }
}

/* Every string of the configuration is the machine's own: freed twice, it would end this. */
static void the_configuration_is_copied(void **state)
{
    struct world w;
    uint32_t program[9] = {0};
    (void)state;
    memcpy(program, finish, sizeof(finish));
    program[8] = 0x5555;
    world_open(&w);
    world_give(&w, &w.config.firmware, program, sizeof(program));
    w.config.guest_os = strdup("debian12-64");
    w.config.serial = MACHINE_SERIAL_FILE;
    w.config.serial_path = strdup("console.txt");
    world_make(&w);
    assert_ptr_not_equal(w.vm->config.guest_os, w.config.guest_os);
    assert_ptr_not_equal(w.vm->config.serial_path, w.config.serial_path);
    world_run(&w);
    world_close(&w);
}

/* A failure that a kernel reports is a crash, not an exit code. */
static void kernel_failure_is_a_crash(void **state)
{
    struct world w;
    struct boot_bytes kernel;
    uint32_t program[9] = {0};
    (void)state;
    memcpy(program, finish, sizeof(finish));
    program[8] = 0x00073333;
    make_image(&kernel, program, sizeof(program));
    world_open(&w);
    world_give(&w, &w.config.kernel, kernel.data, kernel.size);
    world_make(&w);
    world_run(&w);
    assert_int_equal(w.end, VM_END_GUEST_CRASH);
    assert_int_equal(w.code, 7);
    assert_int_equal(vm_state(w.vm), VM_FAILED);
    world_close(&w);
}

static void wedged_guest_is_a_crash(void **state)
{
    struct world w;
    const uint32_t nothing[4] = {0}; /* illegal, and mtvec is 0, where nothing is */
    (void)state;
    world_open(&w);
    world_give(&w, &w.config.firmware, nothing, sizeof(nothing));
    world_make(&w);
    world_run(&w);
    assert_int_equal(w.end, VM_END_GUEST_CRASH);
    assert_int_equal(w.code, 0);
    world_close(&w);
}

static void htif_prints_and_exits(void **state)
{
    static const uint32_t program[] = {
        0x00001297, /* auipc t0,0x1: tohost */
        0x10100313, /* li t1,0x101: console, print */
        0x03031313, /* slli t1,t1,48 */
        0x04830313, /* addi t1,t1,'H' */
        0x0062b023, /* sd t1,0(t0) */
        0x0402b383, /* 1: ld t2,64(t0): fromhost */
        0xfe038ee3, /* beqz t2,1b */
        0x00b00313, /* li t1,5 << 1 | 1 */
        0x0062b023, /* sd t1,0(t0) */
        0x0000006f, /* j . */
    };
    struct world w;
    struct boot_bytes elf;
    (void)state;
    make_elf(&elf, program, sizeof(program));
    world_open(&w);
    world_give(&w, &w.config.firmware, elf.data, elf.size);
    world_make(&w);
    world_run(&w);
    assert_int_equal(w.end, VM_END_EXIT_CODE);
    assert_int_equal(w.code, 5);
    assert_string_equal(w.text, "H");
    world_close(&w);
}

/* A failure code of more than 32 bits must not be cut to "success". */
static void htif_failure_stays_one(void **state)
{
    static const uint32_t program[] = {
        0x00001297, /* auipc t0,0x1: tohost */
        0x00100313, /* li t1,1 */
        0x02131313, /* slli t1,t1,33 */
        0x00130313, /* addi t1,t1,1 */
        0x0062b023, /* sd t1,0(t0) */
        0x0000006f, /* j . */
    };
    struct world w;
    struct boot_bytes elf;
    (void)state;
    make_elf(&elf, program, sizeof(program));
    world_open(&w);
    world_give(&w, &w.config.firmware, elf.data, elf.size);
    world_make(&w);
    world_run(&w);
    assert_int_equal(w.end, VM_END_EXIT_CODE);
    assert_int_equal(w.code, UINT32_MAX);
    world_close(&w);
}

/* Each life of the guest prints whether the UART's interrupt is pending in the PLIC, then
 * makes the UART assert it and resets the machine. */
static void reset_forgets_interrupts(void **state)
{
    static const uint32_t program[] = {
        0x100003b7, /* lui t2,0x10000: UART */
        0x0c0012b7, /* lui t0,0xc001: PLIC, pending bits */
        0x0002a303, /* lw t1,0(t0) */
        0x00a35313, /* srli t1,t1,10 */
        0x00137313, /* andi t1,t1,1 */
        0x03030313, /* addi t1,t1,'0' */
        0x00638023, /* sb t1,0(t2) */
        0x00200e13, /* li t3,2 */
        0x01c380a3, /* sb t3,1(t2): interrupt when the transmitter is empty */
        0x00100eb7, /* lui t4,0x100 */
        0x00007f37, /* lui t5,0x7 */
        0x777f0f1b, /* addiw t5,t5,0x777: reset */
        0x01eea023, /* sw t5,0(t4) */
        0x0000006f, /* j . */
    };
    struct world w;
    (void)state;
    world_open(&w);
    world_give(&w, &w.config.firmware, program, sizeof(program));
    w.quit_after = 5;
    world_make(&w);
    world_run(&w);
    w.text[5] = '\0';
    assert_string_equal(w.text, "00000");
    world_close(&w);
}

/* Each life of the guest prints whether the one before it left a mark in memory. */
static void reset_forgets_memory(void **state)
{
    static const uint32_t program[] = {
        0x00010297, /* auipc t0,0x10: the mark */
        0x0002a303, /* lw t1,0(t0) */
        0x03030313, /* addi t1,t1,'0' */
        0x100003b7, /* lui t2,0x10000: UART */
        0x00638023, /* sb t1,0(t2) */
        0x00100e13, /* li t3,1 */
        0x01c2a023, /* sw t3,0(t0) */
        0x00100eb7, /* lui t4,0x100 */
        0x00007f37, /* lui t5,0x7 */
        0x777f0f1b, /* addiw t5,t5,0x777: reset */
        0x01eea023, /* sw t5,0(t4) */
        0x0000006f, /* j . */
    };
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct world w;
        world_open(&w);
        world_give(&w, &w.config.firmware, program, sizeof(program));
        w.config.deterministic = i & 1;
        w.config.ram_backend = i & 2 ? MACHINE_RAM_MEMFD : MACHINE_RAM_ANONYMOUS;
        w.quit_after = 5;
        world_make(&w);
        world_run(&w);
        assert_int_equal(w.end, VM_END_QUIT);
        w.text[5] = '\0';
        assert_string_equal(w.text, "00000");
        world_close(&w);
    }
}

/* ---- deterministic mode ---- */

static void pause_again(void *opaque)
{
    struct world *w = opaque;
    if (w->ends > 0 || w->pauses_left == 0)
        return;
    w->pauses_left--;
    if (!vm_pause(w->vm, &w->err)) { /* the guest's request to be switched off came first */
        assert_int_equal(w->ends, 1);
        return;
    }
    assert_int_equal(vm_state(w->vm), VM_PAUSED);
    struct vm_status before, after;
    vm_get_status(w->vm, &before);
    if (w->with_threads) {
        vm_threads_stop(w->vm);
        assert_true(vm_threads_start(w->vm, &w->err));
    }
    vm_get_status(w->vm, &after);
    assert_true(before.retired == after.retired);
    assert_true(before.virtual_time_ns == after.virtual_time_ns);
    assert_true(vm_resume(w->vm, &w->err));
    loop_post(w->env.loop, pause_again, w);
}

static uint64_t run_busy(uint64_t seed, unsigned pauses, bool with_threads)
{
    struct world w;
    open_busy(&w, seed);
    w.pauses_left = pauses;
    w.with_threads = with_threads;
    loop_post(w.env.loop, pause_again, &w);
    world_run(&w);
    assert_int_equal(w.end, VM_END_POWEROFF);
    if (pauses > 0)
        assert_true(w.pauses_left < pauses);
    uint64_t hash = machine_hash(w.vm);
    assert_true(guest_word(&w, DATA_GPA) != guest_word(&w, DATA_GPA + 64));
    world_close(&w);
    return hash;
}

static void runs_are_equal(void **state)
{
    (void)state;
    uint64_t first = run_busy(1, 0, false);
    assert_true(run_busy(1, 0, false) == first);
    assert_true(run_busy(1, 1000, false) == first); /* wherever it is paused */
    assert_true(run_busy(1, 20, true) == first);
    assert_true(run_busy(2, 0, false) != first); /* the guest's entropy is another */
}

static void pauses_while_real(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    world_give(&w, &w.config.firmware, busy, sizeof(busy));
    w.config.cpus = 2;
    world_make(&w);
    w.pauses_left = 200;
    w.with_threads = true;
    loop_post(w.env.loop, pause_again, &w);
    world_run(&w);
    assert_int_equal(w.end, VM_END_POWEROFF);
    world_close(&w);
}

/* ---- saved state ---- */

/* Runs the machine until virtual time `stop_ns` and no instruction further, however the
 * host schedules our threads: a timer of the counted clock holds it. */
static void pause_and_quit(void *opaque)
{
    struct world *w = opaque;
    assert_true(vm_pause(w->vm, &w->err));
    vm_quit(w->vm);
}

static void hold_here(void *opaque) /* on the vCPUs' thread */
{
    struct world *w = opaque;
    vm_hold_begin(w->vm); /* for good: this machine is only saved */
    loop_post(w->env.loop, pause_and_quit, w);
}

static void run_until(struct world *w, int64_t stop_ns)
{
    struct vtimer *timer = vtimer_new(w->vm->clock, hold_here, w);
    vtimer_arm(timer, stop_ns);
    world_run(w);
    assert_int_equal(w->end, VM_END_QUIT);
    vtimer_free(timer);
}

static void move_at(int64_t stop_ns, uint64_t whole)
{
    struct world w, other;
    struct state_buffer saved = {0}, again = {0};
    open_busy(&w, 1);
    run_until(&w, stop_ns);
    vm_save_state(w.vm, &saved);
    uint8_t *ram = malloc(w.vm->ram->size);
    memcpy(ram, w.vm->ram->host, w.vm->ram->size);
    world_close(&w);

    open_busy(&other, 99); /* its own seed is forgotten too */
    assert_true(vm_restore_state(other.vm, saved.data, saved.size, &other.err));
    memcpy(other.vm->ram->host, ram, other.vm->ram->size);
    vm_save_state(other.vm, &again);
    assert_int_equal(again.size, saved.size);
    assert_memory_equal(again.data, saved.data, again.size);
    world_run(&other);
    assert_int_equal(other.end, VM_END_POWEROFF);
    assert_true(machine_hash(other.vm) == whole);
    world_close(&other);

    state_buffer_free(&again);
    state_buffer_free(&saved);
    free(ram);
}

static void state_moves_to_another_machine(void **state)
{
    struct world w;
    struct vm_status status;
    (void)state;
    open_busy(&w, 1);
    world_run(&w);
    uint64_t whole = machine_hash(w.vm);
    vm_get_status(w.vm, &status);
    world_close(&w);
    for (int64_t part = 1; part < 8; part++)
        move_at((int64_t)status.virtual_time_ns * part / 8, whole);
}

/* ---- a pause that comes when the guest has already asked for its end ---- */

/* Waits, on the loop's thread, until the guest's request is there, and pauses before the loop
 * gets to it. */
static void pause_after_request(void *opaque)
{
    struct world *w = opaque;
    while (atomic_load(&w->vm->power_request) == VM_POWER_NONE)
        sched_yield();
    bool paused = vm_pause(w->vm, &w->err);
    w->pauses_left += paused;
    if (paused) /* the guest was reset in place */
        vm_quit(w->vm);
}

static void a_power_request_comes_before_a_pause(void **state)
{
    static const struct {
        uint32_t value;
        bool no_reboot;
        enum vm_end end;
    } cases[] = {
        {0x5555, false, VM_END_POWEROFF},
        {0x00073333, false, VM_END_EXIT_CODE},
        {0x7777, true, VM_END_RESET},
        {0x7777, false, VM_END_QUIT},
    };
    (void)state;
    for (size_t i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
        struct world w;
        uint32_t program[9] = {0};
        bool ends = cases[i / 2].end != VM_END_QUIT;
        memcpy(program, finish, sizeof(finish));
        program[8] = cases[i / 2].value;
        world_open(&w);
        world_give(&w, &w.config.firmware, program, sizeof(program));
        w.config.no_reboot = cases[i / 2].no_reboot;
        w.config.deterministic = i % 2 != 0;
        world_make(&w);
        loop_post(w.env.loop, pause_after_request, &w);
        world_run(&w);
        assert_int_equal(w.end, cases[i / 2].end);
        assert_int_equal(w.pauses_left, ends ? 0 : 1);
        if (ends)
            assert_error(&w.err, ERROR_USAGE, "stopped");
        assert_int_equal(atomic_load(&w.vm->power_request), VM_POWER_NONE);
        world_close(&w);
    }
}

/* What a device heard while the machine stood still goes along with its state, and is carried out
 * where the machine runs again. */
static void a_power_request_is_saved(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct world w, other;
        struct state_buffer saved = {0}, again = {0};
        open_busy(&w, 1);
        run_until(&w, 1000000);
        assert_true(mem_io_write(w.vm->mem, FINISHER, 4, 0x00053333));
        vm_save_state(w.vm, &saved);
        world_close(&w);

        open_busy(&other, 1);
        if (i == 1) /* a request of its own, which the restored state replaces */
            assert_true(mem_io_write(other.vm->mem, FINISHER, 4, 0x5555));
        assert_true(vm_restore_state(other.vm, saved.data, saved.size, &other.err));
        vm_save_state(other.vm, &again);
        assert_int_equal(again.size, saved.size);
        assert_memory_equal(again.data, saved.data, again.size);
        world_run(&other);
        assert_int_equal(other.end, VM_END_EXIT_CODE);
        assert_int_equal(other.code, 5);
        world_close(&other);
        state_buffer_free(&saved);
        state_buffer_free(&again);
    }
}

/* A guest may set its clock to before 1970, or to what overflows: saved all the same. */
static void any_wall_clock_is_restored(void **state)
{
    static const int64_t walls[] = {-1, INT64_MIN, INT64_MAX};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(walls); i++) {
        struct world w, other;
        struct state_buffer saved = {0}, again = {0};
        open_busy(&w, 1);
        open_busy(&other, 2);
        vclock_set_wall(w.vm->clock, walls[i]);
        vm_save_state(w.vm, &saved);
        assert_true(vm_restore_state(other.vm, saved.data, saved.size, &other.err));
        vm_save_state(other.vm, &again);
        assert_int_equal(again.size, saved.size);
        assert_memory_equal(again.data, saved.data, again.size);
        assert_true(vclock_wall_now(other.vm->clock) == walls[i]);
        state_buffer_free(&again);
        state_buffer_free(&saved);
        world_close(&other);
        world_close(&w);
    }
}

static void damaged_state_is_refused(void **state)
{
    struct world w;
    struct state_buffer buffer = {0};
    uint64_t seed = 7;
    (void)state;
    open_busy(&w, 1);
    vm_save_state(w.vm, &buffer);
    for (size_t size = 0; size < buffer.size; size += 1 + buffer.size / 97) {
        assert_false(vm_restore_state(w.vm, buffer.data, size, &w.err));
        assert_non_null(w.err);
        error_free(w.err);
        w.err = NULL;
    }
    for (unsigned long i = tier_count(2000, 100000); i > 0; i--) {
        uint64_t random = random_next(&seed);
        size_t at = (size_t)(random >> 8) % buffer.size;
        uint8_t good = buffer.data[at];
        buffer.data[at] ^= (uint8_t)(1 + random % 255);
        if (!vm_restore_state(w.vm, buffer.data, buffer.size, &w.err))
            error_free(w.err); /* whatever it accepts must not do harm: sanitizers look on */
        w.err = NULL;
        buffer.data[at] = good;
    }
    assert_true(vm_restore_state(w.vm, buffer.data, buffer.size, &w.err));
    state_buffer_free(&buffer);
    world_close(&w);
}

/* ---- what vm_new() refuses ---- */

/* ---- NICs that come and go ---- */

static int frame_socket(int *peer)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    *peer = pair[1];
    return pair[0];
}

/* The other end sees that nobody has the socket any more. */
static void assert_closed(int peer)
{
    char byte;
    assert_int_equal(recv(peer, &byte, 1, MSG_DONTWAIT), 0);
    close(peer);
}

static uint32_t nic_command(struct world *w, size_t number, uint32_t value)
{
    struct vm_nic_status status;
    assert_true(vm_get_nic(w->vm, number, &status));
    uint64_t gpa = VIRT_PCIE_GPA + ((uint64_t)status.slot << 15), word;
    assert_true(mem_io_write(w->vm->mem, gpa + 4, 2, value));
    assert_true(mem_io_read(w->vm->mem, gpa, 4, &word));
    return (uint32_t)word;
}

static void nics_come_and_go(void **state)
{
    struct world w;
    struct machine_nic nic = {.mac = (char *)(uintptr_t) "02:00:00:00:00:01"};
    struct vm_nic_status status;
    int peers[MACHINE_MAX_NICS], peer;
    size_t number, devices;
    (void)state;
    world_open(&w);
    world_give(&w, &w.config.firmware, finish, sizeof(finish)); /* it does not end by itself */
    world_make(&w);
    devices = w.vm->device_count;
    for (size_t i = 0; i < MACHINE_MAX_NICS; i++) {
        nic.model = (char *)(uintptr_t)(i % 2 != 0 ? "e1000" : NULL);
        assert_true(vm_nic_attach(w.vm, &nic, frame_socket(&peers[i]), -1, &number, &w.err));
        assert_int_equal(number, i);
        assert_true(vm_get_nic(w.vm, i, &status));
        assert_string_equal(status.model, i % 2 != 0 ? "e1000" : "virtio");
    }
    assert_false(vm_nic_attach(w.vm, &nic, frame_socket(&peer), -1, &number, &w.err));
    assert_error(&w.err, ERROR_USAGE, "at most 8");
    assert_closed(peer);

    /* A hole in the middle is filled again, and the last ones make the list shorter. */
    assert_true(vm_nic_detach(w.vm, 3, false, &w.err));
    assert_closed(peers[3]);
    assert_false(vm_get_nic(w.vm, 3, &status));
    assert_false(vm_set_link(w.vm, 3, true, &w.err));
    assert_error(&w.err, ERROR_USAGE, "there is no NIC 3");
    assert_true(vm_nic_detach(w.vm, 7, false, &w.err));
    assert_closed(peers[7]);
    assert_int_equal(vm_nic_count(w.vm), 7);
    assert_true(vm_nic_attach(w.vm, &nic, frame_socket(&peers[3]), -1, &number, &w.err));
    assert_int_equal(number, 3);

    /* What makes no NIC leaves nothing behind. */
    nic.model = (char *)(uintptr_t) "ne2000";
    assert_false(vm_nic_attach(w.vm, &nic, frame_socket(&peer), dup(w.fd), &number, &w.err));
    assert_error(&w.err, ERROR_USAGE, "ne2000");
    assert_closed(peer);
    nic.model = NULL;
    assert_false(vm_nic_attach(w.vm, &nic, dup(w.fd), -1, &number, &w.err));
    assert_error(&w.err, ERROR_USAGE, "frame socket");
    assert_int_equal(w.vm->device_count, devices + 7);

    /* One that a driver has at work stays; a paused machine gains and loses others. */
    assert_true(vm_start(w.vm, &w.err));
    assert_true(vm_pause(w.vm, &w.err));
    assert_int_equal(nic_command(&w, 2, PCI_COMMAND_MASTER), 0x10411af4);
    assert_false(vm_nic_detach(w.vm, 2, false, &w.err));
    assert_error(&w.err, ERROR_USAGE, "/remove");
    assert_int_equal(nic_command(&w, 2, 0), 0x10411af4);
    assert_true(vm_nic_detach(w.vm, 2, false, &w.err));
    assert_closed(peers[2]);
    assert_true(vm_nic_attach(w.vm, &nic, frame_socket(&peers[2]), -1, &number, &w.err));
    assert_int_equal(number, 2);
    assert_true(vm_resume(w.vm, &w.err));
    vm_quit(w.vm);
    assert_false(vm_nic_attach(w.vm, &nic, frame_socket(&peer), -1, &number, &w.err));
    assert_error(&w.err, ERROR_USAGE, "has ended");
    assert_closed(peer);
    world_close(&w);
    for (size_t i = 0; i < 7; i++)
        assert_closed(peers[i]);
}

static void impossible_machines_are_refused(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    world_give(&w, &w.config.firmware, finish, sizeof(finish));
    free(w.config.engine);
    w.config.engine = strdup("warp");
    assert_null(vm_new(&w.config, &w.env, &w.err));
    assert_error(&w.err, ERROR_USAGE, "warp");
    free(w.config.engine);
    w.config.engine = strdup("interp");
    w.config.disks[0].path = strdup("/nonexistent/disk");
    w.config.disk_count = 1;
    assert_null(vm_new(&w.config, &w.env, &w.err));
    assert_error(&w.err, ERROR_HOST, "/nonexistent/disk"); /* nobody handed it over */
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finisher_ends_the_run),
        cmocka_unit_test(the_configuration_is_copied),
        cmocka_unit_test(kernel_failure_is_a_crash),
        cmocka_unit_test(wedged_guest_is_a_crash),
        cmocka_unit_test(htif_prints_and_exits),
        cmocka_unit_test(htif_failure_stays_one),
        cmocka_unit_test(reset_forgets_memory),
        cmocka_unit_test(reset_forgets_interrupts),
        cmocka_unit_test(runs_are_equal),
        cmocka_unit_test(pauses_while_real),
        cmocka_unit_test(state_moves_to_another_machine),
        cmocka_unit_test(a_power_request_comes_before_a_pause),
        cmocka_unit_test(a_power_request_is_saved),
        cmocka_unit_test(any_wall_clock_is_restored),
        cmocka_unit_test(damaged_state_is_refused),
        cmocka_unit_test(nics_come_and_go),
        cmocka_unit_test(impossible_machines_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
