/* SPDX-License-Identifier: MIT
 *
 * The one clock of a VM. Everything a guest can see as time (mtime, RTC) and every
 * device timer derives from it; nothing else reads a host clock.
 *
 * Units: nanoseconds of virtual time since the VM was created (int64 range: 292 years).
 *
 * Modes
 *   VCLOCK_REAL     follows CLOCK_MONOTONIC while running, stands still while paused.
 *   VCLOCK_COUNTED  advances only by vclock_advance(): virtual time is derived from
 *                   retired instructions, so two runs see the same times.
 * No timer fires while the clock is paused. (A counted clock still advances then: a vCPU may
 * be on its way to stopping.)
 *
 * Timers: one-shot. In VCLOCK_REAL the owner of the clock (the event-loop thread) sleeps
 * until vclock_next_deadline() and calls vclock_run_timers(); `on_rearm` tells it that the
 * earliest deadline moved. In VCLOCK_COUNTED whoever advances the clock calls
 * vclock_run_timers(). Callbacks run without the clock's lock, on the calling thread, in order
 * of deadline and then of arming; they may arm, disarm and free timers. What a callback arms
 * waits for the next vclock_run_timers(), even if it is due already.
 *
 * Threads: everything is thread-safe. Lock: the clock's own mutex, a leaf (nothing is called
 * with it held). vclock_now() is lock-free while running in VCLOCK_COUNTED and a seqlock
 * read in VCLOCK_REAL.
 */
#ifndef TRAPEZE_BASE_VCLOCK_H
#define TRAPEZE_BASE_VCLOCK_H

#include <stdbool.h>
#include <stdint.h>

#define VCLOCK_NEVER INT64_MAX
#define NS_PER_S     INT64_C(1000000000)

enum vclock_mode { VCLOCK_REAL, VCLOCK_COUNTED };

struct vclock;
struct vtimer;

typedef void vtimer_fn(void *opaque);

/* `wall_epoch_ns`: the wall-clock time (ns since 1970-01-01 UTC) that virtual time 0 stands
 * for; VCLOCK_REAL callers pass the host's, deterministic ones a constant. Starts paused. */
struct vclock *vclock_new(enum vclock_mode mode, int64_t wall_epoch_ns);
void vclock_free(struct vclock *clock); /* all timers must be gone */

enum vclock_mode vclock_mode(const struct vclock *clock);
int64_t vclock_now(struct vclock *clock);
int64_t vclock_wall_now(struct vclock *clock);             /* ns since 1970, for the RTC */
void vclock_set_now(struct vclock *clock, int64_t now_ns); /* restore; only while paused */
void vclock_set_wall(struct vclock *clock,
                     int64_t wall_ns); /* guest set its RTC: host unaffected */
/* Called, without the lock, by whoever set the wall clock. fn NULL: nobody listens any more. */
void vclock_on_set_wall(struct vclock *clock, void (*fn)(void *opaque), void *opaque);
void vclock_pause(struct vclock *clock);
void vclock_resume(struct vclock *clock);
void vclock_advance(struct vclock *clock, int64_t delta_ns); /* VCLOCK_COUNTED only */

/* Called, without the lock, from whichever thread made the earliest deadline earlier or
 * resumed the clock. fn NULL: nobody listens any more. */
void vclock_on_rearm(struct vclock *clock, void (*fn)(void *opaque), void *opaque);
int64_t vclock_next_deadline(struct vclock *clock); /* virtual ns, or VCLOCK_NEVER */
void vclock_run_timers(struct vclock *clock);       /* fires everything due */
/* Host ns to sleep until `deadline`; INT64_MAX while paused, for VCLOCK_NEVER and (sleeping
 * does not help) in the future of a counted clock; >= 0. */
int64_t vclock_host_delay(struct vclock *clock, int64_t deadline);

struct vtimer *vtimer_new(struct vclock *clock, vtimer_fn *fn, void *opaque);
/* Waits for a running callback on another thread; a callback may free its own timer. */
void vtimer_free(struct vtimer *timer);                     /* NULL is fine */
void vtimer_arm(struct vtimer *timer, int64_t deadline_ns); /* replaces an earlier deadline */
void vtimer_disarm(struct vtimer *timer);
int64_t vtimer_deadline(const struct vtimer *timer); /* VCLOCK_NEVER if not armed */

#endif
