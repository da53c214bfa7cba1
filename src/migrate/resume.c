/* SPDX-License-Identifier: MIT
 *
 * See save.h: a machine that goes on where it was.
 */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "config/machine.h"
#include "migrate/fill.h"
#include "migrate/save.h"
#include "vm/vm.h"

struct resume {
    struct vm *vm;
    struct saved_image image;
    struct resume_options options;
    struct fill *fill;
    struct error *error; /* what was lost */
};

static void tell_lost(void *opaque)
{
    struct resume *resume = opaque;
    resume->options.lost(resume->options.opaque, resume->error);
}

static void tell_complete(void *opaque)
{
    struct resume *resume = opaque;
    if (resume->options.complete != NULL)
        resume->options.complete(resume->options.opaque);
}

/* No guest code may act on what it did not get. */
static void on_lost(void *opaque, struct error *error)
{
    struct resume *resume = opaque;
    resume->error = error;
    vm_halt(resume->vm);
    loop_post(vm_loop(resume->vm), tell_lost, resume);
}

static void on_complete(void *opaque)
{
    struct resume *resume = opaque;
    loop_post(vm_loop(resume->vm), tell_complete, resume);
}

/* Real time since then, none if the host's clock went back. */
static int64_t elapsed_since(uint64_t saved_at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t ns = (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
    return ns > saved_at && ns - saved_at <= INT64_MAX ? (int64_t)(ns - saved_at) : 0;
}

static bool restore(struct resume *resume, struct error **err)
{
    const struct saved_image *image = &resume->image;
    const struct fill_options options = {.map = resume->options.map,
                                         .lost = on_lost,
                                         .complete = on_complete,
                                         .opaque = resume};
    const char *layout = (const char *)image->sections[SAVED_LAYOUT].data;
    if (image->memory < 0)
        return error_set(err, ERROR_USAGE, "the machine's memory is in another file, which is missing");
    if (!vm_arrange(resume->vm, layout, false, err)) {
        error_prefix(err, "the machine is not the one that was suspended");
        return false;
    }
    resume->fill = fill_new(vm_memory(resume->vm), image, &options, err);
    if (resume->fill == NULL)
        return false;
    /* In a machine whose time is made of its instructions none has passed. */
    if (!vm_config(resume->vm)->deterministic)
        vm_let_time_pass(resume->vm, elapsed_since(image->saved_at));
    return vm_restore_state(resume->vm, image->sections[SAVED_STATE].data,
                            (size_t)image->sections[SAVED_STATE].size, err) &&
           fill_start(resume->fill, err);
}

struct resume *resume_begin(struct vm *vm, struct saved_image *image,
                            const struct resume_options *options, struct error **err)
{
    struct resume *resume = alloc_zeroed(1, sizeof(*resume));
    resume->vm = vm;
    resume->image = *image;
    resume->options = *options;
    if (restore(resume, err)) {
        *image = (struct saved_image){.fd = -1, .memory = -1};
        return resume;
    }
    if (resume->fill != NULL)
        fill_abandon(resume->fill);
    loop_cancel(vm_loop(vm), tell_lost, resume);
    loop_cancel(vm_loop(vm), tell_complete, resume);
    if (resume->error != NULL && err != NULL) { /* the reason of whatever else was said */
        error_free(*err);
        *err = resume->error;
        resume->error = NULL;
    }
    fill_free(resume->fill);
    error_free(resume->error);
    free(resume);
    return NULL;
}

void resume_stop(struct resume *resume)
{
    if (resume == NULL)
        return;
    fill_stop(resume->fill);
    loop_cancel(vm_loop(resume->vm), tell_lost, resume);
    loop_cancel(vm_loop(resume->vm), tell_complete, resume);
}

void resume_free(struct resume *resume)
{
    if (resume == NULL)
        return;
    fill_free(resume->fill);
    if (resume->image.apart && resume->image.memory >= 0)
        close(resume->image.memory);
    if (resume->image.fd >= 0)
        close(resume->image.fd);
    saved_clear(&resume->image);
    error_free(resume->error);
    free(resume);
}
