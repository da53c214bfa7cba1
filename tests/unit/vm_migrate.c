/* SPDX-License-Identifier: MIT
 *
 * migrate/migrate.h: two machines in this process, each with a loop and a thread of its own, and
 * streams between them that can be cut anywhere. Whatever happens, one side runs the machine
 * afterwards, and its memory is what it wrote there.
 */
#include "vm_sweep.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/vclock.h"
#include "block/chain.h"
#include "block/image.h"
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
    struct block_chain disk; /* which the machine takes over */
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
    const struct migrate_target_options options = {
        .patience_ns = side->options.patience_ns, .done = on_arrived, .opaque = side};
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

static const char *engine_of(size_t n)
{
    return n % 2 == 1 && world_engine_works("dbt") ? "dbt" : "interp";
}

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

enum { NEVER = INT32_MAX };

struct relay {
    pthread_t thread;
    int ends[2][MIGRATE_MAX_STREAMS]; /* ours, towards source and target */
    size_t count;
    long frames, bytes; /* until it is cut, whichever comes first */
    uint32_t type;      /* of the frames that count; 0: all do */
    bool stall;         /* instead, nothing goes through any more */
    bool cut;
    int wake[2]; /* the test wants it to end */
    struct {
        size_t header, body; /* bytes of the frame so far; that are still to come */
        uint8_t bytes[WIRE_HEADER];
    } at[2][MIGRATE_MAX_STREAMS];
};

/* Passes on what there is of a frame. False: that was it. */
static bool pass(struct relay *relay, size_t side, size_t stream)
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

static void *run_relay(void *opaque)
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

static void connect_by_relay(struct relay *relay, struct side *from, struct side *to, size_t count)
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

static void end_relay(struct relay *relay)
{
    assert_int_equal(write(relay->wake[1], "", 1), 1);
    pthread_join(relay->thread, NULL);
    close(relay->wake[0]);
    close(relay->wake[1]);
}

static void do_resolve(void *opaque)
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
static struct side *settle(struct side *here, struct side *there, struct outcomes *outcomes)
{
    wait_for(&here->done);
    wait_for(&there->done);
    if (here->result == MIGRATE_UNCERTAIN) {
        outcomes->uncertain++;
        assert_int_equal(vm_state(here->w.vm), VM_PAUSED);
        here->resolve_here = !there->arrived;
        call(here, do_resolve);
    }
    if (there->arrived != (here->result == MIGRATE_MOVED))
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

/* ---- machines that do not fit, that stand still, or that end ---- */

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

static void an_unknown_extension_is_refused(void **state)
{
    (void)state;
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
    store_le32(hello, WIRE_VERSION);
    store_le32(hello + 16, 1);
    store_le32(hello + 20, 1);
    store_le64(hello + 24, RAM);
    store_le64(hello + 32, 64 * MIB);
    int length = snprintf((char *)hello + 40, sizeof(hello) - 40, "%.*s_zfuture%s", (int)isa,
                          layout, layout + isa);
    assert_true(wire_put(&wire, WIRE_HELLO, hello, 40 + (size_t)length, NS_PER_S, NULL));
    assert_true(wire_receive(&wire, &frame, 100 * NS_PER_S, NULL));
    assert_int_equal(frame.type, WIRE_REFUSED);
    assert_non_null(strstr((const char *)frame.body, "'zfuture'"));
    wait_for(&there->done);
    assert_false(there->arrived);
    wire_close(&wire);
    free(layout);
    close_side(there);
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

static uint64_t run_whole(int64_t *time)
{
    struct world w;
    struct vm_status status;
    open_busy_with(&w, 1, "interp");
    world_run(&w);
    uint64_t hash = machine_hash(w.vm);
    vm_get_status(w.vm, &status);
    *time = status.virtual_time_ns;
    world_close(&w);
    return hash;
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
    uint64_t whole = run_whole(&time);
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
        assert_true(machine_hash(there->w.vm) == whole);
        start_side(there);
        vtimer_free(timer);
        close_side(here);
        close_side(there);
    }
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
        cmocka_unit_test(another_machine_is_refused),
        cmocka_unit_test(an_unknown_extension_is_refused),
        cmocka_unit_test(a_paused_machine_stays_paused),
        cmocka_unit_test(a_machine_that_ends),
        cmocka_unit_test(a_shared_image_is_handed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
