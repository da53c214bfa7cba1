/* SPDX-License-Identifier: MIT
 *
 * See vsock.h. A ",," in PATH stands for a comma, as in other options.
 */
#include "cli/vsock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cli/nic.h"
#include "config/machine.h"

static bool set_vsock(const char *text, struct machine_config *config, struct error **err)
{
    const char *at = text;
    char *cid = cli_next_part(&at), *path = cli_next_part(&at), *more = cli_next_part(&at), *end;
    bool good = cid != NULL && path != NULL && more == NULL && strncmp(path, "socket=", 7) == 0;
    if (good) {
        errno = 0;
        unsigned long long number = strtoull(cid, &end, 10);
        good = cid[0] >= '0' && cid[0] <= '9' && *end == '\0' && errno == 0 && number < UINT32_MAX;
        config->vsock_cid = (unsigned)number;
        free(config->vsock_socket);
        config->vsock_socket = strdup(path + 7);
    }
    if (!good) {
        error_set(err, ERROR_USAGE, "--vsock: '%s' is not CID,socket=PATH", text);
        error_hint(err, "CID is the guest's address, a number from 3 on.");
    }
    free(cid);
    free(path);
    free(more);
    return good;
}

bool cli_apply_vsock(const struct cli_args *args, struct machine_config *config, struct error **err)
{
    const char *text = NULL;
    for (size_t i = 0; i < args->value_count; i++) {
        if (strcmp(args->values[i].option->name, "vsock") != 0)
            continue;
        if (text != NULL)
            return error_set(err, ERROR_USAGE, "a machine has one vsock, --vsock is given twice");
        text = args->values[i].text;
    }
    return text == NULL || set_vsock(text, config, err);
}
