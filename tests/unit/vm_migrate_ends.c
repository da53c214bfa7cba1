/* SPDX-License-Identifier: MIT
 *
 * migrate/migrate.h: machines that are not to move, that stand still, or that end on either side.
 */
#include "vm_sides.h"

static void another_machine_is_refused(void **state)
{
    (void)state;
    struct outcomes outcomes = {0};
    struct side *here = new_side("interp", 64, 2000), *there = calloc(1, sizeof(*there));
    call(here, do_start);
    open_sweep(&there->w, "interp", 64, 2000);
    vm_free(there->w.vm);
    there->w.config.cpus = 3;
    there->w.vm = vm_new(&there->w.config, &there->w.env, &there->w.err);
    start_side(there);
    connect_sides(here, there, 2);
    begin(here, there);
    here = settle(here, there, &outcomes);
    assert_non_null(strstr(here->error, "harts 2"));
    close_side(here);
}

/* What the target says to a source of this version and with these extensions besides. */
static void assert_refuses(uint32_t version, const char *extension, const char *says)
{
    struct side *there = new_side("interp", 64, 2000);
    struct wire wire;
    struct wire_frame frame;
    uint8_t hello[2048] = {0};
    int pair[2];
    char *layout = vm_layout(there->w.vm);
    size_t isa = strcspn(layout, "\n");
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    there->streams[0] = pair[0];
    there->count = 1;
    call(there, do_arrive);
    wire_open(&wire, pair[1]);
    store_le32(hello, version);
    store_le32(hello + 16, 1);
    store_le32(hello + 20, 1);
    store_le64(hello + 24, RAM);
    store_le64(hello + 32, 64 * MIB);
    int length = snprintf((char *)hello + 40, sizeof(hello) - 40, "%.*s%s%s", (int)isa, layout,
                          extension, layout + isa);
    assert_true(wire_put(&wire, WIRE_HELLO, hello, 40 + (size_t)length, NS_PER_S, NULL));
    assert_true(wire_receive(&wire, &frame, 100 * NS_PER_S, NULL));
    assert_int_equal(frame.type, WIRE_REFUSED);
    assert_non_null(strstr((const char *)frame.body, says));
    wait_for(&there->done);
    assert_false(there->arrived);
    wire_close(&wire);
    free(layout);
    close_side(there);
}

static void an_unknown_extension_is_refused(void **state)
{
    (void)state;
    assert_refuses(WIRE_VERSION, "_zfuture", "'zfuture'");
}

static void an_unknown_version_is_refused(void **state)
{
    (void)state;
    char says[32];
    snprintf(says, sizeof(says), "and this Trapeze %u", WIRE_VERSION);
    assert_refuses(WIRE_VERSION + 1, "", says);
    assert_refuses(0, "", "speaks version 0 ");
}

static void do_pause(void *opaque)
{
    struct side *side = opaque;
    assert_true(vm_pause(side->w.vm, &side->w.err));
    sem_post(&side->called);
}

static void do_resume(void *opaque)
{
    struct side *side = opaque;
    assert_true(vm_resume(side->w.vm, &side->w.err));
    sem_post(&side->called);
}

static void a_paused_machine_stays_paused(void **state)
{
    (void)state;
    struct side *here = new_side("interp", 64, 2000), *there = new_side("interp", 64, 2000);
    call(here, do_start);
    assert_runs(here);
    call(here, do_pause);
    uint64_t sum = check(here);
    move(here, there, 2);
    assert_int_equal(vm_state(there->w.vm), VM_PAUSED);
    assert_true(check(there) == sum);
    call(there, do_resume);
    assert_runs(there);
    close_side(here);
    close_side(there);
}

static void do_end(void *opaque)
{
    struct side *side = opaque;
    vm_quit(side->w.vm);
    sem_post(&side->called);
}

static void do_commit(void *opaque)
{
    struct side *side = opaque;
    assert_true(migrate_source_commit(side->source));
    sem_post(&side->called);
}

static void look_whether_asked(void *opaque)
{
    struct side *side = opaque;
    side->resolve_here = side->asked > 0;
    sem_post(&side->called);
}

/* What keeps the target from running it at the last moment keeps it from recording that it has it.
 */
static void a_target_that_fails_behind_loaded(void **state)
{
    (void)state;
    struct outcomes outcomes = {0};
    struct side *here = new_side("interp", 64, 2000);
    call(here, do_start);
    for (unsigned ends = 0; ends < 2; ends++) {
        struct side *there = new_side("interp", 64, 2000);
        here->options = impatient;
        here->withhold = true;
        there->cannot_take = ends == 0;
        connect_sides(here, there, 2);
        begin(here, there);
        do
            call(here, look_whether_asked);
        while (!here->resolve_here);
        if (ends == 1) {
            call(there, do_end);
            pthread_join(there->thread, NULL); /* its loop has ended with it */
            assert_int_equal(pthread_create(&there->thread, NULL, run_loop, there), 0);
        }
        call(here, do_commit);
        here = settle(here, there, &outcomes);
        assert_non_null(strstr(here->error, ends == 0 ? "no room" : "that was made here is"));
        here->withhold = false;
    }
    close_side(here);
    assert_int_equal(outcomes.stayed, 2);
}

/* The machine ends at the source while its memory is on its way: there is none anywhere. */
static void a_machine_that_ends(void **state)
{
    (void)state;
    struct side *here = new_side("interp", 64, 2000), *there = new_side("interp", 64, 2000);
    call(here, do_start);
    here->withhold = true;
    here->options = impatient;
    connect_sides(here, there, 2);
    begin(here, there);
    call(here, do_end);
    pthread_join(here->thread, NULL);
    migrate_source_free(here->source); /* as the worker does, which ends */
    here->source = NULL;
    wait_for(&there->done);
    assert_false(there->arrived);
    assert_int_equal(vm_state(here->w.vm), VM_STOPPED);
    start_side(here);
    close_side(here);
    close_side(there);
}

/* A limit that these exceed is kept as far as what is sent goes: it moves. */
static void what_link_and_record_take_is_foreseen(void **state)
{
    (void)state;
    enum { DELAY_US = 2000, RECORD_NS = 200000000 };
    struct side *here = new_side("interp", 4, 2000000), *there = new_side("interp", 4, 2000000);
    struct relay relay = {.frames = NEVER, .bytes = NEVER, .delay_us = DELAY_US};
    memset(here->w.vm->ram->host + 48 * MIB, 1, 2 * MIB); /* by which the link is measured */
    here->options.downtime_ns = RECORD_NS / 2;
    call(here, do_start);
    there->record_ns = RECORD_NS;
    connect_by_relay(&relay, here, there, 1);
    begin(here, there);
    wait_for(&here->done);
    wait_for(&there->done);
    assert_int_equal(here->result, MIGRATE_MOVED);
    assert_true(here->progress.estimate_ns >= RECORD_NS + 3 * DELAY_US * UINT64_C(1000));
    assert_true(here->progress.downtime_ns >= 3 * DELAY_US * UINT64_C(1000));
    assert_runs(there);
    close_side(here);
    close_side(there);
    end_relay(&relay);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_machine_is_refused),
        cmocka_unit_test(an_unknown_extension_is_refused),
        cmocka_unit_test(an_unknown_version_is_refused),
        cmocka_unit_test(a_paused_machine_stays_paused),
        cmocka_unit_test(a_machine_that_ends),
        cmocka_unit_test(a_target_that_fails_behind_loaded),
        cmocka_unit_test(what_link_and_record_take_is_foreseen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
