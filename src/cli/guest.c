/* SPDX-License-Identifier: MIT
 *
 * See guest.h.
 */
#include "cli/guest.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "cli/instance.h"
#include "cli/size.h"
#include "client/api.h"
#include "client/guest.h"
#include "client/guest_ssh.h"

#define TIMEOUT_S 120
#define LATER_S   30 /* for one that has answered already */

/* Of CLI_GUEST_OPTIONS. */
static bool parse_timeout(const struct cli_args *args, unsigned *seconds, struct error **err)
{
    const char *text = cli_last(args, "timeout");
    uint64_t number = TIMEOUT_S;
    if (text != NULL && (!cli_parse_count(text, 86400, &number) || number == 0))
        return error_set(err, ERROR_USAGE,
                         "--timeout: '%s' is no number of seconds from 1 to 86400", text);
    *seconds = (unsigned)number;
    return true;
}

const char *cli_guest_name(const struct cli_args *args, struct error **err)
{
    struct cli_args first = *args;
    first.operand_count = args->operand_count > 0 ? 1 : 0;
    return cli_instance(&first, 0, 1, err);
}

/* ---- reaching it ---- */

/* The way to a guest's ssh server; the texts are freed by who has the struct. */
struct way {
    const char *name;
    char *socket, *key, *hosts;
    unsigned seconds;
};

/* False: err. */
static bool find_way(struct way *way, struct error **err)
{
    const char *name = way->name;
    json_t *info = cli_api("GET", NULL, err, "/v1/instances/%s", name);
    const char *state = json_string_value(json_object_get(info, "state"));
    const char *folder = json_string_value(json_object_get(info, "path"));
    const char *socket = json_string_value(json_object_get(info, "vsock"));
    char *store = info != NULL ? api_store_path(err) : NULL;
    bool good = false;
    if (store == NULL) {
        /* err */
    } else if (strcmp(state, "stopped") == 0 || strcmp(state, "restarting") == 0) {
        error_set(err, ERROR_USAGE, "the instance '%s' is not running", name);
        error_hint(err, "'trapeze start %s' starts it.", name);
    } else if (strcmp(state, "paused") == 0) {
        error_set(err, ERROR_USAGE, "the instance '%s' is paused", name);
        error_hint(err, "'trapeze resume %s' lets it go on.", name);
    } else if (socket == NULL) {
        error_set(err, ERROR_USAGE, "the instance '%s' has no vsock", name);
        error_hint(err, "Write trapeze.vsockCid = \"3\" into '%s/%s.vmx', and start it anew.",
                   folder, name);
    } else if (guest_key_make(store, err)) {
        way->socket = alloc_string(socket);
        way->key = guest_key_path(store);
        if (asprintf(&way->hosts, "%s/known_hosts", folder) < 0)
            abort();
        good = true;
    }
    free(store);
    json_decref(info);
    return good;
}

static int connect_to(void *opaque, bool again, struct error **err)
{
    const struct way *way = opaque;
    const struct guest_patience patience = {.listen_s = again ? LATER_S : way->seconds};
    return guest_connect(way->socket, way->name, GUEST_SSH_PORT, &patience, err);
}

int cli_guest_run(const struct cli_args *args, const char *name, const char *program,
                  char *const *words, size_t count, struct error **err)
{
    struct way way = {.name = name};
    const char *user = cli_last(args, "user");
    int status = -1;
    if (!parse_timeout(args, &way.seconds, err))
        return -1;
    if (api_is_remote()) {
        error_set(err, ERROR_USAGE, "guests are reached from the host that they run on");
        error_hint(err, "Log in there, or give the guest a network: --forward tcp:2222:22.");
        return -1;
    }
    if (find_way(&way, err)) {
        const struct guest_ssh ssh = {.connect = connect_to,
                                      .opaque = &way,
                                      .user = user != NULL ? user : "root",
                                      .key = way.key,
                                      .hosts = way.hosts,
                                      .alias = GUEST_SSH_HOST};
        status = guest_ssh_run(&ssh, program, words, count, err);
    }
    free(way.socket);
    free(way.key);
    free(way.hosts);
    return status;
}
