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
};

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
bool source_expect(struct migrate_source *source, enum wire_type type, struct wire_frame *frame,
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
        !source_expect(source, WIRE_ACCEPT, &frame, err))
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
    if (!source_join_streams(source, err) || !source_expect(source, WIRE_READY, &frame, err))
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
           source_await_round(source, source->progress.round, err) &&
           (!postcopy || source_serve(source, err)) &&
           source_expect(source, WIRE_LOADED, &frame, err);
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
    enum source_next how = STOP_NOW;
    if (!negotiate(source, err) || !source_precopy(source, &how, err) ||
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
    source_throttle_no_more(source);
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
    loop_cancel(loop, source_throttle, source);
    source_throttle_no_more(source);
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
