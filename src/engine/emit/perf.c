/* SPDX-License-Identifier: MIT */
#include "engine/emit/perf.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"

struct perf {
    int fd;
    pid_t pid;
    bool dump;
    void *marker; /* a mapping of the dump by which perf finds it in its recording */
    size_t marker_size;
    pthread_mutex_t lock; /* guards index, and that records follow each other */
    uint64_t index;
};

/* jitdump-specification.txt; everything in the host's byte order */
#define JITDUMP_MAGIC   0x4a695444u
#define JITDUMP_VERSION 1u
enum { JITDUMP_CODE_LOAD = 0, JITDUMP_CODE_CLOSE = 3, JITDUMP_X86_64 = 62 };

struct jitdump_header {
    uint32_t magic, version, size, machine, padding, pid;
    uint64_t time, flags;
};

struct jitdump_record {
    uint32_t id, size;
    uint64_t time;
};

struct jitdump_load {
    struct jitdump_record record;
    uint32_t pid, tid;
    uint64_t vma, code, code_size, index;
};
_Static_assert(sizeof(struct jitdump_header) == 40 && sizeof(struct jitdump_load) == 56,
               "as in the specification");

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* Whoever shares /tmp must not choose where we write: the file is new. */
static int create(const char *path)
{
    unlink(path);
    return open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_APPEND | O_CLOEXEC, 0600);
}

static bool begin_dump(struct perf *perf, const char *path, struct error **err)
{
    struct jitdump_header header = {
        .magic = JITDUMP_MAGIC,
        .version = JITDUMP_VERSION,
        .size = sizeof(header),
        .machine = JITDUMP_X86_64,
        .pid = (uint32_t)perf->pid,
        .time = now(),
    };
    perf->marker_size = (size_t)sysconf(_SC_PAGESIZE);
    if (write(perf->fd, &header, sizeof(header)) == (ssize_t)sizeof(header)) {
        perf->marker =
            mmap(NULL, perf->marker_size, PROT_READ | PROT_EXEC, MAP_PRIVATE, perf->fd, 0);
        if (perf->marker != MAP_FAILED)
            return true;
        perf->marker = NULL;
    }
    return error_set_errno(err, errno, "perf: cannot write '%s'", path);
}

struct perf *perf_open(const char *spec, pid_t pid, struct error **err)
{
    bool map = strcmp(spec, "map") == 0, dump = strncmp(spec, "jitdump", 7) == 0;
    const char *folder = dump && spec[7] == ':' && spec[8] != '\0' ? spec + 8 : ".";
    if (!map && !(dump && (spec[7] == '\0' || folder == spec + 8))) {
        error_set(err, ERROR_USAGE, "perf: there is no '%s'", spec);
        error_hint(err, "Write map, jitdump or jitdump:FOLDER.");
        return NULL;
    }
    char *path = NULL;
    if ((map ? asprintf(&path, "/tmp/perf-%d.map", (int)pid)
             : asprintf(&path, "%s/jit-%d.dump", folder, (int)pid)) < 0) {
        error_set_errno(err, errno, "perf");
        return NULL;
    }
    struct perf *perf = alloc_zeroed(1, sizeof(*perf));
    pthread_mutex_init(&perf->lock, NULL);
    perf->pid = pid;
    perf->dump = dump;
    perf->fd = create(path);
    bool good = perf->fd >= 0;
    if (!good)
        error_set_errno(err, errno, "perf: cannot make '%s'", path);
    else if (dump)
        good = begin_dump(perf, path, err);
    free(path);
    if (good)
        return perf;
    if (perf->fd >= 0)
        close(perf->fd);
    pthread_mutex_destroy(&perf->lock);
    free(perf);
    return NULL;
}

/* A record that is lost (a full disk) loses a name, nothing else. */
static void add_to_dump(struct perf *perf, const void *code, size_t size, const char *name)
{
    struct jitdump_load load = {
        .record = {.id = JITDUMP_CODE_LOAD, .time = now()},
        .pid = (uint32_t)perf->pid,
        .tid = (uint32_t)perf->pid, /* a thread's own would be that of another pid namespace */
        .vma = (uintptr_t)code,
        .code = (uintptr_t)code,
        .code_size = size,
        .index = perf->index++,
    };
    struct iovec parts[] = {{&load, sizeof(load)},
                            {(void *)(uintptr_t)name, strlen(name) + 1},
                            {(void *)(uintptr_t)code, size}};
    load.record.size = (uint32_t)(parts[0].iov_len + parts[1].iov_len + parts[2].iov_len);
    ssize_t written = writev(perf->fd, parts, ARRAY_SIZE(parts));
    (void)written;
}

void perf_add(struct perf *perf, const void *code, size_t size, const char *name)
{
    pthread_mutex_lock(&perf->lock);
    if (perf->dump)
        add_to_dump(perf, code, size, name);
    else
        dprintf(perf->fd, "%llx %zx %s\n", (unsigned long long)(uintptr_t)code, size, name);
    pthread_mutex_unlock(&perf->lock);
}

void perf_close(struct perf *perf)
{
    if (perf == NULL)
        return;
    if (perf->dump) {
        struct jitdump_record end = {.id = JITDUMP_CODE_CLOSE, .size = sizeof(end), .time = now()};
        ssize_t written = write(perf->fd, &end, sizeof(end));
        (void)written;
        munmap(perf->marker, perf->marker_size);
    }
    close(perf->fd);
    pthread_mutex_destroy(&perf->lock);
    free(perf);
}
