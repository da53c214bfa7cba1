/* SPDX-License-Identifier: MIT
 *
 * A machine whose dirty log is read all the time: a copy of its memory that is kept by the log
 * alone must be equal to it whenever it stands still. Also the machine of bench/dirty.py, without a
 * copy then.
 *
 *     dirty_log kernel=Image initrd=FILE append="..." engine=dbt cpus=4 memory=160
 *               disk=FILE disk=FILE every=5000 compare=20 seed=1
 *
 *     every=US    between two rounds, half to one and a half of it; 0: the log is not read
 *     compare=N   every ROUNDS rounds the machine is paused and compared, N times, half of them
 *                 after the guest has said `ready`; then it is ended. 0: nothing is copied, and
 *                 the guest ends by itself
 *     ready=TEXT  "witness-ready" unless given; a line with "-failed " ends the run at once
 *     iops=N      limit of the disk named last: its requests wait, known to the device
 *     frames=1    the NIC gets frames that nobody asked for, some of them long
 *     balloon=1   the guest is asked for a quarter of its memory, and gets it back, all the time
 *
 * The guest's console goes to standard output, and at the end a line with figures; cpu-s is CPU
 * time of this process since `ready`. Status 0: as told; 1: otherwise.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "block/chain.h"
#include "bus/backend.h"
#include "config/machine.h"
#include "mem/mem.h"
#include "net/link.h"
#include "vm/vm.h"

enum { ROUNDS = 20, TEXT = 256 };

static struct harness {
    struct machine_config config;
    struct vm_env env;
    struct log log;
    struct char_backend console;
    struct block_chain disks[MACHINE_MAX_DISKS];
    struct vm *vm;
    struct mem_space *mem;
    struct mem_ram *ram;
    uint64_t *bitmap;
    uint8_t *copy; /* of the RAM, by the log; NULL: none is kept */

    const char *ready;
    char tail[TEXT]; /* what the guest said last; the writing thread's, with the lock */
    pthread_mutex_t lock;
    _Atomic bool is_ready, failed, over;

    unsigned every_us, comparisons, frames, balloon;
    uint64_t random;
    sem_t compared;
    double cpu_when_ready;
    uint64_t rounds, pages, take_ns, take_most_ns;
    unsigned done;
    int peer; /* the other end of the NIC */
} h = {.lock = PTHREAD_MUTEX_INITIALIZER,
       .ready = "witness-ready",
       .random = 88172645463325252u,
       .peer = -1};

static uint64_t next_random(void)
{
    h.random ^= h.random << 13;
    h.random ^= h.random >> 7;
    h.random ^= h.random << 17;
    return h.random;
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static double cpu_time(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_utime.tv_sec + (double)usage.ru_utime.tv_usec * 1e-6 +
           (double)usage.ru_stime.tv_sec + (double)usage.ru_stime.tv_usec * 1e-6;
}

static void nap(uint64_t us)
{
    const struct timespec time = {(time_t)(us / 1000000), (long)(us % 1000000 * 1000)};
    nanosleep(&time, NULL);
}

static void __attribute__((noreturn)) give_up(const char *what, struct error *error)
{
    fprintf(stderr, "dirty_log: %s: %s\n", what,
            error != NULL ? error_message(error) : strerror(errno));
    exit(1);
}

/* ---- the console ---- */

static void heard(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        memmove(h.tail, h.tail + 1, TEXT - 2);
        h.tail[TEXT - 2] = (char)data[i];
        if (data[i] != '\n')
            continue;
        if (strstr(h.tail, h.ready) != NULL && !atomic_exchange(&h.is_ready, true))
            h.cpu_when_ready = cpu_time();
        if (strstr(h.tail, "-failed ") != NULL)
            atomic_store(&h.failed, true);
        memset(h.tail, ' ', TEXT - 1);
    }
}

static void console_write(struct char_backend *backend, const uint8_t *data, size_t size)
{
    (void)backend;
    pthread_mutex_lock(&h.lock);
    heard(data, size);
    fwrite(data, 1, size, stdout);
    fflush(stdout);
    pthread_mutex_unlock(&h.lock);
}

static void on_end(void *opaque, enum vm_end end, uint32_t code)
{
    (void)opaque, (void)code;
    atomic_store(&h.over, true);
    loop_quit(h.env.loop, end == VM_END_POWEROFF || end == VM_END_QUIT ? 0 : 1);
}

/* ---- the log ---- */

static void take(void)
{
    int64_t begun = now();
    uint64_t count = mem_dirty_take(h.mem, h.ram, h.ram->gpa, h.ram->size, h.bitmap);
    uint64_t took = (uint64_t)(now() - begun);
    h.rounds++;
    h.pages += count;
    h.take_ns += took;
    h.take_most_ns = took > h.take_most_ns ? took : h.take_most_ns;
    for (uint64_t page = 0; h.copy != NULL && page < h.ram->size >> MEM_PAGE_SHIFT; page++)
        if (h.bitmap[page / 64] >> page % 64 & 1)
            memcpy(h.copy + (page << MEM_PAGE_SHIFT), h.ram->host + (page << MEM_PAGE_SHIFT),
                   MEM_PAGE_SIZE);
}

static void compare_page(uint64_t page)
{
    const uint8_t *is = h.ram->host + (page << MEM_PAGE_SHIFT),
                  *copied = h.copy + (page << MEM_PAGE_SHIFT);
    size_t at = 0;
    while (at < MEM_PAGE_SIZE && is[at] == copied[at])
        at++;
    if (at == MEM_PAGE_SIZE)
        return;
    fprintf(stderr,
            "dirty_log: comparison %u: page %llu has changed at byte %zu, and the log does not say "
            "so\n",
            h.done, (unsigned long long)page, at);
    atomic_store(&h.failed, true);
}

/* The loop's thread: while nothing runs, the log's last words. */
static void compare(void *opaque)
{
    struct error *error = NULL;
    (void)opaque;
    if (atomic_load(&h.over)) {
        sem_post(&h.compared);
        return;
    }
    if (!vm_pause(h.vm, &error))
        give_up("pause", error);
    take();
    for (uint64_t page = 0; page < h.ram->size >> MEM_PAGE_SHIFT; page++)
        compare_page(page);
    h.done++;
    if (h.balloon != 0) {
        uint64_t size = h.done % 2 == 1 ? h.config.memory * 3 / 4 : h.config.memory;
        struct balloon_status status;
        (void)vm_balloon(h.vm, &size, &status, NULL);
    }
    if (!vm_resume(h.vm, &error))
        give_up("resume", error);
    sem_post(&h.compared);
}

static void end(void *opaque)
{
    (void)opaque;
    if (!atomic_load(&h.over))
        vm_quit(h.vm);
}

static void *read_log(void *unused)
{
    (void)unused;
    unsigned after = 0;
    while (!atomic_load(&h.over) && !atomic_load(&h.failed)) {
        for (unsigned round = 0; round < ROUNDS && !atomic_load(&h.over); round++) {
            nap(h.every_us / 2 + next_random() % (h.every_us + 1));
            take();
        }
        if (h.comparisons == 0)
            continue;
        after += atomic_load(&h.is_ready);
        loop_post(h.env.loop, compare, NULL);
        while (sem_wait(&h.compared) != 0)
            ;
        if (h.done >= h.comparisons && after >= (h.comparisons + 1) / 2)
            break;
    }
    if (h.comparisons != 0)
        loop_post(h.env.loop, end, NULL);
    return NULL;
}

/* ---- a network on which there is noise ---- */

static void *make_noise(void *unused)
{
    static uint8_t data[NET_FRAME_MAX];
    struct net_link link;
    uint64_t random = 1;
    (void)unused;
    net_link_init(&link, h.peer, 1 << 20);
    while (!atomic_load(&h.over)) {
        const struct net_offload plain = {0};
        struct net_frame frame;
        for (size_t i = 0; i < sizeof(data) / 8; i++)
            ((uint64_t *)(void *)data)[i] = random =
                random * 6364136223846793005u + 1442695040888963407u;
        memset(data, 0xff, 6);
        data[6] = 2;
        data[12] = 0x88; /* a local experiment's EtherType */
        data[13] = 0xb5;
        const struct iovec iov = {data, 60 + random % 1400};
        (void)net_link_send(&link, &plain, &iov, 1);
        while (net_link_receive(&link, &frame) == NET_DONE)
            ;
        nap(300);
    }
    net_link_clear(&link);
    return NULL;
}

/* ---- all ---- */

static void set(char **member, const char *value)
{
    free(*member);
    *member = strdup(value);
}

static void add_disk(const char *path)
{
    size_t number = h.config.disk_count++;
    machine_disk_init(&h.config.disks[number]);
    h.config.disks[number].path = strdup(path);
    h.config.disks[number].format = strdup("raw");
    h.disks[number] = (struct block_chain){.fds = {open(path, O_RDWR | O_CLOEXEC)}, .count = 1};
    if (h.disks[number].fds[0] < 0)
        give_up(path, NULL);
}

static void read_word(const char *key, const char *value)
{
    uint64_t number = strtoull(value, NULL, 10);
    if (strcmp(key, "kernel") == 0)
        set(&h.config.kernel, value);
    else if (strcmp(key, "initrd") == 0)
        set(&h.config.initrd, value);
    else if (strcmp(key, "append") == 0)
        set(&h.config.append, value);
    else if (strcmp(key, "engine") == 0)
        set(&h.config.engine, value);
    else if (strcmp(key, "disk") == 0)
        add_disk(value);
    else if (strcmp(key, "iops") == 0 && h.config.disk_count > 0)
        h.config.disks[h.config.disk_count - 1].iops = number;
    else if (strcmp(key, "cpus") == 0)
        h.config.cpus = (unsigned)number;
    else if (strcmp(key, "memory") == 0)
        h.config.memory = number * MIB;
    else if (strcmp(key, "every") == 0)
        h.every_us = (unsigned)number;
    else if (strcmp(key, "compare") == 0)
        h.comparisons = (unsigned)number;
    else if (strcmp(key, "frames") == 0)
        h.frames = (unsigned)number;
    else if (strcmp(key, "balloon") == 0)
        h.balloon = (unsigned)number;
    else if (strcmp(key, "seed") == 0)
        h.random ^= number << 20;
    else if (strcmp(key, "ready") == 0)
        h.ready = value;
    else
        give_up(key, NULL);
}

static void read_words(int count, char **words)
{
    errno = EINVAL;
    for (int i = 0; i < count; i++) {
        char *equals = strchr(words[i], '=');
        if (equals == NULL)
            give_up(words[i], NULL);
        *equals = '\0';
        read_word(words[i], equals + 1);
    }
}

static void make_devices(int *nic)
{
    int pair[2];
    h.config.balloon = h.balloon != 0;
    h.env.disks = h.disks;
    if (h.frames == 0)
        return;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        give_up("a socket", NULL);
    h.config.nic_count = 1;
    h.config.nics[0].mac = strdup("02:00:00:00:00:01");
    *nic = pair[0];
    h.peer = pair[1];
    h.env.nics = nic;
}

int main(int argc, char **argv)
{
    struct error *error = NULL;
    pthread_t reader, noise;
    int nic = -1;
    machine_config_init(&h.config);
    read_words(argc - 1, argv + 1);
    log_init(&h.log, LOG_LEVEL_WARNING, 2, "dirty_log");
    h.console = (struct char_backend){.write = console_write};
    memset(h.tail, ' ', TEXT - 1);
    sem_init(&h.compared, 0, 0);
    h.env = (struct vm_env){
        .loop = loop_new(&error), .log = &h.log, .console = &h.console, .on_end = on_end};
    make_devices(&nic);
    h.vm = vm_new(&h.config, &h.env, &error);
    if (h.vm == NULL)
        give_up("the machine", error);
    h.mem = vm_memory(h.vm);
    h.ram = mem_ram_at(h.mem, 0);
    h.bitmap = calloc(h.ram->size >> MEM_PAGE_SHIFT >> 6, sizeof(*h.bitmap));
    if (h.comparisons != 0)
        h.copy = mmap(NULL, (size_t)h.ram->size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (h.bitmap == NULL || h.copy == MAP_FAILED || !vm_start(h.vm, &error))
        give_up("the start", error);
    if (h.every_us != 0)
        pthread_create(&reader, NULL, read_log, NULL);
    if (h.frames != 0)
        pthread_create(&noise, NULL, make_noise, NULL);
    int status = loop_run(h.env.loop);
    atomic_store(&h.over, true);
    sem_post(&h.compared);
    if (h.every_us != 0)
        pthread_join(reader, NULL);
    if (h.frames != 0)
        pthread_join(noise, NULL);
    vm_free(h.vm);
    loop_free(h.env.loop);
    machine_config_clear(&h.config);
    printf("\ndirty-log rounds=%llu pages=%llu comparisons=%u take-us=%.1f "
           "most-us=%.1f cpu-s=%.3f\n",
           (unsigned long long)h.rounds, (unsigned long long)h.pages, h.done,
           h.rounds != 0 ? (double)h.take_ns / 1e3 / (double)h.rounds : 0.0,
           (double)h.take_most_ns / 1e3, cpu_time() - h.cpu_when_ready);
    if (h.failed || h.done < h.comparisons || (h.comparisons != 0 && !h.is_ready))
        return 1;
    return status;
}
