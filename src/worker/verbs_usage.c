/* SPDX-License-Identifier: MIT
 *
 * The verb usage: what this process costs the host.
 */
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "vm/vm.h"
#include "worker/verbs.h"

json_int_t control_resident(const struct control_target *target)
{
    char text[128] = "", *end = text;
    if (target->statm <= 0 || pread(target->statm, text, sizeof(text) - 1, 0) <= 0)
        return -1;
    (void)strtoll(text, &end, 10); /* all of its address space */
    return (json_int_t)strtoll(end, NULL, 10) * sysconf(_SC_PAGESIZE);
}

/* Where /proc is out of reach it is the most that there ever was. */
static json_int_t resident_or_peak(const struct control_target *target)
{
    struct rusage usage;
    json_int_t resident = control_resident(target);
    if (resident >= 0)
        return resident;
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
                     "memory", (json_int_t)status.memory, "resident", resident_or_peak(target),
                     "cpu-ns", (json_int_t)used.tv_sec * 1000000000 + used.tv_nsec, "disk-reads",
                     (json_int_t)reads, "disk-writes", (json_int_t)writes, "disk-read-bytes",
                     (json_int_t)read_bytes, "disk-written-bytes", (json_int_t)written_bytes,
                     "net-sent-bytes", (json_int_t)sent, "net-received-bytes",
                     (json_int_t)received);
}
