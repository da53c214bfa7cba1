/* SPDX-License-Identifier: MIT
 *
 * Snapshots: the state of a machine and its memory in two files, from which machines of other
 * processes go on. The resources are in the file of the state, as notes (migrate/image.h); a
 * stranger may have written them, so they pass the same tables as requests do.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "config/machine.h"
#include "firecracker/definitions.h"
#include "firecracker/internal.h"

/* ---- what goes along ---- */

static const struct {
    const char *name, *id; /* id NULL: no list */
    size_t limit;
    const struct fc_field *fields;
} kept[] = {
    {"machine-config", NULL, 1, fc_machine_configuration},
    {"boot-source", NULL, 1, fc_boot_source},
    {"drives", "drive_id", MACHINE_MAX_DISKS, fc_drive},
    {"network-interfaces", "iface_id", MACHINE_MAX_NICS, fc_network_interface},
    {"vsock", NULL, 1, fc_vsock},
    {"balloon", NULL, 1, fc_balloon},
    {"entropy", NULL, 1, fc_entropy_device},
    {"mmds-config", NULL, 1, fc_mmds_config},
};

static char *write_notes(const struct fc *fc)
{
    json_t *notes = json_object();
    for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
        if (fc_resource(fc, kept[i].name) != NULL)
            json_object_set(notes, kept[i].name, fc_resource(fc, kept[i].name));
    char *text = json_dumps(notes, JSON_COMPACT);
    json_decref(notes);
    return text;
}

static bool check_kept(size_t row, json_t *value, char why[FC_FAULT_MAX])
{
    size_t index;
    json_t *entry;
    if (kept[row].id == NULL)
        return fc_check_object(kept[row].fields, value, why);
    if (!json_is_array(value) || json_array_size(value) > kept[row].limit)
        return false;
    json_array_foreach(value, index, entry)
    {
        if (!fc_check_object(kept[row].fields, entry, why))
            return false;
    }
    return true;
}

/* New resources; NULL: the notes are not ours. */
static json_t *read_notes(const char *text)
{
    char why[FC_FAULT_MAX];
    json_t *notes = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    json_t *resources = json_pack("{s:[], s:[]}", "drives", "network-interfaces");
    bool good = json_is_object(notes);
    for (size_t i = 0; good && i < ARRAY_SIZE(kept); i++) {
        json_t *value = json_object_get(notes, kept[i].name);
        good = value == NULL || check_kept(i, value, why);
        if (good && value != NULL)
            json_object_set(resources, kept[i].name, value);
    }
    json_decref(notes);
    if (good && json_object_get(resources, "machine-config") != NULL &&
        json_object_get(resources, "boot-source") != NULL)
        return resources;
    json_decref(resources);
    return NULL;
}

/* ---- create ---- */

void fc_put_snapshot_create(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    static const char prefix[] = "Create snapshot error: ";
    const json_t *machine = fc_resource(fc, "machine-config");
    const char *type = json_string_value(json_object_get(body, "snapshot_type"));
    struct fc_snapshot snapshot = {
        .state = json_string_value(json_object_get(body, "snapshot_path")),
        .memory = json_string_value(json_object_get(body, "mem_file_path")),
        .changes = strcmp(type, "Diff") == 0,
        .track = json_is_true(json_object_get(machine, "track_dirty_pages")),
        .memory_size =
            (unsigned long long)json_integer_value(json_object_get(machine, "mem_size_mib")) << 20,
    };
    struct error *error = NULL;
    (void)id;
    if (fc->state != FC_PAUSED) {
        fc_fault(answer,
                 "%sCannot save the microVM state: Operation not allowed: save/restore unavailable "
                 "while running",
                 prefix);
        return;
    }
    char *notes = write_notes(fc);
    snapshot.notes = notes;
    if (fc->host->save(fc->opaque, &snapshot, &error)) {
        fc_done(answer);
    } else {
        fc_fault(answer, "%s%s", prefix, error_message(error));
        error_free(error);
    }
    free(notes);
}

/* ---- load ---- */

#define LOAD    "Load snapshot error: "
#define RESTORE LOAD "Failed to restore from snapshot: "

static void refuse_body(struct fc_answer *answer, const char *what)
{
    fc_fault(answer,
             "An error occurred when deserializing the json body of a request: %s: either "
             "`mem_backend` or `mem_file_path` %s.",
             what, what[0] == 't' ? "exclusively is required" : "is required");
}

/* The file of the memory. NULL: refused. */
static const char *memory_of(const json_t *body, struct fc_answer *answer)
{
    static const char memory[] = RESTORE "Failed to load guest memory: ";
    const json_t *backend = json_object_get(body, "mem_backend");
    const char *plain = json_string_value(json_object_get(body, "mem_file_path"));
    const char *pages = json_string_value(json_object_get(body, "huge_pages"));
    const char *type = json_string_value(json_object_get(backend, "backend_type"));
    if (backend != NULL && plain != NULL)
        refuse_body(answer, "too many fields");
    else if (backend == NULL && plain == NULL)
        refuse_body(answer, "missing field");
    else if (type != NULL && strcmp(type, "Uffd") == 0)
        fc_fault(answer,
                 "%sError creating guest memory from uffd: trapeze gets page faults from nobody; "
                 "use the backend File",
                 memory);
    else if (pages != NULL && strcmp(pages, "2M") == 0)
        fc_fault(
            answer,
            "%sError creating guest memory from file: Cannot restore hugetlbfs backed snapshot "
            "by mapping the memory file. Please use uffd.",
            memory);
    else if (json_is_true(json_object_get(body, "clock_realtime")))
        fc_fault(answer,
                 "%sFailed to build microVM from snapshot: clock_realtime is not supported "
                 "by trapeze, whose clocks of real time go on by themselves.",
                 RESTORE);
    else
        return plain != NULL ? plain : json_string_value(json_object_get(backend, "backend_path"));
    return NULL;
}

static bool override(json_t *resources, const json_t *body, struct fc_answer *answer)
{
    json_t *nics = json_object_get(resources, "network-interfaces");
    json_t *vsock = json_object_get(resources, "vsock");
    const json_t *path = json_object_get(json_object_get(body, "vsock_override"), "uds_path");
    size_t index;
    const json_t *entry;
    json_array_foreach(json_object_get(body, "network_overrides"), index, entry)
    {
        size_t place =
            fc_place_of(nics, "iface_id", json_string_value(json_object_get(entry, "iface_id")));
        if (place == json_array_size(nics)) {
            fc_fault(answer, "%sFailed to get snapshot state from file: Unknown Network Device.",
                     RESTORE);
            return false;
        }
        json_object_set(json_array_get(nics, place), "host_dev_name",
                        json_object_get(entry, "host_dev_name"));
    }
    if (path != NULL && vsock == NULL) {
        fc_fault(answer, "%sFailed to get snapshot state from file: Unknown Vsock Device.",
                 RESTORE);
        return false;
    }
    if (path != NULL)
        json_object_set(vsock, "uds_path", (json_t *)(uintptr_t)path);
    json_array_foreach(nics, index, entry)
    {
        if (!fc_device_fits(json_string_value(json_object_get(entry, "host_dev_name")), answer))
            return false;
    }
    const json_t *metadata = json_object_get(resources, "mmds-config");
    return (metadata == NULL || fc_metadata_fits(resources, metadata, answer)) &&
           fc_machine_is_possible(json_object_get(resources, "machine-config"), answer);
}

/* What is not in the resources is as it was. A machine that goes on needs no kernel's file, but on
 * the x86 board, which makes its tables from it. */
static void take_over(struct machine_config *config, struct machine_config *was)
{
    char **const ours[] = {&config->kernel, &config->initrd, &config->append};
    bool needed = strcmp(config->arch, "x86_64") == 0;
    for (size_t i = 0; i < ARRAY_SIZE(ours) && !needed; i++) {
        free(*ours[i]);
        *ours[i] = NULL;
    }
    free(config->interrupts);
    config->interrupts = was->interrupts;
    was->interrupts = NULL;
}

/* The machine that was opened, with these resources; what this process has of its own (logs, the
 * console) is no part of a snapshot. */
static bool go_on(struct fc *fc, json_t *resources, struct machine_config *was,
                  struct fc_answer *answer)
{
    struct machine_config config;
    struct error *error = NULL;
    json_t *all = json_copy(fc->resources), *before = fc->resources;
    json_object_update(all, resources);
    machine_config_init(&config);
    fc->resources = all;
    bool good = fc_tell_metadata(fc, &error) && fc_machine(all, was->arch, &config, &error);
    if (good) {
        take_over(&config, was);
        good = machine_config_check_parts(&config, &error) &&
               fc->host->go_on(fc->opaque, &config, &error) && fc_limit_devices(fc, &error);
    }
    machine_config_clear(&config);
    if (good) {
        json_decref(before);
        fc->loaded = true;
        fc->state = FC_PAUSED;
        return true;
    }
    fc->resources = before;
    json_decref(all);
    fc_fault(answer, "%s%s", RESTORE, error_message(error));
    error_free(error);
    return false;
}

static bool load(struct fc *fc, const char *memory, const json_t *body, struct fc_answer *answer)
{
    struct machine_config was;
    struct error *error = NULL;
    json_t *resources = NULL;
    machine_config_init(&was);
    char *notes =
        fc->host->open_saved(fc->opaque, json_string_value(json_object_get(body, "snapshot_path")),
                             memory, &was, &error);
    if (notes == NULL) {
        fc_fault(answer, "%sFailed to get snapshot state from file: %s", RESTORE,
                 error_message(error));
        error_free(error);
    } else if ((resources = read_notes(notes)) == NULL) {
        fc_fault(answer,
                 "%sFailed to get snapshot state from file: it is no snapshot of this API's",
                 RESTORE);
    }
    bool good = resources != NULL && override(resources, body, answer) &&
                go_on(fc, resources, &was, answer);
    json_decref(resources);
    machine_config_clear(&was);
    free(notes);
    return good;
}

void fc_put_snapshot_load(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    const char *memory;
    (void)id;
    if (fc->configured) {
        fc_fault(answer, LOAD "Loading a microVM snapshot not allowed after configuring "
                              "boot-specific resources.");
        return;
    }
    if ((memory = memory_of(body, answer)) == NULL)
        return;
    answer->deprecated = json_object_get(body, "mem_file_path") != NULL ||
                         json_is_true(json_object_get(body, "enable_diff_snapshots"));
    if (!load(fc, memory, body, answer)) {
        fc->failed = true; /* as there: the process ends */
        return;
    }
    json_object_set_new(fc_resource(fc, "machine-config"), "track_dirty_pages",
                        json_boolean(json_is_true(json_object_get(body, "track_dirty_pages")) ||
                                     json_is_true(json_object_get(body, "enable_diff_snapshots"))));
    if (!json_is_true(json_object_get(body, "resume_vm")))
        fc_done(answer);
    else if (fc_command(fc, "resume", json_object(), answer))
        fc->state = FC_RUNNING;
    else
        fc->failed = true;
}
