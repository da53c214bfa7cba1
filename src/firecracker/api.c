/* SPDX-License-Identifier: MIT
 *
 * See api.h. A request is a row of `routes` and a function.
 */
#include "firecracker/api.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "build.h"
#include "config/machine.h"
#include "firecracker/definitions.h"
#include "firecracker/internal.h"

enum { OK = 200, NO_CONTENT = 204, BAD_REQUEST = 400 };

/* ---- answers ---- */

void fc_fault(struct fc_answer *answer, const char *format, ...)
{
    char text[FC_FAULT_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    error_plain(text);
    answer->status = BAD_REQUEST;
    answer->body = json_pack("{s:o}", "fault_message", json_string(text));
    if (answer->body == NULL) /* not UTF-8 */
        answer->body = json_pack("{s:s}", "fault_message", "The request is not UTF-8.");
}

void fc_fault_error(struct fc_answer *answer, struct error *error)
{
    fc_fault(answer, "%s", error_message(error));
    error_free(error);
}

void fc_done(struct fc_answer *answer)
{
    answer->status = NO_CONTENT;
}

void fc_tell(struct fc_answer *answer, json_t *body)
{
    answer->status = OK;
    answer->body = body;
}

/* ---- resources ---- */

json_t *fc_resource(const struct fc *fc, const char *name)
{
    return json_object_get(fc->resources, name);
}

void fc_keep(struct fc *fc, const char *name, json_t *body, struct fc_answer *answer)
{
    json_object_set(fc->resources, name, body);
    fc_done(answer);
}

size_t fc_place_of(const json_t *list, const char *name, const char *id)
{
    size_t index;
    const json_t *entry;
    json_array_foreach(list, index, entry)
    {
        if (strcmp(json_string_value(json_object_get(entry, name)), id) == 0)
            break;
    }
    return index;
}

bool fc_reachable(const char *path, int mode, const char *what, struct fc_answer *answer)
{
    if (access(path, mode) == 0)
        return true;
    fc_fault(answer, "%s cannot be opened: '%s': %s", what, path, strerror(errno));
    return false;
}

/* ---- before the start ---- */

bool fc_machine_is_possible(const json_t *machine, struct fc_answer *answer)
{
    uint64_t memory = (uint64_t)json_integer_value(json_object_get(machine, "mem_size_mib")) << 20;
    const char *template = json_string_value(json_object_get(machine, "cpu_template"));
    const char *pages = json_string_value(json_object_get(machine, "huge_pages"));
    json_int_t cpus = json_integer_value(json_object_get(machine, "vcpu_count"));
    if (cpus > 1 && cpus % 2 != 0 && json_is_true(json_object_get(machine, "smt")))
        fc_fault(answer,
                 "The number of vCPUs must be greater than 0, less than 32 and must be 1 or "
                 "an even number if SMT is enabled.");
    else if (cpus > MACHINE_MAX_CPUS)
        fc_fault(answer, "The vCPU number is invalid! A machine of trapeze has at most %d.",
                 MACHINE_MAX_CPUS);
    else if (memory < MACHINE_MIN_MEMORY || memory > MACHINE_MAX_MEMORY)
        fc_fault(answer,
                 "The memory size (MiB) is invalid. A machine of trapeze has %llu to %llu MiB.",
                 (unsigned long long)(MACHINE_MIN_MEMORY >> 20),
                 (unsigned long long)(MACHINE_MAX_MEMORY >> 20));
    else if (strcmp(pages, "2M") == 0)
        fc_fault(answer,
                 "trapeze does not back memory by hugetlbfs: use huge_pages 'Transparent'.");
    else if (strcmp(pages, "Transparent") == 0 && (memory >> 20) % 2 != 0)
        fc_fault(answer, "The memory size (MiB) is either 0, or not a multiple of the configured "
                         "page size.");
    else if (strcmp(template, "None") != 0)
        fc_fault(answer, "trapeze does not have the CPU template '%s': use 'None'.", template);
    else
        return true;
    return false;
}

static void put_machine(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    (void)id;
    if (fc_machine_is_possible(body, answer))
        fc_keep(fc, "machine-config", body, answer);
}

static void patch_machine(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    (void)id;
    json_t *whole = json_copy(fc_resource(fc, "machine-config"));
    json_object_update(whole, body);
    if (fc_machine_is_possible(whole, answer))
        fc_keep(fc, "machine-config", whole, answer);
    json_decref(whole);
}

static void get_machine(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    (void)id, (void)body;
    fc_tell(answer, json_incref(fc_resource(fc, "machine-config")));
}

static void put_boot_source(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    (void)id;
    const char *initrd = json_string_value(json_object_get(body, "initrd_path"));
    const char *args = json_string_value(json_object_get(body, "boot_args"));
    if (args != NULL && strlen(args) > MACHINE_MAX_APPEND / 2)
        fc_fault(answer, "The kernel command line is too long.");
    else if (fc_reachable(json_string_value(json_object_get(body, "kernel_image_path")), R_OK,
                          "The kernel file", answer) &&
             (initrd == NULL || fc_reachable(initrd, R_OK, "The initrd file", answer)))
        fc_keep(fc, "boot-source", body, answer);
}

static void put_vsock(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    const char *path = json_string_value(json_object_get(body, "uds_path"));
    (void)id;
    if (path[0] == '\0' || strlen(path) > MACHINE_MAX_VSOCK_PATH)
        fc_fault(answer, "The path of the vsock's socket has to have 1 to %d bytes.",
                 MACHINE_MAX_VSOCK_PATH);
    else
        fc_keep(fc, "vsock", body, answer);
    answer->deprecated = json_object_get(body, "vsock_id") != NULL;
}

static void put_balloon(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    (void)id;
    if (json_is_true(json_object_get(body, "free_page_hinting")))
        fc_fault(answer, "trapeze does not support `free_page_hinting`.");
    else
        fc_keep(fc, "balloon", body, answer);
}

static void put_entropy(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    (void)id;
    fc_keep(fc, "entropy", body, answer); /* every machine has one */
}

static void put_serial(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    (void)id;
    fc_keep(fc, "serial", body, answer);
}

/* ---- at any time ---- */

static void put_logger(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    static const char *const levels[] = {"off",     "trace", "debug", "info",
                                         "warning", "warn",  "error"};
    const char *level = json_string_value(json_object_get(body, "level"));
    const char *path = json_string_value(json_object_get(body, "log_path"));
    struct error *error = NULL;
    size_t i = 0;
    (void)id;
    while (level != NULL && i < ARRAY_SIZE(levels) && strcasecmp(levels[i], level) != 0)
        i++;
    if (i == ARRAY_SIZE(levels))
        fc_fault(answer, "unknown level '%s'.", level);
    else if (path != NULL && !fc->host->open_log(fc->opaque, path, &error))
        fc_fault_error(answer, error);
    else
        fc_keep(fc, "logger", body, answer);
}

static void put_metrics(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    struct error *error = NULL;
    (void)id;
    if (fc_resource(fc, "metrics") != NULL)
        fc_fault(answer, "Reinitialization of metrics not allowed.");
    else if (!fc->host->open_metrics(
                 fc->opaque, json_string_value(json_object_get(body, "metrics_path")), &error))
        fc_fault_error(answer, error);
    else
        fc_keep(fc, "metrics", body, answer);
}

static void get_instance(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    static const char *const states[] = {"Not started", "Running", "Paused"};
    (void)id, (void)body;
    fc_tell(answer, json_pack("{s:s, s:s, s:s, s:s}", "id", fc->id, "state", states[fc->state],
                              "vmm_version", TRAPEZE_VERSION, "app_name", "trapeze"));
}

static void get_version(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    (void)fc, (void)id, (void)body;
    fc_tell(answer, json_pack("{s:s}", "firecracker_version", FC_API_VERSION));
}

static void get_config(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    (void)id, (void)body;
    json_t *all = json_deep_copy(fc->resources);
    if (fc->loaded) { /* as there, these are in no snapshot */
        json_t *machine = json_object_get(all, "machine-config");
        json_object_set_new(machine, "smt", json_false());
        json_object_set_new(machine, "cpu_template", json_string("None"));
        json_object_set_new(all, "boot-source", json_object());
    }
    fc_tell(answer, all);
}

static void get_balloon(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    json_t *balloon = fc_resource(fc, "balloon");
    (void)id, (void)body;
    if (balloon != NULL)
        fc_tell(answer, json_incref(balloon));
    else
        fc_fault(answer, "Balloon device not found.");
}

/* ---- of a machine that runs ---- */

json_t *fc_ask(struct fc *fc, const char *verb, json_t *arguments, struct fc_answer *answer)
{
    struct error *error = NULL;
    json_t *result = fc->host->verb(fc->opaque, verb, arguments, &error);
    json_decref(arguments);
    if (result == NULL)
        fc_fault_error(answer, error);
    return result;
}

bool fc_command(struct fc *fc, const char *verb, json_t *arguments, struct fc_answer *answer)
{
    json_t *result = fc_ask(fc, verb, arguments, answer);
    if (result != NULL)
        fc_done(answer);
    json_decref(result);
    return result != NULL;
}

/* Those that were made for it, too: a snapshot takes them along. */
static void note_addresses(struct fc *fc, const struct machine_config *config)
{
    size_t index;
    json_t *nic;
    json_array_foreach(fc_resource(fc, "network-interfaces"), index, nic)
        json_object_set_new(nic, "guest_mac", json_string(config->nics[index].mac));
}

static void start(struct fc *fc, struct fc_answer *answer)
{
    struct machine_config config;
    struct error *error = NULL;
    if (fc->state != FC_NOT_STARTED) {
        fc_fault(answer, "The requested operation is not supported after starting the microVM.");
        return;
    }
    machine_config_init(&config);
    if (fc_machine(fc->resources, NULL, &config, &error) && machine_config_check(&config, &error) &&
        fc->host->start(fc->opaque, &config, &error)) {
        fc->state = FC_RUNNING;
        note_addresses(fc, &config);
    }
    if (fc->state == FC_RUNNING && fc_limit_devices(fc, &error)) {
        fc_done(answer);
    } else {
        fc_fault_error(answer, error);
    }
    machine_config_clear(&config);
}

/* Under the published name, if there is such a limit. */
static bool add_dropped(struct fc *fc, json_t *line, struct fc_answer *answer)
{
    if (json_object_get(fc_resource(fc, "serial"), "rate_limiter") == NULL)
        return true;
    json_t *serial = fc_ask(fc, "serial", json_object(), answer);
    json_t *dropped = json_object_get(serial, "dropped");
    json_object_set_new(line, "uart", json_pack("{s:O?}", "rate_limiter_dropped_bytes", dropped));
    json_decref(serial);
    return serial != NULL;
}

static void flush_metrics(struct fc *fc, struct fc_answer *answer)
{
    if (fc_resource(fc, "metrics") == NULL) {
        fc_fault(answer, "Cannot flush metrics: there is no file for them.");
        return;
    }
    json_t *line = json_pack("{s:{s:I, s:I}}", "api_server", "requests", (json_int_t)fc->requests,
                             "failures", (json_int_t)fc->failures);
    if (json_is_true(json_object_get(fc_resource(fc, "metrics"), "emit_id")))
        json_object_set_new(line, "id", json_string(fc->id));
    if (json_object_get(fc_resource(fc, "metrics"), "properties") != NULL)
        json_object_set(line, "properties",
                        json_object_get(fc_resource(fc, "metrics"), "properties"));
    if (fc->state != FC_NOT_STARTED) {
        json_t *machine = fc_ask(fc, "metrics", json_object(), answer);
        if (machine == NULL) {
            json_decref(line);
            return;
        }
        json_object_set_new(line, "machine", machine);
        if (!add_dropped(fc, line, answer)) {
            json_decref(line);
            return;
        }
    }
    char *text = json_dumps(line, JSON_COMPACT);
    fc->host->write_metrics(fc->opaque, text);
    free(text);
    json_decref(line);
    fc_done(answer);
}

static void put_action(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    const char *action = json_string_value(json_object_get(body, "action_type"));
    (void)id;
    if (strcmp(action, "InstanceStart") == 0)
        start(fc, answer);
    else if (strcmp(action, "FlushMetrics") == 0)
        flush_metrics(fc, answer);
    else if (fc->state == FC_NOT_STARTED)
        fc_fault(answer, "The requested operation is not supported before starting the microVM.");
    else /* on riscv64, which has no keyboard, the power button */
        (void)fc_command(fc, "ctrl-alt-del", json_object(), answer);
}

static void patch_vm(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    bool pause = strcmp(json_string_value(json_object_get(body, "state")), "Paused") == 0;
    (void)id;
    if ((fc->state == FC_PAUSED) == pause)
        fc_done(answer);
    else if (fc_command(fc, pause ? "pause" : "resume", json_object(), answer))
        fc->state = pause ? FC_PAUSED : FC_RUNNING;
}

/* What the guest shall keep. */
static json_t *balloon_arguments(const struct fc *fc, json_int_t amount)
{
    json_int_t memory =
        json_integer_value(json_object_get(fc_resource(fc, "machine-config"), "mem_size_mib"));
    return json_pack("{s:I}", "size", (memory - amount) << 20);
}

static void patch_balloon(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    json_t *balloon = fc_resource(fc, "balloon");
    json_int_t amount = json_integer_value(json_object_get(body, "amount_mib"));
    json_int_t memory =
        json_integer_value(json_object_get(fc_resource(fc, "machine-config"), "mem_size_mib"));
    (void)id;
    if (balloon == NULL)
        fc_fault(answer, "Balloon device not found.");
    else if (amount >= memory)
        fc_fault(answer, "The balloon cannot be as large as the memory of the machine, %lld MiB.",
                 (long long)memory);
    else if (fc->state == FC_NOT_STARTED ||
             fc_command(fc, "balloon", balloon_arguments(fc, amount), answer)) {
        json_object_update(balloon, body);
        fc_done(answer);
    }
}

static bool has_statistics(const struct fc *fc, struct fc_answer *answer)
{
    const json_t *interval =
        json_object_get(fc_resource(fc, "balloon"), "stats_polling_interval_s");
    if (json_integer_value(interval) > 0)
        return true;
    fc_fault(answer, interval == NULL ? "Balloon device not found."
                                      : "The statistics of the balloon are not enabled.");
    return false;
}

static void get_balloon_statistics(struct fc *fc, const char *id, json_t *body,
                                   struct fc_answer *answer)
{
    static const struct {
        const char *ours, *theirs;
    } names[] = {{"swap-in", "swap_in"},
                 {"swap-out", "swap_out"},
                 {"major-faults", "major_faults"},
                 {"minor-faults", "minor_faults"},
                 {"free", "free_memory"},
                 {"total", "total_memory"},
                 {"available", "available_memory"},
                 {"caches", "disk_caches"},
                 {"huge-pages", "hugetlb_allocations"},
                 {"huge-page-failures", "hugetlb_failures"},
                 {"oom-kills", "oom_kill"},
                 {"allocation-stalls", "alloc_stall"},
                 {"async-scans", "async_scan"},
                 {"direct-scans", "direct_scan"},
                 {"async-reclaims", "async_reclaim"},
                 {"direct-reclaims", "direct_reclaim"}};
    (void)id, (void)body;
    if (!has_statistics(fc, answer))
        return;
    json_t *result = fc_ask(fc, "balloon", json_object(), answer);
    if (result == NULL)
        return;
    json_int_t target =
        json_integer_value(json_object_get(fc_resource(fc, "balloon"), "amount_mib"));
    json_int_t actual = json_integer_value(json_object_get(result, "given-up")) >> 20;
    json_t *stats = json_pack("{s:I, s:I, s:I, s:I}", "target_mib", target, "target_pages",
                              target << 8, "actual_mib", actual, "actual_pages", actual << 8);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        json_t *value = json_object_get(json_object_get(result, "guest"), names[i].ours);
        if (json_is_integer(value))
            json_object_set(stats, names[i].theirs, value);
    }
    json_decref(result);
    fc_tell(answer, stats);
}

static void patch_balloon_statistics(struct fc *fc, const char *id, json_t *body,
                                     struct fc_answer *answer)
{
    bool on = json_integer_value(json_object_get(body, "stats_polling_interval_s")) > 0;
    (void)id;
    if (!has_statistics(fc, answer))
        return;
    if (!on) {
        fc_fault(answer, "The statistics of the balloon cannot be switched off once they are on.");
        return;
    }
    json_object_update(fc_resource(fc, "balloon"),
                       body); /* the guest is asked when somebody asks us */
    fc_done(answer);
}

/* ---- routes ---- */

/* CONFIGURES: before the start, and a snapshot cannot be loaded any more. */
enum when { ANY, BEFORE, CONFIGURES, AFTER };

static const struct route {
    const char *method, *path; /* "{id}" is any word */
    enum when when;
    /* NULL: trapeze does not have this. The body has passed `fields`. */
    fc_run_fn *run;
    const struct fc_field *fields; /* NULL: there is no body */
    bool part;                     /* fields may be absent */
} routes[] = {
    {"GET", "/", ANY, get_instance, NULL, false},
    {"GET", "/version", ANY, get_version, NULL, false},
    {"GET", "/vm/config", ANY, get_config, NULL, false},
    {"GET", "/machine-config", ANY, get_machine, NULL, false},
    {"PUT", "/machine-config", CONFIGURES, put_machine, fc_machine_configuration, false},
    {"PATCH", "/machine-config", CONFIGURES, patch_machine, fc_machine_configuration, true},
    {"PUT", "/boot-source", CONFIGURES, put_boot_source, fc_boot_source, false},
    {"PUT", "/drives/{id}", CONFIGURES, fc_put_drive, fc_drive, false},
    {"PATCH", "/drives/{id}", AFTER, fc_patch_drive, fc_partial_drive, false},
    {"PUT", "/network-interfaces/{id}", CONFIGURES, fc_put_nic, fc_network_interface, false},
    {"PATCH", "/network-interfaces/{id}", AFTER, fc_patch_nic, fc_partial_network_interface, false},
    {"PUT", "/vsock", CONFIGURES, put_vsock, fc_vsock, false},
    {"GET", "/balloon", ANY, get_balloon, NULL, false},
    {"PUT", "/balloon", CONFIGURES, put_balloon, fc_balloon, false},
    {"PATCH", "/balloon", ANY, patch_balloon, fc_balloon_update, false},
    {"GET", "/balloon/statistics", AFTER, get_balloon_statistics, NULL, false},
    {"PATCH", "/balloon/statistics", ANY, patch_balloon_statistics, fc_balloon_stats_update, false},
    {"PUT", "/entropy", CONFIGURES, put_entropy, fc_entropy_device, false},
    {"PUT", "/serial", BEFORE, put_serial, fc_serial_device, false},
    {"PUT", "/logger", ANY, put_logger, fc_logger, false},
    {"PUT", "/metrics", ANY, put_metrics, fc_metrics, false},
    {"PUT", "/actions", ANY, put_action, fc_instance_action_info, false},
    {"PATCH", "/vm", AFTER, patch_vm, fc_vm, false},
    {"PATCH", "/balloon/hinting/start", ANY, NULL, NULL, false},
    {"GET", "/balloon/hinting/status", ANY, NULL, NULL, false},
    {"PATCH", "/balloon/hinting/stop", ANY, NULL, NULL, false},
    {"PUT", "/cpu-config", CONFIGURES, fc_put_cpu_config, fc_cpu_config, false},
    {"PUT", "/snapshot/create", AFTER, fc_put_snapshot_create, fc_snapshot_create_params, false},
    {"PUT", "/snapshot/load", BEFORE, fc_put_snapshot_load, fc_snapshot_load_params, false},
    {"GET", "/mmds", ANY, fc_get_mmds, NULL, false},
    {"PUT", "/mmds", ANY, fc_put_mmds, fc_any, false},
    {"PATCH", "/mmds", ANY, fc_patch_mmds, fc_any, true},
    {"PUT", "/mmds/config", CONFIGURES, fc_put_mmds_config, fc_mmds_config, false},
    {"PUT", "/pmem/{id}", ANY, NULL, NULL, false},
    {"PATCH", "/pmem/{id}", ANY, NULL, NULL, false},
    {"GET", "/hotplug/memory", ANY, NULL, NULL, false},
    {"PUT", "/hotplug/memory", ANY, NULL, NULL, false},
    {"PATCH", "/hotplug/memory", ANY, NULL, NULL, false},
};

/* What stands for {id} in the path, NULL if the path is another one; "" if the route has none. */
static const char *match(const char *route, const char *path)
{
    const char *id = strchr(route, '{');
    if (id == NULL)
        return strcmp(route, path) == 0 ? "" : NULL;
    size_t length = (size_t)(id - route);
    return strncmp(route, path, length) == 0 && strchr(path + length, '/') == NULL ? path + length
                                                                                   : NULL;
}

static const struct route *find(const char *method, const char *path, const char **id)
{
    for (size_t i = 0; i < ARRAY_SIZE(routes); i++)
        if (strcmp(routes[i].method, method) == 0 && (*id = match(routes[i].path, path)) != NULL)
            return &routes[i];
    return NULL;
}

static bool is_time_for(const struct fc *fc, const struct route *route, struct fc_answer *answer)
{
    bool before = route->when == BEFORE || route->when == CONFIGURES;
    if (before && fc->state != FC_NOT_STARTED)
        fc_fault(answer, "The requested operation is not supported after starting the microVM.");
    else if (route->when == AFTER && fc->state == FC_NOT_STARTED)
        fc_fault(answer, "The requested operation is not supported before starting the microVM.");
    else
        return true;
    return false;
}

static void carry_out(struct fc *fc, const struct route *route, const char *id, const char *body,
                      size_t size, struct fc_answer *answer)
{
    char why[FC_FAULT_MAX];
    json_t *object = NULL;
    if (route->run == NULL)
        fc_fault(answer, "trapeze does not support %s %s.", route->method, route->path);
    else if (route->fields == NULL && size > 0)
        fc_fault(answer, "%s request cannot have a body.", route->method);
    else if (route->fields != NULL && size == 0)
        fc_fault(answer, "Empty %s request.", route->method);
    else if (strstr(route->path, "{id}") != NULL && id[0] == '\0')
        fc_fault(answer, "The ID cannot be empty.");
    else if (route->fields != NULL &&
             (object = route->part ? fc_check_part(route->fields, body, size, why)
                                   : fc_check(route->fields, body, size, why)) == NULL)
        fc_fault(answer, "%s", why);
    else if (is_time_for(fc, route, answer)) {
        fc->configured |= route->when == CONFIGURES;
        route->run(fc, id, object, answer);
    }
    json_decref(object);
}

void fc_request(struct fc *fc, const char *method, const char *path, const char *body, size_t size,
                struct fc_answer *answer)
{
    const char *id;
    const struct route *route = find(method, path, &id);
    *answer = (struct fc_answer){0};
    fc->requests++;
    if (route != NULL)
        carry_out(fc, route, id, body, body != NULL ? size : 0, answer);
    else
        fc_fault(answer, "Invalid request method and/or path: %s %.64s.", method, path);
    fc->failures += answer->status >= BAD_REQUEST;
}

void fc_init(struct fc *fc, const char *id, const struct fc_host *host, void *opaque)
{
    char why[FC_FAULT_MAX];
    static const char machine[] = "{\"vcpu_count\": 1, \"mem_size_mib\": 128}";
    *fc = (struct fc){.host = host, .opaque = opaque, .id = id, .store_limit = FC_BODY_MAX};
    fc->resources = json_pack("{s:o, s:[], s:[]}", "machine-config",
                              fc_check(fc_machine_configuration, machine, strlen(machine), why),
                              "drives", "network-interfaces");
}

void fc_clear(struct fc *fc)
{
    json_decref(fc->resources);
    json_decref(fc->store);
}
