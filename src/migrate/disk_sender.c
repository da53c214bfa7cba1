/* SPDX-License-Identifier: MIT
 *
 * See disk_sender.h.
 */
#include "migrate/disk_sender.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "config/machine.h"
#include "migrate/wire.h"
#include "vm/vm.h"

#define TURN      (64 * MIB) /* bytes of a disk that are looked at in one go */
#define NEAR      (16 * MIB) /* so little goes along with memory */
#define NAP_NS    INT64_C(50000000)
#define SECOND_NS INT64_C(1000000000)

struct disk_sender {
    struct wire *wire;
    struct disk_sender_options options;
    struct disks_source *disks;
    uint8_t *frame;   /* a wire's header, and a message */
    int64_t ready_ns; /* when the rate allows the next message */
    _Atomic bool stopped;
    uint64_t before, pass; /* what was left when a pass began, and what of that is still to come */
};

/* Waits until so many bytes may be sent. */
static void keep_rate(struct disk_sender *sender, size_t size)
{
    if (sender->options.bandwidth == 0)
        return;
    for (int64_t now; (now = wire_now()) < sender->ready_ns && !atomic_load(&sender->stopped);) {
        int64_t left = sender->ready_ns - now, nap = left < NAP_NS ? left : NAP_NS;
        nanosleep(&(struct timespec){.tv_nsec = nap}, NULL);
    }
    int64_t now = wire_now(), from = sender->ready_ns > now - NAP_NS ? sender->ready_ns : now;
    sender->ready_ns =
        from + (int64_t)((double)size * (double)SECOND_NS / (double)sender->options.bandwidth);
}

static bool send_message(void *opaque, const struct iovec *iov, unsigned count, struct error **err)
{
    struct disk_sender *sender = opaque;
    size_t size = 0;
    for (unsigned i = 0; i < count; i++) {
        memcpy(sender->frame + WIRE_HEADER + size, iov[i].iov_base, iov[i].iov_len);
        size += iov[i].iov_len;
    }
    keep_rate(sender, size);
    return wire_send(sender->wire, WIRE_DISKS, sender->frame, size, sender->options.patience_ns,
                     err);
}

bool disk_sender_begin(struct disk_sender *sender, struct error **err)
{
    if (!disks_begin(sender->disks, err))
        return false;
    sender->before = sender->pass = disks_remaining(sender->disks);
    return true;
}

static bool look_at(struct disk_sender *sender, uint64_t most, uint64_t *looked, struct error **err)
{
    struct disks_progress before, after;
    disks_get_progress(sender->disks, &before);
    bool good = disks_round(sender->disks, most, err);
    disks_get_progress(sender->disks, &after);
    *looked = after.done - before.done;
    return good;
}

/* A pass after which there is nearly as much as before gets nowhere. */
bool disk_sender_go_on(struct disk_sender *sender, bool *more, struct error **err)
{
    uint64_t looked = 0;
    if (sender->pass > 0 && !look_at(sender, TURN, &looked, err))
        return false;
    sender->pass -= looked < sender->pass ? looked : sender->pass;
    *more = sender->pass > 0 && looked > 0;
    if (*more)
        return true;
    uint64_t left = disks_remaining(sender->disks);
    *more = left > NEAR && left < sender->before / 4 * 3;
    sender->before = sender->pass = left;
    return true;
}

bool disk_sender_round(struct disk_sender *sender, struct error **err)
{
    uint64_t left = disks_remaining(sender->disks), looked;
    return left == 0 || look_at(sender, left, &looked, err);
}

bool disk_sender_final(struct disk_sender *sender, int64_t patience_ns, struct error **err)
{
    sender->options.bandwidth = 0;
    sender->options.patience_ns = patience_ns;
    return disks_final(sender->disks, err);
}

void disk_sender_progress(struct disk_sender *sender, uint64_t *total, uint64_t *left)
{
    struct disks_progress progress;
    disks_get_progress(sender->disks, &progress);
    *total = progress.total;
    *left = disks_remaining(sender->disks);
}

uint64_t disk_sender_sent(struct disk_sender *sender)
{
    struct disks_progress progress;
    disks_get_progress(sender->disks, &progress);
    return progress.sent;
}

static bool may_copy(const struct vm *vm, const struct disks_source_disk *disks, size_t count,
                     struct error **err)
{
    for (size_t i = 0; i < count && vm_config(vm)->deterministic; i++)
        if (disks[i].how != DISKS_SHARED)
            return error_set(err, ERROR_USAGE,
                             "a deterministic machine's disks are not copied while it runs");
    return true;
}

struct disk_sender *disk_sender_new(struct vm *vm, struct wire *wire,
                                    const struct disk_sender_options *options, struct error **err)
{
    struct disks_source_disk disks[MACHINE_MAX_DISKS];
    size_t order[MACHINE_MAX_DISKS], count = vm_disk_order(vm, order);
    for (size_t i = 0; i < count; i++)
        disks[i] = (struct disks_source_disk){vm_disk(vm, order[i]), options->how != NULL ? options->how[i]
                                                                                   : DISKS_SHARED};
    if (!may_copy(vm, disks, count, err))
        return NULL;
    struct disk_sender *sender = alloc_zeroed(1, sizeof(*sender));
    sender->wire = wire;
    sender->options = *options;
    sender->options.how = NULL;
    sender->disks = disks_source_new(disks, count, send_message, sender, err);
    if (sender->disks == NULL) {
        free(sender);
        return NULL;
    }
    sender->frame = alloc_zeroed(1, WIRE_HEADER + DISKS_MESSAGE_MAX);
    return sender;
}

void disk_sender_stop(struct disk_sender *sender)
{
    atomic_store(&sender->stopped, true);
    disks_source_stop(sender->disks);
}

void disk_sender_free(struct disk_sender *sender)
{
    if (sender == NULL)
        return;
    disks_source_free(sender->disks);
    free(sender->frame);
    free(sender);
}
