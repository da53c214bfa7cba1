/* SPDX-License-Identifier: MIT
 *
 * See export.h.
 */
#include "daemon/export.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "archive/machine.h"
#include "base/error.h"
#include "daemon/backing.h"
#include "sandbox/helper.h"

struct sending {
    struct pack *pack;
    int stream;
};

static bool send_about(const struct sending *sending, struct error **err)
{
    char *about = pack_describe(sending->pack);
    ssize_t size = (ssize_t)strlen(about);
    bool good = send(sending->stream, about, (size_t)size, MSG_NOSIGNAL) == size &&
                send(sending->stream, "\n", 1, MSG_NOSIGNAL) == 1;
    free(about);
    return good || error_set(err, ERROR_HOST, "nobody waits for the archive any more");
}

/* In a process of its own, which the disks' tables lead nowhere: they are the guest's work if it
 * has taken its worker over. */
static bool send_it(void *opaque, struct sandbox_teller *teller, struct error **err)
{
    const struct sending *sending = opaque;
    (void)teller;
    return pack_look(sending->pack, err) && send_about(sending, err) &&
           pack_write(sending->pack, sending->stream, err);
}

static bool send_confined(struct pack *pack, int stream, struct error **err)
{
    struct sending sending = {pack, stream};
    struct sandbox_helper helper = {
        .work = send_it, .opaque = &sending, .fds = {stream}, .fd_count = 1};
    size_t count = pack_fds(pack, helper.fds + 1, SANDBOX_HELPER_FDS - 1);
    if (count > SANDBOX_HELPER_FDS - 1)
        return error_set(err, ERROR_INTERNAL, "its disks consist of more than %d files",
                         SANDBOX_HELPER_FDS - 1);
    helper.fd_count += count;
    return sandbox_help(&helper, err);
}

/* As before a start: an image in the folder may name anything as what it lies upon. */
static bool check_disks(const struct instance *instance, struct error **err)
{
    struct machine_config config;
    machine_config_init(&config);
    bool good = instance_config(instance, &config, NULL, err) &&
                backing_check_files(instance, &config, err);
    machine_config_clear(&config);
    return good;
}

static bool without_disks(struct text *text, struct error **err)
{
    struct machine_config config;
    machine_config_init(&config);
    bool good = vmx_read(text, &config, NULL, err);
    for (size_t i = 0; i < config.disk_count; i++)
        machine_disk_clear(&config.disks[i]);
    config.disk_count = 0;
    if (good)
        vmx_update(text, &config);
    machine_config_clear(&config);
    return good;
}

bool export_instance(const struct instance *instance, bool disks, int stream, struct error **err)
{
    struct text *text = !disks || check_disks(instance, err) ? instance_read(instance, err) : NULL;
    if (text != NULL && !disks && !without_disks(text, err)) {
        text_free(text);
        return false;
    }
    struct pack *pack =
        text != NULL ? machine_pack(instance->name, instance->path, text, NULL, err) : NULL;
    bool good = pack != NULL && send_confined(pack, stream, err);
    pack_free(pack);
    text_free(text);
    return good;
}
