/* SPDX-License-Identifier: MIT
 *
 * GET /v1/instances/{name}/export: the instance as one file (archive/pack.h), made as it is sent.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "archive/machine.h"
#include "base/error.h"
#include "client/disks.h"
#include "daemon/api.h"
#include "daemon/backing.h"

static bool send_about(struct pack *pack, int stream, struct error **err)
{
    char *about = pack_describe(pack);
    ssize_t size = (ssize_t)strlen(about);
    bool good = send(stream, about, (size_t)size, MSG_NOSIGNAL) == size &&
                send(stream, "\n", 1, MSG_NOSIGNAL) == 1;
    free(about);
    return good || error_set(err, ERROR_HOST, "nobody waits for the archive any more");
}

/* As before a start: an image in the folder may name anything as what it lies upon. */
static bool check_disks(const struct instance *instance, struct error **err)
{
    struct machine_config config;
    struct client_disks disks;
    machine_config_init(&config);
    bool good =
        instance_config(instance, &config, NULL, err) && client_disks_open(&config, &disks, err);
    if (good) {
        good = backing_check(instance, &config, &disks, err);
        client_disks_close(&disks);
    }
    machine_config_clear(&config);
    return good;
}

static json_t *work(struct daemon *daemon, const char *name, const json_t *arguments,
                    struct error **err)
{
    int stream = (int)json_integer_value(json_object_get(arguments, "stream"));
    struct instance instance;
    if (!instance_open_locked(&instance, &daemon->store, name, err))
        return NULL;
    struct text *text = check_disks(&instance, err) ? instance_read(&instance, err) : NULL;
    struct pack *pack = text != NULL ? machine_pack(name, instance.path, text, NULL, err) : NULL;
    bool good = pack != NULL && send_about(pack, stream, err) && pack_write(pack, stream, err);
    pack_free(pack);
    text_free(text);
    instance_close(&instance);
    return good ? json_pack("{s:s}", "name", name) : NULL;
}

static void run(struct api_call *call)
{
    api_change(call, work);
}

const struct api_verb api_export = {
    .id = "export",
    .method = "GET",
    .path = "/v1/instances/{name}/export",
    .summary =
        "An instance that does not run, as one compressed file. The header Trapeze-About has "
        "\"bytes\", its size before compression, about, and \"notes\", sentences",
    .status = 200,
    .stream = API_GIVES_STREAM,
    .remote = true,
    .run = run,
};
