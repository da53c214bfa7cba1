/* SPDX-License-Identifier: MIT
 *
 * See migrate.h: post-copy, at the source. The machine stands still here, for good once it runs
 * there, and serve.h sends what is missing.
 */
#include <pthread.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "migrate/rounds.h"
#include "migrate/serve.h"
#include "migrate/source_internal.h"
#include "vm/vm.h"

static void add_marked(void *opaque, size_t region, const uint64_t *marked)
{
    server_add(opaque, region, marked);
}

bool source_send_list(struct migrate_source *source, struct error **err)
{
    struct server *server = server_new(vm_memory(source->vm));
    rounds_hand_over(source->rounds, add_marked, server);
    if (!source_send_round(source, source->progress.round + 1, WIRE_LAST_POSTCOPY, err) ||
        !server_send_list(server, &source->wires[0], source_patience(source), err)) {
        server_free(server);
        return false;
    }
    pthread_mutex_lock(&source->lock);
    source->server = server;
    pthread_mutex_unlock(&source->lock);
    return true;
}

bool source_serve(struct migrate_source *source, struct error **err)
{
    const struct server_options options = {.pack = (source->features & WIRE_ZSTD) != 0,
                                           .bandwidth = source->options.bandwidth,
                                           .patience_ns = (int64_t)source->options.patience_ns};
    source->serving = server_start(source->server, source->wires, source->count, &options, err);
    return source->serving;
}

void source_stop_serving(struct migrate_source *source)
{
    if (source->serving)
        server_stop(source->server);
    source->serving = false;
}

void source_switched(void *opaque)
{
    struct migrate_source *source = opaque;
    vm_disks_give_away(source->vm);
    if (source->options.switched != NULL)
        source->options.switched(source->options.opaque);
}

enum migrate_result source_attend(struct migrate_source *source, struct error **err)
{
    struct wire_frame frame;
    struct error *error = NULL;
    if (source_hear(source, &frame, &error)) {
        if (frame.type == WIRE_ALL && frame.size == 0)
            return MIGRATE_MOVED;
        (void)wire_damaged(&error, "the target answers something else");
    }
    error_prefix(&error, "the machine runs where it went, and some of its memory is here only");
    error_propagate(err, error);
    return MIGRATE_DISCONNECTED;
}

static bool greet_again(struct migrate_source *source, struct error **err)
{
    uint8_t body[16] = {0};
    struct wire_frame frame;
    memcpy(body, source->hello + 8, 8);
    store_le32(body + 8, (uint32_t)source->count);
    if (!wire_put(&source->wires[0], WIRE_RESUME, body, sizeof(body), source_patience(source),
                  err) ||
        !source_join_streams(source, err))
        return false;
    server_forget(source->server);
    for (;;) {
        if (!wire_receive(&source->wires[0], &frame, source_patience(source), err))
            return false;
        if (frame.type == WIRE_READY)
            return source_serve(source, err);
        if (frame.type != WIRE_ABSENT)
            return wire_damaged(err, "the target answers something else");
        if (!server_add_frame(source->server, &frame, err))
            return false;
    }
}

static void *run_recovery(void *opaque)
{
    struct migrate_source *source = opaque;
    struct error *error = NULL;
    enum migrate_result result = MIGRATE_DISCONNECTED;
    if (greet_again(source, &error)) {
        source_report(source, true);
        result = source_attend(source, &error);
    }
    source_end(source, result, error);
    return NULL;
}

bool migrate_source_postcopy(struct migrate_source *source)
{
    pthread_mutex_lock(&source->lock);
    bool good = source->options.postcopy && source->progress.stage <= MIGRATE_PRECOPY;
    source->postcopy = source->postcopy || good;
    pthread_mutex_unlock(&source->lock);
    return good;
}

bool migrate_source_recover(struct migrate_source *source, const int *streams, size_t count,
                            struct error **err)
{
    if (count == 0 || count > MIGRATE_MAX_STREAMS)
        return error_set(err, ERROR_USAGE, "a migration takes 1 to %u streams",
                         MIGRATE_MAX_STREAMS);
    pthread_mutex_lock(&source->lock);
    bool switched = source->switched;
    for (size_t i = 0; switched && i < source->count; i++)
        wire_cut(&source->wires[i]); /* if nobody has noticed yet */
    pthread_mutex_unlock(&source->lock);
    if (!switched)
        return error_set(err, ERROR_USAGE, "nobody waits for this machine's memory");
    if (source->has_thread)
        pthread_join(source->thread, NULL);
    source->has_thread = false;
    if (source->result == MIGRATE_MOVED)
        return error_set(err, ERROR_USAGE, "all of the machine's memory has arrived");
    loop_cancel(vm_loop(source->vm), source_finished, source);
    for (size_t i = 0; i < source->count; i++)
        wire_close(&source->wires[i]);
    source->count = count;
    for (size_t i = 0; i < count; i++)
        wire_open(&source->wires[i], streams[i]);
    source->result = MIGRATE_DISCONNECTED;
    int error = pthread_create(&source->thread, NULL, run_recovery, source);
    source->has_thread = error == 0;
    for (size_t i = 0; error != 0 && i < count; i++)
        source->wires[i].fd = -1; /* still the caller's */
    return error == 0 || error_set_errno(err, error, "cannot start a thread");
}
