/* SPDX-License-Identifier: MIT
 *
 * Stopping the machine and letting it go.
 *
 * We hold the machine (vm_freeze) exactly while `stopped`. A vCPU that comes to a point ends
 * its run(), puts a hold of its own on the machine and posts on_stop(), which turns that into
 * ours. Its debug->stop stays set until it has been reported: several vCPUs may stop at the same
 * time, and one stop reply has room for one. Of those that were not reported, breakpoints are
 * met again, steps are the client's to ask for again; only an access cannot be repeated and is
 * reported when the client next wants to go on.
 *
 * Points and steps are seen by vCPUs only through vcpu->debug, which changes while they stand.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/loop.h"
#include "vm/gdb/internal.h"

enum { SIGNAL_INT = 2, SIGNAL_TRAP = 5 }; /* GDB's own numbers */

/* ---- points ---- */

static void update_filter(struct vcpu_points *points)
{
    points->break_filter = 0;
    for (unsigned i = 0; i < points->count; i++)
        if (points->point[i].kind <= VCPU_POINT_BREAK_HARD)
            points->break_filter |= UINT64_C(1) << (points->point[i].first >> 1 & 63);
}

static unsigned find_point(const struct vcpu_points *points, const struct vcpu_point *point)
{
    unsigned i = 0;
    while (i < points->count &&
           (points->point[i].kind != point->kind || points->point[i].first != point->first ||
            points->point[i].last != point->last))
        i++;
    return i;
}

bool gdb_point_add(struct gdb *gdb, const struct vcpu_point *point)
{
    struct vcpu_points *points = &gdb->points;
    unsigned at = find_point(points, point);
    if (at < points->count) /* E.2: to insert twice is to insert once */
        return true;
    const struct isa_debug *isa = gdb->vm->isa->debug;
    if (at == VCPU_POINTS_MAX || (isa->takes_point != NULL && !isa->takes_point(points, point)))
        return false;
    points->point[points->count++] = *point;
    update_filter(points);
    return true;
}

void gdb_point_remove(struct gdb *gdb, const struct vcpu_point *point)
{
    struct vcpu_points *points = &gdb->points;
    unsigned at = find_point(points, point);
    if (at == points->count)
        return;
    points->point[at] = points->point[--points->count];
    update_filter(points);
}

/* ---- stopping ---- */

static void report(struct gdb *gdb, unsigned cpu, int signal, const char *why)
{
    snprintf(gdb->stop_reply, sizeof(gdb->stop_reply), "T%02xthread:%x;%s", signal, cpu + 1, why);
    gdb->g_cpu = cpu;
    gdb->c_cpu = -1;
    gdb_reply(gdb, gdb->stop_reply);
    gdb_send(gdb);
}

/* Reports why a vCPU stopped; then it counts as not having stopped. */
static void report_cpu(struct gdb *gdb, unsigned cpu)
{
    static const char *const names[VCPU_POINT_KINDS] = {"swbreak", "hwbreak", "watch", "rwatch",
                                                        "awatch"};
    struct vcpu_debug *debug = gdb->debug[cpu];
    char why[48] = "";
    if (debug->stop == VCPU_STOP_WATCH)
        snprintf(why, sizeof(why), "%s:%" PRIx64 ";", names[debug->stop_kind], debug->stop_address);
    else if (debug->stop == VCPU_STOP_BREAK && gdb->names_kinds)
        snprintf(why, sizeof(why), "%s:;", names[debug->stop_kind]);
    debug->stop = VCPU_STOP_NONE;
    report(gdb, cpu, SIGNAL_TRAP, why);
}

/* The first vCPU that stopped for one of the reasons; cpu_count: none. */
static unsigned find_stop(const struct gdb *gdb, unsigned reasons)
{
    unsigned i = 0;
    while (i < gdb->vm->cpu_count &&
           (gdb->debug[i] == NULL || (reasons >> gdb->debug[i]->stop & 1) == 0))
        i++;
    return i;
}

static void on_stop(void *opaque)
{
    struct gdb *gdb = opaque;
    struct vm *vm = gdb->vm;
    vm_hold_wait(vm);
    atomic_store(&gdb->posted, false);
    /* Somebody else may have stopped us first, even have gone on. */
    unsigned stepped = find_stop(gdb, 1 << VCPU_STOP_STEP | 1 << VCPU_STOP_WATCH);
    unsigned cpu = stepped < vm->cpu_count ? stepped : find_stop(gdb, 1 << VCPU_STOP_BREAK);
    if (!gdb->stopped && cpu < vm->cpu_count) {
        vm_freeze(vm);
        gdb->stopped = true;
        report_cpu(gdb, cpu);
        gdb_flush(gdb);
    }
    vm_release(vm);
}

void gdb_cpu_stopped(struct gdb *gdb)
{
    if (atomic_exchange(&gdb->posted, true))
        return;
    vm_hold_begin(gdb->vm);
    loop_post(gdb->vm->env.loop, on_stop, gdb);
}

void gdb_forget_posts(struct gdb *gdb)
{
    loop_cancel(gdb->vm->env.loop, on_stop, gdb);
}

static void stop(struct gdb *gdb)
{
    if (!gdb->stopped)
        vm_freeze(gdb->vm);
    gdb->stopped = true;
}

void gdb_interrupt(struct gdb *gdb)
{
    if (gdb->stopped)
        return;
    stop(gdb);
    report(gdb, gdb->g_cpu, SIGNAL_INT, "");
}

/* ---- letting go ---- */

/* True if the plan is to step harts that cannot, and nothing else: it is done already. */
static bool nothing_can_run(const struct gdb *gdb, const struct gdb_plan *plans, unsigned *stepped)
{
    *stepped = gdb->vm->cpu_count;
    for (unsigned i = 0; i < gdb->vm->cpu_count; i++) {
        if (plans[i].action == GDB_CONTINUE)
            return false;
        if (plans[i].action == GDB_STAY)
            continue;
        if (atomic_load(&gdb->vm->cpus[i].state) == CPU_STARTED)
            return false;
        *stepped = i;
    }
    return *stepped < gdb->vm->cpu_count;
}

static void let_go(struct gdb *gdb, unsigned cpu, const struct gdb_plan *plan)
{
    struct vm_cpu *it = &gdb->vm->cpus[cpu];
    struct vcpu_debug *debug = gdb->debug[cpu];
    debug->points = &gdb->points;
    debug->stop = VCPU_STOP_NONE;
    debug->step = plan->action == GDB_STEP;
    debug->step_first = plan->first;
    debug->step_last = plan->last;
    it->held_back = plan->action == GDB_STAY;
    it->vcpu->debug = debug->step || gdb->points.count > 0 ? debug : NULL;
    if (debug->step && atomic_load(&it->state) == CPU_STARTED)
        it->waiting = false; /* wfi may end at any time */
    /* Pages that are watched now must leave the TLB; and who sleeps looks at held_back again. */
    vcpu_attention(it->vcpu, VCPU_ATTENTION_TLB);
}

void gdb_resume(struct gdb *gdb, const struct gdb_plan *plans)
{
    struct vm *vm = gdb->vm;
    unsigned cpu = find_stop(gdb, 1 << VCPU_STOP_WATCH);
    if (cpu < vm->cpu_count) {
        report_cpu(gdb, cpu);
        return;
    }
    if (nothing_can_run(gdb, plans, &cpu)) {
        report(gdb, cpu, SIGNAL_TRAP, "");
        return;
    }
    for (unsigned i = 0; i < vm->cpu_count; i++)
        let_go(gdb, i, &plans[i]);
    gdb->stopped = false;
    vm_thaw(vm);
}

void gdb_attach(struct gdb *gdb)
{
    for (unsigned i = 0; i < gdb->vm->cpu_count; i++)
        if (gdb->debug[i] == NULL)
            gdb->debug[i] = gdb->vm->isa->debug->attach(gdb->vm->vcpus[i]);
    stop(gdb);
    snprintf(gdb->stop_reply, sizeof(gdb->stop_reply), "T%02xthread:1;", SIGNAL_TRAP);
    gdb->g_cpu = 0;
    gdb->c_cpu = -1;
    gdb->physical = gdb->names_kinds = false;
}

void gdb_detach(struct gdb *gdb)
{
    const struct gdb_plan go = {.action = GDB_CONTINUE};
    stop(gdb);
    gdb->points.count = 0;
    for (unsigned i = 0; i < gdb->vm->cpu_count; i++)
        let_go(gdb, i, &go);
    gdb->stopped = false;
    vm_thaw(gdb->vm);
}
