/* SPDX-License-Identifier: MIT
 *
 * The metadata service: its configuration, which is a resource as others, and its document, which
 * is in no snapshot. The guest's side of it is in processes of the network's (net/metadata.h).
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "config/machine.h"
#include "firecracker/internal.h"

enum { PAYLOAD_TOO_LARGE = 413, METADATA_ID_MAX = 64 /* net/metadata.h */ };

#define CONFIG          "MMMDS config error: " /* as there */
#define DEFAULT_ADDRESS "169.254.169.254"

bool fc_metadata_fits(const json_t *resources, const json_t *config, struct fc_answer *answer)
{
    const json_t *ids = json_object_get(config, "network_interfaces"), *id;
    const json_t *nics = json_object_get(resources, "network-interfaces");
    const char *text = json_string_value(json_object_get(config, "ipv4_address"));
    struct in_addr address;
    size_t index;
    if (text != NULL && inet_pton(AF_INET, text, &address) != 1) {
        fc_fault(answer, "An error occurred when deserializing the json body of a request: invalid "
                         "IPv4 address syntax.");
        return false;
    }
    uint32_t number = text != NULL ? ntohl(address.s_addr) : 0xa9fea9fe;
    unsigned third = number >> 8 & 0xff;
    bool known = true;
    json_array_foreach(ids, index, id) known =
        known && fc_place_of(nics, "iface_id", json_string_value(id)) < json_array_size(nics);
    if (json_array_size(ids) == 0)
        fc_fault(answer, CONFIG "The list of network interface IDs that allow forwarding MMDS "
                                "requests is empty.");
    else if (number >> 16 != 0xa9fe || third == 0 || third == 255)
        fc_fault(answer, CONFIG "The MMDS IPv4 address is not link local.");
    else if (!known)
        fc_fault(answer,
                 CONFIG "The list of network interface IDs provided contains at least one ID "
                        "that does not correspond to any existing network interface.");
    else
        return true;
    return false;
}

/* Tells the machine's network what is answered from now on. */
bool fc_tell_metadata(struct fc *fc, struct error **err)
{
    const json_t *config = fc_resource(fc, "mmds-config"), *id;
    const char *address = json_string_value(json_object_get(config, "ipv4_address"));
    struct fc_metadata metadata = {.address = address != NULL ? address : DEFAULT_ADDRESS};
    size_t index;
    if (config == NULL)
        return true;
    json_array_foreach(json_object_get(config, "network_interfaces"), index, id)
    {
        size_t place =
            fc_place_of(fc_resource(fc, "network-interfaces"), "iface_id", json_string_value(id));
        if (place < MACHINE_MAX_NICS)
            metadata.nics[place] = true;
    }
    metadata.message = json_pack(
        "{s:s#, s:i, s:b, s:O?}", "id", fc->id, (int)strnlen(fc->id, METADATA_ID_MAX), "version",
        strcmp(json_string_value(json_object_get(config, "version")), "V2") == 0 ? 2 : 1, "plain",
        json_is_true(json_object_get(config, "imds_compat")), "store", fc->store);
    bool good = fc->host->metadata(fc->opaque, &metadata, err);
    json_decref(metadata.message);
    return good;
}

void fc_put_mmds_config(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    struct error *error = NULL;
    (void)id;
    if (!fc_metadata_fits(fc->resources, body, answer))
        return;
    json_object_set(fc->resources, "mmds-config", body);
    if (fc_tell_metadata(fc, &error)) {
        fc_done(answer);
        answer->deprecated = strcmp(json_string_value(json_object_get(body, "version")), "V1") == 0;
    } else {
        fc_fault_error(answer, error);
    }
}

/* ---- the document ---- */

/* RFC 7396; a new reference. */
static json_t *merge(json_t *target, json_t *patch)
{
    const char *name;
    json_t *value;
    if (!json_is_object(patch))
        return json_incref(patch);
    json_t *result = json_is_object(target) ? json_copy(target) : json_object();
    json_object_foreach(patch, name, value)
    {
        if (json_is_null(value))
            json_object_del(result, name);
        else
            json_object_set_new(result, name, merge(json_object_get(result, name), value));
    }
    return result;
}

static bool is_there(const struct fc *fc, bool document, struct fc_answer *answer)
{
    if (fc->store != NULL ||
        (!document && (fc->state == FC_NOT_STARTED || fc_resource(fc, "mmds-config") != NULL)))
        return true;
    fc_fault(answer, "MMDS error: The MMDS data store is not initialized.");
    return false;
}

/* Takes the document. */
static void store(struct fc *fc, json_t *document, struct fc_answer *answer)
{
    struct error *error = NULL;
    json_t *old = fc->store;
    char *text = json_dumps(document, JSON_COMPACT | JSON_ENCODE_ANY);
    size_t size = strlen(text);
    free(text);
    if (size > fc->store_limit) {
        json_decref(document);
        fc_fault(answer, "MMDS limit exceeded error: The MMDS patch request doesn't fit.");
        answer->status = PAYLOAD_TOO_LARGE;
        return;
    }
    fc->store = document;
    if (fc_tell_metadata(fc, &error)) {
        json_decref(old);
        fc_done(answer);
        return;
    }
    json_decref(document);
    fc->store = old;
    fc_fault_error(answer, error);
}

void fc_put_mmds(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    (void)id;
    if (is_there(fc, false, answer))
        store(fc, json_incref(body), answer);
}

void fc_patch_mmds(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    (void)id;
    if (is_there(fc, true, answer))
        store(fc, merge(fc->store, body), answer);
}

void fc_get_mmds(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer)
{
    (void)id, (void)body;
    if (is_there(fc, false, answer))
        fc_tell(answer, fc->store == NULL || json_is_null(fc->store) ? json_object()
                                                                     : json_incref(fc->store));
}
