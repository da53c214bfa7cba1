/* SPDX-License-Identifier: MIT
 *
 * See migrate.h: the machine arrives. One thread for each stream takes memory; the first one's also
 * leads. What is done to the machine, the loop's thread does, and it alone decides: cancelled or
 * started, whichever comes first.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "mem/mem.h"
#include "migrate/demand.h"
#include "migrate/target_internal.h"
#include "vm/vm.h"

enum { PATIENT = 6 }; /* times patience */

/* ---- failing ---- */

bool target_called_off(struct error **err)
{
    return error_set(err, ERROR_USAGE, "the migration was called off");
}

void target_wake_all(struct migrate_target *target)
{
    target->failed = true;
    pthread_cond_broadcast(&target->changed);
    if (target->demand != NULL)
        demand_give_up(target->demand);
    for (size_t i = 0; i < target->count; i++)
        if (i > 0)
            wire_cut(&target->streams[i].wire);
        else
            wire_cut_reading(&target->streams[i].wire); /* it may still say why */
}

/* Takes the error over. */
void target_fail(struct migrate_target *target, struct error *error)
{
    pthread_mutex_lock(&target->lock);
    bool first = target->error == NULL;
    if (first)
        target->error = error;
    target_wake_all(target);
    pthread_mutex_unlock(&target->lock);
    if (!first)
        error_free(error);
}

int64_t target_patience(const struct migrate_target *target)
{
    return PATIENT * (int64_t)target->options.patience_ns;
}

static void on_progress(void *opaque)
{
    struct migrate_target *target = opaque;
    pthread_mutex_lock(&target->lock);
    struct migrate_progress progress = target->progress;
    pthread_mutex_unlock(&target->lock);
    target->options.progress(target->options.opaque, &progress);
}

void target_enter(struct migrate_target *target, enum migrate_stage stage)
{
    pthread_mutex_lock(&target->lock);
    target->progress.stage = stage;
    pthread_mutex_unlock(&target->lock);
    if (target->options.progress != NULL)
        loop_post(vm_loop(target->vm), on_progress, target);
}

/* ---- stages 0 and 1 ---- */

static bool same_regions(struct migrate_target *target, const uint8_t *rows, uint32_t count,
                         struct error **err)
{
    struct mem_space *mem = vm_memory(target->vm);
    bool same = mem_ram_count(mem) == count;
    for (size_t i = 0; same && i < count; i++) {
        const struct mem_ram *ram = mem_ram_at(mem, i);
        same = ram->gpa == load_le64(rows + 16 * i) && ram->size == load_le64(rows + 16 * i + 8);
    }
    return same || error_set(err, ERROR_USAGE, "the machine has other memory there");
}

static bool check_hello(struct migrate_target *target, const struct wire_frame *hello,
                        struct error **err)
{
    if (hello->type != WIRE_HELLO || hello->size < 24)
        return wire_damaged(err, "it does not begin as one");
    uint32_t version = load_le32(hello->body), regions = load_le32(hello->body + 20);
    if (version != WIRE_VERSION) {
        error_set(err, ERROR_HOST,
                  "the source speaks version %u of the migration's language, and this "
                  "Trapeze %u",
                  version, WIRE_VERSION);
        error_hint(err, "Use the same version of Trapeze on both hosts.");
        return false;
    }
    if (regions > 16 || hello->size < 24 + 16 * regions)
        return wire_damaged(err, "there is an impossible number of memory regions");
    if (load_le32(hello->body + 16) != target->count)
        return error_set(err, ERROR_USAGE, "the source has %u streams, and this side %zu",
                         load_le32(hello->body + 16), target->count);
    const char *layout = (const char *)hello->body + 24 + 16 * regions;
    if (!vm_fits_layout(target->layout, layout, err)) {
        error_prefix(err, "the machine that was made here is another one");
        return false;
    }
    target->layout_there = alloc_string(layout);
    return same_regions(target, hello->body + 24, regions, err);
}

static bool greet(struct migrate_target *target, struct error **err)
{
    struct wire *wire = &target->streams[0].wire;
    struct wire_frame hello;
    uint64_t record_us = target->options.record_ns / 1000;
    uint8_t body[12];
    target_enter(target, MIGRATE_PRE);
    if (!wire_receive(wire, &hello, target_patience(target), err) ||
        !check_hello(target, &hello, err))
        return false;
    target->features = load_le32(hello.body + 4) & WIRE_FEATURES;
    if (!vm_can_run_without_memory(target->vm, NULL))
        target->features &= ~WIRE_POSTCOPY;
    store_le32(body, WIRE_VERSION);
    store_le32(body + 4, target->features);
    store_le32(body + 8, record_us < UINT32_MAX ? (uint32_t)record_us : UINT32_MAX);
    pthread_mutex_lock(&target->lock);
    memcpy(target->id, hello.body + 8, sizeof(target->id));
    target->greeted = true;
    pthread_cond_broadcast(&target->changed);
    pthread_mutex_unlock(&target->lock);
    target_enter(target, MIGRATE_RESERVATION);
    return wire_put(wire, WIRE_ACCEPT, body, sizeof(body), target_patience(target), err);
}

bool target_wait_joined(struct migrate_target *target, struct error **err)
{
    pthread_mutex_lock(&target->lock);
    while (target->joined < target->count - 1 && !target->failed)
        pthread_cond_wait(&target->changed, &target->lock);
    bool good = !target->failed;
    pthread_mutex_unlock(&target->lock);
    return good || target_called_off(err);
}

bool target_join(struct target_stream *stream, struct error **err)
{
    struct migrate_target *target = stream->target;
    struct wire_frame frame;
    if (!wire_receive(&stream->wire, &frame, target_patience(target), err))
        return false;
    pthread_mutex_lock(&target->lock);
    while (!target->greeted && !target->failed)
        pthread_cond_wait(&target->changed, &target->lock);
    bool good = !target->failed && frame.type == WIRE_JOIN && frame.size == 16 &&
                memcmp(frame.body, target->id, sizeof(target->id)) == 0 &&
                load_le32(frame.body + 8) == (uint32_t)(stream - target->streams);
    target->joined += good;
    pthread_cond_broadcast(&target->changed);
    pthread_mutex_unlock(&target->lock);
    return good || wire_damaged(err, "a stream is of another migration");
}

/* ---- stages 2 and 3: memory ---- */

/* The stream is at the end of a round; it goes on when all are. */
static bool end_round(struct target_stream *stream, const struct wire_frame *frame,
                      enum wire_last *last, struct error **err)
{
    struct migrate_target *target = stream->target;
    if (frame->size != 8 || load_le32(frame->body + 4) > WIRE_LAST_POSTCOPY)
        return wire_damaged(err, "the end of a round has another size");
    pthread_mutex_lock(&target->lock);
    unsigned round = target->round;
    bool right = load_le32(frame->body) == round;
    *last = (enum wire_last)load_le32(frame->body + 4);
    if (right && ++target->arrived == target->count) {
        target->arrived = 0;
        target->round++;
        target->progress.round = round;
        pthread_cond_broadcast(&target->changed);
    }
    while (right && target->round == round && !target->failed)
        pthread_cond_wait(&target->changed, &target->lock);
    bool good = target->round != round;
    pthread_mutex_unlock(&target->lock);
    if (!right)
        return wire_damaged(err, "a stream is in another round");
    return good || target_called_off(err);
}

static bool take_data(struct target_stream *stream, struct error **err)
{
    enum wire_last last = WIRE_NOT_LAST;
    struct wire_frame frame;
    if (!target_join(stream, err))
        return false;
    while (last == WIRE_NOT_LAST) {
        if (!wire_receive(&stream->wire, &frame, target_patience(stream->target), err))
            return false;
        bool good = frame.type == WIRE_MEMORY ? intake_take(&stream->intake, &frame, err)
                    : frame.type == WIRE_ROUND
                        ? end_round(stream, &frame, &last, err)
                        : wire_damaged(err, "a frame is on the wrong stream");
        if (!good)
            return false;
    }
    return last == WIRE_LAST || target_take_late_data(stream, err);
}

static void *run_data(void *opaque)
{
    struct target_stream *stream = opaque;
    struct error *error = NULL;
    if (!take_data(stream, &error))
        target_fail(stream->target, error);
    return NULL;
}

static bool take_state(struct migrate_target *target, const struct wire_frame *frame,
                       struct error **err)
{
    if (target->last == WIRE_NOT_LAST || target->state.size + frame->size > WIRE_STATE_MAX)
        return wire_damaged(err, "there is state where none can be");
    state_buffer_add(&target->state, frame->body, frame->size);
    return true;
}

static bool take_end(struct migrate_target *target, const struct wire_frame *frame,
                     struct error **err)
{
    if (target->last == WIRE_NOT_LAST ||
        (target->gets_disks && !disks_target_finished(target->disks)) || frame->size != 16 ||
        load_le64(frame->body) != target->state.size || load_le32(frame->body + 8) > WIRE_PAUSED)
        return wire_damaged(err, "its end does not fit");
    target->paused = load_le32(frame->body + 8) == WIRE_PAUSED;
    return true;
}

static bool take_round(struct target_stream *stream, const struct wire_frame *frame,
                       struct error **err)
{
    struct migrate_target *target = stream->target;
    uint8_t round[4];
    enum wire_last last;
    if (!end_round(stream, frame, &last, err))
        return false;
    if (last != WIRE_NOT_LAST && target->stopped_ns == 0)
        return wire_damaged(err, "the last round is of a machine that runs");
    if (last == WIRE_LAST_POSTCOPY && (target->features & WIRE_POSTCOPY) == 0)
        return wire_damaged(err, "there is post-copy that was not agreed upon");
    target->last = last;
    if (last == WIRE_LAST_POSTCOPY) {
        struct demand *demand = demand_new(vm_memory(target->vm));
        pthread_mutex_lock(&target->lock);
        target->demand = demand;
        pthread_mutex_unlock(&target->lock);
    }
    memcpy(round, frame->body, sizeof(round));
    return wire_put(&stream->wire, WIRE_ROUND_DONE, round, sizeof(round), target_patience(target),
                    err);
}

/* The first stream, up to END. */
static bool take_all(struct migrate_target *target, struct error **err)
{
    struct target_stream *stream = &target->streams[0];
    struct wire_frame frame;
    target_enter(target, MIGRATE_PRECOPY);
    do {
        bool good = wire_receive(&stream->wire, &frame, target_patience(target), err);
        if (!good)
            return false;
        if (target->last != WIRE_NOT_LAST &&
            (frame.type == WIRE_MEMORY || frame.type == WIRE_ROUND))
            return wire_damaged(err, "there is memory behind the last of it");
        switch (frame.type) {
        case WIRE_MEMORY:
            good = intake_take(&stream->intake, &frame, err);
            break;
        case WIRE_ROUND:
            good = take_round(stream, &frame, err);
            break;
        case WIRE_DISKS:
            good = disks_target_message(target->disks, frame.body, frame.size, err);
            break;
        case WIRE_ALIVE:
            good = target->last == WIRE_NOT_LAST
                       ? wire_put(&stream->wire, WIRE_ALIVE, NULL, 0, target_patience(target), err)
                       : wire_damaged(err, "there is a frame that nobody knows");
            break;
        case WIRE_STOPPED:
            target->stopped_ns = wire_now();
            target_enter(target, MIGRATE_STOP);
            break;
        case WIRE_ABSENT:
            good = target->demand != NULL ? demand_add(target->demand, &frame, err)
                                          : wire_damaged(err, "there is a list of no pages");
            break;
        case WIRE_STATE:
            good = take_state(target, &frame, err);
            break;
        case WIRE_END:
            good = take_end(target, &frame, err);
            break;
        default:
            good = wire_damaged(err, "there is a frame that nobody knows");
        }
        if (!good)
            return false;
    } while (frame.type != WIRE_END);
    return true;
}

/* ---- stages 3 to 5: the machine ---- */

static void answer(struct migrate_target *target, enum target_step *step, bool good,
                   struct error *error)
{
    pthread_mutex_lock(&target->lock);
    *step = good ? DONE : FAILED;
    if (target->error == NULL)
        target->error = error;
    else
        error_free(error);
    pthread_cond_broadcast(&target->changed);
    pthread_mutex_unlock(&target->lock);
}

/* The source has written to shared ones since they were opened here. */
static bool reopen_disks(struct migrate_target *target, struct error **err)
{
    size_t order[MACHINE_MAX_DISKS], count = vm_disk_order(target->vm, order);
    for (size_t i = 0; i < count; i++)
        if (target->disks_how[i] == DISKS_SHARED && !vm_disk_reopen(target->vm, order[i], err))
            return false;
    return true;
}

/* The loop's thread. */
void target_load(void *opaque)
{
    struct migrate_target *target = opaque;
    struct error *error = NULL;
    /* Paused before it has a state: its devices must not touch disks or networks that are still the source's. */
    bool good = !target->cancelled &&
                vm_arrange(target->vm, target->layout_there, false, &error) &&
                vm_start_paused(target->vm, &error) && reopen_disks(target, &error) &&
                vm_restore_state(target->vm, target->state.data, target->state.size, &error);
    answer(target, &target->load, good, error);
    if (target->demand == NULL)
        return;
    if (good) {
        target_enter(target, MIGRATE_COMMITMENT);
        demand_say(target->demand, WIRE_LOADED);
    } else {
        target_fail(target, NULL);
    }
}

/* Whatever could keep it from running once it is recorded that it is here. */
static bool can_go(const struct migrate_target *target, struct error **err)
{
    enum vm_state state = vm_state(target->vm);
    return state == VM_PAUSED || error_set(err, ERROR_USAGE, "the machine that was made here is %s",
                                           vm_state_name(state));
}

/* The loop's thread; nothing but this lets the machine run. From taken() on it is this side's for
 * good, so nothing behind that may fail. */
void target_start(void *opaque)
{
    struct migrate_target *target = opaque;
    struct error *error = NULL;
    const struct migrate_target_options *options = &target->options;
    bool good = !target->cancelled && can_go(target, &error) &&
                (options->taken == NULL || options->taken(options->opaque, &error));
    if (good) {
        if (!vm_config(target->vm)->deterministic)
            vm_forward_wall(target->vm, wire_now() - target->stopped_ns);
        bool runs = target->paused || vm_resume(target->vm, NULL);
        assert(runs);
        target->started = true;
    }
    answer(target, &target->start, good, error);
    if (target->demand == NULL)
        return;
    if (!good) {
        target_fail(target, NULL);
        return;
    }
    target_enter(target, MIGRATE_POSTCOPY);
    demand_say(target->demand, WIRE_RUNS);
    demand_runs(target->demand);
    if (target->options.late != NULL)
        target->options.late(target->options.opaque, NULL);
}

/* Has the loop's thread do it. */
static bool ask(struct migrate_target *target, loop_post_fn *what, enum target_step *step,
                struct error **err)
{
    loop_post(vm_loop(target->vm), what, target);
    pthread_mutex_lock(&target->lock);
    while (*step != DONE && *step != FAILED && !target->cancelled)
        pthread_cond_wait(&target->changed, &target->lock);
    bool good = *step == DONE;
    struct error *error = good ? NULL : target->error;
    if (!good)
        target->error = NULL;
    pthread_mutex_unlock(&target->lock);
    if (error != NULL)
        return error_propagate(err, error);
    return good || target_called_off(err);
}

static bool take_machine(struct migrate_target *target, struct error **err)
{
    struct wire *wire = &target->streams[0].wire;
    struct wire_frame frame;
    if (!greet(target, err) || !target_wait_joined(target, err) ||
        !wire_put(wire, WIRE_READY, NULL, 0, target_patience(target), err) ||
        !take_all(target, err))
        return false;
    if (target->last == WIRE_LAST_POSTCOPY)
        return target_take_late(target, err);
    if (!ask(target, target_load, &target->load, err) ||
        !wire_put(wire, WIRE_LOADED, NULL, 0, target_patience(target), err))
        return false;
    target_enter(target, MIGRATE_COMMITMENT);
    if (!wire_receive(wire, &frame, target_patience(target), err))
        return false;
    if (frame.type != WIRE_GO || frame.size != 0)
        return wire_damaged(err, "there is something else than the last word");
    return ask(target, target_start, &target->start, err);
}

void target_finished(void *opaque)
{
    struct migrate_target *target = opaque;
    if (target->started && target->demand != NULL) {
        struct mem_space *mem = vm_memory(target->vm);
        for (size_t i = 0; i < mem_ram_count(mem); i++)
            mem_set_complete(mem_ram_at(mem, i));
        vm_memory_came(target->vm);
    }
    target->options.done(target->options.opaque, target->started ? NULL : target->error);
}

/* What the source may hear of it. */
static void refuse(struct migrate_target *target, struct error *error)
{
    struct wire *wire = &target->streams[0].wire;
    const char *text = error_message(error);
    size_t length = strnlen(text, 1000);
    (void)wire_put(wire, WIRE_REFUSED, text, length, (int64_t)target->options.patience_ns, NULL);
}

static void *run_first(void *opaque)
{
    struct migrate_target *target = opaque;
    struct error *error = NULL;
    bool good = take_machine(target, &error);
    if (good && target->demand == NULL) {
        target_enter(target, MIGRATE_ACTIVATION);
        (void)wire_put(&target->streams[0].wire, WIRE_RUNS, NULL, 0,
                       (int64_t)target->options.patience_ns, NULL);
    } else if (!good && target_is_here(target)) {
        target_lost(target, error);
        return NULL;
    } else if (!good) {
        if (target->demand != NULL) /* its thread writes to the stream, too */
            demand_disconnect(target->demand);
        target_fail(target, error);
        refuse(target, target->error);
    }
    pthread_mutex_lock(&target->lock);
    target_wake_all(target);
    pthread_mutex_unlock(&target->lock);
    loop_post(vm_loop(target->vm), target_finished, target);
    return NULL;
}

/* ---- the loop's side ---- */

bool migrate_target_cancel(struct migrate_target *target)
{
    if (target->started)
        return false;
    pthread_mutex_lock(&target->lock);
    target->cancelled = true;
    if (target->error == NULL)
        target_called_off(&target->error);
    target_wake_all(target);
    pthread_mutex_unlock(&target->lock);
    return true;
}

static bool make_disks(struct migrate_target *target, struct error **err)
{
    struct disks_target_disk disks[MACHINE_MAX_DISKS];
    const enum disks_how *how = target->options.disks;
    size_t order[MACHINE_MAX_DISKS], count = vm_disk_order(target->vm, order);
    for (size_t i = 0; i < count; i++) {
        target->disks_how[i] = how != NULL ? how[i] : DISKS_SHARED;
        disks[i] =
            (struct disks_target_disk){vm_disk_image(target->vm, order[i]), target->disks_how[i]};
        target->gets_disks |= disks[i].how != DISKS_SHARED;
    }
    target->options.disks = NULL;
    target->disks = disks_target_new(disks, count, err);
    return target->disks != NULL;
}

static bool start_threads(struct migrate_target *target, struct error **err)
{
    for (size_t i = 0; i < target->count; i++) {
        struct target_stream *stream = &target->streams[i];
        int error = i > 0 ? pthread_create(&stream->thread, NULL, run_data, stream)
                          : pthread_create(&stream->thread, NULL, run_first, target);
        if (error != 0)
            return error_set_errno(err, error, "cannot start a thread");
        stream->has_thread = true;
    }
    return true;
}

struct migrate_target *migrate_target_begin(struct vm *vm, const int *streams, size_t count,
                                            const struct migrate_target_options *options,
                                            struct error **err)
{
    if (count == 0 || count > MIGRATE_MAX_STREAMS) {
        error_set(err, ERROR_USAGE, "a migration takes 1 to %u streams", MIGRATE_MAX_STREAMS);
        return NULL;
    }
    if (vm_state(vm) != VM_CREATED) {
        error_set(err, ERROR_USAGE, "a machine that is %s cannot become another one",
                  vm_state_name(vm_state(vm)));
        return NULL;
    }
    struct migrate_target *target = alloc_zeroed(1, sizeof(*target));
    target->vm = vm;
    target->options = *options;
    if (target->options.patience_ns == 0)
        target->options.patience_ns = MIGRATE_PATIENCE_NS;
    target->count = count;
    target->layout = vm_layout_and_folders(vm);
    target->round = 1;
    pthread_mutex_init(&target->lock, NULL);
    pthread_cond_init(&target->changed, NULL);
    for (size_t i = 0; i < count; i++) {
        struct target_stream *stream = &target->streams[i];
        stream->target = target;
        stream->intake.mem = vm_memory(vm);
        wire_open(&stream->wire, streams[i]);
    }
    vm_warm(vm);
    if (make_disks(target, err) && start_threads(target, err))
        return target;
    migrate_target_free(target);
    return NULL;
}

void migrate_target_free(struct migrate_target *target)
{
    if (target == NULL)
        return;
    struct loop *loop = vm_loop(target->vm);
    pthread_mutex_lock(&target->lock);
    target->cancelled = true;
    target_wake_all(target);
    if (!target->started || target->demand != NULL)
        wire_cut(&target->streams[0].wire);
    pthread_mutex_unlock(&target->lock);
    for (size_t i = 0; i < target->count; i++)
        if (target->streams[i].has_thread)
            pthread_join(target->streams[i].thread, NULL);
    loop_cancel(loop, on_progress, target);
    loop_cancel(loop, target_load, target);
    loop_cancel(loop, target_start, target);
    loop_cancel(loop, target_finished, target);
    target_late_stop(target);
    for (size_t i = 0; i < target->count; i++) {
        wire_close(&target->streams[i].wire);
        intake_clear(&target->streams[i].intake);
    }
    state_buffer_free(&target->state);
    error_free(target->error);
    disks_target_free(target->disks);
    free(target->layout);
    free(target->layout_there);
    pthread_cond_destroy(&target->changed);
    pthread_mutex_destroy(&target->lock);
    free(target);
}
