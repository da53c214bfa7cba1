/* SPDX-License-Identifier: MIT
 *
 * migrate/migrate.h: two machines in this process, each with a loop and a thread of its own, and
 * streams between them that can be cut anywhere. Whatever happens, one side runs the machine
 * afterwards, and its memory is what it wrote there.
 */
#include "vm_sweep.h"

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migrate/migrate.h"
#include "migrate/wire.h"
#include "vm_busy.h"

/* ---- one side ---- */

struct side {
    struct world w;
    pthread_t thread;
    sem_t called, done;
    struct migrate_source *source;
    struct migrate_target *target;
    int streams[MIGRATE_MAX_STREAMS];
    size_t count;
    struct migrate_source_options options;
    bool withhold; /* commit() is not answered */
    bool resolve_here;
    unsigned asked;
    enum migrate_result result;
    bool arrived; /* of a target */
    char error[400];
    uint64_t sum;
    struct migrate_progress progress;
};

static void *run_loop(void *opaque)
{
    struct side *side = opaque;
    loop_run(side->w.env.loop);
    return NULL;
}

static void start_side(struct side *side)
{
    sem_init(&side->called, 0, 0);
    sem_init(&side->done, 0, 0);
    assert_int_equal(pthread_create(&side->thread, NULL, run_loop, side), 0);
}

static struct side *new_side(const char *engine, uint64_t pages, uint64_t spin)
{
    struct side *side = calloc(1, sizeof(*side));
    open_sweep(&side->w, engine, pages, spin);
    start_side(side);
    return side;
}

static void wait_for(sem_t *what)
{
    while (sem_wait(what) != 0)
        ;
}

/* Has the side's thread do it. */
static void call(struct side *side, loop_post_fn *what)
{
    loop_post(side->w.env.loop, what, side);
    wait_for(&side->called);
}

static void do_quit(void *opaque)
{
    struct side *side = opaque;
    loop_quit(side->w.env.loop, 0);
}

static void close_side(struct side *side)
{
    loop_post(side->w.env.loop, do_quit, side);
    pthread_join(side->thread, NULL);
    migrate_source_free(side->source);
    migrate_target_free(side->target);
    world_close(&side->w);
    sem_destroy(&side->called);
    sem_destroy(&side->done);
    free(side);
}

static void do_start(void *opaque)
{
    struct side *side = opaque;
    assert_true(vm_start(side->w.vm, &side->w.err));
    sem_post(&side->called);
}

/* What it has written so far, every page of it checked. */
static void do_check(void *opaque)
{
    struct side *side = opaque;
    bool runs = vm_state(side->w.vm) == VM_RUNNING;
    if (runs)
        assert_true(vm_pause(side->w.vm, &side->w.err));
    side->sum = check_sweep(&side->w);
    if (runs)
        assert_true(vm_resume(side->w.vm, &side->w.err));
    sem_post(&side->called);
}

static uint64_t check(struct side *side)
{
    call(side, do_check);
    return side->sum;
}

/* It goes on writing: not once more, but for as long as it is looked at. */
static void assert_runs(struct side *side)
{
    uint64_t before = check(side);
    assert_int_equal(vm_state(side->w.vm), VM_RUNNING);
    while (check(side) == before)
        usleep(1000);
}

/* ---- a migration ---- */

static void note_error(struct side *side, const struct error *error)
{
    snprintf(side->error, sizeof(side->error), "%s", error != NULL ? error_message(error) : "");
}

static void on_commit(void *opaque)
{
    struct side *side = opaque;
    side->asked++;
    if (!side->withhold)
        assert_true(migrate_source_commit(side->source));
}

static void on_left(void *opaque, enum migrate_result result, const struct error *error)
{
    struct side *side = opaque;
    side->result = result;
    note_error(side, error);
    migrate_source_progress(side->source, &side->progress);
    assert_true((error == NULL) == (result == MIGRATE_MOVED) || result == MIGRATE_MOVED);
    sem_post(&side->done);
}

static void on_arrived(void *opaque, const struct error *error)
{
    struct side *side = opaque;
    side->arrived = error == NULL;
    note_error(side, error);
    sem_post(&side->done);
}

static void do_leave(void *opaque)
{
    struct side *side = opaque;
    migrate_source_free(side->source);
    side->options.commit = on_commit;
    side->options.done = on_left;
    side->options.opaque = side;
    side->asked = 0;
    side->source =
        migrate_source_begin(side->w.vm, side->streams, side->count, &side->options, &side->w.err);
    assert_no_error(side->w.err);
    assert_non_null(side->source);
    sem_post(&side->called);
}

static void do_arrive(void *opaque)
{
    struct side *side = opaque;
    const struct migrate_target_options options = {.done = on_arrived, .opaque = side};
    side->target =
        migrate_target_begin(side->w.vm, side->streams, side->count, &options, &side->w.err);
    assert_no_error(side->w.err);
    assert_non_null(side->target);
    sem_post(&side->called);
}

static void connect_sides(struct side *from, struct side *to, size_t count)
{
    from->count = to->count = count;
    for (size_t i = 0; i < count; i++) {
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        from->streams[i] = pair[0];
        to->streams[i] = pair[1];
    }
}

static void begin(struct side *from, struct side *to)
{
    call(to, do_arrive);
    call(from, do_leave);
}

static void move(struct side *from, struct side *to, size_t streams)
{
    connect_sides(from, to, streams);
    begin(from, to);
    wait_for(&from->done);
    wait_for(&to->done);
    if (from->result != MIGRATE_MOVED || !to->arrived)
        fail_msg("it did not move: '%s', '%s'", from->error, to->error);
    assert_int_equal(from->asked, 1);
    assert_int_equal(vm_state(from->w.vm), VM_PAUSED);
}

static const struct migrate_source_options impatient = {.rounds = 4,
                                                        .last_resort = MIGRATE_STOP_ANYWAY};

static bool engine_works(const char *engine)
{
    struct world w;
    world_open(&w);
    uint32_t nothing[4] = {0};
    world_give(&w, &w.config.firmware, nothing, sizeof(nothing));
    free(w.config.engine);
    w.config.engine = strdup(engine);
    w.vm = vm_new(&w.config, &w.env, &w.err);
    bool works = w.vm != NULL;
    error_free(w.err);
    w.err = NULL;
    world_close(&w);
    return works;
}

static const char *engine_of(size_t n)
{
    return n % 2 == 1 && engine_works("dbt") ? "dbt" : "interp";
}

/* From side to side, each time with another number of streams, packed or not, and as often as not
 * between two engines. */
static void it_moves_while_it_writes(void **state)
{
    (void)state;
    struct side *here = new_side("interp", 1024, 2000);
    call(here, do_start);
    for (size_t n = 0; n < tier_count(20, 100); n++) {
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_moves_while_it_writes),
        cmocka_unit_test(a_guest_that_writes_too_fast_is_slowed_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
