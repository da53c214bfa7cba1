/* SPDX-License-Identifier: MIT
 *
 * vm/fork.h: copies of a machine's process. The oracle is a deterministic machine: a copy's memory
 * stays that of its moment, and the machine ends as if nothing had been.
 */
#include "vm_busy.h"

#include <dirent.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/vclock.h"
#include "vm/fork.h"

#define MOMENT_NS 300000

static uint64_t memory_hash(struct vm *vm)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    const struct mem_ram *ram = mem_ram_at(vm_memory(vm), 0);
    for (uint64_t at = 0; at < ram->size; at += 8)
        hash = (hash ^ load_le64(ram->host + at)) * UINT64_C(0x100000001b3);
    return hash;
}

static unsigned entries(const char *folder)
{
    unsigned count = 0;
    DIR *listing = opendir(folder);
    const struct dirent *entry;
    while (listing != NULL && (entry = readdir(listing)) != NULL)
        count += entry->d_name[0] != '.';
    if (listing != NULL)
        closedir(listing);
    return count;
}

/* What the copy says of itself. */
struct words {
    uint64_t hash, hash_by_thread;
    unsigned threads, descriptors;
};

struct forked {
    struct world w;
    int pair[2]; /* ours and the copy's end */
    pid_t pid;
    uint64_t hash, machine;
    bool paused;
};

static void *hash_it(void *opaque)
{
    struct forked *f = opaque;
    f->hash = memory_hash(f->w.vm);
    return NULL;
}

static void be_the_copy(void *opaque)
{
    struct forked *f = opaque;
    struct words words = {.threads = entries("/proc/self/task"),
                          .descriptors = entries("/proc/self/fd") - 1};
    pthread_t thread;
    char go;
    if (read(f->pair[1], &go, 1) != 1) /* the machine has long gone on */
        _exit(1);
    words.hash = memory_hash(f->w.vm);
    f->hash = 0;
    if (pthread_create(&thread, NULL, hash_it, f) != 0 || pthread_join(thread, NULL) != 0)
        _exit(1);
    words.hash_by_thread = f->hash;
    memset(f->w.vm->ram->host, 0x55, 1 << 20); /* its own affair */
    if (write(f->pair[1], &words, sizeof(words)) != sizeof(words))
        _exit(1);
}

static void copy_now(void *opaque)
{
    struct forked *f = opaque;
    const struct vm_fork how = {
        .keep = &f->pair[1], .keep_count = 1, .child = be_the_copy, .opaque = f};
    if (f->paused)
        assert_true(vm_pause(f->w.vm, &f->w.err));
    enum vm_state state = vm_state(f->w.vm);
    assert_true(vm_stand_still(f->w.vm, &f->w.err));
    assert_int_equal(vm_state(f->w.vm), state);
    f->hash = memory_hash(f->w.vm);
    f->pid = vm_fork(f->w.vm, &how, &f->w.err);
    assert_true(f->pid > 0);
    vm_go_on(f->w.vm);
    assert_int_equal(vm_state(f->w.vm), state);
    if (f->paused)
        assert_true(vm_resume(f->w.vm, &f->w.err));
}

static void let_go(void *opaque)
{
    struct forked *f = opaque;
    vm_release(f->w.vm);
}

static void hold_here(void *opaque) /* on the vCPUs' thread, and not an instruction further */
{
    struct forked *f = opaque;
    vm_hold_begin(f->w.vm);
    loop_post(f->w.env.loop, copy_now, f);
    loop_post(f->w.env.loop, let_go, f);
}

static uint64_t undisturbed(const char *engine)
{
    struct world w;
    open_busy_with(&w, 1, engine);
    world_run(&w);
    uint64_t hash = machine_hash(w.vm);
    world_close(&w);
    return hash;
}

static void copy_and_end(const char *engine, bool paused)
{
    struct forked f = {.paused = paused};
    struct words words = {0};
    int status;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, f.pair), 0);
    open_busy_with(&f.w, 1, engine);
    struct vtimer *timer = vtimer_new(f.w.vm->clock, hold_here, &f);
    vtimer_arm(timer, MOMENT_NS);
    world_run(&f.w);
    assert_int_equal(f.w.end, VM_END_POWEROFF);
    assert_true(memory_hash(f.w.vm) != f.hash);
    assert_true(machine_hash(f.w.vm) == undisturbed(engine));
    close(f.pair[1]);
    assert_int_equal(write(f.pair[0], "g", 1), 1);
    assert_int_equal(read(f.pair[0], &words, sizeof(words)), sizeof(words));
    assert_int_equal(words.threads, 1);
    assert_int_equal(words.descriptors, 3 + 1);
    assert_true(words.hash == f.hash);
    assert_true(words.hash_by_thread == f.hash);
    assert_int_equal(waitpid(f.pid, &status, 0), f.pid);
    assert_int_equal(status, 0);
    assert_true(machine_hash(f.w.vm) == undisturbed(engine));
    close(f.pair[0]);
    vtimer_free(timer);
    world_close(&f.w);
}

static void a_copy_keeps_its_moment(void **state)
{
    (void)state;
    copy_and_end("interp", false);
    copy_and_end("auto", false);
    copy_and_end("auto", true);
}

/* Harts with threads of their own, whose translations a copy does not have. */
static void many_copies_of_real_time(void **state)
{
    struct forked f = {.paused = false};
    (void)state;
    world_open(&f.w);
    static const uint32_t forever[] = {
        0x00010417, /* auipc s0,0x10 */
        0x00128293, /* 1: addi t0,t0,1 */
        0x00543023, /* sd t0,0(s0) */
        0xff9ff06f, /* j 1b */
    };
    world_give(&f.w, &f.w.config.firmware, forever, sizeof(forever));
    f.w.config.cpus = 2;
    f.w.config.memory = 32 * MIB;
    world_make(&f.w);
    assert_true(vm_start(f.w.vm, &f.w.err));
    for (unsigned i = 0; i < 4; i++) {
        struct words words = {0};
        int status;
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, f.pair), 0);
        copy_now(&f);
        uint64_t hash = f.hash;
        assert_int_equal(write(f.pair[0], "g", 1), 1);
        assert_int_equal(read(f.pair[0], &words, sizeof(words)), sizeof(words));
        assert_true(words.hash == hash);
        assert_int_equal(waitpid(f.pid, &status, 0), f.pid);
        assert_int_equal(status, 0);
        close(f.pair[0]);
        close(f.pair[1]);
    }
    vm_quit(f.w.vm);
    world_close(&f.w);
}

static void shared_memory_is_refused(void **state)
{
    struct world w;
    const struct vm_fork how = {.keep_count = 0};
    (void)state;
    world_open(&w);
    world_give(&w, &w.config.firmware, busy, sizeof(busy));
    w.config.ram_backend = MACHINE_RAM_MEMFD;
    world_make(&w);
    assert_false(vm_stand_still(w.vm, &w.err)); /* it has not begun */
    assert_error(&w.err, ERROR_USAGE, "created");
    assert_true(vm_start(w.vm, &w.err));
    assert_true(vm_stand_still(w.vm, &w.err));
    assert_int_equal(vm_fork(w.vm, &how, &w.err), -1);
    assert_error(&w.err, ERROR_USAGE, "memfd");
    vm_go_on(w.vm);
    vm_quit(w.vm);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_copy_keeps_its_moment),
        cmocka_unit_test(many_copies_of_real_time),
        cmocka_unit_test(shared_memory_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
