/* SPDX-License-Identifier: MIT
 *
 * The verb usage: what this process costs the host.
 */
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "vm/vm.h"
#include "worker/verbs.h"

/* Bytes. Where /proc is out of reach it is the most that there ever was. */
static json_int_t resident(void)
{
    long long pages = 0;
    struct rusage usage;
    FILE *file = fopen("/proc/self/statm", "re");
    bool good = file != NULL && fscanf(file, "%*d %lld", &pages) == 1;
    if (file != NULL)
        fclose(file);
    if (good)
        return pages * sysconf(_SC_PAGESIZE);
    getrusage(RUSAGE_SELF, &usage);
    return (json_int_t)usage.ru_maxrss * (json_int_t)KIB;
}

json_t *verb_usage(struct control_target *target, const json_t *arguments, struct error **err)
{
    uint64_t reads = 0, writes = 0, read_bytes = 0, written_bytes = 0, sent = 0, received = 0;
    struct vm_status status;
    struct timespec used;
    (void)arguments, (void)err;
    for (size_t i = 0; i < vm_disk_count(target->vm); i++) {
        struct vm_disk_status disk;
        if (!vm_get_disk(target->vm, i, &disk))
            continue;
        reads += disk.reads;
        writes += disk.writes;
        read_bytes += disk.read_bytes;
        written_bytes += disk.written_bytes;
    }
    for (size_t i = 0; i < vm_nic_count(target->vm); i++) {
        struct vm_nic_status nic;
        if (!vm_get_nic(target->vm, i, &nic))
            continue;
        sent += nic.sent_bytes;
        received += nic.received_bytes;
    }
    vm_get_status(target->vm, &status);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "cpus", (int)status.cpus,
                     "memory", (json_int_t)status.memory, "resident", resident(), "cpu-ns",
                     (json_int_t)used.tv_sec * 1000000000 + used.tv_nsec, "disk-reads",
                     (json_int_t)reads, "disk-writes", (json_int_t)writes, "disk-read-bytes",
                     (json_int_t)read_bytes, "disk-written-bytes", (json_int_t)written_bytes,
                     "net-sent-bytes", (json_int_t)sent, "net-received-bytes",
                     (json_int_t)received);
}
