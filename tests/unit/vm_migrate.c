/* SPDX-License-Identifier: MIT
 *
 * migrate/migrate.h: two machines in this process, each with a loop and a thread of its own, and
 * streams between them that can be cut anywhere. Whatever happens, one side runs the machine
 * afterwards, and its memory is what it wrote there.
 */
#include "vm_sides.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/vclock.h"
#include "block/image.h"
#include "vm_busy.h"

/* From side to side, each time with another number of streams, packed or not, and as often as not
 * between two engines. */
static void it_moves_while_it_writes(void **state)
{
    (void)state;
    struct side *here = new_side("interp", 1024, 2000);
    call(here, do_start);
    for (size_t n = 0; n < tier_count(12, 100); n++) {
        struct side *there = new_side(engine_of(n / 2), 1024, 2000);
        uint64_t before = check(here);
        here->options = impatient;
        here->options.compress = n % 3 == 1;
        move(here, there, 1 + n % 4);
        assert_true(check(there) >= before);
        assert_runs(there);
        close_side(here);
        here = there;
    }
    close_side(here);
}

/* All that it writes to would be left after every round. */
static void a_guest_that_writes_too_fast_is_slowed_down(void **state)
{
    (void)state;
    struct side *here = new_side("interp", 64, 20000), *there = new_side("interp", 64, 20000);
    call(here, do_start);
    here->options = (struct migrate_source_options){
        .bandwidth = 400000, .converge = true, .rounds = 300, .last_resort = MIGRATE_GIVE_UP};
    move(here, there, 2);
    assert_true(here->progress.throttle > 0);
    assert_runs(there);
    close_side(here);
    close_side(there);
}

/* ---- a link that is cut ---- */

static struct side *move_by_relay(struct side *here, struct relay *relay, size_t streams,
                                  struct outcomes *outcomes)
{
    struct side *there = new_side("interp", 64, 2000);
    here->options = impatient;
    connect_by_relay(relay, here, there, streams);
    begin(here, there);
    here = settle(here, there, outcomes);
    end_relay(relay);
    return here;
}

/* Behind every frame that there is: the first of each type, the second, and so on. */
static void cut_between_any_two_messages(void **state)
{
    (void)state;
    struct outcomes outcomes = {0};
    struct side *here = new_side("interp", 64, 2000);
    call(here, do_start);
    for (uint32_t type = WIRE_HELLO; type < WIRE_REFUSED; type++) {
        bool cut = true;
        for (long frames = 1; cut && frames < (long)tier_count(8, 100); frames++) {
            struct relay relay = {.type = type, .frames = frames, .bytes = NEVER};
            struct outcomes now = {0};
            here = move_by_relay(here, &relay, 1, &now);
            cut = relay.cut;
            /* "Go" is sent, and its answer does not come: that alone leaves anybody in doubt.
             * Behind "loaded" it may have been sent before the cut. */
            if (type != WIRE_LOADED && now.uncertain != (type == WIRE_GO && cut))
                fail_msg("behind frame %ld of type %u: %sin doubt", frames, type,
                         now.uncertain ? "" : "not ");
            assert_int_equal(now.moved, !cut || type >= WIRE_GO);
            outcomes.stayed += now.stayed;
        }
    }
    close_side(here);
    assert_true(outcomes.stayed > 10);
}

static void cut_anywhere(void **state)
{
    (void)state;
    struct outcomes outcomes = {0};
    uint64_t seed = 1;
    long whole = 2 << 20;
    struct side *here = new_side("interp", 64, 2000);
    call(here, do_start);
    for (unsigned long n = tier_count(40, 600); n > 0; n--) {
        struct relay relay = {.frames = NEVER,
                              .bytes = (long)(random_next(&seed) % (uint64_t)whole)};
        long bytes = relay.bytes;
        here = move_by_relay(here, &relay, 1 + n % 3, &outcomes);
        if (!relay.cut) /* next time it is more likely that it is */
            whole = bytes - relay.bytes + 1;
    }
    close_side(here);
    assert_true(outcomes.stayed > 0);
}

/* Nobody hangs up, and nothing comes. */
static void a_link_that_hangs(void **state)
{
    (void)state;
    struct outcomes outcomes = {0};
    struct side *here = new_side("interp", 64, 2000);
    call(here, do_start);
    const long frames[] = {0, 2, 4, 8};
    for (size_t i = 0; i < ARRAY_SIZE(frames); i++) {
        struct side *there = new_side("interp", 64, 2000);
        struct relay relay = {.frames = frames[i], .bytes = NEVER, .stall = true};
        here->options = impatient;
        here->options.patience_ns = there->options.patience_ns = 50000000;
        connect_by_relay(&relay, here, there, 1);
        begin(here, there);
        here = settle(here, there, &outcomes);
        end_relay(&relay);
    }
    close_side(here);
}

/* ---- calling it off ---- */

static void do_cancel(void *opaque)
{
    struct side *side = opaque;
    (void)migrate_source_cancel(side->source);
    sem_post(&side->called);
}

static void do_cancel_there(void *opaque)
{
    struct side *side = opaque;
    (void)migrate_target_cancel(side->target);
    sem_post(&side->called);
}

static void called_off_at_any_time(void **state)
{
    (void)state;
    struct outcomes outcomes = {0};
    uint64_t seed = 1;
    struct side *here = new_side("interp", 64, 2000);
    call(here, do_start);
    for (unsigned long n = tier_count(20, 300); n > 0; n--) {
        struct side *there = new_side("interp", 64, 2000);
        here->options = impatient;
        here->withhold = n % 4 == 0;
        connect_sides(here, there, 1 + n % 3);
        begin(here, there);
        usleep((useconds_t)(random_next(&seed) % 20000));
        call(n % 2 == 0 ? here : there, n % 2 == 0 ? do_cancel : do_cancel_there);
        here = settle(here, there, &outcomes);
        here->withhold = false;
    }
    close_side(here);
    assert_true(outcomes.stayed > 0);
    assert_int_equal(outcomes.uncertain, 0);
}

/* ---- a disk that both have open ---- */

enum { DISK_SIZE = 16 << 20, CLUSTER = 64 << 10 };

static int new_qcow2(void)
{
    struct error *err = NULL;
    const struct block_create how = {.size = DISK_SIZE};
    int fd = memfd_create("disk", MFD_CLOEXEC);
    struct block_file *file =
        block_file_new(fcntl(fd, F_DUPFD_CLOEXEC, 0), false, BLOCK_CACHE_WRITEBACK, &err);
    assert_non_null(file);
    assert_true(block_format_find("qcow2")->create(file, &how, &err));
    block_file_close(file);
    return fd;
}

static struct side *new_side_with(int disk)
{
    struct side *side = calloc(1, sizeof(*side));
    side->disk = (struct block_chain){.fds = {fcntl(disk, F_DUPFD_CLOEXEC, 0)}, .count = 1};
    open_sweep(&side->w, "interp", 64, 2000);
    vm_free(side->w.vm);
    side->w.config.disks[side->w.config.disk_count++] =
        (struct machine_disk){.path = strdup("shared"), .format = strdup("qcow2")};
    side->w.env.disks = &side->disk;
    world_make(&side->w);
    start_side(side);
    return side;
}

/* `every` so many clusters from the first one on, each of this byte. */
static void write_clusters(struct side *side, size_t first, size_t every, uint8_t byte)
{
    static uint8_t data[CLUSTER];
    memset(data, byte, sizeof(data));
    for (size_t at = first * CLUSTER; at < DISK_SIZE; at += every * CLUSTER)
        assert_int_equal(block_image_write(vm_disk_image(side->w.vm, 0), at, data, CLUSTER), 0);
}

static void assert_clusters(struct block_image *image, const uint8_t *bytes, size_t count)
{
    static uint8_t data[CLUSTER];
    for (size_t i = 0; i < DISK_SIZE / CLUSTER; i++) {
        assert_int_equal(block_image_read(image, i * CLUSTER, data, CLUSTER), 0);
        for (size_t at = 0; at < CLUSTER; at++)
            assert_int_equal(data[at], bytes[i % count]);
    }
}

/* What the source has put where after the target looked first, the target finds; and what the
 * source still remembers when it ends is not written over what the target has done since. */
static void a_shared_image_is_handed_over(void **state)
{
    (void)state;
    static const uint8_t before[] = {1, 0, 2, 0}, after[] = {1, 3, 4, 0};
    int disk = new_qcow2();
    struct side *here = new_side_with(disk);
    call(here, do_start);
    write_clusters(here, 0, 4, 1);
    struct side *there = new_side_with(disk);
    write_clusters(here, 2, 4, 2);
    here->options = impatient;
    move(here, there, 2);
    assert_clusters(vm_disk_image(there->w.vm, 0), before, 4);
    write_clusters(there, 1, 4, 3);
    close_side(here);
    write_clusters(there, 2, 4, 4);
    assert_runs(there);
    close_side(there);

    struct error *err = NULL;
    struct block_chain chain = {.fds = {disk}, .count = 1};
    const struct block_chain_options how = {.format = "qcow2"};
    struct block_check found = {.leaks = 0};
    struct block_image *image = block_chain_open(&chain, "shared", &how, &err);
    assert_no_error(err);
    assert_clusters(image, after, 4);
    assert_true(image->format->check(image, false, &found, &err));
    assert_int_equal(found.corruptions, 0);
    assert_int_equal(found.leaks, 0);
    block_image_close(image);
}

/* ---- exactly the same machine ---- */

static void do_leave_now(void *opaque)
{
    do_leave(opaque);
    wait_for(&((struct side *)opaque)->called);
}

static void hold_here(void *opaque) /* on the vCPUs' thread, and not an instruction further */
{
    struct side *side = opaque;
    vm_hold_begin(side->w.vm);
    loop_post(side->w.env.loop, do_leave_now, side);
}

static struct picture run_whole(int64_t *time)
{
    struct world w;
    struct vm_status status;
    open_busy_with(&w, 1, "interp");
    world_run(&w);
    struct picture picture = take_picture(w.vm);
    vm_get_status(w.vm, &status);
    *time = status.virtual_time_ns;
    world_close(&w);
    return picture;
}

/* Who is to blame is said as well: one that stays may end otherwise than the first of all. */
static void assert_same(struct side *side, const struct picture *whole, size_t moment)
{
    char text[100], again[100];
    if (find_difference(side->w.vm, whole, text)[0] == '\0')
        return;
    struct world w;
    open_busy_with(&w, 1, "interp");
    world_run(&w);
    fail_msg("moment %zu: %s; one that stays now: '%s'", moment, text,
             find_difference(w.vm, whole, again));
}

static struct side *new_busy_side(uint64_t seed, const char *engine)
{
    struct side *side = calloc(1, sizeof(*side));
    open_busy_with(&side->w, seed, engine);
    start_side(side);
    return side;
}

/* The oracle is a deterministic machine: wherever it went over, it ends as one that did not. */
static void whenever_it_moves_it_ends_the_same(void **state)
{
    (void)state;
    const int64_t moments = (int64_t)tier_count(8, 100);
    int64_t time;
    struct picture whole = run_whole(&time);
    for (int64_t part = 1; part < moments; part++) {
        size_t n = (size_t)part;
        struct side *here = new_busy_side(1, engine_of(n)),
                    *there = new_busy_side(99, engine_of(n / 2));
        connect_sides(here, there, 1 + n % 2);
        struct vtimer *timer = vtimer_new(here->w.vm->clock, hold_here, here);
        vtimer_arm(timer, time * part / moments);
        call(there, do_arrive);
        call(here, do_start);
        wait_for(&here->done);
        assert_int_equal(here->result, MIGRATE_MOVED);
        pthread_join(there->thread, NULL); /* it has switched itself off */
        assert_int_equal(there->w.end, VM_END_POWEROFF);
        assert_same(there, &whole, n);
        start_side(there);
        vtimer_free(timer);
        close_side(here);
        close_side(there);
    }
    free_picture(&whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_moves_while_it_writes),
        cmocka_unit_test(a_guest_that_writes_too_fast_is_slowed_down),
        cmocka_unit_test(whenever_it_moves_it_ends_the_same),
        cmocka_unit_test(cut_between_any_two_messages),
        cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(a_link_that_hangs),
        cmocka_unit_test(called_off_at_any_time),
        cmocka_unit_test(a_shared_image_is_handed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
