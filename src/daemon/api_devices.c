/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/devices: what a machine's description shall have from now on, after
 * devices were attached to the machine that runs, or detached ('trapeze disk', 'trapeze net').
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/job.h"
#include "daemon/machine.h"

/* Disks and NICs of a .vmx text, behind those that there are. */
static bool add(struct machine_config *config, const json_t *wish, struct error **err)
{
    struct machine_config more;
    machine_config_init(&more);
    bool good = vmx_parse(json_string_value(wish), json_string_length(wish), "add", &more, err);
    if (good && (config->disk_count + more.disk_count > MACHINE_MAX_DISKS ||
                 config->nic_count + more.nic_count > MACHINE_MAX_NICS))
        good = error_set(err, ERROR_USAGE, "a machine has at most %d disks and %d NICs",
                         MACHINE_MAX_DISKS, MACHINE_MAX_NICS);
    for (size_t i = 0; good && i < more.disk_count; i++) {
        struct machine_disk *disk = &config->disks[config->disk_count++];
        machine_disk_copy(disk, &more.disks[i]);
        disk->slot = 0; /* the next that is free */
    }
    for (size_t i = 0; good && i < more.nic_count; i++) {
        struct machine_nic *nic = &config->nics[config->nic_count++];
        machine_nic_copy(nic, &more.nics[i]);
        nic->slot = 0;
    }
    machine_config_clear(&more);
    return good;
}

static const char *text_of(const json_t *wish, const char *name)
{
    return json_string_value(json_object_get(wish, name));
}

/* The disk on this file, as a machine names it that was started from the folder; an index, or the
 * count: there is none. */
static size_t find_disk(const struct machine_config *config, const char *folder, const char *file,
                        bool optical)
{
    struct machine_config full;
    size_t found = 0;
    machine_config_init(&full);
    for (; full.disk_count < config->disk_count; full.disk_count++)
        machine_disk_copy(&full.disks[full.disk_count], &config->disks[full.disk_count]);
    vmx_resolve(&full, folder);
    while (found < full.disk_count &&
           ((optical && full.disks[found].media == 0) || strcmp(full.disks[found].path, file) != 0))
        found++;
    machine_config_clear(&full);
    return found;
}

/* What is not there needs no removing. */
static void remove_disk(struct machine_config *config, size_t index)
{
    if (index >= config->disk_count)
        return;
    machine_disk_clear(&config->disks[index]);
    memmove(&config->disks[index], &config->disks[index + 1],
            (--config->disk_count - index) * sizeof(config->disks[0]));
}

static void remove_nic(struct machine_config *config, const char *mac)
{
    size_t index = 0;
    while (index < config->nic_count &&
           (config->nics[index].mac == NULL || strcasecmp(config->nics[index].mac, mac) != 0))
        index++;
    if (index == config->nic_count)
        return;
    machine_nic_clear(&config->nics[index]);
    memmove(&config->nics[index], &config->nics[index + 1],
            (--config->nic_count - index) * sizeof(config->nics[0]));
}

static bool apply(struct machine_config *config, const char *folder, const json_t *wish,
                  struct error **err)
{
    const json_t *more = json_object_get(wish, "add");
    const char *disk = text_of(wish, "remove-disk"), *mac = text_of(wish, "remove-nic");
    const char *before = text_of(wish, "disc-before"), *disc = text_of(wish, "disc");
    if (disk != NULL)
        remove_disk(config, find_disk(config, folder, disk, false));
    if (mac != NULL)
        remove_nic(config, mac);
    if (before != NULL && disc != NULL) {
        size_t drive = find_disk(config, folder, before, true);
        if (drive == config->disk_count)
            return error_set(err, ERROR_USAGE, "the description has no drive with the disc '%s'",
                             before);
        free(config->disks[drive].path);
        config->disks[drive].path = alloc_string(disc);
    }
    return more == NULL || add(config, more, err);
}

/* The machine may run: its worker has read its description long ago. */
static json_t *change(struct daemon *daemon, const char *name, const json_t *wish,
                      struct error **err)
{
    struct instance instance;
    struct machine_config config;
    if (!instance_open(&instance, &daemon->store, name, err))
        return NULL;
    struct text *text = instance_read(&instance, err);
    machine_config_init(&config);
    bool good = text != NULL && vmx_read(text, &config, NULL, err) &&
                apply(&config, instance.path, wish, err) && machine_config_check(&config, err);
    if (good) {
        vmx_update(text, &config);
        good = instance_write(&instance, text, err);
    }
    text_free(text);
    machine_config_clear(&config);
    instance_close(&instance);
    return good ? json_pack("{s:s}", "name", name) : NULL;
}

static void run(struct api_call *call)
{
    const char *key;
    json_t *value;
    static const char *const known[] = {"add", "remove-disk", "remove-nic", "disc-before", "disc"};
    bool good = json_object_size(call->body) > 0;
    json_object_foreach(call->body, key, value)
    {
        size_t i = 0;
        while (i < ARRAY_SIZE(known) && strcmp(known[i], key) != 0)
            i++;
        good = good && i < ARRAY_SIZE(known) && json_is_string(value);
    }
    if (!good)
        api_refuse(call, 400, "say what to add or to remove; /v1/openapi.json has the words");
    else if (api_take_existing(call))
        api_job(call, change);
}

const struct api_verb api_devices = {
    .id = "devices",
    .method = "POST",
    .path = "/v1/instances/{name}/devices",
    .summary = "Change what disks and NICs the description has, not what the machine has now",
    .body =
        "{\"type\": \"object\", \"additionalProperties\": false, \"minProperties\": 1, "
        "\"properties\": {\"add\": {\"type\": \"string\", \"description\": \"disks and NICs of "
        "this .vmx\"}, \"remove-disk\": {\"type\": \"string\", \"description\": \"its file\"}, "
        "\"remove-nic\": {\"type\": \"string\", \"description\": \"its address\"}, "
        "\"disc-before\": {\"type\": \"string\", \"description\": \"a drive's disc; empty: "
        "none\"}, \"disc\": {\"type\": \"string\", \"description\": \"its disc from now on\"}}}",
    .answer = API_ANSWER_NAME,
    .status = 200,
    .run = run,
};
