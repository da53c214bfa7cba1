/* SPDX-License-Identifier: MIT
 *
 * See in_guest.h.
 */
#include "daemon/in_guest.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "client/guest.h"
#include "client/guest_ssh.h"
#include "config/settings.h"
#include "daemon/daemon.h"
#include "daemon/instance.h"

/* One that boots is not waited for: who asked hears that, and what else there is. */
enum { LISTEN_S = 5, SPEAK_S = 60, TELL_S = 120 };

struct way {
    const char *name;
    char *socket;
};

static int connect_to(void *opaque, bool again, struct error **err)
{
    static const struct guest_patience patience = {LISTEN_S, SPEAK_S, true, false};
    const struct way *way = opaque;
    (void)again;
    return guest_connect(guest_open_socket, way->socket, way->name, GUEST_SSH_PORT, &patience, err);
}

static char *join(const char *folder, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        abort();
    return path;
}

/* The socket that leads to its vsock. NULL: err. */
static char *find_socket(const struct instance *instance, struct error **err)
{
    struct machine_config config;
    char *socket = NULL;
    machine_config_init(&config);
    if (!instance_config(instance, &config, NULL, err))
        /* err */;
    else if (config.vsock_cid == 0)
        error_set(err, ERROR_USAGE, "the instance has no vsock");
    else if (config.vsock_socket != NULL)
        socket = alloc_string(config.vsock_socket);
    else
        socket = join(instance->path, "vsock.sock");
    machine_config_clear(&config);
    return socket;
}

static bool tell(struct daemon *daemon, const struct instance *instance, struct way *way,
                 const struct setting *setting, const json_t *arguments, struct error **err)
{
    char said[256], value[24];
    char *key = guest_key_path(daemon->store.path), *hosts = join(instance->path, "known_hosts");
    const struct guest_ssh ssh = {
        .connect = connect_to,
        .opaque = way,
        .user = json_string_value(json_object_get(arguments, "user")),
        .key = key,
        .hosts = hosts,
        .alias = GUEST_SSH_HOST,
    };
    snprintf(value, sizeof(value), "%lld",
             (long long)json_integer_value(json_object_get(arguments, "value")));
    int status = -1;
    if (guest_key_make(daemon->store.path, err))
        status = guest_ssh_tell(&ssh, setting->in_guest->script, value, TELL_S, said, err);
    if (status > 0)
        error_set(err, ERROR_HOST, "the guest did not do it%s%s", said[0] != '\0' ? ": " : "",
                  said);
    free(key);
    free(hosts);
    return status == 0;
}

json_t *in_guest_tell(struct daemon *daemon, const char *name, const json_t *arguments,
                      struct error **err)
{
    const char *key = json_string_value(json_object_get(arguments, "key"));
    unsigned number;
    const struct setting *setting = setting_find(key, &number, err);
    struct instance instance;
    if (setting == NULL || !instance_open(&instance, &daemon->store, name, err))
        return NULL;
    struct way way = {name, find_socket(&instance, err)};
    bool good = way.socket != NULL && tell(daemon, &instance, &way, setting, arguments, err);
    free(way.socket);
    instance_close(&instance);
    return good ? json_object() : NULL;
}
