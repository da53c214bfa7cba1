/* SPDX-License-Identifier: MIT
 *
 * Two machines in this process, each with a loop and a thread of its own, and streams between them
 * over which one becomes the other (migrate/migrate.h), or a relay that cuts them. settle() says
 * what holds whatever happened.
 */
#ifndef TRAPEZE_TESTS_VM_SIDES_H
#define TRAPEZE_TESTS_VM_SIDES_H

#include "vm_sweep.h"

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block/chain.h"
#include "migrate/migrate.h"
#include "migrate/wire.h"

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
    bool taken, cannot_take;
    char error[400];
    uint64_t sum;
    uint64_t record_ns; /* that taken() is said to take */
    struct migrate_progress progress;
    struct block_chain disk; /* which the machine takes over */
};

static inline void *run_loop(void *opaque)
{
    struct side *side = opaque;
    loop_run(side->w.env.loop);
    return NULL;
}

static inline void start_side(struct side *side)
{
    sem_init(&side->called, 0, 0);
    sem_init(&side->done, 0, 0);
    assert_int_equal(pthread_create(&side->thread, NULL, run_loop, side), 0);
}

static inline struct side *new_side(const char *engine, uint64_t pages, uint64_t spin)
{
    struct side *side = calloc(1, sizeof(*side));
    open_sweep(&side->w, engine, pages, spin);
    start_side(side);
    return side;
}

static inline void wait_for(sem_t *what)
{
    while (sem_wait(what) != 0)
        ;
}

/* Has the side's thread do it. */
static inline void call(struct side *side, loop_post_fn *what)
{
    loop_post(side->w.env.loop, what, side);
    wait_for(&side->called);
}

static inline void do_quit(void *opaque)
{
    struct side *side = opaque;
    loop_quit(side->w.env.loop, 0);
}

static inline void close_side(struct side *side)
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

static inline void do_start(void *opaque)
{
    struct side *side = opaque;
    assert_true(vm_start(side->w.vm, &side->w.err));
    sem_post(&side->called);
}

/* What it has written so far, every page of it checked. */
static inline void do_check(void *opaque)
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

static inline uint64_t check(struct side *side)
{
    call(side, do_check);
    return side->sum;
}

/* It goes on writing: not once more, but for as long as it is looked at. */
static inline void assert_runs(struct side *side)
{
    uint64_t before = check(side);
    assert_int_equal(vm_state(side->w.vm), VM_RUNNING);
    while (check(side) == before)
        usleep(1000);
}

/* ---- a migration ---- */

static inline void note_error(struct side *side, const struct error *error)
{
    snprintf(side->error, sizeof(side->error), "%s", error != NULL ? error_message(error) : "");
}

static inline void on_commit(void *opaque)
{
    struct side *side = opaque;
    side->asked++;
    if (!side->withhold)
        assert_true(migrate_source_commit(side->source));
}

static inline void on_left(void *opaque, enum migrate_result result, const struct error *error)
{
    struct side *side = opaque;
    side->result = result;
    note_error(side, error);
    migrate_source_progress(side->source, &side->progress);
    assert_true((error == NULL) == (result == MIGRATE_MOVED) || result == MIGRATE_MOVED);
    sem_post(&side->done);
}

static inline void on_arrived(void *opaque, const struct error *error)
{
    struct side *side = opaque;
    side->arrived = error == NULL;
    note_error(side, error);
    sem_post(&side->done);
}

static inline void do_leave(void *opaque)
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

static inline bool on_taken(void *opaque, struct error **err)
{
    struct side *side = opaque;
    side->taken = !side->cannot_take;
    return side->taken || error_set(err, ERROR_HOST, "no room for a record");
}

static inline void do_arrive(void *opaque)
{
    struct side *side = opaque;
    const struct migrate_target_options options = {.patience_ns = side->options.patience_ns,
                                                   .record_ns = side->record_ns,
                                                   .taken = on_taken,
                                                   .done = on_arrived,
                                                   .opaque = side};
    side->target =
        migrate_target_begin(side->w.vm, side->streams, side->count, &options, &side->w.err);
    assert_no_error(side->w.err);
    assert_non_null(side->target);
    sem_post(&side->called);
}

static inline void connect_sides(struct side *from, struct side *to, size_t count)
{
    from->count = to->count = count;
    for (size_t i = 0; i < count; i++) {
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        from->streams[i] = pair[0];
        to->streams[i] = pair[1];
    }
}

static inline void begin(struct side *from, struct side *to)
{
    call(to, do_arrive);
    call(from, do_leave);
}

static inline void move(struct side *from, struct side *to, size_t streams)
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

static inline const char *engine_of(size_t n)
{
    return n % 2 == 1 && world_engine_works("dbt") ? "dbt" : "interp";
}

/* ---- a link that is cut ---- */

enum { NEVER = INT32_MAX };

struct relay {
    pthread_t thread;
    int ends[2][MIGRATE_MAX_STREAMS]; /* ours, towards source and target */
    size_t count;
    long frames, bytes; /* until it is cut, whichever comes first */
    uint32_t type;      /* of the frames that count; 0: all do */
    bool stall;         /* instead, nothing goes through any more */
    unsigned delay_us;  /* of each part of a frame */
    bool cut;
    int wake[2]; /* the test wants it to end */
    struct {
        size_t header, body; /* bytes of the frame so far; that are still to come */
        uint8_t bytes[WIRE_HEADER];
    } at[2][MIGRATE_MAX_STREAMS];
};

/* Passes on what there is of a frame. False: that was it. */
static inline bool pass(struct relay *relay, size_t side, size_t stream)
{
    uint8_t buffer[65536];
    uint8_t *header = relay->at[side][stream].bytes;
    size_t *got = &relay->at[side][stream].header, *left = &relay->at[side][stream].body;
    size_t want = *got < WIRE_HEADER ? WIRE_HEADER - *got : *left;
    if (want > sizeof(buffer))
        want = sizeof(buffer);
    if (want > (size_t)relay->bytes)
        want = (size_t)relay->bytes;
    ssize_t size = want > 0 ? recv(relay->ends[side][stream], buffer, want, 0) : 0;
    usleep(relay->delay_us);
    if (size <= 0 || send(relay->ends[!side][stream], buffer, (size_t)size, MSG_NOSIGNAL) != size)
        return false;
    relay->bytes -= size;
    if (*got < WIRE_HEADER) {
        memcpy(header + *got, buffer, (size_t)size);
        *got += (size_t)size;
        if (*got < WIRE_HEADER)
            return true;
        *left = load_le32(header + 4);
    } else {
        *left -= (size_t)size;
    }
    if (*left == 0) {
        *got = 0;
        relay->frames -= relay->type == 0 || relay->type == load_le32(header);
    }
    return true;
}

static inline void *run_relay(void *opaque)
{
    struct relay *relay = opaque;
    struct pollfd wait[2 * MIGRATE_MAX_STREAMS + 1];
    bool good = true;
    while (good && relay->frames > 0 && relay->bytes > 0) {
        for (size_t i = 0; i < 2 * relay->count; i++)
            wait[i] = (struct pollfd){relay->ends[i % 2][i / 2], POLLIN, 0};
        wait[2 * relay->count] = (struct pollfd){relay->wake[0], POLLIN, 0};
        poll(wait, 2 * relay->count + 1, -1);
        good = wait[2 * relay->count].revents == 0;
        /* A frame at a time: the next one may be too many. */
        for (size_t i = 0; good && i < 2 * relay->count; i++)
            if (wait[i].revents != 0) {
                good = pass(relay, i % 2, i / 2);
                break;
            }
    }
    relay->cut = relay->frames <= 0 || relay->bytes <= 0;
    if (relay->cut && relay->stall)
        poll(&(struct pollfd){relay->wake[0], POLLIN, 0}, 1, -1);
    for (size_t i = 0; i < 2 * relay->count; i++)
        close(relay->ends[i % 2][i / 2]);
    return NULL;
}

static inline void connect_by_relay(struct relay *relay, struct side *from, struct side *to,
                                    size_t count)
{
    relay->count = from->count = to->count = count;
    for (size_t i = 0; i < count; i++)
        for (size_t side = 0; side < 2; side++) {
            int pair[2];
            assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
            (side == 0 ? from : to)->streams[i] = pair[0];
            relay->ends[side][i] = pair[1];
        }
    assert_int_equal(pipe(relay->wake), 0);
    assert_int_equal(pthread_create(&relay->thread, NULL, run_relay, relay), 0);
}

static inline void end_relay(struct relay *relay)
{
    assert_int_equal(write(relay->wake[1], "", 1), 1);
    pthread_join(relay->thread, NULL);
    close(relay->wake[0]);
    close(relay->wake[1]);
}

static inline void do_resolve(void *opaque)
{
    struct side *side = opaque;
    assert_true(migrate_source_resolve(side->source, side->resolve_here, &side->w.err));
    wait_for(&side->done);
    sem_post(&side->called);
}

struct outcomes {
    unsigned stayed, moved, uncertain;
};

/* A migration came to its end, whatever that is: exactly one side runs the machine. Which one is
 * returned, the other is closed. */
static inline struct side *settle(struct side *here, struct side *there, struct outcomes *outcomes)
{
    wait_for(&here->done);
    wait_for(&there->done);
    if (here->result == MIGRATE_UNCERTAIN) {
        outcomes->uncertain++;
        assert_int_equal(vm_state(here->w.vm), VM_PAUSED);
        here->resolve_here = !there->arrived;
        call(here, do_resolve);
    }
    if (there->arrived != (here->result == MIGRATE_MOVED) || there->arrived != there->taken)
        fail_msg("it is on %s: '%s', '%s'", there->arrived ? "both sides" : "no side", here->error,
                 there->error);
    struct side *winner = there->arrived ? there : here, *loser = there->arrived ? here : there;
    assert_int_not_equal(vm_state(loser->w.vm), VM_RUNNING);
    *(there->arrived ? &outcomes->moved : &outcomes->stayed) += 1;
    uint64_t written = there->arrived ? 0 : guest_word(&there->w, DATA_GPA);
    assert_runs(winner);
    if (!there->arrived && vm_state(there->w.vm) != VM_CREATED) /* not a single instruction */
        assert_true(guest_word(&there->w, DATA_GPA) == written);
    close_side(loser);
    return winner;
}

#endif
