/* SPDX-License-Identifier: MIT
 *
 * A whole machine in this process: what it writes to its console, and how its run ends.
 */
#ifndef TRAPEZE_TESTS_VM_WORLD_H
#define TRAPEZE_TESTS_VM_WORLD_H

#include "support.h"

#include "boot_files.h"
#include "config/machine.h"
#include "vm/machine.h"
#include "vm/virt/virt.h"

#include "base/log.h"
#include "base/loop.h"

#define RAM       VIRT_RAM_GPA
#define FINISHER  UINT64_C(0x100000)
#define DATA_GPA  (RAM + 0x10000) /* where programs leave results: 64 bytes a hart */
#define TEXT_SIZE 64

struct world {
    struct machine_config config;
    struct vm_env env;
    struct log log;
    struct char_backend console;
    char path[32];
    int fd;
    struct vm *vm;
    struct error *err;

    pthread_mutex_t lock; /* what follows: the console is written to by vCPU threads */
    char text[TEXT_SIZE];
    unsigned text_size;

    unsigned ends;
    enum vm_end end;
    uint32_t code;
    unsigned quit_after; /* characters, 0: never */
    unsigned pauses_left;
    bool with_threads; /* a pause also takes the threads away and brings them back */
};

static inline void world_quit_now(void *opaque)
{
    struct world *w = opaque;
    if (w->ends == 0)
        vm_quit(w->vm);
}

static inline void world_console_write(struct char_backend *backend, const uint8_t *data,
                                       size_t size)
{
    struct world *w = CONTAINER_OF(backend, struct world, console);
    pthread_mutex_lock(&w->lock);
    for (size_t i = 0; i < size && w->text_size < TEXT_SIZE - 1; i++)
        w->text[w->text_size++] = (char)data[i];
    bool enough = w->quit_after > 0 && w->text_size >= w->quit_after;
    pthread_mutex_unlock(&w->lock);
    if (enough)
        loop_post(w->env.loop, world_quit_now, w);
}

static inline void world_on_end(void *opaque, enum vm_end end, uint32_t code)
{
    struct world *w = opaque;
    w->ends++;
    w->end = end;
    w->code = code;
    loop_quit(w->env.loop, 0);
}

static inline void world_open(struct world *w)
{
    *w = (struct world){.console = {.write = world_console_write}, .fd = -1};
    machine_config_init(&w->config);
    w->config.memory = 64 * MIB;
    pthread_mutex_init(&w->lock, NULL);
    log_init(&w->log, LOG_LEVEL_ERROR, -1, "");
    w->env = (struct vm_env){.loop = loop_new(&w->err),
                             .log = &w->log,
                             .console = &w->console,
                             .on_end = world_on_end,
                             .opaque = w};
    assert_no_error(w->err);
}

static inline void world_close(struct world *w)
{
    vm_free(w->vm);
    loop_free(w->env.loop);
    machine_config_clear(&w->config);
    pthread_mutex_destroy(&w->lock);
    error_free(w->err);
    if (w->fd >= 0)
        close(w->fd);
}

static inline void world_give(struct world *w, char **member, const void *data, size_t size)
{
    w->fd = put_file(data, size, w->path);
    assert_true(w->fd >= 0);
    *member = strdup(w->path);
}

static inline void world_make(struct world *w)
{
    w->vm = vm_new(&w->config, &w->env, &w->err);
    assert_no_error(w->err);
    assert_non_null(w->vm);
    assert_int_equal(vm_state(w->vm), VM_CREATED);
}

static inline void world_run(struct world *w)
{
    assert_true(vm_start(w->vm, &w->err));
    loop_run(w->env.loop);
    assert_int_equal(w->ends, 1);
}

static inline uint64_t guest_word(struct world *w, uint64_t gpa)
{
    uint8_t bytes[8];
    assert_true(mem_read(w->vm->mem, gpa, bytes, sizeof(bytes)));
    return load_le64(bytes);
}

/* Whether this host can run it. */
static inline bool world_engine_works(const char *engine)
{
    struct world w;
    world_open(&w);
    uint32_t nothing[4] = {0};
    world_give(&w, &w.config.firmware, nothing, sizeof(nothing));
    free(w.config.engine);
    w.config.engine = strdup(engine);
    w.vm = vm_new(&w.config, &w.env, &w.err);
    bool works = w.vm != NULL;
    error_free(w.err);
    w.err = NULL;
    world_close(&w);
    return works;
}

#endif
