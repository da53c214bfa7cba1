/* SPDX-License-Identifier: MIT
 *
 * See migrate.h: the machine arrives by post-copy. The first stream's thread only reads from then
 * on (what is loaded may want pages, which come here), and the one that asks for pages (demand.h)
 * says everything that is to be said. Who waits for a page is called away by a hold, so that the
 * loop's thread stops the machine at any moment, and that is what it does when the streams are
 * lost.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "mem/mem.h"
#include "migrate/demand.h"
#include "migrate/target_internal.h"
#include "vm/vm.h"

static int64_t patience(const struct migrate_target *target)
{
    return (int64_t)target->options.patience_ns; /* nobody is silent for long */
}

/* ---- what the streams' threads do ---- */

/* A pages' or an empty frame. */
static bool take_common(struct target_stream *stream, const struct wire_frame *frame,
                        struct error **err)
{
    stream->intake.demand = stream->target->demand;
    if (frame->type == WIRE_MEMORY)
        return intake_take(&stream->intake, frame, err);
    return (frame->type == WIRE_ALIVE && frame->size == 0) ||
           wire_damaged(err, "there is a frame that nobody knows");
}

static bool take_go(struct migrate_target *target, struct error **err)
{
    pthread_mutex_lock(&target->lock);
    bool right = target->load == DONE && !target->go;
    target->go = target->go || right;
    pthread_mutex_unlock(&target->lock);
    if (!right)
        return wire_damaged(err, "there is something else than the last word");
    loop_post(vm_loop(target->vm), target_start, target);
    return true;
}

/* False: there is none. That is no error if all is there. */
static bool next_frame(struct target_stream *stream, struct wire_frame *frame, struct error **err)
{
    struct error *error = NULL;
    if (wire_receive(&stream->wire, frame, patience(stream->target), &error))
        return true;
    if (demand_is_over(stream->target->demand))
        error_free(error);
    else
        error_propagate(err, error);
    return false;
}

static bool receive(struct migrate_target *target, struct error **err)
{
    struct target_stream *stream = &target->streams[0];
    struct wire_frame frame;
    while (next_frame(stream, &frame, err)) {
        bool is_go = frame.type == WIRE_GO && frame.size == 0;
        if (!(is_go ? take_go(target, err) : take_common(stream, &frame, err)))
            return false;
    }
    return demand_is_over(target->demand);
}

bool target_take_late_data(struct target_stream *stream, struct error **err)
{
    struct migrate_target *target = stream->target;
    struct wire_frame frame;
    pthread_mutex_lock(&target->lock);
    while (!target->late && !target->failed)
        pthread_cond_wait(&target->changed, &target->lock);
    bool good = target->late;
    pthread_mutex_unlock(&target->lock);
    if (!good)
        return target_called_off(err);
    while (good && next_frame(stream, &frame, err))
        good = take_common(stream, &frame, err);
    return good && demand_is_over(target->demand);
}

/* The asking thread's: all is there, or it could not write. */
static void end_reading(void *opaque)
{
    struct migrate_target *target = opaque;
    for (size_t i = 0; i < target->count; i++)
        wire_cut_reading(&target->streams[i].wire);
}

static void open_late(struct migrate_target *target)
{
    pthread_mutex_lock(&target->lock);
    target->late = true;
    pthread_cond_broadcast(&target->changed);
    pthread_mutex_unlock(&target->lock);
}

bool target_take_late(struct migrate_target *target, struct error **err)
{
    demand_begin(target->demand);
    if (!demand_connect(target->demand, &target->streams[0].wire, patience(target), end_reading,
                        target, err))
        return false;
    open_late(target);
    loop_post(vm_loop(target->vm), target_load, target);
    return receive(target, err);
}

/* ---- streams that are lost ---- */

bool target_is_here(struct migrate_target *target)
{
    pthread_mutex_lock(&target->lock);
    while (target->demand != NULL && target->go && target->start == NOTHING && !target->cancelled)
        pthread_cond_wait(&target->changed, &target->lock);
    bool here = target->demand != NULL && target->start == DONE;
    pthread_mutex_unlock(&target->lock);
    return here;
}

/* The loop's thread. */
static void stand_still(struct migrate_target *target)
{
    if (target->lost)
        return;
    target->lost = true;
    target->held = vm_state(target->vm) == VM_RUNNING && vm_pause(target->vm, NULL);
}

static void on_lost(void *opaque)
{
    struct migrate_target *target = opaque;
    stand_still(target);
    if (target->options.late != NULL)
        target->options.late(target->options.opaque, target->error);
}

static void cut_all(struct migrate_target *target)
{
    for (size_t i = 0; i < target->count; i++)
        wire_cut(&target->streams[i].wire);
}

void target_lost(struct migrate_target *target, struct error *error)
{
    target_fail(target, error);
    cut_all(target);
    demand_disconnect(target->demand);
    loop_post(vm_loop(target->vm), on_lost, target);
}

/* ---- new ones ---- */

static void on_recovered(void *opaque)
{
    struct migrate_target *target = opaque;
    target->lost = false;
    if (target->held)
        (void)vm_resume(target->vm, NULL);
    target->held = false;
    if (target->options.late != NULL)
        target->options.late(target->options.opaque, NULL);
}

static bool greet_again(struct migrate_target *target, struct error **err)
{
    struct wire *wire = &target->streams[0].wire;
    struct wire_frame frame;
    if (!wire_receive(wire, &frame, target_patience(target), err))
        return false;
    if (frame.type != WIRE_RESUME || frame.size != 16 ||
        memcmp(frame.body, target->id, sizeof(target->id)) != 0 ||
        load_le32(frame.body + 8) != target->count)
        return wire_damaged(err, "it is of another migration");
    return target_wait_joined(target, err) &&
           demand_send_list(target->demand, wire, patience(target), err) &&
           wire_put(wire, WIRE_READY, NULL, 0, patience(target), err);
}

static void *run_recovery(void *opaque)
{
    struct migrate_target *target = opaque;
    struct error *error = NULL;
    bool good = greet_again(target, &error) &&
                demand_connect(target->demand, &target->streams[0].wire, patience(target),
                               end_reading, target, &error);
    if (good) {
        loop_post(vm_loop(target->vm), on_recovered, target);
        good = receive(target, &error);
    }
    if (good)
        loop_post(vm_loop(target->vm), target_finished, target);
    else
        target_lost(target, error);
    return NULL;
}

static void *run_data(void *opaque)
{
    struct target_stream *stream = opaque;
    struct error *error = NULL;
    if (!target_join(stream, &error) || !target_take_late_data(stream, &error))
        target_fail(stream->target, error);
    return NULL;
}

static void join_threads(struct migrate_target *target)
{
    for (size_t i = 0; i < target->count; i++)
        if (target->streams[i].has_thread) {
            pthread_join(target->streams[i].thread, NULL);
            target->streams[i].has_thread = false;
        }
    loop_cancel(vm_loop(target->vm), on_lost, target);
    loop_cancel(vm_loop(target->vm), on_recovered, target);
}

/* Nobody else looks at any of it. */
static void take_streams(struct migrate_target *target, const int *streams, size_t count)
{
    for (size_t i = 0; i < target->count; i++) {
        wire_close(&target->streams[i].wire);
        intake_clear(&target->streams[i].intake);
    }
    target->count = count;
    for (size_t i = 0; i < count; i++) {
        target->streams[i] = (struct target_stream){.target = target};
        target->streams[i].intake.mem = vm_memory(target->vm);
        wire_open(&target->streams[i].wire, streams[i]);
    }
    target->joined = 0;
    target->failed = false;
    error_free(target->error);
    target->error = NULL;
}

bool migrate_target_recover(struct migrate_target *target, const int *streams, size_t count,
                            struct error **err)
{
    if (count == 0 || count > MIGRATE_MAX_STREAMS)
        return error_set(err, ERROR_USAGE, "a migration takes 1 to %u streams",
                         MIGRATE_MAX_STREAMS);
    if (target->demand == NULL || !target->started)
        return error_set(err, ERROR_USAGE, "the machine does not wait for memory");
    cut_all(target); /* if nobody has noticed yet */
    join_threads(target);
    if (demand_is_over(target->demand))
        return error_set(err, ERROR_USAGE, "all of the machine's memory is there");
    stand_still(target);
    take_streams(target, streams, count);
    for (size_t i = 0; i < count; i++) {
        struct target_stream *stream = &target->streams[i];
        int error = i > 0 ? pthread_create(&stream->thread, NULL, run_data, stream)
                          : pthread_create(&stream->thread, NULL, run_recovery, target);
        stream->has_thread = error == 0;
        if (error != 0) { /* those that run end, and the machine stands still as before */
            target_fail(target, NULL);
            cut_all(target);
            join_threads(target);
            for (size_t k = 0; k < count; k++)
                target->streams[k].wire.fd = -1; /* still the caller's */
            return error_set_errno(err, error, "cannot start a thread");
        }
    }
    return true;
}

void migrate_target_progress(struct migrate_target *target, struct migrate_progress *progress)
{
    pthread_mutex_lock(&target->lock);
    *progress = target->progress;
    struct demand *demand = target->late ? target->demand : NULL;
    pthread_mutex_unlock(&target->lock);
    if (demand != NULL)
        progress->left = demand_left(demand);
}

void target_late_stop(struct migrate_target *target)
{
    struct loop *loop = vm_loop(target->vm);
    loop_cancel(loop, on_lost, target);
    loop_cancel(loop, on_recovered, target);
    if (target->demand == NULL)
        return;
    if (target->started && !demand_is_over(target->demand))
        vm_halt_now(target->vm);
    demand_free(target->demand);
    target->demand = NULL;
}
