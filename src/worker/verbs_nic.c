/* SPDX-License-Identifier: MIT
 *
 * Verbs for NICs that come and go. The client starts what is behind a NIC, and sends its frame
 * socket along with the request, and the file for a capture if there shall be one.
 */
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/frame.h"
#include "config/machine.h"
#include "config/vmx.h"
#include "vm/vm.h"
#include "worker/verbs.h"

static int take_fd(struct control_target *target, size_t index)
{
    if (index >= target->fds->count)
        return -1;
    int fd = target->fds->fds[index];
    target->fds->fds[index] = -1;
    return fd;
}

static bool get_number(const json_t *arguments, const char *name, uint64_t limit, uint64_t *number,
                       struct error **err)
{
    const json_t *value = json_object_get(arguments, name);
    json_int_t found = json_integer_value(value);
    *number = (uint64_t)found;
    if (value == NULL || (json_is_integer(value) && found >= 0 && *number <= limit))
        return true;
    return error_set(err, ERROR_USAGE, "%s is a number up to %llu", name,
                     (unsigned long long)limit);
}

/* The strings are the arguments' own. */
static bool get_nic(const json_t *arguments, struct machine_nic *nic, struct error **err)
{
    uint64_t mtu, queues;
    *nic = (struct machine_nic){
        .model = (char *)(uintptr_t)json_string_value(json_object_get(arguments, "model")),
        .mac = (char *)(uintptr_t)json_string_value(json_object_get(arguments, "mac"))};
    if (!get_number(arguments, "mtu", UINT16_MAX, &mtu, err) ||
        !get_number(arguments, "queues", MACHINE_MAX_QUEUES, &queues, err) ||
        !get_number(arguments, "rate", UINT64_C(1) << 40, &nic->rate, err))
        return false;
    nic->mtu = (unsigned)mtu;
    nic->queues = (unsigned)queues;
    return true;
}

/* What it is connected to, from a .vmx with that one NIC; there may be none. */
static bool get_description(const json_t *arguments, struct machine_config *config,
                            struct error **err)
{
    const json_t *text = json_object_get(arguments, "description");
    if (text == NULL)
        return true;
    if (!json_is_string(text))
        return error_set(err, ERROR_USAGE, "description is text");
    return vmx_parse(json_string_value(text), json_string_length(text), "description", config,
                     err) &&
           (config->nic_count == 1 ||
            error_set(err, ERROR_USAGE, "the description is of %zu NICs", config->nic_count));
}

/* With what the arguments say of it. */
static bool attach(struct control_target *target, const struct machine_nic *wish,
                   struct machine_config *config, size_t *number, struct error **err)
{
    int link = take_fd(target, 0), capture = take_fd(target, 1);
    struct machine_nic nic = config->nics[0];
    nic.model = wish->model;
    nic.mac = wish->mac;
    nic.mtu = wish->mtu;
    nic.queues = wish->queues;
    nic.rate = wish->rate;
    return vm_nic_attach(target->vm, &nic, link, capture, number, err);
}

/* {"mac": "02:...", "model": "e1000", "mtu": N, "queues": N, "rate": kbit/s, "description": a .vmx that
 * says what it is connected to}, and descriptors. */
json_t *verb_nic_attach(struct control_target *target, const json_t *arguments, struct error **err)
{
    struct machine_nic nic;
    struct vm_nic_status status;
    size_t number;
    if (!get_nic(arguments, &nic, err))
        return NULL;
    if (target->fds->count == 0) {
        error_set(err, ERROR_USAGE, "a NIC needs a frame socket, sent along with the request");
        error_hint(err, "'trapeze net attach' does that.");
        return NULL;
    }
    struct machine_config config;
    machine_config_init(&config);
    bool good = get_description(arguments, &config, err) &&
                attach(target, &nic, &config, &number, err) &&
                vm_get_nic(target->vm, number, &status);
    machine_config_clear(&config);
    if (!good)
        return NULL;
    return json_pack("{s:I, s:i, s:i, s:b}", "nic", (json_int_t)number, "slot", (int)status.slot,
                     "hotplug-slot", (int)status.hotplug_slot, "rescan", !status.heeded);
}

/* {"nic": N, "force": true}: the answer tells whether it waits for the guest to let go of it. */
json_t *verb_nic_detach(struct control_target *target, const json_t *arguments, struct error **err)
{
    uint64_t nic;
    if (!json_is_integer(json_object_get(arguments, "nic")) ||
        !get_number(arguments, "nic", MACHINE_MAX_NICS, &nic, NULL)) {
        error_set(err, ERROR_USAGE, "nic is the number of a NIC, counted from 0");
        return NULL;
    }
    struct vm_nic_status status;
    bool force = json_is_true(json_object_get(arguments, "force"));
    if (!vm_nic_detach(target->vm, (size_t)nic, force, err))
        return NULL;
    return json_pack("{s:b}", "leaving", (int)vm_get_nic(target->vm, (size_t)nic, &status));
}
