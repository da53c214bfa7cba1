/* SPDX-License-Identifier: MIT
 *
 * Event loop: epoll, an eventfd for messages from other threads, and a virtual clock's
 * timers. One loop per thread that needs one; a worker has one, its main thread's.
 *
 * Events: LOOP_HANGUP (the other end is gone, or an error is pending) comes whether asked for
 * or not, unless the watch is silenced; whoever gets it removes or silences the watch. A watch
 * that asks for LOOP_HANGUP alone gets nothing else.
 *
 * Threads: loop_post() and loop_quit() may be called from any thread and from signal-free
 * contexts; everything else only on the loop's thread (or before loop_run()).
 */
#ifndef TRAPEZE_BASE_LOOP_H
#define TRAPEZE_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct loop;
struct loop_watch;
struct vclock;

enum { LOOP_READABLE = 1, LOOP_WRITABLE = 2, LOOP_HANGUP = 4 };

typedef void loop_fd_fn(void *opaque, int fd, unsigned events);
typedef void loop_post_fn(void *opaque);

struct loop *loop_new(struct error **err);
void loop_free(struct loop *loop);

/* Runs until loop_quit(); returns the value given there. */
int loop_run(struct loop *loop);
void loop_quit(struct loop *loop, int value);

/* The fd is borrowed: remove the watch before closing it; one watch per fd. A watch may remove
 * itself (or any other watch) inside a callback. A regular file (always ready) is polled every
 * turn. */
struct loop_watch *loop_watch_add(struct loop *loop, int fd, unsigned events, loop_fd_fn *fn,
                                  void *opaque, struct error **err);
void loop_watch_set(struct loop_watch *watch, unsigned events); /* 0 silences it */
void loop_watch_remove(struct loop_watch *watch);               /* NULL is fine */

/* Runs fn(opaque) on the loop's thread, in order of posting. What is still waiting when the
 * loop is freed never runs. */
void loop_post(struct loop *loop, loop_post_fn *fn, void *opaque);

/* Forgets every post of fn(opaque) that has not run: before `opaque` is freed. Loop's thread;
 * nobody may still be posting it. */
void loop_cancel(struct loop *loop, loop_post_fn *fn, void *opaque);

/* Makes the loop fire the timers of a VCLOCK_REAL clock, until it is detached; one at a time.
 * The clock must outlive the loop or be detached first (fine if none is attached). */
void loop_attach_clock(struct loop *loop, struct vclock *clock);
void loop_detach_clock(struct loop *loop);

#endif
