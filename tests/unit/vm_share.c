/* SPDX-License-Identifier: MIT
 *
 * Sharing CPUs by weight: machines on a model of a host. Its kernel knows no weights: of the
 * threads that would run those run next that have run least.
 */
#include "support.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "vm/share.h"

#define MS           INT64_C(1000000)
#define MAX_MACHINES 6
#define MAX_THREADS  4

struct thread {
    int64_t run; /* ms, as the kernel counts it: who slept gains nothing by it */
    bool was_ready;
};

struct machine {
    unsigned weight, threads;
    unsigned busy, of; /* ms that it would run of so many; of 0: always */
    int64_t from, to;  /* ms: when it wants anything at all; to 0: for ever */
    uint64_t cpus;     /* 0: all */
    bool foreign;      /* a process that knows nothing of this */
    struct share_self self;
    struct share_slot slot;
    struct thread thread[MAX_THREADS];
    int64_t wanted; /* ms of work it has begun to want and not done */
    uint64_t work, used, waited;
};

struct host {
    unsigned cpus, count;
    struct machine machine[MAX_MACHINES];
    int64_t now; /* ms */
    uint64_t idle;
};

static bool wants(const struct host *host, struct machine *m)
{
    bool in_time = host->now >= m->from && (m->to == 0 || host->now < m->to);
    if (m->of != 0 && in_time && host->now % m->of == 0)
        m->wanted = m->busy;
    return in_time && !m->self.held && (m->of == 0 || m->wanted > 0);
}

static int64_t least_run(const struct host *host)
{
    int64_t least = INT64_MAX;
    for (unsigned i = 0; i < host->count; i++)
        for (unsigned t = 0; t < host->machine[i].threads; t++)
            if (host->machine[i].thread[t].was_ready && host->machine[i].thread[t].run < least)
                least = host->machine[i].thread[t].run;
    return least == INT64_MAX ? 0 : least;
}

/* One ms of every CPU. */
static void run_ms(struct host *host)
{
    bool ready[MAX_MACHINES][MAX_THREADS] = {{false}};
    int64_t least = least_run(host);
    for (unsigned i = 0; i < host->count; i++) {
        struct machine *m = &host->machine[i];
        bool any = wants(host, m);
        for (unsigned t = 0; t < m->threads; t++) {
            ready[i][t] = any;
            if (any && !m->thread[t].was_ready && m->thread[t].run < least)
                m->thread[t].run = least;
            m->thread[t].was_ready = any;
        }
    }
    for (unsigned cpu = 0; cpu < host->cpus; cpu++) {
        struct machine *next = NULL;
        unsigned number = 0, index = 0;
        for (unsigned i = 0; i < host->count; i++)
            for (unsigned t = 0; t < host->machine[i].threads; t++)
                if (ready[i][t] &&
                    (host->machine[i].cpus == 0 || (host->machine[i].cpus >> cpu & 1) != 0) &&
                    (next == NULL || host->machine[i].thread[t].run < next->thread[number].run)) {
                    next = &host->machine[i];
                    number = t;
                    index = i;
                }
        if (next == NULL) {
            host->idle++;
            continue;
        }
        ready[index][number] = false;
        next->thread[number].run++;
        next->used += MS;
        next->work++;
        next->wanted--;
    }
    for (unsigned i = 0; i < host->count; i++)
        for (unsigned t = 0; t < host->machine[i].threads; t++)
            host->machine[i].waited += ready[i][t] ? (uint64_t)MS : 0;
}

static void look(struct host *host, unsigned index)
{
    struct machine *m = &host->machine[index];
    struct share_slot others[MAX_MACHINES];
    struct share_time time = {10 * MS, m->used, m->waited};
    size_t count = 0;
    for (unsigned i = 0; i < host->count; i++)
        if (i != index && !host->machine[i].foreign && host->machine[i].slot.version != 0)
            others[count++] = host->machine[i].slot;
    m->self.weight = m->weight;
    m->self.cpus = m->cpus != 0 ? m->cpus : (UINT64_C(1) << host->cpus) - 1;
    share_look(&m->self, others, count, &time);
    share_publish(&m->self, host->now * MS, &m->slot);
    m->used = m->waited = 0;
}

static void run_for(struct host *host, int64_t ms)
{
    for (unsigned i = 0; i < host->count; i++)
        host->machine[i].work = 0;
    host->idle = 0;
    for (int64_t end = host->now + ms; host->now < end; host->now++) {
        run_ms(host);
        for (unsigned i = 0; i < host->count; i++)
            if (!host->machine[i].foreign && (host->now + 3 * i) % 10 == 0)
                look(host, i);
    }
}

/* Machine `index` has done `percent` of `of` ms, within 5 %. */
static void assert_work(const struct host *host, unsigned index, double part, int64_t of)
{
    double got = (double)host->machine[index].work / (double)of;
    if (got < part * 0.95 || got > part * 1.05 + 0.002)
        fail_msg("machine %u has had %.3f, not %.3f", index, got, part);
}

static void by_weight(void **state)
{
    static const unsigned weights[][4] = {{100, 100},  {100, 300},           {300, 100},
                                          {1000, 100}, {100, 200, 300, 400}, {50, 50, 50, 250}};
    (void)state;
    for (size_t row = 0; row < ARRAY_SIZE(weights); row++)
        for (unsigned threads = 1; threads <= 2; threads++) {
            struct host host = {.cpus = 1};
            unsigned sum = 0;
            for (unsigned i = 0; i < 4 && weights[row][i] != 0; i++) {
                host.machine[host.count++] = (struct machine){.weight = weights[row][i],
                                                              .threads = i % 2 == 0 ? threads : 1};
                sum += weights[row][i];
            }
            run_for(&host, 2000);
            run_for(&host, 20000);
            for (unsigned i = 0; i < host.count; i++)
                assert_work(&host, i, (double)weights[row][i] / sum, 20000);
            assert_int_equal(host.idle, 0); /* nobody stands still for nothing */
        }
}

static void without_weights_nothing_happens(void **state)
{
    struct host host = {
        .cpus = 1, .count = 3, .machine = {{.threads = 1}, {.threads = 2}, {.threads = 1}}};
    (void)state;
    run_for(&host, 10000);
    assert_work(&host, 1, 0.5, 10000); /* the kernel's way */
    assert_false(host.machine[0].self.active);
    host.machine[0].weight = 100; /* the others' is 100, too */
    run_for(&host, 2000);
    run_for(&host, 20000);
    for (unsigned i = 0; i < 3; i++)
        assert_work(&host, i, 1.0 / 3, 20000);
}

/* Whatever else the host does, the ratio of the machines is that of their weights. */
static void beside_other_processes(void **state)
{
    struct host host = {.cpus = 1,
                        .count = 4,
                        .machine = {{.weight = 100, .threads = 1},
                                    {.weight = 300, .threads = 1},
                                    {.foreign = true, .threads = 1},
                                    {.foreign = true, .threads = 1}}};
    (void)state;
    run_for(&host, 2000);
    run_for(&host, 30000);
    double ratio = (double)host.machine[1].work / (double)host.machine[0].work;
    if (ratio < 2.85 || ratio > 3.15)
        fail_msg("%.3f", ratio);
    assert_int_equal(host.idle, 0);
}

static void who_gets_what_it_wants_holds_nobody_up(void **state)
{
    (void)state;
    /* A CPU for each. */
    struct host host = {.cpus = 2,
                        .count = 2,
                        .machine = {{.weight = 10, .threads = 1}, {.weight = 1000, .threads = 1}}};
    run_for(&host, 5000);
    assert_work(&host, 0, 1, 5000);
    assert_work(&host, 1, 1, 5000);
    /* One that is idle, and then is not, and then is again. */
    host = (struct host){.cpus = 1,
                         .count = 2,
                         .machine = {{.weight = 100, .threads = 1},
                                     {.weight = 300, .threads = 1, .from = 10000, .to = 40000}}};
    run_for(&host, 10000);
    assert_work(&host, 0, 1, 10000);
    run_for(&host, 1000);
    run_for(&host, 20000);
    assert_work(&host, 0, 0.25, 20000);
    run_for(&host, 9000);
    run_for(&host, 200); /* how long it takes until that is noticed */
    run_for(&host, 5000);
    assert_work(&host, 0, 1, 5000);
    /* One that would use a tenth: the other has the rest. */
    host = (struct host){.cpus = 1,
                         .count = 2,
                         .machine = {{.weight = 100, .threads = 1},
                                     {.weight = 1000, .threads = 1, .busy = 2, .of = 20}}};
    run_for(&host, 2000);
    run_for(&host, 10000);
    assert_work(&host, 1, 0.1, 10000);
    assert_work(&host, 0, 0.9, 10000);
    /* On CPUs of their own, each of them shared with somebody. */
    host = (struct host){.cpus = 2,
                         .count = 4,
                         .machine = {{.weight = 100, .threads = 1, .cpus = 1},
                                     {.weight = 900, .threads = 1, .cpus = 2},
                                     {.foreign = true, .threads = 1, .cpus = 2},
                                     {.foreign = true, .threads = 1, .cpus = 2}}};
    run_for(&host, 2000);
    run_for(&host, 10000);
    assert_work(&host, 0, 1, 10000);
    assert_work(&host, 1, 1.0 / 3, 10000);
}

/* Three on two CPUs, one of which may have one for itself: nothing is left over. */
static void more_weight_than_vcpus(void **state)
{
    struct host host = {.cpus = 2,
                        .count = 3,
                        .machine = {{.weight = 1000, .threads = 1},
                                    {.weight = 100, .threads = 1},
                                    {.weight = 100, .threads = 1}}};
    (void)state;
    run_for(&host, 5000);
    run_for(&host, 20000);
    if (host.machine[0].work < 18000 || host.idle > 2000)
        fail_msg("%llu ms of 20000, %llu of 40000 idle", (unsigned long long)host.machine[0].work,
                 (unsigned long long)host.idle);
}

/* A machine that lies about itself keeps others from running for half a second at a time. */
static void a_liar(void **state)
{
    struct share_self self = {.weight = 100, .cpus = 1};
    struct share_slot liar = {
        .version = SHARE_VERSION, .weight = 10000, .state = SHARE_STARVED, .cpus = 1};
    struct share_time busy = {10 * MS, 10 * MS, 0}, held = {10 * MS, 0, 0};
    unsigned ran = 0, longest = 0, now = 0;
    (void)state;
    for (unsigned i = 0; i < 10000; i++) {
        share_look(&self, &liar, 1, self.held ? &held : &busy);
        ran += !self.held;
        now = self.held ? now + 1 : 0;
        longest = now > longest ? now : longest;
    }
    assert_true(longest <= SHARE_HOLD_NS / (10 * MS));
    assert_true(ran > 100);
}

/* Whatever others publish, nobody stands still for longer than that, nor for nobody. */
static void nonsense_in_slots(void **state)
{
    uint64_t seed = 1;
    (void)state;
    for (unsigned long round = 0; round < tier_count(300, 10000); round++) {
        struct share_self self = {.weight = (unsigned)random_next(&seed),
                                  .cpus = random_next(&seed)};
        struct share_slot others[4];
        for (unsigned i = 0; i < 1000; i++) {
            uint64_t *words = (uint64_t *)(void *)others;
            size_t count = random_next(&seed) % (ARRAY_SIZE(others) + 1);
            for (size_t k = 0; k < sizeof(others) / 8 && i % 50 == 0; k++)
                words[k] = random_next(&seed) >> random_next(&seed) % 64;
            for (size_t k = 0; k < ARRAY_SIZE(others); k++)
                others[k].virtual_ns &= INT64_MAX / 2; /* as share_read() has it */
            struct share_time time = {(int64_t)(random_next(&seed) % (20 * MS)) - MS, 0, 0};
            if (!self.held)
                time.used = time.waited = random_next(&seed) % (40 * MS);
            bool held = share_look(&self, others, count, &time);
            assert_true(!held || self.held_ns < SHARE_HOLD_NS + 20 * MS);
            if (count == 0 && time.passed > 0)
                assert_false(held);
        }
    }
}

/* ---- the file ---- */

static void slots_are_taken_and_given_back(void **state)
{
    char name[] = "/tmp/trapeze-share-XXXXXX", again[40];
    int fd = mkstemp(name), ready[2], go[2];
    struct share_file one, two, three;
    struct share_slot others[SHARE_SLOTS], slot = {.version = SHARE_VERSION, .weight = 7};
    int64_t now = 100 * 1000 * MS;
    (void)state;
    assert_true(fd >= 0 && pipe(ready) == 0 && pipe(go) == 0);
    snprintf(again, sizeof(again), "/proc/self/fd/%d", fd);
    assert_true(share_take(&one, fd));
    slot.looked = now;
    pid_t child = fork();
    if (child == 0) { /* another process has another slot, for as long as it lives */
        char byte = 'x';
        bool good = share_take(&two, open(again, O_RDWR)) && two.slot != one.slot;
        share_write(&two, &slot);
        good = write(ready[1], &byte, 1) == 1 && read(go[0], &byte, 1) == 1 && good;
        _exit(good ? 0 : 1);
    }
    char byte;
    int status;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(share_read(&one, now, others), 1);
    assert_int_equal(others[0].weight, 7);
    assert_int_equal(share_read(&one, now + 10 * 1000 * MS, others),
                     0); /* it has not looked since */
    assert_int_equal(write(go[1], "x", 1), 1);
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    one.checked = 0;
    assert_int_equal(share_read(&one, now, others), 0); /* it is gone */
    assert_true(share_take(&three, open(again, O_RDWR)));
    assert_int_equal(three.slot, 1); /* its slot is free */
    share_write(&three, &slot);
    one.checked = 0;
    assert_int_equal(share_read(&one, now, others), 1);
    slot.virtual_ns = UINT64_MAX; /* nonsense */
    share_write(&three, &slot);
    assert_int_equal(share_read(&one, now, others), 0);
    assert_int_equal(ftruncate(fd, 0), 0); /* somebody's mischief */
    one.checked = 0;
    assert_int_equal(share_read(&one, now, others), 0);
    int fds[SHARE_SLOTS];
    unsigned taken = 0;
    while (taken < SHARE_SLOTS && share_take(&two, fds[taken] = open(again, O_RDWR)))
        taken++;
    assert_int_equal(taken, SHARE_SLOTS - 2);
    for (unsigned i = 0; i <= taken; i++)
        close(fds[i]);
    close(three.fd);
    close(fd);
    unlink(name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_weight),
        cmocka_unit_test(without_weights_nothing_happens),
        cmocka_unit_test(beside_other_processes),
        cmocka_unit_test(who_gets_what_it_wants_holds_nobody_up),
        cmocka_unit_test(more_weight_than_vcpus),
        cmocka_unit_test(a_liar),
        cmocka_unit_test(nonsense_in_slots),
        cmocka_unit_test(slots_are_taken_and_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
