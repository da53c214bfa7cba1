/* SPDX-License-Identifier: MIT
 *
 * See console.h.
 */
#include "client/console.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "client/worker.h"

const char *const client_role_words[CLIENT_ROLES] = {"own", "steal", "watch"};

bool client_console_attach(int folder, enum client_role role, const char *who, int fd,
                           struct error **err)
{
    char path[64];
    json_t *object = json_pack("{s:s, s:s}", "role", client_role_words[role], "who", who);
    char *arguments = object != NULL ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (arguments == NULL)
        return error_set(err, ERROR_USAGE, "a name is UTF-8");
    snprintf(path, sizeof(path), "/proc/self/fd/%d/control.sock", folder);
    char *answer = client_control_fds(path, "console-attach", arguments, &fd, 1, err);
    bool good = answer != NULL;
    free(answer);
    free(arguments);
    return good;
}
