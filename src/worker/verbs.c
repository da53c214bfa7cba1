/* SPDX-License-Identifier: MIT
 *
 * What a control client can ask of a worker: one function and one row each.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/frame.h"
#include "bus/backend.h"
#include "vm/limits.h"
#include "vm/vm.h"
#include "worker/console.h"
#include "worker/control.h"
#include "worker/verbs.h"

static json_t *nics(struct vm *vm)
{
    json_t *list = json_array();
    for (size_t i = 0; i < vm_nic_count(vm); i++) {
        struct vm_nic_status nic;
        if (!vm_get_nic(vm, i, &nic))
            continue;
        json_array_append_new(
            list, json_pack("{s:i, s:s, s:o, s:i, s:i, s:i, s:b, s:b, s:I, s:I, s:I, s:I}", "nic",
                            (int)i, "model", nic.model, "mac",
                            control_text(nic.mac != NULL ? nic.mac : ""), "bus", (int)nic.bus, "slot",
                            (int)nic.slot, "hotplug-slot", (int)nic.hotplug_slot, "leaving",
                            (int)nic.leaving, "up", (int)nic.up, "sent-frames",
                            (json_int_t)nic.sent_frames, "sent-bytes", (json_int_t)nic.sent_bytes,
                            "received-frames", (json_int_t)nic.received_frames, "received-bytes",
                            (json_int_t)nic.received_bytes));
    }
    return list;
}

static json_t *verb_status(struct control_target *target, const json_t *arguments,
                           struct error **err)
{
    (void)arguments, (void)err;
    struct vm_status status;
    time_t since;
    const char *owner = console_owner(target->console, &since);
    vm_get_status(target->vm, &status);
    json_t *answer = json_pack("{s:s, s:s, s:s?, s:s*, s:i, s:i, s:I, s:I, s:I, s:I, s:o}", "state", vm_state_name(status.state),
                     "engine", status.engine, "sandbox", target->sandbox, "console-owner", owner, "cpus", (int)status.cpus,
                     "cpus-started", (int)status.started, "memory",
                     (json_int_t)status.memory, "instructions", (json_int_t)status.retired,
                     "virtual-time-ns", (json_int_t)status.virtual_time_ns, "console-lost",
                     (json_int_t)console_lost(target->console), "nics",
                     nics(target->vm));
    json_t *migration = migration_status(target);
    if (migration != NULL)
        json_object_set_new(answer, "migration", migration);
    return answer;
}

static json_t *cpu(const struct vm *vm)
{
    struct vm_cpu_limits limits;
    struct vm_cpu_usage usage;
    vm_get_cpu_limits(vm, &limits, &usage);
    return json_pack("{s:i, s:i, s:I, s:I, s:I}", "weight", (int)limits.weight, "cap",
                     (int)limits.cap, "used-ns", (json_int_t)usage.used_ns, "held-ns",
                     (json_int_t)usage.held_ns, "waited-ns", (json_int_t)usage.waited_ns);
}

static void add_counter(void *opaque, unsigned vcpu, const char *name, uint64_t value)
{
    json_t *vcpus = opaque;
    while (json_array_size(vcpus) <= vcpu)
        json_array_append_new(vcpus, json_object());
    json_object_set_new(json_array_get(vcpus, vcpu), name, json_integer((json_int_t)value));
}

json_t *verb_stats(struct control_target *target, const json_t *arguments, struct error **err)
{
    json_t *stats = verb_status(target, arguments, err), *vcpus = json_array();
    vm_get_counters(target->vm, add_counter, vcpus);
    json_object_set_new(stats, "cpu", cpu(target->vm));
    json_object_set_new(stats, "vcpus", vcpus);
    return stats;
}

static void add_place(void *opaque, uint64_t pc, const char *mode, uint64_t count)
{
    char text[24];
    snprintf(text, sizeof(text), "0x%llx", (unsigned long long)pc);
    json_array_append_new(opaque, json_pack("{s:s, s:s, s:I}", "pc", text, "mode", mode, "count",
                                            (json_int_t)count));
}

/* {"action": "start", "hz": 997}, {"action": "report"}, {"action": "stop"} */
static json_t *verb_profile(struct control_target *target, const json_t *arguments,
                            struct error **err)
{
    const char *action = json_string_value(json_object_get(arguments, "action"));
    json_int_t hz = json_integer_value(json_object_get(arguments, "hz"));
    struct vm_profile report;
    if (action != NULL && strcmp(action, "start") == 0) {
        bool fits = hz >= 0 && hz <= VM_PROFILE_HZ_MAX;
        return vm_profile_start(target->vm, fits ? (unsigned)hz : 0, err) ? json_object() : NULL;
    }
    if (action != NULL && strcmp(action, "stop") == 0) {
        vm_profile_stop(target->vm);
        return json_object();
    }
    if (action == NULL || strcmp(action, "report") != 0) {
        error_set(err, ERROR_USAGE, "a profile's action is start, report or stop");
        return NULL;
    }
    json_t *places = json_array();
    if (!vm_profile_report(target->vm, &report, add_place, places, err)) {
        json_decref(places);
        return NULL;
    }
    return json_pack("{s:I, s:I, s:I, s:o}", "samples", (json_int_t)report.samples, "idle",
                     (json_int_t)report.idle, "lost", (json_int_t)report.lost, "places", places);
}

static json_t *done(bool good)
{
    return good ? json_object() : NULL;
}

#define VM_VERB(name)                                                                            \
    static json_t *verb_##name(struct control_target *target, const json_t *arguments,           \
                               struct error **err)                                               \
    {                                                                                            \
        (void)arguments;                                                                         \
        return done(vm_##name(target->vm, err));                                                 \
    }
VM_VERB(pause)
VM_VERB(resume)
VM_VERB(reset)
VM_VERB(powerdown)
VM_VERB(ctrl_alt_del)
#undef VM_VERB

static json_t *verb_quit(struct control_target *target, const json_t *arguments,
                         struct error **err)
{
    (void)arguments, (void)err;
    vm_quit(target->vm);
    return json_object();
}

/* The ring as text: bytes beyond ASCII as U+0080..U+00FF, so that any byte survives. */
static json_t *verb_console(struct control_target *target, const json_t *arguments,
                            struct error **err)
{
    (void)arguments, (void)err;
    uint8_t *ring = alloc_zeroed(1, CONSOLE_RING_SIZE);
    size_t size = console_ring(target->console, ring), length = 0;
    char *text = alloc_zeroed(2, size + 1);
    for (size_t i = 0; i < size; i++) {
        if (ring[i] >= 0x80)
            text[length++] = (char)(0xc0 | ring[i] >> 6);
        text[length++] = (char)(ring[i] >= 0x80 ? 0x80 | (ring[i] & 0x3f) : ring[i]);
    }
    json_t *result = json_stringn(text, length);
    free(text);
    free(ring);
    return result;
}

/* {"size": bytes that the guest shall keep}, or nothing to ask. */
static json_t *verb_balloon(struct control_target *target, const json_t *arguments,
                            struct error **err)
{
    static const char *const names[BALLOON_STAT_COUNT] = {
        [BALLOON_STAT_SWAP_IN] = "swap-in",         [BALLOON_STAT_SWAP_OUT] = "swap-out",
        [BALLOON_STAT_MAJOR_FAULTS] = "major-faults", [BALLOON_STAT_MINOR_FAULTS] = "minor-faults",
        [BALLOON_STAT_FREE] = "free",               [BALLOON_STAT_TOTAL] = "total",
        [BALLOON_STAT_AVAILABLE] = "available",     [BALLOON_STAT_CACHES] = "caches",
        [BALLOON_STAT_HUGE_PAGES] = "huge-pages",
        [BALLOON_STAT_HUGE_PAGE_FAILURES] = "huge-page-failures",
        [BALLOON_STAT_OOM_KILLS] = "oom-kills",
        [BALLOON_STAT_ALLOCATION_STALLS] = "allocation-stalls",
        [BALLOON_STAT_ASYNC_SCANS] = "async-scans", [BALLOON_STAT_DIRECT_SCANS] = "direct-scans",
        [BALLOON_STAT_ASYNC_RECLAIMS] = "async-reclaims",
        [BALLOON_STAT_DIRECT_RECLAIMS] = "direct-reclaims",
    };
    const json_t *wish = json_object_get(arguments, "size");
    struct balloon_status status;
    json_int_t size = json_integer_value(wish);
    uint64_t bytes = (uint64_t)size;
    if (wish != NULL && (!json_is_integer(wish) || size < 0)) {
        error_set(err, ERROR_USAGE, "size is a number of bytes");
        return NULL;
    }
    if (!vm_balloon(target->vm, wish != NULL ? &bytes : NULL, &status, err))
        return NULL;
    json_t *stats = json_object();
    for (size_t i = 0; i < BALLOON_STAT_COUNT; i++)
        if (status.stats[i] <= INT64_MAX)
            json_object_set_new(stats, names[i], json_integer((json_int_t)status.stats[i]));
    return json_pack("{s:b, s:I, s:I, s:o}", "driven", status.driven, "wanted",
                     (json_int_t)status.wanted, "given-up", (json_int_t)status.actual, "guest",
                     stats);
}

/* {"role": "own", "steal" or "watch", "who": who it is}, and a stream socket. */
static json_t *verb_console_attach(struct control_target *target, const json_t *arguments,
                                   struct error **err)
{
    static const char *const roles[CONSOLE_ROLES] = {"own", "steal", "watch"};
    const char *role = json_string_value(json_object_get(arguments, "role"));
    const char *who = json_string_value(json_object_get(arguments, "who"));
    size_t found = 0;
    while (found < CONSOLE_ROLES && (role == NULL || strcmp(roles[found], role) != 0))
        found++;
    if (found == CONSOLE_ROLES || target->fds->count == 0) {
        error_set(err, ERROR_USAGE, "whom a console is for is own, steal or watch, with a socket");
        return NULL;
    }
    int fd = target->fds->fds[0];
    target->fds->fds[0] = -1;
    return done(console_attach(target->console, fd, (enum console_role)found,
                               who != NULL ? who : "somebody", err));
}

static json_t *verb_window_size(struct control_target *target, const json_t *arguments,
                                struct error **err)
{
    json_int_t columns = json_integer_value(json_object_get(arguments, "columns"));
    json_int_t rows = json_integer_value(json_object_get(arguments, "rows"));
    if (columns < 1 || columns > UINT16_MAX || rows < 1 || rows > UINT16_MAX) {
        error_set(err, ERROR_USAGE, "columns and rows are numbers from 1 to 65535");
        return NULL;
    }
    console_resize(target->console, (uint16_t)columns, (uint16_t)rows);
    return json_object();
}

/* The number of a NIC or disk, 0 if it is not named; -1: err. */
static json_int_t number_argument(const json_t *arguments, const char *name, struct error **err)
{
    const json_t *number = json_object_get(arguments, name);
    if (number == NULL || (json_is_integer(number) && json_integer_value(number) >= 0))
        return json_integer_value(number);
    error_set(err, ERROR_USAGE, "%s is the number of a %s, counted from 0", name, name);
    return -1;
}

static json_t *verb_link(struct control_target *target, const json_t *arguments,
                         struct error **err)
{
    json_int_t nic = number_argument(arguments, "nic", err);
    const json_t *up = json_object_get(arguments, "up");
    if (nic >= 0 && !json_is_boolean(up)) {
        error_set(err, ERROR_USAGE, "up is true or false");
        return NULL;
    }
    return done(nic >= 0 && vm_set_link(target->vm, (size_t)nic, json_is_true(up), err));
}

/* An absent limit stays what it is. */
static bool limit_argument(const json_t *arguments, const char *name, uint64_t *limit,
                           struct error **err)
{
    const json_t *number = json_object_get(arguments, name);
    if (number == NULL)
        return true;
    if (!json_is_integer(number) || json_integer_value(number) < 0)
        return error_set(err, ERROR_USAGE, "%s is a number, 0 for no limit", name);
    *limit = (uint64_t)json_integer_value(number);
    return true;
}

/* {"nic": N, "kbit": N, "send-bytes": N, "send-frames": N, "receive-bytes": N, "receive-frames": N}:
 * what is not named stays. */
static json_t *verb_rate(struct control_target *target, const json_t *arguments,
                         struct error **err)
{
    struct vm_nic_limits limits;
    uint64_t kbit = 0;
    json_int_t nic = number_argument(arguments, "nic", err);
    if (nic < 0 || !vm_get_nic_limits(target->vm, (size_t)nic, &limits, err) ||
        !limit_argument(arguments, "kbit", &kbit, err) ||
        !limit_argument(arguments, "send-bytes", &limits.sends.bytes, err) ||
        !limit_argument(arguments, "send-frames", &limits.sends.frames, err) ||
        !limit_argument(arguments, "receive-bytes", &limits.receives.bytes, err) ||
        !limit_argument(arguments, "receive-frames", &limits.receives.frames, err))
        return NULL;
    if (kbit >> 40 != 0) {
        error_set(err, ERROR_USAGE, "kbit is a number of kilobits per second, 0 for no limit");
        return NULL;
    }
    return done((json_object_get(arguments, "kbit") == NULL ||
                 vm_set_rate(target->vm, (size_t)nic, kbit, err)) &&
                vm_set_nic_limits(target->vm, (size_t)nic, &limits, err));
}

/* {"bytes": N, "requests": N}, of a second; what is not named has no limit. */
static json_t *verb_entropy(struct control_target *target, const json_t *arguments,
                            struct error **err)
{
    uint64_t bytes = 0, requests = 0;
    if (!limit_argument(arguments, "bytes", &bytes, err) ||
        !limit_argument(arguments, "requests", &requests, err))
        return NULL;
    vm_limit_entropy(target->vm, bytes, requests);
    return json_object();
}

/* {"bytes": N}, of a second; if it is not named the limit stays. The answer is what was dropped. */
static json_t *verb_serial(struct control_target *target, const json_t *arguments,
                           struct error **err)
{
    uint64_t bytes = 0;
    if (!limit_argument(arguments, "bytes", &bytes, err) ||
        (json_object_get(arguments, "bytes") != NULL && !vm_limit_serial(target->vm, bytes, err)))
        return NULL;
    return json_pack("{s:I}", "dropped", (json_int_t)vm_serial_dropped(target->vm));
}

/* {"disk": N, "iops": N, "bps": N}: what is not named stays; the answer is what now holds. */
static json_t *verb_limit(struct control_target *target, const json_t *arguments,
                          struct error **err)
{
    struct vm_disk_limits limits;
    json_int_t disk = number_argument(arguments, "disk", err);
    if (disk < 0 || !vm_get_disk_limits(target->vm, (size_t)disk, &limits, err) ||
        !limit_argument(arguments, "iops", &limits.iops, err) ||
        !limit_argument(arguments, "bps", &limits.bps, err) ||
        !vm_set_disk_limits(target->vm, (size_t)disk, &limits, err))
        return NULL;
    return json_pack("{s:I, s:I}", "iops", (json_int_t)limits.iops, "bps",
                     (json_int_t)limits.bps);
}

/* {"count": N}: how many harts the guest starts with, from its next reset on. The answer is how many it
 * has, and how many of them run now. */
static json_t *verb_cpus(struct control_target *target, const json_t *arguments, struct error **err)
{
    const json_t *count = json_object_get(arguments, "count");
    struct vm_status status;
    if (count != NULL && (!json_is_integer(count) || json_integer_value(count) < 1 ||
                          json_integer_value(count) > UINT_MAX)) {
        error_set(err, ERROR_USAGE, "count is a number of CPUs");
        return NULL;
    }
    if (count != NULL && !vm_set_cpus(target->vm, (unsigned)json_integer_value(count), err))
        return NULL;
    vm_get_status(target->vm, &status);
    return json_pack("{s:i, s:i}", "max", (int)status.cpus, "started", (int)status.started);
}

/* {"weight": N, "cap": N}: what is not named stays; the answer is what now holds, and what the
 * machine has had. */
static json_t *verb_cpu(struct control_target *target, const json_t *arguments, struct error **err)
{
    struct vm_cpu_limits limits;
    struct vm_cpu_usage usage;
    vm_get_cpu_limits(target->vm, &limits, &usage);
    uint64_t weight = limits.weight, cap = limits.cap;
    if (!limit_argument(arguments, "weight", &weight, err) ||
        !limit_argument(arguments, "cap", &cap, err))
        return NULL;
    limits.weight = weight < UINT_MAX ? (unsigned)weight : UINT_MAX;
    limits.cap = cap < UINT_MAX ? (unsigned)cap : UINT_MAX;
    return vm_set_cpu_limits(target->vm, &limits, err) ? cpu(target->vm) : NULL;
}

const struct control_verb control_verbs[] = {
    {"status", true, verb_status, true, false},
    {"stats", true, verb_stats, true, false},
    {"usage", true, verb_usage, true, false},
    {"metrics", true, verb_metrics, true, false},
    {"profile", true, verb_profile, false, true},
    {"pause", true, verb_pause, false, true},
    {"resume", true, verb_resume, false, true},
    {"reset", true, verb_reset, false, true},
    {"powerdown", true, verb_powerdown, false, true},
    {"ctrl-alt-del", true, verb_ctrl_alt_del, false, true},
    {"balloon", true, verb_balloon, false, true},
    {"disks", true, verb_disks, true, false},
    {"disk-attach", true, verb_disk_attach, false, false},
    {"disk-detach", true, verb_disk_detach, false, false},
    {"disk-replace", true, verb_disk_replace, false, false},
    {"insert", true, verb_insert, false, false},
    {"eject", true, verb_eject, false, false},
    {"link", true, verb_link, false, false},
    {"rate", true, verb_rate, false, false},
    {"limit", true, verb_limit, false, false},
    {"entropy", true, verb_entropy, false, false},
    {"serial", true, verb_serial, false, false},
    {"cpu", true, verb_cpu, false, true},
    {"cpus", true, verb_cpus, false, false},
    {"nic-attach", true, verb_nic_attach, false, false},
    {"nic-detach", true, verb_nic_detach, false, false},
    {"clone", true, verb_clone, false, false},
    {"suspend", true, verb_suspend, false, false},
    {"snapshot", true, verb_snapshot, false, false},
    {"migrate", true, verb_migrate, false, false},
    {"migrate-resolve", true, verb_migrate_resolve, false, false},
    {"migrate-recover", true, verb_migrate_recover, false, false},
    {"incoming", true, verb_incoming, false, false},
    {"quit", true, verb_quit, true, false},
    {"console", false, verb_console, true, false},
    {"console-attach", false, verb_console_attach, true, false},
    {"window-size", false, verb_window_size, true, false},
};
const size_t control_verb_count = ARRAY_SIZE(control_verbs);
