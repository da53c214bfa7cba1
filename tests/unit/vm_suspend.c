/* SPDX-License-Identifier: MIT
 *
 * migrate/save.h: machines that are suspended into a file and go on from it. The oracle is a
 * deterministic machine: one that was suspended ends exactly as one that was not.
 */
#include "vm_busy.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/vclock.h"
#include "block/chain.h"
#include "block/image.h"
#include "migrate/image_internal.h"
#include "migrate/save.h"

/* ---- suspending ---- */

struct suspended {
    struct world w;
    struct save_options options;
    struct save *save;
    int fd;
    bool saved;
};

/* It would be at its end before anybody could pause it. */
static void save_at_once(struct suspended *s)
{
    vm_hold_begin(s->w.vm);
    assert_true(vm_start(s->w.vm, &s->w.err));
    s->save = save_begin(s->w.vm, s->fd, &s->options, &s->w.err);
    assert_non_null(s->save);
    vm_release(s->w.vm);
}

static void on_saved(void *opaque, const struct error *error)
{
    struct suspended *s = opaque;
    assert_null(error);
    s->saved = true;
    save_free(s->save);
    s->save = NULL;
    vm_quit_suspended(s->w.vm);
}

static void suspend_now(void *opaque)
{
    struct suspended *s = opaque;
    assert_true(vm_pause(s->w.vm, &s->w.err));
    s->save = save_begin(s->w.vm, s->fd, &s->options, &s->w.err);
    assert_no_error(s->w.err);
    assert_non_null(s->save);
    assert_false(save_was_running(s->save));
}

static void hold_here(void *opaque) /* on the vCPUs' thread, and not an instruction further */
{
    struct suspended *s = opaque;
    vm_hold_begin(s->w.vm);
    loop_post(s->w.env.loop, suspend_now, s);
}

/* The file of the busy machine as it is at `stop_ns` of its time. */
static int suspend_busy_at(int64_t stop_ns, const char *engine, bool compress)
{
    struct suspended s = {
        .options = {.compress = compress, .folder = "/", .done = on_saved, .opaque = &s}};
    s.fd = memfd_create("saved", MFD_CLOEXEC);
    open_busy_with(&s.w, 1, engine);
    struct vtimer *timer = vtimer_new(s.w.vm->clock, hold_here, &s);
    vtimer_arm(timer, stop_ns);
    world_run(&s.w);
    assert_int_equal(s.w.end, VM_END_SUSPENDED);
    assert_true(s.saved);
    vtimer_free(timer);
    world_close(&s.w);
    return s.fd;
}

/* ---- going on ---- */

struct resumed {
    struct world w;
    struct resume *resume;
    char lost[200];
    unsigned losses;
};

static void on_lost(void *opaque, const struct error *error)
{
    struct resumed *r = opaque;
    snprintf(r->lost, sizeof(r->lost), "%s", error_message(error));
    r->losses++;
    vm_quit(r->w.vm);
}

/* Takes fd over. */
static void begin(struct resumed *r, int fd, bool map)
{
    struct saved_image image;
    const struct resume_options options = {.map = map, .lost = on_lost, .opaque = r};
    r->losses = 0;
    r->lost[0] = '\0';
    assert_true(saved_open(&image, fd, SAVED_ALL, &r->w.err));
    r->resume = resume_begin(r->w.vm, &image, &options, &r->w.err);
    saved_clear(&image);
    if (r->resume == NULL)
        close(fd);
}

static void end(struct resumed *r)
{
    resume_stop(r->resume);
    /* world_close() frees the machine, and that must come first. */
    vm_free(r->w.vm);
    r->w.vm = NULL;
    resume_free(r->resume);
    world_close(&r->w);
}

static const char *const engines[] = {"interp", "dbt"};

static void run_on(int fd, bool map, const char *engine, uint64_t whole)
{
    struct resumed r;
    open_busy_with(&r.w, 99, engine); /* its own seed is forgotten */
    begin(&r, fd, map);
    assert_no_error(r.w.err);
    assert_non_null(r.resume);
    world_run(&r.w);
    assert_int_equal(r.w.end, VM_END_POWEROFF);
    assert_int_equal(r.losses, 0);
    assert_true(machine_hash(r.w.vm) == whole);
    end(&r);
}

static uint64_t run_whole(const char *engine, int64_t *time)
{
    struct world w;
    struct vm_status status;
    open_busy_with(&w, 1, engine);
    world_run(&w);
    uint64_t hash = machine_hash(w.vm);
    vm_get_status(w.vm, &status);
    *time = status.virtual_time_ns;
    world_close(&w);
    return hash;
}

static void wherever_it_is_suspended_it_ends_the_same(void **state)
{
    (void)state;
    const size_t count = world_engine_works("dbt") ? 2 : 1;
    const int64_t moments = (int64_t)tier_count(8, 100);
    int64_t time;
    uint64_t whole = run_whole("interp", &time);
    for (int64_t part = 1; part < moments; part++) {
        size_t n = (size_t)part;
        const char *from = engines[n % count], *to = engines[n / 2 % count];
        int fd = suspend_busy_at(time * part / moments, from, n % 3 == 2);
        run_on(fd, n % 3 == 1, to, whole);
    }
}

/* Of a file that goes on, another one is made. */
static void it_can_be_suspended_again(void **state)
{
    (void)state;
    int64_t time;
    uint64_t whole = run_whole("interp", &time);
    for (int compress = 0; compress < 2; compress++) {
        struct suspended s = {
            .options = {.compress = compress != 0, .folder = "/", .done = on_saved, .opaque = &s}};
        struct resumed r;
        s.fd = memfd_create("again", MFD_CLOEXEC);
        open_busy_with(&r.w, 1, "interp");
        begin(&r, suspend_busy_at(time / 3, "interp", compress != 0), false);
        assert_non_null(r.resume);
        /* At once: most of its memory has never been wanted. */
        s.save = save_begin(r.w.vm, s.fd, &s.options, &r.w.err);
        assert_null(s.save); /* it has not been started */
        assert_error(&r.w.err, ERROR_USAGE, "created");
        s.w.vm = r.w.vm;
        save_at_once(&s);
        loop_run(r.w.env.loop);
        assert_true(s.saved);
        end(&r);
        run_on(s.fd, false, "interp", whole);
    }
}

/* ---- memory in a file of its own ---- */

/* All of its memory at one moment; at a later one what has changed, twice, as the first time is not kept. */
struct apart {
    struct world w;
    struct save_options options;
    struct save *save;
    struct vtimer *timer;
    int states[3], memory, unkept;
    unsigned saves;
    int64_t later;
};

static void save_apart(struct apart *a)
{
    a->options.changes = a->saves > 0;
    a->options.memory_file = a->saves == 1 ? a->unkept : a->memory;
    a->save = save_begin(a->w.vm, a->states[a->saves], &a->options, &a->w.err);
    assert_no_error(a->w.err);
}

static void save_apart_now(void *opaque)
{
    struct apart *a = opaque;
    assert_true(vm_pause(a->w.vm, &a->w.err));
    vm_release(a->w.vm);
    save_apart(a);
}

static void hold_apart(void *opaque)
{
    struct apart *a = opaque;
    vm_hold_begin(a->w.vm);
    loop_post(a->w.env.loop, save_apart_now, a);
}

static void on_saved_apart(void *opaque, const struct error *error)
{
    struct apart *a = opaque;
    assert_null(error);
    if (a->saves != 1)
        save_keep(a->save, true);
    save_free(a->save);
    a->save = NULL;
    if (++a->saves == 3) {
        vm_quit_suspended(a->w.vm);
    } else if (a->saves == 2) {
        save_apart(a);
    } else {
        vtimer_arm(a->timer, a->later);
        assert_true(vm_resume(a->w.vm, &a->w.err));
    }
}

static off_t size_of(int fd, bool on_disk)
{
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    return on_disk ? status.st_blocks * 512 : status.st_size;
}

static struct saved_image open_apart(int state, int memory)
{
    struct saved_image image;
    struct error *err = NULL;
    assert_true(saved_open(&image, state, SAVED_ALL, &err));
    assert_true(image.apart && image.memory == -1);
    assert_true(saved_set_memory(&image, memory, &err));
    return image;
}

static void goes_on_from_apart(const struct apart *a, bool map, const char *engine, uint64_t whole)
{
    struct resumed r;
    const struct resume_options options = {.map = map, .lost = on_lost, .opaque = &r};
    struct saved_image image = open_apart(dup(a->states[2]), dup(a->memory));
    r.losses = 0;
    open_busy_with(&r.w, 99, engine);
    r.resume = resume_begin(r.w.vm, &image, &options, &r.w.err);
    assert_no_error(r.w.err);
    world_run(&r.w);
    assert_int_equal(r.losses, 0);
    assert_true(machine_hash(r.w.vm) == whole);
    end(&r);
}

static void memory_apart_and_its_changes(void **state)
{
    (void)state;
    int64_t time;
    uint64_t whole = run_whole("interp", &time);
    struct apart a = {.options = {.apart = true, .folder = "/", .done = on_saved_apart, .opaque = &a},
                      .memory = memfd_create("memory", MFD_CLOEXEC),
                      .unkept = memfd_create("unkept", MFD_CLOEXEC),
                      .later = time / 2};
    for (size_t i = 0; i < ARRAY_SIZE(a.states); i++)
        a.states[i] = memfd_create("state", MFD_CLOEXEC);
    assert_int_equal(write(a.memory, "what was there before", 21), 21);
    open_busy_with(&a.w, 1, "interp");
    a.timer = vtimer_new(a.w.vm->clock, hold_apart, &a);
    vtimer_arm(a.timer, time / 4);
    world_run(&a.w);
    assert_int_equal(a.w.end, VM_END_SUSPENDED);
    assert_int_equal(a.saves, 3);
    off_t ram = (off_t)vm_config(a.w.vm)->memory;
    assert_true(size_of(a.memory, false) == ram && size_of(a.unkept, false) == ram);
    assert_true(size_of(a.unkept, true) > 0 && size_of(a.unkept, true) < size_of(a.memory, true));
    vtimer_free(a.timer);
    world_close(&a.w);
    goes_on_from_apart(&a, true, "interp", whole);
    goes_on_from_apart(&a, false, "interp", whole);
    if (world_engine_works("dbt"))
        goes_on_from_apart(&a, true, "dbt", whole);
    /* Memory that is another one: with other contents, and of another size. */
    struct saved_image image = open_apart(a.states[1], a.memory);
    void *chunk = malloc(image.chunk_size);
    struct error *err = NULL;
    bool same = true;
    image.memory = a.unkept;
    for (size_t i = 0; i < image.chunk_count; i++)
        same = saved_read_chunk(&image, i, chunk, chunk, NULL) && same;
    assert_false(same);
    assert_int_equal(ftruncate(a.unkept, ram - 1), 0);
    assert_false(saved_set_memory(&image, a.unkept, &err));
    assert_error(&err, ERROR_HOST, "not as large");
    free(chunk);
    saved_clear(&image);
    for (size_t i = 0; i < ARRAY_SIZE(a.states); i++)
        close(a.states[i]);
    close(a.memory);
    close(a.unkept);
}

static void called_off_it_runs_on(void **state)
{
    (void)state;
    int64_t time;
    uint64_t whole = run_whole("interp", &time);
    struct suspended s = {.options = {.folder = "/", .done = on_saved, .opaque = &s}};
    s.fd = memfd_create("saved", MFD_CLOEXEC);
    open_busy_with(&s.w, 1, "interp");
    save_at_once(&s);
    assert_true(save_was_running(s.save));
    assert_int_equal(vm_state(s.w.vm), VM_PAUSED);
    save_free(s.save);
    assert_true(vm_resume(s.w.vm, &s.w.err));
    loop_run(s.w.env.loop);
    assert_int_equal(s.w.end, VM_END_POWEROFF);
    assert_true(machine_hash(s.w.vm) == whole);
    world_close(&s.w);
    close(s.fd);
}

/* What a file that cannot be written leaves: a machine that goes on, and a sentence. */
static void on_failed(void *opaque, const struct error *error)
{
    struct suspended *s = opaque;
    assert_non_null(error);
    assert_non_null(strstr(error_message(error), "cannot write"));
    save_free(s->save);
    s->save = NULL;
    assert_true(vm_resume(s->w.vm, &s->w.err));
}

static void a_full_disk_is_a_sentence(void **state)
{
    (void)state;
    struct suspended s = {.options = {.folder = "/", .done = on_failed, .opaque = &s}};
    open_busy_with(&s.w, 1, "interp");
    s.fd = open("/dev/full", O_RDWR | O_CLOEXEC);
    save_at_once(&s);
    loop_run(s.w.env.loop);
    assert_int_equal(s.w.end, VM_END_POWEROFF);
    world_close(&s.w);
    close(s.fd);
}

/* ---- what does not fit, and what is damaged ---- */

static void another_machine_is_refused(void **state)
{
    (void)state;
    static const struct {
        uint64_t memory;
        unsigned cpus;
        bool balloon;
        const char *says;
    } cases[] = {
        {96 * MIB, 2, false, "ram "},
        {64 * MIB, 3, false, "harts 2"},
        {64 * MIB, 2, true, "balloon"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct resumed r;
        world_open(&r.w);
        world_give(&r.w, &r.w.config.firmware, busy, sizeof(busy));
        r.w.config.deterministic = true;
        r.w.config.memory = cases[i].memory;
        r.w.config.cpus = cases[i].cpus;
        r.w.config.balloon = cases[i].balloon;
        world_make(&r.w);
        begin(&r, suspend_busy_at(1000000, "interp", false), false);
        assert_null(r.resume);
        assert_error(&r.w.err, ERROR_USAGE, cases[i].says);
        end(&r);
    }
}

static void layouts_are_compared(void **state)
{
    (void)state;
    struct error *err = NULL;
    const char *ours = "isa rv64imac_zba_zbb_zicsr\nharts 1\n";
    assert_true(vm_fits_layout(ours, ours, &err));
    assert_true(vm_fits_layout(ours, "isa rv64imac_zba_zicsr\nharts 1\n", &err));
    assert_false(vm_fits_layout(ours, "isa rv64imac_zba_zbs\nharts 1\n", &err));
    assert_error(&err, ERROR_USAGE, "may use 'zbs', which");
    assert_false(vm_fits_layout(ours, "isa rv64imac_zbs_zba_zb_zbc\nharts 1\n", &err));
    assert_error(&err, ERROR_USAGE, "may use 'zbs', 'zb', 'zbc', which");
    assert_false(vm_fits_layout(ours, "isa rv64imac_zb\nharts 1\n", &err));
    assert_error(&err, ERROR_USAGE, "zb");
    assert_false(vm_fits_layout(ours, "isa rv64imacv_zba\nharts 1\n", &err));
    assert_error(&err, ERROR_USAGE, "rv64imacv");
    assert_false(vm_fits_layout(ours, "isa rv64imac\nharts 1\ndevice net0 e1000\n", &err));
    assert_error(&err, ERROR_USAGE, "net0");
    assert_false(vm_fits_layout(ours, "isa rv64imac\n", &err));
    assert_error(&err, ERROR_USAGE, "harts 1");
}

static void flip(int fd, uint64_t at)
{
    uint8_t byte;
    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
}

/* `first`: of what the guest runs, so that it is the guest that wants it; else nobody but the thread in
 * the background does. */
static void damage(bool first, bool compress, bool map)
{
    struct saved_image image;
    struct error *err = NULL;
    int fd = suspend_busy_at(1000000, "interp", compress);
    assert_true(saved_open(&image, fd, SAVED_ALL, &err));
    size_t index = first ? 0 : image.chunk_count - 1;
    while (image.chunks[index].kind == SAVED_ZERO)
        index--;
    assert_true(first == (index == 0));
    flip(fd, image.chunks[index].at + image.chunks[index].stored / 2);
    saved_clear(&image);
    struct resumed r;
    open_busy_with(&r.w, 1, "interp");
    begin(&r, fd, map);
    assert_non_null(r.resume);
    if (first)
        assert_true(vm_start(r.w.vm, &r.w.err));
    loop_run(r.w.env.loop);
    assert_int_equal(r.losses, 1);
    assert_non_null(strstr(r.lost, "damaged"));
    assert_int_equal(r.w.end, VM_END_QUIT);
    end(&r);
}

static void damaged_memory_ends_the_machine(void **state)
{
    (void)state;
    for (int first = 0; first < 2; first++) {
        damage(first != 0, false, false);
        damage(first != 0, false, true);
        damage(first != 0, true, false);
    }
}

/* Before any of it is read: nothing of a damaged page gets to the guest. */
static void damaged_memory_is_never_seen(void **state)
{
    (void)state;
    struct resumed r;
    uint8_t byte;
    int fd = suspend_busy_at(1000000, "interp", false);
    flip(fd, SAVED_HEADER + (DATA_GPA - RAM));
    open_busy_with(&r.w, 1, "interp");
    begin(&r, fd, false);
    if (r.resume == NULL) { /* the thread in the background was faster */
        assert_error(&r.w.err, ERROR_HOST, "damaged");
    } else {
        assert_false(mem_read(r.w.vm->mem, DATA_GPA, &byte, 1));
        assert_null(mem_ram_pointer(r.w.vm->mem, DATA_GPA, 8, MEM_WRITE));
    }
    end(&r);
}

/* The header's own checksum put right after it was changed. */
static void seal(int fd)
{
    uint8_t header[SAVED_HEADER];
    assert_int_equal(pread(fd, header, sizeof(header), 0), SAVED_HEADER);
    store_le64(header + HEADER_HASH, XXH3_64bits(header, HEADER_HASH));
    assert_int_equal(pwrite(fd, header, sizeof(header), 0), SAVED_HEADER);
}

static void damaged_files_are_refused(void **state)
{
    (void)state;
    static const struct {
        unsigned at, size;
        uint64_t value;
        bool sealed;
        const char *says;
    } cases[] = {
        {0, 1, 0, true, "no suspended machine"},
        {HEADER_VERSION, 4, 1, false, "checksum"},
        {HEADER_VERSION, 4, 2, true, "version 2"},
        {HEADER_FLAGS, 4, 4, true, "flags"},
        {HEADER_FILE_SIZE, 8, 1 << 20, true, "cut off"},
        {HEADER_CHUNK_SIZE, 4, 3000, true, "impossible size"},
        {HEADER_CHUNK_SIZE, 4, 1 << 21, true, "impossible size"},
        {HEADER_REGION_COUNT, 4, 0, true, "number of memory regions"},
        {HEADER_REGION_COUNT, 4, 17, true, "number of memory regions"},
        {HEADER_DATA_AT, 8, 4097, true, "outside of its file"},
        {HEADER_DATA_SIZE, 8, UINT64_MAX - 4095, true, "outside of its file"},
        {HEADER_REGIONS + 8, 8, 1 << 24, true, "less memory"},
        {HEADER_REGIONS, 8, UINT64_MAX - 4095, true, "impossible memory region"},
        {HEADER_SECTIONS, 8, UINT64_MAX, true, "outside of its file"},
        {HEADER_SECTIONS + 24 * SAVED_CHUNKS + 8, 8, 24, true, "outside of its file"},
        {HEADER_SECTIONS + 24 * SAVED_STATE + 16, 8, 1, true, "checksum"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int fd = suspend_busy_at(1000000, "interp", false);
        struct saved_image image;
        struct error *err = NULL;
        uint8_t bytes[8], before[8];
        store_le64(bytes, cases[i].value);
        assert_int_equal(pread(fd, before, 8, cases[i].at), 8);
        assert_int_equal(pwrite(fd, bytes, cases[i].size, cases[i].at), cases[i].size);
        if (cases[i].sealed)
            seal(fd);
        else
            flip(fd, HEADER_HASH);
        assert_false(saved_open(&image, fd, SAVED_ALL, &err));
        assert_error(&err, ERROR_HOST, cases[i].says);
        saved_clear(&image);
        close(fd);
    }
    int fd = suspend_busy_at(1000000, "interp", true);
    struct saved_image image;
    struct error *err = NULL;
    assert_int_equal(ftruncate(fd, lseek(fd, 0, SEEK_END) - 1), 0);
    assert_false(saved_open(&image, fd, SAVED_DESCRIPTION, &err));
    assert_error(&err, ERROR_HOST, "cut off");
    saved_clear(&image);
    close(fd);
}

/* ---- time ---- */

static void real_time_goes_on_meanwhile(void **state)
{
    (void)state;
    struct suspended s = {.options = {.folder = "/", .done = on_saved, .opaque = &s}};
    struct resumed r;
    struct saved_image image;
    struct error *err = NULL;
    const int64_t hour = 3600 * NS_PER_S;
    s.fd = memfd_create("saved", MFD_CLOEXEC);
    world_open(&s.w);
    world_give(&s.w, &s.w.config.firmware, busy, sizeof(busy));
    world_make(&s.w);
    save_at_once(&s);
    int64_t wall = vclock_wall_now(s.w.vm->clock), now = vclock_now(s.w.vm->clock);
    loop_run(s.w.env.loop);
    world_close(&s.w);

    assert_true(saved_open(&image, s.fd, SAVED_ALL, &err));
    image.saved_at -= (uint64_t)hour;
    const struct resume_options options = {.lost = on_lost, .opaque = &r};
    world_open(&r.w);
    world_give(&r.w, &r.w.config.firmware, busy, sizeof(busy));
    world_make(&r.w);
    r.resume = resume_begin(r.w.vm, &image, &options, &err);
    assert_no_error(err);
    assert_true(vclock_now(r.w.vm->clock) == now);
    assert_true(vclock_wall_now(r.w.vm->clock) >= wall + hour);
    end(&r);
}

/* ---- the file ---- */

#define GPA_A UINT64_C(0x10000)
#define GPA_B UINT64_C(0x80000000)
enum { SIZE_A = 12 * 4096, SIZE_B = 3 * SAVED_CHUNK + 4096 };

static uint8_t *pattern;

static const uint8_t *pattern_memory(void *opaque, uint64_t gpa, uint32_t size)
{
    (void)opaque;
    uint64_t at = gpa >= GPA_B ? SIZE_A + (gpa - GPA_B) : gpa - GPA_A;
    assert_true(at + size <= SIZE_A + SIZE_B);
    return pattern + at;
}

static void memory_comes_back_chunk_by_chunk(void **state)
{
    (void)state;
    uint64_t seed = 1;
    pattern = calloc(1, SIZE_A + SIZE_B);
    for (size_t i = 0; i < SIZE_A + SIZE_B; i++) /* one chunk and a page stay zeroes */
        if (i / SAVED_CHUNK != 1 && i / 4096 != 3)
            pattern[i] = (uint8_t)(i / SAVED_CHUNK == 2 ? random_next(&seed) : i / 100);
    for (unsigned threads = 1; threads <= 8; threads *= 8)
        for (int compress = 0; compress < 2; compress++) {
            struct saved_source source = {.compress = compress != 0,
                                          .regions = {{GPA_A, SIZE_A}, {GPA_B, SIZE_B}},
                                          .region_count = 2,
                                          .sections = {{"m", 1}, {"l", 1}, {"", 0}, {"state", 5}},
                                          .memory = pattern_memory,
                                          .threads = threads};
            struct error *err = NULL;
            struct saved_image image;
            int fd = memfd_create("saved", MFD_CLOEXEC);
            uint8_t *chunk = malloc(SAVED_CHUNK), *scratch = malloc(SAVED_CHUNK);
            assert_true(saved_write(fd, &source, &err));
            assert_true(saved_open(&image, fd, SAVED_ALL, &err));
            assert_int_equal(image.chunk_count, 5);
            assert_string_equal((char *)image.sections[SAVED_STATE].data, "state");
            size_t at = 0;
            for (size_t i = 0; i < image.chunk_count; i++) {
                uint32_t size = saved_chunk_size(&image, i);
                assert_true(saved_read_chunk(&image, i, chunk, scratch, &err));
                assert_memory_equal(chunk, pattern + at, size);
                assert_true(saved_check_chunk(&image, i, chunk) || compress);
                if (!compress && image.chunks[i].kind == SAVED_RAW)
                    assert_true(image.chunks[i].at == SAVED_HEADER + at);
                at += size;
            }
            assert_int_equal(at, SIZE_A + SIZE_B);
            free(chunk);
            free(scratch);
            saved_clear(&image);
            close(fd);
        }
    free(pattern);
}

/* ---- disks ---- */

static bool disks_fit(const char *then, int fd, struct error **err)
{
    struct saved_image image = {.sections[SAVED_DISKS].data = (uint8_t *)(uintptr_t)then};
    struct block_chain chain = {.fds = {fd}, .count = fd >= 0};
    return saved_check_disks(&image, &chain, 1, err);
}

static void a_disk_that_changed_is_refused(void **state)
{
    (void)state;
    struct error *err = NULL;
    char path[] = "/tmp/trapeze-disk-XXXXXX";
    int fd = mkstemp(path);
    const struct timespec times[2] = {{1000, 123456789}, {1000, 123456789}};
    assert_int_equal(ftruncate(fd, 65536), 0);
    struct block_file *file = block_file_new(dup(fd), false, BLOCK_CACHE_WRITEBACK, &err);
    const struct block_image_options options = {.format = "raw"};
    struct block_image *image = block_image_open(file, path, &options, &err);
    assert_non_null(image);
    futimens(fd, times);
    char *then = saved_describe_disks(&image, 1);
    assert_string_equal(then, "0 65536@1000.123456789\n");
    assert_true(disks_fit(then, fd, &err));
    const struct timespec coarse[2] = {{1000, 0}, {1000, 0}}; /* as tar keeps it */
    futimens(fd, coarse);
    assert_true(disks_fit(then, fd, &err));
    const struct timespec later[2] = {{1000, 123456790}, {1000, 123456790}};
    futimens(fd, later);
    assert_false(disks_fit(then, fd, &err));
    assert_error(&err, ERROR_USAGE, "disk 0 is not as it was");
    futimens(fd, times);
    assert_int_equal(ftruncate(fd, 65537), 0);
    futimens(fd, times);
    assert_false(disks_fit(then, fd, &err));
    assert_error(&err, ERROR_USAGE, "disk 0");
    assert_false(disks_fit(then, -1, &err));
    assert_error(&err, ERROR_USAGE, "disk 0");
    free(then);
    block_image_close(image);
    close(fd);
    unlink(path);
}

/* ---- what other versions saved ---- */

/* Written by the version that is in its name; a later one must still let it go on. To add one:
 * TRAPEZE_NEW_GOLDEN=FILE vm_suspend */
static void what_other_versions_saved_goes_on(void **state)
{
    (void)state;
    static const char *const names[] = {"format1-2026-11.vmss"};
    const char *source = getenv("TRAPEZE_SOURCE"), *new = getenv("TRAPEZE_NEW_GOLDEN");
    if (new != NULL) {
        int fd = suspend_busy_at(1000000, "interp", true);
        uint8_t *bytes = malloc(MIB);
        ssize_t size = pread(fd, bytes, MIB, 0);
        FILE *out = fopen(new, "wb");
        assert_int_equal(fwrite(bytes, 1, (size_t)size, out), size);
        fclose(out);
        free(bytes);
        close(fd);
    }
    if (source == NULL)
        skip();
    struct world w;
    open_busy_with(&w, 1, "interp");
    world_run(&w);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        char path[400];
        struct resumed r;
        snprintf(path, sizeof(path), "%s/tests/unit/golden/%s", source, names[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        open_busy_with(&r.w, 1, "interp");
        begin(&r, fd, false);
        assert_no_error(r.w.err);
        world_run(&r.w);
        assert_int_equal(r.w.end, VM_END_POWEROFF);
        assert_true(guest_word(&r.w, DATA_GPA) == guest_word(&w, DATA_GPA));
        assert_true(guest_word(&r.w, DATA_GPA + 64) == guest_word(&w, DATA_GPA + 64));
        end(&r);
    }
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_comes_back_chunk_by_chunk),
        cmocka_unit_test(wherever_it_is_suspended_it_ends_the_same),
        cmocka_unit_test(it_can_be_suspended_again),
        cmocka_unit_test(memory_apart_and_its_changes),
        cmocka_unit_test(called_off_it_runs_on),
        cmocka_unit_test(a_full_disk_is_a_sentence),
        cmocka_unit_test(another_machine_is_refused),
        cmocka_unit_test(layouts_are_compared),
        cmocka_unit_test(damaged_memory_ends_the_machine),
        cmocka_unit_test(damaged_memory_is_never_seen),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(real_time_goes_on_meanwhile),
        cmocka_unit_test(a_disk_that_changed_is_refused),
        cmocka_unit_test(what_other_versions_saved_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
