/* SPDX-License-Identifier: MIT
 *
 * See serve.h. `absent` is what nobody has taken to send; who has taken a page sends it, or its
 * stream is dead and with it everything since: the target then says anew what it does not have.
 */
#include "migrate/serve.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/vclock.h"
#include "mem/mem.h"
#include "migrate/absent.h"
#include "migrate/batch.h"

enum {
    WANTED_MAX = 4096, /* pages that are asked for; what is more comes with all others */
    WANTED_PAGES = 16, /* of them in a frame */
    PUSHED_PAGES = 60, /* of others, and */
    SHARED_PAGES = 8,  /* where those that are asked for wait for the end of the frame */
    WORDS_MAX = 4,
    ALIVE_PART = 5 /* of patience */
};

struct sender {
    struct server *server;
    struct wire *wire;
    pthread_t thread;
    bool has_thread;
    struct batch batch;
};

struct server {
    struct mem_space *mem;
    struct server_options options;
    struct sender senders[16];
    size_t count;

    pthread_mutex_t lock; /* what follows */
    pthread_cond_t changed;
    struct absent absent;
    size_t region; /* where those that nobody asked for are taken, which is behind the last one */
    uint64_t page; /* that somebody did ask for: what lies beside it is wanted next */
    uint64_t wanted[WANTED_MAX];
    size_t wanted_first, wanted_count;
    enum wire_type words[WORDS_MAX];
    size_t word_count;
    uint64_t said;   /* words */
    bool dead;       /* a stream is */
    int64_t pace_ns; /* when bandwidth allows more */
    bool stop;
};

struct server *server_new(struct mem_space *mem)
{
    struct server *server = alloc_zeroed(1, sizeof(*server));
    pthread_condattr_t how;
    server->mem = mem;
    absent_init(&server->absent, mem);
    pthread_mutex_init(&server->lock, NULL);
    pthread_condattr_init(&how);
    pthread_condattr_setclock(&how, CLOCK_MONOTONIC);
    pthread_cond_init(&server->changed, &how);
    pthread_condattr_destroy(&how);
    return server;
}

void server_free(struct server *server)
{
    if (server == NULL)
        return;
    server_stop(server);
    absent_clear(&server->absent);
    pthread_cond_destroy(&server->changed);
    pthread_mutex_destroy(&server->lock);
    free(server);
}

void server_forget(struct server *server)
{
    absent_empty(&server->absent);
    server->wanted_count = server->word_count = 0;
    server->region = 0;
    server->page = 0;
}

void server_add(struct server *server, size_t region, const uint64_t *bits)
{
    absent_set(&server->absent, region, bits);
}

bool server_add_frame(struct server *server, const struct wire_frame *absent, struct error **err)
{
    return absent_receive(&server->absent, absent, err);
}

bool server_send_list(struct server *server, struct wire *wire, int64_t patience_ns,
                      struct error **err)
{
    return absent_send(&server->absent, wire, patience_ns, err);
}

uint64_t server_left(struct server *server)
{
    pthread_mutex_lock(&server->lock);
    uint64_t left = server->absent.pages << MEM_PAGE_SHIFT;
    pthread_mutex_unlock(&server->lock);
    return left;
}

/* ---- what is to be sent next ---- */

static void add(struct server *server, struct sender *sender, size_t region, uint64_t page)
{
    const struct mem_ram *ram = mem_ram_at(server->mem, region);
    uint64_t gpa = ram->gpa + (page << MEM_PAGE_SHIFT);
    bool zero = batch_copy(batch_room(&sender->batch, gpa), ram->host + (page << MEM_PAGE_SHIFT));
    batch_add(&sender->batch, zero ? WIRE_RUN_ZERO : WIRE_RUN_BYTES, gpa);
}

/* With the lock; taken pages are copied without it. */
struct taken {
    size_t count, region[PUSHED_PAGES];
    uint64_t page[PUSHED_PAGES];
};

static void take(struct server *server, struct taken *taken, size_t region, uint64_t page)
{
    if (!absent_take(&server->absent, region, page))
        return; /* it is on its way */
    taken->region[taken->count] = region;
    taken->page[taken->count++] = page;
}

static void take_wanted(struct server *server, struct taken *taken)
{
    for (; server->wanted_count > 0 && taken->count < WANTED_PAGES; server->wanted_count--) {
        uint64_t gpa = server->wanted[server->wanted_first];
        const struct mem_ram *ram = mem_ram_find(server->mem, gpa);
        server->wanted_first = (server->wanted_first + 1) % WANTED_MAX;
        server->region = absent_region(&server->absent, ram);
        server->page = (gpa - ram->gpa) >> MEM_PAGE_SHIFT;
        take(server, taken, server->region, server->page);
    }
}

static void take_others(struct server *server, struct taken *taken, size_t most)
{
    while (taken->count < most && absent_next(&server->absent, &server->region, &server->page))
        take(server, taken, server->region, server->page);
}

static int64_t alive_after(const struct server *server)
{
    return server->options.patience_ns / ALIVE_PART;
}

static void wait_until(struct server *server, int64_t when)
{
    const struct timespec until = {.tv_sec = when / NS_PER_S, .tv_nsec = when % NS_PER_S};
    pthread_cond_timedwait(&server->changed, &server->lock, &until);
}

enum next { NEXT_STOP, NEXT_WORD, NEXT_PAGES, NEXT_ALIVE };

/* What this stream has to do next, and when there is nothing for long, that it lives. */
static enum next next(struct server *server, const struct sender *sender, struct taken *taken)
{
    bool first = sender == &server->senders[0], alone = server->count == 1;
    int64_t alive = wire_now() + alive_after(server);
    taken->count = 0;
    for (;;) {
        int64_t now = wire_now(), until = alive;
        if (server->stop)
            return NEXT_STOP;
        if (first && server->word_count > 0)
            return NEXT_WORD;
        if (first && server->wanted_count > 0)
            take_wanted(server, taken);
        if (taken->count > 0)
            return NEXT_PAGES;
        if ((!first || alone) && server->absent.pages > 0) {
            if (server->options.bandwidth == 0 || now >= server->pace_ns)
                take_others(server, taken, alone ? SHARED_PAGES : PUSHED_PAGES);
            else if (server->pace_ns < until)
                until = server->pace_ns;
        }
        if (taken->count > 0)
            return NEXT_PAGES;
        if (now >= alive)
            return NEXT_ALIVE;
        wait_until(server, until);
    }
}

/* With the lock. What is asked for counts, but waits for nothing. */
static void pay(struct server *server, size_t bytes)
{
    int64_t now = wire_now();
    if (server->options.bandwidth == 0)
        return;
    int64_t from = server->pace_ns > now ? server->pace_ns : now;
    server->pace_ns = from + (int64_t)((double)bytes * 1e9 / (double)server->options.bandwidth);
}

static bool send_pages(struct server *server, struct sender *sender, const struct taken *taken)
{
    size_t size;
    batch_empty(&sender->batch);
    for (size_t i = 0; i < taken->count; i++)
        add(server, sender, taken->region[i], taken->page[i]);
    uint8_t *frame = batch_finish(&sender->batch, &size);
    pthread_mutex_lock(&server->lock);
    pay(server, WIRE_HEADER + size);
    pthread_mutex_unlock(&server->lock);
    return wire_send(sender->wire, WIRE_MEMORY, frame, size, server->options.patience_ns, NULL);
}

static enum wire_type take_word(struct server *server)
{
    enum wire_type word = server->words[0];
    for (size_t i = 1; i < server->word_count; i++)
        server->words[i - 1] = server->words[i];
    server->word_count--;
    return word;
}

static void cut_all(struct server *server)
{
    for (size_t i = 0; i < server->count; i++)
        wire_cut(server->senders[i].wire);
}

static void note(struct server *server, bool good)
{
    pthread_mutex_lock(&server->lock);
    server->said += good;
    server->dead = server->dead || !good;
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
}

/* Why a stream died hears whoever reads from the first one. */
static void *run(void *opaque)
{
    struct sender *sender = opaque;
    struct server *server = sender->server;
    int64_t patience = server->options.patience_ns;
    struct taken taken;
    bool good = true, go_on = true;
    while (good && go_on) {
        pthread_mutex_lock(&server->lock);
        enum next what = next(server, sender, &taken);
        enum wire_type word = what == NEXT_WORD ? take_word(server) : WIRE_ALIVE;
        pthread_mutex_unlock(&server->lock);
        go_on = what != NEXT_STOP;
        if (what == NEXT_PAGES)
            good = send_pages(server, sender, &taken);
        else if (go_on)
            good = wire_put(sender->wire, word, NULL, 0, patience, NULL);
        if (what == NEXT_WORD || !good)
            note(server, good);
    }
    if (!good)
        cut_all(server);
    return NULL;
}

/* ---- the outside ---- */

bool server_start(struct server *server, struct wire *wires, size_t count,
                  const struct server_options *options, struct error **err)
{
    server->options = *options;
    server->count = count;
    server->stop = server->dead = false;
    server->pace_ns = 0;
    for (size_t i = 0; i < count; i++)
        server->senders[i] = (struct sender){.server = server, .wire = &wires[i]};
    for (size_t i = 0; i < count; i++) {
        struct sender *sender = &server->senders[i];
        if (!batch_init(&sender->batch, options->pack, err)) {
            server_stop(server);
            return false;
        }
        int error = pthread_create(&sender->thread, NULL, run, sender);
        sender->has_thread = error == 0;
        if (error != 0) {
            server_stop(server);
            return error_set_errno(err, error, "cannot start a thread");
        }
    }
    return true;
}

void server_stop(struct server *server)
{
    pthread_mutex_lock(&server->lock);
    server->stop = true;
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
    cut_all(server);
    for (size_t i = 0; i < server->count; i++) {
        if (server->senders[i].has_thread)
            pthread_join(server->senders[i].thread, NULL);
        batch_clear(&server->senders[i].batch);
    }
    server->count = 0;
}

bool server_say(struct server *server, enum wire_type type)
{
    pthread_mutex_lock(&server->lock);
    uint64_t before = server->said;
    assert(server->word_count < WORDS_MAX);
    server->words[server->word_count++] = type;
    pthread_cond_broadcast(&server->changed);
    while (server->said == before && !server->dead)
        pthread_cond_wait(&server->changed, &server->lock);
    bool good = server->said != before;
    pthread_mutex_unlock(&server->lock);
    return good;
}

bool server_want(struct server *server, const struct wire_frame *frame, struct error **err)
{
    if (frame->size == 0 || frame->size % 8 != 0 || frame->size > 8 * WIRE_WANT_MAX)
        return wire_damaged(err, "the target asks for something else than pages");
    for (size_t i = 0; i < frame->size / 8; i++) {
        uint64_t gpa = load_le64(frame->body + 8 * i);
        if (gpa % MEM_PAGE_SIZE != 0 || mem_ram_find(server->mem, gpa) == NULL)
            return wire_damaged(err, "the target asks for a page that there is not");
    }
    pthread_mutex_lock(&server->lock);
    for (size_t i = 0; i < frame->size / 8 && server->wanted_count < WANTED_MAX; i++) {
        size_t at = (server->wanted_first + server->wanted_count++) % WANTED_MAX;
        server->wanted[at] = load_le64(frame->body + 8 * i);
    }
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
    return true;
}
