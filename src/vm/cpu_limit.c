/* SPDX-License-Identifier: MIT
 *
 * The worker's own scheduler: a cap on the CPU time of this process, and its part of CPUs that
 * several machines share by weight (share.h). Who has used enough gets a hold on its vCPUs, from
 * this loop, which nothing holds up: devices, control and a pause work on meanwhile.
 *
 * The cap is a bucket of CPU time that fills at the cap's rate. It holds BURST_NS at that rate;
 * what was used beyond it, because the loop looked late, is stood still for later.
 *
 * Guest time goes on during a hold: to the guest it is as if the host were busy.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "vm/machine.h"
#include "vm/share.h"

#define MS       INT64_C(1000000)
#define BURST_NS (100 * MS)
#define IDLE_NS  (50 * MS)    /* between two looks at a machine that does nothing */
#define LONG_NS  (10000 * MS) /* what was not used before is no credit */
#define CALM_NS  (1000 * MS)  /* ... at whether somebody has been given a weight by now */

struct cpu_limit {
    struct vm *vm;
    int timer;
    struct loop_watch *watch;
    struct vm_cpu_limits limits;
    int64_t looked, shared;   /* CLOCK_MONOTONIC: last, and last at the others */
    uint64_t used;            /* CPU time until then, of the process */
    struct vm_cpu_time vcpus; /* ... and what the vCPUs had of it */
    int64_t bucket;           /* ns of CPU time that may be used now */
    bool capped, held;        /* the bucket is empty; a hold is on the machine */
    uint64_t held_ns;
    struct share_self self;
    struct share_file file; /* fd -1: nobody to share with */
};

static int64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* Of all vCPUs. */
static struct vm_cpu_time time_of_vcpus(const struct vm *vm)
{
    struct vm_cpu_time sum = {0, 0}, time;
    for (unsigned i = 0; i < vm->cpu_count; i++)
        if (vm_cpu_time(&vm->cpus[i], &time)) {
            sum.used += time.used;
            sum.waited += time.waited;
        }
    return sum;
}

/* The CPUs that the first vCPU may use: who pins one pins all. */
static uint64_t host_cpus(const struct vm *vm)
{
    cpu_set_t set;
    uint64_t cpus = 0;
    if (!vm->cpus[0].has_thread ||
        pthread_getaffinity_np(vm->cpus[0].thread, sizeof(set), &set) != 0)
        return UINT64_MAX;
    for (size_t i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &set))
            cpus |= UINT64_C(1) << (i % 64);
    return cpus;
}

/* Threads that were made anew begin at 0. */
static uint64_t grown(uint64_t now, uint64_t before)
{
    return now > before ? now - before : 0;
}

/* For the cap: what the whole process used since the last look, which is returned. */
static uint64_t fill_bucket(struct cpu_limit *limit, int64_t passed)
{
    int64_t cap = limit->limits.cap, most = BURST_NS * cap / 100;
    uint64_t now = (uint64_t)clock_ns(CLOCK_PROCESS_CPUTIME_ID), used = now - limit->used;
    limit->bucket += (passed < LONG_NS ? passed : LONG_NS) * cap / 100 - (int64_t)used;
    limit->used = now;
    if (limit->bucket > most || cap == 0)
        limit->bucket = most;
    limit->capped = limit->bucket < 0;
    return used;
}

/* For sharing: what the vCPUs did. What these looks cost is not the guest's. */
static struct share_time take_time(struct cpu_limit *limit)
{
    struct vm_cpu_time now = time_of_vcpus(limit->vm);
    struct share_time time = {.passed = limit->looked - limit->shared,
                              .used = grown(now.used, limit->vcpus.used),
                              .waited = grown(now.waited, limit->vcpus.waited)};
    limit->shared = limit->looked;
    limit->vcpus = now;
    return time;
}

static void look_at_others(struct cpu_limit *limit)
{
    struct share_slot others[SHARE_SLOTS], own;
    bool calm = !limit->self.active && limit->looked - limit->shared < CALM_NS;
    if (limit->file.fd < 0 || (calm && limit->self.weight == limit->limits.weight))
        return;
    struct share_time time = take_time(limit);
    limit->self.weight = limit->limits.weight;
    limit->self.cpus = host_cpus(limit->vm);
    size_t count = share_read(&limit->file, limit->looked, others);
    share_look(&limit->self, others, count, &time);
    share_publish(&limit->self, limit->looked, &own);
    share_write(&limit->file, &own);
}

/* When to look again. */
static int64_t next_look(const struct cpu_limit *limit, bool idle)
{
    int64_t cap = limit->limits.cap, next = CALM_NS;
    if (limit->self.active)
        next = idle ? IDLE_NS : SHARE_TICK_NS;
    if (cap == 0)
        return next;
    if (limit->capped) /* when there is something in the bucket again */
        return -limit->bucket * 100 / cap + MS < next ? -limit->bucket * 100 / cap + MS : next;
    int64_t turn = idle ? IDLE_NS : cap < 10 ? cap * MS : 10 * MS;
    return turn < next ? turn : next;
}

static void arm(const struct cpu_limit *limit, int64_t ns)
{
    struct itimerspec span = {.it_value = {.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S}};
    timerfd_settime(limit->timer, 0, &span, NULL);
}

static void hold(struct cpu_limit *limit, bool held)
{
    if (held && !limit->held)
        vm_hold_begin(limit->vm);
    else if (!held && limit->held)
        vm_release(limit->vm);
    limit->held = held;
}

static void look(struct cpu_limit *limit)
{
    int64_t now = clock_ns(CLOCK_MONOTONIC), passed = now - limit->looked;
    bool runs = limit->vm->state == VM_RUNNING;
    limit->looked = now;
    limit->held_ns += limit->held ? (uint64_t)passed : 0;
    uint64_t used = fill_bucket(limit, passed);
    look_at_others(limit);
    hold(limit, runs && (limit->capped || limit->self.held));
    if (limit->file.fd < 0 && limit->limits.cap == 0)
        arm(limit, 0); /* until somebody limits it */
    else
        arm(limit, next_look(limit, used * 50 < (uint64_t)passed && !limit->held));
}

static void on_timer(void *opaque, int fd, unsigned events)
{
    uint64_t expirations;
    (void)events;
    if (read(fd, &expirations, sizeof(expirations)) == (ssize_t)sizeof(expirations))
        look(opaque);
}

static struct cpu_limit *make(struct vm *vm, struct error **err)
{
    struct cpu_limit *limit = alloc_zeroed(1, sizeof(*limit));
    *limit = (struct cpu_limit){.vm = vm, .file = {.fd = -1}, .looked = clock_ns(CLOCK_MONOTONIC)};
    limit->used = (uint64_t)clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    limit->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (limit->timer < 0)
        error_set_errno(err, errno, "cannot make a timer");
    else
        limit->watch =
            loop_watch_add(vm->env.loop, limit->timer, LOOP_READABLE, on_timer, limit, err);
    vm->cpu_limit = limit;
    if (limit->watch != NULL)
        return limit;
    vm_cpu_limit_free(vm);
    return NULL;
}

void vm_cpu_limit_free(struct vm *vm)
{
    struct cpu_limit *limit = vm->cpu_limit;
    if (limit == NULL)
        return;
    hold(limit, false);
    loop_watch_remove(limit->watch);
    if (limit->timer >= 0)
        close(limit->timer);
    if (limit->file.fd >= 0)
        close(limit->file.fd);
    free(limit);
    vm->cpu_limit = NULL;
}

bool vm_set_cpu_limits(struct vm *vm, const struct vm_cpu_limits *limits, struct error **err)
{
    struct cpu_limit *limit = vm->cpu_limit;
    if (limits->weight > MACHINE_MAX_CPU_WEIGHT || limits->cap > MACHINE_MAX_CPU_CAP)
        return error_set(err, ERROR_USAGE,
                         "a machine's weight is 1 to %d, its cap 1 to %d percent of a CPU",
                         MACHINE_MAX_CPU_WEIGHT, MACHINE_MAX_CPU_CAP);
    if (limit == NULL && limits->weight == 0 && limits->cap == 0)
        return true;
    if (limit == NULL && (limit = make(vm, err)) == NULL)
        return false;
    limit->limits = *limits;
    look(limit);
    return true;
}

bool vm_share_cpus(struct vm *vm, int fd, struct error **err)
{
    struct cpu_limit *limit = vm->cpu_limit;
    if ((limit == NULL && (limit = make(vm, err)) == NULL) || !share_take(&limit->file, fd)) {
        close(fd);
        if (limit == NULL)
            return false;
        limit->file.fd = -1; /* more machines than slots: this one shares as the kernel has it */
        return true;
    }
    look(limit);
    return true;
}

void vm_get_cpu_limits(const struct vm *vm, struct vm_cpu_limits *limits,
                       struct vm_cpu_usage *usage)
{
    const struct cpu_limit *limit = vm->cpu_limit;
    *limits = limit != NULL ? limit->limits : (struct vm_cpu_limits){0, 0};
    *usage = (struct vm_cpu_usage){.used_ns = (uint64_t)clock_ns(CLOCK_PROCESS_CPUTIME_ID),
                                   .waited_ns = time_of_vcpus(vm).waited};
    if (limit != NULL) {
        int64_t now = limit->held ? clock_ns(CLOCK_MONOTONIC) - limit->looked : 0;
        usage->held_ns = limit->held_ns + (uint64_t)now;
    }
}
