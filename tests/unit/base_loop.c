/* SPDX-License-Identifier: MIT
 *
 * base/loop.h. Nothing here waits for a length of time, only for things that happen.
 */
#include "support.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/loop.h"
#include "base/vclock.h"

struct fixture {
    struct loop *loop;
    int ends[2]; /* of a socket pair */
    struct loop_watch *watches[2];
    unsigned calls[2];
    unsigned seen[2]; /* events of the last call */
    char text[64];
};

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    if (!fixture)
        return -1;
    fixture->loop = loop_new(NULL);
    *state = fixture;
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fixture->ends);
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    loop_free(fixture->loop);
    for (int i = 0; i < 2; i++)
        if (fixture->ends[i] >= 0)
            close(fixture->ends[i]);
    free(fixture);
    return 0;
}

static void quit_zero(void *opaque)
{
    loop_quit(((struct fixture *)opaque)->loop, 0);
}

static void append_letter(struct fixture *fixture, char letter)
{
    size_t length = strlen(fixture->text);
    assert_true(length < sizeof(fixture->text) - 1);
    fixture->text[length] = letter;
}

static void letter_a(void *opaque)
{
    append_letter(opaque, 'a');
}

static void letter_b(void *opaque)
{
    append_letter(opaque, 'b');
}

static void post_more(void *opaque)
{
    struct fixture *fixture = opaque;
    append_letter(fixture, '+');
    loop_post(fixture->loop, letter_b, fixture);
    loop_post(fixture->loop, quit_zero, fixture);
}

static void posts_run_in_order(void **state)
{
    struct fixture *fixture = *state;
    loop_post(fixture->loop, letter_a, fixture);
    loop_post(fixture->loop, post_more, fixture);
    loop_post(fixture->loop, letter_b, fixture);
    loop_post(fixture->loop, letter_a, fixture);
    assert_int_equal(loop_run(fixture->loop), 0);
    assert_string_equal(fixture->text, "a+bab");
}

static void quit_gives_its_value_and_the_loop_runs_again(void **state)
{
    struct fixture *fixture = *state;
    loop_quit(fixture->loop, 42); /* before it runs */
    assert_int_equal(loop_run(fixture->loop), 42);
    loop_post(fixture->loop, letter_a, fixture);
    loop_post(fixture->loop, quit_zero, fixture);
    assert_int_equal(loop_run(fixture->loop), 0);
    assert_string_equal(fixture->text, "a");
    loop_post(fixture->loop, letter_b, fixture); /* freed with the loop, never run */
}

enum { POSTS = 2000 };

struct poster {
    struct loop *loop;
    unsigned next; /* on the loop's thread */
    bool in_order;
    unsigned *done;
    struct message {
        struct poster *poster;
        unsigned number;
    } messages[POSTS];
};

static void receive(void *opaque)
{
    struct message *message = opaque;
    struct poster *poster = message->poster;
    poster->in_order = poster->in_order && message->number == poster->next;
    poster->next++;
    if (++*poster->done == 2 * POSTS)
        loop_quit(poster->loop, 1);
}

static void *post_all(void *opaque)
{
    struct poster *poster = opaque;
    for (unsigned i = 0; i < POSTS; i++) {
        poster->messages[i] = (struct message){poster, i};
        loop_post(poster->loop, receive, &poster->messages[i]);
    }
    return NULL;
}

static void posts_of_other_threads_arrive_in_their_order(void **state)
{
    struct fixture *fixture = *state;
    struct poster *posters = calloc(2, sizeof(*posters));
    assert_non_null(posters);
    pthread_t threads[2];
    unsigned done = 0;
    for (int i = 0; i < 2; i++) {
        posters[i].loop = fixture->loop;
        posters[i].in_order = true;
        posters[i].done = &done;
        assert_int_equal(pthread_create(&threads[i], NULL, post_all, &posters[i]), 0);
    }
    assert_int_equal(loop_run(fixture->loop), 1);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_true(posters[i].in_order);
        assert_int_equal(posters[i].next, POSTS);
    }
    free(posters);
}

/* Notes what it saw and lets the loop end. */
static void note(void *opaque, int fd, unsigned events)
{
    struct fixture *fixture = opaque;
    int which = fd == fixture->ends[1];
    fixture->calls[which]++;
    fixture->seen[which] = events;
    loop_quit(fixture->loop, 0);
}

static struct loop_watch *watch(struct fixture *fixture, int which, unsigned events)
{
    struct error *err = NULL;
    struct loop_watch *added =
        loop_watch_add(fixture->loop, fixture->ends[which], events, note, fixture, &err);
    assert_no_error(err);
    fixture->watches[which] = added;
    return added;
}

/* One turn with whatever is ready, and no waiting. */
static void spin(struct fixture *fixture)
{
    loop_post(fixture->loop, quit_zero, fixture);
    loop_run(fixture->loop);
}

static void only_asked_events_are_reported(void **state)
{
    struct fixture *fixture = *state;
    struct loop_watch *added = watch(fixture, 0, LOOP_WRITABLE);
    loop_run(fixture->loop);
    assert_int_equal(fixture->seen[0], LOOP_WRITABLE);

    assert_int_equal(write(fixture->ends[1], "x", 1), 1);
    loop_watch_set(added, LOOP_READABLE);
    loop_run(fixture->loop);
    assert_int_equal(fixture->seen[0], LOOP_READABLE);
    loop_watch_set(added, LOOP_READABLE | LOOP_WRITABLE);
    loop_run(fixture->loop);
    assert_int_equal(fixture->seen[0], LOOP_READABLE | LOOP_WRITABLE);

    unsigned calls = fixture->calls[0];
    loop_watch_set(added, 0);
    for (int i = 0; i < 10; i++)
        spin(fixture);
    assert_int_equal(fixture->calls[0], calls);
    loop_watch_set(added, LOOP_READABLE); /* level-triggered: still there */
    loop_run(fixture->loop);
    assert_int_equal(fixture->calls[0], calls + 1);
    loop_watch_remove(added);
    for (int i = 0; i < 10; i++)
        spin(fixture);
    assert_int_equal(fixture->calls[0], calls + 1);
}

static void hangup_is_reported_unless_silenced(void **state)
{
    struct fixture *fixture = *state;
    struct loop_watch *added = watch(fixture, 0, 0);
    close(fixture->ends[1]);
    fixture->ends[1] = -1;
    for (int i = 0; i < 10; i++)
        spin(fixture);
    assert_int_equal(fixture->calls[0], 0);
    loop_watch_set(added, LOOP_WRITABLE);
    loop_run(fixture->loop);
    assert_true(fixture->seen[0] & LOOP_HANGUP);
    loop_watch_remove(added);
}

static void remove_both(void *opaque, int fd, unsigned events)
{
    struct fixture *fixture = opaque;
    (void)fd;
    (void)events;
    fixture->calls[0]++;
    loop_watch_remove(fixture->watches[0]);
    loop_watch_remove(fixture->watches[1]);
    loop_quit(fixture->loop, 0);
}

static void a_callback_may_remove_itself_and_others(void **state)
{
    struct fixture *fixture = *state;
    for (int i = 0; i < 2; i++) {
        fixture->watches[i] = loop_watch_add(fixture->loop, fixture->ends[i], LOOP_WRITABLE,
                                             remove_both, fixture, NULL);
        assert_non_null(fixture->watches[i]);
    }
    loop_run(fixture->loop); /* both are ready in the same turn */
    assert_int_equal(fixture->calls[0], 1);
    for (int i = 0; i < 10; i++)
        spin(fixture);
    assert_int_equal(fixture->calls[0], 1);
    loop_watch_remove(NULL);
    /* The descriptors are free for new watches. */
    watch(fixture, 0, LOOP_WRITABLE);
    loop_run(fixture->loop);
    assert_int_equal(fixture->calls[0], 2);
}

static void count_down(void *opaque, int fd, unsigned events)
{
    struct fixture *fixture = opaque;
    (void)fd;
    assert_int_equal(events, LOOP_READABLE);
    if (++fixture->calls[0] == 3) {
        loop_watch_remove(fixture->watches[0]);
        loop_quit(fixture->loop, 3);
    }
}

static void regular_files_are_always_ready(void **state)
{
    struct fixture *fixture = *state;
    FILE *file = tmpfile();
    assert_non_null(file);
    struct error *err = NULL;
    fixture->watches[0] = loop_watch_add(fixture->loop, fileno(file), 0, count_down, fixture, &err);
    assert_no_error(err);
    for (int i = 0; i < 10; i++)
        spin(fixture);
    assert_int_equal(fixture->calls[0], 0);
    loop_watch_set(fixture->watches[0], LOOP_READABLE);
    assert_int_equal(loop_run(fixture->loop), 3);
    spin(fixture);
    assert_int_equal(fixture->calls[0], 3);
    fclose(file);
}

static void bad_descriptors_are_refused(void **state)
{
    struct fixture *fixture = *state;
    struct error *err = NULL;
    assert_null(loop_watch_add(fixture->loop, -1, LOOP_READABLE, note, fixture, &err));
    assert_error(&err, ERROR_HOST, "file descriptor -1");
    watch(fixture, 0, LOOP_READABLE);
    assert_null(
        loop_watch_add(fixture->loop, fixture->ends[0], LOOP_READABLE, note, fixture, &err));
    assert_error(&err, ERROR_HOST, "cannot watch");
}

/* ---- the clock ---- */

struct ticker {
    struct fixture *fixture;
    struct vclock *clock;
    struct vtimer *timer;
    unsigned left;
};

static void tick(void *opaque)
{
    struct ticker *ticker = opaque;
    if (--ticker->left == 0)
        loop_quit(ticker->fixture->loop, 9);
    else
        vtimer_arm(ticker->timer, vclock_now(ticker->clock) + 100000);
}

static void the_loop_fires_timers(void **state)
{
    struct fixture *fixture = *state;
    struct ticker ticker = {.fixture = fixture, .clock = vclock_new(VCLOCK_REAL, 0), .left = 5};
    ticker.timer = vtimer_new(ticker.clock, tick, &ticker);
    vtimer_arm(ticker.timer, 0); /* before the clock is attached, and while it is paused */
    loop_attach_clock(fixture->loop, ticker.clock);
    for (int i = 0; i < 10; i++)
        spin(fixture);
    assert_int_equal(ticker.left, 5);
    vclock_resume(ticker.clock);
    assert_int_equal(loop_run(fixture->loop), 9);
    vtimer_free(ticker.timer);
    loop_free(fixture->loop);
    fixture->loop = NULL;
    vclock_free(ticker.clock);
}

static void *arm_soon(void *opaque)
{
    struct ticker *ticker = opaque;
    /* Towards a loop that sleeps until a deadline far away, or not yet at all. */
    vtimer_arm(ticker->timer, vclock_now(ticker->clock) + 1000000);
    return NULL;
}

static void another_thread_may_make_the_deadline_earlier(void **state)
{
    struct fixture *fixture = *state;
    struct ticker ticker = {.fixture = fixture, .clock = vclock_new(VCLOCK_REAL, 0)};
    ticker.timer = vtimer_new(ticker.clock, tick, &ticker);
    loop_attach_clock(fixture->loop, ticker.clock);
    vclock_resume(ticker.clock);
    for (int i = 0; i < 20; i++) {
        ticker.left = 1;
        vtimer_arm(ticker.timer, vclock_now(ticker.clock) + 100000 * NS_PER_S);
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, arm_soon, &ticker), 0);
        assert_int_equal(loop_run(fixture->loop), 9);
        pthread_join(thread, NULL);
    }
    vtimer_free(ticker.timer);
    loop_free(fixture->loop);
    fixture->loop = NULL;
    vclock_free(ticker.clock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(posts_run_in_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(quit_gives_its_value_and_the_loop_runs_again, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(posts_of_other_threads_arrive_in_their_order, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(only_asked_events_are_reported, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hangup_is_reported_unless_silenced, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_callback_may_remove_itself_and_others, set_up, tear_down),
        cmocka_unit_test_setup_teardown(regular_files_are_always_ready, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_descriptors_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_loop_fires_timers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_thread_may_make_the_deadline_earlier, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
