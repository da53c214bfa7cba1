/* SPDX-License-Identifier: MIT
 *
 * See save.h. A machine that is to end stands still while its memory is written, so that nothing has to be
 * copied.
 */
#include "migrate/save.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/state.h"
#include "config/vmx.h"
#include "mem/mem.h"
#include "vm/fork.h"
#include "vm/vm.h"

struct save {
    struct vm *vm;
    struct save_options options;
    int fd;
    bool was_running;
    struct saved_source source;
    char *machine, *layout, *disks; /* sections */
    struct state_buffer state;
    uint64_t *changed[SAVED_MAX_REGIONS]; /* apart: taken from the dirty log, until it is kept */
    pthread_t thread;
    bool has_thread;
    _Atomic bool stop;
    struct error *error;
};

static const uint8_t *memory(void *opaque, uint64_t gpa, uint32_t size)
{
    struct save *save = opaque;
    return mem_ram_pointer(vm_memory(save->vm), gpa, size, MEM_READ);
}

static bool go_on(void *opaque, uint64_t done, uint64_t total)
{
    struct save *save = opaque;
    if (save->options.progress != NULL)
        save->options.progress(save->options.opaque, done, total);
    return !atomic_load(&save->stop);
}

static void on_done(void *opaque)
{
    struct save *save = opaque;
    save->options.done(save->options.opaque, save->error);
}

static void *write_all(void *opaque)
{
    struct save *save = opaque;
    (void)saved_write(save->fd, &save->source, &save->error);
    loop_post(vm_loop(save->vm), on_done, save);
    return NULL;
}

/* What `trapeze run` would be told to get the same machine, wherever that is done. */
static char *describe_machine(struct vm *vm, const char *folder, size_t *size, struct error **err)
{
    size_t now_size;
    struct machine_config config;
    vm_describe(vm, &config);
    char *now = vmx_write(&config, &now_size), *text = NULL;
    machine_config_clear(&config);
    machine_config_init(&config);
    if (now != NULL && vmx_parse(now, now_size, "configuration", &config, err)) {
        vmx_resolve(&config, folder);
        free(config.interrupts);
        config.interrupts = alloc_string(vm_interrupts(vm));
        text = vmx_write(&config, size);
    }
    machine_config_clear(&config);
    free(now);
    return text;
}

static void fill_source(struct save *save)
{
    struct saved_source *source = &save->source;
    struct mem_space *mem = vm_memory(save->vm);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    *source = (struct saved_source){.compress = save->options.compress,
                                    .apart = save->options.apart,
                                    .memory_file = save->options.memory_file,
                                    .memory = memory,
                                    .go_on = go_on,
                                    .opaque = save,
                                    .threads = cores > 1 ? (unsigned)cores : 1};
    for (size_t i = 0; i < mem_ram_count(mem) && i < SAVED_MAX_REGIONS; i++) {
        const struct mem_ram *ram = mem_ram_at(mem, i);
        source->regions[source->region_count++] = (struct saved_region){ram->gpa, ram->size};
    }
}

static void set_section(struct save *save, enum saved_section section, const void *data, size_t size)
{
    save->source.sections[section].data = data;
    save->source.sections[section].size = size;
}

/* What does not change while the machine runs, unless it is asked to do something else. */
static bool describe(struct save *save, struct error **err)
{
    size_t size = 0;
    fill_source(save);
    save->machine = describe_machine(save->vm, save->options.folder, &size, err);
    if (save->machine == NULL)
        return false;
    save->layout = vm_layout(save->vm);
    set_section(save, SAVED_MACHINE, save->machine, size);
    set_section(save, SAVED_LAYOUT, save->layout, strlen(save->layout));
    return true;
}

static bool gather(struct save *save, struct error **err)
{
    struct block_image *images[MACHINE_MAX_DISKS];
    size_t order[MACHINE_MAX_DISKS], count = vm_disk_order(save->vm, order);
    if (!vm_disks_flush(save->vm, err))
        return false;
    for (size_t i = 0; i < count; i++)
        images[i] = vm_disk_image(save->vm, order[i]);
    save->disks = saved_describe_disks(images, count);
    if (save->disks == NULL)
        return error_set(err, ERROR_HOST, "the host is out of memory");
    vm_save_state(save->vm, &save->state);
    set_section(save, SAVED_DISKS, save->disks, strlen(save->disks));
    set_section(save, SAVED_STATE, save->state.data, save->state.size);
    return true;
}

/* From here on the log counts anew, unless this is not kept. Memory that comes late is no change. */
static void take_changes(struct save *save)
{
    struct mem_space *mem = vm_memory(save->vm);
    for (size_t i = 0; i < save->source.region_count; i++) {
        struct mem_ram *ram = mem_ram_at(mem, i);
        save->changed[i] = alloc_zeroed((size_t)(ram->size / MEM_PAGE_SIZE + 63) / 64, 8);
        (void)mem_dirty_take(mem, ram, ram->gpa, ram->size, save->changed[i]);
    }
    if (save->options.changes)
        save->source.changed = (const uint64_t *const *)save->changed;
}

/* As if it had never been taken. */
static void give_changes_back(struct save *save)
{
    struct mem_space *mem = vm_memory(save->vm);
    for (size_t i = 0; i < SAVED_MAX_REGIONS && save->changed[i] != NULL; i++) {
        const struct mem_ram *ram = mem_ram_at(mem, i);
        for (uint64_t page = 0; page < ram->size / MEM_PAGE_SIZE; page++)
            if (save->changed[i][page / 64] >> page % 64 & 1)
                mem_note_range(mem, ram->gpa + page * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
    }
}

static void forget_changes(struct save *save)
{
    for (size_t i = 0; i < SAVED_MAX_REGIONS; i++) {
        free(save->changed[i]);
        save->changed[i] = NULL;
    }
}

void save_keep(struct save *save, bool track)
{
    forget_changes(save);
    if (!track)
        mem_dirty_stop(vm_memory(save->vm));
}

static bool can_be_saved(const struct save *save, struct error **err)
{
    if (vm_state(save->vm) != VM_RUNNING && vm_state(save->vm) != VM_PAUSED)
        return error_set(err, ERROR_USAGE, "a machine that is %s cannot be suspended",
                         vm_state_name(vm_state(save->vm)));
    return vm_can_be_saved(save->vm, err);
}

static bool begin(struct save *save, struct error **err)
{
    if (!can_be_saved(save, err))
        return false;
    save->was_running = vm_state(save->vm) == VM_RUNNING;
    if (save->was_running && !vm_pause(save->vm, err)) {
        save->was_running = false;
        return false;
    }
    if (!describe(save, err) || !gather(save, err))
        return false;
    if (save->options.apart)
        take_changes(save);
    int error = pthread_create(&save->thread, NULL, write_all, save);
    save->has_thread = error == 0;
    return error == 0 || error_set_errno(err, error, "cannot start a thread");
}

static struct save *save_new(struct vm *vm, int fd, const struct save_options *options)
{
    struct save *save = alloc_zeroed(1, sizeof(*save));
    save->vm = vm;
    save->fd = fd;
    save->options = *options;
    return save;
}

struct save *save_begin(struct vm *vm, int fd, const struct save_options *options,
                        struct error **err)
{
    struct save *save = save_new(vm, fd, options);
    if (begin(save, err))
        return save;
    if (save->was_running)
        (void)vm_resume(vm, NULL);
    save_free(save);
    return NULL;
}

/* In the copy. */
static void write_and_tell(void *opaque)
{
    struct save *save = opaque;
    (void)saved_write(save->fd, &save->source, &save->error);
    on_done(save);
}

struct save *save_prepare(struct vm *vm, int fd, const struct save_options *options,
                          struct error **err)
{
    struct save *save = save_new(vm, fd, options);
    if (can_be_saved(save, err) && describe(save, err))
        return save;
    save_free(save);
    return NULL;
}

bool save_copy(struct save *save, int talk, struct error **err)
{
    const int keep[] = {save->fd, talk};
    const struct vm_fork how = {
        .keep = keep, .keep_count = 2, .child = write_and_tell, .opaque = save};
    return gather(save, err) && vm_fork(save->vm, &how, err) > 0;
}

bool save_was_running(const struct save *save)
{
    return save->was_running;
}

void save_free(struct save *save)
{
    if (save == NULL)
        return;
    atomic_store(&save->stop, true);
    if (save->has_thread)
        pthread_join(save->thread, NULL);
    loop_cancel(vm_loop(save->vm), on_done, save);
    give_changes_back(save);
    forget_changes(save);
    state_buffer_free(&save->state);
    error_free(save->error);
    free(save->machine);
    free(save->layout);
    free(save->disks);
    free(save);
}
