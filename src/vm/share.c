/* SPDX-License-Identifier: MIT
 *
 * See share.h.
 */
#include "vm/share.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"

enum {
    BACKLOG = SHARE_CPU * 9 / 10, /* it would use a CPU all the time */
    HELD_UP = SHARE_CPU / 50,     /* waits for less are nobody's fault */
    STARVED = SHARE_CPU / 10,     /* waits for so much while others stand still: not theirs alone */
    WEIGHT_MAX = 10000
};
#define MS        INT64_C(1000000)
#define DEMAND_NS (100 * MS) /* how far back "lately" goes */
#define WAITING_NS                                                                                 \
    (1000 * MS)              /* longer: it must not go by in the pauses of those who hold us up    \
                              */
#define SLACK_NS (4 * MS)    /* ahead by less is not ahead */
#define GONE_NS  (2000 * MS) /* nobody looks that seldom */
#define LIVE_NS  (1000 * MS) /* how often locks are looked at */

/* A moving average over about `span`. */
static uint64_t average(uint64_t old, uint64_t ns, int64_t passed, int64_t span)
{
    uint64_t now = ns * SHARE_CPU / (uint64_t)passed;
    uint64_t part = passed < span ? (uint64_t)passed : (uint64_t)span;
    uint64_t rest = (uint64_t)span - part;
    return (old * rest + now * part) / (uint64_t)span;
}

static unsigned weight_of(unsigned weight)
{
    return weight == 0 ? SHARE_WEIGHT : weight > WEIGHT_MAX ? WEIGHT_MAX : weight;
}

static void note_time(struct share_self *self, const struct share_time *time)
{
    if (self->held) { /* what it would do it cannot show */
        self->held_ns += time->passed;
        return;
    }
    self->demand = average(self->demand, time->used + time->waited, time->passed, DEMAND_NS);
    self->waiting = average(self->waiting, time->waited, time->passed, WAITING_NS);
}

static enum share_state state_of(const struct share_self *self)
{
    if (self->held)
        return SHARE_HELD;
    if (self->demand < BACKLOG || self->waiting < HELD_UP)
        return SHARE_CONTENT;
    return self->waiting < STARVED ? SHARE_HELD_UP : SHARE_STARVED;
}

static bool is_waiting(uint32_t state)
{
    return state == SHARE_HELD_UP || state == SHARE_STARVED;
}

/* What a look at the others says. */
struct view {
    bool weighted;   /* somebody has been given a weight */
    bool contention; /* another one would like more than it gets */
    uint64_t behind; /* virtual time of the last of those that wait for a CPU; or UINT64_MAX */
    uint64_t ahead;  /* of the first of all */
};

static struct view look_around(const struct share_self *self, const struct share_slot *others,
                               size_t count)
{
    struct view view = {
        .weighted = self->weight != 0, .behind = UINT64_MAX, .ahead = self->virtual_ns};
    for (size_t i = 0; i < count; i++) {
        const struct share_slot *other = &others[i];
        if ((other->cpus & self->cpus) == 0)
            continue;
        view.weighted = view.weighted || other->weight != 0;
        view.contention = view.contention || other->state != SHARE_CONTENT;
        if (other->virtual_ns > view.ahead)
            view.ahead = other->virtual_ns;
        if (is_waiting(other->state) && other->virtual_ns < view.behind)
            view.behind = other->virtual_ns;
    }
    return view;
}

/* Contention begins with everybody level; who does without now and then gains nothing by it. */
static void move_on(struct share_self *self, const struct view *view, uint64_t used)
{
    bool content = state_of(self) == SHARE_CONTENT;
    if (!view->weighted || (!view->contention && content)) {
        self->contended = false;
        return;
    }
    if (!self->contended)
        self->virtual_ns = view->ahead;
    else
        self->virtual_ns += used * SHARE_WEIGHT / weight_of(self->weight);
    self->contended = true;
    if (view->behind != UINT64_MAX && content && self->virtual_ns < view->behind)
        self->virtual_ns = view->behind;
}

/* Whether those that are behind us by more than `slack` have need of our CPUs: because they could
 * keep all of them busy, or because other processes leave them too little. One that stands still
 * itself has none now; it will run before we are ahead by much more. */
static bool is_needed(const struct share_self *self, const struct share_slot *others, size_t count,
                      uint64_t slack)
{
    uint64_t wanted = 0, cpus = (uint64_t)__builtin_popcountll(self->cpus) * SHARE_CPU;
    bool starved = false;
    for (size_t i = 0; i < count; i++) {
        const struct share_slot *other = &others[i];
        if ((other->cpus & self->cpus) == 0 || !is_waiting(other->state) ||
            other->virtual_ns + slack >= self->virtual_ns)
            continue;
        wanted += other->demand;
        starved = starved || other->state == SHARE_STARVED;
    }
    return starved || wanted >= cpus * 9 / 10;
}

bool share_look(struct share_self *self, const struct share_slot *others, size_t count,
                const struct share_time *time)
{
    struct view view = look_around(self, others, count);
    if (time->passed <= 0)
        return self->held;
    note_time(self, time);
    move_on(self, &view, time->used);
    self->active = view.weighted;
    bool hold = view.weighted && is_needed(self, others, count, self->held ? 0 : SLACK_NS);
    if (self->held)
        hold = hold && self->held_ns < SHARE_HOLD_NS;
    else
        hold = hold && time->used > 0;
    if (hold && !self->held)
        self->held_ns = 0;
    self->held = hold;
    return hold;
}

void share_publish(const struct share_self *self, int64_t now, struct share_slot *slot)
{
    *slot = (struct share_slot){.version = SHARE_VERSION,
                                .weight = self->weight,
                                .state = state_of(self),
                                .demand = (uint32_t)self->demand,
                                .looked = now,
                                .virtual_ns = self->virtual_ns,
                                .cpus = self->cpus};
}

/* ---- the file ---- */

/* A slot's first byte is locked by whoever has it. */
static struct flock lock_of(unsigned slot)
{
    return (struct flock){.l_type = F_WRLCK,
                          .l_whence = SEEK_SET,
                          .l_start = (off_t)(slot * sizeof(struct share_slot)),
                          .l_len = 1};
}

bool share_take(struct share_file *file, int fd)
{
    *file = (struct share_file){.fd = fd, .checked = INT64_MIN / 2};
    for (unsigned slot = 0; slot < SHARE_SLOTS; slot++) {
        struct flock lock = lock_of(slot);
        if (fcntl(fd, F_OFD_SETLK, &lock) != 0)
            continue;
        file->slot = slot;
        share_write(file, &(struct share_slot){0});
        return true;
    }
    return false;
}

/* Who can have a slot's lock for reading finds nobody there. */
static bool is_taken(const struct share_file *file, unsigned slot)
{
    struct flock lock = lock_of(slot);
    lock.l_type = F_RDLCK;
    if (fcntl(file->fd, F_OFD_SETLK, &lock) != 0)
        return true;
    lock.l_type = F_UNLCK;
    fcntl(file->fd, F_OFD_SETLK, &lock);
    return false;
}

/* Written by another process: nothing in it may lead astray for longer than it lasts. */
static bool makes_sense(const struct share_slot *slot, int64_t now)
{
    return slot->version == SHARE_VERSION && slot->looked > now - GONE_NS &&
           slot->looked < now + GONE_NS && slot->virtual_ns < (uint64_t)INT64_MAX / 2;
}

/* Most slots are nobody's, which their content tells without a system call for each. */
static void find_living(struct share_file *file, const struct share_slot *all, size_t slots,
                        int64_t now)
{
    file->end = 0;
    for (unsigned slot = 0; slot < SHARE_SLOTS; slot++) {
        file->live[slot] = slot < slots && slot != file->slot && makes_sense(&all[slot], now) &&
                           is_taken(file, slot);
        if (file->live[slot])
            file->end = slot + 1;
    }
    file->checked = now;
}

size_t share_read(struct share_file *file, int64_t now, struct share_slot others[SHARE_SLOTS])
{
    struct share_slot all[SHARE_SLOTS];
    bool check = now - file->checked >= LIVE_NS;
    size_t wanted = check ? SHARE_SLOTS : file->end, count = 0;
    ssize_t size = wanted > 0 ? pread(file->fd, all, wanted * sizeof(all[0]), 0) : 0;
    size_t slots = size > 0 ? (size_t)size / sizeof(all[0]) : 0;
    if (check)
        find_living(file, all, slots, now);
    for (size_t i = 0; i < slots; i++)
        if (file->live[i] && makes_sense(&all[i], now))
            others[count++] = all[i];
    return count;
}

void share_write(const struct share_file *file, const struct share_slot *slot)
{
    /* Where there is no room for it, the others see nothing of us. */
    ssize_t size = pwrite(file->fd, slot, sizeof(*slot), (off_t)(file->slot * sizeof(*slot)));
    (void)size;
}
