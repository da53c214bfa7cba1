/* SPDX-License-Identifier: MIT
 *
 * Suspending a machine into a file, and the file of one that goes on; for a person's terminal and the
 * daemon alike.
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLIENT_SAVED_H
#define TRAPEZE_CLIENT_SAVED_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/image.h"

struct error;
struct machine_config;

struct client_suspend {
    bool compress;
    /* May be NULL; false calls it off: the machine goes on. */
    bool (*progress)(void *opaque, uint64_t done, uint64_t total);
    void *opaque;
};

/* Suspends the machine of a control socket into the file `name` of a folder, which appears (or is
 * replaced) whole or not at all. The machine has ended then, or is about to. On failure it goes on. */
bool client_suspend(const char *control_path, int folder, const char *name,
                    const struct client_suspend *how, struct error **err);

/* Two files of a machine that is paused and stays so: its state, and its memory as it is, of which the second
 * has nothing else in it and its size. */
struct client_save_apart {
    const char *state, *memory; /* their names; what has them now is replaced, in the end and each at once */
    /* Only what has changed since the last such files (or since the machine began or went on); it goes
     * into a copy of what is there of `memory_size` bytes, or into holes. */
    bool changes;
    bool track; /* `changes` will be wanted next time */
    uint64_t memory_size;
    const char *notes; /* to be found again (migrate/image.h) */
};
/* False: err, and nothing has happened (but that a memory file may have come whose state file did not). */
bool client_save_apart(const char *control_path, const struct client_save_apart *how,
                       struct error **err);

/* What the worker says on the socket of worker/verbs_suspend.c until all is saved. */
bool client_saved_wait(int talk, bool (*progress)(void *opaque, uint64_t done, uint64_t total),
                       void *opaque, struct error **err);

/* Opens the file of a suspended machine; `config`, which was initialised, becomes its description (NULL:
 * not wanted). client_saved_close() at the end. */
bool client_saved_open(int folder, const char *path, struct saved_image *image,
                       struct machine_config *config, struct error **err);
/* The file of the memory of one whose memory is apart. */
bool client_saved_open_memory(struct saved_image *image, const char *path, struct error **err);
void client_saved_close(struct saved_image *image);

#endif
