/* SPDX-License-Identifier: MIT
 *
 * See migrate.h: the machine leaves. The migration's thread talks to the target and sends memory;
 * what is done to the machine, the loop's thread does, as the first is told by posts and answers
 * with `lock` held. Who decides is the loop's thread alone: cancelled or committed, whichever comes
 * first.
 */
#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/vclock.h"
#include "mem/mem.h"
#include "migrate/disk_sender.h"
#include "migrate/rounds.h"
#include "migrate/serve.h"
#include "migrate/source_internal.h"
#include "vm/vm.h"

enum {
    PATIENT = 6,               /* times patience while nothing stands still */
    LAST_WORDS = 16,           /* frames that a target that hung up may have sent before, */
    LAST_WORDS_NS = 200000000, /* and how long they may take */
    REPORT_NS = 100000000,     /* between two reports of progress at least */
    RATE_BYTES = 1 << 20,      /* a round of less says nothing about the link */
    THROTTLE_STEP = 10,        /* percent */
    DISK_RATE_MIN = 64 << 10   /* bytes per second */
};
/* What the machine stands still for beside what is sent: the pause, its state; and the way of the last
 * round, of "loaded" and of "go". */
#define FIXED_NS UINT64_C(1000000)
#define TRIPS(ns) ((ns) + (ns) / 2)

const struct migrate_stage_row migrate_stages[MIGRATE_STAGE_COUNT] = {
    [MIGRATE_PRE] = {"pre-migration", MIGRATE_SOURCE},
    [MIGRATE_RESERVATION] = {"reservation", MIGRATE_SOURCE},
    [MIGRATE_PRECOPY] = {"pre-copy", MIGRATE_SOURCE},
    [MIGRATE_STOP] = {"stop-and-copy", MIGRATE_NOBODY},
    [MIGRATE_COMMITMENT] = {"commitment", MIGRATE_NOBODY},
    [MIGRATE_ACTIVATION] = {"activation", MIGRATE_TARGET},
    [MIGRATE_POSTCOPY] = {"post-copy", MIGRATE_TARGET},
};

static bool called_off(struct error **err)
{
    return error_set(err, ERROR_USAGE, "the migration was called off");
}

static bool is_cancelled(struct migrate_source *source)
{
    pthread_mutex_lock(&source->lock);
    bool cancelled = source->cancelled || source->freed;
    pthread_mutex_unlock(&source->lock);
    return cancelled;
}

int64_t source_patience(const struct migrate_source *source)
{
    int64_t base = (int64_t)source->options.patience_ns;
    return source->progress.stage >= MIGRATE_STOP ? base : PATIENT * base;
}

/* ---- progress ---- */

static void on_progress(void *opaque)
{
    struct migrate_source *source = opaque;
    struct migrate_progress progress;
    migrate_source_progress(source, &progress);
    source->options.progress(source->options.opaque, &progress);
}

void source_report(struct migrate_source *source, bool at_once)
{
    int64_t now = wire_now();
    if (source->options.progress == NULL || (!at_once && now - source->reported_ns < REPORT_NS))
        return;
    source->reported_ns = now;
    loop_post(vm_loop(source->vm), on_progress, source);
}

void source_enter(struct migrate_source *source, enum migrate_stage stage)
{
    pthread_mutex_lock(&source->lock);
    source->progress.stage = stage;
    pthread_mutex_unlock(&source->lock);
    source_report(source, true);
}

void migrate_source_progress(const struct migrate_source *source, struct migrate_progress *progress)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&source->lock;
    uint64_t sent = 0;
    for (size_t i = 0; i < source->count; i++)
        sent += atomic_load_explicit(&source->wires[i].sent_bytes, memory_order_relaxed);
    pthread_mutex_lock(lock);
    *progress = source->progress;
    if (source->sending)
        progress->left = rounds_left(source->rounds);
    else if (source->server != NULL)
        progress->left = server_left(source->server);
    pthread_mutex_unlock(lock);
    disk_sender_progress(source->disks, &progress->disk_total, &progress->disk_left);
    progress->sent = sent;
}

/* ---- stages 0 and 1 ---- */

bool source_hear(struct migrate_source *source, struct wire_frame *frame, struct error **err)
{
    int64_t deadline = wire_now() + source_patience(source);
    for (;;) {
        if (!wire_receive(&source->wires[0], frame, source_patience(source), err))
            return false;
        if (!source->serving || (frame->type != WIRE_WANT && frame->type != WIRE_ALIVE))
            return true;
        if (frame->type == WIRE_WANT && !server_want(source->server, frame, err))
            return false;
        if (!source->switched && wire_now() > deadline) /* that it lives is not enough */
            return error_set(err, ERROR_HOST, "the other side does not answer any more");
        source_report(source, false);
    }
}

/* What the target says next has to be `type`. */
static bool expect(struct migrate_source *source, enum wire_type type, struct wire_frame *frame,
                   struct error **err)
{
    if (!source_hear(source, frame, err))
        return false;
    if (frame->type == (uint32_t)type)
        return true;
    if (frame->type != WIRE_REFUSED)
        return wire_damaged(err, "the target answers something else");
    return error_set(err, ERROR_HOST, "the target refuses: %.1000s", (const char *)frame->body);
}

bool source_join_streams(struct migrate_source *source, struct error **err)
{
    for (size_t i = 1; i < source->count; i++) {
        uint8_t body[16] = {0};
        memcpy(body, source->hello + 8, 8);
        store_le32(body + 8, (uint32_t)i);
        if (!wire_put(&source->wires[i], WIRE_JOIN, body, sizeof(body), source_patience(source),
                      err))
            return false;
    }
    return true;
}

static bool negotiate(struct migrate_source *source, struct error **err)
{
    struct wire_frame frame;
    if (!wire_send(&source->wires[0], WIRE_HELLO, source->hello - WIRE_HEADER, source->hello_size,
                   source_patience(source), err) ||
        !expect(source, WIRE_ACCEPT, &frame, err))
        return false;
    if (frame.size != 12 || load_le32(frame.body) != WIRE_VERSION)
        return wire_damaged(err, "the target accepts something else");
    uint32_t both = load_le32(frame.body + 4) & load_le32(source->hello + 4);
    source->features = both;
    source->record_ns = load_le32(frame.body + 8) * UINT64_C(1000);
    if (source->options.postcopy && (both & WIRE_POSTCOPY) == 0) {
        error_set(err, ERROR_USAGE, "the target cannot take a machine by post-copy");
        error_hint(err, "Migrate without it.");
        return false;
    }
    source_enter(source, MIGRATE_RESERVATION);
    if (!source_join_streams(source, err) || !expect(source, WIRE_READY, &frame, err))
        return false;
    struct rounds *rounds = rounds_new(vm_memory(source->vm), source->wires, source->count,
                                       ((both & WIRE_ZSTD) != 0 ? ROUNDS_PACKED : 0u) |
                                           ((both & WIRE_DELTA) != 0 ? ROUNDS_DELTAS : 0u),
                                       err);
    pthread_mutex_lock(&source->lock);
    source->rounds = rounds;
    if (rounds != NULL)
        source->progress.total = source->progress.left = rounds_total(rounds);
    if (rounds != NULL && source->cancelled)
        rounds_stop(rounds);
    pthread_mutex_unlock(&source->lock);
    return rounds != NULL && disk_sender_begin(source->disks, err);
}

/* ---- stage 2 ---- */

static void set_sending(struct migrate_source *source, unsigned round, bool sending)
{
    pthread_mutex_lock(&source->lock);
    source->progress.round = round;
    source->sending = sending;
    pthread_mutex_unlock(&source->lock);
}

static bool await_round(struct migrate_source *source, unsigned round, struct error **err)
{
    struct wire_frame frame;
    if (!expect(source, WIRE_ROUND_DONE, &frame, err))
        return false;
    return (frame.size == 4 && load_le32(frame.body) == round) ||
           wire_damaged(err, "the target is in another round");
}

bool source_send_round(struct migrate_source *source, unsigned round, enum wire_last last,
                       struct error **err)
{
    const struct round_options options = {.number = round,
                                          .last = last,
                                          .fresh = round == 1,
                                          .bandwidth =
                                              last != WIRE_NOT_LAST ? 0 : source->options.bandwidth,
                                          .patience_ns = source_patience(source)};
    set_sending(source, round, true);
    bool good = rounds_send(source->rounds, &options, err) &&
                (last != WIRE_NOT_LAST || await_round(source, round, err));
    set_sending(source, round, false);
    return good;
}

/* How long the link takes for the least there is. */
static bool measure_link(struct migrate_source *source, struct error **err)
{
    struct wire_frame frame;
    int64_t begun_ns = wire_now();
    if (!wire_put(&source->wires[0], WIRE_ALIVE, NULL, 0, source_patience(source), err) ||
        !expect(source, WIRE_ALIVE, &frame, err))
        return false;
    uint64_t trip_ns = (uint64_t)(wire_now() - begun_ns);
    if (source->trip_ns == 0 || trip_ns < source->trip_ns)
        source->trip_ns = trip_ns;
    return true;
}

static uint64_t fixed_ns(const struct migrate_source *source)
{
    return FIXED_NS + TRIPS(source->trip_ns) + source->record_ns;
}

/* A round: first of the disks, then of memory. */
struct round {
    int64_t begun_ns, memory_ns, ended_ns; /* wire_now() */
    uint64_t disk_sent;          /* bytes, before it */
};

static double seconds_since(int64_t then_ns)
{
    int64_t took_ns = wire_now() - then_ns;
    return (double)(took_ns > 0 ? took_ns : 1) / 1e9;
}

/* Without the wait for the answer, which says nothing of how fast the link is. */
static double sending_time(const struct migrate_source *source, const struct round *round)
{
    int64_t took_ns = round->ended_ns - round->begun_ns, trip_ns = (int64_t)source->trip_ns;
    return (double)(took_ns > 2 * trip_ns ? took_ns - trip_ns : took_ns / 2 + 1) / 1e9;
}

/* What it tells about link and guest. */
static void measure(struct migrate_source *source, const struct round *round)
{
    uint64_t copied = rounds_copied(source->rounds), left = rounds_dirty(source->rounds);
    uint64_t disk_sent = disk_sender_sent(source->disks) - round->disk_sent, disk_total, disk_left;
    disk_sender_progress(source->disks, &disk_total, &disk_left);
    double whole = seconds_since(round->begun_ns), memory = seconds_since(round->memory_ns);
    pthread_mutex_lock(&source->lock);
    struct migrate_progress *progress = &source->progress;
    if (copied + disk_sent >= RATE_BYTES || progress->rate == 0)
        progress->rate = (uint64_t)((double)(copied + disk_sent) / sending_time(source, round)) + 1;
    source->left = left + disk_left;
    source->writes_disks = disk_sent + disk_left > (copied + left) / 3;
    progress->dirty_rate = (uint64_t)((double)left / memory + (double)disk_left / whole);
    progress->left = left;
    progress->estimate_ns =
        fixed_ns(source) + (uint64_t)((double)source->left / (double)progress->rate * 1e9);
    pthread_mutex_unlock(&source->lock);
}

enum next { ANOTHER_ROUND, STOP_NOW, SWITCH_NOW, GIVE_UP };

/* No round helps against what is always needed: however long that is, half of the limit is for what is to be
 * sent. */
static uint64_t limit_ns(const struct migrate_source *source)
{
    uint64_t limit = source->options.downtime_ns, least = fixed_ns(source) + limit / 2;
    return limit > least ? limit : least;
}

/* After a round; `before` is what was left after the one before it. Rounds that at least halve what
 * is left are worth their while even if it would fit already: the machine stands still for less. */
static enum next decide(struct migrate_source *source, uint64_t before)
{
    const struct migrate_progress *progress = &source->progress;
    const struct migrate_source_options *options = &source->options;
    bool fits = progress->estimate_ns <= limit_ns(source);
    bool pays = source->left < before / 2 && source->left > RATE_BYTES;
    if (fits && !pays)
        return STOP_NOW;
    pthread_mutex_lock(&source->lock);
    bool asked = source->postcopy;
    pthread_mutex_unlock(&source->lock);
    /* The first round says nothing of the guest: it is of all memory. */
    bool converges = progress->round == 1 || source->left < before / 2;
    if (asked || (options->postcopy && (!converges || progress->round >= options->rounds)))
        return fits ? STOP_NOW : SWITCH_NOW;
    if (progress->round < options->rounds || options->last_resort == MIGRATE_KEEP_TRYING)
        return ANOTHER_ROUND;
    return fits || options->last_resort == MIGRATE_STOP_ANYWAY ? STOP_NOW : GIVE_UP;
}

/* ---- a guest that writes faster than its memory can be sent ---- */

/* The loop's thread. */
static void throttle(void *opaque)
{
    struct migrate_source *source = opaque;
    pthread_mutex_lock(&source->lock);
    unsigned percent = source->progress.throttle;
    uint64_t disk_rate = source->disk_rate;
    pthread_mutex_unlock(&source->lock);
    if (source->held || source->cancelled)
        return;
    vm_throttle(source->vm, percent);
    vm_throttle_disks(source->vm, disk_rate);
}

static void throttle_no_more(struct migrate_source *source)
{
    vm_throttle(source->vm, 0);
    vm_throttle_disks(source->vm, 0);
}

/* A vCPU that hardly runs can still keep disks busy, so these get a third of what can be sent, then
 * half of that, and so on. Reads are slowed down with writes. */
static uint64_t slower_disks(const struct migrate_source *source)
{
    uint64_t rate = source->disk_rate;
    if (!source->writes_disks)
        return rate;
    rate = rate == 0 ? source->progress.rate / 3 : rate / 2;
    return rate > DISK_RATE_MIN ? rate : DISK_RATE_MIN;
}

/* It is to run for so small a part of the time that it writes a third of what can be sent
 * meanwhile, as far as the last round tells; what it writes to again and again makes it look slower
 * than it is. */
static void slow_down(struct migrate_source *source, uint64_t before)
{
    struct migrate_progress *progress = &source->progress;
    if (!source->options.converge || progress->round < 2 || source->left < before / 2)
        return;
    double runs = 100.0 - progress->throttle;
    double enough = runs * (double)progress->rate / 3 / (double)(progress->dirty_rate + 1);
    unsigned percent = progress->throttle + THROTTLE_STEP;
    if (enough < 100.0 - percent)
        percent = 100 - (unsigned)enough;
    pthread_mutex_lock(&source->lock);
    progress->throttle = percent < VM_THROTTLE_MAX ? percent : VM_THROTTLE_MAX;
    source->disk_rate = slower_disks(source);
    pthread_mutex_unlock(&source->lock);
    loop_post(vm_loop(source->vm), throttle, source);
}

/* Before memory, which would only grow old meanwhile. */
static bool copy_disks(struct migrate_source *source, struct error **err)
{
    bool more = true;
    while (more) {
        if (!disk_sender_go_on(source->disks, &more, err))
            return false;
        source_report(source, false);
    }
    return true;
}

static bool precopy(struct migrate_source *source, enum next *then, struct error **err)
{
    struct migrate_progress *progress = &source->progress;
    enum next next = ANOTHER_ROUND;
    source_enter(source, MIGRATE_PRECOPY);
    if (!copy_disks(source, err))
        return false;
    rounds_mark_all(source->rounds);
    source->left = progress->left;
    for (unsigned round = 1; next == ANOTHER_ROUND; round++) {
        uint64_t before = source->left;
        struct round now = {.begun_ns = wire_now(), .disk_sent = disk_sender_sent(source->disks)};
        if (!disk_sender_round(source->disks, err))
            return false;
        now.memory_ns = wire_now();
        if (round > 1)
            rounds_mark_dirty(source->rounds);
        if (!source_send_round(source, round, WIRE_NOT_LAST, err))
            return false;
        now.ended_ns = wire_now();
        if (!measure_link(source, err))
            return false;
        measure(source, &now);
        source_report(source, false);
        next = decide(source, before);
        if (next == ANOTHER_ROUND)
            slow_down(source, before);
    }
    *then = next;
    return next != GIVE_UP ||
           error_set(
               err, ERROR_HOST,
               "after %u rounds the guest still writes to its memory faster than it can be sent",
               progress->round);
}

/* ---- stage 3 ---- */

static bool pause_machine(struct migrate_source *source, struct error **err)
{
    struct vm *vm = source->vm;
    enum vm_state state = vm_state(vm);
    if (state != VM_RUNNING && state != VM_PAUSED)
        return error_set(err, ERROR_USAGE, "the machine has ended");
    if (!vm_can_be_saved(vm, err))
        return false;
    source->was_running = state == VM_RUNNING;
    if (source->was_running && !vm_pause(vm, err))
        return false;
    source->held = true;
    return true;
}

static void set_paused(struct migrate_source *source, enum paused paused)
{
    pthread_mutex_lock(&source->lock);
    source->paused = paused;
    if (paused == PAUSED)
        source->stopped_ns = wire_now();
    pthread_cond_broadcast(&source->changed);
    pthread_mutex_unlock(&source->lock);
}

/* The loop's thread: the machine's state is saved while the last of its memory is on its way. */
static void stop_machine(void *opaque)
{
    struct migrate_source *source = opaque;
    if (source->cancelled)
        return;
    if (!pause_machine(source, &source->error)) {
        set_paused(source, PAUSE_FAILED);
        return;
    }
    set_paused(source, PAUSED);
    vm_save_state(source->vm, &source->state);
    set_paused(source, SAVED);
}

/* Until the loop's thread has got so far. */
static bool wait_paused(struct migrate_source *source, enum paused paused, struct error **err)
{
    pthread_mutex_lock(&source->lock);
    while (source->paused < paused && !source->cancelled && !source->freed)
        pthread_cond_wait(&source->changed, &source->lock);
    bool failed = source->paused == PAUSE_FAILED, good = source->paused >= paused && !failed;
    struct error *error = failed ? source->error : NULL;
    if (failed)
        source->error = NULL;
    pthread_mutex_unlock(&source->lock);
    if (failed)
        return error_propagate(err, error);
    return good || called_off(err);
}

static bool send_state(struct migrate_source *source, struct error **err)
{
    struct wire *wire = &source->wires[0];
    uint8_t *frame = alloc_zeroed(1, WIRE_HEADER + WIRE_BODY_MAX), body[16] = {0};
    bool good = true;
    for (size_t at = 0, part; good && at < source->state.size; at += part) {
        part = source->state.size - at < WIRE_BODY_MAX ? source->state.size - at : WIRE_BODY_MAX;
        memcpy(frame + WIRE_HEADER, source->state.data + at, part);
        good = wire_send(wire, WIRE_STATE, frame, part, source_patience(source), err);
    }
    free(frame);
    /* Whoever reads the disks next, there, finds what was written here. */
    if (!good || !vm_disks_flush(source->vm, err))
        return false;
    store_le64(body, source->state.size);
    store_le32(body + 8, source->was_running ? 0 : WIRE_PAUSED);
    return wire_put(wire, WIRE_END, body, sizeof(body), source_patience(source), err);
}

static bool stop_and_copy(struct migrate_source *source, bool postcopy, struct error **err)
{
    struct wire_frame frame;
    source_enter(source, MIGRATE_STOP);
    loop_post(vm_loop(source->vm), stop_machine, source);
    if (!wait_paused(source, PAUSED, err) ||
        !wire_put(&source->wires[0], WIRE_STOPPED, NULL, 0, source_patience(source), err) ||
        !disk_sender_final(source->disks, source_patience(source), err))
        return false;
    rounds_mark_dirty(source->rounds);
    return (postcopy ? source_send_list(source, err)
                     : source_send_round(source, source->progress.round + 1, WIRE_LAST, err)) &&
           wait_paused(source, SAVED, err) && send_state(source, err) &&
           await_round(source, source->progress.round, err) &&
           (!postcopy || source_serve(source, err)) && expect(source, WIRE_LOADED, &frame, err);
}

/* ---- stages 4 and 5 ---- */

static void ask_to_commit(void *opaque)
{
    struct migrate_source *source = opaque;
    if (!source->cancelled)
        source->options.commit(source->options.opaque);
}

static bool wait_committed(struct migrate_source *source, struct error **err)
{
    int64_t deadline = wire_now() + source_patience(source);
    const struct timespec until = {.tv_sec = deadline / NS_PER_S, .tv_nsec = deadline % NS_PER_S};
    int error = 0;
    pthread_mutex_lock(&source->lock);
    while (!source->committed && !source->cancelled && !source->freed && error != ETIMEDOUT)
        error = pthread_cond_timedwait(&source->changed, &source->lock, &until);
    bool committed = source->committed, late = !committed && !source->cancelled;
    source->cancelled = !committed;
    pthread_mutex_unlock(&source->lock);
    if (late)
        return error_set(err, ERROR_HOST,
                         "nobody has recorded that the machine was to be given away");
    return committed || called_off(err);
}

/* Everything up to "go" leaves the machine here. */
static bool come_to_go(struct migrate_source *source, struct error **err)
{
    enum next how = STOP_NOW;
    if (!negotiate(source, err) || !precopy(source, &how, err) ||
        !stop_and_copy(source, how == SWITCH_NOW, err))
        return false;
    source_enter(source, MIGRATE_COMMITMENT);
    loop_post(vm_loop(source->vm), ask_to_commit, source);
    if (!wait_committed(source, err))
        return false;
    if (source->serving)
        return server_say(source->server, WIRE_GO) ||
               error_set(err, ERROR_HOST, "the target has gone away");
    if (!wire_is_quiet(&source->wires[0]))
        return error_set(err, ERROR_HOST, "the target has gone away");
    return wire_put(&source->wires[0], WIRE_GO, NULL, 0, source_patience(source), err);
}

static enum migrate_result finish(struct migrate_source *source, struct error **err)
{
    struct wire_frame frame;
    struct error *error = NULL;
    if (source_hear(source, &frame, &error)) {
        if (frame.type == WIRE_RUNS) {
            pthread_mutex_lock(&source->lock);
            source->progress.downtime_ns = (uint64_t)(wire_now() - source->stopped_ns);
            source->switched = source->serving;
            pthread_mutex_unlock(&source->lock);
            source_enter(source, source->serving ? MIGRATE_POSTCOPY : MIGRATE_ACTIVATION);
            if (!source->serving)
                return MIGRATE_MOVED;
            loop_post(vm_loop(source->vm), source_switched, source);
            return source_attend(source, err);
        }
        if (frame.type == WIRE_REFUSED) {
            error_set(err, ERROR_HOST, "the target refuses: %.1000s", (const char *)frame.body);
            return MIGRATE_FAILED;
        }
        (void)wire_damaged(&error, "the target answers something else");
    }
    error_prefix(&error, "the machine was given away, and whether it runs there is not known");
    error_propagate(err, error);
    return MIGRATE_UNCERTAIN;
}

/* A target that hung up may have said why before. */
static void hear_last_words(struct migrate_source *source, struct error **error)
{
    struct wire_frame frame;
    for (unsigned i = 0; i < LAST_WORDS && !is_cancelled(source) &&
                         wire_receive(&source->wires[0], &frame, LAST_WORDS_NS, NULL);
         i++)
        if (frame.type == WIRE_REFUSED) {
            error_free(*error);
            *error = NULL;
            error_set(error, ERROR_HOST, "the target refuses: %.1000s", (const char *)frame.body);
            return;
        }
}

void source_end(struct migrate_source *source, enum migrate_result result, struct error *error)
{
    source_stop_serving(source);
    for (size_t i = 0; i < source->count; i++)
        wire_cut(&source->wires[i]);
    pthread_mutex_lock(&source->lock);
    source->result = result;
    error_free(source->error);
    source->error = error;
    pthread_mutex_unlock(&source->lock);
    loop_post(vm_loop(source->vm), source_finished, source);
}

static void *run(void *opaque)
{
    struct migrate_source *source = opaque;
    struct error *error = NULL;
    enum migrate_result result = MIGRATE_FAILED;
    if (come_to_go(source, &error))
        result = finish(source, &error);
    else
        hear_last_words(source, &error);
    source_end(source, result, error);
    return NULL;
}

/* ---- the loop's side ---- */

/* As if nothing had been. */
static void go_on(struct migrate_source *source)
{
    throttle_no_more(source);
    if (source->held && source->was_running)
        (void)vm_resume(source->vm, NULL);
    source->held = false;
}

void source_finished(void *opaque)
{
    struct migrate_source *source = opaque;
    if (source->result == MIGRATE_FAILED)
        go_on(source);
    if (source->result == MIGRATE_MOVED && !source->switched)
        vm_disks_give_away(source->vm);
    source->options.done(source->options.opaque, source->result, source->error);
}

bool migrate_source_commit(struct migrate_source *source)
{
    pthread_mutex_lock(&source->lock);
    bool good = source->progress.stage == MIGRATE_COMMITMENT && !source->cancelled;
    source->committed = source->committed || good;
    pthread_cond_broadcast(&source->changed);
    pthread_mutex_unlock(&source->lock);
    return good;
}

static void cut(struct migrate_source *source)
{
    for (size_t i = 0; i < source->count; i++)
        wire_cut(&source->wires[i]);
    if (source->rounds != NULL)
        rounds_stop(source->rounds);
    pthread_cond_broadcast(&source->changed);
}

bool migrate_source_cancel(struct migrate_source *source)
{
    pthread_mutex_lock(&source->lock);
    bool good = !source->committed;
    if (good && !source->cancelled) {
        source->cancelled = true;
        cut(source);
    }
    pthread_mutex_unlock(&source->lock);
    return good;
}

bool migrate_source_resolve(struct migrate_source *source, bool here, struct error **err)
{
    if (source->result != MIGRATE_UNCERTAIN)
        return error_set(err, ERROR_USAGE, "it is known where the machine is");
    source->result = here                     ? MIGRATE_FAILED
                     : source->server != NULL ? MIGRATE_DISCONNECTED
                                              : MIGRATE_MOVED;
    if (here)
        go_on(source);
    else
        vm_disks_give_away(source->vm);
    source->switched = source->result == MIGRATE_DISCONNECTED;
    if (source->switched)
        source->progress.stage = MIGRATE_POSTCOPY;
    source->options.done(source->options.opaque, source->result, source->error);
    return true;
}

bool migrate_source_holds(const struct migrate_source *source)
{
    return source->held;
}

/* Comparing pages is worth it on slow links only. */
static uint32_t features(const struct migrate_source_options *options)
{
    return (options->compress ? WIRE_ZSTD : 0) |
           (options->compress || options->bandwidth != 0 ? WIRE_DELTA : 0) |
           (options->postcopy ? WIRE_POSTCOPY : 0);
}

/* Everything that the thread needs of the machine; what it says first. */
static void make_hello(struct migrate_source *source)
{
    char *layout = vm_layout_and_folders(source->vm);
    struct mem_space *mem = vm_memory(source->vm);
    size_t regions = mem_ram_count(mem), length = strlen(layout);
    source->hello_size = 24 + 16 * regions + length;
    assert(source->hello_size <= WIRE_BODY_MAX);
    uint8_t *at = alloc_zeroed(1, WIRE_HEADER + source->hello_size);
    at += WIRE_HEADER;
    source->hello = at;
    store_le32(at, WIRE_VERSION);
    store_le32(at + 4, features(&source->options));
    (void)!getrandom(at + 8, 8, 0);
    store_le32(at + 16, (uint32_t)source->count);
    store_le32(at + 20, (uint32_t)regions);
    at += 24;
    for (size_t i = 0; i < regions; i++, at += 16) {
        store_le64(at, mem_ram_at(mem, i)->gpa);
        store_le64(at + 8, mem_ram_at(mem, i)->size);
    }
    memcpy(at, layout, length);
    free(layout);
}

static bool check(struct vm *vm, size_t count, struct error **err)
{
    if (count == 0 || count > MIGRATE_MAX_STREAMS)
        return error_set(err, ERROR_USAGE, "a migration takes 1 to %u streams",
                         MIGRATE_MAX_STREAMS);
    if (vm_state(vm) != VM_RUNNING && vm_state(vm) != VM_PAUSED)
        return error_set(err, ERROR_USAGE, "a machine that is %s cannot be migrated",
                         vm_state_name(vm_state(vm)));
    return vm_can_be_saved(vm, err);
}

static void set_defaults(struct migrate_source_options *options)
{
    if (options->downtime_ns == 0)
        options->downtime_ns = MIGRATE_DOWNTIME_NS;
    if (options->rounds == 0)
        options->rounds = MIGRATE_ROUNDS;
    if (options->patience_ns == 0)
        options->patience_ns = MIGRATE_PATIENCE_NS;
}

static void init_condition(pthread_cond_t *condition)
{
    pthread_condattr_t how;
    pthread_condattr_init(&how);
    pthread_condattr_setclock(&how, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &how);
    pthread_condattr_destroy(&how);
}

struct migrate_source *migrate_source_begin(struct vm *vm, const int *streams, size_t count,
                                            const struct migrate_source_options *options,
                                            struct error **err)
{
    if (!check(vm, count, err) || (options->postcopy && !vm_can_run_without_memory(vm, err)))
        return NULL;
    struct migrate_source *source = alloc_zeroed(1, sizeof(*source));
    source->vm = vm;
    source->options = *options;
    set_defaults(&source->options);
    const struct disk_sender_options how = {options->disks, options->bandwidth,
                                            source_patience(source)};
    source->disks = disk_sender_new(vm, &source->wires[0], &how, err);
    if (source->disks == NULL) {
        free(source);
        return NULL;
    }
    source->count = count;
    for (size_t i = 0; i < count; i++)
        wire_open(&source->wires[i], streams[i]);
    pthread_mutex_init(&source->lock, NULL);
    init_condition(&source->changed);
    make_hello(source);
    int error = pthread_create(&source->thread, NULL, run, source);
    source->has_thread = error == 0;
    if (error == 0)
        return source;
    for (size_t i = 0; i < count; i++)
        source->wires[i].fd = -1; /* still the caller's */
    migrate_source_free(source);
    error_set_errno(err, error, "cannot start a thread");
    return NULL;
}

void migrate_source_free(struct migrate_source *source)
{
    if (source == NULL)
        return;
    struct loop *loop = vm_loop(source->vm);
    pthread_mutex_lock(&source->lock);
    source->freed = true;
    if (source->has_thread)
        cut(source);
    pthread_mutex_unlock(&source->lock);
    disk_sender_stop(source->disks);
    if (source->has_thread)
        pthread_join(source->thread, NULL);
    loop_cancel(loop, on_progress, source);
    loop_cancel(loop, stop_machine, source);
    loop_cancel(loop, throttle, source);
    throttle_no_more(source);
    loop_cancel(loop, ask_to_commit, source);
    loop_cancel(loop, source_switched, source);
    loop_cancel(loop, source_finished, source);
    server_free(source->server);
    rounds_free(source->rounds);
    disk_sender_free(source->disks);
    for (size_t i = 0; i < source->count; i++)
        wire_close(&source->wires[i]);
    state_buffer_free(&source->state);
    error_free(source->error);
    pthread_cond_destroy(&source->changed);
    pthread_mutex_destroy(&source->lock);
    free(source->hello - WIRE_HEADER);
    free(source);
}
