/* SPDX-License-Identifier: MIT
 *
 * See files.h. Folders to share become mounts of their own where this process may make some: then
 * nobody climbs out of them with "..".
 */
#include "vm/files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/trace.h"
#include "block/rings.h"
#include "engine/emit/perf.h"
#include "engine/kvm/probe.h"

enum { SPARE_RINGS = 2 }; /* disks that come later and find none do with threads */

void vm_files_init(struct vm_files *files)
{
    *files = (struct vm_files){.dump_fdt = -1, .own_fds = -1, .kvm = -1};
    for (size_t i = 0; i < ARRAY_SIZE(files->captures); i++)
        files->captures[i] = -1;
    for (size_t i = 0; i < ARRAY_SIZE(files->shares); i++)
        files->shares[i] = -1;
}

unsigned vm_files_rings(const struct machine_config *config)
{
    return config->deterministic ? 0 : (unsigned)config->disk_count + SPARE_RINGS;
}

/* A FIFO without a reader must not hold us, and what cannot be written is no reason not to run. */
static void open_dump(struct vm_files *files, const char *path)
{
    const int flags = O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    if (path == NULL)
        return;
    files->dump_fdt = open(path, flags, 0666);
    files->dump_error = errno;
}

/* Whether it is needed, and what it means that it is not there, is seen when the engine is chosen. */
static void open_kvm(struct vm_files *files, const struct machine_config *config)
{
    struct error *error = NULL;
    if (strcmp(config->arch, "x86_64") != 0)
        return;
    files->kvm = kvm_open(KVM_DEVICE, &error);
    files->kvm_hardware = files->kvm >= 0 && kvm_is_hardware();
    if (files->kvm < 0)
        files->no_kvm = alloc_string(error_message(error));
    error_free(error);
}

static bool open_captures(struct vm_files *files, const struct machine_config *config,
                          struct error **err)
{
    for (size_t i = 0; i < config->nic_count; i++) {
        const char *path = config->nics[i].capture;
        if (path == NULL)
            continue;
        files->captures[i] = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (files->captures[i] < 0)
            return error_set_errno(err, errno, "cannot write the capture file '%s'", path);
    }
    return true;
}

/* A copy of the mount tree from there on, which belongs to the descriptor alone; -1: we may not. */
static int mount_of_its_own(const char *path, bool read_only)
{
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
                                                (read_only ? MOUNT_ATTR_RDONLY : 0u)};
    int fd = (int)syscall(SYS_open_tree, AT_FDCWD, path,
                          OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    if (fd < 0 || syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                          sizeof(attributes)) == 0)
        return fd;
    close(fd);
    return -1;
}

static int open_folder(const char *path, bool read_only)
{
    int plain = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int own = plain >= 0 ? mount_of_its_own(path, read_only) : -1;
    if (own < 0)
        return plain;
    close(plain);
    return own;
}

/* A descriptor or two per file that the guest holds. */
static void allow_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static bool open_shares(struct vm_files *files, const struct machine_config *config,
                        struct error **err)
{
    for (size_t i = 0; i < config->share_count; i++) {
        const struct machine_share *share = &config->shares[i];
        files->shares[i] = open_folder(share->path, !share->writable);
        if (files->shares[i] < 0)
            return error_set_errno(err, errno, "cannot share the folder '%s'", share->path);
    }
    if (config->share_count == 0)
        return true;
    allow_descriptors();
    files->own_fds = open_folder("/proc/self/fd", false);
    return files->own_fds >= 0 ||
           error_set_errno(err, errno, "cannot share a folder without /proc");
}

bool vm_files_open(struct vm_files *files, const struct machine_config *config, pid_t pid,
                   struct error **err)
{
    open_dump(files, config->dump_fdt);
    open_kvm(files, config);
    return boot_open(&files->boot, config, err) && open_captures(files, config, err) &&
           open_shares(files, config, err) &&
           (config->trace == NULL || (files->trace = trace_open(config->trace, err)) != NULL) &&
           (config->perf == NULL || (files->perf = perf_open(config->perf, pid, err)) != NULL);
}

bool vm_files_take(struct vm_files *files, const struct machine_config *config, const char *list,
                   struct error **err)
{
    int fds[BOOT_FILES];
    if (sscanf(list, "%d,%d,%d", &fds[BOOT_KERNEL], &fds[BOOT_INITRD], &fds[BOOT_FIRMWARE]) !=
        BOOT_FILES)
        return error_set(err, ERROR_INTERNAL, "'%s' are not the files of a clone", list);
    return boot_take(&files->boot, config, fds, err);
}

static void close_all(const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

void vm_files_close(struct vm_files *files)
{
    boot_clear(&files->boot);
    close_all(&files->dump_fdt, 1);
    close_all(&files->own_fds, 1);
    close_all(&files->kvm, 1);
    free(files->no_kvm);
    close_all(files->captures, ARRAY_SIZE(files->captures));
    close_all(files->shares, ARRAY_SIZE(files->shares));
    trace_close(files->trace);
    perf_close(files->perf);
    block_rings_free(files->rings);
    vm_files_init(files);
}
