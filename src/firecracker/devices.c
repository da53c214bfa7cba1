/* SPDX-License-Identifier: MIT
 *
 * Drives and network interfaces: what is put before the start, and patched while the machine runs.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "config/machine.h"
#include "firecracker/internal.h"

static bool ids_fit(const char *path, const json_t *body, const char *name,
                    struct fc_answer *answer)
{
    const char *id = json_string_value(json_object_get(body, name));
    for (const char *at = id; *at != '\0'; at++) {
        if (isalnum((unsigned char)*at) || *at == '_')
            continue;
        fc_fault(answer,
                 "API Resource IDs can only contain alphanumeric characters and underscores.");
        return false;
    }
    if (id[0] == '\0')
        fc_fault(answer, "The ID cannot be empty.");
    else if (strcmp(path, id) != 0)
        fc_fault(answer, "The id from the path [%s] does not match the id from the body [%s]!",
                 path, id);
    else
        return true;
    return false;
}

/* Replaces what has the id, or adds it, in front if it is `first`. */
static bool put_entry(json_t *list, const char *name, json_t *body, bool first, size_t limit,
                      struct fc_answer *answer)
{
    size_t place = fc_place_of(list, name, json_string_value(json_object_get(body, name)));
    if (place == json_array_size(list) && place == limit) {
        fc_fault(answer, "A machine of trapeze has room for %zu of these.", limit);
        return false;
    }
    if (place < json_array_size(list))
        json_array_remove(list, place);
    else if (!first)
        place = json_array_size(list);
    json_array_insert(list, first ? 0 : place, body);
    fc_done(answer);
    return true;
}

/* ---- before the start ---- */

void fc_put_drive(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    json_t *drives = fc_resource(fc, "drives");
    const json_t *first = json_array_get(drives, 0);
    bool root = json_is_true(json_object_get(body, "is_root_device"));
    bool read_only = json_is_true(json_object_get(body, "is_read_only"));
    if (!ids_fit(id, body, "drive_id", answer))
        return;
    if (root && first != NULL && json_is_true(json_object_get(first, "is_root_device")) &&
        strcmp(json_string_value(json_object_get(first, "drive_id")), id) != 0)
        fc_fault(answer, "A root block device already exists!");
    else if (fc_reachable(json_string_value(json_object_get(body, "path_on_host")),
                          read_only ? R_OK : R_OK | W_OK, "The drive's backing file", answer))
        (void)put_entry(drives, "drive_id", body, root, MACHINE_MAX_DISKS, answer);
}

bool fc_device_fits(const char *name, struct fc_answer *answer)
{
    if (name[0] != '\0' && strlen(name) <= 15 && strchr(name, '/') == NULL)
        return true;
    fc_fault(answer, "'%s' is not the name of a network interface.", name);
    return false;
}

void fc_put_nic(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    json_t *nics = fc_resource(fc, "network-interfaces");
    const char *mac = json_string_value(json_object_get(body, "guest_mac"));
    const char *device = json_string_value(json_object_get(body, "host_dev_name"));
    uint8_t bytes[6];
    size_t index;
    const json_t *other;
    if (!ids_fit(id, body, "iface_id", answer))
        return;
    if (mac != NULL && !machine_parse_mac(mac, bytes)) {
        fc_fault(answer, "Invalid MAC address: '%s'", mac);
        return;
    }
    if (!fc_device_fits(device, answer))
        return;
    json_array_foreach(nics, index, other)
    {
        const char *theirs = json_string_value(json_object_get(other, "guest_mac"));
        if (mac != NULL && theirs != NULL && strcasecmp(mac, theirs) == 0 &&
            strcmp(json_string_value(json_object_get(other, "iface_id")), id) != 0) {
            fc_fault(answer, "The MAC address is already in use: %s", mac);
            return;
        }
    }
    (void)put_entry(nics, "iface_id", body, false, MACHINE_MAX_NICS, answer);
}

/* ---- while it runs ---- */

/* What a part of a limiter says becomes the limiter's, bucket by bucket. */
static void merge_limiter(json_t *resource, const json_t *part, const char *name)
{
    json_t *change = json_object_get(part, name);
    if (change == NULL)
        return;
    json_t *whole = json_copy(json_object_get(resource, name));
    if (whole == NULL)
        whole = json_object();
    json_object_update(whole, change);
    json_object_set_new(resource, name, whole);
}

static bool replace_file(struct fc *fc, size_t place, const char *path, struct fc_answer *answer)
{
    const json_t *drive = json_array_get(fc_resource(fc, "drives"), place);
    bool read_only = json_is_true(json_object_get(drive, "is_read_only"));
    struct error *error = NULL;
    if (fc->host->replace(fc->opaque, place, path, read_only, &error))
        return true;
    fc_fault(answer, "Unable to patch the block device: %s. Please verify the request arguments.",
             error_message(error));
    error_free(error);
    return false;
}

void fc_patch_drive(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    json_t *drives = fc_resource(fc, "drives");
    const char *path = json_string_value(json_object_get(body, "path_on_host"));
    size_t place = fc_place_of(drives, "drive_id", id);
    if (!ids_fit(id, body, "drive_id", answer))
        return;
    json_t *drive = json_array_get(drives, place);
    if (drive == NULL) {
        fc_fault(answer, "Drive '%s' does not exist.", id);
        return;
    }
    if (path != NULL) { /* as there: it stays so, if the limits are then refused */
        if (!replace_file(fc, place, path, answer))
            return;
        json_object_set_new(drive, "path_on_host", json_string(path));
    }
    json_t *whole = json_copy(drive);
    merge_limiter(whole, body, "rate_limiter");
    const json_t *limiter = json_object_get(whole, "rate_limiter");
    if (json_object_get(body, "rate_limiter") == NULL)
        fc_done(answer);
    else if (fc_command(fc, "limit",
                        json_pack("{s:I, s:I, s:I}", "disk", (json_int_t)place, "bps",
                                  (json_int_t)fc_per_second(limiter, "bandwidth"), "iops",
                                  (json_int_t)fc_per_second(limiter, "ops")),
                        answer))
        json_array_set(drives, place, whole);
    json_decref(whole);
}

/* Of a NIC, as arguments of the worker's verb. */
static json_t *limits_of(const json_t *nic, size_t place)
{
    static const struct {
        const char *limiter, *bucket, *name;
    } rows[] = {{"tx_rate_limiter", "bandwidth", "send-bytes"},
                {"tx_rate_limiter", "ops", "send-frames"},
                {"rx_rate_limiter", "bandwidth", "receive-bytes"},
                {"rx_rate_limiter", "ops", "receive-frames"}};
    json_t *limits = json_pack("{s:I}", "nic", (json_int_t)place);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        json_object_set_new(limits, rows[i].name,
                            json_integer((json_int_t)fc_per_second(
                                json_object_get(nic, rows[i].limiter), rows[i].bucket)));
    return limits;
}

static bool limit(struct fc *fc, const char *verb, json_t *limits, struct error **err)
{
    json_t *result = fc->host->verb(fc->opaque, verb, limits, err);
    json_decref(limits);
    json_decref(result);
    return result != NULL;
}

bool fc_limit_devices(struct fc *fc, struct error **err)
{
    const json_t *entropy = json_object_get(fc_resource(fc, "entropy"), "rate_limiter");
    const json_t *serial = fc_resource(fc, "serial");
    size_t place;
    const json_t *nic;
    bool good = true;
    json_array_foreach(fc_resource(fc, "network-interfaces"), place, nic)
    {
        if (json_object_get(nic, "rx_rate_limiter") != NULL ||
            json_object_get(nic, "tx_rate_limiter") != NULL)
            good = good && limit(fc, "rate", limits_of(nic, place), err);
    }
    if (good && entropy != NULL)
        good =
            limit(fc, "entropy",
                  json_pack("{s:I, s:I}", "bytes", (json_int_t)fc_per_second(entropy, "bandwidth"),
                            "requests", (json_int_t)fc_per_second(entropy, "ops")),
                  err);
    if (good && json_object_get(serial, "rate_limiter") != NULL)
        good = limit(fc, "serial",
                     json_pack("{s:I}", "bytes", (json_int_t)fc_per_second(serial, "rate_limiter")),
                     err);
    return good;
}

void fc_patch_nic(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    json_t *nics = fc_resource(fc, "network-interfaces");
    size_t place = fc_place_of(nics, "iface_id", id);
    if (!ids_fit(id, body, "iface_id", answer))
        return;
    if (place == json_array_size(nics)) {
        fc_fault(answer, "Network interface '%s' does not exist.", id);
        return;
    }
    json_t *whole = json_copy(json_array_get(nics, place));
    merge_limiter(whole, body, "rx_rate_limiter");
    merge_limiter(whole, body, "tx_rate_limiter");
    if (fc_command(fc, "rate", limits_of(whole, place), answer))
        json_array_set(nics, place, whole);
    json_decref(whole);
}
