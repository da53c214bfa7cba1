/* SPDX-License-Identifier: MIT
 *
 * See export.h.
 */
#include "daemon/export.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "archive/machine.h"
#include "base/error.h"
#include "client/disks.h"
#include "client/saved.h"
#include "daemon/backing.h"
#include "daemon/folder.h"
#include "daemon/nvram.h"
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

/* Disks that are not to go. */
static void leave_out(struct machine_config *config, const bool *takes)
{
    size_t kept = 0;
    for (size_t i = 0; i < config->disk_count; i++)
        if (takes == NULL || takes[i])
            config->disks[kept++] = config->disks[i];
        else
            machine_disk_clear(&config->disks[i]);
    config->disk_count = kept;
}

/* As before a start: an image in the folder may name anything as what it lies upon. */
static bool check_disks(const struct instance *instance, const bool *takes, struct error **err)
{
    struct machine_config config;
    machine_config_init(&config);
    bool good = instance_config(instance, &config, NULL, err);
    leave_out(&config, takes);
    good = good && backing_check_files(instance, &config, err);
    machine_config_clear(&config);
    return good;
}

/* Whether the disks are still those that its memory knows: afterwards nobody can tell any more. */
static bool saved_fits(const struct instance *instance, const struct saved_image *saved,
                       struct error **err)
{
    struct machine_config config;
    struct client_disks disks;
    machine_config_init(&config);
    bool good = instance_config(instance, &config, NULL, err);
    for (size_t i = 0; i < config.disk_count; i++)
        config.disks[i].read_only = true;
    good = good && client_disks_open(&config, &disks, err);
    if (good) {
        good = saved_check_disks(saved, disks.chains, disks.count, err);
        client_disks_close(&disks);
    }
    machine_config_clear(&config);
    return good;
}

/* What it was at, if it is suspended. False: err, and it should not go without. */
static bool add_saved(const struct instance *instance, struct pack *pack, struct error **err)
{
    struct saved_image saved;
    if (faccessat(instance->fd, INSTANCE_SAVED, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
        return true;
    bool good = client_saved_open(instance->fd, INSTANCE_SAVED, &saved, NULL, err);
    if (good) {
        int fd = -1;
        good = saved_fits(instance, &saved, err);
        if (good && (fd = fcntl(saved.fd, F_DUPFD_CLOEXEC, 0)) < 0)
            good = error_set_errno(err, errno, "cannot open the suspended machine");
        good = good && pack_add_saved(pack, fd, err);
        client_saved_close(&saved);
    }
    if (!good)
        error_hint(err, "'trapeze start --discard-suspended %s' gives its state up.",
                   instance->name);
    return good;
}

static bool without(struct text *text, const bool *takes, struct error **err)
{
    struct machine_config config;
    machine_config_init(&config);
    bool good = vmx_read(text, &config, NULL, err);
    leave_out(&config, takes);
    if (good)
        vmx_update(text, &config);
    machine_config_clear(&config);
    return good;
}

bool export_instance(const struct instance *instance, const bool *takes, int format, int stream,
                     struct error **err)
{
    struct text *text = check_disks(instance, takes, err) ? instance_read(instance, err) : NULL;
    if (text != NULL && takes != NULL && !without(text, takes, err)) {
        text_free(text);
        return false;
    }
    struct pack *pack =
        text != NULL ? machine_pack(instance->name, instance->path, text, NULL, err) : NULL;
    bool good = pack != NULL &&
                (takes != NULL ||
                 (nvram_pack(instance, pack, format, err) && add_saved(instance, pack, err))) &&
                send_confined(pack, stream, err);
    pack_free(pack);
    text_free(text);
    return good;
}
