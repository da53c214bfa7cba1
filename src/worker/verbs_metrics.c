/* SPDX-License-Identifier: MIT
 *
 * The verb "metrics": everything that is counted, in one answer, for the daemon's /metrics.
 */
#include <time.h>

#include "bus/backend.h"
#include "vm/vm.h"
#include "worker/verbs.h"

static json_t *disk_counts(const struct vm *vm)
{
    json_t *list = json_array();
    for (size_t i = 0; i < vm_disk_count(vm); i++) {
        struct vm_disk_status disk;
        if (!vm_get_disk(vm, i, &disk))
            continue;
        json_array_append_new(list, json_pack("{s:I, s:I, s:I, s:I, s:I}", "disk", (json_int_t)i,
                                              "reads", (json_int_t)disk.reads, "read-bytes",
                                              (json_int_t)disk.read_bytes, "writes",
                                              (json_int_t)disk.writes, "written-bytes",
                                              (json_int_t)disk.written_bytes));
    }
    return list;
}

/* Of this process: CPU time, and what of its memory is in RAM. */
static void add_process(json_t *answer, const struct control_target *target)
{
    struct timespec used;
    json_int_t resident = control_resident(target);
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) == 0)
        json_object_set_new(answer, "cpu-ns",
                            json_integer((json_int_t)used.tv_sec * 1000000000 + used.tv_nsec));
    if (resident >= 0)
        json_object_set_new(answer, "resident", json_integer(resident));
}

json_t *verb_metrics(struct control_target *target, const json_t *arguments, struct error **err)
{
    json_t *answer = verb_stats(target, arguments, err);
    struct balloon_status balloon;
    if (vm_balloon(target->vm, NULL, &balloon, NULL))
        json_object_set_new(answer, "balloon", json_integer((json_int_t)balloon.actual));
    json_object_set_new(answer, "disks", disk_counts(target->vm));
    add_process(answer, target);
    return answer;
}
