/* SPDX-License-Identifier: MIT
 *
 * migrate/migrate.h, post-copy: a machine that goes over before its memory does. Wherever the
 * streams are cut, one side runs it and no other, or none does until there are new ones; and its
 * memory is what it wrote.
 */
#include "vm_sides.h"

#include <sys/mman.h>

#include "migrate/demand.h"
#include "migrate/intake.h"

/* What late() and switched() say, beside what vm_sides.h notes. */
struct post {
    struct side *side;
    sem_t late;
    _Atomic bool lost;
    _Atomic uint64_t left; /* when it went on here */
    _Atomic unsigned came; /* how often it did */
    bool good;
    char error[400];
};

static void on_late(void *opaque, const struct error *error)
{
    struct post *post = opaque;
    struct migrate_progress progress;
    migrate_target_progress(post->side->target, &progress);
    post->lost = error != NULL;
    post->left = progress.left;
    post->came += error == NULL;
    assert_int_equal(progress.stage, MIGRATE_POSTCOPY);
    assert_int_equal(vm_state(post->side->w.vm), error != NULL ? VM_PAUSED : VM_RUNNING);
    snprintf(post->error, sizeof(post->error), "%s", error != NULL ? error_message(error) : "");
    sem_post(&post->late);
}

static void on_switched(void *opaque)
{
    struct side *side = opaque;
    struct migrate_progress progress;
    migrate_source_progress(side->source, &progress);
    assert_int_equal(progress.stage, MIGRATE_POSTCOPY);
    assert_false(migrate_source_cancel(side->source));
    side->taken = true;
}

static bool taken(void *opaque, struct error **err)
{
    return on_taken(((struct post *)opaque)->side, err);
}

/* Whoever waits for `done` frees what is posted here, so that comes first. */
static void arrived(void *opaque, const struct error *error)
{
    struct post *post = opaque;
    struct side *side = post->side;
    side->arrived = error == NULL;
    sem_post(&post->late); /* nothing more will come of it */
    on_arrived(side, error);
}

static void do_arrive_late(void *opaque)
{
    struct post *post = opaque;
    struct side *side = post->side;
    const struct migrate_target_options options = {.patience_ns = side->options.patience_ns,
                                                   .taken = taken,
                                                   .late = on_late,
                                                   .done = arrived,
                                                   .opaque = post};
    side->target =
        migrate_target_begin(side->w.vm, side->streams, side->count, &options, &side->w.err);
    assert_no_error(side->w.err);
    assert_non_null(side->target);
    sem_post(&side->called);
}

static struct post *new_post(struct side *side)
{
    struct post *post = calloc(1, sizeof(*post));
    post->side = side;
    sem_init(&post->late, 0, 0);
    return post;
}

static void free_post(struct post *post)
{
    sem_destroy(&post->late);
    free(post);
}

static void call_post(struct post *post, loop_post_fn *what)
{
    loop_post(post->side->w.env.loop, what, post);
    wait_for(&post->side->called);
}

/* Streams are there. It goes over as soon as it has been sent once. */
static void begin_late(struct side *here, struct post *there)
{
    here->options.postcopy = true;
    if (here->options.rounds == 0)
        here->options.rounds = 1;
    here->options.downtime_ns = 1; /* pre-copy never does it */
    here->options.switched = on_switched;
    here->taken = false;
    call_post(there, do_arrive_late);
    call(here, do_leave);
}

static void do_recover_here(void *opaque)
{
    struct side *side = opaque;
    assert_true(migrate_source_recover(side->source, side->streams, side->count, &side->w.err));
    sem_post(&side->called);
}

static void do_recover_there(void *opaque)
{
    struct side *side = opaque;
    assert_true(migrate_target_recover(side->target, side->streams, side->count, &side->w.err));
    sem_post(&side->called);
}

static void recover(struct side *here, struct side *there, bool here_first)
{
    call(here_first ? here : there, here_first ? do_recover_here : do_recover_there);
    call(here_first ? there : here, here_first ? do_recover_there : do_recover_here);
}

/* ---- it goes over ---- */

/* Each page of 4,096 is written to again before it could have been sent, at the bandwidth that
 * there is. */
static void a_guest_that_no_precopy_can_follow(void **state)
{
    (void)state;
    struct side *here = new_side("interp", 2048, 0);
    call(here, do_start);
    for (size_t n = 0; n < tier_count(6, 60); n++) {
        struct side *there = new_side(engine_of(n / 2), 2048, 0);
        struct post *post = new_post(there);
        uint64_t before = check(here);
        here->options = (struct migrate_source_options){.compress = n % 3 == 1,
                                                        .bandwidth = n % 2 == 0 ? 40000000 : 0};
        connect_sides(here, there, 1 + n % 4);
        begin_late(here, post);
        wait_for(&there->done);
        wait_for(&here->done);
        if (here->result != MIGRATE_MOVED || !there->arrived)
            fail_msg("it did not move: '%s', '%s'", here->error, there->error);
        assert_true(here->taken && post->came == 1);
        assert_int_equal(vm_state(here->w.vm), VM_PAUSED);
        assert_true(check(there) >= before);
        assert_runs(there);
        close_side(here);
        free_post(post);
        here = there;
    }
    close_side(here);
}

/* What the machine consists of is not there, and whoever wants all of it hears so. */
static void do_refusals(void *opaque)
{
    struct post *post = opaque;
    struct vm *vm = post->side->w.vm;
    struct error *err = NULL;
    post->good = !vm_can_be_saved(vm, &err) && strstr(error_message(err), "on its way") != NULL;
    error_free(err);
    err = NULL;
    post->good = post->good && !vm_reset(vm, &err) && !migrate_target_cancel(post->side->target);
    error_free(err);
    /* It stands still at once, whether or not its vCPUs wait for pages. */
    if (vm_state(vm) == VM_RUNNING)
        post->good = post->good && vm_pause(vm, NULL) && vm_resume(vm, NULL);
    sem_post(&post->side->called);
}

/* ---- streams that are lost ---- */

static void do_resolve_there(void *opaque)
{
    struct side *side = opaque;
    assert_true(migrate_source_resolve(side->source, false, &side->w.err));
    sem_post(&side->called);
}

struct sum {
    unsigned stayed, uncertain, recovered, whole;
};

/* Until it is known where it runs, and all of it is there, with new streams if need be. Returns
 * that side; the other is closed. */
static struct side *settle_late(struct side *here, struct post *post, struct sum *sum)
{
    struct side *there = post->side;
    size_t n = sum->recovered;
    bool over = false;
    wait_for(&here->done);
    if (here->result == MIGRATE_UNCERTAIN || here->result == MIGRATE_FAILED) {
        wait_for(&post->late); /* it runs there, or never will */
        assert_true(there->taken || !there->arrived);
    }
    if (here->result == MIGRATE_UNCERTAIN) {
        sum->uncertain++;
        assert_int_equal(vm_state(here->w.vm), VM_PAUSED);
        here->resolve_here = !there->taken;
        call(here, there->taken ? do_resolve_there : do_resolve);
        if (there->taken)
            wait_for(&here->done);
    }
    if (here->result == MIGRATE_FAILED) {
        wait_for(&there->done);
        assert_false(there->taken || there->arrived);
        assert_runs(here);
        close_side(there);
        free_post(post);
        sum->stayed++;
        return here;
    }
    while (!over) {
        assert_true(there->taken);
        assert_int_not_equal(vm_state(here->w.vm), VM_RUNNING);
        if (here->result == MIGRATE_MOVED)
            break;
        assert_int_equal(here->result, MIGRATE_DISCONNECTED);
        while (!post->lost && !there->arrived)
            wait_for(&post->late);
        if (there->arrived) /* all was there, and that alone was lost */
            break;
        call_post(post, do_refusals);
        assert_true(post->good);
        assert_int_equal(vm_state(there->w.vm), VM_PAUSED);
        connect_sides(here, there, 1 + n % 3);
        recover(here, there, n % 2 == 0);
        sum->recovered++;
        wait_for(&here->done);
        over = here->result == MIGRATE_MOVED;
    }
    wait_for(&there->done);
    assert_true(there->arrived);
    assert_runs(there);
    close_side(here);
    free_post(post);
    return there;
}

static struct side *move_by_relay(struct side *here, struct relay *relay, size_t streams,
                                  struct sum *sum)
{
    struct side *there = new_side("interp", 512, 0);
    struct post *post = new_post(there);
    here->options = (struct migrate_source_options){.bandwidth = 80000000};
    connect_by_relay(relay, here, there, streams);
    begin_late(here, post);
    here = settle_late(here, post, sum);
    end_relay(relay);
    return here;
}

/* Behind each frame of those that are post-copy's, and of those that decide. */
static void cut_behind_any_message(void **state)
{
    (void)state;
    static const uint32_t types[] = {WIRE_ABSENT, WIRE_STATE, WIRE_END,  WIRE_LOADED,
                                     WIRE_GO,     WIRE_RUNS,  WIRE_WANT, WIRE_ALL};
    struct sum sum = {0};
    struct side *here = new_side("interp", 512, 0);
    call(here, do_start);
    for (size_t i = 0; i < ARRAY_SIZE(types); i++)
        for (long frames = 1; frames < (long)tier_count(3, 12); frames++) {
            struct relay relay = {.type = types[i], .frames = frames, .bytes = NEVER};
            struct sum now = {0};
            here = move_by_relay(here, &relay, 1 + i % 2, &now);
            if (!relay.cut)
                break;
            if (types[i] == WIRE_ABSENT || types[i] == WIRE_STATE || types[i] == WIRE_END)
                assert_int_equal(now.stayed, 1);
            if (types[i] == WIRE_GO || types[i] == WIRE_RUNS)
                assert_int_equal(now.stayed, 0);
            sum.stayed += now.stayed;
            sum.uncertain += now.uncertain;
            sum.recovered += now.recovered;
        }
    close_side(here);
    assert_true(sum.stayed > 0 && sum.uncertain > 0 && sum.recovered > 0);
}

static void cut_anywhere(void **state)
{
    (void)state;
    struct sum sum = {0};
    uint64_t seed = 1;
    struct side *here = new_side("interp", 512, 0);
    call(here, do_start);
    for (unsigned long n = tier_count(16, 300); n > 0; n--) {
        /* Round 1 is of 4 MiB, and so is what comes late. */
        struct relay relay = {.frames = NEVER,
                              .bytes = (4 << 20) + (long)(random_next(&seed) % (5 << 20))};
        here = move_by_relay(here, &relay, 1 + n % 3, &sum);
    }
    close_side(here);
    assert_true(sum.recovered > 0);
}

/* Nobody hangs up, and nothing comes. */
static void a_link_that_hangs(void **state)
{
    (void)state;
    struct sum sum = {0};
    struct side *here = new_side("interp", 512, 0), *there = new_side("interp", 512, 0);
    struct post *post = new_post(there);
    struct relay relay = {.type = WIRE_RUNS, .frames = 1, .bytes = NEVER, .stall = true};
    call(here, do_start);
    here->options = (struct migrate_source_options){.bandwidth = 2000000, .patience_ns = 500000000};
    there->options.patience_ns = 500000000;
    connect_by_relay(&relay, here, there, 2);
    begin_late(here, post);
    here = settle_late(here, post, &sum);
    end_relay(&relay);
    assert_int_equal(sum.recovered, 1);
    close_side(here);
}

/* The machine is lost, and nothing pretends otherwise: it stands still, is asked, and ends. */
static void the_source_dies(void **state)
{
    (void)state;
    struct side *here = new_side("interp", 2048, 0), *there = new_side("dbt", 2048, 0);
    struct post *post = new_post(there);
    call(here, do_start);
    here->options = (struct migrate_source_options){.bandwidth = 4000000};
    connect_sides(here, there, 2);
    begin_late(here, post);
    wait_for(&post->late);
    assert_true(there->taken && !post->lost && post->left > 0);
    usleep(50000); /* its vCPUs wait, or not */
    close_side(here);
    wait_for(&post->late);
    assert_true(post->lost);
    assert_int_equal(vm_state(there->w.vm), VM_PAUSED);
    call_post(post, do_refusals);
    assert_true(post->good);
    assert_int_equal(there->w.ends, 0);
    close_side(there);
    free_post(post);
}

/* ---- by a message, and by itself ---- */

static void do_postcopy(void *opaque)
{
    struct side *side = opaque;
    (void)migrate_source_postcopy(side->source); /* it may be past that */
    sem_post(&side->called);
}

static void on_request_or_when_rounds_do_not_help(void **state)
{
    (void)state;
    struct side *here = new_side("interp", 1024, 0);
    call(here, do_start);
    for (unsigned n = 0; n < 2; n++) {
        struct side *there = new_side("interp", 1024, 0);
        struct post *post = new_post(there);
        here->options = (struct migrate_source_options){.bandwidth = 20000000};
        connect_sides(here, there, 2);
        here->options.rounds = 1000000;
        begin_late(here, post);
        if (n == 1)
            call(here, do_postcopy);
        wait_for(&there->done);
        wait_for(&here->done);
        assert_int_equal(here->result, MIGRATE_MOVED);
        assert_int_equal(post->came, 1);
        close_side(here);
        free_post(post);
        here = there;
    }
    close_side(here);
}

/* ---- called off, and what guests do meanwhile ---- */

static void do_cancel_either(void *opaque)
{
    struct side *side = opaque;
    if (side->source != NULL)
        (void)migrate_source_cancel(side->source);
    else
        (void)migrate_target_cancel(side->target);
    sem_post(&side->called);
}

/* By either side, before it goes over or behind: it stays, or goes on going. */
static void called_off_at_any_time(void **state)
{
    (void)state;
    struct sum sum = {0};
    uint64_t seed = 1;
    struct side *here = new_side("interp", 512, 0);
    call(here, do_start);
    for (unsigned long n = tier_count(8, 100); n > 0; n--) {
        struct side *there = new_side("interp", 512, 0);
        struct post *post = new_post(there);
        here->options = (struct migrate_source_options){.bandwidth = 40000000};
        connect_sides(here, there, 1 + n % 3);
        begin_late(here, post);
        usleep((useconds_t)(random_next(&seed) % 300000));
        call(n % 2 == 0 ? here : there, do_cancel_either);
        here = settle_late(here, post, &sum);
        assert_int_equal(sum.recovered, 0); /* who calls it off too late breaks nothing */
    }
    close_side(here);
}

static void do_reset(void *opaque)
{
    struct side *side = opaque;
    vm_power(side->w.vm, VM_POWER_RESET, 0);
    sem_post(&side->called);
}

static void do_count_lives(void *opaque)
{
    struct side *side = opaque;
    assert_true(vm_pause(side->w.vm, &side->w.err));
    side->sum = side->w.vm->cpus[0].retired_before; /* by harts that were reset since */
    assert_true(vm_resume(side->w.vm, &side->w.err));
    sem_post(&side->called);
}

/* The new life begins with new memory, into which nothing of the old one falls. */
static void a_guest_that_resets_itself_meanwhile(void **state)
{
    (void)state;
    struct side *here = new_side("interp", 2048, 0), *there = new_side("interp", 2048, 0);
    struct post *post = new_post(there);
    call(here, do_start);
    while (check(here) < (uint64_t)2 * SWEEP_HARTS * 2048) /* each page has been written to */
        usleep(1000);
    here->options = (struct migrate_source_options){.bandwidth = 10000000};
    connect_sides(here, there, 2);
    begin_late(here, post);
    wait_for(&post->late);
    assert_true(there->taken && !post->lost);
    call(there, do_reset);
    wait_for(&here->done);
    assert_int_equal(here->result, MIGRATE_MOVED);
    wait_for(&there->done);
    assert_true(there->arrived);
    do {
        call(there, do_count_lives);
    } while (there->sum == 0);
    assert_runs(there);
    close_side(here);
    close_side(there);
    free_post(post);
}

/* ---- what cannot wait for memory ---- */

/* What such a machine is made from. */
struct kit {
    int nic;
    struct block_chain disk;
    struct boot_bytes elf;
};

static void make_deterministic(struct world *w, struct kit *kit)
{
    (void)kit;
    w->config.deterministic = true;
}

static void give_e1000(struct world *w, struct kit *kit)
{
    struct machine_nic *nic = &w->config.nics[w->config.nic_count++];
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    close(pair[1]);
    *nic = (struct machine_nic){.mac = strdup("02:00:00:00:00:01"), .model = strdup("e1000")};
    kit->nic = pair[0];
    w->env.nics = &kit->nic;
}

static void give_ahci(struct world *w, struct kit *kit)
{
    struct machine_disk *disk = &w->config.disks[w->config.disk_count++];
    kit->disk = (struct block_chain){.fds = {memfd_create("disk", MFD_CLOEXEC)}, .count = 1};
    assert_int_equal(ftruncate(kit->disk.fds[0], 1 << 20), 0);
    machine_disk_init(disk);
    disk->path = strdup("disk");
    disk->format = strdup("raw");
    disk->bus = MACHINE_BUS_AHCI;
    w->env.disks = &kit->disk;
}

static void give_tohost(struct world *w, struct kit *kit)
{
    static const uint32_t program[] = {0x0000006f}; /* j . */
    make_elf(&kit->elf, program, sizeof(program));
    world_give(w, &w->config.firmware, kit->elf.data, kit->elf.size);
}

static void what_cannot_wait_for_memory_is_refused(void **state)
{
    (void)state;
    static const uint32_t program[] = {0x0000006f}; /* j . */
    static const struct {
        void (*give)(struct world *w, struct kit *kit);
        const char *says;
    } rows[] = {{make_deterministic, "deterministic"},
                {give_e1000, "e1000"},
                {give_ahci, "ahci"},
                {give_tohost, "tohost"}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct world w;
        struct kit kit;
        int pair[2];
        const struct migrate_source_options options = {.postcopy = true};
        world_open(&w);
        rows[i].give(&w, &kit);
        if (w.config.firmware == NULL)
            world_give(&w, &w.config.firmware, program, sizeof(program));
        world_make(&w);
        assert_true(vm_start(w.vm, &w.err));
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        assert_null(migrate_source_begin(w.vm, pair, 1, &options, &w.err));
        assert_non_null(strstr(error_message(w.err), rows[i].says));
        assert_non_null(strstr(error_message(w.err), "no post-copy"));
        assert_int_equal(vm_state(w.vm), VM_RUNNING);
        close(pair[0]); /* still ours */
        close(pair[1]);
        world_close(&w);
    }
}

/* ---- what a hostile source sends ---- */

static size_t put_run(uint8_t *body, uint64_t gpa, uint32_t pages, enum wire_run kind)
{
    size_t bytes = kind == WIRE_RUN_BYTES ? 4096 * (size_t)pages : 0;
    memset(body, 0, WIRE_MEMORY_HEADER + WIRE_RUN_HEADER);
    store_le32(body, WIRE_PLAIN);
    store_le32(body + 4, (uint32_t)(WIRE_RUN_HEADER + bytes));
    store_le64(body + 8, gpa);
    store_le32(body + 16, pages);
    store_le32(body + 20, kind);
    store_le32(body + 24, (uint32_t)bytes);
    memset(body + WIRE_MEMORY_HEADER + WIRE_RUN_HEADER, 7, bytes);
    return WIRE_MEMORY_HEADER + WIRE_RUN_HEADER + bytes;
}

/* What the guest has is not written over: only what is absent comes, and once. */
static void a_page_comes_once_and_only_if_it_is_absent(void **state)
{
    (void)state;
    static uint8_t body[WIRE_MEMORY_HEADER + WIRE_RUN_HEADER + 3 * 4096];
    struct mem_space *mem = mem_space_new();
    struct error *err = NULL;
    struct mem_ram *ram = mem_add_ram(mem, "ram", RAM, 100 * 4096, MEM_BACKEND_ANONYMOUS, -1, &err);
    struct demand *demand = demand_new(mem);
    struct intake intake = {.mem = mem, .demand = demand};
    uint8_t list[WIRE_ABSENT_HEADER + 16] = {0};
    struct wire_frame frame = {WIRE_ABSENT, sizeof(list), list};
    assert_non_null(ram);
    memset(ram->host, 1, (size_t)ram->size);
    store_le64(list + WIRE_ABSENT_HEADER + 8, UINT64_C(1) << 36); /* the 101st */
    assert_false(demand_add(demand, &frame, NULL));
    store_le64(list + WIRE_ABSENT_HEADER + 8, UINT64_C(1) << 35);
    store_le64(list + WIRE_ABSENT_HEADER, 0xf0);
    assert_true(demand_add(demand, &frame, &err));
    demand_begin(demand);
    assert_int_equal(demand_left(demand), 5 * 4096);

    static const struct {
        uint64_t page;
        uint32_t pages;
        enum wire_run kind;
        bool good;
    } rows[] = {
        {3, 1, WIRE_RUN_BYTES, false}, {3, 2, WIRE_RUN_BYTES, false},
        {4, 1, WIRE_RUN_DELTA, false}, {4, 2, WIRE_RUN_BYTES, true},
        {5, 1, WIRE_RUN_BYTES, false}, {5, 2, WIRE_RUN_ZERO, false},
        {6, 2, WIRE_RUN_ZERO, true},   {6, 1, WIRE_RUN_ZERO, false},
        {99, 1, WIRE_RUN_BYTES, true}, {99, 1, WIRE_RUN_BYTES, false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        size_t size = put_run(body, RAM + 4096 * rows[i].page, rows[i].pages, rows[i].kind);
        frame = (struct wire_frame){WIRE_MEMORY, (uint32_t)size, body};
        assert_true(intake_take(&intake, &frame, NULL) == rows[i].good);
    }
    for (size_t page = 0; page < 100; page++)
        assert_int_equal(ram->host[4096 * page], page == 4 || page == 5 || page == 99 ? 7
                                                 : page == 6 || page == 7             ? 0
                                                                                      : 1);
    assert_int_equal(demand_left(demand), 0);
    intake_clear(&intake);
    demand_free(demand);
    mem_space_free(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_guest_that_no_precopy_can_follow),
        cmocka_unit_test(on_request_or_when_rounds_do_not_help),
        cmocka_unit_test(cut_behind_any_message),
        cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(a_link_that_hangs),
        cmocka_unit_test(the_source_dies),
        cmocka_unit_test(called_off_at_any_time),
        cmocka_unit_test(a_guest_that_resets_itself_meanwhile),
        cmocka_unit_test(what_cannot_wait_for_memory_is_refused),
        cmocka_unit_test(a_page_comes_once_and_only_if_it_is_absent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
