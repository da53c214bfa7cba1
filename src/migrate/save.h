/* SPDX-License-Identifier: MIT
 *
 * Suspending a machine into a file (migrate/image.h), and making one of such a file that goes on where
 * it was. Who suspends gives an empty file, renames it when it is whole, and only then lets the machine
 * end: until then the machine can go on as if nothing had been.
 *
 *     save = save_begin(vm, fd, &options, &err);   // pauses; options.done() comes later
 *     save_free(save);                             // then vm_quit_suspended() or vm_resume()
 *
 *     saved_open(&image, fd, SAVED_ALL, &err); vm = vm_new(…);
 *     resume = resume_begin(vm, &image, &options, &err); vm_start(vm, &err);
 *
 * A machine that goes on runs at once: its memory is read (and decompressed), or mapped from the file,
 * when it is first wanted (mem/mem.h), and a thread gets the rest meanwhile. Either way a piece is
 * checked before anybody sees it. One that is damaged ends the machine.
 *
 * What does not come back is what is outside of the machine: connections through NAT. Real time that has
 * passed is added to the guest's clock of real time; its timers go on from where they were.
 *
 * Threads: the VM's loop's.
 */
#ifndef TRAPEZE_MIGRATE_SAVE_H
#define TRAPEZE_MIGRATE_SAVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migrate/image.h"

struct save;
struct resume;
struct vm;

struct save_options {
    bool compress;
    const char *folder; /* that relative names of the machine's description are of */
    /* Memory goes to a file of its own, of any contents (borrowed); not compressed. */
    bool apart;
    int memory_file;
    /* ... and only what has changed since the last save of such a kind was kept (save_keep()), or since the
     * machine began or went on: the rest of that file is somebody else's affair. */
    bool changes;
    /* All is written and on the disk, or error says why not (borrowed). Once; loop's thread. */
    void (*done)(void *opaque, const struct error *error);
    void (*progress)(void *opaque, uint64_t done, uint64_t total); /* any thread, one at a time */
    void *opaque;
};

/* Pauses the machine if it runs, brings its disks up to date and begins to write, with threads of its
 * own. The descriptor is borrowed. NULL: err, and the machine is as it was. */
struct save *save_begin(struct vm *vm, int fd, const struct save_options *options,
                        struct error **err);
/* Ends it, in the middle too; done() is not called any more. */
void save_free(struct save *save);
bool save_was_running(const struct save *save); /* before it was paused */
/* It is what the next one with `changes` counts from. `track`: there will be one, so that the log of writes
 * is kept, which costs a little; otherwise it may find more than has changed. */
void save_keep(struct save *save, bool track);

/* The same by a copy of this process (vm/fork.h), while the machine stands still (vm_stand_still()) for no
 * longer than save_copy(); what needs no standing still is done before, in the same turn of the loop.
 * done() and progress() are called in the copy, which ends with the former; `talk` is a descriptor that they
 * use. False: err, and nothing has happened. save_free() after both. */
struct save *save_prepare(struct vm *vm, int fd, const struct save_options *options,
                          struct error **err);
bool save_copy(struct save *save, int talk, struct error **err);

struct resume_options {
    /* Pages of an uncompressed file stand in for memory until the guest writes to them: machines that go
     * on from the same file share them. It must not be written to as long as the machine runs. Otherwise
     * the machine has memory of its own, with huge pages, and does not need the file for long. */
    bool map;
    /* Contents of the guest's memory are lost: the VM stands still for good and is to be ended. Once;
     * loop's thread. */
    void (*lost)(void *opaque, const struct error *error);
    /* All memory is there; unless it was lost. May be NULL. */
    void (*complete)(void *opaque);
    void *opaque;
};

/* Before vm_start(), with a machine that is not loaded. Takes the image over, and its descriptor, if it
 * succeeds. NULL: err, and the VM is of no use. */
struct resume *resume_begin(struct vm *vm, struct saved_image *image,
                            const struct resume_options *options, struct error **err);
/* Before vm_free(): no thread of ours any more. After it: frees the rest. NULL is fine. */
void resume_stop(struct resume *resume);
void resume_free(struct resume *resume);

#endif
